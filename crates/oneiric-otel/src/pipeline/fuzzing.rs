//! What tests and fuzz targets see of the write path: that reading spans in place changes nothing, and not reading them neither.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::examine::examine;
use super::prepare::{Prepared, prepare, prepare_from_messages};
use super::{Accepted, Limits, Request};
use crate::otlp::canonical::{self, Encode, Hash128};
use crate::otlp::{Encoding, Signal};
use crate::store::{Micros, Owner, Touch};

/// All that comes of a request.
#[derive(Debug, PartialEq)]
struct Outcome {
    answer: Accepted,
    request_hash: Hash128,
    rows: Vec<Row>,
    times: Vec<Micros>,
    touches: BTreeMap<[u8; 16], Touch>,
    resources: BTreeMap<Hash128, Vec<u8>>,
    scopes: BTreeMap<Hash128, Vec<u8>>,
    owners: Vec<Owner>,
}

#[derive(Debug, PartialEq)]
struct Row {
    record: u32,
    key: [u64; 4],
    owner: u32,
    bytes: Vec<u8>,
}

impl From<Prepared> for Outcome {
    fn from(Prepared { verdict, batch }: Prepared) -> Self {
        fn encoded<T: Encode>((hash, value): (&Hash128, &std::sync::Arc<T>)) -> (Hash128, Vec<u8>) {
            (*hash, canonical::bytes(value.as_ref()))
        }
        let row = |(row, record): (usize, &u32)| Row {
            record: *record,
            key: batch.rows.key(row),
            owner: batch.rows.owner(row),
            bytes: batch.rows.bytes(row..row + 1).to_vec(),
        };
        assert_eq!(batch.rows.len(), batch.records.len(), "a row has a record");
        let mut times = batch.times;
        times.sort_unstable();
        Self {
            answer: verdict.answer(),
            request_hash: batch.request_hash,
            rows: batch.records.iter().enumerate().map(row).collect(),
            times,
            touches: batch.touches.into_iter().collect(),
            resources: batch.references.resources.iter().map(encoded).collect(),
            scopes: batch.references.scopes.iter().map(encoded).collect(),
            owners: batch.references.owners,
        }
    }
}

/// Prepares a request of traces, its spans read in place and from messages, and examines it. Returns how many rows it has, or
/// none where it is refused whole.
///
/// # Panics
/// When they differ in anything.
pub fn check_in_place(body: &Bytes, limits: &Limits) -> Option<usize> {
    let request = Request { signal: Signal::Traces, encoding: Encoding::Protobuf, body: body.clone() };
    let in_place = prepare(&request, limits).map(Outcome::from);
    let from_messages = prepare_from_messages(&request, limits).map(Outcome::from);
    assert_eq!(in_place, from_messages, "spans read in place, and from messages");
    let answer = examine(&request, limits).map(|verdict| verdict.answer());
    assert_eq!(answer.as_ref(), in_place.as_ref().map(|outcome| &outcome.answer), "examined and prepared");
    in_place.ok().map(|outcome| outcome.rows.len())
}
