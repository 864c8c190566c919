//! Jobs that one process does at a time, and another when it is gone: rights for a while, by the database's clock.
//!
//! A clock that jumps can give a job to two processes. So every job is one that two can do at a time without harm; that it
//! is done once saves work.

use std::time::Duration;

use tokio_postgres::types::Type;
use uuid::Uuid;

use super::database::Database;
use super::error::StoreError;

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
        tokio::select! {
            () = work => {}
            () = self.renew_until_lost() => return false,
        }
        let sql = "UPDATE otel.otel_leases SET until = '-infinity', done_at = clock_timestamp()
                   WHERE job = $1 AND holder = $2";
        if let Err(error) = self.database.query(sql, &[(&self.job, Type::TEXT), (&self.holder, Type::UUID)]).await {
            tracing::debug!(%error, job = self.job, "that a job is done could not be noted");
        }
        true
    }

    async fn renew_until_lost(&self) {
        let sql = "UPDATE otel.otel_leases SET until = clock_timestamp() + $3 * interval '1 second'
                   WHERE job = $1 AND holder = $2 RETURNING 1";
        let lasts = self.lasts.as_secs_f64();
        let mut renewed = tokio::time::Instant::now();
        loop {
            tokio::time::sleep(self.lasts / 3).await;
            let begun = tokio::time::Instant::now();
            let arguments: [super::database::Argument<'_>; 3] =
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
