//! The tasks of a line that wait for their turn.

use std::{collections::VecDeque, iter};

use crate::task::Task;

/// First in, first out. The first task takes no room but its own: most sets have one.
#[derive(Default)]
pub(crate) struct Queue {
    /// Empty only if the others are, or until they are asked for the next.
    first: Option<Task>,
    others: VecDeque<Task>,
}

impl Queue {
    #[inline]
    pub(crate) fn push(&mut self, task: Task) {
        if self.is_empty() {
            self.first = Some(task);
        } else {
            self.others.push_back(task);
        }
    }

    #[inline]
    pub(crate) fn pop(&mut self) -> Option<Task> {
        self.first.take().or_else(|| self.others.pop_front())
    }

    /// Takes the first task of which this holds.
    pub(crate) fn remove(&mut self, wanted: impl Fn(&Task) -> bool) -> Option<Task> {
        self.first.take_if(|task| wanted(task)).or_else(|| {
            let place = self.others.iter().position(wanted)?;
            self.others.remove(place)
        })
    }

    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.first.is_none() && self.others.is_empty()
    }

    #[inline]
    pub(crate) fn len(&self) -> usize {
        usize::from(self.first.is_some()) + self.others.len()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Task> {
        self.first.iter().chain(&self.others)
    }
}

impl IntoIterator for Queue {
    type Item = Task;
    type IntoIter = iter::Chain<std::option::IntoIter<Task>, std::collections::vec_deque::IntoIter<Task>>;

    fn into_iter(self) -> Self::IntoIter {
        self.first.into_iter().chain(self.others)
    }
}

#[cfg(test)]
mod tests {
    use super::Queue;
    use crate::Task;

    fn names(queue: &Queue) -> Vec<&'static str> {
        queue.iter().map(Task::name).collect()
    }

    #[test]
    fn tasks_leave_in_the_order_in_which_they_came_whoever_left_between() {
        let mut queue = Queue::default();
        for name in ["a", "b", "c", "d"] {
            queue.push(Task::new(async {}).named(name));
        }
        assert_eq!(queue.pop().unwrap().name(), "a");
        queue.push(Task::new(async {}).named("e"));
        assert_eq!(names(&queue), ["b", "c", "d", "e"]);
        assert_eq!(queue.remove(|task| task.name() == "c").unwrap().name(), "c");
        assert!(queue.remove(|task| task.name() == "c").is_none());
        assert_eq!((queue.pop().unwrap().name(), queue.len()), ("b", 2));
        let rest: Vec<_> = queue.into_iter().map(|task| task.name()).collect();
        assert_eq!(rest, ["d", "e"]);
    }

    #[test]
    fn a_queue_that_was_emptied_begins_anew() {
        let mut queue = Queue::default();
        queue.push(Task::new(async {}).named("a"));
        assert_eq!(queue.remove(|_| true).unwrap().name(), "a");
        assert!(queue.is_empty() && queue.pop().is_none());
        queue.push(Task::new(async {}).named("b"));
        queue.push(Task::new(async {}).named("c"));
        assert_eq!((names(&queue), queue.len()), (vec!["b", "c"], 2));
    }
}
