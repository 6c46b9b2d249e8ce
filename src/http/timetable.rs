use std::{
    collections::{BTreeMap, VecDeque},
    future::Future,
    pin::Pin,
    sync::{Arc, Weak},
    task::{Context, Poll, Waker},
    time::Duration,
};

use tokio::time::Instant;

use crate::{
    engine::{queue::Line, shared::Inner},
    http::release::{DEFERRAL, Departure},
    util::{loom::Mutex, panic::guarded, timer::Sleep},
};

/// How many lines one poll launches before the runtime gets to do something else.
const LINES_PER_POLL: usize = 64;

/// How long the clock stays set after the last row: so that on a server at work, a limit finds it set, and nobody has
/// to set it where a body ends. Setting a clock may wake another thread, which over HTTP/2 is one that the task which
/// is about to write the response has to share a core with.
const LINGER: Duration = Duration::from_secs(1);

/// When the sets of responses that are leaving are to launch: one timer for all of a registry.
///
/// A timer for each would be a task for each, woken where the response's last bytes leave; and over HTTP/2, a task that
/// is woken or spawned at the end of a body runs before the one that writes it.
///
/// The bytes of nearly every response are released within microseconds of its body's end. So while the clock is about
/// to strike anyway, a body that ends is only put where the next turn looks: most have been released by then, and never
/// cost a limit, a look at the clock, or a lock where their bytes are released.
///
/// # Invariants
/// 1. While something is noted, the clock is set to the earliest moment or before it, or the ticker is about to run.
/// 2. When the ticker is dropped with its runtime, all that is noted launches, and finds that out by itself.
/// 3. `ended` is empty while `soon` is: so a turn is at hand.
/// 4. Its lock is taken alone: no line's and no shard's lock is taken under it, nor it under them.
#[derive(Default)]
pub(crate) struct Timetable {
    rows: Mutex<Rows>,
}

#[derive(Default)]
struct Rows {
    /// Those whose bodies have ended since the last turn.
    ended: Vec<Departure>,
    /// Those that nothing holds any more, the earliest first: all wait equally long.
    soon: VecDeque<(Instant, Arc<Line>)>,
    /// Those whose bytes are held, and until when.
    limits: BTreeMap<Place, Arc<Line>>,
    places: u64,
    clock: Option<Clock>,
    /// The ticker's, once that has run.
    waker: Option<Waker>,
    has_ticker: bool,
    /// Something was noted since the ticker ran with nothing to do.
    is_busy: bool,
    /// The runtime has ended.
    is_over: bool,
}

/// Where a limit is noted.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    at: Instant,
    /// Tells apart those of one moment.
    number: u64,
}

struct Clock {
    at: Instant,
    sleep: Sleep,
}

impl Timetable {
    /// Launches the line in two milliseconds.
    pub(crate) fn soon(&self, line: &Arc<Line>) {
        let at = Instant::now() + DEFERRAL;
        self.note(at, line, |rows, line| rows.soon.push_back((at, line)));
    }

    /// Lets the next turn see whether the departure is released, if there will be one soon; or gives it back.
    pub(crate) fn leave_to_next_turn(&self, departure: Departure) -> Result<(), Departure> {
        let mut rows = self.rows.lock();
        if rows.soon.is_empty() {
            return Err(departure);
        }
        rows.ended.push(departure);
        Ok(())
    }

    /// Launches the line then, if it was not [struck](Self::strike) before. `None` if it was launched at once.
    pub(crate) fn until(&self, at: Instant, line: &Arc<Line>) -> Option<Place> {
        self.note(at, line, |rows, line| rows.limit(at, line))
    }

    pub(crate) fn strike(&self, place: Place) {
        let struck = self.rows.lock().limits.remove(&place);
        // After the lock.
        drop(struck);
    }

    fn note<R>(&self, at: Instant, line: &Arc<Line>, write: impl FnOnce(&mut Rows, Arc<Line>) -> R) -> Option<R> {
        let inner = &line.registry.inner;
        let mut rows = self.rows.lock();
        if rows.is_over {
            drop(rows);
            line.left();
            return None;
        }
        let noted = write(&mut rows, Arc::clone(line));
        rows.is_busy = true;
        if !rows.has_ticker {
            rows.has_ticker = true;
            drop(rows);
            drop(inner.spawn(Ticker(Arc::downgrade(inner))));
        } else if rows.is_late(at) {
            drop(rows);
            self.set_clock(inner, at);
        }
        Some(noted)
    }

    /// Has the ticker woken then: without waking it now, which would put it before whatever is to run next here.
    fn set_clock(&self, inner: &Inner, at: Instant) {
        // The runtime may have ended, or this thread may be ending: then there is no timer.
        let sleep = guarded(|| {
            let _entered = inner.handle.enter();
            crate::util::timer::sleep(inner, at.saturating_duration_since(Instant::now()))
        });
        let mut rows = self.rows.lock();
        // Before the ticker has run for the first time, that is still to come.
        let Some(waker) = rows.waker.clone() else { return };
        if !rows.is_late(at) {
            return;
        }
        let polled = sleep.and_then(|mut sleep| {
            let is_over = guarded(|| sleep.as_mut().poll(&mut Context::from_waker(&waker)))?.is_ready();
            Ok((sleep, is_over))
        });
        let Ok((sleep, false)) = polled else {
            drop(rows);
            return waker.wake();
        };
        let replaced = rows.clock.replace(Clock { at, sleep });
        drop(rows);
        drop(replaced);
    }

    /// Lines that are due, and when to look again.
    pub(crate) fn turn(&self, context: &mut Context<'_>) -> (Vec<Arc<Line>>, Option<Instant>) {
        let now = Instant::now();
        let mut rows = self.rows.lock();
        if !rows.waker.as_ref().is_some_and(|waker| waker.will_wake(context.waker())) {
            rows.waker = Some(context.waker().clone());
        }
        let held = rows.sort_ended(now);
        let due = rows.take_due(now);
        let next = rows.earliest().or_else(|| std::mem::take(&mut rows.is_busy).then(|| now + LINGER));
        // Set for somebody who has gone or been struck off: the next one sets it anew.
        let spent = rows.clock.take_if(|clock| {
            next != Some(clock.at)
                || guarded(|| clock.sleep.as_mut().poll(context)).map_or(true, |poll| poll.is_ready())
        });
        drop(rows);
        drop(spent);
        held.into_iter().for_each(|departure| departure.release());
        (due, next)
    }

    /// Launches whatever is noted, and from here on at once.
    pub(crate) fn end(&self) {
        let mut rows = self.rows.lock();
        rows.is_over = true;
        let ended = std::mem::take(&mut rows.ended);
        let soon = std::mem::take(&mut rows.soon);
        let limits = std::mem::take(&mut rows.limits);
        let clock = rows.clock.take();
        drop(rows);
        drop(clock);
        ended.into_iter().for_each(|departure| departure.line.left());
        soon.into_iter().map(|(_, line)| line).chain(limits.into_values()).for_each(|line| line.left());
    }
}

impl Rows {
    /// Whether the clock would come too late for this moment.
    fn is_late(&self, at: Instant) -> bool {
        self.clock.as_ref().is_none_or(|clock| at < clock.at)
    }

    fn earliest(&self) -> Option<Instant> {
        let soon = self.soon.front().map(|(at, _)| *at);
        let limit = self.limits.first_key_value().map(|(place, _)| place.at);
        soon.into_iter().chain(limit).min()
    }

    fn limit(&mut self, at: Instant, line: Arc<Line>) -> Place {
        self.places += 1;
        let place = Place { at, number: self.places };
        self.limits.insert(place, line);
        place
    }

    /// Notes the lines of bodies that have ended: with those that are due soon, or with a limit. Returns the departures
    /// of the latter: they are to be released, now that they know their limit.
    fn sort_ended(&mut self, now: Instant) -> Vec<Departure> {
        let mut held = Vec::new();
        for departure in std::mem::take(&mut self.ended) {
            if departure.is_released() {
                self.soon.push_back((now + DEFERRAL, departure.line));
            } else {
                departure.wait_until(departure.limit(now).map(|at| self.limit(at, Arc::clone(&departure.line))));
                held.push(departure);
            }
        }
        held
    }

    fn take_due(&mut self, now: Instant) -> Vec<Arc<Line>> {
        let mut due = Vec::new();
        while due.len() < LINES_PER_POLL && self.soon.front().is_some_and(|(at, _)| *at <= now) {
            due.extend(self.soon.pop_front().map(|(_, line)| line));
        }
        while due.len() < LINES_PER_POLL && self.limits.first_key_value().is_some_and(|(place, _)| place.at <= now) {
            due.extend(self.limits.pop_first().map(|(_, line)| line));
        }
        // The queues keep the room of their fullest hour: give most of it back when most of it is empty.
        if self.soon.capacity() > 1024 && self.soon.len() < self.soon.capacity() / 8 {
            self.soon.shrink_to(self.soon.len() * 2);
        }
        due
    }
}

impl Drop for Timetable {
    fn drop(&mut self) {
        // The ticker has nothing to wait for any more, and ends.
        if let Some(waker) = self.rows.get_mut().waker.take() {
            waker.wake();
        }
    }
}

/// The one task that launches lines when they are due. It holds no registry, and ends with the last of those who do.
struct Ticker(Weak<Inner>);

impl Future for Ticker {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let Some(inner) = self.0.upgrade() else { return Poll::Ready(()) };
        let (due, next) = inner.timetable.turn(context);
        let is_full = due.len() == LINES_PER_POLL;
        due.into_iter().for_each(|line| line.left());
        match next {
            _ if is_full => context.waker().wake_by_ref(),
            Some(at) => inner.timetable.set_clock(&inner, at),
            None => {}
        }
        Poll::Pending
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        if let Some(inner) = self.0.upgrade() {
            inner.timetable.end();
        }
    }
}
