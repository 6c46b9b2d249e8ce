//! Jobs as messages.

use std::time::SystemTime;

use lapin::{
    BasicProperties,
    types::{AMQPValue, FieldTable, ShortString},
};

use crate::model::{
    dead::JobError,
    headers::{self, Headers},
    id::JobId,
    new_job::NewJob,
    time::{from_millis, to_millis},
};

/// How many errors a message has: the first, and the latest of the others. All headers of a message have to fit into one
/// frame.
const MAX_ERRORS: usize = 10;

/// The longest text of a job's own headers.
pub(super) const MAX_HEADER_BYTES: usize = 64 * 1024;

/// A message is kept on the disk.
const PERSISTENT: u8 = 2;

/// Which attempts a job has that others have pushed, without our headers.
const DEFAULT_ATTEMPTS: u32 = 25;
const DEFAULT_CRASHES: u32 = 3;

const PUSHED_AT: &str = "postlude-pushed-at";
const HEADERS: &str = "postlude-headers";
const FAILURES: &str = "postlude-failures";
const CRASHES: &str = "postlude-crashes";
const MAX_ATTEMPTS: &str = "postlude-max-attempts";
const MAX_CRASHES: &str = "postlude-max-crashes";
const REPLAYS: &str = "postlude-replays";
const ERRORS: &str = "postlude-errors";
/// Of a job that waits for its time: its name, and when it is due.
const NAME: &str = "postlude-name";
const DUE: &str = "postlude-due";
/// The broker counts how often it has delivered the message and got no answer.
const DELIVERIES: &str = "x-delivery-count";

/// A job, as a message has it.
#[derive(Clone)]
pub(super) struct Message {
    pub(super) id: JobId,
    pub(super) name: String,
    pub(super) payload: Vec<u8>,
    pub(super) headers: Headers,
    pub(super) pushed_at: SystemTime,
    pub(super) failures: u32,
    pub(super) crashes: u32,
    pub(super) max_attempts: u32,
    pub(super) max_crashes: u32,
    replays: u32,
    errors: Vec<JobError>,
}

impl Message {
    pub(super) fn new(job: NewJob) -> Self {
        Self {
            id: job.id,
            name: job.name.to_owned(),
            payload: job.payload,
            headers: job.headers,
            pushed_at: SystemTime::now(),
            failures: 0,
            crashes: 0,
            max_attempts: job.max_attempts,
            max_crashes: job.max_crashes,
            replays: 0,
            errors: Vec::new(),
        }
    }

    /// Reads a message. One that another program has sent lacks our headers, and gets the defaults.
    pub(super) fn read(name: &str, properties: &BasicProperties, payload: Vec<u8>) -> Self {
        let mut message = Self::read_stored(name, properties, payload);
        let deliveries = number(properties, DELIVERIES).and_then(|count| u32::try_from(count).ok());
        message.crashes = message.crashes.saturating_add(deliveries.unwrap_or_default());
        message
    }

    /// Reads the message of a job that waits for its time, and when that is, in milliseconds; `None` if it bears no name.
    /// How often it was delivered meanwhile counts as nothing.
    pub(super) fn read_delayed(properties: &BasicProperties, payload: Vec<u8>) -> Option<(Self, i64)> {
        let name = text(properties, NAME);
        let due = number(properties, DUE).unwrap_or_default();
        (!name.is_empty()).then(|| (Self::read_stored(&name, properties, payload), due))
    }

    fn read_stored(name: &str, properties: &BasicProperties, payload: Vec<u8>) -> Self {
        let count = |header: &str| number(properties, header).and_then(|number| u32::try_from(number).ok());
        let id = properties.message_id().as_ref().and_then(|id| id.as_str().parse().ok());
        Self {
            id: id.unwrap_or_else(JobId::generate),
            name: name.to_owned(),
            payload,
            headers: headers::parse(&text(properties, HEADERS)),
            pushed_at: number(properties, PUSHED_AT).map_or_else(SystemTime::now, from_millis),
            failures: count(FAILURES).unwrap_or_default(),
            crashes: count(CRASHES).unwrap_or_default(),
            max_attempts: count(MAX_ATTEMPTS).unwrap_or(DEFAULT_ATTEMPTS),
            max_crashes: count(MAX_CRASHES).unwrap_or(DEFAULT_CRASHES),
            replays: count(REPLAYS).unwrap_or_default(),
            errors: JobError::parse(&text(properties, ERRORS)),
        }
    }

    /// `due` is when the job is due that waits for its time, in milliseconds.
    pub(super) fn properties(&self, due: Option<i64>) -> BasicProperties {
        let mut table = FieldTable::default();
        let mut insert = |header: &str, value| {
            table.insert(ShortString::from(header), value);
        };
        let number = |number: u32| AMQPValue::LongLongInt(number.into());
        let text = |text: String| AMQPValue::LongString(text.into());
        insert(PUSHED_AT, AMQPValue::LongLongInt(to_millis(self.pushed_at)));
        insert(HEADERS, text(headers::write(&self.headers)));
        insert(FAILURES, number(self.failures));
        insert(CRASHES, number(self.crashes));
        insert(MAX_ATTEMPTS, number(self.max_attempts));
        insert(MAX_CRASHES, number(self.max_crashes));
        insert(REPLAYS, number(self.replays));
        if !self.errors.is_empty() {
            let errors: Vec<String> = self.errors.iter().map(JobError::to_stored).collect();
            insert(ERRORS, text(format!("[{}]", errors.join(","))));
        }
        if let Some(due) = due {
            insert(NAME, text(self.name.clone()));
            insert(DUE, AMQPValue::LongLongInt(due));
        }
        BasicProperties::default()
            .with_delivery_mode(PERSISTENT)
            .with_message_id(self.id.to_string().as_str().into())
            .with_headers(table)
    }

    /// Notes the error of an attempt.
    pub(super) fn add_error(&mut self, error: JobError) {
        if self.errors.len() >= MAX_ERRORS {
            self.errors.remove(1);
        }
        self.errors.push(error);
    }

    /// Makes it a job with all its attempts before it.
    pub(super) fn replay(&mut self) {
        (self.failures, self.crashes, self.replays) = (0, 0, self.replays.saturating_add(1));
    }
}

fn header<'a>(properties: &'a BasicProperties, name: &str) -> Option<&'a AMQPValue> {
    properties.headers().as_ref()?.inner().get(name)
}

fn text(properties: &BasicProperties, name: &str) -> String {
    match header(properties, name) {
        Some(AMQPValue::LongString(text)) => String::from_utf8_lossy(text.as_bytes()).into_owned(),
        _ => String::new(),
    }
}

/// Other programs write numbers in other types.
fn number(properties: &BasicProperties, name: &str) -> Option<i64> {
    match header(properties, name)? {
        AMQPValue::ShortShortInt(number) => Some((*number).into()),
        AMQPValue::ShortShortUInt(number) => Some((*number).into()),
        AMQPValue::ShortInt(number) => Some((*number).into()),
        AMQPValue::ShortUInt(number) => Some((*number).into()),
        AMQPValue::LongInt(number) => Some((*number).into()),
        AMQPValue::LongUInt(number) => Some((*number).into()),
        AMQPValue::LongLongInt(number) => Some(*number),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn again(message: &Message) -> Message {
        Message::read("mail", &message.properties(None), message.payload.clone())
    }

    #[test]
    fn a_job_survives_being_a_message() {
        let mut job = NewJob::sample();
        job.headers.insert("traceparent".to_owned(), "00-ab-cd-01".to_owned());
        let mut message = Message::new(job);
        message.failures = 2;
        for attempt in 1..=20 {
            message.add_error(JobError::new(from_millis(1_000), attempt, &"no".repeat(2_000)));
        }
        let read = again(&message);
        assert_eq!((read.id, &read.headers, &read.payload), (message.id, &message.headers, &message.payload));
        assert_eq!((read.failures, read.crashes, read.max_attempts, read.max_crashes), (2, 0, 25, 3));
        assert_eq!(to_millis(read.pushed_at), to_millis(message.pushed_at));
        let attempts: Vec<_> = read.errors.iter().map(|error| error.attempt).collect();
        assert_eq!(attempts, [1, 12, 13, 14, 15, 16, 17, 18, 19, 20], "the first, and the latest");
        assert_eq!(message.properties(None).delivery_mode(), &Some(2));
    }

    #[test]
    fn the_broker_counts_crashes_besides() {
        let mut message = Message::new(NewJob::sample());
        message.crashes = 1;
        let delivered = |properties: BasicProperties| {
            let mut table = properties.headers().clone().unwrap();
            table.insert("x-delivery-count".into(), AMQPValue::LongInt(2));
            properties.with_headers(table)
        };
        let read = Message::read("mail", &delivered(message.properties(None)), Vec::new());
        assert_eq!(read.crashes, 3);
        // A message that is sent anew is delivered for the first time.
        assert_eq!(again(&read).crashes, 3);
        // While it waits for its time, it is delivered to those who wait for it.
        let (read, due) = Message::read_delayed(&delivered(message.properties(Some(17))), Vec::new()).unwrap();
        assert_eq!((read.crashes, read.name, due), (1, message.name, 17));
    }

    #[test]
    fn a_message_of_another_program_gets_the_defaults() {
        let read = Message::read("mail", &BasicProperties::default(), b"{}".to_vec());
        assert_eq!((read.failures, read.crashes, read.max_attempts, read.max_crashes), (0, 0, 25, 3));
        assert_eq!(read.payload, b"{}");
    }
}
