//! The ending of a request, where there is no HTTP.

/// Without HTTP, no request ends.
#[derive(Clone, Copy)]
pub(crate) enum Ending {}
