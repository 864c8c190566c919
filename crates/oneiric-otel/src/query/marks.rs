//! What stands in a question but in no text: ids, numbers, hosts. Texts mask them, so that traces share texts; logs have
//! them still.
//!
//! Bounded: a few marks of a question, one page of logs for each, and a search of logs that itself stops at a bound.

use std::collections::HashSet;

use super::filter::TraceFilter;
use super::search::TextHit;
use super::trace::{TraceId, TraceOverview};
use super::{LogsRequest, QueryError, QueryService};

/// Marks of a question that are looked up at most.
const MARKS: usize = 3;
/// Logs that are read for each.
const LOGS: usize = 50;
/// Traces that come of them at most.
const TRACES: usize = 5;
/// Characters of a mark at least: shorter ones stand everywhere.
const MIN_CHARACTERS: usize = 4;
/// And at most. No id is longer.
const MAX_CHARACTERS: usize = 200;

/// What the marks of a question led to.
#[derive(Debug, Default)]
pub(super) struct Marked {
    /// Whether the question names a trace by its id: then that is the answer.
    pub(super) named: bool,
    /// The traces, one hit each.
    pub(super) hits: Vec<TextHit>,
}

impl QueryService {
    /// The traces that the marks of a question lead to. One that the question names by its id is found whatever the
    /// filter is.
    pub(super) async fn marked_traces(&self, question: &str, filter: &TraceFilter) -> Result<Marked, QueryError> {
        let mut marked = Marked::default();
        for id in marks(question).filter_map(|mark| mark.parse::<TraceId>().ok()).take(MARKS) {
            match self.get_trace_summary(id).await {
                Ok(trace) => marked.hits.push(hit(trace)),
                Err(QueryError::NotFound { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        marked.named = !marked.hits.is_empty();
        if marked.named || !filter.attributes.is_empty() {
            return Ok(marked);
        }
        let mut seen = HashSet::new();
        for mark in marks(question).take(MARKS) {
            let request = LogsRequest {
                query: Some(format!("\"{mark}\"")),
                start: filter.since,
                end: filter.until,
                limit: LOGS,
                ..LogsRequest::default()
            };
            let logs = match self.search_logs(&request).await {
                Ok(page) => page.logs,
                // What takes too long is left out: the texts answer still.
                Err(QueryError::TooLong | QueryError::InvalidArgument { .. }) => continue,
                Err(error) => return Err(error),
            };
            for id in logs.iter().filter_map(|log| log.trace_id) {
                if marked.hits.len() == TRACES {
                    return Ok(marked);
                }
                if !seen.insert(id) {
                    continue;
                }
                match self.get_trace_summary(id).await {
                    Ok(trace) if passes(&trace, filter) => marked.hits.push(hit(trace)),
                    Ok(_) | Err(QueryError::NotFound { .. }) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(marked)
    }
}

/// Words of a question that look like ids, numbers or hosts, without the signs around them.
fn marks(question: &str) -> impl Iterator<Item = &str> {
    question
        .split_whitespace()
        .map(|word| word.trim_matches(|c: char| !c.is_alphanumeric()))
        .filter(|word| (MIN_CHARACTERS..=MAX_CHARACTERS).contains(&word.chars().count()) && is_mark(word))
}

fn is_mark(word: &str) -> bool {
    let digits = word.chars().filter(char::is_ascii_digit).count();
    let inner_sign = word.contains(['.', '@', ':', '/']) && !word.contains("://");
    let host = inner_sign && word.split(['.', '@', ':', '/']).all(|part| !part.is_empty()) && !word.contains('\"');
    digits >= 2 && !word.contains('\"') || host
}

fn hit(trace: TraceOverview) -> TextHit {
    TextHit {
        score: 1.0,
        cosine: None,
        word_share: None,
        text: trace.text.clone().unwrap_or_default(),
        trace_count: 1,
        newest: trace,
    }
}

/// What the filter says about the trace itself; attributes are not looked at.
fn passes(trace: &TraceOverview, filter: &TraceFilter) -> bool {
    let duration = u128::try_from(trace.duration_ns).unwrap_or_default();
    filter.since.is_none_or(|since| trace.start_time >= since)
        && filter.until.is_none_or(|until| trace.start_time < until)
        && filter.service.as_ref().is_none_or(|service| trace.services.contains(service))
        && filter.operation.as_ref().is_none_or(|operation| trace.root_name == *operation)
        && filter.status.as_ref().is_none_or(|status| trace.status == *status)
        && filter.min_duration.is_none_or(|min| duration >= min.as_nanos())
        && filter.max_duration.is_none_or(|max| duration <= max.as_nanos())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_numbers_and_hosts_are_marks_and_words_are_not() {
        let found: Vec<&str> = marks(
            "what happened to order ord-48213 (4bf92f3577b34da6a3ce929d0e0e4736) on db-7.example.org, \
             no contacts in a booking? v2 and/or",
        )
        .collect();
        assert_eq!(found, ["ord-48213", "4bf92f3577b34da6a3ce929d0e0e4736", "db-7.example.org", "and/or"]);
        assert_eq!(marks("the database is down").count(), 0);
    }
}
