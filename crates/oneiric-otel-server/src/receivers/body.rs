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

/// How much of the budget a request takes at first on the strength of what it says about itself. A larger one earns
/// the rest by sending, so that a few idle senders cannot take it all.
const STEP: usize = 8 << 20;

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
    /// For all of them.
    pub(crate) admission: Arc<Admission>,
    /// One permit per body being decompressed off the serving threads.
    pub(crate) inflating: Semaphore,
}

/// A body being read.
pub(crate) struct BodyReader<'a, B> {
    incoming: &'a mut B,
    limits: &'a BodyLimits,
    buffer: BytesMut,
    reservation: Reservation,
    /// Bytes that the body may have.
    max: usize,
    compression: Compression,
    deadline: Instant,
    finished: bool,
}

impl<'a, B> BodyReader<'a, B>
where
    B: Body<Data = Bytes, Error: Into<Box<dyn StdError + Send + Sync>>> + Unpin,
{
    /// `framing` bytes around the message do not count against the limit.
    pub(crate) fn new(incoming: &'a mut B, limits: &'a BodyLimits, compression: Compression, framing: usize) -> Self {
        Self {
            incoming,
            limits,
            buffer: BytesMut::new(),
            reservation: limits.admission.reserve(),
            max: limits.max_bytes.saturating_add(framing),
            compression,
            deadline: Instant::now() + limits.timeout,
            finished: false,
        }
    }

    /// Takes the sender's word on how many bytes the body has.
    pub(crate) async fn expect(&mut self, bytes: u64) -> Result<(), Failure> {
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
        if bytes > self.max {
            return Err(self.too_large());
        }
        self.prepare(bytes).await
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
        let frame = match tokio::time::timeout_at(self.deadline, self.incoming.frame()).await {
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
        if length > self.buffer.capacity() {
            self.prepare(length.max(self.buffer.capacity().saturating_mul(2)).min(self.max)).await?;
        }
        self.buffer.extend_from_slice(&data);
        Ok(())
    }

    /// Makes room for `bytes` in the budget and in memory, or for the next step towards them.
    async fn prepare(&mut self, bytes: usize) -> Result<(), Failure> {
        let bytes = bytes.min(self.buffer.len() + STEP);
        let budget = match self.compression {
            Compression::Identity => bytes,
            _ => bytes + first_step(bytes).min(self.limits.max_bytes + 1),
        };
        let granted = tokio::time::timeout_at(self.deadline, self.reservation.cover(budget)).await;
        granted.map_err(|_| Failure::BodyTimeout { after: self.limits.timeout, received: self.buffer.len() })??;
        self.buffer.reserve(bytes.saturating_sub(self.buffer.len()));
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
