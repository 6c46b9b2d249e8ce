//! The server of `benches/http.sh`: the same axum application in several variants, each on a port of its own, all
//! on one thread.
//!
//! `server serve` prints a line with name and port for each variant and then an empty one, and serves until it is
//! killed.
#![expect(clippy::disallowed_methods, reason = "it plays the peers that spawn by themselves")]
#![expect(clippy::print_stdout, reason = "the ports are there to be read")]
#![expect(clippy::unwrap_used, reason = "a benchmark may stop where it stands")]

use axum::{Extension, Router, routing::get, serve::ListenerExt};
use postlude::{TaskLayer, TaskRegistry, TaskSet};
use postlude_floor::{Bag, Registry, Until, floor, keeping_floor, waiting_floor};
use tokio::net::TcpListener;

fn main() {
    if !std::env::args().any(|argument| argument == "serve") {
        println!("run by benches/http.sh");
        return;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let layer = TaskLayer::new(TaskRegistry::new());
        let variants = [
            ("no_layer", spawns(0)),
            ("floor", floor(spawns(0), Until::Released)),
            ("floor_1", floor(bag(1), Until::Taken)),
            ("floor_4", floor(bag(4), Until::Taken)),
            ("watching_1", floor(bag(1), Until::Released)),
            ("watching_4", floor(bag(4), Until::Released)),
            ("keeping_1", keeping_floor(bag(1), &Registry::new())),
            ("keeping_4", keeping_floor(bag(4), &Registry::new())),
            ("waiting_1", waiting_floor(bag(1), &Registry::new())),
            ("waiting_4", waiting_floor(bag(4), &Registry::new())),
            ("layer_unused", spawns(0).layer(layer.clone())),
            ("layer_1", tasks(1).layer(layer.clone())),
            ("layer_4", tasks(4).layer(layer)),
            ("spawn_1", spawns(1)),
            ("spawn_4", spawns(4)),
        ];
        let mut servers = tokio::task::JoinSet::new();
        for (name, app) in variants {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            println!("{name} {}", listener.local_addr().unwrap().port());
            let listener = listener.tap_io(|stream| stream.set_nodelay(true).unwrap());
            servers.spawn(axum::serve(listener, app).into_future());
        }
        println!();
        servers.join_next().await;
    });
}

/// A handler that spawns `count` empty tasks by itself.
fn spawns(count: usize) -> Router {
    Router::new().route(
        "/",
        get(move || async move {
            for _ in 0..count {
                tokio::spawn(async {});
            }
            "Hello, World!"
        }),
    )
}

/// A handler that adds `count` empty tasks.
fn tasks(count: usize) -> Router {
    Router::new().route(
        "/",
        get(move |tasks: TaskSet| async move {
            for _ in 0..count {
                tasks.add(async {});
            }
            "Hello, World!"
        }),
    )
}

/// A handler that adds `count` empty tasks to the bag of the floor.
fn bag(count: usize) -> Router {
    Router::new().route(
        "/",
        get(move |Extension(bag): Extension<Bag>| async move {
            for _ in 0..count {
                bag.add(async {});
            }
            "Hello, World!"
        }),
    )
}
