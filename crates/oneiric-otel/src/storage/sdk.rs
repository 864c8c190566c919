//! Exporters for the OpenTelemetry SDK: what an application measures of itself is stored in its own process.
//!
//! Promises: an export succeeds only when its records are durable, as [`super::Acknowledge`] says; what does not fit is
//! tried again for as long as [`super::OtelStorageOptions::store_timeout`]. Storing makes no telemetry in turn: the work
//! runs with OpenTelemetry's suppression, and log records of this library itself are left out.
//!
//! They work with the batch processors and the periodic reader of the SDK, on whatever runtime the application has.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs};
use opentelemetry_proto::tonic::metrics::v1::{Metric, ResourceMetrics};
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, Span};
use opentelemetry_proto::transform::common::tonic::ResourceAttributesWithSchema;
use opentelemetry_proto::transform::logs::tonic::group_logs_by_resource_and_scope;
use opentelemetry_proto::transform::trace::tonic::group_spans_by_resource_and_scope;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::{OTelSdkError, OTelSdkResult};
use opentelemetry_sdk::logs::{LogBatch, LogExporter};
use opentelemetry_sdk::metrics::Temporality;
use opentelemetry_sdk::metrics::data::ResourceMetrics as SdkResourceMetrics;
use opentelemetry_sdk::metrics::exporter::PushMetricExporter;
use opentelemetry_sdk::trace::{SpanData, SpanExporter};

use super::error::{NotStored, StoreRefused};
use super::queue::Records;
use super::{OtelStorage, life};
use crate::otlp::{Group, ResourceEnvelope, ScopeEnvelope};

/// Targets of this library's own events begin so.
const OWN_TARGET: &str = "oneiric_otel";

/// Pause before what did not fit is tried again.
const TRY_AGAIN_AFTER: Duration = Duration::from_millis(20);

impl OtelStorage {
    /// An exporter for `SdkTracerProvider::builder().with_batch_exporter(…)`. [`OtelStorage::init`] comes before its first
    /// export.
    pub fn span_exporter(&self) -> StorageSpanExporter {
        StorageSpanExporter { door: Door::new(self), resource: ResourceAttributesWithSchema::default() }
    }

    /// An exporter for `SdkLoggerProvider::builder().with_batch_exporter(…)`.
    pub fn log_exporter(&self) -> StorageLogExporter {
        StorageLogExporter { door: Door::new(self), resource: ResourceAttributesWithSchema::default() }
    }

    /// An exporter for `PeriodicReader::builder(…)`, of cumulative values.
    pub fn metric_exporter(&self) -> StorageMetricExporter {
        StorageMetricExporter { door: Door::new(self), temporality: Temporality::Cumulative }
    }
}

/// Stores the spans of an SDK.
#[derive(Debug)]
pub struct StorageSpanExporter {
    door: Door,
    resource: ResourceAttributesWithSchema,
}

impl SpanExporter for StorageSpanExporter {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let groups = span_groups(group_spans_by_resource_and_scope(batch, &self.resource));
        self.door.store(Records::SpanGroups(groups)).await
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        self.door.shut()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.resource = resource.into();
    }
}

/// Stores the log records of an SDK.
#[derive(Debug)]
pub struct StorageLogExporter {
    door: Door,
    resource: ResourceAttributesWithSchema,
}

impl LogExporter for StorageLogExporter {
    async fn export(&self, batch: LogBatch<'_>) -> OTelSdkResult {
        let mut groups = log_groups(group_logs_by_resource_and_scope(&batch, &self.resource));
        groups.retain(|group| !group.scope.scope.as_ref().is_some_and(|scope| is_own(&scope.name)));
        self.door.store(Records::LogGroups(groups)).await
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        self.door.shut()
    }

    fn event_enabled(&self, _: opentelemetry::logs::Severity, target: &str, _: Option<&str>) -> bool {
        !is_own(target)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.resource = resource.into();
    }
}

/// Stores the metrics of an SDK.
#[derive(Debug)]
pub struct StorageMetricExporter {
    door: Door,
    temporality: Temporality,
}

impl StorageMetricExporter {
    /// The same, with values since the export before, or another choice.
    #[must_use]
    pub fn with_temporality(self, temporality: Temporality) -> Self {
        Self { temporality, ..self }
    }
}

impl PushMetricExporter for StorageMetricExporter {
    async fn export(&self, metrics: &SdkResourceMetrics) -> OTelSdkResult {
        let request = ExportMetricsServiceRequest::from(metrics);
        self.door.store(Records::MetricGroups(metric_groups(request.resource_metrics))).await
    }

    /// Nothing is left behind by an export.
    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        self.door.shut()
    }

    fn temporality(&self) -> Temporality {
        self.temporality
    }
}

/// The way of an exporter into the adapter.
#[derive(Debug)]
struct Door {
    storage: OtelStorage,
    is_shut: AtomicBool,
}

impl Door {
    fn new(storage: &OtelStorage) -> Self {
        Self { storage: storage.clone(), is_shut: AtomicBool::new(false) }
    }

    /// Every export waits for its receipt, so there is nothing to finish.
    fn shut(&self) -> OTelSdkResult {
        if self.is_shut.swap(true, Ordering::Relaxed) { Err(OTelSdkError::AlreadyShutdown) } else { Ok(()) }
    }

    async fn store(&self, records: Records) -> OTelSdkResult {
        if self.is_shut.load(Ordering::Relaxed) {
            return Err(OTelSdkError::AlreadyShutdown);
        }
        if records.is_empty() {
            return Ok(());
        }
        let running = self.storage.running().map_err(|error| failed(&error))?;
        if let Some(refused) = running.queue.closed() {
            return Err(failed(&refused));
        }
        let (queue, patience) = (Arc::clone(&running.queue), self.storage.shared.options.store_timeout);
        // The application's runtime may be blocked by whoever waits for this, or there is none.
        let stored = life::run_on(running.runtime.clone(), async move {
            let began = Instant::now();
            let mut call = vec![records];
            let receipt = loop {
                match queue.push(&mut call) {
                    Err(StoreRefused::QueueFull { .. }) if began.elapsed() < patience => {
                        tokio::time::sleep(TRY_AGAIN_AFTER).await;
                    }
                    Err(refused) => return Ok(Err(failed(&refused))),
                    Ok(receipt) => break receipt,
                }
            };
            Ok(Ok(receipt.await))
        });
        match stored.await.map_err(|error| failed(&error))?? {
            Ok(stored) if stored.rejected == 0 => Ok(()),
            Ok(stored) => Err(failed(&format!("{} records were rejected: {}", stored.rejected, stored.message))),
            Err(NotStored::TimedOut { after }) => Err(OTelSdkError::Timeout(after)),
            Err(reason) => Err(failed(&reason)),
        }
    }
}

fn failed(reason: &impl ToString) -> OTelSdkError {
    OTelSdkError::InternalFailure(reason.to_string())
}

/// Whether events of this target are of one of the crates of this library.
fn is_own(target: &str) -> bool {
    let of_crate = target.split("::").next().unwrap_or_default();
    of_crate == OWN_TARGET || of_crate.strip_prefix(OWN_TARGET).is_some_and(|rest| rest.starts_with('_'))
}

macro_rules! groups {
    ($name:ident: $resources:ty, $scopes:ident, $records:ident -> $record:ty) => {
        fn $name(resources: Vec<$resources>) -> Vec<Group<$record>> {
            let mut groups = Vec::new();
            for part in resources {
                let resource = Arc::new(ResourceEnvelope { resource: part.resource, schema_url: part.schema_url });
                for part in part.$scopes {
                    let scope = Arc::new(ScopeEnvelope { scope: part.scope, schema_url: part.schema_url });
                    groups.push(Group { resource: Arc::clone(&resource), scope, records: part.$records });
                }
            }
            groups
        }
    };
}

groups!(span_groups: ResourceSpans, scope_spans, spans -> Span);
groups!(log_groups: ResourceLogs, scope_logs, log_records -> LogRecord);
groups!(metric_groups: ResourceMetrics, scope_metrics, metrics -> Metric);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_events_are_told_from_those_of_applications() {
        for own in ["oneiric_otel", "oneiric_otel::pipeline::writer", "oneiric_otel_spool::commit"] {
            assert!(is_own(own), "{own}");
        }
        for foreign in ["", "checkout", "oneiric", "oneiric_other", "oneiric_otelish::x", "app::oneiric_otel"] {
            assert!(!is_own(foreign), "{foreign}");
        }
    }
}
