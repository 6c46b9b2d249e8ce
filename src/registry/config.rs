//! The settings of a registry from a configuration.

use std::time::Duration;

use serde::{Deserialize, Deserializer};

#[cfg(feature = "rate-limit")]
use crate::model::RateLimit;
use crate::{
    model::{MAX_LIMIT, NamePolicy, TaskName},
    registry::{builder::TaskRegistryBuilder, intern::intern},
    util::deserialize::{Fields, Problem, Setting, settings},
};

/// Feature `serde`.
/// The settings of a registry from a configuration, for [`TaskRegistryBuilder::config`].
///
/// It is deserialised from any format that describes itself, such as TOML, JSON or YAML; feature `serde`. All settings
/// may be left out. They have the names and the defaults of the [builder's methods](TaskRegistryBuilder):
///
/// | setting | value |
/// |---|---|
/// | `capacity`, `max_concurrent`, `max_blocking`, `max_cpu` | a whole number, 1 or more |
/// | `history`, `dead_letters` | a whole number, 0 or more |
/// | `default_timeout`, `warn_running_after`, `warn_open_after` | a duration, longer than zero |
/// | `settle`, `promote_after` | a duration |
/// | `names.<name>` | what holds for the tasks of a name: a table of those below |
/// | … `limit`, `limit_by_key` | a whole number, 1 or more |
/// | … `rate` | `{ tasks, per, burst }`; feature `rate-limit` |
/// | … `timeout`, `expires_after` | a duration, longer than zero |
/// | … `retry` | `{ first_delay, factor, max_delay, full_jitter, attempts, give_up_after }`, or `{ delays, … }` |
///
/// A duration is text with a unit: `"500ms"`, `"30s"`, `"1h 30min"`. A number may be text, because environment
/// variables are text. The names are [interned](TaskName::intern).
///
/// ```
/// use postlude::{RegistryConfig, TaskRegistry};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), postlude::BoxError> {
/// let config: RegistryConfig = toml::from_str(
///     r#"
///     capacity = 10_000
///     max_concurrent = 200
///     default_timeout = "5min"
///
///     [names.thumbnail]
///     limit = 4
///     expires_after = "10min"
///
///     [names.webhook]
///     timeout = "30s"
///     retry = { attempts = 8, first_delay = "500ms", max_delay = "1h" }
///     "#,
/// )?;
/// let registry = TaskRegistry::builder().config(config).build()?;
///
/// let mistake = toml::from_str::<RegistryConfig>("[names.webhook]\ntimeout = \"30\"").unwrap_err();
/// assert!(mistake.message().starts_with("`names.webhook.timeout` is \"30\": it is no duration"));
/// # drop(registry);
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// Deserialising fails if a setting is not known, has another type, or has a value that makes no sense, such as zero
/// for a limit. The error names the setting with its path, and says what it must be.
#[derive(Clone, Debug, Default)]
#[must_use = "a configuration does nothing until it is given to a builder"]
pub struct RegistryConfig {
    capacity: Option<usize>,
    max_concurrent: Option<usize>,
    max_blocking: Option<usize>,
    max_cpu: Option<usize>,
    history: Option<usize>,
    dead_letters: Option<usize>,
    default_timeout: Option<Duration>,
    settle: Option<Duration>,
    promote_after: Option<Duration>,
    warn_running_after: Option<Duration>,
    warn_open_after: Option<Duration>,
    names: Vec<(TaskName, OfName)>,
}

/// What is set for the tasks of one name.
#[derive(Clone, Debug)]
struct OfName {
    limit: Option<usize>,
    limit_by_key: Option<usize>,
    #[cfg(feature = "rate-limit")]
    rate: Option<RateLimit>,
    policy: NamePolicy,
}

impl<'de> Deserialize<'de> for RegistryConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        settings(deserializer, Self::read)
    }
}

fn limit(setting: Setting) -> Result<usize, Problem> {
    setting.whole(1..=MAX_LIMIT)
}

fn count(setting: Setting) -> Result<usize, Problem> {
    setting.whole(0..=MAX_LIMIT)
}

impl RegistryConfig {
    fn read(setting: Setting) -> Result<Self, Problem> {
        let mut fields = setting.fields()?;
        let config = Self {
            capacity: fields.read("capacity", limit)?,
            max_concurrent: fields.read("max_concurrent", limit)?,
            max_blocking: fields.read("max_blocking", limit)?,
            max_cpu: fields.read("max_cpu", limit)?,
            history: fields.read("history", count)?,
            dead_letters: fields.read("dead_letters", count)?,
            default_timeout: fields.read("default_timeout", Setting::duration)?,
            settle: fields.read("settle", Setting::duration_or_zero)?,
            promote_after: fields.read("promote_after", Setting::duration_or_zero)?,
            warn_running_after: fields.read("warn_running_after", Setting::duration)?,
            warn_open_after: fields.read("warn_open_after", Setting::duration)?,
            names: fields.read("names", read_names)?.unwrap_or_default(),
        };
        fields.end(&[
            "capacity",
            "max_concurrent",
            "max_blocking",
            "max_cpu",
            "history",
            "dead_letters",
            "default_timeout",
            "settle",
            "promote_after",
            "warn_running_after",
            "warn_open_after",
            "names",
        ])?;
        Ok(config)
    }

    fn apply(self, mut builder: TaskRegistryBuilder) -> TaskRegistryBuilder {
        /// Calls the method with a value that is set.
        macro_rules! set {
            ($($setting:ident)+) => {$(
                if let Some(value) = self.$setting {
                    builder = builder.$setting(value);
                }
            )+};
        }

        set! {
            capacity max_concurrent max_blocking max_cpu history dead_letters
            default_timeout settle promote_after warn_running_after warn_open_after
        }
        for (name, of_name) in self.names {
            builder = of_name.apply(name, builder);
        }
        builder
    }
}

fn read_names(setting: Setting) -> Result<Vec<(TaskName, OfName)>, Problem> {
    let mut read = Vec::new();
    for (name, setting) in setting.entries()? {
        let path = setting.path().to_owned();
        if name.is_empty() {
            return Err(Problem::refused(&path, "a name must not be empty"));
        }
        read.push((name, path, OfName::read(setting.fields()?)?));
    }
    // After all is read, because names are never freed.
    let interned = read.into_iter().map(|(name, path, of_name)| match intern(&name) {
        Ok(name) => Ok((name, of_name)),
        Err(problem) => Err(Problem::refused(&path, format_args!("it is no name of tasks, because {problem}"))),
    });
    interned.collect()
}

impl OfName {
    fn read(mut fields: Fields) -> Result<Self, Problem> {
        #[cfg(not(feature = "rate-limit"))]
        if let Some(rate) = fields.take("rate") {
            return Err(rate.problem("it needs the feature `rate-limit` of `postlude`"));
        }
        let of_name = Self {
            limit: fields.read("limit", limit)?,
            limit_by_key: fields.read("limit_by_key", limit)?,
            #[cfg(feature = "rate-limit")]
            rate: fields.read("rate", RateLimit::read)?,
            policy: NamePolicy::read_from(&mut fields)?,
        };
        fields.end(&["limit", "limit_by_key", "rate", "timeout", "expires_after", "retry"])?;
        Ok(of_name)
    }

    fn apply(self, name: TaskName, mut builder: TaskRegistryBuilder) -> TaskRegistryBuilder {
        if let Some(tasks) = self.limit {
            builder = builder.limit_by_name(name, tasks);
        }
        if let Some(tasks) = self.limit_by_key {
            builder = builder.limit_by_key(name, tasks);
        }
        #[cfg(feature = "rate-limit")]
        if let Some(rate) = self.rate {
            builder = builder.rate_limit(name, rate);
        }
        if self.policy.is_some() { builder.policy(name, self.policy) } else { builder }
    }
}

impl TaskRegistryBuilder {
    /// Feature `serde`.
    /// Takes the settings of a configuration.
    ///
    /// What the configuration does not set stays as it is. What is set after this call replaces it, apart from what is
    /// set by name: two limits of the same kind for a name, or two policies, are an error of [`build`](Self::build).
    pub fn config(self, config: RegistryConfig) -> Self {
        config.apply(self)
    }
}
