//! `oracle`: runs the judge against a built `oneiric-otel`.
//!
//! Exit codes: 0 every promise was kept; 1 one was broken, or the run could not be done; 2 the command line is wrong.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::{Args, Parser, Subcommand};
use oneiric_otel_oracle::plan::{Fault, Tempo, parse_faults};
use oneiric_otel_oracle::{crowd, report, run, throughput};
use serde::Serialize;

/// Sends telemetry to oneiric-otel, breaks what it can, and requires every acknowledged item exactly once.
#[derive(Debug, Parser)]
#[command(name = "oracle", version, arg_required_else_help = true)]
struct Arguments {
    /// The program under test [default: oneiric-otel beside this one]
    #[arg(long, global = true, value_name = "FILE")]
    program: Option<PathBuf>,
    /// Print JSON in place of tables
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Load and faults, then the verdict
    Run(Run),
    /// The same load acknowledged from the spool and after the commit, in turn
    Throughput(Throughput),
    /// Many clients at once with small requests
    Clients(Crowd),
}

#[derive(Debug, Args)]
struct Run {
    /// How long load and faults last
    #[arg(long, default_value_t = 20.0, value_parser = positive)]
    minutes: f64,
    /// Repeats the plan of a run [default: chosen and printed]
    #[arg(long)]
    seed: Option<u64>,
    /// all, none, or names with commas between them; a wrong name lists them
    #[arg(long, default_value = "all", value_parser = parse_faults)]
    faults: BTreeSet<Fault>,
    /// How many clients
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=1024))]
    clients: u16,
    /// How many servers share the database
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=2))]
    servers: u8,
    /// Let the one server run its embedded PostgreSQL
    #[arg(long)]
    embedded: bool,
    /// When the servers acknowledge: spooled, stored, memory [default: the program's]
    #[arg(long)]
    ack: Option<String>,
    /// Items a second that all clients together try to send; 0 for as many as are acknowledged
    #[arg(long, default_value_t = 0)]
    items_per_second: u32,
    /// Mean seconds between two faults of the servers; the other lanes follow
    #[arg(long, default_value_t = 2.5, value_parser = positive)]
    fault_seconds: f64,
    /// Keep the logs, and the database if it is on no tmpfs, in a new directory inside this one
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct Throughput {
    /// Spans in each round
    #[arg(long, default_value_t = 500_000)]
    spans: u64,
    /// Spans in a request, a multiple of 10
    #[arg(long, default_value_t = 500)]
    spans_per_request: u64,
    /// Connections, each with one request in flight
    #[arg(long, default_value_t = 8)]
    connections: u64,
    /// How often each kind of acknowledgement has its turn
    #[arg(long, default_value_t = 3)]
    pairs: u32,
}

#[derive(Debug, Args)]
struct Crowd {
    /// How many clients
    #[arg(long = "clients", default_value_t = 1_000)]
    size: u64,
    /// How long
    #[arg(long, default_value_t = 60.0, value_parser = positive)]
    seconds: f64,
    /// The least time from one request of a client to its next, in milliseconds
    #[arg(long, default_value_t = 500)]
    pause_ms: u64,
    /// When the server acknowledges [default: the program's]
    #[arg(long)]
    ack: Option<String>,
}

fn positive(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(value) if value > 0.0 && value < 1e6 => Ok(value),
        _ => Err(format!("expected a number above 0, found {text:?}")),
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let ended = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the async runtime")
        .and_then(|runtime| runtime.block_on(dispatch(arguments)));
    match ended {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            drop(writeln!(std::io::stderr(), "error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

async fn dispatch(arguments: Arguments) -> Result<bool> {
    let program = match arguments.program {
        Some(program) => program,
        None => std::env::current_exe()?.with_file_name("oneiric-otel"),
    };
    match arguments.command {
        Command::Run(run) => judge(program, run, arguments.json).await,
        Command::Throughput(Throughput { spans, spans_per_request, connections, pairs }) => {
            let load = throughput::Load { spans, spans_per_request, connections, pairs };
            let measured = throughput::run(&program, load).await?;
            print(arguments.json, &measured, &throughput::table(&measured))?;
            Ok(true)
        }
        Command::Clients(Crowd { size, seconds, pause_ms, ack }) => {
            let (length, pause) = (Duration::from_secs_f64(seconds), Duration::from_millis(pause_ms));
            let crowd = crowd::run(&program, size, length, pause, ack.as_deref()).await?;
            print(arguments.json, &crowd, &crowd::table(&crowd))?;
            Ok(crowd.is_good())
        }
    }
}

async fn judge(program: PathBuf, run: Run, json: bool) -> Result<bool> {
    let seed = run.seed.unwrap_or_else(|| rand::random_range(0..1_000_000));
    drop(writeln!(std::io::stderr(), "seed {seed}"));
    let tempo = run.fault_seconds / 2.5;
    let options = run::Options {
        program,
        length: Duration::from_secs_f64(run.minutes * 60.0),
        seed,
        faults: run.faults,
        tempo: Tempo {
            servers: Tempo::LONG.servers.mul_f64(tempo),
            database: Tempo::LONG.database.mul_f64(tempo),
            disks: Tempo::LONG.disks.mul_f64(tempo),
            ..Tempo::LONG
        },
        clients: run.clients,
        servers: if run.embedded { 1 } else { usize::from(run.servers) },
        embedded: run.embedded,
        ack: run.ack,
        items_per_second: run.items_per_second,
        keep: run.keep,
        progress: true,
    };
    let report = run::run(&options).await?;
    print(json, &report, &report::of_run(&report))?;
    Ok(report.is_good())
}

fn print(json: bool, value: &impl Serialize, text: &str) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    if json {
        serde_json::to_writer_pretty(&mut stdout, value)?;
        writeln!(stdout)?;
    } else {
        stdout.write_all(text.as_bytes())?;
    }
    Ok(())
}
