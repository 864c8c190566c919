//! Passing acknowledged requests on to another OTLP endpoint.
//!
//! ```text
//! take ──▶ spool of its own (fsync) ──▶ a worker a signal ──▶ HTTP or gRPC
//!                                            │
//!                                            ├─ taken ──────▶ released
//!                                            ├─ refused ────▶ quarantine of the spool, counted
//!                                            └─ not now ────▶ tried again, for as long as it takes
//! ```
//!
//! A [`Forwarder`] promises that what [`Outlet::take`] made durable arrives at least once, across the death of the process,
//! oldest first, with its bytes as they came; and that an endpoint that is away, slow or hangs costs whoever stores nothing
//! but disk. Exact duplicates can arrive. It is a queue of its own with retries and a breaker for each signal of its own, and
//! knows neither the database nor what is in a request.
//!
//! # What is given up, and counted
//!
//! - A request that finds the spool full is not forwarded: storing goes on.
//! - A request that the endpoint refuses for good, as OTLP defines it, goes to the quarantine of the spool; so does one to
//!   which no answer comes again and again while others of its signal are taken. The quarantine takes at most half of the spool's bytes:
//!   beyond them refused requests are dropped.
//! - Records that the endpoint rejects within a request are counted; the rest was taken.
//!
//! 401, 403 and their like in gRPC say something of us and not of a request: nothing is given up, the breaker opens until
//! somebody mends it. This is the one place where more is tried again than OTLP asks for.

mod answer;
mod client;
mod counts;
mod endpoint;
mod worker;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use futures::FutureExt as _;
use futures::future::BoxFuture;
use oneiric_otel_spool::{AppendError, Recovered, Spool, SpoolError, SpoolOptions, SpoolStatus};
use tokio::sync::{Notify, Semaphore, oneshot};
use tokio_util::sync::CancellationToken;

pub use counts::ForwardCounts;
pub use endpoint::{Endpoint, EndpointError, Protocol};

use crate::otlp::{Encoding, Signal};
use crate::pipeline::breaker::Breaker;
use crate::pipeline::tag::Tag;
use crate::pipeline::{BreakerOptions, BreakerStatus, Outlet, Refused, Request};
use client::Client;
use counts::Counters;
use worker::Lane;

/// Bytes of requests that are on their way at a time; a larger one goes alone.
const MEMORY: u32 = 64 << 20;
/// The unit in which they are counted.
const MEMORY_UNIT: u32 = 1 << 10;

/// Where requests wait, and how the endpoint is treated.
#[derive(Debug, Clone)]
pub struct ForwardOptions {
    /// The directory of the spool; of this endpoint alone, since what waits for one must not end in another.
    pub dir: PathBuf,
    /// Bytes on disk for requests that wait.
    pub max_bytes: u64,
    /// How long a try may take, connecting included.
    pub timeout: Duration,
    /// Tries of a request after its first before the breaker hears of it.
    pub max_retries: u32,
    /// The pause before the first retry. It doubles, up to [`Self::longest_backoff`].
    pub retry_backoff: Duration,
    /// The longest pause that is not asked for by the endpoint.
    pub longest_backoff: Duration,
    /// When to leave the endpoint alone. Each signal has a breaker.
    pub breaker: BreakerOptions,
    /// Requests of a signal on their way at the same time. They begin oldest first.
    pub in_flight: usize,
}

impl ForwardOptions {
    /// 1 GiB; 10 s a try; 3 retries from 0.5 s to 5 s; a breaker that opens for 10 s.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            max_bytes: 1 << 30,
            timeout: Duration::from_secs(10),
            max_retries: 3,
            retry_backoff: Duration::from_millis(500),
            longest_backoff: Duration::from_secs(5),
            breaker: BreakerOptions { open_for: Duration::from_secs(10), ..BreakerOptions::default() },
            in_flight: 4,
        }
    }
}

/// Why nothing can be forwarded.
#[derive(Debug, thiserror::Error)]
pub enum ForwardError {
    /// The endpoint is not as it must be.
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
    /// The requests have no place to wait.
    #[error(transparent)]
    Spool(#[from] SpoolError),
}

/// Forwarding at one moment.
#[derive(Debug, Clone)]
pub struct ForwardStatus {
    /// Where to, as it was given.
    pub endpoint: String,
    /// What is spoken there.
    pub protocol: Protocol,
    /// What waits.
    pub spool: SpoolStatus,
    /// Since when requests are dropped because the spool takes none, and why.
    pub dropping: Option<(SystemTime, String)>,
    /// Each signal, in the order of [`Signal::ALL`].
    pub lanes: Vec<ForwardLane>,
}

/// Forwarding of a signal.
#[derive(Debug, Clone)]
pub struct ForwardLane {
    /// Which.
    pub signal: Signal,
    /// The breaker before the endpoint.
    pub breaker: BreakerStatus,
    /// What has passed since the start.
    pub counts: ForwardCounts,
}

/// Passes requests on. A clone is another handle to the same one.
#[derive(Debug, Clone)]
pub struct Forwarder {
    shared: Arc<Shared>,
}

/// What takers and workers share.
#[derive(Debug)]
struct Shared {
    options: ForwardOptions,
    endpoint: Endpoint,
    client: Arc<Client>,
    spool: Spool,
    lanes: [Lane; 3],
    /// In units of [`MEMORY_UNIT`].
    memory: Semaphore,
    /// Held by the one that reads a request, until there is memory for it.
    reading: tokio::sync::Mutex<()>,
    dropping: Mutex<Option<(SystemTime, String)>>,
}

impl Forwarder {
    /// Opens the queue before `endpoint`. Nothing is sent before [`Self::run`]. Blocks on the disk.
    ///
    /// # Errors
    /// [`ForwardError`] when the files that the endpoint names cannot be used, or the directory of the queue cannot.
    pub fn open(endpoint: Endpoint, options: ForwardOptions) -> Result<(Self, Recovered), ForwardError> {
        let client = Arc::new(Client::new(&endpoint)?);
        let lanes = Signal::ALL.map(Signal::as_str);
        let spool = SpoolOptions { max_bytes: options.max_bytes, ..SpoolOptions::new(&options.dir, lanes) };
        let (spool, recovered) = Spool::open(spool)?;
        let lane = |signal| Lane {
            signal,
            breaker: Breaker::new("the endpoint that requests are forwarded to", options.breaker),
            counters: Counters::default(),
            appended: Notify::new(),
            not_before: Mutex::new(None),
        };
        let shared = Shared {
            lanes: Signal::ALL.map(lane),
            options,
            endpoint,
            client,
            spool,
            memory: Semaphore::new((MEMORY / MEMORY_UNIT) as usize),
            reading: tokio::sync::Mutex::new(()),
            dropping: Mutex::new(None),
        };
        Ok((Self { shared: Arc::new(shared) }, recovered))
    }

    /// Where requests go.
    pub fn endpoint(&self) -> &Endpoint {
        &self.shared.endpoint
    }

    /// Takes a request over, for whoever can keep what is refused. Ready when it is durable.
    ///
    /// # Errors
    /// [`Refused`]; nothing of it is kept or counted then.
    pub async fn submit(&self, request: Request) -> Result<(), Refused> {
        let taken = Arc::clone(&self.shared).append(request, false).await;
        taken.map_err(|error| {
            let reason = error.to_string();
            match error {
                AppendError::TooLarge { .. } => Refused::Malformed { reason },
                _ => Refused::Unavailable { reason, retry_after: self.shared.options.retry_backoff },
            }
        })
    }

    /// Sends what waits and what comes, until told to stop, then closes the queue. What is left is sent by the next process.
    pub async fn run(self, stop: CancellationToken) {
        let lanes =
            self.shared.lanes.iter().map(|lane| worker::run(Arc::clone(&self.shared), lane.signal, stop.clone()));
        futures::future::join_all(lanes).await;
        let spool = self.shared.spool.clone();
        if let Err(error) = tokio::task::spawn_blocking(move || spool.close()).await {
            tracing::error!(%error, "the spool of forwarded requests was not closed");
        }
    }

    /// How things are.
    pub fn status(&self) -> ForwardStatus {
        let shared = &self.shared;
        let lane = |lane: &Lane| ForwardLane {
            signal: lane.signal,
            breaker: lane.breaker.status(),
            counts: lane.counters.counts(),
        };
        ForwardStatus {
            endpoint: shared.endpoint.to_string(),
            protocol: shared.endpoint.protocol(),
            spool: shared.spool.status(),
            dropping: shared.dropping.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            lanes: shared.lanes.iter().map(lane).collect(),
        }
    }
}

impl Outlet for Forwarder {
    fn take(&self, request: Request, own: bool) -> BoxFuture<'static, ()> {
        let shared = Arc::clone(&self.shared);
        async move { shared.take(request, own).await }.boxed()
    }
}

impl Shared {
    fn lane(&self, signal: Signal) -> &Lane {
        &self.lanes[signal as usize]
    }

    async fn take(self: Arc<Self>, request: Request, own: bool) {
        let signal = request.signal;
        match Arc::clone(&self).append(request, own).await {
            Ok(()) => self.note_dropping(None),
            Err(error) => {
                self.lane(signal).counters.dropped();
                self.note_dropping(Some(error.to_string()));
            }
        }
    }

    /// Waits until a request is durable.
    async fn append(self: Arc<Self>, request: Request, own: bool) -> Result<(), AppendError> {
        let Request { signal, encoding, body } = request;
        let tag = Tag { encoding, rejected: 0, own };
        let (sender, answer) = oneshot::channel();
        let taker = Arc::clone(&self);
        let durable = move |outcome: Result<_, AppendError>| {
            if outcome.is_ok() {
                taker.lane(signal).appended.notify_one();
            }
            // Whoever asked may have gone: the request is kept all the same.
            drop(sender.send(outcome.map(|_| ())));
        };
        match self.spool.append(signal as usize, tag.bits(), body, durable).await {
            Ok(()) => answer.await.unwrap_or(Err(AppendError::Closed)),
            refused => refused,
        }
    }

    fn note_dropping(&self, reason: Option<String>) {
        let mut dropping = self.dropping.lock().unwrap_or_else(PoisonError::into_inner);
        match (&*dropping, reason) {
            (None, Some(reason)) => {
                tracing::error!(%reason, "requests are stored, but not forwarded, until there is room for them");
                *dropping = Some((SystemTime::now(), reason));
            }
            (Some(_), None) => {
                tracing::info!("requests are forwarded again");
                *dropping = None;
            }
            (None, None) | (Some(_), Some(_)) => {}
        }
    }
}

/// What the spool keeps of a request, as a request again.
fn request_of(signal: Signal, entry: oneiric_otel_spool::Entry) -> Request {
    let encoding: Encoding = Tag::from_bits(entry.tag).encoding;
    Request { signal, encoding, body: entry.body }
}

#[cfg(test)]
mod tests;
