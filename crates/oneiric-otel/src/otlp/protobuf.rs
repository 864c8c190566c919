//! OTLP in binary protobuf.
//!
//! A request is read in two steps. First its envelope, in which resources, scopes and records are slices of the input
//! that nothing has looked into. Then each of these alone, so that an error stays with the record that has it: prost
//! gives up a whole message at the first error, and an exporter that is told "malformed" drops the whole batch.
//!
//! Guaranteed: reading what was written gives the same records by their bits, -0.0 included; no input panics, a record is either in a group or counted as undecodable, and what protobuf allows for a
//! field that occurs twice (merge a message, keep the last string) holds for envelopes too.

pub(crate) mod borrowed;
mod exact;
pub(crate) mod plain;

use std::sync::Arc;

use bytes::Bytes;
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use opentelemetry_proto::tonic::metrics::v1::Metric;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::encoding::WireType;
use prost::{DecodeError, Message};

pub use exact::{encode_metric, encode_point};

use super::envelope::{self, Fault, Sink, Unread, UnreadResource, UnreadScope};
use super::record::Record;
use super::{Decoded, Encoding, Group, Malformed, Undecodable, json};

/// Reads an `ExportTraceServiceRequest` (or `TracesData`, which has the same bytes).
pub fn decode_traces(body: &Bytes) -> Result<Decoded<Span>, Malformed> {
    decode(body)
}

/// Reads an `ExportMetricsServiceRequest` (or `MetricsData`, which has the same bytes).
pub fn decode_metrics(body: &Bytes) -> Result<Decoded<Metric>, Malformed> {
    decode(body)
}

/// Reads an `ExportLogsServiceRequest` (or `LogsData`, which has the same bytes).
pub fn decode_logs(body: &Bytes) -> Result<Decoded<LogRecord>, Malformed> {
    decode(body)
}

/// An export request of any signal.
#[derive(Clone, PartialEq, Message)]
struct Request {
    #[prost(message, repeated, tag = "1")]
    resources: Vec<ResourceGroup>,
}

/// `ResourceSpans` and its like. Singular fields are declared repeated, see [`merge`], and text as bytes, so that text
/// that is not UTF-8 costs one group and not the request.
#[derive(Clone, PartialEq, Message)]
struct ResourceGroup {
    #[prost(bytes = "bytes", repeated, tag = "1")]
    resource: Vec<Bytes>,
    #[prost(message, repeated, tag = "2")]
    scopes: Vec<ScopeGroup>,
    #[prost(bytes = "bytes", tag = "3")]
    schema_url: Bytes,
}

/// `ScopeSpans` and its like.
#[derive(Clone, PartialEq, Message)]
struct ScopeGroup {
    #[prost(bytes = "bytes", repeated, tag = "1")]
    scope: Vec<Bytes>,
    #[prost(bytes = "bytes", repeated, tag = "2")]
    records: Vec<Bytes>,
    #[prost(bytes = "bytes", tag = "3")]
    schema_url: Bytes,
}

/// Reads a request of the signal of `R`. An empty body is a request without groups.
///
/// # Errors
/// [`Malformed`] when the envelope is cut off or is not protobuf of this shape. What is wrong inside a record, a
/// resource or a scope is reported in [`Decoded::undecodable`] instead.
pub fn decode<R: Record>(body: &Bytes) -> Result<Decoded<R>, Malformed> {
    envelope::collect(|sink| read_request(body, sink))
}

/// Reads a request of the signal of `R` into `sink`, record by record, and returns what cannot be read.
///
/// # Errors
/// As [`decode`]; `sink` then has nothing.
pub(super) fn read_request<R: Record>(body: &Bytes, sink: &mut impl Sink<R>) -> Result<Vec<Undecodable>, Malformed> {
    if body.len() > MAX_TINY_FIELDS * TINY_FIELD_BYTES && tiny_fields(body, FIELD_DEPTH) > MAX_TINY_FIELDS {
        let reason =
            format!("more than {MAX_TINY_FIELDS} fields of {TINY_BYTES} bytes or less: send fewer in a request");
        return Err(Malformed { reason });
    }
    let request = Request::decode(body.clone()).map_err(|error| Malformed {
        reason: format!("not a protobuf message with {}: {}", R::NAMES.resources, reason(&error)),
    })?;
    let resources = request.resources.into_iter().map(unread_resource).collect();
    envelope::read(resources, sink).map_err(|reason| Malformed { reason })
}

fn unread_resource(group: ResourceGroup) -> UnreadResource<Bytes> {
    UnreadResource {
        resource: merge(group.resource),
        scopes: group.scopes.into_iter().map(unread_scope).collect(),
        schema_url: Some(group.schema_url),
    }
}

fn unread_scope(group: ScopeGroup) -> UnreadScope<Bytes> {
    UnreadScope { scope: merge(group.scope), records: group.records, schema_url: Some(group.schema_url) }
}

/// A singular message that occurs several times is the merge of its occurrences, which is what their concatenation
/// encodes.
fn merge(mut occurrences: Vec<Bytes>) -> Option<Bytes> {
    if occurrences.len() > 1 {
        return Some(occurrences.concat().into());
    }
    occurrences.pop()
}

impl Unread for Bytes {
    fn message<M: Message + json::Message>(&self) -> Result<M, Fault> {
        M::decode(self.as_ref()).map_err(|error| Fault { path: String::new(), reason: reason(&error) })
    }

    fn text(&self) -> Result<String, Fault> {
        match std::str::from_utf8(self) {
            Ok(text) => Ok(text.to_owned()),
            Err(error) => Err(Fault { path: String::new(), reason: format!("not UTF-8: {error}") }),
        }
    }

    fn encoded(&self) -> Option<&[u8]> {
        Some(self)
    }

    fn count_lost<R: Record>(&self) -> u64 {
        R::count_lost(Encoding::Protobuf, self)
    }
}

/// The most [tiny] fields of a request. An empty attribute takes two bytes on the wire and some seventy when it is read,
/// so the bytes of a request alone do not bound its memory. Real requests of 64 MiB have about a quarter of it.
///
/// [tiny]: TINY_BYTES
const MAX_TINY_FIELDS: usize = 4_000_000;

/// Fields with a length of at most so many bytes are tiny. Text never looks like them: it has no such control characters.
const TINY_BYTES: u64 = 8;

/// The least that a field takes: its number and its length. A request that is too small for so many is not counted.
const TINY_FIELD_BYTES: usize = 2;

/// How deep fields are counted: the envelope, attributes, those of events, and values in them.
const FIELD_DEPTH: u32 = 8;

/// How many tiny fields a message has, with those of what may be its submessages.
fn tiny_fields(mut message: &[u8], depth: u32) -> usize {
    let mut count = 0;
    while !message.is_empty() {
        let Ok((_, wire_type)) = prost::encoding::decode_key(&mut message) else { return count };
        let skipped = match wire_type {
            WireType::LengthDelimited => {
                let Ok(length) = prost::encoding::decode_varint(&mut message) else { return count };
                let Some((field, rest)) = message.split_at_checked(usize::try_from(length).unwrap_or(usize::MAX))
                else {
                    return count;
                };
                count += usize::from(length <= TINY_BYTES);
                if depth > 1 {
                    count += tiny_fields(field, depth - 1);
                }
                message = rest;
                continue;
            }
            WireType::Varint => {
                if prost::encoding::decode_varint(&mut message).is_err() {
                    return count;
                }
                continue;
            }
            WireType::ThirtyTwoBit => 4,
            WireType::SixtyFourBit => 8,
            WireType::StartGroup | WireType::EndGroup => return count,
        };
        let Some(rest) = message.get(skipped..) else { return count };
        message = rest;
    }
    count
}

/// prost's own words without its constant prefix.
fn reason(error: &DecodeError) -> String {
    let text = error.to_string();
    match text.strip_prefix("failed to decode Protobuf message: ") {
        Some(rest) => rest.to_owned(),
        None => text,
    }
}

/// A metric of which only the number of data points is of interest.
#[derive(Clone, PartialEq, Message)]
struct CountedMetric {
    #[prost(message, optional, tag = "5")]
    gauge: Option<CountedPoints>,
    #[prost(message, optional, tag = "7")]
    sum: Option<CountedPoints>,
    #[prost(message, optional, tag = "9")]
    histogram: Option<CountedPoints>,
    #[prost(message, optional, tag = "10")]
    exponential_histogram: Option<CountedPoints>,
    #[prost(message, optional, tag = "11")]
    summary: Option<CountedPoints>,
}

#[derive(Clone, PartialEq, Message)]
struct CountedPoints {
    #[prost(bytes = "vec", repeated, tag = "1")]
    points: Vec<Vec<u8>>,
}

/// How many data points an encoded metric holds, as far as its outer structure can be read; 0 when it cannot.
pub(super) fn count_points(metric: &[u8]) -> u64 {
    let Ok(metric) = CountedMetric::decode(metric) else { return 0 };
    let CountedMetric { gauge, sum, histogram, exponential_histogram, summary } = metric;
    let kinds = [gauge, sum, histogram, exponential_histogram, summary];
    kinds.iter().flatten().map(|kind| kind.points.len() as u64).sum()
}

/// Writes groups as an export request of the signal of `R`. Neighbouring groups that share a resource (the same `Arc`)
/// go into one `ResourceSpans` or its like, and those that share the scope too into one `ScopeSpans` or its like, so that
/// what was decoded is written with the grouping it had.
pub fn encode<R: Record>(groups: &[Group<R>]) -> Vec<u8> {
    let by_resource = groups.chunk_by(|left, right| Arc::ptr_eq(&left.resource, &right.resource));
    Request { resources: by_resource.map(encode_resource_group).collect() }.encode_to_vec()
}

/// `groups` share their resource.
fn encode_resource_group<R: Record>(groups: &[Group<R>]) -> ResourceGroup {
    let by_scope = groups.chunk_by(|left, right| Arc::ptr_eq(&left.scope, &right.scope));
    let scopes = by_scope
        .filter_map(|groups| {
            let scope = &groups.first()?.scope;
            let records = groups.iter().flat_map(|group| &group.records);
            Some(ScopeGroup {
                scope: scope.scope.iter().map(encode_message).collect(),
                records: records.map(|record| record.to_protobuf().into()).collect(),
                schema_url: Bytes::copy_from_slice(scope.schema_url.as_bytes()),
            })
        })
        .collect();
    let (resource, schema_url) = match groups.first() {
        Some(group) => (group.resource.resource.as_ref(), group.resource.schema_url.as_bytes()),
        None => (None, &[][..]),
    };
    ResourceGroup {
        resource: resource.into_iter().map(encode_message).collect(),
        scopes,
        schema_url: Bytes::copy_from_slice(schema_url),
    }
}

fn encode_message<M: Message>(message: &M) -> Bytes {
    message.encode_to_vec().into()
}

#[cfg(test)]
mod tests;
