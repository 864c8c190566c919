//! Telemetry files split into export requests.
//!
//! A file is one of: OTLP/JSON as one object, as one object per line, as objects one after the other however they are
//! laid out, as an array of objects; or protobuf as one request, or as requests each preceded by its length, in four
//! bytes big-endian as the collector's file exporter writes or as a varint. Which one is found out from the bytes.
//!
//! A file is read piece by piece and may be larger than memory, or without end. A request in it, and so a protobuf file
//! that is one request, has at most [`MAX_REQUEST_BYTES`].
//!
//! What cannot be read costs itself and not its neighbours. No request is decoded here beyond what is needed to tell
//! what it is.
//!
//! Of what OTLP/JSON forbids one thing is repaired, because it is common in files and certain in meaning: enums by name,
//! as `"kind": "SPAN_KIND_SERVER"`, become numbers. The body is a copy then, and [`FileRequest::enum_names`] counts
//! them: no repair is silent. A receiver does not do this; what comes to it is refused record by record, as OTLP says.

mod enums;
mod framing;
mod values;
mod window;

use std::collections::VecDeque;
use std::io::{self, Read};

use bytes::{Buf, Bytes, buf};
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use opentelemetry_proto::tonic::metrics::v1::Metric;
use opentelemetry_proto::tonic::trace::v1::Span;

use super::record::Record;
use super::{Decoded, Encoding, Signal, protobuf};
use framing::{Framing, Messages, PREFIX_BYTES};
use values::{Item, Values};
use window::Window;

/// The longest request that is read from a file, in bytes: what a receiver accepts, too.
pub const MAX_REQUEST_BYTES: usize = 64 << 20;

/// A request found in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileRequest {
    /// What it carries.
    pub signal: Signal,
    /// How it is written.
    pub encoding: Encoding,
    /// The request, as a receiver would get it.
    pub body: Bytes,
    /// How many enum names in the file stand in `body` as their numbers; always 0 for protobuf. A name that OTLP does not
    /// know is not among them: it stays, and the decoder refuses its record.
    pub enum_names: u64,
    /// Where in the file, such as `line 3` or `message 2`.
    pub at: String,
}

/// A part of a file that is no request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{at}: {reason}")]
pub struct FileError {
    /// Where in the file, such as `line 3` or `message 2`.
    pub at: String,
    /// What was found and what is accepted.
    pub reason: String,
}

/// What every error about a file of the wrong kind ends with.
const ACCEPTED: &str =
    "accepted are OTLP/JSON objects with resourceSpans, resourceMetrics or resourceLogs, and OTLP protobuf";

/// What every error about a request of too many bytes ends with.
const TOO_LONG: &str = "a request may have 64 MiB";

/// The requests of one file; see [`read`].
#[derive(Debug)]
pub struct Requests<R> {
    /// Found and not yet given out.
    ready: VecDeque<Result<FileRequest, FileError>>,
    /// What is still to be looked at.
    rest: Rest<R>,
}

#[derive(Debug)]
enum Rest<R> {
    /// Nothing was looked at yet.
    All {
        window: Window<R>,
        name: String,
        hint: Option<Signal>,
        limit: usize,
    },
    Json(Values<R>),
    Protobuf(Messages<R>, Signal),
    Nothing,
}

/// The requests of a file that is in memory; see [`read`].
pub fn requests(name: &str, bytes: Bytes, hint: Option<Signal>) -> Requests<buf::Reader<Bytes>> {
    read(name, bytes.reader(), hint)
}

/// Splits a file as it is read. JSON tells its signal by its keys. Protobuf does not: `hint` says it, else a `name` such
/// as `traces.pb`, else the one signal as which the file can be read. `name` may be a path, of which the last part
/// counts. What cannot be read because of `source` is a [`FileError`], too, and the last one.
pub fn read<R: Read>(name: &str, source: R, hint: Option<Signal>) -> Requests<R> {
    read_within(MAX_REQUEST_BYTES, name, source, hint)
}

/// [`read`] with a limit of the caller's choice, which is enough to meet it with the short inputs of a fuzz target.
#[cfg(fuzzing)]
#[doc(hidden)]
pub fn read_limited<R: Read>(limit: usize, name: &str, source: R, hint: Option<Signal>) -> Requests<R> {
    read_within(limit, name, source, hint)
}

fn read_within<R: Read>(limit: usize, name: &str, source: R, hint: Option<Signal>) -> Requests<R> {
    let rest = Rest::All { window: Window::new(source), name: name.to_owned(), hint, limit };
    Requests { ready: VecDeque::new(), rest }
}

impl<R: Read> Iterator for Requests<R> {
    type Item = Result<FileRequest, FileError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(ready) = self.ready.pop_front() {
                return Some(ready);
            }
            match &mut self.rest {
                Rest::Nothing => return None,
                Rest::Json(values) => match values.next()? {
                    Ok(item) => self.ready.extend(json_requests(item)),
                    Err(error) => return Some(Err(error)),
                },
                Rest::Protobuf(messages, signal) => {
                    let signal = *signal;
                    return Some(messages.next()?.map(|(body, at)| protobuf_request(signal, body, at)));
                }
                all @ Rest::All { .. } => {
                    let Rest::All { window, name, hint, limit } = std::mem::replace(all, Rest::Nothing) else {
                        return None;
                    };
                    match recognise(window, &name, hint, limit) {
                        Ok(found) => *self = found,
                        Err(error) => return Some(Err(FileError { at: "byte 0".to_owned(), reason: unread(&error) })),
                    }
                }
            }
        }
    }
}

/// What to say when the file itself fails.
fn unread(error: &io::Error) -> String {
    format!("cannot read on: {error}")
}

/// Finds out what a file is from its beginning.
fn recognise<R: Read>(
    mut window: Window<R>,
    name: &str,
    hint: Option<Signal>,
    limit: usize,
) -> io::Result<Requests<R>> {
    window.fill(values::TELLING_BYTES)?;
    if window.bytes().starts_with(b"\xef\xbb\xbf") {
        window.pass(3);
    }
    // A file may begin with space.
    while window.bytes().trim_ascii().is_empty() && !window.ended() && window.bytes().len() <= limit {
        window.grow()?;
    }
    if window.bytes().trim_ascii().is_empty() && window.ended() {
        return Ok(Requests { ready: VecDeque::new(), rest: Rest::Nothing });
    }
    if values::looks_like_json(window.bytes()) {
        return Ok(Requests { ready: VecDeque::new(), rest: Rest::Json(Values::new(window, limit)) });
    }
    // As much as the longest message with its length, and a byte that tells that there is more.
    window.fill(limit + PREFIX_BYTES + 1)?;
    let bytes = window.bytes();
    if window.ended() && bytes.len() <= limit + PREFIX_BYTES {
        return Ok(Requests { ready: protobuf_requests(name, bytes, hint, limit), rest: Rest::Nothing });
    }
    for framing in [Framing::Fixed, Framing::Varint] {
        let messages = framing.split(bytes, false).filter(|messages| !messages.is_empty());
        if let Some(signal) = messages.and_then(|messages| signal_of(name, hint, &messages)) {
            let rest = Rest::Protobuf(Messages::new(window, framing, limit), signal);
            return Ok(Requests { ready: VecDeque::new(), rest });
        }
    }
    let reason = format!(
        "found neither JSON nor OTLP protobuf with lengths, and the file is longer than one request; {TOO_LONG}; \
         {ACCEPTED}"
    );
    let error = FileError { at: "byte 0".to_owned(), reason };
    Ok(Requests { ready: VecDeque::from([Err(error)]), rest: Rest::Nothing })
}

/// An object is a request of each signal whose key it has: a reader of one skips the keys of the others.
fn json_requests(item: Item) -> Vec<Result<FileRequest, FileError>> {
    let Item { body, at } = item;
    let keys = match values::keys(&body) {
        Ok(keys) => keys,
        Err(found) => return vec![Err(FileError { at, reason: format!("found {found}; {ACCEPTED}") })],
    };
    let signals = [
        (Signal::Traces, Span::NAMES.resources),
        (Signal::Metrics, Metric::NAMES.resources),
        (Signal::Logs, LogRecord::NAMES.resources),
    ];
    let found: Vec<_> = signals
        .into_iter()
        .filter(|(_, key)| keys.iter().any(|found| found == key))
        .map(|(signal, _)| {
            let (body, enum_names) = enums::number_names(signal, &body);
            Ok(FileRequest { signal, encoding: Encoding::Json, body, enum_names, at: at.clone() })
        })
        .collect();
    // An empty object is a request without groups, of whatever signal.
    if found.is_empty() && !keys.is_empty() {
        let shown: Vec<&str> = keys.iter().take(5).map(String::as_str).collect();
        let more = if keys.len() > shown.len() { ", ..." } else { "" };
        let reason = format!("found an object with the keys {}{more}; {ACCEPTED}", shown.join(", "));
        return vec![Err(FileError { at, reason })];
    }
    found
}

fn protobuf_request(signal: Signal, body: Bytes, at: String) -> FileRequest {
    FileRequest { signal, encoding: Encoding::Protobuf, body, enum_names: 0, at }
}

/// The requests of a protobuf file that is there as a whole.
fn protobuf_requests(
    name: &str,
    bytes: &Bytes,
    hint: Option<Signal>,
    limit: usize,
) -> VecDeque<Result<FileRequest, FileError>> {
    let single = Some(vec![bytes.clone()]).filter(|_| bytes.len() <= limit);
    let layouts = [single, Framing::Fixed.split(bytes, true), Framing::Varint.split(bytes, true)];
    for messages in layouts.into_iter().flatten() {
        let Some(signal) = signal_of(name, hint, &messages) else { continue };
        let request = |(index, body): (usize, Bytes)| {
            let at = format!("message {}", index + 1);
            if body.len() > limit {
                return Err(FileError { at, reason: format!("it has {} bytes; {TOO_LONG}", body.len()) });
            }
            Ok(protobuf_request(signal, body, at))
        };
        return messages.into_iter().enumerate().map(request).collect();
    }
    let reason = match hint {
        Some(signal) => format!("found neither JSON nor OTLP protobuf of {signal:?}; {ACCEPTED}"),
        None => format!(
            "found neither JSON nor OTLP protobuf that is of one signal beyond doubt; {ACCEPTED}, \
             whose file name or the signal given for it says trace, metric or log"
        ),
    };
    VecDeque::from([Err(FileError { at: "byte 0".to_owned(), reason })])
}

/// What messages carry, if they are requests.
fn signal_of(name: &str, hint: Option<Signal>, messages: &[Bytes]) -> Option<Signal> {
    let named = hint.or_else(|| signal_of_name(name));
    named.filter(|signal| is_request(*signal, messages)).or_else(|| guess(hint, messages))
}

/// The signal that the last part of a path names, if it is one.
fn signal_of_name(path: &str) -> Option<Signal> {
    let name = path.rsplit(['/', '\\']).next().unwrap_or(path).to_ascii_lowercase();
    let words =
        [("trace", Signal::Traces), ("span", Signal::Traces), ("metric", Signal::Metrics), ("log", Signal::Logs)];
    let mut named = words.into_iter().filter(|(word, _)| name.contains(word)).map(|(_, signal)| signal);
    let first = named.next()?;
    named.all(|signal| signal == first).then_some(first)
}

/// The one signal as which every message can be read, with records that are whole; none when a hint has spoken.
fn guess(hint: Option<Signal>, messages: &[Bytes]) -> Option<Signal> {
    if hint.is_some() {
        return None;
    }
    let plausible = |signal: &Signal| match signal {
        Signal::Traces => messages.iter().all(|body| holds(body, |span: &Span| span.trace_id.len() == 16)),
        Signal::Metrics => messages.iter().all(|body| holds(body, |metric: &Metric| metric.data.is_some())),
        Signal::Logs => messages.iter().all(|body| holds(body, |_: &LogRecord| true)),
    };
    let mut found = [Signal::Traces, Signal::Metrics, Signal::Logs].into_iter().filter(plausible);
    let first = found.next()?;
    found.next().is_none().then_some(first)
}

/// Whether a message has records and all of them can be read and pass.
fn holds<R: Record>(body: &Bytes, passes: impl Fn(&R) -> bool) -> bool {
    let Ok(Decoded { groups, undecodable }) = protobuf::decode::<R>(body) else { return false };
    undecodable.is_empty() && !groups.is_empty() && groups.iter().all(|group| group.records.iter().all(&passes))
}

/// Whether the messages are requests of a signal that someone has named: some records may be bad then, but not all.
fn is_request(signal: Signal, messages: &[Bytes]) -> bool {
    let mut readable = false;
    for body in messages {
        let read = match signal {
            Signal::Traces => protobuf::decode::<Span>(body).map(|found| is_readable(&found)),
            Signal::Metrics => protobuf::decode::<Metric>(body).map(|found| is_readable(&found)),
            Signal::Logs => protobuf::decode::<LogRecord>(body).map(|found| is_readable(&found)),
        };
        match read {
            Ok(read) => readable |= read,
            Err(_) => return false,
        }
    }
    readable
}

/// Whether some record was read, or there was none to read.
fn is_readable<R>(found: &Decoded<R>) -> bool {
    !found.groups.is_empty() || found.undecodable.is_empty()
}

#[cfg(test)]
mod tests;
