//! A PostgreSQL server of the tests' own, in a folder of its own, on a free port of the loopback interface.

use std::{
    env, fs,
    os::unix::fs::{PermissionsExt, chown},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tempfile::TempDir;
use tokio::time::Instant;

static SHARED: OnceLock<Mutex<Option<Arc<Server>>>> = OnceLock::new();

/// The server that the tests of a program share.
pub(crate) fn shared() -> Arc<Server> {
    let server = SHARED.get_or_init(|| Mutex::new(Some(Arc::new(Server::create())))).lock().clone();
    server.expect("tests run")
}

/// Ends the shared server: a static is not dropped.
pub(crate) fn stop() {
    if let Some(server) = SHARED.get() {
        drop(server.lock().take());
    }
}

/// The folder of the server's programs: Debian keeps them out of the path.
fn programs() -> Option<PathBuf> {
    let in_path = env::var_os("PATH").into_iter().flat_map(|path| env::split_paths(&path).collect::<Vec<_>>());
    let of_debian = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let of_debian = of_debian.map(|version| version.path().join("bin"));
    // A link in the path leads to the folder that has all of them.
    let of_initdb = |folder: PathBuf| Some(folder.join("initdb").canonicalize().ok()?.parent()?.to_owned());
    in_path.chain(of_debian).filter_map(of_initdb).find(|folder| folder.join("postgres").exists())
}

/// A server in a folder of its own, on a free port of the loopback interface.
pub(crate) struct Server {
    folder: TempDir,
    port: u16,
    /// Who owns the files: PostgreSQL does not run as root.
    user: Option<(u32, u32)>,
    process: Mutex<Option<Child>>,
    /// Variables of the server's environment.
    environment: Vec<(&'static str, String)>,
}

impl Server {
    pub(crate) fn create() -> Self {
        Self::create_with(Vec::new())
    }

    /// A server with variables in its environment.
    pub(crate) fn create_with(environment: Vec<(&'static str, String)>) -> Self {
        let server = Self::in_folder(environment);
        let settings = ["--username=postgres", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync"];
        server.fill("initdb", &settings);
        server.start();
        server
    }

    /// A replica of the server, which from now on answers a commit when the replica has it.
    #[allow(dead_code, clippy::allow_attributes, reason = "the test of a failover has one")]
    pub(crate) async fn replica(&self) -> Self {
        let replica = Self::in_folder(Vec::new());
        let (port, way) = (self.port.to_string(), "--wal-method=stream");
        replica.fill("pg_basebackup", &["-h", "127.0.0.1", "-p", &port, "-U", "postgres", "-R", "-c", "fast", way]);
        replica.start();
        for statement in ["ALTER SYSTEM SET synchronous_standby_names = '*'", "SELECT pg_reload_conf()"] {
            self.execute(statement).await;
        }
        // Answered by the replica, or not at all.
        self.execute("CREATE TABLE replicated ()").await;
        replica
    }

    /// Makes a replica a server of its own, which takes writes.
    #[allow(dead_code, clippy::allow_attributes, reason = "the test of a failover does so")]
    pub(crate) async fn promote(&self) {
        self.execute("SELECT pg_promote()").await;
    }

    async fn execute(&self, statement: &'static str) {
        let mut connection = PgConnection::connect(&self.url("postgres")).await.unwrap();
        sqlx::query(statement).execute(&mut connection).await.unwrap();
    }

    /// A server without data.
    fn in_folder(environment: Vec<(&'static str, String)>) -> Self {
        let user = if is_root() { id_of("postgres") } else { None };
        let (folder, process) = (tempfile::tempdir().unwrap(), Mutex::new(None));
        let server = Self { folder, port: free_port(), user, process, environment };
        fs::set_permissions(server.folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        fs::create_dir(server.data()).unwrap();
        fs::set_permissions(server.data(), fs::Permissions::from_mode(0o700)).unwrap();
        if let Some((uid, gid)) = user {
            chown(server.data(), Some(uid), Some(gid)).unwrap();
        }
        server
    }

    /// Lets a program of PostgreSQL make the data.
    fn fill(&self, program: &str, arguments: &[&str]) {
        let program = programs().expect("PostgreSQL is installed").join(program);
        let output = self.command(&program).args(arguments).arg("-D").arg(self.data()).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn command(&self, program: &Path) -> Command {
        let mut command = match self.user {
            Some((uid, gid)) => {
                let mut command = Command::new("setpriv");
                command.args([&format!("--reuid={uid}"), &format!("--regid={gid}"), "--clear-groups", "--"]);
                command.arg(program);
                command
            }
            None => Command::new(program),
        };
        command.current_dir("/").stdin(Stdio::null());
        command
    }

    /// Starts the server, and waits until it answers.
    pub(crate) fn start(&self) {
        let path = self.folder.path().join("log");
        let log = fs::File::create(&path).unwrap();
        let child = self
            .command(Path::new("env"))
            .args(self.environment.iter().map(|(name, value)| format!("{name}={value}")))
            .arg(programs().expect("PostgreSQL is installed").join("postgres"))
            .arg("-D")
            .arg(self.data())
            .args(["-p", &self.port.to_string(), "-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories="])
            .args(["-c", "max_connections=300", "-c", "shared_buffers=64MB"])
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        *self.process.lock() = Some(child);
        let start = Instant::now();
        loop {
            let log = fs::read_to_string(&path).unwrap_or_default();
            // A replica accepts "read-only connections".
            if log.contains("database system is ready to accept ") {
                return;
            }
            assert!(start.elapsed() < Duration::from_secs(60), "the server does not answer: {log}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Kills the server and what it has started with SIGKILL.
    pub(crate) fn kill(&self) {
        let Some(mut child) = self.process.lock().take() else { return };
        let pid = child.id().to_string();
        // Stopped first, so that it starts no other process while they are listed.
        assert!(Command::new("kill").args(["-STOP", &pid]).status().unwrap().success());
        // The server's processes have a group of their own only if they are given one, so each is killed by its id.
        let children = Command::new("ps").args(["-o", "pid=", "--ppid", &pid]).output().unwrap();
        child.kill().unwrap();
        let children = String::from_utf8_lossy(&children.stdout);
        for one in children.split_whitespace() {
            Command::new("kill").args(["-9", one]).stderr(Stdio::null()).status().unwrap();
        }
        child.wait().unwrap();
        // They keep the shared memory until they are gone, and another server does not start before.
        let start = Instant::now();
        while children.split_whitespace().any(is_alive) {
            assert!(start.elapsed() < Duration::from_secs(60), "the processes of the server do not end: {children}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn stop(&self) {
        if let Some(mut child) = self.process.lock().take() {
            Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
            child.wait().unwrap();
        }
    }

    pub(crate) const fn port(&self) -> u16 {
        self.port
    }

    /// What the server has logged since it was started.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap()
    }

    /// The id of the server's first process.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.process.lock().as_ref().map(Child::id)
    }

    fn url(&self, database: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{database}", self.port)
    }

    /// Creates a database, and returns its address.
    pub(crate) async fn create_database(&self) -> String {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let name = format!("jobs_{}", NUMBER.fetch_add(1, Ordering::SeqCst));
        let mut connection = PgConnection::connect(&self.url("postgres")).await.unwrap();
        let create = format!("CREATE DATABASE {name}");
        sqlx::query(AssertSqlSafe(create)).execute(&mut connection).await.unwrap();
        self.url(&name)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Whether a process has not ended. One that has, and whose parent has not asked for it, holds nothing any more.
fn is_alive(pid: &str) -> bool {
    let state = fs::read_to_string(format!("/proc/{pid}/stat"));
    state.is_ok_and(|stat| !stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('Z')))
}

fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0)
}

/// The ids of a user and its group.
fn id_of(user: &str) -> Option<(u32, u32)> {
    let users = fs::read_to_string("/etc/passwd").ok()?;
    let line = users.lines().find(|line| line.starts_with(&format!("{user}:")))?;
    let mut fields = line.split(':').skip(2);
    Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Whether the server can be run here.
pub(crate) fn is_installed() -> bool {
    programs().is_some() && (!is_root() || id_of("postgres").is_some() && Path::new("/usr/bin/setpriv").exists())
}
