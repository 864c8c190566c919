//! Reads the body of a request: within a size, within a time, within the budget, and decompressed.

use std::error::Error as StdError;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use hyper::body::Body;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::admission::{Admission, Reservation};
use super::compression::{Compression, Inflater, Progress, first_step};
use super::status::Failure;

/// What is set aside when the first bytes of a body arrive. From there on it doubles: whatever a sender says about the
/// length of its body, it holds little more of the budget than twice what it has sent.
const FIRST_ROOM: usize = 4 << 10;

/// What is decompressed on the thread that serves connections; a larger body moves to another.
const INLINE_BYTES: usize = 128 << 10;

/// How long the rest of a body that nobody wants is read, so that its sender gets to read the answer.
const DISCARD_TIME: Duration = Duration::from_secs(10);

/// Limits for bodies, shared by all requests.
#[derive(Debug)]
pub(crate) struct BodyLimits {
    /// Bytes of a message, as sent and decompressed.
    pub(crate) max_bytes: usize,
    /// For one body to arrive.
    pub(crate) timeout: Duration,
    /// At which one body arrives.
    pub(crate) pace: Pace,
    /// For all of them.
    pub(crate) admission: Arc<Admission>,
    /// One permit per body being decompressed off the serving threads.
    pub(crate) inflating: Semaphore,
}

/// So many bytes at least, or the end of the body, in any such time.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace {
    pub(crate) bytes: usize,
    pub(crate) window: Duration,
}

/// A body being read.
pub(crate) struct BodyReader<'a, B> {
    incoming: &'a mut B,
    limits: &'a BodyLimits,
    buffer: BytesMut,
    /// Bytes that have been set aside for `buffer`.
    room: usize,
    reservation: Reservation,
    /// Bytes that the body may have.
    max: usize,
    /// Bytes that the body is said to have, or may have.
    expected: usize,
    compression: Compression,
    deadline: Instant,
    /// By when there must be `due_bytes`.
    due: Instant,
    due_bytes: usize,
    finished: bool,
}

impl<'a, B> BodyReader<'a, B>
where
    B: Body<Data = Bytes, Error: Into<Box<dyn StdError + Send + Sync>>> + Unpin,
{
    /// `framing` bytes around the message do not count against the limit.
    pub(crate) fn new(incoming: &'a mut B, limits: &'a BodyLimits, compression: Compression, framing: usize) -> Self {
        let max = limits.max_bytes.saturating_add(framing);
        let now = Instant::now();
        Self {
            incoming,
            limits,
            buffer: BytesMut::new(),
            room: 0,
            reservation: limits.admission.reserve(),
            max,
            expected: max,
            compression,
            deadline: now + limits.timeout,
            due: now + limits.pace.window,
            due_bytes: limits.pace.bytes,
            finished: false,
        }
    }

    /// Takes the sender's word on how many bytes the body has: to refuse it early, and to set aside no more than that.
    pub(crate) fn expect(&mut self, bytes: u64) -> Result<(), Failure> {
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
        if bytes > self.max {
            return Err(self.too_large());
        }
        self.expected = bytes;
        Ok(())
    }

    /// Reads until there are at least `bytes`, or all there are, and shows what there is.
    pub(crate) async fn fill(&mut self, bytes: usize) -> Result<&[u8], Failure> {
        while self.buffer.len() < bytes && !self.finished {
            self.read_frame().await?;
        }
        Ok(&self.buffer)
    }

    /// Reads the rest.
    pub(crate) async fn finish(mut self) -> Result<(Bytes, Reservation), Failure> {
        while !self.finished {
            self.read_frame().await?;
        }
        Ok((self.buffer.freeze(), self.reservation))
    }

    async fn read_frame(&mut self) -> Result<(), Failure> {
        let frame = match tokio::time::timeout_at(self.deadline.min(self.due), self.incoming.frame()).await {
            Err(_) if self.due < self.deadline => {
                let Pace { bytes: least, window: within } = self.limits.pace;
                return Err(Failure::BodyTooSlow { least, within, received: self.buffer.len() });
            }
            Err(_) => {
                return Err(Failure::BodyTimeout { after: self.limits.timeout, received: self.buffer.len() });
            }
            Ok(None) => {
                self.finished = true;
                return Ok(());
            }
            Ok(Some(Err(error))) => {
                let error: Box<dyn StdError + Send + Sync> = error.into();
                return Err(Failure::malformed(format!("the body ends before it is complete: {error}")));
            }
            Ok(Some(Ok(frame))) => frame,
        };
        let Ok(data) = frame.into_data() else { return Ok(()) };
        let length = self.buffer.len() + data.len();
        if length > self.max {
            return Err(self.too_large());
        }
        if length > self.room {
            self.make_room(length).await?;
        }
        self.buffer.extend_from_slice(&data);
        if length >= self.due_bytes {
            self.due = Instant::now() + self.limits.pace.window;
            self.due_bytes = length + self.limits.pace.bytes;
        }
        Ok(())
    }

    /// Makes room for `length` bytes and some more, in the budget and in memory.
    async fn make_room(&mut self, length: usize) -> Result<(), Failure> {
        let room = self.room.saturating_mul(2).max(FIRST_ROOM).min(self.expected).max(length);
        let budget = match self.compression {
            Compression::Identity => room,
            _ => room + first_step(room).min(self.limits.max_bytes + 1),
        };
        let since = Instant::now();
        let granted = tokio::time::timeout_at(self.deadline, self.reservation.cover(budget)).await;
        granted.map_err(|_| Failure::BodyTimeout { after: self.limits.timeout, received: self.buffer.len() })??;
        // Waiting for others is not the fault of the sender.
        self.due += since.elapsed();
        self.buffer.reserve(room - self.buffer.len());
        self.room = room;
        Ok(())
    }

    fn too_large(&self) -> Failure {
        Failure::TooLarge { max_bytes: self.limits.max_bytes, decompressed: false }
    }
}

/// Decompresses `body`, which `reservation` pays for; afterwards it pays for the result.
pub(crate) async fn decompress(
    body: Bytes,
    compression: Compression,
    mut reservation: Reservation,
    limits: &BodyLimits,
) -> Result<(Bytes, Reservation), Failure> {
    // No sender compresses nothing, but some label nothing as compressed.
    if matches!(compression, Compression::Identity) || body.is_empty() {
        reservation.shrink(body.len());
        return Ok((body, reservation));
    }
    let mut inflater = Inflater::new(body, compression, limits.max_bytes, reservation)?;
    if let Progress::More = inflater.advance(INLINE_BYTES)? {
        let Ok(_permit) = limits.inflating.acquire().await else { return Err(Failure::Internal) };
        inflater = tokio::task::spawn_blocking(move || inflater.advance(usize::MAX).map(|_| inflater)).await.map_err(
            |error| {
                tracing::error!(%error, "decompressing a request failed");
                Failure::Internal
            },
        )??;
    }
    Ok(inflater.into_parts())
}

/// Reads on what is left of a body and throws it away, within bounds. A sender that is still writing when its
/// connection is closed does not get to see the answer.
pub(crate) async fn discard<B: Body<Data = Bytes> + Unpin>(mut incoming: B, max_bytes: usize) {
    let mut left = max_bytes;
    let reading = async {
        while let Some(Ok(frame)) = incoming.frame().await {
            let length = frame.data_ref().map_or(0, Bytes::len);
            match left.checked_sub(length) {
                Some(rest) => left = rest,
                None => return,
            }
        }
    };
    if tokio::time::timeout(DISCARD_TIME, reading).await.is_err() {
        tracing::debug!("the sender of a refused request did not stop sending");
    }
}

#[cfg(test)]
mod tests;
