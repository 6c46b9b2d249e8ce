//! What the engine itself can do, one at a time and a hundred at a time: a plain insert, where a transaction has a row or
//! a hundred; a plain `LPUSH`, where a hundred are sent together; a plain message of a quorum queue that the broker
//! confirms, where a hundred are sent before the first is confirmed.

use std::{fs, path::Path, path::PathBuf, process::Command, time::Instant};

use lapin::{
    BasicProperties, Channel, Confirmation,
    options::{BasicPublishOptions, QueueDeclareOptions},
    types::{AMQPValue, FieldTable},
};
use sqlx::{
    Connection, PgConnection, SqliteConnection,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous},
};

use crate::{
    amqp,
    measure::{BATCH, BATCHES, PUSHES},
};

pub(crate) enum Floor {
    Sqlite(SqliteConnection),
    Pgbench { url: String, one: PathBuf, many: PathBuf },
    RedisBenchmark { url: String },
    Amqp { _connection: lapin::Connection, channel: Channel },
}

const PAYLOAD: &str = r#"{"sent":1234567890}"#;

/// The queue of plain messages.
const QUEUE: &str = "plain";

const INSERT: &str = "INSERT INTO plain (payload) VALUES (x'7b2273656e74223a313233343536373839307d')";

impl Floor {
    pub(crate) async fn sqlite(path: &str) -> Self {
        let options = SqliteConnectOptions::new().filename(path).create_if_missing(true);
        let options = options.journal_mode(SqliteJournalMode::Wal).synchronous(SqliteSynchronous::Full);
        let mut connection = SqliteConnection::connect_with(&options).await.unwrap();
        let create = "CREATE TABLE plain (id INTEGER PRIMARY KEY, payload BLOB NOT NULL)";
        sqlx::query(create).execute(&mut connection).await.unwrap();
        Self::Sqlite(connection)
    }

    pub(crate) async fn pgbench(server: &str, database: &str, folder: &Path) -> Self {
        let url = format!("{server}/{database}");
        let mut connection = PgConnection::connect(&url).await.unwrap();
        let create = "CREATE TABLE plain (id bigserial PRIMARY KEY, payload bytea NOT NULL)";
        sqlx::query(create).execute(&mut connection).await.unwrap();
        let (one, many) = (folder.join("one.sql"), folder.join("many.sql"));
        let payload = "'{\"sent\":1234567890}'::bytea";
        fs::write(&one, format!("INSERT INTO plain (payload) VALUES ({payload});\n")).unwrap();
        let insert = format!("INSERT INTO plain (payload) SELECT {payload} FROM generate_series(1, {BATCH});\n");
        fs::write(&many, insert).unwrap();
        Self::Pgbench { url, one, many }
    }

    pub(crate) fn redis_benchmark(url: &str) -> Self {
        Self::RedisBenchmark { url: url.to_owned() }
    }

    pub(crate) async fn amqp(url: &str) -> Self {
        let (connection, channel) = amqp::connect(url).await;
        let mut arguments = FieldTable::default();
        arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
        channel.queue_declare(QUEUE.into(), QueueDeclareOptions::durable(), arguments).await.unwrap();
        Self::Amqp { _connection: connection, channel }
    }

    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Sqlite(_) | Self::Pgbench { .. } => "plain insert",
            Self::RedisBenchmark { .. } => "plain `LPUSH`",
            Self::Amqp { .. } => "plain message",
        }
    }

    /// How many per second, one at a time.
    pub(crate) async fn one(&mut self) -> f64 {
        match self {
            Self::Sqlite(connection) => {
                let start = Instant::now();
                for _ in 0..PUSHES {
                    sqlx::query(INSERT).execute(&mut *connection).await.unwrap();
                }
                f64::from(PUSHES) / start.elapsed().as_secs_f64()
            }
            Self::Pgbench { url, one, .. } => pgbench(url, one, PUSHES),
            Self::RedisBenchmark { url } => redis_benchmark(url, PUSHES, 1),
            Self::Amqp { channel, .. } => publish(channel, PUSHES, 1).await,
        }
    }

    /// How many per second, a hundred at a time.
    pub(crate) async fn many(&mut self) -> f64 {
        match self {
            Self::Sqlite(connection) => {
                let start = Instant::now();
                for _ in 0..BATCHES {
                    let mut transaction = connection.begin().await.unwrap();
                    for _ in 0..BATCH {
                        sqlx::query(INSERT).execute(&mut *transaction).await.unwrap();
                    }
                    transaction.commit().await.unwrap();
                }
                f64::from(BATCHES * BATCH) / start.elapsed().as_secs_f64()
            }
            Self::Pgbench { url, many, .. } => pgbench(url, many, BATCHES) * f64::from(BATCH),
            Self::RedisBenchmark { url } => redis_benchmark(url, BATCHES * BATCH, BATCH),
            Self::Amqp { channel, .. } => publish(channel, BATCHES, BATCH).await,
        }
    }
}

/// Transactions per second of one client.
fn pgbench(url: &str, script: &Path, transactions: u32) -> f64 {
    let mut command = Command::new("pgbench");
    command.args(["--no-vacuum", "--protocol=prepared", "-c", "1", "-t", &transactions.to_string()]);
    let output = command.arg("-f").arg(script).arg(url).output().expect("pgbench is installed");
    let text = String::from_utf8_lossy(&output.stdout);
    let tps = text.lines().find_map(|line| line.strip_prefix("tps = "));
    let tps = tps.unwrap_or_else(|| panic!("{text}{}", String::from_utf8_lossy(&output.stderr)));
    tps.split_whitespace().next().unwrap().parse().unwrap()
}

/// Commands per second of one client that sends commands in groups.
fn redis_benchmark(url: &str, commands: u32, together: u32) -> f64 {
    let port = url.rsplit(':').next().unwrap();
    let mut command = Command::new("redis-benchmark");
    command.args(["-h", "127.0.0.1", "-p", port, "-c", "1", "-n", &commands.to_string(), "-P", &together.to_string()]);
    let output = command.args(["--csv", "LPUSH", "plain", PAYLOAD]).output().expect("redis-benchmark is installed");
    let text = String::from_utf8_lossy(&output.stdout);
    // In quotes: the command, the rate, and figures of latency.
    let rate = text.lines().last().and_then(|line| line.split("\",\"").nth(1)?.parse().ok());
    rate.unwrap_or_else(|| panic!("{text}{}", String::from_utf8_lossy(&output.stderr)))
}

/// Messages per second that are sent in groups; the broker confirms each message.
async fn publish(channel: &Channel, times: u32, together: u32) -> f64 {
    let start = Instant::now();
    for _ in 0..times {
        let mut confirms = Vec::new();
        for _ in 0..together {
            let (options, properties) = (BasicPublishOptions::default(), BasicProperties::default());
            let publish = channel.basic_publish("".into(), QUEUE.into(), options, PAYLOAD.as_bytes(), properties);
            confirms.push(publish.await.unwrap());
        }
        for confirm in confirms {
            assert!(matches!(confirm.await.unwrap(), Confirmation::Ack(None)));
        }
    }
    f64::from(times * together) / start.elapsed().as_secs_f64()
}
