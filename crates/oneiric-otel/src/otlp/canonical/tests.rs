use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, ArrayValue, EntityRef, InstrumentationScope, KeyValueList};
use opentelemetry_proto::tonic::metrics::v1::exponential_histogram_data_point::Buckets;
use opentelemetry_proto::tonic::metrics::v1::summary_data_point::ValueAtQuantile;
use opentelemetry_proto::tonic::metrics::v1::{
    Exemplar, ExponentialHistogramDataPoint, HistogramDataPoint, NumberDataPoint, SummaryDataPoint, exemplar,
    number_data_point,
};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::Status;
use opentelemetry_proto::tonic::trace::v1::span::{Event, Link};

use super::*;
use crate::otlp::point::MetricKind;
use crate::otlp::view::EventView;

fn attribute(key: &str, value: Option<Value>) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value }), key_strindex: 0 }
}

/// One attribute of each kind of value.
fn attributes() -> Vec<KeyValue> {
    let array = ArrayValue { values: vec![AnyValue { value: Some(Value::BoolValue(true)) }, AnyValue::default()] };
    let list = KeyValueList { values: vec![attribute("inner", Some(Value::IntValue(-2)))] };
    vec![
        attribute("string", Some(Value::StringValue("text \0 of 日本".to_owned()))),
        attribute("bool", Some(Value::BoolValue(false))),
        attribute("int", Some(Value::IntValue(i64::MIN))),
        attribute("double", Some(Value::DoubleValue(-0.0))),
        attribute("array", Some(Value::ArrayValue(array))),
        attribute("list", Some(Value::KvlistValue(list))),
        attribute("bytes", Some(Value::BytesValue(vec![0, 255]))),
        attribute("index", Some(Value::StringValueStrindex(-1))),
        attribute("empty", None),
        KeyValue { key: "absent".to_owned(), value: None, key_strindex: 3 },
    ]
}

fn resource() -> ResourceEnvelope {
    let entity = EntityRef {
        schema_url: "u".to_owned(),
        r#type: "service".to_owned(),
        id_keys: vec!["service.name".to_owned(), String::new()],
        description_keys: vec!["d".to_owned()],
    };
    let resource = Resource { attributes: attributes(), dropped_attributes_count: 1, entity_refs: vec![entity] };
    ResourceEnvelope { resource: Some(resource), schema_url: "https://example.test/1".to_owned() }
}

fn scope() -> ScopeEnvelope {
    let scope = InstrumentationScope {
        name: "scope".to_owned(),
        version: "1.2".to_owned(),
        attributes: attributes(),
        dropped_attributes_count: 2,
    };
    ScopeEnvelope { scope: Some(scope), schema_url: "https://example.test/2".to_owned() }
}

fn span() -> Span {
    Span {
        trace_id: (0..16).collect(),
        span_id: (16..24).collect(),
        trace_state: "a=b".to_owned(),
        parent_span_id: vec![1, 2, 3],
        flags: 0x101,
        name: "GET /".to_owned(),
        kind: 2,
        start_time_unix_nano: 1_500_000_000_000_000_000,
        end_time_unix_nano: u64::MAX,
        attributes: attributes(),
        dropped_attributes_count: 3,
        events: vec![Event {
            time_unix_nano: 7,
            name: "e".repeat(200),
            attributes: attributes(),
            dropped_attributes_count: 4,
        }],
        dropped_events_count: 5,
        links: vec![Link {
            trace_id: vec![9; 16],
            span_id: vec![8; 8],
            trace_state: "c=d".to_owned(),
            attributes: attributes(),
            dropped_attributes_count: 6,
            flags: 7,
        }],
        dropped_links_count: 8,
        status: Some(Status { message: "failed".to_owned(), code: 2 }),
    }
}

fn metric() -> MetricDescriptor {
    MetricDescriptor {
        name: "requests".to_owned(),
        description: "how many".to_owned(),
        unit: "1".to_owned(),
        metadata: attributes(),
        kind: MetricKind::Sum,
        temporality: 2,
        monotonic: true,
    }
}

fn exemplars() -> Vec<Exemplar> {
    let exemplar = |value| Exemplar {
        filtered_attributes: attributes(),
        time_unix_nano: 11,
        span_id: vec![1],
        trace_id: vec![2],
        value,
    };
    let values = [Some(exemplar::Value::AsInt(0)), Some(exemplar::Value::AsDouble(0.0)), None];
    values.into_iter().map(exemplar).collect()
}

fn number_point() -> NumberDataPoint {
    NumberDataPoint {
        attributes: attributes(),
        start_time_unix_nano: 1,
        time_unix_nano: 2,
        exemplars: exemplars(),
        flags: 1,
        value: Some(number_data_point::Value::AsDouble(0.1)),
    }
}

fn histogram_point() -> HistogramDataPoint {
    HistogramDataPoint {
        attributes: attributes(),
        start_time_unix_nano: 1,
        time_unix_nano: 2,
        count: 3,
        sum: Some(0.0),
        bucket_counts: vec![0, 3],
        explicit_bounds: vec![-0.0],
        exemplars: exemplars(),
        flags: 1,
        min: Some(f64::NEG_INFINITY),
        max: Some(f64::INFINITY),
    }
}

fn exponential_point() -> ExponentialHistogramDataPoint {
    ExponentialHistogramDataPoint {
        attributes: attributes(),
        start_time_unix_nano: 1,
        time_unix_nano: 2,
        count: 3,
        sum: None,
        scale: -4,
        zero_count: 5,
        positive: Some(Buckets { offset: -6, bucket_counts: vec![7, 8] }),
        negative: Some(Buckets::default()),
        flags: 1,
        exemplars: exemplars(),
        min: Some(-1.0),
        max: Some(1.0),
        zero_threshold: 1e-9,
    }
}

fn summary_point() -> SummaryDataPoint {
    SummaryDataPoint {
        attributes: attributes(),
        start_time_unix_nano: 1,
        time_unix_nano: 2,
        count: 3,
        sum: 4.5,
        quantile_values: vec![ValueAtQuantile { quantile: 0.5, value: -0.0 }, ValueAtQuantile::default()],
        flags: 1,
    }
}

/// These hashes are keys in databases. When this test fails the code is wrong, not the test.
#[test]
fn identities_are_frozen() {
    let mut canonical = Canonical::new();
    let resource = canonical.resource(&resource());
    let scope = canonical.scope(&scope());
    let metric = canonical.metric(&metric());
    let series = canonical.series(resource, scope, metric, &attributes());
    let found = [
        ("resource", resource),
        ("scope", scope),
        ("span", canonical.span(resource, scope, &span())),
        ("metric", metric),
        ("series", series),
        ("number", canonical.point(series, Point::Number(&number_point()))),
        ("histogram", canonical.point(series, Point::Histogram(&histogram_point()))),
        ("exponential", canonical.point(series, Point::ExponentialHistogram(&exponential_point()))),
        ("summary", canonical.point(series, Point::Summary(&summary_point()))),
        ("no resource", canonical.resource(&ResourceEnvelope::default())),
        ("no scope", canonical.scope(&ScopeEnvelope::default())),
        ("empty span", canonical.span(resource, scope, &Span::default())),
    ]
    .map(|(name, hash)| (name, hash.to_string()));
    let expected = [
        ("resource", "5664fc0605e8217f5fa12a2253fb1105"),
        ("scope", "e0fc1daf6c492f8faf8d0f9f17c03a6f"),
        ("span", "42550600d7ec37a2572ea6befb70be35"),
        ("metric", "4a9ecf2507b3dc39d2d5e9a5002a4ae6"),
        ("series", "742191b2c0ecd222ed1865b524a8063f"),
        ("number", "f3dbee4718d875138016cf5a95fad131"),
        ("histogram", "1e2c05270fc4463c55d43ad4905f19d4"),
        ("exponential", "34c166a5f387617558194bc2241fcef6"),
        ("summary", "25d8c0385d022db6f091f2206d92dcd7"),
        ("no resource", "44c659d145ea5700686e4b14564a7ab0"),
        ("no scope", "5fc2c0e1bfeea550a16c7a4a177ed0ec"),
        ("empty span", "39e34ce5c78fac530970b983fbf14e43"),
    ]
    .map(|(name, hash): (&str, &str)| (name, hash.to_owned()));
    assert_eq!(found, expected);
}

#[test]
fn canonical_bytes_are_as_documented() {
    let value = attribute("k", Some(Value::DoubleValue(1.0)));
    assert_eq!(bytes(&value), [1, 1, b'k', 2, 4, 0, 0, 0, 0, 0, 0, 0xf0, 0x3f, 0, 0]);
    let long = Event { name: "x".repeat(300), ..Event::default() };
    assert_eq!(bytes(&EventView::from(&long)).get(..3), Some(&[2, 0xac, 0x02][..]));
    assert_eq!(bytes(&Span::default()), [0]);
    assert_eq!(
        bytes(&Buckets { offset: -1, bucket_counts: vec![2] }),
        [1, 255, 255, 255, 255, 2, 1, 2, 0, 0, 0, 0, 0, 0, 0, 0]
    );
}

#[test]
fn whatever_differs_by_a_bit_differs() {
    let double = |value: f64| AnyValue { value: Some(Value::DoubleValue(value)) };
    let nan = |payload: u64| double(f64::from_bits(0x7ff8_0000_0000_0000 | payload));
    let values = [
        AnyValue::default(),
        double(0.0),
        double(-0.0),
        nan(0),
        nan(1),
        AnyValue { value: Some(Value::IntValue(0)) },
        AnyValue { value: Some(Value::BoolValue(false)) },
        AnyValue { value: Some(Value::StringValue(String::new())) },
        AnyValue { value: Some(Value::BytesValue(Vec::new())) },
        AnyValue { value: Some(Value::StringValueStrindex(0)) },
        AnyValue { value: Some(Value::ArrayValue(ArrayValue::default())) },
        AnyValue { value: Some(Value::KvlistValue(KeyValueList::default())) },
        AnyValue { value: Some(Value::ArrayValue(ArrayValue { values: vec![AnyValue::default()] })) },
    ];
    for (i, left) in values.iter().enumerate() {
        for (j, right) in values.iter().enumerate() {
            assert_eq!(bits_equal(left, right), i == j, "{left:?} and {right:?}");
        }
    }
    let absent = KeyValue::default();
    let empty = KeyValue { value: Some(AnyValue::default()), ..KeyValue::default() };
    assert!(!bits_equal(&absent, &empty));
    assert!(!bits_equal(&Span::default(), &Span { status: Some(Status::default()), ..Span::default() }));
    let (a, b) = (attribute("a", None), attribute("b", None));
    let span =
        |attributes: [&KeyValue; 2]| Span { attributes: attributes.into_iter().cloned().collect(), ..Span::default() };
    assert!(!bits_equal(&span([&a, &b]), &span([&b, &a])));
}

#[test]
fn the_owner_and_the_kind_are_part_of_the_identity() {
    let mut canonical = Canonical::new();
    let (one, other) = (Hash128([1; 16]), Hash128([2; 16]));
    let span = span();
    let identity = canonical.span(one, one, &span);
    assert_eq!(canonical.span(one, one, &span), identity);
    assert_ne!(canonical.span(one, other, &span), identity);
    assert_ne!(canonical.span(other, one, &span), identity);
    let empty = (&NumberDataPoint::default(), &HistogramDataPoint::default());
    assert_ne!(canonical.point(one, Point::Number(empty.0)), canonical.point(one, Point::Histogram(empty.1)));
    let resource = canonical.resource(&ResourceEnvelope::default());
    assert_ne!(resource, canonical.scope(&ScopeEnvelope::default()));
}

#[test]
fn low64_and_display_follow_the_bytes() {
    let hash = Hash128([1, 0, 0, 0, 0, 0, 0, 0x80, 9, 9, 9, 9, 9, 9, 9, 9]);
    assert_eq!(hash.low64(), i64::MIN + 1);
    assert_eq!(hash.to_string(), "01000000000000800909090909090909");
}
