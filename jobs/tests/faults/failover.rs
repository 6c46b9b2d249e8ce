//! A server is lost for good, and its replica takes over.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use parking_lot::Mutex;
use postlude::TaskRegistry;
use postlude_jobs::{JobId, JobState};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::{
    child::{Config, KEPT, Process, Role, builder},
    common::{postgres::Server, until, until_state},
    proxy::Proxy,
    work::{Action, Log, ToughWork, Work},
};

/// What the pushes have acknowledged.
type Acknowledged = Arc<Mutex<BTreeMap<u64, JobId>>>;

/// The server is killed while four producers push and two processes work. Its replica, of which each commit has waited,
/// is promoted, and what is between the programs and the servers leads to it. All that was acknowledged is there, and
/// runs; producers and workers come back by themselves.
pub(crate) async fn a_replica_takes_over() {
    let (server, folder) = (Server::create(), tempfile::tempdir().unwrap());
    let replica = server.replica().await;
    let direct = server.create_database().await;
    let proxy = Proxy::start(server.port()).await;
    let address = proxy.address(&direct, server.port());
    let log = Log::new(folder.path().join("log"));
    let workers = [(); 2].map(|()| Config::new(Role::Worker, &address, log.path()).lease(KEPT).start());

    let (producers, stop) = (TaskRegistry::new(), CancellationToken::new());
    let acknowledged = Acknowledged::default();
    for first in 0..4 {
        let jobs = builder(&address, TaskRegistry::new()).await.push_timeout(Duration::from_secs(2));
        let jobs = jobs.producer().await.unwrap();
        let (acknowledged, stop) = (Arc::clone(&acknowledged), stop.clone());
        producers.spawn(async move {
            for number in (first..).step_by(4).take_while(|_| !stop.is_cancelled()) {
                match jobs.push(ToughWork(Work::new(number, Action::Take(20)))).await {
                    Ok(id) => drop(acknowledged.lock().insert(number, id)),
                    Err(_) => sleep(Duration::from_millis(50)).await,
                }
            }
        });
    }
    until("some are pushed, and some have run", async || acknowledged.lock().len() >= 100 && log.ends().len() >= 20)
        .await;
    server.kill();
    let before = acknowledged.lock().len();
    replica.promote().await;
    proxy.lead_to(replica.port());
    until("pushes are acknowledged again", async || acknowledged.lock().len() >= before + 100).await;
    stop.cancel();
    producers.wait_idle().await;

    let direct = direct.replace(&format!(":{}/", server.port()), &format!(":{}/", replica.port()));
    let direct = builder(&direct, TaskRegistry::new()).await.producer().await.unwrap();
    let acknowledged = acknowledged.lock().clone();
    for (number, id) in acknowledged {
        let info = until_state(&direct, id, JobState::Completed).await;
        let ends = log.ends().get(&number).copied().unwrap_or_default();
        assert!((1..=1 + info.crashes as usize).contains(&ends), "job {number} was done {ends} times: {info:?}");
    }
    workers.into_iter().for_each(Process::shut_down);
}
