//! The consumers of a worker, and what the broker has delivered to them.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use futures_core::Stream as _;
use lapin::{
    Channel, Consumer, ConsumerDelegate,
    message::{Delivery, DeliveryResult},
    options::{BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicQosOptions},
    types::{FieldTable, ShortString},
};
use parking_lot::Mutex;
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};

use super::{
    message::Message,
    publisher::within,
    shares::{Demand, shares},
    together::together,
    topology::{Place, Topology},
};
use crate::{
    amqp::link::Link,
    model::id::JobId,
    queue::{LostLease, Reservation},
};

/// How often it looks whether jobs are on their way to a consumer, before it cancels it.
const QUIET_LOOKS: usize = 20;
const QUIET_LOOK_EVERY: Duration = Duration::from_millis(5);

/// Numbers reservations, over all workers of the process.
static RUNS: AtomicI64 = AtomicI64::new(1);

/// The deliveries of one worker, on one connection.
pub(super) struct Deliveries {
    pub(super) link: Arc<Link>,
    state: Arc<Mutex<State>>,
    /// Changes are made by one at a time. One that is interrupted leaves it unknown what the broker delivers.
    changing: tokio::sync::Mutex<()>,
    /// Answers to the broker share it, and consumers are cancelled without any.
    answering: tokio::sync::RwLock<()>,
    since: Instant,
}

/// What the delegates of the consumers share.
struct State {
    changes: watch::Sender<u64>,
    names: HashMap<&'static str, Name>,
    runs: HashMap<i64, Run>,
    /// Jobs that have crashed a process, and of which nobody has been told.
    crashed_now: VecDeque<i64>,
    /// Jobs that have crashed a process: each runs alone.
    crashed: VecDeque<i64>,
    /// Runs whose channel has ended.
    lost: Vec<(JobId, i64)>,
    /// Runs that are settled, as part of a settlement that failed for others.
    settled: HashSet<i64>,
    is_interrupted: bool,
    has_lost_a_queue: bool,
    /// Consumers and channels that have ended. They must not be dropped in the thread of the connection, which may hold
    /// their locks.
    ended: Vec<Ended>,
}

#[expect(dead_code, reason = "kept to be dropped later")]
enum Ended {
    Name(Name),
    Consuming(Consuming),
}

#[derive(Default)]
struct Name {
    channel: Option<Channel>,
    consumers: HashMap<u64, Consuming>,
    next_consumer: u64,
    /// What was delivered, and not handed out.
    waiting: VecDeque<i64>,
}

struct Consuming {
    prefetch: usize,
    in_hand: usize,
    /// It cancels when it is dropped.
    consumer: Option<Consumer>,
    is_cancelled: bool,
}

/// A job that was delivered.
struct Run {
    name: &'static str,
    consumer: u64,
    delivery: Delivery,
    message: Message,
    since: Instant,
    is_handed_out: bool,
    /// What it becomes is stored: only the answer to the broker is missing.
    is_moved: bool,
}

impl Name {
    fn prefetch(&self) -> usize {
        self.consumers.values().filter(|one| !one.is_cancelled).map(|one| one.prefetch).sum()
    }

    fn orphans(&self) -> usize {
        self.consumers.values().filter(|one| one.is_cancelled).map(|one| one.in_hand).sum()
    }

    fn in_hand(&self) -> usize {
        self.consumers.values().map(|one| one.in_hand).sum()
    }

    fn is_busy(&self) -> bool {
        let in_hand: usize = self.consumers.values().filter(|one| !one.is_cancelled).map(|one| one.in_hand).sum();
        in_hand >= self.prefetch()
    }

    /// Removes a consumer that is cancelled and holds no jobs.
    fn remove_if_over(&mut self, consumer: u64) -> Option<Ended> {
        let one = self.consumers.get(&consumer)?;
        let is_over = one.is_cancelled && one.in_hand == 0;
        if is_over { self.consumers.remove(&consumer).map(Ended::Consuming) } else { None }
    }
}

impl State {
    fn announce(&self) {
        self.changes.send_modify(|number| *number = number.wrapping_add(1));
    }

    fn take_delivery(&mut self, name: &'static str, consumer: u64, mut delivery: Delivery) {
        let payload = std::mem::take(&mut delivery.data);
        let message = Message::read(name, &delivery.properties, payload);
        let run = RUNS.fetch_add(1, Ordering::Relaxed);
        let of_name = self.names.entry(name).or_default();
        if let Some(one) = of_name.consumers.get_mut(&consumer) {
            one.in_hand += 1;
        }
        if message.crashes == 0 {
            of_name.waiting.push_back(run);
        } else {
            self.crashed_now.push_back(run);
        }
        let since = Instant::now();
        let run_of = Run { name, consumer, delivery, message, since, is_handed_out: false, is_moved: false };
        self.runs.insert(run, run_of);
        self.announce();
    }

    /// The channel of a name has ended, and with it all of its runs.
    fn lose(&mut self, name: &'static str) {
        let lost: Vec<i64> = self.runs.iter().filter(|(_, run)| run.name == name).map(|(run, _)| *run).collect();
        for number in lost {
            if let Some(run) = self.runs.remove(&number)
                && run.is_handed_out
            {
                self.lost.push((run.message.id, number));
            }
        }
        let runs = &self.runs;
        self.crashed_now.retain(|run| runs.contains_key(run));
        self.crashed.retain(|run| runs.contains_key(run));
        self.ended.extend(self.names.remove(name).map(Ended::Name));
        self.announce();
    }

    /// The job that has crashed a process and is the first to run alone.
    fn first_crashed(&self, wanted: &Reservation) -> Option<i64> {
        let is_wanted = |run: &&i64| {
            let name = self.runs.get(*run).map(|run| run.name);
            wanted.names.iter().any(|(wanted, _)| name == Some(*wanted))
        };
        self.crashed.iter().find(is_wanted).copied()
    }

    /// A consumer gets nothing more.
    fn cancelled(&mut self, name: &str, consumer: u64) {
        if let Some(of) = self.names.get_mut(name) {
            if let Some(one) = of.consumers.get_mut(&consumer) {
                one.is_cancelled = true;
            }
            self.ended.extend(of.remove_if_over(consumer));
        }
    }

    /// Removes a run that is settled.
    fn remove(&mut self, number: i64) {
        if let Some(run) = self.runs.remove(&number) {
            if let Some(name) = self.names.get_mut(run.name) {
                name.waiting.retain(|waiting| *waiting != number);
                if let Some(one) = name.consumers.get_mut(&run.consumer) {
                    one.in_hand = one.in_hand.saturating_sub(1);
                }
                self.ended.extend(name.remove_if_over(run.consumer));
            }
            self.crashed_now.retain(|crashed| *crashed != number);
            self.crashed.retain(|crashed| *crashed != number);
        }
    }
}

/// Gets what the broker delivers to a consumer, in the thread of the connection.
struct Delegate {
    state: Arc<Mutex<State>>,
    name: &'static str,
    consumer: u64,
}

impl ConsumerDelegate for Delegate {
    fn on_new_delivery(&self, delivery: DeliveryResult) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        let mut state = self.state.lock();
        match delivery {
            Ok(Some(delivery)) => state.take_delivery(self.name, self.consumer, delivery),
            // Cancelled by the broker: the queue was deleted, and with it the jobs in hand. What is declared anew needs
            // another channel, because this one goes on with the old queue.
            Ok(None) => {
                state.has_lost_a_queue = true;
                state.lose(self.name);
            }
            Err(_) => state.lose(self.name),
        }
        Box::pin(std::future::ready(()))
    }
}

/// A job that a worker gets.
pub(super) struct Handed {
    pub(super) run: i64,
    pub(super) message: Message,
}

/// A change of the consumers of a name.
struct Change {
    name: &'static str,
    /// The tags of consumers, and their numbers.
    cancels: Vec<(ShortString, u64)>,
    /// Whether the queue has no other consumer of this worker: it may have been deleted.
    is_first: bool,
    /// The prefetch of a further consumer, and its number.
    adds: Option<(usize, u64)>,
    channel: Option<Channel>,
}

/// Notes that a change was interrupted, unless it has come to its end.
struct Interrupted<'a>(Option<&'a Mutex<State>>);

impl Drop for Interrupted<'_> {
    fn drop(&mut self) {
        if let Some(state) = self.0.take() {
            state.lock().is_interrupted = true;
        }
    }
}

impl Deliveries {
    /// `before` is what was delivered on the connection before: all of it is lost.
    pub(super) fn new(link: Arc<Link>, changes: watch::Sender<u64>, before: Option<&Self>) -> Self {
        let state = State {
            changes,
            names: HashMap::new(),
            runs: HashMap::new(),
            crashed_now: VecDeque::new(),
            crashed: VecDeque::new(),
            lost: before.map(Self::take_all).unwrap_or_default(),
            settled: HashSet::new(),
            is_interrupted: false,
            has_lost_a_queue: false,
            ended: Vec::new(),
        };
        let (changing, answering) = (tokio::sync::Mutex::new(()), tokio::sync::RwLock::new(()));
        Self { link, state: Arc::new(Mutex::new(state)), changing, answering, since: Instant::now() }
    }

    pub(super) fn is_usable(&self) -> bool {
        self.link.is_alive() && !self.state.lock().is_interrupted
    }

    /// Hands out what was delivered, as far as it is wanted, and has the broker deliver as much as is wanted still.
    pub(super) async fn reserve(&self, wanted: &Reservation, topology: &Topology) -> Result<Vec<Handed>, lapin::Error> {
        let _one_at_a_time = self.changing.lock().await;
        self.drop_ended();
        let handed = self.hand_out(wanted);
        let changes = self.plan(wanted);
        if let Err(error) = self.change(changes, topology).await {
            self.take_back_in(&handed);
            return Err(error);
        }
        Ok(handed)
    }

    /// Has the broker deliver nothing more. Returns what was delivered and not handed out.
    pub(super) async fn withhold(&self, topology: &Topology) -> Result<Vec<i64>, lapin::Error> {
        let _one_at_a_time = self.changing.lock().await;
        self.stop_all(topology).await?;
        let state = self.state.lock();
        Ok(state.runs.iter().filter(|(_, run)| !run.is_handed_out).map(|(run, _)| *run).collect())
    }

    fn drop_ended(&self) {
        let ended = std::mem::take(&mut self.state.lock().ended);
        drop(ended);
    }

    /// Has the broker deliver nothing more.
    pub(super) async fn stop(&self, topology: &Topology) -> Result<(), lapin::Error> {
        let _one_at_a_time = self.changing.lock().await;
        self.stop_all(topology).await
    }

    /// Closes the channels. The broker has carried out all answers then.
    pub(super) async fn close(&self) -> Result<(), lapin::Error> {
        let _one_at_a_time = self.changing.lock().await;
        let channels: Vec<Channel> = self.state.lock().names.values().filter_map(|name| name.channel.clone()).collect();
        for channel in channels {
            within(channel.close(200, "done".into())).await?;
        }
        Ok(())
    }

    async fn stop_all(&self, topology: &Topology) -> Result<(), lapin::Error> {
        let changes = {
            let state = self.state.lock();
            let names = state.names.iter().filter(|(_, name)| name.prefetch() > 0);
            names.map(|(name, of)| Self::cancel_all(name, of)).collect()
        };
        self.change(changes, topology).await
    }

    fn cancel_all(name: &'static str, of: &Name) -> Change {
        let cancels = of.consumers.iter().filter(|(_, one)| !one.is_cancelled);
        let cancels = cancels.filter_map(|(number, one)| Some((one.consumer.as_ref()?.tag(), *number))).collect();
        Change { name, cancels, is_first: false, adds: None, channel: of.channel.clone() }
    }

    fn hand_out(&self, wanted: &Reservation) -> Vec<Handed> {
        let mut state = self.state.lock();
        let state = &mut *state;
        let mut handed = Vec::new();
        let mut hand = |number: i64, runs: &mut HashMap<i64, Run>| {
            if let Some(run) = runs.get_mut(&number) {
                run.is_handed_out = true;
                handed.push(Handed { run: number, message: run.message.clone() });
            }
        };
        if wanted.crashed {
            if let Some(number) = state.first_crashed(wanted) {
                state.crashed.retain(|crashed| *crashed != number);
                hand(number, &mut state.runs);
            }
            return handed;
        }
        let mut left = wanted.limit;
        for (name, count) in &wanted.names {
            let Some(of_name) = state.names.get_mut(name) else { continue };
            for _ in 0..(*count).min(left) {
                let Some(number) = of_name.waiting.pop_front() else { break };
                left -= 1;
                hand(number, &mut state.runs);
            }
        }
        handed
    }

    /// A reservation failed after it had handed out: nobody gets those jobs.
    fn take_back_in(&self, handed: &[Handed]) {
        let mut state = self.state.lock();
        let state = &mut *state;
        for Handed { run: number, message } in handed.iter().rev() {
            let Some(run) = state.runs.get_mut(number) else { continue };
            run.is_handed_out = false;
            if message.crashes > 0 {
                state.crashed.push_front(*number);
            } else if let Some(name) = state.names.get_mut(run.name) {
                name.waiting.push_front(*number);
            }
        }
    }

    /// What has to change so that no more is delivered than may start.
    fn plan(&self, wanted: &Reservation) -> Vec<Change> {
        let mut state = self.state.lock();
        let state = &mut *state;
        for (name, _) in &wanted.in_hand.names {
            state.names.entry(name).or_default();
        }
        let mut names: Vec<&'static str> = state.names.keys().copied().collect();
        names.sort_unstable();
        let demands: Vec<Demand> = names
            .iter()
            .filter_map(|name| Some((*name, state.names.get(name)?)))
            .map(|(name, of)| {
                let cap = wanted.in_hand.names.iter().find(|(of, _)| *of == name).map_or(0, |(_, jobs)| *jobs);
                // A job that has crashed a process runs alone.
                let cap = if wanted.crashed { 0 } else { cap };
                Demand { cap, prefetch: of.prefetch(), orphans: of.orphans(), is_busy: of.is_busy() }
            })
            .collect();
        let turn = usize::try_from(self.since.elapsed().as_secs()).unwrap_or_default();
        let mut changes = Vec::new();
        for ((name, demand), prefetch) in
            names.into_iter().zip(&demands).zip(shares(wanted.in_hand.all, &demands, turn))
        {
            let Some(of) = state.names.get_mut(name) else { continue };
            if prefetch == demand.prefetch {
                continue;
            }
            let is_first = of.consumers.is_empty();
            let mut change = Change { name, cancels: Vec::new(), is_first, adds: None, channel: of.channel.clone() };
            let mut adds = prefetch.saturating_sub(demand.prefetch);
            if prefetch < demand.prefetch {
                change.cancels = Self::cancel_all(name, of).cancels;
                // The jobs of cancelled consumers make no room for others.
                adds = prefetch.saturating_sub(of.in_hand() - of.orphans());
            }
            if adds > 0 {
                let number = of.next_consumer;
                of.next_consumer += 1;
                let consuming = Consuming { prefetch: adds, in_hand: 0, consumer: None, is_cancelled: false };
                of.consumers.insert(number, consuming);
                change.adds = Some((adds, number));
            }
            changes.push(change);
        }
        changes
    }

    async fn change(&self, changes: Vec<Change>, topology: &Topology) -> Result<(), lapin::Error> {
        if changes.is_empty() {
            return Ok(());
        }
        let mut interrupted = Interrupted(Some(&self.state));
        for change in changes {
            let name = change.name;
            let changed = within(self.change_one(change, topology)).await;
            if let Err(error) = changed {
                // The channel may have ended: it begins anew. Of an error of the connection, all is lost.
                self.state.lock().lose(name);
                if crate::amqp::error::is_of_channel(&error) {
                    interrupted.0 = None;
                }
                return Err(error);
            }
        }
        interrupted.0 = None;
        Ok(())
    }

    async fn change_one(&self, change: Change, topology: &Topology) -> Result<(), lapin::Error> {
        let Change { name, cancels, is_first, adds, channel } = change;
        let channel = if let Some(channel) = channel {
            channel
        } else {
            let channel = self.link.connection().create_channel().await?;
            if let Some(of) = self.state.lock().names.get_mut(name) {
                of.channel = Some(channel.clone());
            }
            channel
        };
        if !cancels.is_empty() {
            self.cancel(&channel, name, cancels, topology).await?;
        }
        let Some((prefetch, number)) = adds else { return Ok(()) };
        if is_first {
            topology.declare(&channel, &Place::Dead(name.to_owned())).await?;
            topology.declare(&channel, &Place::Waiting(name.to_owned())).await?;
        }
        let count = u16::try_from(prefetch).unwrap_or(u16::MAX);
        channel.basic_qos(count, BasicQosOptions::default()).await?;
        let queue = topology.name(&Place::Waiting(name.to_owned()));
        let tag = ShortString::from(format!("{}", JobId::generate()));
        let (options, arguments) = (BasicConsumeOptions::default(), FieldTable::default());
        let consumer = channel.basic_consume(queue, tag, options, arguments).await?;
        consumer.set_delegate(Delegate { state: Arc::clone(&self.state), name, consumer: number });
        let mut state = self.state.lock();
        let consuming = state.names.get_mut(name).and_then(|of| of.consumers.get_mut(&number));
        if let Some(consuming) = consuming {
            consuming.consumer = Some(consumer);
        } else {
            // The channel has ended meanwhile. A consumer is not dropped under the lock.
            drop(state);
            drop(consumer);
        }
        Ok(())
    }

    /// Cancels consumers. What is on its way to them meanwhile the broker takes back by itself, and counts as a crash: so it
    /// waits until nothing is, as far as it can tell. No answer makes room for more in the meantime.
    async fn cancel(
        &self,
        channel: &Channel,
        name: &'static str,
        cancels: Vec<(ShortString, u64)>,
        topology: &Topology,
    ) -> Result<(), lapin::Error> {
        let _no_answers = self.answering.write().await;
        for _ in 0..QUIET_LOOKS {
            let is_full = self.state.lock().names.get(name).is_none_or(Name::is_busy);
            if is_full || topology.declare(channel, &Place::Waiting(name.to_owned())).await?.messages == 0 {
                break;
            }
            sleep(QUIET_LOOK_EVERY).await;
        }
        // All at once: otherwise one would get what another one did not.
        let cancelled = cancels.iter().map(|(tag, _)| channel.basic_cancel(tag.clone(), BasicCancelOptions::default()));
        let results = together(cancelled).await;
        for (_, number) in cancels {
            self.take_late(name, number);
        }
        results.into_iter().collect()
    }

    /// Takes what was delivered to a consumer after its delegate was removed: when it began to be cancelled.
    fn take_late(&self, name: &'static str, number: u64) {
        let consumer = {
            let state = self.state.lock();
            let consuming = state.names.get(name).and_then(|of| of.consumers.get(&number));
            consuming.and_then(|consuming| consuming.consumer.clone())
        };
        let mut context = Context::from_waker(Waker::noop());
        if let Some(mut consumer) = consumer {
            while let Poll::Ready(Some(Ok(delivery))) = Pin::new(&mut consumer).poll_next(&mut context) {
                self.state.lock().take_delivery(name, number, delivery);
            }
        }
        self.state.lock().cancelled(name, number);
    }

    /// The jobs that have crashed a process, and of which nobody has been told. Those that may have no more crashes are
    /// left to the caller, which settles them.
    pub(super) fn told_of_crashes(&self) -> (Vec<LostLease>, Vec<(i64, Message)>) {
        let mut state = self.state.lock();
        let state = &mut *state;
        let (mut told, mut dead) = (Vec::new(), Vec::new());
        for number in std::mem::take(&mut state.crashed_now) {
            let Some(run) = state.runs.get(&number) else { continue };
            let Message { id, crashes, max_crashes, .. } = run.message;
            let is_dead = crashes >= max_crashes;
            if is_dead {
                dead.push((number, run.message.clone()));
                // Until it is settled.
                state.crashed_now.push_back(number);
            } else {
                state.crashed.push_back(number);
            }
            told.push(LostLease { id, name: run.name.to_owned(), crashes, is_dead });
        }
        (told, dead)
    }

    pub(super) fn has_crashed_now(&self) -> bool {
        !self.state.lock().crashed_now.is_empty()
    }

    /// Whether a job of one of these names that has crashed a process waits to run alone.
    pub(super) fn has_crashed(&self, names: &[&'static str]) -> bool {
        let state = self.state.lock();
        let crashed = state.crashed.iter().chain(&state.crashed_now).filter_map(|run| state.runs.get(run));
        crashed.filter(|run| run.message.crashes < run.message.max_crashes).any(|run| names.contains(&run.name))
    }

    /// What was delivered and not handed out, apart from the job that runs alone next; nothing if there is none.
    pub(super) fn beside_a_crashed_one(&self, wanted: &Reservation) -> Vec<i64> {
        let state = self.state.lock();
        let Some(first) = state.first_crashed(wanted) else { return Vec::new() };
        let others = state.runs.iter().filter(|(run, of)| !of.is_handed_out && **run != first);
        others.map(|(run, _)| *run).collect()
    }

    /// What was delivered, and has waited here for this long to be handed out.
    pub(super) fn waiting_for(&self, limit: Duration) -> Vec<i64> {
        let state = self.state.lock();
        let waiting = state.runs.iter().filter(|(_, run)| !run.is_handed_out && run.since.elapsed() > limit);
        waiting.map(|(run, _)| *run).collect()
    }

    /// Whether a queue was deleted since this was last asked.
    pub(super) fn take_lost_a_queue(&self) -> bool {
        std::mem::take(&mut self.state.lock().has_lost_a_queue)
    }

    /// The runs that were lost, and those that are lost now.
    fn take_all(&self) -> Vec<(JobId, i64)> {
        let mut lost = self.take_lost();
        lost.extend(self.handed_out());
        lost
    }

    pub(super) fn take_lost(&self) -> Vec<(JobId, i64)> {
        std::mem::take(&mut self.state.lock().lost)
    }

    /// Whether a run is still this worker's, and for how long it has been.
    pub(super) fn age(&self, run: i64) -> Option<Duration> {
        self.state.lock().runs.get(&run).map(|run| run.since.elapsed())
    }

    pub(super) fn handed_out(&self) -> Vec<(JobId, i64)> {
        let state = self.state.lock();
        state.runs.iter().filter(|(_, run)| run.is_handed_out).map(|(run, of)| (of.message.id, *run)).collect()
    }

    /// The message of a run, and whether what it becomes is stored already.
    pub(super) fn message(&self, run: i64) -> Option<(Message, bool)> {
        self.state.lock().runs.get(&run).map(|run| (run.message.clone(), run.is_moved))
    }

    pub(super) fn moved(&self, run: i64) {
        if let Some(run) = self.state.lock().runs.get_mut(&run) {
            run.is_moved = true;
        }
    }

    /// Tells the broker that it can forget the message of a run. `false` if the run is no longer this worker's.
    pub(super) async fn acknowledge(&self, number: i64) -> bool {
        let acker = {
            let state = self.state.lock();
            match state.runs.get(&number) {
                Some(run) => run.delivery.acker.clone(),
                None => return state.settled.contains(&number),
            }
        };
        let _answering = self.answering.read().await;
        let is_done = matches!(acker.ack(BasicAckOptions::default()).await, Ok(true));
        let mut state = self.state.lock();
        state.remove(number);
        if is_done {
            state.settled.insert(number);
        }
        is_done
    }

    /// Gives a run back to the broker, which counts it as a crash.
    pub(super) async fn give_back(&self, number: i64) {
        let acker = self.state.lock().runs.get(&number).map(|run| run.delivery.acker.clone());
        if let Some(acker) = acker {
            let _answering = self.answering.read().await;
            let options = lapin::options::BasicNackOptions { multiple: false, requeue: true };
            // If the channel has ended, the broker has it already.
            let _given_back = acker.nack(options).await;
        }
        self.state.lock().remove(number);
    }

    /// Forgets which runs are settled, after the worker has learned it.
    pub(super) fn forget_settled(&self, runs: &[i64]) {
        let mut state = self.state.lock();
        for run in runs {
            state.settled.remove(run);
        }
    }
}
