//! The engine, and the systems that use it.

use std::{
    env,
    path::{Path, PathBuf},
};

use sqlx::{AssertSqlSafe, Connection, PgConnection};

use crate::{
    apalis_brokers::{ApalisAmqp, ApalisRedis},
    apalis_peers::{ApalisPostgres, ApalisSqlite},
    celery::Celery,
    floor::Floor,
    graphile::Graphile,
    measure::Server,
    postlude::Postlude,
    system::System,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Sqlite,
    Postgresql,
    Redis,
    Rabbitmq,
}

pub(crate) struct Engine {
    pub(crate) kind: Kind,
    /// The address of the server, without a database.
    pub(crate) url: String,
    pub(crate) folder: PathBuf,
}

impl Engine {
    pub(crate) fn from_environment() -> Self {
        let variable = |name: &str| env::var(name).unwrap_or_else(|_| panic!("scripts/measure-jobs sets {name}"));
        let kind = match variable("ENGINE").as_str() {
            "sqlite" => Kind::Sqlite,
            "postgresql" => Kind::Postgresql,
            "redis" => Kind::Redis,
            "rabbitmq" => Kind::Rabbitmq,
            other => panic!("ENGINE is sqlite, postgresql, redis or rabbitmq, not {other}"),
        };
        let url = if kind == Kind::Sqlite { String::new() } else { variable("SERVER_URL") };
        Self { kind, url, folder: variable("FOLDER").into() }
    }

    pub(crate) fn name(&self) -> String {
        match self.kind {
            Kind::Sqlite => "SQLite".to_owned(),
            Kind::Postgresql => "PostgreSQL".to_owned(),
            Kind::Redis => format!("Redis, `appendfsync {}`", env::var("FSYNC").unwrap_or_default()),
            Kind::Rabbitmq => "RabbitMQ".to_owned(),
        }
    }

    /// How many jobs wait at most.
    pub(crate) fn most_waiting(&self) -> u64 {
        if self.kind == Kind::Rabbitmq { 100_000 } else { 1_000_000 }
    }

    /// The process of the server.
    pub(crate) fn server_pid(&self) -> Option<u32> {
        env::var("SERVER_PID").ok().map(|pid| pid.parse().unwrap())
    }

    /// postlude-jobs with a queue of this name, which may exist.
    pub(crate) async fn postlude(&self, name: &str) -> Postlude {
        match self.kind {
            Kind::Sqlite => Postlude::on_sqlite(&self.path(&format!("postlude-{name}"))).await,
            Kind::Postgresql => {
                Postlude::on_postgres(&self.url, self.database(&format!("postlude_{name}")).await).await
            }
            Kind::Redis => Postlude::on_redis(&self.url, name).await,
            Kind::Rabbitmq => Postlude::on_rabbit(&self.url, name).await,
        }
    }

    /// All systems, with queues of this name.
    pub(crate) async fn systems(&self, name: &str) -> Vec<Box<dyn System>> {
        let own: Box<dyn System> = Box::new(self.postlude(name).await);
        let mut systems = vec![own];
        match self.kind {
            Kind::Sqlite => {
                systems.push(Box::new(ApalisSqlite::synced(&self.path(&format!("apalis-{name}"))).await));
                let path = self.path(&format!("apalis-not-synced-{name}"));
                systems.push(Box::new(ApalisSqlite::not_synced(&path).await));
            }
            Kind::Postgresql => {
                let database = self.database(&format!("apalis_{name}")).await;
                systems.push(Box::new(ApalisPostgres::new(&self.url, database).await));
                let database = self.database(&format!("graphile_{name}")).await;
                systems.push(Box::new(Graphile::new(&self.url, database).await));
            }
            Kind::Redis => {
                systems.push(Box::new(ApalisRedis::new(&self.url, name).await));
                systems.push(Box::new(Celery::new(&self.url, name, &self.folder)));
            }
            Kind::Rabbitmq => {
                systems.push(Box::new(ApalisAmqp::new(&self.url, name)));
                systems.push(Box::new(Celery::new(&self.url, name, &self.folder)));
            }
        }
        systems
    }

    pub(crate) async fn floor(&self) -> Floor {
        match self.kind {
            Kind::Sqlite => Floor::sqlite(&self.path("floor")).await,
            Kind::Postgresql => Floor::pgbench(&self.url, &self.database("floor").await, &self.folder).await,
            Kind::Redis => Floor::redis_benchmark(&self.url),
            Kind::Rabbitmq => Floor::amqp(&self.url).await,
        }
    }

    pub(crate) async fn server(&self) -> Server {
        if self.kind == Kind::Postgresql { Server::connect(&self.url).await } else { Server::NONE }
    }

    fn path(&self, name: &str) -> String {
        Path::new(&self.folder).join(format!("{name}.db")).display().to_string()
    }

    /// Creates a database of the PostgreSQL server, unless it exists. Returns its name.
    async fn database(&self, name: &str) -> String {
        let mut connection = PgConnection::connect(&format!("{}/postgres", self.url)).await.unwrap();
        let exists = sqlx::query("SELECT FROM pg_database WHERE datname = $1").bind(name);
        if exists.fetch_optional(&mut connection).await.unwrap().is_none() {
            sqlx::query(AssertSqlSafe(format!("CREATE DATABASE {name}"))).execute(&mut connection).await.unwrap();
        }
        name.to_owned()
    }
}
