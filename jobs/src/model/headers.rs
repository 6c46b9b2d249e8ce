//! The headers of jobs.

use std::collections::BTreeMap;

/// The version of the format in which jobs are stored: in the header [`FORMAT`].
pub(crate) const FORMAT_VERSION: &str = "1";

/// The header with the version of the format.
pub(crate) const FORMAT: &str = "postlude-format";

/// Names and values that are stored with a job, such as a `traceparent`. A codec does not touch them.
pub(crate) type Headers = BTreeMap<String, String>;

/// Reads stored headers. Text that another client has written and that is none counts as none.
pub(crate) fn parse(stored: &str) -> Headers {
    serde_json::from_str(stored).unwrap_or_default()
}

pub(crate) fn write(headers: &Headers) -> String {
    serde_json::to_string(headers).unwrap_or_else(|_| String::from("{}"))
}
