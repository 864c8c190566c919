//! From an application's records to groups of OTLP records. Pure.

use std::sync::{Arc, LazyLock};

use opentelemetry_proto::tonic::common::v1::{InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use opentelemetry_proto::tonic::metrics::v1::exponential_histogram_data_point::Buckets;
use opentelemetry_proto::tonic::metrics::v1::summary_data_point::ValueAtQuantile;
use opentelemetry_proto::tonic::metrics::v1::{
    AggregationTemporality, ExponentialHistogram, ExponentialHistogramDataPoint, Gauge, Histogram, HistogramDataPoint,
    Metric, NumberDataPoint, Sum, Summary, SummaryDataPoint, metric, number_data_point,
};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::span::{Event, Link};
use opentelemetry_proto::tonic::trace::v1::{Span, Status, span, status};

use super::metric::{
    ExponentialBuckets, ExponentialHistogramPoint, HistogramPoint, MetricData, MetricPoints, Number, NumberPoint,
    SummaryPoint, Temporality,
};
use super::record::{LogEntry, Origin, SpanData, SpanEvent, SpanKind, SpanLink, SpanStatus, TraceData};
use crate::otlp::{Group, ResourceEnvelope, ScopeEnvelope};
use crate::query::{Attributes, Moment, SpanId};

/// Which process of a service it is.
const INSTANCE_ID: &str = "service.instance.id";

/// This process, as the semantic conventions recommend: a random UUID.
static PROCESS: LazyLock<String> = LazyLock::new(|| uuid::Uuid::new_v4().to_string());

/// Why a record cannot be written as OTLP.
pub(super) const CUT_VALUE: &str = "a value is only the beginning of one, as lists have them; expected the whole value";

/// Resource and scope as OTLP has them.
#[derive(Debug, Clone)]
pub(super) struct Envelopes {
    resource: Arc<ResourceEnvelope>,
    scope: Arc<ScopeEnvelope>,
}

impl Envelopes {
    /// None where a value was cut.
    pub(super) fn of(origin: &Origin) -> Option<Self> {
        let schema_url = origin.schema_url.clone();
        let attributes = origin.resource.clone().into_otlp()?;
        let resource = ResourceEnvelope {
            resource: Some(Resource { attributes, ..Resource::default() }),
            schema_url: schema_url.clone(),
        };
        let scope = InstrumentationScope {
            name: origin.scope_name.clone(),
            version: origin.scope_version.clone(),
            attributes: origin.scope_attributes.clone().into_otlp()?,
            dropped_attributes_count: 0,
        };
        Some(Self { resource: Arc::new(resource), scope: Arc::new(ScopeEnvelope { scope: Some(scope), schema_url }) })
    }

    fn group<R>(self, records: Vec<R>) -> Group<R> {
        Group { resource: self.resource, scope: self.scope, records }
    }
}

/// The envelopes of records that do not say whose they are.
#[derive(Debug, Clone)]
pub(super) struct Usual {
    all: Envelopes,
    /// Two processes of a service must not share a series: each would be read as resets of the other.
    metrics: Envelopes,
}

impl Usual {
    /// None where a value was cut.
    pub(super) fn of(origin: &Origin) -> Option<Self> {
        let mut of_process = origin.clone();
        if !origin.resource.0.iter().any(|(key, _)| key == INSTANCE_ID) {
            of_process.resource.insert(INSTANCE_ID, PROCESS.as_str());
        }
        Some(Self { all: Envelopes::of(origin)?, metrics: Envelopes::of(&of_process)? })
    }
}

/// Finds the envelopes of records, of which many in a row have the same origin.
pub(super) struct Origins {
    usual: Usual,
    last: Option<(Arc<Origin>, Envelopes)>,
}

impl Origins {
    /// `usual` is for records without an origin.
    pub(super) fn new(usual: Usual) -> Self {
        Self { usual, last: None }
    }

    fn envelopes(&mut self, origin: Option<&Arc<Origin>>) -> Option<Envelopes> {
        let Some(origin) = origin else { return Some(self.usual.all.clone()) };
        if let Some((last, envelopes)) = &self.last
            && (Arc::ptr_eq(last, origin) || last == origin)
        {
            return Some(envelopes.clone());
        }
        let envelopes = Envelopes::of(origin)?;
        self.last = Some((Arc::clone(origin), envelopes.clone()));
        Some(envelopes)
    }
}

/// Spans; none where a value was cut.
pub(super) fn spans(origins: &mut Origins, traces: Vec<TraceData>) -> Option<Vec<Group<Span>>> {
    let group = |trace: TraceData| {
        let envelopes = origins.envelopes(trace.origin.as_ref())?;
        Some(envelopes.group(trace.spans.into_iter().map(span).collect::<Option<_>>()?))
    };
    traces.into_iter().map(group).collect()
}

/// Log records; none where a value was cut.
pub(super) fn logs(origins: &mut Origins, logs: Vec<LogEntry>) -> Option<Vec<Group<LogRecord>>> {
    let group = |entry: LogEntry| {
        let envelopes = origins.envelopes(entry.origin.as_ref())?;
        Some(envelopes.group(vec![log(entry)?]))
    };
    logs.into_iter().map(group).collect()
}

/// Metrics; none where a value was cut.
pub(super) fn metrics(origins: &mut Origins, metrics: Vec<MetricData>) -> Option<Vec<Group<Metric>>> {
    let group = |data: MetricData| {
        let envelopes = match &data.origin {
            None => origins.usual.metrics.clone(),
            origin => origins.envelopes(origin.as_ref())?,
        };
        Some(envelopes.group(vec![metric(data)?]))
    };
    metrics.into_iter().map(group).collect()
}

fn span(data: SpanData) -> Option<Span> {
    let kind = match data.kind {
        SpanKind::Internal => span::SpanKind::Internal,
        SpanKind::Server => span::SpanKind::Server,
        SpanKind::Client => span::SpanKind::Client,
        SpanKind::Producer => span::SpanKind::Producer,
        SpanKind::Consumer => span::SpanKind::Consumer,
    };
    let code = match data.status {
        SpanStatus::Unset => status::StatusCode::Unset,
        SpanStatus::Ok => status::StatusCode::Ok,
        SpanStatus::Error => status::StatusCode::Error,
    };
    Some(Span {
        trace_id: data.trace_id.0.to_vec(),
        span_id: data.span_id.0,
        parent_span_id: id(data.parent_span_id),
        name: data.name,
        kind: kind as i32,
        start_time_unix_nano: data.start_time.0,
        end_time_unix_nano: data.end_time.0,
        status: Some(Status { message: data.status_message, code: code as i32 }),
        attributes: data.attributes.into_otlp()?,
        events: data.events.into_iter().map(event).collect::<Option<_>>()?,
        links: data.links.into_iter().map(link).collect::<Option<_>>()?,
        trace_state: data.trace_state,
        ..Span::default()
    })
}

fn event(event: SpanEvent) -> Option<Event> {
    let SpanEvent { time, name, attributes } = event;
    Some(Event { time_unix_nano: time.0, name, attributes: attributes.into_otlp()?, dropped_attributes_count: 0 })
}

fn link(link: SpanLink) -> Option<Link> {
    let SpanLink { trace_id, span_id, attributes } = link;
    Some(Link {
        trace_id: trace_id.0.to_vec(),
        span_id: span_id.0,
        attributes: attributes.into_otlp()?,
        ..Link::default()
    })
}

fn log(entry: LogEntry) -> Option<LogRecord> {
    Some(LogRecord {
        time_unix_nano: entry.time.0,
        observed_time_unix_nano: entry.observed_time.unwrap_or(entry.time).0,
        severity_number: entry.level.map_or(0, |level| level.number().into()),
        severity_text: entry.severity_text,
        body: Some(entry.body.into_otlp()?),
        attributes: entry.attributes.into_otlp()?,
        trace_id: entry.trace_id.map(|id| id.0.to_vec()).unwrap_or_default(),
        span_id: id(entry.span_id),
        event_name: entry.event_name,
        ..LogRecord::default()
    })
}

fn metric(data: MetricData) -> Option<Metric> {
    let points = match data.points {
        MetricPoints::Gauge(points) => {
            metric::Data::Gauge(Gauge { data_points: points.into_iter().map(number).collect::<Option<_>>()? })
        }
        MetricPoints::Sum { points, temporality, monotonic } => metric::Data::Sum(Sum {
            data_points: points.into_iter().map(number).collect::<Option<_>>()?,
            aggregation_temporality: temporality_number(temporality),
            is_monotonic: monotonic,
        }),
        MetricPoints::Histogram { points, temporality } => metric::Data::Histogram(Histogram {
            data_points: points.into_iter().map(histogram).collect::<Option<_>>()?,
            aggregation_temporality: temporality_number(temporality),
        }),
        MetricPoints::ExponentialHistogram { points, temporality } => {
            metric::Data::ExponentialHistogram(ExponentialHistogram {
                data_points: points.into_iter().map(exponential_histogram).collect::<Option<_>>()?,
                aggregation_temporality: temporality_number(temporality),
            })
        }
        MetricPoints::Summary(points) => {
            metric::Data::Summary(Summary { data_points: points.into_iter().map(summary).collect::<Option<_>>()? })
        }
    };
    let MetricData { name, description, unit, .. } = data;
    Some(Metric { name, description, unit, data: Some(points), ..Metric::default() })
}

fn number(point: NumberPoint) -> Option<NumberDataPoint> {
    let value = match point.value {
        Number::Int(value) => number_data_point::Value::AsInt(value),
        Number::Double(value) => number_data_point::Value::AsDouble(value),
    };
    Some(NumberDataPoint {
        attributes: labels(point.labels)?,
        start_time_unix_nano: start(point.start_time),
        time_unix_nano: point.time.0,
        value: Some(value),
        ..NumberDataPoint::default()
    })
}

fn histogram(point: HistogramPoint) -> Option<HistogramDataPoint> {
    Some(HistogramDataPoint {
        attributes: labels(point.labels)?,
        start_time_unix_nano: start(point.start_time),
        time_unix_nano: point.time.0,
        count: point.count,
        sum: point.sum,
        min: point.min,
        max: point.max,
        explicit_bounds: point.bounds,
        bucket_counts: point.bucket_counts,
        ..HistogramDataPoint::default()
    })
}

fn exponential_histogram(point: ExponentialHistogramPoint) -> Option<ExponentialHistogramDataPoint> {
    let buckets =
        |buckets: ExponentialBuckets| Some(Buckets { offset: buckets.offset, bucket_counts: buckets.bucket_counts });
    Some(ExponentialHistogramDataPoint {
        attributes: labels(point.labels)?,
        start_time_unix_nano: start(point.start_time),
        time_unix_nano: point.time.0,
        count: point.count,
        sum: point.sum,
        min: point.min,
        max: point.max,
        scale: point.scale,
        zero_count: point.zero_count,
        zero_threshold: point.zero_threshold,
        positive: buckets(point.positive),
        negative: buckets(point.negative),
        ..ExponentialHistogramDataPoint::default()
    })
}

fn summary(point: SummaryPoint) -> Option<SummaryDataPoint> {
    let at = |(quantile, value)| ValueAtQuantile { quantile, value };
    Some(SummaryDataPoint {
        attributes: labels(point.labels)?,
        start_time_unix_nano: start(point.start_time),
        time_unix_nano: point.time.0,
        count: point.count,
        sum: point.sum,
        quantile_values: point.quantiles.into_iter().map(at).collect(),
        ..SummaryDataPoint::default()
    })
}

fn labels(labels: Attributes) -> Option<Vec<KeyValue>> {
    labels.into_otlp()
}

fn id(id: Option<SpanId>) -> Vec<u8> {
    id.map(|id| id.0).unwrap_or_default()
}

fn start(time: Option<Moment>) -> u64 {
    time.map_or(0, |time| time.0)
}

fn temporality_number(temporality: Temporality) -> i32 {
    let temporality = match temporality {
        Temporality::Delta => AggregationTemporality::Delta,
        Temporality::Cumulative => AggregationTemporality::Cumulative,
    };
    temporality as i32
}

#[cfg(test)]
mod tests;
