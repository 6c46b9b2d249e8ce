//! A connection that is made anew when it is lost.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionAddr, ErrorKind, FromRedisValue, IntoConnectionInfo, RedisError,
    ScriptInvocation, ServerErrorKind, aio::MultiplexedConnection, sentinel::SentinelClient,
};
use tokio::time::{Instant, timeout};

use super::error::{is_not_ready, not_sent, sent};
use crate::model::error::QueueError;

/// How long connecting takes at most.
pub(super) const CONNECT_LIMIT: Duration = Duration::from_secs(3);

/// How long the server may take to answer. Those who ask have shorter limits of their own, as a rule.
pub(super) const ANSWER_LIMIT: Duration = Duration::from_secs(30);

/// A connection is closed if a request on it has had no answer for this time.
const SILENCE: Duration = Duration::from_secs(2);

/// A connection that was not used for this time is tested before it is used, because the server may have closed it. A
/// request on a closed connection fails, and it is unknown whether the server has carried it out.
const IDLE: Duration = Duration::from_secs(1);

/// How many times an operation follows a redirection to another node of a cluster.
const REDIRECTS: usize = 3;

/// Where the server is.
pub(crate) struct Source {
    origin: Origin,
    /// The server of now, if it is not the one of the address: the node of a cluster that has the slot of the queue, or
    /// the one that the sentinels have named.
    current: Mutex<Option<Client>>,
}

/// What the user has said of the server.
enum Origin {
    Address(Client),
    /// Those who know the server's address.
    Sentinels(tokio::sync::Mutex<SentinelClient>),
}

impl Source {
    pub(crate) fn new(client: Client) -> Self {
        if matches!(client.get_connection_info().addr(), ConnectionAddr::TcpTls { .. }) {
            install_cryptography();
        }
        Self { origin: Origin::Address(client), current: Mutex::new(None) }
    }

    pub(super) fn sentinels(client: SentinelClient) -> Self {
        // The client does not tell whether it uses TLS.
        install_cryptography();
        Self { origin: Origin::Sentinels(tokio::sync::Mutex::new(client)), current: Mutex::new(None) }
    }

    /// A client of the server of now.
    pub(super) async fn client(&self) -> Result<Client, RedisError> {
        if let Some(current) = self.current.lock().clone() {
            return Ok(current);
        }
        match &self.origin {
            Origin::Address(client) => Ok(client.clone()),
            Origin::Sentinels(sentinels) => {
                let named = sentinels.lock().await.async_get_client().await?;
                *self.current.lock() = Some(named.clone());
                Ok(named)
            }
        }
    }

    /// Goes on with the node that the server has named. An address without a host is that of the same host.
    async fn follow(&self, address: &str) -> Result<(), RedisError> {
        let info = self.client().await?.get_connection_info().clone();
        let Some((host, port)) = address.rsplit_once(':') else { return Ok(()) };
        let Ok(port) = port.parse() else { return Ok(()) };
        let moved = match info.addr().clone() {
            ConnectionAddr::TcpTls { host: same, insecure, tls_params, .. } => {
                let host = if host.is_empty() { same } else { host.to_owned() };
                ConnectionAddr::TcpTls { host, port, insecure, tls_params }
            }
            ConnectionAddr::Tcp(same, _) => {
                ConnectionAddr::Tcp(if host.is_empty() { same } else { host.to_owned() }, port)
            }
            _ => return Ok(()),
        };
        *self.current.lock() = Some(Client::open(info.set_addr(moved).into_connection_info()?)?);
        Ok(())
    }

    /// The connection to that server was lost. The sentinels may name another one; a node of a cluster is tried again.
    fn lost(&self) {
        if matches!(self.origin, Origin::Sentinels(_)) {
            self.forget();
        }
    }

    /// That server is gone, or does not serve: the address of the user, or the sentinels, are asked again.
    fn forget(&self) {
        *self.current.lock() = None;
    }
}

/// The driver panics without a provider of cryptography. The first one of the process is kept.
fn install_cryptography() {
    let _another_is_installed = rustls::crypto::ring::default_provider().install_default();
}

/// One connection, which many share: their commands are sent one after the other, and answered in that order.
///
/// It is not the driver's `ConnectionManager`, which does not tell whether a command that failed was sent, and which
/// waits for a server that is gone.
pub(crate) struct Connection {
    source: Arc<Source>,
    state: Mutex<State>,
    connecting: tokio::sync::Mutex<()>,
}

/// What is asked.
#[derive(Clone, Copy)]
enum Request<'a> {
    Script(&'a ScriptInvocation<'a>),
    Command(&'a Cmd),
}

#[derive(Default)]
struct State {
    current: Option<MultiplexedConnection>,
    /// The number of the current connection: an error of an older one does not close it.
    number: u64,
    last_answer: Option<Instant>,
    /// Since when something was asked, and nothing has been heard.
    silent_since: Option<Instant>,
    /// How often connecting has failed, and how it failed last.
    failures: u64,
    failure: Option<RedisError>,
}

impl Connection {
    pub(crate) fn new(source: Arc<Source>) -> Self {
        Self { source, state: Mutex::default(), connecting: tokio::sync::Mutex::default() }
    }

    /// Runs a script. It is sent once, so that nothing is done twice.
    pub(super) async fn run<T: FromRedisValue>(&self, script: &ScriptInvocation<'_>) -> Result<T, QueueError> {
        self.answer(Request::Script(script)).await
    }

    /// Runs a command.
    pub(crate) async fn ask<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, QueueError> {
        self.answer(Request::Command(command)).await
    }

    async fn answer<T: FromRedisValue>(&self, request: Request<'_>) -> Result<T, QueueError> {
        let mut redirects = 0;
        loop {
            let (mut connection, number) = self.get().await.map_err(not_sent)?;
            self.state.lock().silent_since.get_or_insert_with(Instant::now);
            let answer = match request {
                Request::Script(script) => script.invoke_async(&mut connection).await,
                Request::Command(command) => command.query_async(&mut connection).await,
            };
            let error = match answer {
                Ok(answer) => {
                    self.heard(number);
                    return Ok(answer);
                }
                Err(error) => error,
            };
            if matches!(error.kind(), ErrorKind::Io | ErrorKind::Parse) {
                self.give_up(number);
                return Err(sent(error));
            }
            self.heard(number);
            if is_not_ready(&error) {
                // A server that is being promoted, or that is no longer the one: ask anew where it is.
                self.give_up(number);
                if error.kind() == ErrorKind::Server(ServerErrorKind::Moved)
                    && redirects < REDIRECTS
                    && let Some((address, _)) = error.redirect_node()
                {
                    redirects += 1;
                    self.source.follow(address).await.map_err(not_sent)?;
                    continue;
                }
                self.source.forget();
            }
            return Err(sent(error));
        }
    }

    fn heard(&self, number: u64) {
        let mut state = self.state.lock();
        if state.number == number {
            state.last_answer = Some(Instant::now());
            state.silent_since = None;
        }
    }

    /// Gives the connection up, unless another one has replaced it.
    fn give_up(&self, number: u64) {
        let mut state = self.state.lock();
        if state.number == number {
            state.current = None;
            self.source.lost();
        }
    }

    /// A connection, and its number.
    async fn get(&self) -> Result<(MultiplexedConnection, u64), RedisError> {
        if let Some((mut connection, number, is_idle)) = self.current() {
            if !is_idle {
                return Ok((connection, number));
            }
            let ping = redis::cmd("PING");
            if let Ok(Ok(redis::Value::SimpleString(_))) = timeout(SILENCE, ping.query_async(&mut connection)).await {
                self.heard(number);
                return Ok((connection, number));
            }
            self.give_up(number);
        }
        self.connect().await
    }

    /// The connection that there is, its number, and whether it has to be tried.
    fn current(&self) -> Option<(MultiplexedConnection, u64, bool)> {
        let mut state = self.state.lock();
        if state.silent_since.is_some_and(|since| since.elapsed() > SILENCE) {
            state.current = None;
            self.source.lost();
        }
        let is_idle = state.last_answer.is_none_or(|last| last.elapsed() > IDLE) && state.silent_since.is_none();
        state.current.clone().map(|connection| (connection, state.number, is_idle))
    }

    /// Connects. Those who come meanwhile wait for the one attempt, and fail if it fails.
    async fn connect(&self) -> Result<(MultiplexedConnection, u64), RedisError> {
        let failures = self.state.lock().failures;
        let _connecting = self.connecting.lock().await;
        {
            let state = self.state.lock();
            if let Some(connection) = &state.current {
                return Ok((connection.clone(), state.number));
            }
            if let Some(failure) = state.failure.as_ref().filter(|_| state.failures > failures) {
                return Err(failure.clone());
            }
        }
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT_LIMIT))
            .set_response_timeout(Some(ANSWER_LIMIT));
        let made = match self.source.client().await {
            Ok(client) => client.get_multiplexed_async_connection_with_config(&config).await,
            Err(error) => Err(error),
        };
        let mut state = self.state.lock();
        match made {
            Ok(connection) => {
                state.number += 1;
                state.current = Some(connection.clone());
                (state.last_answer, state.silent_since, state.failure) = (Some(Instant::now()), None, None);
                Ok((connection, state.number))
            }
            Err(error) => {
                state.failures += 1;
                state.failure = Some(error.clone());
                self.source.forget();
                Err(error)
            }
        }
    }
}
