use std::fs;
use std::ops::Range;

use bytes::Bytes;
use oneiric_otel_testkit::data::{files, shared_data_for};
use oneiric_otel_testkit::{arbitrary, nezha, who_and_when, wire};
use opentelemetry_proto::tonic::common::v1::InstrumentationScope;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, ArrayValue, KeyValue, KeyValueList};
use opentelemetry_proto::tonic::resource::v1::Resource;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

use super::super::fuzzing::check_in_place;
use super::super::prepare::prepare;
use super::*;
use crate::otlp::record::Record;
use crate::otlp::{Group, decode, file, json, protobuf};

const FEW: Range<usize> = 0..4;

type Envelope<T> = (Option<T>, String);

/// Boxed, level by level: a test's thread has a small stack.
fn groups<R: Record>(record: impl Strategy<Value = R> + 'static) -> impl Strategy<Value = Vec<Group<R>>> {
    let group = |(resource, scope, records): (Envelope<Resource>, Envelope<InstrumentationScope>, Vec<R>)| {
        let resource = ResourceEnvelope { resource: resource.0, schema_url: resource.1 };
        let scope = ScopeEnvelope { scope: scope.0, schema_url: scope.1 };
        Group { resource: Arc::new(resource), scope: Arc::new(scope), records }
    };
    let owners = (arbitrary::resource_envelope().boxed(), arbitrary::scope_envelope().boxed());
    vec((owners.0, owners.1, vec(record.boxed(), FEW)).prop_map(group), FEW).boxed()
}

fn request<R: Record>(groups: &[Group<R>]) -> Request {
    Request { signal: R::SIGNAL, encoding: Encoding::Protobuf, body: protobuf::encode(groups).into() }
}

/// Requests of every kind, many of them with records that are rejected.
fn requests() -> impl Strategy<Value = Request> {
    prop_oneof![
        groups(arbitrary::span()).prop_map(|groups| request(&groups)),
        groups(arbitrary::valid_span()).prop_map(|groups| request(&groups)),
        groups(arbitrary::log_record()).prop_map(|groups| request(&groups)),
        groups(arbitrary::metric()).prop_map(|groups| request(&groups)),
    ]
}

fn damaged(request: &Request, changes: &[(Index, u8)], cut: Option<Index>) -> Request {
    let mut body = request.body.to_vec();
    if !body.is_empty() {
        for (at, byte) in changes {
            body[at.index(request.body.len())] = *byte;
        }
        body.truncate(cut.map_or(body.len(), |cut| cut.index(request.body.len())));
    }
    Request { body: Bytes::from(body), ..request.clone() }
}

fn limits() -> impl Strategy<Value = Limits> {
    let small = (0usize..400, 0usize..4).prop_map(|(record_bytes, attributes)| Limits { record_bytes, attributes });
    prop_oneof![Just(Limits::default()), small]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn the_answer_is_the_same_whether_rows_are_made_or_not(
        request in requests(),
        changes in vec((any::<Index>(), any::<u8>()), FEW),
        cut in proptest::option::weighted(0.1, any::<Index>()),
        limits in limits(),
    ) {
        let request = damaged(&request, &changes, cut);
        let prepared = prepare(&request, &limits).map(|prepared| prepared.verdict.answer());
        prop_assert_eq!(examine(&request, &limits).map(|verdict| verdict.answer()), prepared);
    }

    #[test]
    fn rows_are_the_same_whether_spans_are_read_in_place_or_not(
        groups in groups(prop_oneof![1 => arbitrary::span().boxed(), 3 => arbitrary::valid_span().boxed()]),
        changes in wire::changes().boxed(),
        bytes in vec((any::<Index>(), any::<u8>()), 0..2),
        cut in proptest::option::weighted(0.1, any::<Index>()),
        limits in limits(),
    ) {
        let request = request(&groups);
        let body = changes.iter().fold(request.body.to_vec(), |body, change| change.apply(&body)).into();
        check_in_place(&damaged(&Request { body, ..request }, &bytes, cut).body, &limits);
    }

    #[test]
    fn rows_are_the_same_whether_spans_came_as_json_or_not(groups in groups(arbitrary::valid_span())) {
        // The payload of a NaN does not come back from JSON.
        let body: Bytes = json::encode(&groups).into();
        let groups = otlp::decode::<Span>(Encoding::Json, &body).unwrap().groups;
        let json = Request { encoding: Encoding::Json, body, ..request(&groups) };
        let [in_place, read] = [request(&groups), json].map(|request| prepare(&request, &Limits::NONE).unwrap().batch);
        prop_assert_eq!(in_place.rows.bytes(0..in_place.rows.len()), read.rows.bytes(0..read.rows.len()));
        prop_assert_eq!(in_place.records, read.records);
    }

    #[test]
    fn a_request_in_which_nothing_is_odd_is_not_decoded(
        spans in groups(arbitrary::valid_span()),
        logs in groups(arbitrary::log_record()),
    ) {
        let count = |request: Request| plain::walk(request.signal, &request.body, &|part| accepts(&Limits::default(), part));
        let spans_of = |groups: &[Group<Span>]| groups.iter().map(|group| group.records.len() as u64).sum();
        let logs_of = |groups: &[Group<LogRecord>]| groups.iter().map(|group| group.records.len() as u64).sum();
        prop_assert_eq!(count(request(&spans)), Some(spans_of(&spans)));
        prop_assert_eq!(count(request(&logs)), Some(logs_of(&logs)));
    }
}

#[test]
fn what_would_be_merged_or_is_too_deep_is_left_to_the_decoder() {
    let count = |body: &[u8]| plain::walk(Signal::Traces, body, &|_| true);
    // One group with one scope group with one span without fields.
    assert_eq!(count(&[0x0a, 4, 0x12, 2, 0x12, 0]), Some(1));
    assert_eq!(count(&[0x0a, 4, 0x0a, 0, 0x0a, 0]), None, "two resources");
    assert_eq!(count(&[0x0a, 6, 0x12, 4, 0x0a, 0, 0x0a, 0]), None, "two scopes");
    assert_eq!(count(&[0x0b, 0x0c]), None, "a group, which is no message");
    assert_eq!(count(&[0x08, 1]), None, "a number in the place of a message");
    assert_eq!(count(&[0x0a, 5, 0x12]), None, "cut off");
}

/// A request of one span with such an attribute.
fn with_attribute(attribute: KeyValue) -> Bytes {
    let span = Span { trace_id: vec![1; 16], span_id: vec![2; 8], attributes: vec![attribute], ..Span::default() };
    let (resource, scope) = (Arc::default(), Arc::default());
    request(&[Group { resource, scope, records: vec![span] }]).body
}

#[test]
fn values_of_any_depth_are_stored_or_refused_alike() {
    let text = AnyValue { value: Some(Value::StringValue("x".to_owned())) };
    let attribute = |value| KeyValue { key: "k".to_owned(), value: Some(value), key_strindex: 0 };
    let array = |inner| Value::ArrayValue(ArrayValue { values: vec![inner] });
    let map = |inner| Value::KvlistValue(KeyValueList { values: vec![attribute(inner)] });
    let wraps: [&dyn Fn(AnyValue) -> Value; 2] = [&array, &map];
    for wrap in wraps {
        let mut value = text.clone();
        let mut stored = Vec::new();
        for _ in 0..110 {
            stored.push(check_in_place(&with_attribute(attribute(value.clone())), &Limits::default()));
            value = AnyValue { value: Some(wrap(value)) };
        }
        let refused_from = stored.iter().position(Option::is_none).expect("there is a limit");
        assert!((30..60).contains(&refused_from), "{refused_from}");
        assert!(stored[refused_from..].iter().all(Option::is_none));
    }
}

#[test]
fn rows_of_recorded_spans_are_the_same_whether_they_are_read_in_place_or_not() {
    const NAME: &str = "rows_of_recorded_spans_are_the_same_whether_they_are_read_in_place_or_not";
    let Some(folder) = shared_data_for(NAME, "otlp") else { return };
    let mut rows = 0;
    for path in files(&folder) {
        let bytes = Bytes::from(fs::read(&path).unwrap());
        let found = file::requests(path.to_str().unwrap(), bytes, None).flatten();
        for found in found.filter(|found| found.signal == Signal::Traces) {
            let groups = decode::<Span>(found.encoding, &found.body).unwrap().groups;
            rows += check_in_place(&request(&groups).body, &Limits::default()).unwrap_or_default();
        }
    }
    assert!(rows > 40, "{rows}");

    let Some(trains) = shared_data_for(NAME, nezha::FOLDER) else { return };
    let Some(agents) = shared_data_for(NAME, who_and_when::FOLDER) else { return };
    for body in nezha::traces(&trains).take(2).chain(who_and_when::traces(&agents)) {
        assert!(check_in_place(&body.unwrap(), &Limits::default()).is_some_and(|rows| rows > 0));
    }
}
