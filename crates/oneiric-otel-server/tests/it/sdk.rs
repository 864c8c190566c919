//! The OpenTelemetry SDK for Rust, as an application uses it: what SQL shows is what was recorded.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use opentelemetry::logs::{AnyValue, LogRecord as _, Logger as _, LoggerProvider as _, Severity};
use opentelemetry::metrics::MeterProvider as _;
use opentelemetry::trace::{Span as _, SpanKind, Status, TraceContextExt as _, Tracer as _, TracerProvider as _};
use opentelemetry::{Context, KeyValue};
use opentelemetry_otlp::{
    Compression, LogExporter, MetricExporter, Protocol, SpanExporter, WithExportConfig as _, WithHttpConfig as _,
    WithTonicConfig as _,
};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::logs::SdkLoggerProvider;
use opentelemetry_sdk::metrics::SdkMeterProvider;
use opentelemetry_sdk::trace::SdkTracerProvider;

use crate::serving::Serving;

const SPANS: usize = 40;

pub(crate) struct Exporters {
    pub(crate) spans: SpanExporter,
    pub(crate) metrics: MetricExporter,
    pub(crate) logs: LogExporter,
}

fn over_grpc(address: SocketAddr) -> Exporters {
    let endpoint = format!("http://{address}");
    let gzip = Compression::Gzip;
    Exporters {
        spans: SpanExporter::builder().with_tonic().with_endpoint(&endpoint).with_compression(gzip).build().unwrap(),
        metrics: MetricExporter::builder().with_tonic().with_endpoint(&endpoint).build().unwrap(),
        logs: LogExporter::builder().with_tonic().with_endpoint(&endpoint).build().unwrap(),
    }
}

fn over_http(address: SocketAddr) -> Exporters {
    let endpoint = |signal| format!("http://{address}/v1/{signal}");
    let client = reqwest::blocking::Client::new();
    Exporters {
        spans: SpanExporter::builder()
            .with_http()
            .with_http_client(client.clone())
            .with_protocol(Protocol::HttpBinary)
            .with_compression(Compression::Gzip)
            .with_endpoint(endpoint("traces"))
            .build()
            .unwrap(),
        metrics: MetricExporter::builder()
            .with_http()
            .with_http_client(client.clone())
            .with_protocol(Protocol::HttpBinary)
            .with_endpoint(endpoint("metrics"))
            .build()
            .unwrap(),
        logs: LogExporter::builder()
            .with_http()
            .with_http_client(client)
            .with_protocol(Protocol::HttpBinary)
            .with_endpoint(endpoint("logs"))
            .build()
            .unwrap(),
    }
}

/// Records and exports; returns the ids of the spans as `trace/span`.
pub(crate) fn record(service: &'static str, exporters: Exporters) -> BTreeSet<String> {
    let resource = Resource::builder().with_service_name(service).build();
    let tracers =
        SdkTracerProvider::builder().with_batch_exporter(exporters.spans).with_resource(resource.clone()).build();
    let meters =
        SdkMeterProvider::builder().with_periodic_exporter(exporters.metrics).with_resource(resource.clone()).build();
    let loggers = SdkLoggerProvider::builder().with_batch_exporter(exporters.logs).with_resource(resource).build();

    let tracer = tracers.tracer("shop");
    let logger = loggers.logger("shop");
    let counter = meters.meter("shop").u64_counter("orders").with_unit("{order}").build();
    let latency = meters.meter("shop").f64_histogram("latency").with_boundaries(vec![1.0, 10.0]).build();
    let mut ids = BTreeSet::new();
    for number in 0..SPANS as i64 {
        let mut span = tracer
            .span_builder("charge card")
            .with_kind(SpanKind::Client)
            .with_attributes([KeyValue::new("order", number), KeyValue::new("amount", 0.5)])
            .start(&tracer);
        if number % 4 == 0 {
            span.add_event("exception", vec![KeyValue::new("exception.type", "CardRefused")]);
            span.set_status(Status::error("card refused"));
        }
        let context = Context::current_with_value(()).with_remote_span_context(span.span_context().clone());
        ids.insert(format!("{}/{}", span.span_context().trace_id(), span.span_context().span_id()));
        span.end();

        let _guard = context.attach();
        let mut line = logger.create_log_record();
        line.set_severity_number(Severity::Warn);
        line.set_body(AnyValue::from(format!("order {number}")));
        line.add_attribute("order", number);
        logger.emit(line);
        counter.add(1, &[KeyValue::new("kind", if number % 2 == 0 { "even" } else { "odd" })]);
        latency.record(number as f64, &[]);
    }
    tracers.shutdown().unwrap();
    meters.shutdown().unwrap();
    loggers.shutdown().unwrap();
    ids
}

pub(crate) async fn assert_stored(server: &Serving, service: &str, ids: BTreeSet<String>) {
    let client = server.test().client().await;
    let rows = client
        .query("select trace_id || '/' || span_id from spans where service_name = $1", &[&service])
        .await
        .unwrap();
    assert_eq!(rows.iter().map(|row| row.get::<_, String>(0)).collect::<BTreeSet<_>>(), ids);
    let of = |table: &str, condition: &str| format!("{table} where service_name = '{service}' and {condition}");
    let errors = "status = 'error' and status_message = 'card refused' and error_type = 'CardRefused'";
    for (what, expected) in [
        (of("spans", "kind = 'client' and scope_name = 'shop' and attributes->>'amount' = '0.5'"), SPANS),
        (of("spans", errors), SPANS / 4),
        (of("logs", "severity_number = 13 and body = 'order ' || (attributes->>'order')"), SPANS),
        (of("metrics", "metric_name = 'orders' and unit = '{order}' and monotonic and value_int = 20"), 2),
        (of("metrics", "metric_name = 'latency' and count = 40 and sum = 780 and bucket_counts = '{2,9,29}'"), 1),
    ] {
        assert_eq!(server.count(&what).await, expected as i64, "{what}");
    }
    let joined = "select count(*) from logs join spans using (trace_id, span_id) where logs.attributes->>'order' =
                  spans.attributes->>'order' and spans.service_name = ";
    assert_eq!(server.test().count(&format!("{joined}'{service}'")).await, SPANS as i64);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_sdk_sends_over_grpc_is_stored() {
    let server = Serving::start().await;
    let address = server.grpc;
    let ids = tokio::task::spawn_blocking(move || record("sdk over grpc", over_grpc(address))).await.unwrap();
    assert_stored(&server, "sdk over grpc", ids).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_sdk_sends_over_http_is_stored() {
    let server = Serving::start().await;
    let address = server.http;
    let ids = tokio::task::spawn_blocking(move || record("sdk over http", over_http(address))).await.unwrap();
    assert_stored(&server, "sdk over http", ids).await;
}
