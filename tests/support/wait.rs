use std::{
    panic::Location,
    time::{Duration, Instant},
};

/// Waits for a state that nobody announces, so that a failure is an error and not a hang. The deadline is real time: if
/// tokio's clock is paused, polling does not advance it.
#[track_caller]
pub(crate) fn until(is_reached: impl Fn() -> bool) -> impl Future<Output = ()> {
    let caller = Location::caller();
    async move {
        let begun = Instant::now();
        while !is_reached() {
            assert!(begun.elapsed() < Duration::from_secs(30), "{caller}: it did not come to that in time");
            tokio::task::yield_now().await;
        }
    }
}
