//! What only Redis can suffer: when it syncs, its memory limit, its users, a cluster whose node is another one, and a
//! failover by Redis Sentinel.

use std::{
    error::Error,
    process::{Command, Stdio},
    time::Duration,
};

use postlude::TaskRegistry;
use postlude_jobs::{JobState, Jobs, JobsBuilder, PushErrorKind, QueueError, redis::RedisQueue};
use redis::{
    Client, ConnectionAddr, TlsCertificates,
    sentinel::{SentinelClientBuilder, SentinelServerType},
};
use tokio::time::sleep;

use crate::{
    certificate,
    child::{Config, KEPT, Process, Role, builder},
    common::{
        redis::{Fsync, Server, WATCHED_AS},
        until, until_state,
    },
    durability::answers,
    work::{Action, Log, Work},
};

fn server(settings: &[&str]) -> Server {
    Server::create_with(Fsync::Always, settings, Vec::new())
}

fn work(number: u64) -> Work {
    Work::new(number, Action::Take(0))
}

async fn producer(address: &str) -> Jobs {
    builder(address, TaskRegistry::new()).await.push_timeout(Duration::from_secs(2)).producer().await.unwrap()
}

/// An error with its sources.
fn whole(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

/// How many pushes were answered, and how many of them before the disk had them.
async fn trace_pushes(fsync: Fsync) -> (usize, usize) {
    let server = Server::create_with(fsync, &[], Vec::new());
    let trace = server.folder().join("trace");
    let mut tracer = Command::new("strace")
        .args(["-f", "-s", "64", "-e", "trace=write,writev,sendto,fdatasync,fsync", "-o"])
        .arg(&trace)
        .args(["-p", &server.pid().unwrap().to_string()])
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let jobs = producer(&server.url()).await;
    // An array of one id. What goes to the log begins with other commands.
    let is_answer = |line: &str| line.contains(r#""*1\r\n$36\r\n"#);
    until("the server is traced", async || {
        jobs.push(work(0)).await.unwrap();
        trace.exists() && answers(&trace, is_answer).0 > 0
    })
    .await;
    // The first answer may have been synced before the trace began.
    let (before, early_before) = answers(&trace, is_answer);
    for number in 0..20 {
        jobs.push(work(number)).await.unwrap();
    }
    until("the trace is written", async || answers(&trace, is_answer).0 >= before + 20).await;
    let status = Command::new("kill").args(["-INT", &tracer.id().to_string()]).status().unwrap();
    assert!(status.success());
    tracer.wait().unwrap();
    let (all, early) = answers(&trace, is_answer);
    (all - before, early - early_before)
}

/// With `appendfsync always`, the server has synced its log before a push returns.
pub(crate) async fn synced_before_push_returns() {
    let (all, too_early) = trace_pushes(Fsync::Always).await;
    assert_eq!(too_early, 0, "{too_early} of {all} pushes returned before the disk had them");
}

/// With `appendfsync everysec`, pushes return before: a power failure loses them, as the guide says.
pub(crate) async fn each_second_is_synced_later() {
    let (all, early) = trace_pushes(Fsync::EverySecond).await;
    assert!(early >= 15, "only {early} of {all} pushes returned before the disk had them");
}

/// With `appendfsync everysec`, the server writes its log later while it syncs: a server that is killed loses what it
/// has not written, and nothing else.
pub(crate) async fn each_second_keeps_what_is_written() {
    let server = Server::create_with(Fsync::EverySecond, &[], Vec::new());
    let mut ids = Vec::new();
    for round in 0..5 {
        let jobs = producer(&server.url()).await;
        for number in 0..50 {
            ids.push(jobs.push(work(round * 50 + number)).await.unwrap());
        }
        until("all is written", async || {
            let info: String = server.ask(&["INFO", "persistence"]).await;
            info.contains("aof_buffer_length:0\r\n") && info.contains("aof_pending_bio_fsync:0\r\n")
        })
        .await;
        // These may be lost.
        jobs.push_all((1_000..1_050).map(work).collect()).await.unwrap();
        server.kill();
        server.start();
        let jobs = producer(&server.url()).await;
        for id in &ids {
            assert!(jobs.find(*id).await.unwrap().is_some(), "{id} was written, and is lost");
        }
    }
}

/// What the server is set to keep is told, and what it does not tell is unknown.
pub(crate) async fn durability_is_told() {
    let server = server(&[]);
    let told = RedisQueue::connect(&server.url()).await.unwrap().durability().await.unwrap();
    assert_eq!(told.to_string(), "appendonly yes, appendfsync always, maxmemory-policy noeviction");

    // A managed server: it forbids `CONFIG`, and may forbid `INFO`.
    for (forbidden, expected) in [
        ("-config", "appendonly yes, appendfsync unknown, maxmemory-policy noeviction"),
        ("-info", "appendonly unknown, appendfsync unknown, maxmemory-policy unknown"),
    ] {
        server
            .ask::<()>(&["ACL", "SETUSER", "guest", "on", ">secret", "~*", "&*", "+@all", "-config", forbidden])
            .await;
        let queue = RedisQueue::connect(&server.url().replace("//", "//guest:secret@")).await.unwrap();
        assert_eq!(queue.durability().await.unwrap().to_string(), expected);
        Jobs::producer(queue).await.unwrap().push(work(1)).await.unwrap();
    }
}

/// At the memory limit pushes are refused, with what to do, and workers go on and make room.
pub(crate) async fn memory_limit() {
    let (server, folder) = (server(&[]), tempfile::tempdir().unwrap());
    let log = Log::new(folder.path().join("log"));
    let jobs = producer(&server.url()).await;
    let info: String = server.ask(&["INFO", "memory"]).await;
    let used = info.lines().find_map(|line| line.strip_prefix("used_memory:")).unwrap();
    let limit = used.trim().parse::<u64>().unwrap() + 3 * 1024 * 1024;
    server.ask::<()>(&["CONFIG", "SET", "maxmemory", &limit.to_string()]).await;

    let large = |number| Work { ballast: "x".repeat(4_000), ..work(number) };
    let mut pushed = 0;
    let error = loop {
        match jobs.push(large(pushed)).await {
            Ok(_) => pushed += 1,
            Err(error) => break error,
        }
        assert!(pushed < 5_000, "the limit is reached");
    };
    assert!(!error.may_be_stored(), "{error:?}");
    let text = whole(&error);
    assert!(text.contains("the memory limit is reached: raise `maxmemory`"), "{text}");
    // All or none: there is room for some of them, once a little is freed.
    jobs.push_all((0..1_000).map(|number| large(100_000 + number)).collect()).await.unwrap_err();
    assert_eq!(jobs.stats().await.unwrap().get("work").waiting, pushed);

    let worker = Config::new(Role::Worker, &server.url(), log.path()).start();
    let ended = || u64::try_from(log.ends().len()).unwrap();
    until("all that was stored has run", async || ended() == pushed).await;
    until("all is settled, and there is room again", async || jobs.push(large(pushed)).await.is_ok()).await;
    until("it has run, too", async || ended() == pushed + 1).await;
    worker.shut_down();
    assert!(log.ends().values().all(|count| *count == 1), "none ran twice");
}

/// The user of the guide.
fn guide_user() -> Vec<&'static str> {
    let guide = include_str!("../../docs/jobs.md");
    let line = guide.lines().find(|line| line.starts_with("ACL SETUSER jobs")).expect("the guide has the user");
    line.split(' ').collect()
}

/// The user of the queue is deleted: errors say so, workers neither end nor spin, and go on when it is back.
pub(crate) async fn credentials_revoked() {
    let (server, folder) = (server(&[]), tempfile::tempdir().unwrap());
    server.ask::<()>(&guide_user()).await;
    let address = server.url().replace("//", "//jobs:secret@");
    let log = Log::new(folder.path().join("log"));
    let mut worker = Config::new(Role::Worker, &address, log.path()).start();
    let jobs = producer(&address).await;
    let id = jobs.push(work(1)).await.unwrap();
    until_state(&jobs, id, JobState::Completed).await;

    server.ask::<()>(&["ACL", "DELUSER", "jobs"]).await;
    // The server has cut the connections; the next push makes a new one.
    let mut error = jobs.push(work(2)).await.unwrap_err();
    if error.may_be_stored() {
        error = jobs.push(work(2)).await.unwrap_err();
    }
    assert!(matches!(error.kind(), PushErrorKind::Queue(QueueError::Refused { .. })), "{error:?}");
    assert!(
        whole(&error).contains("the credentials are refused: check the user and the password"),
        "{}",
        whole(&error)
    );
    let start = RedisQueue::connect(&address).await.unwrap_err();
    assert!(matches!(start, QueueError::Refused { .. }), "{start:?}");

    let connections = async || {
        let info: String = server.ask(&["INFO", "stats"]).await;
        let count = info.lines().find_map(|line| line.strip_prefix("total_connections_received:")).unwrap();
        count.trim().parse::<u64>().unwrap()
    };
    let before = connections().await;
    sleep(Duration::from_secs(3)).await;
    let tried = connections().await - before;
    assert!((1..100).contains(&tried), "it tries, and does not spin: {tried} connections in 3 s");
    assert!(!worker.has_ended());

    server.ask::<()>(&guide_user()).await;
    let id = jobs.push(work(3)).await.unwrap();
    until_state(&jobs, id, JobState::Completed).await;
    worker.shut_down();
    assert_eq!(log.ends(), [(1, 1), (3, 1)].into());
}

/// A user without the channel: workers look for jobs instead.
pub(crate) async fn without_permission_for_the_channel() {
    let (server, folder) = (server(&[]), tempfile::tempdir().unwrap());
    let user = guide_user().into_iter().filter(|word| !word.starts_with('&')).collect::<Vec<_>>();
    server.ask::<()>(&user).await;
    let address = server.url().replace("//", "//jobs:secret@");
    let log = Log::new(folder.path().join("log"));
    let worker = Config::new(Role::Worker, &address, log.path()).start();
    let jobs = producer(&address).await;
    for number in 1..=3 {
        let id = jobs.push(work(number)).await.unwrap();
        until_state(&jobs, id, JobState::Completed).await;
    }
    worker.shut_down();
}

/// Workers subscribe, and are told of a push where none was waiting, and of no other.
pub(crate) async fn workers_are_told() {
    const CHANNEL: &str = "postlude:{jobs}:changed";
    let (server, folder) = (server(&[]), tempfile::tempdir().unwrap());
    let told = async || {
        let info: String = server.ask(&["INFO", "commandstats"]).await;
        let calls = info.lines().find_map(|line| line.strip_prefix("cmdstat_publish:calls="));
        calls.map_or(0, |calls| calls.split(',').next().unwrap().parse::<u64>().unwrap())
    };
    let jobs = producer(&server.url()).await;
    jobs.push(work(1)).await.unwrap();
    assert_eq!(told().await, 1);
    jobs.push(work(2)).await.unwrap();
    jobs.push_all((3..10).map(work).collect()).await.unwrap();
    assert_eq!(told().await, 1, "workers know that some wait");

    let log = Log::new(folder.path().join("log"));
    let worker = Config::new(Role::Worker, &server.url(), log.path()).start();
    until("all have run", async || log.ends().len() == 9).await;
    until("it has subscribed", async || {
        let (_, subscribers): (String, u64) = server.ask(&["PUBSUB", "NUMSUB", CHANNEL]).await;
        subscribers == 1
    })
    .await;
    jobs.push(work(10)).await.unwrap();
    assert_eq!(told().await, 2);
    until("it has run", async || log.ends().len() == 10).await;
    worker.shut_down();
}

/// A reservation whose answer was lost: nobody knows of its jobs, and they wait for no lease.
pub(crate) async fn what_is_reserved_and_not_held_is_released() {
    let script = redis::Script::new(concat!(
        include_str!("../../src/queue/redis/scripts/common.lua"),
        include_str!("../../src/queue/redis/scripts/release_others.lua")
    ));
    let (server, folder) = (server(&[]), tempfile::tempdir().unwrap());
    let log = Log::new(folder.path().join("log"));
    let worker = Config::new(Role::Worker, &server.url(), log.path()).lease(crate::child::NEVER_LOST).start();
    let jobs = producer(&server.url()).await;
    let mut ids = Vec::new();
    for number in 0..5 {
        ids.push(jobs.push(Work::new(number, Action::TakeAnHourOnce)).await.unwrap());
    }
    crate::workers::until_starts(&log, 5).await;
    worker.kill();
    let owner: String = server.ask(&["HGET", &format!("postlude:{{jobs}}:job:{}", ids[0]), "owner"]).await;
    // Two at a time. The first job is held, and the second one in another run.
    let mut from = 0_i64;
    while from >= 0 {
        let mut call = script.key("postlude:{jobs}:");
        call.arg(&owner).arg(from).arg(2).arg(ids[0].to_string()).arg(1).arg(ids[1].to_string()).arg(7);
        from = call.invoke_async(&mut server.connect().await).await.unwrap();
    }
    for (id, state) in ids.iter().zip([JobState::Running].into_iter().chain([JobState::Waiting; 4])) {
        let info = jobs.find(*id).await.unwrap().unwrap();
        assert_eq!((info.state, info.crashes, info.failures), (state, 0, 0));
    }
    let stats = jobs.stats().await.unwrap().get("work");
    assert_eq!((stats.waiting, stats.running), (4, 1));
}

/// The queue is on another node than the one of the address.
pub(crate) async fn a_cluster_says_where_the_queue_is() {
    let settings = ["--cluster-enabled", "yes", "--cluster-node-timeout", "1000"];
    let (first, second, folder) = (server(&settings), server(&settings), tempfile::tempdir().unwrap());
    second.ask::<()>(&["CLUSTER", "ADDSLOTSRANGE", "0", "16383"]).await;
    first.ask::<()>(&["CLUSTER", "MEET", "127.0.0.1", &second.port().to_string()]).await;
    until("the nodes know each other", async || {
        let infos: [String; 2] = [first.ask(&["CLUSTER", "INFO"]).await, second.ask(&["CLUSTER", "INFO"]).await];
        infos.iter().all(|info| info.contains("cluster_state:ok") && info.contains("cluster_known_nodes:2"))
    })
    .await;
    let log = Log::new(folder.path().join("log"));
    let worker = Config::new(Role::Worker, &first.url(), log.path()).start();
    let jobs = producer(&first.url()).await;
    for number in 1..=20 {
        let id = jobs.push(work(number)).await.unwrap();
        until_state(&jobs, id, JobState::Completed).await;
    }
    let keys: Vec<u64> = vec![first.ask(&["DBSIZE"]).await, second.ask(&["DBSIZE"]).await];
    assert!(keys[0] == 0 && keys[1] > 20, "{keys:?}");
    // Its connection to that node is lost: it asks anew.
    second.kill();
    let error = jobs.push(work(21)).await.unwrap_err();
    assert!(matches!(error.kind(), PushErrorKind::Queue(error) if error.is_transient()), "{error:?}");
    second.start();
    until("the cluster serves again", async || jobs.push(work(22)).await.is_ok()).await;
    until("it runs", async || log.ends().contains_key(&22)).await;
    worker.shut_down();
}

/// What an address of sentinels begins with. Their ports follow.
pub(crate) const SENTINELS: &str = "sentinels ";

/// The queue on the server that the sentinels on these ports name.
pub(crate) fn by_sentinels(ports: &str) -> RedisQueue {
    let ports = ports.split(' ').map(|port| ConnectionAddr::Tcp("127.0.0.1".to_owned(), port.parse().unwrap()));
    let client = SentinelClientBuilder::new(ports, WATCHED_AS, SentinelServerType::Master).unwrap().build().unwrap();
    RedisQueue::with_sentinel(client, "jobs")
}

/// The server is killed for good, and the sentinels promote its replica. All that the replica had runs; producers and
/// workers follow by themselves. Later the old server comes back as a replica: nobody notices. Then one of the sentinels
/// is lost, and the server is killed that the others had named: the first one serves again.
pub(crate) async fn sentinels_promote_a_replica() {
    let (first, folder) = (server(&[]), tempfile::tempdir().unwrap());
    let second = first.replica().await;
    let sentinels = first.sentinels().await;
    let address = format!("{SENTINELS}{}", sentinels.each_ref().map(|sentinel| sentinel.port().to_string()).join(" "));
    let log = Log::new(folder.path().join("log"));
    let workers = [(); 2].map(|()| Config::new(Role::Worker, &address, log.path()).lease(KEPT).start());
    let jobs = producer(&address).await;
    let mut number = 0;
    for (leader, follower) in [(&first, &second), (&second, &first)] {
        let mut ids = Vec::new();
        for _ in 0..100 {
            ids.push(jobs.push(Work::new(number, Action::Take(20))).await.unwrap());
            number += 1;
        }
        // On the connection that asks, `WAIT` is for what all have written before.
        let mut connection = leader.connect().await;
        redis::cmd("INCR").arg("written").query_async::<()>(&mut connection).await.unwrap();
        let followers: u64 = redis::cmd("WAIT").arg(1).arg(10_000).query_async(&mut connection).await.unwrap();
        assert_eq!(followers, 1, "the replica has all that was pushed");
        leader.kill();
        until("pushes are stored again", async || match jobs.push(work(number)).await {
            Ok(id) => {
                ids.push(id);
                number += 1;
                ids.len() >= 110
            }
            Err(error) => {
                let PushErrorKind::Queue(cause) = error.kind() else { panic!("{error:?}") };
                assert!(cause.is_transient(), "{error:?}");
                false
            }
        })
        .await;
        for id in ids {
            until_state(&jobs, id, JobState::Completed).await;
        }
        leader.start();
        until("it follows the one that was promoted", async || follower.has_replica().await).await;
        sentinels[0].kill();
    }
    workers.into_iter().for_each(Process::shut_down);
    // A push or a settlement of the last moment may be lost with the server, and then the job runs once more.
    let ends = log.ends();
    assert!((0..number).all(|number| (1..=3).contains(&ends.get(&number).copied().unwrap_or_default())), "{ends:?}");
}

/// The connections are encrypted, and a certificate that nobody vouches for is refused.
pub(crate) async fn tls() {
    let folder = tempfile::tempdir().unwrap();
    let (certificate, key) = certificate::create(folder.path());
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
    let (certificate_path, key_path) = (certificate.display().to_string(), key.display().to_string());
    let settings = ["--tls-port", &free, "--tls-auth-clients", "no", "--tls-cert-file", &certificate_path];
    let _server = server(&[&settings[..], &["--tls-key-file", &key_path]].concat());
    let url = format!("rediss://localhost:{free}/");
    let error = RedisQueue::connect(&url).await.unwrap_err();
    assert!(
        matches!(error, QueueError::Unreachable { .. }) && whole(&error).contains("certificate"),
        "{}",
        whole(&error)
    );

    let root_cert = Some(std::fs::read(&certificate).unwrap());
    let client = Client::build_with_tls(url, TlsCertificates { client_tls: None, root_cert }).unwrap();
    let (registry, log) = (TaskRegistry::new(), Log::new(folder.path().join("log")));
    let path = log.path().to_owned();
    let builder: JobsBuilder = Jobs::builder(RedisQueue::with_client(client, "jobs"), registry.clone());
    let jobs = builder.handle(move |work: Work| crate::child::act(work, path.clone())).start().await.unwrap();
    let id = jobs.push(work(1)).await.unwrap();
    until_state(&jobs, id, JobState::Completed).await;
    registry.shutdown(Duration::from_secs(1)).await;
}
