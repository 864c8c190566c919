//! Spans and log records on their way into requests, by the service that sends them.

use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};

use super::company::{Company, Service};

/// What has been recorded, by service.
#[derive(Debug)]
pub(super) struct Recorder<'a> {
    company: &'a Company,
    spans: Vec<Vec<Span>>,
    logs: Vec<Vec<LogRecord>>,
}

impl<'a> Recorder<'a> {
    pub(super) fn new(company: &'a Company) -> Self {
        let services = company.services.len();
        Self { company, spans: vec![Vec::new(); services], logs: vec![Vec::new(); services] }
    }

    pub(super) fn span(&mut self, service: usize, span: Span) {
        self.spans[service].push(span);
    }

    pub(super) fn log(&mut self, service: usize, record: LogRecord) {
        self.logs[service].push(record);
    }

    pub(super) fn spans(&self) -> u64 {
        self.spans.iter().map(|spans| spans.len() as u64).sum()
    }

    pub(super) fn log_records(&self) -> u64 {
        self.logs.iter().map(|logs| logs.len() as u64).sum()
    }

    pub(super) fn finish(self) -> (Vec<ResourceSpans>, Vec<ResourceLogs>) {
        let services = &self.company.services;
        let spans = self.spans.into_iter().enumerate().filter(|(_, spans)| !spans.is_empty());
        let logs = self.logs.into_iter().enumerate().filter(|(_, logs)| !logs.is_empty());
        let spans = spans.map(|(service, spans)| ResourceSpans {
            resource: Some(resource(&services[service])),
            scope_spans: vec![ScopeSpans { scope: Some(scope(&services[service])), spans, ..ScopeSpans::default() }],
            ..ResourceSpans::default()
        });
        let logs = logs.map(|(service, log_records)| ResourceLogs {
            resource: Some(resource(&services[service])),
            scope_logs: vec![ScopeLogs { scope: Some(scope(&services[service])), log_records, ..ScopeLogs::default() }],
            ..ResourceLogs::default()
        });
        (spans.collect(), logs.collect())
    }
}

pub(super) fn resource(service: &Service) -> Resource {
    let attributes = vec![
        text("service.name", &service.name),
        text("service.namespace", "retail"),
        text("service.version", "3.1.4"),
        text("service.instance.id", format!("{}-0", service.name)),
        text("deployment.environment.name", "production"),
        text("host.name", format!("{}.internal", service.name)),
    ];
    Resource { attributes, ..Resource::default() }
}

pub(super) fn scope(service: &Service) -> InstrumentationScope {
    let name = if service.modern { "io.opentelemetry.http" } else { "legacy-instrumentation" };
    InstrumentationScope { name: name.to_owned(), version: "2.20.1".to_owned(), ..InstrumentationScope::default() }
}

pub(super) fn text(key: &str, value: impl Into<String>) -> KeyValue {
    attribute(key, Value::StringValue(value.into()))
}

pub(super) fn number(key: &str, value: i64) -> KeyValue {
    attribute(key, Value::IntValue(value))
}

fn attribute(key: &str, value: Value) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
}
