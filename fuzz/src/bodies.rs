//! Bodies of requests: compressed, framed, in pieces, and never beyond their limits.

use std::io::Write;

use bytes::Bytes;
use oneiric_otel_server::fuzzing::{Limits, Outcome, grpc_message, http_message, inflate};
use tokio::runtime::Runtime;

use crate::memory;

/// The largest message here. Everything stays on the thread that reads.
const MAX_BYTES: usize = 16 << 10;
const BUDGET: usize = 1 << 20;
const FRAME_HEADER_BYTES: usize = 5;

/// Checks one coding. The first byte says how the rest is read, and whether it is to be compressed first, which costs far
/// more.
pub fn coding(name: &str, input: &[u8]) {
    let Some((how, data)) = input.split_first() else { return };
    let data = Bytes::copy_from_slice(data);
    let step = 64 + usize::from(how % 64) * 40;
    let max_bytes = if how & 64 == 0 { MAX_BYTES } else { 300 };
    memory::bounded(data.len(), 64, || {
        if *how < 240 {
            let stepwise = inflate(name, data.clone(), max_bytes, BUDGET, step);
            // Each comparison costs a decompression, most of what an input costs.
            if how % 4 == 0 {
                let whole = inflate(name, data, max_bytes, BUDGET, usize::MAX);
                // Whether zstd minds that a frame is shorter than it says depends on the room it was given, and so does
                // what it says of other damage.
                let is_zstd_and_damaged = name == "zstd" && (whole.is_err() || stepwise.is_err());
                assert!(is_zstd_and_damaged || whole.ok() == stepwise.ok(), "stopped half-way it is something else");
            }
        } else {
            let back = inflate(name, compress(name, &data).into(), max_bytes, BUDGET, step);
            assert_eq!(back.is_ok(), data.len() <= max_bytes, "{back:?}");
            assert!(back.is_err() || back == Ok(data), "what comes back is something else");
        }
    });
}

fn compress(name: &str, data: &[u8]) -> Vec<u8> {
    let level = flate2::Compression::fast();
    let written = match name {
        "gzip" => {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), level);
            encoder.write_all(data).and_then(|()| encoder.finish())
        }
        "deflate" => {
            let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), level);
            encoder.write_all(data).and_then(|()| encoder.finish())
        }
        _ => zstd::bulk::compress(data, 1),
    };
    written.expect("writing to memory does not fail")
}

/// What bodies are read with, made once.
pub struct Reading {
    runtime: Runtime,
    limits: Limits,
}

impl Default for Reading {
    fn default() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        Self { runtime, limits: Limits::new(MAX_BYTES, BUDGET) }
    }
}

impl Reading {
    /// Checks a gRPC call. The first byte is its coding, the second how long its pieces are.
    pub fn grpc(&self, input: &[u8]) {
        let Some(([coding, piece], body)) = input.split_first_chunk() else { return };
        let coding = name_of(*coding);
        memory::bounded(body.len(), 64, || {
            let pieces = pieces(body, *piece);
            let outcome = self.runtime.block_on(grpc_message(coding, pieces, &self.limits));
            assert!(agrees(&outcome, expected_grpc(coding, body).as_ref()), "{outcome:?}");
        });
    }

    /// Checks the body of an HTTP request. The first byte is its coding, the second how long its pieces are.
    pub fn http(&self, input: &[u8]) {
        let Some(([coding, piece], body)) = input.split_first_chunk() else { return };
        let coding = name_of(*coding);
        memory::bounded(body.len(), 64, || {
            let (pieces, is_length_known) = (pieces(body, *piece), piece % 2 == 0);
            let outcome = self.runtime.block_on(http_message(coding, pieces, is_length_known, &self.limits));
            assert!(agrees(&outcome, expected(coding, body).as_ref()), "{outcome:?}");
        });
    }
}

fn name_of(coding: u8) -> &'static str {
    ["identity", "gzip", "deflate", "zstd", "", "x-gzip", "br", "GZIP"][usize::from(coding % 8)]
}

fn pieces(body: &[u8], piece: u8) -> Vec<Bytes> {
    body.chunks(8 + 4 * usize::from(piece)).map(Bytes::copy_from_slice).collect()
}

/// Whether a message is the expected one, or both fail.
fn agrees(outcome: &Outcome, expected: Option<&Bytes>) -> bool {
    outcome.as_ref().ok() == expected
}

/// The message of a call as the gRPC specification has it.
fn expected_grpc(coding: &str, body: &[u8]) -> Option<Bytes> {
    let (header, message) = body.split_first_chunk::<FRAME_HEADER_BYTES>()?;
    let (flag, length) = header.split_first()?;
    if u32::from_be_bytes(length.try_into().ok()?) as usize != message.len() {
        return None;
    }
    let is_known = coding.is_empty() || inflate(coding, Bytes::new(), 0, 0, 1) != Err("no such coding".to_owned());
    match flag {
        0 if is_known => Some(Bytes::copy_from_slice(message)),
        1 if !coding.is_empty() && coding != "identity" => expected(coding, message),
        _ => None,
    }
}

/// The message in a body. Nothing, labelled as compressed, is nothing.
fn expected(coding: &str, body: &[u8]) -> Option<Bytes> {
    let body = Bytes::copy_from_slice(body);
    match coding {
        "br" => None,
        "" | "identity" => Some(body),
        _ if body.is_empty() => Some(body),
        _ => inflate(coding, body, MAX_BYTES, BUDGET, usize::MAX).ok(),
    }
}
