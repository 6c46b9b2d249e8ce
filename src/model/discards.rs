//! `DiscardCounts`: how many tasks were discarded for each reason.

use super::outcome::{DiscardReason, Outcome};

/// The only list of the reasons in the counts. Each row gives the variant and the field, which is also the label.
macro_rules! discard_reasons {
    ($($reason:ident, $field:ident;)+) => {
        /// The number of discarded tasks for each [reason](DiscardReason).
        ///
        /// ```
        /// use postlude::{Task, TaskRegistry};
        ///
        /// # #[tokio::main(flavor = "current_thread")]
        /// # async fn main() {
        /// let registry = TaskRegistry::builder().capacity(1).build().unwrap();
        /// registry.spawn(std::future::pending::<()>());
        /// registry.spawn(Task::new(async {}).named("mail")); // there is no room for it
        ///
        /// let metrics = registry.metrics();
        /// let mail = &metrics.by_name()["mail"];
        /// assert_eq!((mail.discarded_by.capacity, mail.discarded_by.losses(), mail.lost), (1, 1, 1));
        /// # }
        /// ```
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        #[cfg_attr(feature = "serde", derive(serde::Serialize))]
        #[non_exhaustive]
        pub struct DiscardCounts {
            $(#[doc = concat!("Tasks that were discarded as [`", stringify!($reason), "`](DiscardReason::", stringify!($reason), ").")]
            pub $field: u64,)+
        }

        impl DiscardCounts {
            /// The number of tasks that were discarded for this reason.
            #[must_use]
            pub const fn get(&self, reason: DiscardReason) -> u64 {
                match reason {
                    $(DiscardReason::$reason => self.$field,)+
                }
            }

            /// The count for each reason.
            pub fn iter(&self) -> impl Iterator<Item = (DiscardReason, u64)> + use<> {
                let counts = *self;
                const ALL: &[DiscardReason] = &[$(DiscardReason::$reason),+];
                ALL.iter().map(move |reason| (*reason, counts.get(*reason)))
            }

            const fn slot(&mut self, reason: DiscardReason) -> &mut u64 {
                match reason {
                    $(DiscardReason::$reason => &mut self.$field,)+
                }
            }
        }
    };
}

discard_reasons! {
    Ending, ending;
    Cleared, cleared;
    Capacity, capacity;
    Closed, closed;
    RuntimeEnded, runtime_ended;
    PreviousFailed, previous_failed;
    Refused, refused;
    Expired, expired;
    Duplicate, duplicate;
}

impl DiscardCounts {
    /// The sum of the counts that are [losses](Outcome::is_loss): nobody asked to discard these tasks.
    #[must_use]
    pub fn losses(&self) -> u64 {
        let lost = self.iter().filter(|(reason, _)| Outcome::Discarded(*reason).is_loss());
        lost.map(|(_, count)| count).sum()
    }

    pub(crate) const fn count(&mut self, reason: DiscardReason) {
        *self.slot(reason) += 1;
    }

    pub(crate) fn absorb(&mut self, other: &Self) {
        for (reason, count) in other.iter() {
            *self.slot(reason) += count;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_its_own_count_under_its_label() {
        let mut counts = DiscardCounts::default();
        for (index, (reason, _)) in counts.iter().enumerate() {
            (0..=index).for_each(|_| counts.count(reason));
        }
        assert_eq!(counts.iter().map(|(_, count)| count).collect::<Vec<_>>(), (1..=9).collect::<Vec<_>>());
        assert_eq!(counts.losses(), (3..=8).sum::<u64>(), "all but `Ending`, `Cleared` and `Duplicate`");
        let text = format!("{counts:?}");
        for (reason, count) in counts.iter() {
            assert!(text.contains(&format!("{}: {count}", reason.label())), "{text}");
        }
        let mut twice = counts;
        twice.absorb(&counts);
        assert!(twice.iter().all(|(reason, count)| count == 2 * counts.get(reason)));
    }
}
