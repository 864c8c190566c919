//! Requests: what was read is written and read again, in both encodings.

use bytes::Bytes;
use oneiric_otel::otlp::canonical::{Canonical, Hash128, bits_equal};
use oneiric_otel::otlp::record::Record;
use oneiric_otel::otlp::{Decoded, Encoding, Group, decode, json as otlp_json, point, protobuf as otlp_protobuf};
use oneiric_otel::pipeline::Limits;
use oneiric_otel::pipeline::fuzzing::check_in_place;
use opentelemetry_proto::tonic::metrics::v1::Metric;
use opentelemetry_proto::tonic::trace::v1::Span;
use std::any::Any;

use crate::memory;

/// Bytes of memory for a byte of a request: a record of two bytes takes some hundred when it is read, a list of one
/// element has room for four, and there are several copies at a time.
const FACTOR: usize = 4096;

/// Checks a request in binary protobuf.
pub fn protobuf<R: Record>(body: &[u8]) {
    memory::bounded(body.len(), FACTOR, || check::<R>(Encoding::Protobuf, body));
}

/// Checks a request in OTLP/JSON.
pub fn json<R: Record>(body: &[u8]) {
    memory::bounded(body.len(), FACTOR, || check::<R>(Encoding::Json, body));
}

/// Checks that a request of traces becomes the same rows whether its spans are read in place or not. The first two bytes are the
/// limits of a record; none where both are 0.
pub fn in_place(input: &[u8]) {
    let Some(([bytes, attributes], body)) = input.split_first_chunk() else { return };
    let limits = match (bytes, attributes) {
        (0, 0) => Limits::default(),
        _ => Limits { record_bytes: usize::from(*bytes) * 4, attributes: usize::from(*attributes) },
    };
    memory::bounded(body.len(), FACTOR, || check_in_place(&Bytes::copy_from_slice(body), &limits));
}

fn check<R: Record>(encoding: Encoding, body: &[u8]) {
    let Ok(decoded) = decode::<R>(encoding, &Bytes::copy_from_slice(body)) else { return };
    assert!(decoded.groups.iter().all(|group| !group.records.is_empty()), "a group without records");
    assert!(decoded.undecodable.iter().all(|lost| lost.records > 0 && !lost.reason.is_empty()), "a loss of nothing");
    let identities = identities(&decoded.groups);

    let again = read::<R>(Encoding::Protobuf, otlp_protobuf::encode(&decoded.groups));
    assert_eq!(again.undecodable, [], "written protobuf");
    assert!(same(&decoded.groups, &again.groups), "protobuf written and read again is not what it was");
    assert!(identities == self::identities(&again.groups), "an identity has changed");

    let written = otlp_json::encode(&decoded.groups);
    let again = read::<R>(Encoding::Json, written.clone());
    if !again.undecodable.is_empty() {
        // JSON is read less deep than protobuf, so this can only be something that came as protobuf.
        assert_eq!(encoding, Encoding::Protobuf, "{:?}", again.undecodable);
        assert!(
            again.undecodable.iter().all(|lost| lost.reason.contains("recursion limit")),
            "{:?}",
            again.undecodable
        );
        return;
    }
    if same(&decoded.groups, &again.groups) {
        assert!(identities == self::identities(&again.groups), "an identity depends on the encoding");
        return;
    }
    // The payload of a NaN has no form in JSON; its `Debug` form is the same for all.
    assert_eq!(encoding, Encoding::Protobuf, "JSON written and read again is not what it was");
    assert!(without_nan_bits(&decoded.groups) == without_nan_bits(&again.groups), "JSON changes more than NaNs");
    assert!(otlp_json::encode(&again.groups) == written, "JSON written twice differs");
}

/// What this project has written itself must be readable as a whole.
fn read<R: Record>(encoding: Encoding, body: Vec<u8>) -> Decoded<R> {
    match decode(encoding, &body.into()) {
        Ok(decoded) => decoded,
        Err(malformed) => panic!("a written request is {malformed}"),
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

fn without_nan_bits<R: Record>(groups: &[Group<R>]) -> String {
    groups.iter().map(|Group { resource, scope, records }| format!("{resource:?} {scope:?} {records:?}")).collect()
}

/// The hashes under which the records are stored. A log record has none of its own.
fn identities<R: Record>(groups: &[Group<R>]) -> Vec<Hash128> {
    let mut canonical = Canonical::new();
    let mut all = Vec::new();
    for group in groups {
        let resource = canonical.resource(&group.resource);
        let scope = canonical.scope(&group.scope);
        all.extend([resource, scope]);
        for record in &group.records {
            let record: &dyn Any = record;
            if let Some(span) = record.downcast_ref::<Span>() {
                all.push(canonical.span(resource, scope, span));
            } else if let Some(metric) = record.downcast_ref::<Metric>()
                && let Some((descriptor, points)) = point::split(metric.clone())
            {
                let metric = canonical.metric(&descriptor);
                for point in points.iter() {
                    let series = canonical.series(resource, scope, metric, point.attributes());
                    all.extend([series, canonical.point(series, point)]);
                }
                assert!(point::join(descriptor, points).is_ok(), "a metric cannot be put together again");
            }
        }
    }
    all
}
