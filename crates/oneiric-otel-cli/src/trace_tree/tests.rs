//! Trees of odd traces.

use std::sync::Arc;

use oneiric_otel::otlp::{ResourceEnvelope, ScopeEnvelope};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{Status, span::Event};

use super::*;

const ID: TraceId = TraceId([7; 16]);

fn text(value: &str) -> AnyValue {
    AnyValue { value: Some(Value::StringValue(value.to_owned())) }
}

fn pair(key: &str, value: &str) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(text(value)), ..KeyValue::default() }
}

fn stored<R>(service: &str, record: R) -> Stored<R> {
    let resource = Resource { attributes: vec![pair("service.name", service)], ..Resource::default() };
    let resource = ResourceEnvelope { resource: Some(resource), schema_url: String::new() };
    Stored { resource: Arc::new(resource), scope: Arc::new(ScopeEnvelope::default()), record }
}

fn span(id: u8, parent: u8, start_ms: u64, end_ms: u64) -> Span {
    Span {
        span_id: vec![id; 8],
        parent_span_id: if parent == 0 { Vec::new() } else { vec![parent; 8] },
        name: format!("step {id}"),
        start_time_unix_nano: 1_000_000_000 + start_ms * 1_000_000,
        end_time_unix_nano: 1_000_000_000 + end_ms * 1_000_000,
        ..Span::default()
    }
}

fn drawn(spans: &[Stored<Span>], logs: &[Stored<LogRecord>]) -> Vec<String> {
    let overview = overview(ID, None, spans, logs);
    draw(&overview, spans, logs).lines().skip(3).map(str::to_owned).collect()
}

#[test]
fn a_trace_is_a_tree_with_its_errors_in_place() {
    let mut failing = span(3, 2, 2, 5);
    failing.status = Some(Status { code: STATUS_ERROR, message: "boom".to_owned() });
    failing.events.push(Event {
        name: "exception".to_owned(),
        time_unix_nano: 1_004_000_000,
        attributes: vec![pair("exception.type", "Bang"), pair("exception.message", "boom")],
        ..Event::default()
    });
    let spans = [
        stored("web", span(1, 0, 0, 10)),
        stored("api", span(2, 1, 1, 6)),
        stored("db", failing),
        stored("web", span(4, 1, 7, 8)),
    ];
    let log = LogRecord {
        time_unix_nano: 1_003_000_000,
        severity_number: ERROR,
        span_id: vec![3; 8],
        body: Some(text("it went \u{1b}[31mwrong")),
        ..LogRecord::default()
    };
    let quiet = LogRecord { severity_number: 9, span_id: vec![1; 8], body: Some(text("all fine")), ..log.clone() };
    assert_eq!(
        drawn(&spans, &[stored("db", log), stored("web", quiet)]),
        [
            "web  step 1  10.0 ms",
            "├─ api  step 2  5.00 ms",
            "│  └─ db  step 3  3.00 ms  ERROR",
            "│          * +3.00 ms log error it went wrong",
            "│          ! +4.00 ms exception Bang: boom",
            "└─ web  step 4  1.00 ms",
        ]
    );
}

#[test]
fn missing_parents_and_loops_lose_no_span() {
    let spans = [
        stored("a", span(1, 9, 0, 1)),
        stored("a", span(2, 3, 0, 1)),
        stored("a", span(3, 2, 0, 1)),
        stored("a", span(4, 4, 0, 1)),
    ];
    assert_eq!(
        drawn(&spans, &[]),
        [
            "a  step 1  1.00 ms  (its parent is not stored)",
            "a  step 4  1.00 ms  (its parent is not stored)",
            "a  step 2  1.00 ms  (its parent is not stored)",
            "└─ a  step 3  1.00 ms",
        ]
    );
}

#[test]
fn a_chain_of_many_spans_is_drawn_to_its_end() {
    let mut spans = Vec::new();
    for number in 1..=20_000_u64 {
        let mut link = span(1, 0, number, 30_000);
        link.span_id = number.to_be_bytes().to_vec();
        link.parent_span_id = if number == 1 { Vec::new() } else { (number - 1).to_be_bytes().to_vec() };
        spans.push(stored("a", link));
    }
    let lines = drawn(&spans, &[]);
    assert_eq!(lines.len(), 20_000);
    assert!(lines.iter().all(|line| line.chars().count() < 300), "depth must not widen lines without end");
}

#[test]
fn logs_without_spans_are_a_trace_too() {
    let log = LogRecord {
        observed_time_unix_nano: 5_000_000_000,
        severity_number: WARNING,
        span_id: vec![3; 8],
        body: Some(text("disk is filling up")),
        ..LogRecord::default()
    };
    let lines = drawn(&[], &[stored("db", log)]);
    assert_eq!(lines.len(), 1);
    assert!(lines[0].ends_with("log warning disk is filling up"), "{lines:?}");
}

#[test]
fn zeros_for_a_parent_are_no_parent() {
    let mut root = span(1, 0, 0, 10);
    root.parent_span_id = vec![0; 8];
    root.status = Some(Status { code: STATUS_OK, message: String::new() });
    let mut nameless = span(0, 1, 1, 2);
    nameless.span_id = vec![0; 8];
    let spans = [stored("web", root), stored("web", nameless)];
    assert_eq!(overview(ID, None, &spans, &[]).status, "ok");
    assert_eq!(drawn(&spans, &[]), ["web  step 1  10.0 ms", "└─ web  step 0  1.00 ms"]);
}

#[test]
fn the_derived_row_speaks_unless_it_knows_other_spans() {
    let row = TraceOverview {
        trace_id: ID,
        start_time: "2026-01-02T03:04:05Z".parse().expect("a time"),
        duration_ns: 7,
        status: "ok".to_owned(),
        service_name: "web".to_owned(),
        root_name: "step 1".to_owned(),
        services: vec!["web".to_owned()],
        span_count: 1,
        error_count: 0,
        log_count: 0,
        root_seen: true,
        error_type: None,
        error_message: None,
        text: None,
    };
    let spans = [stored("web", span(1, 0, 0, 10)), stored("api", span(2, 1, 5, 4))];
    let fresh = overview(ID, Some(row.clone()), &spans[..1], &[]);
    assert_eq!(
        (fresh.status.as_str(), fresh.duration_ns, fresh.start_time.as_str()),
        ("ok", 7, "2026-01-02T03:04:05Z")
    );
    let counted = overview(ID, Some(row), &spans, &[]);
    assert_eq!((counted.status.as_str(), counted.duration_ns), ("unset", 10_000_000));
    assert_eq!(counted.services.len(), 2);
}

#[test]
fn exceptions_tell_whatever_their_severity() {
    let exception = LogRecord { time_unix_nano: 1_000_000_000, span_id: vec![1; 8], ..LogRecord::default() };
    let logs = [
        LogRecord { event_name: "exception".to_owned(), body: Some(text("by name")), ..exception.clone() },
        LogRecord {
            attributes: vec![pair("exception.type", "Bang")],
            body: Some(text("by type")),
            ..exception.clone()
        },
        LogRecord { attributes: vec![pair("exception.message", "by message")], ..exception.clone() },
        LogRecord { event_name: "other".to_owned(), body: Some(text("not shown")), ..exception },
    ];
    let lines = drawn(&[stored("web", span(1, 0, 0, 1))], &logs.map(|log| stored("web", log)));
    let shown: Vec<_> = lines[1..].iter().map(|line| line.trim_start().trim_start_matches("* +0 ns ")).collect();
    assert_eq!(shown, ["log error  by message", "log error by name", "log error by type"], "{lines:?}");
}
