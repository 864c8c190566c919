//! A trace drawn as a tree: spans below their parents in order of time, with what went wrong in place.
//!
//! Any set of spans can be drawn: missing parents, loops of parents, equal ids.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Write as _;

use oneiric_otel::query::{TraceId, TraceOverview};
use oneiric_otel::store::Stored;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use opentelemetry_proto::tonic::trace::v1::Span;
use serde::Serialize;

use crate::moment;
use crate::screen::clean_short;

const NAME_CHARACTERS: usize = 80;
const MESSAGE_CHARACTERS: usize = 200;
/// OTLP's number of the first warning, and of the first error.
const WARNING: i32 = 13;
const ERROR: i32 = 17;
/// OTLP's status codes.
const STATUS_OK: i32 = 1;
const STATUS_ERROR: i32 = 2;
/// A branch this deep is drawn flat from here on: no terminal is wide enough for more.
const DEPTH: usize = 60;

/// A trace in numbers. As derivation says, of the spans that are shown; [`overview`] says what it is before.
#[derive(Debug, Serialize)]
pub(crate) struct Overview {
    trace_id: String,
    start_time: String,
    #[serde(skip)]
    start_ns: u64,
    duration_ns: u64,
    status: String,
    span_count: usize,
    error_count: usize,
    log_count: usize,
    services: BTreeSet<String>,
}

/// The numbers of a trace: those of its derived row, if that was derived from as many spans; else by the same rules
/// from the records. A trace of logs alone has no row.
pub(crate) fn overview(
    trace_id: TraceId,
    derived: Option<TraceOverview>,
    spans: &[Stored<Span>],
    logs: &[Stored<LogRecord>],
) -> Overview {
    let fresh = derived.filter(|row| usize::try_from(row.span_count).is_ok_and(|count| count == spans.len()));
    match fresh {
        Some(row) => Overview {
            trace_id: trace_id.to_string(),
            start_time: row.start_time.to_string(),
            start_ns: u64::try_from(row.start_time.as_nanosecond()).unwrap_or_default(),
            duration_ns: row.duration_ns.unsigned_abs(),
            status: row.status,
            span_count: spans.len(),
            error_count: usize::try_from(row.error_count).unwrap_or_default(),
            log_count: logs.len(),
            services: row.services.into_iter().collect(),
        },
        None => count(trace_id, spans, logs),
    }
}

fn count(trace_id: TraceId, spans: &[Stored<Span>], logs: &[Stored<LogRecord>]) -> Overview {
    let known = |times: &mut dyn Iterator<Item = u64>| times.filter(|time| *time != 0).min();
    let start_ns = if spans.is_empty() {
        known(&mut logs.iter().map(time_of)).unwrap_or(0)
    } else {
        known(&mut spans.iter().map(|span| span.record.start_time_unix_nano)).unwrap_or(0)
    };
    let end_of = |span: &Span| span.end_time_unix_nano.max(span.start_time_unix_nano);
    let end = spans.iter().map(|span| end_of(&span.record)).max().unwrap_or(start_ns);
    let error_count = spans.iter().filter(|span| failed(&span.record)).count();
    Overview {
        trace_id: trace_id.to_string(),
        start_time: moment::rfc3339(start_ns),
        start_ns,
        duration_ns: end.saturating_sub(start_ns),
        status: match error_count {
            0 if is_ok(spans) => "ok",
            0 => "unset",
            _ => "error",
        }
        .to_owned(),
        span_count: spans.len(),
        error_count,
        log_count: logs.len(),
        services: if spans.is_empty() {
            logs.iter().map(service).collect()
        } else {
            spans.iter().map(service).collect()
        },
    }
}

/// The tree, with a line about the whole above it. Ends with a line break.
pub(crate) fn draw(overview: &Overview, spans: &[Stored<Span>], logs: &[Stored<LogRecord>]) -> String {
    let mut drawing = Drawing::new(spans, logs);
    let services = if overview.services.len() == 1 { "service" } else { "services" };
    writeln!(
        drawing.text,
        "trace {}  {}  {}\n{}, {}, {} {services}, {}, began {}\n",
        overview.trace_id,
        overview.status,
        moment::show_duration(overview.duration_ns),
        counted(overview.span_count, "span"),
        counted(overview.error_count, "error"),
        overview.services.len(),
        counted(overview.log_count, "log"),
        moment::show(overview.start_ns),
    )
    .unwrap_or_default(); // Writing to a string cannot fail.
    drawing.all();
    drawing.text
}

fn counted(number: usize, thing: &str) -> String {
    format!("{number} {thing}{}", if number == 1 { "" } else { "s" })
}

struct Drawing<'a> {
    spans: &'a [Stored<Span>],
    logs: &'a [Stored<LogRecord>],
    start: u64,
    children: HashMap<usize, Vec<usize>>,
    tops: Vec<usize>,
    /// The logs worth showing, by the span they were written in.
    logs_of: HashMap<usize, Vec<usize>>,
    lost_logs: Vec<usize>,
    drawn: Vec<bool>,
    text: String,
}

impl<'a> Drawing<'a> {
    fn new(spans: &'a [Stored<Span>], logs: &'a [Stored<LogRecord>]) -> Self {
        let mut by_id: HashMap<&[u8], usize> = HashMap::with_capacity(spans.len());
        for (index, span) in spans.iter().enumerate() {
            by_id.entry(&span.record.span_id).or_insert(index);
        }
        let mut children: HashMap<usize, Vec<usize>> = HashMap::new();
        let mut tops = Vec::new();
        for (index, span) in spans.iter().enumerate() {
            let parent = Some(&span.record).filter(|span| has_parent(span)).map(|span| span.parent_span_id.as_slice());
            match parent.and_then(|id| by_id.get(id)) {
                Some(&parent) if parent != index => children.entry(parent).or_default().push(index),
                _ => tops.push(index),
            }
        }
        let mut logs_of: HashMap<usize, Vec<usize>> = HashMap::new();
        let mut lost_logs = Vec::new();
        for (index, log) in logs.iter().enumerate() {
            if !is_telling(&log.record) {
                continue;
            }
            match by_id.get(log.record.span_id.as_slice()) {
                Some(&span) => logs_of.entry(span).or_default().push(index),
                None => lost_logs.push(index),
            }
        }
        let start = spans.iter().map(|span| span.record.start_time_unix_nano).filter(|start| *start != 0).min();
        Self {
            spans,
            logs,
            start: start.unwrap_or(0),
            children,
            tops,
            logs_of,
            lost_logs,
            drawn: vec![false; spans.len()],
            text: String::new(),
        }
    }

    fn all(&mut self) {
        for top in self.tops.clone() {
            self.branch(top);
        }
        // What hangs in a loop of parents is below no top.
        for index in 0..self.spans.len() {
            if !self.drawn[index] {
                self.branch(index);
            }
        }
        for log in std::mem::take(&mut self.lost_logs) {
            let line = self.log_line(log);
            self.line("", &line);
        }
    }

    /// Draws a span and all below it, without recursion: a trace may be a chain of a hundred thousand spans.
    fn branch(&mut self, top: usize) {
        let mut open = vec![(top, String::new(), true, 0_usize)];
        while let Some((index, prefix, last, depth)) = open.pop() {
            if std::mem::replace(&mut self.drawn[index], true) {
                continue;
            }
            let (own, below) = match (depth, last) {
                (0, _) => (String::new(), String::new()),
                (DEPTH.., _) => (prefix.clone(), prefix),
                (_, true) => (format!("{prefix}└─ "), format!("{prefix}   ")),
                (_, false) => (format!("{prefix}├─ "), format!("{prefix}│  ")),
            };
            let children: Vec<usize> = self.children.remove(&index).unwrap_or_default();
            let children: Vec<usize> = children.into_iter().filter(|&child| !self.drawn[child]).collect();
            let line = self.span_line(index, depth == 0);
            self.line(&own, &line);
            let detail = format!("{below}{}", if children.is_empty() { "     " } else { "│    " });
            for line in self.detail_lines(index) {
                self.line(&detail, &line);
            }
            let count = children.len();
            for (position, child) in children.into_iter().enumerate().rev() {
                open.push((child, below.clone(), position + 1 == count, depth + 1));
            }
        }
    }

    fn line(&mut self, prefix: &str, line: &str) {
        self.text.push_str(prefix);
        self.text.push_str(line);
        self.text.push('\n');
    }

    fn span_line(&self, index: usize, top: bool) -> String {
        let span = &self.spans[index].record;
        let elapsed = span.end_time_unix_nano.saturating_sub(span.start_time_unix_nano);
        let mut line = format!(
            "{}  {}  {}",
            clean_short(&service(&self.spans[index]), NAME_CHARACTERS),
            clean_short(&span.name, NAME_CHARACTERS),
            moment::show_duration(elapsed)
        );
        let code =
            ["http.response.status_code", "http.status_code"].iter().find_map(|key| attribute(&span.attributes, key));
        if let Some(code) = code {
            write!(line, "  {}", clean_short(&code, 10)).unwrap_or_default();
        }
        if failed(span) {
            line.push_str("  ERROR");
        }
        if top && has_parent(span) {
            line.push_str("  (its parent is not stored)");
        }
        line
    }

    fn detail_lines(&self, index: usize) -> Vec<String> {
        let span = &self.spans[index].record;
        // Told once, however many ways there are to tell it.
        let mut lines: Vec<(u64, String)> = Vec::new();
        let mut said = BTreeSet::new();
        for event in span.events.iter().filter(|event| event.name == "exception") {
            let kind = attribute(&event.attributes, "exception.type").unwrap_or_default();
            let message = attribute(&event.attributes, "exception.message").unwrap_or_default();
            said.insert(message.clone());
            let text = [kind, message].into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(": ");
            let shown = clean_short(&text, MESSAGE_CHARACTERS);
            lines.push((event.time_unix_nano, format!("! {} exception {shown}", self.at(event.time_unix_nano))));
        }
        let status = span.status.as_ref().filter(|status| failed(span) && !status.message.is_empty());
        if let Some(status) = status.filter(|status| !said.contains(&status.message)) {
            let shown = clean_short(&status.message, MESSAGE_CHARACTERS);
            lines.push((span.end_time_unix_nano, format!("! {} status {shown}", self.at(span.end_time_unix_nano))));
        }
        for &log in self.logs_of.get(&index).into_iter().flatten() {
            lines.push((time_of(&self.logs[log]), self.log_line(log)));
        }
        lines.sort();
        lines.into_iter().map(|(_, line)| line).collect()
    }

    fn log_line(&self, index: usize) -> String {
        let log = &self.logs[index];
        let failed = log.record.severity_number >= ERROR || is_exception(&log.record);
        let level = if failed { "error" } else { "warning" };
        let mut text = log.record.body.as_ref().map(show_value).unwrap_or_default();
        if let Some(message) = attribute(&log.record.attributes, "exception.message")
            && !text.contains(&message)
        {
            text = format!("{text} {message}");
        }
        format!("* {} log {level} {}", self.at(time_of(log)), clean_short(&text, MESSAGE_CHARACTERS))
    }

    /// A time as distance from the start.
    fn at(&self, time: u64) -> String {
        if time >= self.start {
            format!("+{}", moment::show_duration(time - self.start))
        } else {
            format!("-{}", moment::show_duration(self.start - time))
        }
    }
}

/// Whether the root says that all is well: the earliest span without a parent.
fn is_ok(spans: &[Stored<Span>]) -> bool {
    let roots = spans.iter().map(|span| &span.record).filter(|span| !has_parent(span));
    let root = roots.min_by_key(|span| (span.start_time_unix_nano == 0, span.start_time_unix_nano));
    root.and_then(|root| root.status.as_ref()).is_some_and(|status| status.code == STATUS_OK)
}

/// Some senders write zeros for "no parent".
fn has_parent(span: &Span) -> bool {
    span.parent_span_id.iter().any(|byte| *byte != 0)
}

/// Whether a log tells what went wrong: a warning or worse, or an exception.
fn is_telling(log: &LogRecord) -> bool {
    log.severity_number >= WARNING || is_exception(log)
}

fn is_exception(log: &LogRecord) -> bool {
    let is_key = |key: &str| key == "exception.type" || key == "exception.message";
    log.event_name == "exception" || log.attributes.iter().any(|attribute| is_key(&attribute.key))
}

fn failed(span: &Span) -> bool {
    span.status.as_ref().is_some_and(|status| status.code == STATUS_ERROR)
}

fn time_of(log: &Stored<LogRecord>) -> u64 {
    match log.record.time_unix_nano {
        0 => log.record.observed_time_unix_nano,
        time => time,
    }
}

fn service<R>(stored: &Stored<R>) -> String {
    let attributes = stored.resource.resource.as_ref().map(|resource| resource.attributes.as_slice());
    attribute(attributes.unwrap_or_default(), "service.name").unwrap_or_else(|| "(no service)".to_owned())
}

fn attribute(attributes: &[KeyValue], key: &str) -> Option<String> {
    attributes.iter().find(|attribute| attribute.key == key)?.value.as_ref().map(show_value)
}

fn show_value(value: &AnyValue) -> String {
    match &value.value {
        Some(Value::StringValue(text)) => text.clone(),
        Some(Value::BoolValue(value)) => value.to_string(),
        Some(Value::IntValue(value)) => value.to_string(),
        Some(Value::DoubleValue(value)) => value.to_string(),
        Some(Value::BytesValue(bytes)) => format!("({} bytes)", bytes.len()),
        Some(Value::ArrayValue(array)) => {
            format!("[{}]", array.values.iter().map(show_value).collect::<Vec<_>>().join(", "))
        }
        Some(Value::KvlistValue(list)) => {
            let entries: BTreeMap<_, _> = list
                .values
                .iter()
                .map(|entry| (entry.key.as_str(), entry.value.as_ref().map(show_value).unwrap_or_default()))
                .collect();
            let shown: Vec<String> = entries.into_iter().map(|(key, value)| format!("{key}: {value}")).collect();
            format!("{{{}}}", shown.join(", "))
        }
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests;
