//! `bench retention`: months through a server that keeps days.

use std::time::Duration;

use anyhow::{Context as _, Result};
use oneiric_otel_bench::retention::{self, Grown, Options, Report};

use super::{Ending, Place, Steps, show, without_url};
use crate::args::Global;
use crate::args::bench::Retention;
use crate::progress::Progress;
use crate::screen;

/// Rows of the table of days, unless it is said otherwise.
const DAYS_SHOWN: u32 = 30;

pub(super) async fn run(global: &Global, arguments: &Retention) -> Result<Ending> {
    without_url(global)?;
    let place = Place::make(global, "retention")?;
    let options = Options {
        program: std::env::current_exe().context("find this program")?,
        dir: place.0.clone(),
        days: arguments.days,
        keep_days: arguments.keep_days,
        spans_per_day: arguments.spans_per_day,
        metric_minutes_per_day: arguments.metric_minutes_per_day,
        ack: arguments.ack.clone(),
        connections: usize::from(arguments.connections),
        every: arguments.every.unwrap_or_else(|| arguments.days.div_ceil(DAYS_SHOWN)),
        settle: Duration::from_secs(arguments.settle_seconds),
    };
    let progress = Progress::new();
    let steps = Steps(&progress);
    let report = retention::run(&options, &|what| steps.tell(what)).await;
    progress.end();
    let report = report?;
    show(global, &report, tell)
}

fn tell(report: &Report) -> String {
    let sent = report.sent;
    format!(
        "{}\nPostgreSQL {}\n\n{} days of which {} are kept: {} spans, {} log records, {} data points\n\n{}\n\n{}\n\n{}",
        report.machine.line(),
        report.database.version,
        report.simulated_days,
        report.retention_days,
        sent.spans,
        sent.log_records,
        sent.data_points,
        of_days(report),
        of_waits(report),
        of_the_end(report)
    )
}

fn mib(bytes: u64) -> String {
    format!("{:.1}", bytes as f64 / f64::from(1 << 20))
}

fn of_days(report: &Report) -> String {
    let mut table = screen::table(&[
        "day",
        "MiB",
        "partitions",
        "spans",
        "logs",
        "points",
        "traces",
        "dropped",
        "retention s",
        "acknowledged p99 ms",
        "most",
        "answered p99 ms",
        "most",
    ]);
    let ms = |value: f64| format!("{value:.1}");
    for day in &report.days {
        table.add_row([
            day.day.to_string(),
            mib(day.bytes),
            day.partitions.to_string(),
            day.rows.spans.to_string(),
            day.rows.log_records.to_string(),
            day.rows.data_points.to_string(),
            day.traces.to_string(),
            day.dropped.to_string(),
            format!("{:.1}", day.retention_seconds),
            ms(day.acknowledged.p99_ms),
            ms(day.acknowledged.max_ms),
            ms(day.answered.p99_ms),
            ms(day.answered.max_ms),
        ]);
    }
    table.to_string()
}

fn of_waits(report: &Report) -> String {
    let mut table = screen::table(&[
        "what waited, in ms",
        "count",
        "p50",
        "p99",
        "most",
        "beside retention: count",
        "p50",
        "p99",
        "most",
    ]);
    let ms = |value: f64| format!("{value:.1}");
    for waits in &report.waits {
        let (always, beside) = (waits.always, waits.beside);
        table.add_row([
            waits.what.to_owned(),
            waits.count.to_string(),
            ms(always.p50_ms),
            ms(always.p99_ms),
            ms(always.max_ms),
            waits.count_beside.to_string(),
            ms(beside.p50_ms),
            ms(beside.p99_ms),
            ms(beside.max_ms),
        ]);
    }
    table.to_string()
}

/// What has grown most.
fn disk_growth(report: &Report) -> impl Iterator<Item = &Grown> {
    const TOLD: usize = 8;
    report.grown.iter().take(TOLD)
}

fn of_the_end(report: &Report) -> String {
    let disk = report.disk;
    let grown = disk.full_from_day.map_or_else(
        || "nothing was dropped".to_owned(),
        |day| {
            format!(
                "from day {day} on, the first with a drop: {} MiB then, {} at most, {} at the end",
                mib(disk.bytes_then),
                mib(disk.most_bytes),
                mib(disk.last_bytes)
            )
        },
    );
    let mut table = screen::table(&["grown since", "MiB"]);
    for grown in disk_growth(report) {
        table.add_row([grown.name.clone(), mib(grown.bytes)]);
    }
    let whole = report.left.iter().all(|day| day.sent == day.stored);
    format!(
        "disk: {grown}\n\n{table}\n\npartitions dropped: {}, kept by a run: {}, left to the next: {}\nlongest upkeep {:.1} s, of it \
         retention {:.1} s at most; refused and sent again: {}\nleft are {} days, {}\n",
        report.dropped,
        report.kept,
        report.postponed,
        report.longest_upkeep_seconds,
        report.longest_retention_seconds,
        report.refused,
        report.left.len(),
        if whole { "each with all that was acknowledged of it" } else { "NOT all as they were acknowledged" }
    )
}
