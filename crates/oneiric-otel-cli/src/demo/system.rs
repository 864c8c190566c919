//! The simulated system: services that send what happens to them over OTLP/gRPC, each with an OpenTelemetry SDK of its
//! own.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result};
use oneiric_otel_bench::demo::AGENT;
use oneiric_otel_bench::demo::plan::{Fault, Planned, Step};
use oneiric_otel_bench::demo::shop::{CHECKOUT, INVENTORY, PAYMENT, RECOMMENDATION, STOREFRONT};
use opentelemetry::logs::{AnyValue, LogRecord as _, Logger as _, LoggerProvider as _};
use opentelemetry::metrics::{Counter, Histogram, MeterProvider as _};
use opentelemetry::trace::{
    Span as _, SpanBuilder, SpanKind, Status, TraceContextExt as _, TraceId, TracerProvider as _,
};
use opentelemetry::{Context, KeyValue};
use opentelemetry_otlp::{LogExporter, MetricExporter, SpanExporter, WithExportConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::logs::{BatchConfigBuilder as LogBatch, BatchLogProcessor, SdkLogger, SdkLoggerProvider};
use opentelemetry_sdk::metrics::SdkMeterProvider;
use opentelemetry_sdk::trace::{
    BatchConfigBuilder as SpanBatch, BatchSpanProcessor, SdkTracer, SdkTracerProvider, SpanLimits,
};

const SERVICES: [(&str, &str); 6] = [
    (STOREFRONT, "4.12.0"),
    (CHECKOUT, "2.7.1"),
    (INVENTORY, "1.31.4"),
    (PAYMENT, "3.0.2"),
    (RECOMMENDATION, "0.9.18"),
    (AGENT, "0.4.0"),
];

/// The names of the services that send.
pub(crate) fn service_names() -> [&'static str; 6] {
    SERVICES.map(|(name, _)| name)
}

/// All of the demo fits, so that nothing is dropped for want of room.
const QUEUE: usize = 1 << 16;
/// The whole plan should be on its way at once.
const DELAY: Duration = Duration::from_millis(100);

/// The services.
#[derive(Debug)]
pub(crate) struct System {
    services: HashMap<&'static str, Service>,
}

/// What was handed to the SDKs.
#[derive(Debug, Default)]
pub(crate) struct Told {
    pub(crate) traces: BTreeMap<[u8; 16], Option<Fault>>,
    pub(crate) spans: usize,
    pub(crate) logs: usize,
}

#[derive(Debug)]
struct Service {
    tracers: SdkTracerProvider,
    loggers: SdkLoggerProvider,
    meters: SdkMeterProvider,
    tracer: SdkTracer,
    logger: SdkLogger,
    requests: Histogram<f64>,
    orders: Counter<u64>,
    tokens: Histogram<u64>,
}

impl System {
    /// Sets up the SDKs to send to `endpoint`, such as `http://127.0.0.1:4317`. Must be called inside a tokio runtime,
    /// which the exporters use.
    pub(crate) fn connect(endpoint: &str) -> Result<Self> {
        let mut services = HashMap::new();
        for (name, version) in SERVICES {
            let service =
                Service::connect(endpoint, name, version).with_context(|| format!("OpenTelemetry SDK of {name}"))?;
            services.insert(name, service);
        }
        Ok(Self { services })
    }

    /// Lets the plan happen: every span, log record and measurement goes to the SDK of its service.
    pub(crate) fn play(&self, plan: &[Planned]) -> Told {
        let now = SystemTime::now();
        let mut told = Told::default();
        for planned in plan {
            let trace_id = self.tell(&planned.root, &Context::new(), now - planned.ago);
            told.traces.insert(trace_id.to_bytes(), planned.fault);
            told.spans += planned.root.span_count();
            told.logs += planned.root.line_count();
        }
        told
    }

    fn tell(&self, step: &Step, parent: &Context, begin: SystemTime) -> TraceId {
        // Plans are made of the services above only.
        let Some(service) = self.services.get(step.service) else { return TraceId::INVALID };
        let mut span = SpanBuilder::from_name(step.name.clone())
            .with_kind(step.kind.clone())
            .with_start_time(begin)
            .with_attributes(step.attributes.clone())
            .start_with_context(&service.tracer, parent);
        let context = span.span_context().clone();
        if let Some(problem) = &step.error {
            if problem.thrown {
                let attributes = vec![
                    KeyValue::new("exception.type", problem.kind.clone()),
                    KeyValue::new("exception.message", problem.message.clone()),
                ];
                span.add_event_with_timestamp("exception", begin + step.duration, attributes);
            }
            span.set_status(Status::error(problem.message.clone()));
        }
        for line in &step.lines {
            let mut record = service.logger.create_log_record();
            record.set_timestamp(begin + line.offset);
            record.set_severity_number(line.severity);
            record.set_severity_text(line.severity.name());
            record.set_body(AnyValue::from(line.text.clone()));
            record.set_trace_context(context.trace_id(), context.span_id(), Some(context.trace_flags()));
            service.logger.emit(record);
        }
        service.measure(step);
        let remote = parent.with_remote_span_context(context.clone());
        for child in &step.children {
            self.tell(child, &remote, begin + child.offset);
        }
        span.end_with_timestamp(begin + step.duration);
        context.trace_id()
    }

    /// Sends what is waiting and ends the SDKs. Blocks.
    ///
    /// # Errors
    /// When something could not be delivered.
    pub(crate) fn shut_down(self) -> Result<()> {
        for (name, service) in self.services {
            let context = || format!("{name} could not deliver its telemetry");
            service.tracers.shutdown().with_context(context)?;
            service.loggers.shutdown().with_context(context)?;
            service.meters.shutdown().with_context(context)?;
        }
        Ok(())
    }
}

impl Service {
    fn connect(endpoint: &str, name: &'static str, version: &'static str) -> Result<Self> {
        let resource = Resource::builder_empty()
            .with_attributes([
                KeyValue::new("service.name", name),
                KeyValue::new("service.version", version),
                KeyValue::new("service.namespace", "shop"),
                KeyValue::new("service.instance.id", format!("{name}-0")),
                KeyValue::new("deployment.environment.name", "demo"),
                KeyValue::new("telemetry.sdk.language", "rust"),
            ])
            .build();
        let spans = SpanExporter::builder().with_tonic().with_endpoint(endpoint).build()?;
        let logs = LogExporter::builder().with_tonic().with_endpoint(endpoint).build()?;
        let metrics = MetricExporter::builder().with_tonic().with_endpoint(endpoint).build()?;
        let span_batch = SpanBatch::default().with_max_queue_size(QUEUE).with_scheduled_delay(DELAY).build();
        let log_batch = LogBatch::default().with_max_queue_size(QUEUE).with_scheduled_delay(DELAY).build();
        let tracers = SdkTracerProvider::builder()
            .with_span_processor(BatchSpanProcessor::builder(spans).with_batch_config(span_batch).build())
            .with_span_limits(SpanLimits::default())
            .with_resource(resource.clone())
            .build();
        let loggers = SdkLoggerProvider::builder()
            .with_log_processor(BatchLogProcessor::builder(logs).with_batch_config(log_batch).build())
            .with_resource(resource.clone())
            .build();
        let meters = SdkMeterProvider::builder().with_periodic_exporter(metrics).with_resource(resource).build();
        let meter = meters.meter("shop");
        Ok(Self {
            tracer: tracers.tracer("shop"),
            logger: loggers.logger("shop"),
            requests: meter
                .f64_histogram("http.server.request.duration")
                .with_unit("s")
                .with_description("Duration of HTTP server requests")
                .build(),
            orders: meter.u64_counter("shop.orders").with_description("Orders by outcome").build(),
            tokens: meter
                .u64_histogram("gen_ai.client.token.usage")
                .with_unit("{token}")
                .with_description("Tokens used by requests to language models")
                .build(),
            tracers,
            loggers,
            meters,
        })
    }

    fn measure(&self, step: &Step) {
        let value = |key: &str| {
            step.attributes
                .iter()
                .find(|attribute| attribute.key.as_str() == key)
                .map(|attribute| attribute.value.clone())
        };
        if step.kind == SpanKind::Server
            && let Some(route) = value("http.route")
        {
            let mut attributes = vec![KeyValue::new("http.route", route)];
            attributes.extend(value("http.request.method").map(|method| KeyValue::new("http.request.method", method)));
            attributes.extend(
                value("http.response.status_code").map(|code| KeyValue::new("http.response.status_code", code)),
            );
            self.requests.record(step.duration.as_secs_f64(), &attributes);
            if step.name == "POST /orders" {
                let outcome = if step.error.is_some() { "failed" } else { "placed" };
                self.orders.add(1, &[KeyValue::new("outcome", outcome)]);
            }
        }
        for (key, kind) in [("gen_ai.usage.input_tokens", "input"), ("gen_ai.usage.output_tokens", "output")] {
            if let Some(opentelemetry::Value::I64(tokens)) = value(key) {
                let attributes =
                    [KeyValue::new("gen_ai.token.type", kind), KeyValue::new("gen_ai.provider.name", "openai")];
                self.tokens.record(tokens.unsigned_abs(), &attributes);
            }
        }
    }
}
