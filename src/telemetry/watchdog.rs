//! The thread that finds polls that do not return. It is a thread of its own, because such polls may hold all workers
//! of the runtime.

use std::{
    io,
    sync::Weak,
    thread::{self, JoinHandle},
    time::Duration,
};

use crate::telemetry::profiler::Profiler;

/// The shortest time between two looks.
const SHORTEST: Duration = Duration::from_millis(1);

/// Starts the watchdog of a profiler. It ends when the profiler is dropped.
///
/// # Errors
/// If the operating system gives no thread.
pub(crate) fn start(profiler: Weak<Profiler>) -> io::Result<JoinHandle<()>> {
    thread::Builder::new().name("postlude-watch".into()).spawn(move || watch(&profiler))
}

/// Looks when a poll may be due. If no poll has begun since the last look, it sleeps until one begins.
fn watch(profiler: &Weak<Profiler>) {
    let mut seen = 0;
    while let Some(strong) = profiler.upgrade() {
        let look = strong.look();
        let is_quiet = !look.is_polling && look.begun == seen;
        seen = look.begun;
        if !is_quiet {
            drop(strong);
            thread::park_timeout(Duration::from_nanos(look.next).max(SHORTEST));
            continue;
        }
        strong.set_watchdog_asleep(true);
        // A poll that has begun before the flag was set has not seen it.
        let is_still_quiet = strong.look().begun == seen;
        if !is_still_quiet {
            strong.set_watchdog_asleep(false);
        }
        drop(strong);
        if is_still_quiet {
            thread::park();
        }
    }
}
