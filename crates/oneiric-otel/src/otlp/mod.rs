//! OTLP on the wire: bytes to records and back.
//!
//! Everything here is a pure function of its input: no clock, no randomness, no I/O. Decoding isolates records: a
//! record that cannot be read is reported by its path and its neighbours are kept. Only a request whose envelope cannot
//! be read is refused whole.

pub mod canonical;
mod envelope;
pub mod file;
pub mod json;
pub mod point;
pub mod protobuf;
pub mod record;
pub(crate) mod view;

use std::sync::Arc;

use bytes::Bytes;
use opentelemetry_proto::tonic::common::v1::InstrumentationScope;
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans};
use prost::Message as _;

pub(crate) use envelope::Sink;
use record::Record;

/// Reads an export request of the signal of `R`, which is `Span`, `Metric` or `LogRecord`.
///
/// # Errors
/// [`Malformed`] when the envelope cannot be read. A request all of whose records are undecodable is not an error here.
pub fn decode<R: Record>(encoding: Encoding, body: &Bytes) -> Result<Decoded<R>, Malformed> {
    match encoding {
        Encoding::Protobuf => protobuf::decode(body),
        Encoding::Json => json::decode(body),
    }
}

/// Reads an export request into `sink`, a record at a time, and returns what could not be read.
///
/// # Errors
/// As [`decode`]; `sink` then has nothing.
pub(crate) fn read<R: Record>(
    encoding: Encoding,
    body: &Bytes,
    sink: &mut impl Sink<R>,
) -> Result<Vec<Undecodable>, Malformed> {
    match encoding {
        Encoding::Protobuf => protobuf::read_request(body, sink),
        Encoding::Json => json::read_request(body, sink),
    }
}

/// The three kinds of telemetry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Signal {
    /// Spans.
    Traces,
    /// Metric data points.
    Metrics,
    /// Log records.
    Logs,
}

impl Signal {
    /// All of them, each at the place of its number.
    pub const ALL: [Self; 3] = [Self::Traces, Self::Metrics, Self::Logs];

    /// The signal's name as OTLP paths have it: `traces`, `metrics` or `logs`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Traces => "traces",
            Self::Metrics => "metrics",
            Self::Logs => "logs",
        }
    }
}

/// How an OTLP message is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Encoding {
    /// Binary protobuf.
    Protobuf,
    /// OTLP/JSON: the protobuf JSON mapping with hex ids and integer enums.
    Json,
}

/// The records of one request that share a resource and a scope. `R` is `Span`, `Metric` or `LogRecord`.
#[derive(Debug, Clone)]
pub struct Group<R> {
    /// The resource and its schema URL, shared by the scopes under it.
    pub resource: Arc<ResourceEnvelope>,
    /// The instrumentation scope and its schema URL.
    pub scope: Arc<ScopeEnvelope>,
    /// The records, in the order of the request.
    pub records: Vec<R>,
}

impl<R> Group<R> {
    /// Other records with the same resource and scope.
    pub(crate) fn with(&self, records: Vec<R>) -> Self {
        Self { resource: Arc::clone(&self.resource), scope: Arc::clone(&self.scope), records }
    }
}

/// A resource as it came: an absent resource stays distinct from an empty one.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ResourceEnvelope {
    /// The resource, if the request had one.
    pub resource: Option<Resource>,
    /// `ResourceSpans.schema_url` and its like.
    pub schema_url: String,
}

/// A scope as it came: an absent scope stays distinct from an empty one.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ScopeEnvelope {
    /// The scope, if the request had one.
    pub scope: Option<InstrumentationScope>,
    /// `ScopeSpans.schema_url` and its like.
    pub schema_url: String,
}

impl ResourceEnvelope {
    /// As a `ResourceSpans` message without spans, which keeps all that an envelope says.
    pub(crate) fn to_protobuf(&self) -> Vec<u8> {
        let Self { resource, schema_url } = self.clone();
        ResourceSpans { resource, scope_spans: Vec::new(), schema_url }.encode_to_vec()
    }

    /// The inverse of [`Self::to_protobuf`].
    pub(crate) fn from_protobuf(bytes: &[u8]) -> Result<Self, prost::DecodeError> {
        let ResourceSpans { resource, schema_url, .. } = ResourceSpans::decode(bytes)?;
        Ok(Self { resource, schema_url })
    }
}

impl ScopeEnvelope {
    /// As a `ScopeSpans` message without spans, which keeps all that an envelope says.
    pub(crate) fn to_protobuf(&self) -> Vec<u8> {
        let Self { scope, schema_url } = self.clone();
        ScopeSpans { scope, spans: Vec::new(), schema_url }.encode_to_vec()
    }

    /// The inverse of [`Self::to_protobuf`].
    pub(crate) fn from_protobuf(bytes: &[u8]) -> Result<Self, prost::DecodeError> {
        let ScopeSpans { scope, schema_url, .. } = ScopeSpans::decode(bytes)?;
        Ok(Self { scope, schema_url })
    }
}

/// What was read from a request.
#[derive(Debug, Clone)]
pub struct Decoded<R> {
    /// Records that could be read. Groups without records are left out.
    pub groups: Vec<Group<R>>,
    /// Records that could not be read.
    pub undecodable: Vec<Undecodable>,
}

/// Records of a request that could not be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Undecodable {
    /// Where, such as `resourceSpans[0].scopeSpans[0].spans[3].traceId`.
    pub path: String,
    /// How many records are lost by it: one span, one log record, or all data points of one metric.
    pub records: u64,
    /// What is wrong and what is accepted.
    pub reason: String,
}

/// A request that cannot be read at all.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("malformed OTLP request: {reason}")]
pub struct Malformed {
    /// What is wrong, where, and what is accepted.
    pub reason: String,
}

#[cfg(test)]
mod tests;
