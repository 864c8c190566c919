//! How fast spans are stored, and at what cost: beside the same rows written by a bare COPY.
//!
//! ```text
//! load, a process ── OTLP/gRPC ──▶ serve, a process ──▶ PostgreSQL ◀── COPY, INSERT of the same rows, afterwards
//!                                   ▲ processor time     ▲ processor time, write-ahead log, sizes
//! ```
//!
//! Traces are derived after the spans are stored, unless it is asked for otherwise: then each has a figure of its own. The
//! cost of making and sending the load is no part of any figure but the wall's, on which all share the processors.

mod baseline;
mod rows;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, bail};
use serde::Serialize;

pub use baseline::Baseline;

pub use crate::meter::Cpu;

use crate::database::{self, Description, Size};
use crate::latency::Quantiles;
use crate::load::Load;
use crate::machine::Machine;
use crate::meter::Meter;
use crate::process;
use crate::sender::Sender;
use crate::server::Server;

const LOOK_EVERY: Duration = Duration::from_millis(50);

/// What is measured.
#[derive(Debug, Clone)]
pub struct Options {
    /// The product's program: the server.
    pub program: PathBuf,
    /// The program that has `bench load`: the sender.
    pub sender: PathBuf,
    /// An empty directory for the server's data.
    pub dir: PathBuf,
    /// The database, empty; none for the embedded one.
    pub url: Option<String>,
    /// What is sent.
    pub load: Load,
    /// When a request is acknowledged: `spooled` or `stored`.
    pub ack: String,
    /// More arguments of `serve`.
    pub arguments: Vec<String>,
    /// Derive traces while spans come in, not afterwards.
    pub derive_meanwhile: bool,
    /// Rows that are written again for comparison, at most; 0 leaves the comparison out.
    pub baseline_rows: u64,
    /// Report the rate of each so many spans; 0 reports none.
    pub progress_every: u64,
}

/// What was measured.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// On which machine.
    pub machine: Machine,
    /// On which database.
    pub database: Description,
    /// When a request was acknowledged.
    pub ack: String,
    /// What was sent.
    pub load: Load,
    /// Bytes of a span as OTLP.
    pub otlp_bytes_per_span: f64,
    /// Spans per second until the last acknowledgement.
    pub acknowledged_per_second: f64,
    /// Spans per second until the last row was committed.
    pub committed_per_second: f64,
    /// From a request's first byte to its acknowledgement.
    pub latency: Quantiles,
    /// Deliveries that were refused and sent again.
    pub refused: u64,
    /// Processor seconds per million spans until the last row was committed.
    pub cpu: Cpu,
    /// Bytes of write-ahead log per span, likewise.
    pub wal_bytes_per_span: f64,
    /// Highest resident memory of the server, in bytes.
    pub resident_bytes: Option<u64>,
    /// The rate of each part of the spans, in order.
    pub rates: Vec<Rate>,
    /// Whether traces were derived meanwhile; what was left to derive came afterwards.
    pub derived_meanwhile: bool,
    /// What deriving and embedding took after the last row was committed.
    pub derivation: Derivation,
    /// What lies on disk.
    pub sizes: Vec<Size>,
    /// Bytes on disk per span, of the table of spans and its indexes.
    pub span_bytes: f64,
    /// The same for everything that is stored.
    pub all_bytes: f64,
    /// The same rows by plain ways.
    pub baselines: Vec<Baseline>,
    /// How near this is to the fastest bare COPY. None where nothing was compared.
    pub share: Option<Share>,
}

/// Spans per second in a part of the run.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Rate {
    /// Spans that were committed at its end.
    pub spans: u64,
    /// Spans per second in it.
    pub per_second: f64,
}

/// Deriving traces from what is stored, and embedding their texts.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Derivation {
    /// Traces in all.
    pub traces: u64,
    /// Seconds until all were derived and embedded.
    pub seconds: f64,
    /// Processor seconds per million spans.
    pub cpu: Cpu,
}

/// The bare COPY's cost as a share of ours: 1 would be as good.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Share {
    /// Our committed spans per second over its rows per second.
    pub rate: f64,
    /// Its processor seconds, the client's included, over those of server and PostgreSQL.
    pub cpu: Option<f64>,
    /// Its processor seconds, PostgreSQL's alone, over those of server and PostgreSQL.
    pub cpu_without_client: Option<f64>,
}

impl Report {
    /// The last rate over the first.
    pub fn last_to_first(&self) -> Option<f64> {
        let [first, .., last] = self.rates.as_slice() else { return None };
        Some(last.per_second / first.per_second)
    }
}

/// Runs the measurement. `tell` hears what goes on.
///
/// # Errors
/// If the server or the sender fails, the database is not empty, or not everything that was acknowledged is stored.
pub async fn run(options: &Options, tell: &impl Fn(&str)) -> Result<Report> {
    options.load.check()?;
    tell("starting the server");
    let mut arguments = options.arguments.clone();
    arguments.push(format!("--ack={}", options.ack));
    let log = options.dir.join("serve.log");
    let data = options.dir.join("data");
    let server = Server::start(&options.program, &data, options.url.as_deref(), &arguments, &log).await?;
    // With us as a second user it goes on when the server ends.
    let embedded = match options.url {
        Some(_) => None,
        None => oneiric_otel_postgres::Server::attach(&data)?,
    };
    let url = match (&options.url, &embedded) {
        (Some(url), _) => url.clone(),
        (None, Some(embedded)) => embedded.connection().url(),
        (None, None) => bail!("the embedded PostgreSQL does not run"),
    };
    let report = measure(options, server, &url, tell).await;
    if let Some(embedded) = embedded {
        embedded.release()?;
    }
    report
}

async fn measure(options: &Options, server: Server, url: &str, tell: &impl Fn(&str)) -> Result<Report> {
    let load = options.load;
    let client = database::connect(url).await?;
    if database::committed_rows(&client).await? > 0 {
        bail!("the database has telemetry already: a benchmark begins with an empty one");
    }
    let postgres = database::postmaster(&client).await?;
    let held = if options.derive_meanwhile { None } else { Some(database::hold_derivation(url).await?) };
    tell("making spans");
    let sender = Sender::start(&options.sender, server.addresses.grpc, load).await?;
    database::checkpoint(&client).await;

    tell("sending spans");
    let before = Meter::read(&client, Some(server.pid), postgres).await?;
    let sending = sender.go().await?;
    let mut seen = Vec::new();
    let storing = async {
        database::wait_for_rows(&client, load.spans, LOOK_EVERY, |rows| seen.push((before.at.elapsed(), rows))).await?;
        Meter::read(&client, Some(server.pid), postgres).await
    };
    let (sent, after) = tokio::try_join!(sending.finish(), storing)?;
    let used = after.since(&before);
    let stored = database::count_spans(&client).await?;
    if stored != load.spans {
        bail!("{} spans were acknowledged, and {stored} are stored", load.spans);
    }

    tell("deriving traces");
    drop(held);
    let began = Meter::read(&client, Some(server.pid), postgres).await?;
    let traces = database::wait_for_traces(&client, true).await?;
    let ended = Meter::read(&client, Some(server.pid), postgres).await?;
    let deriving = ended.since(&began);
    let derivation = Derivation { traces, seconds: deriving.elapsed.as_secs_f64(), cpu: deriving.cpu(load.spans) };
    let sizes = database::sizes(&client).await?;
    let resident_bytes = process::resident(server.pid).map(|(_, highest)| highest);
    server.stop().await?;

    let baselines = match options.baseline_rows {
        0 => Vec::new(),
        rows => baseline::measure(url, postgres, &options.dir, rows.min(load.spans), tell).await?,
    };
    let spans = load.spans as f64;
    let bytes =
        |wanted: &dyn Fn(&Size) -> bool| sizes.iter().filter(|size| wanted(size)).map(|size| size.bytes).sum::<u64>();
    let cpu = used.cpu(load.spans);
    let committed_per_second = spans / used.elapsed.as_secs_f64();
    Ok(Report {
        machine: Machine::here(),
        database: database::describe(&client).await?,
        ack: options.ack.clone(),
        load,
        otlp_bytes_per_span: sent.bytes as f64 / spans,
        acknowledged_per_second: spans / sent.seconds,
        committed_per_second,
        latency: sent.latency,
        refused: sent.refused,
        cpu,
        wal_bytes_per_span: used.wal as f64 / spans,
        resident_bytes,
        rates: rates(&seen, options.progress_every),
        derived_meanwhile: options.derive_meanwhile,
        derivation,
        span_bytes: bytes(&|size| size.name.starts_with("otel_spans")) as f64 / spans,
        all_bytes: bytes(&|_| true) as f64 / spans,
        sizes,
        share: share(&baselines, committed_per_second, cpu),
        baselines,
    })
}

/// Compared with the fastest of them.
fn share(baselines: &[Baseline], per_second: f64, cpu: Cpu) -> Option<Share> {
    let best = baselines.iter().max_by(|one, other| one.rows_per_second.total_cmp(&other.rows_per_second))?;
    let of_cpu = |baseline: Option<f64>| Some(baseline? / cpu.sum()?);
    Some(Share {
        rate: per_second / best.rows_per_second,
        cpu: of_cpu(best.postgres_cpu.zip(best.client_cpu).map(|(postgres, client)| postgres + client)),
        cpu_without_client: of_cpu(best.postgres_cpu),
    })
}

/// The rate of each `every` spans, as far as it was looked.
fn rates(seen: &[(Duration, u64)], every: u64) -> Vec<Rate> {
    let mut rates = Vec::new();
    let mut from = (Duration::ZERO, 0);
    for (at, spans) in seen {
        if every > 0 && *spans >= from.1 + every {
            let per_second = (spans - from.1) as f64 / at.saturating_sub(from.0).as_secs_f64();
            rates.push(Rate { spans: *spans, per_second });
            from = (*at, *spans);
        }
    }
    rates
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_those_of_parts() {
        let at = Duration::from_secs;
        let seen = [(at(1), 50), (at(2), 100), (at(3), 120), (at(6), 300), (at(7), 350)];
        let rates: Vec<(u64, f64)> = rates(&seen, 100).iter().map(|rate| (rate.spans, rate.per_second)).collect();
        assert_eq!(rates, [(100, 50.0), (300, 50.0)]);
        assert!(super::rates(&seen, 0).is_empty());
    }

    #[test]
    fn the_share_is_that_of_the_fastest() {
        let baseline = |rows_per_second, postgres_cpu| Baseline {
            way: "COPY",
            connections: 1,
            rows: 1,
            rows_per_second,
            postgres_cpu: Some(postgres_cpu),
            client_cpu: Some(1.0),
            bytes_per_row: 1.0,
            wal_bytes_per_row: 1.0,
        };
        let cpu = Cpu { server: Some(4.0), postgres: Some(12.0) };
        let share = share(&[baseline(100.0, 1.0), baseline(200.0, 7.0)], 150.0, cpu).unwrap();
        assert_eq!((share.rate, share.cpu, share.cpu_without_client), (0.75, Some(0.5), Some(7.0 / 16.0)));
        assert!(super::share(&[], 150.0, cpu).is_none());
    }
}
