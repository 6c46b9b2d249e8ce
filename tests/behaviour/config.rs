//! Settings from a configuration.

use std::time::Duration;

use postlude::{
    BatchPolicy, NamePolicy, OutcomeKind, RegistryConfig, RetryPolicy, Task, TaskName, TaskRegistry,
    TaskRegistryBuilder,
};
use serde::de::DeserializeOwned;

use crate::support::SECOND;

/// The message of the error, without the place that the format adds to it.
fn error<T: DeserializeOwned>(text: &str) -> String {
    match toml::from_str::<T>(text) {
        Ok(_) => panic!("no error: {text}"),
        Err(error) => error.message().to_owned(),
    }
}

fn builder(text: &str) -> TaskRegistryBuilder {
    TaskRegistry::builder().config(toml::from_str(text).unwrap_or_else(|error| panic!("{error}")))
}

const ALL: &str = r#"
capacity = 10_000
max_concurrent = 200
max_blocking = 8
max_cpu = 2
history = 0
dead_letters = 0
default_timeout = "5min"
settle = "0s"
promote_after = "1s 500ms"
warn_running_after = "10min"
warn_open_after = "1h"

[names.thumbnail]
limit = 4
limit_by_key = 2
rate = { tasks = 100, per = "1min", burst = 10 }
timeout = "30s"
expires_after = "1h"
retry = { delays = ["1s", "5s"], max_delay = "3s", full_jitter = false, attempts = 7, give_up_after = "1day" }

[names.webhook]
retry = { first_delay = "0s", factor = 3, attempts = "unlimited" }
"#;

#[cfg(feature = "rate-limit")]
#[tokio::test(start_paused = true)]
async fn each_setting_is_set() {
    let registry = builder(ALL).build().unwrap();
    let metrics = registry.metrics();
    assert_eq!(metrics.capacity, Some(10_000));
    assert_eq!(registry.name_limits()["thumbnail"].limit, Some(4));
    assert_eq!(registry.may_start("thumbnail"), 1, "it has a rate");
    assert_eq!(registry.may_start("webhook"), 200);
    let endless = || Task::new(std::future::pending::<()>());
    let start = tokio::time::Instant::now();
    assert_eq!(registry.spawn(endless().named("thumbnail")).await.kind(), OutcomeKind::TimedOut);
    assert_eq!(start.elapsed(), 30 * SECOND);
    assert_eq!(registry.spawn(endless()).await.kind(), OutcomeKind::TimedOut);
    assert_eq!(start.elapsed(), 330 * SECOND);
    assert_eq!(registry.history().len(), 0);
    let retried = Task::retrying(RetryPolicy::default(), || async { Err::<(), _>("busy") });
    assert_eq!(registry.spawn(retried.named("thumbnail")).await.kind(), OutcomeKind::Failed);
    assert_eq!(registry.metrics().retries, 6);
    assert_eq!(registry.dead_letters().len(), 0);
}

#[tokio::test]
async fn nothing_is_set_by_nothing() {
    builder("").build().unwrap();
    let config: RegistryConfig = serde_json::from_str(r#"{"capacity": null, "names": {"mail": {}}}"#).unwrap();
    let registry = TaskRegistry::builder().capacity(7).config(config).build().unwrap();
    assert_eq!(registry.metrics().capacity, Some(7));
}

#[test]
fn numbers_may_be_text_as_in_environment_variables() {
    let text = r#"{"capacity": "70", "names": {"mail": {"limit": " 2 ", "retry": {"full_jitter": "true"}}}}"#;
    let config: RegistryConfig = serde_json::from_str(text).unwrap();
    assert!(format!("{config:?}").contains("capacity: Some(70)"));
}

#[test]
fn each_mistake_names_its_setting_and_says_what_it_must_be() {
    for (text, expected) in [
        ("capacity = 0", "`capacity` is 0: it must be a whole number from 1 to 2305843009213693951"),
        ("capacity = -5", "`capacity` is -5: it must be a whole number from 1 to"),
        ("max_blocking = 1.5", "`max_blocking` is 1.5: it must be a whole number"),
        ("max_cpu = \"many\"", "`max_cpu` is \"many\": it must be a whole number"),
        ("history = true", "`history` is true: it must be a whole number from 0"),
        ("default_timeout = 30", "`default_timeout` is 30: it must be text with a unit, such as \"500ms\""),
        ("default_timeout = \"0s\"", "`default_timeout` is \"0s\": it must be longer than zero"),
        ("settle = \"soon\"", "`settle` is \"soon\": it is no duration ("),
        ("settle = \"101years\"", "`settle` is \"101years\": it must be at most 100 years"),
        ("time_out = \"1s\"", "`time_out` is not a setting: known here are `capacity`, `max_concurrent`,"),
        ("names = 3", "`names` is 3: it must be a table of settings"),
        ("[names]\nmail = 3", "`names.mail` is 3: it must be a table of settings"),
        ("[names.mail]\nlimit = 0", "`names.mail.limit` is 0: it must be a whole number from 1"),
        ("[names.mail]\ntimeuot = \"1s\"", "`names.mail.timeuot` is not a setting: known here are `limit`,"),
        ("[names.mail.retry]\nattempts = 0", "`names.mail.retry.attempts` is 0: it must be a whole number from 1 to"),
        ("[names.mail.retry]\nattempts = 5_000_000_000", "`names.mail.retry.attempts` is 5000000000: it must be"),
        ("[names.mail.retry]\nfactor = 0.5", "`names.mail.retry.factor` is 0.5: it must be a number of at least 1"),
        ("[names.mail.retry]\nfactor = nan", "`names.mail.retry.factor` is NaN: it must be a number"),
        ("[names.mail.retry]\ndelays = \"1s\"", "`names.mail.retry.delays` is \"1s\": it must be a list"),
        ("[names.mail.retry]\ndelays = [\"1s\", 2]", "`names.mail.retry.delays[1]` is 2: it must be text with a unit"),
        (
            "[names.mail.retry]\ndelays = [\"1s\"]\nfactor = 2",
            "`names.mail.retry.factor` is 2: it has no effect on listed `delays`",
        ),
        (
            "[names.mail.retry]\nfirst_delay = \"2h\"\nmax_delay = \"1s\"",
            "`names.mail.retry.max_delay` is \"1s\": it must be longer than zero, and not shorter than the first delay",
        ),
        ("[names.mail.retry]\nmax_delay = \"500ms\"", "`names.mail.retry.max_delay` is \"500ms\": it must be longer"),
        ("[names.\"a\\nb\"]\nlimit = 1", "`names.a\\nb` is refused: it is no name of tasks, because it has characters"),
        (
            "[names.mail.retry]\nfirst_delay = \"20min\"",
            "`names.mail.retry.max_delay` is missing: the first delay is longer",
        ),
        ("[names.mail.retry]\ndelays = []", "`names.mail.retry.delays` is a list: it must have a delay"),
        ("[names.\"\"]\nlimit = 1", "`names.` is refused: a name must not be empty"),
        ("[names.mail.retry]\nfull_jitter = 1", "`names.mail.retry.full_jitter` is 1: it must be true or false"),
    ] {
        let message = error::<RegistryConfig>(text);
        assert!(message.starts_with(expected), "{text}: {message}");
    }
    let long = format!("[names.{}]\nlimit = 1", "n".repeat(129));
    assert!(
        error::<RegistryConfig>(&long)
            .ends_with("` is refused: it is no name of tasks, because it has more than 128 bytes")
    );
    let twice = serde_json::from_str::<RegistryConfig>(r#"{"capacity": 1, "capacity": 2}"#).unwrap_err();
    assert!(twice.to_string().starts_with("`capacity` is set twice"), "{twice}");
    assert!(serde_json::from_str::<RegistryConfig>("7").unwrap_err().to_string().contains("`the configuration` is 7"));
}

#[cfg(feature = "rate-limit")]
#[test]
fn a_rate_that_makes_no_sense_is_an_error() {
    use postlude::RateLimit;

    assert_eq!(toml::from_str::<RateLimit>("tasks = 5\nper = \"1s\"").unwrap(), RateLimit::per_second(5));
    for (text, expected) in [
        ("tasks = 5", "`per` is missing: such as \"1min\""),
        ("per = \"1s\"", "`tasks` is missing: the number of starts"),
        ("tasks = 0\nper = \"1s\"", "`tasks` is 0: it must be a whole number from 1"),
        ("tasks = 11\nper = \"10ns\"", "`tasks` is 11: it must be a whole number from 1 to 10"),
        ("tasks = 1\nper = \"1h\"\nburst = 640512", "`burst` is 640512: it must be a whole number from 1 to 640511"),
    ] {
        let message = error::<RateLimit>(text);
        assert!(message.starts_with(expected), "{text}: {message}");
    }
}

#[test]
fn policies_are_deserialised_alone() {
    let batch: BatchPolicy = toml::from_str("capacity = 50\nmax_items = 5\nmax_delay = \"0s\"").unwrap();
    assert_eq!(batch, BatchPolicy::default().capacity(50).max_items(5).max_delay(Duration::ZERO));
    assert!(error::<BatchPolicy>("capacity = 5\nmax_items = 6").starts_with("`max_items` is 6: it must be"));
    let name: NamePolicy = toml::from_str("timeout = \"1s\"").unwrap();
    assert_eq!(format!("{name:?}"), format!("{:?}", NamePolicy::default().timeout(SECOND)));
    let retry: RetryPolicy = toml::from_str("").unwrap();
    assert_eq!(format!("{retry:?}"), format!("{:?}", RetryPolicy::exponential()));
}

#[cfg(feature = "signal")]
#[test]
fn a_serve_policy_needs_its_grace() {
    use postlude::ServePolicy;

    let policy: ServePolicy = toml::from_str("grace = \"20s\"\nexit_after_serving = false").unwrap();
    assert_eq!(policy, ServePolicy::within(20 * SECOND).exit_after_serving(false));
    assert_eq!(error::<ServePolicy>("exit_on_second_signal = false"), "`grace` is missing: such as \"20s\"");
}

#[test]
fn names_are_interned_once_and_their_number_is_bounded() {
    let name = TaskName::intern(String::from("from_a_plugin"));
    assert_eq!(name.as_str().as_ptr(), TaskName::intern("from_a_plugin").as_str().as_ptr());
    assert_eq!(name, TaskName::from("from_a_plugin"));
    assert_eq!(TaskName::intern(""), TaskName::UNNAMED);
    assert_eq!(TaskName::intern("ü".repeat(65)), "other");
    assert_eq!(TaskName::intern("forged\nINFO"), "other");
}
