//! Taking jobs, and keeping them.

use sqlx::SqliteConnection;

use super::{
    ENGINE,
    connect::{Shared, now},
};
use crate::{
    model::{error::QueueError, id::JobId},
    queue::{Renewed, Reservation, Reserved, rows, sqlx_error::sent},
};

/// The first waiting jobs of one name. It reads only, from the index.
pub(super) const FIRST: &str = "
    SELECT seq, priority FROM postlude_jobs
    WHERE state = 0 AND crashes = 0 AND name = ?1
    ORDER BY priority, seq LIMIT ?2";

/// The same among the jobs that have crashed a process.
pub(super) const FIRST_CRASHED: &str = "
    SELECT seq, priority FROM postlude_jobs
    WHERE state = 0 AND crashes > 0 AND name = ?1
    ORDER BY priority, seq LIMIT ?2";

/// Takes those that no other worker has taken meanwhile.
pub(super) const TAKE: &str = "
    UPDATE postlude_jobs
    SET state = 2, owner = ?1, run = run + 1, started_at = ?2, progress = NULL, result = NULL,
        lease_until = ?2 + (SELECT value FROM postlude_settings WHERE name = 'lease')
    WHERE seq IN (SELECT value FROM json_each(?3)) AND state = 0
    RETURNING seq, id, name, priority, pushed_at, run, failures, crashes, max_attempts, headers, payload";

pub(super) const RENEW: &str = "
    UPDATE postlude_jobs
    SET lease_until = ?2 + (SELECT value FROM postlude_settings WHERE name = 'lease')
    FROM (SELECT value ->> 0 AS id, value ->> 1 AS run FROM json_each(?3)) AS kept
    WHERE postlude_jobs.id = kept.id AND postlude_jobs.run = kept.run AND owner = ?1 AND state = 2
    RETURNING postlude_jobs.id";

/// The runs of an owner are few: the index of running jobs finds them.
pub(super) const RELEASE_OTHERS: &str = "
    UPDATE postlude_jobs SET state = 0, owner = NULL, lease_until = NULL
    WHERE state = 2 AND owner = ?1
        AND NOT EXISTS (SELECT 1 FROM json_each(?2) AS held
            WHERE held.value ->> 0 = postlude_jobs.id AND held.value ->> 1 = postlude_jobs.run)";

impl Shared {
    pub(super) async fn reserve(&self, wanted: Reservation) -> Result<Vec<Reserved>, QueueError> {
        let refused = |error| sent(ENGINE, error);
        let seqs = {
            let mut connection = self.read().await?;
            first(&mut connection, &wanted).await.map_err(refused)?
        };
        if seqs.is_empty() {
            return Ok(Vec::new());
        }
        let mut transaction = self.begin().await?;
        let rows = sqlx::query(TAKE)
            .bind(wanted.owner.to_string())
            .bind(now())
            .bind(serde_json::to_string(&seqs).unwrap_or_default())
            .fetch_all(&mut *transaction)
            .await
            .map_err(refused)?;
        transaction.commit().await.map_err(refused)?;
        rows::reserved(&rows).map_err(refused)
    }

    pub(super) async fn renew(&self, owner: JobId, runs: Vec<(JobId, i64)>) -> Result<Renewed, QueueError> {
        let refused = |error| sent(ENGINE, error);
        let mut transaction = self.begin_renewal().await?;
        let rows = sqlx::query(RENEW)
            .bind(owner.to_string())
            .bind(now())
            .bind(serde_json::to_string(&runs).unwrap_or_default())
            .fetch_all(&mut *transaction)
            .await
            .map_err(refused)?;
        transaction.commit().await.map_err(refused)?;
        let kept = rows.iter().map(rows::id).collect::<Result<Vec<_>, _>>().map_err(refused)?;
        Ok(Renewed { lost: runs.into_iter().map(|(id, _)| id).filter(|id| !kept.contains(id)).collect() })
    }

    pub(super) async fn release_others(&self, owner: JobId, held: Vec<(JobId, i64)>) -> Result<(), QueueError> {
        let held = serde_json::to_string(&held).unwrap_or_default();
        self.execute(sqlx::query(RELEASE_OTHERS).bind(owner.to_string()).bind(held)).await.map(drop)
    }
}

/// The jobs to take: of each name as many as may start, and of all names the first.
async fn first(connection: &mut SqliteConnection, wanted: &Reservation) -> Result<Vec<i64>, sqlx::Error> {
    let paused: Vec<String> =
        sqlx::query_scalar("SELECT name FROM postlude_paused").fetch_all(&mut *connection).await?;
    let query = if wanted.crashed { FIRST_CRASHED } else { FIRST };
    let mut found: Vec<(i16, i64)> = Vec::new();
    for (name, count) in &wanted.names {
        if paused.iter().any(|paused| paused == name) {
            continue;
        }
        let count = i64::try_from((*count).min(wanted.limit)).unwrap_or(i64::MAX);
        let rows: Vec<(i64, i16)> = sqlx::query_as(query).bind(*name).bind(count).fetch_all(&mut *connection).await?;
        found.extend(rows.into_iter().map(|(seq, priority)| (priority, seq)));
    }
    found.sort_unstable();
    found.truncate(wanted.limit);
    Ok(found.into_iter().map(|(_, seq)| seq).collect())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{model::new_job::NewJob, queue::InHand};

    /// As after a reservation whose answer was lost: nobody knows of its jobs, and they wait for no lease.
    #[tokio::test]
    async fn release_others_releases_what_is_not_held() {
        let folder = tempfile::tempdir().unwrap();
        let queue = Arc::new(Shared::open(&folder.path().join("jobs.db")).await.unwrap());
        queue.prepare(None).await.unwrap();
        Arc::clone(&queue).push(vec![NewJob::sample(), NewJob::sample(), NewJob::sample()]).await.unwrap();
        let (owner, other) = (JobId::generate(), JobId::generate());
        let wanted = |owner, limit| Reservation {
            owner,
            names: vec![("mail", limit)],
            limit,
            crashed: false,
            in_hand: InHand::default(),
        };
        let mine = queue.reserve(wanted(owner, 2)).await.unwrap();
        let others = queue.reserve(wanted(other, 2)).await.unwrap();
        assert_eq!((mine.len(), others.len()), (2, 1));

        queue.release_others(owner, vec![(mine[0].id, mine[0].run)]).await.unwrap();
        let again = queue.reserve(wanted(owner, 3)).await.unwrap();
        assert_eq!(again.iter().map(|job| job.id).collect::<Vec<_>>(), [mine[1].id]);
        assert_eq!((again[0].crashes, again[0].run), (0, 2));
        let renewed = queue.renew(other, vec![(others[0].id, others[0].run)]).await.unwrap();
        assert_eq!(renewed.lost, [], "it is another worker's");
    }
}
