//! What a span, a question and a start cost as a database grows, and what keeping the vector index clean costs.
//!
//! At each size all spans are measured that came since the size before, with everything that they cause: traces are derived
//! and embedded meanwhile, as a server does, and what autovacuum has not come to is vacuumed and analysed in the end. A window
//! over the last of them alone would be charged with the vacuuming of all, which comes when it comes. Then questions are
//! asked, of traces from all of the time; then the server and its PostgreSQL are started again.

pub mod chart;
mod vectors;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use jiff::Timestamp;
use oneiric_otel::query::{ContextRequest, QueryService, SearchRequest, TraceFilter, TraceId, TracesRequest};
use oneiric_otel::store::Database;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use serde::Serialize;

pub use vectors::Vacuum;

use crate::database::{self, Description};
use crate::latency::{Latencies, Quantiles};
use crate::load::Load;
use crate::machine::Machine;
use crate::meter::{Cpu, Meter};
use crate::sender::Sender;
use crate::server::Server;
use crate::standard;

const LOOK_EVERY: Duration = Duration::from_millis(50);
const CONNECTIONS: usize = 8;
const SEED: u64 = 9;
/// Traces and hits of a page.
const PAGE: usize = 50;
const KINDS: [&str; 4] =
    ["a trace by its id", "a trace with all around it", "failed traces of a minute", "search by words"];

/// What is measured.
#[derive(Debug, Clone)]
pub struct Options {
    /// The product's program: the server.
    pub program: PathBuf,
    /// The program that has `bench load`: the sender.
    pub sender: PathBuf,
    /// An empty directory for the server's data.
    pub dir: PathBuf,
    /// When the telemetry begins, in nanoseconds since 1970.
    pub start: u64,
    /// How many spans there are when it is measured: rising multiples of `spans_per_request`.
    pub at: Vec<u64>,
    /// Spans of a request, a multiple of 10.
    pub spans_per_request: u64,
    /// Questions of each kind.
    pub questions: u32,
    /// Starts each time.
    pub starts: u32,
    /// Made vectors in the index that is vacuumed; 0 leaves it out.
    pub vectors: u32,
}

/// What was measured.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// On which machine.
    pub machine: Machine,
    /// On which database.
    pub database: Description,
    /// At each size.
    pub points: Vec<Point>,
    /// The vector index. None where it was left out.
    pub vacuum: Option<Vacuum>,
}

/// At a size.
#[derive(Debug, Clone, Serialize)]
pub struct Point {
    /// Spans that are stored.
    pub spans: u64,
    /// Spans that were measured: all that came since the size before.
    pub measured: u64,
    /// Spans committed per second, of these.
    pub committed_per_second: f64,
    /// Seconds until the last of their traces was derived and embedded, from the first span on.
    pub seconds_until_derived: f64,
    /// Processor seconds per million spans until they were derived, embedded and vacuumed.
    pub cpu: Cpu,
    /// Bytes of write-ahead log per span until then.
    pub wal_bytes_per_span: f64,
    /// Bytes of the database.
    pub bytes: u64,
    /// Questions by kind.
    pub questions: Vec<Asked>,
    /// From the start of the program until it was ready, PostgreSQL's start included.
    pub start: Quantiles,
}

/// A kind of question.
#[derive(Debug, Clone, Serialize)]
pub struct Asked {
    /// What was asked.
    pub kind: &'static str,
    /// Things in an answer, on average.
    pub answers: f64,
    /// How long it took.
    pub took: Quantiles,
}

impl Options {
    /// Checks that the numbers fit together.
    ///
    /// # Errors
    /// Says which does not, and what is accepted.
    pub fn check(&self) -> Result<()> {
        if self.at.is_empty() {
            bail!("sizes: expected at least one, found none");
        }
        let mut there = 0;
        for size in &self.at {
            if *size <= there {
                bail!("sizes: expected rising ones, found {size} after {there}");
            }
            self.load(0, *size).check()?;
            there = *size;
        }
        Ok(())
    }

    fn load(&self, from: u64, spans: u64) -> Load {
        let first_trace = from / standard::SPANS_PER_TRACE;
        let Self { start, spans_per_request, .. } = *self;
        Load { start, first_trace, spans, spans_per_request, connections: CONNECTIONS }
    }
}

/// Runs the measurement on an embedded database. `tell` hears what goes on.
///
/// # Errors
/// If a server or the sender fails, or what is sent is not found.
pub async fn run(options: &Options, tell: &impl Fn(&str)) -> Result<Report> {
    options.check()?;
    let (data, log) = (options.dir.join("data"), options.dir.join("serve.log"));
    let start = || Server::start(&options.program, &data, None, &[], &log);
    let (mut points, mut there) = (Vec::new(), 0);
    for size in &options.at {
        tell(&format!("{size} spans"));
        let server = start().await?;
        let mut point =
            database::with_embedded(&data, async |url| grow(options, &server, &url, there, *size).await).await;
        server.stop().await?;
        let mut starts = Latencies::default();
        for _ in 0..options.starts {
            let server = start().await?;
            starts.add(server.ready_after);
            server.stop().await?;
        }
        if let Ok(point) = &mut point {
            point.start = starts.quantiles();
        }
        points.push(point?);
        there = *size;
    }
    let server = start().await?;
    let rest = database::with_embedded(&data, async |url| {
        let client = database::connect(&url).await?;
        let vacuum = match options.vectors {
            0 => None,
            count => Some(vectors::measure(&client, count, tell).await?),
        };
        Ok((vacuum, database::describe(&client).await?))
    })
    .await;
    server.stop().await?;
    let (vacuum, database) = rest?;
    Ok(Report { machine: Machine::here(), database, points, vacuum })
}

async fn grow(options: &Options, server: &Server, url: &str, there: u64, size: u64) -> Result<Point> {
    let client = database::connect(url).await?;
    let postgres = database::postmaster(&client).await?;
    let measured = size - there;
    let sender = Sender::start(&options.sender, server.addresses.grpc, options.load(there, measured)).await?;
    database::checkpoint(&client).await;
    let before = Meter::read(&client, Some(server.pid), postgres).await?;
    let sending = sender.go().await?;
    let stored = database::wait_for_rows(&client, size, LOOK_EVERY, |_| {});
    tokio::try_join!(sending.finish(), stored)?;
    let committed = before.at.elapsed();
    database::wait_for_traces(&client, true).await?;
    let derived = before.at.elapsed();
    client.batch_execute("VACUUM (ANALYZE)").await?;
    let used = Meter::read(&client, Some(server.pid), postgres).await?.since(&before);
    let stored = database::count_spans(&client).await?;
    if stored != size {
        bail!("{size} spans were acknowledged, and {stored} are stored");
    }
    let bytes = client.query_one("SELECT pg_database_size(current_database())", &[]).await?.get::<_, i64>(0);
    Ok(Point {
        spans: size,
        measured,
        committed_per_second: measured as f64 / committed.as_secs_f64(),
        seconds_until_derived: derived.as_secs_f64(),
        cpu: used.cpu(measured),
        wal_bytes_per_span: used.wal as f64 / measured as f64,
        bytes: bytes.unsigned_abs(),
        questions: ask(options, url, size / standard::SPANS_PER_TRACE).await?,
        start: Quantiles::default(),
    })
}

/// Asks all kinds of question about so many traces, each in a round of its own.
async fn ask(options: &Options, url: &str, traces: u64) -> Result<Vec<Asked>> {
    let service = QueryService::new(Database::new(url)?, None).bypassing_cache();
    let mut asked = Vec::new();
    for kind in KINDS {
        let (mut random, mut latencies, mut answers) = (StdRng::seed_from_u64(SEED), Latencies::default(), 0);
        for _ in 0..options.questions {
            let trace = random.random_range(0..traces);
            let began = Instant::now();
            answers += answer(&service, kind, trace, standard::start_of(options.start, trace)).await?;
            latencies.add(began.elapsed());
        }
        let answers = answers as f64 / f64::from(options.questions.max(1));
        if answers == 0.0 {
            bail!("{kind}: no answer has anything in it");
        }
        asked.push(Asked { kind, answers, took: latencies.quantiles() });
    }
    Ok(asked)
}

/// How many things are in the answer about a trace that began at `start`.
async fn answer(service: &QueryService, kind: &str, trace: u64, start: u64) -> Result<usize> {
    let trace_id = TraceId(standard::trace_id(trace));
    match kind {
        "a trace by its id" => Ok(service.get_trace(trace_id, 10_000).await?.spans.len()),
        "a trace with all around it" => {
            let context = service.get_trace_context(&ContextRequest::new(trace_id)).await?;
            Ok(context.spans.len() + context.logs.len() + context.metrics.len())
        }
        "failed traces of a minute" => {
            let until = Timestamp::from_nanosecond(i128::from(start))?;
            let since = until.checked_sub(Duration::from_mins(1))?;
            let filter = TraceFilter {
                status: Some("error".to_owned()),
                since: Some(since),
                until: Some(until),
                ..TraceFilter::default()
            };
            Ok(service.find_traces(&TracesRequest::new(filter, PAGE)).await?.traces.len())
        }
        _ => {
            let text = standard::root_name(trace);
            let request = SearchRequest { text, limit: 10, filter: TraceFilter::default() };
            Ok(service.search_traces(&request).await?.hits.len())
        }
    }
}
