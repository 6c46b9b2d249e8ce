//! An axum service that makes thumbnails of uploaded pictures. It answers 202 at once, and the work runs on separate
//! threads, so that it does not slow down other requests.
//!
//! Run `cargo run --release --all-features --example cpu`, then the `curl` commands that it prints. Ctrl-C or SIGTERM
//! shuts it down gracefully: accepted pictures are processed first.
#![expect(clippy::print_stdout, reason = "an example may print")]

use std::{
    env,
    error::Error,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    body::Bytes,
    extract::{DefaultBodyLimit, Path as UrlPath, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use image::{ImageFormat, RgbImage, imageops::FilterType};
use postlude::{Task, TaskLayer, TaskRegistry, TaskSet};
use tokio::net::TcpListener;

/// The longest side of a thumbnail, in pixels.
const SIDE: u32 = 128;
const MAX_UPLOAD_BYTES: usize = 16 << 20;

#[derive(Clone)]
struct App {
    folder: Arc<PathBuf>,
    uploads: Arc<AtomicU64>,
}

impl App {
    fn thumbnail(&self, number: u64) -> PathBuf {
        self.folder.join(format!("{number}.png"))
    }
}

async fn upload(State(app): State<App>, tasks: TaskSet, picture: Bytes) -> Response {
    // This check is cheap, so it runs before the response, and the client learns of the error.
    if image::guess_format(&picture).is_err() {
        return (StatusCode::UNSUPPORTED_MEDIA_TYPE, "send a PNG or a JPEG\n").into_response();
    }
    let number = app.uploads.fetch_add(1, Ordering::Relaxed) + 1;
    let path = app.thumbnail(number);
    let task = Task::cpu(move || make_thumbnail(&picture, &path));
    // The layer sheds requests that arrive when the registry is full. The registry may also become full while a picture
    // is being uploaded.
    if tasks.try_add(task.named("thumbnail").timeout(Duration::from_secs(60))).is_err() {
        return (StatusCode::SERVICE_UNAVAILABLE, [(header::RETRY_AFTER, "5")], "try again later\n").into_response();
    }
    let location = format!("/thumbnails/{number}");
    (StatusCode::ACCEPTED, [(header::LOCATION, location.clone())], format!("{location}\n")).into_response()
}

fn make_thumbnail(picture: &[u8], path: &Path) -> Result<(), Box<dyn Error + Send + Sync>> {
    let picture = image::load_from_memory(picture)?;
    let thumbnail = picture.resize(SIDE, SIDE, FilterType::Lanczos3);
    // Renamed when complete, so that no request reads half a file.
    let unfinished = path.with_extension("unfinished");
    thumbnail.save_with_format(&unfinished, ImageFormat::Png)?;
    std::fs::rename(unfinished, path)?;
    Ok(())
}

async fn thumbnail(State(app): State<App>, UrlPath(number): UrlPath<u64>) -> Response {
    match tokio::fs::read(app.thumbnail(number)).await {
        Ok(bytes) => ([(header::CONTENT_TYPE, "image/png")], bytes).into_response(),
        Err(_) => (StatusCode::NOT_FOUND, "no such thumbnail, or not ready yet\n").into_response(),
    }
}

/// Writes a sample picture.
fn sample(path: &Path) -> Result<(), Box<dyn Error>> {
    let picture = RgbImage::from_fn(2000, 1500, |x, y| image::Rgb([x, y, x ^ y].map(|n| n.to_le_bytes()[0])));
    Ok(picture.save_with_format(path, ImageFormat::Png)?)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    tracing_subscriber::fmt().init();
    let port: u16 = match env::var("PORT") {
        Ok(port) => port.parse().map_err(|error| format!("PORT={port}: {error}"))?,
        Err(_) => 3000,
    };
    let folder = tempfile::tempdir()?;
    let sample_path = folder.path().join("sample.png");
    sample(&sample_path)?;

    // Each task holds its upload, so the number of tasks is limited. At the limit the layer answers 503.
    let registry = TaskRegistry::builder().capacity(32).build()?;
    let app = App { folder: Arc::new(folder.path().to_owned()), uploads: Arc::default() };

    let listener = TcpListener::bind(("127.0.0.1", port))
        .await
        .map_err(|error| format!("port {port}: {error}; try another one: PORT=3001"))?;
    let address = listener.local_addr()?;
    println!("listening on {address}; try:");
    println!("  curl -i http://{address}/thumbnails --data-binary @{}", sample_path.display());
    println!("  curl http://{address}/thumbnails/1 -o thumbnail.png");
    println!("  # 100 at a time: some get a 503, and /health answers meanwhile");
    println!(
        "  curl -s -Z --parallel-max 100 -w '%{{http_code}}\\n' -o /dev/null --data-binary @{} 'http://{address}/thumbnails?[1-100]' | sort | uniq -c",
        sample_path.display()
    );
    println!("  curl -w '%{{time_total}} s\\n' http://{address}/health");
    println!("and Ctrl-C to shut it down gracefully");

    let report = registry
        .serve(Duration::from_secs(30), |stop| {
            let app = Router::new()
                .route("/thumbnails", post(upload))
                .layer(TaskLayer::new(registry.clone()).shed_at_capacity())
                // Routes outside the layer are not shed.
                .route("/thumbnails/{number}", get(thumbnail))
                .route("/health", get(|| async { "fine\n" }))
                .layer(DefaultBodyLimit::max(MAX_UPLOAD_BYTES))
                .with_state(app);
            axum::serve(listener, app).with_graceful_shutdown(stop.cancelled_owned())
        })
        .await?;
    println!("{report}");
    Ok(())
}
