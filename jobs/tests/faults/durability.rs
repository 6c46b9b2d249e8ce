//! What has been acknowledged is stored: after a `kill -9`, and on the disk.

use std::{collections::BTreeSet, fs, path::Path, process::Command};

use postlude::TaskRegistry;

use crate::{
    child::{Config, Role, builder},
    common::until,
    engine::Engine,
    work::{Entry, Log},
    workers::Case,
};

pub(crate) fn pushed(log: &Log) -> BTreeSet<u64> {
    let entries = log.entries().into_iter();
    entries.filter_map(|entry| if let Entry::Pushed { number } = entry { Some(number) } else { None }).collect()
}

/// A process is killed between two of its pushes, or in one.
pub(crate) async fn a_producer_is_killed<E: Engine>() {
    const KILLS: usize = 3;
    let case = Case::<E>::create().await;
    let mut acknowledged = 0;
    for kill in 1..=KILLS {
        let log = Log::new(case.folder.path().join(format!("pushed {kill}")));
        let producer = Config::new(Role::Producer, &case.engine.address(), log.path()).start();
        until("some are pushed", async || pushed(&log).len() >= 50).await;
        producer.kill();
        acknowledged += pushed(&log).len();
    }
    let worker = case.worker();
    until("nothing is left", async || {
        // A new handle: the figures of one are cached for a while.
        let jobs = builder(&case.engine.address(), TaskRegistry::new()).await.producer().await.unwrap();
        let left = jobs.stats().await.unwrap().get("work");
        left.waiting + left.running == 0
    })
    .await;
    worker.shut_down();
    let done: usize = case.log.ends().into_values().sum();
    // Of each process, the last push may have been stored without an answer.
    assert!((acknowledged..=acknowledged + KILLS).contains(&done), "{done} ran of {acknowledged}");
}

/// Whether strace can watch processes here.
pub(crate) fn can_trace() -> bool {
    Command::new("strace").args(["-o", "/dev/null", "true"]).status().is_ok_and(|status| status.success())
}

/// Whether a line of a trace says that something has been written to the disk.
fn is_synced(line: &str) -> bool {
    (line.contains("fdatasync") || line.contains("fsync")) && line.trim_end().ends_with("= 0")
}

/// How many of the answers came, and how many of them without a sync since the one before.
pub(crate) fn answers(trace: &Path, is_answer: impl Fn(&str) -> bool) -> (usize, usize) {
    let (mut is_on_disk, mut all, mut too_early) = (false, 0, 0);
    for line in fs::read_to_string(trace).unwrap().lines() {
        if is_synced(line) {
            is_on_disk = true;
        } else if is_answer(line) {
            all += 1;
            too_early += usize::from(!std::mem::replace(&mut is_on_disk, false));
        }
    }
    (all, too_early)
}

/// Before a push returns, SQLite has synced its log: a power failure would not lose the job.
#[cfg(feature = "sqlite")]
pub(crate) async fn synced_before_push_returns_by_sqlite() {
    let case = Case::<crate::engine::Sqlite>::create().await;
    let trace = case.folder.path().join("trace");
    let path = trace.display().to_string();
    let strace = ["strace", "-f", "-s", "64", "-e", "trace=write,fdatasync,fsync", "-o", &path, "--"];
    let producer = case.config(Role::Producer).started_by(&strace).start();
    until("some are pushed", async || pushed(&case.log).len() >= 20).await;
    producer.shut_down();
    // The process notes what `push` has returned.
    let (all, too_early) = answers(&trace, |line| line.contains("write(") && line.contains("Pushed"));
    assert!(all >= 20 && too_early == 0, "{too_early} of {all} pushes returned before the disk had them");
}

/// Before a push returns, the server has synced its log.
#[cfg(feature = "postgres")]
pub(crate) async fn synced_before_push_returns_by_postgresql() {
    use std::process::Stdio;

    use crate::{
        common::postgres::Server,
        work::{Action, Work},
    };

    let server = Server::create();
    let address = server.create_database().await;
    let jobs = builder(&address, TaskRegistry::new()).await.producer().await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let trace = folder.path().join("trace");
    let mut tracer = Command::new("strace")
        .args(["-f", "-s", "300", "-e", "trace=sendto,fdatasync,fsync", "-o"])
        .arg(&trace)
        .args(["-p", &server.pid().unwrap().to_string()])
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    // The connections of the pushes are made when the server is traced.
    let push = async |jobs: &postlude_jobs::Jobs| jobs.push(Work::new(0, Action::Take(0))).await.unwrap();
    let is_answer = |line: &str| line.contains("sendto(") && line.contains("INSERT 0 1");
    until("the server is traced", async || {
        let jobs = builder(&address, TaskRegistry::new()).await.producer().await.unwrap();
        push(&jobs).await;
        trace.exists() && answers(&trace, is_answer).0 > 0
    })
    .await;
    drop(jobs);
    let before = answers(&trace, is_answer).0;
    let jobs = builder(&address, TaskRegistry::new()).await.producer().await.unwrap();
    for _ in 0..20 {
        push(&jobs).await;
    }
    until("the trace is written", async || answers(&trace, is_answer).0 >= before + 20).await;
    let status = Command::new("kill").args(["-INT", &tracer.id().to_string()]).status().unwrap();
    assert!(status.success());
    tracer.wait().unwrap();
    let (all, too_early) = answers(&trace, is_answer);
    assert_eq!(too_early, 0, "{too_early} of {all} pushes returned before the disk had them");
}
