//! The snapshots: taken once for all who look, and not while nobody does.

use std::{
    convert::Infallible,
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use axum::body::Bytes;
use futures_util::stream::{self, Stream};
use parking_lot::Mutex;
use tokio::{
    sync::{Notify, OwnedSemaphorePermit, Semaphore, watch},
    task::JoinHandle,
    time::{Instant, sleep_until, timeout},
};

use crate::{
    recent::{Recent, SAMPLE_EVERY},
    routes::Status,
    snapshot::{Look, Snapshot, Surroundings},
};

/// How often a snapshot is taken while somebody looks.
const EVERY: Duration = Duration::from_secs(1);
/// A request without a stream counts as somebody who looks for this long.
const LOOKS_FOR: Duration = Duration::from_secs(10);
/// After a snapshot the sampler rests this many times as long as it took: it uses at most 2 % of a core.
const REST: u32 = 50;
/// How many may look at once. More get 503, and the page asks again.
const MAX_VIEWERS: usize = 1_000;
/// How long a request waits for a snapshot.
const MAX_WAIT: Duration = Duration::from_secs(10);

/// Takes the snapshots of a registry, and keeps its last hour.
pub(crate) struct Sampler {
    start: Instant,
    recent: Mutex<Recent>,
    latest: watch::Sender<Option<Published>>,
    viewers: Arc<Semaphore>,
    /// Wakes the sampler from a long rest.
    wanted: Notify,
    asked_at: Mutex<Option<Instant>>,
    task: Mutex<Option<JoinHandle<()>>>,
    taken: AtomicU64,
}

/// A snapshot, as it is sent.
#[derive(Clone)]
pub(crate) struct Published {
    at: Instant,
    /// As JSON.
    pub(crate) json: Bytes,
    /// As a server-sent event.
    event: Bytes,
}

impl Sampler {
    pub(crate) fn new() -> Self {
        Self {
            start: Instant::now(),
            recent: Mutex::default(),
            latest: watch::Sender::new(None),
            viewers: Arc::new(Semaphore::new(MAX_VIEWERS)),
            wanted: Notify::new(),
            asked_at: Mutex::default(),
            task: Mutex::default(),
            taken: AtomicU64::new(0),
        }
    }

    /// Starts the sampler, unless it runs. Does nothing outside a runtime: the first request starts it then, and also
    /// if its runtime has ended.
    #[expect(clippy::disallowed_methods, reason = "a look at the registry is no task of its own, and may be lost")]
    pub(crate) fn start(status: &Arc<Status>) {
        let Some(sampler) = &status.sampler else { return };
        let mut task = sampler.task.lock();
        if task.as_ref().is_none_or(JoinHandle::is_finished) {
            let sample = run(Arc::downgrade(status), Arc::clone(sampler));
            *task = tokio::runtime::Handle::try_current().ok().map(|runtime| runtime.spawn(sample));
        }
    }

    /// The time since the sampler was made.
    pub(crate) fn now(&self) -> Duration {
        self.start.elapsed()
    }

    pub(crate) fn with_recent<R>(&self, look: impl FnOnce(&Recent) -> R) -> R {
        look(&self.recent.lock())
    }

    /// A snapshot that is about a second old at most; `None` if it can't be taken in time.
    pub(crate) async fn latest(&self) -> Option<Published> {
        let mut latest = self.latest.subscribe();
        *self.asked_at.lock() = Some(Instant::now());
        if !is_younger(&latest.borrow(), EVERY * 2) {
            self.wanted.notify_one();
            let is_new = |published: &Option<Published>| is_younger(published, EVERY * 2);
            let is_taken = timeout(EVERY, latest.wait_for(is_new)).await.is_ok();
            // A sampler that rests long, because its looks take long, has an older one.
            if !is_taken && !is_younger(&latest.borrow(), MAX_WAIT * 3) {
                let is_recent = |published: &Option<Published>| is_younger(published, MAX_WAIT * 3);
                timeout(MAX_WAIT, latest.wait_for(is_recent)).await.ok()?.ok()?;
            }
        }
        latest.borrow().clone()
    }

    /// A place among those who look.
    pub(crate) fn viewer(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.viewers).try_acquire_owned().ok()
    }

    fn viewer_count(&self) -> usize {
        MAX_VIEWERS - self.viewers.available_permits()
    }

    /// The snapshots from now on, as server-sent events. One that is slow gets the latest when it asks for the next.
    pub(crate) fn events(&self, viewer: OwnedSemaphorePermit) -> impl Stream<Item = Result<Bytes, Infallible>> + use<> {
        let mut latest = self.latest.subscribe();
        // Also one that is older: if looks take long, the next one is far.
        let is_recent = is_younger(&latest.borrow(), MAX_WAIT * 3);
        if is_recent {
            latest.mark_changed();
        }
        self.wanted.notify_one();
        stream::unfold((latest, viewer), async |(mut latest, viewer)| {
            latest.changed().await.ok()?;
            let event = latest.borrow_and_update().as_ref().map(|published| published.event.clone());
            Some((Ok(event.unwrap_or_default()), (latest, viewer)))
        })
    }

    fn is_watched(&self) -> bool {
        let asked = *self.asked_at.lock();
        self.viewer_count() > 0 || asked.is_some_and(|at| at.elapsed() < LOOKS_FOR)
    }

    fn publish(&self, snapshot: &Snapshot) {
        // Serialising what serialises into JSON objects with text keys does not fail.
        let Ok(json) = serde_json::to_vec(snapshot) else { return };
        let mut event = b"event: snapshot\ndata: ".to_vec();
        event.extend_from_slice(&json);
        event.extend_from_slice(b"\n\n");
        self.latest.send_replace(Some(Published { at: Instant::now(), json: json.into(), event: event.into() }));
    }

    /// Sleeps until the next look is due.
    async fn rest(&self, began: Instant, took: Duration) {
        let soon = began + EVERY.max(took * REST);
        let late = began + SAMPLE_EVERY.max(took * REST);
        let mut watched = std::pin::pin!(self.wanted.notified());
        watched.as_mut().enable();
        if !self.is_watched() {
            tokio::select! {
                () = sleep_until(late) => {}
                () = watched => {}
            }
        }
        sleep_until(soon).await;
    }
}

fn is_younger(published: &Option<Published>, age: Duration) -> bool {
    published.as_ref().is_some_and(|one| one.at.elapsed() <= age)
}

impl Drop for Sampler {
    fn drop(&mut self) {
        if let Some(task) = self.task.get_mut().take() {
            task.abort();
        }
    }
}

impl std::fmt::Debug for Sampler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sampler").field("viewers", &self.viewer_count()).finish_non_exhaustive()
    }
}

/// Takes snapshots for as long as the routes exist.
async fn run(status: Weak<Status>, sampler: Arc<Sampler>) {
    loop {
        let began = Instant::now();
        let Some(status) = status.upgrade() else { return };
        let took = take(status, &sampler).await;
        sampler.rest(began, took).await;
    }
}

/// Takes one sample, and a snapshot if somebody looks. Returns how long that took.
async fn take(status: Arc<Status>, sampler: &Arc<Sampler>) -> Duration {
    if !sampler.is_watched() {
        let sample = status.exclusively(|registry| {
            let began = Instant::now();
            (registry.metrics(), began.elapsed())
        });
        let Ok((metrics, took)) = sample.await else { return Duration::ZERO };
        sampler.recent.lock().record(sampler.now(), &metrics);
        return took;
    }
    let health = status.health().await;
    let config = status.config.clone();
    let look = status.exclusively(|registry| {
        let began = Instant::now();
        let look = Look::at(registry);
        (look, began.elapsed())
    });
    let Ok((look, took)) = look.await else { return Duration::ZERO };
    // Relaxed: only this task counts.
    let number = sampler.taken.fetch_add(1, Ordering::Relaxed) + 1;
    let began = Instant::now();
    let now = sampler.now();
    let snapshot = {
        let mut recent = sampler.recent.lock();
        recent.record(now, &look.metrics);
        let next_in = EVERY.max(took * REST);
        let viewers = sampler.viewer_count();
        Snapshot::new(&look, &recent, Surroundings { number, now, next_in, viewers, config, health })
    };
    sampler.publish(&snapshot);
    took + began.elapsed()
}

#[cfg(test)]
mod tests {
    use postlude::TaskRegistry;

    use super::*;
    use crate::StatusRouter;

    fn sampled(registry: TaskRegistry) -> (Arc<Status>, Arc<Sampler>) {
        let status = StatusRouter::new(registry).status();
        let sampler = Arc::clone(status.sampler.as_ref().unwrap());
        Sampler::start(&status);
        (status, sampler)
    }

    async fn taken_in(sampler: &Sampler, time: Duration) -> u64 {
        let before = sampler.taken.load(Ordering::Relaxed);
        tokio::time::sleep(time).await;
        sampler.taken.load(Ordering::Relaxed) - before
    }

    #[tokio::test(start_paused = true)]
    async fn one_snapshot_a_second_for_all_viewers_and_none_without() {
        let (_status, sampler) = sampled(TaskRegistry::new());
        let minute = Duration::from_secs(60);
        let unwatched = taken_in(&sampler, minute).await;
        assert_eq!(unwatched, 0);
        let viewers: Vec<_> = (0..MAX_VIEWERS).map(|_| sampler.events(sampler.viewer().unwrap())).collect();
        assert!(sampler.viewer().is_none(), "there is no place for more");
        let watched = taken_in(&sampler, minute).await;
        assert!((55..=61).contains(&watched), "{watched}");
        drop(viewers);
        let again = taken_in(&sampler, minute).await;
        assert!(again <= 1, "{again}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_storm_of_requests_takes_no_more_snapshots_than_one_viewer() {
        let (_status, sampler) = sampled(TaskRegistry::new());
        let began = Instant::now();
        let before = sampler.taken.load(Ordering::Relaxed);
        while began.elapsed() < Duration::from_secs(30) {
            for _ in 0..100 {
                assert!(sampler.latest().await.is_some());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let taken = sampler.taken.load(Ordering::Relaxed) - before;
        assert!((25..=31).contains(&taken), "{taken}");
    }

    #[tokio::test(start_paused = true)]
    async fn viewers_share_the_bytes_of_a_snapshot() {
        use futures_util::StreamExt;

        let (_status, sampler) = sampled(TaskRegistry::new());
        let mut one = Box::pin(sampler.events(sampler.viewer().unwrap()));
        let mut other = Box::pin(sampler.events(sampler.viewer().unwrap()));
        let (Some(Ok(mut a)), Some(Ok(mut b))) = (one.next().await, other.next().await) else {
            panic!("it has not ended")
        };
        if a != b {
            (a, b) = (one.next().await.unwrap().unwrap(), other.next().await.unwrap().unwrap());
        }
        assert_eq!(a.as_ptr(), b.as_ptr(), "no copy for each viewer");
        // One that was slow gets one snapshot, the latest.
        tokio::time::sleep(Duration::from_secs(30)).await;
        let latest = sampler.latest.borrow().as_ref().unwrap().event.clone();
        assert_eq!(one.next().await.unwrap().unwrap(), latest);
    }

    #[tokio::test(start_paused = true)]
    async fn it_ends_with_the_routes() {
        let registry = TaskRegistry::new();
        let (status, sampler) = sampled(registry);
        drop(status);
        let task = sampler.task.lock().take().unwrap();
        task.await.unwrap();
    }

    #[test]
    fn it_starts_with_the_first_request_if_the_routes_were_built_outside_a_runtime() {
        let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let first = runtime();
        let registry = TaskRegistry::builder().handle(first.handle().clone()).build().unwrap();
        let (status, sampler) = sampled(registry);
        assert!(sampler.task.lock().is_none());
        let latest = async {
            Sampler::start(&status);
            sampler.latest().await.is_some()
        };
        assert!(first.block_on(latest));
        drop(first);
        let latest = async {
            Sampler::start(&status);
            sampler.latest().await.is_some()
        };
        assert!(runtime().block_on(latest), "also if its runtime has ended");
    }
}
