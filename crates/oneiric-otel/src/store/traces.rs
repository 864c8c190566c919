//! What derivation needs of the database: the touched traces, their spans and logs, and the rows that come of them.
//!
//! Every call works inside the caller's transaction, so that a touch is gone exactly when its trace's row is right. The
//! order matters and is the caller's: claim the slot, choose, *take* the touches, and only then read spans and logs.
//! Under READ COMMITTED every statement sees what was committed before it, so records whose touch was taken are seen.

pub(crate) mod records;

use std::collections::HashMap;

use tokio_postgres::types::Type;
use tokio_postgres::{IsolationLevel, Row};
use uuid::Uuid;

use super::copy::Micros;
use super::database::{Client, Database};
use super::error::StoreError;
use super::errors::note_errors;
use crate::derive::trace::TraceSummary;

/// A transaction of the pool.
pub(crate) type Transaction<'a> = deadpool_postgres::Transaction<'a>;

/// How often a trace that cannot be derived is tried. The pause is a minute, doubled each time.
const ATTEMPTS: i16 = 10;

/// A trace with touches, not yet taken.
#[derive(Debug, Clone)]
pub(crate) struct Pending {
    pub(crate) trace_id: Uuid,
    /// New records.
    pub(crate) records: i64,
    /// Whether one of them is a span without parent.
    pub(crate) has_root: bool,
    /// Since the last touch.
    pub(crate) quiet_ms: i64,
    /// Since the first touch.
    pub(crate) waiting_ms: i64,
    /// The partition of its row, if there is one.
    pub(crate) bucket: Option<Micros>,
}

/// A trace's row as derivation finds it.
#[derive(Debug, Clone)]
pub(crate) struct Existing {
    pub(crate) seen: Seen,
    pub(crate) root_seen: bool,
    /// Spans and logs it was derived from.
    pub(crate) records: i64,
    /// Since it was derived.
    pub(crate) age_ms: i64,
    pub(crate) text_ids: Vec<i64>,
}

/// The times between which all records of a trace lie, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) from: Micros,
    pub(crate) to: Micros,
}

impl Seen {
    /// Both ranges and what lies between them.
    pub(crate) fn unite(self, other: Self) -> Self {
        Self { from: self.from.min(other.from), to: self.to.max(other.to) }
    }
}

/// A row to be written.
#[derive(Debug)]
pub(crate) struct NewTrace {
    pub(crate) trace_id: Uuid,
    pub(crate) bucket: Micros,
    pub(crate) seen: Seen,
    pub(crate) log_count: i32,
    pub(crate) text_ids: Vec<i64>,
    /// Links that the former row had.
    pub(crate) former_text_ids: Vec<i64>,
    pub(crate) summary: TraceSummary,
}

impl Database {
    /// Slots with a touch older than `quiet_ms`.
    pub(crate) async fn slots_with_touches(&self, quiet_ms: i64) -> Result<Vec<i16>, StoreError> {
        let client = self.client().await?;
        let rows = client
            .query_typed(
                "SELECT s.slot FROM otel.otel_trace_slots s
                 WHERE EXISTS (SELECT FROM otel.otel_trace_touches t
                               WHERE t.slot = s.slot AND t.touched_at <= clock_timestamp() - $1 * interval '1 millisecond')
                 ORDER BY s.slot",
                &[(&(quiet_ms as f64), Type::FLOAT8)],
            )
            .await?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }

    /// Puts the touches of a trace that cannot be derived back for later, each time for longer. Returns whether it was
    /// tried often enough: then the touches are gone, and only new records make it due again.
    pub(crate) async fn set_trace_aside(&self, slot: i16, trace_id: Uuid) -> Result<bool, StoreError> {
        let client = self.client().await?;
        let row = client
            .query_typed_one(
                "WITH known AS (SELECT coalesce(max(attempts), 0) AS n FROM otel.otel_trace_touches
                                WHERE slot = $1 AND trace_id = $2),
                      gone AS (DELETE FROM otel.otel_trace_touches
                               WHERE slot = $1 AND trace_id = $2 AND (SELECT n FROM known) + 1 >= $3),
                      later AS (UPDATE otel.otel_trace_touches
                                SET attempts = (SELECT n FROM known) + 1,
                                    touched_at = clock_timestamp() + 2.0 ^ (SELECT n FROM known) * interval '1 minute'
                                WHERE slot = $1 AND trace_id = $2 AND (SELECT n FROM known) + 1 < $3)
                 SELECT n + 1 >= $3 FROM known",
                &[(&slot, Type::INT2), (&trace_id, Type::UUID), (&ATTEMPTS, Type::INT2)],
            )
            .await?;
        Ok(row.get(0))
    }

    /// Forgets the times of logs whose trace has shown no span for `age`.
    pub(crate) async fn forget_orphan_logs(&self, age: std::time::Duration) -> Result<u64, StoreError> {
        let client = self.client().await?;
        Ok(client
            .execute_typed(
                "DELETE FROM otel.otel_trace_orphans WHERE seen_at < clock_timestamp() - $1 * interval '1 second'",
                &[(&age.as_secs_f64(), Type::FLOAT8)],
            )
            .await?)
    }
}

/// Begins a derivation. READ COMMITTED whatever the role's default is: see the module's documentation.
pub(crate) async fn begin(client: &mut Client) -> Result<Transaction<'_>, StoreError> {
    Ok(client.build_transaction().isolation_level(IsolationLevel::ReadCommitted).start().await?)
}

/// The right to derive the traces of a slot until the transaction ends; `false` when somebody else has it.
pub(crate) async fn claim_slot(transaction: &Transaction<'_>, slot: i16) -> Result<bool, StoreError> {
    let row = transaction
        .query_typed_opt(
            "SELECT slot FROM otel.otel_trace_slots WHERE slot = $1 FOR UPDATE SKIP LOCKED",
            &[(&slot, Type::INT2)],
        )
        .await?;
    Ok(row.is_some())
}

/// The first traces of the slot after `after`, as many as `limit`: new ones first, then those that have been quiet
/// longest. With `only`, of these.
///
/// A slot is worked off in such chunks, because what waits in it may be far more than a batch: looking at all of it for
/// each batch would take the square of it.
pub(crate) async fn pending(
    transaction: &Transaction<'_>,
    slot: i16,
    after: Uuid,
    limit: i64,
    only: Option<&[Uuid]>,
) -> Result<Vec<Pending>, StoreError> {
    let rows = transaction
        .query_typed(
            "SELECT p.trace_id, p.records, p.has_root, p.quiet_ms, p.waiting_ms, k.bucket
             FROM (SELECT trace_id, sum(records) AS records, bool_or(has_root) AS has_root,
                          (extract(epoch FROM clock_timestamp() - max(touched_at)) * 1000)::bigint AS quiet_ms,
                          (extract(epoch FROM clock_timestamp() - min(touched_at)) * 1000)::bigint AS waiting_ms
                   FROM otel.otel_trace_touches
                   WHERE slot = $1 AND trace_id > $2 AND ($4::uuid[] IS NULL OR trace_id = ANY($4))
                   GROUP BY trace_id ORDER BY trace_id LIMIT $3) p
             LEFT JOIN otel.otel_trace_keys k USING (trace_id)
             ORDER BY k.bucket IS NOT NULL, p.quiet_ms DESC, p.trace_id",
            &[(&slot, Type::INT2), (&after, Type::UUID), (&limit, Type::INT8), (&only, Type::UUID_ARRAY)],
        )
        .await?;
    Ok(rows
        .iter()
        .map(|row| Pending {
            trace_id: row.get(0),
            records: row.get(1),
            has_root: row.get(2),
            quiet_ms: row.get(3),
            waiting_ms: row.get(4),
            bucket: row.get(5),
        })
        .collect())
}

/// The rows of traces whose buckets are known.
pub(crate) async fn existing(
    transaction: &Transaction<'_>,
    trace_ids: &[Uuid],
    buckets: &[Micros],
) -> Result<HashMap<Uuid, Existing>, StoreError> {
    if trace_ids.is_empty() {
        return Ok(HashMap::new());
    }
    let rows = transaction
        .query_typed(
            "SELECT trace_id, seen_from, seen_to, root_seen, span_count::bigint + log_count,
                    (extract(epoch FROM clock_timestamp() - derived_at) * 1000)::bigint, text_ids
             FROM otel.otel_traces WHERE trace_id = ANY($1) AND bucket = ANY($2)",
            &[(&trace_ids, Type::UUID_ARRAY), (&buckets, Type::TIMESTAMPTZ_ARRAY)],
        )
        .await?;
    Ok(rows
        .iter()
        .map(|row| {
            let existing = Existing {
                seen: Seen { from: row.get(1), to: row.get(2) },
                root_seen: row.get(3),
                records: row.get(4),
                age_ms: row.get(5),
                text_ids: row.get(6),
            };
            (row.get(0), existing)
        })
        .collect())
}

/// Removes the touches of these traces and returns the times they speak of. Touches that were committed since
/// [`pending`] are taken too: their records will be read.
pub(crate) async fn take_touches(
    transaction: &Transaction<'_>,
    slot: i16,
    trace_ids: &[Uuid],
) -> Result<HashMap<Uuid, Seen>, StoreError> {
    let rows = transaction
        .query_typed(
            "WITH taken AS (DELETE FROM otel.otel_trace_touches WHERE slot = $1 AND trace_id = ANY($2)
                            RETURNING trace_id, first_time, last_time)
             SELECT trace_id, min(first_time), max(last_time) FROM taken GROUP BY trace_id",
            &[(&slot, Type::INT2), (&trace_ids, Type::UUID_ARRAY)],
        )
        .await?;
    Ok(rows.iter().map(seen_of).collect())
}

/// Removes and returns the times of earlier logs of traces that had no span then.
pub(crate) async fn take_orphans(
    transaction: &Transaction<'_>,
    trace_ids: &[Uuid],
) -> Result<HashMap<Uuid, Seen>, StoreError> {
    let rows = transaction
        .query_typed(
            "DELETE FROM otel.otel_trace_orphans WHERE trace_id = ANY($1) RETURNING trace_id, first_time, last_time",
            &[(&trace_ids, Type::UUID_ARRAY)],
        )
        .await?;
    Ok(rows.iter().map(seen_of).collect())
}

/// Remembers when the logs of traces without spans were, for the time a span comes.
pub(crate) async fn keep_orphans(transaction: &Transaction<'_>, orphans: &[(Uuid, Seen)]) -> Result<(), StoreError> {
    if orphans.is_empty() {
        return Ok(());
    }
    let ids: Vec<Uuid> = orphans.iter().map(|(id, _)| *id).collect();
    let from: Vec<Micros> = orphans.iter().map(|(_, seen)| seen.from).collect();
    let to: Vec<Micros> = orphans.iter().map(|(_, seen)| seen.to).collect();
    transaction
        .execute_typed(
            "INSERT INTO otel.otel_trace_orphans AS o (trace_id, first_time, last_time)
             SELECT * FROM unnest($1::uuid[], $2::timestamptz[], $3::timestamptz[])
             ON CONFLICT (trace_id) DO UPDATE
             SET first_time = least(o.first_time, excluded.first_time),
                 last_time = greatest(o.last_time, excluded.last_time),
                 seen_at = excluded.seen_at",
            &[(&ids, Type::UUID_ARRAY), (&from, Type::TIMESTAMPTZ_ARRAY), (&to, Type::TIMESTAMPTZ_ARRAY)],
        )
        .await?;
    Ok(())
}

fn seen_of(row: &Row) -> (Uuid, Seen) {
    (row.get(0), Seen { from: row.get(1), to: row.get(2) })
}

/// Writes or replaces the rows, their keys and the links to their texts. Partitions must be there.
pub(crate) async fn write_traces(transaction: &Transaction<'_>, traces: &[NewTrace]) -> Result<(), StoreError> {
    if traces.is_empty() {
        return Ok(());
    }
    let ids: Vec<Uuid> = traces.iter().map(|trace| trace.trace_id).collect();
    let buckets: Vec<Micros> = traces.iter().map(|trace| trace.bucket).collect();
    transaction
        .execute_typed(
            "INSERT INTO otel.otel_trace_keys (trace_id, bucket) SELECT * FROM unnest($1::uuid[], $2::timestamptz[])
             ON CONFLICT DO NOTHING",
            &[(&ids, Type::UUID_ARRAY), (&buckets, Type::TIMESTAMPTZ_ARRAY)],
        )
        .await?;
    note_errors(transaction, traces).await?;
    write_rows(transaction, traces, &ids, &buckets).await?;
    write_links(transaction, traces).await
}

async fn write_rows(
    transaction: &Transaction<'_>,
    traces: &[NewTrace],
    ids: &[Uuid],
    buckets: &[Micros],
) -> Result<(), StoreError> {
    let column = |read: fn(&NewTrace) -> Micros| traces.iter().map(read).collect::<Vec<_>>();
    let count = |read: fn(&NewTrace) -> i32| traces.iter().map(read).collect::<Vec<_>>();
    let text = |read: fn(&NewTrace) -> &str| traces.iter().map(read).collect::<Vec<_>>();
    let start = column(|trace| Micros::from_unix_nanos(trace.summary.start_ns).0);
    let end = column(|trace| Micros::from_unix_nanos(trace.summary.end_ns).0);
    let from = column(|trace| trace.seen.from);
    let to = column(|trace| trace.seen.to);
    let duration: Vec<i64> = traces.iter().map(|trace| trace.summary.duration_ns).collect();
    let spans = count(|trace| trace.summary.span_count);
    let errors = count(|trace| trace.summary.error_count);
    let logs = count(|trace| trace.log_count);
    let start_ns: Vec<i16> = traces.iter().map(|trace| (trace.summary.start_ns % 1000) as i16).collect();
    let root_seen: Vec<bool> = traces.iter().map(|trace| trace.summary.root_seen).collect();
    let status = text(|trace| trace.summary.status);
    let service = text(|trace| &trace.summary.service_name);
    let root_name = text(|trace| &trace.summary.root_name);
    // Arrays of arrays of different lengths cannot be parameters, so these two travel as JSON.
    let services: Vec<String> = traces.iter().map(|trace| json_array(&trace.summary.services)).collect();
    let text_ids: Vec<String> = traces.iter().map(|trace| json_array(&trace.text_ids)).collect();
    let error_type: Vec<Option<&str>> = traces.iter().map(|trace| trace.summary.error_type.as_deref()).collect();
    let error_message: Vec<Option<&str>> = traces.iter().map(|trace| trace.summary.error_message.as_deref()).collect();
    transaction
        .execute_typed(
            "INSERT INTO otel.otel_traces (trace_id, bucket, start_time, end_time, seen_from, seen_to, duration_ns,
                                      span_count, error_count, log_count, start_ns, root_seen, status, service_name,
                                      root_name, services, text_ids, error_type, error_message)
             SELECT u.trace_id, u.bucket, u.start_time, u.end_time, u.seen_from, u.seen_to, u.duration_ns,
                    u.span_count, u.error_count, u.log_count, u.start_ns, u.root_seen, u.status, u.service_name,
                    u.root_name, ARRAY(SELECT jsonb_array_elements_text(u.services)),
                    ARRAY(SELECT jsonb_array_elements_text(u.text_ids)::bigint), u.error_type, u.error_message
             FROM unnest($1::uuid[], $2::timestamptz[], $3::timestamptz[], $4::timestamptz[], $5::timestamptz[],
                         $6::timestamptz[], $7::bigint[], $8::integer[], $9::integer[], $10::integer[], $11::smallint[],
                         $12::boolean[], $13::text[], $14::text[], $15::text[], $16::text[]::jsonb[],
                         $17::text[]::jsonb[], $18::text[], $19::text[])
               AS u (trace_id, bucket, start_time, end_time, seen_from, seen_to, duration_ns, span_count, error_count,
                     log_count, start_ns, root_seen, status, service_name, root_name, services, text_ids, error_type,
                     error_message)
             ON CONFLICT (trace_id, bucket) DO UPDATE
             SET start_time = excluded.start_time, end_time = excluded.end_time, seen_from = excluded.seen_from,
                 seen_to = excluded.seen_to, derived_at = excluded.derived_at, duration_ns = excluded.duration_ns,
                 span_count = excluded.span_count, error_count = excluded.error_count, log_count = excluded.log_count,
                 start_ns = excluded.start_ns, root_seen = excluded.root_seen, status = excluded.status,
                 service_name = excluded.service_name, root_name = excluded.root_name, services = excluded.services,
                 text_ids = excluded.text_ids, error_type = excluded.error_type,
                 error_message = excluded.error_message",
            &[
                (&ids, Type::UUID_ARRAY),
                (&buckets, Type::TIMESTAMPTZ_ARRAY),
                (&start, Type::TIMESTAMPTZ_ARRAY),
                (&end, Type::TIMESTAMPTZ_ARRAY),
                (&from, Type::TIMESTAMPTZ_ARRAY),
                (&to, Type::TIMESTAMPTZ_ARRAY),
                (&duration, Type::INT8_ARRAY),
                (&spans, Type::INT4_ARRAY),
                (&errors, Type::INT4_ARRAY),
                (&logs, Type::INT4_ARRAY),
                (&start_ns, Type::INT2_ARRAY),
                (&root_seen, Type::BOOL_ARRAY),
                (&status, Type::TEXT_ARRAY),
                (&service, Type::TEXT_ARRAY),
                (&root_name, Type::TEXT_ARRAY),
                (&services, Type::TEXT_ARRAY),
                (&text_ids, Type::TEXT_ARRAY),
                (&error_type, Type::TEXT_ARRAY),
                (&error_message, Type::TEXT_ARRAY),
            ],
        )
        .await?;
    Ok(())
}

async fn write_links(transaction: &Transaction<'_>, traces: &[NewTrace]) -> Result<(), StoreError> {
    let (mut old_texts, mut old_buckets, mut old_traces) = (Vec::new(), Vec::new(), Vec::new());
    let (mut new_texts, mut new_buckets, mut new_traces) = (Vec::new(), Vec::new(), Vec::new());
    for trace in traces {
        for text in trace.former_text_ids.iter().filter(|text| !trace.text_ids.contains(text)) {
            old_texts.push(*text);
            old_buckets.push(trace.bucket);
            old_traces.push(trace.trace_id);
        }
        for text in trace.text_ids.iter().filter(|text| !trace.former_text_ids.contains(text)) {
            new_texts.push(*text);
            new_buckets.push(trace.bucket);
            new_traces.push(trace.trace_id);
        }
    }
    if !old_texts.is_empty() {
        transaction
            .execute_typed(
                "DELETE FROM otel.otel_trace_texts l
                 USING unnest($1::bigint[], $2::timestamptz[], $3::uuid[]) AS o (text_id, bucket, trace_id)
                 WHERE l.text_id = o.text_id AND l.bucket = o.bucket AND l.trace_id = o.trace_id",
                &[
                    (&old_texts, Type::INT8_ARRAY),
                    (&old_buckets, Type::TIMESTAMPTZ_ARRAY),
                    (&old_traces, Type::UUID_ARRAY),
                ],
            )
            .await?;
    }
    if !new_texts.is_empty() {
        transaction
            .execute_typed(
                "INSERT INTO otel.otel_trace_texts (text_id, bucket, trace_id)
                 SELECT * FROM unnest($1::bigint[], $2::timestamptz[], $3::uuid[]) ON CONFLICT DO NOTHING",
                &[
                    (&new_texts, Type::INT8_ARRAY),
                    (&new_buckets, Type::TIMESTAMPTZ_ARRAY),
                    (&new_traces, Type::UUID_ARRAY),
                ],
            )
            .await?;
    }
    Ok(())
}

fn json_array<T: serde::Serialize>(values: &[T]) -> String {
    // Strings and numbers always have a JSON form.
    serde_json::to_string(values).unwrap_or_else(|_| "[]".to_owned())
}
