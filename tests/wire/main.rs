//! A task starts when its response has been written: on real sockets, over each protocol, on each kind of
//! runtime, idle and busy, for each kind of response and of reader.
//!
//! Quick by default. `WIRE_REQUESTS` says how many requests a row of the table is made of, and `--nocapture`
//! shows the table: `docs/wire.md` has the command and what it printed.
#![cfg(feature = "axum")]
#![expect(clippy::disallowed_methods, reason = "the test plays the server and its clients")]
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test may stop where it stands")]
#![expect(clippy::print_stdout, reason = "the table is there to be read")]

mod client;
mod kinds;
mod measure;
mod server;
#[path = "../support/sockets.rs"]
mod sockets;
mod tape;
mod tls;

use std::sync::LazyLock;

use self::{
    kinds::{End, KINDS, Kind},
    measure::Table,
    sockets::Version,
};

/// Measured once, whichever test comes first.
static TABLE: LazyLock<Table> = LazyLock::new(|| {
    let table = Table::measure(requests());
    println!("{table}");
    table
});

/// How many requests a row is made of.
fn requests() -> usize {
    std::env::var("WIRE_REQUESTS").map_or(120, |requests| requests.parse().unwrap())
}

/// The protocols that a response goes over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Protocol {
    H1,
    H1Tls,
    H2,
}

impl Protocol {
    const fn version(self) -> Version {
        match self {
            Self::H1 | Self::H1Tls => Version::H1,
            Self::H2 => Version::H2,
        }
    }
}

const PROTOCOLS: [Protocol; 3] = [Protocol::H1, Protocol::H1Tls, Protocol::H2];

/// TLS takes more than the socket does: it encrypts up to 64 KiB, calls them written, and keeps them until the
/// client has read what is before them.
fn is_kept_by_tls(kind: &Kind, protocol: Protocol) -> bool {
    protocol == Protocol::H1Tls && kind.may_wait_for_reader()
}

/// The wait of a set for its response: how often it ended too early.
mod drain_within {
    use super::*;

    #[test]
    fn never_ends_before_last_byte_of_known_length() {
        let counts = TABLE.count(|kind, protocol| kind.end == End::Bytes && !is_kept_by_tls(kind, protocol));
        assert_eq!(counts.early, 0, "early of {}:\n{}", counts.made, *TABLE);
    }

    #[test]
    fn hardly_ever_ends_before_an_end_without_bytes() {
        let counts = TABLE.count(|kind, protocol| kind.end == End::Bare && !is_kept_by_tls(kind, protocol));
        // A timer is all there is here, and a machine with other work may take the server's core away for longer.
        // The full form wants a machine for itself; the quick one has to tolerate a busy machine.
        let one_of = if requests() < 2000 { 50 } else { 1000 };
        assert!(counts.early * one_of <= counts.made, "{} early of {}:\n{}", counts.early, counts.made, *TABLE);
    }

    #[test]
    fn is_early_over_tls_by_no_more_than_tls_keeps() {
        let counts = TABLE.count(is_kept_by_tls);
        let (plain, frames) = (64 << 10, 1 << 10);
        assert!(counts.late_bytes <= plain + frames, "{} bytes:\n{}", counts.late_bytes, *TABLE);
    }

    #[test]
    fn is_measured_for_every_kind_over_every_protocol() {
        for kind in &KINDS {
            for protocol in PROTOCOLS {
                let made = TABLE.counts(kind, protocol).made;
                assert_eq!(made > 0, kind.exists_over(protocol), "{}, {protocol:?}", kind.name);
            }
        }
    }
}
