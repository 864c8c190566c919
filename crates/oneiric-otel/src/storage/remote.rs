//! The other way out of an application: to an OTLP endpoint, behind a queue and a worker like those of the adapter.
//!
//! ```text
//! push ──▶ queue ──▶ worker ──▶ forward::Forwarder ──▶ spool ──▶ endpoint
//! ```
//!
//! Promises: the queue, the threads, the spool, the retries and the breakers are its own, so nothing here waits for the
//! database and nothing of the database waits for this. Accepted records are durable in the spool when they count as
//! settled; they arrive at least once, also by the next process. It needs no database and knows none.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use oneiric_otel_spool::SpoolError;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::closing::Closing;
use super::encode::{CUT_VALUE, Usual};
use super::health::QueueReport;
use super::life::{OwnRuntime, data_dir};
use super::queue::{Bounds, Queue, Records};
use super::worker::{Target, Worker};
use super::{Batch, Durability, OtelStorageOptions, Receipt, StorageError, StoreRefused};
use crate::forward::{Endpoint, ForwardError, ForwardOptions, ForwardStatus, Forwarder};
use crate::pipeline::BreakerState;
use crate::system::{LeftSpools, file_name, in_free_directory, left_behind};

/// How often it is looked whether everything has been delivered.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Where telemetry goes over OTLP, and how the endpoint is treated.
#[derive(Debug, Clone)]
pub struct OtlpDestination {
    /// The endpoint.
    pub endpoint: Endpoint,
    /// Its spool, retries and breakers. The `dir` is made: it lies in the data directory.
    pub options: ForwardOptions,
}

impl OtlpDestination {
    /// An endpoint, treated as usual.
    pub fn new(endpoint: Endpoint) -> Self {
        Self { endpoint, options: ForwardOptions::new(PathBuf::new()) }
    }
}

/// The way to the endpoint, at one moment. Requests are what records are put together in.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OtlpReport {
    /// The endpoint, without credentials.
    pub endpoint: String,
    /// What was handed over and is not in the spool yet, and what became of the rest.
    pub queue: QueueReport,
    /// Requests that wait in the spool or are on their way, by signal.
    pub waiting_requests: BTreeMap<String, u64>,
    /// Requests that the endpoint took, by signal.
    pub delivered_requests: BTreeMap<String, u64>,
    /// Circuit breakers before the endpoint, by signal: `closed`, `open` or `half_open`.
    pub circuit_breakers: BTreeMap<String, String>,
    /// Tries that failed.
    pub failed_attempts: u64,
    /// Records that the endpoint rejected.
    pub rejected_records: u64,
    /// Requests that the endpoint refused for good, in quarantine, and of which nothing is left.
    pub refused_requests: u64,
    /// What is wrong, in words; empty when nothing is.
    pub problems: Vec<String>,
}

impl OtlpReport {
    /// Requests that wait, of all signals.
    pub fn waiting(&self) -> u64 {
        self.waiting_requests.values().sum()
    }

    fn new(status: &ForwardStatus, queue: &Queue, left: &LeftSpools) -> Self {
        let mut report = Self { endpoint: status.endpoint.clone(), queue: queue.report(), ..Self::default() };
        for (lane, spooled) in status.lanes.iter().zip(&status.spool.lanes) {
            let signal = lane.signal.as_str().to_owned();
            if let (Some(_), Some(error)) = (lane.breaker.failing_since, &lane.breaker.last_error) {
                report.problems.push(format!("{signal} cannot be sent to {}: {error}", status.endpoint));
            }
            report.waiting_requests.insert(signal.clone(), spooled.entries);
            report.delivered_requests.insert(signal.clone(), lane.counts.forwarded_requests);
            report.circuit_breakers.insert(signal, lane.breaker.state.as_str().to_owned());
            report.failed_attempts += lane.counts.failed_attempts;
            report.rejected_records += lane.counts.rejected_records;
            report.refused_requests += lane.counts.refused_requests + lane.counts.lost_requests;
        }
        if let Some(failing) = &status.spool.not_accepting {
            report.problems.push(format!("the spool does not accept: {}", failing.reason));
        }
        report.problems.extend(left.problems());
        report
    }
}

/// The way to an endpoint.
#[derive(Debug)]
pub(crate) struct OtlpExport {
    options: OtelStorageOptions,
    destination: OtlpDestination,
    /// Set once, by `init`.
    running: OnceLock<Running>,
    life: tokio::sync::Mutex<Life>,
}

#[derive(Debug)]
struct Running {
    queue: Arc<Queue>,
    forwarder: Forwarder,
    left: LeftSpools,
}

#[derive(Debug, Default)]
enum Life {
    #[default]
    New,
    Running(Parts),
    Closed(Closing),
}

/// What has to be taken down.
#[derive(Debug)]
struct Parts {
    queue: Arc<Queue>,
    forwarder: Forwarder,
    runtime: OwnRuntime,
    stop: CancellationToken,
    tasks: TaskTracker,
    timeout: Duration,
}

impl OtlpExport {
    /// Nothing is opened before [`Self::init`]. Of `options` those count that say nothing of a database.
    ///
    /// # Errors
    /// [`StorageError::InvalidOption`].
    pub(crate) fn new(options: OtelStorageOptions, destination: OtlpDestination) -> Result<Self, StorageError> {
        options.check_queue()?;
        Ok(Self { options, destination, running: OnceLock::new(), life: tokio::sync::Mutex::default() })
    }

    /// Opens the spool and begins to send. An endpoint that is away is no error.
    pub(crate) async fn init(&self) -> Result<(), StorageError> {
        // Whoever holds it is initialising or cleaning up.
        let mut life = self.life.try_lock().map_err(|_| StorageError::AlreadyInitialised)?;
        match *life {
            Life::New => {}
            Life::Running(_) => return Err(StorageError::AlreadyInitialised),
            Life::Closed(_) => return Err(StorageError::Closed),
        }
        let runtime = OwnRuntime::start(self.options.threads)?;
        let (dir, destination) = (data_dir(&self.options)?.join("otlp"), self.destination.clone());
        let forwarder = runtime.run(open(dir.clone(), destination.clone())).await?;
        let usual = Usual::of(&self.options.origin)
            .ok_or_else(|| StorageError::InvalidOption { name: "origin", accepted: CUT_VALUE.to_owned() })?;
        let queue = Queue::new(Bounds { bytes: self.options.queue_max_bytes, newest: None });
        let worker = Worker {
            queue: Arc::clone(&queue),
            target: Target::Endpoint(forwarder.clone()),
            usual,
            durability: Durability::Spooled,
            gather: self.options.gather_interval,
            patience: self.options.store_timeout,
        };
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let (workers, sending, stopping) = (tasks.clone(), forwarder.clone(), stop.clone());
        let left = LeftSpools::default();
        let send_left = send_left(dir, destination, self.options.left_spools_interval, left.clone(), stop.clone());
        let start = async move {
            workers.spawn(crate::self_trace::inherit(worker.run(stopping.clone())));
            workers.spawn(crate::self_trace::inherit(sending.run(stopping)));
            workers.spawn(crate::self_trace::inherit(send_left));
            workers.close();
            Ok(())
        };
        runtime.run(start).await?;
        // Only one initialisation gets here: the lock is held, and the life was new.
        drop(self.running.set(Running { queue: Arc::clone(&queue), forwarder: forwarder.clone(), left }));
        let timeout = self.options.cleanup_timeout;
        *life = Life::Running(Parts { queue, forwarder, runtime, stop, tasks, timeout });
        Ok(())
    }

    /// As [`super::OtelStorage::batch_store`].
    pub(crate) fn batch_store(&self, batch: Batch) -> Result<Receipt, StoreRefused> {
        let running = self.running.get().ok_or(StoreRefused::NotInitialised)?;
        running.queue.push(&mut Records::of(batch))
    }

    /// As [`super::OtelStorage::flush`]: durable in the spool.
    pub(crate) async fn flush(&self) -> Result<(), StorageError> {
        self.running.get().ok_or(StorageError::NotInitialised)?.queue.flush().await
    }

    /// Sends what waits while the endpoint takes it, and closes, within `cleanup_timeout`. A later process sends the rest.
    /// It goes on when nobody waits for it any more; a further call waits for the same end.
    pub(crate) async fn cleanup(&self) -> Result<(), StorageError> {
        if let Some(running) = self.running.get() {
            running.queue.close(StoreRefused::Closed);
        }
        let closing = {
            let mut life = self.life.lock().await;
            let closing = match std::mem::take(&mut *life) {
                Life::New => return Err(StorageError::NotInitialised),
                Life::Closed(closing) => closing,
                Life::Running(parts) => parts.close(),
            };
            *life = Life::Closed(closing.clone());
            closing
        };
        closing.outcome().await
    }

    /// None before [`Self::init`].
    pub(crate) fn report(&self) -> Option<OtlpReport> {
        let running = self.running.get()?;
        Some(OtlpReport::new(&running.forwarder.status(), &running.queue, &running.left))
    }
}

impl Parts {
    fn close(self) -> Closing {
        let Self { queue, forwarder, runtime, stop, tasks, timeout } = self;
        Closing::begin(runtime, async move {
            let began = Instant::now();
            let settled = queue.settle_within(timeout).await;
            let left = timeout.saturating_sub(began.elapsed());
            if tokio::time::timeout(left, delivered(&forwarder)).await.is_err() || is_waiting(&forwarder.status()) {
                tracing::warn!("not everything could be sent in time; the next process sends what waits in the spool");
            }
            stop.cancel();
            // The end of the forwarder is bounded by itself.
            tasks.wait().await;
            queue.clear();
            settled
        })
    }
}

impl Drop for OtlpExport {
    /// What was accepted goes to the spool, in the background. What is in it is sent by the next process.
    fn drop(&mut self) {
        let Life::Running(parts) = std::mem::take(self.life.get_mut()) else { return };
        parts.queue.close(StoreRefused::Closed);
        // It goes on by itself.
        drop(parts.close());
    }
}

/// What waits for one endpoint must not end in another.
async fn open(dir: PathBuf, destination: OtlpDestination) -> Result<Forwarder, StorageError> {
    let OtlpDestination { endpoint, options } = destination;
    let name = file_name(&endpoint.to_string());
    let open = move |dir: &Path| {
        let options = ForwardOptions { dir: dir.to_owned(), ..options.clone() };
        Forwarder::open(endpoint.clone(), options)
    };
    let is_in_use = |error: &ForwardError| matches!(error, ForwardError::Spool(SpoolError::InUse { .. }));
    let (forwarder, recovered) = in_free_directory(dir, name, open, is_in_use).await.map_err(|error| match error {
        ForwardError::Spool(error) => StorageError::Spool(error),
        ForwardError::Endpoint(error) => StorageError::InvalidOption { name: "otlp", accepted: error.to_string() },
    })?;
    if recovered.entries > 0 {
        tracing::info!(requests = recovered.entries, "requests of an earlier process wait to be sent");
    }
    Ok(forwarder)
}

/// Sends what applications on this machine that are gone left for the endpoint, until told to stop.
async fn send_left(
    dir: PathBuf,
    destination: OtlpDestination,
    every: Duration,
    left: LeftSpools,
    stop: CancellationToken,
) {
    let name = file_name(&destination.endpoint.to_string());
    loop {
        for dir in left_behind(dir.clone(), name.clone()).await {
            let OtlpDestination { endpoint, options } = destination.clone();
            let options = ForwardOptions { dir: dir.clone(), ..options };
            let opened = tokio::task::spawn_blocking(move || Forwarder::open(endpoint, options)).await;
            let (forwarder, recovered) = match opened {
                Ok(Ok(opened)) => opened,
                Ok(Err(ForwardError::Spool(SpoolError::InUse { .. }))) => {
                    left.forget(&dir);
                    continue;
                }
                Ok(Err(error)) => {
                    left.failed(&dir, &error);
                    continue;
                }
                Err(_) => return,
            };
            left.found(&dir, recovered.entries);
            let over = stop.child_token();
            let all = async {
                while is_waiting(&forwarder.status()) && !stop.is_cancelled() {
                    stop.run_until_cancelled(tokio::time::sleep(LOOK_EVERY)).await;
                }
                over.cancel();
            };
            tokio::join!(forwarder.clone().run(over.clone()), all);
            left.forget(&dir);
        }
        if stop.run_until_cancelled(tokio::time::sleep(every)).await.is_none() {
            return;
        }
    }
}

/// Ready when nothing waits, or when nothing that waits is taken at the moment.
async fn delivered(forwarder: &Forwarder) {
    loop {
        let status = forwarder.status();
        let waits = |(number, lane): (usize, &crate::forward::ForwardLane)| {
            let waiting = status.spool.lanes.get(number).is_some_and(|spooled| spooled.entries > 0);
            waiting && lane.breaker.state == BreakerState::Closed
        };
        if !status.lanes.iter().enumerate().any(waits) {
            return;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

fn is_waiting(status: &ForwardStatus) -> bool {
    status.spool.lanes.iter().any(|lane| lane.entries > 0)
}
