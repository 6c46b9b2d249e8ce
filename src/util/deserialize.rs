//! Reads settings from any self-describing format. Each error names the setting, with its path.

use std::{fmt, ops::RangeInclusive, str::FromStr, time::Duration};

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};

use crate::util::escape::Escaped;

/// The longest time of a setting: a longer one is taken for a mistake.
const LONGEST: Duration = Duration::from_secs(100 * 366 * 24 * 60 * 60);

/// How many characters of a text an error shows.
const LONGEST_SHOWN: usize = 60;

/// A value of any format, before it is known what it should be.
enum Node {
    Nothing,
    Flag(bool),
    Integer(i128),
    Number(f64),
    Text(String),
    List(Vec<Self>),
    Fields(Vec<(String, Self)>),
}

/// A value, and the path of the setting that has it.
pub(crate) struct Setting {
    path: String,
    node: Node,
}

/// The settings of one table that have not been read yet.
pub(crate) struct Fields {
    path: String,
    rest: Vec<(String, Node)>,
}

/// What is wrong with a setting.
#[derive(Debug)]
pub(crate) struct Problem(String);

impl Problem {
    /// A setting must not be there.
    pub(crate) fn refused(path: &str, problem: impl fmt::Display) -> Self {
        Self(format!("`{path}` is refused: {problem}"))
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Deserialises settings with `read`.
pub(crate) fn settings<'de, D, T>(deserializer: D, read: impl Fn(Setting) -> Result<T, Problem>) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
{
    let node = Node::deserialize(deserializer)?;
    read(Setting { path: String::new(), node }).map_err(D::Error::custom)
}

impl Setting {
    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    /// The error that this setting is not what it should be.
    pub(crate) fn problem(&self, problem: impl fmt::Display) -> Problem {
        let path = if self.path.is_empty() { "the configuration" } else { &self.path };
        Problem(format!("`{path}` is {}: {problem}", self.node))
    }

    pub(crate) fn fields(self) -> Result<Fields, Problem> {
        let Node::Fields(rest) = self.node else {
            return Err(self.problem("it must be a table of settings"));
        };
        let mut keys: Vec<&str> = rest.iter().map(|(key, _)| key.as_str()).collect();
        keys.sort_unstable();
        let twice =
            keys.windows(2).find_map(|pair| matches!(pair, [one, other] if one == other).then(|| pair.first())?);
        if let Some(twice) = twice {
            return Err(Problem(format!("`{}` is set twice", joined(&self.path, twice))));
        }
        Ok(Fields { path: self.path, rest })
    }

    /// The entries of a table whose keys are not settings.
    pub(crate) fn entries(self) -> Result<Vec<(String, Self)>, Problem> {
        let Fields { path, rest } = self.fields()?;
        let entries = rest.into_iter().map(|(key, node)| {
            let path = joined(&path, &key);
            (key, Self { path, node })
        });
        Ok(entries.collect())
    }

    pub(crate) fn list(self) -> Result<Vec<Self>, Problem> {
        let Self { path, node } = self;
        match node {
            Node::List(list) => {
                let numbered = list.into_iter().enumerate();
                Ok(numbered.map(|(index, node)| Self { path: format!("{path}[{index}]"), node }).collect())
            }
            node => Err(Self { path, node }.problem("it must be a list")),
        }
    }

    pub(crate) fn is_text(&self, text: &str) -> bool {
        matches!(&self.node, Node::Text(node) if node == text)
    }

    /// A whole number of this range. Text that is one is taken for it, because environment variables are text.
    pub(crate) fn whole<N>(self, range: RangeInclusive<N>) -> Result<N, Problem>
    where
        N: TryFrom<i128> + FromStr + PartialOrd + fmt::Display,
    {
        let number = match &self.node {
            Node::Integer(number) => N::try_from(*number).ok(),
            Node::Text(text) => text.trim().parse().ok(),
            _ => None,
        };
        number.filter(|number| range.contains(number)).ok_or_else(|| {
            self.problem(format_args!("it must be a whole number from {} to {}", range.start(), range.end()))
        })
    }

    /// A number that is at least `least`.
    pub(crate) fn number(self, least: f64) -> Result<f64, Problem> {
        let number = match &self.node {
            #[expect(clippy::cast_precision_loss, reason = "such a number is far above all that makes sense")]
            Node::Integer(number) => Some(*number as f64),
            Node::Number(number) => Some(*number),
            Node::Text(text) => text.trim().parse().ok(),
            _ => None,
        };
        let number = number.filter(|number| number.is_finite() && *number >= least);
        number.ok_or_else(|| self.problem(format_args!("it must be a number of at least {least}")))
    }

    pub(crate) fn flag(self) -> Result<bool, Problem> {
        let flag = match &self.node {
            Node::Flag(flag) => Some(*flag),
            Node::Text(text) => text.trim().parse().ok(),
            _ => None,
        };
        flag.ok_or_else(|| self.problem("it must be true or false"))
    }

    /// A duration with its unit, longer than zero.
    pub(crate) fn duration(self) -> Result<Duration, Problem> {
        match self.duration_from_text()? {
            Duration::ZERO => Err(self.problem("it must be longer than zero")),
            duration => Ok(duration),
        }
    }

    /// The same, not shorter than `least`, which is that of `what`.
    pub(crate) fn duration_from(self, least: Duration, what: &str) -> Result<Duration, Problem> {
        let duration = self.duration_from_text()?;
        if duration.is_zero() || duration < least {
            return Err(
                self.problem(format_args!("it must be longer than zero, and not shorter than {what}, {least:?}"))
            );
        }
        Ok(duration)
    }

    /// A duration with its unit, which may be zero.
    pub(crate) fn duration_or_zero(self) -> Result<Duration, Problem> {
        self.duration_from_text()
    }

    fn duration_from_text(&self) -> Result<Duration, Problem> {
        let Node::Text(text) = &self.node else {
            return Err(self.problem("it must be text with a unit, such as \"500ms\", \"30s\" or \"10min\""));
        };
        let duration = humantime::parse_duration(text.trim()).map_err(|error| {
            self.problem(format_args!(
                "it is no duration ({error}): write it with a unit, such as \"30s\" or \"10min\""
            ))
        })?;
        if duration > LONGEST {
            return Err(self.problem("it must be at most 100 years"));
        }
        Ok(duration)
    }
}

impl Fields {
    /// Takes the setting of this name, if it is there.
    pub(crate) fn take(&mut self, name: &str) -> Option<Setting> {
        let index = self.rest.iter().position(|(key, node)| key == name && !matches!(node, Node::Nothing))?;
        let (_, node) = self.rest.swap_remove(index);
        Some(Setting { path: joined(&self.path, name), node })
    }

    /// Takes and reads the setting of this name, if it is there.
    pub(crate) fn read<T>(
        &mut self,
        name: &str,
        read: impl FnOnce(Setting) -> Result<T, Problem>,
    ) -> Result<Option<T>, Problem> {
        self.take(name).map(read).transpose()
    }

    /// The same for a setting that must be there.
    #[cfg(any(feature = "rate-limit", feature = "signal"))]
    pub(crate) fn require<T>(
        &mut self,
        name: &str,
        what: &str,
        read: impl FnOnce(Setting) -> Result<T, Problem>,
    ) -> Result<T, Problem> {
        let missing = self.missing(name, what);
        self.read(name, read)?.ok_or(missing)
    }

    /// The error that a setting must be there.
    pub(crate) fn missing(&self, name: &str, what: &str) -> Problem {
        Problem(format!("`{}` is missing: {what}", joined(&self.path, name)))
    }

    /// Gives a target the setting of this name, if it is there.
    pub(crate) fn apply<T, V>(
        &mut self,
        target: T,
        name: &str,
        read: impl FnOnce(Setting) -> Result<V, Problem>,
        set: impl FnOnce(T, V) -> T,
    ) -> Result<T, Problem> {
        Ok(match self.read(name, read)? {
            Some(value) => set(target, value),
            None => target,
        })
    }

    /// Ends the reading: what has not been read is not known.
    pub(crate) fn end(self, known: &[&str]) -> Result<(), Problem> {
        let mut rest = self.rest.iter().filter(|(key, _)| !known.contains(&key.as_str()));
        match rest.next() {
            None => Ok(()),
            Some((key, _)) => Err(Problem(format!(
                "`{}` is not a setting: known here are {}",
                joined(&self.path, key),
                known.iter().map(|known| format!("`{known}`")).collect::<Vec<_>>().join(", ")
            ))),
        }
    }
}

fn joined(path: &str, key: &str) -> String {
    let key = Escaped(key);
    if path.is_empty() { key.to_string() } else { format!("{path}.{key}") }
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing => f.write_str("nothing"),
            Self::Flag(flag) => write!(f, "{flag}"),
            Self::Integer(number) => write!(f, "{number}"),
            Self::Number(number) => write!(f, "{number:?}"),
            Self::Text(text) => match text.char_indices().nth(LONGEST_SHOWN) {
                None => write!(f, "{text:?}"),
                Some((end, _)) => write!(f, "{:?}…", text.get(..end).unwrap_or_default()),
            },
            Self::List(_) => f.write_str("a list"),
            Self::Fields(_) => f.write_str("a table"),
        }
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;

        impl<'de> Visitor<'de> for Any {
            type Value = Node;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a setting")
            }

            fn visit_bool<E: Error>(self, flag: bool) -> Result<Node, E> {
                Ok(Node::Flag(flag))
            }

            fn visit_i64<E: Error>(self, number: i64) -> Result<Node, E> {
                Ok(Node::Integer(number.into()))
            }

            fn visit_u64<E: Error>(self, number: u64) -> Result<Node, E> {
                Ok(Node::Integer(number.into()))
            }

            fn visit_i128<E: Error>(self, number: i128) -> Result<Node, E> {
                Ok(Node::Integer(number))
            }

            fn visit_f64<E: Error>(self, number: f64) -> Result<Node, E> {
                Ok(Node::Number(number))
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Node, E> {
                Ok(Node::Text(text.to_owned()))
            }

            fn visit_unit<E: Error>(self) -> Result<Node, E> {
                Ok(Node::Nothing)
            }

            fn visit_none<E: Error>(self) -> Result<Node, E> {
                Ok(Node::Nothing)
            }

            fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
                Node::deserialize(deserializer)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Node, A::Error> {
                let mut nodes = Vec::new();
                while let Some(node) = list.next_element()? {
                    nodes.push(node);
                }
                Ok(Node::List(nodes))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node, A::Error> {
                let mut nodes: Vec<(String, Node)> = Vec::new();
                while let Some((key, node)) = map.next_entry::<String, Node>()? {
                    nodes.push((key, node));
                }
                Ok(Node::Fields(nodes))
            }
        }

        deserializer.deserialize_any(Any)
    }
}
