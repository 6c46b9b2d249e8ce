//! Adapters are handles of their shared part, which does the work.

/// Implements `Queue` for a handle by the methods of its field `shared`.
macro_rules! to_shared {
    ($queue:ty) => {
        crate::queue::forward::to_shared!($queue, crate::queue::Capabilities::ALL);
    };
    ($queue:ty, $capabilities:expr) => {
        crate::queue::forward::to_shared!($queue, $capabilities, {});
    };
    ($queue:ty, $capabilities:expr, {$($further:item)*}) => {
        impl crate::queue::Queue for $queue {
            fn engine(&self) -> &'static str {
                ENGINE
            }

            fn capabilities(&self) -> crate::queue::Capabilities {
                $capabilities
            }
        }

        impl crate::queue::Adapter for $queue {
            fn open(&self, lease: Option<std::time::Duration>) -> crate::queue::Answer<'_, ()> {
                Box::pin(self.shared.prepare(lease))
            }

            fn push(&self, jobs: Vec<NewJob>) -> crate::queue::Answer<'_, Vec<JobId>> {
                Box::pin(std::sync::Arc::clone(&self.shared).push(jobs))
            }

            fn changes(&self) -> tokio::sync::watch::Receiver<u64> {
                self.shared.changes.subscribe()
            }

            fn wake(&self) {
                self.shared.announce();
            }

            fn watch(&self) -> std::pin::Pin<Box<dyn Future<Output = ()> + Send + '_>> {
                Box::pin(self.shared.watch())
            }

            $($further)*

            crate::queue::forward::methods! {
                reserve(wanted: crate::queue::Reservation) -> Vec<crate::queue::Reserved>;
                renew(owner: JobId, runs: Vec<(JobId, i64)>) -> crate::queue::Renewed;
                note(owner: JobId, notes: Vec<((JobId, i64), crate::model::notes::Notes)>) -> Vec<JobId>;
                settle(owner: JobId, settlements: Vec<crate::queue::Settlement>) -> Vec<JobId>;
                release_others(owner: JobId, held: Vec<(JobId, i64)>) -> ();
                look(names: Vec<&'static str>) -> crate::queue::Look;
                make_waiting() -> ();
                take_back() -> Vec<crate::queue::LostLease>;
                shorten_leases() -> ();
                prune(retention: std::time::Duration) -> u64;
                tick(tick: crate::queue::Tick) -> bool;
                last_tick(key: String) -> std::time::SystemTime;
                now() -> std::time::SystemTime;
                find(id: JobId) -> Option<crate::model::info::JobInfo>;
                stats() -> crate::model::stats::JobStats;
                cancel(id: JobId) -> bool;
                dead(page: crate::model::page::Page) -> Vec<crate::model::dead::DeadJob>;
                replay(id: JobId) -> bool;
                discard(id: JobId) -> bool;
                set_paused(name: String, paused: bool) -> bool;
            }
        }
    };
}

macro_rules! methods {
    ($($method:ident($($name:ident: $type:ty),*) -> $output:ty;)+) => {$(
        fn $method(&self, $($name: $type),*) -> crate::queue::Answer<'_, $output> {
            Box::pin(self.shared.$method($($name),*))
        }
    )+};
}

pub(super) use {methods, to_shared};
