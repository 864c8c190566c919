//! How a trace failed: which span failed first, and which one the failure came from.
//!
//! Pure: facts in, answer out.

use std::cmp::Reverse;

use serde::Serialize;

use super::spans::{Moment, SpanId};
use crate::derive::trace::{SpanFact, Tree, outline};

/// Spans between the cause and the top that are listed at most.
const MAX_CHAIN: usize = 50;

/// How a trace failed.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct TraceFailure {
    /// Spans that failed.
    pub failed_spans: usize,
    /// The span that failed before all others: whose end came first, and of those that ended together the deepest.
    pub first: FailedSpan,
    /// The span that the failure came from: of those whose failure was handed up to the root, else of all, the deepest.
    /// It is also what the trace's error type and message are of.
    pub cause: FailedSpan,
    /// The spans above the cause that failed with it, from the one right above it to the top.
    pub handed_up_to: Vec<FailedSpan>,
    /// Whether the failure reached the root.
    pub reached_root: bool,
}

/// A span that failed.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct FailedSpan {
    /// The span.
    pub span_id: SpanId,
    /// Its service.
    pub service_name: String,
    /// Its operation.
    pub name: String,
    /// When it ended, which is when its failure was known.
    pub end_time: Moment,
    /// `error.type`, or the type of its exception.
    pub error_type: Option<String>,
    /// What is known of its error.
    pub message: Option<String>,
}

/// How a trace failed; none when no span did. `spans` must be in order of start and hash.
pub fn failure(spans: &[SpanFact]) -> Option<TraceFailure> {
    let outline = outline(spans)?;
    let cause = outline.cause?;
    let tree = Tree::of(spans);
    let depths = tree.depths();
    let first = (0..spans.len())
        .filter(|&index| spans[index].failed())
        .min_by_key(|&index| (spans[index].end_ns().max(spans[index].start_ns), Reverse(depths[index]), index))?;
    let mut handed_up_to = Vec::new();
    let mut reached_root = cause == outline.root;
    let mut at = cause;
    // A loop of parents ends after as many steps as there are spans.
    for _ in 0..spans.len() {
        let Some(parent) = tree.parent(at).filter(|&parent| spans[parent].failed() && parent != cause) else { break };
        if handed_up_to.len() < MAX_CHAIN {
            handed_up_to.push(failed_span(&spans[parent]));
        }
        reached_root |= parent == outline.root;
        at = parent;
    }
    Some(TraceFailure {
        failed_spans: spans.iter().filter(|span| span.failed()).count(),
        first: failed_span(&spans[first]),
        cause: failed_span(&spans[cause]),
        handed_up_to,
        reached_root,
    })
}

fn failed_span(span: &SpanFact) -> FailedSpan {
    FailedSpan {
        span_id: SpanId(span.id.to_vec()),
        service_name: span.service.to_string(),
        name: span.name.to_string(),
        end_time: Moment(span.end_ns()),
        error_type: span.error_type.clone(),
        message: span.message().map(str::to_owned),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(id: u8, parent: u8, name: &str, start: u64, end: u64, status: &str) -> SpanFact {
        SpanFact {
            start_ns: start,
            duration_ns: end - start,
            hash: i64::from(id),
            id: [id; 8],
            parent: (parent != 0).then_some([parent; 8]),
            service: "shop".into(),
            name: name.into(),
            kind: "internal".into(),
            status: status.into(),
            http_status: None,
            agent: false,
            error_type: None,
            error_message: None,
            status_message: (status == "error").then(|| format!("{name} broke")),
        }
    }

    #[test]
    fn the_first_failure_need_not_be_the_cause() {
        let spans = [
            span(1, 0, "root", 1, 100, "error"),
            // Tried, failed, and tried again: dealt with.
            span(2, 1, "attempt", 2, 10, "error"),
            span(3, 1, "call", 20, 90, "error"),
            span(4, 3, "query", 30, 80, "error"),
        ];
        let failure = failure(&spans).expect("it failed");
        assert_eq!(failure.failed_spans, 4);
        assert_eq!((failure.first.name.as_str(), failure.cause.name.as_str()), ("attempt", "query"));
        assert_eq!(failure.cause.message.as_deref(), Some("query broke"));
        let chain: Vec<&str> = failure.handed_up_to.iter().map(|span| span.name.as_str()).collect();
        assert_eq!((chain, failure.reached_root), (vec!["call", "root"], true));
    }

    #[test]
    fn a_failure_that_was_dealt_with_did_not_reach_the_root() {
        let spans = [span(1, 0, "root", 1, 100, "ok"), span(2, 1, "attempt", 2, 10, "error")];
        let failed = failure(&spans).expect("a span failed");
        assert!(!failed.reached_root && failed.handed_up_to.is_empty());
        assert_eq!(failed.first, failed.cause);
        assert!(failure(&spans[..1]).is_none() && failure(&[]).is_none());
    }

    #[test]
    fn loops_of_failing_parents_end() {
        let spans = [span(1, 2, "a", 1, 10, "error"), span(2, 1, "b", 2, 9, "error")];
        assert_eq!(failure(&spans).expect("it failed").handed_up_to.len(), 1);
    }
}
