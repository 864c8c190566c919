//! What a record must be to be stored.
//!
//! These rules, and those of the decoder, are the only ones that refuse a record. Nothing is repaired: a record is kept
//! as it came or rejected with the reason.

use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;

use crate::otlp::protobuf::plain::most_bytes;
use crate::otlp::view::SpanView;

/// Bounds on a record. One beyond them is rejected, never cut.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Bytes of one record as protobuf.
    pub record_bytes: usize,
    /// Attributes of one record, or of one event, link or exemplar in it.
    pub attributes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { record_bytes: 16 * 1024 * 1024, attributes: 10_000 }
    }
}

impl Limits {
    /// For what was admitted before.
    pub(crate) const NONE: Self = Self { record_bytes: usize::MAX, attributes: usize::MAX };

    pub(crate) fn check(&self, record: &impl Message, attributes: &[KeyValue]) -> Result<(), String> {
        let size = record.encoded_len();
        if size > self.record_bytes {
            return Err(format!("the record has {size} bytes; at most {} are accepted", self.record_bytes));
        }
        self.check_attributes(attributes)
    }

    pub(crate) fn check_attributes(&self, attributes: &[KeyValue]) -> Result<(), String> {
        if attributes.len() > self.attributes {
            return Err(format!("{} attributes; at most {} are accepted", attributes.len(), self.attributes));
        }
        Ok(())
    }

    pub(crate) fn check_span(&self, span: &Span) -> Result<(), String> {
        Self::check_ids(&span.trace_id, &span.span_id)?;
        self.check(span, &span.attributes)?;
        for event in &span.events {
            self.check_attributes(&event.attributes)?;
        }
        for link in &span.links {
            self.check_attributes(&link.attributes)?;
        }
        Ok(())
    }

    /// Whether [`Self::check_span`] accepts a span for sure. It came in so many bytes.
    pub(crate) fn admit(&self, span: &SpanView<'_>, bytes: usize) -> bool {
        let lists = || {
            let of_events = span.events.iter().map(|event| &event.attributes);
            of_events.chain(span.links.iter().map(|link| &link.attributes)).chain([&span.attributes])
        };
        most_bytes(bytes) <= self.record_bytes
            && Self::check_ids(span.trace_id, span.span_id).is_ok()
            && lists().all(|attributes| attributes.len() <= self.attributes)
    }

    /// Of a span's own ids.
    pub(crate) fn check_ids(trace_id: &[u8], span_id: &[u8]) -> Result<(), String> {
        check_id("traceId", trace_id, 16)?;
        check_id("spanId", span_id, 8)
    }
}

fn check_id(name: &str, id: &[u8], length: usize) -> Result<(), String> {
    if id.len() != length {
        return Err(format!("{name} has {} bytes; expected {length} bytes, not all zero", id.len()));
    }
    if id.iter().all(|byte| *byte == 0) {
        return Err(format!("{name} is all zero; expected {length} bytes, not all zero"));
    }
    Ok(())
}
