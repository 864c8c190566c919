//! One transaction of derivation: from the touches of a slot to rows, texts and links.

use std::collections::HashMap;
use std::pin::pin;

use futures::TryStreamExt as _;
use uuid::Uuid;

use super::text::{self, Attributes, Story};
use super::trace::{self, Outline, TraceSummary};
use super::{DeriveOptions, Derived, Deriver, millis};
use crate::self_trace;
use crate::store::texts::store_texts;
use crate::store::traces::records::{
    Allowance, SpanDetails, TraceLogs, TraceSpans, read_details, read_logs, read_spans,
};
use crate::store::traces::{
    Existing, NewTrace, Pending, Seen, Transaction, begin, claim_slot, existing, keep_orphans, pending, take_orphans,
    take_touches, write_traces,
};
use crate::store::{ErrorClass, Micros, StoreError};

/// Traces whose records lie within this time are read with one statement.
const READ_SPAN_MICROS: i64 = 86_400_000_000;

/// Batches of traces that are looked at together.
const CHUNK_BATCHES: usize = 4;

/// Spans whose attributes are asked for with one statement.
const DETAILS_AT_ONCE: usize = 512;

/// Bytes of attributes and events in memory at a time, and of one trace at most. What is beyond is not told.
const DETAILS_BYTES: usize = 16 * 1024 * 1024;

/// Bytes of messages, names and log bodies of a batch that are kept at their length; beyond it they are cut short.
const MESSAGES_BYTES: usize = 64 * 1024 * 1024;

/// Which traces of a slot are to be derived.
#[derive(Debug, Clone)]
pub(super) enum Selection {
    /// Those with a greater id that are due, or all touched ones of them.
    Touched { all: bool, after: Uuid },
    /// These, if they have touches.
    These(Vec<Uuid>),
}

/// What came of a batch.
pub(super) struct Outcome {
    pub(super) derived: Derived,
    /// What there may be to do right now.
    pub(super) next: Option<Selection>,
}

/// Nothing was derived.
pub(super) struct Failure {
    pub(super) error: StoreError,
    /// The traces of the batch, when it failed because of one of them.
    pub(super) suspects: Vec<Uuid>,
}

/// Why a batch fails.
enum Trouble {
    Store(StoreError),
    /// The computation panicked.
    Panicked(String),
}

impl From<StoreError> for Trouble {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// Derives a batch of the selected traces of the slot. `None` when somebody else has the slot.
pub(super) async fn derive(deriver: &Deriver, slot: i16, wanted: &Selection) -> Result<Option<Outcome>, Failure> {
    let mut suspects = Vec::new();
    attempt(deriver, slot, wanted, &mut suspects).await.map_err(|trouble| match trouble {
        // The same values are refused again.
        Trouble::Store(error) if error.class() == ErrorClass::BadData && !error.is_missing_partition() => {
            Failure { error, suspects }
        }
        Trouble::Store(error) => Failure { error, suspects: Vec::new() },
        Trouble::Panicked(reason) => {
            Failure { error: StoreError::misconfigured(format!("the computation failed: {reason}")), suspects }
        }
    })
}

async fn attempt(
    deriver: &Deriver,
    slot: i16,
    wanted: &Selection,
    suspects: &mut Vec<Uuid>,
) -> Result<Option<Outcome>, Trouble> {
    let mut client = deriver.database.client().await?;
    let transaction = begin(&mut client).await?;
    let outcome = work(deriver, &transaction, slot, wanted, suspects).await;
    if outcome.is_ok() {
        transaction.commit().await.map_err(StoreError::from)?;
    } else {
        // Not left to the connection: the slot must be free for the next attempt. When it cannot be ended, the
        // connection is gone and the slot with it.
        transaction.rollback().await.unwrap_or_default();
    }
    outcome
}

async fn work(
    deriver: &Deriver,
    transaction: &Transaction<'_>,
    slot: i16,
    wanted: &Selection,
    suspects: &mut Vec<Uuid>,
) -> Result<Option<Outcome>, Trouble> {
    let options = &deriver.options;
    if !claim_slot(transaction, slot).await? {
        return Ok(None);
    }
    let limit = options.batch_traces * CHUNK_BATCHES;
    let (all, mut candidates) = match wanted {
        Selection::Touched { all, after } => (*all, pending(transaction, slot, *after, limit as i64, None).await?),
        Selection::These(ids) => (true, pending(transaction, slot, Uuid::nil(), i64::MAX, Some(ids)).await?),
    };
    let chunk_end = candidates.iter().map(|candidate| candidate.trace_id).max().filter(|_| candidates.len() >= limit);
    candidates.retain(|candidate| may_be_due(candidate, options, all));
    let known: Vec<(Uuid, Micros)> =
        candidates.iter().filter_map(|candidate| Some((candidate.trace_id, candidate.bucket?))).collect();
    let (ids, buckets): (Vec<Uuid>, Vec<Micros>) = known.into_iter().unzip();
    let existing = existing(transaction, &ids, &buckets).await?;
    let (chosen, more) = choose(&candidates, &existing, options, all);
    suspects.extend(chosen.iter().map(|pending| pending.trace_id));
    let next = match (wanted, chunk_end) {
        (wanted, _) if more => Some(wanted.clone()),
        (Selection::Touched { all, .. }, Some(after)) => Some(Selection::Touched { all: *all, after }),
        _ => None,
    };
    if chosen.is_empty() {
        return Ok(Some(Outcome { derived: Derived::default(), next }));
    }

    let found = read(transaction, slot, &chosen, &existing, options).await?;
    let mut derived = Derived { log_only: found.orphans.len() as u64, ..Derived::default() };
    derived.spans_read = found.traces.iter().map(|trace| trace.spans.totals.spans).sum();
    derived.traces = found.traces.len() as u64;
    derived.own_traces =
        found.traces.iter().filter(|trace| self_trace::is_own(&trace.spans.totals.services)).count() as u64;
    keep_orphans(transaction, &found.orphans).await?;

    let computed = on_blocking_thread(move || compute(found.traces)).await?;
    let described = describe(transaction, computed).await?;
    let buckets: Vec<Micros> = described.iter().map(|trace| trace.bucket(&chosen)).collect();
    // On a connection of its own: making a partition takes locks that must not be held as long as this transaction.
    for table in ["otel_traces", "otel_trace_texts"] {
        deriver.partitions.ensure(&deriver.database, table, &buckets).await?;
    }

    let stored = store_texts(transaction, text::TEXT_VERSION, &texts_of(&described)).await?;
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
    write_traces(transaction, &rows).await?;
    Ok(Some(Outcome { derived, next }))
}

fn texts_of(described: &[Described]) -> HashMap<Uuid, String> {
    let texts = described.iter().flat_map(|trace| &trace.texts);
    texts.map(|text| (Uuid::from_bytes(text::text_hash(text)), text.clone())).collect()
}

/// Writes the texts of traces whose records lie in these times, and nothing else of them. Returns how many were not known. Of
/// traces that cannot be derived nothing is written: derivation finds out which, and says so.
pub(super) async fn write_texts_of(deriver: &Deriver, ranges: Vec<(Uuid, Seen)>) -> Result<u64, StoreError> {
    let mut client = deriver.database.client().await?;
    let transaction = begin(&mut client).await?;
    let work = async {
        let found = read_ranges(&transaction, ranges, &deriver.options).await?;
        let computed = on_blocking_thread(move || compute(found.traces)).await?;
        let described = describe(&transaction, computed).await?;
        Ok(store_texts(&transaction, text::TEXT_VERSION, &texts_of(&described)).await?.new)
    };
    match work.await {
        Ok(new) => {
            transaction.commit().await?;
            Ok(new)
        }
        Err(Trouble::Store(error)) if error.class() != ErrorClass::BadData => Err(error),
        Err(_) => Ok(transaction.rollback().await.map(|()| 0)?),
    }
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
    (chosen, false)
}

/// Whether a trace can be due, whatever its row says. One that was set aside has been touched in the future.
fn may_be_due(pending: &Pending, options: &DeriveOptions, all: bool) -> bool {
    if all {
        return pending.quiet_ms >= 0 || pending.waiting_ms >= 0;
    }
    pending.quiet_ms >= millis(options.quiet_after_root.min(options.quiet))
        || pending.waiting_ms >= millis(options.patience)
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
    spans: TraceSpans,
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
    options: &DeriveOptions,
) -> Result<Read, StoreError> {
    let ids: Vec<Uuid> = chosen.iter().map(|pending| pending.trace_id).collect();
    let touched = take_touches(transaction, slot, &ids).await?;
    let orphans = take_orphans(transaction, &ids).await?;
    let ranges = ids.iter().filter_map(|id| {
        let parts = [touched.get(id).copied(), orphans.get(id).copied(), existing.get(id).map(|row| row.seen)];
        Some((*id, parts.into_iter().flatten().reduce(Seen::unite)?))
    });
    read_ranges(transaction, ranges.collect(), options).await
}

/// Reads all that belongs to traces whose records lie in these times.
async fn read_ranges(
    transaction: &Transaction<'_>,
    mut ranges: Vec<(Uuid, Seen)>,
    options: &DeriveOptions,
) -> Result<Read, StoreError> {
    ranges.sort_unstable_by_key(|(id, seen)| (seen.from, *id));
    let mut result = Read { traces: Vec::new(), orphans: Vec::new() };
    let mut allowance = Allowance(MESSAGES_BYTES);
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
        let mut spans = read_spans(transaction, &ids, range, options.trace_spans, &mut allowance).await?;
        // Of a trace without a span the logs are not needed, and would be read again with every one that comes.
        let with_spans: Vec<Uuid> = spans.keys().copied().collect();
        let mut logs = read_logs(transaction, &with_spans, range, &mut allowance).await?;
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
            let outline = trace::outline(&found.spans.kept)?;
            let summary = trace::summarise(&found.spans.totals, &found.spans.kept, &found.logs.first, &outline);
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
    real_start_ns: Option<u64>,
    texts: Vec<String>,
}

impl Described {
    /// The bucket it has, or the one it gets now.
    fn bucket(&self, chosen: &[Pending]) -> Micros {
        let known = chosen.iter().find(|pending| pending.trace_id == self.trace_id).and_then(|pending| pending.bucket);
        known.unwrap_or_else(|| Micros::from_unix_nanos(self.real_start_ns.unwrap_or(self.summary.start_ns)).0)
    }
}

/// Reads the attributes that the texts need, a part of the traces at a time, and writes the texts.
async fn describe(transaction: &Transaction<'_>, computed: Vec<Computed>) -> Result<Vec<Described>, Trouble> {
    let mut described = Vec::with_capacity(computed.len());
    let mut rest = computed.into_iter().peekable();
    while rest.peek().is_some() {
        let mut part: Vec<Computed> = Vec::new();
        let mut wanted: Vec<(Uuid, u64, i64)> = Vec::new();
        // For each wanted span its trace in the part and its position in the trace.
        let mut owners: Vec<(usize, usize)> = Vec::new();
        while wanted.len() < DETAILS_AT_ONCE
            && let Some(trace) = rest.next()
        {
            for position in text::wanted_details(&trace.outline) {
                let span = &trace.found.spans.kept[position];
                wanted.push((trace.found.trace_id, span.start_ns, span.hash));
                owners.push((part.len(), position));
            }
            part.push(trace);
        }
        describe_part(transaction, part, &wanted, &owners, &mut described).await?;
    }
    Ok(described)
}

/// Details of the spans of one trace, by position.
type Details = HashMap<usize, SpanDetails>;

/// Writes texts as the details come, so that only [`DETAILS_BYTES`] of them are there at a time.
async fn describe_part(
    transaction: &Transaction<'_>,
    part: Vec<Computed>,
    wanted: &[(Uuid, u64, i64)],
    owners: &[(usize, usize)],
    described: &mut Vec<Described>,
) -> Result<(), Trouble> {
    let mut part = part.into_iter();
    let mut complete: Vec<(Computed, Details)> = Vec::new();
    let mut open = Details::new();
    let (mut open_trace, mut open_bytes, mut complete_bytes) = (0, 0, 0);
    let mut rows = pin!(read_details(transaction, wanted).await?);
    while let Some(row) = rows.try_next().await.map_err(StoreError::from)? {
        let details = SpanDetails::from_row(&row);
        let Some(&(trace, position)) = owners.get(details.place) else { continue };
        while open_trace < trace {
            complete.extend(part.next().map(|trace| (trace, std::mem::take(&mut open))));
            complete_bytes += std::mem::take(&mut open_bytes);
            open_trace += 1;
        }
        if complete_bytes + details.bytes() > DETAILS_BYTES && !complete.is_empty() {
            let ready = std::mem::take(&mut complete);
            complete_bytes = 0;
            described.extend(on_blocking_thread(move || write_texts(ready)).await?);
        }
        if open_bytes + details.bytes() <= DETAILS_BYTES {
            open_bytes += details.bytes();
            open.insert(position, details);
        }
    }
    complete.extend(part.next().map(|trace| (trace, open)));
    complete.extend(part.map(|trace| (trace, Details::new())));
    described.extend(on_blocking_thread(move || write_texts(complete)).await?);
    Ok(())
}

fn write_texts(traces: Vec<(Computed, Details)>) -> Vec<Described> {
    traces
        .into_iter()
        .map(|(trace, stored)| {
            let Computed { found, outline, summary } = trace;
            let details = stored
                .into_iter()
                .map(|(position, stored)| (position, Attributes::parse(&stored.attributes, stored.events.as_deref())))
                .collect();
            let texts = text::describe(&Story {
                spans: &found.spans.kept,
                logs: &found.logs.first,
                outline: &outline,
                summary: &summary,
                details: &details,
            });
            let real_start_ns = found.spans.totals.real_start_ns;
            Described { trace_id: found.trace_id, seen: found.seen, logs: found.logs, summary, real_start_ns, texts }
        })
        .collect()
}

/// Runs a computation where it does not hold up other tasks.
async fn on_blocking_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Trouble> {
    tokio::task::spawn_blocking(work).await.map_err(|error| {
        if error.is_panic() {
            return Trouble::Panicked(error.to_string());
        }
        Trouble::Store(StoreError::transient(format!("derivation was interrupted: {error}")))
    })
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
