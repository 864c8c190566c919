//! Answers: JSON, with what a client may do with it later.

use axum::BoxError;
use axum::body::{Body, Bytes};
use axum::response::{IntoResponse, Response};
use futures::{Stream, StreamExt as _, TryStreamExt as _};
use http::{HeaderValue, StatusCode, header};
use jiff::{SignedDuration, Timestamp};
use oneiric_otel::query::QueryError;
use serde::Serialize;

use crate::problem::{Problem, ProblemType};

/// How long after its end a time still changes: what is late has come by then.
const SETTLED_AFTER: SignedDuration = SignedDuration::from_mins(10);

/// A value as JSON. The client may keep it, but has to ask whether it is still so: `ETag` makes that cheap.
#[derive(Debug)]
pub(crate) struct Answer<T> {
    value: T,
    settled: bool,
}

impl<T> Answer<T> {
    /// An answer that may be another a moment later.
    pub(crate) fn now(value: T) -> Self {
        Self { value, settled: false }
    }

    /// An answer about a time with this end. If that was long ago, it may be kept for some minutes without asking.
    pub(crate) fn until(end: Option<Timestamp>, value: T) -> Self {
        Self { value, settled: end.is_some_and(|end| Timestamp::now().duration_since(end) > SETTLED_AFTER) }
    }
}

impl<T: Serialize> IntoResponse for Answer<T> {
    fn into_response(self) -> Response {
        let keep = if self.settled { "private, max-age=300" } else { "private, no-cache" };
        match serde_json::to_vec(&self.value) {
            Ok(body) => page(body, HeaderValue::from_static(keep)),
            Err(error) => {
                tracing::error!(%error, "an answer has no JSON form");
                Problem::new(ProblemType::Internal, "the answer has no JSON form").into_response()
            }
        }
    }
}

/// An object as JSON whose last field is a list that is written as it is read, however long it is: `head` are the other
/// fields. What fails on the way breaks the answer off, which the client sees.
pub(crate) fn stream<T, S>(head: &impl Serialize, list: &'static str, items: S) -> Response
where
    T: Serialize,
    S: Stream<Item = Result<T, QueryError>> + Send + 'static,
{
    let Ok(mut begin) = serde_json::to_vec(head) else {
        return Problem::new(ProblemType::Internal, "the answer has no JSON form").into_response();
    };
    // The brace at its end.
    begin.pop();
    if begin.len() > 1 {
        begin.push(b',');
    }
    begin.extend_from_slice(format!("\"{list}\":[").as_bytes());
    let pieces = items.try_ready_chunks(STREAMED_AT_ONCE).map_err(|error| error.1).enumerate().map(|(place, items)| {
        let mut piece = Vec::new();
        for (within, item) in
            items.inspect_err(|error| tracing::warn!(%error, "an answer breaks off"))?.iter().enumerate()
        {
            if place + within > 0 {
                piece.push(b',');
            }
            serde_json::to_writer(&mut piece, item)?;
        }
        Ok::<_, BoxError>(piece)
    });
    let whole = once(begin).chain(pieces).chain(once(b"]}".to_vec()));
    let body = Body::from_stream(whole.map_ok(Bytes::from));
    let headers = [(header::CONTENT_TYPE, "application/json"), (header::CACHE_CONTROL, "private, no-cache")];
    (StatusCode::OK, headers, body).into_response()
}

/// Items of a list that are written in one piece, if they are there.
const STREAMED_AT_ONCE: usize = 256;

fn once(piece: Vec<u8>) -> impl Stream<Item = Result<Vec<u8>, BoxError>> {
    futures::stream::once(std::future::ready(Ok(piece)))
}

/// JSON that stands, with a tag that changes with it.
pub(crate) fn page(body: Vec<u8>, keep: HeaderValue) -> Response {
    let hash = blake3::hash(&body);
    // Weak, since what is compressed has the same.
    let tag = HeaderValue::try_from(format!("W/\"{}\"", hex::encode(&hash.as_bytes()[..12])));
    let mut response = (StatusCode::OK, [(header::CONTENT_TYPE, "application/json")], body).into_response();
    response.headers_mut().insert(header::CACHE_CONTROL, keep);
    if let Ok(tag) = tag {
        response.headers_mut().insert(header::ETAG, tag);
    }
    response
}
