//! `trace`: one trace, as a tree for people or as OTLP/JSON for programs, and what belongs to it.

use std::sync::Arc;

use anyhow::{Context as _, Result};
use oneiric_otel::otlp::record::Record;
use oneiric_otel::otlp::{Group, json};
use oneiric_otel::query::{ContextRequest, QueryError, QueryService, TraceContext, TraceOverview};
use oneiric_otel::store::{StoreError, Stored};
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use opentelemetry_proto::tonic::trace::v1::Span;
use serde::Serialize;
use serde_json::value::RawValue;

use super::Ending;
use crate::args::{Global, Trace};
use crate::backend::Backend;
use crate::progress::Progress;
use crate::trace_tree::{self, Overview};
use crate::{failure, screen, trace_context};

/// What `--json` prints.
#[derive(Serialize)]
struct Output {
    summary: Overview,
    /// An `ExportTraceServiceRequest`.
    traces: Box<RawValue>,
    /// An `ExportLogsServiceRequest`.
    logs: Box<RawValue>,
    /// Without spans, which stand above; with `--critical-path` alone without logs and metrics too.
    #[serde(skip_serializing_if = "Option::is_none")]
    context: Option<TraceContext>,
}

pub(crate) async fn run(global: &Global, trace: &Trace) -> Result<Ending> {
    let backend = Backend::open_for_reading(global, &Arc::new(Progress::new())).await?;
    let read = read(&backend, trace).await;
    backend.release().await?;
    let Read { derived, spans, logs, context } = read?;
    if spans.is_empty() && logs.is_empty() {
        return Err(failure::advised(
            format!("trace {} not found", trace.id),
            "`oneiric-otel traces` lists what is there; --data-dir or --database-url name another database",
        ));
    }
    let overview = trace_tree::overview(trace.id, derived, &spans, &logs);
    if global.json {
        let output = Output { summary: overview, traces: otlp(spans)?, logs: otlp(logs)?, context };
        screen::print_json(&output)?;
    } else {
        let around = context.as_ref().map(trace_context::show).unwrap_or_default();
        screen::print(&(trace_tree::draw(&overview, &spans, &logs) + &around))?;
    }
    Ok(Ending::Good)
}

/// What is stored of a trace.
struct Read {
    /// None if it waits for derivation, or has no spans.
    derived: Option<TraceOverview>,
    spans: Vec<Stored<Span>>,
    logs: Vec<Stored<LogRecord>>,
    /// What was asked for of what belongs to it.
    context: Option<TraceContext>,
}

async fn read(backend: &Backend, trace: &Trace) -> Result<Read> {
    let database = backend.database();
    let failed = |error: StoreError| failure::of_database(&error, backend.target());
    let spans = database.trace_spans(trace.id.0).await.map_err(failed)?;
    let logs = database.trace_logs(trace.id.0).await.map_err(failed)?;
    let service = QueryService::new(database.clone(), None);
    let derived = there(service.get_trace_summary(trace.id).await, backend)?;
    let context = match wanted(trace) {
        Some(request) => there(service.get_trace_context(&request).await, backend)?,
        None => None,
    };
    Ok(Read { derived, spans, logs, context })
}

/// An answer, if there is one.
fn there<A>(answer: Result<A, QueryError>, backend: &Backend) -> Result<Option<A>> {
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(QueryError::NotFound { .. }) => Ok(None),
        Err(QueryError::Store(error)) => Err(failure::of_database(&error, backend.target())),
        Err(error) => Err(error.into()),
    }
}

/// What belongs to the trace and was asked for. The tree has the spans.
fn wanted(trace: &Trace) -> Option<ContextRequest> {
    let all = ContextRequest { spans: 0, ..ContextRequest::new(trace.id) };
    match (trace.context, trace.critical_path) {
        (true, _) => Some(all),
        (false, true) => Some(ContextRequest { logs: 0, series: 0, ..all }),
        (false, false) => None,
    }
}

/// An export request of the records, on one line.
fn otlp<R: Record>(stored: Vec<Stored<R>>) -> Result<Box<RawValue>> {
    let mut groups: Vec<Group<R>> = Vec::new();
    for Stored { resource, scope, record } in stored {
        let same = |group: &Group<R>| Arc::ptr_eq(&group.resource, &resource) && Arc::ptr_eq(&group.scope, &scope);
        match groups.iter().position(same) {
            Some(index) => groups[index].records.push(record),
            None => groups.push(Group { resource, scope, records: vec![record] }),
        }
    }
    // Scopes of one resource are to be neighbours.
    groups.sort_by_key(|group| Arc::as_ptr(&group.resource));
    let text = String::from_utf8(json::encode(&groups)).context("OTLP/JSON is UTF-8")?;
    RawValue::from_string(text).context("OTLP/JSON is JSON")
}
