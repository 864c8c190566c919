//! Jobs that one process does at a time, and another when it is gone: rights for a while, by the database's clock.
//!
//! A clock that jumps can give a job to two processes. So every job is one that two can do at a time without harm; that it
//! is done once saves work.

use std::time::{Duration, Instant};

use tokio_postgres::types::Type;
use uuid::Uuid;

use super::database::{Argument, Database};
use super::error::StoreError;

/// The job of maintaining a database.
pub(crate) const MAINTENANCE: &str = "maintenance";
/// Held by one of the processes that have an embedding model, so that others know that there is one.
pub(crate) const EMBEDDING: &str = "embedding";

/// An SQL condition: there is a process with an embedding model.
pub(super) const HAS_MODEL: &str = "EXISTS (SELECT FROM otel.otel_leases l WHERE l.job = 'embedding'
    AND l.until BETWEEN clock_timestamp() AND clock_timestamp() + interval '1 day')";

impl Database {
    /// Does a part of what a server does when it maintains this database, while no server does it. One that is at it is waited for
    /// as long as `patience`; then the work is done beside it, which does no harm.
    ///
    /// # Errors
    /// When the database is away, or a server has taken over, because the right to the job could not be renewed. Then the work
    /// was cut off.
    pub async fn maintain_alone<T>(&self, patience: Duration, work: impl Future<Output = T>) -> Result<T, StoreError> {
        const LASTS: Duration = Duration::from_mins(2);
        const LOOK_EVERY: Duration = Duration::from_millis(500);
        // Others may not even take it; what they may not do then says so.
        if !self.owns_schema().await? {
            return Ok(work.await);
        }
        let lease = Lease::new(self.clone(), MAINTENANCE, LASTS);
        let begun = Instant::now();
        while !lease.take(Duration::ZERO).await? {
            if begun.elapsed() >= patience {
                tracing::warn!("a server maintains this database at the same time");
                return Ok(work.await);
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        let done = lease.hold_for(work, false).await;
        done.ok_or_else(|| StoreError::transient("another process maintains this database now: try again".to_owned()))
    }
}

/// A job, as one process sees it.
#[derive(Debug, Clone)]
pub(crate) struct Lease {
    database: Database,
    job: &'static str,
    holder: Uuid,
    lasts: Duration,
}

impl Lease {
    /// The job as a new holder sees it. A right to it lasts so long if it is not renewed.
    pub(crate) fn new(database: Database, job: &'static str, lasts: Duration) -> Self {
        Self { database, job, holder: Uuid::new_v4(), lasts }
    }

    /// Takes the job if nobody else has it and it was done `since` ago or longer. Returns whether it was taken.
    pub(crate) async fn take(&self, since: Duration) -> Result<bool, StoreError> {
        // A time that is too far ahead is of a clock that went back.
        let sql = "UPDATE otel.otel_leases
                   SET holder = $2, until = clock_timestamp() + $3 * interval '1 second'
                   WHERE job = $1
                     AND (holder = $2 OR until NOT BETWEEN clock_timestamp() AND clock_timestamp() + interval '1 day')
                     AND done_at NOT BETWEEN clock_timestamp() - $4 * interval '1 second' AND clock_timestamp()
                   RETURNING 1";
        let (lasts, since) = (self.lasts.as_secs_f64(), since.as_secs_f64());
        let taken = self
            .database
            .query(
                sql,
                &[(&self.job, Type::TEXT), (&self.holder, Type::UUID), (&lasts, Type::FLOAT8), (&since, Type::FLOAT8)],
            )
            .await?;
        Ok(!taken.is_empty())
    }

    /// Does the work and renews the right to it. Cuts it off when somebody else has taken the job, or it could not be renewed
    /// for as long as it lasts. Returns whether it came to its end.
    pub(crate) async fn hold(&self, work: impl Future<Output = ()>) -> bool {
        self.hold_for(work, true).await.is_some()
    }

    /// Gives the job back before its time. What goes wrong is mended by the end of that time.
    pub(crate) async fn give_back(&self) {
        const WITHIN: Duration = Duration::from_secs(2);
        let sql = "UPDATE otel.otel_leases SET until = '-infinity' WHERE job = $1 AND holder = $2";
        let arguments: [Argument<'_>; 2] = [(&self.job, Type::TEXT), (&self.holder, Type::UUID)];
        if !matches!(tokio::time::timeout(WITHIN, self.database.query(sql, &arguments)).await, Ok(Ok(_))) {
            tracing::debug!(job = self.job, "a job could not be given back");
        }
    }

    /// As [`Self::hold`]; `whole` says whether the work is all of the job, so that it need not be done again soon. None when it
    /// did not come to its end.
    async fn hold_for<T>(&self, work: impl Future<Output = T>, whole: bool) -> Option<T> {
        let done = tokio::select! {
            done = work => done,
            () = self.renew_until_lost() => return None,
        };
        let sql = "UPDATE otel.otel_leases
                   SET until = '-infinity', done_at = CASE WHEN $3 THEN clock_timestamp() ELSE done_at END
                   WHERE job = $1 AND holder = $2";
        let arguments: [Argument<'_>; 3] = [(&self.job, Type::TEXT), (&self.holder, Type::UUID), (&whole, Type::BOOL)];
        if let Err(error) = self.database.query(sql, &arguments).await {
            tracing::debug!(%error, job = self.job, "that a job is done could not be noted");
        }
        Some(done)
    }

    async fn renew_until_lost(&self) {
        let sql = "UPDATE otel.otel_leases SET until = clock_timestamp() + $3 * interval '1 second'
                   WHERE job = $1 AND holder = $2 RETURNING 1";
        let lasts = self.lasts.as_secs_f64();
        let mut renewed = tokio::time::Instant::now();
        loop {
            tokio::time::sleep(self.lasts / 3).await;
            let begun = tokio::time::Instant::now();
            let arguments: [Argument<'_>; 3] =
                [(&self.job, Type::TEXT), (&self.holder, Type::UUID), (&lasts, Type::FLOAT8)];
            match tokio::time::timeout(self.lasts / 3, self.database.query(sql, &arguments)).await {
                Ok(Ok(rows)) if rows.is_empty() => {
                    return tracing::warn!(job = self.job, "another process has taken the job");
                }
                Ok(Ok(_)) => renewed = begun,
                Ok(Err(error)) => tracing::debug!(%error, job = self.job, "a job could not be kept"),
                Err(_) => tracing::debug!(job = self.job, "a job could not be kept in time"),
            }
            if renewed.elapsed() >= self.lasts {
                return tracing::warn!(job = self.job, "a job was given up: it could not be kept");
            }
        }
    }
}
