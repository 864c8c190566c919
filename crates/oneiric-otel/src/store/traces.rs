//! What derivation needs of the database: the touched traces, their spans and logs, and the rows that come of them.
//!
//! Every call works inside the caller's transaction, so that a touch is gone exactly when its trace's row is right. The
//! order matters and is the caller's: claim the slot, choose, *take* the touches, and only then read spans and logs.
//! Under READ COMMITTED every statement sees what was committed before it, so records whose touch was taken are seen.

use std::collections::{HashMap, VecDeque};
use std::pin::pin;
use std::sync::Arc;

use futures::TryStreamExt as _;

use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{IsolationLevel, Row, RowStream};
use uuid::Uuid;

use super::copy::Micros;
use super::database::{Client, Database};
use super::error::StoreError;
use crate::derive::trace::{LogFact, SpanFact, Totals, TraceSummary, cut};

/// A transaction of the pool.
pub(crate) type Transaction<'a> = deadpool_postgres::Transaction<'a>;

/// Characters of a message or a log body that derivation reads.
const READ_CHARACTERS: i32 = 2000;

/// Characters of a span's name that derivation reads.
const READ_NAME_CHARACTERS: i32 = 512;

/// Bytes of a text that remain when the allowance is used up.
const SHORT_BYTES: usize = 100;

/// Failing spans that are kept besides the first and last spans of a trace that has too many.
const KEPT_FAILURES: usize = 1000;

/// Distinct names that are remembered at a time.
const REMEMBERED_NAMES: usize = 10_000;

/// How often a trace that cannot be derived is tried. The pause is a minute, doubled each time.
const ATTEMPTS: i16 = 10;

/// Logs of a trace that derivation reads; all are counted.
const READ_LOGS: i64 = 64;

/// Keys that mark a span as a step of an agent.
const AGENT_KEYS: &[&str] = &[
    "gen_ai.operation.name",
    "gen_ai.provider.name",
    "gen_ai.system",
    "gen_ai.request.model",
    "gen_ai.agent.name",
    "gen_ai.tool.name",
    "gen_ai.input.messages",
    "gen_ai.output.messages",
    "openinference.span.kind",
    "llm.model_name",
    "traceloop.span.kind",
    "llm.request.type",
];

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

/// The logs of a trace: the first of them, and how many there are.
#[derive(Debug, Default)]
pub(crate) struct TraceLogs {
    pub(crate) first: Vec<LogFact>,
    pub(crate) count: i64,
}

/// A span's attributes and events, as JSON.
#[derive(Debug)]
pub(crate) struct SpanDetails {
    /// Place in the list of spans asked for.
    pub(crate) place: usize,
    pub(crate) attributes: String,
    pub(crate) events: Option<String>,
}

impl SpanDetails {
    /// A row of [`read_details`].
    pub(crate) fn from_row(row: &Row) -> Self {
        let place: i64 = row.get(0);
        Self { place: usize::try_from(place - 1).unwrap_or(usize::MAX), attributes: row.get(1), events: row.get(2) }
    }

    /// Size of the JSON.
    pub(crate) fn bytes(&self) -> usize {
        self.attributes.len() + self.events.as_ref().map_or(0, String::len)
    }
}

/// How many bytes of messages may still be kept at their length. Those beyond it are cut short, not left out.
#[derive(Debug)]
pub(crate) struct Allowance(pub(crate) usize);

impl Allowance {
    fn grant(&mut self, text: &str) -> String {
        if text.len() > SHORT_BYTES && text.len() > self.0 {
            return cut(text, SHORT_BYTES);
        }
        self.0 = self.0.saturating_sub(text.len());
        text.to_owned()
    }

    fn take_back(&mut self, span: &SpanFact) {
        for text in [&span.error_type, &span.error_message, &span.status_message].into_iter().flatten() {
            self.0 = self.0.saturating_add(text.len());
        }
    }
}

/// The spans of a trace: all of them, or of very many the telling ones.
#[derive(Debug, Default)]
pub(crate) struct TraceSpans {
    /// In order of start and hash.
    pub(crate) kept: Vec<SpanFact>,
    /// Of all spans.
    pub(crate) totals: Totals,
}

/// Takes the spans of a trace in order of time and keeps `limit` of them: the first and the last half, and of those
/// between them the first without parent and the first failures.
#[derive(Default)]
struct Keeper {
    spans: TraceSpans,
    last: VecDeque<SpanFact>,
    failures: usize,
    root_kept: bool,
}

impl Keeper {
    fn take(&mut self, span: SpanFact, limit: usize, allowance: &mut Allowance) {
        self.spans.totals.add(&span);
        if self.spans.totals.spans <= (limit / 2) as u64 {
            self.keep(span);
            return;
        }
        self.last.push_back(span);
        if self.last.len() <= limit - limit / 2 {
            return;
        }
        let Some(passed) = self.last.pop_front() else { return };
        let is_first_root = passed.parent.is_none() && !self.root_kept;
        let is_early_failure = passed.failed() && self.failures < KEPT_FAILURES;
        if is_first_root || is_early_failure {
            self.failures += usize::from(is_early_failure);
            self.keep(passed);
        } else {
            allowance.take_back(&passed);
        }
    }

    fn keep(&mut self, span: SpanFact) {
        self.root_kept |= span.parent.is_none();
        self.spans.kept.push(span);
    }

    fn finish(mut self) -> TraceSpans {
        self.spans.kept.extend(self.last);
        self.spans
    }
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

/// The spans of these traces that start in the range, each trace's in order of start and hash. Of a trace with more than
/// `limit` only some are kept.
pub(crate) async fn read_spans(
    transaction: &Transaction<'_>,
    trace_ids: &[Uuid],
    range: Seen,
    limit: usize,
    allowance: &mut Allowance,
) -> Result<HashMap<Uuid, TraceSpans>, StoreError> {
    let values: [(&(dyn ToSql + Sync), Type); 6] = [
        (&trace_ids, Type::UUID_ARRAY),
        (&range.from, Type::TIMESTAMPTZ),
        (&range.to, Type::TIMESTAMPTZ),
        (&AGENT_KEYS, Type::TEXT_ARRAY),
        (&READ_CHARACTERS, Type::INT4),
        (&READ_NAME_CHARACTERS, Type::INT4),
    ];
    let rows = transaction
        .query_typed_raw(
            "SELECT trace_id, start_time, start_ns, duration_ns, span_hash, span_id, parent_span_id, service_name,
                    left(name, $6),
                    kind, status, http_status_code, attributes ?| $4, left(error_type, $5), left(error_message, $5),
                    left(status_message, $5)
             FROM otel.otel_spans
             WHERE trace_id = ANY($1) AND start_time >= $2 AND start_time <= $3
             ORDER BY trace_id, start_time, start_ns, span_hash",
            values,
        )
        .await?;
    let mut names = Names::default();
    let mut traces: HashMap<Uuid, Keeper> = HashMap::new();
    let mut rows = pin!(rows);
    // One row at a time: a single trace may have millions of spans.
    while let Some(row) = rows.try_next().await? {
        let failed = row.get::<_, &str>(10) == "error";
        let span = SpanFact {
            start_ns: row.get::<_, Micros>(1).to_unix_nanos(row.get(2)),
            duration_ns: row.get::<_, i64>(3) as u64,
            hash: row.get(4),
            id: id_of(row.get(5)).unwrap_or_default(),
            parent: row.get::<_, Option<&[u8]>>(6).and_then(id_of),
            service: names.get(row.get(7)),
            name: names.get(row.get(8)),
            kind: names.get(row.get(9)),
            status: names.get(row.get(10)),
            http_status: row.get(11),
            agent: row.get(12),
            error_type: row.get::<_, Option<&str>>(13).map(|text| allowance.grant(text)),
            error_message: row.get::<_, Option<&str>>(14).map(|text| allowance.grant(text)),
            // The description of a success is no error.
            status_message: row.get::<_, Option<&str>>(15).filter(|_| failed).map(|text| allowance.grant(text)),
        };
        traces.entry(row.get(0)).or_default().take(span, limit, allowance);
    }
    Ok(traces.into_iter().map(|(trace_id, keeper)| (trace_id, keeper.finish())).collect())
}

/// An id of eight bytes. One of another length is kept apart from "none": it names a parent that nobody has.
fn id_of(bytes: &[u8]) -> Option<[u8; 8]> {
    if bytes.iter().all(|&byte| byte == 0) {
        return None;
    }
    let mut id = [0; 8];
    for (to, from) in id.iter_mut().zip(bytes) {
        *to = *from;
    }
    Some(id)
}

/// One allocation per distinct name of a batch, as long as there are not too many.
#[derive(Default)]
struct Names(HashMap<String, Arc<str>>);

impl Names {
    fn get(&mut self, name: &str) -> Arc<str> {
        if let Some(known) = self.0.get(name) {
            return Arc::clone(known);
        }
        if self.0.len() >= REMEMBERED_NAMES {
            self.0.clear();
        }
        let new: Arc<str> = name.into();
        self.0.insert(name.to_owned(), Arc::clone(&new));
        new
    }
}

/// The telling logs of these traces in the range: of severity 13 and above, of the event `exception`, or with the type
/// or the message of one; the same for which the write path leaves touches. Of each trace
/// the first errors, then the first warnings.
pub(crate) async fn read_logs(
    transaction: &Transaction<'_>,
    trace_ids: &[Uuid],
    range: Seen,
    allowance: &mut Allowance,
) -> Result<HashMap<Uuid, TraceLogs>, StoreError> {
    if trace_ids.is_empty() {
        return Ok(HashMap::new());
    }
    let rows = transaction
        .query_typed(
            "SELECT trace_id, time, time_ns, service_name, severity_number, body, exception_type, exception_message, n
             FROM (SELECT trace_id, time, time_ns, service_name, severity_number,
                          left(coalesce(body, body_json::text, ''), $4) AS body,
                          left(attributes ->> 'exception.type', $4) AS exception_type,
                          left(attributes ->> 'exception.message', $4) AS exception_message,
                          count(*) OVER (PARTITION BY trace_id) AS n,
                          row_number() OVER (PARTITION BY trace_id
                            ORDER BY severity_number < 17 AND event_name IS DISTINCT FROM 'exception'
                                     AND NOT attributes ?| $6, time, time_ns, body) AS place
                   FROM otel.otel_logs
                   WHERE trace_id = ANY($1) AND time >= $2 AND time <= $3
                     AND (severity_number >= 13 OR event_name = 'exception' OR attributes ?| $6)) l
             WHERE place <= $5
             ORDER BY trace_id, place",
            &[
                (&trace_ids, Type::UUID_ARRAY),
                (&range.from, Type::TIMESTAMPTZ),
                (&range.to, Type::TIMESTAMPTZ),
                (&READ_CHARACTERS, Type::INT4),
                (&READ_LOGS, Type::INT8),
                (&["exception.type", "exception.message"].as_slice(), Type::TEXT_ARRAY),
            ],
        )
        .await?;
    let mut names = Names::default();
    let mut traces: HashMap<Uuid, TraceLogs> = HashMap::new();
    for row in rows {
        let logs = traces.entry(row.get(0)).or_default();
        logs.count = row.get(8);
        logs.first.push(LogFact {
            time_ns: row.get::<_, Micros>(1).to_unix_nanos(row.get(2)),
            service: names.get(row.get(3)),
            severity: row.get(4),
            body: allowance.grant(row.get(5)),
            exception_type: row.get::<_, Option<&str>>(6).map(|text| allowance.grant(text)),
            exception_message: row.get::<_, Option<&str>>(7).map(|text| allowance.grant(text)),
        });
    }
    Ok(traces)
}

/// Attributes and events of single spans, given by (trace id, start, hash), in their order: [`SpanDetails`] row by row.
pub(crate) async fn read_details(
    transaction: &Transaction<'_>,
    spans: &[(Uuid, u64, i64)],
) -> Result<RowStream, StoreError> {
    let ids: Vec<Uuid> = spans.iter().map(|(id, ..)| *id).collect();
    let starts: Vec<Micros> = spans.iter().map(|(_, start, _)| Micros::from_unix_nanos(*start).0).collect();
    let hashes: Vec<i64> = spans.iter().map(|(.., hash)| *hash).collect();
    let values: [(&(dyn ToSql + Sync), Type); 3] =
        [(&ids, Type::UUID_ARRAY), (&starts, Type::TIMESTAMPTZ_ARRAY), (&hashes, Type::INT8_ARRAY)];
    // One probe of the primary key per span.
    let rows = transaction
        .query_typed_raw(
            "SELECT w.place, s.attributes::text, s.events::text
             FROM unnest($1::uuid[], $2::timestamptz[], $3::bigint[])
                    WITH ORDINALITY AS w (trace_id, start_time, span_hash, place)
             CROSS JOIN LATERAL (SELECT attributes, events FROM otel.otel_spans s
                                 WHERE s.trace_id = w.trace_id AND s.start_time = w.start_time
                                   AND s.span_hash = w.span_hash OFFSET 0) s
             ORDER BY w.place",
            values,
        )
        .await?;
    Ok(rows)
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

#[cfg(test)]
mod tests {
    use super::*;

    fn span(place: u64, parent: bool, status: &str) -> SpanFact {
        SpanFact {
            start_ns: 1_000_000 + place,
            duration_ns: 10,
            hash: place as i64,
            id: place.to_be_bytes(),
            parent: parent.then_some([9; 8]),
            service: "s".into(),
            name: "n".into(),
            kind: "internal".into(),
            status: status.into(),
            http_status: None,
            agent: false,
            error_type: None,
            error_message: Some("m".repeat(200)),
            status_message: None,
        }
    }

    #[test]
    fn of_a_trace_with_too_many_spans_the_telling_ones_are_kept_and_all_are_counted() {
        let (mut keeper, mut allowance) = (Keeper::default(), Allowance(0));
        for place in 0..10_000 {
            let status = if place % 2 == 0 { "error" } else { "unset" };
            keeper.take(span(place, place != 5_000, status), 100, &mut allowance);
        }
        let spans = keeper.finish();
        assert_eq!((spans.totals.spans, spans.totals.errors), (10_000, 5_000));
        assert_eq!((spans.totals.start_ns, spans.totals.end_ns), (Some(1_000_000), 1_010_009));
        assert!(spans.totals.root_seen);
        assert!(spans.kept.len() <= 100 + KEPT_FAILURES + 1, "{} are kept", spans.kept.len());
        assert!(spans.kept.is_sorted_by_key(|span| span.start_ns));
        assert!(spans.kept.iter().any(|span| span.parent.is_none()), "the root stands in the middle");
        assert_eq!(spans.kept.last().map(|span| span.hash), Some(9_999));
        // What was let go can be used again: the kept ones alone take from the allowance.
        assert!(allowance.0 > 0);
    }

    #[test]
    fn without_allowance_long_texts_are_cut_and_short_ones_stay() {
        let mut allowance = Allowance(150);
        assert_eq!(allowance.grant(&"x".repeat(120)).len(), 120);
        assert_eq!(allowance.grant(&"x".repeat(120)).len(), SHORT_BYTES);
        assert_eq!(allowance.grant("short"), "short");
    }
}
