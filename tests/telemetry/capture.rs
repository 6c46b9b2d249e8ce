//! Subscribers that keep what they see.

use std::{
    io,
    sync::{Arc, Mutex, OnceLock},
};

use tracing::{Level, info};
use tracing_subscriber::{fmt::MakeWriter, layer::SubscriberExt};

/// The log, as text.
#[derive(Clone, Default)]
pub(crate) struct Text(Arc<Mutex<Vec<u8>>>);

impl Text {
    pub(crate) fn read(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }

    pub(crate) fn lines_with(&self, needle: &str) -> Vec<String> {
        self.read().lines().filter(|line| line.contains(needle)).map(str::to_owned).collect()
    }
}

impl io::Write for Text {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Text {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

/// Gives every thread a subscriber. Returns the log of the threads that have none of their own.
pub(crate) fn listen_everywhere() -> &'static Text {
    static ELSEWHERE: OnceLock<Text> = OnceLock::new();
    ELSEWHERE.get_or_init(|| {
        let text = Text::default();
        let lines = tracing_subscriber::fmt::layer().with_ansi(false).with_writer(text.clone());
        tracing::subscriber::set_global_default(tracing_subscriber::registry().with(lines)).unwrap();
        text
    })
}

/// Runs a scenario under a subscriber of its own and returns what that has seen.
pub(crate) fn logged<F: Future<Output = ()>>(scenario: F) -> Text {
    logged_at(Level::INFO, scenario)
}

/// The same, with the lines from this level on.
pub(crate) fn logged_at<F: Future<Output = ()>>(level: Level, scenario: F) -> Text {
    listen_everywhere();
    let text = Text::default();
    let subscriber =
        tracing_subscriber::fmt().with_max_level(level).with_ansi(false).with_writer(text.clone()).finish();
    tracing::subscriber::with_default(subscriber, || {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(scenario);
    });
    text
}

/// The work of a task that fails.
pub(crate) async fn broken() -> Result<(), io::Error> {
    info!("connecting");
    Err(io::Error::other("connection refused"))
}
