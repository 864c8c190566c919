//! What stands in a question but in no text: ids, numbers, hosts. Texts mask them, so that traces share texts; logs and
//! attributes have them still.
//!
//! Bounded: a few marks of a question; for each the attributes that are in use most, in indexes and in the newest traces, and
//! one page of logs, of a search that itself stops at a bound.

use std::collections::HashSet;

use serde::Serialize;

use super::filter::{TraceFilter, documents};
use super::search::TextHit;
use super::trace::{TraceId, TraceOverview};
use super::{LogsRequest, QueryError, QueryService};
use crate::store::marks::{FoundValue, ValueForms};
use crate::store::sample::SampleOf;
use crate::store::search::RowFilter;

/// Marks of a question that are looked up at most.
const MARKS: usize = 3;
/// Logs that are read for each.
const LOGS: usize = 50;
/// Traces that come of marks at most, and of marks in attributes alone: logs shall have their turn.
const TRACES: usize = 5;
const TRACES_OF_ATTRIBUTES: usize = 3;
/// Names of attributes that a mark is looked up under, those in use most.
const KEYS: usize = 100;
/// Traces with a mark in an attribute that are read, before the filter.
const FOUND: usize = 50;
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

/// What of a question stands in a trace as it is. Nothing was weighed: the trace has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ExactMatch {
    /// The id, number or host.
    pub value: String,
    /// Where it stands.
    pub place: MatchPlace,
    /// The attribute that has it, where it stands in one.
    pub attribute: Option<String>,
}

/// Where something stands in a trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum MatchPlace {
    /// It is the trace's id.
    TraceId,
    /// In a log record.
    Log,
    /// It is the whole value of an attribute of a span or of its resource.
    Attribute,
}

impl QueryService {
    /// The traces that the marks of a question lead to. One that the question names by its id is found whatever the
    /// filter is.
    pub(super) async fn marked_traces(&self, question: &str, filter: &TraceFilter) -> Result<Marked, QueryError> {
        let mut marked = Marked::default();
        for (mark, id) in marks(question).filter_map(|mark| Some((mark, mark.parse::<TraceId>().ok()?))).take(MARKS) {
            match self.get_trace_summary(id).await {
                Ok(trace) => marked.hits.push(hit(trace, exact(mark, MatchPlace::TraceId, None))),
                Err(QueryError::NotFound { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        marked.named = !marked.hits.is_empty();
        let marks: Vec<&str> = marks(question).take(MARKS).collect();
        if marked.named || marks.is_empty() || !filter.attributes.is_empty() {
            return Ok(marked);
        }
        let mut seen = HashSet::new();
        let row_filter = super::filter::row_filter(filter)?;
        let keys = self.attributes_in_use(&row_filter).await?;
        for mark in &marks {
            let found = match self.traces_with_value(mark, &keys, &row_filter).await {
                // What takes too long is left out: the texts answer still.
                Err(QueryError::TooLong) => continue,
                found => found?,
            };
            for found in found {
                let id = TraceId(found.trace_id.into_bytes());
                let exact = exact(mark, MatchPlace::Attribute, Some(found.key));
                self.add_marked(&mut marked, &mut seen, (id, exact), filter, TRACES_OF_ATTRIBUTES).await?;
            }
        }
        for mark in &marks {
            for id in self.traces_with_log(mark, filter).await? {
                let exact = exact(mark, MatchPlace::Log, None);
                self.add_marked(&mut marked, &mut seen, (id, exact), filter, TRACES).await?;
            }
        }
        Ok(marked)
    }

    /// Adds a trace if it passes the filter, is new, and there are not yet so many.
    async fn add_marked(
        &self,
        marked: &mut Marked,
        seen: &mut HashSet<TraceId>,
        (id, exact): (TraceId, ExactMatch),
        filter: &TraceFilter,
        most: usize,
    ) -> Result<(), QueryError> {
        if marked.hits.len() >= most || !seen.insert(id) {
            return Ok(());
        }
        match self.get_trace_summary(id).await {
            Ok(trace) if passes(&trace, filter) => marked.hits.push(hit(trace, exact)),
            Ok(_) | Err(QueryError::NotFound { .. }) => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Names of attributes whose values may be ids, numbers or hosts, those in use most, and whether resources have them.
    async fn attributes_in_use(&self, filter: &RowFilter) -> Result<Vec<(String, bool)>, QueryError> {
        let sampled = match self.database.sampled_keys(SampleOf::Spans, filter.times(), "").await {
            Err(error) if error.is_too_long() => return Ok(Vec::new()),
            sampled => sampled?,
        };
        let mut rows = sampled.rows;
        rows.retain(|row| !matches!(row.kind.as_str(), "boolean" | "object" | "null"));
        rows.sort_by(|a, b| b.records.cmp(&a.records).then_with(|| a.key.cmp(&b.key)));
        let mut seen = HashSet::new();
        let keys = rows.into_iter().map(|row| (row.key, row.of_resource)).filter(|key| seen.insert(key.clone()));
        Ok(keys.take(KEYS).collect())
    }

    /// Traces with the mark as the whole value of an attribute.
    async fn traces_with_value(
        &self,
        mark: &str,
        keys: &[(String, bool)],
        filter: &RowFilter,
    ) -> Result<Vec<FoundValue>, QueryError> {
        let of_spans = value_forms(mark, keys.iter().filter(|(_, of_resource)| !of_resource));
        let of_resources = value_forms(mark, keys.iter().filter(|(_, of_resource)| *of_resource));
        let resources = self.database.resources_with_value(&of_resources).await?;
        let mut found = self.database.value_in_newest(mark, &resources, filter, FOUND).await?;
        if found.len() < FOUND {
            found.extend(self.database.value_in_index(&of_spans, filter, FOUND).await?);
        }
        Ok(found)
    }

    /// Traces with a log that has the mark, the newest first.
    async fn traces_with_log(&self, mark: &str, filter: &TraceFilter) -> Result<Vec<TraceId>, QueryError> {
        let request = LogsRequest {
            query: Some(format!("\"{mark}\"")),
            start: filter.since,
            end: filter.until,
            limit: LOGS,
            ..LogsRequest::default()
        };
        match self.search_logs(&request).await {
            Ok(page) => Ok(page.logs.iter().filter_map(|log| log.trace_id).collect()),
            // What takes too long is left out: the texts answer still.
            Err(QueryError::TooLong | QueryError::InvalidArgument { .. }) => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }
}

/// The mark as the value of each attribute.
fn value_forms<'a>(mark: &str, keys: impl Iterator<Item = &'a (String, bool)>) -> ValueForms {
    let mut forms = ValueForms::default();
    for (key, _) in keys {
        for document in documents(&[key], mark) {
            forms.keys.push(key.clone());
            forms.documents.push(document);
        }
    }
    forms
}

fn exact(mark: &str, place: MatchPlace, attribute: Option<String>) -> ExactMatch {
    ExactMatch { value: mark.to_owned(), place, attribute }
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

fn hit(trace: TraceOverview, exact: ExactMatch) -> TextHit {
    TextHit {
        score: 1.0,
        cosine: None,
        word_share: None,
        exact: Some(exact),
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
