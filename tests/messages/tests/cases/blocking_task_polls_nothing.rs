//! A blocking task calls a closure, and polls nothing.
use postlude::Task;

async fn send_mail() {}

fn main() {
    drop(Task::blocking(|| async { send_mail().await }));
    drop(Task::cpu(|| send_mail()));
    drop(Task::blocking(send_mail()));
}
