//! Requests to send: small, valid and told apart by the name of their service.
#![expect(clippy::unnecessary_wraps, reason = "the fields of the messages are optional")]

use oneiric_otel::otlp::Signal;
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
use opentelemetry_proto::tonic::metrics::v1::{
    Gauge, Metric, NumberDataPoint, ResourceMetrics, ScopeMetrics, metric, number_data_point,
};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};
use prost::Message as _;

/// 2026-11-20T12:00:00Z in nanoseconds.
pub(crate) const NOON: u64 = 1_795_176_000_000_000_000;

pub(crate) const SIGNALS: [Signal; 3] = [Signal::Traces, Signal::Metrics, Signal::Logs];

/// The table that holds the records of a signal, joined so that it has a service name.
pub(crate) fn table(signal: Signal) -> &'static str {
    match signal {
        Signal::Traces => "otel_spans",
        Signal::Metrics => "otel_metrics join otel_metric_series using (series_id)",
        Signal::Logs => "otel_logs",
    }
}

pub(crate) fn text(value: &str) -> Option<AnyValue> {
    Some(AnyValue { value: Some(Value::StringValue(value.to_owned())) })
}

pub(crate) fn attribute(key: &str, value: Option<AnyValue>) -> KeyValue {
    KeyValue { key: key.to_owned(), value, ..KeyValue::default() }
}

pub(crate) fn resource(service: &str) -> Option<Resource> {
    Some(Resource { attributes: vec![attribute("service.name", text(service))], ..Resource::default() })
}

pub(crate) fn scope() -> Option<InstrumentationScope> {
    Some(InstrumentationScope { name: "tests".to_owned(), version: "1".to_owned(), ..InstrumentationScope::default() })
}

/// The `number`th span of a trace that only `service` has.
pub(crate) fn span(service: &str, number: u64) -> Span {
    let mut trace_id = [0; 16];
    for (place, byte) in trace_id.iter_mut().zip(service.bytes().rev()) {
        *place = byte;
    }
    Span {
        trace_id: trace_id.to_vec(),
        span_id: (number + 1).to_be_bytes().to_vec(),
        name: format!("operation {number}"),
        start_time_unix_nano: NOON + number,
        end_time_unix_nano: NOON + number + 1_000_000,
        ..Span::default()
    }
}

pub(crate) fn log(number: u64) -> LogRecord {
    LogRecord { time_unix_nano: NOON + number, body: text(&format!("line {number}")), ..LogRecord::default() }
}

pub(crate) fn gauge(number: u64) -> Metric {
    let value = Some(number_data_point::Value::AsInt(number as i64));
    let point = NumberDataPoint { time_unix_nano: NOON + number, value, ..NumberDataPoint::default() };
    Metric {
        name: "queue.length".to_owned(),
        data: Some(metric::Data::Gauge(Gauge { data_points: vec![point] })),
        ..Metric::default()
    }
}

pub(crate) fn traces(service: &str, spans: Vec<Span>) -> ExportTraceServiceRequest {
    let scope_spans = vec![ScopeSpans { scope: scope(), spans, ..ScopeSpans::default() }];
    let resource_spans = vec![ResourceSpans { resource: resource(service), scope_spans, ..ResourceSpans::default() }];
    ExportTraceServiceRequest { resource_spans }
}

pub(crate) fn metrics(service: &str, metrics: Vec<Metric>) -> ExportMetricsServiceRequest {
    let scope_metrics = vec![ScopeMetrics { scope: scope(), metrics, ..ScopeMetrics::default() }];
    let group = ResourceMetrics { resource: resource(service), scope_metrics, ..ResourceMetrics::default() };
    ExportMetricsServiceRequest { resource_metrics: vec![group] }
}

pub(crate) fn logs(service: &str, log_records: Vec<LogRecord>) -> ExportLogsServiceRequest {
    let scope_logs = vec![ScopeLogs { scope: scope(), log_records, ..ScopeLogs::default() }];
    let resource_logs = vec![ResourceLogs { resource: resource(service), scope_logs, ..ResourceLogs::default() }];
    ExportLogsServiceRequest { resource_logs }
}

/// A request in protobuf with `records` records.
pub(crate) fn protobuf(signal: Signal, service: &str, records: u64) -> Vec<u8> {
    match signal {
        Signal::Traces => traces(service, (0..records).map(|number| span(service, number)).collect()).encode_to_vec(),
        Signal::Metrics => metrics(service, (0..records).map(gauge).collect()).encode_to_vec(),
        Signal::Logs => logs(service, (0..records).map(log).collect()).encode_to_vec(),
    }
}

/// One span in JSON, with `fields` (such as `,"kind":2`) after the ones it must have. Its id ends in `number`.
pub(crate) fn json_span(service: &str, number: u8, fields: &str) -> String {
    let trace_id = hex::encode(span(service, 0).trace_id);
    format!(
        r#"{{"traceId":"{trace_id}","spanId":"00000000000000{number:02x}","name":"op","startTimeUnixNano":"{NOON}","endTimeUnixNano":"{NOON}"{fields}}}"#
    )
}

/// A request in JSON around `records`.
pub(crate) fn json(signal: Signal, service: &str, records: &[String]) -> String {
    let (resources, scopes, list) = match signal {
        Signal::Traces => ("resourceSpans", "scopeSpans", "spans"),
        Signal::Metrics => ("resourceMetrics", "scopeMetrics", "metrics"),
        Signal::Logs => ("resourceLogs", "scopeLogs", "logRecords"),
    };
    let records = records.join(",");
    format!(
        r#"{{"{resources}":[{{"resource":{{"attributes":[{{"key":"service.name","value":{{"stringValue":"{service}"}}}}]}},"{scopes}":[{{"{list}":[{records}]}}]}}]}}"#
    )
}

/// One valid record in JSON.
pub(crate) fn json_record(signal: Signal, service: &str) -> String {
    match signal {
        Signal::Traces => json_span(service, 1, ""),
        Signal::Metrics => {
            format!(r#"{{"name":"m","gauge":{{"dataPoints":[{{"timeUnixNano":"{NOON}","asInt":"1"}}]}}}}"#)
        }
        Signal::Logs => format!(r#"{{"timeUnixNano":"{NOON}","body":{{"stringValue":"x"}}}}"#),
    }
}
