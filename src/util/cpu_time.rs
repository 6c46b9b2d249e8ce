//! The processor time of a thread.

use std::time::Duration;

/// Whether the platform tells the processor time of a thread.
pub(crate) const IS_KNOWN: bool =
    cfg!(any(target_os = "linux", target_os = "android", target_os = "freebsd", target_os = "macos"));

/// The processor time that the calling thread has used; zero if the platform does not tell it.
#[cfg(any(target_os = "linux", target_os = "android", target_os = "freebsd", target_os = "macos"))]
pub(crate) fn of_thread() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// The same where the platform does not tell it.
#[cfg(not(any(target_os = "linux", target_os = "android", target_os = "freebsd", target_os = "macos")))]
pub(crate) const fn of_thread() -> Duration {
    Duration::ZERO
}
