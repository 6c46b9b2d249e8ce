//! Traces of OpenTelemetry: the request's span ends with its response, and the task's span is linked to it.

use axum::{Router, body::Body, extract::Request, http::StatusCode, middleware::Next, routing::post};
use http_body_util::BodyExt;
use opentelemetry::trace::{SpanId, TracerProvider};
use opentelemetry_sdk::trace::{InMemorySpanExporter, SdkTracerProvider};
use postlude::{SpanRelation, Task, TaskLayer, TaskRegistry, TaskSet};
use tokio::sync::watch;
use tower::ServiceExt;
use tracing::{Instrument, info_span};
use tracing_subscriber::layer::SubscriberExt;

use crate::{capture::listen_everywhere, wait::until};

/// A request whose task is held up until its response has been read; returns what was exported until then, and what in
/// the end.
fn traced(relation: SpanRelation) -> [Vec<opentelemetry_sdk::trace::SpanData>; 2] {
    listen_everywhere();
    let exporter = InMemorySpanExporter::default();
    let provider = SdkTracerProvider::builder().with_simple_exporter(exporter.clone()).build();
    let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("test"));
    let subscriber = tracing_subscriber::registry().with(layer);

    let scenario = async {
        let registry = TaskRegistry::builder().spans(relation).build().unwrap();
        let (finish, finished) = watch::channel(false);
        let signup = move |tasks: TaskSet| {
            let mut finished = finished.clone();
            async move {
                tasks.add(
                    Task::new(async move {
                        finished.wait_for(|done| *done).await?;
                        Err::<(), postlude::BoxError>("connection refused".into())
                    })
                    .named("mail"),
                );
                StatusCode::ACCEPTED
            }
        };
        let trace =
            |request: Request, next: Next| async move { next.run(request).instrument(info_span!("request")).await };
        let app = Router::new()
            .route("/signup", post(signup))
            .layer(axum::middleware::from_fn(trace))
            .layer(TaskLayer::new(registry.clone()));
        let request = Request::post("/signup").body(Body::empty()).unwrap();
        let response = app.oneshot(request).await.unwrap();
        assert!(response.into_body().collect().await.unwrap().to_bytes().is_empty());
        let with_response = exporter.get_finished_spans().unwrap();
        finish.send(true).unwrap();
        registry.wait_idle().await;
        // The span is closed just after the end of the task was reported.
        until(|| exporter.get_finished_spans().unwrap().iter().any(|span| span.name == "task")).await;
        [with_response, exporter.get_finished_spans().unwrap()]
    };
    tracing::subscriber::with_default(subscriber, || {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(scenario)
    })
}

mod spans {
    use super::*;

    #[test]
    fn follows_from_links_to_request() {
        let [with_response, in_the_end] = traced(SpanRelation::FollowsFrom);
        assert_eq!(with_response.iter().map(|span| &*span.name).collect::<Vec<_>>(), ["request"]);
        let request = &with_response[0];
        let task = in_the_end.iter().find(|span| span.name == "task").unwrap();
        let linked: Vec<_> = task.links.iter().map(|link| link.span_context.span_id()).collect();
        assert_eq!(linked, [request.span_context.span_id()]);
        assert_eq!(task.parent_span_id, SpanId::INVALID, "a trace of its own");
        let attribute = |key: &str| {
            let found = task.attributes.iter().find(|attribute| attribute.key.as_str() == key);
            found.map(|attribute| attribute.value.to_string())
        };
        assert_eq!(attribute("name").as_deref(), Some("mail"));
        assert!(task.events.iter().any(|event| event.name == "task failed"), "{:?}", task.events);
    }

    #[test]
    fn child_of_is_part_of_request_trace() {
        let [with_response, in_the_end] = traced(SpanRelation::ChildOf);
        assert!(with_response.is_empty(), "{with_response:?}");
        let [task, request] = ["task", "request"].map(|name| in_the_end.iter().find(|span| span.name == name).unwrap());
        assert_eq!(task.parent_span_id, request.span_context.span_id());
        assert_eq!(task.span_context.trace_id(), request.span_context.trace_id());
    }
}
