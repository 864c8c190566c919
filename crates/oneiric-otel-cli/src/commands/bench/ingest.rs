//! `bench ingest`: how fast spans are stored, and at what cost.

use std::fmt::Write as _;
use std::io::Write as _;

use anyhow::{Context as _, Result};
use oneiric_otel::settings::DatabaseUrl;
use oneiric_otel_bench::ingest::{self, Cpu, Options, Report};
use oneiric_otel_bench::{load, standard};

use super::{Ending, Place, Steps, show};
use crate::args::Global;
use crate::args::bench::{Amount, Ingest, Load};
use crate::progress::Progress;
use crate::screen;

pub(super) async fn run(global: &Global, arguments: &Ingest) -> Result<Ending> {
    let place = Place::make(global, "ingest")?;
    let sender = std::env::current_exe().context("find this program")?;
    let options = Options {
        program: arguments.server_program.clone().unwrap_or_else(|| sender.clone()),
        sender,
        dir: place.0.clone(),
        url: global.database_url().map(|url| DatabaseUrl::expose(url).to_owned()),
        load: of(arguments.amount, standard::today(), 0),
        ack: arguments.ack.clone(),
        arguments: arguments.server_setting.iter().map(|setting| format!("--set={setting}")).collect(),
        derive_meanwhile: arguments.derive_meanwhile,
        baseline_rows: arguments.baseline_rows,
        progress_every: arguments.progress_every,
    };
    let progress = Progress::new();
    let steps = Steps(&progress);
    let report = ingest::run(&options, &|what| steps.tell(what)).await;
    progress.end();
    let report = report?;
    show(global, &report, tell)
}

/// Sends when a line comes on stdin, and says in JSON what came of it.
pub(super) async fn send(arguments: &Load) -> Result<Ending> {
    let go = async {
        let mut stdout = std::io::stdout().lock();
        writeln!(stdout, "ready")?;
        stdout.flush()?;
        drop(stdout);
        tokio::task::spawn_blocking(|| std::io::stdin().read_line(&mut String::new())).await??;
        Ok(())
    };
    let start = arguments.start.unwrap_or_else(standard::today);
    let sent = load::run(arguments.to, of(arguments.amount, start, arguments.first_trace), go).await?;
    screen::print_json(&sent)?;
    Ok(Ending::Good)
}

fn of(amount: Amount, start: u64, first_trace: u64) -> load::Load {
    let Amount { spans, spans_per_request, connections } = amount;
    load::Load { start, first_trace, spans, spans_per_request, connections: usize::from(connections) }
}

fn tell(report: &Report) -> String {
    let mut text = String::new();
    let settings: Vec<String> =
        report.database.settings.iter().map(|(name, value)| format!("{name} {value}")).collect();
    writeln!(text, "{}\nPostgreSQL {}: {}\n", report.machine.line(), report.database.version, settings.join(", "))
        .unwrap_or_default();
    writeln!(text, "{}", of_storing(report)).unwrap_or_default();
    if !report.rates.is_empty() {
        writeln!(text, "{}", of_rates(report)).unwrap_or_default();
    }
    writeln!(text, "{}", of_sizes(report)).unwrap_or_default();
    if !report.baselines.is_empty() {
        writeln!(text, "{}", of_baselines(report)).unwrap_or_default();
    }
    if let Some(share) = &report.share {
        let percent =
            |share: Option<f64>| share.map_or_else(|| "-".to_owned(), |share| format!("{:.0} %", share * 100.0));
        writeln!(
            text,
            "of the fastest COPY: rate {}, processor time {} (its client's left out: {})",
            percent(Some(share.rate)),
            percent(share.cpu),
            percent(share.cpu_without_client)
        )
        .unwrap_or_default();
    }
    text
}

fn of_storing(report: &Report) -> String {
    let mut table = screen::table(&["what", "measured"]);
    let mut row = |what: &str, value: String| {
        table.add_row([what.to_owned(), value]);
    };
    let load = report.load;
    row(
        "spans, of a request, connections",
        format!("{}, {}, {}", load.spans, load.spans_per_request, load.connections),
    );
    row("acknowledged when", report.ack.clone());
    row("acknowledged per second", format!("{:.0}", report.acknowledged_per_second));
    row("committed per second", format!("{:.0}", report.committed_per_second));
    let latency = report.latency;
    row(
        "ms until acknowledged: p50, p99, most",
        format!("{:.1}, {:.1}, {:.1}", latency.p50_ms, latency.p99_ms, latency.max_ms),
    );
    row("refused and sent again", report.refused.to_string());
    row("CPU s per million: server, PostgreSQL, sum", of_cpu(report.cpu));
    row("write-ahead log, bytes per span", format!("{:.0}", report.wal_bytes_per_span));
    row("OTLP, bytes per span", format!("{:.0}", report.otlp_bytes_per_span));
    let resident = report.resident_bytes.map_or_else(|| "-".to_owned(), |bytes| (bytes >> 20).to_string());
    row("resident at its highest, MiB", resident);
    let meanwhile =
        if report.derived_meanwhile { "what was left to derive" } else { "derived and embedded afterwards" };
    let derivation = report.derivation;
    row(&format!("{meanwhile}: traces, seconds"), format!("{}, {:.1}", derivation.traces, derivation.seconds));
    row("its CPU s per million spans", of_cpu(derivation.cpu));
    table.to_string()
}

fn of_cpu(cpu: Cpu) -> String {
    let seconds = |seconds: Option<f64>| seconds.map_or_else(|| "-".to_owned(), |seconds| format!("{seconds:.2}"));
    format!("{}, {}, {}", seconds(cpu.server), seconds(cpu.postgres), seconds(cpu.sum()))
}

fn of_rates(report: &Report) -> String {
    let mut table = screen::table(&["spans", "committed per second"]);
    for rate in &report.rates {
        table.add_row([rate.spans.to_string(), format!("{:.0}", rate.per_second)]);
    }
    let compared = report.last_to_first().map_or_else(String::new, |share| format!("\nlast to first: {share:.2}\n"));
    format!("{table}{compared}")
}

fn of_sizes(report: &Report) -> String {
    let spans = report.load.spans as f64;
    let mut table = screen::table(&["on disk", "bytes per span"]);
    let worth_telling = report.sizes.iter().filter(|size| size.bytes as f64 / spans >= 1.0);
    for size in worth_telling {
        let kind = if size.is_index { "index" } else { "table" };
        table.add_row([format!("{kind} {}", size.name), format!("{:.1}", size.bytes as f64 / spans)]);
    }
    let share = |bytes: f64| format!("{bytes:.0} ({:.2} times the OTLP bytes)", bytes / report.otlp_bytes_per_span);
    table.add_row(["spans with their indexes".to_owned(), share(report.span_bytes)]);
    table.add_row(["everything".to_owned(), share(report.all_bytes)]);
    table.to_string()
}

fn of_baselines(report: &Report) -> String {
    let mut table = screen::table(&[
        "the same rows by",
        "connections",
        "rows",
        "per second",
        "CPU s per million: PostgreSQL",
        "client",
        "WAL bytes",
    ]);
    let seconds = |cpu: Option<f64>| cpu.map_or_else(|| "-".to_owned(), |cpu| format!("{cpu:.2}"));
    for baseline in &report.baselines {
        table.add_row([
            baseline.way.to_owned(),
            baseline.connections.to_string(),
            baseline.rows.to_string(),
            format!("{:.0}", baseline.rows_per_second),
            seconds(baseline.postgres_cpu),
            seconds(baseline.client_cpu),
            format!("{:.0}", baseline.wal_bytes_per_row),
        ]);
    }
    table.to_string()
}
