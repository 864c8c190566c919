//! What an application stores: traces, metrics and logs as records with documented fields.
//!
//! They are serde types; ids, times and values are written as in the answers of [`crate::query`]. What OTLP knows beyond
//! them is stored with [`super::OtelStorage::store_otlp`].

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

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

/// Data points of one metric.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MetricData {
    /// Who measured; none for the origin that the adapter was built with.
    #[serde(default)]
    pub origin: Option<Arc<Origin>>,
    /// Name, such as `http.server.request.duration`.
    pub name: String,
    /// What is measured. May be empty.
    #[serde(default)]
    pub description: String,
    /// The unit in UCUM, such as `s` or `By`. May be empty.
    #[serde(default)]
    pub unit: String,
    /// The points and their kind.
    pub points: MetricPoints,
}

impl MetricData {
    /// One value of now that goes up and down.
    pub fn gauge(name: impl Into<String>, value: impl Into<f64>, labels: impl Into<Attributes>) -> Self {
        Self::of(name, MetricPoints::Gauge(vec![NumberPoint::now(value.into(), labels.into())]))
    }

    /// What was added since the last point of a sum that only grows. No two have the same time: points are known by what
    /// they are, and equal ones would count once.
    pub fn counter(name: impl Into<String>, added: impl Into<f64>, labels: impl Into<Attributes>) -> Self {
        let point = NumberPoint::now(added.into(), labels.into());
        let points = vec![NumberPoint { time: a_later_moment(), ..point }];
        Self::of(name, MetricPoints::Sum { points, temporality: Temporality::Delta, monotonic: true })
    }

    fn of(name: impl Into<String>, points: MetricPoints) -> Self {
        Self { origin: None, name: name.into(), description: String::new(), unit: String::new(), points }
    }
}

/// Now, or a nanosecond after the last one of this process.
fn a_later_moment() -> Moment {
    static LAST: AtomicU64 = AtomicU64::new(0);
    let now = Moment::now().0;
    let later = |last: u64| now.max(last.saturating_add(1));
    let last = LAST.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| Some(later(last)));
    Moment(later(last.unwrap_or_default()))
}

/// Points of one kind.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum MetricPoints {
    /// Values that go up and down.
    Gauge(Vec<NumberPoint>),
    /// Sums.
    Sum {
        /// The points.
        points: Vec<NumberPoint>,
        /// What a point is the sum of.
        temporality: Temporality,
        /// Whether it only grows.
        monotonic: bool,
    },
    /// Values by class.
    Histogram {
        /// The points.
        points: Vec<HistogramPoint>,
        /// What a point counts.
        temporality: Temporality,
    },
}

impl MetricPoints {
    /// How many.
    pub fn len(&self) -> usize {
        match self {
            Self::Gauge(points) | Self::Sum { points, .. } => points.len(),
            Self::Histogram { points, .. } => points.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// What a point of a sum or histogram covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Temporality {
    /// What came since the point before.
    Delta,
    /// What came since the start.
    Cumulative,
}

/// A number at a time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NumberPoint {
    /// When it was measured.
    pub time: Moment,
    /// When what it sums up began; none where that is unknown or it is no sum.
    #[serde(default)]
    pub start_time: Option<Moment>,
    /// The value.
    pub value: Number,
    /// Its labels.
    #[serde(default)]
    pub labels: Attributes,
}

impl NumberPoint {
    /// A value of now.
    pub fn now(value: impl Into<Number>, labels: Attributes) -> Self {
        Self { time: Moment::now(), start_time: None, value: value.into(), labels }
    }
}

/// A value of a point. The two kinds stay apart.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Number {
    /// An integer.
    Int(i64),
    /// A double.
    Double(f64),
}

impl From<i64> for Number {
    fn from(value: i64) -> Self {
        Self::Int(value)
    }
}

impl From<f64> for Number {
    fn from(value: f64) -> Self {
        Self::Double(value)
    }
}

/// Values of a time by class.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HistogramPoint {
    /// When it was taken.
    pub time: Moment,
    /// When what it counts began; none where that is unknown.
    #[serde(default)]
    pub start_time: Option<Moment>,
    /// How many values.
    pub count: u64,
    /// Their sum.
    #[serde(default)]
    pub sum: Option<f64>,
    /// The smallest.
    #[serde(default)]
    pub min: Option<f64>,
    /// The greatest.
    #[serde(default)]
    pub max: Option<f64>,
    /// Upper bounds of the classes, rising; the last class has none.
    pub bounds: Vec<f64>,
    /// Values in each class: one more than there are bounds.
    pub bucket_counts: Vec<u64>,
    /// Its labels.
    #[serde(default)]
    pub labels: Attributes,
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
