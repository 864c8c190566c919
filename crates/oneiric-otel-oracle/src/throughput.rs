//! The same load with one kind of acknowledgement and with another, in turn, in one run.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use serde::Serialize;
use tokio::sync::mpsc;

use oneiric_otel_bench::latency::Quantiles;
use oneiric_otel_bench::{database, load, standard};

use crate::bench::Bench;
use crate::serving::Serving;
use crate::{postgres, process, report};

const LOOK_EVERY: Duration = Duration::from_millis(20);
const ACKS: [&str; 2] = ["spooled", "stored"];

/// What is sent.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    /// Spans in each round, a multiple of `spans_per_request`.
    pub spans: u64,
    /// Spans in a request, a multiple of 10.
    pub spans_per_request: u64,
    /// Connections, each with one request in flight.
    pub connections: u64,
    /// How often each kind of acknowledgement has its turn.
    pub pairs: u32,
}

/// One turn.
#[derive(Debug, Clone, Serialize)]
pub struct Round {
    /// When it was acknowledged.
    pub ack: String,
    /// Spans of the round.
    pub spans: u64,
    /// Spans per second until the last acknowledgement.
    pub acknowledged_per_second: f64,
    /// Spans per second until the last row was committed.
    pub committed_per_second: f64,
    /// Processor seconds of server and PostgreSQL per million spans, until the last row was committed.
    pub cpu_seconds_per_million: f64,
    /// Time to acknowledgement.
    pub latency: Quantiles,
    /// Deliveries that were refused and sent again.
    pub refused: u64,
}

/// All turns.
#[derive(Debug, Clone, Serialize)]
pub struct Throughput {
    /// In the order in which they were run.
    pub rounds: Vec<Round>,
    /// Medians of spooled over medians of stored: acknowledged, committed, processor seconds. None where the program
    /// knows one kind only.
    pub ratios: Option<[f64; 3]>,
}

/// Runs the turns.
///
/// # Errors
/// If the servers do not start, or do not store what they acknowledged.
pub async fn run(program: &Path, load: Load) -> Result<Throughput> {
    if !load.spans_per_request.is_multiple_of(standard::SPANS_PER_TRACE) || load.spans_per_request == 0 {
        bail!(
            "spans of a request: expected a multiple of {}, found {}",
            standard::SPANS_PER_TRACE,
            load.spans_per_request
        );
    }
    let bench = Bench::new(program).await?;
    let mut rounds = Vec::new();
    for pair in 0..load.pairs {
        for ack in ACKS {
            let known = bench.knows_ack();
            if !known && ack != "stored" {
                continue;
            }
            let name = format!("{ack}_{pair}");
            let (serving, url) = bench.serve(&name, known.then_some(ack)).await?;
            rounds.push(round(&bench, &serving, &url, ack, load).await?);
            serving.finish().await?;
            let client = postgres::connect(&bench.postgres.url()).await?;
            client.batch_execute(&format!("DROP DATABASE {name} WITH (FORCE)")).await?;
            client.batch_execute("CHECKPOINT").await?;
        }
    }
    let ratios = bench.knows_ack().then(|| {
        let ratio = |what: fn(&Round) -> f64| median(&rounds, ACKS[0], what) / median(&rounds, ACKS[1], what);
        [
            ratio(|round| round.acknowledged_per_second),
            ratio(|round| round.committed_per_second),
            ratio(|round| round.cpu_seconds_per_million),
        ]
    });
    Ok(Throughput { rounds, ratios })
}

fn median(rounds: &[Round], ack: &str, what: fn(&Round) -> f64) -> f64 {
    let mut values: Vec<f64> = rounds.iter().filter(|round| round.ack == ack).map(what).collect();
    values.sort_unstable_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

async fn round(bench: &Bench, serving: &Serving, url: &str, ack: &str, load: Load) -> Result<Round> {
    let addresses = serving.addresses().borrow().context("it is ready")?;
    let pid = serving.pid().context("it is ready")?;
    // Made before the clock starts: the generator's own work does not count.
    let requests = load.spans / load.spans_per_request;
    let traces = load.spans_per_request / standard::SPANS_PER_TRACE;
    let start = standard::today();
    let requests: Vec<Bytes> =
        (0..requests).map(|i| standard::request(start, i * traces..(i + 1) * traces).into()).collect();
    let spans = requests.len() as u64 * load.spans_per_request;
    let cpu = || process::cpu_time_of_tree(pid) + process::cpu_time_of_tree(bench.postgres.pid());

    let (sender, queued) = mpsc::channel(requests.len().max(1));
    for request in requests {
        sender.send(request).await?;
    }
    drop(sender);

    let cpu_before = cpu();
    let began = Instant::now();
    let sent = load::send(addresses.grpc, load::Signal::Traces, queued, load.connections as usize).await?;
    let acknowledged = began.elapsed();
    let client = postgres::connect(url).await?;
    database::wait_for_rows(&client, spans, LOOK_EVERY, |_| {}).await?;
    let committed = began.elapsed();
    let cpu = cpu().saturating_sub(cpu_before);
    let stored = database::count_spans(&client).await?;
    if stored != spans {
        bail!("{spans} spans were acknowledged, and {stored} are stored");
    }
    let per_second = |elapsed: Duration| spans as f64 / elapsed.as_secs_f64();
    Ok(Round {
        ack: ack.to_owned(),
        spans,
        acknowledged_per_second: per_second(acknowledged),
        committed_per_second: per_second(committed),
        cpu_seconds_per_million: cpu.as_secs_f64() * 1e6 / spans as f64,
        latency: sent.latency,
        refused: sent.refused,
    })
}

/// As a table.
pub fn table(throughput: &Throughput) -> String {
    let header = ["ack", "spans", "acked/s", "committed/s", "CPU s/million", "p50 ms", "p99 ms", "refused"];
    let mut table = report::table(&header);
    for round in &throughput.rounds {
        table.add_row([
            round.ack.clone(),
            round.spans.to_string(),
            format!("{:.0}", round.acknowledged_per_second),
            format!("{:.0}", round.committed_per_second),
            format!("{:.2}", round.cpu_seconds_per_million),
            format!("{:.1}", round.latency.p50_ms),
            format!("{:.1}", round.latency.p99_ms),
            round.refused.to_string(),
        ]);
    }
    let ratios = match throughput.ratios {
        Some([acknowledged, committed, cpu]) => format!(
            "spooled / stored, medians: acknowledged {acknowledged:.2}, committed {committed:.2}, CPU {cpu:.2}\n"
        ),
        None => "the program has no --ack: everything is acknowledged after its commit\n".to_owned(),
    };
    format!("{table}\n{ratios}")
}
