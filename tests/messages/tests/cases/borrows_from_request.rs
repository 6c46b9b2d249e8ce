//! A task outlives the request that adds it.
use axum::Json;
use postlude::TaskSet;

#[derive(serde::Deserialize)]
struct Signup {
    email: String,
}

async fn send_mail(_to: &str) {}

async fn signup(tasks: TaskSet, Json(signup): Json<Signup>) {
    tasks.add(send_mail(&signup.email));
}

fn main() {
    drop(signup);
}
