use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, ArrayValue, InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::{Gauge, MetricsData, NumberDataPoint, ResourceMetrics, ScopeMetrics};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, TracesData};

use super::*;

fn attribute(key: &str, value: &str) -> KeyValue {
    let value = AnyValue { value: Some(Value::StringValue(value.to_owned())) };
    KeyValue { key: key.to_owned(), value: Some(value), key_strindex: 0 }
}

fn span(name: &str) -> Span {
    Span { name: name.to_owned(), trace_id: vec![1; 16], span_id: vec![2; 8], ..Span::default() }
}

/// A length-delimited field: every one in these tests is shorter than 128 bytes unless it says so.
fn field(tag: u8, body: &[u8]) -> Vec<u8> {
    let mut out = vec![tag << 3 | 2];
    prost::encode_length_delimiter(body.len(), &mut out).unwrap();
    out.extend_from_slice(body);
    out
}

/// One request of one scope group whose records are given as bytes.
fn request(records: &[Vec<u8>]) -> Bytes {
    let records: Vec<u8> = records.iter().flat_map(|record| field(2, record)).collect();
    field(1, &field(2, &records)).into()
}

fn names(decoded: &Decoded<Span>) -> Vec<&str> {
    decoded.groups.iter().flat_map(|group| &group.records).map(|span| span.name.as_str()).collect()
}

#[test]
fn empty_body_is_a_request_without_groups() {
    let decoded = decode_logs(&Bytes::new()).unwrap();
    assert!(decoded.groups.is_empty());
    assert!(decoded.undecodable.is_empty());
}

#[test]
fn reads_what_prost_writes_and_keeps_grouping_and_schema_urls() {
    let scope = |name: &str, spans| ScopeSpans {
        scope: Some(InstrumentationScope { name: name.to_owned(), ..InstrumentationScope::default() }),
        spans,
        schema_url: format!("schema of {name}"),
    };
    let message = TracesData {
        resource_spans: vec![
            ResourceSpans {
                resource: Some(Resource { attributes: vec![attribute("service.name", "cart")], ..Resource::default() }),
                scope_spans: vec![scope("a", vec![span("1"), span("2")]), scope("b", vec![span("3")])],
                schema_url: "schema of the resource".to_owned(),
            },
            ResourceSpans { scope_spans: vec![scope("c", vec![span("4")])], ..ResourceSpans::default() },
        ],
    };
    let body = Bytes::from(message.encode_to_vec());
    let decoded = decode_traces(&body).unwrap();
    assert!(decoded.undecodable.is_empty());
    assert_eq!(names(&decoded), ["1", "2", "3", "4"]);
    let first = &decoded.groups[0];
    assert_eq!(first.resource.resource, message.resource_spans[0].resource);
    assert_eq!(first.resource.schema_url, "schema of the resource");
    assert_eq!(first.scope.scope, message.resource_spans[0].scope_spans[0].scope);
    assert_eq!(first.scope.schema_url, "schema of a");
    assert!(Arc::ptr_eq(&first.resource, &decoded.groups[1].resource));
    assert_eq!(decoded.groups[2].resource.resource, None);
    assert_eq!(encode(&decoded.groups), body);
}

#[test]
fn one_bad_record_does_not_cost_its_neighbours() {
    let not_utf8 = field(5, &[0xff, 0xfe]);
    let wrong_wire_type = vec![5 << 3, 1];
    let cut_off = vec![5 << 3 | 2, 40, b'x'];
    let deep = (0..200).fold(AnyValue::default(), |value, _| AnyValue {
        value: Some(Value::ArrayValue(ArrayValue { values: vec![value] })),
    });
    let too_deep = Span {
        attributes: vec![KeyValue { key: "deep".to_owned(), value: Some(deep), key_strindex: 0 }],
        ..span("deep")
    };
    let records = [
        span("first").encode_to_vec(),
        not_utf8,
        span("second").encode_to_vec(),
        wrong_wire_type,
        cut_off,
        too_deep.encode_to_vec(),
        span("third").encode_to_vec(),
    ];
    let decoded = decode_traces(&request(&records)).unwrap();
    assert_eq!(names(&decoded), ["first", "second", "third"]);
    let found: Vec<(&str, u64)> = decoded.undecodable.iter().map(|lost| (lost.path.as_str(), lost.records)).collect();
    assert_eq!(
        found,
        [
            ("resourceSpans[0].scopeSpans[0].spans[1]", 1),
            ("resourceSpans[0].scopeSpans[0].spans[3]", 1),
            ("resourceSpans[0].scopeSpans[0].spans[4]", 1),
            ("resourceSpans[0].scopeSpans[0].spans[5]", 1),
        ]
    );
    assert!(decoded.undecodable[0].reason.contains("UTF-8"), "{}", decoded.undecodable[0].reason);
    assert!(decoded.undecodable[3].reason.contains("recursion limit"), "{}", decoded.undecodable[3].reason);
}

#[test]
fn a_bad_resource_or_scope_loses_the_records_under_it_only() {
    let good = field(2, &field(2, &span("kept").encode_to_vec()));
    let bad_resource = [field(1, &[0xff]), field(2, &[field(2, &[]), field(2, &[])].concat())].concat();
    let bad_scope = field(2, &[field(1, &field(1, &[0xff])), field(2, &[])].concat());
    let bad_schema = field(2, &[field(2, &[]), field(3, &[0xff])].concat());
    let bad_and_empty = field(1, &[0xff]);
    let body =
        [field(1, &bad_resource), field(1, &[bad_scope, good, bad_schema].concat()), field(1, &bad_and_empty)].concat();
    let decoded = decode_traces(&body.into()).unwrap();
    assert_eq!(names(&decoded), ["kept"]);
    let found: Vec<(&str, u64)> = decoded.undecodable.iter().map(|lost| (lost.path.as_str(), lost.records)).collect();
    assert_eq!(
        found,
        [
            ("resourceSpans[0].resource", 2),
            ("resourceSpans[1].scopeSpans[0].scope", 1),
            ("resourceSpans[1].scopeSpans[2].schemaUrl", 1),
        ]
    );
}

#[test]
fn a_lost_metric_counts_its_data_points() {
    let gauge = Gauge { data_points: vec![NumberDataPoint::default(); 3] };
    let mut bad_name = Metric { data: Some(Data::Gauge(gauge.clone())), ..Metric::default() }.encode_to_vec();
    bad_name.extend(field(1, &[0xff]));
    let records = [bad_name, vec![0xff], Metric { name: "kept".to_owned(), ..Metric::default() }.encode_to_vec()];
    let decoded = decode_metrics(&request(&records)).unwrap();
    assert_eq!(decoded.undecodable.iter().map(|lost| lost.records).collect::<Vec<_>>(), [3, 1]);
    assert_eq!(decoded.groups[0].records[0].name, "kept");

    let metric = Metric { data: Some(Data::Gauge(gauge)), ..Metric::default() };
    let scope_metrics = vec![ScopeMetrics { metrics: vec![metric], ..ScopeMetrics::default() }];
    let group = ResourceMetrics { scope_metrics, ..ResourceMetrics::default() };
    let mut body = MetricsData { resource_metrics: vec![group] }.resource_metrics[0].encode_to_vec();
    body.extend(field(1, &[0xff]));
    let decoded = decode_metrics(&field(1, &body).into()).unwrap();
    assert_eq!(decoded.undecodable[0].records, 3);
}

#[test]
fn a_resource_or_scope_that_occurs_twice_is_merged() {
    let part = |key: &str| Resource { attributes: vec![attribute(key, "v")], ..Resource::default() }.encode_to_vec();
    let scope = |name: &str, version: &str| {
        InstrumentationScope { name: name.to_owned(), version: version.to_owned(), ..InstrumentationScope::default() }
            .encode_to_vec()
    };
    let scopes = [field(1, &scope("x", "1")), field(2, &span("s").encode_to_vec()), field(1, &scope("y", ""))].concat();
    let group = [field(1, &part("a")), field(3, b"old"), field(2, &scopes), field(1, &part("b")), field(3, b"new")];
    let body = Bytes::from(field(1, &group.concat()));
    let decoded = decode_traces(&body).unwrap();
    let expected = TracesData::decode(body.as_ref()).unwrap().resource_spans.remove(0);
    let found = &decoded.groups[0];
    assert_eq!(found.resource.resource, expected.resource);
    assert_eq!(found.resource.resource.as_ref().unwrap().attributes.len(), 2);
    assert_eq!(found.resource.schema_url, "new");
    assert_eq!(found.scope.scope, expected.scope_spans[0].scope);
    assert_eq!(found.scope.scope.as_ref().unwrap().version, "1");
}

#[test]
fn a_broken_envelope_is_malformed() {
    let whole = request(&[span("x").encode_to_vec()]);
    for end in 1..whole.len() {
        let refused = decode_traces(&whole.slice(..end)).unwrap_err();
        assert!(refused.reason.contains("resourceSpans"), "{}", refused.reason);
    }
    for garbage in [&b"{\"resourceSpans\":[]}"[..], b"\x08\x01", b"\xff\xff\xff"] {
        assert!(decode_traces(&Bytes::from_static(garbage)).is_err(), "{garbage:?}");
    }
}

/// One resource with one scope with these bytes as its records.
fn scope_of(records: &[u8]) -> Bytes {
    let wrap = |tag: u8, inner: &[u8]| {
        let mut outer = vec![tag];
        prost::encoding::encode_varint(inner.len() as u64, &mut outer);
        outer.extend_from_slice(inner);
        outer
    };
    wrap(0x0a, &wrap(0x12, records)).into()
}

#[test]
fn a_request_of_countless_empty_records_is_refused_before_they_take_memory() {
    let empty_spans = scope_of(&[0x12, 0x00].repeat(5_000_000));
    let refused = decode_traces(&empty_spans).unwrap_err();
    assert!(refused.reason.contains("4000000 fields"), "{refused}");

    let mut span = [0x4a, 0x00].repeat(5_000_000);
    let mut record = vec![0x12];
    prost::encoding::encode_varint(span.len() as u64, &mut record);
    record.append(&mut span);
    let refused = decode_traces(&scope_of(&record)).unwrap_err();
    assert!(refused.reason.contains("4000000 fields"), "{refused}");

    let too_many = scope_of(&[0x12, 0x00].repeat(500_001));
    let refused = decode_traces(&too_many).unwrap_err();
    assert!(refused.reason.contains("500001 spans"), "{refused}");
}

#[test]
fn countless_bad_records_are_counted_and_only_some_are_described() {
    let bad = scope_of(&[0x12, 0x01, 0xff].repeat(1000));
    let decoded = decode_traces(&bad).unwrap();
    assert_eq!(decoded.undecodable.iter().map(|one| one.records).sum::<u64>(), 1000);
    assert!(decoded.undecodable.len() <= 101, "{}", decoded.undecodable.len());
}

#[test]
fn a_large_request_of_long_texts_and_digits_is_no_attack() {
    let digits: String = (0..3_000_000).map(|i| char::from(b'0' + (i % 10) as u8)).collect();
    let span = Span { name: digits, ..Span::default() };
    let body: Bytes =
        encode(&[Group { resource: Arc::default(), scope: Arc::default(), records: vec![span; 3] }]).into();
    assert_eq!(decode_traces(&body).unwrap().groups[0].records.len(), 3);
}
