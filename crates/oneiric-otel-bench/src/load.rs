//! Sends the standard set as fast as a server takes it.
//!
//! `oneiric-otel bench ingest` runs it as a process of its own, so that its cost is not the server's. Requests are made
//! before the clock starts, as far as memory goes.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
pub use oneiric_otel_testkit::send::Signal;
use oneiric_otel_testkit::send::send_once;
use serde::{Deserialize, Serialize};
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinSet;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::latency::{Latencies, Quantiles};
use crate::standard;

/// Bytes of requests that are made before they are sent, at most.
const AHEAD_BYTES: u64 = 1 << 30;
/// Bytes of a span of the standard set, about.
const SPAN_BYTES: u64 = 500;
/// How long a sender waits after a refusal that does not say for how long.
const PAUSE: Duration = Duration::from_millis(20);
/// How long it waits at most, whatever is said.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// How long one request is tried.
const GIVE_UP_AFTER: Duration = Duration::from_mins(2);

/// What is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Load {
    /// When the set begins, in nanoseconds since 1970.
    pub start: u64,
    /// The number of the first trace. Two loads are different where their traces are.
    pub first_trace: u64,
    /// Spans in all, a multiple of `spans_per_request`.
    pub spans: u64,
    /// Spans in a request, a multiple of 10.
    pub spans_per_request: u64,
    /// Connections, each with one request in flight.
    pub connections: usize,
}

/// What was acknowledged.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Sent {
    /// Requests.
    pub requests: u64,
    /// Their bytes as protobuf.
    pub bytes: u64,
    /// From the first request to the last acknowledgement.
    pub seconds: f64,
    /// From the start of a request until it was acknowledged, refusals included.
    pub latency: Quantiles,
    /// Deliveries that were refused and sent again.
    pub refused: u64,
}

impl Load {
    /// Checks that the numbers fit together.
    ///
    /// # Errors
    /// Says which does not, and what is accepted.
    pub fn check(&self) -> Result<()> {
        let Self { spans, spans_per_request, .. } = *self;
        if spans_per_request == 0 || !spans_per_request.is_multiple_of(standard::SPANS_PER_TRACE) {
            bail!(
                "spans of a request: expected a multiple of {}, found {spans_per_request}",
                standard::SPANS_PER_TRACE
            );
        }
        if spans == 0 || !spans.is_multiple_of(spans_per_request) {
            bail!("spans: expected a multiple of the spans of a request ({spans_per_request}), found {spans}");
        }
        Ok(())
    }

    /// How many requests it is.
    pub fn requests(&self) -> u64 {
        self.spans / self.spans_per_request
    }

    fn request(&self, number: u64) -> Bytes {
        let traces = self.spans_per_request / standard::SPANS_PER_TRACE;
        let first = self.first_trace + number * traces;
        standard::request(self.start, first..first + traces).into()
    }
}

/// Makes requests, waits until `go`, and sends them.
///
/// # Errors
/// If the server rejects anything, or refuses a request for minutes.
pub async fn run(server: SocketAddr, load: Load, go: impl Future<Output = Result<()>>) -> Result<Sent> {
    load.check()?;
    let ahead = (AHEAD_BYTES / (load.spans_per_request * SPAN_BYTES)).clamp(1, load.requests());
    let (sender, queued) = mpsc::channel(usize::try_from(ahead)?);
    let making = tokio::task::spawn_blocking(move || {
        for number in 0..load.requests() {
            // The senders are gone when one of them failed.
            if sender.blocking_send(load.request(number)).is_err() {
                break;
            }
        }
    });
    while (queued.len() as u64) < ahead {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    go.await?;
    let sent = send(server, Signal::Traces, queued, load.connections).await?;
    making.await?;
    Ok(sent)
}

/// Sends what is queued, which is all of one signal, on so many connections.
///
/// # Errors
/// If the server rejects anything, or refuses a request for minutes.
pub async fn send(
    server: SocketAddr,
    signal: Signal,
    queued: mpsc::Receiver<Bytes>,
    connections: usize,
) -> Result<Sent> {
    let endpoint = Endpoint::from_shared(format!("http://{server}"))?;
    let queued = Arc::new(Mutex::new(queued));
    let began = Instant::now();
    let mut senders = JoinSet::new();
    for _ in 0..connections.max(1) {
        senders.spawn(send_in_turn(endpoint.connect_lazy(), signal, Arc::clone(&queued)));
    }
    let (mut latencies, mut requests, mut bytes, mut refused) = (Latencies::default(), 0, 0, 0);
    while let Some(joined) = senders.join_next().await {
        let part = joined??;
        latencies.append(&part.latencies);
        requests += part.requests;
        bytes += part.bytes;
        refused += part.refused;
    }
    let seconds = began.elapsed().as_secs_f64();
    Ok(Sent { requests, bytes, seconds, latency: latencies.quantiles(), refused })
}

#[derive(Default)]
struct Part {
    latencies: Latencies,
    requests: u64,
    bytes: u64,
    refused: u64,
}

async fn send_in_turn(channel: Channel, signal: Signal, queued: Arc<Mutex<mpsc::Receiver<Bytes>>>) -> Result<Part> {
    let mut client = tonic::client::Grpc::new(channel);
    let mut part = Part::default();
    loop {
        let next = queued.lock().await.recv().await;
        let Some(request) = next else { return Ok(part) };
        let began = Instant::now();
        part.refused += deliver(&mut client, signal, &request).await?;
        part.latencies.add(began.elapsed());
        part.requests += 1;
        part.bytes += request.len() as u64;
    }
}

/// Sends a request until it is acknowledged, and returns how often it was refused before.
///
/// # Errors
/// If the server rejects a record, or refuses the request for minutes.
pub(crate) async fn deliver(client: &mut tonic::client::Grpc<Channel>, signal: Signal, request: &Bytes) -> Result<u64> {
    let (began, mut refused) = (Instant::now(), 0);
    loop {
        match send_once(client, signal, request.clone()).await {
            Ok(0) => return Ok(refused),
            Ok(rejected) => bail!("{rejected} records were rejected"),
            Err(status) if status.code() == Code::Unavailable && began.elapsed() < GIVE_UP_AFTER => {
                refused += 1;
                tokio::time::sleep(pause_after(&status)).await;
            }
            Err(status) => return Err(status).context("a request was refused"),
        }
    }
}

/// As long as the server asks for, which is what exporters do: sending a request again at once costs both sides its bytes.
fn pause_after(refusal: &Status) -> Duration {
    let asked = refusal.get_details_retry_info().and_then(|info| info.retry_delay);
    asked.unwrap_or(PAUSE).min(LONGEST_PAUSE)
}
