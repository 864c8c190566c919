//! What is counted, on inputs that are the same every time.

use std::path::Path;

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use oneiric_otel::otlp::canonical::{Canonical, Hash128};
use oneiric_otel::otlp::{self, Encoding, Signal};
use oneiric_otel::pipeline::{Ack, Ingest, IngestOptions, Request};
use oneiric_otel_embed::{MiniLm, Precision};
use oneiric_otel_spool::{Spool, SpoolOptions};
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};
use prost::Message as _;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::oneshot;

/// Records of a request.
const RECORDS: u64 = 500;
const START: u64 = 1_794_960_000 * 1_000_000_000;
const MILLISECOND: u64 = 1_000_000;

/// A hot path.
#[derive(Debug)]
pub(crate) struct Hot {
    /// Its name in the file of limits.
    pub(crate) name: &'static str,
    /// What a unit is.
    pub(crate) what: &'static str,
    /// Units of a round.
    pub(crate) units: u64,
}

/// All of them.
pub(crate) const PATHS: &[Hot] = &[
    Hot { name: "decode", what: "decoding a span", units: RECORDS },
    Hot { name: "identity", what: "the hash of a span", units: RECORDS },
    Hot { name: "examine", what: "examining a span that will wait in the spool", units: RECORDS },
    Hot { name: "spans-to-rows", what: "a span, from request to COPY row", units: RECORDS },
    Hot { name: "logs-to-rows", what: "a log record, from request to COPY row", units: RECORDS },
    Hot { name: "spool", what: "a request of 500 spans into the spool", units: 1 },
    Hot { name: "embed", what: "the vector of a short text", units: 1 },
];

/// Runs a path so many rounds.
///
/// # Errors
/// If there is no such path, or it fails: then nothing that was counted would mean anything.
pub(crate) fn run(name: &str, rounds: u64, model: &Path) -> Result<()> {
    match name {
        "decode" => decode(rounds),
        "identity" => identity(rounds),
        "examine" => examine(rounds),
        "spans-to-rows" => to_rows(rounds, Signal::Traces, spans),
        "logs-to-rows" => to_rows(rounds, Signal::Logs, logs),
        "spool" => spool(rounds),
        "embed" => embed(rounds, model),
        other => bail!("no path is called {other:?}"),
    }
}

fn decode(rounds: u64) -> Result<()> {
    let body = spans(0);
    for _ in 0..rounds {
        let decoded = otlp::decode::<Span>(Encoding::Protobuf, &body)?;
        let count: usize = decoded.groups.iter().map(|group| group.records.len()).sum();
        require(count as u64 == RECORDS)?;
    }
    Ok(())
}

fn identity(rounds: u64) -> Result<()> {
    let decoded = otlp::decode::<Span>(Encoding::Protobuf, &spans(0))?;
    let group = decoded.groups.first().context("the request has a group")?;
    let mut canonical = Canonical::new();
    let (resource, scope) = (canonical.resource(&group.resource), canonical.scope(&group.scope));
    let mut last = Hash128([0; 16]);
    for _ in 0..rounds {
        for span in &group.records {
            last = canonical.span(resource, scope, span);
        }
    }
    require(last != Hash128([0; 16]))
}

fn examine(rounds: u64) -> Result<()> {
    let runtime = runtime()?;
    let ingest = write_path();
    for body in bodies(rounds, spans) {
        let accepted = runtime.block_on(ingest.examine(request(Signal::Traces, body)))?;
        require(accepted.records == RECORDS)?;
    }
    Ok(())
}

/// Until the rows wait for a connection.
fn to_rows(rounds: u64, signal: Signal, body: fn(u64) -> Bytes) -> Result<()> {
    let runtime = runtime()?;
    let ingest = write_path();
    for body in bodies(rounds, body) {
        let accepted = runtime.block_on(ingest.submit(request(signal, body)))?;
        require(accepted.records == RECORDS && accepted.rejected == 0)?;
    }
    require(ingest.status().waiting_rows as u64 == rounds * RECORDS)
}

fn spool(rounds: u64) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let runtime = runtime()?;
    let (spool, _) = Spool::open(SpoolOptions::new(dir.path(), ["traces"]))?;
    for body in bodies(rounds, spans) {
        let (sender, durable) = oneshot::channel();
        let done = move |id: Result<_, _>| sender.send(id.is_ok()).unwrap_or_default();
        runtime.block_on(async {
            spool.append(0, 0, body, done).await?;
            require(durable.await?)
        })?;
    }
    spool.close();
    Ok(())
}

fn embed(rounds: u64, model: &Path) -> Result<()> {
    let model = MiniLm::load(model, Precision::Int8)?;
    for _ in 0..rounds {
        let vectors = model.embed(&["checkout failed: card declined by the payment gateway"])?;
        require(vectors.first().is_some_and(|vector| vector.len() == 384))?;
    }
    Ok(())
}

/// Requests for so many rounds, another one for each. As many are made whatever the rounds: making them is not counted.
fn bodies(rounds: u64, make: fn(u64) -> Bytes) -> impl Iterator<Item = Bytes> {
    let made: Vec<Bytes> = (0..crate::MANY).map(make).collect();
    made.into_iter().take(rounds as usize)
}

fn require(holds: bool) -> Result<()> {
    if holds { Ok(()) } else { bail!("the path did not do its work") }
}

fn runtime() -> Result<Runtime> {
    Ok(Builder::new_current_thread().enable_all().max_blocking_threads(1).build()?)
}

/// Without a database, so that rows wait.
fn write_path() -> Ingest {
    let ack = Ack::Memory { requests: 1000 };
    Ingest::new(IngestOptions { ack, queue_memory: usize::MAX / 2, ..IngestOptions::default() })
}

fn request(signal: Signal, body: Bytes) -> Request {
    Request { signal, encoding: Encoding::Protobuf, body }
}

fn resource() -> Resource {
    Resource { attributes: vec![text("service.name", "standard"), text("host.name", "host-1")], ..Resource::default() }
}

fn scope() -> InstrumentationScope {
    InstrumentationScope { name: "guard".to_owned(), version: "1".to_owned(), ..InstrumentationScope::default() }
}

/// A request of traces of ten spans with eleven attributes, other ones for each number.
fn spans(number: u64) -> Bytes {
    let spans = (0..RECORDS).map(|place| span(number * RECORDS + place)).collect();
    let scope_spans = vec![ScopeSpans { scope: Some(scope()), spans, ..ScopeSpans::default() }];
    let resource_spans = vec![ResourceSpans { resource: Some(resource()), scope_spans, ..ResourceSpans::default() }];
    ExportTraceServiceRequest { resource_spans }.encode_to_vec().into()
}

fn span(number: u64) -> Span {
    let (trace, place) = (number / 10, number % 10);
    let attributes = vec![
        text("http.request.method", "GET"),
        text("http.route", "/orders/{id}/lines"),
        integer("http.response.status_code", 200),
        text("server.address", "orders.example"),
        integer("server.port", 8080),
        text("url.path", &format!("/orders/{trace:08}/lines")),
        text("user_agent.original", "Mozilla/5.0 (X11; Linux x86_64)"),
        text("peer.service", "stock"),
        integer("thread.id", place as i64),
        text("component", "net/http"),
        text("request.id", &format!("{number:016x}")),
    ];
    Span {
        trace_id: id(trace + 1).to_vec(),
        span_id: (number + 1).to_be_bytes().to_vec(),
        parent_span_id: if place == 0 { Vec::new() } else { (trace * 10 + 1).to_be_bytes().to_vec() },
        name: "GET /orders/{id}/lines".to_owned(),
        kind: 2,
        start_time_unix_nano: START + number * MILLISECOND,
        end_time_unix_nano: START + (number + 20) * MILLISECOND,
        attributes,
        ..Span::default()
    }
}

/// A request of log records, other ones for each number.
fn logs(number: u64) -> Bytes {
    let record = |place: u64| {
        let number = number * RECORDS + place;
        LogRecord {
            time_unix_nano: START + number * MILLISECOND,
            observed_time_unix_nano: START + number * MILLISECOND,
            severity_number: 9,
            severity_text: "INFO".to_owned(),
            body: Some(AnyValue {
                value: Some(Value::StringValue(format!("order {number:08} shipped from warehouse 7 in 35 ms"))),
            }),
            attributes: vec![text("code.namespace", "com.example.Orders"), integer("thread.id", 5)],
            trace_id: id(number / 10 + 1).to_vec(),
            span_id: (number + 1).to_be_bytes().to_vec(),
            ..LogRecord::default()
        }
    };
    let log_records = (0..RECORDS).map(record).collect();
    let scope_logs = vec![ScopeLogs { scope: Some(scope()), log_records, ..ScopeLogs::default() }];
    let resource_logs = vec![ResourceLogs { resource: Some(resource()), scope_logs, ..ResourceLogs::default() }];
    ExportLogsServiceRequest { resource_logs }.encode_to_vec().into()
}

/// The id of a trace: scattered, as real ones are.
fn id(trace: u64) -> [u8; 16] {
    let high = trace.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (u128::from(high) << 64 | u128::from(trace)).to_be_bytes()
}

fn text(key: &str, value: &str) -> KeyValue {
    attribute(key, Value::StringValue(value.to_owned()))
}

fn integer(key: &str, value: i64) -> KeyValue {
    attribute(key, Value::IntValue(value))
}

fn attribute(key: &str, value: Value) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }), key_strindex: 0 }
}
