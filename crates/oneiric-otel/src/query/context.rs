//! A trace with all that belongs to it: its spans and logs, the metrics of its services while it ran, where its time
//! went, and how it failed.

use std::collections::BTreeSet;

use opentelemetry_proto::tonic::logs::v1::LogRecord;
use serde::Serialize;
use serde_json::value::RawValue;
use uuid::Uuid;

use super::critical_path::{CriticalPath, critical_path};
use super::failure::{TraceFailure, failure};
use super::spans::{Moment, Renderer, SpanId, SpanRecord};
use super::trace::{TraceId, TraceOverview};
use super::value::{AttributeValue, Attributes, Detail};
use super::{QueryError, QueryService};
use crate::derive::trace::SpanFact;
use crate::store::Stored;
use crate::store::context::{MetricWindow, SeriesPoint};

/// Spans that the critical path and the failure are computed from at most, the first of the trace.
const MAX_FACTS: usize = 300_000;

/// Logs this long before the first and after the last span of a trace are its context too.
const LOG_MARGIN_NS: u64 = 3_600_000_000_000;

/// Points this long before and after a trace are its context: metrics are usually exported once a minute.
const METRIC_MARGIN_NS: u64 = 60_000_000_000;

/// Series of its services that are looked at for one trace, points with exemplars of any service, and points of each
/// series.
const MAX_SERIES_READ: usize = 2000;
const MAX_EXEMPLARS_READ: i64 = 50_000;
const MAX_POINTS: i64 = 120;

/// The most of each part that can be asked for.
const MAX_SPANS: usize = 10_000;
const MAX_LOGS: usize = 10_000;
const MAX_SERIES: usize = 1000;

/// The context of a trace is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ContextRequest {
    /// The trace.
    pub trace_id: TraceId,
    /// Spans at most, 0 to 10,000.
    pub spans: usize,
    /// Log records at most, 0 to 10,000.
    pub logs: usize,
    /// Metric series at most, 0 to 1000.
    pub series: usize,
}

impl ContextRequest {
    /// As much as a page shows: 1000 spans, 1000 log records, 100 series.
    pub fn new(trace_id: TraceId) -> Self {
        Self { trace_id, spans: 1000, logs: 1000, series: 100 }
    }

    fn check(&self) -> Result<(), QueryError> {
        for (name, asked, most) in
            [("spans", self.spans, MAX_SPANS), ("logs", self.logs, MAX_LOGS), ("series", self.series, MAX_SERIES)]
        {
            if asked > most {
                return Err(QueryError::InvalidArgument { name, accepted: format!("a number from 0 to {most}") });
            }
        }
        Ok(())
    }
}

/// A trace with all that belongs to it.
#[derive(Debug, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct TraceContext {
    /// The trace.
    pub trace_id: TraceId,
    /// What is known of it as a whole; none while it waits to be derived, or when only logs of it are stored.
    pub overview: Option<TraceOverview>,
    /// Its first spans in order of their start, long values cut.
    pub spans: Vec<SpanRecord>,
    /// Its first log records in order of their time, long values cut: those up to an hour before its first span and after
    /// the end of its last one.
    pub logs: Vec<ContextLog>,
    /// Series with their points from a minute before to a minute after it: first those with an exemplar of the trace, of
    /// any service, then those of its services.
    pub metrics: Vec<ContextSeries>,
    /// Where the root's time went; none without spans.
    pub critical_path: Option<CriticalPath>,
    /// How it failed; none when no span failed.
    pub failure: Option<TraceFailure>,
    /// What is left out, in words; empty when nothing is.
    pub notes: Vec<String>,
}

/// A log record of a trace.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ContextLog {
    /// When it happened, or was observed where the sender gave no other time.
    pub time: Moment,
    /// The span that it was written in.
    pub span_id: Option<SpanId>,
    /// `service.name` of the resource.
    pub service_name: String,
    /// 1 to 24; 0 when the sender gave none.
    pub severity_number: i32,
    /// As the sender calls it.
    pub severity_text: String,
    /// Name of the event, for records that are one.
    pub event_name: String,
    /// What it says.
    pub body: AttributeValue,
    /// Attributes.
    pub attributes: Attributes,
}

/// A metric series with its points around a trace.
#[derive(Debug, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ContextSeries {
    /// `service.name` of the resource.
    pub service_name: String,
    /// Name of the metric.
    pub metric_name: String,
    /// `gauge`, `sum`, `histogram`, `exponential_histogram` or `summary`.
    pub metric_type: String,
    /// `delta`, `cumulative`, or empty where the type has none.
    pub temporality: String,
    /// Whether a sum only grows.
    pub monotonic: bool,
    /// Unit of the values.
    pub unit: String,
    /// Attributes of the series, as plain JSON.
    #[cfg_attr(feature = "openapi", schema(value_type = Object))]
    pub attributes: Box<RawValue>,
    /// Whether an exemplar of the trace is among the points.
    pub has_exemplar: bool,
    /// The points in order of time.
    pub points: Vec<ContextPoint>,
}

/// A data point around a trace.
#[derive(Debug, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ContextPoint {
    /// When.
    pub time: Moment,
    /// The value of a gauge or sum.
    pub value: Option<f64>,
    /// How many measurements a histogram or summary has.
    pub count: Option<u64>,
    /// Their sum.
    pub sum: Option<f64>,
    /// The least.
    pub min: Option<f64>,
    /// The greatest.
    pub max: Option<f64>,
    /// Exemplars of the point, as plain JSON, when one of them is of the trace.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<Vec<Object>>))]
    pub exemplars: Option<Box<RawValue>>,
}

impl QueryService {
    /// A trace with its spans, its logs, the metrics of its services while it ran, its critical path and its failure.
    ///
    /// # Errors
    /// [`QueryError::NotFound`] when neither a span nor a log record of the trace is stored,
    /// [`QueryError::InvalidArgument`] for too much at once.
    pub async fn get_trace_context(&self, request: &ContextRequest) -> Result<TraceContext, QueryError> {
        request.check()?;
        let trace_id = request.trace_id;
        let (facts, facts_cut) = self.database.trace_facts(trace_id.0, MAX_FACTS).await?;
        let ran = ran(&facts);
        let within = ran.map(|(from, to)| (from.saturating_sub(LOG_MARGIN_NS), to.saturating_add(LOG_MARGIN_NS)));
        let logs = async { Ok(self.database.some_trace_logs(trace_id.0, within, request.logs).await?) };
        let spans = async {
            if facts.is_empty() || request.spans == 0 {
                return Ok((Vec::new(), false));
            }
            self.some_spans(trace_id, request.spans).await
        };
        let metrics = self.context_metrics(request, &facts, ran);
        let ((logs, logs_cut), (spans, spans_cut), (metrics, metric_notes), overview) =
            futures::try_join!(logs, spans, metrics, self.overview_of(trace_id))?;
        if facts.is_empty() && logs.is_empty() && !logs_cut {
            return Err(QueryError::NotFound { what: format!("trace {trace_id}") });
        }

        let mut notes = Vec::new();
        let mut note = |told: bool, text: String| notes.extend(told.then_some(text));
        note(facts.is_empty(), "no span of the trace is stored, only log records".to_owned());
        note(facts_cut, format!("critical path and failure are those of the first {MAX_FACTS} spans"));
        note(spans_cut, format!("only the first {} of {} spans are shown", spans.len(), facts.len()));
        note(logs_cut && request.logs > 0, format!("only the first {} log records are shown", logs.len()));
        notes.extend(metric_notes);
        let mut render = Renderer::new(Detail::List);
        Ok(TraceContext {
            trace_id,
            overview,
            spans: spans.into_iter().map(|stored| render.span(trace_id, stored)).collect(),
            logs: logs.into_iter().map(|stored| context_log(&mut render, stored)).collect(),
            metrics,
            critical_path: critical_path(&facts),
            failure: failure(&facts),
            notes,
        })
    }

    async fn context_metrics(
        &self,
        request: &ContextRequest,
        facts: &[SpanFact],
        ran: Option<(u64, u64)>,
    ) -> Result<(Vec<ContextSeries>, Vec<String>), QueryError> {
        let mut notes = Vec::new();
        let Some((from, to)) = ran.filter(|_| request.series > 0) else { return Ok((Vec::new(), notes)) };
        let services: BTreeSet<&str> = facts.iter().map(|fact| &*fact.service).collect();
        let services: Vec<String> = services.into_iter().map(str::to_owned).collect();
        let window = MetricWindow {
            from_unix_nanos: from.saturating_sub(METRIC_MARGIN_NS),
            to_unix_nanos: to.saturating_add(METRIC_MARGIN_NS),
            trace_id: Uuid::from_bytes(request.trace_id.0),
        };
        let (mut wanted, (with_exemplar, exemplars)) = futures::try_join!(
            self.database.series_of_services(window, &services, MAX_SERIES_READ as i64 + 1),
            self.database.series_with_exemplar(window, MAX_EXEMPLARS_READ),
        )?;
        if wanted.len() > MAX_SERIES_READ {
            wanted.truncate(MAX_SERIES_READ);
            notes
                .push(format!("only the first {MAX_SERIES_READ} metric series of the trace's services were looked at"));
        }
        if exemplars == MAX_EXEMPLARS_READ {
            notes.push(format!("only the first {MAX_EXEMPLARS_READ} points with exemplars were looked at"));
        }
        wanted.extend(with_exemplar);
        let points = self.database.metrics_around(window, &wanted, MAX_POINTS).await?;
        let mut series = series(points)?;
        if series.iter().any(|series| series.points.len() as i64 == MAX_POINTS) {
            notes.push(format!("of a metric series at most the first {MAX_POINTS} points are shown"));
        }
        // A sort that keeps the order of names among equals.
        series.sort_by_key(|series| !series.has_exemplar);
        if series.len() > request.series {
            notes.push(format!("only {} of {} metric series are shown", request.series, series.len()));
            series.truncate(request.series);
        }
        Ok((series, notes))
    }
}

/// From the first start to the last end of the spans, without those that have no start.
fn ran(facts: &[SpanFact]) -> Option<(u64, u64)> {
    let timed = || facts.iter().filter(|fact| fact.start_ns != 0);
    let from = timed().map(|fact| fact.start_ns).min()?;
    let to = timed().map(|fact| fact.end_ns().max(fact.start_ns)).max()?;
    Some((from, to))
}

fn context_log(render: &mut Renderer, stored: Stored<LogRecord>) -> ContextLog {
    let Stored { resource, record: log, .. } = stored;
    let detail = Detail::List;
    ContextLog {
        time: Moment(if log.time_unix_nano == 0 { log.observed_time_unix_nano } else { log.time_unix_nano }),
        span_id: (!log.span_id.is_empty()).then_some(SpanId(log.span_id)),
        service_name: render.resource(resource).service_name.clone(),
        severity_number: log.severity_number,
        severity_text: log.severity_text,
        event_name: log.event_name,
        body: AttributeValue::of(log.body, detail),
        attributes: Attributes::of(log.attributes, detail),
    }
}

/// Puts points together by series; those of one series come one after the other.
fn series(points: Vec<SeriesPoint>) -> Result<Vec<ContextSeries>, QueryError> {
    let mut series: Vec<(i64, ContextSeries)> = Vec::new();
    for point in points {
        let context = ContextPoint {
            time: Moment(point.time_unix_nanos),
            value: point.value,
            count: point.count.map(i64::cast_unsigned),
            sum: point.sum,
            min: point.min,
            max: point.max,
            exemplars: point.exemplars.map(json).transpose()?,
        };
        let has_exemplar = context.exemplars.is_some();
        match series.last_mut() {
            Some((id, last)) if *id == point.series_id => {
                last.has_exemplar |= has_exemplar;
                last.points.push(context);
            }
            _ => series.push((
                point.series_id,
                ContextSeries {
                    service_name: point.service_name,
                    metric_name: point.metric_name,
                    metric_type: point.metric_type,
                    temporality: point.temporality,
                    monotonic: point.monotonic,
                    unit: point.unit,
                    attributes: json(point.attributes)?,
                    has_exemplar,
                    points: vec![context],
                },
            )),
        }
    }
    Ok(series.into_iter().map(|(_, series)| series).collect())
}

fn json(text: String) -> Result<Box<RawValue>, QueryError> {
    RawValue::from_string(text)
        .map_err(|error| QueryError::Unavailable { reason: format!("the database sent JSON that is none: {error}") })
}
