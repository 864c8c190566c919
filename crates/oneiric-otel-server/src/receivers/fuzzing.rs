//! What fuzz targets see of the receivers: from the bytes on the wire to the message.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use hyper::body::{Body, Frame, SizeHint};
use tokio::sync::Semaphore;

use super::admission::Admission;
use super::body::{BodyLimits, Pace};
use super::compression::{Compression, Inflater, Progress};
use super::status::Failure;
use super::{grpc, http as otlp_http};

/// A message, or what its sender is told.
pub type Outcome = Result<Bytes, String>;

/// Decompresses `compressed` by the coding of this name to at most `max_bytes`, `step` bytes at a time, with a budget
/// of `budget` bytes.
///
/// # Panics
/// When the result, or the memory set aside for it, is beyond `max_bytes` or the budget.
pub fn inflate(coding: &str, compressed: Bytes, max_bytes: usize, budget: usize, step: usize) -> Outcome {
    let compression = Compression::from_name(coding).ok_or("no such coding")?;
    let inflate = || {
        let reservation = Admission::new(budget, Duration::ZERO).reserve();
        let mut inflater = Inflater::new(compressed, compression, max_bytes, reservation)?;
        let mut until = step;
        while inflater.advance(until)? == Progress::More {
            until = until.saturating_add(step);
        }
        Ok(inflater.into_parts().0)
    };
    let outcome: Result<Bytes, Failure> = inflate();
    if let Ok(message) = &outcome {
        assert!(message.len() <= max_bytes.min(budget), "{} bytes of {max_bytes}", message.len());
    }
    outcome.map_err(|failure| failure.to_string())
}

/// Reads the message of a gRPC call whose body comes in these pieces.
pub async fn grpc_message(coding: &str, pieces: Vec<Bytes>, limits: &Limits) -> Outcome {
    let (headers, mut body) = request("grpc-encoding", coding, pieces, false);
    outcome(grpc::read_message(&headers, &mut body, &limits.0).await)
}

/// Reads the body of an HTTP request that comes in these pieces, with its length told before or not.
pub async fn http_message(coding: &str, pieces: Vec<Bytes>, is_length_known: bool, limits: &Limits) -> Outcome {
    let (headers, mut body) = request("content-encoding", coding, pieces, is_length_known);
    outcome(otlp_http::read_body(&headers, &mut body, &limits.0).await)
}

/// Limits for [`grpc_message`] and [`http_message`].
pub struct Limits(BodyLimits);

impl Limits {
    /// At most `max_bytes` a message and `budget` bytes in flight.
    pub fn new(max_bytes: usize, budget: usize) -> Self {
        Self(BodyLimits {
            max_bytes,
            timeout: Duration::from_mins(1),
            pace: Pace { bytes: 1, window: Duration::from_mins(1) },
            admission: Admission::new(budget, Duration::ZERO),
            inflating: Semaphore::new(1),
        })
    }
}

fn outcome<T>(read: Result<(Bytes, T), Failure>) -> Outcome {
    read.map(|(message, _)| message).map_err(|failure| failure.to_string())
}

fn request(name: &'static str, coding: &str, pieces: Vec<Bytes>, is_length_known: bool) -> (HeaderMap, Pieces) {
    let mut headers = HeaderMap::new();
    if let Ok(coding) = HeaderValue::from_str(coding) {
        headers.insert(HeaderName::from_static(name), coding);
    }
    (headers, Pieces { left: pieces.into(), is_length_known })
}

/// A body that is there.
struct Pieces {
    left: VecDeque<Bytes>,
    is_length_known: bool,
}

impl Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        Poll::Ready(self.left.pop_front().map(|piece| Ok(Frame::data(piece))))
    }

    fn size_hint(&self) -> SizeHint {
        if !self.is_length_known {
            return SizeHint::default();
        }
        SizeHint::with_exact(self.left.iter().map(|piece| piece.len() as u64).sum())
    }
}
