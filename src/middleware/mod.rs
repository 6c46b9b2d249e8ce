//! The request's side: gives each request a set, and launches it when the response has left.

mod body;
mod departure;
mod ending;
#[cfg(feature = "axum")]
mod extract;
mod future;
mod launch;
mod layer;
mod service;
mod shed;
mod timetable;

#[cfg(all(test, postlude_loom))]
pub(crate) use self::departure::Departure;
#[cfg(feature = "axum")]
pub use self::extract::MissingTaskLayer;
pub use self::{body::TaskBody, ending::Ending, future::ResponseFuture, layer::TaskLayer, service::TaskService};
pub(crate) use self::{departure::Held, timetable::Timetable};
