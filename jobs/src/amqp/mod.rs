//! What is common to all that speaks AMQP 0-9-1: addresses, connections and what the errors of the driver mean.

pub(crate) mod address;
pub(crate) mod error;
pub(crate) mod link;
pub(crate) mod silence;

/// The name of the server, for logs and errors.
pub(crate) const ENGINE: &str = "RabbitMQ";
