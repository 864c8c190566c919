//! Sends export requests that are already encoded, as fast as the receiver takes them.
//!
//! The messages are not looked into, so the cost of the sender is that of gRPC alone. A request is sent again while
//! the receiver is unavailable, as OTLP asks of clients, so each is acknowledged at least once.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use bytes::{Buf as _, BufMut as _, Bytes};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceResponse;
use prost::Message as _;
use serde::Serialize;
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinSet;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};

const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// How long one request is tried.
const GIVE_UP_AFTER: Duration = Duration::from_secs(100);

/// What the requests carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// `ExportTraceServiceRequest`.
    Traces,
    /// `ExportMetricsServiceRequest`.
    Metrics,
    /// `ExportLogsServiceRequest`.
    Logs,
}

impl Signal {
    fn path(self) -> PathAndQuery {
        PathAndQuery::from_static(match self {
            Self::Traces => "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
            Self::Metrics => "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export",
            Self::Logs => "/opentelemetry.proto.collector.logs.v1.LogsService/Export",
        })
    }
}

/// What was sent and acknowledged.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct SendStats {
    /// Requests that the receiver acknowledged, each counted once.
    pub requests: u64,
    /// Their bytes as protobuf, before compression and framing.
    pub bytes: u64,
    /// How often a request had to be sent again.
    pub retries: u64,
    /// Records that the receiver rejected by partial success.
    pub rejected: u64,
    /// From the first request taken to the last reply.
    pub seconds: f64,
}

/// Sends all requests to `endpoint` (such as `http://127.0.0.1:4317`) with `concurrency` connections, each with one
/// request in flight. `requests` runs on a thread of its own, at most `concurrency` requests ahead. With a
/// concurrency of 1 the order is kept.
///
/// # Errors
/// An error of `requests`; a status other than UNAVAILABLE; UNAVAILABLE, or no connection, for 100 seconds.
pub async fn send_grpc<I>(endpoint: &str, signal: Signal, requests: I, concurrency: usize) -> Result<SendStats>
where
    I: IntoIterator<Item = Result<Bytes>> + Send + 'static,
{
    let concurrency = concurrency.max(1);
    let endpoint =
        Endpoint::from_shared(endpoint.to_owned()).with_context(|| format!("{endpoint}: not an endpoint"))?;
    let (sender, receiver) = mpsc::channel(concurrency);
    let feeder = tokio::task::spawn_blocking(move || {
        for request in requests {
            // The senders are gone when one of them failed.
            if sender.blocking_send(request?).is_err() {
                break;
            }
        }
        anyhow::Ok(())
    });
    let receiver = Arc::new(Mutex::new(receiver));
    let started = Instant::now();
    let mut senders = JoinSet::new();
    for _ in 0..concurrency {
        // Connects with the first request, and again whenever the connection is lost.
        senders.spawn(send_all(endpoint.connect_lazy(), signal, Arc::clone(&receiver)));
    }
    drop(receiver);
    let mut total = SendStats::default();
    while let Some(joined) = senders.join_next().await {
        let stats = joined??;
        total.requests += stats.requests;
        total.bytes += stats.bytes;
        total.retries += stats.retries;
        total.rejected += stats.rejected;
    }
    total.seconds = started.elapsed().as_secs_f64();
    feeder.await??;
    Ok(total)
}

async fn send_all(channel: Channel, signal: Signal, requests: Arc<Mutex<mpsc::Receiver<Bytes>>>) -> Result<SendStats> {
    let mut client = tonic::client::Grpc::new(channel);
    let mut stats = SendStats::default();
    loop {
        let next = requests.lock().await.recv().await;
        let Some(request) = next else { return Ok(stats) };
        stats.bytes += request.len() as u64;
        let first_try = Instant::now();
        let mut pause = FIRST_PAUSE;
        let reply = loop {
            let Err(status) =
                send_once(&mut client, signal, request.clone()).await.map(|reply| stats.rejected += reply)
            else {
                break Ok(());
            };
            if status.code() != Code::Unavailable || first_try.elapsed() > GIVE_UP_AFTER {
                break Err(status);
            }
            stats.retries += 1;
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        };
        reply.with_context(|| format!("{signal:?}: a request of {} bytes failed", request.len()))?;
        stats.requests += 1;
    }
}

/// Sends one request once, exactly these bytes, and returns how many records the receiver rejected.
///
/// # Errors
/// The receiver's status; UNAVAILABLE where there is no connection.
pub async fn send_once(
    client: &mut tonic::client::Grpc<Channel>,
    signal: Signal,
    request: Bytes,
) -> Result<u64, Status> {
    // A connection that cannot be had now may be had later.
    client.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
    let reply = client.unary(Request::new(request), signal.path(), RawCodec).await?.into_inner();
    // The replies of all three signals have the same fields with the same numbers.
    let reply = ExportTraceServiceResponse::decode(reply)
        .map_err(|error| Status::data_loss(format!("the reply is not an export response: {error}")))?;
    let rejected = reply.partial_success.map_or(0, |partial| partial.rejected_spans);
    u64::try_from(rejected).map_err(|_negative| Status::data_loss(format!("{rejected} records rejected")))
}

/// Passes messages through as bytes.
#[derive(Debug, Clone, Copy)]
struct RawCodec;

impl Codec for RawCodec {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for RawCodec {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, message: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(message);
        Ok(())
    }
}

impl Decoder for RawCodec {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(buffer.copy_to_bytes(buffer.remaining())))
    }
}

#[cfg(test)]
mod tests;
