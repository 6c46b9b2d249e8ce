//! A Redis server of a test's own, in a folder of its own, on a free port of the loopback interface.

use std::{
    env, fs,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Duration,
};

use parking_lot::Mutex;
use tempfile::TempDir;
use tokio::time::Instant;

/// The program of the server.
fn program() -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path).map(|folder| folder.join("redis-server")).find(|program| program.exists())
}

/// Whether the server can be run here.
pub(crate) fn is_installed() -> bool {
    program().is_some()
}

/// What a server keeps when it is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fsync {
    Always,
    EverySecond,
}

/// What a statement does to the tables of an SQL engine, as a script.
const STATEMENTS: &[(&str, &str)] = &[
    ("DROP TABLE postlude_jobs", "redis.call('SET', P .. 'seq', 'none')"),
    (
        "UPDATE postlude_jobs SET due = due - 5000 WHERE state = 0",
        "for _, key in ipairs(redis.call('KEYS', P .. 'waiting:*')) do
            for _, member in ipairs(redis.call('ZRANGE', key, 0, -1)) do
                redis.call('ZINCRBY', key, -5000, member)
            end
        end",
    ),
    (
        "UPDATE postlude_jobs SET state = 2, lease_until = 9999999999999 WHERE name = 'report'",
        "local member = redis.call('ZPOPMIN', P .. 'waiting:report')[1]
        local id = string.sub(member, 17)
        redis.call('HSET', P .. 'job:' .. id, 'state', 2)
        redis.call('ZADD', P .. 'running', 9999999999999, id)
        redis.call('HINCRBY', P .. 'counts', '2:report', 1)",
    ),
    (
        "UPDATE postlude_jobs SET finished_at = finished_at - 3600000",
        "for _, id in ipairs(redis.call('ZRANGE', P .. 'finished', 0, -1)) do
            redis.call('ZINCRBY', P .. 'finished', -3600000, id)
            redis.call('HINCRBY', P .. 'job:' .. id, 'finished', -3600000)
        end",
    ),
    (
        "UPDATE postlude_ticks SET last = last - 604800000",
        "for _, schedule in ipairs(redis.call('HKEYS', P .. 'ticks')) do
            redis.call('HINCRBY', P .. 'ticks', schedule, -604800000)
        end",
    ),
    (
        "UPDATE postlude_jobs SET owner = '00000000-0000-0000-0000-000000000001', run = run + 1",
        "for _, id in ipairs(redis.call('ZRANGE', P .. 'running', 0, -1)) do
            redis.call('HSET', P .. 'job:' .. id, 'owner', '00000000-0000-0000-0000-000000000001')
            redis.call('HINCRBY', P .. 'job:' .. id, 'run', 1)
        end",
    ),
    (
        "UPDATE postlude_jobs SET lease_until = 1 WHERE state = 2",
        "for _, id in ipairs(redis.call('ZRANGE', P .. 'running', 0, -1)) do
            redis.call('ZADD', P .. 'running', 0, id)
        end",
    ),
    (
        "UPDATE postlude_settings SET value = 900 WHERE name = 'lease'",
        "redis.call('HSET', P .. 'settings', 'lease', 900)",
    ),
    // The job that holds the key dies.
    (
        "UPDATE postlude_jobs SET state = 4, finished_at = 1 WHERE unique_key = 'key'",
        "local id = redis.call('HVALS', P .. 'unique')[1]
        local seq = tonumber(redis.call('HGET', P .. 'job:' .. id, 'seq'))
        redis.call('ZREM', P .. 'waiting:mail', string.format('%016.0f', seq) .. id)
        redis.call('HSET', P .. 'job:' .. id, 'state', 4, 'finished', 1)
        redis.call('ZADD', P .. 'dead', 1, id)
        redis.call('ZADD', P .. 'dead:mail', 1, id)",
    ),
    (
        "UPDATE postlude_jobs SET state = 1, due = due + 3600000 + seq",
        "local key = P .. 'waiting:work'
        for _, member in ipairs(redis.call('ZRANGE', key, 0, -1)) do
            local id = string.sub(member, 17)
            local job = redis.call('HMGET', P .. 'job:' .. id, 'due', 'seq')
            local due = string.format('%.0f', job[1] + 3600000 + job[2])
            redis.call('HSET', P .. 'job:' .. id, 'state', 1, 'due', due)
            redis.call('ZADD', P .. 'scheduled', due, id)
            redis.call('HINCRBY', P .. 'counts', '1:work', 1)
        end
        redis.call('DEL', key)",
    ),
];

/// What a server says when it serves.
const IS_READY: &str = "Ready to accept connections";

/// What a sentinel says.
const SENTINEL_IS_READY: &str = "Sentinel ID is";

/// The name under which sentinels know the server.
pub(crate) const WATCHED_AS: &str = "main";

pub(crate) struct Server {
    folder: TempDir,
    port: u16,
    arguments: Vec<String>,
    ready: &'static str,
    /// Variables of the server's environment.
    environment: Vec<(&'static str, String)>,
    process: Mutex<Option<Child>>,
}

impl Server {
    pub(crate) fn create() -> Self {
        Self::create_with(Fsync::Always, &[], Vec::new())
    }

    /// A server with further settings, and variables in its environment.
    pub(crate) fn create_with(fsync: Fsync, settings: &[&str], environment: Vec<(&'static str, String)>) -> Self {
        let fsync = if fsync == Fsync::Always { "always" } else { "everysec" };
        let fixed = ["--bind", "127.0.0.1", "--save", "", "--appendonly", "yes", "--appendfsync", fsync];
        let arguments: Vec<String> = fixed.iter().chain(settings).map(|&word| word.to_owned()).collect();
        let folder = tempfile::tempdir().unwrap();
        Self::on_a_free_port(Self {
            folder,
            port: 0,
            arguments,
            ready: IS_READY,
            environment,
            process: Mutex::new(None),
        })
    }

    /// A replica of this server, once it follows it.
    pub(crate) async fn replica(&self) -> Self {
        let leader = format!("127.0.0.1 {}", self.port);
        let replica = Self::create_with(Fsync::Always, &["--replicaof", &leader], Vec::new());
        super::until("the replica follows", async || self.has_replica().await).await;
        replica
    }

    /// Whether a replica follows this server.
    pub(crate) async fn has_replica(&self) -> bool {
        let info: redis::RedisResult<String> = self.try_ask(&["INFO", "replication"]).await;
        info.is_ok_and(|info| info.contains("role:master") && info.contains("state=online"))
    }

    /// Three sentinels that watch this server, and know each other and its replica.
    pub(crate) async fn sentinels(&self) -> [Self; 3] {
        let sentinels = [(); 3].map(|()| {
            let folder = tempfile::tempdir().unwrap();
            let settings = folder.path().join("sentinel.conf");
            let text = format!(
                "sentinel monitor {WATCHED_AS} 127.0.0.1 {} 2\nsentinel down-after-milliseconds {WATCHED_AS} 1000\n\
                 sentinel failover-timeout {WATCHED_AS} 5000\n",
                self.port
            );
            fs::write(&settings, text).unwrap();
            let settings = settings.display().to_string();
            let arguments = [&settings, "--sentinel", "--bind", "127.0.0.1"].map(str::to_owned).to_vec();
            let (environment, process) = (Vec::new(), Mutex::new(None));
            Self::on_a_free_port(Self { folder, port: 0, arguments, ready: SENTINEL_IS_READY, environment, process })
        });
        super::until("the sentinels know each other, and the replica", async || {
            for sentinel in &sentinels {
                let told: Vec<String> = sentinel.ask(&["SENTINEL", "MASTER", WATCHED_AS]).await;
                let has = |name: &str, value| told.chunks(2).any(|pair| pair[0] == name && pair[1] == value);
                if !has("num-slaves", "1") || !has("num-other-sentinels", "2") {
                    return false;
                }
            }
            true
        })
        .await;
        sentinels
    }

    fn on_a_free_port(mut server: Self) -> Self {
        loop {
            server.port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            if server.try_start() {
                return server;
            }
        }
    }

    /// Starts the server, and waits until it answers.
    pub(crate) fn start(&self) {
        while !self.try_start() {}
    }

    /// `false` if the server has ended, because somebody else has taken the port meanwhile.
    fn try_start(&self) -> bool {
        let path = self.folder.path().join("log");
        let log = fs::File::create(&path).unwrap();
        let mut child = Command::new(program().expect("Redis is installed"))
            .args(&self.arguments)
            .args(["--port", &self.port.to_string()])
            .arg("--dir")
            .arg(self.folder.path())
            .envs(self.environment.iter().map(|(name, value)| (*name, value)))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let start = Instant::now();
        loop {
            let log = fs::read_to_string(&path).unwrap_or_default();
            if log.contains(self.ready) {
                *self.process.lock() = Some(child);
                return true;
            }
            if child.try_wait().unwrap().is_some() {
                // A node of a cluster needs a second port, ten thousand above.
                let is_the_port = ["Address already in use", "Failed listening", "too high"];
                assert!(is_the_port.iter().any(|text| log.contains(text)), "{log}");
                return false;
            }
            if start.elapsed() > Duration::from_secs(60) {
                child.kill().unwrap();
                child.wait().unwrap();
                unreachable!("the server does not answer: {log}");
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Kills the server with SIGKILL.
    pub(crate) fn kill(&self) {
        let Some(mut child) = self.process.lock().take() else { return };
        child.kill().unwrap();
        child.wait().unwrap();
    }

    pub(crate) const fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn pid(&self) -> Option<u32> {
        self.process.lock().as_ref().map(Child::id)
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/", self.port)
    }

    pub(crate) fn folder(&self) -> &std::path::Path {
        self.folder.path()
    }

    /// A connection past the queue.
    pub(crate) async fn connect(&self) -> redis::aio::MultiplexedConnection {
        self.try_connect().await.unwrap()
    }

    /// It waits longer than the driver does by itself: the machine may be busy, and a script may handle very many jobs.
    async fn try_connect(&self) -> redis::RedisResult<redis::aio::MultiplexedConnection> {
        let limit = Some(Duration::from_secs(60));
        let config = redis::AsyncConnectionConfig::new().set_connection_timeout(limit).set_response_timeout(limit);
        redis::Client::open(self.url())?.get_multiplexed_async_connection_with_config(&config).await
    }

    /// Runs a command past the queue.
    pub(crate) async fn ask<T: redis::FromRedisValue>(&self, words: &[&str]) -> T {
        self.try_ask(words).await.unwrap()
    }

    /// The same for a server whose connections sentinels may cut.
    pub(crate) async fn try_ask<T: redis::FromRedisValue>(&self, words: &[&str]) -> redis::RedisResult<T> {
        let mut command = redis::cmd(words[0]);
        for word in &words[1..] {
            command.arg(word);
        }
        command.query_async(&mut self.try_connect().await?).await
    }

    /// Does past the queue what a statement does to the tables of an SQL engine.
    pub(crate) async fn execute(&self, sql: &str) {
        let (_, script) = STATEMENTS.iter().find(|(known, _)| *known == sql).expect(sql);
        let script = redis::Script::new(&format!("local P = KEYS[1]\n{script}\nreturn 0"));
        script.key("postlude:{jobs}:").invoke_async::<()>(&mut self.connect().await).await.unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}
