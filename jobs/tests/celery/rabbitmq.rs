//! What only RabbitMQ does.

use std::time::Duration;

use lapin::{
    options::{BasicGetOptions, QueueDeclareOptions, QueueDeleteOptions},
    types::{AMQPValue, FieldTable},
};
use postlude_jobs::{
    QueueError,
    celery::{CeleryProducer, CeleryTask, ConnectError, SendErrorKind},
};

use crate::{
    common::rabbitmq::{Server, new_queue, shared},
    fleet::{Broker, Rabbit, spawn},
};

fn url(server: &Server) -> String {
    format!("{}/", server.url())
}

async fn declare(server: &Server, queue: &str, arguments: FieldTable) {
    let (_connection, channel) = server.connect().await;
    let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    channel.queue_declare(queue.into(), options, arguments).await.unwrap();
}

pub(crate) async fn a_queue_that_does_not_exist_is_an_error() {
    let producer = Rabbit::fleet().producer().await;
    let error = producer.send(CeleryTask::new("worker.add").queue("nobody")).await.unwrap_err();
    assert!(matches!(error.kind(), SendErrorKind::NoQueue { queue } if queue == "nobody"), "{error}");
    assert!(error.to_string().contains("celery worker -Q nobody") && !error.may_be_stored(), "{error}");
}

/// The queue goes after the producer has used it.
pub(crate) async fn a_queue_that_is_gone_is_an_error() {
    let server = shared();
    let queue = new_queue();
    declare(&server, &queue, FieldTable::default()).await;
    let producer = CeleryProducer::connect(&url(&server)).await.unwrap();
    let task = || CeleryTask::new("worker.add").queue(&queue);
    producer.send(task()).await.unwrap();
    let (_connection, channel) = server.connect().await;
    channel.queue_delete(queue.as_str().into(), QueueDeleteOptions::default()).await.unwrap();
    for _ in 0..2 {
        let error = producer.send(task()).await.unwrap_err();
        assert!(matches!(error.kind(), SendErrorKind::NoQueue { .. }), "{error}");
    }
    declare(&server, &queue, FieldTable::default()).await;
    producer.send(task()).await.unwrap();
}

/// Many at a time, some of them to a queue that is not there: each gets its own answer.
pub(crate) async fn answers_are_not_mixed_up() {
    let server = shared();
    let (there, gone) = (new_queue(), new_queue());
    declare(&server, &there, FieldTable::default()).await;
    declare(&server, &gone, FieldTable::default()).await;
    let producer = CeleryProducer::connect(&url(&server)).await.unwrap();
    producer.send(CeleryTask::new("worker.add").queue(&gone)).await.unwrap();
    let (_connection, channel) = server.connect().await;
    channel.queue_delete(gone.as_str().into(), QueueDeleteOptions::default()).await.unwrap();
    let send = |number: usize| {
        let (producer, is_there) = (producer.clone(), !number.is_multiple_of(3));
        let queue = if is_there { there.clone() } else { gone.clone() };
        spawn(async move { producer.send(CeleryTask::new("worker.add").queue(queue)).await.is_ok() == is_there })
    };
    let sent: Vec<_> = (0..600).map(send).collect();
    for answer in sent {
        assert!(answer.await.unwrap());
    }
    let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
    let found = channel.queue_declare(there.as_str().into(), passive, FieldTable::default()).await.unwrap();
    assert_eq!(found.message_count(), 400);
}

pub(crate) async fn messages_are_persistent() {
    let server = shared();
    let queue = new_queue();
    declare(&server, &queue, FieldTable::default()).await;
    let producer = CeleryProducer::connect(&url(&server)).await.unwrap();
    let id = producer.send(CeleryTask::new("worker.add").args((1, 2)).queue(&queue)).await.unwrap();
    let (_connection, channel) = server.connect().await;
    let got = channel.basic_get(queue.as_str().into(), BasicGetOptions::default()).await.unwrap();
    let delivery = got.expect("the message is stored").delivery;
    let properties = &delivery.properties;
    assert_eq!(properties.delivery_mode(), &Some(2));
    assert_eq!(properties.content_type().as_ref().map(|text| text.as_str()), Some("application/json"));
    assert_eq!(properties.correlation_id().as_ref().map(|text| text.as_str()), Some(id.to_string().as_str()));
    let headers = properties.headers().clone().expect("it has headers");
    assert_eq!(headers.inner().get("lang"), Some(&AMQPValue::LongString("py".into())));
}

pub(crate) async fn a_full_queue_does_not_confirm() {
    let server = shared();
    let queue = new_queue();
    let mut arguments = FieldTable::default();
    arguments.insert("x-max-length".into(), AMQPValue::LongInt(1));
    arguments.insert("x-overflow".into(), AMQPValue::LongString("reject-publish".into()));
    declare(&server, &queue, arguments).await;
    let producer = CeleryProducer::connect(&url(&server)).await.unwrap();
    let task = || CeleryTask::new("worker.add").queue(&queue);
    producer.send(task()).await.unwrap();
    let error = producer.send(task()).await.unwrap_err();
    assert!(matches!(error.kind(), SendErrorKind::NotConfirmed) && error.may_be_stored(), "{error}");
}

pub(crate) async fn wrong_credentials_are_said_and_not_shown() {
    let server = shared();
    let port = server.port();
    server.control(&["add_user", "reader", "secret"]);
    server.control(&["set_permissions", "reader", "", "", ".*"]);
    for (url, text) in [
        (format!("amqp://guest:secret@127.0.0.1:{port}//"), "check the user and the password"),
        (format!("amqp://reader:secret@127.0.0.1:{port}/nowhere"), "the virtual host does not exist"),
    ] {
        let error = CeleryProducer::connect(&url).await.unwrap_err();
        let ConnectError::Broker(QueueError::Refused { source, .. }) = &error else {
            unreachable!("{error:?}")
        };
        assert!(source.to_string().contains(text), "{source}");
        assert!(!format!("{error:?}").contains("secret"), "{error:?}");
    }
    let queue = new_queue();
    declare(&server, &queue, FieldTable::default()).await;
    let producer = CeleryProducer::connect(&format!("amqp://reader:secret@127.0.0.1:{port}//")).await.unwrap();
    let error = producer.send(CeleryTask::new("worker.add").queue(&queue)).await.unwrap_err();
    let SendErrorKind::Broker(QueueError::Refused { source, .. }) = error.kind() else {
        unreachable!("{error:?}")
    };
    assert!(source.to_string().contains("amq.default") && !error.may_be_stored(), "{source}");
}

/// A server of its own, because it is killed, and refuses messages for a while.
pub(crate) async fn the_server_goes_and_comes() {
    let server = Server::create();
    declare(&server, "celery", FieldTable::default()).await;
    let builder = CeleryProducer::builder(&url(&server)).push_timeout(Duration::from_secs(2));
    let producer = builder.connect().await.unwrap();
    let task = || CeleryTask::new("worker.add");
    producer.send(task()).await.unwrap();

    server.control(&["set_vm_memory_high_watermark", "absolute", "1000"]);
    let error = producer.send(task()).await.unwrap_err();
    let SendErrorKind::Broker(QueueError::Interrupted { source, .. }) = error.kind() else {
        unreachable!("{error:?}")
    };
    assert!(source.to_string().contains("takes no messages") && error.may_be_stored(), "{source}");
    server.control(&["set_vm_memory_high_watermark", "0.4"]);
    producer.send(task()).await.unwrap();

    server.kill();
    let error = producer.send(task()).await.unwrap_err();
    assert!(error.is_transient(), "{error}");
    let error = producer.send(task()).await.unwrap_err();
    assert!(!error.may_be_stored() && error.is_transient(), "{error}");
    server.start();
    producer.send(task()).await.unwrap();
}
