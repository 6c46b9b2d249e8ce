//! The guide: which tool when, coming from other tools, when tasks run, layers, retries, limits, kinds of work, shutdown,
//! tests, and measurements on the wire. Observing tasks, and a runbook, are chapters of `postlude-console`.

#![cfg_attr(
    not(all(feature = "cron", feature = "rate-limit", feature = "signal", feature = "testing")),
    allow(rustdoc::broken_intra_doc_links, reason = "the chapters link to items of all features")
)]

#[doc = include_str!("../docs/choosing.md")]
pub mod choosing {}

#[doc = include_str!("../docs/coming-from.md")]
pub mod coming_from {}

#[doc = include_str!("../docs/lifecycle.md")]
pub mod lifecycle {}

#[doc = include_str!("../docs/layers.md")]
pub mod layers {}

#[doc = include_str!("../docs/retries.md")]
pub mod retries {}

#[doc = include_str!("../docs/limits.md")]
pub mod limits {}

#[doc = include_str!("../docs/shutdown.md")]
pub mod shutdown {}

#[doc = include_str!("../docs/testing.md")]
pub mod testing {}

#[doc = include_str!("../docs/versions.md")]
pub mod versions {}

#[doc = include_str!("../docs/work.md")]
pub mod work {}

#[doc = include_str!("../docs/wire.md")]
pub mod wire {}
