//! The floor: the least that keeps the promises of postlude, and does nothing else. The benchmarks measure postlude beside
//! it.
//!
//! [`Registry`] keeps a registry's promises to a task, [`Set`] those to the tasks of a request. The costs of postlude
//! above them are those of its spans, hooks, policies, limits, time limits and high-water marks, of its log, and of metrics
//! that are exact at any moment. The costs of the floor above a bare spawn are unavoidable,
//! because each part is there for a promise:
//!
//! | part | promise |
//! |---|---|
//! | a number, and a map from it to the task, until the end | live tasks can be listed, and none is forgotten |
//! | an index in its set | a task of a set is found and aborted in any state, and tasks run in order |
//! | the flag that the current task is polled | a set goes on without a task that is aborted inside its poll |
//! | a name, and the figures of each | what is counted and timed is known by name |
//! | a count of handles | a set drains with its last handle |
//! | the counts of a set, and a list of those who wait for it | who waits for a set learns how its tasks have ended |
//! | the flag of a shard | a registry that is closed accepts nothing |
//! | a location, and the ends that are remembered | the last ends can be listed, with where they were added |
//! | the set in a thread-local during a poll | a task finds its set, and adds to it |
//! | a map, which shrinks | memory comes back after a flood |
//! | the lock at the start, and the task's waker in the map | it can be aborted by its number, waiting or running |
//! | the catch of unwinds | a task that panics harms nothing but itself |
//! | the count at the end, also if the runtime drops the task | each task ends in exactly one counted outcome |
//! | three readings of the clock, two histograms and a sum | how long tasks wait and run, as quantiles and on average |
//! | tokio's clock | tests can pause it |
//! | shards | threads don't meet |
//! | the look at the map when a task ends | who waits until all is done is woken |
//!
//! [`floor`] is a layer that lets a handler add tasks to be run after the response, and keeps no other promise: no clock,
//! no list, no count, no guard. [`keeping_floor`] is one that keeps those of [`Set`], too. [`waiting_floor`] also waits
//! for the last write, and no longer for a client than a limit allows; and it knows which requests are being handled, what
//! they were and how they have ended, and code that runs in a handler or in a body finds its bag.

mod layer;
mod registry;
mod set;
mod spawned;
mod state;
mod waits;

pub use self::{
    layer::{Bag, Ending, Until, floor, keeping_floor, waiting_floor},
    registry::Registry,
    set::{Handle, Set},
    state::{Counts, End, Outcome},
};
