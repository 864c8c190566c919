//! An application that uses `tracing` and the OpenTelemetry SDK, and stores what they see in its own process.
//!
//!     cargo run -p oneiric-otel --features embedded,sdk --example tracing [DATABASE_URL]
//!
//! Without a URL it brings its own PostgreSQL.

#![expect(clippy::print_stdout, reason = "a program that reports")]

use std::error::Error;

use oneiric_otel::query::MAX_TRACE_SPANS;
use oneiric_otel::storage::{EmbeddingChoice, OtelStorage, TraceId};
use opentelemetry::metrics::MeterProvider as _;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry::{KeyValue, trace::TraceContextExt as _};
use opentelemetry_appender_tracing::layer::OpenTelemetryTracingBridge;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::logs::SdkLoggerProvider;
use opentelemetry_sdk::metrics::SdkMeterProvider;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    run(std::env::args().nth(1)).await
}

/// Works on the database of this URL, or on one of its own.
pub(crate) async fn run(url: Option<String>) -> Result<(), Box<dyn Error>> {
    let dir = tempfile::tempdir()?;
    let mut builder = OtelStorage::builder().data_dir(dir.path()).min_free_bytes(0).embedding(EmbeddingChoice::None);
    if let Some(url) = url {
        builder = builder.connection_string(url);
    }
    let storage = builder.build()?;
    storage.init().await?;

    let resource = Resource::builder().with_service_name("checkout").build();
    let traces = SdkTracerProvider::builder()
        .with_resource(resource.clone())
        .with_batch_exporter(storage.span_exporter())
        .build();
    let logs = SdkLoggerProvider::builder()
        .with_resource(resource.clone())
        .with_batch_exporter(storage.log_exporter())
        .build();
    let metrics =
        SdkMeterProvider::builder().with_resource(resource).with_periodic_exporter(storage.metric_exporter()).build();
    let subscriber = tracing_subscriber::registry()
        .with(tracing_opentelemetry::layer().with_tracer(traces.tracer("checkout")).with_filter(LevelFilter::INFO))
        .with(OpenTelemetryTracingBridge::new(&logs).with_filter(LevelFilter::INFO));
    tracing::subscriber::set_global_default(subscriber)?;

    let trace_id = order(17);
    metrics.meter("checkout").u64_counter("orders").build().add(1, &[KeyValue::new("country", "NL")]);

    // Each of these returns when what was made until now is durable.
    traces.shutdown()?;
    logs.shutdown()?;
    metrics.shutdown()?;
    storage.flush().await?;
    while storage.health().await?.spool.is_some_and(|spool| spool.requests.values().any(|waiting| *waiting > 0)) {
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    let trace = storage.get_trace(trace_id, MAX_TRACE_SPANS).await?;
    for span in &trace.spans {
        println!("{} {}", span.service_name, span.name.as_str().unwrap_or_default());
    }
    storage.cleanup().await?;
    Ok(())
}

/// Some work of an application that knows nothing of where its telemetry goes.
#[tracing::instrument]
fn order(number: u64) -> TraceId {
    tracing::info_span!("reserve stock").in_scope(|| tracing::warn!(number, "one left in stock"));
    TraceId(tracing::Span::current().context().span().span_context().trace_id().to_bytes())
}
