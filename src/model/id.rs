//! The ids of tasks and sets: their numbers, and how they are written.

use std::{
    fmt,
    hash::{BuildHasher, RandomState},
    panic::Location,
    str::FromStr,
    sync::OnceLock,
};

use super::name::TaskName;
use crate::util::{
    clock::Timestamp,
    loom::{StaticU64, StaticUsize, atomic::Ordering},
};

/// The id of a task: its number, which no other task of the process has, in whichever registry.
///
/// An id has two texts. `Display` writes the short one, which logs and reports have: `1088` for a spawned task, and
/// `1088.2` for the second task of set 1088. [`FromStr`] reads it back. It means something only in its process: after a
/// restart, another task has that number.
///
/// [`to_external`](Self::to_external) writes the text for everybody else: the same with the instance of the process,
/// 128 random bits, as in `1088.2-0f3k9v5zq8m2n7x4c6b1t0ydwp`. [`from_external`](Self::from_external) reads it, and
/// recognises an id of another process or of an earlier run. The feature `serde` writes and reads this text.
///
/// ```
/// use postlude::{ParseIdError, TaskId, TaskRegistry};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let registry = TaskRegistry::new();
/// let id = registry.spawn(async {}).id();
/// assert_eq!(id.to_string().parse(), Ok(id));
/// assert_eq!(TaskId::from_external(&id.to_external()), Ok(id));
///
/// let of_an_earlier_run = "1088.2-0f3k9v5zq8m2n7x4c6b1t0ydwp";
/// assert_eq!(TaskId::from_external(of_an_earlier_run), Err(ParseIdError::OtherProcess));
/// # }
/// ```
///
/// A smaller number need not be an older task.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TaskId {
    /// The number of the set, or of the spawned task: both are drawn by [`next_number`].
    pub(crate) number: u64,
    /// The index in the set, from 1; 0 for a spawned task.
    pub(crate) index: u64,
}

impl TaskId {
    pub(crate) const UNASSIGNED: Self = Self { number: 0, index: 0 };

    /// The set that the task was added to; `None` if it was spawned.
    #[must_use]
    pub const fn set(self) -> Option<SetId> {
        match self.index {
            0 => None,
            _ => Some(SetId(self.number)),
        }
    }

    /// The id as text for outside the process: for a client that polls the task, or a file.
    ///
    /// The ids of one process have the same instance, so a client that has seen one id can write others. Decide by your
    /// own authentication who may see a task.
    #[must_use]
    pub fn to_external(self) -> String {
        External(self).to_string()
    }

    /// Reads an id that [`to_external`](Self::to_external) wrote.
    ///
    /// In an axum handler, take a `Path<String>` and answer 404 to [`ParseIdError::OtherProcess`], as to a task that
    /// the registry no longer remembers.
    ///
    /// # Errors
    /// If the text is none that `to_external` writes, also if it is a short id without an instance; and if it is an id
    /// of another process, or of an earlier run of this program.
    pub fn from_external(text: &str) -> Result<Self, ParseIdError> {
        let (short, of) = text.split_once('-').ok_or(ParseIdError::Malformed)?;
        let id = short.parse()?;
        if of == Self::instance() {
            return Ok(id);
        }
        let is_instance = of.len() == INSTANCE_LEN && of.bytes().all(|byte| BASE32.contains(&byte));
        Err(if is_instance { ParseIdError::OtherProcess } else { ParseIdError::Malformed })
    }

    /// The instance of this process, with which its ids are written outside: 26 lower-case letters and digits.
    ///
    /// It is drawn once, when it is first needed.
    #[must_use]
    pub fn instance() -> &'static str {
        static INSTANCE: OnceLock<String> = OnceLock::new();
        INSTANCE.get_or_init(draw_instance)
    }
}

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.index {
            0 => write!(f, "{}", self.number),
            index => write!(f, "{}.{index}", self.number),
        }
    }
}

impl fmt::Debug for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TaskId({self})")
    }
}

impl FromStr for TaskId {
    type Err = ParseIdError;

    /// Reads the short text of an id of this process, as its log has it. For a text from outside the process there is
    /// [`from_external`](Self::from_external).
    ///
    /// # Errors
    /// If the text is not exactly as `Display` writes it: a number, or two with a point between them, without signs,
    /// spaces or leading zeros.
    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        let (number, index) = match text.split_once('.') {
            Some((number, index)) => (number, parse_number(index)?),
            None => (text, 0),
        };
        Ok(Self { number: parse_number(number)?, index })
    }
}

/// A number from 1 on, in the one way in which it is displayed.
fn parse_number(text: &str) -> Result<u64, ParseIdError> {
    // `u64` alone would accept a plus sign and leading zeros.
    if !text.starts_with(|first| matches!(first, '1'..='9')) {
        return Err(ParseIdError::Malformed);
    }
    text.parse().map_err(|_| ParseIdError::Malformed)
}

/// Why a text is not the id of a task of this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParseIdError {
    /// It is not the id of any task.
    #[error("not the id of a task")]
    Malformed,
    /// Another process has written it, or an earlier run of this program: no task here has that id.
    #[error("the id of a task of another process, or of an earlier run of this one")]
    OtherProcess,
}

/// The number of a set, from the same sequences as the numbers of spawned tasks.
///
/// [`TaskRegistry::abort_set`](crate::TaskRegistry::abort_set) takes it. It is displayed and serialised like a
/// [`TaskId`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SetId(pub(crate) u64);

impl fmt::Display for SetId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for SetId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SetId({self})")
    }
}

/// An id, displayed with the instance of the process.
struct External<T>(T);

impl<T: fmt::Display> fmt::Display for External<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.0, TaskId::instance())
    }
}

/// Crockford's digits: none looks like another.
const BASE32: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

/// As many digits as 128 bits need.
const INSTANCE_LEN: usize = 26;

/// 128 random bits, in base 32.
///
/// A `RandomState` has a key of 128 bits that std takes from the operating system, so that nobody can guess where a
/// `HashMap` puts a key. `SipHash` keeps that key secret, and of two hashes with it neither tells the other.
#[expect(clippy::indexing_slicing, reason = "five bits index 32 digits")]
fn draw_instance() -> String {
    let state = RandomState::new();
    let bits = u128::from(state.hash_one(0_u8)) << 64 | u128::from(state.hash_one(1_u8));
    (0..INSTANCE_LEN).map(|digit| char::from(BASE32[(bits >> (5 * digit) & 31) as usize])).collect()
}

/// How many sequences the numbers of tasks and sets are drawn from: a power of two.
pub(crate) const SEATS: usize = 64;

thread_local! {
    /// Spreads the threads over the sequences, and so over the shards of a ledger, so that two of them rarely meet in
    /// one.
    static SEAT: usize = {
        static NEXT: StaticUsize = StaticUsize::new(0);
        NEXT.fetch_add(1, Ordering::Relaxed) % SEATS
    };
}

/// A number for a new set or spawned task, which nothing else in this process has. Its remainder by [`SEATS`] is the
/// seat of this thread.
#[inline]
pub(crate) fn next_number() -> u64 {
    /// Aligned so that two of them never share a cache line, nor the pair that the processor fetches together.
    #[repr(align(128))]
    struct Sequence(StaticU64);

    static SEQUENCES: [Sequence; SEATS] = [const { Sequence(StaticU64::new(1)) }; SEATS];

    let seat = SEAT.try_with(|seat| *seat).unwrap_or(0);
    SEQUENCES.get(seat).map_or(0, |sequence| {
        // Relaxed: the number only has to be unique.
        sequence.0.fetch_add(1, Ordering::Relaxed) * SEATS as u64 + seat as u64
    })
}

/// What tells one task from another, in lists, logs and reports.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Identity {
    pub(crate) id: TaskId,
    pub(crate) name: TaskName,
    pub(crate) location: &'static Location<'static>,
    pub(crate) added: Timestamp,
}

/// Ids are serialised as text, with the instance of the process.
#[cfg(feature = "serde")]
mod as_text {
    use std::fmt;

    use serde::{
        Deserialize, Deserializer, Serialize, Serializer,
        de::{Error, Unexpected, Visitor},
    };

    use super::{External, ParseIdError, SetId, TaskId};

    impl Serialize for TaskId {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            serializer.collect_str(&External(self))
        }
    }

    impl Serialize for SetId {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            serializer.collect_str(&External(self))
        }
    }

    impl<'de> Deserialize<'de> for TaskId {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            struct Text;

            impl Visitor<'_> for Text {
                type Value = TaskId;

                fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                    f.write_str("a task's id with its instance, as `to_external` writes it")
                }

                fn visit_str<E: Error>(self, text: &str) -> Result<TaskId, E> {
                    TaskId::from_external(text).map_err(|error| match error {
                        ParseIdError::Malformed => E::invalid_value(Unexpected::Str(text), &self),
                        ParseIdError::OtherProcess => E::custom(format_args!("`{text}` is {error}")),
                    })
                }
            }

            deserializer.deserialize_str(Text)
        }
    }
}
