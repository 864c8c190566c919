//! What a workflow engine needs to tell what it does: log records, metrics, spans, into the database, to an OTLP endpoint,
//! or both.
//!
//! ```text
//!                          ┌──▶ storage::OtelStorage ──▶ PostgreSQL
//! log_*, spans, metrics ───┤       own queue, spool, retries, breaker
//!                          └──▶ storage::remote ──▶ another OTLP endpoint
//!                                  own queue, spool, retries, breakers
//! ```
//!
//! Promises: no call but `init`, `flush`, `health`, `shutdown` and questions waits for anything, and none panics. A
//! destination that is away, slow or hangs costs the other one nothing. What a destination does not take is said at once
//! where the caller can hear it, and counted everywhere. How a record is written as OTLP is the adapter's to know, and how
//! measurements are put together that of `aggregate`; this module knows neither a table nor a socket.

mod aggregate;
mod backend;
mod collect;
mod health;
mod instruments;
mod options;
mod spans;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, PoisonError};

use futures::future::join_all;

pub use backend::{Backend, Destination, ManagerError, Refusal};
pub use health::ManagerHealth;
pub use instruments::{Counter, DEFAULT_BOUNDS, Histogram, InstrumentError, UpDownCounter};
pub use options::{ManagerBuilder, ManagerOptions};
pub use spans::{REPOSITORY_NAME, SpanGuard, TASK_NAME, WORKFLOW_ID, WORKFLOW_NAME};

use crate::otlp::Signal;
use crate::query::{LogPage, LogsRequest, QueryError};
use crate::settings::Settings;
#[cfg(feature = "forward")]
use crate::storage::OtlpExport;
use crate::storage::{
    Attributes, Batch, Level, LogEntry, MetricData, OtelStorage, OtelStorageBuilder, StorageError, StoreRefused,
    TraceId,
};
use aggregate::Kind;
use instruments::Instruments;

/// The log, the metrics and the traces of an application. Cheap to clone: all clones are one. [`Self::shutdown`] ends it.
///
/// ```no_run
/// use oneiric_otel::manager::ObservabilityManager;
/// use oneiric_otel::settings::Settings;
///
/// # async fn run() -> Result<(), Box<dyn std::error::Error>> {
/// let settings = Settings::from_env("MAHAVISHNU_OTEL_STORAGE__")?;
/// let manager = ObservabilityManager::from_settings(&settings)?;
/// manager.init().await?;
/// let runs = manager.counter("workflow.runs", "{run}", "Runs that were started")?;
///
/// let workflow = manager.start_workflow_trace("run-17", "nightly", [("trigger", "cron")]);
/// runs.add(1, [("workflow", "nightly")]);
/// {
///     let mut fetch = workflow.repository("process_repository", "fastblocks").task("fetch_repo");
///     fetch.set_error("no answer from host");
/// } // The task ends here.
/// manager.log_error("the run failed", [("attempt", 1)], Some(workflow.trace_id()))?;
/// manager.end_workflow_trace(workflow, Some("no answer from host"))?;
/// manager.shutdown().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct ObservabilityManager {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    options: ManagerOptions,
    storage: Option<OtelStorage>,
    #[cfg(feature = "forward")]
    export: Option<OtlpExport>,
    instruments: Instruments,
    refused: BTreeMap<Destination, AtomicU64>,
    /// Delta points for which there was no room, by destination: they go with the next collection.
    kept: Mutex<BTreeMap<Destination, Vec<MetricData>>>,
    /// Dropping it ends the thread that collects.
    collector: Mutex<Option<Sender<()>>>,
}

/// A way out.
#[derive(Clone, Copy)]
enum Way<'a> {
    Postgresql(&'a OtelStorage),
    #[cfg(feature = "forward")]
    Otlp(&'a OtlpExport),
}

impl Way<'_> {
    fn destination(self) -> Destination {
        match self {
            Self::Postgresql(_) => Destination::Postgresql,
            #[cfg(feature = "forward")]
            Self::Otlp(_) => Destination::Otlp,
        }
    }

    fn take(self, batch: Batch) -> Result<(), StoreRefused> {
        match self {
            Self::Postgresql(storage) => storage.batch_store(batch).map(drop),
            #[cfg(feature = "forward")]
            Self::Otlp(export) => export.batch_store(batch).map(drop),
        }
    }

    async fn init(self) -> Result<(), StorageError> {
        match self {
            Self::Postgresql(storage) => storage.init().await,
            #[cfg(feature = "forward")]
            Self::Otlp(export) => export.init().await,
        }
    }

    async fn flush(self) -> Result<(), StorageError> {
        match self {
            Self::Postgresql(storage) => storage.flush().await,
            #[cfg(feature = "forward")]
            Self::Otlp(export) => export.flush().await,
        }
    }

    async fn cleanup(self) -> Result<(), StorageError> {
        match self {
            Self::Postgresql(storage) => storage.cleanup().await,
            #[cfg(feature = "forward")]
            Self::Otlp(export) => export.cleanup().await,
        }
    }
}

impl Shared {
    fn ways(&self) -> impl Iterator<Item = Way<'_>> {
        let ways = self.storage.iter().map(Way::Postgresql);
        #[cfg(feature = "forward")]
        let ways = ways.chain(self.export.iter().map(Way::Otlp));
        ways
    }

    fn goes(&self, signal: Signal, way: Way<'_>) -> bool {
        let ManagerOptions { store_traces, store_metrics, store_logs, .. } = self.options;
        way.destination() != Destination::Postgresql
            || match signal {
                Signal::Traces => store_traces,
                Signal::Metrics => store_metrics,
                Signal::Logs => store_logs,
            }
    }

    /// Hands `records` of a signal to every destination.
    fn send(&self, signal: Signal, records: u64, batch: Batch) -> Result<(), Refusal> {
        let mut ways = self.ways().filter(|way| self.goes(signal, *way)).peekable();
        let mut batch = Some(batch);
        let mut outcome = Ok(());
        while let Some(way) = ways.next() {
            let own = if ways.peek().is_some() { batch.clone() } else { batch.take() };
            if let Err(reason) = way.take(own.unwrap_or_default()) {
                let destination = way.destination();
                self.count_refused(destination, records);
                outcome = outcome.and(Err(Refusal { destination, reason }));
            }
        }
        outcome
    }

    fn log(&self, entry: LogEntry) -> Result<(), Refusal> {
        self.send(Signal::Logs, 1, Batch { logs: vec![entry], ..Batch::default() })
    }

    fn metrics(&self, metrics: Vec<MetricData>) -> Result<(), Refusal> {
        let points: usize = metrics.iter().map(|metric| metric.points.len()).sum();
        if points == 0 {
            return Ok(());
        }
        self.send(Signal::Metrics, points as u64, Batch { metrics, ..Batch::default() })
    }

    fn count_refused(&self, destination: Destination, records: u64) {
        if let Some(refused) = self.refused.get(&destination) {
            refused.fetch_add(records, Ordering::Relaxed);
        }
    }

    async fn everywhere<'a, F>(&'a self, call: impl Fn(Way<'a>) -> F) -> Vec<(Destination, Result<(), StorageError>)>
    where
        F: Future<Output = Result<(), StorageError>>,
    {
        let calls = self.ways().map(|way| {
            let done = call(way);
            async move { (way.destination(), done.await) }
        });
        join_all(calls).await
    }
}

impl Drop for Shared {
    /// The destinations go next, and store what they have.
    fn drop(&mut self) {
        if self.collector.get_mut().unwrap_or_else(PoisonError::into_inner).take().is_some() {
            tracing::warn!(
                "the manager was dropped without shutdown(): it ends in the background, if the process lives that long"
            );
            self.instruments.counts().closed.store(true, Ordering::Release);
            self.collect();
        }
    }
}

impl ObservabilityManager {
    /// Builds a manager, option by option.
    pub fn builder() -> ManagerBuilder {
        ManagerBuilder::default()
    }

    /// Builds a manager that works as settings say: see [`crate::settings`] for where they come from.
    ///
    /// # Errors
    /// [`StorageError::Settings`] and [`StorageError::InvalidOption`], which name what is wrong.
    pub fn from_settings(settings: &Settings) -> Result<Self, StorageError> {
        ManagerBuilder::from_settings(settings)?.build()
    }

    fn of(options: ManagerOptions) -> Result<Self, StorageError> {
        let has = |destination| options.backend.has(destination);
        let adapter = || OtelStorageBuilder::from(options.storage.clone()).build();
        let storage = has(Destination::Postgresql).then(adapter).transpose()?;
        #[cfg(feature = "forward")]
        let export = match options.otlp.clone().filter(|_| has(Destination::Otlp)) {
            Some(destination) => Some(OtlpExport::new(options.storage.clone(), destination)?),
            None => None,
        };
        let refused = [Destination::Postgresql, Destination::Otlp].into_iter().filter(|destination| has(*destination));
        let shared = Shared {
            instruments: Instruments::new(options.temporality, options.label_sets),
            refused: refused.map(|destination| (destination, AtomicU64::new(0))).collect(),
            storage,
            #[cfg(feature = "forward")]
            export,
            kept: Mutex::default(),
            collector: Mutex::default(),
            options,
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Starts what is behind the manager, each destination for itself: one that fails does not keep the other from
    /// working. After an error it may be called again, for those that failed.
    ///
    /// # Errors
    /// [`ManagerError`], with the destinations that do not work; [`StorageError::AlreadyInitialised`] where all do.
    pub async fn init(&self) -> Result<(), ManagerError> {
        if self.shared.instruments.counts().closed.load(Ordering::Acquire) {
            let closed = |way: Way<'_>| (way.destination(), Err(StorageError::Closed));
            return ManagerError::of(self.shared.ways().map(closed).collect());
        }
        let mut outcomes = self.shared.everywhere(Way::init).await;
        if outcomes.iter().any(|(_, outcome)| outcome.is_ok()) {
            // One that has been running since an earlier call is as it should be.
            outcomes.retain(|(_, outcome)| !matches!(outcome, Err(StorageError::AlreadyInitialised)));
            let destination = outcomes.first().map_or(Destination::Postgresql, |(destination, _)| *destination);
            outcomes.push((destination, self.shared.start_collector()));
        }
        ManagerError::of(outcomes)
    }

    /// The adapter, with all questions; none with [`Backend::Otlp`].
    pub fn storage(&self) -> Option<&OtelStorage> {
        self.shared.storage.as_ref()
    }

    /// Writes a log record as it is.
    ///
    /// # Errors
    /// [`Refusal`] before `init`, after the shutdown, and where too much waits.
    pub fn log(&self, entry: LogEntry) -> Result<(), Refusal> {
        self.shared.log(entry)
    }

    fn log_text(
        &self,
        (level, name): (Level, &str),
        message: String,
        attributes: Attributes,
        trace_id: Option<TraceId>,
    ) -> Result<(), Refusal> {
        let severity_text = name.to_owned();
        self.log(LogEntry { severity_text, attributes, trace_id, ..LogEntry::new(level, message) })
    }

    /// Takes a value of now in: one point of a gauge, as it is. What is to be added up is for [`Self::counter`].
    ///
    /// # Errors
    /// [`Refusal`] before `init`, after the shutdown, and where too much waits.
    pub fn record_metric(
        &self,
        name: impl Into<String>,
        value: impl Into<f64>,
        labels: impl Into<Attributes>,
    ) -> Result<(), Refusal> {
        self.record_metrics(vec![MetricData::gauge(name, value, labels)])
    }

    /// Takes points of any kind in, as they are, with their units.
    ///
    /// # Errors
    /// [`Refusal`] before `init`, after the shutdown, and where too much waits.
    pub fn record_metrics(&self, metrics: Vec<MetricData>) -> Result<(), Refusal> {
        self.shared.metrics(metrics)
    }

    /// A sum that only grows. `unit` is in UCUM, such as `s`, `By` or `{run}`. Asked for again, it is the same one.
    ///
    /// # Errors
    /// [`InstrumentError`].
    pub fn counter(&self, name: &str, unit: &str, description: &str) -> Result<Counter, InstrumentError> {
        self.shared.instruments.register(name, unit, description, Kind::Counter).map(Counter)
    }

    /// A sum that goes up and down.
    ///
    /// # Errors
    /// [`InstrumentError`].
    pub fn up_down_counter(&self, name: &str, unit: &str, description: &str) -> Result<UpDownCounter, InstrumentError> {
        self.shared.instruments.register(name, unit, description, Kind::UpDownCounter).map(UpDownCounter)
    }

    /// Values by class. `bounds` are the upper bounds of the classes, rising, such as [`DEFAULT_BOUNDS`].
    ///
    /// # Errors
    /// [`InstrumentError`].
    pub fn histogram(
        &self,
        name: &str,
        unit: &str,
        description: &str,
        bounds: &[f64],
    ) -> Result<Histogram, InstrumentError> {
        self.shared.instruments.register(name, unit, description, Kind::Histogram(bounds.to_vec())).map(Histogram)
    }

    /// Begins the trace of a run of a workflow. Never fails: a span that is refused when it ends is counted.
    pub fn start_workflow_trace(&self, workflow_id: &str, name: &str, attributes: impl Into<Attributes>) -> SpanGuard {
        SpanGuard::workflow(&self.shared, workflow_id, name, attributes.into())
    }

    /// Ends the trace of a run, with what it failed by, or else well, unless the guard says already how it ended.
    ///
    /// # Errors
    /// [`Refusal`], of a destination that does not get it.
    pub fn end_workflow_trace(&self, mut workflow: SpanGuard, error: Option<&str>) -> Result<(), Refusal> {
        match error {
            Some(message) => workflow.set_error(message),
            None => workflow.set_ok_if_unset(),
        }
        workflow.end()
    }

    /// Log records by trace, level, time and words, out of the database.
    ///
    /// # Errors
    /// Those of [`crate::query::QueryService::search_logs`], and [`QueryError::Unavailable`] with [`Backend::Otlp`], before
    /// `init` and after the shutdown.
    pub async fn get_logs(&self, request: &LogsRequest) -> Result<LogPage, QueryError> {
        let Some(storage) = self.storage() else {
            let reason = "the backend is otlp: log records are asked for where they are sent".to_owned();
            return Err(QueryError::Unavailable { reason });
        };
        storage.search_logs(request).await
    }

    /// Collects counters and histograms, and waits until everything that was taken before is durable at each destination:
    /// for the database as [`crate::storage::Acknowledge`] says, for the endpoint in the spool. Waits for no endpoint.
    ///
    /// # Errors
    /// [`ManagerError`], with what was taken and is not durable.
    pub async fn flush(&self) -> Result<(), ManagerError> {
        // Before `init` and after the shutdown points would be refused: they are kept, or were collected.
        if self.shared.collector.lock().unwrap_or_else(PoisonError::into_inner).is_some() {
            self.shared.collect();
        }
        ManagerError::of(self.shared.everywhere(Way::flush).await)
    }

    /// Collects for the last time, makes durable what was taken, and ends everything, within
    /// [`crate::storage::OtelStorageOptions::cleanup_timeout`] of each destination, at the same time. What is not written
    /// or sent by then waits in the spools for the next process. A second call does nothing.
    ///
    /// # Errors
    /// [`ManagerError`], with what could not be made durable; it is closed all the same.
    pub async fn shutdown(&self) -> Result<(), ManagerError> {
        let collector = self.shared.collector.lock().unwrap_or_else(PoisonError::into_inner).take();
        if collector.is_some() {
            self.shared.instruments.counts().closed.store(true, Ordering::Release);
            self.shared.collect();
        }
        ManagerError::of(self.shared.everywhere(Way::cleanup).await)
    }
}

macro_rules! levels {
    ($($name:ident($level:ident, $text:literal);)*) => {
        impl ObservabilityManager {$(
            #[doc = concat!("Writes a log record of severity ", $text, ", of a trace if it belongs to one.")]
            ///
            /// # Errors
            /// [`Refusal`] before `init`, after the shutdown, and where too much waits.
            pub fn $name(
                &self,
                message: impl Into<String>,
                attributes: impl Into<Attributes>,
                trace_id: Option<TraceId>,
            ) -> Result<(), Refusal> {
                self.log_text((Level::$level, $text), message.into(), attributes.into(), trace_id)
            }
        )*}
    };
}

levels! {
    log_debug(Debug, "DEBUG");
    log_info(Info, "INFO");
    log_warning(Warn, "WARNING");
    log_error(Error, "ERROR");
    log_critical(Fatal, "CRITICAL");
}
