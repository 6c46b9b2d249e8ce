//! Pages of lists.

use super::id::TaskId;

/// A page of a list: see [`TaskRegistry::live_page`](crate::TaskRegistry::live_page),
/// [`TaskRegistry::history_page`](crate::TaskRegistry::history_page) and
/// [`DeadLetters::page`](crate::DeadLetters::page).
///
/// ```
/// use postlude::{TaskId, TaskInfo, TaskRegistry};
///
/// /// The ids of all live tasks, read in pages of 100.
/// fn live_ids(registry: &TaskRegistry) -> Vec<TaskId> {
///     let (mut ids, mut cursor) = (Vec::new(), None);
///     loop {
///         let page = registry.live_page(cursor, 100, |_| true);
///         ids.extend(page.items.iter().map(|task: &TaskInfo| task.id));
///         cursor = page.next;
///         if cursor.is_none() {
///             return ids;
///         }
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let registry = TaskRegistry::new();
/// let tasks = registry.set();
/// for _ in 0..250 {
///     tasks.add(async {});
/// }
/// assert_eq!(live_ids(&registry).len(), 250);
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Page<T, C = TaskId> {
    /// The items. A page may have fewer items than the limit, or none, although there is a next page.
    pub items: Vec<T>,
    /// The cursor of the next page; `None` if this page is the last one.
    pub next: Option<C>,
}

impl<T, C> Page<T, C> {
    pub(crate) const fn new() -> Self {
        Self { items: Vec::new(), next: None }
    }

    /// Adds an item. If the page already has `limit` items, sets `next` to the cursor of the last one, and returns
    /// `false`. A limit of 0 counts as 1, because a page without an item has no cursor.
    pub(crate) fn push(&mut self, item: T, limit: usize, cursor: impl FnOnce(&T) -> C) -> bool {
        if self.items.len() >= limit.max(1) {
            self.next = self.items.last().map(cursor);
            return false;
        }
        self.items.push(item);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn push_sets_next_only_if_an_item_is_left_over() {
        for (limit, full) in [(0, 1), (1, 1), (3, 3)] {
            let mut page = Page::new();
            for item in 0..full {
                assert!(page.push(item, limit, |last| *last), "limit {limit}: item {item} fits");
            }
            assert_eq!(page.next, None, "limit {limit}: no item is left over");
            assert!(!page.push(full, limit, |last| *last));
            assert_eq!((page.items.len(), page.next), (full, Some(full - 1)), "limit {limit}");
        }
    }
}
