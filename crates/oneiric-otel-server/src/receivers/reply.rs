//! The body of a response: one piece of data, and trailers where the protocol wants them.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::HeaderMap;
use hyper::body::{Body, Frame, SizeHint};

/// A body that is all there.
#[derive(Debug, Default)]
pub(crate) struct Reply {
    data: Option<Bytes>,
    trailers: Option<HeaderMap>,
}

impl Reply {
    /// `data`, then `trailers`.
    pub(super) fn new(data: impl Into<Bytes>, trailers: Option<HeaderMap>) -> Self {
        let data = Some(data.into()).filter(|data| !data.is_empty());
        Self { data, trailers }
    }
}

impl From<Reply> for axum::body::Body {
    fn from(reply: Reply) -> Self {
        Self::new(reply)
    }
}

impl Body for Reply {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let reply = self.get_mut();
        let frame = match reply.data.take() {
            Some(data) => Some(Frame::data(data)),
            None => reply.trailers.take().map(Frame::trailers),
        };
        Poll::Ready(frame.map(Ok))
    }

    fn is_end_stream(&self) -> bool {
        self.data.is_none() && self.trailers.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.data.as_ref().map_or(0, |data| data.len() as u64))
    }
}
