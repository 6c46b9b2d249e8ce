//! postlude-jobs beside apalis and graphile_worker, and beside the plain insert of each engine, in one run. The systems
//! take turns, so that what else the machine does hits all of them. `scripts/measure-jobs` starts it.
//!
//! It prints the table that is in the chapter on the speed of jobs.

mod apalis_peers;
mod floor;
mod graphile;
mod measure;
mod postlude;
mod system;
mod table;

use std::env;

use sqlx::{AssertSqlSafe, Connection, PgConnection};

use self::{
    measure::{Case, Server},
    system::System,
};

/// How many jobs wait.
const WAITING: [u64; 2] = [1_000, 1_000_000];

fn setting(name: &str, default: u64) -> u64 {
    env::var(name).map_or(default, |value| value.parse().unwrap())
}

#[tokio::main]
async fn main() {
    let url = env::var("DATABASE_URL").expect("DATABASE_URL is the address of a server, without a database");
    let (rounds, engine) = (setting("ROUNDS", 3), env::var("ENGINE").unwrap_or_default());
    let large = setting("WAITING", WAITING[1]);
    let folder = tempfile::tempdir_in(env::var("FOLDER").unwrap_or_else(|_| "/tmp".to_owned())).unwrap();
    let mut server = Server::connect(&url).await;

    if engine != "postgresql" {
        let mut cases = Vec::new();
        for waiting in [WAITING[0], large] {
            let path = |name: &str| folder.path().join(format!("{name}-{waiting}.db")).display().to_string();
            let systems: [Box<dyn System>; 3] = [
                Box::new(postlude::Postlude::on_sqlite(&path("postlude")).await),
                Box::new(apalis_peers::ApalisSqlite::synced(&path("apalis")).await),
                Box::new(apalis_peers::ApalisSqlite::not_synced(&path("apalis-not-synced")).await),
            ];
            cases.extend(systems.map(|system| Case::new(system, waiting)));
        }
        let floor = floor::Floor::sqlite(&folder.path().join("floor.db").display().to_string()).await;
        measure::all("SQLite", cases, floor, rounds, &mut server).await;
    }
    if engine != "sqlite" {
        let mut cases = Vec::new();
        for waiting in [WAITING[0], large] {
            let database = async |name: &str| {
                let database = format!("{name}_{waiting}");
                create(&url, &database).await;
                (format!("{url}/{database}"), database)
            };
            let (own, own_name) = database("postlude").await;
            let (apalis, apalis_name) = database("apalis").await;
            let (graphile, graphile_name) = database("graphile").await;
            let systems: [Box<dyn System>; 3] = [
                Box::new(postlude::Postlude::on_postgres(&own, own_name).await),
                Box::new(apalis_peers::ApalisPostgres::new(&apalis, apalis_name).await),
                Box::new(graphile::Graphile::new(&graphile, graphile_name).await),
            ];
            cases.extend(systems.map(|system| Case::new(system, waiting)));
        }
        create(&url, "floor").await;
        let floor = floor::Floor::pgbench(&format!("{url}/floor"), folder.path()).await;
        measure::all("PostgreSQL", cases, floor, rounds, &mut server).await;
    }
}

async fn create(url: &str, database: &str) {
    let mut connection = PgConnection::connect(&format!("{url}/postgres")).await.unwrap();
    sqlx::query(AssertSqlSafe(format!("CREATE DATABASE {database}"))).execute(&mut connection).await.unwrap();
}
