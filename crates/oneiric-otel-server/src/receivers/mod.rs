//! OTLP receivers: gRPC and HTTP on any listener, told apart by content type.
//!
//! A receiver reads a request within its limits, hands the bytes of its message over undecoded and answers in the
//! protocol and encoding of the request. What is acknowledged is what [`Ingest::submit`] promised, no more.

mod admission;
mod body;
mod compression;
#[cfg(fuzzing)]
pub mod fuzzing;
mod grpc;
mod http;
mod reply;
mod spans;
mod status;

use std::sync::Arc;
use std::time::Duration;

use ::http::{HeaderValue, header};
use bytes::Bytes;
use hyper::body::{Body as _, Incoming};
use hyper::{Request as HttpRequest, Response};
use oneiric_otel::otlp::{Encoding, Signal};
use oneiric_otel::pipeline::{Accepted, Ingest, Request};
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;
use tracing::Instrument as _;

use self::admission::{Admission, Reservation};
use self::body::{BodyLimits, Pace};
pub(crate) use self::reply::Reply;
use self::status::Failure;
use crate::ServerOptions;
use crate::connection::Respond;

/// A body keeps up at least this pace, so that what has arrived of one that will not be finished is not held for long.
const MIN_PACE_BYTES: usize = 64 << 10;
const PACE_WINDOW: Duration = Duration::from_secs(10);

/// Answers OTLP requests of both protocols. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Receiver {
    ingest: Ingest,
    limits: Arc<BodyLimits>,
    tasks: TaskTracker,
}

impl Receiver {
    /// Work that outlives its request runs in `tasks`.
    pub(crate) fn new(options: &ServerOptions, ingest: Ingest, tasks: TaskTracker) -> Self {
        let cores = std::thread::available_parallelism().map_or(2, usize::from);
        let limits = BodyLimits {
            max_bytes: options.max_request_bytes,
            timeout: options.body_timeout,
            pace: Pace { bytes: MIN_PACE_BYTES, window: PACE_WINDOW },
            admission: Admission::new(options.max_in_flight_bytes, options.admission_wait),
            inflating: Semaphore::new(cores),
        };
        Self { ingest, limits: Arc::new(limits), tasks }
    }

    /// Stores a message. Once begun this is finished even if the sender goes away: it will send the same again, and
    /// under load an unfinished write for every impatient sender would leave no time for any write to finish.
    async fn submit(
        &self,
        signal: Signal,
        encoding: Encoding,
        body: Bytes,
        reservation: Reservation,
    ) -> Result<Accepted, Failure> {
        let ingest = self.ingest.clone();
        let task = async move {
            let outcome = ingest.submit(Request { signal, encoding, body }).await;
            drop(reservation);
            outcome
        };
        let task = self.tasks.spawn(task.in_current_span());
        match task.await {
            Ok(outcome) => Ok(outcome?),
            Err(error) => {
                tracing::error!(%error, "storing a request failed");
                Err(Failure::Internal)
            }
        }
    }
}

/// Answers a request that shows no token, or `has_token` but none that is known. Of its body at most `max_bytes` are
/// read, and thrown away.
pub(crate) fn refuse_stranger(
    request: HttpRequest<Incoming>,
    has_token: bool,
    max_bytes: usize,
    tasks: &TaskTracker,
) -> Response<Reply> {
    let (head, incoming) = request.into_parts();
    let failure = Failure::Unauthenticated { has_token };
    let content_type = head.headers.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes);
    let response = if content_type.is_some_and(grpc::is_grpc) {
        grpc::refuse(&head, &failure)
    } else {
        http::refuse(&head, &failure)
    };
    if !incoming.is_end_stream() {
        tasks.spawn(body::discard(incoming, max_bytes));
    }
    response
}

impl Respond for Receiver {
    type Body = Reply;

    async fn respond(&self, request: HttpRequest<Incoming>) -> Response<Reply> {
        let (head, mut incoming) = request.into_parts();
        let content_type = head.headers.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes);
        let response = if content_type.is_some_and(grpc::is_grpc) {
            grpc::respond(self, &head, &mut incoming).await
        } else {
            http::respond(self, &head, &mut incoming).await
        };
        if !incoming.is_end_stream() {
            self.tasks.spawn(body::discard(incoming, self.limits.max_bytes));
        }
        response
    }
}
