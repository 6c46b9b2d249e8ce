//! One task for Celery: what is called, with what, and how.

use std::{
    collections::BTreeMap,
    fmt,
    time::{Duration, SystemTime},
};

use postlude::BoxError;
use serde::Serialize;
use serde_json::{Map, Value};

use super::error::SendErrorKind;
use crate::model::{id::JobId, job::Job};

/// A call of a Celery task: its name, its arguments, and its options, as `apply_async` has them in Python.
///
/// ```
/// use std::time::Duration;
///
/// use postlude_jobs::celery::CeleryTask;
/// use serde::Serialize;
///
/// #[derive(Serialize)]
/// struct Mail {
///     template: &'static str,
///     copy: bool,
/// }
///
/// let task = CeleryTask::new("shop.tasks.send_mail")
///     .arg(17)
///     .kwargs(&Mail { template: "welcome", copy: true }) // template="welcome", copy=True
///     .queue("mails")
///     .expires_after(Duration::from_secs(3600));
/// # drop(task);
/// ```
///
/// Arguments are sent as JSON. An argument that does not serialise is an error when the task is sent. A `datetime`, a
/// `Decimal` or a `UUID` of Python is an object `{"__type__": "datetime", "__value__": "2026-11-29T12:00:00+00:00"}`,
/// which Celery's decoder makes one of; a text stays a text.
///
/// # Default
/// - [`queue`](Self::queue): that of the producer
/// - [`priority`](Self::priority), [`countdown`](Self::countdown), expiry and time limits: none
/// - [`args_repr`](Self::args_repr) and [`kwargs_repr`](Self::kwargs_repr): `<hidden>`
#[derive(Clone)]
#[must_use = "a task does nothing until it is sent"]
pub struct CeleryTask {
    pub(super) name: String,
    pub(super) args: Vec<Value>,
    pub(super) kwargs: Map<String, Value>,
    /// The first argument that can't be sent, and why.
    pub(super) mistake: Option<(String, String)>,
    pub(super) options: Options,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Options {
    pub(super) id: Option<JobId>,
    pub(super) queue: Option<String>,
    pub(super) due: Option<When>,
    pub(super) expires: Option<When>,
    pub(super) priority: Option<u8>,
    pub(super) time_limit: Option<Duration>,
    pub(super) soft_time_limit: Option<Duration>,
    pub(super) ignores_result: bool,
    pub(super) is_immutable: bool,
    pub(super) headers: BTreeMap<String, String>,
    pub(super) args_repr: Option<String>,
    pub(super) kwargs_repr: Option<String>,
}

/// A point in time.
#[derive(Clone, Copy, Debug)]
pub(super) enum When {
    After(Duration),
    At(SystemTime),
}

impl CeleryTask {
    /// A call of the task with this name, without arguments. The name is the one under which workers have registered
    /// the task: `module.function`, unless `@app.task(name=…)` says otherwise.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), args: Vec::new(), kwargs: Map::new(), mistake: None, options: Options::default() }
    }

    /// A job as a call: [`Job::NAME`] is the name of the task, and the fields are its keyword arguments. The policy of
    /// the job is not used: Celery's workers have their own.
    pub fn from_job<J: Job>(job: &J) -> Self {
        Self::new(J::NAME).kwargs(job)
    }

    /// Adds a positional argument.
    pub fn arg(mut self, value: impl Serialize) -> Self {
        let what = format!("argument {}", self.args.len());
        if let Some(value) = self.json(what, &value) {
            self.args.push(value);
        }
        self
    }

    /// Adds positional arguments: a tuple or an array.
    pub fn args(mut self, values: impl Serialize) -> Self {
        match self.json("a positional argument".to_owned(), &values) {
            Some(Value::Array(values)) => self.args.extend(values),
            Some(Value::Null) | None => {}
            Some(_) => {
                self.note_mistake("what `args` got", "it is neither a tuple nor an array: use `arg`, or `(value,)`");
            }
        }
        self
    }

    /// Adds a keyword argument.
    pub fn kwarg(mut self, name: impl Into<String>, value: impl Serialize) -> Self {
        let name = name.into();
        if let Some(value) = self.json(format!("argument `{name}`"), &value) {
            self.kwargs.insert(name, value);
        }
        self
    }

    /// Adds keyword arguments: the fields of a struct, or the entries of a map.
    pub fn kwargs(mut self, values: impl Serialize) -> Self {
        match self.json("a keyword argument".to_owned(), &values) {
            Some(Value::Object(values)) => self.kwargs.extend(values),
            // A struct without fields.
            Some(Value::Null) | None => {}
            Some(_) => self.note_mistake(
                "what `kwargs` got",
                "it serialises to something without names: give it named fields, or use `arg`",
            ),
        }
        self
    }

    /// The id of the task, which is Celery's `task_id` and `correlation_id`. Without it, each time the task is sent, a
    /// new one is drawn.
    pub fn id(mut self, id: JobId) -> Self {
        self.options.id = Some(id);
        self
    }

    /// The queue.
    pub fn queue(mut self, queue: impl Into<String>) -> Self {
        self.options.queue = Some(queue.into());
        self
    }

    /// Due after this time; for a later step of a chain, after the step before it. The time is taken by the clock of
    /// this machine, and compared with that of the worker. A worker holds the task until then, so the time is
    /// [limited](super::CeleryProducerBuilder::max_delay).
    pub fn countdown(mut self, delay: Duration) -> Self {
        self.options.due = Some(When::After(delay));
        self
    }

    /// Due at this time. It replaces [`countdown`](Self::countdown), and is limited in the same way.
    pub fn eta(mut self, time: SystemTime) -> Self {
        self.options.due = Some(When::At(time));
        self
    }

    /// Not to be started after this time; for a later step of a chain, counted from the step before it. A worker that
    /// receives the task later revokes it, and stores that as its state.
    pub fn expires_after(mut self, time: Duration) -> Self {
        self.options.expires = Some(When::After(time));
        self
    }

    /// Not to be started at this time or later. It replaces [`expires_after`](Self::expires_after).
    pub fn expires_at(mut self, time: SystemTime) -> Self {
        self.options.expires = Some(When::At(time));
        self
    }

    /// The priority, as `apply_async(priority=…)` takes it. **The brokers count in opposite directions**: with Redis, 0
    /// is the most urgent and the default, and 9 the least. With RabbitMQ, 0 is the least urgent and the default, and
    /// the queue must have been made with `x-max-priority`.
    pub fn priority(mut self, priority: u8) -> Self {
        self.options.priority = Some(priority);
        self
    }

    /// The worker kills the process of the task after this time (`time_limit`).
    pub fn time_limit(mut self, limit: Duration) -> Self {
        self.options.time_limit = Some(limit);
        self
    }

    /// The worker raises `SoftTimeLimitExceeded` in the task after this time (`soft_time_limit`).
    pub fn soft_time_limit(mut self, limit: Duration) -> Self {
        self.options.soft_time_limit = Some(limit);
        self
    }

    /// The worker stores no result: the state stays [`Pending`](super::CeleryState::Pending).
    pub fn ignore_result(mut self) -> Self {
        self.options.ignores_result = true;
        self
    }

    /// As a later step of a chain, gets its own arguments only (`.si()` in Python). Without this, the result of the
    /// step before is its first argument.
    pub fn immutable(mut self) -> Self {
        self.options.is_immutable = true;
        self
    }

    /// Adds a header, such as a `traceparent`. The task reads it in `self.request.headers`, which has all headers
    /// that are not Celery's own.
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.options.headers.insert(name.into(), value.into());
        self
    }

    /// What logs, events and monitors such as Flower show as the positional arguments. It is for eyes only.
    pub fn args_repr(mut self, text: impl Into<String>) -> Self {
        self.options.args_repr = Some(text.into());
        self
    }

    /// What logs, events and monitors such as Flower show as the keyword arguments. It is for eyes only.
    pub fn kwargs_repr(mut self, text: impl Into<String>) -> Self {
        self.options.kwargs_repr = Some(text.into());
        self
    }

    /// The name of the task.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    fn json(&mut self, what: String, value: &impl Serialize) -> Option<Value> {
        match serde_json::to_value(value) {
            Ok(value) => match unknown_type(&value) {
                None => Some(value),
                Some(name) => {
                    let why = format!(
                        "it has an object of `__type__` and `__value__`, which Celery decodes to a value of Python, and \
                         Celery knows no `{name}`: the worker would discard the message"
                    );
                    self.note_mistake(&what, &why);
                    None
                }
            },
            Err(error) => {
                self.mistake.get_or_insert_with(|| (what, error.to_string()));
                None
            }
        }
    }

    fn note_mistake(&mut self, what: &str, why: &str) {
        self.mistake.get_or_insert_with(|| (what.to_owned(), why.to_owned()));
    }

    /// What keeps the task from being sent to any broker.
    pub(super) fn check(&self) -> Result<(), SendErrorKind> {
        if self.name.is_empty() {
            return Err(SendErrorKind::NoName);
        }
        if let Some((what, why)) = &self.mistake {
            return Err(SendErrorKind::Argument { what: what.clone(), source: BoxError::from(why.clone()) });
        }
        if self.options.queue.as_ref().is_some_and(String::is_empty) {
            return Err(SendErrorKind::Option(
                "the name of the queue is empty: leave `queue` out for the default".into(),
            ));
        }
        if let Some(name) = self.options.headers.keys().find(|name| is_reserved(name)) {
            let what = format!("the header `{name}` is empty, too long, or one of Celery's own: give it another name");
            return Err(SendErrorKind::Option(what));
        }
        Ok(())
    }
}

/// Shows no argument.
impl fmt::Debug for CeleryTask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CeleryTask")
            .field("name", &self.name)
            .field("args", &self.args.len())
            .field("kwargs", &self.kwargs.len())
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

/// The types that the JSON decoder of kombu knows.
const TYPES: [&str; 7] = ["datetime", "date", "time", "decimal", "uuid", "bytes", "base64"];

/// The name of a type that the decoder would fail for.
fn unknown_type(value: &Value) -> Option<String> {
    match value {
        Value::Array(values) => values.iter().find_map(unknown_type),
        Value::Object(fields) => {
            if fields.len() == 2
                && fields.contains_key("__value__")
                && let Some(name) = fields.get("__type__")
            {
                let is_known = name.as_str().is_some_and(|name| TYPES.contains(&name));
                if !is_known {
                    return Some(name.as_str().map_or_else(|| "type without a name".to_owned(), str::to_owned));
                }
            }
            fields.values().find_map(unknown_type)
        }
        _ => None,
    }
}

/// The fields of a request in a worker. A header of that name would replace one.
const RESERVED: [&str; 40] = [
    "args",
    "argsrepr",
    "callbacks",
    "called_directly",
    "chain",
    "chord",
    "children",
    "compression",
    "correlation_id",
    "delivery_info",
    "errbacks",
    "eta",
    "expires",
    "group",
    "group_index",
    "headers",
    "hostname",
    "id",
    "ignore_result",
    "is_eager",
    "kwargs",
    "kwargsrepr",
    "lang",
    "loglevel",
    "logfile",
    "meth",
    "origin",
    "parent_id",
    "properties",
    "replaced_task_nesting",
    "reply_to",
    "retries",
    "root_id",
    "shadow",
    "stamped_headers",
    "stamps",
    "task",
    "taskset",
    "timelimit",
    "utc",
];

fn is_reserved(name: &str) -> bool {
    name.is_empty() || name.len() > usize::from(u8::MAX) || name.starts_with('_') || RESERVED.contains(&name)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn mistake(task: &CeleryTask) -> String {
        task.check().map_or_else(|error| error.to_string(), |()| "none".to_owned())
    }

    #[test]
    fn args_and_kwargs_take_tuples_structs_and_single_values() {
        #[derive(Serialize)]
        struct Fields {
            copy: bool,
        }
        #[derive(Serialize)]
        struct NoFields;
        let task = CeleryTask::new("t").arg(1).args(("two", 3.0)).kwarg("four", [4]).kwargs(&Fields { copy: true });
        let task = task.kwargs(NoFields).args(());
        assert_eq!(Value::Array(task.args.clone()), json!([1, "two", 3.0]));
        assert_eq!(Value::Object(task.kwargs.clone()), json!({ "four": [4], "copy": true }));
        assert_eq!(mistake(&task), "none");
    }

    #[test]
    fn mistakes_are_kept_until_the_task_is_sent() {
        let task = || CeleryTask::new("t");
        assert!(mistake(&CeleryTask::new("")).contains("its name is empty"));
        assert!(mistake(&task().args(17)).contains("use `arg`"));
        assert!(mistake(&task().kwargs((1, 2))).contains("named fields"));
        let keys_that_are_no_text = BTreeMap::from([((1, 2), 3)]);
        assert!(mistake(&task().arg(1).arg(keys_that_are_no_text)).starts_with("argument 1 can't be sent: "));
        assert!(mistake(&task().queue("")).contains("leave `queue` out"));
        for name in ["", "task", "expires", "__class__"] {
            assert!(mistake(&task().header(name, "1")).contains("another name"), "{name}");
        }
        assert_eq!(mistake(&task().header("traceparent", "00-1-2-01")), "none");
    }

    #[test]
    fn objects_that_celery_would_fail_to_decode_are_mistakes() {
        let typed = |name: Value| json!({ "deep": [{ "__type__": name, "__value__": "2026-11-29" }] });
        assert_eq!(mistake(&CeleryTask::new("t").arg(typed(json!("date")))), "none");
        assert!(mistake(&CeleryTask::new("t").arg(typed(json!("money")))).contains("knows no `money`"));
        assert!(mistake(&CeleryTask::new("t").kwarg("a", typed(json!(1)))).contains("type without a name"));
        assert_eq!(mistake(&CeleryTask::new("t").arg(json!({ "__type__": "money", "value": 1 }))), "none");
    }

    #[test]
    fn debug_shows_no_argument() {
        let text = format!("{:?}", CeleryTask::new("t").arg("secret").kwarg("card", "secret"));
        assert!(!text.contains("secret"), "{text}");
    }
}
