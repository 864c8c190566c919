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
use std::mem;
use std::pin::pin;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use futures::SinkExt as _;
use tokio_postgres::Transaction;
use tokio_postgres::types::Type;
use uuid::Uuid;

use super::batch::{Batch, Ids, LogTemplate, Touch};
use super::copy::{HEADER, Micros, OwnerIds, RowKey, Rows, TRAILER};
use super::database::Database;
use super::dead_letters::{DeadLetter, bury};
use super::dimensions::Dimensions;
use super::error::{ErrorClass, StoreError};
use super::partitions::Partitions;
use super::rows;
use super::series_cap::SERIES_LIMIT;
use super::spools::{COUNTS, in_no_spool_before};
use super::templates::{KnownTemplates, TemplateCounts, store_templates};
use crate::otlp::Signal;
use crate::otlp::canonical::Hash128;

/// COPY data is handed to the connection in pieces of this size: not more than a processor's cache holds until it is sent.
const COPY_CHUNK_BYTES: usize = 64 * 1024;

/// Whatever the role's defaults: an acknowledgement promises a durable commit, who waits for a lock is not to hold up those
/// who could write meanwhile, and what is remembered is compared with what is there then, not when the transaction began.
pub(super) const SETTINGS: &str =
    "SET TRANSACTION ISOLATION LEVEL READ COMMITTED; SET LOCAL synchronous_commit = on; SET LOCAL lock_timeout = '10s'";

/// The write side of a database, with what it remembers. Shared by all writers of a process.
#[derive(Debug)]
pub(crate) struct Store {
    pub(crate) database: Database,
    pub(crate) dimensions: Dimensions,
    partitions: Partitions,
    templates: KnownTemplates,
}

/// What became of a batch.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Written {
    /// The request was stored before; nothing was added.
    pub(crate) duplicate: bool,
    /// Records that the database refused, by number. They are dead letters now.
    pub(crate) refused: Vec<u32>,
    /// Data points of series for which there was no room. They are one dead letter now.
    pub(crate) limited: u64,
}

impl Written {
    /// Records that are dead letters now.
    pub(crate) fn dead_letters(&self) -> u64 {
        self.refused.len() as u64 + self.limited
    }
}

/// A record that the database refused.
pub(super) struct Poison {
    batch: usize,
    record: u32,
    pub(super) reason: StoreError,
}

/// Renders records of a batch, by number, as OTLP requests that can be sent again. Fails when that cannot be done now; what
/// can never be done is empty.
pub(crate) trait Render: Sync {
    /// Each as a request of its own.
    fn singles(&self, batch: usize, records: &[u32]) -> Result<Vec<Vec<u8>>, StoreError>;

    /// Data points, whose numbers ascend, in one request.
    fn points(&self, batch: usize, points: &[u32]) -> Result<Vec<u8>, StoreError>;
}

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
    /// The write side of a database that may have so many metric series.
    pub(crate) fn new(database: Database, max_metric_series: u64) -> Self {
        let (partitions, templates) = Default::default();
        Self { database, dimensions: Dimensions::new(max_metric_series), partitions, templates }
    }

    /// Writes the batches in one transaction. `dead_letter` is asked only for records that the database refuses.
    ///
    /// # Errors
    /// When nothing was committed. The class says whether to try again; [`ErrorClass::BadData`] here is about what the
    /// records belong to, since a record that is refused becomes a dead letter.
    pub(crate) async fn write(&self, batches: &[&Batch], dead_letter: &dyn Render) -> Result<Vec<Written>, StoreError> {
        let outcome = match self.write_known(batches, dead_letter).await {
            Err(error) if error.is_stale() => {
                tracing::warn!(%error, "looking everything up again");
                self.dimensions.forget();
                self.write_known(batches, dead_letter).await
            }
            outcome => outcome,
        };
        if outcome.is_err() {
            // A database that comes back may be another one: what we remember of it is no longer certain.
            self.dimensions.forget();
            self.templates.forget();
        }
        outcome
    }

    /// [`Self::write`], relying on the ids that are remembered.
    async fn write_known(&self, batches: &[&Batch], dead_letter: &dyn Render) -> Result<Vec<Written>, StoreError> {
        let resolved = self.resolve(batches).await?;
        match self.attempt(&resolved, Pass::Direct, dead_letter).await {
            Err(error) if error.is_missing_partition() => {
                // Dropped since we looked, by retention or by hand.
                self.partitions.forget();
                self.ensure_partitions(batches).await?;
                self.attempt(&resolved, Pass::Careful, dead_letter).await
            }
            Err(error) if error.class() == ErrorClass::BadData => {
                tracing::debug!(%error, "writing again, row by row where needed");
                self.attempt(&resolved, Pass::Careful, dead_letter).await
            }
            done => done,
        }
    }

    /// The unprocessed dead letters that are due, those that have waited longest first, at most `limit`. Those that wait for
    /// room for metric series are not due while there is none.
    pub(crate) async fn due_dead_letters(&self, limit: i64) -> Result<Vec<Uuid>, StoreError> {
        let has_room = !self.dimensions.is_series_limit_reached(&self.database).await?;
        self.database.due_dead_letters(has_room, limit).await
    }

    /// What became of templates that were new.
    pub(crate) fn template_counts(&self) -> TemplateCounts {
        self.templates.counts()
    }

    /// Looks up what the batches refer to, and makes what their rows need.
    pub(super) async fn resolve<'a>(&self, batches: &'a [&'a Batch]) -> Result<Resolved<'a>, StoreError> {
        let ids = self.dimensions.resolve(&self.database, batches).await?;
        self.ensure_partitions(batches).await?;
        let owners: Vec<_> = batches.iter().map(|batch| ids.owners(batch)).collect();
        let limited = match ids.no_room {
            Some(_) => batches.iter().zip(&owners).map(|(batch, owners)| without_owner(batch, owners)).collect(),
            None => vec![Vec::new(); batches.len()],
        };
        Ok(Resolved { batches, owners, limited, ids, templates: self.templates.unknown(batches) })
    }

    /// Forgets what is remembered of the database.
    pub(super) fn forget(&self) {
        self.dimensions.forget();
        self.partitions.forget();
        self.templates.forget();
    }

    async fn ensure_partitions(&self, batches: &[&Batch]) -> Result<(), StoreError> {
        for batch in batches {
            self.partitions.ensure(&self.database, table(batch.signal).name, &batch.times).await?;
        }
        Ok(())
    }

    async fn attempt(
        &self,
        resolved: &Resolved<'_>,
        pass: Pass,
        dead_letter: &dyn Render,
    ) -> Result<Vec<Written>, StoreError> {
        let mut connection = self.database.lease().await?;
        let commits = connection.commits();
        let transaction = connection.transaction().await?;
        let written = match resolved.write(&transaction, pass, dead_letter).await {
            Err(error) if error.is_answer() => {
                // As with spans that were sent before: what comes next needs a connection too.
                transaction.rollback().await?;
                connection.keep();
                return Err(error);
            }
            written => written?,
        };
        commits.store(true, Ordering::Relaxed);
        transaction.commit().await?;
        connection.keep();
        self.templates.remember(resolved.templates.iter().map(|(id, _)| *id));
        Ok(written)
    }
}

/// Batches and the ids of what they refer to.
pub(super) struct Resolved<'a> {
    batches: &'a [&'a Batch],
    ids: Ids,
    /// Of each batch the ids of its owners. A series for which there was no room has none.
    owners: Vec<Vec<Option<OwnerIds>>>,
    /// Of each batch the points of such series, by number.
    limited: Vec<Vec<u32>>,
    /// Those that may be new, in ascending order of their ids.
    templates: Vec<(i64, &'a LogTemplate)>,
}

impl Resolved<'_> {
    /// Everything that a transaction has to do but the commit.
    async fn write(
        &self,
        transaction: &Transaction<'_>,
        pass: Pass,
        dead_letter: &dyn Render,
    ) -> Result<Vec<Written>, StoreError> {
        transaction.batch_execute(SETTINGS).await?;
        self.ids.check(transaction).await?;
        let fresh = enter_ledger(transaction, self.batches).await?;
        let mut written: Vec<Written> =
            fresh.iter().map(|fresh| Written { duplicate: !fresh, ..Written::default() }).collect();
        let mut poison = self.insert(transaction, &fresh, pass).await?;
        self.bury(transaction, &mut poison, 0, dead_letter).await?;
        for refused in &poison {
            written[refused.batch].refused.push(refused.record);
        }
        // Pipelined: with one point of a new series a request there is a letter for each.
        let limited = (0..fresh.len()).filter(|batch| fresh[*batch]).map(|batch| async move {
            Ok::<_, StoreError>((batch, self.bury_limited(transaction, batch, 0, dead_letter).await?))
        });
        for (batch, points) in futures::future::try_join_all(limited).await? {
            written[batch].limited = points;
        }
        self.touch(transaction, &fresh).await?;
        Ok(written)
    }

    /// Makes dead letters of the records that were refused, which were replayed so many times.
    pub(super) async fn bury(
        &self,
        transaction: &Transaction<'_>,
        poison: &mut [Poison],
        retries: i32,
        render: &dyn Render,
    ) -> Result<(), StoreError> {
        poison.sort_unstable_by_key(|refused| (refused.batch, refused.record));
        for of_batch in poison.chunk_by(|one, next| one.batch == next.batch) {
            let batch = of_batch[0].batch;
            let records: Vec<u32> = of_batch.iter().map(|refused| refused.record).collect();
            for (refused, raw_data) in of_batch.iter().zip(render.singles(batch, &records)?) {
                let dead = DeadLetter {
                    signal: self.batches[batch].signal,
                    records: 1,
                    class: refused.reason.class().as_str(),
                    message: &refused.reason.to_string(),
                    retries,
                    raw_data: &raw_data,
                };
                bury(transaction, &dead).await?;
            }
        }
        Ok(())
    }

    /// Makes one dead letter of the points of a batch whose series have no room, which were replayed so many times. Returns
    /// how many they are.
    pub(super) async fn bury_limited(
        &self,
        transaction: &Transaction<'_>,
        batch: usize,
        retries: i32,
        render: &dyn Render,
    ) -> Result<u64, StoreError> {
        let (points, Some(message)) = (&self.limited[batch], &self.ids.no_room) else { return Ok(0) };
        let records = points.len() as u64;
        if records > 0 {
            let signal = self.batches[batch].signal;
            let raw_data = render.points(batch, points)?;
            let dead = DeadLetter { signal, records, class: SERIES_LIMIT, message, retries, raw_data: &raw_data };
            bury(transaction, &dead).await?;
        }
        Ok(records)
    }

    /// Why nothing of a batch can be stored, if so, when the database has refused these of its rows.
    pub(super) fn refusal(&self, batch: usize, poison: &[Poison]) -> Option<String> {
        if poison.len() + self.limited[batch].len() < self.batches[batch].rows.len() {
            return None;
        }
        poison.first().map(|first| first.reason.to_string()).or_else(|| self.ids.no_room.clone())
    }

    /// Inserts all rows, those that are there already aside. Returns those that are refused.
    pub(super) async fn insert_carefully(&self, transaction: &Transaction<'_>) -> Result<Vec<Poison>, StoreError> {
        self.ids.check(transaction).await?;
        self.insert(transaction, &vec![true; self.batches.len()], Pass::Careful).await
    }

    /// Inserts the rows of the batches that are `fresh`. Returns those that are refused, which only the careful pass sets
    /// aside.
    async fn insert(
        &self,
        transaction: &Transaction<'_>,
        fresh: &[bool],
        pass: Pass,
    ) -> Result<Vec<Poison>, StoreError> {
        let mut poison = Vec::new();
        for signal in [Signal::Traces, Signal::Logs, Signal::Metrics] {
            let table = table(signal);
            let rows = self.ordered_rows(&table, signal, fresh);
            if rows.is_empty() {
                continue;
            }
            match pass {
                Pass::Direct => copy(transaction, &table.copy_into(&table.qualified()), self, &rows).await?,
                Pass::Careful => {
                    if table.keyed {
                        transaction.batch_execute(&table.create_staging()).await?;
                    }
                    insert(transaction, &table, self, &rows, &mut poison).await?;
                }
            }
        }
        Ok(poison)
    }

    /// The rows for a table in the order of their keys, without those that have no owner. Of rows with one key the first is
    /// enough.
    fn ordered_rows(&self, table: &Table, signal: Signal, fresh: &[bool]) -> Vec<RowRef> {
        let mut rows = Vec::new();
        for (i, batch) in self.batches.iter().enumerate().filter(|(i, batch)| fresh[*i] && batch.signal == signal) {
            let of_batch = (0..batch.rows.len()).map(|row| RowRef { key: batch.rows.key(row), batch: i, row });
            if self.limited[i].is_empty() {
                rows.extend(of_batch);
            } else {
                rows.extend(of_batch.filter(|at| self.owners[i][batch.rows.owner(at.row) as usize].is_some()));
            }
        }
        if table.keyed {
            rows.sort_by_key(|row| row.key);
            rows.dedup_by_key(|row| row.key);
        }
        rows
    }

    /// Records which traces the batches that are `fresh` have something of, and the templates that they are the first to
    /// have.
    pub(super) async fn touch(&self, transaction: &Transaction<'_>, fresh: &[bool]) -> Result<(), StoreError> {
        if fresh.contains(&true) {
            store_templates(transaction, &self.templates).await?;
        }
        let has_new_points = |batch: usize| {
            let of_batch = self.batches[batch];
            fresh[batch] && of_batch.signal == Signal::Metrics && self.limited[batch].len() < of_batch.rows.len()
        };
        let hours = (0..self.batches.len()).filter(|batch| has_new_points(*batch));
        touch_hours(transaction, hours.flat_map(|batch| &self.batches[batch].times)).await?;
        let touching = self.batches.iter().zip(fresh).filter(|(_, fresh)| **fresh).map(|(batch, _)| batch);
        touch(transaction, touching).await
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
    /// Forgets requests that were stored longer ago than `age`, and before all that may wait in a spool: sent again after that,
    /// their log records are stored again. Returns how many were forgotten.
    pub async fn forget_requests(&self, age: Duration) -> Result<u64, StoreError> {
        let sql = format!(
            "WITH silent AS (DELETE FROM otel.otel_spools s WHERE NOT ({COUNTS})),
                  gone AS (DELETE FROM otel.otel_ingest_ledger
                           WHERE received_at < least(now() - $1 * interval '1 second', {}) RETURNING 1)
             SELECT count(*) FROM gone",
            in_no_spool_before()
        );
        let row = self.query_one(&sql, &[(&age.as_secs_f64(), Type::FLOAT8)]).await?;
        Ok(row.get::<_, i64>(0).unsigned_abs())
    }
}

impl Ids {
    async fn check(&self, transaction: &Transaction<'_>) -> Result<(), StoreError> {
        check_references(transaction, &self.resources, &self.scopes, &self.series).await
    }
}

/// Makes sure that the ids still stand for what they stood for when they were remembered: a failover may have lost the
/// latest resources, and their ids may have been given to others, or the rows were retired because nobody had seen them for
/// long. Whoever retires rows waits for the end of this transaction.
pub(super) async fn check_references(
    transaction: &Transaction<'_>,
    resources: &HashMap<Hash128, i64>,
    scopes: &HashMap<Hash128, i32>,
    series: &HashMap<Hash128, i64>,
) -> Result<(), StoreError> {
    fn pairs<I: Copy + Into<i64>>(ids: &HashMap<Hash128, I>) -> (Vec<i64>, Vec<Uuid>) {
        ids.iter().map(|(hash, id)| ((*id).into(), Uuid::from_bytes(hash.0))).unzip()
    }
    let (resources, resource_hashes) = pairs(resources);
    let (scopes, scope_hashes) = pairs(scopes);
    let (series, series_hashes) = pairs(series);
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
async fn enter_ledger(transaction: &Transaction<'_>, batches: &[&Batch]) -> Result<Vec<bool>, StoreError> {
    // In ascending order, so that two transactions with the same requests cannot wait for each other.
    let mut order: Vec<usize> = (0..batches.len()).collect();
    order.sort_unstable_by_key(|i| batches[*i].request_hash);
    order.dedup_by_key(|i| batches[*i].request_hash);

    let hashes: Vec<Uuid> = order.iter().map(|i| Uuid::from_bytes(batches[*i].request_hash.0)).collect();
    let records: Vec<i32> = order.iter().map(|i| batches[*i].records.len() as i32).collect();
    let signals: Vec<&str> = order.iter().map(|i| batches[*i].signal.as_str()).collect();
    let rows = transaction
        .query(
            "INSERT INTO otel.otel_ingest_ledger (request_hash, records, signal, touched, refreshed)
             SELECT *, true, true FROM unnest($1::uuid[], $2::integer[], $3::text[])
             ON CONFLICT DO NOTHING RETURNING request_hash",
            &[&hashes, &records, &signals],
        )
        .await?;
    let mut entered: HashSet<Uuid> = rows.iter().map(|row| row.get(0)).collect();
    // Of equal requests in one call the first is new and the others are not.
    Ok(batches.iter().map(|batch| entered.remove(&Uuid::from_bytes(batch.request_hash.0))).collect())
}

/// The records whose owners have no ids, by number.
fn without_owner(batch: &Batch, owners: &[Option<OwnerIds>]) -> Vec<u32> {
    let has_none = |row: &usize| owners[batch.rows.owner(*row) as usize].is_none();
    (0..batch.rows.len()).filter(has_none).map(|row| batch.records[row]).collect()
}

/// A row of a batch.
#[derive(Debug, Clone, Copy)]
struct RowRef {
    key: RowKey,
    batch: usize,
    row: usize,
}

/// Copies encoded rows, with the ids of their owners filled in.
async fn copy(
    transaction: &Transaction<'_>,
    statement: &str,
    resolved: &Resolved<'_>,
    rows: &[RowRef],
) -> Result<(), StoreError> {
    let pieces = rows.iter().map(|at| {
        let rows = &resolved.batches[at.batch].rows;
        (rows.bytes(at.row..at.row + 1), resolved.owners[at.batch][rows.owner(at.row) as usize])
    });
    copy_bytes(transaction, statement, pieces).await
}

/// Copies pieces that are each one row of an owner, or any number of rows without one.
async fn copy_bytes<'a>(
    transaction: &Transaction<'_>,
    statement: &str,
    pieces: impl Iterator<Item = (&'a [u8], Option<OwnerIds>)>,
) -> Result<(), StoreError> {
    let mut sink = pin!(transaction.copy_in::<_, Bytes>(statement).await?);
    let mut chunk = Vec::with_capacity(COPY_CHUNK_BYTES);
    chunk.extend_from_slice(HEADER);
    for (piece, owner) in pieces {
        if chunk.len() + piece.len() > COPY_CHUNK_BYTES {
            let full = mem::replace(&mut chunk, Vec::with_capacity(COPY_CHUNK_BYTES));
            sink.feed(full.into()).await?;
        }
        let at = chunk.len();
        chunk.extend_from_slice(piece);
        if let Some(owner) = owner {
            owner.fill_in(&mut chunk[at..]);
        }
    }
    chunk.extend_from_slice(TRAILER);
    sink.feed(chunk.into()).await?;
    sink.as_mut().finish().await?;
    Ok(())
}

/// Inserts rows, letting those pass that are there already, and setting aside those that are refused.
async fn insert(
    transaction: &Transaction<'_>,
    table: &Table,
    resolved: &Resolved<'_>,
    rows: &[RowRef],
    poison: &mut Vec<Poison>,
) -> Result<(), StoreError> {
    let mut left = vec![rows];
    while let Some(rows) = left.pop() {
        transaction.batch_execute("SAVEPOINT part").await?;
        let target = if table.keyed { table.staging() } else { table.qualified() };
        let mut done = copy(transaction, &table.copy_into(&target), resolved, rows).await;
        if done.is_ok() && table.keyed {
            done = transaction.batch_execute(&table.insert_staged()).await.map_err(StoreError::from);
        }
        match done {
            Ok(()) => transaction.batch_execute("RELEASE SAVEPOINT part").await?,
            Err(error) if error.class() == ErrorClass::BadData && !error.is_missing_partition() => {
                transaction.batch_execute("ROLLBACK TO SAVEPOINT part; RELEASE SAVEPOINT part").await?;
                if let [one] = rows {
                    let record = resolved.batches[one.batch].records[one.row];
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

/// Records which traces the batches have something of.
async fn touch<'a>(
    transaction: &Transaction<'_>,
    batches: impl Iterator<Item = &'a &'a Batch>,
) -> Result<(), StoreError> {
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
        let mut row = rows.begin([0; 4], 0, 6);
        row.timestamp(touch.first);
        row.timestamp(touch.last);
        row.uuid(*trace_id);
        row.int4(i32::try_from(touch.records).unwrap_or(i32::MAX));
        row.int2(slot(*trace_id));
        row.boolean(touch.has_root);
        row.end();
    }
    let statement = "COPY otel.otel_trace_touches (first_time, last_time, trace_id, records, slot, has_root) FROM STDIN (FORMAT binary)";
    copy_bytes(transaction, statement, std::iter::once((rows.bytes(0..rows.len()), None))).await
}

/// Records of which hours there are new points.
async fn touch_hours(transaction: &Transaction<'_>, hours: impl Iterator<Item = &Micros>) -> Result<(), StoreError> {
    let mut hours: Vec<Micros> = hours.copied().collect();
    if hours.is_empty() {
        return Ok(());
    }
    hours.sort_unstable();
    hours.dedup();
    transaction
        .execute_typed(
            "INSERT INTO otel.otel_metric_touches (hour) SELECT * FROM unnest($1::timestamptz[])",
            &[(&hours, Type::TIMESTAMPTZ_ARRAY)],
        )
        .await?;
    Ok(())
}

/// The slot in which a trace is derived: the rows of `otel_trace_slots`.
pub(crate) fn slot(trace_id: [u8; 16]) -> i16 {
    i16::from(trace_id[15] % 16)
}
