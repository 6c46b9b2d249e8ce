//! Jobs that wait for their time.
//!
//! The broker can't be trusted to move messages on its own: those that expire while it starts may get stuck. So workers
//! do it. Each has the first jobs of each range of delays delivered, keeps them unanswered until they are due, sends them
//! to the jobs of their name that wait, and then has the broker forget them. If a worker ends, the broker delivers what it
//! kept to another one.

use std::{
    future::poll_fn,
    pin::Pin,
    time::{Duration, SystemTime},
};

use futures_core::Stream as _;
use lapin::{
    Acker, Consumer,
    message::Delivery,
    options::{BasicAckOptions, BasicConsumeOptions, BasicNackOptions, BasicQosOptions, BasicRejectOptions},
    types::{FieldTable, ShortString},
};
use tokio::time::{Instant, sleep, sleep_until};

use super::{
    connect::Shared,
    delays::{LONGEST, RANGES},
    message::Message,
    publisher::{Outgoing, within},
    together::together,
    topology::Place,
};
use crate::{
    amqp::{
        error::{is_of_channel, sent},
        link::Link,
    },
    model::{
        error::QueueError,
        id::JobId,
        time::{duration, to_millis},
    },
};

/// How many jobs of each range a worker keeps. If more wait in a range, a job may be late that is due before those in
/// front of it.
const KEPT: u16 = 64;

/// How long a job is kept at most: then it is given back and delivered again, because the broker ends the channel of
/// who does not answer within its `consumer_timeout`.
const LONGEST_KEPT: Duration = Duration::from_secs(600);

/// A job that is not due is kept for so long at least.
const SHORTEST_KEPT: Duration = Duration::from_secs(1);

/// How long it waits after a failure.
const AGAIN_AFTER: Duration = Duration::from_millis(500);

/// A job that waits for its time.
struct Kept {
    message: Message,
    acker: Acker,
    until: Instant,
    /// Whether it is due then, and not only given back.
    is_due_then: bool,
}

impl Shared {
    /// Sends jobs to those that wait when they are due. Never returns.
    pub(super) async fn forward_delayed(&self) {
        loop {
            // A connection of its own: its end is not that of the jobs that run.
            let purpose = format!("keeps delayed jobs of {}", self.topology.prefix());
            if let Ok(link) = self.addresses.connect(&purpose).await {
                together(RANGES.into_iter().map(|range| self.forward_range(&link, range))).await;
            }
            sleep(pause()).await;
        }
    }

    /// Returns when the connection has ended.
    async fn forward_range(&self, link: &Link, range: u32) {
        let mut failures = 0_u32;
        while link.is_alive() {
            if let Err(error) = self.try_forward_range(link, range).await {
                failures = failures.saturating_add(1);
                // Of a server that is away, the loop that reserves tells.
                if !error.is_transient() && failures.is_power_of_two() {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(
                        target: "postlude_jobs", error, range,
                        "jobs with a delay of about that many `seconds` wait until this worker can take them from their queue"
                    );
                }
            }
            sleep(pause()).await;
        }
    }

    async fn try_forward_range(&self, link: &Link, range: u32) -> Result<(), QueueError> {
        let place = Place::Delayed(range);
        // By one at a time: the broker ends the connection of who uses a queue that is half declared.
        self.publisher.declare_once(&place).await?;
        let Err(error) = self.forward_from(link, range).await else { return Ok(()) };
        let (is_of_channel, error) = (is_of_channel(&error), sent(error));
        if !is_of_channel {
            // The broker may go on delivering to who does not know of it, as long as there is a connection.
            link.give_up();
        } else if error.is_transient() {
            // Somebody has deleted the queue: it is declared anew.
            self.publisher.renew();
        }
        Err(error)
    }

    /// Keeps the first jobs of a range, until the broker ends it.
    async fn forward_from(&self, link: &Link, range: u32) -> Result<(), lapin::Error> {
        let channel = within(link.connection().create_channel()).await?;
        within(channel.basic_qos(KEPT, BasicQosOptions::default())).await?;
        let queue = self.topology.name(&Place::Delayed(range));
        let tag = ShortString::from(format!("{}", JobId::generate()));
        let (options, arguments) = (BasicConsumeOptions::default(), FieldTable::default());
        let mut consumer = within(channel.basic_consume(queue, tag, options, arguments)).await?;
        let mut kept = Vec::new();
        loop {
            let next = kept.iter().map(|one: &Kept| one.until).min();
            // All that is delivered first, so that what is due is sent together.
            tokio::select! {
                biased;
                delivery = next_delivery(&mut consumer) => {
                    let Some(delivery) = delivery else {
                        // Its queue was deleted.
                        self.publisher.renew();
                        return Ok(());
                    };
                    kept.extend(self.keep(delivery?, range).await);
                }
                () = until(next) => self.forward(&mut kept).await,
            }
        }
    }

    async fn keep(&self, mut delivery: Delivery, range: u32) -> Option<Kept> {
        let payload = std::mem::take(&mut delivery.data);
        let Some((message, due)) = Message::read_delayed(&delivery.properties, payload) else {
            tracing::error!(
                target: "postlude_jobs", range,
                "a message in the queue of a range of delays is no job: it has no header `postlude-name`, and is dropped"
            );
            let _rejected = delivery.acker.reject(BasicRejectOptions { requeue: false }).await;
            return None;
        };
        let mut left = duration(due.saturating_sub(to_millis(SystemTime::now())));
        if range < LONGEST {
            // The clock of who has pushed it may be fast.
            left = left.min(Duration::from_secs(range.into()));
        }
        let longest = LONGEST_KEPT.min(self.longest_run() / 3).max(SHORTEST_KEPT);
        let (until, is_due_then) = (Instant::now() + left.min(longest), left <= longest);
        Some(Kept { message, acker: delivery.acker, until, is_due_then })
    }

    /// Sends what is due, and gives back what was kept for too long.
    async fn forward(&self, kept: &mut Vec<Kept>) {
        let now = Instant::now();
        let (over, rest): (Vec<Kept>, Vec<Kept>) = kept.drain(..).partition(|one| one.until <= now);
        *kept = rest;
        let (due, others): (Vec<Kept>, Vec<Kept>) = over.into_iter().partition(|one| one.is_due_then);
        for one in others {
            // If the channel has ended, the broker has it already.
            let _given_back = one.acker.nack(BasicNackOptions { multiple: false, requeue: true }).await;
        }
        if due.is_empty() {
            return;
        }
        let outgoing: Vec<Outgoing<'_>> = due.iter().map(|one| Outgoing::now(&one.message)).collect();
        let results = self.publisher.publish(&outgoing).await;
        for (mut one, result) in due.into_iter().zip(results) {
            match result {
                // If the answer gets lost, the job is stored twice.
                Ok(()) => drop(one.acker.ack(BasicAckOptions::default()).await),
                Err(error) => {
                    let error = &error as &dyn std::error::Error;
                    tracing::debug!(target: "postlude_jobs", job = %one.message.id, error, "a job that is due waits still");
                    one.until = Instant::now() + pause();
                    kept.push(one);
                }
            }
        }
    }
}

async fn next_delivery(consumer: &mut Consumer) -> Option<Result<Delivery, lapin::Error>> {
    poll_fn(|context| Pin::new(&mut *consumer).poll_next(context)).await
}

async fn until(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}

/// The jitter keeps workers from coming back all at once.
fn pause() -> Duration {
    AGAIN_AFTER.mul_f64(0.5 + fastrand::f64())
}
