//! An axum service that can be watched: the page for browsers, logs with request ids, status and health over HTTP,
//! Prometheus, a stream of events, an alert. The sign-up leaves a mail behind, which fails for addresses at `.invalid`;
//! the export takes long. The service also misbehaves on purpose: `welcome_mail` fails, `sync_stock` blocks its set,
//! `resize_image` is at its limit, `monthly_report` is slow. `QUIET=1` leaves that out.
//!
//! `cargo run -p postlude-console --example observe`, then open the link that it prints. Ctrl-C or SIGTERM ends it in
//! order.
#![expect(clippy::print_stdout, reason = "an example may print")]

use std::{
    convert::Infallible,
    env,
    error::Error,
    io,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use axum::{
    Router,
    extract::{Query, Request, State},
    http::StatusCode,
    middleware::{Next, from_fn},
    response::{
        Response, Sse,
        sse::{Event, KeepAlive},
    },
    routing::{get, post},
};
use futures::{Stream, StreamExt};
use postlude::{RetryPolicy, SpanRelation, Task, TaskLayer, TaskRegistry, TaskReport, TaskSet, progress};
use postlude_console::{Accepted, StatusRouter};
use serde::Deserialize;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, Level, info, info_span};

#[derive(Clone)]
struct App {
    registry: TaskRegistry,
    stop: CancellationToken,
}

#[derive(Deserialize)]
struct Signup {
    email: String,
}

async fn signup(tasks: TaskSet, Query(Signup { email }): Query<Signup>) -> (StatusCode, &'static str) {
    tasks.add(Task::new(async { tokio::time::sleep(Duration::from_millis(20)).await }).named("audit_log"));
    let policy = RetryPolicy::constant(Duration::from_secs(1)).attempts(2);
    tasks.add(Task::retrying(policy, move || send_mail(email.clone())).named("welcome_mail"));
    (StatusCode::ACCEPTED, "welcome!\n")
}

/// Stands for a conversation with a mail server.
async fn send_mail(email: String) -> io::Result<()> {
    tokio::time::sleep(Duration::from_millis(300)).await;
    if email.ends_with(".invalid") {
        return Err(io::Error::other("the mail server knows no such host"));
    }
    info!("mail sent");
    Ok(())
}

/// Accept, then poll: the response says where to ask for the task.
async fn export(tasks: TaskSet) -> Accepted {
    let id = tasks.add(Task::new(async { tokio::time::sleep(Duration::from_secs(60)).await }).named("export"));
    Accepted::new(id).under("/admin")
}

/// What happens to tasks, as it happens. Ends when the server is told to stop, which a stream without end would hold
/// up.
async fn events(State(app): State<App>) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let as_json = |event| Ok(Event::default().json_data(&event).unwrap_or_default());
    Sse::new(app.registry.subscribe().map(as_json).take_until(app.stop.cancelled_owned()))
        .keep_alive(KeepAlive::default())
}

/// Gives each request a span with an id.
async fn with_request_id(request: Request, next: Next) -> Response {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let span = info_span!("request", request_id = NEXT.fetch_add(1, Ordering::Relaxed));
    next.run(request).instrument(span).await
}

/// Plays the clients, until the server stops.
#[expect(clippy::disallowed_methods, reason = "the traffic is no task of the service")]
fn start_traffic(registry: &TaskRegistry, stop: &CancellationToken) {
    tokio::spawn(misbehave(registry.clone(), stop.clone()));
}

/// What goes well, and four things that do not.
async fn misbehave(registry: TaskRegistry, stop: CancellationToken) {
    let set = registry.set();
    set.add(Task::new(std::future::pending::<()>()).named("sync_stock")); // waits for an answer that never comes
    set.add(Task::new(async {}).named("notify_warehouse"));
    set.add(Task::new(async {}).named("notify_customer"));
    drop(set); // which drains it
    let mut ticks = tokio::time::interval(Duration::from_millis(100));
    for tick in 0_u64.. {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        let millis = |millis| tokio::time::sleep(Duration::from_millis(millis));
        registry.spawn(Task::new(async move { millis(5 + tick % 20).await }).named("audit_log"));
        if tick % 5 == 0 {
            let policy = RetryPolicy::constant(Duration::from_secs(1)).attempts(2);
            let host = if tick % 15 == 0 { "invalid" } else { "com" };
            let mail = move || send_mail(format!("a@example.{host}"));
            registry.spawn(Task::retrying(policy, mail).named("welcome_mail"));
        }
        if tick % 4 == 0 && registry.tasks().len() < 200 {
            registry.spawn(Task::new(async move { millis(900).await }).named("resize_image"));
        }
        if tick % 10 == 0 {
            let report = async move {
                for page in 0..6_u64 {
                    progress().set(page, 6).message("rendering");
                    millis(500 + 100 * (tick / 10 % 4)).await;
                }
            };
            registry.spawn(Task::new(report).named("monthly_report"));
        }
    }
}

fn router(registry: &TaskRegistry, stop: CancellationToken) -> Router {
    let status = StatusRouter::new(registry.clone())
        .allow_abort()
        .allow_replay()
        .allow_pause()
        .max_failure_rate(0.5)
        .max_pending_age(Duration::from_secs(60))
        .stop(stop.clone());
    let admin = status.build(); // .layer(your_authentication)
    Router::new()
        .route("/events", get(events))
        .route("/signup", post(signup))
        .route("/exports", post(export))
        .nest("/admin", admin)
        .with_state(App { registry: registry.clone(), stop })
        .layer(from_fn(with_request_id))
        .layer(TaskLayer::new(registry.clone()))
}

/// Stands for the message that wakes somebody.
fn alert(report: &TaskReport) {
    println!("ALERT: task {} `{}` {}", report.id, report.name, report.outcome);
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    tracing_subscriber::fmt().init();
    let port: u16 = match env::var("PORT") {
        Ok(port) => port.parse().map_err(|error| format!("PORT={port}: {error}"))?,
        Err(_) => 3000,
    };
    let registry = TaskRegistry::builder()
        .spans(SpanRelation::ChildOf)
        .span_level(Level::INFO)
        .limit_by_name("resize_image", 2)
        .profile(postlude::Profile::default())
        .dead_letters(100)
        .on_failure(|report| {
            if report.outcome.is_loss() {
                alert(report);
            }
        })
        .build()?;
    let listener = TcpListener::bind(("127.0.0.1", port)).await.map_err(|error| {
        format!("port {port}: {error}; try another one: PORT=3001 cargo run -p postlude-console --example observe")
    })?;
    let address = listener.local_addr()?;
    println!("open http://{address}/admin");
    println!("or leave some tasks yourself:");
    println!("  curl -X POST 'http://{address}/signup?email=a@example.com'");
    println!("  curl -X POST 'http://{address}/signup?email=a@example.invalid'");
    println!("  curl -i -X POST http://{address}/exports");
    println!("and look at them:");
    for path in ["tasks", "tasks?state=failed&limit=10", "tasks/{id}", "dead-letters?limit=10", "dead-letters/{id}"] {
        println!("  curl 'http://{address}/admin/{path}'");
    }
    for path in ["metrics.json", "metrics", "health"] {
        println!("  curl 'http://{address}/admin/{path}'");
    }
    let act = "curl -H 'x-requested-with: curl'";
    println!("  {act} -X DELETE 'http://{address}/admin/tasks/{{id}}'");
    println!("  {act} -X POST 'http://{address}/admin/dead-letters/{{id}}/replay'");
    println!("  {act} -X DELETE 'http://{address}/admin/dead-letters/{{id}}'");
    println!("  curl -N http://{address}/events");
    println!("and Ctrl-C to end it in order");

    let is_quiet = env::var_os("QUIET").is_some();
    let serve = |stop: CancellationToken| {
        if !is_quiet {
            start_traffic(&registry, &stop);
        }
        axum::serve(listener, router(&registry, stop.clone())).with_graceful_shutdown(stop.cancelled_owned())
    };
    let report = registry.serve(Duration::from_secs(10), serve).await?;
    println!("{report}");
    Ok(())
}
