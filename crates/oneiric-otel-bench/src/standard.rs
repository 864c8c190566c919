//! The standard set: 10 spans a trace, 11 attributes a span, 500 texts, closed roots.

use std::ops::Range;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span, Status};
use prost::Message as _;

/// Spans of a trace.
pub const SPANS_PER_TRACE: u64 = 10;
/// Different kinds of traces, each of which has a text of its own.
pub const TEXTS: u64 = 500;

const DAY: Duration = Duration::from_hours(24);
const MILLISECOND: u64 = 1_000_000;

/// When the set of today begins, in nanoseconds since 1970: at midnight in UTC. Of another day it would come to partitions
/// that have or get the indexes of those whose time has passed, as telemetry does that is late or imported.
pub fn today() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    (now.as_secs() - now.as_secs() % DAY.as_secs()) * 1_000_000_000
}

/// A request with these traces of the set that begins at `start`.
pub fn request(start: u64, traces: Range<u64>) -> Vec<u8> {
    let spans = traces.flat_map(|trace| (0..SPANS_PER_TRACE).map(move |place| span(start, trace, place))).collect();
    let resource = Resource { attributes: vec![text("service.name", "standard".to_owned())], ..Resource::default() };
    let scope = Some(InstrumentationScope { name: "standard".to_owned(), ..InstrumentationScope::default() });
    let scope_spans = vec![ScopeSpans { scope, spans, ..ScopeSpans::default() }];
    let resource_spans = vec![ResourceSpans { resource: Some(resource), scope_spans, ..ResourceSpans::default() }];
    ExportTraceServiceRequest { resource_spans }.encode_to_vec()
}

/// The id of a trace: scattered, as real ones are.
pub fn trace_id(trace: u64) -> [u8; 16] {
    let high = (trace + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (u128::from(high) << 64 | u128::from(trace + 1)).to_be_bytes()
}

/// The first span of a trace is its root; the others lie inside it.
fn span(start: u64, trace: u64, place: u64) -> Span {
    let kind = trace % TEXTS;
    let start = start_of(start, trace) + place * 10_000;
    let span_id = |place: u64| (trace * SPANS_PER_TRACE + place + 1).to_be_bytes().to_vec();
    Span {
        trace_id: trace_id(trace).to_vec(),
        span_id: span_id(place),
        parent_span_id: if place == 0 { Vec::new() } else { span_id(0) },
        name: name(kind, place),
        kind: if place == 0 { 2 } else { 1 },
        start_time_unix_nano: start,
        end_time_unix_nano: start + (20 - place) * MILLISECOND,
        attributes: attributes(trace, place),
        status: Some(Status { code: i32::from(kind.is_multiple_of(10)) * 2, message: String::new() }),
        ..Span::default()
    }
}

/// When a trace of the set that begins at `start` begins, in nanoseconds since 1970: 10 ms after the one before.
pub fn start_of(start: u64, trace: u64) -> u64 {
    start + trace * 10 * MILLISECOND
}

/// What the root of a trace is called.
pub fn root_name(trace: u64) -> String {
    name(trace % TEXTS, 0)
}

fn name(kind: u64, place: u64) -> String {
    format!("{} {}", word(kind), word(kind * 7 + place))
}

fn attributes(trace: u64, place: u64) -> Vec<KeyValue> {
    let kind = trace % TEXTS;
    vec![
        text("http.request.method", ["GET", "POST", "PUT"][(kind % 3) as usize].to_owned()),
        text("http.route", format!("/{}/{}", word(kind), word(kind / 7))),
        number("http.response.status_code", if kind.is_multiple_of(10) { 500 } else { 200 }),
        text("server.address", format!("host-{}.example", trace % 50)),
        number("server.port", 8080),
        text("url.path", format!("/{}/{}", word(kind), trace)),
        text("user_agent.original", "Mozilla/5.0 (X11; Linux x86_64)".to_owned()),
        text("peer.service", word(kind + place)),
        number("thread.id", place as i64),
        text("component", "net/http".to_owned()),
        text("request.id", format!("{:016x}", (trace * SPANS_PER_TRACE + place).wrapping_mul(0x2545_f491_4f6c_dd1d))),
    ]
}

/// One of some thousand invented words.
fn word(number: u64) -> String {
    const SYLLABLES: [&str; 12] = ["ka", "lo", "mi", "ne", "pu", "ra", "so", "ti", "ve", "zu", "bor", "den"];
    let syllable = |number: u64| SYLLABLES[(number % 12) as usize];
    [syllable(number), syllable(number / 12 + 5), syllable(number / 144 + 3)].concat()
}

fn text(key: &str, value: String) -> KeyValue {
    attribute(key, Value::StringValue(value))
}

fn number(key: &str, value: i64) -> KeyValue {
    attribute(key, Value::IntValue(value))
}

fn attribute(key: &str, value: Value) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }), key_strindex: 0 }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn the_set_has_the_shape_that_it_is_described_by() {
        let bytes = request(today(), 0..TEXTS);
        let request = ExportTraceServiceRequest::decode(bytes.as_slice()).unwrap();
        let spans = &request.resource_spans[0].scope_spans[0].spans;
        assert_eq!(spans.len() as u64, TEXTS * SPANS_PER_TRACE);
        assert!(spans.iter().all(|span| span.attributes.len() == 11));
        assert_eq!(spans.iter().map(|span| &span.trace_id).collect::<HashSet<_>>().len() as u64, TEXTS);
        let roots: HashSet<_> =
            spans.iter().filter(|span| span.parent_span_id.is_empty()).map(|span| &span.name).collect();
        assert_eq!(roots.len() as u64, TEXTS, "each kind has a name of its own");
    }
}
