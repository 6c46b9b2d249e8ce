//! The watched service, as a process of its own: its instance is another one after each start.

use std::{
    fmt::Write,
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
};

use crate::driver::http;

pub(crate) struct Service {
    process: Child,
    port: u16,
    options: &'static [&'static str],
}

impl Service {
    /// A service whose page may not act.
    pub(crate) fn start() -> Self {
        Self::with(&[])
    }

    pub(crate) fn acting() -> Self {
        Self::with(&["ACT"])
    }

    /// A service with these variables set.
    pub(crate) fn with(options: &'static [&'static str]) -> Self {
        Self::at(0, options)
    }

    fn at(port: u16, options: &'static [&'static str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_watched"));
        command.env("PORT", port.to_string()).stdout(Stdio::piped());
        command.envs(options.iter().map(|option| (option, "1")));
        let mut process = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let port = line.trim().rsplit_once(':').unwrap().1.parse().unwrap();
        Self { process, port, options }
    }

    /// Another process at the same address.
    pub(crate) fn restart(&mut self) {
        self.stop();
        *self = Self::at(self.port, self.options);
    }

    pub(crate) fn stop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    pub(crate) fn url(&self, view: &str) -> String {
        format!("http://127.0.0.1:{}/some/admin#/{view}", self.port)
    }

    /// Starts tasks. Returns the ids of the first ones.
    pub(crate) fn spawn(&self, kind: &str, name: &str, count: usize) -> Vec<String> {
        let mut encoded = String::new();
        for byte in name.bytes() {
            write!(encoded, "%{byte:02x}").unwrap();
        }
        let path = format!("/start?kind={kind}&count={count}&name={encoded}");
        let (status, body) = http(self.port, "POST", &path, "");
        assert_eq!(status, 200, "{body}");
        serde_json::from_str(&body).unwrap()
    }

    /// Ends the tasks that hang.
    pub(crate) fn release(&self) {
        assert_eq!(http(self.port, "POST", "/release", "").0, 200);
    }

    /// What a route of the jobs answers.
    pub(crate) fn get_of_jobs(&self, path: &str) -> serde_json::Value {
        self.get_at(&format!("/some/jobs/{path}"))
    }

    /// What a route of the console answers.
    pub(crate) fn get(&self, path: &str) -> serde_json::Value {
        self.get_at(&format!("/some/admin/{path}"))
    }

    fn get_at(&self, path: &str) -> serde_json::Value {
        let (status, body) = http(self.port, "GET", path, "");
        assert_eq!(status, 200, "{body}");
        serde_json::from_str(&body).unwrap()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        _ = self.process.kill();
        _ = self.process.wait();
    }
}
