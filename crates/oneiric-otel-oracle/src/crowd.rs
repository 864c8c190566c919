//! Many clients at once, each with its own connection and small requests.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use bytes::Bytes;
use serde::Serialize;
use tokio::task::JoinSet;

use crate::bench::Bench;
use crate::client::{Protocol, Reply, Sender};
use crate::content::Signal;
use crate::serving::Addresses;
use crate::{postgres, process, report};
use oneiric_otel_bench::latency::{Latencies, Quantiles};
use oneiric_otel_bench::standard;

/// The server's resident memory may be this at most.
pub const MAX_RESIDENT: u64 = 300_000_000;
const SAMPLE_EVERY: Duration = Duration::from_millis(200);
/// Files besides the connections.
const SPARE_FILES: u64 = 256;
const PAUSE_AFTER_REFUSAL: Duration = Duration::from_millis(50);
/// How long the rest may take to be stored.
const STORED_WITHIN: Duration = Duration::from_mins(3);

/// What came of it.
#[derive(Debug, Clone, Serialize)]
pub struct Crowd {
    /// Clients, and as many connections.
    pub clients: u64,
    /// How long they sent.
    pub seconds: f64,
    /// Requests that were acknowledged, one trace each.
    pub acknowledged: u64,
    /// Deliveries that were not, by reason.
    pub refused: BTreeMap<String, u64>,
    /// Time to acknowledgement.
    pub latency: Quantiles,
    /// The highest of the samples of the server's resident memory, in bytes.
    pub resident_sampled: u64,
    /// What the kernel noted as the highest.
    pub resident_highest: u64,
    /// Acknowledged traces of which not all spans are stored.
    pub lost: u64,
}

impl Crowd {
    /// Nobody refused, nothing lost, memory within its bound.
    pub fn is_good(&self) -> bool {
        self.refused.is_empty() && self.lost == 0 && self.resident_highest <= MAX_RESIDENT
    }
}

/// Lets them send.
///
/// # Errors
/// If the server does not start, or there are not enough files.
pub async fn run(program: &Path, clients: u64, length: Duration, pause: Duration, ack: Option<&str>) -> Result<Crowd> {
    // The server inherits the limit.
    process::allow_open_files(clients + SPARE_FILES)?;
    let bench = Bench::new(program).await?;
    let (serving, url) = bench.serve("crowd", ack).await?;
    let addresses = serving.addresses().borrow().context("it is ready")?;
    let pid = serving.pid().context("it is ready")?;

    let began = Instant::now();
    let until = began + length;
    let mut senders = JoinSet::new();
    for number in 0..clients {
        senders.spawn(send(addresses, number, clients, until, pause));
    }
    let mut sampled = 0;
    let mut highest = 0;
    let mut total = Sent::default();
    loop {
        tokio::select! {
            joined = senders.join_next() => match joined {
                Some(sent) => total.append(sent??),
                None => break,
            },
            () = tokio::time::sleep(SAMPLE_EVERY) => {
                let (now, high) = process::resident(pid).unwrap_or_default();
                sampled = sampled.max(now);
                highest = highest.max(high);
            }
        }
    }
    let seconds = began.elapsed().as_secs_f64();
    let lost = wait_for_traces(&url, total.acknowledged).await?;
    highest = highest.max(process::resident(pid).unwrap_or_default().1);
    serving.finish().await?;
    Ok(Crowd {
        clients,
        seconds,
        acknowledged: total.acknowledged,
        refused: total.refused,
        latency: total.latencies.quantiles(),
        resident_sampled: sampled,
        resident_highest: highest,
        lost,
    })
}

#[derive(Default)]
struct Sent {
    acknowledged: u64,
    refused: BTreeMap<String, u64>,
    latencies: Latencies,
}

impl Sent {
    fn append(&mut self, other: Self) {
        self.acknowledged += other.acknowledged;
        for (reason, count) in other.refused {
            *self.refused.entry(reason).or_default() += count;
        }
        self.latencies.append(&other.latencies);
    }
}

/// One trace a request, the traces of a client `clients` apart.
async fn send(server: Addresses, number: u64, clients: u64, until: Instant, pause: Duration) -> Result<Sent> {
    let mut sender = Sender::new(Protocol::Grpc, false)?;
    let mut sent = Sent::default();
    let (start, mut trace) = (standard::today(), number);
    // Not all in one moment, and then each in its own rhythm.
    tokio::time::sleep(pause.mul_f64(number as f64 / clients as f64)).await;
    while Instant::now() < until {
        let request = Bytes::from(standard::request(start, trace..trace + 1));
        let began = Instant::now();
        loop {
            match sender.deliver(server, Signal::Traces, &request).await {
                Reply::Acknowledged => break,
                Reply::Retry(reason) | Reply::Fault(reason) => *sent.refused.entry(reason).or_default() += 1,
            }
            if Instant::now() >= until {
                return Ok(sent);
            }
            tokio::time::sleep(PAUSE_AFTER_REFUSAL).await;
        }
        sent.latencies.add(began.elapsed());
        sent.acknowledged += 1;
        trace += clients;
        tokio::time::sleep(pause.saturating_sub(began.elapsed())).await;
    }
    Ok(sent)
}

/// How many acknowledged traces are missing when the rest had time to be stored.
async fn wait_for_traces(url: &str, acknowledged: u64) -> Result<u64> {
    let client = postgres::connect(url).await?;
    let began = Instant::now();
    let complete = format!(
        "SELECT count(*) FROM (SELECT FROM otel.otel_spans GROUP BY trace_id HAVING count(*) = {}) t",
        standard::SPANS_PER_TRACE
    );
    loop {
        let stored: i64 = client.query_one(&complete, &[]).await?.get(0);
        let missing = acknowledged.saturating_sub(stored as u64);
        if missing == 0 || began.elapsed() > STORED_WITHIN {
            return Ok(missing);
        }
        tokio::time::sleep(SAMPLE_EVERY).await;
    }
}

/// As a table.
pub fn table(crowd: &Crowd) -> String {
    let mut table = report::table(&["what", "seen"]);
    let mut row = |what: &str, seen: String| {
        table.add_row([what.to_owned(), seen]);
    };
    row("clients, each with its own gRPC connection", crowd.clients.to_string());
    row("seconds", format!("{:.1}", crowd.seconds));
    row("requests acknowledged, 10 spans each", crowd.acknowledged.to_string());
    row("refused", crowd.refused.values().sum::<u64>().to_string());
    for (reason, count) in &crowd.refused {
        row(&format!("  {reason}"), count.to_string());
    }
    row("lost", crowd.lost.to_string());
    row("to acknowledgement, p50 ms", format!("{:.1}", crowd.latency.p50_ms));
    row("to acknowledgement, p99 ms", format!("{:.1}", crowd.latency.p99_ms));
    row("to acknowledgement, longest ms", format!("{:.1}", crowd.latency.max_ms));
    row("resident memory, highest sample, MB", format!("{:.0}", crowd.resident_sampled as f64 / 1e6));
    row("resident memory, highest (VmHWM), MB", format!("{:.0}", crowd.resident_highest as f64 / 1e6));
    format!("{table}\n")
}
