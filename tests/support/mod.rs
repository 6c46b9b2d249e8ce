//! Shared by the tests.

#[cfg(feature = "axum")]
pub(crate) mod net;
mod record;
pub(crate) mod retries;
#[cfg(feature = "axum")]
pub(crate) mod sockets;
mod wait;

use std::time::Duration;

pub(crate) use self::{
    record::{Bomb, Journal, Reports, assert_conserved, outcomes},
    wait::until,
};

pub(crate) const SECOND: Duration = Duration::from_secs(1);
