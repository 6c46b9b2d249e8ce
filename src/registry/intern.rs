//! Names of tasks that are known at run time only.

use std::{
    collections::HashSet,
    sync::{
        LazyLock,
        atomic::{AtomicU64, Ordering},
    },
};

use parking_lot::Mutex;

use crate::{
    model::TaskName,
    telemetry::log::emit,
    util::escape::{Escaped, is_special},
};

/// How many names are interned in a process.
const MAX_NAMES: usize = 4_096;

/// The longest name that is interned, in bytes.
const MAX_LEN: usize = 128;

static INTERNED: LazyLock<Mutex<HashSet<&'static str>>> = LazyLock::new(Mutex::default);

/// How many names were not interned.
static REFUSED: AtomicU64 = AtomicU64::new(0);

impl TaskName {
    /// A name that is known at run time only: from a configuration, a database, a plugin.
    ///
    /// Interned names are never freed, so there may be 4,096 of them in a process, of at most 128 bytes each. A name
    /// that is longer, has control characters, or comes when there are that many, becomes `other`. A warning is logged then, and at each doubling of
    /// the number of such calls. A limit or a policy for such a name is an error, and it can't be paused. What holds for
    /// a name `other` of your own holds for its tasks, too. Never intern
    /// what a client sends.
    ///
    /// ```
    /// use postlude::TaskName;
    ///
    /// let plugin = String::from("sync_calendar");
    /// let name = TaskName::intern(&plugin);
    /// assert_eq!(name, "sync_calendar");
    /// assert_eq!(TaskName::intern("x".repeat(129)), "other");
    /// ```
    pub fn intern(name: impl AsRef<str>) -> Self {
        let name = name.as_ref();
        intern(name).unwrap_or_else(|problem| {
            // Relaxed: nothing else depends on it.
            let refused = REFUSED.fetch_add(1, Ordering::Relaxed) + 1;
            if refused.is_power_of_two() {
                let _panicked = emit(|| {
                    let name: String = name.chars().take(MAX_LEN).collect();
                    tracing::warn!(
                        target: "postlude", name = %Escaped(name), refused,
                        "a name of tasks becomes `other`, because {problem}"
                    );
                });
            }
            Self::other()
        })
    }
}

/// Interns a name.
///
/// # Errors
/// Why there is no place for it.
pub(super) fn intern(name: &str) -> Result<TaskName, &'static str> {
    if name.is_empty() {
        return Ok(TaskName::UNNAMED);
    }
    if name.len() > MAX_LEN {
        return Err("it has more than 128 bytes");
    }
    if name.chars().any(is_special) {
        return Err("it has characters that control how text is shown");
    }
    let mut interned = INTERNED.lock();
    if let Some(&known) = interned.get(name) {
        return Ok(known.into());
    }
    if interned.len() >= MAX_NAMES {
        return Err("4,096 names are interned already: names must come from a closed set");
    }
    let name: &'static str = Box::leak(Box::from(name));
    interned.insert(name);
    Ok(name.into())
}
