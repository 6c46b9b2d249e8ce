//! Helpers of all modules.

use std::{net::SocketAddr, sync::Once, time::Duration};

use axum::Router;
use postlude::{RetryPolicy, Task, TaskId, TaskRegistry};
use postlude_console::StatusRouter;
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

/// A server on loopback.
pub(crate) async fn serve(app: Router) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    address
}

pub(crate) async fn serve_status(status: StatusRouter) -> SocketAddr {
    serve(Router::new().nest("/admin", status.build())).await
}

/// A response.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    pub(crate) fn error(&self) -> String {
        self.json()["error"].as_str().unwrap().to_owned()
    }

    pub(crate) fn ids(&self) -> Vec<String> {
        self.ids_of("tasks")
    }

    pub(crate) fn ids_of(&self, what: &str) -> Vec<String> {
        let items = self.json()[what].as_array().unwrap().clone();
        items.iter().map(|item| item["id"].as_str().unwrap().to_owned()).collect()
    }

    pub(crate) fn location(&self) -> &str {
        self.header("location").unwrap()
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self.head.lines().filter_map(|line| line.split_once(": "));
        headers.find_map(|(other, value)| (other == name).then_some(value))
    }
}

/// Asks as a client that may act.
pub(crate) async fn ask(address: SocketAddr, method: &str, path: &str) -> Answer {
    ask_with(address, method, path, "x-requested-with: test\r\n").await
}

/// Asks with these header lines.
pub(crate) async fn ask_with(address: SocketAddr, method: &str, path: &str, headers: &str) -> Answer {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let always = "host: a\r\nconnection: close\r\ncontent-length: 0\r\n";
    let request = format!("{method} {path} HTTP/1.1\r\n{always}{headers}\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Answer { status, head: head.to_owned(), body: body.to_owned() }
}

pub(crate) async fn get(address: SocketAddr, path: &str) -> Answer {
    ask(address, "GET", path).await
}

/// Lets no thread of the tests decide that a line of the log is wanted by nobody: that would hold for all threads.
pub(crate) fn log_on_every_thread() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| tracing::subscriber::set_global_default(tracing_subscriber::registry()).unwrap());
}

pub(crate) fn hanging() -> Task {
    Task::new(std::future::pending::<()>()).named("hanging")
}

/// A task that failed twice, and left a dead letter.
pub(crate) async fn dead(registry: &TaskRegistry) -> TaskId {
    let twice = RetryPolicy::constant(Duration::ZERO).attempts(2);
    let handle = registry.spawn(Task::retrying(twice, || async { Err::<(), _>("receiver is down") }).named("webhook"));
    let id = handle.id();
    handle.await;
    registry.wait_idle().await;
    id
}
