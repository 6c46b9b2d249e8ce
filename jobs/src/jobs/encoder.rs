//! From a value to a job that can be stored.

use std::sync::Arc;

use postlude::Priority;

use crate::{
    model::{
        codec::Codec,
        error::{PushError, PushErrorKind, QueueError},
        headers::{FORMAT, FORMAT_VERSION},
        id::JobId,
        job::Job,
        new_job::NewJob,
        options::{Due, PushOptions},
    },
    queue::{Queue, capabilities::Capabilities},
};

/// Applies the policy, the codec, the size limit and the headers.
#[derive(Clone)]
pub(crate) struct Encoder {
    pub(crate) codec: Option<Arc<dyn Codec>>,
    pub(crate) max_payload_bytes: usize,
}

impl Encoder {
    pub(crate) fn encode<J: Job>(&self, queue: &dyn Queue, job: &J, options: PushOptions) -> Result<NewJob, PushError> {
        let id = options.id.unwrap_or_else(JobId::generate);
        let wrong = |kind| PushError::new(id, J::NAME, kind);
        if J::NAME.is_empty() {
            return Err(wrong(PushErrorKind::NoName));
        }
        let policy = J::policy();
        if let Some(what) = unsupported(queue.capabilities(), &options, policy.priority) {
            return Err(wrong(PushErrorKind::Queue(QueueError::Unsupported { engine: queue.engine(), what })));
        }
        let json = serde_json::to_vec(job).map_err(|error| wrong(PushErrorKind::Serialize(Box::new(error))))?;
        let payload = match &self.codec {
            Some(codec) => codec.encode(J::NAME, json).map_err(|error| wrong(PushErrorKind::Codec(error)))?,
            None => json,
        };
        let (bytes, limit) = (payload.len(), self.max_payload_bytes);
        if bytes > limit {
            return Err(wrong(PushErrorKind::TooLarge { bytes, limit }));
        }
        let mut headers = options.headers;
        headers.insert(FORMAT.to_owned(), FORMAT_VERSION.to_owned());
        Ok(NewJob {
            id,
            name: J::NAME,
            payload,
            headers,
            priority: options.priority.unwrap_or(policy.priority),
            due: options.due,
            unique: options.unique.filter(|unique| !unique.key.is_empty()),
            max_attempts: options.max_attempts.unwrap_or(policy.max_attempts),
            max_crashes: policy.max_crashes,
        })
    }
}

/// The first option that the engine can't do: it is an error, and not ignored.
fn unsupported(can: Capabilities, options: &PushOptions, priority: Priority) -> Option<&'static str> {
    let wanted = [
        (matches!(options.due, Due::After(_)), can.delay, "delay a job"),
        (matches!(options.due, Due::At(_)), can.arbitrary_time, "push a job for a certain time"),
        (options.unique.is_some(), can.unique, "push a job with a unique key"),
        (options.priority.is_some() || priority != Priority::Normal, can.priority, "push a job with a priority"),
    ];
    wanted.into_iter().find(|(is_wanted, is_able, _)| *is_wanted && !is_able).map(|(_, _, what)| what)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;

    #[test]
    fn unsupported_names_what_an_engine_that_can_nothing_can_not() {
        let options = PushOptions::default;
        for (options, what) in [
            (options(), None),
            (options().delay(Duration::from_secs(1)), Some("delay a job")),
            (options().at(SystemTime::UNIX_EPOCH), Some("push a job for a certain time")),
            (options().unique("key"), Some("push a job with a unique key")),
            (options().priority(Priority::High), Some("push a job with a priority")),
        ] {
            assert_eq!(unsupported(Capabilities::default(), &options, Priority::Normal), what, "{options:?}");
        }
        let of_policy = unsupported(Capabilities::default(), &options(), Priority::High);
        assert_eq!(of_policy, Some("push a job with a priority"));
    }
}
