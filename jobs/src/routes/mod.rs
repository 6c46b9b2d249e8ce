//! Routes for operators, and for clients that ask for their job.

mod accepted;
mod action;
mod error;
#[cfg(feature = "prometheus")]
mod figures;
mod router;

pub use self::{
    accepted::Accepted,
    router::{JobsRouter, router},
};
