//! The kinds of question.

use std::time::Duration;

use anyhow::Result;
use jiff::SignedDuration;
use oneiric_otel::otlp::Signal;
use oneiric_otel::query::{
    Aggregation, AttributeValuesRequest, ContextRequest, ErrorGroupsRequest, ErrorTracesRequest, LogsRequest,
    MetricsRequest, OperationsRequest, QueryService, SearchRequest, SimilarRequest, TraceFilter, TracesRequest,
};

use super::{Arguments, Class};
use crate::generate::FAULTS;

const HOUR: SignedDuration = SignedDuration::from_hours(1);
const DAY: SignedDuration = SignedDuration::from_hours(24);
const PAGE: usize = 50;
/// Milliseconds, where the product promises them.
const SOON: Option<f64> = Some(20.0);

macro_rules! classes {
    ($($name:literal, $goal:expr, $ask:ident;)*) => {
        /// All of them.
        pub(super) const CLASSES: &[Class] =
            &[$(Class { name: $name, goal_ms: $goal, ask: |service, arguments| Box::pin($ask(service, arguments)) }),*];
    };
}

classes! {
    "a trace, whole", SOON, whole_trace;
    "a trace with its logs, metrics and critical path", SOON, context;
    "two traces side by side", None, diff;
    "newest traces of a service", None, newest;
    "failed traces of a day", None, failed;
    "traces of an hour by an attribute", None, by_attribute;
    "similar traces", SOON, similar;
    "search by description", None, search;
    "logs of a day by a part of a class name", None, logs_by_class;
    "logs of a day by a phrase and a level", None, logs_by_phrase;
    "logs of a trace", None, logs_of_trace;
    "log patterns of an hour", None, log_patterns;
    "traces of a day by error", SOON, by_error;
    "error groups of a day", None, error_groups;
    "services of a day", None, services;
    "operations of a service in an hour", None, operations;
    "service map of an hour", None, dependencies;
    "values of an attribute in an hour", None, attribute_values;
    "rate of a counter by service, an hour in minutes", None, rate_of_an_hour;
    "the same, a month in hours", None, rate_of_a_month;
    "p95 of a histogram, a day in steps of 10 minutes", None, quantile_of_a_day;
}

async fn whole_trace(service: &QueryService, arguments: Arguments) -> Result<usize> {
    Ok(service.get_trace(arguments.trace_id, 10_000).await?.spans.len())
}

async fn context(service: &QueryService, arguments: Arguments) -> Result<usize> {
    let context = service.get_trace_context(&ContextRequest::new(arguments.trace_id)).await?;
    Ok(context.spans.len() + context.logs.len() + context.metrics.len())
}

async fn diff(service: &QueryService, arguments: Arguments) -> Result<usize> {
    let similar =
        SimilarRequest { trace_id: arguments.trace_id, threshold: 0.5, limit: 1, filter: TraceFilter::default() };
    let Some(other) = service.find_similar_traces(&similar).await?.hits.pop() else { return Ok(0) };
    service.diff_traces(arguments.trace_id, other.newest.trace_id).await?;
    Ok(1)
}

async fn newest(service: &QueryService, arguments: Arguments) -> Result<usize> {
    let filter = TraceFilter { service: Some(arguments.service), ..TraceFilter::default() };
    Ok(service.find_traces(&TracesRequest::new(filter, PAGE)).await?.traces.len())
}

async fn failed(service: &QueryService, arguments: Arguments) -> Result<usize> {
    let filter = TraceFilter { status: Some("error".to_owned()), ..arguments.traces_of_last(DAY)? };
    Ok(service.find_traces(&TracesRequest::new(filter, PAGE)).await?.traces.len())
}

async fn by_attribute(service: &QueryService, arguments: Arguments) -> Result<usize> {
    let filter = TraceFilter {
        attributes: vec![format!("tenant=t-{}", arguments.fault).parse()?],
        ..arguments.traces_of_last(HOUR)?
    };
    Ok(service.find_traces(&TracesRequest::new(filter, PAGE)).await?.traces.len())
}

async fn similar(service: &QueryService, arguments: Arguments) -> Result<usize> {
    let request =
        SimilarRequest { trace_id: arguments.trace_id, threshold: 0.85, limit: 10, filter: TraceFilter::default() };
    Ok(service.find_similar_traces(&request).await?.hits.len())
}

async fn search(service: &QueryService, arguments: Arguments) -> Result<usize> {
    let text = format!("{} in {}", FAULTS[arguments.fault].kind, arguments.service);
    let request = SearchRequest { text, limit: 10, filter: TraceFilter::default() };
    Ok(service.search_traces(&request).await?.hits.len())
}

/// The last part of its name is how people remember a class.
async fn logs_by_class(service: &QueryService, arguments: Arguments) -> Result<usize> {
    let class = FAULTS[arguments.fault].kind.rsplit('.').next().unwrap_or_default();
    logs(service, LogsRequest { query: Some(class.to_owned()), ..of_last_day(&arguments)? }).await
}

async fn logs_by_phrase(service: &QueryService, arguments: Arguments) -> Result<usize> {
    let query = Some("\"falling back\" defaults".to_owned());
    logs(service, LogsRequest { query, level: Some("warn".to_owned()), ..of_last_day(&arguments)? }).await
}

async fn logs_of_trace(service: &QueryService, arguments: Arguments) -> Result<usize> {
    logs(service, LogsRequest { trace_id: Some(arguments.trace_id), limit: PAGE, ..LogsRequest::default() }).await
}

async fn log_patterns(service: &QueryService, arguments: Arguments) -> Result<usize> {
    let range = arguments.last(HOUR)?;
    let request =
        LogsRequest { start: Some(range.start()), end: Some(range.end()), limit: PAGE, ..LogsRequest::default() };
    Ok(service.log_patterns(&request).await?.patterns.len())
}

fn of_last_day(arguments: &Arguments) -> Result<LogsRequest> {
    let range = arguments.last(DAY)?;
    Ok(LogsRequest { start: Some(range.start()), end: Some(range.end()), limit: PAGE, ..LogsRequest::default() })
}

async fn logs(service: &QueryService, request: LogsRequest) -> Result<usize> {
    Ok(service.search_logs(&request).await?.logs.len())
}

/// What stays the same in messages that differ.
async fn by_error(service: &QueryService, arguments: Arguments) -> Result<usize> {
    let message = FAULTS[arguments.fault].message;
    let words = message.split('{').next().unwrap_or_default().trim();
    let request = ErrorTracesRequest {
        pattern: if words.is_empty() { FAULTS[arguments.fault].kind } else { words }.to_owned(),
        service: None,
        range: arguments.last(DAY)?,
        limit: PAGE,
        after: None,
    };
    Ok(service.get_traces_by_error(&request).await?.traces.len())
}

async fn error_groups(service: &QueryService, arguments: Arguments) -> Result<usize> {
    let request = ErrorGroupsRequest {
        range: arguments.last(DAY)?,
        service: None,
        new_since: None,
        only_new: false,
        step: None,
        limit: PAGE,
        after: None,
    };
    Ok(service.error_groups(&request).await?.groups.len())
}

async fn services(service: &QueryService, arguments: Arguments) -> Result<usize> {
    Ok(service.services(arguments.last(DAY)?).await?.services.len())
}

async fn operations(service: &QueryService, arguments: Arguments) -> Result<usize> {
    let request = OperationsRequest { range: arguments.last(HOUR)?, service: arguments.service, limit: PAGE };
    Ok(service.operations(&request).await?.operations.len())
}

async fn dependencies(service: &QueryService, arguments: Arguments) -> Result<usize> {
    Ok(service.dependencies(arguments.last(HOUR)?).await?.dependencies.len())
}

async fn attribute_values(service: &QueryService, arguments: Arguments) -> Result<usize> {
    let request = AttributeValuesRequest {
        signal: Signal::Traces,
        key: "http.response.status_code".to_owned(),
        prefix: String::new(),
        range: arguments.last(HOUR)?,
        limit: PAGE,
    };
    Ok(service.attribute_values(&request).await?.values.len())
}

async fn rate_of_an_hour(service: &QueryService, arguments: Arguments) -> Result<usize> {
    let by_service = Some(vec!["service.name".to_owned()]);
    metric(service, &arguments, HOUR, Duration::from_mins(1), Aggregation::Rate, "retail.operations", by_service).await
}

async fn rate_of_a_month(service: &QueryService, arguments: Arguments) -> Result<usize> {
    let by_service = Some(vec!["service.name".to_owned()]);
    let month = SignedDuration::from_hours(30 * 24);
    metric(service, &arguments, month, Duration::from_hours(1), Aggregation::Rate, "retail.operations", by_service)
        .await
}

async fn quantile_of_a_day(service: &QueryService, arguments: Arguments) -> Result<usize> {
    let step = Duration::from_mins(10);
    let all = Some(Vec::new());
    metric(service, &arguments, DAY, step, Aggregation::Quantile(0.95), "http.server.request.duration", all).await
}

/// Returns the number of points.
async fn metric(
    service: &QueryService,
    arguments: &Arguments,
    length: SignedDuration,
    step: Duration,
    aggregation: Aggregation,
    name: &str,
    group_by: Option<Vec<String>>,
) -> Result<usize> {
    let range = arguments.last(length)?;
    let request = MetricsRequest {
        name: name.to_owned(),
        labels: Vec::new(),
        service: None,
        start: range.start(),
        end: range.end(),
        step,
        aggregation,
        group_by,
    };
    let answer = service.get_metrics_by_time_range(&request).await?;
    Ok(answer.series.iter().map(|series| series.points.len()).sum())
}
