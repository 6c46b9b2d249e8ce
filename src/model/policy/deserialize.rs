//! Policies from a configuration: each is a table of settings.

use serde::{Deserialize, Deserializer};

#[cfg(feature = "rate-limit")]
use super::RateLimit;
#[cfg(feature = "signal")]
use super::ServePolicy;
use super::{BatchPolicy, MAX_LIMIT, NamePolicy, RetryPolicy};
use crate::util::deserialize::{Fields, Problem, Setting, settings};

/// Deserialises a policy with its `read`.
macro_rules! deserialize {
    ($($(#[$attribute:meta])* $policy:ident)+) => {$(
        $(#[$attribute])*
        impl<'de> Deserialize<'de> for $policy {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                settings(deserializer, $policy::read)
            }
        }
    )+};
}

deserialize! {
    BatchPolicy
    NamePolicy
    #[cfg(feature = "rate-limit")] RateLimit
    RetryPolicy
    #[cfg(feature = "signal")] ServePolicy
}

impl RetryPolicy {
    pub(crate) fn read(setting: Setting) -> Result<Self, Problem> {
        let mut fields = setting.fields()?;
        let mut policy = if let Some(delays) = fields.take("delays") {
            if let Some(other) = fields.take("first_delay").or_else(|| fields.take("factor")) {
                return Err(other.problem("it has no effect on listed `delays`: keep one of both"));
            }
            let empty = delays.problem("it must have a delay");
            let delays = delays.list()?.into_iter().map(Setting::duration_or_zero).collect::<Result<Vec<_>, _>>()?;
            if delays.is_empty() {
                return Err(empty);
            }
            Self::delays(delays)
        } else {
            let policy = Self::exponential();
            let policy = fields.apply(policy, "first_delay", Setting::duration_or_zero, Self::first_delay)?;
            fields.apply(policy, "factor", |factor| factor.number(1.0), Self::factor)?
        };
        let first = policy.delay_of_first_retry();
        policy = match fields.take("max_delay") {
            Some(longest) => policy.max_delay(longest.duration_from(first, "the first delay")?),
            None if policy.longest_delay() < first => {
                return Err(fields.missing("max_delay", "the first delay is longer than its default, 600s"));
            }
            None => policy,
        };
        policy = fields.apply(policy, "full_jitter", Setting::flag, Self::full_jitter)?;
        policy = fields.apply(policy, "attempts", attempts, Self::attempts)?;
        policy = fields.apply(policy, "give_up_after", Setting::duration, Self::give_up_after)?;
        fields.end(&["delays", "first_delay", "factor", "max_delay", "full_jitter", "attempts", "give_up_after"])?;
        Ok(policy)
    }
}

/// A number of attempts, or `unlimited`.
fn attempts(setting: Setting) -> Result<u32, Problem> {
    if setting.is_text("unlimited") { Ok(u32::MAX) } else { setting.whole(1..=u32::MAX - 1) }
}

impl NamePolicy {
    pub(crate) fn read(setting: Setting) -> Result<Self, Problem> {
        let mut fields = setting.fields()?;
        let policy = Self::read_from(&mut fields)?;
        fields.end(&["timeout", "expires_after", "retry"])?;
        Ok(policy)
    }

    /// Takes its settings from a table that may have others.
    pub(crate) fn read_from(fields: &mut Fields) -> Result<Self, Problem> {
        let policy = fields.apply(Self::default(), "timeout", Setting::duration, Self::timeout)?;
        let policy = fields.apply(policy, "expires_after", Setting::duration, Self::expires_after)?;
        fields.apply(policy, "retry", RetryPolicy::read, Self::retry)
    }
}

#[cfg(feature = "rate-limit")]
impl RateLimit {
    pub(crate) fn read(setting: Setting) -> Result<Self, Problem> {
        let mut fields = setting.fields()?;
        let per = fields.require("per", "such as \"1min\"", Setting::duration)?;
        // One start per nanosecond.
        let most = u32::try_from(per.as_nanos()).unwrap_or(u32::MAX);
        let limit = Self::new(
            fields.require("tasks", "the number of starts in the time `per`", |tasks| tasks.whole(1..=most))?,
            per,
        );
        let limit = fields.apply(limit, "burst", |burst| burst.whole(1..=limit.max_burst()), Self::burst)?;
        fields.end(&["tasks", "per", "burst"])?;
        Ok(limit)
    }
}

impl BatchPolicy {
    pub(crate) fn read(setting: Setting) -> Result<Self, Problem> {
        let mut fields = setting.fields()?;
        let policy = fields.apply(Self::default(), "capacity", |items| items.whole(1..=MAX_LIMIT), Self::capacity)?;
        let most = policy.capacity;
        let policy = fields.apply(policy, "max_items", |items| items.whole(1..=most), Self::max_items)?;
        let policy = fields.apply(policy, "max_delay", Setting::duration_or_zero, Self::max_delay)?;
        fields.end(&["capacity", "max_items", "max_delay"])?;
        Ok(policy)
    }
}

#[cfg(feature = "signal")]
impl ServePolicy {
    pub(crate) fn read(setting: Setting) -> Result<Self, Problem> {
        let mut fields = setting.fields()?;
        let policy = Self::within(fields.require("grace", "such as \"20s\"", Setting::duration_or_zero)?);
        let policy = fields.apply(policy, "exit_on_second_signal", Setting::flag, Self::exit_on_second_signal)?;
        let policy = fields.apply(policy, "exit_after_serving", Setting::flag, Self::exit_after_serving)?;
        fields.end(&["grace", "exit_on_second_signal", "exit_after_serving"])?;
        Ok(policy)
    }
}
