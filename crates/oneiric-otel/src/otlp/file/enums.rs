//! Enum names in JSON files, written over with their numbers.
//!
//! OTLP/JSON writes enums as numbers and the decoder refuses names. Files that were made by a general protobuf-to-JSON
//! printer have the names all the same, and whoever imports such a file cannot make its sender write it anew. So the
//! names are replaced here, before decoding, and counted.
//!
//! Only the value of a member whose key is that of an enum of the signal is replaced, and only when it is a name of
//! that very enum, letter for letter. Every other byte stays, each where it was: a number is followed by as many spaces
//! as its name was longer, so that positions in later error messages are those of the file. What a member is part of is
//! not looked at; the decoder skips members that it does not know, whatever their value.

use std::borrow::Cow;

use bytes::Bytes;
use opentelemetry_proto::tonic::logs::v1::SeverityNumber;
use opentelemetry_proto::tonic::metrics::v1::AggregationTemporality;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;

use crate::otlp::Signal;

/// The JSON text of a request with its enum names replaced, and how many there were. Without any it is the same bytes,
/// not a copy. Text that is not JSON is no error: what looks like a member in it is treated as one.
pub(super) fn number_names(signal: Signal, body: &Bytes) -> (Bytes, u64) {
    let mut replaced: Option<Vec<u8>> = None;
    let mut count = 0;
    let mut position = 0;
    while let Some(start) = find_quote(body, position) {
        let Some(end) = end_of_string(body, start) else { break };
        position = end;
        // Outside of strings, a colon follows keys and nothing else.
        let colon = skip_space(body, end);
        if body.get(colon) != Some(&b':') {
            continue;
        }
        position = skip_space(body, colon + 1);
        if body.get(position) != Some(&b'"') {
            continue;
        }
        let value = position;
        let Some(value_end) = end_of_string(body, value) else { break };
        position = value_end;
        let Some(number) = number(signal, body.get(start..end), body.get(value..value_end)) else { continue };
        let written = replaced.get_or_insert_with(|| body.to_vec());
        let Some(place) = written.get_mut(value..value_end) else { continue };
        place.fill(b' ');
        // A name in its quotes is longer than any number of an enum.
        for (byte, digit) in place.iter_mut().zip(number.to_string().bytes()) {
            *byte = digit;
        }
        count += 1;
    }
    (replaced.map_or_else(|| body.clone(), Bytes::from), count)
}

/// The number that a name stands for, if the key, too, is that of an enum of the signal. Both are in quotes.
fn number(signal: Signal, key: Option<&[u8]>, name: Option<&[u8]>) -> Option<i32> {
    let key = unquote(key?)?;
    let from_name: fn(&str) -> Option<i32> = match (signal, key.as_ref()) {
        (Signal::Traces, "kind") => |name| SpanKind::from_str_name(name).map(i32::from),
        (Signal::Traces, "code") => |name| StatusCode::from_str_name(name).map(i32::from),
        (Signal::Metrics, "aggregationTemporality") => {
            |name| AggregationTemporality::from_str_name(name).map(i32::from)
        }
        (Signal::Logs, "severityNumber") => |name| SeverityNumber::from_str_name(name).map(i32::from),
        _ => return None,
    };
    from_name(&unquote(name?)?)
}

/// What a JSON string says. A file may write any character as an escape.
fn unquote(string: &[u8]) -> Option<Cow<'_, str>> {
    if string.contains(&b'\\') {
        return serde_json::from_slice(string).ok().map(Cow::Owned);
    }
    let inner = string.strip_prefix(b"\"")?.strip_suffix(b"\"")?;
    std::str::from_utf8(inner).ok().map(Cow::Borrowed)
}

fn find_quote(text: &[u8], from: usize) -> Option<usize> {
    let found = text.get(from..)?.iter().position(|byte| *byte == b'"')?;
    Some(from + found)
}

/// The position after the closing quote of the string that opens at `start`; None if it does not close.
fn end_of_string(text: &[u8], start: usize) -> Option<usize> {
    let mut position = start + 1;
    loop {
        match text.get(position)? {
            b'"' => return Some(position + 1),
            b'\\' => position += 2,
            _ => position += 1,
        }
    }
}

/// The position of the first byte from `from` on that is not JSON's white space.
fn skip_space(text: &[u8], from: usize) -> usize {
    let rest = text.get(from..).unwrap_or_default();
    let space = rest.iter().take_while(|byte| matches!(byte, b' ' | b'\t' | b'\n' | b'\r')).count();
    from + space
}

#[cfg(test)]
mod tests;
