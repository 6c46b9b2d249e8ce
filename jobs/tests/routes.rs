//! The routes, without a server: their answers, and that they act only when they may.
#![expect(clippy::unwrap_used, reason = "a test may stop where it stands")]

use std::time::Duration;

use axum::{
    Router,
    body::{Body, to_bytes},
    http::{Request, StatusCode, header},
    response::IntoResponse,
};
use postlude::TaskRegistry;
use postlude_jobs::{
    Accepted, Job, JobId, JobState, JobVerdict, Jobs, JobsBuilder, JobsRouter, PushOptions, job, sqlite::SqliteQueue,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tempfile::TempDir;
use tower::ServiceExt;

#[derive(Serialize, Deserialize)]
struct Mail {
    secret: String,
}

impl Job for Mail {
    const NAME: &'static str = "mail";
}

struct Case {
    _folder: TempDir,
    jobs: Jobs,
    app: Router,
}

impl Case {
    /// A worker whose mails die.
    async fn create(configure: impl FnOnce(JobsRouter) -> JobsRouter) -> Self {
        let handler = async |_: Mail| JobVerdict::Dead("no such mailbox".to_owned());
        Self::with(configure, |builder| builder.handle(handler)).await
    }

    async fn with(
        configure: impl FnOnce(JobsRouter) -> JobsRouter,
        handle: impl FnOnce(JobsBuilder) -> JobsBuilder,
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let queue = SqliteQueue::open(folder.path().join("jobs.db")).await.unwrap();
        let jobs = handle(Jobs::builder(queue, TaskRegistry::new())).start().await.unwrap();
        let app = Router::new().nest("/admin", configure(JobsRouter::new(jobs.clone())).build());
        Self { _folder: folder, jobs, app }
    }

    async fn push(&self, options: PushOptions) -> JobId {
        self.jobs.push_with(Mail { secret: "top secret".to_owned() }, options).await.unwrap()
    }

    async fn until_state(&self, id: JobId, state: JobState) {
        while self.jobs.find(id).await.unwrap().unwrap().state != state {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn dead(&self) -> JobId {
        let id = self.push(PushOptions::default()).await;
        self.until_state(id, JobState::Dead).await;
        id
    }

    async fn send(&self, method: &str, path: &str) -> (StatusCode, String, Option<String>) {
        let request = Request::builder().method(method).uri(format!("/admin{path}"));
        let request = request.header("x-requested-with", "test").body(Body::empty()).unwrap();
        let response = self.app.clone().oneshot(request).await.unwrap();
        assert_eq!(response.headers()[header::CACHE_CONTROL], "no-store");
        let location = response.headers().get(header::LOCATION).map(|value| value.to_str().unwrap().to_owned());
        let status = response.status();
        let bytes = to_bytes(response.into_body(), usize::MAX).await.unwrap();
        let text = String::from_utf8(bytes.to_vec()).unwrap();
        assert!(!text.contains("top secret"), "a payload shows: {text}");
        (status, text, location)
    }

    async fn json(&self, path: &str) -> Value {
        let (status, text, _) = self.send("GET", path).await;
        assert_eq!(status, StatusCode::OK, "{text}");
        serde_json::from_str(&text).unwrap()
    }
}

/// A job that nobody takes for the time being.
fn later() -> PushOptions {
    PushOptions::default().delay(Duration::from_secs(3600))
}

#[tokio::test]
async fn queue_has_the_figures_by_name() {
    let case = Case::create(|routes| routes).await;
    case.push(later()).await;
    let body = case.json("/queue").await;
    let mail = json!({"waiting": 0, "scheduled": 1, "running": 0, "dead": 0, "oldest_waiting": null, "paused": false});
    assert_eq!(body, json!({"engine": "SQLite", "allows_actions": false, "names": {"mail": mail}}));
}

#[tokio::test]
async fn jobs_shows_one_job() {
    let case = Case::create(|routes| routes).await;
    let id = case.push(later()).await;
    let body = case.json(&format!("/jobs/{id}")).await;
    assert_eq!((&body["id"], &body["state"]), (&json!(id.to_string()), &json!("scheduled")));
    assert_eq!((&body["progress"], &body["result"]), (&Value::Null, &Value::Null));
    let (status, text, _) = case.send("GET", &format!("/jobs/{}", JobId::generate())).await;
    assert_eq!(status, StatusCode::NOT_FOUND, "{text}");
    let (status, text, _) = case.send("GET", "/jobs/17").await;
    assert_eq!(status, StatusCode::BAD_REQUEST, "{text}");
}

#[tokio::test]
async fn jobs_shows_progress_and_result() {
    let handler = async |_: Mail| {
        postlude::progress().set(3, 3).message("page 3");
        job::current().unwrap().set_result(&json!({"path": "exports/17.csv"})).unwrap();
    };
    let case = Case::with(|routes| routes, |builder| builder.handle(handler)).await;
    let id = case.push(PushOptions::default()).await;
    case.until_state(id, JobState::Completed).await;
    let body = case.json(&format!("/jobs/{id}")).await;
    assert_eq!(body["progress"], json!({"done": 3, "total": 3, "message": "page 3"}));
    assert_eq!(body["result"], json!({"path": "exports/17.csv"}));
}

#[tokio::test]
async fn dead_lists_pages() {
    let case = Case::create(|routes| routes).await;
    let (first, second) = (case.dead().await, case.dead().await);
    let page = case.json("/dead?limit=1").await;
    assert_eq!(page["dead"][0]["id"], json!(second.to_string()));
    assert_eq!(page["dead"][0]["errors"][0]["message"], json!("failed: no such mailbox"));
    let next = case.json(&format!("/dead?limit=2&name=mail&after={}", page["next"].as_str().unwrap())).await;
    assert_eq!((&next["dead"][0]["id"], &next["next"]), (&json!(first.to_string()), &Value::Null));
    assert_eq!(case.send("GET", "/dead?limit=many").await.0, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn actions_are_off_by_default() {
    let case = Case::create(|routes| routes).await;
    let id = case.dead().await;
    for (method, path) in [
        ("DELETE", format!("/jobs/{id}")),
        ("DELETE", format!("/dead/{id}")),
        ("POST", format!("/dead/{id}/replay")),
        ("PUT", "/paused/mail".to_owned()),
        ("DELETE", "/paused/mail".to_owned()),
    ] {
        let (status, text, _) = case.send(method, &path).await;
        assert_eq!(status, StatusCode::METHOD_NOT_ALLOWED, "{method} {path}: {text}");
        assert!(text.contains("allow_actions"), "{text}");
    }
}

#[tokio::test]
async fn actions_act() {
    let case = Case::create(JobsRouter::allow_actions).await;
    assert_eq!(case.send("PUT", "/paused/mail").await.0, StatusCode::NO_CONTENT);
    assert!(case.jobs.stats().await.unwrap().get("mail").paused);
    assert_eq!(case.send("DELETE", "/paused/mail").await.0, StatusCode::NO_CONTENT);

    let waiting = case.push(later()).await;
    assert_eq!(case.send("DELETE", &format!("/jobs/{waiting}")).await.0, StatusCode::NO_CONTENT);
    assert_eq!(case.send("DELETE", &format!("/jobs/{waiting}")).await.0, StatusCode::NOT_FOUND);

    let id = case.dead().await;
    let (status, _, location) = case.send("POST", &format!("/dead/{id}/replay")).await;
    assert_eq!((status, location), (StatusCode::ACCEPTED, Some(format!("/admin/jobs/{id}"))));
    let id = case.dead().await;
    assert_eq!(case.send("DELETE", &format!("/dead/{id}")).await.0, StatusCode::NO_CONTENT);
    assert_eq!(case.send("DELETE", &format!("/dead/{id}")).await.0, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn an_action_needs_the_header() {
    let case = Case::create(JobsRouter::allow_actions).await;
    let request = Request::builder().method("PUT").uri("/admin/paused/mail").body(Body::empty()).unwrap();
    let response = case.app.clone().oneshot(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::FORBIDDEN);
    assert!(!case.jobs.stats().await.unwrap().get("mail").paused);
}

#[tokio::test]
async fn metrics_are_for_prometheus() {
    let case = Case::create(|routes| routes).await;
    case.dead().await;
    // It is counted when its settlement has returned.
    while case.jobs.metrics().dead == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let (status, text, _) = case.send("GET", "/metrics").await;
    assert_eq!(status, StatusCode::OK);
    for line in [
        "postlude_jobs_dead{name=\"mail\"} 1\n",
        "postlude_jobs_oldest_waiting_seconds{name=\"mail\"} 0.0\n",
        "postlude_jobs_paused{name=\"mail\"} 0\n",
        "postlude_jobs_worker_dead_total 1\n",
        "postlude_jobs_worker_lost_total 0\n",
    ] {
        assert!(text.contains(line), "{line} in {text}");
    }
    assert_eq!(case.json("/metrics.json").await["dead"], json!(1));
}

#[tokio::test]
async fn health_tells_what_is_wrong() {
    let case = Case::create(|routes| routes.max_oldest_waiting(Duration::ZERO)).await;
    assert_eq!(case.json("/health").await, json!({"healthy": true, "problems": []}));
    // A job that nobody here handles.
    #[derive(Serialize, Deserialize)]
    struct Other;
    impl Job for Other {
        const NAME: &'static str = "other";
    }
    case.jobs.push(Other).await.unwrap();
    // The figures are cached for a moment.
    let mut answer = case.send("GET", "/health").await;
    while answer.0 == StatusCode::OK {
        tokio::time::sleep(Duration::from_millis(5)).await;
        answer = case.send("GET", "/health").await;
    }
    let (status, text, _) = answer;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(text.contains("a job `other` has been due for"), "{text}");
}

#[tokio::test]
async fn accepted_has_the_location() {
    let id = JobId::generate();
    let response = Accepted::new(id).under("/admin/").into_response();
    assert_eq!(response.status(), StatusCode::ACCEPTED);
    assert_eq!(response.headers()[header::LOCATION], format!("/admin/jobs/{id}"));
}
