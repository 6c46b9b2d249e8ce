use std::{
    fmt,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures::task::AtomicWaker;
use tokio::time::Instant;

use super::layer::Config;
use crate::{
    line::Gate,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    timer::{self, Sleep},
};

/// How much longer to wait when the last chunk was released.
///
/// What the server still has to do takes it a moment, and has nothing that could tell: h2 releases a chunk when
/// it copies the last, short piece of it into its own buffer, just before the write of the same poll; and the end
/// of a stream, like an empty body, comes without a chunk. A few yields to the scheduler, which were tried
/// instead, are over too early far more often than a timer.
const DEFERRAL: Duration = Duration::from_millis(2);

/// Keeps a set from draining until its response has left: until every chunk of the body that the server was
/// given has been released by it.
pub(crate) struct BodyGate {
    config: Arc<Config>,
    /// Chunks that the server has not released.
    held: AtomicUsize,
    open: AtomicBool,
    waker: AtomicWaker,
    wait: Mutex<Wait>,
}

#[derive(Default)]
struct Wait {
    body_ended: Option<Instant>,
    /// Bounds the wait for the chunks.
    limit: Option<Sleep>,
    deferral: Option<Sleep>,
}

impl BodyGate {
    pub(crate) fn new(config: Arc<Config>) -> Self {
        Self {
            config,
            held: AtomicUsize::new(0),
            open: AtomicBool::new(false),
            waker: AtomicWaker::new(),
            wait: Mutex::default(),
        }
    }

    /// The same chunk, in a form that tells when it was released.
    pub(crate) fn watch(self: &Arc<Self>, chunk: Bytes) -> Bytes {
        // Relaxed: the chunk goes to the server after this, and comes back after that.
        self.held.fetch_add(1, Ordering::Relaxed);
        Bytes::from_owner(Chunk { bytes: chunk, gate: Arc::clone(self) })
    }

    /// The body has ended: from here on, whatever is held is held too long one day.
    pub(crate) fn body_ended(&self) {
        self.wait.lock().body_ended = Some(Instant::now());
    }
}

impl Gate for BodyGate {
    fn poll_open(&self, context: &mut Context<'_>) -> Poll<()> {
        self.waker.register(context.waker());
        // Acquire, after the registration: pairs with the release in `Chunk::drop` and `open_now`, which wake
        // after their store.
        if self.open.load(Ordering::Acquire) {
            return Poll::Ready(());
        }
        let inner = &self.config.registry.inner;
        let launch_within = self.config.launch_within;
        let mut wait = self.wait.lock();
        if self.held.load(Ordering::Acquire) > 0 {
            let passed = wait.body_ended.map(|ended| ended.elapsed()).unwrap_or_default();
            let limit = wait.limit.get_or_insert_with(|| timer::sleep(inner, launch_within.saturating_sub(passed)));
            return limit.as_mut().poll(context);
        }
        if launch_within.is_zero() {
            return Poll::Ready(());
        }
        let deferral = wait.deferral.get_or_insert_with(|| timer::sleep(inner, DEFERRAL.min(launch_within)));
        deferral.as_mut().poll(context)
    }

    fn open_now(&self) {
        self.open.store(true, Ordering::Release);
        self.waker.wake();
    }
}

impl fmt::Debug for BodyGate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BodyGate").field("held", &self.held).finish_non_exhaustive()
    }
}

/// The owner of a chunk's bytes.
struct Chunk {
    bytes: Bytes,
    gate: Arc<BodyGate>,
}

impl AsRef<[u8]> for Chunk {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        // Release: see `poll_open`.
        if self.gate.held.fetch_sub(1, Ordering::Release) == 1 {
            self.gate.waker.wake();
        }
    }
}
