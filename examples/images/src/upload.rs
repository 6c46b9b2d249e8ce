//! Receives a picture, and says what is wrong with one that is refused. Nothing of a refused one is kept.

use axum::{
    Json,
    extract::{
        Multipart,
        multipart::{Field, MultipartError},
    },
    http::{StatusCode, header::RETRY_AFTER},
    response::{IntoResponse, Response},
};
use postlude::{BoxError, OutputTask, Rejected, TaskRegistry};
use postlude_jobs::{PushError, QueueError};
use serde_json::json;
use tokio::{fs::File, io::AsyncWriteExt};

use crate::{
    picture,
    store::{Received, Store},
};

/// The largest picture.
const MAX_BYTES: usize = 16 << 20;
/// The largest body. What lies between is read and dropped: a client that is still sending would not read an answer.
pub(crate) const MAX_BODY_BYTES: usize = 64 << 20;

/// The first bytes of a PNG and of a JPEG.
const SIGNATURES: [&[u8]; 2] = [&[0x89, b'P', b'N', b'G'], &[0xff, 0xd8, 0xff]];

/// Why a request is refused, for its client.
#[derive(Debug)]
pub(crate) struct Refusal {
    status: StatusCode,
    error: String,
}

impl Refusal {
    fn new(status: StatusCode, error: impl Into<String>) -> Self {
        Self { status, error: error.into() }
    }

    pub(crate) fn bad_request(error: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, error)
    }

    pub(crate) fn unknown() -> Self {
        Self::new(StatusCode::NOT_FOUND, "no such picture, or it is not ready, or no longer kept")
    }

    fn too_large() -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, format!("the picture is too large: at most {} MB", MAX_BYTES >> 20))
    }

    /// The client can't mend it; the log has the cause.
    fn internal(error: &dyn std::fmt::Display) -> Self {
        tracing::error!(%error, "a picture could not be accepted");
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "the service could not store the picture; try again later")
    }

    fn busy() -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "too many pictures wait; try again later")
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let retry = (self.status == StatusCode::SERVICE_UNAVAILABLE).then_some([(RETRY_AFTER, "5")]);
        (self.status, retry, Json(json!({ "error": self.error }))).into_response()
    }
}

impl From<MultipartError> for Refusal {
    fn from(error: MultipartError) -> Self {
        if error.status() == StatusCode::PAYLOAD_TOO_LARGE {
            Self::too_large()
        } else {
            Self::bad_request(error.body_text())
        }
    }
}

impl From<std::io::Error> for Refusal {
    fn from(error: std::io::Error) -> Self {
        Self::internal(&error)
    }
}

impl From<Rejected> for Refusal {
    fn from(_: Rejected) -> Self {
        Self::busy()
    }
}

impl From<PushError> for Refusal {
    fn from(error: PushError) -> Self {
        tracing::error!(%error, "a job was not pushed");
        Self::busy()
    }
}

impl From<QueueError> for Refusal {
    fn from(error: QueueError) -> Self {
        tracing::error!(%error, "the queue can't be read");
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "the state of pictures can't be read; try again later")
    }
}

/// The picture of a form, on the disk and checked.
pub(crate) async fn receive(store: &Store, registry: &TaskRegistry, mut form: Multipart) -> Result<Received, Refusal> {
    while let Some(field) = form.next_field().await? {
        if field.name() == Some("picture") {
            let received = Received::new(store);
            write(&received, field).await?;
            // Reading its head may wait for the disk, so it is a blocking task.
            let path = received.path().to_owned();
            let check = OutputTask::blocking(move || {
                Ok::<_, BoxError>(picture::check(&path).map_err(|error| error.to_string()))
            });
            return match registry.spawn_with_output(check.named("check")).await {
                Ok(Ok(_size)) => Ok(received),
                Ok(Err(error)) => {
                    Err(Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, format!("it is no picture: {error}")))
                }
                Err(_) => Err(Refusal::busy()),
            };
        }
    }
    Err(Refusal::bad_request("the form has no field `picture`: try `curl -F picture=@cat.png`"))
}

/// Writes a field to the disk as it comes, and reads it to its end also if it is refused.
async fn write(received: &Received, mut field: Field<'_>) -> Result<(), Refusal> {
    let mut file = File::create(received.path()).await?;
    let (mut head, mut size, mut refusal) = (Vec::new(), 0_usize, None);
    while let Some(chunk) = field.chunk().await? {
        size = size.saturating_add(chunk.len());
        if head.len() < 4 {
            head.extend(chunk.iter().take(4));
        }
        if size > MAX_BYTES {
            refusal = Some(Refusal::too_large());
        } else if head.len() >= 4 && !SIGNATURES.iter().any(|signature| head.starts_with(signature)) {
            refusal = Some(unsupported());
        }
        if refusal.is_none() {
            file.write_all(&chunk).await?;
        }
    }
    if head.len() < 4 {
        refusal = Some(unsupported());
    }
    file.sync_all().await?;
    refusal.map_or(Ok(()), Err)
}

fn unsupported() -> Refusal {
    Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "the file is neither a PNG nor a JPEG")
}
