//! The requests of the command `demo`, as it would send them, and the searches that it shows.

use std::collections::{HashMap, HashSet};

use anyhow::{Context as _, Result};
use bytes::Bytes;
use jiff::Timestamp;
use oneiric_otel::otlp::Signal;
use oneiric_otel::query::TraceId;
use opentelemetry::trace::SpanKind as Kind;
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::AnyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
use opentelemetry_proto::tonic::trace::v1::span::{Event, SpanKind};
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span, Status};
use prost::Message as _;

use super::faults::{Made, attribute, resource, text};
use super::sets::Question;
use crate::demo::SEED;
use crate::demo::plan::{Planned, Step, draw};
use crate::demo::searches::SEARCHES;

/// When the traces begin.
pub(super) const TIME: (&str, &str) = ("2024-09-01T00:00:00Z", "2024-10-01T00:00:00Z");
/// From the beginning of the time to the moment at which the plan is told.
const TOLD_AFTER_NANOS: u64 = 24 * 3_600 * 1_000_000_000;

/// Makes all traces and questions, the same every time.
pub(super) fn make() -> Result<Made> {
    let begin: Timestamp = TIME.0.parse()?;
    let now = u64::try_from(begin.as_nanosecond()).context(TIME.0)? + TOLD_AFTER_NANOS;
    let mut made = Made { requests: Vec::new(), questions: Vec::new(), faults: HashMap::new() };
    let plan = draw(SEED);
    for (planned, number) in plan.iter().zip(1..) {
        let id = (number << 64 | 0x00fa_0177_u128).to_be_bytes();
        let mut told = Told { trace_id: id, spans: Vec::new(), logs: Vec::new() };
        told.tell(&planned.root, 0, now - nanos(planned.ago));
        made.requests
            .push((Signal::Logs, ExportLogsServiceRequest { resource_logs: told.logs }.encode_to_vec().into()));
        let spans = ExportTraceServiceRequest { resource_spans: told.spans };
        made.requests.push((Signal::Traces, Bytes::from(spans.encode_to_vec())));
        if let Some(fault) = planned.fault {
            made.faults.insert(TraceId(id), format!("{fault:?}"));
        }
    }
    for search in SEARCHES {
        let wanted = |planned: &Planned| planned.fault == Some(search.fault);
        let numbers = plan.iter().zip(1..).filter(|(planned, _)| wanted(planned));
        let relevant: HashSet<TraceId> =
            numbers.map(|(_, number)| TraceId((number << 64 | 0x00fa_0177_u128).to_be_bytes())).collect();
        made.questions.push(Question { text: search.question.to_owned(), relevant });
    }
    Ok(made)
}

/// A request as it is told.
struct Told {
    trace_id: [u8; 16],
    spans: Vec<ResourceSpans>,
    logs: Vec<ResourceLogs>,
}

impl Told {
    /// Tells a step and all below it.
    fn tell(&mut self, step: &Step, parent: u64, begin: u64) {
        let id = self.spans.len() as u64 + 1;
        let span = Span {
            trace_id: self.trace_id.to_vec(),
            span_id: id.to_be_bytes().to_vec(),
            parent_span_id: if parent == 0 { Vec::new() } else { parent.to_be_bytes().to_vec() },
            name: step.name.clone(),
            kind: kind(&step.kind).into(),
            start_time_unix_nano: begin,
            end_time_unix_nano: begin + nanos(step.duration),
            attributes: step.attributes.iter().map(|pair| attribute(pair.key.as_str(), value(&pair.value))).collect(),
            ..failed(step, begin)
        };
        let scope_spans = vec![ScopeSpans { spans: vec![span], ..ScopeSpans::default() }];
        let resource = Some(resource(step.service));
        self.spans.push(ResourceSpans { resource: resource.clone(), scope_spans, ..ResourceSpans::default() });
        let lines: Vec<LogRecord> = step
            .lines
            .iter()
            .map(|line| LogRecord {
                time_unix_nano: begin + nanos(line.offset),
                trace_id: self.trace_id.to_vec(),
                span_id: id.to_be_bytes().to_vec(),
                severity_number: line.severity as i32,
                severity_text: line.severity.name().to_owned(),
                body: Some(text(&line.text)),
                ..LogRecord::default()
            })
            .collect();
        if !lines.is_empty() {
            let scope_logs = vec![ScopeLogs { log_records: lines, ..ScopeLogs::default() }];
            self.logs.push(ResourceLogs { resource, scope_logs, ..ResourceLogs::default() });
        }
        for child in &step.children {
            self.tell(child, id, begin + nanos(child.offset));
        }
    }
}

/// A span with nothing but the step's failure, if it has one.
fn failed(step: &Step, begin: u64) -> Span {
    let Some(problem) = &step.error else { return Span::default() };
    let exception = Event {
        time_unix_nano: begin + nanos(step.duration),
        name: "exception".to_owned(),
        attributes: vec![
            attribute("exception.type", text(&problem.kind)),
            attribute("exception.message", text(&problem.message)),
        ],
        ..Event::default()
    };
    Span {
        status: Some(Status { code: StatusCode::Error.into(), message: problem.message.clone() }),
        events: if problem.thrown { vec![exception] } else { Vec::new() },
        ..Span::default()
    }
}

fn kind(kind: &Kind) -> SpanKind {
    match kind {
        Kind::Client => SpanKind::Client,
        Kind::Server => SpanKind::Server,
        Kind::Producer => SpanKind::Producer,
        Kind::Consumer => SpanKind::Consumer,
        Kind::Internal => SpanKind::Internal,
    }
}

fn value(value: &opentelemetry::Value) -> AnyValue {
    let value = match value {
        opentelemetry::Value::I64(number) => Value::IntValue(*number),
        opentelemetry::Value::F64(number) => Value::DoubleValue(*number),
        opentelemetry::Value::Bool(yes) => Value::BoolValue(*yes),
        other => return text(&other.as_str()),
    };
    AnyValue { value: Some(value) }
}

fn nanos(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::plan::{FAULTS, REQUESTS};

    #[test]
    fn every_request_of_the_plan_is_told_and_every_search_has_its_answers() {
        let made = make().expect("the plan is fixed");
        assert_eq!(made.requests.len(), REQUESTS * 2);
        assert_eq!(made.faults.len(), FAULTS.iter().map(|(_, count)| count).sum::<usize>());
        for (question, search) in made.questions.iter().zip(SEARCHES) {
            let count = FAULTS.iter().find(|(fault, _)| *fault == search.fault).map(|(_, count)| *count);
            assert_eq!(Some(question.relevant.len()), count);
        }
        assert_eq!(make().expect("the plan is fixed").requests, made.requests);
    }
}
