//! A smaller version of `hello` on plain hyper, without axum and without the layer.
//!
//! Run `cargo run --example hyper`, then the `curl` command that it prints. Ctrl-C or SIGTERM shuts it down gracefully.
#![expect(clippy::print_stdout, reason = "an example may print")]
#![expect(clippy::disallowed_methods, reason = "connections are not tasks of a request")]

use std::{convert::Infallible, env, error::Error, time::Duration};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::{rt::TokioIo, server::graceful::GracefulShutdown};
use postlude::{Task, TaskBody, TaskRegistry};
use serde::Deserialize;
use tokio::{
    net::TcpListener,
    signal::{
        ctrl_c,
        unix::{SignalKind, signal},
    },
};
use tracing::info;

#[derive(Deserialize)]
struct Signup {
    email: String,
}

/// Handles a request. Tasks that it adds run after the response has left, whatever its status is.
async fn handle(
    request: Request<Incoming>,
    registry: TaskRegistry,
) -> Result<Response<TaskBody<Full<Bytes>>>, Infallible> {
    let tasks = registry.set();
    let (status, text) = match (request.method(), request.uri().path()) {
        (&Method::POST, "/signup") => match read(request).await {
            Ok(Signup { email }) => {
                let audited = email.clone();
                tasks.add(
                    Task::new(async move {
                        tokio::time::sleep(Duration::from_secs(1)).await;
                        info!(email, "mail sent");
                    })
                    .named("welcome_mail"),
                );
                tasks.add(Task::blocking(move || info!(email = audited, "audited")).named("audit_log"));
                (StatusCode::ACCEPTED, "welcome!\n".to_owned())
            }
            Err(error) => (StatusCode::UNPROCESSABLE_ENTITY, format!("{error}\n")),
        },
        _ => (StatusCode::NOT_FOUND, "not found; try POST /signup\n".to_owned()),
    };
    let mut response = Response::new(Full::from(text));
    *response.status_mut() = status;
    Ok(tasks.attach(response))
}

async fn read(request: Request<Incoming>) -> Result<Signup, Box<dyn Error + Send + Sync>> {
    let body = request.into_body().collect().await?.to_bytes();
    Ok(serde_json::from_slice(&body)?)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    tracing_subscriber::fmt().init();
    let port: u16 = match env::var("PORT") {
        Ok(port) => port.parse().map_err(|error| format!("PORT={port}: {error}"))?,
        Err(_) => 3000,
    };
    let registry = TaskRegistry::new();
    let listener = TcpListener::bind(("127.0.0.1", port))
        .await
        .map_err(|error| format!("port {port}: {error}; try another one: PORT=3001 cargo run --example hyper"))?;
    let address = listener.local_addr()?;
    println!("listening on {address}; try:");
    println!(r#"  curl -i http://{address}/signup -d '{{"email": "a@example.com"}}'"#);

    let connections = GracefulShutdown::new();
    let mut terminate = signal(SignalKind::terminate())?;
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => accepted?.0,
            _ = terminate.recv() => break,
            stopped = ctrl_c() => break stopped?,
        };
        let registry = registry.clone();
        let service = service_fn(move |request| handle(request, registry.clone()));
        let connection = connections.watch(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                info!(%error, "connection ended");
            }
        });
    }
    drop(listener);
    connections.shutdown().await;
    println!("{}", registry.shutdown(Duration::from_secs(10)).await);
    Ok(())
}
