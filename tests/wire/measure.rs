use std::{
    collections::BTreeMap,
    fmt,
    ops::AddAssign,
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use crate::{
    PROTOCOLS, Protocol,
    client::Client,
    kinds::{KINDS, Kind, Reader},
    server::{Server, runtime},
};

/// How many tasks started before their response was written.
pub(crate) struct Table {
    cells: BTreeMap<(usize, usize), Counts>,
}

#[derive(Clone, Copy, Default)]
pub(crate) struct Counts {
    pub(crate) early: usize,
    pub(crate) made: usize,
    /// The most bytes of a response that were written after its task had started.
    pub(crate) late_bytes: usize,
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.early += other.early;
        self.made += other.made;
        self.late_bytes = self.late_bytes.max(other.late_bytes);
    }
}

/// The server's workers, none for a `current_thread` runtime, and whether it has other work.
const CONDITIONS: [(usize, bool); 8] =
    [(0, false), (0, true), (1, false), (1, true), (2, false), (2, true), (4, false), (4, true)];

impl Table {
    /// Makes `requests` requests of each kind, a quarter of them over each protocol, and fewer of those that take
    /// long.
    pub(crate) fn measure(requests: usize) -> Self {
        let mut table = Self { cells: BTreeMap::new() };
        for (column, protocol) in PROTOCOLS.into_iter().enumerate() {
            for (index, (workers, is_busy)) in CONDITIONS.into_iter().enumerate() {
                let mut server = Server::start(protocol, workers);
                let quota = |kind: &Kind| {
                    // At least three, which are spread over idle and busy servers.
                    let total = requests.div_ceil(PROTOCOLS.len() * kind.share).max(3);
                    total * (index + 1) / CONDITIONS.len() - total * index / CONDITIONS.len()
                };
                let rows = if is_busy {
                    beside_others(&mut server, |server| measure_rows(server, &quota))
                } else {
                    measure_rows(&mut server, &quota)
                };
                for (row, counts) in rows.into_iter().enumerate() {
                    *table.cells.entry((row, column)).or_default() += counts;
                }
            }
        }
        table
    }

    pub(crate) fn counts(&self, kind: &Kind, protocol: Protocol) -> Counts {
        let row = KINDS.iter().position(|other| other.name == kind.name).unwrap();
        let column = PROTOCOLS.iter().position(|other| *other == protocol).unwrap();
        self.cells.get(&(row, column)).copied().unwrap_or_default()
    }

    /// The sum over all kinds that `belongs` says yes to.
    pub(crate) fn count(&self, belongs: impl Fn(&Kind, Protocol) -> bool) -> Counts {
        let mut sum = Counts::default();
        for (kind, protocol) in KINDS.iter().flat_map(|kind| PROTOCOLS.map(|protocol| (kind, protocol))) {
            if belongs(kind, protocol) {
                sum += self.counts(kind, protocol);
            }
        }
        sum
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "| response | HTTP/1.1 | HTTP/1.1, copied | HTTP/1.1 over TLS | HTTP/2 |\n|---|---|---|---|---|")?;
        for kind in &KINDS {
            write!(f, "| {} |", kind.name)?;
            for protocol in PROTOCOLS {
                let Counts { early, made, .. } = self.counts(kind, protocol);
                if made == 0 {
                    write!(f, " – |")?;
                } else {
                    write!(f, " {early} of {made} |")?;
                }
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

/// Measures every kind on a server, as many requests of each as its quota says.
fn measure_rows(server: &mut Server, quota: &dyn Fn(&Kind) -> usize) -> Vec<Counts> {
    runtime(0).block_on(async {
        let mut rows = Vec::new();
        for (number, kind) in KINDS.iter().enumerate() {
            let made = if kind.exists_over(server.protocol) { quota(kind) } else { 0 };
            rows.push(measure_kind(server, number, kind, made).await);
        }
        rows
    })
}

async fn measure_kind(server: &mut Server, number: usize, kind: &Kind, made: usize) -> Counts {
    let mut counts = Counts::default();
    if made == 0 {
        return counts;
    }
    let mut client = Client::connect(server, kind.reader).await;
    let mut other = Client::connect(server, Reader::AtOnce).await;
    for _ in 0..made {
        let late_bytes = match kind.reader {
            Reader::Stops => client.take_around_another(number, &mut other).await,
            Reader::AtOnce | Reader::Slow => client.take(number).await,
        };
        counts += Counts { early: usize::from(late_bytes > 0), made: 1, late_bytes };
        if kind.is_upgrade() {
            // The connection does not speak HTTP any more.
            client = Client::connect(server, kind.reader).await;
        }
    }
    counts
}

/// Keeps a few more connections to the server busy meanwhile.
fn beside_others<R>(server: &mut Server, measure: impl FnOnce(&mut Server) -> R) -> R {
    let others = runtime(0);
    let mut clients = Vec::new();
    for _ in 0..3 {
        clients.push(others.block_on(Client::connect(server, Reader::AtOnce)));
    }
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        // Also when the measurement fails: the scope waits for its thread.
        let _done = OnDrop(|| done.store(true, Ordering::Relaxed));
        scope.spawn(|| {
            others.block_on(futures::future::join_all(clients.iter_mut().map(async |client| {
                while !done.load(Ordering::Relaxed) {
                    client.take(1).await;
                }
            })));
        });
        measure(server)
    })
}

struct OnDrop<F: Fn()>(F);

impl<F: Fn()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        self.0();
    }
}
