//! How long it takes from the start of the program until it takes telemetry in, and from the first span until thousands of
//! traces can be found by meaning.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use oneiric_otel::embed::Embedder;
use oneiric_otel::query::{QueryService, SimilarRequest, TraceFilter, TraceId};
use oneiric_otel::store::Database;
use serde::Serialize;
use tokio::sync::mpsc;

use crate::latency::{Latencies, Quantiles};
use crate::machine::Machine;
use crate::server::Server;
use crate::{database, load, standard};

/// What is measured.
#[derive(Debug, Clone)]
pub struct Options {
    /// The product's program.
    pub program: PathBuf,
    /// An empty directory for the server's data.
    pub dir: PathBuf,
    /// Starts that are measured.
    pub starts: u32,
    /// Traces that are stored, derived, embedded and found.
    pub traces: u64,
}

/// What was measured.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Searchable {
    /// Traces that were sent.
    pub traces: u64,
    /// Seconds until all were committed.
    pub stored_seconds: f64,
    /// Seconds until all were derived.
    pub derived_seconds: f64,
    /// Seconds until every text had its vector and traces like the last one were found.
    pub searchable_seconds: f64,
}

/// What was measured.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// On which machine.
    pub machine: Machine,
    /// Seconds of the first start, which makes the database.
    pub first_start_seconds: f64,
    /// Of the starts on an initialised database, until the server said that it is ready.
    pub starts: Quantiles,
    /// How many those were.
    pub count: u32,
    /// From the first span to the last trace found.
    pub searchable: Searchable,
}

/// Spans of a request.
const SPANS_OF_A_REQUEST: u64 = 500;
const CONNECTIONS: usize = 4;
/// Least cosine of traces that count as alike.
const LIKE: f64 = 0.85;

/// Runs the measurement on an embedded database. `embedder` is the model that the server has too; `tell` hears what goes on.
///
/// # Errors
/// If the server does not start, or what is sent is not found.
pub async fn run(options: &Options, embedder: Arc<dyn Embedder>, tell: &impl Fn(&str)) -> Result<Report> {
    let (data, log) = (options.dir.join("data"), options.dir.join("serve.log"));
    let start = || Server::start(&options.program, &data, None, &[], &log);
    tell("making the database");
    let server = start().await?;
    let first_start_seconds = server.ready_after.as_secs_f64();
    tell("until traces can be searched");
    let searchable = search(options, &server, &data, embedder).await;
    server.stop().await?;
    let searchable = searchable?;
    tell("starting again and again");
    let mut starts = Latencies::default();
    for _ in 0..options.starts {
        let server = start().await?;
        starts.add(server.ready_after);
        server.stop().await?;
    }
    let machine = Machine::here();
    Ok(Report { machine, first_start_seconds, starts: starts.quantiles(), count: options.starts, searchable })
}

async fn search(options: &Options, server: &Server, data: &Path, embedder: Arc<dyn Embedder>) -> Result<Searchable> {
    let Some(embedded) = oneiric_otel_postgres::Server::attach(data)? else {
        bail!("the embedded PostgreSQL does not run");
    };
    let url = embedded.connection().url();
    let client = database::connect(&url).await?;
    let (sender, queued) = mpsc::channel(usize::try_from(options.traces.max(1))?);
    let per_request = SPANS_OF_A_REQUEST / standard::SPANS_PER_TRACE;
    let start = standard::today();
    let request = |first: u64| standard::request(start, first..(first + per_request).min(options.traces)).into();
    for first in (0..options.traces).step_by(usize::try_from(per_request)?) {
        sender.send(request(first)).await?;
    }
    drop(sender);

    let began = Instant::now();
    load::send(server.addresses.grpc, load::Signal::Traces, queued, CONNECTIONS).await?;
    let spans = options.traces * standard::SPANS_PER_TRACE;
    database::wait_for_rows(&client, spans, Duration::from_millis(20), |_| {}).await?;
    let stored_seconds = began.elapsed().as_secs_f64();
    database::wait_for_traces(&client, false).await?;
    let derived_seconds = began.elapsed().as_secs_f64();
    let traces = database::wait_for_traces(&client, true).await?;
    if traces != options.traces {
        bail!("{} traces were sent, and {traces} are there", options.traces);
    }
    let query = QueryService::new(Database::new(&url)?, Some(embedder));
    let trace_id = TraceId(standard::trace_id(options.traces - 1));
    let like = SimilarRequest { trace_id, threshold: LIKE, limit: 10, filter: TraceFilter::default() };
    let found = query.find_similar_traces(&like).await?;
    let searchable_seconds = began.elapsed().as_secs_f64();
    if found.hits.is_empty() {
        bail!("nothing like the last trace was found");
    }
    drop((query, client));
    embedded.release()?;
    Ok(Searchable { traces, stored_seconds, derived_seconds, searchable_seconds })
}
