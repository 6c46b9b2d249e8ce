//! Keeping the thread of the driver out of the log.

use std::cell::RefCell;

use tracing::dispatcher::{DefaultGuard, Dispatch, set_default};

thread_local! {
    static SILENCE: RefCell<Option<DefaultGuard>> = const { RefCell::new(None) };
}

/// Keeps all that this thread emits out of the log until it ends. It is for the thread that the driver starts for each
/// connection: it logs a message that was returned with all its content, and payloads must not be logged. Its errors
/// are returned besides.
pub(super) fn silence_this_thread() {
    let _ending = SILENCE.try_with(|silence| {
        silence.borrow_mut().get_or_insert_with(|| set_default(&Dispatch::none()));
    });
}
