//! The measurements, and their turns.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use sqlx::{Connection, PgConnection};
use tokio::time::{MissedTickBehavior, interval, sleep};

use crate::{
    engine::Engine,
    system::{Kind, Pushed, System, Worker, count, forget, start_of, until_started},
    table,
};

/// Pushes of one job.
pub(crate) const PUSHES: u32 = 300;

/// Pushes of many jobs.
pub(crate) const BATCHES: u32 = 50;

/// How many jobs such a push has.
pub(crate) const BATCH: u32 = 100;

/// How many jobs run before the time is taken.
const WARM_UP: usize = 300;

/// How many jobs run while it is taken.
const JOBS: usize = 4_000;

const IDLE_PUSHES: u32 = 20;

/// Longer apart than anything that a push sets off.
const IDLE_GAP: Duration = Duration::from_millis(150);

const BUSY_PUSHES: u32 = 400;

/// 200 a second.
const BUSY_GAP: Duration = Duration::from_millis(5);

/// How long a measurement pushes, however few pushes that are.
const LONGEST: Duration = Duration::from_secs(10);

/// How long a measurement waits for what may never come.
const LIMIT: Duration = Duration::from_secs(5);

/// What is measured of each system.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Row {
    PushOne,
    PushMany,
    PushBuffers,
    Jobs,
    Buffers,
    IdleHere,
    IdleElsewhere,
    BusyHere,
    BusyElsewhere,
}

/// A system, and the number of jobs that wait in it.
pub(crate) struct Case {
    pub(crate) system: Box<dyn System>,
    pub(crate) waiting: u64,
    /// A figure of each round.
    pub(crate) figures: BTreeMap<Row, Vec<f64>>,
    /// The delays of all rounds, in milliseconds.
    pub(crate) delays: BTreeMap<Row, Vec<f64>>,
}

impl Case {
    pub(crate) fn new(system: Box<dyn System>, waiting: u64) -> Self {
        Self { system, waiting, figures: BTreeMap::new(), delays: BTreeMap::new() }
    }

    fn note(&mut self, row: Row, figure: f64) {
        self.figures.entry(row).or_default().push(figure);
    }

    async fn round(&mut self, server: &mut Server, only_pushes: bool) {
        let took = self.system.time_pushes(PUSHES).await;
        self.note(Row::PushOne, f64::from(PUSHES) / took.as_secs_f64());
        let buffers = server.buffers(self.system.database()).await;
        let took = self.system.time_batches(BATCHES, BATCH as usize).await;
        let pushed = f64::from(BATCHES * BATCH);
        self.note(Row::PushMany, pushed / took.as_secs_f64());
        if let (Some(before), Some(after)) = (buffers, server.buffers(self.system.database()).await) {
            self.note(Row::PushBuffers, (after - before) / pushed);
        }
        if only_pushes {
            return;
        }
        self.jobs(server).await;
        self.delays(Row::IdleHere, Worker::Here).await;
        self.delays(Row::IdleElsewhere, Worker::Elsewhere).await;
        self.delays(Row::BusyHere, Worker::Here).await;
        self.delays(Row::BusyElsewhere, Worker::Elsewhere).await;
    }

    /// How many of the jobs that wait run in a second.
    async fn jobs(&mut self, server: &mut Server) {
        forget();
        let stop = self.system.work(Kind::Backlog, Worker::Elsewhere).await.expect("each has a worker elsewhere");
        let before = until_started(WARM_UP, LIMIT).await;
        let buffers = server.buffers(self.system.database()).await;
        let (start, first) = (Instant::now(), count());
        let last = until_started(before + JOBS, LIMIT).await;
        let ran = (last - first) as f64;
        self.note(Row::Jobs, ran / start.elapsed().as_secs_f64());
        if let (Some(before), Some(after)) = (buffers, server.buffers(self.system.database()).await) {
            self.note(Row::Buffers, (after - before) / ran.max(1.0));
        }
        stop().await;
    }

    /// How long a job takes from the return of its push to its start.
    async fn delays(&mut self, row: Row, worker: Worker) {
        let Some(stop) = self.system.work(Kind::Probe, worker).await else { return };
        forget();
        // The worker comes up.
        self.system.push(Kind::Probe).await;
        until_started(1, LIMIT).await;
        forget();
        let is_idle = matches!(row, Row::IdleHere | Row::IdleElsewhere);
        let pushes = if is_idle { IDLE_PUSHES } else { BUSY_PUSHES };
        let mut ticks = interval(if is_idle { IDLE_GAP } else { BUSY_GAP });
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut pushed, start) = (Vec::new(), Instant::now());
        while pushed.len() < pushes as usize && start.elapsed() < LONGEST {
            ticks.tick().await;
            pushed.push(self.system.push(Kind::Probe).await);
        }
        until_started(pushed.len(), LIMIT).await;
        stop().await;
        // From the return of the push: the job is stored. What never starts counts as infinitely late.
        let millis = |job: Pushed| match start_of(job.sent) {
            Some(start) => start.saturating_sub(job.returned) as f64 / 1e6,
            None => f64::INFINITY,
        };
        self.delays.entry(row).or_default().extend(pushed.into_iter().map(millis));
    }
}

/// The statistics of the PostgreSQL server, if the engine is that.
pub(crate) struct Server(Option<PgConnection>);

impl Server {
    pub(crate) const NONE: Self = Self(None);

    pub(crate) async fn connect(url: &str) -> Self {
        let mut connection = PgConnection::connect(&format!("{url}/postgres")).await.unwrap();
        let create = "CREATE EXTENSION IF NOT EXISTS pg_stat_statements";
        sqlx::query(create).execute(&mut connection).await.unwrap();
        Self(Some(connection))
    }

    pub(crate) fn into_connection(self) -> Option<PgConnection> {
        self.0
    }

    /// How many buffers the statements in a database have read.
    async fn buffers(&mut self, database: Option<&str>) -> Option<f64> {
        let sum =
            "SELECT coalesce(sum(shared_blks_hit + shared_blks_read), 0)::float8 FROM pg_stat_statements AS statement
            JOIN pg_database ON pg_database.oid = statement.dbid WHERE datname = $1";
        let connection = self.0.as_mut()?;
        Some(sqlx::query_scalar(sum).bind(database?).fetch_one(connection).await.unwrap())
    }
}

/// Loads, measures in turns, and prints the table of an engine.
pub(crate) async fn all(engine: &Engine, mut cases: Vec<Case>, rounds: u64) {
    let (mut server, mut floor, engine) = (engine.server().await, engine.floor().await, engine.name());
    for case in &mut cases {
        case.system.load(case.waiting).await;
        eprintln!("{engine}: {} has loaded {} jobs", case.system.name(), case.waiting);
    }
    // The database writes out what was loaded.
    sleep(Duration::from_secs(5)).await;
    let only_pushes = std::env::var_os("ONLY_PUSHES").is_some();
    let (mut one, mut many) = (Vec::new(), Vec::new());
    for round in 1..=rounds {
        one.push(floor.one().await);
        many.push(floor.many().await);
        for case in &mut cases {
            let start = Instant::now();
            case.round(&mut server, only_pushes).await;
            let (name, waiting, took) = (case.system.name(), case.waiting, start.elapsed());
            eprintln!("{engine}: round {round}, {name} with {waiting} waiting: {took:.1?}");
        }
    }
    table::print(&engine, &cases, floor.name(), &one, &many);
}
