//! The queues of the broker, and how they are declared.

use lapin::{
    Channel,
    options::QueueDeclareOptions,
    types::{AMQPValue, FieldTable, ShortString},
};

use super::ENGINE;
use crate::model::error::QueueError;

/// After this number of unanswered deliveries the broker itself takes a job for dead. Workers do so much earlier: this
/// is for jobs that let no worker get that far.
const DELIVERY_LIMIT: i64 = 1_000;

/// A job that waits for its time is delivered to those who wait for it, and given back, as often as it takes. Later
/// versions of the broker limit that unless they are told.
const NO_DELIVERY_LIMIT: i64 = 1_000_000_000;

/// The longest name of a job: the names of queues have at most 255 bytes.
const MAX_NAME_BYTES: usize = 150;

/// A queue of the broker.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Place {
    /// Jobs of a name that wait.
    Waiting(String),
    /// Dead jobs of a name.
    Dead(String),
    /// Jobs of any name that wait for their time, in the range of delays up to this number of seconds.
    Delayed(u32),
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
            Place::Delayed(seconds) => format!("{prefix}.delayed.{seconds}"),
        };
        // Names were checked to be short enough.
        ShortString::try_new(name).unwrap_or_else(|_| ShortString::from(ENGINE))
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
                // Without these, what moves on its own may be lost on its way.
                set("x-dead-letter-strategy", text("at-least-once"));
                set("x-overflow", text("reject-publish"));
            }
            Place::Delayed(_) => set("x-delivery-limit", AMQPValue::LongLongInt(NO_DELIVERY_LIMIT)),
            Place::Dead(_) => {}
        }
        let declared = channel.queue_declare(name, QueueDeclareOptions::durable(), arguments).await?;
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
        for place in [Place::Waiting(name.clone()), Place::Dead(name), Place::Delayed(u32::MAX)] {
            assert!(topology.name(&place).as_str().starts_with("postlude.q"), "{place:?}");
        }
        assert!(Topology::check_name(&"n".repeat(MAX_NAME_BYTES + 1)).is_err());
    }
}
