//! The queues of the broker, and how they are declared.

use lapin::{
    Channel, ExchangeKind,
    options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions},
    types::{AMQPValue, FieldTable, ShortString},
};

use super::ENGINE;
use crate::model::error::QueueError;

/// After so many deliveries without an answer the broker itself takes a job for dead. Workers do so much earlier: this
/// is for jobs that let no worker get that far.
const DELIVERY_LIMIT: i64 = 1_000;

/// The longest name of a job: the names of queues have at most 255 bytes.
const MAX_NAME_BYTES: usize = 150;

/// A queue of the broker.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Place {
    /// Jobs of a name that wait.
    Waiting(String),
    /// Dead jobs of a name.
    Dead(String),
    /// Jobs of any name that wait for so many milliseconds, and then go to the queue of their name.
    Delay(u64),
}

/// How a message is sent to a place.
pub(super) struct Route {
    pub(super) exchange: ShortString,
    pub(super) routing_key: ShortString,
}

/// How many messages and consumers a queue has.
pub(super) struct Counts {
    pub(super) messages: u64,
}

/// The names of the queues.
#[derive(Clone, Debug)]
pub(super) struct Topology {
    prefix: String,
}

impl Topology {
    /// # Errors
    /// If the name of the queue can't be part of the names of the broker.
    pub(super) fn new(queue: &str) -> Result<Self, QueueError> {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        if queue.is_empty() || queue.len() > 60 || !queue.bytes().all(is_plain) {
            let what = "have a queue of this name: use at most 60 letters, digits, `-` and `_`";
            return Err(QueueError::Unsupported { engine: ENGINE, what });
        }
        Ok(Self { prefix: format!("postlude.{queue}") })
    }

    pub(super) fn prefix(&self) -> &str {
        &self.prefix
    }

    pub(super) fn check_name(name: &str) -> Result<(), QueueError> {
        if name.len() > MAX_NAME_BYTES {
            let what = "have a job whose name is longer than 150 bytes: shorten `Job::NAME`";
            return Err(QueueError::Unsupported { engine: ENGINE, what });
        }
        Ok(())
    }

    /// The name of a queue of the broker.
    pub(super) fn name(&self, place: &Place) -> ShortString {
        let prefix = &self.prefix;
        let name = match place {
            Place::Waiting(name) => format!("{prefix}.waiting.{name}"),
            Place::Dead(name) => format!("{prefix}.dead.{name}"),
            Place::Delay(millis) => format!("{prefix}.delay.{millis}"),
        };
        // Names were checked to be short enough.
        ShortString::try_new(name).unwrap_or_else(|_| ShortString::from(ENGINE))
    }

    /// The way of a job of a name to a place. A job that waits for its time bears the queue of its name as the routing
    /// key, and takes it from there.
    pub(super) fn route(&self, place: &Place, name: &str) -> Route {
        match place {
            Place::Waiting(_) | Place::Dead(_) => {
                Route { exchange: ShortString::default(), routing_key: self.name(place) }
            }
            Place::Delay(_) => {
                Route { exchange: self.name(place), routing_key: self.name(&Place::Waiting(name.to_owned())) }
            }
        }
    }

    /// Declares a queue, or checks that it is as it should be.
    pub(super) async fn declare(&self, channel: &Channel, place: &Place) -> Result<Counts, lapin::Error> {
        let name = self.name(place);
        let mut arguments = FieldTable::default();
        let mut set = |argument: &str, value| {
            arguments.insert(ShortString::from(argument), value);
        };
        set("x-queue-type", text("quorum"));
        match place {
            Place::Waiting(job) => {
                set("x-delivery-limit", AMQPValue::LongLongInt(DELIVERY_LIMIT));
                set("x-dead-letter-exchange", text(""));
                set("x-dead-letter-routing-key", text(self.name(&Place::Dead(job.clone())).as_str()));
            }
            Place::Delay(millis) => {
                set("x-message-ttl", AMQPValue::LongLongInt(i64::try_from(*millis).unwrap_or(i64::MAX)));
                set("x-dead-letter-exchange", text(""));
            }
            Place::Dead(_) => {}
        }
        if !matches!(place, Place::Dead(_)) {
            // Without these, what moves on its own may be lost on its way.
            set("x-dead-letter-strategy", text("at-least-once"));
            set("x-overflow", text("reject-publish"));
        }
        let declared = channel.queue_declare(name.clone(), QueueDeclareOptions::durable(), arguments).await?;
        if matches!(place, Place::Delay(_)) {
            let options = ExchangeDeclareOptions { durable: true, ..Default::default() };
            channel.exchange_declare(name.clone(), ExchangeKind::Fanout, options, FieldTable::default()).await?;
            let bind = QueueBindOptions::default();
            channel.queue_bind(name.clone(), name, ShortString::default(), bind, FieldTable::default()).await?;
        }
        Ok(Counts { messages: declared.message_count().into() })
    }
}

fn text(text: &str) -> AMQPValue {
    AMQPValue::LongString(text.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_queues_are_checked() {
        for (name, is_good) in
            [("jobs", true), ("jobs-2_b", true), ("", false), ("a.b", false), ("a b", false), (&"x".repeat(61), false)]
        {
            assert_eq!(Topology::new(name).is_ok(), is_good, "{name}");
        }
    }

    #[test]
    fn no_name_of_the_broker_is_too_long() {
        let topology = Topology::new(&"q".repeat(60)).unwrap();
        let name = "n".repeat(MAX_NAME_BYTES);
        Topology::check_name(&name).unwrap();
        for place in [Place::Waiting(name.clone()), Place::Dead(name), Place::Delay(u64::MAX)] {
            assert!(topology.name(&place).as_str().starts_with("postlude.q"), "{place:?}");
        }
        assert!(Topology::check_name(&"n".repeat(MAX_NAME_BYTES + 1)).is_err());
    }
}
