//! Collecting resources, scopes, metric series and log templates that nothing refers to any more. ADR 13 has the reasons.
//!
//! ```text
//! in use ─▶ retired ────────────────▶ labelled ───────────────────────────────▶ deleted
//!    ▲      its hash is turned over:   all transactions have ended that may      no partition is left that can refer to it
//!    │      ids that are remembered    refer to it: only partitions that are
//!    │      are not valid any more     there now can hold such a record
//!    └── whoever wants it finds it by the turned hash: `store::dimensions`
//! ```
//!
//! # Promise
//! A row is deleted only when no record can refer to it, whatever writers remember, however late they are and whatever clocks
//! say. That rows are retired by the day when they were last seen only saves work: a row that is retired too early comes back.
//!
//! Any number of processes may do this at a time. No lock is waited for, and none is held for longer than some thousand rows
//! take.

use std::time::{Duration, Instant};

use deadpool_postgres::Transaction;
use tokio_postgres::IsolationLevel;
use tokio_postgres::types::Type;

use super::drop::in_use;
use super::old::{detached_table, least_generation, with_column};
use crate::store::migrate::COLLECTION_INDEXES;
use crate::store::{Database, Micros, StoreError};

/// Rows that are looked at, and of these that are changed, at a time.
const LOOKED_AT_ONCE: i64 = 20_000;
const CHANGED_AT_ONCE: usize = 2000;

/// A table whose rows are collected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shared {
    pub(super) table: &'static str,
    pub(super) id: &'static str,
}

pub(super) const SERIES: Shared = Shared { table: "otel_metric_series", id: "series_id" };
pub(super) const RESOURCES: Shared = Shared { table: "otel_resources", id: "resource_id" };
pub(super) const SCOPES: Shared = Shared { table: "otel_scopes", id: "scope_id" };

/// Metrics and roll-ups that are being detached may be attached again, and are not looked into.
const DETACHING: &str = "EXISTS (SELECT FROM otel.otel_dropped_partitions d
             WHERE d.parent IN ('otel_metrics', 'otel_metric_rollups') AND d.state IN ('retired', 'detached'))
    OR EXISTS (SELECT FROM pg_inherits h WHERE h.inhdetachpending
                 AND h.inhparent IN ('otel.otel_metrics'::regclass, 'otel.otel_metric_rollups'::regclass))";

impl Shared {
    /// That nothing refers to row `t`, but for partitions of spans and logs.
    fn unreferenced(self) -> String {
        match self.table {
            "otel_metric_series" => format!(
                "(SELECT 1 FROM otel.otel_metrics m WHERE m.series_id = t.series_id LIMIT 1) IS NULL
                 AND (SELECT 1 FROM otel.otel_metric_rollups u WHERE u.series_id = t.series_id LIMIT 1) IS NULL
                 AND NOT ({DETACHING}) AND NOT EXISTS (SELECT FROM {})",
                with_column("series_id")
            ),
            "otel_resources" => {
                "(SELECT 1 FROM otel.otel_metric_series s WHERE s.resource_id = t.resource_id LIMIT 1) IS NULL"
                    .to_owned()
            }
            // No index begins with the scope: all series are read, once for all rows that are asked for.
            _ => "NOT EXISTS (SELECT FROM otel.otel_metric_series s WHERE s.scope_id = t.scope_id)".to_owned(),
        }
    }
}

/// Whether a row was not seen lately. It is noted by the day that it was, and writers remember ids for twelve hours
/// (`store::dimensions`): an hour after noon nobody relies any more on what was seen on the day before. A day that is still to
/// come is of a clock that went back.
const UNSEEN: &str = "t.retirement IS NULL
    AND (t.last_seen < (now() - interval '13 hours')::date OR t.last_seen > current_date + 1)";

/// Whether all rows are to be looked at: once a day, as soon as those of the day before can be retired. The sooner, the fewer
/// partitions are there that may refer to them.
const SWEEP_IS_DUE: &str =
    "SELECT swept_at > now() OR (swept_at - interval '13 hours')::date < (now() - interval '13 hours')::date
    FROM otel.otel_collection";

/// How rows that nothing refers to are collected.
#[derive(Debug, Clone)]
pub struct CollectionRun {
    /// Look at all rows, though it was done within a day.
    pub at_once: bool,
    /// Retire rows, whatever speaks against the clock.
    pub trust_clock: bool,
    /// How long to wait for the end of transactions that may refer to what was retired.
    pub patience: Duration,
    /// When to leave the rest to the next run.
    pub within: Duration,
}

impl Default for CollectionRun {
    fn default() -> Self {
        Self { at_once: false, trust_clock: false, patience: Duration::from_mins(1), within: Duration::from_mins(10) }
    }
}

/// What a run did.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct CollectionOutcome {
    /// Why nothing was retired, if so.
    pub held_back: Option<String>,
    /// Resources, scopes and series that nobody has seen since the day before: they come back when they are wanted, and are deleted
    /// when nothing refers to them.
    pub retired: u64,
    /// Resources that are gone.
    pub resources: u64,
    /// Scopes that are gone.
    pub scopes: u64,
    /// Metric series that are gone.
    pub series: u64,
    /// Log templates that are gone, with their vectors.
    pub templates: u64,
    /// What keeps rows for longer than retention does, if anything.
    pub waits_for: Vec<String>,
}

impl CollectionOutcome {
    /// Rows that are gone.
    pub fn collected(&self) -> u64 {
        self.resources + self.scopes + self.series + self.templates
    }
}

impl Database {
    /// Retires what was not seen for long, once a day, and deletes what is retired and what nothing refers to any more.
    ///
    /// # Errors
    /// When the database is away, or this role does not own the schema. What was done before stays done.
    pub async fn collect(&self, run: &CollectionRun) -> Result<CollectionOutcome, StoreError> {
        self.require_owner().await?;
        let mut outcome = CollectionOutcome::default();
        let mut is_whole = false;
        match self.missing_index().await? {
            Some(index) => outcome.waits_for.push(format!("the index {index}, which is being built")),
            None => is_whole = self.collect_now(run, &mut outcome).await?,
        }
        let note = "UPDATE otel.otel_collection SET looked_at = now(), held_back = $1, waits_for = $2,
                                                    swept_at = CASE WHEN $3 THEN now() ELSE swept_at END";
        self.query(
            note,
            &[(&outcome.held_back, Type::TEXT), (&outcome.waits_for, Type::TEXT_ARRAY), (&is_whole, Type::BOOL)],
        )
        .await?;
        Ok(outcome)
    }

    /// Returns whether all rows were looked at.
    async fn collect_now(&self, run: &CollectionRun, outcome: &mut CollectionOutcome) -> Result<bool, StoreError> {
        let until = Instant::now() + run.within;
        outcome.held_back = self.doubts_of_age(run).await?;
        if outcome.held_back.is_none() {
            self.mend_retirements_to_come().await?;
        }
        let is_due = outcome.held_back.is_none() && (run.at_once || self.is_sweep_due().await?);
        let mut is_whole = is_due;
        if is_due {
            for shared in [SERIES, RESOURCES, SCOPES] {
                is_whole &= self.sweep(shared, until, outcome).await?;
            }
        }
        self.label(run.patience, outcome).await?;
        if is_due {
            self.pass_old_partitions(until, outcome).await?;
        }
        outcome.series = self.collect_series(until, &mut outcome.waits_for).await?;
        outcome.resources = self.collect_owners(RESOURCES, until).await?;
        outcome.scopes = self.collect_owners(SCOPES, until).await?;
        self.forget_retirements().await?;
        if is_due {
            outcome.templates = self.collect_templates(until).await?;
        }
        Ok(is_whole)
    }

    /// Why it cannot be told what was not seen for long, if so.
    async fn doubts_of_age(&self, run: &CollectionRun) -> Result<Option<String>, StoreError> {
        let sql = "SELECT EXISTS (SELECT FROM otel.otel_ingest_ledger
                                  WHERE refreshed IS NULL AND received_at > now() - interval '2 days')";
        if self.query_one(sql, &[]).await?.get(0) {
            return Ok(Some("an older program wrote within two days, and does not note what it has seen".to_owned()));
        }
        if run.trust_clock { Ok(None) } else { self.doubts_of_clock().await }
    }

    async fn is_sweep_due(&self) -> Result<bool, StoreError> {
        Ok(self.query_one(SWEEP_IS_DUE, &[]).await?.get(0))
    }

    /// Retirements of a time that is still to come are of a clock that went back.
    async fn mend_retirements_to_come(&self) -> Result<(), StoreError> {
        let sql = "UPDATE otel.otel_retirements SET retired_at = least(retired_at, now()),
                       looked_at = CASE WHEN looked_at > now() THEN now() ELSE looked_at END
                   WHERE greatest(retired_at, looked_at) > now() + interval '5 minutes'";
        self.query(sql, &[]).await?;
        Ok(())
    }

    /// Retires the rows that were not seen for long. `false` when time was up before.
    async fn sweep(&self, shared: Shared, until: Instant, outcome: &mut CollectionOutcome) -> Result<bool, StoreError> {
        let Shared { table, id, .. } = shared;
        let page = format!(
            "WITH t AS MATERIALIZED (SELECT {id}::bigint AS id, retirement, last_seen FROM otel.{table}
                                     WHERE {id} > $1 ORDER BY {id} LIMIT $2)
             SELECT max(t.id), count(*), coalesce(array_agg(t.id) FILTER (WHERE {UNSEEN}), '{{}}') FROM t"
        );
        let mut after = 0i64;
        while Instant::now() < until {
            let row = self.query_one(&page, &[(&after, Type::INT8), (&LOOKED_AT_ONCE, Type::INT8)]).await?;
            let unseen: Vec<i64> = row.get(2);
            for part in unseen.chunks(CHANGED_AT_ONCE) {
                outcome.retired += self.retire_rows(shared, part).await?;
            }
            if row.get::<_, i64>(1) < LOOKED_AT_ONCE {
                return Ok(true);
            }
            after = row.get(0);
        }
        Ok(false)
    }

    /// Retires these rows, if they still are to be and nobody is at them. One of which the turned hash is there already was
    /// stored once more by an older program, and waits until the other is gone.
    async fn retire_rows(&self, Shared { table, id, .. }: Shared, rows: &[i64]) -> Result<u64, StoreError> {
        let mut client = self.client().await?;
        let transaction = read_committed(&mut client).await?;
        let lock = format!(
            "SELECT t.{id}::bigint FROM otel.{table} t WHERE t.{id} = ANY($1) AND {UNSEEN}
               AND NOT EXISTS (SELECT FROM otel.{table} o WHERE o.content_hash = otel.otel_turned_over(t.content_hash))
             FOR UPDATE OF t SKIP LOCKED"
        );
        let locked = ids_of(&transaction, &lock, rows).await?;
        if locked.is_empty() {
            return Ok(0);
        }
        let begin = "INSERT INTO otel.otel_retirements (parent) VALUES ($1) RETURNING retirement";
        let retirement: i64 = transaction.query_typed_one(begin, &[(&table, Type::TEXT)]).await?.get(0);
        let retire = format!(
            "UPDATE otel.{table} SET retirement = $2, content_hash = otel.otel_turned_over(content_hash) WHERE {id} = ANY($1)"
        );
        let retired =
            transaction.execute_typed(&retire, &[(&locked, Type::INT8_ARRAY), (&retirement, Type::INT8)]).await?;
        transaction.commit().await?;
        Ok(retired)
    }

    /// Labels what was retired with the generation of the partitions that are there when all have ended who may not have seen
    /// that it was: later partitions cannot refer to it. Nor can those that are still empty.
    async fn label(&self, patience: Duration, outcome: &mut CollectionOutcome) -> Result<(), StoreError> {
        let sql = "SELECT coalesce(array_agg(retirement), '{}') FROM otel.otel_retirements WHERE generation IS NULL";
        let retirements: Vec<i64> = self.query_one(sql, &[]).await?.get(0);
        if retirements.is_empty() {
            return Ok(());
        }
        // Who has looked whether a row is what it remembers has a lock on its table until its transaction ends.
        for Shared { table, .. } in [SERIES, RESOURCES, SCOPES] {
            if !self.users_end(table, patience).await? {
                outcome.waits_for.push(in_use(table));
                return Ok(());
            }
        }
        let mut client = self.client().await?;
        let transaction = read_committed(&mut client).await?;
        let generation = next_generation(&transaction).await?;
        let label =
            "UPDATE otel.otel_retirements SET generation = $2 WHERE retirement = ANY($1) AND generation IS NULL";
        transaction.execute_typed(label, &[(&retirements, Type::INT8_ARRAY), (&generation, Type::INT8)]).await?;
        let empty = "UPDATE otel.otel_partition_writes w SET generation = $1 + 1
                     FROM pg_class c
                     WHERE c.relname = w.partition AND c.relnamespace = 'otel'::regnamespace AND c.relkind = 'r'
                       AND w.generation <= $1 AND w.retired_at IS NULL AND pg_relation_size(c.oid) = 0";
        transaction.execute_typed(empty, &[(&generation, Type::INT8)]).await?;
        Ok(transaction.commit().await?)
    }

    /// Deletes retired series without points and roll-ups. They are looked for when retention should have dropped their
    /// points, and where some are left, again when a partition was dropped that may have held them, or a week later.
    async fn collect_series(&self, until: Instant, waits_for: &mut Vec<String>) -> Result<u64, StoreError> {
        let detached = format!("SELECT {DETACHING}, (SELECT min(c.relname::text) FROM {})", with_column("series_id"));
        let row = self.query_one(&detached, &[]).await?;
        if let Some(table) = row.get::<_, Option<&str>>(1) {
            waits_for.push(detached_table(table));
            return Ok(0);
        }
        if row.get(0) {
            waits_for.push("a partition of metrics that is being detached".to_owned());
            return Ok(0);
        }
        let due = "SELECT r.retirement, clock_timestamp() FROM otel.otel_retirements r
                   JOIN otel.otel_partitioned_tables t ON t.parent = 'otel_metrics' AND t.expires
                   WHERE r.parent = 'otel_metric_series' AND r.generation IS NOT NULL
                     AND CASE WHEN r.looked_at IS NULL THEN r.retired_at + t.retention < now()
                              ELSE r.looked_at + interval '7 days' < now()
                                   OR EXISTS (SELECT FROM otel.otel_dropped_partitions d
                                              WHERE d.parent IN ('otel_metrics', 'otel_metric_rollups')
                                                AND d.state = 'dropped' AND d.dropped_at >= r.looked_at
                                                AND d.lower_bound < r.retired_at + interval '1 day') END
                   ORDER BY r.retirement";
        let mut collected = 0;
        for row in self.query(due, &[]).await? {
            let (retirement, now): (i64, Micros) = (row.get(0), row.get(1));
            let condition = format!("t.retirement = {retirement}");
            let (gone, is_whole) = self.delete_rows(SERIES, &condition, until).await?;
            collected += gone;
            if !is_whole {
                break;
            }
            let looked = "UPDATE otel.otel_retirements SET looked_at = $2 WHERE retirement = $1";
            self.query(looked, &[(&retirement, Type::INT8), (&now, Type::TIMESTAMPTZ)]).await?;
        }
        Ok(collected)
    }

    /// Deletes retired resources or scopes to which no partition and no series can refer.
    async fn collect_owners(&self, shared: Shared, until: Instant) -> Result<u64, StoreError> {
        let condition = format!(
            "t.retirement IN (SELECT r.retirement FROM otel.otel_retirements r
                              WHERE r.parent = '{}' AND r.generation < ({}))",
            shared.table,
            least_generation()
        );
        Ok(self.delete_rows(shared, &condition, until).await?.0)
    }

    /// Deletes the rows for which this holds and to which nothing refers. Returns how many, and whether time was enough.
    async fn delete_rows(&self, shared: Shared, condition: &str, until: Instant) -> Result<(u64, bool), StoreError> {
        let (Shared { table, id }, unreferenced) = (shared, shared.unreferenced());
        let page = format!(
            "SELECT t.{id}::bigint FROM otel.{table} t WHERE {condition} AND t.{id} > $1 ORDER BY t.{id} LIMIT $2"
        );
        // Before anything is locked: a row that somebody brings back meanwhile does not wait for that.
        let unused = format!("SELECT t.{id}::bigint FROM otel.{table} t WHERE t.{id} = ANY($1) AND {unreferenced}");
        let lock = format!(
            "SELECT t.{id}::bigint FROM otel.{table} t WHERE t.{id} = ANY($1) AND {condition} FOR UPDATE OF t SKIP LOCKED"
        );
        let delete = format!("DELETE FROM otel.{table} t WHERE t.{id} = ANY($1) AND {unreferenced}");
        let (mut collected, mut after) = (0, 0i64);
        while Instant::now() < until {
            let limit = CHANGED_AT_ONCE as i64;
            let rows = self.query(&page, &[(&after, Type::INT8), (&limit, Type::INT8)]).await?;
            let rows: Vec<i64> = rows.iter().map(|row| row.get(0)).collect();
            let Some(last) = rows.last() else { return Ok((collected, true)) };
            after = *last;
            let mut client = self.client().await?;
            let transaction = read_committed(&mut client).await?;
            let unused = ids_of(&transaction, &unused, &rows).await?;
            if unused.is_empty() {
                continue;
            }
            // With the lock nobody brings the row back, and the next statement sees what was stored before.
            let locked = ids_of(&transaction, &lock, &unused).await?;
            let gone = transaction.execute_typed(&delete, &[(&locked, Type::INT8_ARRAY)]).await?;
            note_collected(&transaction, table, gone).await?;
            transaction.commit().await?;
            collected += gone;
        }
        Ok((collected, false))
    }

    /// The first of the indexes that is not there yet.
    async fn missing_index(&self) -> Result<Option<String>, StoreError> {
        let sql = "SELECT n.name FROM unnest($1::text[]) WITH ORDINALITY n (name, place)
                   WHERE NOT EXISTS (SELECT FROM pg_index WHERE indexrelid = to_regclass(n.name) AND indisvalid)
                   ORDER BY n.place LIMIT 1";
        let names: Vec<&str> = COLLECTION_INDEXES.to_vec();
        Ok(self.query(sql, &[(&names, Type::TEXT_ARRAY)]).await?.first().map(|row| row.get(0)))
    }

    /// Forgets retirements of which no row is left.
    async fn forget_retirements(&self) -> Result<(), StoreError> {
        for Shared { table, .. } in [SERIES, RESOURCES, SCOPES] {
            let sql = format!(
                "DELETE FROM otel.otel_retirements r WHERE r.parent = $1
                 AND NOT EXISTS (SELECT FROM otel.{table} t WHERE t.retirement = r.retirement)"
            );
            self.query(&sql, &[(&table, Type::TEXT)]).await?;
        }
        Ok(())
    }
}

pub(super) async fn read_committed(client: &mut crate::store::database::Client) -> Result<Transaction<'_>, StoreError> {
    Ok(client.build_transaction().isolation_level(IsolationLevel::ReadCommitted).start().await?)
}

pub(super) async fn ids_of(transaction: &Transaction<'_>, sql: &str, among: &[i64]) -> Result<Vec<i64>, StoreError> {
    let rows = transaction.query_typed(sql, &[(&among, Type::INT8_ARRAY)]).await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// The generation of all partitions that are there: of those that are made from now on it is a later one.
pub(super) async fn next_generation(transaction: &Transaction<'_>) -> Result<i64, StoreError> {
    let sql = "UPDATE otel.otel_collection SET generation = generation + 1 RETURNING generation - 1";
    Ok(transaction.query_typed_one(sql, &[]).await?.get(0))
}

/// Counts rows that are gone.
pub(in crate::store) async fn note_collected(
    transaction: &Transaction<'_>,
    table: &str,
    rows: u64,
) -> Result<(), StoreError> {
    if rows > 0 {
        let note = "UPDATE otel.otel_collected SET row_count = row_count + $2, collected_at = now() WHERE parent = $1";
        let rows = i64::try_from(rows).unwrap_or(i64::MAX);
        transaction.execute_typed(note, &[(&table, Type::TEXT), (&rows, Type::INT8)]).await?;
    }
    Ok(())
}
