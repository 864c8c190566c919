//! The kinds of question.

use anyhow::Result;
use jiff::SignedDuration;
use oneiric_otel::query::{
    ErrorGroupsRequest, OperationsRequest, QueryService, SearchRequest, SimilarRequest, TraceFilter, TracesRequest,
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
    "newest traces of a service", None, newest;
    "failed traces of a day", None, failed;
    "traces of an hour by an attribute", None, by_attribute;
    "similar traces", SOON, similar;
    "search by description", None, search;
    "error groups of a day", None, error_groups;
    "services of a day", None, services;
    "operations of a service in an hour", None, operations;
    "service map of an hour", None, dependencies;
}

async fn whole_trace(service: &QueryService, arguments: Arguments) -> Result<usize> {
    Ok(service.get_trace(arguments.trace_id, 10_000).await?.spans.len())
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
