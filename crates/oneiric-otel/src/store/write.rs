//! One transaction for the records of many requests.
//!
//! # Promise
//! [`Store::write`] commits all of its batches or nothing: their records, their dead letters, the ledger rows that make
//! a second delivery add nothing, and the touches from which traces are derived.
//!
//! # Two passes
//! The first pass copies rows straight into the tables, which is fastest and nearly always enough. A duplicate key or a
//! refused value aborts that transaction; the second pass then goes through a staging table that lets duplicates pass,
//! and halves the rows until the refused ones are alone. Those become dead letters.
//!
//! # Order
//! Rows are inserted in the order of their keys, time first and so partition by partition, and requests are entered by
//! their hash: two transactions that meet in the same rows wait for each other in the same order, not in a circle.

use std::collections::{HashMap, HashSet};
use std::pin::pin;
use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use futures::SinkExt as _;
use tokio_postgres::Transaction;
use tokio_postgres::types::Type;
use uuid::Uuid;

use super::copy::{HEADER, Micros, RowKey, Rows, TRAILER};
use super::database::Database;
use super::dimensions::Dimensions;
use super::error::{ErrorClass, StoreError};
use super::partitions::Partitions;
use super::rows;
use crate::otlp::Signal;
use crate::otlp::canonical::Hash128;

/// COPY data is handed to the connection in pieces of about this size.
const COPY_CHUNK_BYTES: usize = 256 * 1024;

/// The write side of a database, with what it remembers. Shared by all writers of a process.
#[derive(Debug)]
pub(crate) struct Store {
    pub(crate) database: Database,
    pub(crate) dimensions: Dimensions,
    partitions: Partitions,
}

/// The records of one request as rows.
#[derive(Debug)]
pub(crate) struct Batch {
    pub(crate) request_hash: Hash128,
    pub(crate) signal: Signal,
    /// Distinct rows. A record that stands twice in the request is one row, except for logs.
    pub(crate) rows: Rows,
    /// For each row, the number of its record in the request.
    pub(crate) records: Vec<u32>,
    /// Times of the rows, at most one per hour: for which partitions must exist.
    pub(crate) times: Vec<Micros>,
    pub(crate) touches: HashMap<[u8; 16], Touch>,
    pub(crate) references: References,
}

/// The rows of other tables that a batch refers to: ids with the hash of the content that they stand for.
#[derive(Debug, Default)]
pub(crate) struct References {
    pub(crate) resources: HashMap<i64, Hash128>,
    pub(crate) scopes: HashMap<i64, Hash128>,
    pub(crate) series: HashMap<i64, Hash128>,
}

/// What a batch has of a trace.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Touch {
    pub(crate) first: Micros,
    pub(crate) last: Micros,
    pub(crate) records: u32,
    pub(crate) has_root: bool,
}

/// What became of a batch.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Written {
    /// The request was stored before; nothing was added.
    pub(crate) duplicate: bool,
    /// Records that the database refused, by number. They are dead letters now.
    pub(crate) refused: Vec<u32>,
}

/// A record that the database refused.
struct Poison {
    batch: usize,
    record: u32,
    reason: StoreError,
}

/// Renders a record of a batch as an OTLP request that can be sent again.
pub(crate) type DeadLetter<'a> = &'a (dyn Fn(usize, u32) -> Vec<u8> + Sync);

/// A table that records go to.
struct Table {
    name: &'static str,
    columns: &'static [&'static str],
    /// Whether rows have a key by which a repeated one is recognised.
    keyed: bool,
}

fn table(signal: Signal) -> Table {
    match signal {
        Signal::Traces => Table { name: "otel_spans", columns: rows::span::COLUMNS, keyed: true },
        Signal::Metrics => Table { name: "otel_metrics", columns: rows::metric::COLUMNS, keyed: true },
        Signal::Logs => Table { name: "otel_logs", columns: rows::log::COLUMNS, keyed: false },
    }
}

impl Store {
    pub(crate) fn new(database: Database) -> Self {
        Self { database, dimensions: Dimensions::default(), partitions: Partitions::default() }
    }

    /// Writes the batches in one transaction. `dead_letter` is asked only for records that the database refuses.
    ///
    /// # Errors
    /// When nothing was committed. The class says whether to try again.
    pub(crate) async fn write(
        &self,
        batches: &[Batch],
        dead_letter: DeadLetter<'_>,
    ) -> Result<Vec<Written>, StoreError> {
        self.ensure_partitions(batches).await?;
        match self.attempt(batches, Pass::Direct, dead_letter).await {
            Err(error) if error.is_missing_partition() => {
                // Dropped since we looked, by retention or by hand.
                self.partitions.forget();
                self.ensure_partitions(batches).await?;
                self.attempt(batches, Pass::Careful, dead_letter).await
            }
            Err(error) if error.class() == ErrorClass::BadData => {
                tracing::debug!(%error, "writing again, row by row where needed");
                self.attempt(batches, Pass::Careful, dead_letter).await
            }
            done => done,
        }
    }

    async fn ensure_partitions(&self, batches: &[Batch]) -> Result<(), StoreError> {
        for batch in batches {
            self.partitions.ensure(&self.database, table(batch.signal).name, &batch.times).await?;
        }
        Ok(())
    }

    async fn attempt(
        &self,
        batches: &[Batch],
        pass: Pass,
        dead_letter: DeadLetter<'_>,
    ) -> Result<Vec<Written>, StoreError> {
        let mut client = self.database.client().await?;
        let transaction = client.transaction().await?;
        // Whatever the role's default: an acknowledgement promises a durable commit.
        transaction.batch_execute("SET LOCAL synchronous_commit = on").await?;

        check_references(&transaction, batches).await?;
        let fresh = enter_ledger(&transaction, batches).await?;
        let mut written: Vec<Written> =
            fresh.iter().map(|fresh| Written { duplicate: !fresh, refused: Vec::new() }).collect();
        let mut poison = Vec::new();
        for signal in [Signal::Traces, Signal::Logs, Signal::Metrics] {
            let table = table(signal);
            let rows = ordered_rows(&table, signal, batches, &fresh);
            if rows.is_empty() {
                continue;
            }
            match pass {
                Pass::Direct => copy(&transaction, &table.copy_into(&table.qualified()), batches, &rows).await?,
                Pass::Careful => {
                    if table.keyed {
                        transaction.batch_execute(&table.create_staging()).await?;
                    }
                    insert(&transaction, &table, batches, &rows, &mut poison).await?;
                }
            }
        }
        for refused in &poison {
            bury(&transaction, batches, refused, dead_letter).await?;
            written[refused.batch].refused.push(refused.record);
        }
        let touching = batches.iter().zip(&fresh).filter(|(_, fresh)| **fresh).map(|(batch, _)| batch);
        touch(&transaction, touching).await?;
        transaction.commit().await?;
        Ok(written)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pass {
    Direct,
    Careful,
}

impl Table {
    fn copy_into(&self, target: &str) -> String {
        format!("COPY {target} ({}) FROM STDIN (FORMAT binary)", self.columns.join(", "))
    }

    fn qualified(&self) -> String {
        format!("otel.{}", self.name)
    }

    fn staging(&self) -> String {
        format!("pg_temp.staging_{}", self.name)
    }

    fn create_staging(&self) -> String {
        format!("CREATE TEMP TABLE staging_{0} (LIKE otel.{0}) ON COMMIT DROP", self.name)
    }

    fn insert_staged(&self) -> String {
        let (staging, columns) = (self.staging(), self.columns.join(", "));
        format!(
            "INSERT INTO otel.{} ({columns}) SELECT {columns} FROM {staging} ON CONFLICT DO NOTHING; TRUNCATE {staging}",
            self.name
        )
    }
}

impl Database {
    /// Forgets requests that came longer ago than `age`: sent again after that, their log records are stored again.
    /// Returns how many were forgotten.
    pub async fn forget_requests(&self, age: Duration) -> Result<u64, StoreError> {
        let sql = "WITH gone AS (DELETE FROM otel.otel_ingest_ledger
                                 WHERE received_at < now() - $1 * interval '1 second' RETURNING 1)
                   SELECT count(*) FROM gone";
        let row = self.query_one(sql, &[(&age.as_secs_f64(), Type::FLOAT8)]).await?;
        Ok(row.get::<_, i64>(0).unsigned_abs())
    }
}

/// Makes sure that the ids in the rows still stand for what they stood for when the rows were made: a failover may have
/// lost the latest resources, and their ids may have been given to others.
async fn check_references(transaction: &Transaction<'_>, batches: &[Batch]) -> Result<(), StoreError> {
    let gather = |of: fn(&References) -> &HashMap<i64, Hash128>| -> (Vec<i64>, Vec<Uuid>) {
        let pairs: HashMap<i64, Hash128> =
            batches.iter().flat_map(|batch| of(&batch.references)).map(|(id, hash)| (*id, *hash)).collect();
        pairs.into_iter().map(|(id, hash)| (id, Uuid::from_bytes(hash.0))).unzip()
    };
    let (resources, resource_hashes) = gather(|references| &references.resources);
    let (scopes, scope_hashes) = gather(|references| &references.scopes);
    let (series, series_hashes) = gather(|references| &references.series);
    let row = transaction
        .query_one(
            "SELECT (SELECT count(*) FROM unnest($1::bigint[], $2::uuid[]) w (id, hash)
                     JOIN otel.otel_resources r ON r.resource_id = w.id AND r.content_hash = w.hash)
                  + (SELECT count(*) FROM unnest($3::bigint[], $4::uuid[]) w (id, hash)
                     JOIN otel.otel_scopes s ON s.scope_id = w.id AND s.content_hash = w.hash)
                  + (SELECT count(*) FROM unnest($5::bigint[], $6::uuid[]) w (id, hash)
                     JOIN otel.otel_metric_series m ON m.series_id = w.id AND m.content_hash = w.hash)",
            &[&resources, &resource_hashes, &scopes, &scope_hashes, &series, &series_hashes],
        )
        .await?;
    let found: i64 = row.get(0);
    if found as usize == resources.len() + scopes.len() + series.len() {
        return Ok(());
    }
    Err(StoreError::stale("the database has lost resources, scopes or series that were stored before"))
}

/// Enters the requests into the ledger. Returns for each whether it is new.
async fn enter_ledger(transaction: &Transaction<'_>, batches: &[Batch]) -> Result<Vec<bool>, StoreError> {
    // In ascending order, so that two transactions with the same requests cannot wait for each other.
    let mut order: Vec<usize> = (0..batches.len()).collect();
    order.sort_unstable_by_key(|i| batches[*i].request_hash);
    order.dedup_by_key(|i| batches[*i].request_hash);

    let hashes: Vec<Uuid> = order.iter().map(|i| Uuid::from_bytes(batches[*i].request_hash.0)).collect();
    let records: Vec<i32> = order.iter().map(|i| batches[*i].records.len() as i32).collect();
    let signals: Vec<&str> = order.iter().map(|i| batches[*i].signal.as_str()).collect();
    let rows = transaction
        .query(
            "INSERT INTO otel.otel_ingest_ledger (request_hash, records, signal)
             SELECT * FROM unnest($1::uuid[], $2::integer[], $3::text[])
             ON CONFLICT DO NOTHING RETURNING request_hash",
            &[&hashes, &records, &signals],
        )
        .await?;
    let mut entered: HashSet<Uuid> = rows.iter().map(|row| row.get(0)).collect();
    // Of equal requests in one call the first is new and the others are not.
    Ok(batches.iter().map(|batch| entered.remove(&Uuid::from_bytes(batch.request_hash.0))).collect())
}

/// A row of a batch.
#[derive(Debug, Clone, Copy)]
struct RowRef {
    key: RowKey,
    batch: usize,
    row: usize,
}

/// The rows for a table in the order of their keys. Of rows with one key the first is enough.
fn ordered_rows(table: &Table, signal: Signal, batches: &[Batch], fresh: &[bool]) -> Vec<RowRef> {
    let mut rows = Vec::new();
    for (i, batch) in batches.iter().enumerate().filter(|(i, batch)| fresh[*i] && batch.signal == signal) {
        rows.extend((0..batch.rows.len()).map(|row| RowRef { key: batch.rows.key(row), batch: i, row }));
    }
    if table.keyed {
        rows.sort_by_key(|row| row.key);
        rows.dedup_by_key(|row| row.key);
    }
    rows
}

/// Copies encoded rows.
async fn copy(
    transaction: &Transaction<'_>,
    statement: &str,
    batches: &[Batch],
    rows: &[RowRef],
) -> Result<(), StoreError> {
    let pieces = rows.iter().map(|at| batches[at.batch].rows.bytes(at.row..at.row + 1));
    copy_bytes(transaction, statement, pieces).await
}

async fn copy_bytes<'a>(
    transaction: &Transaction<'_>,
    statement: &str,
    pieces: impl Iterator<Item = &'a [u8]>,
) -> Result<(), StoreError> {
    let mut sink = pin!(transaction.copy_in::<_, Bytes>(statement).await?);
    let mut chunk = BytesMut::with_capacity(COPY_CHUNK_BYTES);
    chunk.put_slice(HEADER);
    for piece in pieces {
        chunk.put_slice(piece);
        if chunk.len() >= COPY_CHUNK_BYTES {
            sink.feed(chunk.split().freeze()).await?;
        }
    }
    chunk.put_slice(TRAILER);
    sink.feed(chunk.freeze()).await?;
    sink.as_mut().finish().await?;
    Ok(())
}

/// Inserts rows, letting those pass that are there already, and setting aside those that are refused.
async fn insert(
    transaction: &Transaction<'_>,
    table: &Table,
    batches: &[Batch],
    rows: &[RowRef],
    poison: &mut Vec<Poison>,
) -> Result<(), StoreError> {
    let mut left = vec![rows];
    while let Some(rows) = left.pop() {
        transaction.batch_execute("SAVEPOINT part").await?;
        let target = if table.keyed { table.staging() } else { table.qualified() };
        let mut done = copy(transaction, &table.copy_into(&target), batches, rows).await;
        if done.is_ok() && table.keyed {
            done = transaction.batch_execute(&table.insert_staged()).await.map_err(StoreError::from);
        }
        match done {
            Ok(()) => transaction.batch_execute("RELEASE SAVEPOINT part").await?,
            Err(error) if error.class() == ErrorClass::BadData && !error.is_missing_partition() => {
                transaction.batch_execute("ROLLBACK TO SAVEPOINT part; RELEASE SAVEPOINT part").await?;
                if let [one] = rows {
                    let record = batches[one.batch].records[one.row];
                    poison.push(Poison { batch: one.batch, record, reason: error });
                    continue;
                }
                let (first, second) = rows.split_at(rows.len() / 2);
                left.push(second);
                left.push(first);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Writes a dead letter.
async fn bury(
    transaction: &Transaction<'_>,
    batches: &[Batch],
    poison: &Poison,
    dead_letter: DeadLetter<'_>,
) -> Result<(), StoreError> {
    let telemetry_type = match batches[poison.batch].signal {
        Signal::Traces => "trace",
        Signal::Metrics => "metric",
        Signal::Logs => "log",
    };
    transaction
        .execute(
            "INSERT INTO otel.otel_telemetry_dlq (telemetry_type, error_class, error_message, raw_data) VALUES ($1, $2, $3, $4)",
            &[
                &telemetry_type,
                &poison.reason.class().as_str(),
                &poison.reason.to_string(),
                &dead_letter(poison.batch, poison.record),
            ],
        )
        .await?;
    Ok(())
}

/// Records which traces the batches have something of.
async fn touch<'a>(transaction: &Transaction<'_>, batches: impl Iterator<Item = &'a Batch>) -> Result<(), StoreError> {
    let mut touched: HashMap<[u8; 16], Touch> = HashMap::new();
    for batch in batches {
        for (trace_id, touch) in &batch.touches {
            touched.entry(*trace_id).and_modify(|known| known.merge(*touch)).or_insert(*touch);
        }
    }
    if touched.is_empty() {
        return Ok(());
    }
    let mut rows = Rows::default();
    for (trace_id, touch) in &touched {
        let mut row = rows.begin([0; 4], 6);
        row.timestamp(touch.first);
        row.timestamp(touch.last);
        row.uuid(*trace_id);
        row.int4(i32::try_from(touch.records).unwrap_or(i32::MAX));
        row.int2(slot(*trace_id));
        row.boolean(touch.has_root);
        row.end();
    }
    let statement = "COPY otel.otel_trace_touches (first_time, last_time, trace_id, records, slot, has_root) FROM STDIN (FORMAT binary)";
    copy_bytes(transaction, statement, std::iter::once(rows.bytes(0..rows.len()))).await
}

/// The slot in which a trace is derived: the rows of `otel_trace_slots`.
pub(crate) fn slot(trace_id: [u8; 16]) -> i16 {
    i16::from(trace_id[15] % 16)
}

impl Touch {
    /// Takes in what another batch has of the same trace.
    pub(crate) fn merge(&mut self, other: Self) {
        self.first = self.first.min(other.first);
        self.last = self.last.max(other.last);
        self.records = self.records.saturating_add(other.records);
        self.has_root |= other.has_root;
    }
}
