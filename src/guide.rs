//! The guide: when tasks run, what is tried again, what happens at limits, which work runs where, how to watch tasks, how
//! a service ends, how to test handlers that leave tasks, what was measured.

#[doc = include_str!("../docs/lifecycle.md")]
pub mod lifecycle {}

#[doc = include_str!("../docs/retries.md")]
pub mod retries {}

#[doc = include_str!("../docs/limits.md")]
pub mod limits {}

#[doc = include_str!("../docs/shutdown.md")]
pub mod shutdown {}

#[cfg_attr(feature = "status", doc = include_str!("../docs/observing.md"))]
#[cfg_attr(not(feature = "status"), doc = "Watching tasks: this chapter is there with the feature `status`.")]
pub mod observing {}

#[doc = include_str!("../docs/testing.md")]
pub mod testing {}

#[doc = include_str!("../docs/work.md")]
pub mod work {}

#[doc = include_str!("../docs/wire.md")]
pub mod wire {}
