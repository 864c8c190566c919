//! Requests that are known to be readable without being read.
//!
//! [`walk`] looks at every byte of a request and keeps nothing, which takes a fraction of the time that decoding takes.
//! Its yes is certain: the decoder reads every record that it has shown, and no other. Its no says nothing: whatever is
//! odd, or unknown to it, is left to the decoder. Of data points it knows nothing at all.

use prost::encoding::{WireType, decode_key, decode_varint};

use super::{MAX_TINY_FIELDS, TINY_FIELD_BYTES, borrowed};
use crate::otlp::Signal;
use crate::otlp::envelope::MAX_RECORDS;
use crate::otlp::view::SpanView;

/// A part of a request, as far as somebody may have to say whether it is acceptable.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Part<'a> {
    /// A span, and how many bytes it came in.
    Span(&'a SpanView<'a>, usize),
    /// A log record, a resource or a scope.
    Other {
        /// It has at most so many bytes when it is written again.
        most_bytes: usize,
        /// Its longest list of attributes.
        attributes: usize,
    },
}

/// Shows every resource, scope and record of a request to `accepts`. Returns how many records there are, if all can be
/// read and are accepted.
pub(crate) fn walk(signal: Signal, body: &[u8], accepts: &dyn Fn(Part<'_>) -> bool) -> Option<u64> {
    if body.len() > MAX_TINY_FIELDS * TINY_FIELD_BYTES {
        return None;
    }
    let span = |bytes: &[u8]| accepts(Part::Span(&borrowed::span(bytes)?, bytes.len())).then_some(());
    let log = |bytes: &[u8]| part(bytes, &LOG_RECORD, accepts);
    let records = match signal {
        Signal::Traces => groups(body, &span, accepts)?,
        Signal::Logs => groups(body, &log, accepts)?,
        Signal::Metrics => return None,
    };
    (records <= MAX_RECORDS as u64).then_some(records)
}

/// A request.
fn groups(
    mut request: &[u8],
    record: &impl Fn(&[u8]) -> Option<()>,
    accepts: &dyn Fn(Part<'_>) -> bool,
) -> Option<u64> {
    let mut records = 0;
    while !request.is_empty() {
        match next_field(&mut request)? {
            (1, Value::Bytes(group)) => records += resource_group(group, record, accepts)?,
            (1, _) => return None,
            _ => {}
        }
    }
    Some(records)
}

/// `ResourceSpans` and its like.
fn resource_group(
    mut group: &[u8],
    record: &impl Fn(&[u8]) -> Option<()>,
    accepts: &dyn Fn(Part<'_>) -> bool,
) -> Option<u64> {
    let (mut records, mut resources) = (0, 0);
    while !group.is_empty() {
        match next_field(&mut group)? {
            (1, Value::Bytes(resource)) => {
                resources += 1;
                part(resource, &RESOURCE, accepts)?;
            }
            (2, Value::Bytes(group)) => records += scope_group(group, record, accepts)?,
            (3, Value::Bytes(schema_url)) => is_text(schema_url)?,
            (1..=3, _) => return None,
            _ => {}
        }
    }
    // Several would be merged.
    (resources <= 1).then_some(records)
}

/// `ScopeSpans` and its like.
fn scope_group(
    mut group: &[u8],
    record: &impl Fn(&[u8]) -> Option<()>,
    accepts: &dyn Fn(Part<'_>) -> bool,
) -> Option<u64> {
    let (mut records, mut scopes) = (0, 0);
    while !group.is_empty() {
        match next_field(&mut group)? {
            (1, Value::Bytes(scope)) => {
                scopes += 1;
                part(scope, &SCOPE, accepts)?;
            }
            (2, Value::Bytes(bytes)) => {
                records += 1;
                record(bytes)?;
            }
            (3, Value::Bytes(schema_url)) => is_text(schema_url)?,
            (1..=3, _) => return None,
            _ => {}
        }
    }
    (scopes <= 1).then_some(records)
}

fn part(bytes: &[u8], shape: &Shape, accepts: &dyn Fn(Part<'_>) -> bool) -> Option<()> {
    let mut attributes = 0;
    message(bytes, shape, DEPTH, &mut attributes)?;
    accepts(Part::Other { most_bytes: most_bytes(bytes.len()), attributes }).then_some(())
}

/// How many bytes a record that came in so many takes at most when it is written again: a negative number may have come in
/// five bytes and is written in ten.
pub(crate) fn most_bytes(came_in: usize) -> usize {
    came_in.saturating_mul(2)
}

/// Messages lie in each other this deep at most; the decoder allows more.
const DEPTH: u32 = 32;

/// What the fields of a message are, by their numbers.
struct Shape(&'static [Kind]);

#[derive(Clone, Copy)]
enum Kind {
    /// A later version of OTLP may have it: the decoder passes over it.
    Unknown,
    Varint,
    Fixed32,
    Fixed64,
    Text,
    Bytes,
    Message(&'static Shape),
    /// An element of a list of attributes, which are counted.
    Attribute,
}

use Kind::{Attribute, Fixed32, Fixed64, Text, Unknown, Varint};

const BYTES: Kind = Kind::Bytes;

static LOG_RECORD: Shape = Shape(&[
    Unknown,
    Fixed64,
    Varint,
    Text,
    Unknown,
    Kind::Message(&ANY_VALUE),
    Attribute,
    Varint,
    Fixed32,
    BYTES,
    BYTES,
    Fixed64,
    Text,
]);
static RESOURCE: Shape = Shape(&[Unknown, Attribute, Varint, Kind::Message(&ENTITY_REF)]);
static ENTITY_REF: Shape = Shape(&[Unknown, Text, Text, Text, Text]);
static SCOPE: Shape = Shape(&[Unknown, Text, Text, Attribute, Varint]);
static KEY_VALUE: Shape = Shape(&[Unknown, Text, Kind::Message(&ANY_VALUE), Varint]);
static ANY_VALUE: Shape = Shape(&[
    Unknown,
    Text,
    Varint,
    Varint,
    Fixed64,
    Kind::Message(&ARRAY_VALUE),
    Kind::Message(&KEY_VALUE_LIST),
    BYTES,
    Varint,
]);
static ARRAY_VALUE: Shape = Shape(&[Unknown, Kind::Message(&ANY_VALUE)]);
static KEY_VALUE_LIST: Shape = Shape(&[Unknown, Kind::Message(&KEY_VALUE)]);

/// Whether the decoder reads a message of this shape. `most` becomes the length of the longest list of attributes.
fn message(mut bytes: &[u8], shape: &Shape, depth: u32, most: &mut usize) -> Option<()> {
    let depth = depth.checked_sub(1)?;
    let mut attributes = 0;
    while !bytes.is_empty() {
        let (number, value) = next_field(&mut bytes)?;
        let kind = shape.0.get(number as usize).copied().unwrap_or(Unknown);
        match (kind, value) {
            (Unknown, _)
            | (Kind::Bytes, Value::Bytes(_))
            | (Varint, Value::Varint(_))
            | (Fixed32, Value::Fixed32(_))
            | (Fixed64, Value::Fixed64(_)) => {}
            (Text, Value::Bytes(bytes)) => is_text(bytes)?,
            (Kind::Message(shape), Value::Bytes(bytes)) => message(bytes, shape, depth, most)?,
            (Attribute, Value::Bytes(bytes)) => {
                attributes += 1;
                message(bytes, &KEY_VALUE, depth, most)?;
            }
            _ => return None,
        }
    }
    *most = attributes.max(*most);
    Some(())
}

/// Whether the decoder reads this as an `AnyValue`.
pub(super) fn is_any_value(bytes: &[u8]) -> bool {
    message(bytes, &ANY_VALUE, DEPTH, &mut 0).is_some()
}

/// What a field holds.
#[derive(Clone, Copy)]
pub(super) enum Value<'a> {
    Varint(u64),
    Fixed32(u32),
    Fixed64(u64),
    Bytes(&'a [u8]),
}

/// Takes the next field off a message. None if it is cut off, or a group.
#[expect(clippy::inline_always, reason = "fifty fields a span, and a call takes longer than what it does")]
#[inline(always)]
pub(super) fn next_field<'a>(message: &mut &'a [u8]) -> Option<(u32, Value<'a>)> {
    // Most fields are texts and messages, and their numbers and lengths a byte each.
    if let [key @ 0x08..0x80, length @ 0..0x80, rest @ ..] = *message
        && key & 7 == WireType::LengthDelimited as u8
    {
        let (bytes, rest) = rest.split_at_checked(usize::from(*length))?;
        *message = rest;
        return Some((u32::from(key >> 3), Value::Bytes(bytes)));
    }
    any_field(message)
}

fn any_field<'a>(message: &mut &'a [u8]) -> Option<(u32, Value<'a>)> {
    let (number, wire_type) = match message.split_first() {
        Some((&key @ 0x08..0x80, rest)) => {
            *message = rest;
            (u32::from(key >> 3), WireType::try_from(u64::from(key & 7)).ok()?)
        }
        _ => decode_key(message).ok()?,
    };
    let value = match wire_type {
        WireType::Varint => Value::Varint(varint(message)?),
        WireType::ThirtyTwoBit => {
            let (bytes, rest) = message.split_first_chunk()?;
            *message = rest;
            Value::Fixed32(u32::from_le_bytes(*bytes))
        }
        WireType::SixtyFourBit => {
            let (bytes, rest) = message.split_first_chunk()?;
            *message = rest;
            Value::Fixed64(u64::from_le_bytes(*bytes))
        }
        WireType::LengthDelimited => {
            let length = usize::try_from(varint(message)?).ok()?;
            let (bytes, rest) = message.split_at_checked(length)?;
            *message = rest;
            Value::Bytes(bytes)
        }
        WireType::StartGroup | WireType::EndGroup => return None,
    };
    Some((number, value))
}

#[inline]
fn varint(message: &mut &[u8]) -> Option<u64> {
    if let Some((&byte @ 0..0x80, rest)) = message.split_first() {
        *message = rest;
        return Some(u64::from(byte));
    }
    decode_varint(message).ok()
}

#[inline]
fn is_text(bytes: &[u8]) -> Option<()> {
    (bytes.is_ascii() || std::str::from_utf8(bytes).is_ok()).then_some(())
}

/// The bytes, if they are UTF-8.
#[inline]
pub(super) fn text(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes).ok()
}
