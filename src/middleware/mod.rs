//! The request's side: gives each request a set, and launches it when the response has left.

mod body;
mod ending;
#[cfg(feature = "axum")]
mod extract;
mod future;
mod gate;
mod launch;
mod layer;
mod service;

#[cfg(feature = "axum")]
pub use self::extract::MissingTaskLayer;
pub use self::{body::TaskBody, ending::Ending, future::ResponseFuture, layer::TaskLayer, service::TaskService};
