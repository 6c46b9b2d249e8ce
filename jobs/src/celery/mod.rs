//! Hands work to existing Celery workers, by Redis or RabbitMQ.
//!
//! ```no_run
//! use std::time::Duration;
//!
//! use postlude_jobs::celery::{CeleryProducer, CeleryTask};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let celery = CeleryProducer::connect("redis://127.0.0.1/0").await?; // or amqp://
//! let mail = CeleryTask::new("shop.tasks.send_mail").arg(17).kwarg("template", "welcome");
//! let id = celery.send(mail.countdown(Duration::from_secs(60))).await?; // stored in the broker
//! println!("{id}");
//! # Ok(())
//! # }
//! ```
//!
//! A [`CeleryProducer`] only sends. Python workers run the tasks, retry them, and store their results. Messages have
//! version 2 of Celery's protocol, which Celery 4 and later read.
#![cfg_attr(
    all(feature = "sqlite", feature = "postgres", feature = "axum"),
    doc = "The [chapter](crate::guide::celery) has both sides, Rust and Python, and says how to move a service."
)]

mod address;
mod amqp;
mod builder;
mod error;
mod message;
mod producer;
mod redis;
mod result;
mod task;

pub use self::{
    builder::CeleryProducerBuilder,
    error::{ConnectError, ReadError, SendError, SendErrorKind},
    producer::CeleryProducer,
    result::{CeleryFailure, CeleryResult, CeleryState},
    task::CeleryTask,
};
