//! Records gathered into one export request, grouped by where they come from.
//!
//! A group keeps the order of its records, and the groups the order in which they first appeared.

use std::collections::HashMap;
use std::hash::Hash;

use bytes::Bytes;
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};
use prost::Message;

use crate::otlp::{attribute, resource};

/// More records than this are not put into one request.
const MAX_RECORDS: usize = 5_000;
/// A request is closed once its records have this many bytes. It leaves room for the envelope below 4 MiB, which is
/// what receivers of gRPC accept if nothing else is set; the largest record here has some 16 KiB.
const FULL_BYTES: usize = (4 << 20) - (256 << 10);

/// A request in the making.
pub(super) trait Batch: Default {
    type Source: Eq + Hash + Clone + 'static;
    type Record: Message + 'static;

    fn push(&mut self, source: Self::Source, record: Self::Record);
    fn is_full(&self) -> bool;
    fn is_empty(&self) -> bool;
    fn encode(self) -> Bytes;
}

/// Records by source.
struct Groups<S, R> {
    places: HashMap<S, usize>,
    by_source: Vec<(S, Vec<R>)>,
    records: usize,
    bytes: usize,
}

impl<S, R> Default for Groups<S, R> {
    fn default() -> Self {
        Self { places: HashMap::new(), by_source: Vec::new(), records: 0, bytes: 0 }
    }
}

impl<S: Eq + Hash + Clone, R: Message> Groups<S, R> {
    fn push(&mut self, source: S, record: R) {
        self.records += 1;
        // Tag and length come to at most 5 bytes.
        self.bytes += record.encoded_len() + 5;
        if let Some(&place) = self.places.get(&source) {
            self.by_source[place].1.push(record);
            return;
        }
        self.places.insert(source.clone(), self.by_source.len());
        self.by_source.push((source, vec![record]));
    }

    fn is_full(&self) -> bool {
        self.records >= MAX_RECORDS || self.bytes >= FULL_BYTES
    }
}

/// Spans by pod.
#[derive(Default)]
pub(super) struct SpanBatch(Groups<String, Span>);

impl Batch for SpanBatch {
    type Source = String;
    type Record = Span;

    fn push(&mut self, pod: String, span: Span) {
        self.0.push(pod, span);
    }

    fn is_full(&self) -> bool {
        self.0.is_full()
    }

    fn is_empty(&self) -> bool {
        self.0.records == 0
    }

    fn encode(self) -> Bytes {
        let mut request = ExportTraceServiceRequest::default();
        for (pod, spans) in self.0.by_source {
            request.resource_spans.push(ResourceSpans {
                resource: Some(resource(pod_attributes(&pod))),
                scope_spans: vec![ScopeSpans { spans, ..ScopeSpans::default() }],
                ..ResourceSpans::default()
            });
        }
        request.encode_to_vec().into()
    }
}

/// Log records by node, pod and container.
#[derive(Default)]
pub(super) struct LogBatch(Groups<[String; 3], LogRecord>);

impl Batch for LogBatch {
    type Source = [String; 3];
    type Record = LogRecord;

    fn push(&mut self, source: [String; 3], record: LogRecord) {
        self.0.push(source, record);
    }

    fn is_full(&self) -> bool {
        self.0.is_full()
    }

    fn is_empty(&self) -> bool {
        self.0.records == 0
    }

    fn encode(self) -> Bytes {
        let mut request = ExportLogsServiceRequest::default();
        for ([node, pod, container], log_records) in self.0.by_source {
            let mut attributes = pod_attributes(&pod);
            attributes.push(attribute("k8s.node.name", node));
            attributes.push(attribute("k8s.container.name", container));
            request.resource_logs.push(ResourceLogs {
                resource: Some(resource(attributes)),
                scope_logs: vec![ScopeLogs { log_records, ..ScopeLogs::default() }],
                ..ResourceLogs::default()
            });
        }
        request.encode_to_vec().into()
    }
}

fn pod_attributes(pod: &str) -> Vec<KeyValue> {
    // A pod's name is <deployment>-<replica set>-<pod>.
    let service = pod.rsplitn(3, '-').nth(2).unwrap_or(pod);
    vec![attribute("service.name", service), attribute("k8s.deployment.name", service), attribute("k8s.pod.name", pod)]
}
