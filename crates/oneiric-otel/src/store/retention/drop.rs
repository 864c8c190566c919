//! Dropping what is too old, without anybody waiting for it.
//!
//! ```text
//! due ─▶ retired ─────────────▶ detached ────────────────────▶ dropped
//!        nobody writes to it    nobody sees it any more;       what happened is in otel_dropped_partitions
//!                               keys of its traces go
//! ```
//!
//! A process that ends in between leaves a row of `otel_dropped_partitions` by which the next run goes on.

use std::time::Duration;

use jiff::Timestamp;
use tokio_postgres::types::Type;
use uuid::Uuid;

use super::detach::{DETACH_WITHIN, Leaving};
use super::report::{ALL_PARTITIONS, DroppedPartition, RetainedPartition, TableRetention, tables};
use super::{configure, timestamp};
use crate::retention::RetentionOptions;
use crate::store::roles::quoted;
use crate::store::write::slot;
use crate::store::{Database, StoreError};

/// Traces whose keys are deleted at a time.
const KEYS_AT_ONCE: i64 = 20_000;

/// How retention is applied.
#[derive(Debug, Clone)]
pub struct RetentionRun {
    /// Take the clock for right, whatever speaks against it.
    pub trust_clock: bool,
    /// Apply at once a retention that was shortened within a day.
    pub shortened_at_once: bool,
    /// How long to wait for those who use a table for long, each time.
    pub patience: Duration,
    /// The pause between detaching and dropping: PostgreSQL's counters, which tell of writes that nobody noted, are behind by
    /// ten seconds at most.
    pub settle: Duration,
    /// How long ago a partition must have been marked that another run has not got on with: longer than a run may take for
    /// one, or two runs would take it out of each other's hands.
    pub abandoned: Duration,
}

impl Default for RetentionRun {
    fn default() -> Self {
        Self {
            trust_clock: false,
            shortened_at_once: false,
            patience: Duration::from_mins(1),
            settle: Duration::from_secs(15),
            abandoned: Duration::from_mins(5),
        }
    }
}

/// What a run did.
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize)]
pub struct RetentionOutcome {
    /// Why nothing was dropped, if so.
    pub held_back: Option<String>,
    /// What is gone now, or would be.
    pub dropped: Vec<DroppedPartition>,
    /// What is due and could not be dropped now, with the reason. The next run tries again.
    pub left: Vec<LeftPartition>,
}

/// A partition that is due and still there.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct LeftPartition {
    /// Its name.
    pub partition: String,
    /// Why.
    pub reason: String,
}

impl Database {
    /// What a run with these options would drop now. Nothing is changed.
    ///
    /// # Errors
    /// When the options go together neither with each other nor with the database, or this role does not own the schema.
    pub async fn retention_dry_run(&self, options: &RetentionOptions) -> Result<RetentionOutcome, StoreError> {
        self.require_owner().await?;
        let held_back = self.doubts_of_clock().await?;
        let mut client = self.client().await?;
        let transaction = client.transaction().await?;
        let changes = configure::changes(&transaction, options).await?;
        configure::apply(&transaction, &changes).await?;
        let nothing: Option<&str> = None;
        let tables = tables(&transaction.query_typed(ALL_PARTITIONS, &[(&nothing, Type::TEXT)]).await?);
        transaction.rollback().await?;
        let due = |table: &TableRetention| {
            let of = (table.table.clone(), table.retention_days.map_or(0, i64::from));
            table
                .partitions
                .iter()
                .filter(|partition| partition.is_due)
                .map(move |due| would_go(due, &of))
                .collect::<Vec<_>>()
        };
        let mut dropped: Vec<DroppedPartition> = tables.iter().flat_map(due).collect();
        let derived = derived_of(&dropped, &tables, Timestamp::now());
        dropped.extend(derived);
        Ok(RetentionOutcome { held_back, dropped, left: Vec::new() })
    }

    /// Drops what is too old. Returns what it did; trouble with one partition does not keep it from the others.
    ///
    /// # Errors
    /// When the database is away, or this role does not own the schema.
    pub async fn run_retention(&self, run: &RetentionRun) -> Result<RetentionOutcome, StoreError> {
        self.require_owner().await?;
        self.look_at_partitions().await?;
        let held_back = if run.trust_clock { None } else { self.doubts_of_clock().await? };
        let mut outcome = RetentionOutcome { held_back, ..RetentionOutcome::default() };
        self.resume(run, &mut outcome).await?;
        if outcome.held_back.is_some() {
            return Ok(outcome);
        }
        self.mend_notes_to_come().await?;
        // In this order: what a table is derived from goes before it.
        let names: Vec<String> = self.retained(None).await?.into_iter().map(|table| table.table).collect();
        for name in names {
            for table in self.retained(Some(&name)).await? {
                self.detach_due(&table, run, &mut outcome).await?;
            }
        }
        self.drop_detached(run, &mut outcome).await?;
        self.forget_rolled_hours().await?;
        Ok(outcome)
    }

    /// Whether this role owns the schema, and so may drop what is in it.
    ///
    /// # Errors
    /// When the database is away.
    pub async fn may_apply_retention(&self) -> Result<bool, StoreError> {
        self.owns_schema().await
    }

    pub(super) async fn require_owner(&self) -> Result<(), StoreError> {
        if self.owns_schema().await? {
            return Ok(());
        }
        Err(StoreError::misconfigured(
            "this role does not own the schema otel, and so cannot drop what is in it: connect as its owner",
        ))
    }

    /// Goes on with what an earlier run began.
    async fn resume(&self, run: &RetentionRun, outcome: &mut RetentionOutcome) -> Result<(), StoreError> {
        let rows = self
            .query(
                "SELECT d.id, d.parent, d.partition, d.relation, coalesce(c.relispartition, false),
                        t.expires AND greatest(d.upper_bound, d.last_write) < now() - t.retention
                 FROM otel.otel_dropped_partitions d
                 JOIN otel.otel_partitioned_tables t ON t.parent = d.parent
                 LEFT JOIN pg_class c ON c.oid = d.relation
                 WHERE d.state = 'retired' AND d.begun_at NOT BETWEEN clock_timestamp() - make_interval(secs => $1) AND clock_timestamp()
                 ORDER BY d.id",
                &[(&run.abandoned.as_secs_f64(), Type::FLOAT8)],
            )
            .await?;
        for row in rows {
            let leaving = Leaving { id: row.get(0), table: row.get(1), partition: row.get(2), relation: row.get(3) };
            let (is_attached, is_old): (bool, bool) = (row.get(4), row.get(5));
            if !is_attached {
                self.set_detached(&leaving).await?;
            } else if self.is_pending(&leaving).await? || (is_old && outcome.held_back.is_none()) {
                self.detach_or_leave(&leaving, run, outcome).await?;
            } else {
                self.give_up(&leaving).await?;
            }
        }
        Ok(())
    }

    async fn detach_due(
        &self,
        table: &TableRetention,
        run: &RetentionRun,
        outcome: &mut RetentionOutcome,
    ) -> Result<(), StoreError> {
        for due in table.partitions.iter().filter(|partition| partition.is_due) {
            if due.is_news && !run.shortened_at_once {
                outcome.leave(&due.partition, "the retention was shortened within a day".to_owned());
                continue;
            }
            if !self.users_end(&table.table, run.patience).await? {
                // The other partitions of the table would wait for the same.
                outcome.leave(&due.partition, in_use(&table.table));
                return Ok(());
            }
            if let Some(leaving) = self.retire(table, due).await? {
                self.detach_or_leave(&leaving, run, outcome).await?;
            }
        }
        Ok(())
    }

    /// Drops what is detached for long enough.
    async fn drop_detached(&self, run: &RetentionRun, outcome: &mut RetentionOutcome) -> Result<(), StoreError> {
        let open = "SELECT id, parent, partition, relation,
                           extract(epoch FROM clock_timestamp() - detached_at)::double precision
                    FROM otel.otel_dropped_partitions WHERE state = 'detached' ORDER BY id";
        let rows = self.query(open, &[]).await?;
        let youngest = rows.iter().map(|row| row.get::<_, f64>(4)).fold(f64::INFINITY, f64::min).max(0.0);
        let wait = run.settle.as_secs_f64() - youngest;
        if wait > 0.0 && youngest.is_finite() {
            tokio::time::sleep(Duration::from_secs_f64(wait)).await;
        }
        for row in rows {
            let leaving = Leaving { id: row.get(0), table: row.get(1), partition: row.get(2), relation: row.get(3) };
            match self.drop_one(&leaving).await {
                Ok(Some(dropped)) => {
                    tell(&dropped);
                    outcome.dropped.push(dropped);
                }
                Ok(None) => {}
                Err(error) => {
                    tracing::warn!(partition = leaving.partition, %error, "a detached partition could not be dropped yet");
                    outcome.leave(&leaving.partition, error.to_string());
                }
            }
        }
        Ok(())
    }

    /// Drops a detached partition, or keeps it when it is not what it was. None when somebody else did it.
    async fn drop_one(&self, leaving: &Leaving) -> Result<Option<DroppedPartition>, StoreError> {
        let row = self
            .query(
                "SELECT c.oid IS NULL, c.relispartition,
                        coalesce(pg_stat_get_tuples_inserted(c.oid) > d.inserted, false),
                        -- The retention may have been made longer since.
                        t.expires AND greatest(d.upper_bound, CASE WHEN t.source IS NULL THEN d.last_write END) < now() - t.retention,
                        format('ALTER TABLE otel.%I ATTACH PARTITION otel.%I FOR VALUES FROM (%s) TO (%s)', d.parent,
                               d.partition,
                               CASE WHEN d.lower_bound = '-infinity' THEN 'MINVALUE' ELSE quote_literal(d.lower_bound) END,
                               CASE WHEN d.upper_bound = 'infinity' THEN 'MAXVALUE' ELSE quote_literal(d.upper_bound) END)
                 FROM otel.otel_dropped_partitions d
                 JOIN otel.otel_partitioned_tables t ON t.parent = d.parent
                 LEFT JOIN pg_class c ON c.oid = d.relation AND c.relname = d.partition
                                     AND c.relnamespace = 'otel'::regnamespace
                 WHERE d.id = $1 AND d.state = 'detached'",
                &[(&leaving.id, Type::INT8)],
            )
            .await?
            .pop();
        let Some(row) = row else { return Ok(None) };
        if row.get(0) {
            return self.end_as(leaving, "dropped", Some("somebody else dropped it")).await;
        }
        if row.get(1) {
            return self.end_as(leaving, "kept", Some("somebody attached it again")).await;
        }
        let (is_written, is_old): (bool, bool) = (row.get(2), row.get(3));
        if is_written || !is_old {
            // By a program before this one, or by hand, which do not note what they write.
            let why = if is_written { "it was written to meanwhile" } else { "the retention is longer now" };
            return self.bring_back(leaving, row.get(4), why).await;
        }
        if leaving.table == "otel_traces" {
            self.forget_keys(leaving).await?;
        }
        let mut client = self.client().await?;
        let transaction = client.transaction().await?;
        let drop = format!("SET LOCAL lock_timeout = '2s'; DROP TABLE otel.{}", quoted(&leaving.partition));
        transaction.batch_execute(&drop).await?;
        let dropped = end_as(&transaction, leaving, "dropped", None).await?;
        transaction.commit().await?;
        Ok(dropped)
    }

    /// Attaches a detached partition again, or moves its rows to the one that has come in its place. Trouble is tried again by
    /// the next run: until then it stays as it is.
    async fn bring_back(
        &self,
        leaving: &Leaving,
        attach: &str,
        why: &str,
    ) -> Result<Option<DroppedPartition>, StoreError> {
        match self.run_within(attach, DETACH_WITHIN).await {
            Ok(()) => self.end_as(leaving, "kept", Some(&format!("{why}, and it is attached again"))).await,
            Err(error) if error.is_overlap() => {
                let (table, partition) = (quoted(&leaving.table), quoted(&leaving.partition));
                let mut client = self.client().await?;
                let transaction = client.transaction().await?;
                let statements = format!(
                    "INSERT INTO otel.{table} SELECT * FROM otel.{partition} ON CONFLICT DO NOTHING;
                     SET LOCAL lock_timeout = '2s'; DROP TABLE otel.{partition}"
                );
                transaction.batch_execute(&statements).await?;
                let reason = format!("{why}, and its rows are in the partition that came in its place");
                let ended = end_as(&transaction, leaving, "kept", Some(&reason)).await?;
                transaction.commit().await?;
                Ok(ended)
            }
            Err(error) => Err(error),
        }
    }

    async fn end_as(
        &self,
        leaving: &Leaving,
        state: &str,
        reason: Option<&str>,
    ) -> Result<Option<DroppedPartition>, StoreError> {
        let mut client = self.client().await?;
        let transaction = client.transaction().await?;
        let closed = end_as(&transaction, leaving, state, reason).await?;
        transaction.commit().await?;
        Ok(closed)
    }

    /// Forgets in which partition the traces of a detached one were. A slot's lock keeps derivation from relying on a key
    /// that is being deleted; a trace that was derived again meanwhile keeps its key.
    async fn forget_keys(&self, leaving: &Leaving) -> Result<(), StoreError> {
        let partition = quoted(&leaving.partition);
        let page = format!("SELECT trace_id FROM otel.{partition} WHERE trace_id > $1 ORDER BY trace_id LIMIT $2");
        let delete = format!(
            "DELETE FROM otel.otel_trace_keys k USING otel.{partition} d
             WHERE k.trace_id = ANY($1) AND d.trace_id = k.trace_id AND d.bucket = k.bucket
               AND NOT EXISTS (SELECT FROM otel.otel_traces t WHERE t.trace_id = k.trace_id AND t.bucket = k.bucket)"
        );
        let mut after = Uuid::nil();
        loop {
            let rows = self.query(&page, &[(&after, Type::UUID), (&KEYS_AT_ONCE, Type::INT8)]).await?;
            let mut traces: Vec<Uuid> = rows.iter().map(|row| row.get(0)).collect();
            let Some(last) = traces.last() else { return Ok(()) };
            after = *last;
            traces.sort_unstable_by_key(|trace| slot(trace.into_bytes()));
            for part in traces.chunk_by(|one, next| slot(one.into_bytes()) == slot(next.into_bytes())) {
                let slot = slot(part[0].into_bytes());
                let mut client = self.client().await?;
                let transaction = client.transaction().await?;
                let lock = "SELECT FROM otel.otel_trace_slots WHERE slot = $1 FOR UPDATE";
                transaction.execute_typed(lock, &[(&slot, Type::INT2)]).await?;
                transaction.execute_typed(&delete, &[(&part, Type::UUID_ARRAY)]).await?;
                transaction.commit().await?;
            }
        }
    }

    /// Forgets that hours were rolled up whose roll-ups are gone, and what was dropped longer ago than a year.
    async fn forget_rolled_hours(&self) -> Result<(), StoreError> {
        self.query(
            "DELETE FROM otel.otel_metric_hours h
             WHERE NOT EXISTS (SELECT FROM otel.otel_partitions('otel_metric_rollups') p
                               WHERE p.lower_bound <= h.hour AND h.hour < p.upper_bound)",
            &[],
        )
        .await?;
        self.query("DELETE FROM otel.otel_dropped_partitions WHERE dropped_at < now() - interval '400 days'", &[])
            .await?;
        Ok(())
    }
}

/// Notes how a partition ended. None when somebody else has done it.
async fn end_as(
    transaction: &deadpool_postgres::Transaction<'_>,
    leaving: &Leaving,
    state: &str,
    reason: Option<&str>,
) -> Result<Option<DroppedPartition>, StoreError> {
    let row = transaction
        .query_typed_opt(
            "WITH written AS (
               DELETE FROM otel.otel_partition_writes w USING otel.otel_dropped_partitions d
               WHERE d.id = $1 AND d.state = 'detached' AND w.partition = d.partition AND w.relation = d.relation)
             UPDATE otel.otel_dropped_partitions SET state = $2, reason = $3, dropped_at = now()
             WHERE id = $1 AND state = 'detached'
             RETURNING lower_bound, upper_bound, row_count, bytes, nullif(last_write, '-infinity'),
                       ceil(extract(epoch FROM retention) / 86400)::bigint, dropped_at",
            &[(&leaving.id, Type::INT8), (&state, Type::TEXT), (&reason, Type::TEXT)],
        )
        .await?;
    Ok(row.map(|row| DroppedPartition {
        table: leaving.table.clone(),
        partition: leaving.partition.clone(),
        from: timestamp(row.get(0)),
        until: timestamp(row.get(1)),
        rows: row.get(2),
        bytes: row.get(3),
        last_write: timestamp(row.get(4)),
        retention_days: row.get(5),
        state: state.to_owned(),
        at: timestamp(row.get(6)),
        reason: reason.map(str::to_owned),
    }))
}

pub(super) fn in_use(table: &str) -> String {
    format!("somebody uses {table} for long, such as a dump or a long question")
}

fn tell(dropped: &DroppedPartition) {
    let DroppedPartition { partition, rows, bytes, .. } = dropped;
    let (from, until) = (dropped.from.map(tracing::field::display), dropped.until.map(tracing::field::display));
    match &dropped.reason {
        None => tracing::info!(partition, rows, bytes, from, until, "retention dropped a partition"),
        Some(reason) => {
            tracing::warn!(partition, rows, bytes, from, until, reason, "retention did not drop a partition");
        }
    }
}

impl RetentionOutcome {
    pub(super) fn leave(&mut self, partition: &str, reason: String) {
        self.left.push(LeftPartition { partition: partition.to_owned(), reason });
    }
}

/// What would go of derived tables, once this has gone.
fn derived_of(gone: &[DroppedPartition], all: &[TableRetention], now: Timestamp) -> Vec<DroppedPartition> {
    let stays = |table: &str, of: &RetainedPartition| {
        let begins = |at: Option<Timestamp>| at.unwrap_or(Timestamp::MIN);
        let ends = |at: Option<Timestamp>| at.unwrap_or(Timestamp::MAX);
        let source = all.iter().filter(|known| known.table == table).flat_map(|known| &known.partitions);
        let mut left = source.filter(|known| !gone.iter().any(|gone| gone.partition == known.partition));
        left.any(|known| begins(known.from) < ends(of.until) && ends(known.until) > begins(of.from))
    };
    let derived = all.iter().filter_map(|table| Some((table, table.derived_from.as_deref()?)));
    let goes = |(table, source): (&TableRetention, &str)| {
        let is_old = |known: &&RetainedPartition| {
            let is_quiet = known.last_write.is_none_or(|last| last.duration_until(now).as_hours() >= 24);
            let is_old = known.old_at.is_some_and(|at| at < now);
            is_old && is_quiet && known.left_alone.is_none() && !known.is_due && !stays(source, known)
        };
        let of = (table.table.clone(), table.retention_days.map_or(0, i64::from));
        table.partitions.iter().filter(is_old).map(|due| would_go(due, &of)).collect::<Vec<_>>()
    };
    derived.flat_map(goes).collect()
}

/// A partition that would be dropped, of a table with its retention.
fn would_go(due: &RetainedPartition, (table, days): &(String, i64)) -> DroppedPartition {
    DroppedPartition {
        table: table.clone(),
        partition: due.partition.clone(),
        from: due.from,
        until: due.until,
        rows: due.rows,
        bytes: due.bytes,
        last_write: due.last_write,
        retention_days: *days,
        state: "due".to_owned(),
        at: None,
        reason: None,
    }
}
