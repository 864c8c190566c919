//! OTLP/JSON, read and written by our own code: a table per message over serde_json, without a tree of values in
//! between.
//!
//! What is read:
//! - ids as hex of either case, enums as numbers, keys in lowerCamelCase; unknown keys are skipped, snake_case ones too,
//!   as OTLP says;
//! - 64-bit integers as decimal strings or numbers, doubles as numbers or strings (`"NaN"`, `"Infinity"`), bytes as
//!   base64 of either alphabet, padded or not;
//! - null for any field as if it were absent. An object with a key twice, or with two members of one oneof, is refused.
//!
//! A request is read in two steps, as protobuf is: the envelope with every part as a slice of the text, then each part
//! alone, so that an error costs one record. Nesting is limited to 128 JSON levels per part, far below what the stack
//! holds; an envelope that is not JSON at all is the only thing that refuses a request whole.
//!
//! What is written: ids in lower-case hex, 64-bit integers as strings, enums as numbers, fields with their default value
//! left out. Two things do not come back from JSON: the payload of a NaN, which JSON has no form for, and a record that
//! protobuf allows to be nested deeper (some 49 arrays in each other) than the limit above (41). Protobuf is the
//! encoding to keep data in.

mod codec;
mod message;
mod request;
mod tables;

use serde::de::{DeserializeSeed, IgnoredAny};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

pub use message::{AsJson, Message};
pub use request::Request;

use super::envelope::{self, Fault, Sink, Unread};
use super::record::Record;
use super::{Decoded, Encoding, Group, Malformed, Undecodable};
use message::MessageVisitor;

/// Reads an export request of the signal of `R`. An empty object is a request without groups.
///
/// # Errors
/// [`Malformed`] with line and column when the body is not JSON, or with the path when a list of the envelope is not
/// one. What is wrong inside a record, a resource or a scope is reported in [`Decoded::undecodable`] instead.
pub fn decode<R: Record>(body: &[u8]) -> Result<Decoded<R>, Malformed> {
    envelope::collect(|sink| read_request(body, sink))
}

/// Reads a request of the signal of `R` into `sink`, record by record, and returns what cannot be read.
///
/// # Errors
/// As [`decode`]; `sink` then has nothing.
pub(super) fn read_request<R: Record>(body: &[u8], sink: &mut impl Sink<R>) -> Result<Vec<Undecodable>, Malformed> {
    let malformed =
        |reason: String| Malformed { reason: format!("not an OTLP/JSON object with {}: {reason}", R::NAMES.resources) };
    let text =
        std::str::from_utf8(body).map_err(|error| malformed(format!("byte {} is not UTF-8", error.valid_up_to())))?;
    let resources = request::split(text, R::NAMES).map_err(malformed)?;
    envelope::read(resources, sink).map_err(|reason| Malformed { reason })
}

/// Writes groups as an export request of the signal of `R`, on one line. Neighbouring groups that share a resource (the
/// same `Arc`) go into one `resourceSpans` element or its like.
pub fn encode<R: Record>(groups: &[Group<R>]) -> Vec<u8> {
    write(&Request(groups))
}

/// Writes one message alone: a record, a resource, a scope, a value.
pub fn encode_message<M: Message>(message: &M) -> Vec<u8> {
    write(&AsJson(message))
}

/// Reads one message alone.
///
/// # Errors
/// The path below the message, and what is wrong there.
pub fn decode_message<M: Message>(text: &str) -> Result<M, String> {
    read(text).map_err(|fault| match fault.path.strip_prefix('.') {
        Some(path) => format!("{path}: {}", fault.reason),
        None => fault.reason,
    })
}

fn write(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("a Vec takes every byte and no serializer of this module fails")
}

impl Unread for &RawValue {
    fn message<M: Message>(&self) -> Result<M, Fault> {
        read(self.get())
    }

    fn text(&self) -> Result<String, Fault> {
        serde_json::from_str(self.get()).map_err(|error| Fault { path: String::new(), reason: reason(&error) })
    }

    fn encoded(&self) -> Option<&[u8]> {
        None
    }

    fn count_lost<R: Record>(&self) -> u64 {
        R::count_lost(Encoding::Json, self.get().as_bytes())
    }
}

fn read<M: Message>(text: &str) -> Result<M, Fault> {
    let mut json = serde_json::Deserializer::from_str(text);
    let read = MessageVisitor::new().deserialize(&mut json).and_then(|message| json.end().map(|()| message));
    read.map_err(|error| Fault { path: locate(text, MessageVisitor::<M>::new()), reason: reason(&error) })
}

/// Where reading `text` by `seed` fails, as `.attributes[2].key`; empty for the whole. Reading once more is slower only
/// for what fails.
fn locate<'de, S: DeserializeSeed<'de>>(text: &'de str, seed: S) -> String {
    let mut json = serde_json::Deserializer::from_str(text);
    let mut track = serde_path_to_error::Track::new();
    let read = seed.deserialize(serde_path_to_error::Deserializer::new(&mut json, &mut track));
    if read.is_ok() { String::new() } else { render(&track.path()) }
}

/// A path as it is appended to that of its owner.
fn render(path: &serde_path_to_error::Path) -> String {
    use serde_path_to_error::Segment;
    let mut out = String::new();
    for segment in path {
        if !matches!(segment, Segment::Seq { .. }) {
            out.push('.');
        }
        out.push_str(&segment.to_string());
    }
    out
}

/// serde_json's words without the position, which counts from the start of the part and would mislead.
fn reason(error: &serde_json::Error) -> String {
    let text = error.to_string();
    match text.rsplit_once(" at line ") {
        Some((reason, _)) => reason.to_owned(),
        None => text,
    }
}

/// A metric of which only the number of data points is of interest.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct CountedMetric {
    gauge: Option<CountedPoints>,
    sum: Option<CountedPoints>,
    histogram: Option<CountedPoints>,
    exponential_histogram: Option<CountedPoints>,
    summary: Option<CountedPoints>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct CountedPoints {
    #[serde(default)]
    data_points: Vec<IgnoredAny>,
}

/// How many data points a metric holds, as far as its outer structure can be read; 0 when it cannot.
pub(super) fn count_points(metric: &[u8]) -> u64 {
    let Ok(metric) = serde_json::from_slice::<CountedMetric>(metric) else { return 0 };
    let CountedMetric { gauge, sum, histogram, exponential_histogram, summary } = metric;
    let kinds = [gauge, sum, histogram, exponential_histogram, summary];
    kinds.iter().flatten().map(|kind| kind.data_points.len() as u64).sum()
}

#[cfg(test)]
mod tests;
