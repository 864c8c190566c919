//! The worker that rolls metrics up by the hour, so that a month is answered from hours.
//!
//! It computes with the same functions as a question does, so an answer is the same whether an hour of it was rolled up or
//! not. See `store::rollups` for what makes that certain.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::query::roll_up;
use crate::store::{Database, Micros, Partitions, StoreError, rollups};

/// When hours are rolled up.
#[derive(Debug, Clone)]
pub struct RollupOptions {
    /// An hour is due when it is over and nothing came for it for this long.
    pub quiet: Duration,
    /// An hour for which something comes all the time is due when the first of it waits for this long.
    pub patience: Duration,
    /// Pause between two looks for due hours.
    pub interval: Duration,
}

impl Default for RollupOptions {
    fn default() -> Self {
        Self { quiet: Duration::from_mins(1), patience: Duration::from_mins(10), interval: Duration::from_secs(15) }
    }
}

/// Rolls up the metrics of one database. Several may run: one at a time does an hour.
#[derive(Debug)]
pub struct RollupWorker {
    database: Database,
    options: RollupOptions,
    partitions: Partitions,
}

impl RollupWorker {
    /// Prepares a worker. Nothing happens before [`Self::run`] or a pass.
    pub fn new(database: Database, options: RollupOptions) -> Self {
        Self { database, options, partitions: Partitions::default() }
    }

    /// Rolls up what becomes due until `token` is cancelled. Trouble is logged and tried again; a pass that is cut off
    /// leaves nothing behind.
    pub async fn run(&self, token: CancellationToken) {
        let mut failures: u32 = 0;
        loop {
            let result = tokio::select! {
                () = token.cancelled() => return,
                result = self.roll_up_due() => result,
            };
            match result {
                Ok(0) => failures = 0,
                Ok(hours) => {
                    failures = 0;
                    tracing::debug!(hours, "rolled metrics up");
                }
                Err(error) => {
                    failures = failures.saturating_add(1);
                    if failures.is_power_of_two() {
                        tracing::warn!(%error, class = error.class().as_str(), failures, "metrics could not be rolled up");
                    }
                }
            }
            let pause = self.options.interval * 2u32.pow(failures.min(4));
            tokio::select! {
                () = token.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Rolls up the hours that are due now. Returns how many.
    pub async fn roll_up_due(&self) -> Result<u64, StoreError> {
        self.database.examine_metric_hours().await?;
        self.pass(false).await
    }

    /// Rolls up every hour of which points came before this call, over or not, and waits for others that are at it.
    pub async fn roll_up_all_now(&self) -> Result<u64, StoreError> {
        self.database.examine_metric_hours().await?;
        self.pass(true).await
    }

    async fn pass(&self, all: bool) -> Result<u64, StoreError> {
        let (quiet, patience) = (self.options.quiet.as_secs_f64(), self.options.patience.as_secs_f64());
        let mut done = 0;
        for hour in self.database.hours_to_roll_up(all, quiet, patience).await? {
            while !self.roll_up(hour).await? {
                if !all {
                    return Ok(done);
                }
                // Somebody else rolls hours up, perhaps this one.
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            done += 1;
        }
        Ok(done)
    }

    /// Rolls up an hour; `false` when somebody else rolls hours up.
    async fn roll_up(&self, hour: Micros) -> Result<bool, StoreError> {
        self.partitions.ensure(&self.database, "otel_metric_rollups", &[hour]).await?;
        let mut client = self.database.client().await?;
        let Some(transaction) = rollups::begin(&mut client, hour).await? else { return Ok(false) };
        let rolled = roll_up(&transaction, hour).await?;
        let stored = rollups::store(&transaction, hour, &rolled).await;
        if stored.as_ref().is_err_and(StoreError::is_missing_partition) {
            self.partitions.forget();
        }
        stored?;
        transaction.commit().await?;
        Ok(true)
    }
}
