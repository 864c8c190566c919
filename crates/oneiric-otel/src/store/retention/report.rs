//! What is kept, what is too old, and what was dropped.

use jiff::Timestamp;
use tokio_postgres::Row;
use tokio_postgres::types::Type;

use super::timestamp;
use crate::store::{Database, StoreError};

/// Of what was dropped, as many as are told.
const TOLD: i64 = 20;

/// The state of a database's retention.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct RetentionState {
    /// By the database's clock.
    pub now: Timestamp,
    /// Why nothing would be dropped now, if so.
    pub held_back: Option<String>,
    /// The tables that are cut by time.
    pub tables: Vec<TableRetention>,
    /// What was dropped or is being dropped, the latest first.
    pub dropped: Vec<DroppedPartition>,
    /// Tables that look like partitions and are none: somebody detached them. They are never dropped.
    pub detached: Vec<DetachedTable>,
    /// What records share, and what of it nothing refers to any more.
    pub collection: CollectionState,
}

/// The state of collecting rows that nothing refers to any more.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct CollectionState {
    /// When collecting was last run; none when it never was, or by older programs only.
    pub looked_at: Option<Timestamp>,
    /// Why that run retired nothing, if so.
    pub held_back: Option<String>,
    /// What kept rows for longer than retention does, in that run.
    pub waits_for: Vec<String>,
    /// When all rows were last looked at; none when they never were.
    pub swept_at: Option<Timestamp>,
    /// Whether an older program wrote within two days: as long as it does, nothing more is retired.
    pub older_program: bool,
    /// By table.
    pub tables: Vec<CollectedRows>,
}

/// A table whose rows are collected.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct CollectedRows {
    /// Its name.
    pub table: String,
    /// Rows that were not seen for long and are deleted when nothing refers to them.
    pub retired: i64,
    /// Rows that were deleted, ever.
    pub collected: i64,
    /// When the last of them was.
    pub collected_at: Option<Timestamp>,
}

/// A table that is cut by time.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct TableRetention {
    /// Its name.
    pub table: String,
    /// The table whose records its own are derived from.
    pub derived_from: Option<String>,
    /// How long it keeps its records; none is for ever.
    pub retention_days: Option<u32>,
    /// Of new partitions.
    pub step: String,
    /// All partitions, the oldest first.
    pub partitions: Vec<RetainedPartition>,
}

/// A partition.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct RetainedPartition {
    /// Its name.
    pub partition: String,
    /// The first time it has room for; none is the beginning of time.
    pub from: Option<Timestamp>,
    /// The first time after it; none is the end of time.
    pub until: Option<Timestamp>,
    /// Rows, as PostgreSQL estimates them.
    pub rows: i64,
    /// On disk, with its indexes.
    pub bytes: i64,
    /// When it was last written, to the hour.
    pub last_write: Option<Timestamp>,
    /// When it will be old enough, if nothing more is written to it. Of a derived table: its end; it goes when nothing is left
    /// that it is derived from.
    pub old_at: Option<Timestamp>,
    /// Whether it is old enough now.
    pub is_due: bool,
    /// Why it is left alone.
    pub left_alone: Option<String>,
    /// Its object id.
    #[serde(skip)]
    pub(super) relation: u32,
    /// Whether its retention was shortened within a day.
    #[serde(skip)]
    pub(super) is_news: bool,
}

/// A partition that retention dropped or is dropping.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct DroppedPartition {
    /// Its table.
    pub table: String,
    /// Its name.
    pub partition: String,
    /// The first time it had room for; none is the beginning of time.
    pub from: Option<Timestamp>,
    /// The first time after it.
    pub until: Option<Timestamp>,
    /// Rows, as PostgreSQL estimated them.
    pub rows: i64,
    /// On disk, with its indexes.
    pub bytes: i64,
    /// When it was last written; none when it never was.
    pub last_write: Option<Timestamp>,
    /// The retention at that time.
    pub retention_days: i64,
    /// `retired`, `detached`, `dropped` or `kept`.
    pub state: String,
    /// Since when it has this state.
    pub at: Option<Timestamp>,
    /// Why it is kept.
    pub reason: Option<String>,
}

/// A table that somebody detached.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct DetachedTable {
    /// Its name.
    pub table: String,
    /// On disk, with its indexes.
    pub bytes: i64,
}

/// Partitions with all that is known of them: of the table `$1`, or of all. What a table is derived from comes before it.
const PARTITIONS: &str = "
    WITH there AS MATERIALIZED (
      SELECT t.parent, c.oid, c.relname::text AS partition, c.relkind, n.nspname::text AS schema, i.inhdetachpending AS pending,
             b.bound = 'DEFAULT' AS is_default, greatest(c.reltuples::bigint, pg_stat_get_live_tuples(c.oid), 0) AS row_count,
             pg_has_role(c.relowner, 'USAGE') AS is_ours,
             coalesce((regexp_match(b.bound, 'FROM \\(''([^'']+)''\\)'))[1]::timestamptz, '-infinity') AS lower_bound,
             coalesce((regexp_match(b.bound, 'TO \\(''([^'']+)''\\)'))[1]::timestamptz, 'infinity') AS upper_bound
      FROM otel.otel_partitioned_tables t
      JOIN pg_inherits i ON i.inhparent = format('otel.%I', t.parent)::regclass
      JOIN pg_class c ON c.oid = i.inhrelid
      JOIN pg_namespace n ON n.oid = c.relnamespace
      CROSS JOIN LATERAL (SELECT pg_get_expr(c.relpartbound, c.oid) AS bound) b
    )
    SELECT h.parent, h.partition, h.oid, h.lower_bound, h.upper_bound, h.row_count,
           CASE WHEN h.relkind = 'r' THEN pg_total_relation_size(h.oid) ELSE 0 END,
           nullif(w.last_write, '-infinity'),
           CASE WHEN t.source IS NULL
                THEN greatest(h.upper_bound, w.last_write + interval '1 hour') + t.retention
                ELSE h.upper_bound + t.retention END,
           t.expires AND w.partition IS NOT NULL AND w.retired_at IS NULL AND h.upper_bound < now() - t.retention
             AND CASE WHEN t.source IS NULL THEN w.last_write < now() - t.retention - interval '1 hour'
                      ELSE w.last_write < now() - interval '1 day'
                           AND NOT EXISTS (SELECT FROM there s
                                           WHERE s.parent = t.source AND s.lower_bound < h.upper_bound
                                             AND s.upper_bound > h.lower_bound) END,
           CASE WHEN h.is_default THEN 'it is a DEFAULT partition: move its rows to where they belong and drop it'
                WHEN h.relkind <> 'r' THEN 'it is no plain table: somebody attached it'
                WHEN h.schema <> 'otel' THEN 'it lies in schema ' || h.schema || ': somebody attached it'
                WHEN NOT h.is_ours THEN 'it has another owner: somebody attached it'
                WHEN h.pending AND w.retired_at IS NULL
                THEN 'somebody began to detach it: what is written to its time waits until ALTER TABLE otel.' || h.parent
                     || ' DETACH PARTITION otel.' || quote_ident(h.partition) || ' FINALIZE' END,
           t.expires, ceil(extract(epoch FROM t.retention) / 86400)::bigint, t.step, t.source,
           t.changed_at > now() - interval '1 day', w.first_write
    FROM there h
    JOIN otel.otel_partitioned_tables t ON t.parent = h.parent
    LEFT JOIN otel.otel_partition_writes w ON w.partition = h.partition
    WHERE $1::text IS NULL OR h.parent = $1
    ORDER BY t.source NULLS FIRST, h.parent, h.lower_bound, h.upper_bound";

impl Database {
    /// What is kept how long, what is too old, and what was dropped. Changes nothing.
    ///
    /// # Errors
    /// When the database is away, or this role may not read the tables.
    pub async fn retention_state(&self) -> Result<RetentionState, StoreError> {
        let now = self.query_one("SELECT now()", &[]).await?;
        Ok(RetentionState {
            now: timestamp(now.get(0)).unwrap_or_default(),
            held_back: self.doubts_of_clock().await?,
            tables: self.retained(None).await?,
            dropped: self.dropped_partitions(TOLD).await?,
            detached: self.detached_tables().await?,
            collection: self.collection_state().await?,
        })
    }

    /// The tables with their partitions.
    pub(super) async fn retained(&self, table: Option<&str>) -> Result<Vec<TableRetention>, StoreError> {
        Ok(tables(&self.query(PARTITIONS, &[(&table, Type::TEXT)]).await?))
    }

    async fn dropped_partitions(&self, limit: i64) -> Result<Vec<DroppedPartition>, StoreError> {
        let rows = self
            .query(
                "SELECT parent, partition, lower_bound, upper_bound, row_count, bytes, nullif(last_write, '-infinity'),
                        ceil(extract(epoch FROM retention) / 86400)::bigint, state,
                        coalesce(dropped_at, detached_at, begun_at), reason
                 FROM otel.otel_dropped_partitions ORDER BY id DESC LIMIT $1",
                &[(&limit, Type::INT8)],
            )
            .await?;
        Ok(rows
            .iter()
            .map(|row| DroppedPartition {
                table: row.get(0),
                partition: row.get(1),
                from: timestamp(row.get(2)),
                until: timestamp(row.get(3)),
                rows: row.get(4),
                bytes: row.get(5),
                last_write: timestamp(row.get(6)),
                retention_days: row.get(7),
                state: row.get(8),
                at: timestamp(row.get(9)),
                reason: row.get(10),
            })
            .collect())
    }

    async fn collection_state(&self) -> Result<CollectionState, StoreError> {
        let state = "SELECT nullif(swept_at, '-infinity'),
                            EXISTS (SELECT FROM otel.otel_ingest_ledger
                                    WHERE refreshed IS NULL AND received_at > now() - interval '2 days'),
                            looked_at, held_back, waits_for
                     FROM otel.otel_collection";
        let state = self.query_one(state, &[]).await?;
        let rows = self
            .query(
                "SELECT c.parent,
                        CASE c.parent
                          WHEN 'otel_resources' THEN (SELECT count(*) FROM otel.otel_resources WHERE retirement IS NOT NULL)
                          WHEN 'otel_scopes' THEN (SELECT count(*) FROM otel.otel_scopes WHERE retirement IS NOT NULL)
                          WHEN 'otel_metric_series'
                          THEN (SELECT count(*) FROM otel.otel_metric_series WHERE retirement IS NOT NULL)
                          ELSE 0 END,
                        c.row_count, c.collected_at
                 FROM otel.otel_collected c ORDER BY c.parent",
                &[],
            )
            .await?;
        let table = |row: &Row| CollectedRows {
            table: row.get(0),
            retired: row.get(1),
            collected: row.get(2),
            collected_at: timestamp(row.get(3)),
        };
        Ok(CollectionState {
            swept_at: timestamp(state.get(0)),
            older_program: state.get(1),
            looked_at: timestamp(state.get(2)),
            held_back: state.get(3),
            waits_for: state.get(4),
            tables: rows.iter().map(table).collect(),
        })
    }

    async fn detached_tables(&self) -> Result<Vec<DetachedTable>, StoreError> {
        let rows = self
            .query(
                "SELECT c.relname::text, pg_total_relation_size(c.oid) FROM pg_class c
                 WHERE c.relnamespace = 'otel'::regnamespace AND c.relkind = 'r' AND NOT c.relispartition
                   AND EXISTS (SELECT FROM otel.otel_partitioned_tables t
                               WHERE c.relname ~ ('^' || t.parent || '_([0-9]{8}|before_2000|from_2100)'))
                   AND NOT EXISTS (SELECT FROM otel.otel_dropped_partitions d
                                   WHERE d.relation = c.oid AND d.state = 'detached')
                 ORDER BY c.relname",
                &[],
            )
            .await?;
        Ok(rows.iter().map(|row| DetachedTable { table: row.get(0), bytes: row.get(1) }).collect())
    }
}

/// The rows of [`PARTITIONS`], table by table.
pub(super) fn tables(rows: &[Row]) -> Vec<TableRetention> {
    let mut tables: Vec<TableRetention> = Vec::new();
    for row in rows {
        let name: &str = row.get(0);
        if tables.last().is_none_or(|table| table.table != name) {
            tables.push(TableRetention {
                table: name.to_owned(),
                derived_from: row.get(14),
                retention_days: row
                    .get::<_, bool>(11)
                    .then(|| u32::try_from(row.get::<_, i64>(12)).unwrap_or(u32::MAX)),
                step: row.get(13),
                partitions: Vec::new(),
            });
        }
        let Some(table) = tables.last_mut() else { continue };
        table.partitions.push(partition(row));
    }
    tables
}

fn partition(row: &Row) -> RetainedPartition {
    let left_alone: Option<String> = row.get(10);
    RetainedPartition {
        partition: row.get(1),
        relation: row.get(2),
        from: timestamp(row.get(3)),
        until: timestamp(row.get(4)),
        rows: row.get(5),
        bytes: row.get(6),
        last_write: timestamp(row.get(7)),
        old_at: if row.get(11) { timestamp(row.get(8)) } else { None },
        is_due: row.get::<_, Option<bool>>(9) == Some(true) && left_alone.is_none(),
        left_alone,
        is_news: row.get(15),
    }
}

pub(super) const ALL_PARTITIONS: &str = PARTITIONS;
