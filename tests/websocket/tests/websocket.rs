//! A `WebSocket`: the tasks of its request, and those that the connection adds while it is open.
#![expect(clippy::disallowed_methods, reason = "tests play the server and the client")]
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test may stop where it stands")]

#[path = "../../support/mod.rs"]
#[expect(dead_code, unused_imports, reason = "the tests of the other package use the rest")]
mod support;

use std::{pin::pin, time::Duration};

use axum::{
    Router,
    extract::ws::{Message, WebSocket, WebSocketUpgrade},
    http::StatusCode,
    routing::get as on_get,
};
use postlude::{Ending, RejectReason, TaskMetrics, TaskRegistry, TaskSet, after};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::{mpsc::UnboundedReceiver, oneshot},
};

use support::{
    Journal, assert_conserved,
    net::{raw, read_until, reporting_layer, serve, within},
    until,
};

/// Long enough never to be the reason why a shutdown returns.
const GRACE: Duration = Duration::from_secs(60);

/// A server of one WebSocket, which adds a task for each message.
struct Site {
    address: std::net::SocketAddr,
    registry: TaskRegistry,
    journal: Journal,
    endings: UnboundedReceiver<Ending>,
}

impl Site {
    async fn open() -> Self {
        let (registry, journal) = (TaskRegistry::new(), Journal::default());
        let (layer, endings) = reporting_layer(&registry);
        let leave = journal.clone();
        let handler = async move |tasks: TaskSet, upgrade: WebSocketUpgrade| {
            tasks.add(leave.task("of the request"));
            upgrade.on_upgrade(move |socket| converse(socket, tasks, leave))
        };
        let address = serve(Router::new().route("/", on_get(handler)).layer(layer));
        Self { address, registry, journal, endings }
    }

    /// A WebSocket, once the tasks of its request have run.
    async fn connect(&mut self) -> Client {
        let client = Client::connect(self.address).await;
        assert_eq!(within(self.endings.recv()).await, Some(Ending::Sent(StatusCode::SWITCHING_PROTOCOLS)));
        within(self.registry.wait_idle()).await;
        assert_eq!(self.journal.read(), ["of the request"]);
        client
    }

    /// For events of a connection whose client has left.
    async fn until(&self, reached: impl Fn(&TaskMetrics) -> bool) {
        until(|| reached(&self.registry.metrics())).await;
    }
}

/// Answers each message with what became of the task that it asked for.
async fn converse(mut socket: WebSocket, tasks: TaskSet, journal: Journal) {
    let closing = tasks.registry().cancellation_token();
    while let Some(Ok(Message::Text(text))) = socket.recv().await {
        let answer = match text.as_str() {
            "add" => match tasks.try_add(journal.task("of a message")) {
                Ok(_) => "added",
                Err(rejected) if rejected.reason() == RejectReason::Closed => "closed",
                Err(_) => "refused",
            },
            // The connection is a tokio task of its own, which no request is current in.
            "add without a set" => match after(journal.task("of nobody")) {
                Ok(_) => "added",
                Err(rejected) if rejected.reason() == RejectReason::NoSet => "no set",
                Err(_) => "refused",
            },
            "stay until the end" => {
                closing.cancelled().await;
                break;
            }
            _ => "unknown",
        };
        socket.send(Message::text(answer)).await.unwrap();
    }
    tasks.add(journal.task("of the end"));
}

/// A client that can do what these tests need.
struct Client(TcpStream);

impl Client {
    async fn connect(address: std::net::SocketAddr) -> Self {
        let mut stream = raw(
            address,
            "GET / HTTP/1.1\r\nhost: localhost\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
             sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        )
        .await;
        let head = read_until(&mut stream, "\r\n\r\n").await;
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        Self(stream)
    }

    async fn send(&mut self, text: &str) {
        // A client has to mask what it sends; a mask of zeros leaves it as it is.
        let mut frame = vec![0x81, 0x80 | u8::try_from(text.len()).unwrap(), 0, 0, 0, 0];
        frame.extend_from_slice(text.as_bytes());
        self.0.write_all(&frame).await.unwrap();
    }

    async fn receive(&mut self) -> String {
        let mut head = [0; 2];
        within(self.0.read_exact(&mut head)).await.unwrap();
        let [kind, length] = head;
        assert_eq!(kind, 0x81, "a text");
        let mut text = vec![0; usize::from(length)];
        within(self.0.read_exact(&mut text)).await.unwrap();
        String::from_utf8(text).unwrap()
    }

    async fn ask(&mut self, text: &str) -> String {
        self.send(text).await;
        self.receive().await
    }

    async fn close(&mut self) {
        self.0.write_all(&[0x88, 0x80, 0, 0, 0, 0]).await.unwrap();
    }
}

#[tokio::test]
async fn may_add_while_open_and_at_end() {
    for closes in [true, false] {
        let mut site = Site::open().await;
        let mut client = site.connect().await;
        for count in 1..=3 {
            assert_eq!(client.ask("add").await, "added");
            within(site.registry.wait_idle()).await;
            assert_eq!(site.journal.read()[1..], vec!["of a message"; count], "while it is open");
        }
        if closes {
            client.close().await;
        }
        drop(client);
        within(site.until(|m| m.completed == 5)).await;
        assert_eq!(site.journal.read().last().unwrap(), "of the end");
        assert_conserved(&site.registry, 5);
        assert!(site.endings.try_recv().is_err(), "the request has ended once");
    }
}

mod after {
    use super::*;

    #[tokio::test]
    async fn has_no_set_in_connection() {
        let mut site = Site::open().await;
        let mut client = site.connect().await;
        assert_eq!(client.ask("add without a set").await, "no set");
        assert_eq!(client.ask("add").await, "added");
        within(site.registry.wait_idle()).await;
        assert_conserved(&site.registry, 2);
    }
}

mod shutdown {
    use super::*;

    #[tokio::test]
    async fn does_not_wait_for_open_websocket() {
        let mut site = Site::open().await;
        let mut client = site.connect().await;
        assert_eq!(client.ask("add").await, "added");
        let report = within(site.registry.shutdown(GRACE)).await;
        assert!(report.is_clean(), "{report}");
        assert_eq!(client.ask("add").await, "closed", "and the connection is still open");
        assert_eq!(site.journal.read(), ["of the request", "of a message"]);
        assert_conserved(&site.registry, 2);
        drop(client);
        within(site.until(|m| m.discarded == 1)).await;
        assert_eq!(site.journal.read().len(), 2, "the task of the end came too late");
        assert_conserved(&site.registry, 3);
    }

    #[tokio::test]
    async fn waits_for_adds_of_websocket() {
        let mut site = Site::open().await;
        let mut client = site.connect().await;
        let (release, released) = oneshot::channel::<()>();
        site.registry.spawn(released);
        let mut shutdown = pin!(site.registry.shutdown(GRACE));
        assert!(futures::poll!(&mut shutdown).is_pending(), "it has begun");
        assert_eq!(client.ask("add").await, "added");
        within(site.until(|m| m.completed == 2)).await;
        assert!(futures::poll!(&mut shutdown).is_pending(), "it waits for the other task");
        release.send(()).unwrap();
        let report = within(shutdown).await;
        assert!(report.is_clean(), "{report}");
        assert_eq!(site.journal.read(), ["of the request", "of a message"]);
        assert_conserved(&site.registry, 3);
    }

    #[tokio::test]
    async fn lets_websocket_end_itself() {
        let mut site = Site::open().await;
        let mut client = site.connect().await;
        client.send("stay until the end").await;
        let report = within(site.registry.shutdown(GRACE)).await;
        assert!(report.is_clean(), "{report}");
        let mut rest = Vec::new();
        within(client.0.read_to_end(&mut rest)).await.unwrap();
        assert!(rest.is_empty(), "it has hung up without a word");
    }
}
