//! The canonical encoding of every message of OTLP. The format is described in [`super`].
//!
//! Each message is taken apart without `..`, so that a field that a new version of the protobuf files adds cannot be
//! forgotten here: it does not compile until it is written.

mod metrics;

use opentelemetry_proto::tonic::common::v1::{
    AnyValue, ArrayValue, EntityRef, InstrumentationScope, KeyValue, KeyValueList,
};
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::Span;

use crate::otlp::view::{Attribute, AttributeView, EventView, LinkView, SpanView, StatusView, ValueView};
use crate::otlp::{ResourceEnvelope, ScopeEnvelope};

/// Ends a message; no field has this tag.
const END: u8 = 0;

/// A message with a canonical encoding.
pub trait Encode {
    /// Appends the canonical bytes.
    fn encode(&self, out: &mut Vec<u8>);
}

fn length(mut value: usize, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn bytes(tag: u8, value: &[u8], out: &mut Vec<u8>) {
    if !value.is_empty() {
        present_bytes(tag, value, out);
    }
}

fn present_bytes(tag: u8, value: &[u8], out: &mut Vec<u8>) {
    if let short @ 0..0x80 = value.len() {
        out.extend_from_slice(&[tag, short as u8]);
    } else {
        out.push(tag);
        length(value.len(), out);
    }
    out.extend_from_slice(value);
}

fn text(tag: u8, value: &str, out: &mut Vec<u8>) {
    bytes(tag, value.as_bytes(), out);
}

fn texts(tag: u8, values: &[String], out: &mut Vec<u8>) {
    for value in values {
        present_bytes(tag, value.as_bytes(), out);
    }
}

fn fixed64(tag: u8, value: u64, out: &mut Vec<u8>) {
    if value != 0 {
        present_fixed64(tag, value, out);
    }
}

fn present_fixed64(tag: u8, value: u64, out: &mut Vec<u8>) {
    out.push(tag);
    out.extend_from_slice(&value.to_le_bytes());
}

fn signed64(tag: u8, value: i64, out: &mut Vec<u8>) {
    present_fixed64(tag, value as u64, out);
}

fn double(tag: u8, value: f64, out: &mut Vec<u8>) {
    fixed64(tag, value.to_bits(), out);
}

fn present_double(tag: u8, value: f64, out: &mut Vec<u8>) {
    present_fixed64(tag, value.to_bits(), out);
}

fn optional_double(tag: u8, value: Option<f64>, out: &mut Vec<u8>) {
    if let Some(value) = value {
        present_double(tag, value, out);
    }
}

fn fixed32(tag: u8, value: u32, out: &mut Vec<u8>) {
    if value != 0 {
        present_fixed32(tag, value, out);
    }
}

fn present_fixed32(tag: u8, value: u32, out: &mut Vec<u8>) {
    out.push(tag);
    out.extend_from_slice(&value.to_le_bytes());
}

fn signed32(tag: u8, value: i32, out: &mut Vec<u8>) {
    fixed32(tag, value as u32, out);
}

fn boolean(tag: u8, value: bool, out: &mut Vec<u8>) {
    if value {
        out.extend_from_slice(&[tag, 1]);
    }
}

fn numbers(tag: u8, values: impl ExactSizeIterator<Item = u64>, out: &mut Vec<u8>) {
    if values.len() == 0 {
        return;
    }
    out.push(tag);
    length(values.len(), out);
    for value in values {
        out.extend_from_slice(&value.to_le_bytes());
    }
}

fn message<M: Encode>(tag: u8, value: &M, out: &mut Vec<u8>) {
    out.push(tag);
    value.encode(out);
}

fn optional<M: Encode>(tag: u8, value: Option<&M>, out: &mut Vec<u8>) {
    if let Some(value) = value {
        message(tag, value, out);
    }
}

fn messages<M: Encode>(tag: u8, values: &[M], out: &mut Vec<u8>) {
    for value in values {
        message(tag, value, out);
    }
}

impl Encode for ResourceEnvelope {
    fn encode(&self, out: &mut Vec<u8>) {
        let Self { resource, schema_url } = self;
        optional(1, resource.as_ref(), out);
        text(3, schema_url, out);
        out.push(END);
    }
}

impl Encode for ScopeEnvelope {
    fn encode(&self, out: &mut Vec<u8>) {
        let Self { scope, schema_url } = self;
        optional(1, scope.as_ref(), out);
        text(3, schema_url, out);
        out.push(END);
    }
}

impl Encode for Resource {
    fn encode(&self, out: &mut Vec<u8>) {
        let Self { attributes, dropped_attributes_count, entity_refs } = self;
        messages(1, attributes, out);
        fixed32(2, *dropped_attributes_count, out);
        messages(3, entity_refs, out);
        out.push(END);
    }
}

impl Encode for EntityRef {
    fn encode(&self, out: &mut Vec<u8>) {
        let Self { schema_url, r#type, id_keys, description_keys } = self;
        text(1, schema_url, out);
        text(2, r#type, out);
        texts(3, id_keys, out);
        texts(4, description_keys, out);
        out.push(END);
    }
}

impl Encode for InstrumentationScope {
    fn encode(&self, out: &mut Vec<u8>) {
        let Self { name, version, attributes, dropped_attributes_count } = self;
        text(1, name, out);
        text(2, version, out);
        messages(3, attributes, out);
        fixed32(4, *dropped_attributes_count, out);
        out.push(END);
    }
}

/// The attributes of a series.
impl Encode for [KeyValue] {
    fn encode(&self, out: &mut Vec<u8>) {
        messages(1, self, out);
        out.push(END);
    }
}

impl Encode for KeyValue {
    fn encode(&self, out: &mut Vec<u8>) {
        attribute(self, out);
    }
}

impl Encode for AttributeView<'_> {
    fn encode(&self, out: &mut Vec<u8>) {
        attribute(self, out);
    }
}

fn attribute(attribute: &impl Attribute, out: &mut Vec<u8>) {
    text(1, attribute.key(), out);
    optional(2, attribute.value().as_ref(), out);
    signed32(3, attribute.key_strindex(), out);
    out.push(END);
}

impl Encode for AnyValue {
    fn encode(&self, out: &mut Vec<u8>) {
        ValueView::from(self).encode(out);
    }
}

impl Encode for ValueView<'_> {
    fn encode(&self, out: &mut Vec<u8>) {
        match *self {
            Self::Empty => {}
            Self::String(value) => present_bytes(1, value.as_bytes(), out),
            Self::Bool(value) => out.extend_from_slice(&[2, u8::from(value)]),
            Self::Int(value) => signed64(3, value, out),
            Self::Double(value) => present_double(4, value, out),
            Self::Array(value) => message(5, value, out),
            Self::Map(value) => message(6, value, out),
            Self::Bytes(value) => present_bytes(7, value, out),
            Self::Strindex(value) => present_fixed32(8, value as u32, out),
        }
        out.push(END);
    }
}

impl Encode for ArrayValue {
    fn encode(&self, out: &mut Vec<u8>) {
        let Self { values } = self;
        messages(1, values, out);
        out.push(END);
    }
}

impl Encode for KeyValueList {
    fn encode(&self, out: &mut Vec<u8>) {
        let Self { values } = self;
        messages(1, values, out);
        out.push(END);
    }
}

impl Encode for Span {
    fn encode(&self, out: &mut Vec<u8>) {
        SpanView::from(self).encode(out);
    }
}

impl Encode for SpanView<'_> {
    fn encode(&self, out: &mut Vec<u8>) {
        let Self {
            trace_id,
            span_id,
            trace_state,
            parent_span_id,
            name,
            kind,
            start_time_unix_nano,
            end_time_unix_nano,
            attributes,
            dropped_attributes_count,
            events,
            dropped_events_count,
            links,
            dropped_links_count,
            status,
            flags,
        } = self;
        bytes(1, trace_id, out);
        bytes(2, span_id, out);
        text(3, trace_state, out);
        bytes(4, parent_span_id, out);
        text(5, name, out);
        signed32(6, *kind, out);
        fixed64(7, *start_time_unix_nano, out);
        fixed64(8, *end_time_unix_nano, out);
        messages(9, attributes, out);
        fixed32(10, *dropped_attributes_count, out);
        messages(11, events, out);
        fixed32(12, *dropped_events_count, out);
        messages(13, links, out);
        fixed32(14, *dropped_links_count, out);
        optional(15, status.as_ref(), out);
        fixed32(16, *flags, out);
        out.push(END);
    }
}

impl Encode for EventView<'_> {
    fn encode(&self, out: &mut Vec<u8>) {
        let Self { time_unix_nano, name, attributes, dropped_attributes_count } = self;
        fixed64(1, *time_unix_nano, out);
        text(2, name, out);
        messages(3, attributes, out);
        fixed32(4, *dropped_attributes_count, out);
        out.push(END);
    }
}

impl Encode for LinkView<'_> {
    fn encode(&self, out: &mut Vec<u8>) {
        let Self { trace_id, span_id, trace_state, attributes, dropped_attributes_count, flags } = self;
        bytes(1, trace_id, out);
        bytes(2, span_id, out);
        text(3, trace_state, out);
        messages(4, attributes, out);
        fixed32(5, *dropped_attributes_count, out);
        fixed32(6, *flags, out);
        out.push(END);
    }
}

impl Encode for StatusView<'_> {
    fn encode(&self, out: &mut Vec<u8>) {
        let Self { message, code } = self;
        text(2, message, out);
        signed32(3, *code, out);
        out.push(END);
    }
}

impl Encode for LogRecord {
    fn encode(&self, out: &mut Vec<u8>) {
        let Self {
            time_unix_nano,
            observed_time_unix_nano,
            severity_number,
            severity_text,
            body,
            attributes,
            dropped_attributes_count,
            flags,
            trace_id,
            span_id,
            event_name,
        } = self;
        fixed64(1, *time_unix_nano, out);
        signed32(2, *severity_number, out);
        text(3, severity_text, out);
        optional(5, body.as_ref(), out);
        messages(6, attributes, out);
        fixed32(7, *dropped_attributes_count, out);
        fixed32(8, *flags, out);
        bytes(9, trace_id, out);
        bytes(10, span_id, out);
        fixed64(11, *observed_time_unix_nano, out);
        text(12, event_name, out);
        out.push(END);
    }
}
