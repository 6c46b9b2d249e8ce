//! Sending messages, each of which the broker confirms.
//!
//! Messages have a connection of their own: the broker does not read from one that publishes while it is short of memory
//! or disk, and workers must be able to settle meanwhile.
//!
//! Messages that are sent together have a channel to themselves: the driver gives a message that was returned to any of
//! those that are confirmed at once, so all of a channel have to be seen to know which were stored.

use std::{
    collections::{BTreeSet, HashSet},
    future::poll_fn,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
    time::{Duration, SystemTime},
};

use lapin::{
    Channel, Confirmation, PublisherConfirm,
    options::{BasicPublishOptions, ConfirmSelectOptions},
    types::ShortString,
};
use parking_lot::Mutex;
use tokio::{
    sync::{MutexGuard, Semaphore},
    time::{Instant, sleep, timeout},
};

use super::{
    ENGINE, delays,
    message::Message,
    topology::{Counts, Place, Topology},
};
use crate::{
    amqp::{
        address::Address,
        error::{is_of_channel, not_sent, sent},
        link::Link,
    },
    model::error::QueueError,
};

/// The connection is closed if the broker confirms nothing for this long, although something was sent.
const SILENCE: Duration = Duration::from_secs(8);

/// How long it waits before it sends messages again that the broker did not take.
///
/// If somebody has deleted their queue, the broker has to notice first, in all channels, that the old one is gone:
/// otherwise it takes the new one for the old one there. A queue that another process has just declared, or that most
/// nodes have just lost, takes messages a little later.
const PAUSES: [Duration; 2] = [Duration::from_millis(500), Duration::from_millis(1_000)];

/// How many pushes are on their way at once. The others wait.
const CHANNELS: usize = 64;

/// How often it looks whether the broker takes no messages.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Where servers are, and which of them is asked first.
#[derive(Debug)]
pub(super) struct Addresses {
    all: Vec<Address>,
    /// Counts failures: each asks the next server. A counter that orders nothing.
    next: AtomicUsize,
}

impl Addresses {
    pub(super) const fn new(all: Vec<Address>) -> Self {
        Self { all, next: AtomicUsize::new(0) }
    }

    /// Connects to a server, the one that answered last if it still does.
    pub(super) async fn connect(&self, purpose: &str) -> Result<Link, QueueError> {
        let mut failure = None;
        for _ in &self.all {
            let next = self.next.load(Ordering::Relaxed);
            let Some(address) = self.all.get(next % self.all.len().max(1)) else { break };
            match Link::connect(address, purpose).await {
                Ok(link) => return Ok(link),
                Err(error) => {
                    failure = Some(not_sent(error));
                    self.skip(next);
                }
            }
        }
        Err(failure.unwrap_or_else(|| QueueError::Unsupported {
            engine: ENGINE,
            what: "connect without an address: give at least one URL",
        }))
    }

    /// Asks another server first, unless somebody has seen to that.
    fn skip(&self, asked: usize) {
        let _other_was_skipped =
            self.next.compare_exchange(asked, asked.wrapping_add(1), Ordering::Relaxed, Ordering::Relaxed);
    }

    pub(super) fn skip_current(&self) {
        self.skip(self.next.load(Ordering::Relaxed));
    }
}

/// A message and where it goes.
pub(super) struct Outgoing<'a> {
    place: Place,
    /// When it is due, in milliseconds, if it has to wait for its time.
    due: Option<i64>,
    message: &'a Message,
}

impl<'a> Outgoing<'a> {
    /// To the jobs of its name that wait.
    pub(super) fn now(message: &'a Message) -> Self {
        Self { place: Place::Waiting(message.name.clone()), due: None, message }
    }

    /// The same, after a delay.
    pub(super) fn after(delay: Duration, message: &'a Message) -> Self {
        if delay.is_zero() { Self::now(message) } else { Self::at(delays::due_after(delay), message) }
    }

    /// The same, at a time.
    pub(super) fn at(due: SystemTime, message: &'a Message) -> Self {
        match delays::wait_until(due) {
            Some((due, range)) => Self { place: Place::Delayed(range), due: Some(due), message },
            None => Self::now(message),
        }
    }

    /// To the dead jobs of its name.
    pub(super) fn dead(message: &'a Message) -> Self {
        Self { place: Place::Dead(message.name.clone()), due: None, message }
    }
}

/// Sends messages on a connection that is made anew when it is lost.
pub(super) struct Publisher {
    addresses: Arc<Addresses>,
    topology: Topology,
    current: Mutex<Option<Arc<Session>>>,
    names: Mutex<BTreeSet<String>>,
    connecting: tokio::sync::Mutex<Attempts>,
}

/// How often connecting has failed, and when last: those who have waited for an attempt fail with it.
#[derive(Default)]
struct Attempts {
    failed_at: Option<Instant>,
}

/// A connection with its channels.
struct Session {
    link: Link,
    /// Channels whose messages are confirmed, and which nobody uses.
    idle: Mutex<Vec<Channel>>,
    permits: Semaphore,
    /// Queues are declared here: a refusal closes the channel.
    control: tokio::sync::Mutex<Option<Channel>>,
    declared: Mutex<HashSet<Place>>,
    silent_since: Mutex<Option<Instant>>,
}

impl Session {
    fn is_silent(&self) -> bool {
        let since = *self.silent_since.lock();
        !self.link.is_blocked() && since.is_some_and(|since| since.elapsed() > SILENCE)
    }

    fn is_usable(&self) -> bool {
        self.link.is_alive() && !self.is_silent()
    }

    fn heard(&self) {
        *self.silent_since.lock() = None;
    }

    /// A channel whose messages are confirmed.
    async fn channel(&self) -> Result<Channel, lapin::Error> {
        while let Some(channel) = self.idle.lock().pop() {
            if channel.status().connected() {
                return Ok(channel);
            }
        }
        let channel = self.link.connection().create_channel().await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        Ok(channel)
    }
}

impl Publisher {
    pub(super) fn new(addresses: Arc<Addresses>, topology: Topology) -> Self {
        let (current, names, connecting) = (Mutex::default(), Mutex::default(), tokio::sync::Mutex::default());
        Self { addresses, topology, current, names, connecting }
    }

    /// Connects, if there is no connection.
    pub(super) async fn connect(&self) -> Result<(), QueueError> {
        self.session().await.map(drop)
    }

    /// Declares a queue, or counts the messages of one that there is.
    pub(super) async fn declare(&self, place: &Place) -> Result<Counts, QueueError> {
        let session = self.session().await?;
        self.declare_on(&session, place).await
    }

    /// Declares a queue, unless that was done on this connection.
    pub(super) async fn declare_once(&self, place: &Place) -> Result<(), QueueError> {
        let session = self.session().await?;
        self.declare_once_on(&session, place).await
    }

    /// Those who come while a queue is declared do not declare it again.
    async fn declare_once_on(&self, session: &Arc<Session>, place: &Place) -> Result<(), QueueError> {
        let is_declared = || session.declared.lock().contains(place);
        if is_declared() {
            return Ok(());
        }
        let control = session.control.lock().await;
        if is_declared() {
            return Ok(());
        }
        self.declare_with(session, control, place).await.map(drop)
    }

    /// The names of jobs whose queues were ever declared.
    pub(super) async fn names(&self) -> Result<Vec<String>, QueueError> {
        self.session().await?;
        Ok(self.names.lock().iter().cloned().collect())
    }

    /// A channel for answers that have to be carried out in order.
    pub(super) async fn channel(&self) -> Result<Channel, QueueError> {
        let session = self.session().await?;
        within(session.link.connection().create_channel()).await.map_err(sent)
    }

    /// Sends messages, and returns what became of each. It has declared their queues before.
    pub(super) async fn publish(&self, messages: &[Outgoing<'_>]) -> Vec<Result<(), QueueError>> {
        let mut results: Vec<Option<Result<(), QueueError>>> = messages.iter().map(|_| None).collect();
        let mut pauses = PAUSES.into_iter();
        if messages.is_empty() {
            return Vec::new();
        }
        loop {
            let left: Vec<usize> =
                results.iter().enumerate().filter(|(_, result)| result.is_none()).map(|(index, _)| index).collect();
            let some: Vec<&Outgoing<'_>> = left.iter().filter_map(|index| messages.get(*index)).collect();
            let outcomes = match self.try_publish(&some).await {
                Ok(outcomes) => outcomes,
                Err(error) => {
                    let mut error = Some(error);
                    some.iter().map(|_| Sent::Failed(error.take().unwrap_or_else(unknown))).collect()
                }
            };
            let pause = pauses.next();
            let mut has_lost_a_queue = false;
            for (index, outcome) in left.into_iter().zip(outcomes) {
                let Some(result) = results.get_mut(index) else { continue };
                has_lost_a_queue |= matches!(outcome, Sent::NoQueue);
                *result = match outcome {
                    Sent::Stored => Some(Ok(())),
                    Sent::Failed(error) => Some(Err(error)),
                    // It may be there, or take messages, a little later.
                    Sent::NoQueue | Sent::NotTaken if pause.is_some() => None,
                    Sent::NoQueue => Some(Err(no_queue())),
                    Sent::NotTaken => Some(Err(not_taken())),
                };
            }
            if results.iter().all(Option::is_some) {
                return results.into_iter().flatten().collect();
            }
            if has_lost_a_queue {
                // Somebody has deleted it: it is declared anew.
                self.renew();
            }
            sleep(pause.unwrap_or_default()).await;
        }
    }

    async fn try_publish(&self, messages: &[&Outgoing<'_>]) -> Result<Vec<Sent>, QueueError> {
        let session = self.session().await?;
        if session.link.is_blocked() {
            return Err(QueueError::Blocked { engine: ENGINE });
        }
        for outgoing in messages {
            let waiting = Place::Waiting(outgoing.message.name.clone());
            for place in [&outgoing.place, &waiting] {
                self.declare_once_on(&session, place).await?;
            }
        }
        let sending = send(&session, &self.topology, messages);
        let stopped = tokio::select! {
            biased;
            sent = sending => return sent,
            error = until_no_answer(&session) => error,
        };
        if matches!(stopped, QueueError::TimedOut { .. }) {
            self.give_up(&session);
        }
        Err(stopped)
    }

    async fn declare_on(&self, session: &Arc<Session>, place: &Place) -> Result<Counts, QueueError> {
        let control = session.control.lock().await;
        self.declare_with(session, control, place).await
    }

    async fn declare_with(
        &self,
        session: &Arc<Session>,
        mut control: MutexGuard<'_, Option<Channel>>,
        place: &Place,
    ) -> Result<Counts, QueueError> {
        let channel = match control.take().filter(|channel| channel.status().connected()) {
            Some(channel) => channel,
            None => within(session.link.connection().create_channel()).await.map_err(sent)?,
        };
        // Without an answer, the next one gets another channel.
        let declared = within(self.topology.declare(&channel, place)).await;
        match declared {
            Ok(counts) => {
                *control = Some(channel);
                session.declared.lock().insert(place.clone());
                if let Place::Waiting(name) = place {
                    self.names.lock().insert(name.clone());
                }
                Ok(counts)
            }
            Err(error) => {
                if !is_of_channel(&error) {
                    self.give_up(session);
                }
                Err(sent(error))
            }
        }
    }

    /// The connection that there is, or a new one. Those who come meanwhile wait for the one attempt, and fail with it.
    async fn session(&self) -> Result<Arc<Session>, QueueError> {
        if let Some(session) = self.usable() {
            return Ok(session);
        }
        let asked = Instant::now();
        let mut attempts = self.connecting.lock().await;
        if let Some(session) = self.usable() {
            return Ok(session);
        }
        if attempts.failed_at.is_some_and(|failed_at| failed_at > asked) {
            return Err(QueueError::Unreachable {
                engine: ENGINE,
                source: "an attempt to connect has just failed".into(),
            });
        }
        let connected = self.new_session().await;
        attempts.failed_at = connected.is_err().then(Instant::now);
        let session = connected?;
        *self.current.lock() = Some(Arc::clone(&session));
        Ok(session)
    }

    fn usable(&self) -> Option<Arc<Session>> {
        let mut current = self.current.lock();
        if current.as_ref().is_some_and(|session| !session.is_usable()) {
            let session = current.take();
            drop(current);
            if let Some(session) = session {
                session.link.give_up();
            }
            return None;
        }
        current.clone()
    }

    async fn new_session(&self) -> Result<Arc<Session>, QueueError> {
        let link = self.addresses.connect(&format!("pushes to {}", self.topology.prefix())).await?;
        Ok(Arc::new(Session {
            link,
            idle: Mutex::default(),
            permits: Semaphore::new(CHANNELS),
            control: tokio::sync::Mutex::default(),
            declared: Mutex::default(),
            silent_since: Mutex::default(),
        }))
    }

    /// Goes on with another connection: a queue was deleted, and the channels of this one may know the old one still.
    pub(super) fn renew(&self) {
        let session = self.current.lock().take();
        drop(session);
    }

    fn give_up(&self, session: &Arc<Session>) {
        session.link.give_up();
        self.addresses.skip_current();
        let mut current = self.current.lock();
        if current.as_ref().is_some_and(|current| Arc::ptr_eq(current, session)) {
            *current = None;
        }
    }
}

/// What became of a message.
enum Sent {
    Stored,
    NoQueue,
    NotTaken,
    Failed(QueueError),
}

/// Sends messages on a channel of their own, and waits until each is confirmed.
async fn send(session: &Session, topology: &Topology, messages: &[&Outgoing<'_>]) -> Result<Vec<Sent>, QueueError> {
    // Nobody closes the semaphore.
    let _permit = session.permits.acquire().await;
    let channel = within(session.channel()).await.map_err(not_sent)?;
    let mut confirmations = Vec::with_capacity(messages.len());
    for Outgoing { place, due, message } in messages {
        session.silent_since.lock().get_or_insert_with(Instant::now);
        let options = BasicPublishOptions { mandatory: true, immediate: false };
        let properties = message.properties(*due);
        // The exchange without a name routes to the queue of a name.
        let sending =
            channel.basic_publish(ShortString::default(), topology.name(place), options, &message.payload, properties);
        confirmations.push(Confirming::Sending(Box::pin(sending)));
    }
    poll_fn(|context| {
        let pending = confirmations.iter_mut().filter_map(|one| one.poll(session, context).is_pending().then_some(()));
        if pending.count() == 0 { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    let results: Vec<_> = confirmations.into_iter().map(Confirming::into_result).collect();
    let is_taken = |result: &Result<Confirmation, lapin::Error>| matches!(result, Ok(Confirmation::Ack(_)));
    // The broker may go on refusing in a channel.
    if channel.status().connected() && results.iter().all(is_taken) {
        session.idle.lock().push(channel);
    }
    // The driver may have given a returned message to another one.
    let returned: HashSet<String> = results.iter().filter_map(|result| returned(result.as_ref().ok()?)).collect();
    let outcome = |(result, outgoing): (Result<Confirmation, lapin::Error>, &&Outgoing<'_>)| match result {
        Ok(Confirmation::Ack(_) | Confirmation::Nack(Some(_)))
            if returned.contains(&outgoing.message.id.to_string()) =>
        {
            session.declared.lock().remove(&outgoing.place);
            Sent::NoQueue
        }
        Ok(Confirmation::Ack(_)) => Sent::Stored,
        Ok(Confirmation::Nack(_)) => Sent::NotTaken,
        Ok(Confirmation::NotRequested) => Sent::Failed(unknown()),
        Err(error) => Sent::Failed(sent(error)),
    };
    Ok(results.into_iter().zip(messages).map(outcome).collect())
}

/// The id of a message that was returned.
fn returned(confirmation: &Confirmation) -> Option<String> {
    match confirmation {
        Confirmation::Ack(Some(message)) | Confirmation::Nack(Some(message)) => {
            message.properties.message_id().as_ref().map(ToString::to_string)
        }
        _ => None,
    }
}

/// A message on its way.
enum Confirming<'a> {
    Sending(Pin<Box<dyn Future<Output = Result<PublisherConfirm, lapin::Error>> + Send + 'a>>),
    Sent(Pin<Box<PublisherConfirm>>),
    Done(Box<Result<Confirmation, lapin::Error>>),
}

impl Confirming<'_> {
    fn poll(&mut self, session: &Session, context: &mut Context<'_>) -> Poll<()> {
        loop {
            *self = match self {
                Self::Sending(sending) => match ready!(sending.as_mut().poll(context)) {
                    Ok(confirm) => Self::Sent(Box::pin(confirm)),
                    Err(error) => Self::Done(Box::new(Err(error))),
                },
                Self::Sent(confirm) => {
                    let confirmation = ready!(confirm.as_mut().poll(context));
                    session.heard();
                    Self::Done(Box::new(confirmation))
                }
                Self::Done(_) => return Poll::Ready(()),
            };
        }
    }

    fn into_result(self) -> Result<Confirmation, lapin::Error> {
        match self {
            Self::Done(result) => *result,
            Self::Sending(_) | Self::Sent(_) => Ok(Confirmation::NotRequested),
        }
    }
}

/// Waits until the broker says that it takes no messages, or has said nothing for too long.
async fn until_no_answer(session: &Session) -> QueueError {
    loop {
        sleep(LOOK_EVERY).await;
        if session.link.is_blocked() {
            return QueueError::Blocked { engine: ENGINE };
        }
        if session.is_silent() {
            return QueueError::TimedOut { engine: ENGINE, limit: SILENCE };
        }
    }
}

/// Waits for an answer for a limited time.
pub(super) async fn within<T>(answer: impl Future<Output = Result<T, lapin::Error>>) -> Result<T, lapin::Error> {
    match timeout(SILENCE, answer).await {
        Ok(answer) => answer,
        Err(_) => {
            Err(std::io::Error::new(std::io::ErrorKind::TimedOut, format!("no answer within {SILENCE:?}")).into())
        }
    }
}

/// Of messages that were sent together, the first has the error, and the others have the same.
fn unknown() -> QueueError {
    QueueError::Interrupted { engine: ENGINE, source: "the connection ended, as for the message before".into() }
}

fn not_taken() -> QueueError {
    let source = "the broker did not take the job: most nodes of its queue are away, or the queue is full".into();
    QueueError::Unreachable { engine: ENGINE, source }
}

fn no_queue() -> QueueError {
    QueueError::Refused { engine: ENGINE, source: "its queue was deleted again and again: let it be".into() }
}
