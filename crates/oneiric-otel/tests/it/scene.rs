//! Traces as applications send them, and the parts that derive, embed and search them.

use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use oneiric_otel::derive::{DeriveOptions, Derived, Deriver};
use oneiric_otel::embed::{EmbedOptions, Embedded, Embedder, EmbeddingWorker, LocalModel};
use oneiric_otel::otlp::{Group, ResourceEnvelope, Signal, protobuf};
use oneiric_otel::query::QueryService;
use oneiric_otel_embed::{MiniLm, Precision};
use oneiric_otel_parts::{Parts, Silent};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use opentelemetry_proto::tonic::trace::v1::{Span, Status};

use crate::writing::Bench;

pub(crate) const SECOND: u64 = 1_000_000_000;
/// 2026-11-20T12:00:00Z.
pub(crate) const NOON: u64 = 1_795_176_000 * SECOND;

/// A database with all that stands behind a question.
pub(crate) struct Scene {
    pub(crate) bench: Bench,
    pub(crate) deriver: Deriver,
}

impl Scene {
    pub(crate) async fn new() -> Self {
        let bench = Bench::new().await;
        let deriver = Deriver::new(bench.store.clone(), DeriveOptions::default());
        Self { bench, deriver }
    }

    pub(crate) async fn spans(&self, service: &str, spans: Vec<Span>) {
        self.bench.send(Signal::Traces, of_service(service, spans)).await.unwrap();
    }

    pub(crate) async fn logs(&self, service: &str, logs: Vec<LogRecord>) {
        self.bench.send(Signal::Logs, of_service(service, logs)).await.unwrap();
    }

    pub(crate) async fn derive(&self) -> Derived {
        self.deriver.derive_all_now().await.unwrap()
    }

    pub(crate) fn worker(&self) -> EmbeddingWorker {
        EmbeddingWorker::new(self.bench.store.clone(), minilm(), EmbedOptions::default(), self.deriver.texts_written())
    }

    pub(crate) async fn embed(&self) -> Embedded {
        self.worker().embed_all_now().await.unwrap()
    }

    pub(crate) fn queries(&self) -> QueryService {
        QueryService::new(self.bench.store.clone(), Some(minilm()))
    }

    /// One row, its columns joined by `|`.
    pub(crate) async fn row(&self, sql: &str) -> String {
        let rows = self.bench.test.client().await.query(&format!("SELECT ({sql})::text"), &[]).await.unwrap();
        rows[0].get::<_, Option<String>>(0).unwrap_or_default()
    }
}

/// The real model, loaded once for all tests.
pub(crate) fn minilm() -> Arc<dyn Embedder> {
    static MODEL: OnceLock<Arc<dyn Embedder>> = OnceLock::new();
    Arc::clone(MODEL.get_or_init(|| {
        let dir = Parts::open_default().unwrap().minilm(&Silent).unwrap();
        Arc::new(LocalModel::new(MiniLm::load(Path::new(&dir), Precision::Int8).unwrap()))
    }))
}

/// A request of one service.
pub(crate) fn of_service<R: oneiric_otel::otlp::record::Record>(service: &str, records: Vec<R>) -> Vec<u8> {
    of_resource(Resource { attributes: vec![text("service.name", service)], ..Resource::default() }, records)
}

/// A request of one resource.
pub(crate) fn of_resource<R: oneiric_otel::otlp::record::Record>(resource: Resource, records: Vec<R>) -> Vec<u8> {
    let resource = Arc::new(ResourceEnvelope { resource: Some(resource), schema_url: String::new() });
    protobuf::encode(&[Group { resource, scope: Arc::default(), records }])
}

/// A trace id of this number, in a slot that depends on it.
pub(crate) fn trace_id(number: u64) -> Vec<u8> {
    u128::from(number).wrapping_add(1).to_be_bytes().to_vec()
}

/// A span that starts `at` after noon and takes 10 ms. Parent 0 means none.
pub(crate) fn span(trace: u64, id: u64, parent: u64, name: &str, at: Duration) -> Span {
    let start = NOON + at.as_nanos() as u64;
    Span {
        trace_id: trace_id(trace),
        span_id: id.to_be_bytes().to_vec(),
        parent_span_id: if parent == 0 { Vec::new() } else { parent.to_be_bytes().to_vec() },
        name: name.to_owned(),
        kind: 1,
        start_time_unix_nano: start,
        end_time_unix_nano: start + 10_000_000,
        ..Span::default()
    }
}

pub(crate) fn failed(mut span: Span, message: &str, attributes: &[(&str, &str)]) -> Span {
    span.status = Some(Status { message: message.to_owned(), code: StatusCode::Error as i32 });
    span.attributes.extend(attributes.iter().map(|(key, value)| text(key, value)));
    span
}

pub(crate) fn log(trace: u64, severity: i32, body: &str, at: Duration) -> LogRecord {
    LogRecord {
        time_unix_nano: NOON + at.as_nanos() as u64,
        trace_id: trace_id(trace),
        severity_number: severity,
        body: Some(AnyValue { value: Some(Value::StringValue(body.to_owned())) }),
        ..LogRecord::default()
    }
}

pub(crate) fn text(key: &str, value: &str) -> KeyValue {
    let value = Some(AnyValue { value: Some(Value::StringValue(value.to_owned())) });
    KeyValue { key: key.to_owned(), value, ..KeyValue::default() }
}
