//! The engine, which runs tasks.

pub(crate) mod abandoned;
pub(crate) mod attempt;
pub(crate) mod context;
pub(crate) mod drain;
pub(crate) mod guards;
#[cfg(feature = "http")]
pub(crate) mod hold;
pub(crate) mod keys;
pub(crate) mod name_policies;
pub(crate) mod notify;
pub(crate) mod pending;
pub(crate) mod poll_mark;
mod profile;
pub(crate) mod queue_state;
#[cfg(feature = "http")]
pub(crate) mod request_line;
pub(crate) mod requests;
pub(crate) mod retry;
pub(crate) mod run;
pub(crate) mod set_queue;
pub(crate) mod shared;
pub(crate) mod spawned;
pub(crate) mod start_limit;
pub(crate) mod stuck_watch;
pub(crate) mod time_limit;
pub(crate) mod transition;
