//! What many workers ask of the server while there is nothing to do, and for each job that is pushed: ten a second.

use std::{
    process::{self, Command},
    time::{Duration, Instant},
};

use sqlx::PgConnection;
use tokio::time::{MissedTickBehavior, interval, sleep};

use crate::{
    engine::{self, Engine},
    processor::Times,
    system::{Kind, System, Worker},
};

const MEASURED_FOR: Duration = Duration::from_secs(10);

const PUSHES: u32 = 100;

const PUSH_EVERY: Duration = Duration::from_millis(100);

/// Measures, and prints the row of an engine.
pub(crate) async fn measure(engine: &Engine, workers: u64) {
    let mut system = engine.postlude("idle").await;
    let mut statistics = Statistics::connect(engine, system.database()).await;
    let before = statistics.connections().await;
    let mut stops = Vec::new();
    for _ in 0..workers {
        stops.extend(system.work(Kind::Probe, Worker::Elsewhere).await);
    }
    // Each has looked for the first time.
    sleep(Duration::from_secs(5)).await;
    let idle = Phase::measure(engine, &mut statistics, sleep(MEASURED_FOR)).await;
    let pushes = async {
        let mut ticks = interval(PUSH_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        for _ in 0..PUSHES {
            ticks.tick().await;
            system.push(Kind::Probe).await;
        }
    };
    let busy = Phase::measure(engine, &mut statistics, pushes).await;
    let connections = (statistics.connections().await - before) / workers as f64;
    for stop in stops {
        stop().await;
    }
    let each = |of: fn(&Phase) -> f64| of(&idle) / idle.seconds / workers as f64;
    // What the pushes cost is what was needed more than while idle.
    let each_push = |of: fn(&Phase) -> f64| {
        (of(&busy) - of(&idle) / idle.seconds * busy.seconds).max(0.0) / f64::from(PUSHES) / workers as f64
    };
    let (requests, server, workers) =
        (|phase: &Phase| phase.requests, |phase: &Phase| phase.times.server, |phase: &Phase| phase.times.workers);
    println!(
        "| {} | {connections:.1} | {:.1} | {:.1} | {:.1} | {:.1} | {:.0} | {:.0} |",
        engine.name(),
        each(requests),
        each(server) * 1e3,
        each(workers) * 1e3,
        each_push(requests),
        each_push(server) * 1e6,
        each_push(workers) * 1e6,
    );
}

struct Phase {
    seconds: f64,
    requests: f64,
    times: Times,
}

impl Phase {
    async fn measure(engine: &Engine, statistics: &mut Statistics, phase: impl Future<Output = ()>) -> Self {
        let workers = [process::id()];
        let (requests, times) = (statistics.requests().await, Times::read(engine.server_pid(), &workers));
        let start = Instant::now();
        phase.await;
        let times = Times::read(engine.server_pid(), &workers).since(times);
        let seconds = start.elapsed().as_secs_f64();
        Self { seconds, requests: statistics.requests().await - requests, times }
    }
}

/// What the server counts.
enum Statistics {
    None,
    Postgresql(PgConnection, String),
    Redis(redis::aio::MultiplexedConnection),
    Rabbitmq,
}

impl Statistics {
    async fn connect(engine: &Engine, database: Option<&str>) -> Self {
        match engine.kind {
            engine::Kind::Sqlite => Self::None,
            engine::Kind::Postgresql => {
                let connection = engine.server().await.into_connection().expect("it is PostgreSQL");
                Self::Postgresql(connection, database.unwrap().to_owned())
            }
            engine::Kind::Redis => {
                let client = redis::Client::open(engine.url.as_str()).unwrap();
                Self::Redis(client.get_multiplexed_async_connection().await.unwrap())
            }
            engine::Kind::Rabbitmq => Self::Rabbitmq,
        }
    }

    async fn connections(&mut self) -> f64 {
        match self {
            Self::None => 0.0,
            Self::Postgresql(connection, database) => {
                let count = "SELECT count(*)::float8 FROM pg_stat_activity WHERE datname = $1";
                sqlx::query_scalar(count).bind(&*database).fetch_one(connection).await.unwrap()
            }
            Self::Redis(_) => self.redis_info("clients", "connected_clients:", |_| true).await,
            Self::Rabbitmq => rabbitmqctl(&["list_connections", "pid"]).lines().count() as f64,
        }
    }

    /// Statements, commands of clients, or frames that clients have sent.
    async fn requests(&mut self) -> f64 {
        match self {
            Self::None => 0.0,
            Self::Postgresql(connection, database) => {
                let sum = "SELECT coalesce(sum(calls), 0)::float8 FROM pg_stat_statements AS statement
                    JOIN pg_database ON pg_database.oid = statement.dbid WHERE datname = $1";
                sqlx::query_scalar(sum).bind(&*database).fetch_one(connection).await.unwrap()
            }
            Self::Redis(_) => {
                // The commands within a script are counted, too.
                let is_sent = |command: &str| ["evalsha", "ping", "subscribe"].contains(&command);
                self.redis_info("commandstats", "cmdstat_", is_sent).await
            }
            Self::Rabbitmq => {
                let frames = rabbitmqctl(&["list_connections", "recv_cnt"]);
                frames.lines().map(|line| line.trim().parse::<f64>().unwrap_or_default()).sum()
            }
        }
    }

    /// The sum of the lines of a section that begin so, and whose rest is wanted.
    async fn redis_info(&mut self, section: &str, begins: &str, is_wanted: impl Fn(&str) -> bool) -> f64 {
        let Self::Redis(connection) = self else { return 0.0 };
        let info: String = redis::cmd("INFO").arg(section).query_async(connection).await.unwrap();
        let wanted = info.lines().filter_map(|line| {
            let rest = line.strip_prefix(begins)?;
            let (name, figure) = rest.split_once(":calls=").unwrap_or(("", rest));
            is_wanted(name).then(|| figure.split(',').next()?.trim().parse::<f64>().ok())?
        });
        wanted.sum()
    }
}

fn rabbitmqctl(words: &[&str]) -> String {
    let output = Command::new("rabbitmqctl").args(["--quiet", "--no-table-headers"]).args(words).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}
