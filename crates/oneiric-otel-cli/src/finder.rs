//! The query service as commands use it, and its answers as tables.

use std::sync::Arc;

use anyhow::{Error, Result};
use comfy_table::{ColumnConstraint, Table, Width};
use oneiric_otel::query::{QueryError, QueryService, TextHit, TraceFilter, TraceOverview};

use crate::args::{Global, Narrow};
use crate::backend::Backend;
use crate::progress::Progress;
use crate::{failure, model, moment, screen};

const TEXT_CHARACTERS: usize = 260;
const ID_DIGITS: u16 = 32;

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
            let service = QueryService::new(backend.database().clone(), None);
            return Ok(Self { backend, service, no_model: None });
        }
        let loading = model::load_in_background(Arc::new(progress.beside()));
        let (backend, loaded) = tokio::join!(Backend::open_for_reading(global, &progress), loading);
        let backend = backend?;
        let (embedder, no_model) = match loaded {
            Ok(embedder) => (Some(embedder), None),
            Err(error) => (None, Some(error)),
        };
        let service = QueryService::new(backend.database().clone(), embedder);
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

    pub(crate) async fn release(self) -> Result<()> {
        self.backend.release().await
    }
}

/// The filter of a command line.
pub(crate) fn filter(narrow: &Narrow) -> TraceFilter {
    TraceFilter {
        since: narrow.since.map(|moment| moment.0),
        until: narrow.until.map(|moment| moment.0),
        service: narrow.service.clone(),
        status: narrow.status.map(|status| status.as_str().to_owned()),
        ..TraceFilter::default()
    }
}

/// Hits as a table, best first.
pub(crate) fn hits_table(hits: &[TextHit], score: &str) -> Table {
    let mut table = screen::spaced_table(&[score, "traces", "newest of them", "began", "what happened"]);
    for hit in hits {
        table.add_row([
            format!("{:.2}", hit.score),
            hit.trace_count.to_string(),
            hit.newest.trace_id.to_string(),
            began(&hit.newest),
            screen::clean_short(&hit.text, TEXT_CHARACTERS),
        ]);
    }
    // An id that is broken cannot be copied.
    keep_whole(&mut table, 2);
    table
}

/// Traces as a table.
pub(crate) fn traces_table(traces: &[TraceOverview]) -> Table {
    let mut table = screen::table(&["trace", "began", "took", "status", "service", "operation", "spans", "error"]);
    for trace in traces {
        table.add_row([
            trace.trace_id.to_string(),
            began(trace),
            moment::show_duration(trace.duration_ns.unsigned_abs()),
            screen::clean_short(&trace.status, 10),
            screen::clean_short(&trace.service_name, 40),
            screen::clean_short(&trace.root_name, 60),
            trace.span_count.to_string(),
            screen::clean_short(trace.error_message.as_deref().unwrap_or_default(), 120),
        ]);
    }
    keep_whole(&mut table, 0);
    table
}

fn began(trace: &TraceOverview) -> String {
    moment::show_short(u64::try_from(trace.start_time.as_nanosecond()).unwrap_or_default())
}

fn keep_whole(table: &mut Table, column: usize) {
    if let Some(column) = table.column_mut(column) {
        let padding = column.padding_width();
        column.set_constraint(ColumnConstraint::LowerBoundary(Width::Fixed(ID_DIGITS + padding)));
    }
}
