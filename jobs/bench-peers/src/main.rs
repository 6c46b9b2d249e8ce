//! postlude-jobs beside other job queues, and beside what each engine itself can do, in one run. The systems take turns, so
//! that what else the machine does hits all of them. `scripts/measure-jobs` starts it, once for each engine.
//!
//! It prints the tables that are in the chapter on the speed of jobs.

mod amqp;
mod apalis_brokers;
mod apalis_peers;
mod celery;
mod engine;
mod floor;
mod graphile;
mod idle;
mod measure;
mod postlude;
mod processor;
mod scaling;
mod system;
mod table;

use std::env;

use self::{engine::Engine, measure::Case};

fn setting(name: &str, default: u64) -> u64 {
    env::var(name).map_or(default, |value| value.parse().unwrap())
}

#[tokio::main]
async fn main() {
    let engine = Engine::from_environment();
    let most = setting("WAITING", engine.most_waiting());
    match env::var("MEASURE").as_deref().unwrap_or("peers") {
        "peers" => {
            let mut cases = Vec::new();
            for waiting in [1_000, most] {
                let systems = engine.systems(&waiting.to_string()).await;
                cases.extend(systems.into_iter().map(|system| Case::new(system, waiting)));
            }
            measure::all(&engine, cases, setting("ROUNDS", 3)).await;
        }
        "scaling" => scaling::measure(&engine, most).await,
        "worker" => scaling::work(&engine).await,
        "idle" => idle::measure(&engine, setting("WORKERS", 32)).await,
        other => panic!("MEASURE is peers, scaling or idle, not {other}"),
    }
}
