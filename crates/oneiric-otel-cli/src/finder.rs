//! The query service as commands use it, and its answers as tables.

use std::sync::Arc;

use anyhow::{Error, Result};
use oneiric_otel::embed::Embedder;
use oneiric_otel::query::{ExactMatch, MatchPlace, QueryError, QueryService, TextHit, TraceFilter, TraceOverview};
use serde::Serialize;

use crate::args::{Global, Narrow};
use crate::backend::Backend;
use crate::progress::Progress;
use crate::{failure, model, moment, screen};

/// Characters of a description that are shown.
pub(crate) const TEXT_CHARACTERS: usize = 260;
/// What a trace is not found before.
const UNTIL_DERIVED: &str = "to be derived; a running server does it, or `oneiric-otel import` without --no-wait";

/// A database that is open for questions.
#[derive(Debug)]
pub(crate) struct Finder {
    backend: Backend,
    pub(crate) service: QueryService,
    /// Why there is no model, if there is none.
    pub(crate) no_model: Option<Error>,
}

impl Finder {
    /// Opens the database and, for questions about meaning, the model beside it.
    pub(crate) async fn open(global: &Global, with_model: bool) -> Result<Self> {
        let progress = Arc::new(Progress::new());
        if !with_model {
            let backend = Backend::open_for_reading(global, &progress).await?;
            let service = service(global, &backend, None);
            return Ok(Self { backend, service, no_model: None });
        }
        let loading = model::load_in_background(global.settings(), Arc::new(progress.beside()));
        let (backend, loaded) = tokio::join!(Backend::open_for_reading(global, &progress), loading);
        let backend = backend?;
        let (embedder, no_model) = match loaded {
            Ok(embedder) => (Some(embedder), None),
            Err(error) => (None, Some(error)),
        };
        let service = service(global, &backend, embedder);
        Ok(Self { backend, service, no_model })
    }

    /// Puts a failed question into words.
    pub(crate) fn explain(&self, error: QueryError) -> Error {
        match error {
            QueryError::Store(error) => failure::of_database(&error, self.backend.target()),
            QueryError::NotFound { what } => failure::advised(
                format!("{what} not found"),
                "`oneiric-otel traces` lists what is there; --data-dir or --database-url name another database; a trace \
                 is known some seconds after its last span",
            ),
            other => Error::new(other),
        }
    }

    /// Traces that wait to be derived, which nothing finds.
    pub(crate) async fn traces_to_derive(&self) -> Result<i64> {
        let census = self.backend.database().census().await;
        Ok(census.map_err(|error| failure::of_database(&error, self.backend.target()))?.traces_to_derive)
    }

    pub(crate) async fn release(self) -> Result<()> {
        self.backend.release().await
    }
}

fn service(global: &Global, backend: &Backend, embedder: Option<Arc<dyn Embedder>>) -> QueryService {
    QueryService::new(backend.database().clone(), embedder).with_options(global.settings().query_options())
}

/// The filter of a command line.
pub(crate) fn filter(narrow: &Narrow) -> TraceFilter {
    TraceFilter {
        since: narrow.since.map(|moment| moment.0),
        until: narrow.until.map(|moment| moment.0),
        service: narrow.service.clone(),
        status: narrow.status.map(|status| status.as_str().to_owned()),
        operation: narrow.operation.clone(),
        min_duration: narrow.min_duration.map(|length| length.0),
        max_duration: narrow.max_duration.map(|length| length.0),
        attributes: narrow.attributes.clone(),
    }
}

/// An answer, and what is not in it yet.
#[derive(Debug, Serialize)]
pub(crate) struct Waiting<A> {
    #[serde(flatten)]
    pub(crate) answer: A,
    /// Traces that wait to be derived, which nothing finds.
    pub(crate) traces_to_derive: i64,
}

impl<A> Waiting<A> {
    /// A line about the traces that wait, if there are any.
    pub(crate) fn note(&self) -> String {
        match self.traces_to_derive {
            0 => String::new(),
            1 => format!("note: 1 trace waits {UNTIL_DERIVED}\n"),
            traces => format!("note: {traces} traces wait {UNTIL_DERIVED}\n"),
        }
    }
}

/// How to go on behind a page.
pub(crate) fn more(next: Option<&str>) -> String {
    next.map(|cursor| format!("there are more: --cursor {}\n", screen::clean(cursor))).unwrap_or_default()
}

/// Hits, best first, each with what happened below it. Narrow enough for any terminal.
pub(crate) fn show_hits(hits: &[TextHit], score: &str) -> String {
    let mut lines = String::new();
    for hit in hits {
        let traces = if hit.trace_count == 1 { "trace" } else { "traces" };
        let how = hit.exact.as_ref().map_or_else(|| format!("{score} {:.2}", hit.score), show_exact);
        let head = format!("{how}  {} {traces}, newest {}", hit.trace_count, hit.newest.trace_id);
        lines.push_str(&head);
        lines.push('\n');
        lines.push_str(&screen::indent(&format!(
            "{}  {}",
            began(&hit.newest),
            screen::clean_short(&hit.text, TEXT_CHARACTERS)
        )));
        lines.push('\n');
    }
    lines
}

fn show_exact(exact: &ExactMatch) -> String {
    let value = screen::clean_short(&exact.value, 80);
    match (exact.place, &exact.attribute) {
        (MatchPlace::TraceId, _) => "named by its id".to_owned(),
        (MatchPlace::Attribute, Some(name)) => format!("{} is {value}", screen::clean_short(name, 80)),
        (MatchPlace::Attribute, None) => format!("an attribute is {value}"),
        (MatchPlace::Log, _) => format!("{value} in a log"),
    }
}

/// Traces, each with its error below it.
pub(crate) fn show_traces(traces: &[TraceOverview]) -> String {
    let mut lines = String::new();
    for trace in traces {
        let spans = if trace.span_count == 1 { "span" } else { "spans" };
        let head = format!(
            "{}  {}  {}  {}  {} {spans}\n",
            trace.trace_id,
            began(trace),
            moment::show_duration(trace.duration_ns.unsigned_abs()),
            screen::clean_short(&trace.status, 10),
            trace.span_count,
        );
        lines.push_str(&head);
        let service = screen::clean_short(&trace.service_name, 40);
        let mut what = format!("{service}  {}", screen::clean_short(&trace.root_name, 60));
        if let Some(error) = &trace.error_message {
            what = format!("{what}  {}", screen::clean_short(error, 120));
        }
        lines.push_str(&screen::indent(&what));
    }
    lines
}

fn began(trace: &TraceOverview) -> String {
    moment::show_short(moment::unix_nanos(trace.start_time))
}
