//! Utilities that do not depend on tasks.

pub(crate) mod clock;
pub(crate) mod cpu_time;
pub(crate) mod delay_queue;
#[cfg(feature = "serde")]
pub(crate) mod deserialize;
pub(crate) mod escape;
pub(crate) mod histogram;
pub(crate) mod keyed_semaphore;
pub(crate) mod loom;
pub(crate) mod panic;
pub(crate) mod parted_map;
pub(crate) mod rare;
pub(crate) mod semaphore;
#[cfg(feature = "serde")]
pub(crate) mod serialize;
