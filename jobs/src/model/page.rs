//! Which part of a list is asked for.

use super::id::JobId;

/// Which dead jobs are listed: see [`Jobs::dead`](crate::Jobs::dead).
///
/// ```
/// use postlude_jobs::{JobId, Page};
///
/// # let last_of_the_page_before = JobId::generate();
/// let first = Page::first(50);
/// let next = Page::first(50).after(last_of_the_page_before);
/// # drop((first, next));
/// ```
///
/// # Default
/// The latest 100, of every name.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "a page does nothing until it is given to `Jobs::dead`"]
pub struct Page {
    pub(crate) limit: u32,
    pub(crate) after: Option<JobId>,
    pub(crate) name: Option<String>,
}

/// The most jobs of one page.
const MAX_LIMIT: u32 = 1_000;

impl Page {
    /// The latest `limit` jobs, at least 1 and at most 1,000.
    pub fn first(limit: u32) -> Self {
        Self { limit: limit.clamp(1, MAX_LIMIT), after: None, name: None }
    }

    /// The jobs that follow this one in the list. A job that is no longer dead counts as the end of the list.
    pub fn after(mut self, id: JobId) -> Self {
        self.after = Some(id);
        self
    }

    /// Only jobs of this name.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }
}

impl Default for Page {
    fn default() -> Self {
        Self::first(100)
    }
}
