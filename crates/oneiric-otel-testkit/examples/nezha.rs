//! Sends the whole Nezha recording over OTLP/gRPC and says how fast it was taken.
//!
//! ```sh
//! cargo run --release -p oneiric-otel-testkit --example nezha -- --grpc http://127.0.0.1:4317 --data ../shared/data
//! ```
//!
//! The figures include the conversion, which runs beside the sending; `--convert-only` tells what it costs alone.

#![expect(clippy::print_stdout, reason = "this is a command")]

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use clap::Parser;
use oneiric_otel_testkit::data::shared_data;
use oneiric_otel_testkit::nezha;
use oneiric_otel_testkit::send::{SendStats, Signal, send_grpc};

/// Send the Nezha Train-Ticket recording: all spans, then all logs.
#[derive(Parser)]
struct Arguments {
    /// The receiver.
    #[arg(long, default_value = "http://127.0.0.1:4317")]
    grpc: String,
    /// The shared test data; default: what `ONEIRIC_OTEL_TEST_DATA` names, or ../shared/data.
    #[arg(long)]
    data: Option<PathBuf>,
    /// Connections, each with one request in flight.
    #[arg(long, default_value_t = 4)]
    connections: usize,
    /// Only convert, to see what that costs.
    #[arg(long)]
    convert_only: bool,
    /// Print JSON only, without the table.
    #[arg(long)]
    json: bool,
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let data = arguments.data.clone().or_else(shared_data).context("no test data: give its folder with --data")?;
    let dir = data.join(nezha::FOLDER);
    let spans = run(&arguments, Signal::Traces, nezha::traces(&dir)).await?;
    let logs = run(&arguments, Signal::Logs, nezha::logs(&dir)).await?;
    print(&arguments, &dir, [("spans", nezha::SPAN_ROWS, spans), ("logs", nezha::LOG_ROWS, logs)]);
    Ok(())
}

async fn run<I>(arguments: &Arguments, signal: Signal, requests: I) -> Result<SendStats>
where
    I: Iterator<Item = Result<Bytes>> + Send + 'static,
{
    if !arguments.convert_only {
        return send_grpc(&arguments.grpc, signal, requests, arguments.connections).await;
    }
    let started = Instant::now();
    let mut stats = SendStats::default();
    for request in requests {
        stats.requests += 1;
        stats.bytes += request?.len() as u64;
    }
    stats.seconds = started.elapsed().as_secs_f64();
    Ok(stats)
}

fn print(arguments: &Arguments, dir: &Path, lines: [(&str, u64, SendStats); 2]) {
    if !arguments.json {
        println!("{}", dir.display());
        println!(
            "{:<6} {:>9} {:>9} {:>8} {:>9} {:>8} {:>9} {:>11}",
            "", "records", "requests", "retries", "rejected", "MB", "seconds", "records/s"
        );
        for (name, records, stats) in &lines {
            println!(
                "{name:<6} {records:>9} {:>9} {:>8} {:>9} {:>8.1} {:>9.2} {:>11.0}",
                stats.requests,
                stats.retries,
                stats.rejected,
                stats.bytes as f64 / 1e6,
                stats.seconds,
                *records as f64 / stats.seconds,
            );
        }
    }
    let mut object = serde_json::Map::new();
    for (name, records, stats) in &lines {
        let mut line = serde_json::json!(stats);
        line["records"] = (*records).into();
        line["records_per_second"] = (*records as f64 / stats.seconds).into();
        object.insert((*name).to_owned(), line);
    }
    println!("{}", serde_json::Value::Object(object));
}
