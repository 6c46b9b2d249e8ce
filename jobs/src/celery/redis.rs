//! Redis as a broker, in the form that kombu gives to messages.

use std::{sync::Arc, time::Duration};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use redis::Client;
use serde_json::json;
use tokio::time::timeout;

use super::{error::SendErrorKind, message::Message};
use crate::{
    model::{error::QueueError, id::JobId},
    queue::redis::connection::{Connection, Source},
};

pub(super) const ENGINE: &str = crate::queue::redis::ENGINE;

/// The least urgent priority.
const LOWEST: u8 = 9;

pub(super) struct Redis {
    connection: Connection,
    key_prefix: String,
    priorities: Priorities,
    limit: Duration,
}

/// Which priorities have a list of their own, and what it is called.
pub(super) struct Priorities {
    pub(super) steps: Vec<u8>,
    pub(super) separator: String,
}

impl Default for Priorities {
    fn default() -> Self {
        Self { steps: vec![0, 3, 6, 9], separator: "\u{6}\u{16}".to_owned() }
    }
}

impl Priorities {
    /// The list of a queue for a priority.
    fn list(&self, queue: &str, priority: u8) -> String {
        match self.steps.iter().rev().find(|step| **step <= priority) {
            Some(&step) if step > 0 => format!("{queue}{}{step}", self.separator),
            _ => queue.to_owned(),
        }
    }
}

impl Redis {
    pub(super) fn new(client: Client, key_prefix: String, priorities: Priorities, limit: Duration) -> Self {
        Self { connection: Connection::new(Arc::new(Source::new(client))), key_prefix, priorities, limit }
    }

    pub(super) async fn check(&self) -> Result<(), QueueError> {
        self.connection.ask::<()>(&redis::cmd("PING")).await
    }

    pub(super) async fn send(&self, message: &Message) -> Result<(), SendErrorKind> {
        let priority = message.priority.unwrap_or(0);
        if priority > LOWEST {
            let what = format!("its priority is {priority}: with Redis, 0 is the most urgent and 9 the least");
            return Err(SendErrorKind::Option(what));
        }
        let key = format!("{}{}", self.key_prefix, self.priorities.list(&message.queue, priority));
        let envelope = envelope(message, priority, JobId::generate());
        let mut command = redis::cmd("LPUSH");
        let pushed = self.connection.ask::<()>(command.arg(key).arg(envelope));
        let limit = self.limit;
        match timeout(limit, pushed).await {
            Ok(result) => result.map_err(SendErrorKind::Broker),
            Err(_) => Err(SendErrorKind::Broker(QueueError::TimedOut { engine: ENGINE, limit })),
        }
    }
}

/// `delivery_tag` tells the message from others while a worker has it.
fn envelope(message: &Message, priority: u8, delivery_tag: JobId) -> Vec<u8> {
    let envelope = json!({
        "body": BASE64_STANDARD.encode(&message.body),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": message.headers,
        "properties": {
            "correlation_id": message.id,
            "reply_to": "",
            "delivery_mode": 2,
            "delivery_info": { "exchange": "", "routing_key": message.queue },
            "priority": priority,
            "body_encoding": "base64",
            "delivery_tag": delivery_tag,
        },
    });
    envelope.to_string().into_bytes()
}

#[cfg(test)]
mod tests {
    use serde_json::{Map, Value};

    use super::*;

    #[test]
    fn list_is_that_of_the_step_below() {
        let priorities = Priorities::default();
        for (priority, list) in [(0, "q"), (2, "q"), (3, "q\u{6}\u{16}3"), (8, "q\u{6}\u{16}6"), (9, "q\u{6}\u{16}9")] {
            assert_eq!(priorities.list("q", priority), list, "{priority}");
        }
        let priorities = Priorities { steps: (0..10).collect(), separator: ":".to_owned() };
        assert_eq!(priorities.list("q", 2), "q:2");
    }

    #[test]
    fn envelope_is_the_one_of_kombu() {
        let headers = Map::from_iter([("task".to_owned(), json!("t"))]);
        let id = JobId::from_u128(1);
        let message = Message { id, queue: "q".to_owned(), priority: None, headers, body: b"[]".to_vec() };
        let envelope: Value = serde_json::from_slice(&envelope(&message, 3, JobId::from_u128(2))).unwrap();
        let expected = json!({
            "body": "W10=", "content-encoding": "utf-8", "content-type": "application/json", "headers": { "task": "t" },
            "properties": {
                "correlation_id": "00000000-0000-0000-0000-000000000001", "reply_to": "", "delivery_mode": 2,
                "delivery_info": { "exchange": "", "routing_key": "q" }, "priority": 3, "body_encoding": "base64",
                "delivery_tag": "00000000-0000-0000-0000-000000000002",
            },
        });
        assert_eq!(envelope, expected);
    }
}
