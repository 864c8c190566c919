use std::ops::Range;

use bytes::Bytes;
use oneiric_otel_testkit::arbitrary;
use opentelemetry_proto::tonic::common::v1::InstrumentationScope;
use opentelemetry_proto::tonic::resource::v1::Resource;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

use super::super::prepare::prepare;
use super::*;
use crate::otlp::record::Record;
use crate::otlp::{Group, protobuf};

const FEW: Range<usize> = 0..4;

type Envelope<T> = (Option<T>, String);

fn groups<R: Record>(record: impl Strategy<Value = R>) -> impl Strategy<Value = Vec<Group<R>>> {
    let group = |(resource, scope, records): (Envelope<Resource>, Envelope<InstrumentationScope>, Vec<R>)| {
        let resource = ResourceEnvelope { resource: resource.0, schema_url: resource.1 };
        let scope = ScopeEnvelope { scope: scope.0, schema_url: scope.1 };
        Group { resource: Arc::new(resource), scope: Arc::new(scope), records }
    };
    vec((arbitrary::resource_envelope(), arbitrary::scope_envelope(), vec(record, FEW)).prop_map(group), FEW)
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
