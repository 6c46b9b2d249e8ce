//! The HTTP layer: gives each request a set, and drains it when the response has left.

mod body;
mod config;
#[cfg(feature = "axum")]
mod extract;
mod future;
mod layer;
pub(crate) mod release;
mod response;
mod service;
mod shed;

#[cfg(feature = "axum")]
pub use self::extract::MissingTaskLayer;
pub use self::{body::TaskBody, future::ResponseFuture, layer::TaskLayer, service::TaskService};
