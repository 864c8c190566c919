//! From a request's bytes to a promise, and from there to rows: the one entry for every receiver.
//!
//! ```text
//! submit ── prepare: decode, check, hash, encode ──▶ spool (fsync) ──▶ queue ──▶ writers ──▶ one transaction
//!    ▲                                                 │   ▲                                      │
//!    └──────────────── Accepted ◀──────────────────────┘   └────────────── release ◀──────────────┘
//! ```
//!
//! A request for which the queue has no room is only examined before the spool, and prepared when it is read back.
//!
//! The two halves meet in the queue. [`Ingest::submit`] needs no database: it answers when the request is durable in the
//! spool ([`Ack::Spooled`]), committed ([`Ack::Stored`]) or merely held in memory ([`Ack::Memory`]). The writers need no
//! sender: what they cannot write waits. Everything in between is bounded. Nothing here knows a protocol, and nothing
//! waits for derivation or embedding.

pub(crate) mod breaker;
mod check;
mod examine;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
mod outlet;
mod prepare;
mod queue;
mod replay;
mod report;
pub(crate) mod tag;
pub(crate) mod template;
mod writer;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use oneiric_otel_spool::{AppendError, ReadError, Spool, SpoolStatus};
use tokio::sync::{Semaphore, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{Instrument as _, Span};

pub use crate::store::TemplateCounts;
pub use breaker::{BreakerOptions, BreakerState, BreakerStatus};
pub use check::Limits;
pub use outlet::Outlet;
#[cfg(feature = "forward")]
pub(crate) use prepare::as_protobuf;
pub use replay::{ReplayCounts, Replayer};
pub use report::{IngestCounters, IngestCounts, Latencies};

use crate::otlp::{Encoding, Signal};
use crate::self_trace;
use crate::store::{Batch, Database, MAX_METRIC_SERIES, Store, StoreError};
use breaker::Breaker;
use examine::{Verdict, examine};
use prepare::Prepared;
use queue::{Bounds, Entry, Outcome, Place, Queue, Reply, Source};
use tag::Tag;
use writer::Writer;

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

impl Accepted {
    fn add(&mut self, note: &str) {
        if !self.message.is_empty() {
            self.message.push_str("; ");
        }
        self.message.push_str(note);
    }
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

/// What a success answer promises.
#[derive(Debug, Clone)]
pub enum Ack {
    /// The records are committed in the database.
    Stored,
    /// The request is durable in this spool, and will be written. Its lanes are [`Signal::ALL`].
    Spooled(Spool),
    /// The request is in memory. When more than so many wait, the oldest are dropped and counted.
    Memory {
        /// Requests that wait at most.
        requests: usize,
    },
}

/// How the write path works.
#[derive(Debug, Clone)]
pub struct IngestOptions {
    /// What a success answer promises.
    pub ack: Ack,
    /// Connections that write at the same time.
    pub writers: usize,
    /// Rows that a transaction gathers at most before it is written. A larger request is written whole.
    pub batch_rows: usize,
    /// How long a request whose sender has its answer waits for others to fill a transaction.
    pub batch_interval: Duration,
    /// Requests of one signal whose senders wait for the commit at most; further senders wait before.
    pub waiting_requests: usize,
    /// Bytes of memory for requests that wait for a writer. With a spool, those beyond wait there.
    pub queue_memory: usize,
    /// Retries of a transaction after its first try, for transient errors.
    pub max_retries: u32,
    /// The pause before the first retry. It doubles, up to one second.
    pub retry_backoff: Duration,
    /// How long one try may take: a database that does not answer at all is not waited for.
    pub write_timeout: Duration,
    /// When to leave the database alone.
    pub breaker: BreakerOptions,
    /// What a record may be.
    pub limits: Limits,
    /// Metric series that the database may have. Data points of a new one beyond it become dead letters.
    pub max_metric_series: u64,
    /// What is stored at all.
    pub signals: StoredSignals,
    /// Where else acknowledged requests go.
    pub outlet: Option<Arc<dyn Outlet>>,
}

/// Which signals are stored. Records of another are rejected, each of them counted, with that reason: a success would say
/// that they are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoredSignals {
    /// Spans.
    pub traces: bool,
    /// Data points.
    pub metrics: bool,
    /// Log records.
    pub logs: bool,
}

impl Default for StoredSignals {
    fn default() -> Self {
        Self { traces: true, metrics: true, logs: true }
    }
}

impl StoredSignals {
    /// Whether a signal is stored.
    pub fn has(self, signal: Signal) -> bool {
        match signal {
            Signal::Traces => self.traces,
            Signal::Metrics => self.metrics,
            Signal::Logs => self.logs,
        }
    }
}

impl Default for IngestOptions {
    fn default() -> Self {
        Self {
            ack: Ack::Stored,
            writers: 4,
            batch_rows: 5000,
            batch_interval: Duration::from_millis(200),
            waiting_requests: 64,
            queue_memory: 48 << 20,
            max_retries: 3,
            retry_backoff: Duration::from_millis(100),
            write_timeout: Duration::from_secs(30),
            breaker: BreakerOptions::default(),
            limits: Limits::default(),
            max_metric_series: MAX_METRIC_SERIES,
            signals: StoredSignals::default(),
            outlet: None,
        }
    }
}

/// The write path at one moment.
#[derive(Debug, Clone)]
pub struct IngestStatus {
    /// Why nothing can be acknowledged now, or nothing of one signal, if so.
    pub refusing: Option<Refusing>,
    /// The breaker before the database.
    pub breaker: BreakerStatus,
    /// The spool, where there is one.
    pub spool: Option<SpoolStatus>,
    /// Requests in memory that wait for a writer.
    pub waiting_requests: usize,
    /// Their rows.
    pub waiting_rows: usize,
    /// See [`IngestOptions::max_metric_series`].
    pub max_metric_series: u64,
    /// What has passed since the start.
    pub counts: IngestCounts,
}

/// That requests are refused for the time being.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusing {
    /// What is in the way.
    pub reason: String,
    /// Since when.
    pub since: SystemTime,
    /// The signal of these requests, when others are accepted.
    pub only: Option<Signal>,
}

/// The write path. Cheap to clone; every receiver holds one.
#[derive(Debug, Clone)]
pub struct Ingest {
    handle: Arc<Handle>,
}

/// What belongs to the last [`Ingest`]: without it nothing comes any more, and the writers end when all is written.
#[derive(Debug)]
struct Handle {
    core: Arc<Core>,
    writers: TaskTracker,
    stop: CancellationToken,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.core.queue.close();
    }
}

/// What receivers and writers share.
#[derive(Debug)]
struct Core {
    options: IngestOptions,
    spool: Option<Spool>,
    queue: Queue,
    breaker: Breaker,
    counters: IngestCounters,
    /// Decoded requests take several times their bytes: few are decoded at the same time.
    decoding: Arc<Semaphore>,
    /// A place for everybody who waits for a commit, by signal: one that is not written takes none of the others.
    waiting: [Arc<Semaphore>; Signal::ALL.len()],
    refusing: Mutex<Option<Refusing>>,
    /// Since when the spool is full for a signal.
    full: Mutex<[Option<Refusing>; Signal::ALL.len()]>,
    closed_at: OnceLock<SystemTime>,
    /// What the writers write to, once they do.
    store: OnceLock<Arc<Store>>,
}

impl Ingest {
    /// Makes the write path and starts its writers on `database`, whose schema must be migrated.
    pub fn start(database: Database, options: IngestOptions) -> Self {
        let ingest = Self::new(options);
        ingest.start_writing(database);
        ingest
    }

    /// Makes a write path that admits requests and writes nothing before [`Self::start_writing`]: for when the database is
    /// away. What the spool still holds of an earlier process comes first.
    pub fn new(options: IngestOptions) -> Self {
        let (spool, requests, batch_interval) = match &options.ack {
            Ack::Stored => (None, None, Duration::ZERO), // somebody waits
            Ack::Spooled(spool) => (Some(spool.clone()), None, options.batch_interval),
            Ack::Memory { requests } => (None, Some(*requests), options.batch_interval),
        };
        let writers = options.writers.max(1);
        let (batch_rows, memory) = (options.batch_rows, options.queue_memory);
        let bounds = Bounds { batch_rows, batch_interval, memory, requests, writers };
        let core = Core {
            queue: Queue::new(bounds, spool.clone()),
            spool,
            breaker: Breaker::new("the database", options.breaker),
            counters: IngestCounters::default(),
            decoding: Arc::new(Semaphore::new(std::thread::available_parallelism().map_or(2, usize::from))),
            waiting: Signal::ALL.map(|_| Arc::new(Semaphore::new(options.waiting_requests.max(1)))),
            refusing: Mutex::new(None),
            full: Mutex::default(),
            closed_at: OnceLock::new(),
            store: OnceLock::new(),
            options,
        };
        let handle = Handle { core: Arc::new(core), writers: TaskTracker::new(), stop: CancellationToken::new() };
        Self { handle: Arc::new(handle) }
    }

    /// Starts the writers on `database`, whose schema must be migrated. To be called once.
    pub fn start_writing(&self, database: Database) {
        let Handle { core, writers, stop } = &*self.handle;
        let limit = core.options.max_metric_series;
        let store = Arc::clone(core.store.get_or_init(|| Arc::new(Store::new(database, limit))));
        let asked = store.database.clone();
        drop(tokio::spawn(self_trace::inherit(async move { asked.warn_of_volatility().await })));
        for _ in 0..core.options.writers.max(1) {
            let writer = Writer { core: Arc::clone(core), store: Arc::clone(&store) };
            writers.spawn(self_trace::inherit(writer.run(stop.clone())));
        }
        writers.close();
    }

    /// Takes a request in and returns once what [`Ack`] says is true. Sending the same request again adds nothing and is
    /// answered as the first time.
    ///
    /// # Errors
    /// [`Refused`] when no promise can be given.
    pub async fn submit(&self, request: Request) -> Result<Accepted, Refused> {
        let core = &self.handle.core;
        let signal = request.signal;
        let outcome = core.admit(request, false).await;
        match &outcome {
            Ok(accepted) => core.counters.accepted(signal, accepted),
            Err(refused) => core.counters.refused(signal, refused),
        }
        outcome
    }

    /// What [`Self::submit`] would say of the records of a request. Nothing is kept.
    ///
    /// # Errors
    /// [`Refused`] when it can never be accepted, or this write path is stopping.
    pub async fn examine(&self, request: Request) -> Result<Accepted, Refused> {
        let core = &self.handle.core;
        if !core.options.signals.has(request.signal) {
            return Ok(core.decline(request).await?.0);
        }
        let (_, verdict) = core.read(request, examine).await?;
        Ok(verdict.answer())
    }

    /// Takes a request in that carries telemetry of this process. It is stored like any other, but no span is made for
    /// it, now or after a restart, and it gives way: while less than a quarter of the room for waiting requests is left,
    /// it is refused, so that it never costs a request of others its place.
    ///
    /// # Errors
    /// [`Refused`] when no promise can be given. It is not counted: nobody was turned away.
    pub async fn submit_own(&self, request: Request) -> Result<Accepted, Refused> {
        let core = &self.handle.core;
        let signal = request.signal;
        if !core.has_room_to_spare(signal) {
            let reason = "the room that is left is for telemetry of others".to_owned();
            return Err(Refused::Unavailable { reason, retry_after: Duration::from_secs(5) });
        }
        let outcome = core.admit(request, true).await;
        if let Ok(accepted) = &outcome {
            core.counters.accepted(signal, accepted);
            core.counters.own_request();
        }
        outcome
    }

    /// Refuses every request for this reason, until told otherwise: for troubles that are seen from outside, such as a
    /// disk that fills up.
    pub fn refuse_because(&self, reason: Option<String>) {
        let mut refusing = self.handle.core.refusing.lock().unwrap_or_else(PoisonError::into_inner);
        match (&mut *refusing, reason) {
            (Some(known), Some(reason)) => known.reason = reason,
            (known @ None, Some(reason)) => {
                tracing::error!(%reason, "requests are refused");
                *known = Some(Refusing { reason, since: SystemTime::now(), only: None });
            }
            (known @ Some(_), None) => {
                tracing::info!("requests are accepted again");
                *known = None;
            }
            (None, None) => {}
        }
    }

    /// Whether a request could be acknowledged now.
    ///
    /// # Errors
    /// Says what is in the way.
    pub fn can_acknowledge(&self) -> Result<(), String> {
        match self.status().refusing {
            Some(Refusing { reason, only: None, .. }) => Err(reason),
            Some(Refusing { only: Some(_), .. }) | None => Ok(()),
        }
    }

    /// The write path now.
    pub fn status(&self) -> IngestStatus {
        let core = &self.handle.core;
        let (waiting_requests, waiting_rows) = core.queue.waiting();
        let spool = core.spool.as_ref().map(Spool::status);
        let breaker = core.breaker.status();
        IngestStatus {
            refusing: core.refusing(spool.as_ref(), &breaker),
            breaker,
            spool,
            waiting_requests,
            waiting_rows,
            max_metric_series: core.options.max_metric_series,
            counts: self.counts(),
        }
    }

    /// What has passed through since the start.
    pub fn counts(&self) -> IngestCounts {
        let core = &self.handle.core;
        let log_templates = core.store.get().map_or_else(TemplateCounts::default, |store| store.template_counts());
        IngestCounts { log_templates, ..core.counters.counts() }
    }

    /// Takes no more requests, waits until everything is written and closes the spool. Who does not care to wait that long
    /// drops the future and calls [`Self::abandon`].
    pub async fn drain(&self) {
        let Handle { core, writers, .. } = &*self.handle;
        core.closed_at.get_or_init(SystemTime::now);
        core.queue.close();
        writers.close();
        writers.wait().await;
        // What is left, nobody will write: in the spool it is safe, in memory it ends here.
        for entry in core.queue.take_all() {
            if matches!(core.options.ack, Ack::Memory { .. }) {
                core.counters.dropped(entry.records);
            }
            writer::refuse(entry.reply, &stopping());
        }
        self.close_spool().await;
    }

    /// Takes no more requests and stops: what is left in the spool is written by the next process. Nothing that was
    /// acknowledged as spooled or stored is lost.
    pub async fn abandon(&self) {
        self.handle.stop.cancel();
        self.drain().await;
    }

    async fn close_spool(&self) {
        let Some(spool) = self.handle.core.spool.clone() else { return };
        if let Err(error) = tokio::task::spawn_blocking(move || spool.close()).await {
            tracing::error!(%error, "the spool was not closed");
        }
    }
}

impl Core {
    async fn admit(self: &Arc<Self>, request: Request, own: bool) -> Result<Accepted, Refused> {
        self.check_open()?;
        if !self.options.signals.has(request.signal) {
            let (declined, records) = self.decline(request).await?;
            self.counters.switched_off(records);
            return Ok(declined);
        }
        if let Ack::Spooled(_) = self.options.ack {
            // What the queue would not keep is prepared when it is read back.
            let (request, verdict, batch) = if self.queue.takes_spooled(request.signal) {
                let (request, Prepared { verdict, batch }) = self.read(request, prepare::prepare).await?;
                (request, verdict, Some(batch))
            } else {
                let (request, verdict) = self.read(request, examine).await?;
                (request, verdict, None)
            };
            if verdict.records > 0 {
                self.spool(request, &verdict, batch, own).await?;
            }
            return Ok(verdict.answer());
        }
        let (request, prepared) = self.read(request, prepare::prepare).await?;
        let mut accepted = prepared.verdict.answer();
        if accepted.records == 0 {
            return Ok(accepted);
        }
        if let Ack::Memory { .. } = self.options.ack {
            let passed_on = self.pass_on(&request, own);
            self.hold(request, prepared, own);
            passed_on.await;
            return Ok(accepted);
        }
        let Outcome { refused, limited } = self.store_and_pass_on(request, prepared, own).await?;
        // Kept, though not in its table: nothing for the sender to do, and nothing to hide.
        if refused > limited {
            accepted.add(&format!("the database refused {} records; they are kept as dead letters", refused - limited));
        }
        if limited > 0 {
            accepted.add(&format!(
                "there is no room for new metric series (limits.max_metric_series); {limited} data points of such are kept \
                 as dead letters"
            ));
        }
        Ok(accepted)
    }

    /// The answer to a request whose signal is not stored, and how many of its records are rejected for that alone.
    async fn decline(self: &Arc<Self>, request: Request) -> Result<(Accepted, u64), Refused> {
        let name = request.signal.as_str();
        let (_, verdict) = self.read(request, examine).await?;
        let records = verdict.records;
        if records == 0 {
            return Ok((verdict.answer(), 0));
        }
        let message = format!("{name} are not stored here (setting store_{name})");
        Ok((Accepted { records: 0, rejected: records + verdict.rejections.records(), message }, records))
    }

    fn check_open(&self) -> Result<(), Refused> {
        /// Long enough for a person or a clean-up to have made room.
        const RETRY_AFTER: Duration = Duration::from_secs(5);
        if self.queue.is_closed() {
            return Err(stopping());
        }
        let refusing = self.refusing.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(Refusing { reason, .. }) = refusing {
            return Err(Refused::Unavailable { reason, retry_after: RETRY_AFTER });
        }
        if matches!(self.options.ack, Ack::Stored) {
            self.check_breaker()?;
        }
        Ok(())
    }

    /// Whether there is room for what may as well be lost.
    fn has_room_to_spare(&self, signal: Signal) -> bool {
        match &self.options.ack {
            Ack::Spooled(spool) => {
                let status = spool.status();
                status.bytes < status.max_bytes / 4 * 3
            }
            Ack::Stored => self.waiting[signal as usize].available_permits() > self.options.waiting_requests / 4,
            Ack::Memory { .. } => !self.queue.is_crowded(),
        }
    }

    /// Fails fast while nothing is written and the sender would have to wait for it.
    fn check_breaker(&self) -> Result<(), Refused> {
        let Some(retry_after) = self.breaker.closed_for() else { return Ok(()) };
        let last_error = self.breaker.status().last_error.unwrap_or_default();
        Err(Refused::Unavailable { reason: format!("the database does not take writes: {last_error}"), retry_after })
    }

    fn refusing(&self, spool: Option<&SpoolStatus>, breaker: &BreakerStatus) -> Option<Refusing> {
        if self.queue.is_closed() {
            let since = *self.closed_at.get_or_init(SystemTime::now);
            return Some(Refusing { reason: "shutting down".to_owned(), since, only: None });
        }
        if let Some(refusing) = self.refusing.lock().unwrap_or_else(PoisonError::into_inner).clone() {
            return Some(refusing);
        }
        if let Some(spool) = spool {
            if let Some(not) = spool.not_accepting.clone() {
                return Some(Refusing { reason: not.reason, since: not.since, only: None });
            }
            let mut full = self.full.lock().unwrap_or_else(PoisonError::into_inner);
            // Senders that stay away cannot find out that there is room again.
            if spool.bytes < spool.max_bytes / 2 {
                *full = Default::default();
            }
            return full.iter().flatten().min_by_key(|full| (full.only.is_some(), full.since)).cloned();
        }
        if matches!(self.options.ack, Ack::Stored)
            && let Err(refused) = self.check_breaker()
        {
            let since = breaker.failing_since.unwrap_or(breaker.since);
            return Some(Refusing { reason: refused.to_string(), since, only: None });
        }
        None
    }

    /// Reads a request in one way or another, beside what else goes on.
    async fn read<T: Send + 'static>(
        self: &Arc<Self>,
        request: Request,
        way: fn(&Request, &Limits) -> Result<T, String>,
    ) -> Result<(Request, T), Refused> {
        // The permit goes with the work, which goes on when the caller does not care any more.
        let permit = Arc::clone(&self.decoding).acquire_owned().await.map_err(|_| stopping())?;
        let core = Arc::clone(self);
        let task = move || {
            let read = catch_unwind(AssertUnwindSafe(|| way(&request, &core.options.limits)));
            drop(permit);
            (request, read)
        };
        let (request, read) = tokio::task::spawn_blocking(task).await.map_err(|_| stopping())?;
        match read {
            Ok(Ok(read)) => Ok((request, read)),
            Ok(Err(reason)) => Err(Refused::Malformed { reason }),
            // A defect of ours, and the same bytes would meet it again: the sender must not repeat them for ever.
            Err(_) => {
                tracing::error!(signal = request.signal.as_str(), "a request could not be read");
                let reason = "an internal error while the request was read; it is logged".to_owned();
                Err(Refused::Malformed { reason })
            }
        }
    }

    /// Waits until the request is durable in the spool.
    async fn spool(
        self: &Arc<Self>,
        request: Request,
        verdict: &Verdict,
        batch: Option<Batch>,
        own: bool,
    ) -> Result<(), Refused> {
        let Some(spool) = &self.spool else { return Err(stopping()) };
        let copy = request.clone();
        let Request { signal, encoding, body } = request;
        let tag = Tag { encoding, rejected: Tag::count(&verdict.rejections), own };
        let records = verdict.records;
        let (sender, answer) = oneshot::channel();
        let core = Arc::clone(self);
        let durable = move |outcome: Result<oneiric_otel_spool::EntryId, AppendError>| {
            if let Ok(id) = outcome {
                let source = Source { signal, encoding, own, place: Place::Spool(id) };
                let entry = batch.map(|batch| Entry { source, batch, records, since: Instant::now(), reply: None });
                core.queue.push_spooled(id, signal, entry);
            }
            // The receiver is gone when the client hung up: the request is kept all the same.
            drop(sender.send(outcome.map(|_| ())));
        };
        let span = if own { Span::none() } else { tracing::info_span!(target: self_trace::TARGET, "spool append") };
        let append = async {
            match spool.append(signal as usize, tag.bits(), body, durable).await {
                // Nothing but the disk can refuse it now: only then it goes elsewhere too, so that one which is refused for
                // want of room, and comes again and again, does not. Both become durable at the same time.
                Ok(()) => {
                    let (answer, ()) = tokio::join!(answer, self.pass_on(&copy, own));
                    answer.map_err(|_| stopping())
                }
                refused => Ok(refused),
            }
        };
        append.instrument(span).await?.inspect(|()| self.note_full(signal, None)).map_err(|error| {
            if matches!(error, AppendError::Full { .. }) {
                self.note_full(signal, Some(error.to_string()));
            }
            not_spooled(&error)
        })
    }

    /// Each signal has room of its own: one that finds it says nothing of the others.
    fn note_full(&self, signal: Signal, reason: Option<String>) {
        let mut full = self.full.lock().unwrap_or_else(PoisonError::into_inner);
        if reason.is_none() {
            for (other, full) in Signal::ALL.into_iter().zip(full.iter_mut()).filter(|(other, _)| *other != signal) {
                if let Some(refusing) = full {
                    refusing.only = Some(other);
                }
            }
        }
        let full = &mut full[signal as usize];
        match (&*full, reason) {
            (None, Some(reason)) => {
                tracing::error!(%reason, signal = signal.as_str(), "requests are refused until some are written");
                *full = Some(Refusing { reason, since: SystemTime::now(), only: None });
            }
            (Some(_), None) => {
                tracing::info!(signal = signal.as_str(), "the spool has room again");
                *full = None;
            }
            (None, None) | (Some(_), Some(_)) => {}
        }
    }

    /// Waits until the request is committed.
    async fn store(&self, request: Request, prepared: Prepared, own: bool) -> Result<Outcome, Refused> {
        let places = Arc::clone(&self.waiting[request.signal as usize]);
        let place = places.acquire_owned().await.map_err(|_| stopping())?;
        self.check_breaker()?;
        let (sender, answer) = oneshot::channel();
        for refused in self.queue.push(entry(request, prepared, own, Some(Reply { sender, _place: place }))) {
            writer::refuse(refused.reply, &stopping());
        }
        self.turn_away();
        answer.await.map_err(|_| stopping())?
    }

    /// Leaves the request in memory.
    fn hold(&self, request: Request, prepared: Prepared, own: bool) {
        for dropped in self.queue.push(entry(request, prepared, own, None)) {
            self.counters.dropped(dropped.records);
        }
    }

    /// While nothing is written, tells those who wait for it.
    fn turn_away(&self) {
        if matches!(self.options.ack, Ack::Stored)
            && let Err(refused) = self.check_breaker()
        {
            self.queue.take_all().into_iter().for_each(|entry| writer::refuse(entry.reply, &refused));
        }
    }

    /// The bytes of a request again. None when they are damaged by now: what is left of them is in quarantine.
    ///
    /// # Errors
    /// When they cannot be read now.
    fn request(&self, source: &Source) -> Result<Option<Request>, StoreError> {
        let body = match (&source.place, &self.spool) {
            (Place::Memory(body), _) => body.clone(),
            (Place::Spool(id), Some(spool)) => match spool.read(*id) {
                Ok(entry) => entry.body,
                Err(error @ (ReadError::Damaged { .. } | ReadError::Released { .. })) => {
                    tracing::error!(%error, "a request for dead letters cannot be read back");
                    return Ok(None);
                }
                Err(error) => return Err(StoreError::elsewhere(error)),
            },
            (Place::Spool(_), None) => return Err(StoreError::transient("the spool is gone")),
        };
        Ok(Some(Request { signal: source.signal, encoding: source.encoding, body }))
    }
}

fn entry(request: Request, prepared: Prepared, own: bool, reply: Option<Reply>) -> Entry {
    let Request { signal, encoding, body } = request;
    let source = Source { signal, encoding, own, place: Place::Memory(body) };
    let Prepared { verdict, batch } = prepared;
    Entry { source, batch, records: verdict.records, since: Instant::now(), reply }
}

fn not_spooled(error: &AppendError) -> Refused {
    /// A full spool has room again as soon as a segment is written; a disk may need somebody.
    const RETRY_AFTER: Duration = Duration::from_secs(2);
    if matches!(error, AppendError::TooLarge { .. }) {
        // It would not fit at any other time either.
        return Refused::Malformed { reason: error.to_string() };
    }
    Refused::Unavailable { reason: format!("cannot keep the request now: {error}"), retry_after: RETRY_AFTER }
}

fn stopping() -> Refused {
    Refused::Unavailable {
        reason: "the write path is interrupted or stopping".to_owned(),
        retry_after: Duration::from_secs(1),
    }
}
