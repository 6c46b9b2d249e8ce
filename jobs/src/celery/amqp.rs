//! RabbitMQ as a broker.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use lapin::{
    BasicProperties, Channel, Confirmation, ErrorKind,
    options::{BasicPublishOptions, ConfirmSelectOptions},
    types::{AMQPValue, FieldArray, FieldTable, ShortString},
};
use parking_lot::Mutex;
use postlude::BoxError;
use serde_json::{Map, Value};
use tokio::{sync::Semaphore, time::timeout};

use super::{
    error::{Advised, SendErrorKind},
    message::Message,
};
pub(super) use crate::amqp::ENGINE;
use crate::{
    amqp::{address::Address, link::Link},
    model::error::QueueError,
};

/// How many messages are on their way at a time. Each has a channel of its own: the driver can't tell which message of
/// a channel was returned if the server confirms several at once, and an error of the server closes a channel.
const CHANNELS: usize = 64;

const BLOCKED: &str = "the server takes no messages, because its memory or its disk is full: see its alarms \
                       (`rabbitmq-diagnostics alarms`), and send again later";

const PERSISTENT: u8 = 2;

pub(super) struct Amqp {
    nodes: Vec<Address>,
    limit: Duration,
    current: Mutex<Option<Arc<Open>>>,
    connecting: tokio::sync::Mutex<()>,
    permits: Semaphore,
}

/// A connection.
struct Open {
    link: Link,
    /// Channels with nothing on its way.
    idle: Mutex<Vec<Channel>>,
}

/// What came of an attempt, and whether the connection may be used again.
enum Failure {
    NotSent(lapin::Error),
    Sent(lapin::Error),
    Other(SendErrorKind),
}

impl Amqp {
    pub(super) fn new(nodes: Vec<Address>, limit: Duration) -> Self {
        Self {
            nodes,
            limit,
            current: Mutex::default(),
            connecting: tokio::sync::Mutex::default(),
            permits: Semaphore::new(CHANNELS),
        }
    }

    pub(super) async fn check(&self) -> Result<(), QueueError> {
        self.open().await.map(drop)
    }

    pub(super) async fn send(&self, message: &Message) -> Result<(), SendErrorKind> {
        let too_long = |_| SendErrorKind::Option("the name of the queue is longer than 255 bytes".to_owned());
        let queue = ShortString::try_new(message.queue.as_str()).map_err(too_long)?;
        let properties = properties(message);
        let mut open = None;
        let sent = timeout(self.limit, async {
            let _permit = self.permits.acquire().await;
            let open = open.insert(self.open().await.map_err(|error| Failure::Other(SendErrorKind::Broker(error)))?);
            open.send(queue, message, properties).await
        });
        let limit = self.limit;
        let failure = match sent.await {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(failure)) => failure,
            Err(_) => {
                // It may be half-open: the next send makes another one.
                self.give_up(open.as_ref());
                let is_blocked = open.is_some_and(|open| open.link.is_blocked());
                let source = Advised { advice: BLOCKED, source: BoxError::from("the connection is blocked") }.into();
                let blocked = QueueError::Interrupted { engine: ENGINE, source };
                let error = if is_blocked { blocked } else { QueueError::TimedOut { engine: ENGINE, limit } };
                return Err(SendErrorKind::Broker(error));
            }
        };
        let error = match failure {
            Failure::Other(kind) => return Err(kind),
            Failure::NotSent(error) => not_sent(error),
            Failure::Sent(error) => sent_error(error),
        };
        if error.is_transient() {
            self.give_up(open.as_ref());
        }
        Err(SendErrorKind::Broker(error))
    }

    /// The connection. Those who come while it is made wait for it.
    async fn open(&self) -> Result<Arc<Open>, QueueError> {
        if let Some(open) = self.connected() {
            return Ok(open);
        }
        let _connecting = self.connecting.lock().await;
        if let Some(open) = self.connected() {
            return Ok(open);
        }
        let mut result = Err(unreachable("no address"));
        for node in &self.nodes {
            result = Link::connect(node, "Celery producer").await.map_err(not_sent);
            if result.is_ok() {
                break;
            }
        }
        let open = Arc::new(Open { link: result?, idle: Mutex::default() });
        *self.current.lock() = Some(Arc::clone(&open));
        Ok(open)
    }

    fn connected(&self) -> Option<Arc<Open>> {
        self.current.lock().clone().filter(|open| open.link.is_alive())
    }

    /// Gives a connection up, unless another one has replaced it.
    fn give_up(&self, open: Option<&Arc<Open>>) {
        let mut current = self.current.lock();
        if let (Some(open), Some(is)) = (open, current.as_ref())
            && Arc::ptr_eq(open, is)
        {
            *current = None;
        }
    }
}

impl Open {
    async fn send(&self, queue: ShortString, message: &Message, properties: BasicProperties) -> Result<(), Failure> {
        if self.link.is_blocked() {
            return Err(Failure::Other(SendErrorKind::Broker(refused(BLOCKED, "the connection is blocked"))));
        }
        let channel = self.channel().await.map_err(Failure::NotSent)?;
        let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        let published = channel.basic_publish(ShortString::default(), queue, options, &message.body, properties).await;
        let confirmed = published.map_err(Failure::Sent)?.await.map_err(Failure::Sent)?;
        // Only a channel without a message on its way is used again.
        self.idle.lock().push(channel);
        match confirmed {
            Confirmation::Ack(None) => Ok(()),
            Confirmation::Ack(Some(_)) => Err(Failure::Other(SendErrorKind::NoQueue { queue: message.queue.clone() })),
            Confirmation::Nack(_) | Confirmation::NotRequested => Err(Failure::Other(SendErrorKind::NotConfirmed)),
        }
    }

    /// A channel with nothing on its way.
    async fn channel(&self) -> Result<Channel, lapin::Error> {
        while let Some(channel) = self.take_idle() {
            if channel.status().connected() {
                return Ok(channel);
            }
        }
        let channel = self.link.connection().create_channel().await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        Ok(channel)
    }

    fn take_idle(&self) -> Option<Channel> {
        self.idle.lock().pop()
    }
}

fn unreachable(what: &'static str) -> QueueError {
    QueueError::Unreachable { engine: ENGINE, source: BoxError::from(what) }
}

fn refused(advice: &'static str, source: impl Into<BoxError>) -> QueueError {
    QueueError::Refused { engine: ENGINE, source: Advised { advice, source: source.into() }.into() }
}

/// The code that the server gave.
fn reply_code(error: &lapin::Error) -> Option<u16> {
    match error.kind() {
        ErrorKind::ProtocolError(error) => Some(error.get_id()),
        _ => None,
    }
}

/// What the server refused, if that is known.
fn advice(error: &lapin::Error) -> Option<&'static str> {
    match reply_code(error)? {
        403 => Some(
            "the user may not do this: check the user and the password in the URL, and that the user may write to the \
             exchange `amq.default` of the virtual host (`rabbitmqctl set_permissions`)",
        ),
        402 | 530 => {
            Some("the virtual host does not exist, or the user has no permissions there: check the end of the URL")
        }
        _ => None,
    }
}

/// An error before the message was sent.
fn not_sent(error: lapin::Error) -> QueueError {
    match advice(&error) {
        Some(advice) => refused(advice, error),
        None => QueueError::Unreachable { engine: ENGINE, source: error.into() },
    }
}

/// An error after the message may have been sent.
fn sent_error(error: lapin::Error) -> QueueError {
    match advice(&error) {
        Some(advice) => refused(advice, error),
        None => QueueError::Interrupted { engine: ENGINE, source: error.into() },
    }
}

fn properties(message: &Message) -> BasicProperties {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
    let id = message.id.to_string();
    let properties = BasicProperties::default()
        .with_content_type("application/json".into())
        .with_content_encoding("utf-8".into())
        .with_delivery_mode(PERSISTENT)
        .with_correlation_id(id.as_str().into())
        .with_message_id(id.as_str().into())
        .with_timestamp(now)
        .with_headers(table(&message.headers));
    match message.priority {
        Some(priority) => properties.with_priority(priority),
        None => properties,
    }
}

fn to_amqp(value: &Value) -> AMQPValue {
    match value {
        Value::Null => AMQPValue::Void,
        Value::Bool(is) => AMQPValue::Boolean(*is),
        Value::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(number), _) => AMQPValue::LongLongInt(number),
            (None, number) => AMQPValue::Double(number.unwrap_or(0.0)),
        },
        Value::String(text) => AMQPValue::LongString(text.as_str().into()),
        Value::Array(values) => {
            let mut array = FieldArray::default();
            values.iter().for_each(|value| array.push(to_amqp(value)));
            AMQPValue::FieldArray(array)
        }
        Value::Object(fields) => AMQPValue::FieldTable(table(fields)),
    }
}

fn table(fields: &Map<String, Value>) -> FieldTable {
    let mut table = FieldTable::default();
    for (name, value) in fields {
        // Names that are too long were refused.
        if let Ok(name) = ShortString::try_new(name) {
            table.insert(name, to_amqp(value));
        }
    }
    table
}
