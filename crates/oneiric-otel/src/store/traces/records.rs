//! The spans and logs of traces, read for derivation: all are counted, and only what telling needs is kept.

use std::collections::{HashMap, VecDeque};
use std::pin::pin;
use std::sync::Arc;

use futures::TryStreamExt as _;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Row, RowStream};
use uuid::Uuid;

use super::{Seen, Transaction};
use crate::derive::trace::{LogFact, SpanFact, Totals, cut};
use crate::store::copy::Micros;
use crate::store::database::{Argument, Database};
use crate::store::error::StoreError;

/// Characters of a message or a log body that derivation reads.
const READ_CHARACTERS: i32 = 2000;

/// Characters of a span's name that derivation reads.
const READ_NAME_CHARACTERS: i32 = 512;

/// Bytes of a text that remain when the allowance is used up.
const SHORT_BYTES: usize = 100;

/// Failing spans that are kept besides the first and last spans of a trace that has too many.
const KEPT_FAILURES: usize = 1000;

/// Bytes of messages that are kept at their length when the facts of one trace are read.
const FACT_BYTES: usize = 16 << 20;

/// Distinct names that are remembered at a time.
const REMEMBERED_NAMES: usize = 10_000;

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
    "gen_ai.prompt",
    "gen_ai.completion",
    "gen_ai.prompt.0.content",
    "gen_ai.completion.0.content",
    "input.value",
    "output.value",
    "message.content",
    "content",
    "openinference.span.kind",
    "llm.model_name",
    "traceloop.span.kind",
    "llm.request.type",
];

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
    let rows = transaction.query_typed_raw(&format!("{SPAN_FACTS} ORDER BY trace_id, {FACT_ORDER}"), values).await?;
    let mut names = Names::default();
    let mut traces: HashMap<Uuid, Keeper> = HashMap::new();
    let mut rows = pin!(rows);
    // One row at a time: a single trace may have millions of spans.
    while let Some(row) = rows.try_next().await? {
        let span = span_fact(&row, &mut names, allowance);
        traces.entry(row.get(0)).or_default().take(span, limit, allowance);
    }
    Ok(traces.into_iter().map(|(trace_id, keeper)| (trace_id, keeper.finish())).collect())
}

/// What is read of spans for [`span_fact`].
const SPAN_FACTS: &str = "SELECT trace_id, start_time, start_ns, duration_ns, span_hash, span_id, parent_span_id,
                                 service_name, left(name, $6), kind, status, http_status_code, attributes ?| $4,
                                 left(error_type, $5), left(error_message, $5), left(status_message, $5)
                          FROM otel.otel_spans
                          WHERE trace_id = ANY($1) AND start_time >= $2 AND start_time <= $3";
/// The order of one trace's spans.
const FACT_ORDER: &str = "start_time, start_ns, span_hash";

fn span_fact(row: &Row, names: &mut Names, allowance: &mut Allowance) -> SpanFact {
    let failed = row.get::<_, &str>(10) == "error";
    SpanFact {
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
    }
}

/// The first `limit` spans of a trace that start in the range, in order of start and hash, and whether there are more.
pub(crate) async fn read_facts(
    database: &Database,
    trace_id: Uuid,
    range: Seen,
    limit: usize,
) -> Result<(Vec<SpanFact>, bool), StoreError> {
    let ids = [trace_id];
    let ids = ids.as_slice();
    let values: Vec<Argument<'_>> = vec![
        (&ids, Type::UUID_ARRAY),
        (&range.from, Type::TIMESTAMPTZ),
        (&range.to, Type::TIMESTAMPTZ),
        (&AGENT_KEYS, Type::TEXT_ARRAY),
        (&READ_CHARACTERS, Type::INT4),
        (&READ_NAME_CHARACTERS, Type::INT4),
    ];
    let sql = format!("{SPAN_FACTS} ORDER BY {FACT_ORDER} LIMIT {}", limit.saturating_add(1));
    let mut rows = database.stream(&sql, values).await?;
    let (mut names, mut allowance) = (Names::default(), Allowance(FACT_BYTES));
    let mut facts = Vec::new();
    while let Some(row) = rows.next().await? {
        facts.push(span_fact(&row, &mut names, &mut allowance));
    }
    let more = facts.len() > limit;
    facts.truncate(limit);
    Ok((facts, more))
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
