//! The guide: when tasks run, what is tried again, what happens at limits, which work runs where, how a service ends, how
//! to test handlers that leave tasks, what was measured. How to watch tasks is a chapter of `postlude-console`.

#[doc = include_str!("../docs/lifecycle.md")]
pub mod lifecycle {}

#[doc = include_str!("../docs/retries.md")]
pub mod retries {}

#[doc = include_str!("../docs/limits.md")]
pub mod limits {}

#[doc = include_str!("../docs/shutdown.md")]
pub mod shutdown {}

#[doc = include_str!("../docs/testing.md")]
pub mod testing {}

#[doc = include_str!("../docs/work.md")]
pub mod work {}

#[doc = include_str!("../docs/wire.md")]
pub mod wire {}
