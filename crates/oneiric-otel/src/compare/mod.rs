//! Whether two stores say the same of their traces: span by span and field by field.
//!
//! Who writes telemetry to two places wants to know that both have it. What each place has comes as [`SpanFacts`], made by
//! [`facts`] from OTLP and by [`jaeger`] from the JSON of Jaeger; [`compare_trace`] finds what is missing, doubled or
//! different. All of it is pure, and knows one trace at a time: who reads the places, and in which order, is the caller's.
//!
//! A fact is compared as text. The other side may know less than OTLP says: then both sides are told in its [`Terms`], and
//! what it does not know is not compared.

pub mod facts;
pub mod jaeger;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// In whose words spans are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Terms {
    /// OTLP's: everything, times in nanoseconds.
    Otlp,
    /// Jaeger's: times in microseconds, each rounded down; no flags, schema URLs, attributes of scopes or links, or counts
    /// of what was dropped; arrays and maps are text.
    Jaeger,
}

/// What is said of a span: by field, such as `name`, `attributes.http.route` or `events[0].time`.
pub type Facts = BTreeMap<String, String>;

/// A span of a trace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpanFacts {
    /// 32 hex digits.
    pub trace_id: String,
    /// 16 hex digits.
    pub span_id: String,
    /// Its start, Unix time in nanoseconds, as precise as it is known.
    pub start_unix_nanos: u64,
    /// Everything that is compared.
    pub facts: Facts,
}

/// What is wrong with a span.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Only the other side has it.
    MissingHere,
    /// Only this side has it.
    MissingThere,
    /// This side has it more often.
    DoubledHere,
    /// The other side has it more often.
    DoubledThere,
    /// Both have it and say other things of it.
    Different,
}

/// A field of which the two sides say other things.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FieldDifference {
    /// Such as `status.code`.
    pub field: String,
    /// What this side says; none when it says nothing.
    pub here: Option<String>,
    /// What the other side says.
    pub there: Option<String>,
}

/// A span that is not the same on both sides.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SpanDifference {
    /// 16 hex digits.
    pub span_id: String,
    /// What it is called where it is.
    pub name: String,
    /// What is wrong.
    pub kind: Kind,
    /// The fields, of one that is different.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub fields: Vec<FieldDifference>,
}

/// A trace that is not the same on both sides.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TraceDifference {
    /// 32 hex digits.
    pub trace_id: String,
    /// Spans on this side.
    pub spans_here: u64,
    /// Spans on the other side.
    pub spans_there: u64,
    /// What is wrong, in order of span. At least one.
    pub spans: Vec<SpanDifference>,
}

/// What was compared, and what came of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// Traces that are on either side.
    pub traces: u64,
    /// Traces that are the same on both.
    pub same_traces: u64,
    /// Traces of which the other side alone has spans.
    pub traces_missing_here: u64,
    /// Traces of which this side alone has spans.
    pub traces_missing_there: u64,
    /// Spans on this side.
    pub spans_here: u64,
    /// Spans on the other side.
    pub spans_there: u64,
    /// Spans by what is wrong with them.
    pub spans: BTreeMap<Kind, u64>,
    /// Spans that are different, by field, without keys and numbers: `attributes` stands for all of them.
    pub fields: BTreeMap<String, u64>,
}

impl Summary {
    /// Whether both sides say the same.
    pub fn is_same(&self) -> bool {
        self.same_traces == self.traces
    }

    /// Compares a trace, counts it, and returns what is wrong with it, if anything is.
    pub fn add(&mut self, trace_id: &str, here: Vec<SpanFacts>, there: Vec<SpanFacts>) -> Option<TraceDifference> {
        let (spans_here, spans_there) = (here.len() as u64, there.len() as u64);
        self.traces += 1;
        self.spans_here += spans_here;
        self.spans_there += spans_there;
        let spans = compare_trace(here, there);
        if spans.is_empty() {
            self.same_traces += 1;
            return None;
        }
        self.traces_missing_here += u64::from(spans_here == 0);
        self.traces_missing_there += u64::from(spans_there == 0);
        for span in &spans {
            *self.spans.entry(span.kind).or_default() += 1;
            let mut classes: Vec<String> = span.fields.iter().map(|difference| class(&difference.field)).collect();
            classes.dedup();
            for class in classes {
                *self.fields.entry(class).or_default() += 1;
            }
        }
        Some(TraceDifference { trace_id: trace_id.to_owned(), spans_here, spans_there, spans })
    }
}

/// A field without the key of an attribute and without the numbers of events and links.
fn class(field: &str) -> String {
    let mut class = String::new();
    let mut inside = false;
    for c in field.chars() {
        inside = (inside || c == '[') && c != ']';
        if !inside && c != ']' {
            class.push(c);
        }
        if class.ends_with("attributes.") {
            class.pop();
            break;
        }
    }
    class
}

/// What is wrong between the spans of a trace on this side and on the other. Spans with one id are compared with each other;
/// those that are the same everywhere say nothing.
pub fn compare_trace(here: Vec<SpanFacts>, there: Vec<SpanFacts>) -> Vec<SpanDifference> {
    let mut by_id: BTreeMap<String, (Vec<Facts>, Vec<Facts>)> = BTreeMap::new();
    for span in here {
        by_id.entry(span.span_id).or_default().0.push(span.facts);
    }
    for span in there {
        by_id.entry(span.span_id).or_default().1.push(span.facts);
    }
    let compared = by_id.into_iter().map(|(id, (here, there))| compare_spans(&id, here, there));
    compared.flatten().collect()
}

/// Spans of one id.
fn compare_spans(span_id: &str, mut here: Vec<Facts>, mut there: Vec<Facts>) -> Vec<SpanDifference> {
    let mut same = Vec::new();
    here.retain(|facts| match there.iter().position(|other| other == facts) {
        Some(found) => {
            same.push(there.remove(found));
            false
        }
        None => true,
    });
    let of = |facts: &Facts, kind, fields| SpanDifference {
        span_id: span_id.to_owned(),
        name: facts.get("name").cloned().unwrap_or_default(),
        kind,
        fields,
    };
    let mut found = Vec::new();
    // One that both have and one has again is no other span.
    let mut take_copies = |side: &mut Vec<Facts>, kind| {
        side.retain(|facts| {
            let is_copy = same.contains(facts);
            if is_copy {
                found.push(of(facts, kind, Vec::new()));
            }
            !is_copy
        });
    };
    take_copies(&mut here, Kind::DoubledHere);
    take_copies(&mut there, Kind::DoubledThere);
    let pairs = here.len().min(there.len());
    for (here, there) in here.drain(..pairs).zip(there.drain(..pairs)) {
        found.push(of(&here, Kind::Different, compare_facts(&here, &there)));
    }
    found.extend(here.iter().map(|facts| of(facts, Kind::MissingThere, Vec::new())));
    found.extend(there.iter().map(|facts| of(facts, Kind::MissingHere, Vec::new())));
    found
}

fn compare_facts(here: &Facts, there: &Facts) -> Vec<FieldDifference> {
    let mut fields: Vec<&String> = here.keys().chain(there.keys()).collect();
    fields.sort_unstable();
    fields.dedup();
    let differ = fields.into_iter().filter(|field| here.get(*field) != there.get(*field));
    differ
        .map(|field| FieldDifference {
            field: field.clone(),
            here: here.get(field).cloned(),
            there: there.get(field).cloned(),
        })
        .collect()
}
