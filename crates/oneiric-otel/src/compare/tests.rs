//! What is the same is not named, and what is not, exactly.

use std::sync::Arc;

use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, ArrayValue, InstrumentationScope, KeyValue, KeyValueList};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::span::{Event, Link};
use opentelemetry_proto::tonic::trace::v1::{Span, Status};
use serde_json::json;

use super::*;
use crate::otlp::{Group, ResourceEnvelope, ScopeEnvelope};

fn attribute(key: &str, value: Value) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
}

fn text(text: &str) -> Value {
    Value::StringValue(text.to_owned())
}

fn list(values: Vec<Value>) -> Value {
    let values = values.into_iter().map(|value| AnyValue { value: Some(value) }).collect();
    Value::ArrayValue(ArrayValue { values })
}

fn map(values: Vec<KeyValue>) -> Value {
    Value::KvlistValue(KeyValueList { values })
}

/// A span that says something in every field.
fn span() -> Span {
    Span {
        trace_id: vec![0xab; 16],
        span_id: vec![2; 8],
        parent_span_id: vec![1; 8],
        trace_state: "vendor=1".to_owned(),
        name: "GET /".to_owned(),
        kind: 2,
        start_time_unix_nano: 1_767_225_600_000_000_999,
        end_time_unix_nano: 1_767_225_600_001_500_000,
        attributes: vec![
            attribute("text", text("a \"b\"")),
            attribute("int", Value::IntValue(5)),
            attribute("double", Value::DoubleValue(5.0)),
            attribute("flag", Value::BoolValue(true)),
            attribute("bytes", Value::BytesValue(vec![1, 2, 3])),
            attribute("list", list(vec![text("x"), Value::IntValue(1), Value::DoubleValue(0.5)])),
            attribute("map", map(vec![attribute("b", Value::IntValue(1)), attribute("a", text("z"))])),
        ],
        events: vec![
            Event {
                time_unix_nano: 1_767_225_600_001_000_500,
                name: "exception".to_owned(),
                attributes: vec![attribute("exception.type", text("IOError"))],
                dropped_attributes_count: 0,
            },
            Event { time_unix_nano: 1_767_225_600_000_500_000, name: "retry".to_owned(), ..Event::default() },
        ],
        links: vec![Link { trace_id: vec![0xcd; 16], span_id: vec![9; 8], ..Link::default() }],
        status: Some(Status { code: 2, message: "boom".to_owned() }),
        flags: 257,
        ..Span::default()
    }
}

fn group(span: Span) -> Group<Span> {
    let resource = Resource {
        attributes: vec![attribute("service.name", text("shop")), attribute("host.name", text("h1"))],
        ..Resource::default()
    };
    let scope = InstrumentationScope { name: "lib".to_owned(), version: "1.2".to_owned(), ..Default::default() };
    Group {
        resource: Arc::new(ResourceEnvelope { resource: Some(resource), schema_url: "r".to_owned() }),
        scope: Arc::new(ScopeEnvelope { scope: Some(scope), schema_url: "s".to_owned() }),
        records: vec![span],
    }
}

fn facts_of(group: &Group<Span>, terms: Terms) -> SpanFacts {
    facts::of_group(group, terms).next().expect("a span")
}

fn otlp(span: Span) -> SpanFacts {
    facts_of(&group(span), Terms::Otlp)
}

/// The fields that are named when one span is compared with another.
fn named(here: &SpanFacts, there: &SpanFacts) -> Vec<String> {
    let found = compare_trace(vec![here.clone()], vec![there.clone()]);
    assert!(found.iter().all(|difference| difference.kind == Kind::Different), "{found:?}");
    found.into_iter().flat_map(|difference| difference.fields).map(|field| field.field).collect()
}

#[test]
fn each_change_is_named_and_nothing_else() {
    type Change = (&'static [&'static str], fn(&mut Span));
    let changes: [Change; 16] = [
        (&[], |_| {}),
        (&["name"], |span| span.name = "POST /".to_owned()),
        (&["kind"], |span| span.kind = 77),
        (&["start_time"], |span| span.start_time_unix_nano += 1),
        (&["end_time"], |span| span.end_time_unix_nano += 1),
        (&["parent_span_id"], |span| span.parent_span_id = Vec::new()),
        (&["trace_state"], |span| span.trace_state.clear()),
        (&["flags"], |span| span.flags = 0),
        (&["status.code", "status.message"], |span| span.status = None),
        (&["dropped_events_count"], |span| span.dropped_events_count = 1),
        // A number is no text, and an integer no double.
        (&["attributes.int"], |span| span.attributes[1] = attribute("int", text("5"))),
        (&["attributes.double"], |span| span.attributes[2] = attribute("double", Value::IntValue(5))),
        (&["attributes.flag#2"], |span| span.attributes.push(attribute("flag", Value::BoolValue(true)))),
        (&["events[1].attributes.x"], |span| span.events[1].attributes.push(attribute("x", text("y")))),
        (&["links[0].span_id"], |span| span.links[0].span_id = vec![8; 8]),
        // The order of keys says nothing, in maps neither.
        (&[], |span| {
            span.attributes.reverse();
            span.attributes[0] =
                attribute("map", map(vec![attribute("a", text("z")), attribute("b", Value::IntValue(1))]));
        }),
    ];
    for (fields, change) in changes {
        let mut changed = span();
        change(&mut changed);
        assert_eq!(named(&otlp(span()), &otlp(changed)), fields);
    }
    let mut other = group(span());
    other.resource = Arc::new(ResourceEnvelope { resource: None, schema_url: "r".to_owned() });
    assert_eq!(
        named(&otlp(span()), &facts_of(&other, Terms::Otlp)),
        ["resource.attributes.host.name", "resource.attributes.service.name"]
    );
}

#[test]
fn missing_doubled_and_different_spans_are_told_apart() {
    let with = |id: u8, name: &str| otlp(Span { span_id: vec![id; 8], name: name.to_owned(), ..span() });
    let told = |here: &[SpanFacts], there: &[SpanFacts]| {
        let found = compare_trace(here.to_vec(), there.to_vec());
        found
            .into_iter()
            .map(|found| (found.span_id.chars().take(2).collect::<String>(), found.name, found.kind))
            .collect::<Vec<_>>()
    };
    let is = |id: &str, name: &str, kind| (id.to_owned(), name.to_owned(), kind);
    let (a, b, c) = (with(1, "a"), with(2, "b"), with(3, "c"));
    assert_eq!(told(&[a.clone(), b.clone()], &[b.clone(), a.clone()]), []);
    assert_eq!(
        told(&[a.clone(), b.clone()], &[c.clone(), b.clone()]),
        [is("01", "a", Kind::MissingThere), is("03", "c", Kind::MissingHere)]
    );
    assert_eq!(told(&[a.clone(), a.clone()], std::slice::from_ref(&a)), [is("01", "a", Kind::DoubledHere)]);
    assert_eq!(
        told(std::slice::from_ref(&a), &[a.clone(), a.clone(), a.clone()]),
        [is("01", "a", Kind::DoubledThere), is("01", "a", Kind::DoubledThere)]
    );
    assert_eq!(told(&[a.clone(), a.clone()], &[a.clone(), a.clone()]), []);
    // Two spans of one id, of which one is on both sides.
    assert_eq!(told(&[a.clone(), with(1, "x")], &[with(1, "y"), a.clone()]), [is("01", "x", Kind::Different)]);
    assert_eq!(told(&[a.clone(), with(1, "x")], &[a]), [is("01", "x", Kind::MissingThere)]);
}

#[test]
fn a_summary_counts_traces_spans_and_fields() {
    let mut summary = Summary::default();
    assert!(summary.is_same(), "nothing is the same as nothing");
    let (one, mut other) = (otlp(span()), otlp(span()));
    assert_eq!(summary.add("1", vec![one.clone()], vec![one.clone()]), None);
    assert!(summary.is_same());
    other.facts.insert("attributes.int".to_owned(), "6".to_owned());
    other.facts.insert("attributes.text".to_owned(), "6".to_owned());
    other.facts.insert("events[12].attributes.x.y".to_owned(), "6".to_owned());
    let difference = summary.add("2", vec![one.clone()], vec![other, one.clone()]).expect("a difference");
    assert_eq!((difference.spans_here, difference.spans_there, difference.spans.len()), (1, 2, 1));
    let mut changed = one.clone();
    changed.facts.remove("attributes.int");
    changed.facts.remove("events[0].attributes.exception.type");
    changed.facts.insert("resource.attributes.a[0]".to_owned(), "1".to_owned());
    summary.add("3", vec![one.clone()], vec![changed]).expect("a difference");
    summary.add("4", vec![], vec![one.clone()]).expect("a difference");
    summary.add("5", vec![one], vec![]).expect("a difference");
    assert!(!summary.is_same());
    assert_eq!((summary.traces, summary.same_traces), (5, 1));
    assert_eq!((summary.traces_missing_here, summary.traces_missing_there), (1, 1));
    assert_eq!((summary.spans_here, summary.spans_there), (4, 5));
    let spans = [(Kind::MissingHere, 2), (Kind::MissingThere, 1), (Kind::Different, 1)];
    assert_eq!(summary.spans, BTreeMap::from(spans));
    let fields = ["attributes", "events.attributes", "resource.attributes"].map(|field| (field.to_owned(), 1));
    assert_eq!(summary.fields, BTreeMap::from(fields));
}

/// What Jaeger makes of [`span`].
fn jaeger_span() -> serde_json::Value {
    json!({
        "traceID": "abababababababababababababababab", "spanID": "202020202020202", "flags": 1,
        "operationName": "GET /",
        "references": [
            {"refType": "CHILD_OF", "traceID": "abababababababababababababababab", "spanID": "0101010101010101"},
            {"refType": "FOLLOWS_FROM", "traceID": "cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd", "spanID": "0909090909090909"}
        ],
        "startTime": 1_767_225_600_000_000_u64, "duration": 1499,
        "tags": [
            {"key": "otel.scope.name", "type": "string", "value": "lib"},
            {"key": "otel.scope.version", "type": "string", "value": "1.2"},
            {"key": "text", "type": "string", "value": "a \"b\""},
            {"key": "int", "type": "int64", "value": 5},
            {"key": "double", "type": "float64", "value": 5},
            {"key": "flag", "type": "bool", "value": true},
            {"key": "bytes", "type": "binary", "value": "AQID"},
            {"key": "list", "type": "string", "value": "[\"x\",1,0.5]"},
            {"key": "map", "type": "string", "value": "{\"a\":\"z\",\"b\":1}"},
            {"key": "span.kind", "type": "string", "value": "server"},
            {"key": "otel.status_code", "type": "string", "value": "ERROR"},
            {"key": "error", "type": "bool", "value": true},
            {"key": "otel.status_description", "type": "string", "value": "boom"},
            {"key": "w3c.tracestate", "type": "string", "value": "vendor=1"}
        ],
        "logs": [
            {"timestamp": 1_767_225_600_001_000_u64, "fields": [
                {"key": "event", "type": "string", "value": "exception"},
                {"key": "exception.type", "type": "string", "value": "IOError"}]},
            {"timestamp": 1_767_225_600_000_500_u64, "fields": [
                {"key": "event", "type": "string", "value": "retry"}]}
        ],
        "processID": "p1", "warnings": null
    })
}

fn jaeger_answer(span: &serde_json::Value) -> Vec<u8> {
    let processes =
        json!({"p1": {"serviceName": "shop", "tags": [{"key": "host.name", "type": "string", "value": "h1"}]}});
    let trace = json!({"traceID": span["traceID"], "spans": [span], "processes": processes, "warnings": null});
    json!({"data": [trace], "total": 0, "limit": 0, "offset": 0, "errors": null}).to_string().into_bytes()
}

/// The fields that are named after it, and what is changed.
type JsonChange = (&'static [&'static str], fn(&mut serde_json::Value));

fn jaeger(change: impl FnOnce(&mut serde_json::Value)) -> SpanFacts {
    let mut span = jaeger_span();
    change(&mut span);
    let mut traces = jaeger::traces(&jaeger_answer(&span)).expect("an answer");
    traces.remove(0).remove(0)
}

#[test]
fn what_jaeger_knows_is_compared_and_the_rest_is_not() {
    let here = facts_of(&group(span()), Terms::Jaeger);
    assert_eq!(named(&here, &jaeger(|_| {})), [""; 0]);
    assert_eq!(here.start_unix_nanos, 1_767_225_600_000_000_000);
    // Fewer nanoseconds, other flags and another schema say nothing to Jaeger.
    let mut other = group(Span { start_time_unix_nano: 1_767_225_600_000_000_998, flags: 0, ..span() });
    other.scope = Arc::new(ScopeEnvelope { schema_url: "else".to_owned(), ..(*other.scope).clone() });
    assert_eq!(named(&facts_of(&other, Terms::Jaeger), &jaeger(|_| {})), [""; 0]);
    let changes: [JsonChange; 9] = [
        (&["name"], |span| span["operationName"] = "x".into()),
        (&["start_time"], |span| span["startTime"] = 1_767_225_600_000_001_u64.into()),
        (&["duration"], |span| span["duration"] = 1500.into()),
        (&["attributes.int"], |span| span["tags"][3]["value"] = 6.into()),
        (&["kind"], |span| span["tags"][9]["value"] = "client".into()),
        (&["parent_span_id"], |span| span["references"][0]["spanID"] = "7".into()),
        (&["links[0].trace_id"], |span| span["references"][1]["traceID"] = "7".into()),
        (&["events[1].attributes.exception.type"], |span| span["logs"][0]["fields"][1]["value"] = "Other".into()),
        (&["attributes.map"], |span| span["tags"][8]["value"] = "{\"a\":\"z\"}".into()),
    ];
    for (fields, change) in changes {
        assert_eq!(named(&here, &jaeger(change)), fields);
    }
    let no_status = jaeger(|span| {
        span["tags"].as_array_mut().expect("tags").retain(|tag| tag["key"] != "otel.status_code");
    });
    assert_eq!(named(&here, &no_status), ["attributes.error", "status.code"]);
}

#[test]
fn an_attribute_that_is_called_like_a_tag_of_jaeger_stays_one() {
    let own = Span { attributes: vec![attribute("error", Value::BoolValue(true))], ..span() };
    let there = jaeger(|span| {
        let tags = span["tags"].as_array_mut().expect("tags");
        tags.retain(|tag| {
            ["otel.", "span.", "w3c."].iter().any(|own| tag["key"].as_str().is_some_and(|key| key.starts_with(own)))
        });
        tags.push(json!({"key": "error", "type": "bool", "value": true}));
        tags.push(json!({"key": "error", "type": "bool", "value": true}));
    });
    assert_eq!(named(&facts_of(&group(own), Terms::Jaeger), &there), [""; 0]);
}

#[test]
fn a_large_integer_and_a_service_without_a_name_are_known() {
    let mut own = group(Span { attributes: vec![attribute("n", Value::IntValue(i64::MAX))], ..span() });
    own.resource = Arc::new(ResourceEnvelope::default());
    let there = jaeger(|span| {
        let tags = span["tags"].as_array_mut().expect("tags");
        tags.drain(2..9);
        tags.push(json!({"key": "n", "type": "int64", "value": i64::MAX.to_string()}));
    });
    let named = named(&facts_of(&own, Terms::Jaeger), &there);
    assert_eq!(named, ["resource.attributes.host.name", "resource.attributes.service.name"]);
    let nameless = facts_of(&own, Terms::Jaeger);
    assert_eq!(nameless.facts["resource.attributes.service.name"], "\"OTLPResourceNoServiceName\"");
}

#[test]
fn answers_that_are_none_are_errors() {
    assert_eq!(jaeger::services(br#"{"data":["a","b"],"errors":null}"#), Ok(vec!["a".to_owned(), "b".to_owned()]));
    assert_eq!(jaeger::services(br#"{"data":null}"#), Ok(Vec::new()));
    assert_eq!(jaeger::traces(br#"{"data":null,"errors":null}"#), Ok(Vec::new()));
    let error = jaeger::traces(br#"{"data":null,"errors":[{"code":500,"msg":"no storage"}]}"#);
    assert_eq!(error, Err("no storage".to_owned()));
    for body in ["", "<html>", r#"{"data":[{"spans":[{"spanID":"1"}]}]}"#] {
        let error = jaeger::traces(body.as_bytes()).expect_err(body);
        assert!(error.contains("Jaeger's query API"), "{error}");
    }
    let changes: [fn(&mut serde_json::Value); 3] = [
        |span| span["traceID"] = "xyz".into(),
        |span| span["spanID"] = "11111111111111111".into(),
        |span| span["processID"] = "p2".into(),
    ];
    for change in changes {
        let mut span = jaeger_span();
        change(&mut span);
        jaeger::traces(&jaeger_answer(&span)).expect_err("it cannot be compared");
    }
}
