//! The adapter: an application stores its own telemetry in its own process and asks about it.
//!
//! ```text
//! store_* ──▶ queue ──▶ worker ──▶ pipeline::Ingest ──▶ spool ──▶ writers ──▶ PostgreSQL
//!    │  bytes bounded    records → OTLP    │                                      │
//!    ▼                                     ▼                                      ▼
//! Receipt ◀──────────────────────── durable, or why not            queries, through the same handle
//! ```
//!
//! Promises: `store_*` never wait for a disk or the database and answer within microseconds; a [`Receipt`] ends with
//! what is true, never later than [`OtelStorageOptions::store_timeout`] and the time of one more try; what is refused,
//! dropped or given up is counted. Nothing here panics because of the application. The work is done in a runtime of its
//! own, so an application that blocks its runtime, shuts it down or has none holds nothing up. Only OTLP goes from here
//! to the write path: this module knows no table and no socket.
//!
//! ```no_run
//! use oneiric_otel::query::Level;
//! use oneiric_otel::storage::{LogEntry, OtelStorage};
//!
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! let storage = OtelStorage::builder()
//!     .connection_string("postgresql://app:secret@db.example.com/otel")
//!     .service_name("checkout")
//!     .build()?;
//! storage.init().await?;
//! let receipt = storage.store_log(LogEntry::new(Level::Error, "payment refused"))?; // microseconds
//! receipt.await?; // durable
//! storage.cleanup().await?;
//! # Ok(())
//! # }
//! ```

mod closing;
mod encode;
mod error;
mod health;
mod life;
mod metric;
mod options;
mod queries;
mod queue;
mod receipt;
mod record;
#[cfg(feature = "forward")]
mod remote;
#[cfg(feature = "sdk")]
mod sdk;
mod weight;
mod worker;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

pub use error::{NotStored, StorageError, StoreRefused};
pub use health::{DatabaseReport, EmbeddingReport, HealthReport, QueueReport, SpoolReport, WrittenReport};
pub use metric::{
    ExponentialBuckets, ExponentialHistogramPoint, HistogramPoint, MetricData, MetricPoints, Number, NumberPoint,
    SummaryPoint, Temporality,
};
pub use options::{EmbeddingChoice, OtelStorageBuilder, OtelStorageOptions};
pub use receipt::{Acknowledged, Durability, Receipt};
pub use record::{Batch, LogEntry, Origin, SpanData, SpanEvent, SpanKind, SpanLink, SpanStatus, TraceData};
#[cfg(feature = "forward")]
pub(crate) use remote::OtlpExport;
#[cfg(feature = "forward")]
pub use remote::{OtlpDestination, OtlpReport};

#[cfg(feature = "sdk")]
pub use sdk::{StorageLogExporter, StorageMetricExporter, StorageSpanExporter};

pub use crate::settings::Acknowledge;

pub use crate::query::{
    AttributeValue, Attributes, Level, MetricPoint, Moment, SpanId, TextHit as TraceResult, TraceContext, TraceId,
};

use crate::otlp::Group;
use crate::query::QueryService;
use crate::settings::Settings;
use life::{Life, Running};
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use opentelemetry_proto::tonic::metrics::v1::Metric;
use opentelemetry_proto::tonic::trace::v1::Span;
use queue::Records;
use tokio_util::sync::CancellationToken;

/// The adapter. Cheap to clone: all clones are one. [`Self::cleanup`] ends it; the last clone that is dropped without it
/// warns and cleans up in the background, as far as the process lives that long.
#[derive(Debug, Clone)]
pub struct OtelStorage {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    options: OtelStorageOptions,
    /// Set once, by `init`.
    running: OnceLock<Running>,
    life: tokio::sync::Mutex<Life>,
    /// Ends an `init` that is under way.
    starting: Mutex<Option<CancellationToken>>,
    /// Records that were refused before `init`.
    refused_early: AtomicU64,
}

/// Records as OTLP has them, for what the records of this module cannot say.
#[derive(Debug, Clone)]
pub enum OtlpRecords {
    /// Spans.
    Traces(Vec<Group<Span>>),
    /// Metrics.
    Metrics(Vec<Group<Metric>>),
    /// Log records.
    Logs(Vec<Group<LogRecord>>),
}

impl OtelStorage {
    /// Builds an adapter, option by option.
    pub fn builder() -> OtelStorageBuilder {
        OtelStorageBuilder::default()
    }

    /// Builds an adapter that works as settings say: see [`crate::settings`] for where they come from.
    ///
    /// # Errors
    /// [`StorageError::Settings`] and [`StorageError::InvalidOption`], which name what is wrong.
    pub fn from_settings(settings: &Settings) -> Result<Self, StorageError> {
        OtelStorageBuilder::from_settings(settings)?.build()
    }

    fn of(options: OtelStorageOptions) -> Self {
        let shared = Shared {
            options,
            running: OnceLock::new(),
            life: tokio::sync::Mutex::default(),
            starting: Mutex::default(),
            refused_early: AtomicU64::new(0),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Takes spans of a trace in.
    ///
    /// # Errors
    /// [`StoreRefused`], at once. Nothing of it is stored then.
    pub fn store_trace(&self, trace: TraceData) -> Result<Receipt, StoreRefused> {
        self.push(vec![Records::Traces(vec![trace])])
    }

    /// Takes spans of the adapter's origin in, of whatever traces.
    ///
    /// # Errors
    /// [`StoreRefused`], at once. Nothing of it is stored then.
    pub fn store_spans(&self, spans: Vec<SpanData>) -> Result<Receipt, StoreRefused> {
        self.store_trace(TraceData { origin: None, spans })
    }

    /// Takes metrics in.
    ///
    /// # Errors
    /// [`StoreRefused`], at once. Nothing of it is stored then.
    pub fn store_metrics(&self, metrics: Vec<MetricData>) -> Result<Receipt, StoreRefused> {
        self.push(vec![Records::Metrics(metrics)])
    }

    /// Takes a log record in. Each call is a record of its own, also where it equals another.
    ///
    /// # Errors
    /// [`StoreRefused`], at once. Nothing of it is stored then.
    pub fn store_log(&self, entry: LogEntry) -> Result<Receipt, StoreRefused> {
        self.push(vec![Records::Logs(vec![entry])])
    }

    /// Takes records of all kinds in, all or none. One receipt is for all of them.
    ///
    /// # Errors
    /// [`StoreRefused`], at once. Nothing of it is stored then.
    pub fn batch_store(&self, batch: Batch) -> Result<Receipt, StoreRefused> {
        self.push(Records::of(batch))
    }

    /// Takes records in as OTLP has them.
    ///
    /// # Errors
    /// [`StoreRefused`], at once. Nothing of it is stored then.
    pub fn store_otlp(&self, records: OtlpRecords) -> Result<Receipt, StoreRefused> {
        self.push(vec![match records {
            OtlpRecords::Traces(groups) => Records::SpanGroups(groups),
            OtlpRecords::Metrics(groups) => Records::MetricGroups(groups),
            OtlpRecords::Logs(groups) => Records::LogGroups(groups),
        }])
    }

    fn push(&self, mut call: Vec<Records>) -> Result<Receipt, StoreRefused> {
        if let Some(running) = self.shared.running.get() {
            return running.queue.push(&mut call);
        }
        let records = call.iter().map(Records::count).sum();
        self.shared.refused_early.fetch_add(records, Ordering::Relaxed);
        Err(StoreRefused::NotInitialised)
    }

    fn running(&self) -> Result<&Running, StorageError> {
        self.shared.running.get().ok_or(StorageError::NotInitialised)
    }

    fn asked(&self) -> Result<QueryService, StorageError> {
        let running = self.running()?;
        match running.queue.closed() {
            Some(StoreRefused::Closed) => Err(StorageError::Closed),
            _ => Ok(running.asked.borrow().clone()),
        }
    }
}
