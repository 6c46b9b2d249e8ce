//! RabbitMQ servers of the tests' own: in folders of their own, on free ports of the loopback interface, with a name server
//! (`epmd`) of their own.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU32, AtomicUsize, Ordering},
    },
    time::Duration,
};

use lapin::{Channel, Connection, ConnectionProperties};
use parking_lot::Mutex;
use tempfile::TempDir;
use tokio::time::Instant;

static SHARED: OnceLock<Mutex<Option<Arc<Server>>>> = OnceLock::new();

/// Numbers the queues of the tests of a program.
static QUEUES: AtomicUsize = AtomicUsize::new(0);

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

/// The name of a queue that no other test of this program has.
pub(crate) fn new_queue() -> String {
    format!("test-{}", QUEUES.fetch_add(1, Ordering::Relaxed))
}

/// The folder of the server's programs. Debian's programs in the path only run as another user.
fn programs() -> Option<PathBuf> {
    let in_path = env::var_os("PATH").into_iter().flat_map(|path| env::split_paths(&path).collect::<Vec<_>>());
    let mut folders = std::iter::once(PathBuf::from("/usr/lib/rabbitmq/bin")).chain(in_path);
    folders.find(|folder| folder.join("rabbitmq-server").exists())
}

fn name_server() -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path).map(|folder| folder.join("epmd")).find(|program| program.exists())
}

/// Whether the server can be run here.
pub(crate) fn is_installed() -> bool {
    programs().is_some() && name_server().is_some()
}

/// A port that is free, below those that the system gives to connections: a server that starts again finds it free still.
pub(crate) fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let ports = 12_000..32_000;
    let mine = std::process::id().wrapping_mul(101);
    loop {
        let next = mine.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % (ports.end - ports.start);
        let port = u16::try_from(ports.start + next).unwrap();
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// The name server of the nodes of a test.
pub(crate) struct Names {
    port: u16,
    process: Mutex<Child>,
}

impl Names {
    fn start() -> Arc<Self> {
        let port = free_port();
        let process = Command::new(name_server().expect("Erlang is installed"))
            .args(["-address", "127.0.0.1", "-port", &port.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Arc::new(Self { port, process: Mutex::new(process) })
    }
}

impl Drop for Names {
    fn drop(&mut self) {
        let mut process = self.process.lock();
        process.kill().unwrap();
        process.wait().unwrap();
    }
}

/// One node.
pub(crate) struct Server {
    folder: TempDir,
    name: String,
    port: u16,
    distribution_port: u16,
    names: Arc<Names>,
    settings: String,
    environment: Vec<(&'static str, String)>,
    process: Mutex<Option<Child>>,
}

impl Server {
    pub(crate) fn create() -> Self {
        Self::create_with("", Vec::new())
    }

    /// A server with further settings, and variables in its environment.
    pub(crate) fn create_with(settings: &str, environment: Vec<(&'static str, String)>) -> Self {
        let server = Self::prepare(Names::start(), settings, environment);
        server.start();
        server
    }

    fn prepare(names: Arc<Names>, settings: &str, environment: Vec<(&'static str, String)>) -> Self {
        let (port, distribution_port) = (free_port(), free_port());
        Self {
            folder: tempfile::tempdir().unwrap(),
            name: format!("node-{port}@localhost"),
            port,
            distribution_port,
            names,
            settings: settings.to_owned(),
            environment,
            process: Mutex::new(None),
        }
    }

    fn command(&self, program: &str) -> Command {
        let folder = self.folder.path();
        let mut command = Command::new(programs().expect("RabbitMQ is installed").join(program));
        let cookie = "-setcookie postlude-tests";
        let at = |name: &str| folder.join(name).into_os_string();
        command
            .env("HOME", folder)
            .env("ERL_EPMD_PORT", self.names.port.to_string())
            .env("ERL_EPMD_ADDRESS", "127.0.0.1")
            .env("RABBITMQ_NODENAME", &self.name)
            .env("RABBITMQ_NODE_IP_ADDRESS", "127.0.0.1")
            .env("RABBITMQ_NODE_PORT", self.port.to_string())
            .env("RABBITMQ_DIST_PORT", self.distribution_port.to_string())
            .env("RABBITMQ_BASE", folder)
            .env("RABBITMQ_MNESIA_BASE", at("data"))
            .env("RABBITMQ_LOG_BASE", at("log"))
            .env("RABBITMQ_LOGS", "-")
            .env("RABBITMQ_PID_FILE", at("pid"))
            .env("RABBITMQ_ENABLED_PLUGINS_FILE", at("plugins"))
            .env("RABBITMQ_CONFIG_FILE", at("rabbitmq"))
            .env("RABBITMQ_ADVANCED_CONFIG_FILE", at("advanced.config"))
            .env("RABBITMQ_CONF_ENV_FILE", at("no-environment"))
            .env("RABBITMQ_GENERATED_CONFIG_DIR", at("generated"))
            .env("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", format!("{cookie} +S 2:2"))
            .env("RABBITMQ_CTL_ERL_ARGS", cookie)
            // The server becomes the process that is started, and is not a child of a shell.
            .env("RUNNING_UNDER_SYSTEMD", "true")
            .envs(self.environment.iter().map(|(name, value)| (*name, value)))
            .stdin(Stdio::null());
        command
    }

    /// Starts the server, and waits until it answers.
    pub(crate) fn start(&self) {
        self.begin_to_start();
        self.until_started();
    }

    fn begin_to_start(&self) {
        let folder = self.folder.path();
        fs::write(folder.join("plugins"), "[].\n").unwrap();
        fs::write(folder.join("rabbitmq.conf"), format!("disk_free_limit.absolute = 1MB\n{}", self.settings)).unwrap();
        let log = fs::File::create(self.log_path()).unwrap();
        let child = self.command("rabbitmq-server").stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
        *self.process.lock() = Some(child);
    }

    fn log_path(&self) -> PathBuf {
        self.folder.path().join("output")
    }

    fn until_started(&self) {
        let start = Instant::now();
        loop {
            let log = fs::read_to_string(self.log_path()).unwrap_or_default();
            if log.contains("Server startup complete") {
                return;
            }
            let ended = self.process.lock().as_mut().is_none_or(|process| process.try_wait().unwrap().is_some());
            assert!(!ended && start.elapsed() < Duration::from_secs(180), "the server does not start: {log}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Waits until the server has written down that it has these queues. It does so up to a second after they were
    /// declared, and has lost those, with all that is in them, that it has not written down when it is killed.
    pub(crate) async fn until_written(&self, queue: &str, places: &[&str]) {
        let file = self.folder.path().join("data").join(&self.name).join("quorum").join(&self.name).join("names.dets");
        let names: Vec<String> = places.iter().map(|place| format!("%2F_postlude.{queue}.{place}")).collect();
        super::until("the server has written down its queues", async || {
            let written = fs::read(&file).unwrap_or_default();
            let has = |name: &String| written.windows(name.len()).any(|bytes| bytes == name.as_bytes());
            names.iter().all(has)
        })
        .await;
    }

    /// Kills the server with SIGKILL.
    pub(crate) fn kill(&self) {
        let Some(mut child) = self.process.lock().take() else { return };
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Sends a signal to the server.
    pub(crate) fn signal(&self, signal: &str) {
        let pid = self.pid().expect("the server runs");
        assert!(Command::new("kill").args([signal, &pid.to_string()]).status().unwrap().success());
    }

    pub(crate) const fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn pid(&self) -> Option<u32> {
        self.process.lock().as_ref().map(Child::id)
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn url(&self) -> String {
        format!("amqp://guest:guest@127.0.0.1:{}/", self.port)
    }

    /// Runs `rabbitmqctl`.
    pub(crate) fn control(&self, words: &[&str]) -> String {
        let output = self.command("rabbitmqctl").args(words).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{words:?}: {text}{}", String::from_utf8_lossy(&output.stderr));
        text
    }

    /// A connection past the queue. The connection ends when it is dropped.
    pub(crate) async fn connect(&self) -> (Connection, Channel) {
        let url = format!("{}%2f", self.url());
        let connection = Connection::connect(&url, ConnectionProperties::default()).await.unwrap();
        let channel = connection.create_channel().await.unwrap();
        (connection, channel)
    }
}

/// Three nodes that know each other.
pub(crate) fn cluster() -> [Server; 3] {
    let names = Names::start();
    let mut nodes = [(); 3].map(|()| Server::prepare(Arc::clone(&names), "", Vec::new()));
    let mut settings = "cluster_formation.peer_discovery_backend = classic_config\n\
        cluster_formation.randomized_startup_delay_range.min = 0\n\
        cluster_formation.randomized_startup_delay_range.max = 1\n"
        .to_owned();
    for (number, node) in nodes.iter().enumerate() {
        settings += &format!("cluster_formation.classic_config.nodes.{} = {}\n", number + 1, node.name);
    }
    for node in &mut nodes {
        node.settings.clone_from(&settings);
    }
    // One after the other: each finds those before it.
    nodes.iter().for_each(Server::start);
    let status = nodes[0].control(&["cluster_status"]);
    assert!(nodes.iter().all(|node| status.contains(&node.name)), "{status}");
    nodes
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}
