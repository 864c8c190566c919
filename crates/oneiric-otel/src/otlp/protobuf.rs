//! OTLP in binary protobuf.
//!
//! A request is read in two steps. First its envelope, in which resources, scopes and records are slices of the input
//! that nothing has looked into. Then each of these alone, so that an error stays with the record that has it: prost
//! gives up a whole message at the first error, and an exporter that is told "malformed" drops the whole batch.
//!
//! Guaranteed: no input panics, a record is either in a group or counted as undecodable, and what protobuf allows for a
//! field that occurs twice (merge a message, keep the last string) holds for envelopes too.

use std::sync::Arc;

use bytes::Bytes;
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use opentelemetry_proto::tonic::metrics::v1::Metric;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::{DecodeError, Message};

use super::record::{Names, Record};
use super::{Decoded, Encoding, Group, Malformed, ResourceEnvelope, ScopeEnvelope, Undecodable};

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
    let request = Request::decode(body.clone()).map_err(|error| Malformed {
        reason: format!("not a protobuf message with {}: {}", R::NAMES.resources, reason(&error)),
    })?;
    let mut decoded = Decoded { groups: Vec::new(), undecodable: Vec::new() };
    for (index, group) in request.resources.into_iter().enumerate() {
        decode_resource_group(index, group, &mut decoded);
    }
    Ok(decoded)
}

fn decode_resource_group<R: Record>(index: usize, group: ResourceGroup, decoded: &mut Decoded<R>) {
    let Names { resources, scopes, .. } = R::NAMES;
    let path = format!("{resources}[{index}]");
    let resource = match decode_resource(&group) {
        Ok(resource) => Arc::new(resource),
        Err((field, reason)) => {
            let records = group.scopes.iter().map(count_records::<R>).sum();
            lose(decoded, format!("{path}.{field}"), records, reason);
            return;
        }
    };
    for (index, scope_group) in group.scopes.into_iter().enumerate() {
        decode_scope_group(&format!("{path}.{scopes}[{index}]"), &resource, &scope_group, decoded);
    }
}

fn decode_scope_group<R: Record>(
    path: &str,
    resource: &Arc<ResourceEnvelope>,
    group: &ScopeGroup,
    decoded: &mut Decoded<R>,
) {
    let scope = match decode_scope(group) {
        Ok(scope) => Arc::new(scope),
        Err((field, reason)) => {
            lose(decoded, format!("{path}.{field}"), count_records::<R>(group), reason);
            return;
        }
    };
    let mut records = Vec::with_capacity(group.records.len());
    for (index, bytes) in group.records.iter().enumerate() {
        match R::decode(bytes.as_ref()) {
            Ok(record) => records.push(record),
            Err(error) => {
                let path = format!("{path}.{}[{index}]", R::NAMES.records);
                lose(decoded, path, R::count_lost(Encoding::Protobuf, bytes), reason(&error));
            }
        }
    }
    if !records.is_empty() {
        decoded.groups.push(Group { resource: Arc::clone(resource), scope, records });
    }
}

/// Notes a loss; an envelope that held no record loses none.
fn lose<R>(decoded: &mut Decoded<R>, path: String, records: u64, reason: String) {
    if records > 0 {
        decoded.undecodable.push(Undecodable { path, records, reason });
    }
}

/// On failure the name of the field and the reason.
fn decode_resource(group: &ResourceGroup) -> Result<ResourceEnvelope, (&'static str, String)> {
    let resource = merge(&group.resource).map_err(|error| ("resource", reason(&error)))?;
    Ok(ResourceEnvelope { resource, schema_url: schema_url(&group.schema_url)? })
}

/// On failure the name of the field and the reason.
fn decode_scope(group: &ScopeGroup) -> Result<ScopeEnvelope, (&'static str, String)> {
    let scope = merge(&group.scope).map_err(|error| ("scope", reason(&error)))?;
    Ok(ScopeEnvelope { scope, schema_url: schema_url(&group.schema_url)? })
}

/// A singular message that occurs several times is the merge of its occurrences, in order.
fn merge<M: Message + Default>(occurrences: &[Bytes]) -> Result<Option<M>, DecodeError> {
    let Some((first, rest)) = occurrences.split_first() else { return Ok(None) };
    let mut message = M::decode(first.as_ref())?;
    for bytes in rest {
        message.merge(bytes.as_ref())?;
    }
    Ok(Some(message))
}

fn schema_url(bytes: &Bytes) -> Result<String, (&'static str, String)> {
    match std::str::from_utf8(bytes) {
        Ok(text) => Ok(text.to_owned()),
        Err(error) => Err(("schemaUrl", format!("not UTF-8: {error}"))),
    }
}

fn count_records<R: Record>(group: &ScopeGroup) -> u64 {
    group
        .records
        .iter()
        .map(|bytes| match R::decode(bytes.as_ref()) {
            Ok(record) => record.count(),
            Err(_) => R::count_lost(Encoding::Protobuf, bytes),
        })
        .sum()
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
/// go into one `ResourceSpans` or its like, so that what was decoded is written with the grouping it had.
pub fn encode<R: Record>(groups: &[Group<R>]) -> Vec<u8> {
    let by_resource = groups.chunk_by(|left, right| Arc::ptr_eq(&left.resource, &right.resource));
    Request { resources: by_resource.map(encode_resource_group).collect() }.encode_to_vec()
}

/// `groups` share their resource.
fn encode_resource_group<R: Record>(groups: &[Group<R>]) -> ResourceGroup {
    let scopes = groups
        .iter()
        .map(|group| ScopeGroup {
            scope: group.scope.scope.iter().map(encode_message).collect(),
            records: group.records.iter().map(encode_message).collect(),
            schema_url: Bytes::copy_from_slice(group.scope.schema_url.as_bytes()),
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
