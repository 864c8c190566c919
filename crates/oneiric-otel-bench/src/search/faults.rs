//! Faults of our own invention: traces as instrumentations of many kinds write them, and two questions about each in
//! other words.
//!
//! The conventions are mixed on purpose (old and new names, exceptions as events, as status or as logs), entries are
//! shared by several faults and by healthy requests, and ids differ from trace to trace, so that neither the name of the
//! root nor a single word finds a fault.

use std::collections::{HashMap, HashSet};

use anyhow::{Context as _, Result};
use bytes::Bytes;
use jiff::Timestamp;
use oneiric_otel::otlp::Signal;
use oneiric_otel::query::TraceId;
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, ArrayValue, KeyValue};
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::span::{Event, SpanKind};
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span, Status};
use prost::Message as _;
use serde::Deserialize;

use super::sets::Question;

/// Faults, as lines of JSON, and the time in which their traces begin.
pub(super) struct Invented {
    faults: &'static str,
    pub(super) time: (&'static str, &'static str),
    /// Part of every trace's id.
    mark: u128,
}

/// Faults of a shop, with which texts and weights were made.
pub(super) const SHOP: Invented = Invented {
    faults: include_str!("faults.jsonl"),
    time: ("2024-05-01T00:00:00Z", "2024-06-01T00:00:00Z"),
    mark: 0x00fa_0175,
};

/// Faults of a clinic and a bank, written down before anything was changed for them: nothing is chosen by what is
/// measured here.
pub(super) const CLINIC: Invented = Invented {
    faults: include_str!("faults-unseen.jsonl"),
    time: ("2024-07-01T00:00:00Z", "2024-08-01T00:00:00Z"),
    mark: 0x00fa_0176,
};

/// Traces of each fault, and healthy ones of each entry.
const OF_EACH: u64 = 5;
const MILLISECOND: u64 = 1_000_000;
const SEVERITY_WARN: i32 = 13;
const SEVERITY_ERROR: i32 = 17;

pub(super) struct Made {
    pub(super) requests: Vec<(Signal, Bytes)>,
    pub(super) questions: Vec<Question>,
    pub(super) faults: HashMap<TraceId, String>,
}

/// A line of `faults.jsonl`. In messages and logs `{n}` is a small number and `{id}` an id.
#[derive(Debug, Deserialize)]
struct Fault {
    key: String,
    /// Name of the root.
    entry: String,
    /// Services from the root to the one that fails.
    path: Vec<String>,
    span: FailingSpan,
    #[serde(rename = "type")]
    kind: String,
    message: String,
    how: How,
    #[serde(default)]
    log: String,
    /// Milliseconds that the failing span takes.
    ms: u64,
    questions: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct FailingSpan {
    name: String,
    kind: String,
    attributes: serde_json::Map<String, serde_json::Value>,
}

/// How the failure is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum How {
    /// By an event `exception` and the status of every span up to the root.
    Exception,
    /// By the description of the status.
    Status,
    /// By a log alone; no span fails.
    Log,
    /// By time alone, and a log if there is one.
    Slow,
}

/// Makes all traces and questions, the same every time.
pub(super) fn make(invented: &Invented) -> Result<Made> {
    let mut made = Made { requests: Vec::new(), questions: Vec::new(), faults: HashMap::new() };
    let begin: Timestamp = invented.time.0.parse()?;
    let begin = u64::try_from(begin.as_nanosecond()).context(invented.time.0)?;
    let mut faults = Vec::new();
    for line in invented.faults.lines() {
        faults.push(serde_json::from_str::<Fault>(line).with_context(|| line.to_owned())?);
    }
    let mut number = 0;
    for fault in &faults {
        let mut relevant = HashSet::new();
        for _ in 0..OF_EACH {
            number += 1;
            let id = u128::from(number) << 64 | invented.mark;
            let failing = Trace { fault, number, id, start: begin + number * 60_000 * MILLISECOND, fails: true };
            let healthy = Trace { id: id | 1 << 63, fails: false, ..failing };
            for trace in [&failing, &healthy] {
                made.requests.extend(trace.requests());
            }
            let id = TraceId(id.to_be_bytes());
            relevant.insert(id);
            made.faults.insert(id, fault.key.clone());
        }
        for question in &fault.questions {
            made.questions.push(Question { text: question.clone(), relevant: relevant.clone() });
        }
    }
    Ok(made)
}

/// A trace in the making.
#[derive(Clone, Copy)]
struct Trace<'a> {
    fault: &'a Fault,
    number: u64,
    id: u128,
    start: u64,
    /// Whether the fault happens, or all goes well.
    fails: bool,
}

impl Trace<'_> {
    fn requests(&self) -> Vec<(Signal, Bytes)> {
        let fault = self.fault;
        let mut resource_spans = Vec::new();
        for (place, service) in fault.path.iter().enumerate() {
            resource_spans.push(of_service(service, self.entry_span(place)));
        }
        let last = fault.path.last().map_or("", String::as_str);
        resource_spans.push(of_service(last, self.last_span()));
        let spans = ExportTraceServiceRequest { resource_spans };
        let mut requests = Vec::new();
        let log = if fault.log.is_empty() { &fault.message } else { &fault.log };
        let told = !fault.log.is_empty() || (fault.how == How::Exception && self.number.is_multiple_of(2));
        if self.fails && told && !log.is_empty() {
            requests.push((Signal::Logs, self.log(last, log).encode_to_vec().into()));
        }
        requests.push((Signal::Traces, spans.encode_to_vec().into()));
        requests
    }

    /// The span with which a service of the path answers.
    fn entry_span(&self, place: usize) -> Span {
        let handed_up = self.fails && matches!(self.fault.how, How::Exception | How::Status);
        let name = if place == 0 { self.fault.entry.clone() } else { format!("handle {}", self.fault.entry) };
        let status = Status { code: StatusCode::Error.into(), message: String::new() };
        Span {
            kind: SpanKind::Server.into(),
            status: handed_up.then_some(status),
            ..self.span(place as u64 + 1, &name, self.took() + 4 * MILLISECOND)
        }
    }

    fn last_span(&self) -> Span {
        let fault = self.fault;
        let mut span = self.span(fault.path.len() as u64 + 1, &fault.span.name, self.took());
        span.kind = match fault.span.kind.as_str() {
            "client" => SpanKind::Client,
            "server" => SpanKind::Server,
            "producer" => SpanKind::Producer,
            "consumer" => SpanKind::Consumer,
            _ => SpanKind::Internal,
        }
        .into();
        let is_status = |key: &str| key.ends_with("status_code") || key.starts_with("gen_ai.response");
        let attributes = fault.span.attributes.iter().filter(|(key, _)| self.fails || !is_status(key));
        span.attributes = attributes.map(|(key, value)| attribute(key, any(value))).collect();
        if !self.fails || matches!(fault.how, How::Log | How::Slow) {
            return span;
        }
        let message = self.fill(&fault.message);
        let code = StatusCode::Error.into();
        if fault.how == How::Status {
            span.attributes.push(attribute("error.type", text(&fault.kind)));
            span.status = Some(Status { code, message });
        } else {
            span.status = Some(Status { code, message: String::new() });
            span.events.push(Event {
                time_unix_nano: span.end_time_unix_nano,
                name: "exception".to_owned(),
                attributes: vec![
                    attribute("exception.type", text(&fault.kind)),
                    attribute("exception.message", text(&message)),
                ],
                ..Event::default()
            });
        }
        span
    }

    fn span(&self, id: u64, name: &str, duration: u64) -> Span {
        let parent = if id == 1 { Vec::new() } else { (id - 1).to_be_bytes().to_vec() };
        Span {
            trace_id: self.id.to_be_bytes().to_vec(),
            span_id: id.to_be_bytes().to_vec(),
            parent_span_id: parent,
            name: name.to_owned(),
            start_time_unix_nano: self.start + id * MILLISECOND,
            end_time_unix_nano: self.start + id * MILLISECOND + duration,
            ..Span::default()
        }
    }

    /// Nanoseconds.
    fn took(&self) -> u64 {
        if self.fails { self.fault.ms * MILLISECOND + self.number % 7 * MILLISECOND / 4 } else { 12 * MILLISECOND }
    }

    fn log(&self, service: &str, body: &str) -> ExportLogsServiceRequest {
        let severity = if self.fault.how == How::Exception { SEVERITY_ERROR } else { SEVERITY_WARN };
        let record = LogRecord {
            time_unix_nano: self.start + 2 * MILLISECOND,
            trace_id: self.id.to_be_bytes().to_vec(),
            severity_number: severity,
            body: Some(text(&self.fill(body))),
            ..LogRecord::default()
        };
        let scope_logs = vec![ScopeLogs { log_records: vec![record], ..ScopeLogs::default() }];
        let resource = Some(resource(service));
        ExportLogsServiceRequest {
            resource_logs: vec![ResourceLogs { resource, scope_logs, ..ResourceLogs::default() }],
        }
    }

    fn fill(&self, template: &str) -> String {
        let id = self.number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        template.replace("{n}", &(self.number % 90 + 10).to_string()).replace("{id}", &format!("{id:016x}"))
    }
}

pub(super) fn of_service(service: &str, span: Span) -> ResourceSpans {
    let scope_spans = vec![ScopeSpans { spans: vec![span], ..ScopeSpans::default() }];
    ResourceSpans { resource: Some(resource(service)), scope_spans, ..ResourceSpans::default() }
}

pub(super) fn resource(service: &str) -> Resource {
    Resource { attributes: vec![attribute("service.name", text(service))], ..Resource::default() }
}

pub(super) fn attribute(key: &str, value: AnyValue) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(value), ..KeyValue::default() }
}

pub(super) fn text(value: &str) -> AnyValue {
    AnyValue { value: Some(Value::StringValue(value.to_owned())) }
}

fn any(value: &serde_json::Value) -> AnyValue {
    let value = match value {
        serde_json::Value::Number(number) => Value::IntValue(number.as_i64().unwrap_or_default()),
        serde_json::Value::Array(values) => Value::ArrayValue(ArrayValue { values: values.iter().map(any).collect() }),
        serde_json::Value::String(text) => Value::StringValue(text.clone()),
        other => Value::StringValue(other.to_string()),
    };
    AnyValue { value: Some(value) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fault_has_traces_and_questions() {
        for invented in [&SHOP, &CLINIC] {
            let made = make(invented).expect("the file is good");
            assert!(made.questions.len() >= 60);
            assert!(made.questions.iter().all(|question| question.relevant.len() as u64 == OF_EACH));
            assert_eq!(made.faults.len() as u64, made.questions.len() as u64 / 2 * OF_EACH);
            let again = make(invented).expect("the file is good");
            assert_eq!(made.requests, again.requests);
        }
    }
}
