//! Telemetry files: however they are read, they hold the same requests.

use std::io::{self, Read};

use oneiric_otel::otlp::file::{FileError, FileRequest, read_limited};
use oneiric_otel::otlp::{Encoding, Signal, decode};
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use opentelemetry_proto::tonic::metrics::v1::Metric;
use opentelemetry_proto::tonic::trace::v1::Span;

use crate::memory;

/// Bytes of memory for a byte of a file: its requests are read to find out what they are.
const FACTOR: usize = 4096;

/// Checks a file. The first byte says what is known of it, the second how it is read, the third the longest request.
pub fn check(input: &[u8]) {
    let Some(([what, reading, limit], file)) = input.split_first_chunk() else { return };
    memory::bounded(file.len(), FACTOR, || {
        let (name, hint) = match what % 8 {
            0 => ("x", None),
            1 => ("traces.pb", None),
            2 => ("a/metrics.bin", None),
            3 => ("a\\log", None),
            4 => ("trace-log", None),
            5 => ("x", Some(Signal::Traces)),
            6 => ("x", Some(Signal::Metrics)),
            _ => ("x", Some(Signal::Logs)),
        };
        // Only a limit that nothing meets makes it the same whatever is read at a time.
        let limit = if *limit < 192 { file.len() + 1 } else { (usize::from(*limit) - 191) * 16 };
        let whole = requests(name, file, hint, limit, usize::MAX);
        let pieces = requests(name, file, hint, limit, usize::from(*reading) + 1);
        if limit > file.len() {
            assert!(whole == pieces, "read in pieces a file holds something else: {whole:?} {pieces:?}");
        }
        whole.iter().chain(&pieces).flatten().for_each(|request| decodes(request, limit));
    });
}

fn requests(
    name: &str,
    file: &[u8],
    hint: Option<Signal>,
    limit: usize,
    at_a_time: usize,
) -> Vec<Result<FileRequest, FileError>> {
    let source = Pieces { left: file, at_a_time };
    // Each request and each error takes at least a byte, but for the one that stands for the end.
    let found: Vec<_> = read_limited(limit, name, source, hint).take(file.len() * 3 + 2).collect();
    assert!(found.len() <= file.len() * 3 + 1, "a file has no end");
    found
}

fn decodes(request: &FileRequest, limit: usize) {
    let FileRequest { signal, encoding, body, enum_names, at } = request;
    // The number of an enum may be longer than its name by nothing: names are never shorter than numbers.
    assert!(body.len() <= limit && !at.is_empty(), "a request of {} bytes, the limit is {limit}", body.len());
    assert!(*enum_names == 0 || *encoding == Encoding::Json, "enum names in protobuf");
    let readable = match signal {
        Signal::Traces => decode::<Span>(*encoding, body).is_ok(),
        Signal::Metrics => decode::<Metric>(*encoding, body).is_ok(),
        Signal::Logs => decode::<LogRecord>(*encoding, body).is_ok(),
    };
    if *encoding == Encoding::Json && readable {
        assert!(serde_json::from_slice::<serde::de::IgnoredAny>(body).is_ok(), "a request that is not JSON");
    }
}

/// A file that gives no more than so many bytes at a time.
struct Pieces<'a> {
    left: &'a [u8],
    at_a_time: usize,
}

impl Read for Pieces<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let length = into.len().min(self.at_a_time);
        self.left.read(&mut into[..length])
    }
}
