//! Two traces side by side: in which parts they agree, and in which they differ.
//!
//! Pure: two lists of spans in, one typed answer out; the same answer for the same spans in any order. Spans are matched
//! by where they stand, never by their ids: a span is *at* the path of (service, operation) from its root, and two traces
//! have the same structure when as many spans are at each path.

mod structure;
mod words;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde::Serialize;
use structure::structure;
use words::words;

use super::trace::TraceId;
use super::value::LIST_VALUE_BYTES;
use super::{QueryError, QueryService};
use crate::derive::trace::cut;

/// Spans of each trace that are compared at most.
const MAX_COMPARED: usize = 10_000;
/// Entries of each list in the answer at most; what agrees is left out first.
const MAX_ENTRIES: usize = 200;
/// Different values of one attribute that are listed at most.
const MAX_VALUES: usize = 5;
/// Bytes of a listed value at most.
const MAX_VALUE_BYTES: usize = 256;
/// Times that differ by less than this factor agree.
const SAME_DURATION: f64 = 2.0;
/// Times below this agree whatever their factor is.
const NO_TIME_NS: u64 = 1_000_000;

/// Keys whose values are another for every trace, which says nothing.
const PER_TRACE: &[&str] = &["thread.id", "thread.name", "net.peer.port", "client.port", "network.peer.port"];

/// What a comparison looks at of a span.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct DiffSpan {
    /// Its id.
    pub id: Vec<u8>,
    /// Its parent's id; empty for a root.
    pub parent: Vec<u8>,
    /// Its service.
    pub service: String,
    /// Its operation.
    pub name: String,
    /// How long it took, in nanoseconds.
    pub duration_ns: u64,
    /// Whether it failed.
    pub failed: bool,
    /// The type of its error.
    pub error_type: Option<String>,
    /// The message of its error.
    pub error_message: Option<String>,
    /// Its attributes, each with its value as text.
    pub attributes: Vec<(String, String)>,
}

/// Two traces side by side.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct TraceDiff {
    /// The one trace.
    pub a: DiffSide,
    /// The other.
    pub b: DiffSide,
    /// In which parts they agree, in words.
    pub agree: Vec<String>,
    /// In which parts they differ, in words.
    pub differ: Vec<String>,
    /// The services of each.
    pub services: DiffNames,
    /// Operations, those that differ first.
    pub operations: Vec<OperationDiff>,
    /// Errors, those that differ first.
    pub errors: Vec<ErrorDiff>,
    /// Attributes of operations in both whose values differ.
    pub attributes: Vec<AttributeDiff>,
    /// Paths at which one has more spans than the other, from the root down; empty when the structure is the same.
    pub structure: Vec<PathDiff>,
    /// Of the spans of both, the share that the other has at the same path, 0 to 1.
    pub same_structure: f64,
    /// What is left out, in words; empty when nothing is.
    pub notes: Vec<String>,
}

/// One of two traces.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct DiffSide {
    /// Which.
    pub trace_id: TraceId,
    /// Spans that were compared.
    pub span_count: usize,
    /// Those of them that failed.
    pub error_count: usize,
    /// The longest time of a root, in nanoseconds.
    pub duration_ns: u64,
}

/// Names in both traces, and in one of them alone; each in alphabetical order.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct DiffNames {
    /// In both.
    pub both: Vec<String>,
    /// Only in the one.
    pub only_a: Vec<String>,
    /// Only in the other.
    pub only_b: Vec<String>,
}

/// An operation in either trace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct OperationDiff {
    /// The service.
    pub service_name: String,
    /// The operation.
    pub name: String,
    /// What the one has of it.
    pub a: OperationSide,
    /// What the other has of it.
    pub b: OperationSide,
    /// Whether both have it as often, failing as often, and about as long.
    pub same: bool,
}

/// What a trace has of an operation.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct OperationSide {
    /// Spans.
    pub count: usize,
    /// Spans that failed.
    pub errors: usize,
    /// Their times together, in nanoseconds.
    pub total_ns: u64,
    /// The longest.
    pub max_ns: u64,
}

/// An error in either trace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ErrorDiff {
    /// The service that failed.
    pub service_name: String,
    /// The operation that failed.
    pub name: String,
    /// The error's type.
    pub error_type: Option<String>,
    /// Its message, numbers and ids masked as `#`.
    pub message: Option<String>,
    /// How often in the one.
    pub count_a: usize,
    /// How often in the other.
    pub count_b: usize,
}

/// An attribute of an operation that both have, with different values.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct AttributeDiff {
    /// The service.
    pub service_name: String,
    /// The operation.
    pub name: String,
    /// The attribute.
    pub key: String,
    /// Its values in the one, at most five; empty when it is not there.
    pub values_a: Vec<String>,
    /// Its values in the other.
    pub values_b: Vec<String>,
}

/// A path at which the traces have not the same number of spans.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PathDiff {
    /// `service operation` from the root down; of very long ones the middle is `...`.
    pub path: Vec<String>,
    /// Spans of the one there.
    pub count_a: usize,
    /// Spans of the other there.
    pub count_b: usize,
}

impl QueryService {
    /// Two traces side by side.
    ///
    /// # Errors
    /// [`QueryError::NotFound`] when no span of one of them is stored.
    pub async fn diff_traces(&self, a: TraceId, b: TraceId) -> Result<TraceDiff, QueryError> {
        let (spans_a, cut_a) = self.diff_spans(a).await?;
        let (spans_b, cut_b) = self.diff_spans(b).await?;
        let mut diff = diff(a, &spans_a, b, &spans_b);
        for (trace, _) in [(a, cut_a), (b, cut_b)].iter().filter(|(_, cut)| *cut) {
            diff.notes.push(format!("of trace {trace} only the first {MAX_COMPARED} spans were compared"));
        }
        Ok(diff)
    }

    /// Why a trace is like another: [`Self::diff_traces`] under the name by which a hit of
    /// [`QueryService::find_similar_traces`] is explained; `a` is the trace that was asked about, `b` the hit.
    ///
    /// # Errors
    /// As [`Self::diff_traces`].
    pub async fn explain_similarity(&self, a: TraceId, b: TraceId) -> Result<TraceDiff, QueryError> {
        self.diff_traces(a, b).await
    }

    async fn diff_spans(&self, trace_id: TraceId) -> Result<(Vec<DiffSpan>, bool), QueryError> {
        let (stored, cut) = self.some_spans(trace_id, MAX_COMPARED).await?;
        let mut render = super::spans::Renderer::new(super::Detail::List);
        let spans = stored.into_iter().map(|stored| DiffSpan::of(render.span(trace_id, stored))).collect();
        Ok((spans, cut))
    }
}

impl DiffSpan {
    fn of(span: super::SpanRecord) -> Self {
        let text = |value: &super::AttributeValue| match value.as_str() {
            Some(text) => text.to_owned(),
            // NaN has a form of its own, and keys are strings: nothing here fails to be JSON.
            None => serde_json::to_string(value).unwrap_or_default(),
        };
        Self {
            id: span.span_id.0,
            parent: span.parent_span_id.map(|parent| parent.0).unwrap_or_default(),
            service: span.service_name,
            name: text(&span.name),
            duration_ns: u64::try_from(span.duration_ns).unwrap_or_default(),
            failed: span.status.code == "error",
            error_type: span.error_type,
            error_message: span.error_message.as_ref().map(text),
            attributes: span.attributes.0.iter().map(|(key, value)| (key.clone(), text(value))).collect(),
        }
    }
}

/// Compares two traces.
pub fn diff(a: TraceId, spans_a: &[DiffSpan], b: TraceId, spans_b: &[DiffSpan]) -> TraceDiff {
    let mut notes = Vec::new();
    let (structure, same_structure) = structure(spans_a, spans_b);
    let mut diff = TraceDiff {
        a: side(a, spans_a),
        b: side(b, spans_b),
        agree: Vec::new(),
        differ: Vec::new(),
        services: names(spans_a, spans_b, |span| span.service.as_str()),
        operations: operations(spans_a, spans_b),
        errors: errors(spans_a, spans_b),
        attributes: attributes(spans_a, spans_b),
        structure,
        same_structure,
        notes: Vec::new(),
    };
    words(&mut diff);
    shorten("operations", &mut diff.operations, &mut notes);
    shorten("errors", &mut diff.errors, &mut notes);
    shorten("attributes", &mut diff.attributes, &mut notes);
    shorten("paths", &mut diff.structure, &mut notes);
    diff.notes = notes;
    diff
}

fn shorten<T>(what: &str, list: &mut Vec<T>, notes: &mut Vec<String>) {
    if list.len() > MAX_ENTRIES {
        notes.push(format!("only {MAX_ENTRIES} of {} {what} are listed", list.len()));
        list.truncate(MAX_ENTRIES);
    }
}

fn side(trace_id: TraceId, spans: &[DiffSpan]) -> DiffSide {
    let known: BTreeSet<&[u8]> = spans.iter().map(|span| span.id.as_slice()).collect();
    let tops = spans.iter().filter(|span| !known.contains(span.parent.as_slice()));
    DiffSide {
        trace_id,
        span_count: spans.len(),
        error_count: spans.iter().filter(|span| span.failed).count(),
        duration_ns: tops.map(|span| span.duration_ns).max().unwrap_or_default(),
    }
}

fn names<'a>(a: &'a [DiffSpan], b: &'a [DiffSpan], name: impl Fn(&'a DiffSpan) -> &'a str) -> DiffNames {
    let in_a: BTreeSet<&str> = a.iter().map(&name).collect();
    let in_b: BTreeSet<&str> = b.iter().map(&name).collect();
    let owned = |names: Vec<&&str>| names.into_iter().map(|name| (*name).to_owned()).collect();
    DiffNames {
        both: owned(in_a.intersection(&in_b).collect()),
        only_a: owned(in_a.difference(&in_b).collect()),
        only_b: owned(in_b.difference(&in_a).collect()),
    }
}

/// What both sides have under each key, in the order of the keys.
fn by_key<'a, K: Ord, S: Default>(
    a: &'a [DiffSpan],
    b: &'a [DiffSpan],
    key: impl Fn(&'a DiffSpan) -> Option<K>,
    add: impl Fn(&mut S, &'a DiffSpan),
) -> BTreeMap<K, [S; 2]> {
    let mut sums: BTreeMap<K, [S; 2]> = BTreeMap::new();
    for (spans, place) in [(a, 0), (b, 1)] {
        for span in spans {
            if let Some(key) = key(span) {
                add(&mut sums.entry(key).or_default()[place], span);
            }
        }
    }
    sums
}

fn operations(a: &[DiffSpan], b: &[DiffSpan]) -> Vec<OperationDiff> {
    let sums = by_key(
        a,
        b,
        |span| Some((span.service.as_str(), span.name.as_str())),
        |sum: &mut OperationSide, span| {
            sum.count += 1;
            sum.errors += usize::from(span.failed);
            sum.total_ns = sum.total_ns.saturating_add(span.duration_ns);
            sum.max_ns = sum.max_ns.max(span.duration_ns);
        },
    );
    let mut operations: Vec<OperationDiff> = sums
        .into_iter()
        .map(|((service, name), [a, b])| OperationDiff {
            service_name: service.to_owned(),
            name: cut(name, LIST_VALUE_BYTES),
            a,
            b,
            same: (a.count, a.errors) == (b.count, b.errors) && as_long(a.total_ns, b.total_ns),
        })
        .collect();
    operations.sort_by_key(|operation| operation.same);
    operations
}

fn as_long(a: u64, b: u64) -> bool {
    let (short, long) = (a.min(b), a.max(b));
    long <= NO_TIME_NS || (long as f64) < (short.max(1) as f64) * SAME_DURATION
}

fn errors(a: &[DiffSpan], b: &[DiffSpan]) -> Vec<ErrorDiff> {
    let key = |span: &DiffSpan| {
        let message = span.error_message.as_deref().map(masked);
        span.failed.then(|| (span.service.clone(), cut(&span.name, LIST_VALUE_BYTES), span.error_type.clone(), message))
    };
    let sums = by_key(a, b, key, |count: &mut usize, _| *count += 1);
    let mut errors: Vec<ErrorDiff> = sums
        .into_iter()
        .map(|((service_name, name, error_type, message), [count_a, count_b])| ErrorDiff {
            service_name,
            name,
            error_type,
            message,
            count_a,
            count_b,
        })
        .collect();
    errors.sort_by_key(|error| error.count_a == error.count_b);
    errors
}

/// A message without what is another every time: words with a digit in them are `#`.
fn masked(message: &str) -> String {
    let mut masked = String::new();
    for word in cut(message, MAX_VALUE_BYTES).split_inclusive(|character: char| {
        !(character.is_alphanumeric() || matches!(character, '-' | '_' | '.' | ':' | '/'))
    }) {
        let end = word.char_indices().next_back().filter(|(_, last)| !last.is_alphanumeric());
        let (word, tail) = end.map_or((word, ""), |(at, _)| word.split_at(at));
        masked.push_str(if word.chars().any(|character| character.is_ascii_digit()) { "#" } else { word });
        masked.push_str(tail);
    }
    masked
}

/// The values that the spans of an operation have under a key.
type Values<'a> = BTreeSet<&'a str>;

fn attributes(a: &[DiffSpan], b: &[DiffSpan]) -> Vec<AttributeDiff> {
    let mut values: BTreeMap<(&str, &str, &str), [Values<'_>; 2]> = BTreeMap::new();
    let mut seen: HashMap<(&str, &str), [bool; 2]> = HashMap::new();
    for (spans, place) in [(a, 0), (b, 1)] {
        for span in spans {
            let operation = (span.service.as_str(), span.name.as_str());
            seen.entry(operation).or_default()[place] = true;
            for (key, value) in span.attributes.iter().filter(|(key, _)| !PER_TRACE.contains(&key.as_str())) {
                values.entry((operation.0, operation.1, key)).or_default()[place].insert(value);
            }
        }
    }
    let shown =
        |values: Values<'_>| values.into_iter().take(MAX_VALUES).map(|value| cut(value, MAX_VALUE_BYTES)).collect();
    values
        .into_iter()
        .filter(|((service, name, _), [a, b])| a != b && seen.get(&(*service, *name)) == Some(&[true, true]))
        .map(|((service, name, key), [a, b])| AttributeDiff {
            service_name: service.to_owned(),
            name: cut(name, LIST_VALUE_BYTES),
            key: key.to_owned(),
            values_a: shown(a),
            values_b: shown(b),
        })
        .collect()
}

#[cfg(test)]
mod tests;
