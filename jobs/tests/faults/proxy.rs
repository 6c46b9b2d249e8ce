//! A TCP proxy before the server, which cuts, delays, holds and half-closes connections.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU16, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use postlude::TaskRegistry;
use postlude_jobs::JobState;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    time::sleep,
};

use crate::{
    child::{Config, Role, builder},
    common::until_state,
    engine::Server,
    work::{Action, Log, ToughWork, Work},
    workers::push_surely,
};

/// What happens to the bytes, in both directions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Pass,
    /// Each piece is late.
    Delay(Duration),
    /// Nothing passes, and the connections stay: as if a cable was pulled.
    Hold,
    /// Connections are refused.
    Refuse,
}

pub(crate) struct Proxy {
    port: u16,
    server: Arc<AtomicU16>,
    mode: watch::Sender<Mode>,
    registry: TaskRegistry,
    connections: Arc<Mutex<Vec<watch::Sender<Fate>>>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Lives,
    /// The client is told that the server sends no more, and the connection stays.
    HalfClosed,
    /// It stays, and nothing passes any more.
    Silent,
    Cut,
}

impl Proxy {
    pub(crate) async fn start(server: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (mode, connections) = (watch::Sender::new(Mode::Pass), Arc::new(Mutex::new(Vec::new())));
        let (registry, server) = (TaskRegistry::new(), Arc::new(AtomicU16::new(server)));
        let (accepted, of_mode, tasks) = (Arc::clone(&connections), mode.clone(), registry.clone());
        let target = Arc::clone(&server);
        registry.spawn(async move {
            loop {
                let (client, _) = listener.accept().await.unwrap();
                if *of_mode.borrow() == Mode::Refuse {
                    continue;
                }
                let target = SocketAddr::from((Ipv4Addr::LOCALHOST, target.load(Ordering::SeqCst)));
                let Ok(server) = TcpStream::connect(target).await else {
                    continue;
                };
                client.set_nodelay(true).unwrap();
                server.set_nodelay(true).unwrap();
                let fate = watch::Sender::new(Fate::Lives);
                let (from_client, to_client) = client.into_split();
                let (from_server, to_server) = server.into_split();
                tasks.spawn(pass(from_client, to_server, of_mode.subscribe(), fate.subscribe(), false));
                tasks.spawn(pass(from_server, to_client, of_mode.subscribe(), fate.subscribe(), true));
                accepted.lock().push(fate);
            }
        });
        Self { port, server, mode, registry, connections }
    }

    /// An address of the server by way of the proxy.
    pub(crate) fn address(&self, address: &str, server: u16) -> String {
        address.replace(&format!(":{server}/"), &format!(":{}/", self.port))
    }

    /// Connections that are made from now on are to another server.
    #[cfg(feature = "postgres")]
    pub(crate) fn lead_to(&self, server: u16) {
        self.server.store(server, Ordering::SeqCst);
    }

    pub(crate) fn set(&self, mode: Mode) {
        self.mode.send_replace(mode);
    }

    pub(crate) fn cut(&self) {
        self.end(Fate::Cut);
    }

    pub(crate) fn half_close(&self) {
        self.end(Fate::HalfClosed);
    }

    /// Of the connections that there are, nothing is heard any more; new ones pass.
    pub(crate) fn silence(&self) {
        self.end(Fate::Silent);
    }

    fn end(&self, fate: Fate) {
        for connection in self.connections.lock().drain(..) {
            connection.send_replace(fate);
            // It stays as it is.
            self.registry.spawn(async move { connection.closed().await });
        }
    }
}

/// Passes bytes on in one direction.
async fn pass(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut mode: watch::Receiver<Mode>,
    mut fate: watch::Receiver<Fate>,
    is_to_client: bool,
) {
    let mut bytes = vec![0; 16 * 1024];
    loop {
        let read = tokio::select! {
            biased;
            changed = fate.changed() => {
                if changed.is_err() {
                    return;
                }
                0
            }
            read = from.read(&mut bytes) => read.unwrap_or(0),
        };
        let now = *fate.borrow();
        if now == Fate::Cut {
            return;
        }
        if now == Fate::Silent {
            return std::future::pending().await;
        }
        if now == Fate::HalfClosed && is_to_client {
            to.shutdown().await.ok();
            // What the server still says is swallowed.
            while from.read(&mut bytes).await.is_ok_and(|read| read > 0) {}
            return;
        }
        if read == 0 && now == Fate::Lives {
            to.shutdown().await.ok();
            return;
        }
        let delay = match *mode.borrow() {
            Mode::Delay(delay) => delay,
            _ => Duration::ZERO,
        };
        sleep(delay).await;
        tokio::select! {
            held = mode.wait_for(|mode| *mode != Mode::Hold) => {
                if held.is_err() {
                    return;
                }
            }
            // Of a held connection nothing comes any more once it is cut.
            cut = fate.wait_for(|fate| *fate == Fate::Cut) => {
                drop(cut);
                return;
            }
        }
        if to.write_all(&bytes[..read]).await.is_err() {
            return;
        }
    }
}

/// Connections are cut, delayed, held and half closed while two processes work and one pushes: each job is stored once,
/// and done.
pub(crate) async fn cuts_delays_holds_and_half_closes<S: Server>() {
    let (server, folder) = (S::create(), tempfile::tempdir().unwrap());
    let direct = server.queue().await;
    let proxy = Proxy::start(server.port()).await;
    let address = proxy.address(&direct, server.port());
    let log = Log::new(folder.path().join("log"));
    let workers = [(); 2].map(|()| Config::new(Role::Worker, &address, log.path()).start());
    let jobs = builder(&address, TaskRegistry::new()).await.push_timeout(Duration::from_secs(2));
    let jobs = jobs.producer().await.unwrap();

    let mut ids = Vec::new();
    for (round, fault) in
        ["cut", "half-close", "delay", "hold", "hold and cut", "refuse"].into_iter().cycle().take(12).enumerate()
    {
        for number in 0..10 {
            let number = u64::try_from(round * 10 + number).unwrap();
            if number % 10 == 5 {
                match fault {
                    "cut" => proxy.cut(),
                    "half-close" => proxy.half_close(),
                    "delay" => proxy.set(Mode::Delay(Duration::from_millis(30))),
                    "hold" | "hold and cut" => proxy.set(Mode::Hold),
                    _ => {
                        proxy.set(Mode::Refuse);
                        proxy.cut();
                    }
                }
                if matches!(fault, "hold" | "hold and cut" | "refuse") {
                    sleep(Duration::from_millis(700)).await;
                    if fault == "hold and cut" {
                        proxy.cut();
                    }
                    proxy.set(Mode::Pass);
                }
            }
            ids.push((number, push_surely(&jobs, &ToughWork(Work::new(number, Action::Take(number % 7 * 20)))).await));
        }
        proxy.set(Mode::Pass);
    }
    let direct = builder(&direct, TaskRegistry::new()).await.producer().await.unwrap();
    for (number, id) in ids {
        let info = until_state(&direct, id, JobState::Completed).await;
        let ends = log.ends().get(&number).copied().unwrap_or_default();
        assert!((1..=1 + info.crashes as usize).contains(&ends), "job {number} was done {ends} times: {info:?}");
    }
    workers.into_iter().for_each(crate::child::Process::shut_down);
    assert_eq!(log.ends().len(), 120, "nothing ran that was not pushed");
}

/// The server stops answering, for longer than a lease and for longer than workers wait. The workers connect anew.
pub(crate) async fn silence_longer_than_workers_wait<S: Server>() {
    let (server, folder) = (S::create(), tempfile::tempdir().unwrap());
    let direct = server.queue().await;
    let proxy = Proxy::start(server.port()).await;
    let address = proxy.address(&direct, server.port());
    let log = Log::new(folder.path().join("log"));
    let worker = Config::new(Role::Worker, &address, log.path()).start();
    let direct = builder(&direct, TaskRegistry::new()).await.producer().await.unwrap();
    let id = direct.push(ToughWork(Work::new(1, Action::Take(0)))).await.unwrap();
    until_state(&direct, id, JobState::Completed).await;
    // The connections that there are stay silent for ever; new ones are made.
    proxy.silence();
    let id = direct.push(ToughWork(Work::new(2, Action::Take(0)))).await.unwrap();
    until_state(&direct, id, JobState::Completed).await;
    worker.shut_down();
}
