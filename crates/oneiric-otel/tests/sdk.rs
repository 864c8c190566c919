//! Exporters for the OpenTelemetry SDK: an export that succeeds is durable, and storing makes no telemetry in turn.
//!
//! A program of its own, because one test sets the subscriber of the process.

use std::time::Duration;

use oneiric_otel::storage::{Acknowledge, EmbeddingChoice, OtelStorage, OtelStorageBuilder};
use oneiric_otel_testkit::TestDatabase;
use opentelemetry::logs::{AnyValue, LogRecord as _, Logger as _, LoggerProvider as _, Severity};
use opentelemetry::metrics::MeterProvider as _;
use opentelemetry::trace::{Tracer as _, TracerProvider as _};
use opentelemetry_appender_tracing::layer::OpenTelemetryTracingBridge;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkError;
use opentelemetry_sdk::logs::SdkLoggerProvider;
use opentelemetry_sdk::metrics::exporter::PushMetricExporter as _;
use opentelemetry_sdk::metrics::{SdkMeterProvider, Temporality};
use opentelemetry_sdk::trace::{SdkTracerProvider, SpanExporter as _};
use tempfile::TempDir;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::layer::{Filter, Layer as _, SubscriberExt as _};

struct Stage {
    test: TestDatabase,
    dir: TempDir,
}

impl Stage {
    async fn new() -> Self {
        Self { test: TestDatabase::create().await, dir: tempfile::tempdir().expect("a directory") }
    }

    fn builder(&self) -> OtelStorageBuilder {
        OtelStorage::builder()
            .connection_string(self.test.url())
            .data_dir(self.dir.path())
            .embedding(EmbeddingChoice::None)
            .acknowledge(Acknowledge::Stored)
    }

    async fn storage(&self) -> OtelStorage {
        let storage = self.builder().build().expect("options");
        storage.init().await.expect("starts");
        storage
    }

    async fn counts(&self) -> [i64; 3] {
        let mut counts = [0; 3];
        for (count, table) in counts.iter_mut().zip(["otel_spans", "otel_logs", "otel_metrics"]) {
            *count = self.test.count(&format!("SELECT count(*) FROM otel.{table}")).await;
        }
        counts
    }

    async fn text(&self, sql: &str) -> String {
        self.test.client().await.query_one(sql, &[]).await.expect("a row").get(0)
    }
}

fn resource() -> Resource {
    Resource::builder_empty().with_service_name("checkout").build()
}

fn tracer_provider(storage: &OtelStorage) -> SdkTracerProvider {
    SdkTracerProvider::builder().with_resource(resource()).with_batch_exporter(storage.span_exporter()).build()
}

fn logger_provider(storage: &OtelStorage) -> SdkLoggerProvider {
    SdkLoggerProvider::builder().with_resource(resource()).with_batch_exporter(storage.log_exporter()).build()
}

fn meter_provider(storage: &OtelStorage) -> SdkMeterProvider {
    SdkMeterProvider::builder().with_resource(resource()).with_periodic_exporter(storage.metric_exporter()).build()
}

// On one thread, which a flush of the SDK blocks: the adapter works on others.
#[tokio::test]
async fn what_was_flushed_is_in_the_database() {
    let stage = Stage::new().await;
    let storage = stage.storage().await;
    let (traces, logs, metrics) = (tracer_provider(&storage), logger_provider(&storage), meter_provider(&storage));
    traces.tracer("orders").in_span("order", |_| {});
    let logger = logs.logger("orders");
    let mut record = logger.create_log_record();
    record.set_severity_number(Severity::Error);
    record.set_body(AnyValue::from("out of stock"));
    logger.emit(record);
    metrics.meter("orders").u64_counter("orders").build().add(2, &[]);
    traces.force_flush().expect("stored");
    logs.force_flush().expect("stored");
    metrics.force_flush().expect("stored");
    assert_eq!(stage.counts().await, [1, 1, 1]);
    let services = "SELECT string_agg(DISTINCT service_name, ',') FROM otel.spans";
    assert_eq!(stage.text(services).await, "checkout");
    traces.shutdown().expect("shuts down");
    logs.shutdown().expect("shuts down");
    metrics.shutdown().expect("shuts down");
    storage.cleanup().await.expect("cleans up");
}

#[tokio::test]
async fn a_simple_processor_stores_each_span_as_it_ends() {
    let stage = Stage::new().await;
    let storage = stage.storage().await;
    let traces = SdkTracerProvider::builder().with_simple_exporter(storage.span_exporter()).build();
    for _ in 0..3 {
        traces.tracer("orders").in_span("order", |_| {});
    }
    assert_eq!(stage.counts().await[0], 3);
    storage.cleanup().await.expect("cleans up");
}

#[tokio::test]
async fn what_cannot_be_stored_is_an_error_of_the_export() {
    let stage = Stage::new().await;
    let storage = stage.builder().build().expect("options");
    let exporter = storage.span_exporter();
    let spans = vec![span()];
    let early = exporter.export(spans.clone()).await.expect_err("not initialised").to_string();
    assert!(early.contains("call init() first"), "{early}");
    storage.init().await.expect("starts");
    exporter.export(spans.clone()).await.expect("stored");
    exporter.export(Vec::new()).await.expect("nothing to store");
    exporter.shutdown().expect("shuts down");
    assert!(matches!(exporter.shutdown(), Err(OTelSdkError::AlreadyShutdown)));
    assert!(matches!(exporter.export(spans.clone()).await, Err(OTelSdkError::AlreadyShutdown)));
    let other = storage.span_exporter();
    storage.cleanup().await.expect("cleans up");
    let late = other.export(spans).await.expect_err("closed").to_string();
    assert!(late.contains("closed"), "{late}");
    assert_eq!(storage.metric_exporter().with_temporality(Temporality::Delta).temporality(), Temporality::Delta);
}

/// A span as an SDK exports it.
fn span() -> opentelemetry_sdk::trace::SpanData {
    #[derive(Debug, Clone, Default)]
    struct Keep(std::sync::Arc<std::sync::Mutex<Vec<opentelemetry_sdk::trace::SpanData>>>);
    impl opentelemetry_sdk::trace::SpanExporter for Keep {
        async fn export(
            &self,
            batch: Vec<opentelemetry_sdk::trace::SpanData>,
        ) -> opentelemetry_sdk::error::OTelSdkResult {
            self.0.lock().expect("a lock").extend(batch);
            Ok(())
        }
    }
    let keep = Keep::default();
    let provider = SdkTracerProvider::builder().with_simple_exporter(keep.clone()).build();
    provider.tracer("orders").in_span("order", |_| {});
    let span = keep.0.lock().expect("a lock").pop();
    span.expect("a span")
}

/// What the SDK says of itself is its own affair.
fn not_of_the_sdk<S: tracing::Subscriber>() -> impl Filter<S> {
    filter_fn(|metadata| !metadata.target().starts_with("opentelemetry"))
}

/// Everything of everybody is exported, also what is only for debugging. Whatever storing says or traces of itself would
/// be stored, which would say and trace something again.
#[tokio::test]
async fn a_quiet_application_stays_quiet() {
    let stage = Stage::new().await;
    let storage = stage.storage().await;
    let (traces, logs) = (tracer_provider(&storage), logger_provider(&storage));
    let subscriber = tracing_subscriber::registry()
        .with(tracing_opentelemetry::layer().with_tracer(traces.tracer("checkout")).with_filter(not_of_the_sdk()))
        .with(OpenTelemetryTracingBridge::new(&logs).with_filter(not_of_the_sdk()));
    tracing::subscriber::set_global_default(subscriber).expect("the only one");

    tracing::info_span!("order").in_scope(|| tracing::warn!("one left in stock"));
    tracing::info!(target: "oneiric_otel::storage", "of this library itself");
    for round in 0..20 {
        traces.force_flush().expect("stored");
        logs.force_flush().expect("stored");
        storage.flush().await.expect("stored");
        // Without `self_trace::without_telemetry` there are more spans in the second round already.
        assert_eq!(stage.counts().await[..2], [1, 1], "in round {round}");
        // Background work has its turn: what was written is derived meanwhile, and there is maintenance.
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert_eq!(stage.text("SELECT body FROM otel.logs").await, "one left in stock");
    assert_eq!(stage.text("SELECT name FROM otel.spans").await, "order");
    storage.cleanup().await.expect("cleans up");
}
