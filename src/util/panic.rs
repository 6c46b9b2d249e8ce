//! Catches panics of foreign code, and keeps their messages.

use std::{any::Any, fmt, sync::Arc};

/// The message of a caught panic.
#[derive(Clone, Debug)]
pub struct Panic(Arc<Box<str>>);

impl Panic {
    /// The panic's message, or a fixed text if its payload was not a string.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.0
    }

    /// Keeps the message and drops the payload, whose `Drop` may panic, too.
    pub(crate) fn from_payload(payload: Box<dyn Any + Send>) -> Self {
        let message = if let Some(text) = payload.downcast_ref::<&str>() {
            Box::from(*text)
        } else if let Some(text) = payload.downcast_ref::<String>() {
            Box::from(text.as_str())
        } else {
            Box::from("(the panic's payload is not a string)")
        };
        drop_catching(payload);
        Self(Arc::new(message))
    }
}

impl fmt::Display for Panic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.message())
    }
}

/// Runs foreign code and catches its panic.
#[inline]
pub(crate) fn catch_panic<R>(foreign: impl FnOnce() -> R) -> Result<R, Panic> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(foreign)).map_err(Panic::from_payload)
}

/// Drops a foreign value and ignores a panic of its `Drop`.
#[inline]
pub(crate) fn drop_catching<T>(value: T) {
    if let Err(payload) = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| drop(value))) {
        #[expect(clippy::mem_forget, reason = "dropping the payload of a panic in a drop may panic again")]
        std::mem::forget(payload);
    }
}
