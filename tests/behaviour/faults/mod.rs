//! The client leaves at any moment and in any manner: the request ends as the contract says, and each task has its
//! outcome.
//!
//! Every request of a matrix leaves three tasks, and the second of them may be faulty. The expectation of a cell is a
//! pure function of the cell: [`Cell::endings`], [`Cell::outcome`] and [`Cell::seen`].

mod cell;
mod site;

use std::{net::Shutdown, panic::AssertUnwindSafe, pin::pin, task::Poll, time::Duration};

use axum::http::Response;
use futures::{
    FutureExt, StreamExt,
    future::{Either, select},
    poll, stream,
};
use http_body_util::BodyExt;
use hyper::body::Incoming;

use self::{
    cell::{Cell, HANDLERS, Handler, MOMENTS, Manner, Moment, VERDICTS, WORKS, all_cells},
    site::{LONG, Site},
};
use crate::support::{
    assert_conserved,
    net::{Client, get, within},
    until,
};

impl Cell {
    /// Lets the request happen, and looks at what has become of it.
    async fn play(self) {
        let mut site = Site::open(self);
        let mut client = Client::connect(self.version, site.address).await;
        self.exchange(&mut client, &mut site).await;
        if self.manner != Manner::Reset {
            client = Client::connect(self.version, site.address).await;
        }
        assert_eq!(client.fetch("/fine").await, "fine", "{self:?}");
        within(site.registry.wait_idle()).await;
        self.check(&mut site).await;
    }

    /// Sends the request, leaves, and waits for the ending and the tasks.
    async fn exchange(self, client: &mut Client, site: &mut Site) {
        let socket = client.socket();
        let mut exchange = Box::pin(client.try_send(get("/")));
        // A handler that does not wait may have answered before its entry is noticed.
        let mut response = match within(select(&mut exchange, pin!(site.entered.notified()))).await {
            Either::Left((response, _)) => Some(response),
            Either::Right(_) => None,
        };
        site.steps.add_permits(self.steps());
        if self.moment != Moment::BeforeTheHead && response.is_none() {
            response = Some(within(&mut exchange).await);
        }
        if self.moment == Moment::InTheBody {
            let body = response.as_mut().unwrap().as_mut().unwrap().body_mut();
            assert!(!within(body.frame()).await.unwrap().unwrap().into_data().unwrap().is_empty(), "{self:?}");
        }
        if self.moment == Moment::AfterTheBody {
            self.take_the_rest(response.as_mut().unwrap()).await;
        }
        // Held until the tasks have run: a stream that is dropped before is reset.
        let mut held = (exchange, response);
        match self.manner {
            // A server that has panicked may have closed it first.
            Manner::Close => drop(socket.shutdown(Shutdown::Both)),
            Manner::HalfClose => drop(socket.shutdown(Shutdown::Write)),
            Manner::Reset => {
                drop(held);
                return self.ended(site).await;
            }
            Manner::Shutdown => {
                let registry = site.registry.clone();
                let mut shutdown = pin!(registry.shutdown(Duration::from_secs(60)));
                let early = poll!(&mut shutdown);
                site.steps.add_permits(2);
                if held.1.is_none() {
                    held.1 = Some(within(&mut held.0).await);
                }
                if self.moment != Moment::AfterTheBody {
                    self.take_the_rest(held.1.as_mut().unwrap()).await;
                }
                let report = match early {
                    Poll::Ready(report) => report,
                    Poll::Pending => within(shutdown).await,
                };
                // Not stuck tasks: a future that has timed out may be dropped later.
                assert!(report.aborted.is_empty(), "{self:?}: {report}");
            }
        }
        self.ended(site).await;
        drop(held);
    }

    /// The response is whole, whatever its tasks are up to.
    async fn take_the_rest(self, response: &mut hyper::Result<Response<Incoming>>) {
        let response = match response {
            Ok(response) => response,
            Err(error) => return assert_eq!(self.handler, Handler::Panicking, "{self:?}: {error}"),
        };
        assert_eq!(response.status(), self.handler.status(), "{self:?}");
        let body = within(response.body_mut().collect()).await.unwrap().to_bytes();
        if self.moment != Moment::InTheBody {
            let whole = if self.handler == Handler::Streaming { "firstlast".len() } else { LONG };
            assert_eq!(body.len(), whole, "{self:?}");
        }
    }

    /// The request has ended in one of the ways it may, and its tasks have done what they may.
    async fn ended(self, site: &mut Site) {
        let ending = within(site.endings.recv()).await.unwrap();
        assert!(self.endings().unwrap().contains(&ending), "{self:?}: {ending:?}");
        within(site.registry.wait_idle()).await;
        self.look(site, self.seen().to_vec()).await;
    }

    /// The tasks have seen what they should, in their order.
    async fn look(self, site: &Site, expected: Vec<&'static str>) {
        if self.outcome() != "timed_out" {
            assert_eq!(site.journal.read(), expected, "{self:?}");
            return;
        }
        // If its thread does not get to run, its time may be over before its first poll, which then is none, or before the
        // end of that poll: the others go on then.
        let of_the_others = |names: Vec<String>| -> Vec<String> {
            let mut others: Vec<_> = names.into_iter().filter(|name| name != "middle").collect();
            others.sort_unstable();
            others
        };
        let expected = of_the_others(expected.into_iter().map(str::to_owned).collect());
        until(|| of_the_others(site.journal.read()).len() >= expected.len()).await;
        assert_eq!(of_the_others(site.journal.read()), expected, "{self:?}");
    }

    /// The counters, the tasks and the failure hook agree on what has happened.
    async fn check(self, site: &mut Site) {
        assert!(site.endings.try_recv().is_err(), "{self:?}: an ending too many");
        self.look(site, self.seen_in_all()).await;
        let outcomes = [
            ("first", self.outcome_of_the_others()),
            ("middle", self.outcome()),
            ("last", self.outcome_of_the_others()),
            ("fine", self.outcome_afterwards()),
        ];
        let failures = outcomes.iter().filter(|(_, outcome)| *outcome != "completed");
        let reported: Vec<_> = failures.map(|(name, outcome)| format!("{name} {outcome}")).collect();
        assert_eq!(site.reported.read(), reported, "{self:?}");

        let m = site.registry.metrics();
        let counted = [
            ("completed", m.completed),
            ("failed", m.failed),
            ("panicked", m.panicked),
            ("timed_out", m.timed_out),
            ("aborted", m.aborted),
            ("discarded", m.discarded),
        ];
        let expected = counted.map(|(label, _)| {
            let such = outcomes.iter().filter(|(_, outcome)| *outcome == label);
            (label, such.count() as u64)
        });
        assert_eq!(counted, expected, "{self:?}");
        assert_eq!([m.pending, m.running, m.open_sets, m.hook_panics], [0; 4], "{self:?}");
        assert_conserved(&site.registry, 4);

        // A task that has timed out is counted before it is dropped.
        assert!(within(&mut site.captured).await.is_err());
        until(|| site.registry.metrics().stuck == 0).await;
    }
}

/// Plays the cells of a handler, several at a time, and says which have failed.
fn play_all(handler: Handler) {
    let one_thread = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let workers = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    for runtime in [one_thread, workers] {
        let played = stream::iter(Cell::of(handler)).map(async |cell| {
            let played = AssertUnwindSafe(cell.play()).catch_unwind().await;
            played.is_err().then_some(cell)
        });
        let failed = played.buffer_unordered(8).filter_map(std::future::ready);
        let failed: Vec<_> = runtime.block_on(failed.collect());
        assert!(failed.is_empty(), "{} cells have failed, each with its own message: {failed:#?}", failed.len());
    }
}

#[test]
fn ready_handler() {
    play_all(Handler::Ready);
}

#[test]
fn waiting_handler() {
    play_all(Handler::Pending);
}

#[test]
fn stream() {
    play_all(Handler::Streaming);
}

#[test]
fn panicking_handler() {
    play_all(Handler::Panicking);
}

#[test]
fn refusing_handler() {
    play_all(Handler::Refusing);
}

#[test]
fn failing_service() {
    play_all(Handler::Erring);
}

#[test]
fn matrix_omits_impossible_cells_only() {
    let mut left_out = std::collections::BTreeMap::new();
    for reason in all_cells().iter().filter_map(|cell| cell.endings().err()) {
        *left_out.entry(reason).or_insert(0) += 1;
    }
    let works = WORKS.len() * VERDICTS.len();
    let expected = [
        ("HTTP/1.1 has no streams to reset", HANDLERS.len() * MOMENTS.len() * works),
        ("a panic sends no head", (2 * 3 + 2 * 4) * works),
        ("a stream that has ended is not reset", HANDLERS.len() * works),
    ];
    assert_eq!(left_out.into_iter().collect::<Vec<_>>(), expected);
}
