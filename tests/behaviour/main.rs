//! What postlude promises, one file a behaviour.
mod smoke;
