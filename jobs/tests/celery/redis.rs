//! What only Redis does.

use postlude_jobs::{
    QueueError,
    celery::{CeleryProducer, CeleryTask, ConnectError, SendErrorKind},
};

use crate::{
    common::redis::Server,
    fleet::{Broker, Redis, returned},
};

/// With prefixes, steps of priorities and a separator that are not the defaults.
pub(crate) async fn settings_of_the_workers() {
    let fleet = Redis::fleet();
    let options = r#"{"global_keyprefix": "shop:", "priority_steps": [0, 1, 2, 3], "sep": ":"}"#;
    let environment = [("BROKER_OPTIONS", options), ("RESULT_OPTIONS", r#"{"global_keyprefix": "shop"}"#)];
    let worker = fleet.worker(&["-Q", "celery", "--pool", "solo"], &environment);
    worker.until_ready();
    let builder = fleet.builder().key_prefix("shop:").result_key_prefix("shop");
    let producer = builder.priority_steps(0..=3).priority_separator(":").connect().await.unwrap();
    for priority in [0, 1, 2, 9] {
        let id = producer.send(CeleryTask::new("worker.add").args((priority, 1)).priority(priority)).await.unwrap();
        assert_eq!(returned::<u8>(&producer, id).await, priority + 1);
    }
}

pub(crate) async fn a_priority_beyond_9_is_an_error() {
    let producer = Redis::fleet().producer().await;
    let error = producer.send(CeleryTask::new("worker.add").priority(10)).await.unwrap_err().to_string();
    assert!(error.contains("9 the least"), "{error}");
}

pub(crate) async fn the_server_goes_and_comes() {
    let server = Server::create();
    let producer = CeleryProducer::connect(&server.url()).await.unwrap();
    let task = || CeleryTask::new("worker.add").queue("nobody");
    producer.send(task()).await.unwrap();
    server.kill();
    let mut sent = 1;
    // The first one may have found the connection that has just ended.
    let error = producer.send(task()).await.unwrap_err();
    assert!(error.is_transient(), "{error}");
    let error = producer.send(task()).await.unwrap_err();
    assert!(!error.may_be_stored() && error.is_transient(), "{error}");
    server.start();
    producer.send(task()).await.unwrap();
    sent += 1;
    assert_eq!(server.ask::<usize>(&["LLEN", "nobody"]).await, sent);
}

pub(crate) async fn a_wrong_password_is_said_and_not_shown() {
    let server = Server::create();
    server.ask::<()>(&["CONFIG", "SET", "requirepass", "right"]).await;
    let url = format!("redis://:secret@127.0.0.1:{}/0", server.port());
    let error = CeleryProducer::connect(&url).await.unwrap_err();
    let ConnectError::Broker(QueueError::Refused { source, .. }) = &error else {
        unreachable!("{error:?}")
    };
    assert!(source.to_string().contains("check the user and the password"), "{source}");
    assert!(!format!("{error:?} {source:?}").contains("secret"), "{error:?}");

    let lazy = CeleryProducer::builder(&url).build().unwrap();
    let error = lazy.send(CeleryTask::new("worker.add")).await.unwrap_err();
    assert!(matches!(error.kind(), SendErrorKind::Broker(QueueError::Refused { .. })), "{error}");
    assert!(!error.may_be_stored());
}
