//! One transaction of derivation: from the touches of a slot to rows, texts and links.

use std::collections::HashMap;

use uuid::Uuid;

use super::text::{self, Attributes, Story};
use super::trace::{self, Outline, SpanFact, TraceSummary};
use super::{DeriveOptions, Derived, Deriver, millis};
use crate::store::texts::store_texts;
use crate::store::traces::{
    Existing, NewTrace, Pending, Seen, TraceLogs, Transaction, begin, claim_slot, existing, keep_orphans, pending,
    read_details, read_logs, read_spans, take_orphans, take_touches, write_traces,
};
use crate::store::{Micros, StoreError};

/// Traces whose records lie within this time are read with one statement.
const READ_SPAN_MICROS: i64 = 86_400_000_000;

/// Spans whose attributes are in memory at a time.
const DETAILS_AT_ONCE: usize = 512;

/// What came of a batch.
pub(super) struct Outcome {
    pub(super) derived: Derived,
    /// Whether there may be more to do right now.
    pub(super) more: bool,
}

/// Derives a batch of the slot's due traces, or of all its touched ones. `None` when somebody else has the slot.
pub(super) async fn derive(deriver: &Deriver, slot: i16, all: bool) -> Result<Option<Outcome>, StoreError> {
    let options = &deriver.options;
    let mut client = deriver.database.client().await?;
    let transaction = begin(&mut client).await?;
    if !claim_slot(&transaction, slot).await? {
        return Ok(None);
    }
    let limit = (options.batch_traces * 4) as i64;
    let candidates = if all {
        pending(&transaction, slot, 0, 0, 0, limit).await?
    } else {
        let (short, long) = (millis(options.quiet_after_root), millis(options.quiet));
        pending(&transaction, slot, short, long, millis(options.patience), limit).await?
    };
    let known: Vec<(Uuid, Micros)> =
        candidates.iter().filter_map(|candidate| Some((candidate.trace_id, candidate.bucket?))).collect();
    let (ids, buckets): (Vec<Uuid>, Vec<Micros>) = known.into_iter().unzip();
    let existing = existing(&transaction, &ids, &buckets).await?;
    let (chosen, more) = choose(&candidates, &existing, options, all);
    if chosen.is_empty() {
        return Ok(Some(Outcome { derived: Derived::default(), more: false }));
    }

    let found = read(&transaction, slot, &chosen, &existing).await?;
    let mut derived = Derived { log_only: found.orphans.len() as u64, ..Derived::default() };
    derived.spans_read = found.traces.iter().map(|trace| trace.spans.len() as u64).sum();
    derived.traces = found.traces.len() as u64;
    keep_orphans(&transaction, &found.orphans).await?;

    let computed = on_blocking_thread(move || compute(found.traces)).await?;
    let described = describe(&transaction, computed).await?;
    let buckets: Vec<Micros> = described.iter().map(|trace| trace.bucket(&chosen)).collect();
    // On a connection of its own: making a partition takes locks that must not be held as long as this transaction.
    for table in ["otel_traces", "otel_trace_texts"] {
        deriver.partitions.ensure(&deriver.database, table, &buckets).await?;
    }

    let mut texts = HashMap::new();
    for trace in &described {
        texts.extend(trace.texts.iter().map(|text| (Uuid::from_bytes(text::text_hash(text)), text.clone())));
    }
    let stored = store_texts(&transaction, text::TEXT_VERSION, &texts).await?;
    derived.texts_new = stored.new;
    let rows: Vec<NewTrace> = described
        .into_iter()
        .zip(buckets)
        .map(|(trace, bucket)| NewTrace {
            trace_id: trace.trace_id,
            bucket,
            seen: trace.seen,
            log_count: i32::try_from(trace.logs.count).unwrap_or(i32::MAX),
            text_ids: trace
                .texts
                .iter()
                .filter_map(|text| stored.ids.get(&Uuid::from_bytes(text::text_hash(text))).copied())
                .collect(),
            former_text_ids: existing.get(&trace.trace_id).map(|row| row.text_ids.clone()).unwrap_or_default(),
            summary: trace.summary,
        })
        .collect();
    write_traces(&transaction, &rows).await?;
    transaction.commit().await?;
    Ok(Some(Outcome { derived, more }))
}

/// The candidates that are due, as many as one transaction should take, and whether some were left for the next.
fn choose(
    candidates: &[Pending],
    existing: &HashMap<Uuid, Existing>,
    options: &DeriveOptions,
    all: bool,
) -> (Vec<Pending>, bool) {
    let mut chosen: Vec<Pending> = Vec::new();
    let mut records = 0;
    for candidate in candidates {
        let row = existing.get(&candidate.trace_id);
        if !all && !is_due(candidate, row, options) {
            continue;
        }
        let more = candidate.records.saturating_add(row.map_or(0, |row| row.records));
        let full = chosen.len() >= options.batch_traces || records + more > options.batch_records;
        if full && !chosen.is_empty() {
            return (chosen, true);
        }
        records += more;
        chosen.push(candidate.clone());
    }
    // A full list of candidates has been cut, and there may be due ones behind it.
    let more = candidates.len() >= options.batch_traces * 4 && !chosen.is_empty();
    (chosen, more)
}

/// Quiet for long enough, or waiting for too long; and, when derived before, worth being read again.
fn is_due(pending: &Pending, existing: Option<&Existing>, options: &DeriveOptions) -> bool {
    let root_seen = pending.has_root || existing.is_some_and(|row| row.root_seen);
    let quiet = if root_seen { options.quiet_after_root } else { options.quiet };
    if pending.quiet_ms < millis(quiet) && pending.waiting_ms < millis(options.patience) {
        return false;
    }
    match existing {
        None => true,
        Some(row) => pending.records.saturating_mul(8) >= row.records || row.age_ms >= row.records,
    }
}

/// A trace with its records.
struct Found {
    trace_id: Uuid,
    seen: Seen,
    spans: Vec<SpanFact>,
    logs: TraceLogs,
}

struct Read {
    traces: Vec<Found>,
    /// Traces of which there are only logs.
    orphans: Vec<(Uuid, Seen)>,
}

/// Takes the touches and then reads all that belongs to the traces.
async fn read(
    transaction: &Transaction<'_>,
    slot: i16,
    chosen: &[Pending],
    existing: &HashMap<Uuid, Existing>,
) -> Result<Read, StoreError> {
    let ids: Vec<Uuid> = chosen.iter().map(|pending| pending.trace_id).collect();
    let touched = take_touches(transaction, slot, &ids).await?;
    let orphans = take_orphans(transaction, &ids).await?;
    let mut ranges: Vec<(Uuid, Seen)> = ids
        .iter()
        .filter_map(|id| {
            let parts = [touched.get(id).copied(), orphans.get(id).copied(), existing.get(id).map(|row| row.seen)];
            Some((*id, parts.into_iter().flatten().reduce(Seen::unite)?))
        })
        .collect();
    ranges.sort_unstable_by_key(|(id, seen)| (seen.from, *id));
    let mut result = Read { traces: Vec::new(), orphans: Vec::new() };
    let mut rest = ranges.as_slice();
    while let Some((_, first)) = rest.first() {
        let mut range = *first;
        let mut length = 1;
        while let Some((_, next)) = rest.get(length) {
            let wider = range.unite(*next);
            if wider.to.0.saturating_sub(wider.from.0) > READ_SPAN_MICROS {
                break;
            }
            range = wider;
            length += 1;
        }
        let (group, later) = rest.split_at(length);
        rest = later;
        let ids: Vec<Uuid> = group.iter().map(|(id, _)| *id).collect();
        let mut spans = read_spans(transaction, &ids, range).await?;
        let mut logs = read_logs(transaction, &ids, range).await?;
        for (trace_id, seen) in group {
            match spans.remove(trace_id) {
                Some(spans) => {
                    let logs = logs.remove(trace_id).unwrap_or_default();
                    result.traces.push(Found { trace_id: *trace_id, seen: *seen, spans, logs });
                }
                None => result.orphans.push((*trace_id, *seen)),
            }
        }
    }
    Ok(result)
}

/// A trace with what follows from its spans and logs alone.
struct Computed {
    found: Found,
    outline: Outline,
    summary: TraceSummary,
}

fn compute(found: Vec<Found>) -> Vec<Computed> {
    found
        .into_iter()
        .filter_map(|found| {
            let outline = trace::outline(&found.spans)?;
            let summary = trace::summarise(&found.spans, &found.logs.first, &outline);
            Some(Computed { found, outline, summary })
        })
        .collect()
}

/// A trace with its texts.
struct Described {
    trace_id: Uuid,
    seen: Seen,
    logs: TraceLogs,
    summary: TraceSummary,
    texts: Vec<String>,
}

impl Described {
    /// The bucket it has, or the one it gets now.
    fn bucket(&self, chosen: &[Pending]) -> Micros {
        let known = chosen.iter().find(|pending| pending.trace_id == self.trace_id).and_then(|pending| pending.bucket);
        known.unwrap_or_else(|| Micros::from_unix_nanos(self.summary.start_ns).0)
    }
}

/// Reads the attributes that the texts need, a part of the traces at a time, and writes the texts.
async fn describe(transaction: &Transaction<'_>, computed: Vec<Computed>) -> Result<Vec<Described>, StoreError> {
    let mut described = Vec::with_capacity(computed.len());
    let mut rest = computed.into_iter().peekable();
    while rest.peek().is_some() {
        let mut part: Vec<(Computed, Vec<usize>)> = Vec::new();
        let mut wanted: Vec<(Uuid, u64, i64)> = Vec::new();
        while wanted.len() < DETAILS_AT_ONCE
            && let Some(trace) = rest.next()
        {
            let positions = text::wanted_details(&trace.outline);
            wanted.extend(positions.iter().map(|&position| {
                let span = &trace.found.spans[position];
                (trace.found.trace_id, span.start_ns, span.hash)
            }));
            part.push((trace, positions));
        }
        let mut details = HashMap::new();
        for row in read_details(transaction, &wanted).await? {
            details.insert((row.trace_id, row.start_time, row.hash), (row.attributes, row.events));
        }
        described.extend(on_blocking_thread(move || write_texts(part, &mut details)).await?);
    }
    Ok(described)
}

type StoredDetails = HashMap<(Uuid, Micros, i64), (String, Option<String>)>;

fn write_texts(traces: Vec<(Computed, Vec<usize>)>, stored: &mut StoredDetails) -> Vec<Described> {
    traces
        .into_iter()
        .map(|(trace, positions)| {
            let Computed { found, outline, summary } = trace;
            let mut details = HashMap::new();
            for position in positions {
                let span = &found.spans[position];
                let key = (found.trace_id, Micros::from_unix_nanos(span.start_ns).0, span.hash);
                if let Some((attributes, events)) = stored.remove(&key) {
                    details.insert(position, Attributes::parse(&attributes, events.as_deref()));
                }
            }
            let texts = text::describe(&Story {
                spans: &found.spans,
                logs: &found.logs.first,
                outline: &outline,
                summary: &summary,
                details: &details,
            });
            Described { trace_id: found.trace_id, seen: found.seen, logs: found.logs, summary, texts }
        })
        .collect()
}

/// Runs a computation where it does not hold up other tasks.
async fn on_blocking_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, StoreError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| StoreError::transient(format!("derivation was interrupted: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pending(records: i64, has_root: bool, quiet_ms: i64, waiting_ms: i64) -> Pending {
        Pending { trace_id: Uuid::nil(), records, has_root, quiet_ms, waiting_ms, bucket: None }
    }

    fn row(records: i64, root_seen: bool, age_ms: i64) -> Existing {
        let zero = Micros(0);
        Existing { seen: Seen { from: zero, to: zero }, root_seen, records, age_ms, text_ids: Vec::new() }
    }

    #[test]
    fn a_root_shortens_the_wait_and_patience_ends_it() {
        let options = DeriveOptions::default();
        let due = |pending: Pending, row: Option<&Existing>| is_due(&pending, row, &options);
        assert!(!due(pending(1, true, 1_999, 1_999), None));
        assert!(due(pending(1, true, 2_000, 2_000), None));
        assert!(!due(pending(1, false, 9_999, 9_999), None));
        assert!(due(pending(1, false, 10_000, 10_000), None));
        assert!(due(pending(1, false, 10, 60_000), None));
        assert!(due(pending(1, false, 2_000, 2_000), Some(&row(8, true, 0))));
    }

    #[test]
    fn a_large_trace_is_read_again_only_for_an_eighth_or_after_its_time() {
        let options = DeriveOptions::default();
        let due = |pending: Pending, row: Existing| is_due(&pending, Some(&row), &options);
        assert!(!due(pending(12_499, true, 5_000, 5_000), row(100_000, true, 99_999)));
        assert!(due(pending(12_500, true, 5_000, 5_000), row(100_000, true, 0)));
        assert!(due(pending(1, true, 5_000, 5_000), row(100_000, true, 100_000)));
    }

    #[test]
    fn a_batch_ends_at_its_limits_but_is_never_empty() {
        let options = DeriveOptions { batch_records: 10, batch_traces: 2, ..DeriveOptions::default() };
        let choose = |records: &[i64]| {
            let candidates: Vec<Pending> = records.iter().map(|&records| pending(records, true, 0, 0)).collect();
            let (chosen, more) = choose(&candidates, &HashMap::new(), &options, true);
            (chosen.len(), more)
        };
        assert_eq!(choose(&[50, 1]), (1, true));
        assert_eq!(choose(&[5, 5]), (2, false));
        assert_eq!(choose(&[5, 5, 1]), (2, true));
        assert_eq!(choose(&[]), (0, false));
    }
}
