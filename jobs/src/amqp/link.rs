//! A connection to a server.

use std::{
    io,
    net::{Shutdown, SocketAddr, TcpStream},
    sync::Arc,
    time::Duration,
};

use lapin::{
    Connection, ConnectionProperties,
    tcp::{AsyncTcpStream, TLSConfig},
    uri::{AMQPAuthority, AMQPScheme, AMQPUri},
};
use parking_lot::Mutex;
use tokio::{net::lookup_host, sync::watch, time::timeout};

use super::{address::Address, silence::silence_this_thread};

/// How long connecting takes at most.
const CONNECT_LIMIT: Duration = Duration::from_secs(4);

/// A connection. It ends when it is dropped.
#[derive(Debug)]
pub(crate) struct Link {
    connection: Connection,
    socket: Socket,
}

/// A second handle of the socket, to end a connection whose server says nothing: the thread of the driver waits for it
/// otherwise.
#[derive(Clone, Debug, Default)]
struct Socket(Arc<Mutex<Option<TcpStream>>>);

impl Socket {
    fn shut_down(&self) {
        if let Some(socket) = self.0.lock().take() {
            // It may have ended before.
            let _shut_down = socket.shutdown(Shutdown::Both);
        }
    }
}

/// Ends an attempt to connect when it is dropped.
struct Attempt(Option<Socket>);

impl Drop for Attempt {
    fn drop(&mut self) {
        if let Some(socket) = self.0.take() {
            socket.shut_down();
        }
    }
}

impl Link {
    /// Connects. `purpose` is shown to the operator of the server.
    ///
    /// # Errors
    /// If there is no connection within the time limit.
    pub(crate) async fn connect(address: &Address, purpose: &str) -> Result<Self, lapin::Error> {
        if address.is_encrypted() {
            // The driver needs a provider of cryptography. The first one of the process is kept.
            let _another_is_installed = rustls::crypto::ring::default_provider().install_default();
        }
        let AMQPAuthority { host, port, .. } = &address.uri().authority;
        // Not in the thread of the driver, which would panic if the runtime shuts down meanwhile.
        let found = timeout(CONNECT_LIMIT, lookup_host((host.as_str(), *port))).await.map_err(|_| timed_out())?;
        let found: Vec<SocketAddr> = found?.collect();
        let socket = Socket::default();
        let mut attempt = Attempt(Some(socket.clone()));
        let (slot, runtime) = (socket.clone(), lapin::runtime::default_runtime()?);
        let of_stream = runtime.clone();
        // Ends the attempt when the sender is dropped. A timer would panic in that thread if the runtime shuts down.
        let (attempted, is_given_up) = watch::channel(());
        let connect = async move |uri: AMQPUri, _| {
            silence_this_thread();
            let is_encrypted = uri.scheme == AMQPScheme::AMQPS;
            let connected = async {
                let stream = AsyncTcpStream::connect(&of_stream, found.clone()).await?;
                if let AsyncTcpStream::Plain(plain) = &stream {
                    plain.get_ref().set_nodelay(true)?;
                    *slot.0.lock() = Some(duplicate(plain.get_ref())?);
                }
                if is_encrypted { stream.into_tls(&uri.authority.host, TLSConfig::default()).await } else { Ok(stream) }
            };
            let mut is_given_up = is_given_up.clone();
            tokio::select! {
                stream = connected => Ok(stream?),
                _ = is_given_up.changed() => Err(timed_out().into()),
            }
        };
        let properties =
            ConnectionProperties::default().with_connection_name(format!("postlude-jobs {purpose}").into());
        let connecting = Connection::connector(address.uri().clone(), runtime, connect, properties);
        let connection = timeout(CONNECT_LIMIT, connecting).await.map_err(|_| timed_out())??;
        drop(attempted);
        attempt.0 = None;
        Ok(Self { connection, socket })
    }

    pub(crate) const fn connection(&self) -> &Connection {
        &self.connection
    }

    pub(crate) fn is_alive(&self) -> bool {
        self.connection.status().connected()
    }

    /// Whether the server takes no messages, because it is short of memory or disk.
    pub(crate) fn is_blocked(&self) -> bool {
        self.connection.status().blocked()
    }

    /// How long the server waits for a sign of life before it takes the client for dead; `None` if it waits for ever.
    pub(crate) fn heartbeat(&self) -> Option<Duration> {
        match self.connection.configuration().heartbeat() {
            0 => None,
            seconds => Some(Duration::from_secs(seconds.into())),
        }
    }

    /// Ends the connection in an orderly way: the server has carried out all that it was sent.
    ///
    /// # Errors
    /// If it has ended before.
    pub(crate) async fn close(&self) -> Result<(), lapin::Error> {
        self.connection.close(200, "done".into()).await
    }

    /// Ends the connection at once, whatever the server does.
    pub(crate) fn give_up(&self) {
        self.socket.shut_down();
    }
}

fn timed_out() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, format!("no connection within {CONNECT_LIMIT:?}"))
}

#[cfg(unix)]
fn duplicate(stream: &tokio::net::TcpStream) -> io::Result<TcpStream> {
    use std::os::fd::AsFd;
    Ok(stream.as_fd().try_clone_to_owned()?.into())
}

#[cfg(windows)]
fn duplicate(stream: &tokio::net::TcpStream) -> io::Result<TcpStream> {
    use std::os::windows::io::AsSocket;
    Ok(stream.as_socket().try_clone_to_owned()?.into())
}
