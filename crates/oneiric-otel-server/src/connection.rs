//! Accepts connections, agrees on TLS where that is asked for, and speaks HTTP/1.1 or HTTP/2 on them until told to stop. Knows nothing of what is served.

use std::convert::Infallible;
use std::error::Error as StdError;
use std::io::ErrorKind;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::crowd::{Crowd, Seat};
use crate::security::{Handshake, Security, shake_hands};

/// Answers requests. Cheap to clone.
pub(crate) trait Respond: Clone + Send + Sync + 'static {
    /// What it answers with.
    type Body: Body<Data = Bytes, Error: Into<Box<dyn StdError + Send + Sync>>> + Send + 'static;

    /// Answers `request`; errors are answers too.
    fn respond(&self, request: Request<Incoming>) -> impl Future<Output = Response<Self::Body>> + Send;

    /// Whether everybody may ask this.
    fn is_open(&self, request: &Request<Incoming>) -> bool {
        let _ = request;
        false
    }

    /// A refusal in words of its own, of somebody who may not ask for `path`.
    fn refuse(&self, path: &str, reason: &str) -> Option<Response<Self::Body>> {
        let (_, _) = (path, reason);
        None
    }
}

/// Requests of one HTTP/2 connection at a time.
const MAX_CONCURRENT_STREAMS: u32 = 256;

/// Bytes the sender of one HTTP/2 stream, and of one connection, may have under way before they are read. They are what
/// an unread request can cost, outside the budget of requests in flight, and so no more than that budget for as many
/// connections as are usual.
const WINDOW_BYTES: u32 = 128 << 10;

/// Bytes of the head of an HTTP/2 request.
const MAX_HEADER_LIST_BYTES: u32 = 64 << 10;

/// Bytes of an HTTP/1.1 connection's read buffer; bounds the head of a request.
const READ_BUFFER_BYTES: usize = 256 << 10;

/// How often a silent HTTP/2 peer is asked whether it lives, and how long it may think about it.
const PING_INTERVAL: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(20);

/// How long to wait before accepting again when the process has no file descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How long a connection may take to agree on TLS.
const HANDSHAKE_TIME: Duration = Duration::from_secs(10);

/// How long a connection that makes way for another may take to say so to its peer.
const FAREWELL_TIME: Duration = Duration::from_millis(100);

/// What connections of a listener have in common.
#[derive(Clone)]
pub(crate) struct Connections {
    /// A seat in it per open connection.
    pub(crate) crowd: Arc<Crowd>,
    /// Whether and how connections are encrypted.
    pub(crate) security: Arc<Security>,
    /// See [`crate::ServerOptions::idle_timeout`].
    pub(crate) idle_timeout: Duration,
    /// No new connections and requests from here on; those under way are finished.
    pub(crate) stop: CancellationToken,
    /// Connections still open are cut.
    pub(crate) cut: CancellationToken,
    /// The connections.
    pub(crate) tasks: TaskTracker,
}

impl Connections {
    /// Accepts connections until `stop`.
    pub(crate) async fn accept<R: Respond>(self, listener: TcpListener, responder: R) {
        loop {
            let accepted = tokio::select! {
                biased;
                () = self.stop.cancelled() => return,
                accepted = self.accept_one(&listener) => accepted,
            };
            match accepted {
                Ok((stream, seat)) => {
                    let connection = self.clone().serve(stream, responder.clone(), seat);
                    self.tasks.spawn(connection);
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// A connection beyond the limit waits here for its seat, and those after it in the kernel's queue. Seats are not
    /// taken ahead of connections: a listener that nobody talks to would keep one from the others.
    async fn accept_one(&self, listener: &TcpListener) -> std::io::Result<(TcpStream, Seat)> {
        let (stream, _) = listener.accept().await?;
        Ok((stream, self.crowd.enter().await))
    }

    async fn serve<R: Respond>(self, stream: TcpStream, responder: R, seat: Seat) {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "connection lost before its first byte");
            return;
        }
        match self.security.tls() {
            None => self.converse(stream, responder, seat).await,
            Some(config) => {
                let handshake =
                    tokio::time::timeout(HANDSHAKE_TIME.min(self.idle_timeout), shake_hands(stream, config));
                let outcome = tokio::select! {
                    outcome = handshake => outcome.unwrap_or_else(|_| Handshake::Failed(ErrorKind::TimedOut.into())),
                    // No request has begun.
                    () = self.stop.cancelled() => return,
                    () = seat.member().asked_to_leave() => return,
                };
                match outcome {
                    Handshake::Done(stream) => return self.converse(*stream, responder, seat).await,
                    Handshake::Plain => tracing::debug!("a client spoke without TLS where TLS is spoken"),
                    Handshake::Failed(error) => tracing::debug!(%error, "no agreement on TLS"),
                }
                self.security.refusals().count_handshake();
            }
        }
    }

    async fn converse<R, S>(self, stream: S, responder: R, seat: Seat)
    where
        R: Respond,
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let service = {
            let member = Arc::clone(seat.member());
            service_fn(move |request| {
                let busy = member.begin();
                let responder = responder.clone();
                async move {
                    let response = responder.respond(request).await;
                    drop(busy);
                    Ok::<_, Infallible>(response)
                }
            })
        };
        let member = seat.member();
        let builder = builder(self.idle_timeout);
        let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
        // Until a connection has told which version it speaks, no timeout of the protocol applies to it.
        let mut silence = pin!(tokio::time::sleep(self.idle_timeout));
        let mut silence_over = false;
        let mut closing = false;
        let mut farewell = pin!(tokio::time::sleep(FAREWELL_TIME));
        let mut leaving = false;
        let mut farewell_over = false;
        loop {
            tokio::select! {
                outcome = connection.as_mut() => {
                    if let Err(error) = outcome {
                        tracing::debug!(error = &*error, "connection ended");
                    }
                    return;
                }
                () = self.cut.cancelled() => return,
                () = self.stop.cancelled(), if !closing => {
                    closing = true;
                    connection.as_mut().graceful_shutdown();
                }
                () = silence.as_mut(), if !silence_over => {
                    if !member.has_spoken() {
                        return;
                    }
                    silence_over = true;
                }
                () = member.asked_to_leave(), if !leaving => {
                    tracing::debug!("connection closed in favour of a new one");
                    if !member.has_spoken() {
                        return;
                    }
                    leaving = true;
                    connection.as_mut().graceful_shutdown();
                    farewell.as_mut().reset(Instant::now() + FAREWELL_TIME);
                }
                () = farewell.as_mut(), if leaving && !farewell_over => {
                    if member.is_idle() {
                        return;
                    }
                    farewell_over = true;
                }
            }
        }
    }
}

fn builder(idle_timeout: Duration) -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(idle_timeout)
        .max_buf_size(READ_BUFFER_BYTES)
        // A sender may close its half once it has written: it still reads the answer.
        .half_close(true);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_CONCURRENT_STREAMS)
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES)
        .max_header_list_size(MAX_HEADER_LIST_BYTES)
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT);
    builder
}
