//! 11. Payloads: their size, their headers, the codec, and that they never show.

use postlude::BoxError;
use postlude_jobs::{Codec, Job, JobState, Jobs, Page, PushErrorKind, PushOptions, job};
use serde::{Deserialize, Serialize};

use crate::{
    engine::TestEngine,
    support::{Journal, Mail, builder, until_state},
};

#[derive(Serialize, Deserialize)]
struct Letter(String);

impl Job for Letter {
    const NAME: &'static str = "letter";
}

pub(crate) async fn too_large_is_an_error<E: TestEngine>() {
    let engine = E::create().await;
    let jobs = Jobs::producer(engine.queue().await).await.unwrap();
    // Two quotes are part of the JSON.
    let limit = 256 * 1024;
    jobs.push(Letter("x".repeat(limit - 2))).await.unwrap();
    let error = jobs.push(Letter("x".repeat(limit - 1))).await.unwrap_err();
    let is_too_large =
        matches!(error.kind(), PushErrorKind::TooLarge { bytes, limit: l } if (*bytes, *l) == (limit + 1, limit));
    assert!(is_too_large && !error.may_be_stored(), "{error:?}");

    let registry = postlude::TaskRegistry::new();
    let builder = Jobs::builder(engine.queue().await, registry).max_payload_bytes(10);
    let jobs = builder.producer().await.unwrap();
    assert!(jobs.push(Letter("nine more".to_owned())).await.is_err());
    assert_eq!(jobs.stats().await.unwrap().get("letter").waiting, 1);
}

pub(crate) async fn headers_are_stored<E: TestEngine>() {
    let engine = E::create().await;
    let (builder, _registry) = builder(&engine).await;
    let journal: Journal<Option<String>> = Journal::default();
    let noted = journal.clone();
    let handler = move |_: Mail| {
        let current = job::current().unwrap();
        noted.note(current.header("traceparent").map(str::to_owned));
        noted.note(current.header("postlude-format").map(str::to_owned));
        noted.note(current.header("postlude-own").map(str::to_owned));
        async {}
    };
    let jobs = builder.handle(handler).start().await.unwrap();
    let options = PushOptions::default().header("traceparent", "00-ab-cd-01").header("postlude-own", "ignored");
    let id = jobs.push_with(Mail { number: 1 }, options).await.unwrap();
    until_state(&jobs, id, JobState::Completed).await;
    assert_eq!(journal.entries(), [Some("00-ab-cd-01".to_owned()), Some("1".to_owned()), None]);
}

/// Not a cipher: it shows that the hook is called.
struct Reverse;

impl Codec for Reverse {
    fn encode(&self, name: &str, mut json: Vec<u8>) -> Result<Vec<u8>, BoxError> {
        assert_eq!(name, "letter");
        json.reverse();
        Ok(json)
    }

    fn decode(&self, name: &str, mut stored: Vec<u8>) -> Result<Vec<u8>, BoxError> {
        assert_eq!(name, "letter");
        if stored.starts_with(b"{") {
            return Err("not encoded".into());
        }
        stored.reverse();
        Ok(stored)
    }
}

pub(crate) async fn a_codec_encodes_and_decodes<E: TestEngine>() {
    let engine = E::create().await;
    let (builder, _registry) = builder(&engine).await;
    let journal: Journal<String> = Journal::default();
    let noted = journal.clone();
    let handler = move |Letter(text): Letter| {
        noted.note(text.clone());
        async move { if text == "abc" { Ok(()) } else { Err("not this one") } }
    };
    let jobs = builder.codec(Reverse).handle(handler).start().await.unwrap();
    let id = jobs.push(Letter("abc".to_owned())).await.unwrap();
    until_state(&jobs, id, JobState::Completed).await;
    let options = PushOptions::default().max_attempts(1);
    let dead = jobs.push_with(Letter("xyz".to_owned()), options).await.unwrap();
    until_state(&jobs, dead, JobState::Dead).await;
    assert_eq!(journal.entries(), ["abc", "xyz"]);
    assert_eq!(jobs.dead(Page::default()).await.unwrap()[0].payload(), b"\"zyx\"", "it is stored encoded");
}

pub(crate) async fn never_show<E: TestEngine>() {
    let engine = E::create().await;
    let (builder, _registry) = builder(&engine).await;
    let handler = async |_: Letter| postlude_jobs::JobVerdict::Dead("no".to_owned());
    let jobs = builder.handle(handler).start().await.unwrap();
    let new = jobs.prepare(Letter("secret".to_owned())).unwrap();
    assert!(!format!("{new:?}").contains("secret"));
    let id = jobs.push(Letter("secret".to_owned())).await.unwrap();
    let info = until_state(&jobs, id, JobState::Dead).await;
    let dead = jobs.dead(Page::default()).await.unwrap();
    assert!(!format!("{info:?} {dead:?}").contains("secret"));
    assert!(!serde_json::to_string(&(info, dead)).unwrap().contains("secret"));
}
