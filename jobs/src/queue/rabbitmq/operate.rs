//! What operators ask and do, as far as the broker can tell.

use std::time::Duration;

use lapin::options::{BasicAckOptions, BasicGetOptions, BasicNackOptions};

use super::{
    ENGINE,
    connect::Shared,
    message::Message,
    publisher::{Outgoing, within},
    topology::{Place, Topology},
};
use crate::{
    amqp::error::sent,
    model::{
        dead::DeadJob,
        error::QueueError,
        id::JobId,
        info::JobInfo,
        page::Page,
        stats::{Figure, JobStats},
    },
};

/// What an operator asks of one job or name, which the broker can't do. It is asked only if `capabilities` says that it
/// can.
macro_rules! unsupported {
    ($($name:ident($($type:ty),*) -> $output:ty, $what:literal;)+) => {$(
        pub(super) async fn $name(&self, $(_: $type),*) -> Result<$output, QueueError> {
            Err(QueueError::Unsupported { engine: ENGINE, what: $what })
        }
    )+};
}

impl Shared {
    unsupported! {
        find(JobId) -> Option<JobInfo>, "find a job by its id";
        cancel(JobId) -> bool, "cancel a job";
        dead(Page) -> Vec<DeadJob>, "list dead jobs";
        replay(JobId) -> bool, "replay a dead job";
        discard(JobId) -> bool, "discard a dead job";
        set_paused(String, bool) -> bool, "pause a name";
        shorten_leases() -> (), "shorten leases";
    }

    /// The broker keeps nothing that has completed.
    pub(super) async fn prune(&self, _retention: Duration) -> Result<u64, QueueError> {
        Ok(0)
    }

    /// The figures of the names that this process has pushed or handles: nobody else tells which there are.
    pub(super) async fn stats(&self) -> Result<JobStats, QueueError> {
        let mut stats = JobStats::default();
        for name in self.publisher.names().await? {
            let waiting = self.publisher.declare(&Place::Waiting(name.clone())).await?.messages;
            let dead = self.publisher.declare(&Place::Dead(name.clone())).await?.messages;
            if waiting > 0 || dead > 0 {
                let figures = stats.names.entry(name).or_default();
                (figures.waiting, figures.dead) = (waiting, dead);
            }
        }
        stats.unknown = vec![Figure::Scheduled, Figure::Running, Figure::OldestWaiting, Figure::Paused];
        Ok(stats)
    }

    /// Makes up to `most` dead jobs of a name wait again. Returns how many.
    pub(super) async fn replay_dead(&self, name: &str, most: u64) -> Result<u64, QueueError> {
        Topology::check_name(name)?;
        let dead = Place::Dead(name.to_owned());
        // Those that die meanwhile are left.
        let most = self.publisher.declare(&dead).await?.messages.min(most);
        let channel = self.publisher.channel().await?;
        for replayed in 0..most {
            let get = channel.basic_get(self.topology.name(&dead), BasicGetOptions::default());
            let Some(got) = within(get).await.map_err(sent)? else { return Ok(replayed) };
            let mut delivery = got.delivery;
            let payload = std::mem::take(&mut delivery.data);
            let mut message = Message::read(name, &delivery.properties, payload);
            message.replay();
            let outgoing = [Outgoing::now(&message)];
            for result in self.publisher.publish(&outgoing).await {
                if let Err(error) = result {
                    let options = BasicNackOptions { multiple: false, requeue: true };
                    within(delivery.acker.nack(options)).await.map_err(sent)?;
                    return Err(error);
                }
            }
            within(delivery.acker.ack(BasicAckOptions::default())).await.map_err(sent)?;
        }
        // The answers of this channel are carried out in order: this one comes after them.
        within(channel.close(200, "done".into())).await.map_err(sent)?;
        Ok(most)
    }

    /// Removes the dead jobs of a name. Returns how many.
    pub(super) async fn discard_dead(&self, name: &str) -> Result<u64, QueueError> {
        Topology::check_name(name)?;
        let dead = Place::Dead(name.to_owned());
        self.publisher.declare(&dead).await?;
        let channel = self.publisher.channel().await?;
        let purge = channel.queue_purge(self.topology.name(&dead), lapin::options::QueuePurgeOptions::default());
        within(purge).await.map(u64::from).map_err(sent)
    }
}
