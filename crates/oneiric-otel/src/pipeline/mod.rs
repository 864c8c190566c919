//! From a request's bytes to a promise: the one entry for every receiver.
//!
//! ```text
//! submit ── decode, check, hash ── ids of resources, scopes, series ── rows ──▶ queue ──▶ writers ──▶ one transaction
//!    ▲                                                                                                    │
//!    └────────────────────────────────── Accepted, once it is committed ◀─────────────────────────────────┘
//! ```
//!
//! The queue is bounded, and a request waits in [`Ingest::submit`] until its records are durable. Nothing here knows a
//! protocol, and nothing waits for derivation or embedding.

mod check;
mod prepare;
mod report;
mod writer;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio_util::task::TaskTracker;

pub use check::Limits;
pub use report::{IngestCounters, IngestCounts};

use crate::otlp::{Encoding, Signal};
use crate::store::{Database, Store};
use prepare::Prepared;

/// An OTLP export request as a receiver hands it over: decompressed, within the size limit, not yet decoded.
#[derive(Debug, Clone)]
pub struct Request {
    /// What it carries.
    pub signal: Signal,
    /// How it is written.
    pub encoding: Encoding,
    /// The `Export*ServiceRequest` message.
    pub body: Bytes,
}

/// The promise given for a request: what it accepts is stored.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Accepted {
    /// Records stored, now or by an earlier delivery of the same request.
    pub records: u64,
    /// Records that can never be stored and were rejected. The sender must not send them again.
    pub rejected: u64,
    /// Why records were rejected, or a warning. Empty when there is nothing to say.
    pub message: String,
}

/// Why a request was refused whole. Nothing of it is stored.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It can never be accepted as it is.
    #[error("{reason}")]
    Malformed {
        /// What is wrong and what is accepted.
        reason: String,
    },
    /// It could not be stored now. Sending it again later is safe and useful.
    #[error("{reason}")]
    Unavailable {
        /// What is in the way.
        reason: String,
        /// When to try again.
        retry_after: Duration,
    },
}

/// How the write path works.
#[derive(Debug, Clone)]
pub struct IngestOptions {
    /// Connections that write at the same time.
    pub writers: usize,
    /// Rows that a transaction gathers at most before it is written. A larger request is written whole.
    pub batch_rows: usize,
    /// Requests that wait for a writer at most.
    pub queued_requests: usize,
    /// Retries of a transaction after its first try, for transient errors.
    pub max_retries: u32,
    /// What a record may be.
    pub limits: Limits,
}

impl Default for IngestOptions {
    fn default() -> Self {
        Self { writers: 4, batch_rows: 5000, queued_requests: 64, max_retries: 3, limits: Limits::default() }
    }
}

/// The write path. Cheap to clone; every receiver holds one.
#[derive(Debug, Clone)]
pub struct Ingest {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    store: Arc<Store>,
    queue: mpsc::Sender<Job>,
    writers: TaskTracker,
    /// Decoded requests take several times their bytes: few are decoded at the same time.
    decoding: Semaphore,
    limits: Limits,
    counters: Arc<IngestCounters>,
}

/// A prepared request on its way to a writer.
#[derive(Debug)]
struct Job {
    prepared: Prepared,
    reply: oneshot::Sender<Result<writer::Outcome, Refused>>,
}

impl Ingest {
    /// Starts the writers on `database`, whose schema must be migrated.
    pub fn start(database: Database, options: IngestOptions) -> Self {
        let store = Arc::new(Store::new(database));
        let (queue, jobs) = mpsc::channel(options.queued_requests.max(1));
        let jobs = Arc::new(tokio::sync::Mutex::new(jobs));
        let counters = Arc::new(IngestCounters::default());
        let writers = TaskTracker::new();
        for _ in 0..options.writers.max(1) {
            let writer = writer::Writer {
                store: Arc::clone(&store),
                jobs: Arc::clone(&jobs),
                batch_rows: options.batch_rows,
                max_retries: options.max_retries,
                counters: Arc::clone(&counters),
            };
            writers.spawn(writer.run());
        }
        writers.close();
        let decoding = Semaphore::new(std::thread::available_parallelism().map_or(2, usize::from));
        Self { inner: Arc::new(Inner { store, queue, writers, decoding, limits: options.limits, counters }) }
    }

    /// Stores the records of `request` and returns once they are committed. Sending the same request again adds
    /// nothing and is answered as the first time.
    ///
    /// # Errors
    /// [`Refused`] when nothing of the request is stored.
    pub async fn submit(&self, request: Request) -> Result<Accepted, Refused> {
        let inner = &self.inner;
        let signal = request.signal;
        let outcome = self.store(request).await;
        match &outcome {
            Ok(accepted) => inner.counters.accepted(signal, accepted),
            Err(refused) => inner.counters.refused(signal, refused),
        }
        outcome
    }

    async fn store(&self, request: Request) -> Result<Accepted, Refused> {
        let prepared = {
            let _permit = self.inner.decoding.acquire().await.map_err(|_| stopping())?;
            prepare::prepare(Arc::clone(&self.inner.store), request, self.inner.limits.clone()).await?
        };
        let (records, rejections) = (prepared.record_count(), prepared.rejections.clone());
        if records == 0 {
            return Ok(rejections.answer(0));
        }
        let (reply, answer) = oneshot::channel();
        self.inner.queue.send(Job { prepared, reply }).await.map_err(|_| stopping())?;
        let outcome = answer.await.map_err(|_| stopping())??;
        let mut accepted = rejections.answer(records - outcome.refused);
        if outcome.refused > 0 {
            self.inner.counters.dead_lettered(outcome.refused);
            // Kept, though not in its table: nothing for the sender to do, and nothing to hide.
            accepted.records += outcome.refused;
            let note = format!("the database refused {} records; they are kept as dead letters", outcome.refused);
            accepted.message = if accepted.message.is_empty() { note } else { format!("{}; {note}", accepted.message) };
        }
        if outcome.duplicate {
            self.inner.counters.duplicate_request();
        }
        Ok(accepted)
    }

    /// What has passed through since the start.
    pub fn counts(&self) -> IngestCounts {
        self.inner.counters.counts()
    }

    /// The database that is written to.
    pub fn database(&self) -> &Database {
        &self.inner.store.database
    }

    /// Waits until the writers have finished: they do once every clone of this handle is gone but this one.
    pub async fn drain(self) {
        let writers = self.inner.writers.clone();
        drop(self);
        writers.wait().await;
    }
}

fn stopping() -> Refused {
    Refused::Unavailable {
        reason: "the write path is interrupted or stopping".to_owned(),
        retry_after: Duration::from_secs(1),
    }
}
