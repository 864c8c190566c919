//! What makes two records the same record: their bytes in a canonical encoding, hashed.
//!
//! Hashes of this module are keys in the database. They must never change, so the encoding is our own and frozen by
//! golden tests: a library that writes maps, floats or defaults in another way tomorrow must not give every stored span
//! a new identity. Two messages have the same canonical bytes if and only if they are equal with floats compared by
//! their bits: -0.0 differs from 0.0, a NaN equals itself, an absent submessage differs from an empty one. The order of
//! repeated fields counts.
//!
//! # Encoding, version 1
//!
//! ```text
//! hashed  = version:u8  domain:u8  owner hashes, 16 bytes each  message
//! message = field* 0x00
//! field   = tag:u8 value          tag: the field number of the protobuf file, ascending; repeated: one field each
//! value   = u64, i64, f64 bits    8 bytes, little endian
//!         | u32, i32, enum        4 bytes, little endian
//!         | bool                  1 byte
//!         | text, bytes           length as LEB128, then the bytes
//!         | list of numbers       count as LEB128, then the numbers
//!         | message
//! ```
//!
//! A field without presence is left out when all its bits are zero, as is an empty list; a field with presence (a
//! submessage, an optional, a member of a oneof) is written whenever it is there. A field that a later OTLP adds thus
//! leaves the hash of every record without it as it is.

mod encode;

use std::fmt;
use std::hash::{Hash, Hasher};

use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::trace::v1::Span;

pub use encode::Encode;

use super::point::{MetricDescriptor, Point};
use super::view::SpanView;
use super::{ResourceEnvelope, ScopeEnvelope};

/// The version of the encoding. Another encoding needs another number.
const VERSION: u8 = 1;

/// A buffer that outgrew this, in bytes, is given back after use.
const KEPT_CAPACITY: usize = 1 << 20;

/// What is hashed, so that equal bytes of different kinds have different hashes.
#[derive(Debug, Clone, Copy)]
#[repr(u8)]
enum Domain {
    Resource = 1,
    Scope = 2,
    Span = 3,
    Metric = 4,
    Series = 5,
    NumberPoint = 6,
    HistogramPoint = 7,
    ExponentialHistogramPoint = 8,
    SummaryPoint = 9,
}

/// The first 16 bytes of a BLAKE3 hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Hash128(pub [u8; 16]);

impl Hash for Hash128 {
    /// Half of a hash tells as much as a map can use.
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.low64().hash(state);
    }
}

impl Hash128 {
    /// The first eight bytes as a little-endian number: enough to tell apart records that share an id and a time.
    pub fn low64(self) -> i64 {
        u128::from_le_bytes(self.0) as i64
    }

    /// Both halves, as numbers that order hashes as their bytes do.
    pub(crate) fn halves(self) -> [u64; 2] {
        let number = u128::from_be_bytes(self.0);
        [(number >> 64) as u64, number as u64]
    }
}

impl fmt::Display for Hash128 {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&hex::encode(self.0))
    }
}

/// Computes identities. Keeps a buffer from one to the next: make one per batch or per thread.
#[derive(Debug, Default)]
pub struct Canonical {
    buf: Vec<u8>,
}

impl Canonical {
    /// With an empty buffer.
    pub fn new() -> Self {
        Self::default()
    }

    /// Of a resource with its schema URL.
    pub fn resource(&mut self, resource: &ResourceEnvelope) -> Hash128 {
        self.hash(Domain::Resource, &[], resource)
    }

    /// Of a scope with its schema URL.
    pub fn scope(&mut self, scope: &ScopeEnvelope) -> Hash128 {
        self.hash(Domain::Scope, &[], scope)
    }

    /// Of a span under its resource and scope.
    pub fn span(&mut self, resource: Hash128, scope: Hash128, span: &Span) -> Hash128 {
        self.span_view(resource, scope, &SpanView::from(span))
    }

    /// Of a span under its resource and scope.
    pub(crate) fn span_view(&mut self, resource: Hash128, scope: Hash128, span: &SpanView<'_>) -> Hash128 {
        self.hash(Domain::Span, &[resource, scope], span)
    }

    /// Of what the points of a metric share.
    pub fn metric(&mut self, metric: &MetricDescriptor) -> Hash128 {
        self.hash(Domain::Metric, &[], metric)
    }

    /// Of a series: the points of one metric that share resource, scope and attributes. Attributes in another order are
    /// another series, as a series keeps the attributes of its points as they came.
    pub fn series(&mut self, resource: Hash128, scope: Hash128, metric: Hash128, attributes: &[KeyValue]) -> Hash128 {
        self.hash(Domain::Series, &[resource, scope, metric], attributes)
    }

    /// Of a data point in its series, which stands for the resource, the scope and the metric too.
    pub fn point(&mut self, series: Hash128, point: Point<'_>) -> Hash128 {
        match point {
            Point::Number(point) => self.hash(Domain::NumberPoint, &[series], point),
            Point::Histogram(point) => self.hash(Domain::HistogramPoint, &[series], point),
            Point::ExponentialHistogram(point) => self.hash(Domain::ExponentialHistogramPoint, &[series], point),
            Point::Summary(point) => self.hash(Domain::SummaryPoint, &[series], point),
        }
    }

    fn hash<M: Encode + ?Sized>(&mut self, domain: Domain, owners: &[Hash128], message: &M) -> Hash128 {
        self.buf.clear();
        self.buf.extend_from_slice(&[VERSION, domain as u8]);
        for owner in owners {
            self.buf.extend_from_slice(&owner.0);
        }
        message.encode(&mut self.buf);
        let hash = blake3::hash(&self.buf);
        self.buf.shrink_to(KEPT_CAPACITY);
        Hash128(*hash.as_bytes().first_chunk().expect("a BLAKE3 hash has 32 bytes"))
    }
}

/// The canonical bytes of one message, without version and domain.
pub fn bytes<M: Encode + ?Sized>(message: &M) -> Vec<u8> {
    let mut out = Vec::new();
    message.encode(&mut out);
    out
}

/// Whether two messages are equal with floats compared by their bits. The `PartialEq` of the messages is not that: to it
/// a NaN differs from itself and -0.0 equals 0.0.
pub fn bits_equal<M: Encode + ?Sized>(left: &M, right: &M) -> bool {
    bytes(left) == bytes(right)
}

#[cfg(test)]
mod tests;
