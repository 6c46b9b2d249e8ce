//! What a limit or a policy adds to a spawned task: each beside a task without any, in the same group. A new
//! policy gets a line in `each`.

use std::time::Duration;

use criterion::Criterion;
use postlude::{Priority, RetryPolicy, Task, TaskRegistry, TaskRegistryBuilder, TaskReport};
use tokio::runtime::Runtime;

use crate::{WINDOW, measure, peers, runtimes};

/// Long enough that it is never met.
const LONG: Duration = Duration::from_secs(3600);

pub(crate) fn each(criterion: &mut Criterion) {
    for (flavor, runtime) in runtimes() {
        let group = format!("policies/{flavor}");
        let mut case = |policy: &str, builder: TaskRegistryBuilder, task: fn() -> Task| {
            spawn_each(criterion, &group, &runtime, policy, builder, task);
        };
        let (plain, with) = (|| Task::new(peers::work()), TaskRegistry::builder);
        case("none", with(), plain);
        case("named", with(), || Task::new(peers::work()).named("mail"));
        case("capacity", with().capacity(1_000_000), plain);
        case("max_concurrent_never_met", with().max_concurrent(1_000_000), plain);
        case("limit_of_its_name_never_met", with().limit_by_name("mail", 1_000_000), || {
            Task::new(peers::work()).named("mail")
        });
        case("max_concurrent_16", with().max_concurrent(16), plain);
        case("timeout", with(), || Task::new(peers::work()).timeout(LONG));
        case("default_timeout", with().default_timeout(LONG), plain);
        case("limit_of_another_name", with().limit_by_name("other", 4), plain);
        case("priority_without_a_limit", with(), || Task::new(peers::work()).priority(Priority::High));
        case("retrying", with(), || Task::retrying(RetryPolicy::default(), peers::work));
        case("history_off", with().history(0), plain);
        case("observer", with().observe(|_: &TaskReport| {}), plain);
    }
}

fn spawn_each(
    criterion: &mut Criterion,
    group: &str,
    runtime: &Runtime,
    policy: &str,
    builder: TaskRegistryBuilder,
    task: fn() -> Task,
) {
    let registry = builder.handle(runtime.handle().clone()).build().unwrap();
    measure(criterion, group, runtime, policy, || {
        let registry = registry.clone();
        async move {
            for _ in 0..WINDOW {
                registry.spawn(task());
            }
            registry.wait_idle().await;
        }
    });
}
