//! RabbitMQ past the libraries.

use std::time::Duration;

use futures::StreamExt;
use lapin::{
    Channel, Connection, ConnectionProperties,
    options::{BasicAckOptions, BasicGetOptions, BasicPublishOptions, ConfirmSelectOptions},
};
use tokio::time::sleep;

/// How many copies are on their way at once.
const TOGETHER: usize = 1_000;

/// A channel whose messages are confirmed. It ends with the connection.
pub(crate) async fn connect(url: &str) -> (Connection, Channel) {
    let connection = Connection::connect(url, ConnectionProperties::default()).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
    (connection, channel)
}

/// Puts copies of the first message of a queue behind it.
pub(crate) async fn copy_message(url: &str, queue: &str, copies: u64) {
    let (_connection, channel) = connect(url).await;
    let first = loop {
        if let Some(first) = channel.basic_get(queue.into(), BasicGetOptions::default()).await.unwrap() {
            break first.delivery;
        }
        // It was sent, and not confirmed.
        sleep(Duration::from_millis(5)).await;
    };
    let publish = async |_| {
        let options = BasicPublishOptions::default();
        let sent = channel.basic_publish("".into(), queue.into(), options, &first.data, first.properties.clone());
        sent.await.unwrap().await.unwrap();
    };
    futures::stream::iter(0..copies).map(publish).buffer_unordered(TOGETHER).for_each(async |()| {}).await;
    first.acker.ack(BasicAckOptions::default()).await.unwrap();
}
