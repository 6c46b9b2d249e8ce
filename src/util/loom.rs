//! Locks and atomics of shared state: the real ones, or those of the model checker loom, which tests all interleavings
//! of threads.

#[cfg(not(all(test, postlude_loom)))]
pub(crate) use parking_lot::{Mutex, MutexGuard};
#[cfg(not(all(test, postlude_loom)))]
pub(crate) use std::sync::atomic;

#[cfg(all(test, postlude_loom))]
pub(crate) use self::model::{Mutex, MutexGuard, atomic};

/// For statics, because loom's atomics can't be statics.
pub(crate) use std::sync::atomic::{AtomicU64 as StaticU64, AtomicUsize as StaticUsize};

#[cfg(all(test, postlude_loom))]
mod model {
    pub(crate) use loom::sync::{MutexGuard, atomic};

    /// Loom's mutex with parking_lot's methods.
    #[derive(Debug, Default)]
    pub(crate) struct Mutex<T>(loom::sync::Mutex<T>);

    impl<T> Mutex<T> {
        pub(crate) fn new(value: T) -> Self {
            Self(loom::sync::Mutex::new(value))
        }

        pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
            self.0.lock().unwrap()
        }

        pub(crate) fn get_mut(&mut self) -> &mut T {
            self.0.get_mut().unwrap()
        }
    }
}
