//! Wraps the work of an attempt if the registry profiles its tasks.

use std::sync::Arc;

use crate::{
    engine::shared::Shared,
    task::{
        profiled::Profiled,
        work::{BoxedWork, Kind},
    },
    telemetry::profiler::Profiler,
};

impl Shared {
    /// The work of an attempt that starts, measured if the registry profiles its tasks. Called without a lock.
    #[inline]
    pub(crate) fn profiled(&self, work: BoxedWork) -> BoxedWork {
        match &self.telemetry.profiler {
            None => work,
            Some(profiler) => self.profile(work, profiler),
        }
    }

    #[cold]
    fn profile(&self, work: BoxedWork, profiler: &Arc<Profiler>) -> BoxedWork {
        let meta = work.meta();
        // Made before the lock, and dropped after it if an attempt before has left its own.
        let fresh = profiler.figures(meta.identity(), meta.kind != Kind::Async);
        let figures = self.with_live(meta.id(), |live| live.figures(&fresh)).unwrap_or(fresh);
        Box::pin(Profiled::new(work, figures, Arc::clone(profiler)))
    }
}
