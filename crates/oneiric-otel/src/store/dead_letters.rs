//! Dead letters: what the database refuses, kept as OTLP that can be sent again.
//!
//! # Promise
//! [`Store::replay`] stores what a letter holds and marks the letter as processed in one transaction, so that it happens
//! exactly once, whoever tries, however often, and wherever it is cut off. What is refused again stays: the letter, or,
//! where other records of it are stored, a letter of its own for each refused record, and one for all points of series for
//! which there is no room. A letter's place in the ledger of requests is not asked for: the request that it came from stands
//! there since it was refused.

use std::fmt;
use std::sync::atomic::Ordering;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Serialize, Serializer};
use tokio_postgres::Row;
use tokio_postgres::Transaction;
use tokio_postgres::types::Type;
use uuid::Uuid;

use super::batch::Batch;
use super::database::{Argument, Database};
use super::error::StoreError;
use super::residue::without_nul;
use super::series_cap::SERIES_LIMIT;
use super::write::{Render, SETTINGS, Store};
use crate::otlp::Signal;
use crate::otlp::canonical::Hash128;

/// More dead letters than these that nobody has looked at are a problem and not an incident.
pub const MANY_DEAD_LETTERS: i64 = 1000;

/// When a letter that was refused so often is to be tried again: after 5 minutes, doubled each time, up to a day.
const NEXT_RETRY: &str = "now() + least(interval '5 minutes' * 2.0 ^ least(retries, 20), interval '1 day')";

/// The columns of [`DeadLetterEntry`].
const ENTRY: &str = "id, telemetry_type, error_class, error_message, last_error, records, retry_count,
    octet_length(raw_data)::bigint,
    (extract(epoch FROM created_at) * 1000000)::bigint,
    (extract(epoch FROM next_retry_at) * 1000000)::bigint,
    (extract(epoch FROM processed_at) * 1000000)::bigint";

/// The word for a signal in the table.
pub(crate) fn telemetry_type(signal: Signal) -> &'static str {
    match signal {
        Signal::Traces => "trace",
        Signal::Metrics => "metric",
        Signal::Logs => "log",
    }
}

fn signal_of(telemetry_type: &str) -> Signal {
    match telemetry_type {
        "trace" => Signal::Traces,
        "metric" => Signal::Metrics,
        _ => Signal::Logs, // the table has no other
    }
}

/// A dead letter to be written.
#[derive(Debug, Clone, Copy)]
pub(crate) struct DeadLetter<'a> {
    pub(crate) signal: Signal,
    /// Records in `raw_data`.
    pub(crate) records: u64,
    /// The class of the error, as in logs and metrics.
    pub(crate) class: &'a str,
    pub(crate) message: &'a str,
    /// How often replaying it has failed.
    pub(crate) retries: i32,
    /// An `Export*ServiceRequest` in protobuf.
    pub(crate) raw_data: &'a [u8],
}

/// What is known about a dead letter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DeadLetterEntry {
    /// Its name.
    #[serde(serialize_with = "as_text")]
    pub id: Uuid,
    /// `trace`, `metric` or `log`.
    pub telemetry_type: String,
    /// The class of the error: `bad-data`, `stuck`, `series-limit`.
    pub error_class: String,
    /// Why it was refused.
    pub error_message: String,
    /// Why the latest replay failed.
    pub last_error: Option<String>,
    /// Records in it.
    pub records: i32,
    /// How often replaying it has failed.
    pub retry_count: i32,
    /// Its size as OTLP in protobuf.
    pub bytes: i64,
    /// When it was refused.
    #[serde(serialize_with = "as_text")]
    pub created_at: Timestamp,
    /// From when on it is replayed by itself.
    #[serde(serialize_with = "as_text")]
    pub next_retry_at: Timestamp,
    /// When its records were stored after all.
    #[serde(serialize_with = "as_optional_text")]
    pub processed_at: Option<Timestamp>,
}

impl DeadLetterEntry {
    /// What it carries.
    pub fn signal(&self) -> Signal {
        signal_of(&self.telemetry_type)
    }

    fn of_row(row: &Row) -> Self {
        let time = |micros: i64| Timestamp::from_microsecond(micros).unwrap_or_default();
        Self {
            id: row.get(0),
            telemetry_type: row.get(1),
            error_class: row.get(2),
            error_message: row.get(3),
            last_error: row.get(4),
            records: row.get(5),
            retry_count: row.get(6),
            bytes: row.get(7),
            created_at: time(row.get(8)),
            next_retry_at: time(row.get(9)),
            processed_at: row.get::<_, Option<i64>>(10).map(time),
        }
    }
}

fn as_text<S: Serializer>(value: &impl fmt::Display, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

#[expect(clippy::ref_option, reason = "the shape that serde wants")]
fn as_optional_text<S: Serializer>(time: &Option<Timestamp>, serializer: S) -> Result<S::Ok, S::Error> {
    match time {
        Some(time) => serializer.collect_str(time),
        None => serializer.serialize_none(),
    }
}

/// Which dead letters are meant. An empty filter means all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeadLetterFilter {
    /// Refused at or after this time.
    pub since: Option<Timestamp>,
    /// Refused before this time.
    pub until: Option<Timestamp>,
    /// The class of the error.
    pub class: Option<String>,
    /// What they carry.
    pub signal: Option<Signal>,
    /// Whether their records were stored after all.
    pub processed: Option<bool>,
}

impl DeadLetterFilter {
    const CONDITION: &str = "($1::bigint IS NULL OR created_at >= to_timestamp($1 / 1000000.0))
        AND ($2::bigint IS NULL OR created_at < to_timestamp($2 / 1000000.0))
        AND ($3::text IS NULL OR error_class = $3)
        AND ($4::text IS NULL OR telemetry_type = $4)
        AND ($5::boolean IS NULL OR (processed_at IS NOT NULL) = $5)";

    fn values(&self) -> Values<'_> {
        Values {
            since: self.since.map(Timestamp::as_microsecond),
            until: self.until.map(Timestamp::as_microsecond),
            class: self.class.as_deref(),
            signal: self.signal.map(telemetry_type),
            processed: self.processed,
        }
    }
}

/// A filter as SQL takes it.
struct Values<'a> {
    since: Option<i64>,
    until: Option<i64>,
    class: Option<&'a str>,
    signal: Option<&'static str>,
    processed: Option<bool>,
}

impl Values<'_> {
    fn arguments(&self) -> [Argument<'_>; 5] {
        [
            (&self.since, Type::INT8),
            (&self.until, Type::INT8),
            (&self.class, Type::TEXT),
            (&self.signal, Type::TEXT),
            (&self.processed, Type::BOOL),
        ]
    }
}

/// What became of a dead letter that was replayed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "outcome", rename_all = "kebab-case")]
pub enum Replayed {
    /// Its records are stored, but for some that are in other letters now.
    Stored {
        /// Records stored, now or before.
        records: u64,
        /// Records that were refused again.
        refused: u64,
    },
    /// It was refused again, and stays.
    Refused {
        /// Why.
        reason: String,
    },
    /// It is processed or gone, or another process replays it at this moment.
    Elsewhere,
}

impl fmt::Display for Replayed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stored { records, refused: 0 } => write!(f, "stored {records} records"),
            Self::Stored { records, refused } => {
                write!(f, "stored {records} records; {refused} were refused again and stay dead letters")
            }
            Self::Refused { reason } => write!(f, "refused again: {reason}"),
            Self::Elsewhere => f.write_str("processed, purged or being replayed by another process"),
        }
    }
}

/// Writes a dead letter.
pub(crate) async fn bury(transaction: &Transaction<'_>, dead: &DeadLetter<'_>) -> Result<(), StoreError> {
    let sql = format!(
        "INSERT INTO otel.otel_telemetry_dlq (telemetry_type, records, error_class, error_message, raw_data,
                                              retry_count, next_retry_at)
         SELECT $1, $2, $3, $4, $5, retries, {NEXT_RETRY} FROM (SELECT $6::integer) r (retries)"
    );
    transaction
        .execute(
            &sql,
            &[
                &telemetry_type(dead.signal),
                &i32::try_from(dead.records).unwrap_or(i32::MAX),
                &dead.class,
                &without_nul(dead.message),
                &dead.raw_data,
                &dead.retries,
            ],
        )
        .await?;
    Ok(())
}

impl Store {
    /// Makes a dead letter of a whole request, unless it was stored before.
    pub(crate) async fn bury(&self, request_hash: Hash128, dead: &DeadLetter<'_>) -> Result<(), StoreError> {
        let mut client = self.database.lease().await?;
        let commits = client.commits();
        let transaction = client.transaction().await?;
        transaction.batch_execute(SETTINGS).await?;
        let is_new = transaction
            .execute(
                "INSERT INTO otel.otel_ingest_ledger (request_hash, records, signal, refreshed) VALUES ($1, $2, $3, true)
                 ON CONFLICT DO NOTHING",
                &[
                    &Uuid::from_bytes(request_hash.0),
                    &i32::try_from(dead.records).unwrap_or(i32::MAX),
                    &dead.signal.as_str(),
                ],
            )
            .await?;
        if is_new > 0 {
            bury(&transaction, dead).await?;
        }
        commits.store(true, Ordering::Relaxed);
        transaction.commit().await?;
        client.keep();
        Ok(())
    }

    /// Stores the records of a dead letter, of which `batch` was made, and marks it as processed. `render` is asked for
    /// the records that are refused again.
    ///
    /// # Errors
    /// When nothing was changed.
    pub(crate) async fn replay(
        &self,
        letter: Uuid,
        batch: &Batch,
        render: &dyn Render,
    ) -> Result<Replayed, StoreError> {
        match self.replay_once(letter, batch, render).await {
            Err(error) if error.is_stale() || error.is_missing_partition() => {
                self.forget();
                self.replay_once(letter, batch, render).await
            }
            outcome => outcome,
        }
    }

    async fn replay_once(&self, letter: Uuid, batch: &Batch, render: &dyn Render) -> Result<Replayed, StoreError> {
        let batches = [batch];
        let resolved = self.resolve(&batches).await?;
        let mut client = self.database.lease().await?;
        let commits = client.commits();
        let transaction = client.transaction().await?;
        transaction.batch_execute(SETTINGS).await?;
        let claim = "SELECT retry_count + 1 FROM otel.otel_telemetry_dlq WHERE id = $1 AND processed_at IS NULL
                     FOR UPDATE SKIP LOCKED";
        let Some(claimed) = transaction.query_opt(claim, &[&letter]).await? else {
            transaction.rollback().await?;
            client.keep();
            return Ok(Replayed::Elsewhere);
        };
        let mut poison = resolved.insert_carefully(&transaction).await?;
        if let Some(reason) = resolved.refusal(0, &poison) {
            refuse(&transaction, letter, &reason).await?;
            commits.store(true, Ordering::Relaxed);
            transaction.commit().await?;
            client.keep();
            return Ok(Replayed::Refused { reason });
        }
        resolved.bury(&transaction, &mut poison, claimed.get(0), render).await?;
        let limited = resolved.bury_limited(&transaction, 0, claimed.get(0), render).await?;
        resolved.touch(&transaction, &[true]).await?;
        let done = "UPDATE otel.otel_telemetry_dlq SET processed_at = now() WHERE id = $1";
        transaction.execute(done, &[&letter]).await?;
        commits.store(true, Ordering::Relaxed);
        transaction.commit().await?;
        client.keep();
        let (rows, refused) = (batch.rows.len() as u64, poison.len() as u64 + limited);
        Ok(Replayed::Stored { records: rows - refused, refused })
    }
}

/// Notes that a letter was refused again.
async fn refuse(transaction: &Transaction<'_>, letter: Uuid, reason: &str) -> Result<(), StoreError> {
    let sql = format!(
        "UPDATE otel.otel_telemetry_dlq SET last_error = $2, retry_count = retries, next_retry_at = {NEXT_RETRY}
         FROM (SELECT retry_count + 1 FROM otel.otel_telemetry_dlq WHERE id = $1) r (retries)
         WHERE id = $1 AND processed_at IS NULL"
    );
    transaction.execute(&sql, &[&letter, &without_nul(reason)]).await?;
    Ok(())
}

impl Database {
    /// Dead letters, newest first, at most `limit`.
    pub async fn dead_letters(
        &self,
        filter: &DeadLetterFilter,
        limit: u32,
    ) -> Result<Vec<DeadLetterEntry>, StoreError> {
        let values = filter.values();
        let limit = i64::from(limit);
        let mut arguments = values.arguments().to_vec();
        arguments.push((&limit, Type::INT8));
        let sql = format!(
            "SELECT {ENTRY} FROM otel.otel_telemetry_dlq WHERE {}
             ORDER BY created_at DESC, id LIMIT $6",
            DeadLetterFilter::CONDITION
        );
        Ok(self.query(&sql, &arguments).await?.iter().map(DeadLetterEntry::of_row).collect())
    }

    /// Dead letters whose ids begin so, at most two.
    pub async fn dead_letters_by_prefix(&self, prefix: &str) -> Result<Vec<DeadLetterEntry>, StoreError> {
        let sql = format!(
            "SELECT {ENTRY} FROM otel.otel_telemetry_dlq WHERE starts_with(id::text, lower($1)) ORDER BY id LIMIT 2"
        );
        let rows = self.query(&sql, &[(&prefix, Type::TEXT)]).await?;
        Ok(rows.iter().map(DeadLetterEntry::of_row).collect())
    }

    /// What a dead letter is and holds: an `Export*ServiceRequest` in protobuf. None if there is no such letter.
    pub async fn dead_letter(&self, id: Uuid) -> Result<Option<(DeadLetterEntry, Vec<u8>)>, StoreError> {
        let sql = format!("SELECT {ENTRY}, raw_data FROM otel.otel_telemetry_dlq WHERE id = $1");
        let rows = self.query(&sql, &[(&id, Type::UUID)]).await?;
        Ok(rows.first().map(|row| (DeadLetterEntry::of_row(row), row.get(11))))
    }

    /// The unprocessed letters that are due, those that have waited longest first, at most `limit`. `with_limited`: also
    /// those of points for whose series there was no room.
    pub(super) async fn due_dead_letters(&self, with_limited: bool, limit: i64) -> Result<Vec<Uuid>, StoreError> {
        let sql = "SELECT id FROM otel.otel_telemetry_dlq
                   WHERE processed_at IS NULL AND next_retry_at <= now() AND ($1 OR error_class <> $2)
                   ORDER BY next_retry_at, id LIMIT $3";
        let arguments: [Argument<'_>; 3] =
            [(&with_limited, Type::BOOL), (&SERIES_LIMIT, Type::TEXT), (&limit, Type::INT8)];
        Ok(self.query(sql, &arguments).await?.iter().map(|row| row.get(0)).collect())
    }

    /// Unprocessed letters in the order of their ids, those after `after`, at most `limit`.
    pub async fn unprocessed_dead_letter_ids(&self, after: Option<Uuid>, limit: u32) -> Result<Vec<Uuid>, StoreError> {
        let sql = "SELECT id FROM otel.otel_telemetry_dlq WHERE processed_at IS NULL AND ($1::uuid IS NULL OR id > $1)
                   ORDER BY id LIMIT $2";
        let rows = self.query(sql, &[(&after, Type::UUID), (&i64::from(limit), Type::INT8)]).await?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }

    /// Dead letters that nobody has stored or purged yet.
    pub async fn unprocessed_dead_letters(&self) -> Result<i64, StoreError> {
        let sql = "SELECT count(*) FROM otel.otel_telemetry_dlq WHERE processed_at IS NULL";
        Ok(self.query_one(sql, &[]).await?.get(0))
    }

    /// Notes that a letter could not be replayed.
    pub(crate) async fn refuse_dead_letter(&self, id: Uuid, reason: &str) -> Result<(), StoreError> {
        let mut client = self.client().await?;
        let transaction = client.transaction().await?;
        refuse(&transaction, id, reason).await?;
        transaction.commit().await?;
        Ok(())
    }

    /// Deletes these dead letters for good, processed or not. Returns how many were there.
    pub async fn purge_dead_letters(&self, ids: &[Uuid]) -> Result<u64, StoreError> {
        let sql = "WITH gone AS (DELETE FROM otel.otel_telemetry_dlq WHERE id = ANY($1) RETURNING 1)
                   SELECT count(*) FROM gone";
        Ok(self.query_one(sql, &[(&ids, Type::UUID_ARRAY)]).await?.get::<_, i64>(0).unsigned_abs())
    }

    /// Deletes the dead letters that pass the filter, for good. Returns how many they were.
    pub async fn purge_matching_dead_letters(&self, filter: &DeadLetterFilter) -> Result<u64, StoreError> {
        let values = filter.values();
        let sql = format!(
            "WITH gone AS (DELETE FROM otel.otel_telemetry_dlq WHERE {} RETURNING 1) SELECT count(*) FROM gone",
            DeadLetterFilter::CONDITION
        );
        Ok(self.query_one(&sql, &values.arguments()).await?.get::<_, i64>(0).unsigned_abs())
    }

    /// How many dead letters pass the filter.
    pub async fn count_dead_letters(&self, filter: &DeadLetterFilter) -> Result<i64, StoreError> {
        let values = filter.values();
        let sql = format!("SELECT count(*) FROM otel.otel_telemetry_dlq WHERE {}", DeadLetterFilter::CONDITION);
        Ok(self.query_one(&sql, &values.arguments()).await?.get(0))
    }

    /// Deletes dead letters that were stored after all longer ago than `age`. The others never expire. Returns how many
    /// were deleted.
    pub async fn forget_dead_letters(&self, age: Duration) -> Result<u64, StoreError> {
        let sql = "WITH gone AS (DELETE FROM otel.otel_telemetry_dlq
                                 WHERE processed_at < now() - $1 * interval '1 second' RETURNING 1)
                   SELECT count(*) FROM gone";
        let row = self.query_one(sql, &[(&age.as_secs_f64(), Type::FLOAT8)]).await?;
        Ok(row.get::<_, i64>(0).unsigned_abs())
    }
}
