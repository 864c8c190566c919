//! A span of OTLP as facts, in OTLP's terms or in Jaeger's.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::trace::v1::span::{Event, SpanKind};
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use opentelemetry_proto::tonic::trace::v1::{Span, Status};

use super::{Facts, SpanFacts, Terms};
use crate::otlp::{Group, ResourceEnvelope, ScopeEnvelope};

const NANOS_PER_MICRO: u64 = 1000;
/// What Jaeger calls the service of a resource that names none.
const NO_SERVICE: &str = "OTLPResourceNoServiceName";

/// The spans of a group.
pub fn of_group(group: &Group<Span>, terms: Terms) -> impl Iterator<Item = SpanFacts> + '_ {
    group.records.iter().map(move |span| of_span(&group.resource, &group.scope, span, terms))
}

/// A span.
pub fn of_span(resource: &ResourceEnvelope, scope: &ScopeEnvelope, span: &Span, terms: Terms) -> SpanFacts {
    let mut told = Told { terms, facts: Facts::new() };
    told.span(span);
    told.owners(resource, scope);
    let start_unix_nanos = match terms {
        Terms::Otlp => span.start_time_unix_nano,
        Terms::Jaeger => span.start_time_unix_nano / NANOS_PER_MICRO * NANOS_PER_MICRO,
    };
    SpanFacts {
        trace_id: hex::encode(&span.trace_id),
        span_id: hex::encode(&span.span_id),
        start_unix_nanos,
        facts: told.facts,
    }
}

/// What has been told so far.
pub(super) struct Told {
    pub(super) terms: Terms,
    pub(super) facts: Facts,
}

impl Told {
    pub(super) fn put(&mut self, field: impl Into<String>, text: &(impl ToString + ?Sized)) {
        let field = field.into();
        let mut place = field.clone();
        let mut number = 1;
        // A key can stand twice among attributes.
        while self.facts.contains_key(&place) {
            number += 1;
            place = format!("{field}#{number}");
        }
        self.facts.insert(place, text.to_string());
    }

    fn is_otlp(&self) -> bool {
        self.terms == Terms::Otlp
    }

    fn span(&mut self, span: &Span) {
        self.put("name", &span.name);
        self.put("kind", &kind(span.kind));
        self.put("parent_span_id", &hex::encode(&span.parent_span_id));
        self.put("trace_state", &span.trace_state);
        let status = span.status.clone().unwrap_or_default();
        self.status(&status);
        if self.is_otlp() {
            self.put("start_time", &span.start_time_unix_nano);
            self.put("end_time", &span.end_time_unix_nano);
            self.put("flags", &span.flags);
            self.put("dropped_attributes_count", &span.dropped_attributes_count);
            self.put("dropped_events_count", &span.dropped_events_count);
            self.put("dropped_links_count", &span.dropped_links_count);
        } else {
            self.put("start_time", &(span.start_time_unix_nano / NANOS_PER_MICRO));
            let nanos = span.end_time_unix_nano.saturating_sub(span.start_time_unix_nano);
            self.put("duration", &(nanos / NANOS_PER_MICRO));
        }
        self.attributes("", &span.attributes);
        self.events(&span.events);
        for (number, link) in span.links.iter().enumerate() {
            let place = format!("links[{number}].");
            self.put(format!("{place}trace_id"), &hex::encode(&link.trace_id));
            self.put(format!("{place}span_id"), &hex::encode(&link.span_id));
            if self.is_otlp() {
                self.put(format!("{place}trace_state"), &link.trace_state);
                self.put(format!("{place}flags"), &link.flags);
                self.put(format!("{place}dropped_attributes_count"), &link.dropped_attributes_count);
                self.attributes(&place, &link.attributes);
            }
        }
    }

    fn status(&mut self, status: &Status) {
        let code = match StatusCode::try_from(status.code) {
            Ok(StatusCode::Unset) => "unset".to_owned(),
            Ok(StatusCode::Ok) => "ok".to_owned(),
            Ok(StatusCode::Error) => "error".to_owned(),
            Err(_) => status.code.to_string(),
        };
        self.put("status.code", &code);
        self.put("status.message", &status.message);
    }

    fn events(&mut self, events: &[Event]) {
        let mut events: Vec<&Event> = events.iter().collect();
        if !self.is_otlp() {
            events.sort_by_key(|event| (event.time_unix_nano / NANOS_PER_MICRO, &event.name));
        }
        for (number, event) in events.into_iter().enumerate() {
            let place = format!("events[{number}].");
            self.put(format!("{place}name"), &event.name);
            if self.is_otlp() {
                self.put(format!("{place}time"), &event.time_unix_nano);
                self.put(format!("{place}dropped_attributes_count"), &event.dropped_attributes_count);
            } else {
                self.put(format!("{place}time"), &(event.time_unix_nano / NANOS_PER_MICRO));
            }
            self.attributes(&place, &event.attributes);
        }
    }

    fn owners(&mut self, resource: &ResourceEnvelope, scope: &ScopeEnvelope) {
        let ResourceEnvelope { resource, schema_url } = resource;
        let resource = resource.clone().unwrap_or_default();
        self.attributes("resource.", &resource.attributes);
        let is_named = resource.attributes.iter().any(|attribute| attribute.key == "service.name");
        if !self.is_otlp() && !is_named {
            self.put("resource.attributes.service.name", &quoted(NO_SERVICE));
        }
        let instrumentation = scope.scope.clone().unwrap_or_default();
        self.put("scope.name", &instrumentation.name);
        self.put("scope.version", &instrumentation.version);
        if self.is_otlp() {
            self.put("resource.schema_url", schema_url);
            self.put("resource.dropped_attributes_count", &resource.dropped_attributes_count);
            self.put("scope.schema_url", &scope.schema_url);
            self.put("scope.dropped_attributes_count", &instrumentation.dropped_attributes_count);
            self.attributes("scope.", &instrumentation.attributes);
        }
    }

    fn attributes(&mut self, place: &str, attributes: &[KeyValue]) {
        for KeyValue { key, value, .. } in attributes {
            let value = value.as_ref().and_then(|value| value.value.as_ref());
            let text = match (self.terms, value) {
                (Terms::Otlp, value) => exact(value),
                (Terms::Jaeger, value) => as_jaeger_has_it(value),
            };
            self.put(format!("{place}attributes.{key}"), &text);
        }
    }
}

/// The word for a kind; unknown ones are numbers.
fn kind(number: i32) -> String {
    let word = match SpanKind::try_from(number) {
        Ok(SpanKind::Unspecified) => "unspecified",
        Ok(SpanKind::Internal) => "internal",
        Ok(SpanKind::Server) => "server",
        Ok(SpanKind::Client) => "client",
        Ok(SpanKind::Producer) => "producer",
        Ok(SpanKind::Consumer) => "consumer",
        Err(_) => return number.to_string(),
    };
    word.to_owned()
}

/// A string as JSON has it, so that it is told from a number.
pub(super) fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// A value with its type. Maps are equal in any order.
fn exact(value: Option<&Value>) -> String {
    let inner = |value: &AnyValue| exact(value.value.as_ref());
    match value {
        None => "(none)".to_owned(),
        Some(Value::StringValue(text)) => quoted(text),
        Some(Value::BoolValue(flag)) => flag.to_string(),
        Some(Value::IntValue(number)) => number.to_string(),
        Some(Value::DoubleValue(number)) => format!("{number:?}"),
        Some(Value::BytesValue(bytes)) => format!("bytes {}", BASE64.encode(bytes)),
        Some(Value::ArrayValue(array)) => {
            format!("[{}]", array.values.iter().map(inner).collect::<Vec<_>>().join(","))
        }
        Some(Value::KvlistValue(map)) => {
            let entry = |entry: &KeyValue| {
                let value = entry.value.as_ref().and_then(|value| value.value.as_ref());
                format!("{}:{}", quoted(&entry.key), exact(value))
            };
            let mut entries: Vec<String> = map.values.iter().map(entry).collect();
            entries.sort_unstable();
            format!("{{{}}}", entries.join(","))
        }
        Some(Value::StringValueStrindex(index)) => format!("string {index}"),
    }
}

/// A value as it comes out of Jaeger, which makes text of arrays and maps.
fn as_jaeger_has_it(value: Option<&Value>) -> String {
    match value {
        None => quoted(""),
        Some(Value::StringValue(text)) => string_of_jaeger(text),
        Some(Value::ArrayValue(_) | Value::KvlistValue(_)) => canonical(&as_json(value)),
        value => exact(value),
    }
}

/// A string of Jaeger, which may have been an array or a map.
pub(super) fn string_of_jaeger(text: &str) -> String {
    if text.starts_with(['[', '{'])
        && let Ok(json) = serde_json::from_str::<serde_json::Value>(text)
    {
        return canonical(&json);
    }
    quoted(text)
}

fn as_json(value: Option<&Value>) -> serde_json::Value {
    let inner = |value: &AnyValue| as_json(value.value.as_ref());
    match value {
        None | Some(Value::StringValueStrindex(_)) => serde_json::Value::Null,
        Some(Value::StringValue(text)) => text.as_str().into(),
        Some(Value::BoolValue(flag)) => (*flag).into(),
        Some(Value::IntValue(number)) => (*number).into(),
        Some(Value::DoubleValue(number)) => (*number).into(),
        Some(Value::BytesValue(bytes)) => BASE64.encode(bytes).into(),
        Some(Value::ArrayValue(array)) => array.values.iter().map(inner).collect(),
        Some(Value::KvlistValue(map)) => {
            let entry =
                |entry: &KeyValue| (entry.key.clone(), entry.value.as_ref().map_or(serde_json::Value::Null, inner));
            map.values.iter().map(entry).collect()
        }
    }
}

/// JSON in one way: keys sorted, and a whole number without a point, as of programs that know one kind of them.
fn canonical(json: &serde_json::Value) -> String {
    /// From here on whole numbers are written with an exponent.
    const LONG: f64 = 1e21;
    match json {
        serde_json::Value::Number(number) => match number.as_f64().filter(|_| number.is_f64()) {
            Some(double) if double.fract() == 0.0 && double.abs() < LONG => format!("{double:.0}"),
            Some(double) => format!("{double:?}"),
            None => number.to_string(),
        },
        serde_json::Value::Array(values) => {
            format!("[{}]", values.iter().map(canonical).collect::<Vec<_>>().join(","))
        }
        serde_json::Value::Object(map) => {
            let entry = |(key, value): (&String, _)| format!("{}:{}", quoted(key), canonical(value));
            let mut entries: Vec<String> = map.iter().map(entry).collect();
            entries.sort_unstable();
            format!("{{{}}}", entries.join(","))
        }
        other => other.to_string(),
    }
}
