//! `serve` while its feature is off: a call does not compile, and the message names the feature.

use std::{convert::Infallible, io};

use tokio_util::sync::CancellationToken;

use crate::{model::ShutdownReport, registry::TaskRegistry};

/// Implemented by nothing.
#[expect(unnameable_types, reason = "nobody has to name what nothing implements")]
#[diagnostic::on_unimplemented(
    message = "`TaskRegistry::serve` needs the feature `signal` of `postlude`, which is off",
    label = "the feature `signal` is off",
    note = "in `Cargo.toml`: postlude = {{ version = \"..\", features = [\"signal\"] }}"
)]
pub trait FeatureSignal {
    fn never(self) -> Infallible;
}

impl TaskRegistry {
    #[doc(hidden)]
    pub async fn serve<P, S>(
        &self,
        policy: P,
        _server: impl FnOnce(CancellationToken) -> S,
    ) -> Result<ShutdownReport, io::Error>
    where
        P: FeatureSignal,
    {
        match policy.never() {}
    }
}
