//! A server in a process of its own, and its clients.

use std::{
    io::{self, BufRead, BufReader, Lines, Read, Write},
    net::TcpStream,
    process::{Child, ChildStdout},
    thread,
    time::{Duration, Instant},
};

use crate::child;

/// In the child: a listener, whose port is printed for the tests.
pub(crate) async fn listen() -> io::Result<tokio::net::TcpListener> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    println!("port {}", listener.local_addr()?.port());
    Ok(listener)
}

/// In the tests: the child.
pub(crate) struct Server {
    pub(crate) process: Child,
    output: Lines<BufReader<ChildStdout>>,
    port: u16,
}

impl Server {
    pub(crate) fn start(arguments: &[&str]) -> Self {
        let mut process = child::start(arguments);
        let output = BufReader::new(process.stdout.take().unwrap()).lines();
        let mut server = Self { process, output, port: 0 };
        server.port = server.wait_for("port ").trim_start_matches("port ").parse().unwrap();
        server
    }

    /// Reads the server's output up to a line that contains `needle`.
    pub(crate) fn wait_for(&mut self, needle: &str) -> String {
        self.output.by_ref().map(Result::unwrap).find(|line| line.contains(needle)).unwrap()
    }

    pub(crate) fn connect(&self) -> Client {
        Client(BufReader::new(TcpStream::connect(("127.0.0.1", self.port)).unwrap()))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Ended already, unless a test has failed.
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

pub(crate) struct Client(BufReader<TcpStream>);

/// The parts of the head of a response that the tests use.
#[derive(Debug, Default)]
pub(crate) struct Head {
    pub(crate) status: u16,
    retry_after: Option<u64>,
    length: usize,
}

impl Client {
    /// Sends a request and reads the head of the response.
    pub(crate) fn request(&mut self, method: &str, path: &str) -> Head {
        let request = format!("{method} {path} HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n");
        self.0.get_mut().write_all(request.as_bytes()).unwrap();
        let mut head = Head::default();
        loop {
            let mut line = String::new();
            self.0.read_line(&mut line).unwrap();
            let line = line.trim_end();
            if let Some(rest) = line.strip_prefix("HTTP/1.1 ") {
                head.status = rest.split(' ').next().unwrap().parse().unwrap();
            } else if let Some(value) = line.strip_prefix("content-length: ") {
                head.length = value.parse().unwrap();
            } else if let Some(value) = line.strip_prefix("retry-after: ") {
                head.retry_after = Some(value.parse().unwrap());
            } else if line.is_empty() {
                assert_eq!(head.retry_after.is_some(), head.status == 503, "{head:?}");
                return head;
            }
        }
    }

    /// Reads the body that belongs to a head.
    pub(crate) fn body(&mut self, head: &Head) -> String {
        let mut body = vec![0; head.length];
        self.0.read_exact(&mut body).unwrap();
        String::from_utf8(body).unwrap()
    }
}

impl Read for Client {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

/// Waits for a state of the server that nobody announces, so that a failure is an error and not a hang.
pub(crate) fn until(is_reached: impl Fn() -> bool, state: impl Fn() -> String) {
    let begun = Instant::now();
    while !is_reached() {
        assert!(begun.elapsed() < Duration::from_secs(60), "it did not come to that in time: {}", state());
        thread::sleep(Duration::from_millis(1));
    }
}
