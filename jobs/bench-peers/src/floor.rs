//! What the engine itself can do: a plain insert, one row or a hundred rows in a transaction.

use std::{fs, path::Path, path::PathBuf, process::Command, time::Instant};

use sqlx::{
    Connection, PgConnection, SqliteConnection,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous},
};

use crate::measure::{BATCH, BATCHES, PUSHES};

pub(crate) enum Floor {
    Sqlite(SqliteConnection),
    Pgbench { url: String, one: PathBuf, many: PathBuf },
}

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

    pub(crate) async fn pgbench(url: &str, folder: &Path) -> Self {
        let mut connection = PgConnection::connect(url).await.unwrap();
        let create = "CREATE TABLE plain (id bigserial PRIMARY KEY, payload bytea NOT NULL)";
        sqlx::query(create).execute(&mut connection).await.unwrap();
        let (one, many) = (folder.join("one.sql"), folder.join("many.sql"));
        let payload = "'{\"sent\":1234567890}'::bytea";
        fs::write(&one, format!("INSERT INTO plain (payload) VALUES ({payload});\n")).unwrap();
        let insert = format!("INSERT INTO plain (payload) SELECT {payload} FROM generate_series(1, {BATCH});\n");
        fs::write(&many, insert).unwrap();
        Self::Pgbench { url: url.to_owned(), one, many }
    }

    /// Rows per second, one at a time.
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
        }
    }

    /// Rows per second, a hundred at a time.
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
