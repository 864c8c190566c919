//! Properties that hold for every message, whatever it holds.

use std::fmt::Write as _;

use oneiric_otel_testkit::arbitrary;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use opentelemetry_proto::tonic::metrics::v1::{
    ExponentialHistogramDataPoint, HistogramDataPoint, Metric, NumberDataPoint, SummaryDataPoint,
};
use opentelemetry_proto::tonic::trace::v1::Span;
use proptest::collection::vec;
use proptest::prelude::*;
use prost::Message;

use super::canonical::{bits_equal, bytes};
use super::point::Point;
use super::*;

type Envelopes = ((Option<Resource>, String), (Option<InstrumentationScope>, String));

/// Up to three groups of up to three records.
fn groups<R: Record>(record: impl Strategy<Value = R>) -> impl Strategy<Value = Vec<Group<R>>> {
    let envelopes = (arbitrary::resource_envelope(), arbitrary::scope_envelope());
    vec((envelopes, vec(record, 1..3)), 0..3).prop_map(|groups| groups.into_iter().map(group).collect())
}

fn group<R>((envelopes, records): (Envelopes, Vec<R>)) -> Group<R> {
    let ((resource, resource_url), (scope, scope_url)) = envelopes;
    Group {
        resource: Arc::new(ResourceEnvelope { resource, schema_url: resource_url }),
        scope: Arc::new(ScopeEnvelope { scope, schema_url: scope_url }),
        records,
    }
}

/// Whether both hold the same by their bits.
fn same<R: Record>(left: &[Group<R>], right: &[Group<R>]) -> bool {
    let same_group = |(left, right): (&Group<R>, &Group<R>)| {
        bits_equal(left.resource.as_ref(), right.resource.as_ref())
            && bits_equal(left.scope.as_ref(), right.scope.as_ref())
            && left.records.len() == right.records.len()
            && left.records.iter().zip(&right.records).all(|(left, right)| bits_equal(left, right))
    };
    left.len() == right.len() && left.iter().zip(right).all(same_group)
}

fn protobuf_round_trip<R: Record>(groups: &[Group<R>]) -> Result<(), TestCaseError> {
    let decoded: Decoded<R> = decode(Encoding::Protobuf, &protobuf::encode(groups).into()).unwrap();
    prop_assert_eq!(decoded.undecodable, []);
    prop_assert!(same(groups, &decoded.groups));
    Ok(())
}

/// JSON has one NaN only: reading what was written once gives messages that come back as they are from then on, and that
/// differ from the first ones in the bits of NaNs at most.
fn json_round_trip<R: Record>(groups: &[Group<R>]) -> Result<(), TestCaseError> {
    let written = json::encode(groups);
    let decoded: Decoded<R> = decode(Encoding::Json, &written.clone().into()).unwrap();
    prop_assert_eq!(&decoded.undecodable, &[]);
    let (left, right) = (without_nan_bits(groups), without_nan_bits(&decoded.groups));
    prop_assert_eq!(left, right);
    let again: Decoded<R> = decode(Encoding::Json, &json::encode(&decoded.groups).into()).unwrap();
    prop_assert!(same(&decoded.groups, &again.groups));
    prop_assert_eq!(json::encode(&decoded.groups), written);
    Ok(())
}

/// The `Debug` form, in which every NaN is `NaN` and -0.0 is not 0.0.
fn without_nan_bits<R: Record>(groups: &[Group<R>]) -> String {
    let mut out = String::new();
    for Group { resource, scope, records } in groups {
        write!(out, "{resource:?} {scope:?} {records:?}").unwrap();
    }
    out
}

/// An arbitrary JSON document in which the names of OTLP are common.
fn json_document() -> impl Strategy<Value = String> {
    let scalar = prop_oneof![
        Just("null".to_owned()),
        any::<bool>().prop_map(|value| value.to_string()),
        any::<f32>().prop_map(|value| serde_json::to_string(&value).unwrap()),
        any::<i64>().prop_map(|value| value.to_string()),
        arbitrary::text().prop_map(|value| serde_json::to_string(&value).unwrap()),
        "[0-9a-f]{0,8}".prop_map(|value| format!("\"{value}\"")),
    ];
    let names = vec![
        "resourceSpans",
        "scopeSpans",
        "spans",
        "resourceMetrics",
        "scopeMetrics",
        "metrics",
        "resourceLogs",
        "scopeLogs",
        "logRecords",
        "resource",
        "scope",
        "schemaUrl",
        "attributes",
        "key",
        "value",
        "stringValue",
        "intValue",
        "arrayValue",
        "kvlistValue",
        "values",
        "traceId",
        "name",
        "kind",
        "body",
        "gauge",
        "sum",
        "dataPoints",
        "asInt",
        "exemplars",
        "other",
    ];
    scalar.prop_recursive(8, 40, 4, move |inner| {
        let fields = vec((prop::sample::select(names.clone()), inner.clone()), 0..4);
        let object = fields.prop_map(|fields| {
            let fields: Vec<String> = fields.iter().map(|(key, value)| format!("\"{key}\":{value}")).collect();
            format!("{{{}}}", fields.join(","))
        });
        prop_oneof![2 => object, 1 => vec(inner, 0..4).prop_map(|list| format!("[{}]", list.join(",")))]
    })
}

/// Decodes as all three signals; what is decoded must be whole.
fn decode_all(encoding: Encoding, body: &Bytes) {
    fn check<R: Record>(decoded: Result<Decoded<R>, Malformed>) {
        let Ok(decoded) = decoded else { return };
        assert!(decoded.groups.iter().all(|group| !group.records.is_empty()));
        assert!(decoded.undecodable.iter().all(|lost| lost.records > 0 && !lost.reason.is_empty()));
    }
    check(decode::<Span>(encoding, body));
    check(decode::<Metric>(encoding, body));
    check(decode::<LogRecord>(encoding, body));
}

/// A request with one byte changed or its end cut off.
fn damaged(mut body: Vec<u8>, at: prop::sample::Index, byte: Option<u8>) -> Bytes {
    if !body.is_empty() {
        let at = at.index(body.len());
        match byte {
            Some(byte) => body[at] = byte,
            None => body.truncate(at),
        }
    }
    body.into()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn spans_come_back(groups in groups(arbitrary::span())) {
        protobuf_round_trip(&groups)?;
        json_round_trip(&groups)?;
    }

    #[test]
    fn log_records_come_back(groups in groups(arbitrary::log_record())) {
        protobuf_round_trip(&groups)?;
        json_round_trip(&groups)?;
    }

    #[test]
    fn metrics_come_back(groups in groups(arbitrary::metric())) {
        protobuf_round_trip(&groups)?;
        json_round_trip(&groups)?;
    }

    #[test]
    fn metrics_come_back_from_their_parts(metric in arbitrary::metric()) {
        let points = metric.count();
        match point::split(metric.clone()) {
            None => prop_assert!(metric.data.is_none()),
            Some((descriptor, parts)) => {
                for part in parts.iter() {
                    let bytes = protobuf::encode_point(part);
                    let same = match part {
                        Point::Number(point) => bits_equal(&NumberDataPoint::decode(&bytes[..]).unwrap(), point),
                        Point::Histogram(point) => bits_equal(&HistogramDataPoint::decode(&bytes[..]).unwrap(), point),
                        Point::ExponentialHistogram(point) => {
                            bits_equal(&ExponentialHistogramDataPoint::decode(&bytes[..]).unwrap(), point)
                        }
                        Point::Summary(point) => bits_equal(&SummaryDataPoint::decode(&bytes[..]).unwrap(), point),
                    };
                    prop_assert!(same);
                }
                prop_assert_eq!(parts.len() as u64, points);
                prop_assert_eq!(parts.iter().count() as u64, points);
                prop_assert!(bits_equal(&point::join(descriptor, parts).unwrap(), &metric));
            }
        }
    }

    #[test]
    fn equal_bits_are_equal_bytes_of_protobuf(left in arbitrary::span(), right in arbitrary::span()) {
        prop_assert!(bits_equal(&left, &left.clone()));
        prop_assert_eq!(bits_equal(&left, &right), left.encode_to_vec() == right.encode_to_vec());
        let mut renamed = left.clone();
        renamed.name.push('x');
        prop_assert!(!bits_equal(&left, &renamed));
    }

    #[test]
    fn canonical_values_are_no_prefix_of_each_other(left in arbitrary::value(), right in arbitrary::value()) {
        let (left, right) = (bytes(&left), bytes(&right));
        prop_assert!(left == right || !(left.starts_with(&right) || right.starts_with(&left)));
    }

    #[test]
    fn arbitrary_bytes_do_no_harm(body in vec(any::<u8>(), 0..200)) {
        decode_all(Encoding::Protobuf, &body.clone().into());
        decode_all(Encoding::Json, &body.clone().into());
        file::requests("x", body.into(), None).for_each(drop);
    }

    #[test]
    fn arbitrary_json_does_no_harm(document in json_document()) {
        let body = Bytes::from(document);
        decode_all(Encoding::Json, &body);
        file::requests("x", body, None).for_each(drop);
    }

    #[test]
    fn damage_does_no_harm(
        groups in groups(arbitrary::metric()),
        at in any::<prop::sample::Index>(),
        byte in any::<Option<u8>>(),
    ) {
        let protobuf = damaged(protobuf::encode(&groups), at, byte);
        decode_all(Encoding::Protobuf, &protobuf);
        file::requests("x", protobuf, None).for_each(drop);
        let json = damaged(json::encode(&groups), at, byte);
        decode_all(Encoding::Json, &json);
        file::requests("x", json, None).for_each(drop);
    }
}

/// The generators reach the corners that they promise.
#[test]
fn the_corners_are_generated() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;
    let mut runner = TestRunner::deterministic();
    let values: Vec<Option<Value>> =
        (0..3000).map(|_| arbitrary::value().new_tree(&mut runner).unwrap().current().value).collect();
    let has = |wanted: fn(&Value) -> bool| values.iter().flatten().any(wanted);
    assert!(values.iter().any(Option::is_none));
    assert!(has(|value| matches!(value, Value::StringValue(text) if text.contains('\0'))));
    assert!(has(|value| matches!(value, Value::DoubleValue(value) if value.to_bits() == (-0.0_f64).to_bits())));
    assert!(has(|value| matches!(value, Value::DoubleValue(value)
        if value.is_nan() && value.to_bits() != f64::NAN.to_bits())));
    assert!(has(|value| matches!(value, Value::KvlistValue(list)
        if list.values.iter().any(|pair| pair.value.is_none()))));
    assert!(has(|value| matches!(value, Value::KvlistValue(list)
        if list.values.iter().enumerate().any(|(place, pair)|
            list.values.iter().skip(place + 1).any(|other| other.key == pair.key)))));
    assert!(has(|value| matches!(value, Value::ArrayValue(list)
        if list.values.iter().any(|value| matches!(value.value, Some(Value::ArrayValue(_)))))));
}
