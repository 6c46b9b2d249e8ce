use std::{
    io,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    sync::Notify,
};

/// The events of the server's end of a connection, in order.
#[derive(Default)]
pub(crate) struct Tape {
    events: Mutex<Vec<Event>>,
    started: Notify,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Event {
    Written(usize),
    TaskStarted,
}

impl Tape {
    pub(crate) fn task_starts(&self) {
        self.events.lock().unwrap().push(Event::TaskStarted);
        self.started.notify_one();
    }

    pub(crate) async fn started(&self) {
        self.started.notified().await;
    }

    /// Forgets what was written for other purposes than a response.
    pub(crate) fn rewind(&self) {
        self.events.lock().unwrap().clear();
    }

    pub(crate) fn written(&self) -> usize {
        bytes(&self.events.lock().unwrap())
    }

    /// How many bytes of the response that has come in were written after its task had started. Rewinds.
    pub(crate) fn written_late(&self) -> usize {
        let events = std::mem::take(&mut *self.events.lock().unwrap());
        let phases: Vec<_> = events.split(|event| *event == Event::TaskStarted).collect();
        let [in_time, late] = phases[..] else { panic!("one task starts for one response: {events:?}") };
        assert!(bytes(in_time) + bytes(late) > 0, "a response has bytes: {events:?}");
        bytes(late)
    }
}

fn bytes(events: &[Event]) -> usize {
    events.iter().map(|event| if let Event::Written(bytes) = event { *bytes } else { 0 }).sum()
}

/// A socket that records its writes. Each is made under the tape's lock: a client that has read the bytes finds
/// them on the tape.
pub(crate) struct Recorder {
    pub(crate) stream: TcpStream,
    pub(crate) tape: Arc<Tape>,
}

impl Recorder {
    fn record(
        &mut self,
        write: impl FnOnce(Pin<&mut TcpStream>) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        draw_out();
        let mut events = self.tape.events.lock().unwrap();
        let written = ready!(write(Pin::new(&mut self.stream)))?;
        events.push(Event::Written(written));
        Poll::Ready(Ok(written))
    }
}

/// On a machine with few cores an early task rarely finds the moment before a write: it is made longer. Not by
/// sleeping, for a thread that sleeps may get its core back later than any task waits.
fn draw_out() {
    let started = Instant::now();
    while started.elapsed() < Duration::from_micros(100) {
        std::hint::spin_loop();
    }
}

impl AsyncWrite for Recorder {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.record(|stream| stream.poll_write(context, bytes))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.record(|stream| stream.poll_write_vectored(context, slices))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

impl AsyncRead for Recorder {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}
