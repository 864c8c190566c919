//! Taking a partition out of its table while others read and write it.
//!
//! `DETACH ... CONCURRENTLY` waits for all who use the table at that time, with no lock in hand: nobody waits for it. What is
//! written to the partition's time meanwhile finds no place, waits some seconds, and is then tried again like all that the
//! database cannot take at the moment. So it is begun only when nobody has been using the table for long.

use std::time::{Duration, Instant};

use tokio_postgres::IsolationLevel;
use tokio_postgres::types::Type;

use super::drop::{RetentionOutcome, RetentionRun, in_use};
use super::report::{ALL_PARTITIONS, RetainedPartition, TableRetention, tables};
use crate::store::roles::quoted;
use crate::store::{Database, StoreError};

/// How long a partition may take to be detached.
pub(super) const DETACH_WITHIN: Duration = Duration::from_mins(1);

/// How long to wait for users who came after the others had ended.
const AGAIN: Duration = Duration::from_secs(5);

/// A partition on its way.
pub(super) struct Leaving {
    pub(super) id: i64,
    pub(super) table: String,
    pub(super) partition: String,
    pub(super) relation: u32,
}

impl Database {
    /// Marks a partition, so that no write to it begins any more. None when one has begun meanwhile, or somebody else marked
    /// it.
    pub(super) async fn retire(
        &self,
        table: &TableRetention,
        due: &RetainedPartition,
    ) -> Result<Option<Leaving>, StoreError> {
        let mut client = self.client().await?;
        let transaction = client.build_transaction().isolation_level(IsolationLevel::ReadCommitted).start().await?;
        // Writers note what they are about to write in this row. With the lock, the next statement sees all of them.
        let lock = "SELECT FROM otel.otel_partition_writes WHERE partition = $1 FOR UPDATE";
        transaction.execute_typed(lock, &[(&due.partition, Type::TEXT)]).await?;
        let now = transaction.query_typed(ALL_PARTITIONS, &[(&Some(&table.table), Type::TEXT)]).await?;
        let is_due = |known: &RetainedPartition| known.relation == due.relation && known.is_due;
        if !tables(&now).iter().flat_map(|table| &table.partitions).any(is_due) {
            return Ok(None);
        }
        let row = transaction
            .query_typed_opt(
                "WITH marked AS (
                   UPDATE otel.otel_partition_writes w SET retired_at = now()
                   WHERE w.partition = $1 AND w.retired_at IS NULL
                   RETURNING w.last_write, w.inserted)
                 INSERT INTO otel.otel_dropped_partitions (parent, partition, relation, lower_bound, upper_bound, last_write,
                                                           row_count, bytes, retention, state, inserted)
                 -- As it was counted when its writes were looked at: what nobody noted since is seen before the drop.
                 SELECT $2, $1, $3, p.lower_bound, p.upper_bound, m.last_write, $4, $5, t.retention, 'retired',
                        coalesce(m.inserted, 0)
                 FROM marked m
                 JOIN otel.otel_partitions($2) p ON p.partition = $1
                 JOIN otel.otel_partitioned_tables t ON t.parent = $2
                 RETURNING id",
                &[
                    (&due.partition, Type::TEXT),
                    (&table.table, Type::TEXT),
                    (&due.relation, Type::OID),
                    (&due.rows, Type::INT8),
                    (&due.bytes, Type::INT8),
                ],
            )
            .await?;
        transaction.commit().await?;
        Ok(row.map(|row| Leaving {
            id: row.get(0),
            table: table.table.clone(),
            partition: due.partition.clone(),
            relation: due.relation,
        }))
    }

    /// Detaches a marked partition. If that cannot be done now, writes to it begin again, unless it is half done.
    pub(super) async fn detach_or_leave(
        &self,
        leaving: &Leaving,
        run: &RetentionRun,
        outcome: &mut RetentionOutcome,
    ) -> Result<(), StoreError> {
        let detached = self.detach(leaving, run).await;
        if !self.is_attached(leaving).await? {
            return self.set_detached(leaving).await;
        }
        // One that was cut off may go on for a moment: the next run finds out what became of it.
        let is_open = matches!(&detached, Err(error) if error.is_too_long()) || self.is_pending(leaving).await?;
        let reason = match detached {
            Ok(true) => "it is still attached".to_owned(),
            Ok(false) => in_use(&leaving.table),
            Err(error) => error.to_string(),
        };
        tracing::warn!(partition = leaving.partition, reason, "a partition that is too old could not be detached yet");
        outcome.leave(&leaving.partition, reason);
        if is_open { Ok(()) } else { self.give_up(leaving).await }
    }

    /// `false` when somebody uses the table for too long.
    async fn detach(&self, leaving: &Leaving, run: &RetentionRun) -> Result<bool, StoreError> {
        // They had ended before it was marked: while it is, writes to it are refused.
        if !self.users_end(&leaving.table, run.patience.min(AGAIN)).await? {
            return Ok(false);
        }
        if !self.keep_mark(leaving).await? {
            return Ok(false);
        }
        let (table, partition) = (quoted(&leaving.table), quoted(&leaving.partition));
        let how = if self.is_pending(leaving).await? { "FINALIZE" } else { "CONCURRENTLY" };
        let statement = format!("ALTER TABLE otel.{table} DETACH PARTITION otel.{partition}");
        match self.run_within(&format!("{statement} {how}"), DETACH_WITHIN).await {
            // Beside a DEFAULT partition, and in some relatives of PostgreSQL.
            Err(error) if error.is_not_possible_here() && how == "CONCURRENTLY" => {
                self.detach_in_a_moment(&statement, run.patience).await
            }
            done => done.map(|()| true),
        }
    }

    /// Makes the mark that of this run, so that nobody takes it for one of a run that was cut off; `false` when somebody has.
    async fn keep_mark(&self, leaving: &Leaving) -> Result<bool, StoreError> {
        let sql = "UPDATE otel.otel_dropped_partitions SET begun_at = clock_timestamp()
                   WHERE id = $1 AND state = 'retired' RETURNING id";
        Ok(!self.query(sql, &[(&leaving.id, Type::INT8)]).await?.is_empty())
    }

    /// Detaches with a lock that all others would wait for, so it is asked for a moment at a time.
    async fn detach_in_a_moment(&self, statement: &str, patience: Duration) -> Result<bool, StoreError> {
        const PAUSE: Duration = Duration::from_millis(500);
        let begun = Instant::now();
        loop {
            let mut client = self.client().await?;
            let transaction = client.transaction().await?;
            let done = transaction.batch_execute(&format!("SET LOCAL lock_timeout = '100ms'; {statement}")).await;
            match done.map_err(StoreError::from) {
                Ok(()) => {
                    transaction.commit().await?;
                    return Ok(true);
                }
                Err(error) if error.is_locked() && begun.elapsed() < patience => tokio::time::sleep(PAUSE).await,
                Err(error) if error.is_locked() => return Ok(false),
                Err(error) => return Err(error),
            }
        }
    }

    async fn is_attached(&self, leaving: &Leaving) -> Result<bool, StoreError> {
        let sql = "SELECT EXISTS (SELECT FROM pg_inherits WHERE inhrelid = $1)";
        Ok(self.query_one(sql, &[(&leaving.relation, Type::OID)]).await?.get(0))
    }

    pub(super) async fn is_pending(&self, leaving: &Leaving) -> Result<bool, StoreError> {
        let sql = "SELECT EXISTS (SELECT FROM pg_inherits WHERE inhrelid = $1 AND inhdetachpending)";
        Ok(self.query_one(sql, &[(&leaving.relation, Type::OID)]).await?.get(0))
    }

    pub(super) async fn set_detached(&self, leaving: &Leaving) -> Result<(), StoreError> {
        let sql = "UPDATE otel.otel_dropped_partitions SET state = 'detached', detached_at = now()
                   WHERE id = $1 AND state = 'retired'";
        self.query(sql, &[(&leaving.id, Type::INT8)]).await?;
        Ok(())
    }

    /// Lets partitions be written to again that a run has marked so long ago and got no further with, as one that was killed: until
    /// then writes to them are refused. What such a run began to detach is left to the next run. Returns how many there were;
    /// none where this role does not own the schema.
    ///
    /// # Errors
    /// When the database is away.
    pub async fn open_abandoned_partitions(&self, abandoned: Duration) -> Result<u64, StoreError> {
        if !self.owns_schema().await? {
            return Ok(0);
        }
        let sql = "WITH open AS (
                     DELETE FROM otel.otel_dropped_partitions d USING pg_inherits i
                     WHERE d.state = 'retired' AND i.inhrelid = d.relation AND NOT i.inhdetachpending
                       AND d.begun_at NOT BETWEEN clock_timestamp() - make_interval(secs => $1) AND clock_timestamp()
                     RETURNING d.partition)
                   UPDATE otel.otel_partition_writes w SET retired_at = NULL FROM open
                   WHERE w.partition = open.partition RETURNING w.partition";
        let opened = self.query(sql, &[(&abandoned.as_secs_f64(), Type::FLOAT8)]).await?;
        for row in &opened {
            let partition: &str = row.get(0);
            tracing::warn!(partition, "a run of retention was cut off: its mark is taken from the partition");
        }
        Ok(opened.len() as u64)
    }

    /// Lets the partition be written to again.
    pub(super) async fn give_up(&self, leaving: &Leaving) -> Result<(), StoreError> {
        let sql = "WITH open AS (DELETE FROM otel.otel_dropped_partitions WHERE id = $1 AND state = 'retired' RETURNING partition)
                   UPDATE otel.otel_partition_writes SET retired_at = NULL WHERE partition IN (SELECT partition FROM open)";
        self.query(sql, &[(&leaving.id, Type::INT8)]).await?;
        Ok(())
    }
}
