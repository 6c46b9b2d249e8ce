//! The service as a process: what a client gets, and what is left after SIGTERM and `kill -9`.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test may stop where it stands")]
#![expect(clippy::disallowed_methods, reason = "the clock of the tests is the real one")]

use std::{
    fs,
    io::{BufRead, BufReader, Cursor, Read, Write},
    net::TcpStream,
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use image::{ImageFormat, RgbImage};
use serde_json::Value;

/// Longer than anything here takes.
const TOO_LONG: Duration = Duration::from_secs(120);

struct Service {
    process: Child,
    port: u16,
    lines: BufReader<std::process::ChildStdout>,
}

impl Service {
    fn start(folder: Option<&Path>) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_postlude-example-images"));
        if let Some(folder) = folder {
            command.arg("--durable").arg(folder);
        }
        let mut process = command.env("PORT", "0").stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap());
        let mut line = String::new();
        lines.read_line(&mut line).unwrap();
        let address = line.split('/').nth(2).unwrap_or_else(|| panic!("no link: {line}"));
        let port = address.rsplit_once(':').unwrap().1.parse().unwrap();
        Self { process, port, lines }
    }

    /// The status, the head and the body of an answer.
    fn ask(&self, method: &str, path: &str, headers: &str, body: &[u8]) -> (u16, String, Vec<u8>) {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        let length = body.len();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: {length}\r\n{headers}\r\n"
        );
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(body).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        let end = answer.windows(4).position(|window| window == b"\r\n\r\n").unwrap();
        let head = String::from_utf8(answer[..end].to_vec()).unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, head, answer[end + 4..].to_vec())
    }

    /// Sends a form with one field.
    fn send(&self, query: &str, client: &str, field: &str, file: &[u8]) -> (u16, String, Value) {
        let mut body =
            format!("--b\r\ncontent-disposition: form-data; name=\"{field}\"; filename=\"a.png\"\r\n\r\n").into_bytes();
        body.extend_from_slice(file);
        body.extend_from_slice(b"\r\n--b--\r\n");
        let headers = format!("content-type: multipart/form-data; boundary=b\r\nx-client: {client}\r\n");
        let (status, head, body) = self.ask("POST", &format!("/pictures?{query}"), &headers, &body);
        (status, head, serde_json::from_slice(&body).unwrap())
    }

    /// Where an accepted picture is.
    fn accepted(&self, query: &str, client: &str, file: &[u8]) -> String {
        let (status, head, body) = self.send(query, client, "picture", file);
        assert_eq!(status, 202, "{body}");
        let location = body["location"].as_str().unwrap().to_owned();
        assert!(head.contains(&format!("location: {location}")), "{head}");
        location
    }

    fn status(&self, location: &str) -> Value {
        let (status, _, body) = self.ask("GET", location, "", b"");
        assert_eq!(status, 200, "{}", String::from_utf8_lossy(&body));
        serde_json::from_slice(&body).unwrap()
    }

    fn is_done(&self, location: &str) -> bool {
        self.status(location)["state"] == "done"
    }

    /// The state that a picture ends in.
    fn ended(&self, location: &str) -> Value {
        let begun = Instant::now();
        loop {
            let status = self.status(location);
            if status["state"] == "done" || status["state"] == "failed" {
                return status;
            }
            assert!(begun.elapsed() < TOO_LONG, "{status}");
            thread::sleep(Duration::from_millis(10));
        }
    }

    fn result(&self, location: &str) -> RgbImage {
        let status = self.ended(location);
        assert_eq!(status["state"], "done", "{status}");
        let (code, head, body) = self.ask("GET", status["result"].as_str().unwrap(), "", b"");
        assert_eq!(code, 200);
        assert!(head.contains("content-type: image/png"), "{head}");
        image::load_from_memory(&body).unwrap().to_rgb8()
    }

    /// Sends SIGTERM, and returns what the process then prints.
    fn terminate(mut self) -> String {
        let sent = Command::new("kill").arg(self.process.id().to_string()).status().unwrap();
        assert!(sent.success());
        let mut text = String::new();
        self.lines.read_to_string(&mut text).unwrap();
        assert!(self.process.wait().unwrap().success(), "{text}");
        text
    }

    fn kill(mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

/// Ends with its test, also if that fails.
impl Drop for Service {
    fn drop(&mut self) {
        let _may_have_ended = self.process.kill();
        let _status = self.process.wait();
    }
}

fn png(width: u32, height: u32) -> Vec<u8> {
    let picture = RgbImage::from_fn(width, height, |x, y| image::Rgb([x, y, x ^ y].map(|n| n.to_le_bytes()[0])));
    let mut bytes = Cursor::new(Vec::new());
    picture.write_to(&mut bytes, ImageFormat::Png).unwrap();
    bytes.into_inner()
}

fn files(folder: &Path, kind: &str) -> usize {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.filter(|path| path.extension().is_some_and(|extension| extension == kind)).count()
}

#[test]
fn refuses_with_reason_and_keeps_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let service = Service::start(Some(folder.path()));
    let picture = png(20, 10);
    let mut broken = picture.clone();
    broken.truncate(20);
    let mut too_large = picture.clone();
    too_large.resize((16 << 20) + 1, 0);
    // A head that promises more pixels than are decoded.
    let mut huge = picture.clone();
    huge[16..24].copy_from_slice(&[0, 0, 0x40, 0, 0, 0, 0x40, 0]);
    for (query, field, file, status, reason) in [
        ("process=thumbnail", "picture", &b"GIF89a.."[..], 415, "neither a PNG nor a JPEG"),
        ("process=thumbnail", "picture", b"", 415, "neither a PNG nor a JPEG"),
        ("process=thumbnail", "picture", &broken, 422, "it is no picture"),
        ("process=thumbnail", "picture", &huge, 422, "it is no picture"),
        ("process=thumbnail", "picture", &too_large, 413, "at most 16 MB"),
        ("process=thumbnail", "other", &picture, 400, "no field `picture`"),
        ("process=sharpen", "picture", &picture, 400, "thumbnail"),
        ("priority=first", "picture", &picture, 400, "high"),
    ] {
        let (answered, _, body) = service.send(query, "a", field, file);
        assert_eq!(answered, status, "{query}: {body}");
        assert!(body["error"].as_str().unwrap().contains(reason), "{query}: {body}");
        assert_eq!(files(folder.path(), "upload"), 0, "{query}");
    }
    let (status, _, body) = service.ask("POST", "/pictures", "content-type: text/plain\r\n", b"hello");
    assert_eq!(status, 400);
    assert!(String::from_utf8(body).unwrap().contains("curl -F picture=@cat.png"));
    let (status, ..) = service.ask("GET", "/pictures/0192f1c6-0000-7000-8000-000000000000", "", b"");
    assert_eq!(status, 404);
}

// A picture whose head is right and whose data is not: accepted, and then it fails, once.
#[test]
fn broken_data_fails_and_says_why() {
    for is_durable in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let service = Service::start(is_durable.then_some(folder.path()));
        let mut broken = png(400, 300);
        broken.truncate(2_000);
        let location = service.accepted("process=blur", "a", &broken);
        let status = service.ended(&location);
        assert_eq!(status["state"], "failed", "{status}");
        assert!(!status["error"].as_str().unwrap().is_empty());
        assert_eq!(files(folder.path(), "upload"), 0);
    }
}

#[test]
fn makes_what_was_asked_for() {
    for is_durable in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let service = Service::start(is_durable.then_some(folder.path()));
        let picture = png(640, 480);
        let thumbnail = service.accepted("process=thumbnail&priority=high", "a", &picture);
        let gray = service.accepted("process=grayscale", "b", &picture);
        assert_eq!(service.result(&thumbnail).dimensions(), (128, 96));
        let gray = service.result(&gray);
        assert_eq!(gray.dimensions(), (640, 480));
        assert!(gray.pixels().all(|pixel| pixel[0] == pixel[1] && pixel[1] == pixel[2]));
        assert_eq!(files(folder.path(), "upload"), 0, "an upload goes when its result is there");
        let (status, _, metrics) = service.ask("GET", "/admin/metrics", "", b"");
        assert_eq!(status, 200);
        let metrics = String::from_utf8(metrics).unwrap();
        assert!(metrics.contains(r#"postlude_tasks_total{name="thumbnail",outcome="completed"} 1"#), "{metrics}");
    }
}

// One client sends many. The one picture of another client is not behind them all.
#[test]
fn is_fair_between_clients() {
    let service = Service::start(None);
    let picture = png(1_000, 1_000);
    let many: Vec<_> = (0..24).map(|_| service.accepted("process=blur", "greedy", &picture)).collect();
    let one = service.accepted("process=blur", "modest", &picture);
    service.ended(&one);
    assert!(!service.is_done(many.last().unwrap()), "the last of many is still waiting");
}

#[test]
fn sigterm_finishes_what_was_accepted() {
    for is_durable in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let service = Service::start(is_durable.then_some(folder.path()));
        let picture = png(600, 600);
        let count = 4;
        for _ in 0..count {
            service.accepted("process=blur", "a", &picture);
        }
        let report = service.terminate();
        assert!(!report.contains("aborted:") && !report.contains("stuck:"), "{report}");
        if is_durable {
            // A job that was not reserved yet waits for the next start.
            let left = files(folder.path(), "upload");
            assert_eq!(files(folder.path(), "png") + left, count, "{report}");
            let next = Service::start(Some(folder.path()));
            let begun = Instant::now();
            while files(folder.path(), "png") < count {
                assert!(begun.elapsed() < TOO_LONG);
                thread::sleep(Duration::from_millis(10));
            }
            drop(next);
        } else {
            assert!(report.contains(&format!("{count} completed")), "{report}");
        }
    }
}

#[test]
fn kill_in_the_middle_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let service = Service::start(Some(folder.path()));
    let picture = png(900, 900);
    let accepted: Vec<_> =
        (0..12).map(|number| service.accepted("process=blur", &format!("client {}", number % 3), &picture)).collect();
    let begun = Instant::now();
    while files(folder.path(), "png") == 0 {
        assert!(begun.elapsed() < TOO_LONG);
        thread::sleep(Duration::from_millis(1));
    }
    service.kill();
    let left = accepted.len() - files(folder.path(), "png");
    assert!(left > 0, "it was killed in the middle");

    let service = Service::start(Some(folder.path()));
    for location in &accepted {
        assert_eq!(service.result(location).dimensions(), (900, 900));
    }
    let jobs = service.ask("GET", "/jobs/queue", "", b"").2;
    let jobs: Value = serde_json::from_slice(&jobs).unwrap();
    assert_eq!(files(folder.path(), "upload"), 0, "{jobs}");
}
