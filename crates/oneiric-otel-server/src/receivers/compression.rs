//! Content codings and their removal, never beyond a size.

use std::io::{self, Cursor, Read};

use bytes::Bytes;

use super::admission::Reservation;
use super::status::Failure;

/// How a message is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Compression {
    Identity,
    Gzip,
    Deflate,
    Zstd,
}

impl Compression {
    /// What senders may use, for `Accept-Encoding` and `grpc-accept-encoding`.
    pub(crate) const ACCEPTED: &'static str = "gzip, zstd, deflate, identity";

    /// Reads the name of a content coding.
    pub(crate) fn from_name(name: &str) -> Option<Self> {
        let name = name.trim();
        let is = |candidate: &str| name.eq_ignore_ascii_case(candidate);
        if name.is_empty() || is("identity") {
            Some(Self::Identity)
        } else if is("gzip") || is("x-gzip") {
            Some(Self::Gzip)
        } else if is("zstd") {
            Some(Self::Zstd)
        } else if is("deflate") {
            Some(Self::Deflate)
        } else {
            None
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Identity => "identity",
            Self::Gzip => "gzip",
            Self::Deflate => "deflate",
            Self::Zstd => "zstd",
        }
    }
}

/// The largest window a zstd frame may ask for, as a power of two: what RFC 9659 allows for HTTP. The decoder allocates
/// it before the first byte comes out.
const ZSTD_WINDOW_LOG_MAX: u32 = 23;

/// What telemetry is expected to grow by when it is decompressed.
const EXPECTED_RATIO: usize = 8;

/// Bounds on what is set aside before the first byte is decompressed. From there on it doubles.
const MIN_FIRST_STEP: usize = 4 << 10;
const MAX_FIRST_STEP: usize = 8 << 20;

/// A message being decompressed. It can stop half-way and go on in another thread.
pub(crate) struct Inflater {
    source: Box<dyn Read + Send>,
    compression: Compression,
    compressed_bytes: usize,
    output: Vec<u8>,
    max_bytes: usize,
    reservation: Reservation,
}

/// Whether there is more to decompress.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Progress {
    More,
    Done,
}

impl Inflater {
    /// `reservation` pays for `compressed` already.
    pub(crate) fn new(
        compressed: Bytes,
        compression: Compression,
        max_bytes: usize,
        reservation: Reservation,
    ) -> Result<Self, Failure> {
        let compressed_bytes = compressed.len();
        let input = Cursor::new(compressed);
        let source: Box<dyn Read + Send> = match compression {
            Compression::Identity => Box::new(input),
            Compression::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(input)),
            Compression::Deflate => Box::new(flate2::bufread::ZlibDecoder::new(input)),
            Compression::Zstd => Box::new(zstd_decoder(input).map_err(|error| malformed(compression, &error))?),
        };
        Ok(Self { source, compression, compressed_bytes, output: Vec::new(), max_bytes, reservation })
    }

    /// Goes on until there are about `until` bytes, or all.
    pub(crate) fn advance(&mut self, until: usize) -> Result<Progress, Failure> {
        while self.output.len() < until {
            let length = self.output.len();
            // One byte beyond the limit tells too much from just enough.
            let step =
                length.max(first_step(self.compressed_bytes)).min(until - length).min(self.max_bytes + 1 - length);
            self.reservation.try_cover(self.compressed_bytes + length + step)?;
            self.output.reserve_exact(step);
            let mut source = (&mut self.source).take(step as u64);
            let read = source.read_to_end(&mut self.output).map_err(|error| malformed(self.compression, &error))?;
            if self.output.len() > self.max_bytes {
                return Err(Failure::TooLarge { max_bytes: self.max_bytes, decompressed: true });
            }
            if read < step {
                return Ok(Progress::Done);
            }
        }
        Ok(Progress::More)
    }

    /// The message and what pays for it.
    pub(crate) fn into_parts(self) -> (Bytes, Reservation) {
        let Self { output, mut reservation, .. } = self;
        reservation.shrink(output.capacity());
        (Bytes::from(output), reservation)
    }
}

/// What is set aside at first for the result of decompressing this many bytes.
pub(crate) fn first_step(compressed_bytes: usize) -> usize {
    compressed_bytes.saturating_mul(EXPECTED_RATIO).clamp(MIN_FIRST_STEP, MAX_FIRST_STEP)
}

fn zstd_decoder(input: Cursor<Bytes>) -> io::Result<zstd::Decoder<'static, Cursor<Bytes>>> {
    let mut decoder = zstd::Decoder::with_buffer(input)?;
    decoder.window_log_max(ZSTD_WINDOW_LOG_MAX)?;
    Ok(decoder)
}

fn malformed(compression: Compression, error: &io::Error) -> Failure {
    Failure::malformed(format!("the body is not valid {}: {error}", compression.name()))
}

#[cfg(test)]
mod tests;
