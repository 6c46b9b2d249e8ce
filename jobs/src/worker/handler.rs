//! The handlers of a worker.

use std::{collections::BTreeMap, panic::Location, pin::Pin, sync::Arc, time::Duration};

use postlude::BoxError;

use crate::model::{
    error::StartError,
    job::Job,
    output::{IntoVerdict, JobOutput, JobVerdict},
    policy::JobPolicy,
};

/// The work of one attempt.
pub(crate) type Work = Pin<Box<dyn Future<Output = Result<JobVerdict, BoxError>> + Send>>;

/// Makes the work of an attempt from JSON.
type Call = dyn Fn(&[u8]) -> Result<Work, BoxError> + Send + Sync;

/// The handler of one kind of job.
pub(crate) struct Handler {
    pub(crate) name: &'static str,
    pub(crate) policy: JobPolicy,
    /// Where the handler was given to the builder.
    pub(crate) location: &'static Location<'static>,
    /// Decodes JSON and makes the work: within the attempt, so that what goes wrong is a failure of it.
    pub(crate) call: Arc<Call>,
}

impl Handler {
    #[track_caller]
    pub(crate) fn new<J, F, Fut>(handler: F) -> Self
    where
        J: Job,
        F: Fn(J) -> Fut + Send + Sync + 'static,
        Fut: Future + Send + 'static,
        Fut::Output: JobOutput,
    {
        let call = move |json: &[u8]| -> Result<Work, BoxError> {
            let job: J = serde_json::from_slice(json).map_err(|error| DecodeError::new(&error))?;
            let work = handler(job);
            Ok(Box::pin(async move { work.await.into_verdict() }))
        };
        Self { name: J::NAME, policy: J::policy(), location: Location::caller(), call: Arc::new(call) }
    }
}

/// A payload is not what the handler takes. It tells where, and not what: the payload must not show in a log.
#[derive(Debug, thiserror::Error)]
#[error("its payload can't be decoded ({kind} at column {column}): another version of the program may have pushed it")]
struct DecodeError {
    kind: &'static str,
    column: usize,
}

impl DecodeError {
    fn new(error: &serde_json::Error) -> Self {
        let kind = match error.classify() {
            serde_json::error::Category::Data => "a value or a field is not the expected one",
            serde_json::error::Category::Eof => "the JSON ends early",
            serde_json::error::Category::Io | serde_json::error::Category::Syntax => "it is not JSON",
        };
        Self { kind, column: error.column() }
    }
}

/// The handlers of a worker, by name.
#[derive(Default)]
pub(crate) struct Handlers {
    by_name: BTreeMap<&'static str, Arc<Handler>>,
    twice: Option<&'static str>,
}

impl Handlers {
    pub(crate) fn add(&mut self, handler: Handler) {
        let name = handler.name;
        if self.by_name.insert(name, Arc::new(handler)).is_some() {
            self.twice = Some(name);
        }
    }

    /// Checks that no job has a time limit beyond what the engine allows.
    pub(crate) fn check_time_limits(&self, engine: &'static str, longest: Duration) -> Result<(), StartError> {
        for handler in self.by_name.values() {
            if let Some(limit) = handler.policy.timeout.filter(|limit| *limit >= longest) {
                return Err(StartError::LongTimeLimit { name: handler.name, limit, engine, longest });
            }
        }
        Ok(())
    }

    pub(crate) fn check(&self) -> Result<(), StartError> {
        if let Some(name) = self.twice {
            return Err(StartError::TwoHandlers { name });
        }
        if self.by_name.contains_key("") {
            return Err(StartError::NoName);
        }
        if self.by_name.is_empty() { Err(StartError::NoHandlers) } else { Ok(()) }
    }

    pub(crate) fn get(&self, name: &str) -> Option<&Arc<Handler>> {
        self.by_name.get(name)
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &'static str> {
        self.by_name.keys().copied()
    }
}
