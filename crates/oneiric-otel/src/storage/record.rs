//! What an application stores: traces, metrics and logs as records with documented fields.
//!
//! They are serde types; ids, times and values are written as in the answers of [`crate::query`]. What OTLP knows beyond
//! them is stored with [`super::OtelStorage::store_otlp`].

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::metric::MetricData;
use crate::query::{AttributeValue, Attributes, Level, Moment, SpanId, TraceId};

/// Who made a record: the resource (a service) and the instrumentation scope in it. Shared by the records of one origin.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Origin {
    /// Attributes of the resource, such as `service.name`.
    pub resource: Attributes,
    /// Name of the instrumentation, such as a crate or module. May be empty.
    pub scope_name: String,
    /// Its version. May be empty.
    pub scope_version: String,
    /// Attributes of the instrumentation.
    pub scope_attributes: Attributes,
    /// The semantic conventions of the attributes. May be empty.
    pub schema_url: String,
}

impl Origin {
    /// A service of this name.
    pub fn service(name: impl Into<String>) -> Self {
        Self { resource: Attributes::from([("service.name", name.into())]), ..Self::default() }
    }
}

/// Spans of one origin, usually of one trace. A trace may come in several parts and in any order.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TraceData {
    /// Who made the spans; none for the origin that the adapter was built with.
    pub origin: Option<Arc<Origin>>,
    /// The spans.
    pub spans: Vec<SpanData>,
}

/// A span: one operation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SpanData {
    /// Its trace.
    pub trace_id: TraceId,
    /// Its id.
    pub span_id: SpanId,
    /// The id of the span that it was begun in; none for a root.
    #[serde(default)]
    pub parent_span_id: Option<SpanId>,
    /// The operation, with few different values: `GET /users/{id}` and not `GET /users/17`.
    pub name: String,
    /// What it is to its neighbours.
    #[serde(default)]
    pub kind: SpanKind,
    /// When it began.
    pub start_time: Moment,
    /// When it ended.
    pub end_time: Moment,
    /// How it ended.
    #[serde(default)]
    pub status: SpanStatus,
    /// What the sender says about the status, such as the message of the error.
    #[serde(default)]
    pub status_message: String,
    /// Attributes.
    #[serde(default)]
    pub attributes: Attributes,
    /// What happened in it, such as exceptions.
    #[serde(default)]
    pub events: Vec<SpanEvent>,
    /// Other spans that it has to do with.
    #[serde(default)]
    pub links: Vec<SpanLink>,
    /// W3C trace state.
    #[serde(default)]
    pub trace_state: String,
}

impl SpanData {
    /// A span without parent that begins and ends now.
    pub fn new(trace_id: TraceId, span_id: SpanId, name: impl Into<String>) -> Self {
        let now = Moment::now();
        Self {
            trace_id,
            span_id,
            parent_span_id: None,
            name: name.into(),
            kind: SpanKind::default(),
            start_time: now,
            end_time: now,
            status: SpanStatus::default(),
            status_message: String::new(),
            attributes: Attributes::default(),
            events: Vec::new(),
            links: Vec::new(),
            trace_state: String::new(),
        }
    }
}

/// What a span is to its neighbours.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SpanKind {
    /// Within one process.
    #[default]
    Internal,
    /// Answers a request of another process.
    Server,
    /// Asks another process.
    Client,
    /// Sends a message.
    Producer,
    /// Takes a message.
    Consumer,
}

/// How a span ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SpanStatus {
    /// Nobody said.
    #[default]
    Unset,
    /// Well.
    Ok,
    /// With an error.
    Error,
}

/// Something that happened in a span.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SpanEvent {
    /// When.
    pub time: Moment,
    /// What, such as `exception`.
    pub name: String,
    /// Attributes, such as `exception.message`.
    #[serde(default)]
    pub attributes: Attributes,
}

/// Another span that a span has to do with.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SpanLink {
    /// Its trace.
    pub trace_id: TraceId,
    /// Its id.
    pub span_id: SpanId,
    /// Attributes of the link.
    #[serde(default)]
    pub attributes: Attributes,
}

/// A log record.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogEntry {
    /// Who wrote it; none for the origin that the adapter was built with.
    #[serde(default)]
    pub origin: Option<Arc<Origin>>,
    /// When it happened.
    pub time: Moment,
    /// When it was noted; none for when it happened.
    #[serde(default)]
    pub observed_time: Option<Moment>,
    /// Class of its severity; none for a record without one.
    #[serde(default)]
    pub level: Option<Level>,
    /// Severity as its source calls it. May be empty.
    #[serde(default)]
    pub severity_text: String,
    /// What it says: mostly a text.
    pub body: AttributeValue,
    /// Attributes.
    #[serde(default)]
    pub attributes: Attributes,
    /// The trace it belongs to.
    #[serde(default)]
    pub trace_id: Option<TraceId>,
    /// The span it belongs to.
    #[serde(default)]
    pub span_id: Option<SpanId>,
    /// Name of the event, if it is one. May be empty.
    #[serde(default)]
    pub event_name: String,
}

impl LogEntry {
    /// A text of now.
    pub fn new(level: Level, body: impl Into<AttributeValue>) -> Self {
        let now = Moment::now();
        Self {
            origin: None,
            time: now,
            observed_time: Some(now),
            level: Some(level),
            severity_text: String::new(),
            body: body.into(),
            attributes: Attributes::default(),
            trace_id: None,
            span_id: None,
            event_name: String::new(),
        }
    }
}

/// Records of all kinds that are stored with one call.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Batch {
    /// Traces.
    pub traces: Vec<TraceData>,
    /// Metrics.
    pub metrics: Vec<MetricData>,
    /// Logs.
    pub logs: Vec<LogEntry>,
}
