//! Spans read in place: of the bytes of a request nothing is copied.
//!
//! What is read is what the decoder reads of the same bytes. Where that is not certain at a glance there is None, which
//! says nothing, and the span is left to the decoder: a field that is unknown or occurs twice, a group, text that is not
//! UTF-8, values deep in each other.

use opentelemetry_proto::tonic::common::v1::AnyValue;
use prost::Message as _;

use super::plain::{Value, is_any_value, next_field, text};
use crate::otlp::view::{AttributeView, EventView, Held, LinkView, SpanView, StatusView, ValueView};

/// Room for the attributes of most spans.
const ATTRIBUTES: usize = 16;

/// The fields of a message so far: a second one would replace the first or be merged with it.
#[derive(Default)]
struct Seen(u32);

impl Seen {
    fn once(&mut self, field: u32) -> Option<()> {
        let bit = 1_u32.checked_shl(field)?;
        let is_first = self.0 & bit == 0;
        self.0 |= bit;
        is_first.then_some(())
    }
}

/// Reads a span.
pub(crate) fn span(mut bytes: &[u8]) -> Option<SpanView<'_>> {
    let mut span = SpanView { attributes: Vec::with_capacity(ATTRIBUTES), ..SpanView::default() };
    let mut seen = Seen::default();
    while !bytes.is_empty() {
        let (field, value) = next_field(&mut bytes)?;
        if !matches!(field, 9 | 11 | 13) {
            seen.once(field)?;
        }
        match (field, value) {
            (1, Value::Bytes(id)) => span.trace_id = id,
            (2, Value::Bytes(id)) => span.span_id = id,
            (3, Value::Bytes(bytes)) => span.trace_state = text(bytes)?,
            (4, Value::Bytes(id)) => span.parent_span_id = id,
            (5, Value::Bytes(bytes)) => span.name = text(bytes)?,
            (6, Value::Varint(kind)) => span.kind = kind as i32,
            (7, Value::Fixed64(time)) => span.start_time_unix_nano = time,
            (8, Value::Fixed64(time)) => span.end_time_unix_nano = time,
            (9, Value::Bytes(bytes)) => span.attributes.push(attribute(bytes)?),
            (10, Value::Varint(count)) => span.dropped_attributes_count = count as u32,
            (11, Value::Bytes(bytes)) => span.events.push(event(bytes)?),
            (12, Value::Varint(count)) => span.dropped_events_count = count as u32,
            (13, Value::Bytes(bytes)) => span.links.push(link(bytes)?),
            (14, Value::Varint(count)) => span.dropped_links_count = count as u32,
            (15, Value::Bytes(bytes)) => span.status = Some(status(bytes)?),
            (16, Value::Fixed32(flags)) => span.flags = flags,
            _ => return None,
        }
    }
    Some(span)
}

fn event(mut bytes: &[u8]) -> Option<EventView<'_>> {
    let mut event = EventView::default();
    let mut seen = Seen::default();
    while !bytes.is_empty() {
        let (field, value) = next_field(&mut bytes)?;
        if field != 3 {
            seen.once(field)?;
        }
        match (field, value) {
            (1, Value::Fixed64(time)) => event.time_unix_nano = time,
            (2, Value::Bytes(bytes)) => event.name = text(bytes)?,
            (3, Value::Bytes(bytes)) => event.attributes.push(attribute(bytes)?),
            (4, Value::Varint(count)) => event.dropped_attributes_count = count as u32,
            _ => return None,
        }
    }
    Some(event)
}

fn link(mut bytes: &[u8]) -> Option<LinkView<'_>> {
    let mut link = LinkView::default();
    let mut seen = Seen::default();
    while !bytes.is_empty() {
        let (field, value) = next_field(&mut bytes)?;
        if field != 4 {
            seen.once(field)?;
        }
        match (field, value) {
            (1, Value::Bytes(id)) => link.trace_id = id,
            (2, Value::Bytes(id)) => link.span_id = id,
            (3, Value::Bytes(bytes)) => link.trace_state = text(bytes)?,
            (4, Value::Bytes(bytes)) => link.attributes.push(attribute(bytes)?),
            (5, Value::Varint(count)) => link.dropped_attributes_count = count as u32,
            (6, Value::Fixed32(flags)) => link.flags = flags,
            _ => return None,
        }
    }
    Some(link)
}

fn status(mut bytes: &[u8]) -> Option<StatusView<'_>> {
    let mut status = StatusView::default();
    let mut seen = Seen::default();
    while !bytes.is_empty() {
        let (field, value) = next_field(&mut bytes)?;
        seen.once(field)?;
        match (field, value) {
            (2, Value::Bytes(bytes)) => status.message = text(bytes)?,
            (3, Value::Varint(code)) => status.code = code as i32,
            _ => return None,
        }
    }
    Some(status)
}

fn attribute(mut bytes: &[u8]) -> Option<AttributeView<'_>> {
    let mut attribute = AttributeView::default();
    let mut seen = Seen::default();
    while !bytes.is_empty() {
        let (field, value) = next_field(&mut bytes)?;
        seen.once(field)?;
        match (field, value) {
            (1, Value::Bytes(bytes)) => attribute.key = text(bytes)?,
            (2, Value::Bytes(bytes)) => attribute.value = Some(any_value(bytes)?),
            (3, Value::Varint(index)) => attribute.key_strindex = index as i32,
            _ => return None,
        }
    }
    Some(attribute)
}

fn any_value(bytes: &[u8]) -> Option<Held<'_>> {
    let mut rest = bytes;
    if rest.is_empty() {
        return Some(Held::InPlace(ValueView::Empty));
    }
    let (field, value) = next_field(&mut rest)?;
    if !rest.is_empty() {
        return None;
    }
    Some(Held::InPlace(match (field, value) {
        (1, Value::Bytes(bytes)) => ValueView::String(text(bytes)?),
        (2, Value::Varint(flag)) => ValueView::Bool(flag != 0),
        (3, Value::Varint(number)) => ValueView::Int(number as i64),
        (4, Value::Fixed64(bits)) => ValueView::Double(f64::from_bits(bits)),
        (5 | 6, Value::Bytes(_)) if is_any_value(bytes) => {
            return Some(Held::Message(AnyValue::decode(bytes).ok()?.into()));
        }
        (7, Value::Bytes(bytes)) => ValueView::Bytes(bytes),
        (8, Value::Varint(index)) => ValueView::Strindex(index as i32),
        _ => return None,
    }))
}

#[cfg(test)]
mod tests;
