//! `bench growth`: what everything costs as a database grows.

use anyhow::{Context as _, Result};
use oneiric_otel_bench::growth::{self, Options, Report, chart};
use oneiric_otel_bench::standard;

use super::{Ending, Place, Steps, show, without_url};
use crate::args::Global;
use crate::args::bench::Growth;
use crate::progress::Progress;
use crate::screen;

pub(super) async fn run(global: &Global, arguments: &Growth) -> Result<Ending> {
    without_url(global)?;
    let sender = std::env::current_exe().context("find this program")?;
    let place = Place::make(global, "growth")?;
    let options = Options {
        program: sender.clone(),
        sender,
        dir: place.0.clone(),
        start: standard::today(),
        at: arguments.at.clone(),
        spans_per_request: arguments.spans_per_request,
        questions: arguments.questions,
        starts: arguments.starts,
        vectors: arguments.vectors,
    };
    let progress = Progress::new();
    let steps = Steps(&progress);
    let report = growth::run(&options, &|what| steps.tell(what)).await;
    progress.end();
    let report = report?;
    if let Some(file) = &arguments.chart {
        std::fs::write(file, chart::svg(&report)).with_context(|| format!("write {}", file.display()))?;
    }
    show(global, &report, tell)
}

fn tell(report: &Report) -> String {
    let mut text = format!(
        "{}\nPostgreSQL {}\n\n{}\n\n{}\n",
        report.machine.line(),
        report.database.version,
        of_points(report),
        of_questions(report)
    );
    if let Some(vacuum) = &report.vacuum {
        let mib = |bytes: u64| format!("{:.1}", bytes as f64 / f64::from(1 << 20));
        let mut table = screen::table(&["vector index", "seconds", "MiB"]);
        table.add_row([
            format!("built on {} vectors", vacuum.vectors),
            format!("{:.1}", vacuum.build_seconds),
            mib(vacuum.bytes_built),
        ]);
        table.add_row([
            "VACUUM, nothing deleted".to_owned(),
            format!("{:.2}", vacuum.idle_vacuum_seconds),
            String::new(),
        ]);
        table.add_row([
            format!("VACUUM, {} deleted", vacuum.deleted),
            format!("{:.2}", vacuum.vacuum_seconds),
            mib(vacuum.bytes_vacuumed),
        ]);
        table.add_row([
            "as many stored again".to_owned(),
            format!("{:.1}", vacuum.refill_seconds),
            mib(vacuum.bytes_refilled),
        ]);
        text = format!("{text}\n{table}\n");
    }
    text
}

fn of_points(report: &Report) -> String {
    let mut table = screen::table(&[
        "spans",
        "of these measured",
        "committed per second",
        "s until derived",
        "CPU s per million: server",
        "PostgreSQL",
        "WAL bytes per span",
        "GB",
        "start p50 ms",
        "most",
    ]);
    let seconds = |cpu: Option<f64>| cpu.map_or_else(|| "-".to_owned(), |cpu| format!("{cpu:.2}"));
    for point in &report.points {
        table.add_row([
            point.spans.to_string(),
            point.measured.to_string(),
            format!("{:.0}", point.committed_per_second),
            format!("{:.1}", point.seconds_until_derived),
            seconds(point.cpu.server),
            seconds(point.cpu.postgres),
            format!("{:.0}", point.wal_bytes_per_span),
            format!("{:.2}", point.bytes as f64 / 1e9),
            format!("{:.0}", point.start.p50_ms),
            format!("{:.0}", point.start.max_ms),
        ]);
    }
    table.to_string()
}

fn of_questions(report: &Report) -> String {
    let mut table = screen::table(&["spans", "question", "answers", "p50 ms", "p99 ms"]);
    for point in &report.points {
        for asked in &point.questions {
            table.add_row([
                point.spans.to_string(),
                asked.kind.to_owned(),
                format!("{:.1}", asked.answers),
                format!("{:.1}", asked.took.p50_ms),
                format!("{:.1}", asked.took.p99_ms),
            ]);
        }
    }
    table.to_string()
}
