//! `ByName`: a value for each name of tasks.

use rustc_hash::FxHashMap;

use super::name::TaskName;

/// A value for each name that was looked up.
#[derive(Default)]
pub(crate) struct ByName<T> {
    values: Vec<(TaskName, T)>,
    indexes: FxHashMap<TaskName, usize>,
    /// The index of the name that was looked up last.
    last: usize,
}

impl<T: Default> ByName<T> {
    /// The value of a name, which is made if there is none yet.
    #[expect(clippy::indexing_slicing, reason = "an index is made with its value, and these are never removed")]
    #[inline]
    pub(crate) fn of(&mut self, name: TaskName) -> &mut T {
        // Usually the name is that of the previous task, the same literal at the same address, and need not be hashed.
        if !self.values.get(self.last).is_some_and(|(last, _)| last.is_same(name)) {
            self.look_up(name);
        }
        &mut self.values[self.last].1
    }

    #[cold]
    fn look_up(&mut self, name: TaskName) {
        self.last = *self.indexes.entry(name).or_insert(self.values.len());
        if self.last == self.values.len() {
            self.values.push((name, T::default()));
        }
    }

    /// Some of the names, from the one that came as number `first` on.
    pub(crate) fn chunk(&self, first: usize, count: usize) -> &[(TaskName, T)] {
        let rest = self.values.get(first..).unwrap_or_default();
        rest.get(..count).unwrap_or(rest)
    }
}
