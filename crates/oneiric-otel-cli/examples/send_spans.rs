//! The Rust program of the README: sends a span to a running oneiric-otel.

use opentelemetry::KeyValue;
use opentelemetry::trace::{Span, Status, Tracer, TracerProvider};
use opentelemetry_otlp::{SpanExporter, WithExportConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SdkTracerProvider;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let exporter = SpanExporter::builder().with_tonic().with_endpoint("http://127.0.0.1:4317").build()?;
    let provider = SdkTracerProvider::builder()
        .with_resource(Resource::builder().with_service_name("till").build())
        .with_batch_exporter(exporter)
        .build();

    let mut span = provider.tracer("receipts").start("print receipt");
    span.set_attribute(KeyValue::new("printer", "counter-2"));
    span.set_status(Status::error("paper jam"));
    span.end();

    provider.shutdown()?;
    Ok(())
}
