//! `bench size`: what rows take on disk, what each index costs, and what packed rows would take.

use std::sync::Arc;

use anyhow::{Context as _, Result};
use oneiric_otel::settings::DatabaseUrl;
use oneiric_otel_bench::size::{self, Cost, Measured, Report};

use super::{Ending, Steps, show};
use crate::args::Global;
use crate::args::bench::Size;
use crate::backend::Backend;
use crate::progress::Progress;
use crate::{data_dir, failure, screen};

pub(super) async fn run(global: &Global, size: &Size) -> Result<Ending> {
    let progress = Arc::new(Progress::new());
    let report = match global.database_url() {
        Some(url) => size::run(DatabaseUrl::expose(url), size.rows, &|what| Steps(&progress).tell(what)).await,
        None => of_embedded(global, size, &progress).await,
    };
    progress.end();
    let report = report?;
    if report.signals.is_empty() {
        return Err(failure::advised(
            "the database has no telemetry",
            "fill one with `oneiric-otel bench query --fill-only`, or name one with --database-url",
        ));
    }
    show(global, &report, tell)
}

async fn of_embedded(global: &Global, size: &Size, progress: &Arc<Progress>) -> Result<Report> {
    let mut global = global.clone();
    let dir = data_dir::of_bench(&global)?;
    global.resolved.settings.data_dir = Some(dir.clone());
    let backend = Backend::open_for_writing(&global, progress).await?;
    let embedded = oneiric_otel_postgres::Server::attach(&dir)?.context("the embedded PostgreSQL does not run")?;
    let url = embedded.connection().url();
    let report = size::run(&url, size.rows, &|what| Steps(progress).tell(what)).await;
    embedded.release()?;
    backend.release().await?;
    report
}

fn tell(report: &Report) -> String {
    let mut text = format!("{}\nPostgreSQL {}\n", report.machine.line(), report.database.version);
    for measured in &report.signals {
        text.push_str(&of_signal(measured));
    }
    text
}

fn of_signal(measured: &Measured) -> String {
    let mut costs = screen::table(&["", "bytes per row", "us per row to write", "CPU us"]);
    let mut row = |what: String, bytes: f64, cost: Cost| {
        let cpu = cost.cpu_us.map_or_else(|| "-".to_owned(), |us| format!("{us:.2}"));
        costs.add_row([what, format!("{bytes:.1}"), format!("{:.2}", cost.wall_us), cpu]);
    };
    row("table".to_owned(), measured.table_bytes, measured.writing);
    for index in &measured.indexes {
        row(format!("index {}", index.name), index.bytes, index.cost);
    }
    let packed = &measured.packed;
    let most: Vec<String> = packed.columns.iter().take(5).map(|(name, bytes)| format!("{name} {bytes:.1}")).collect();
    format!(
        "\n{}, {} rows\n{costs}\n\
         packed: {:.1} bytes per row, 1/{:.1} of table and indexes ({})\n\
         us per row: pack {:.1}, read {:.2}, as they are {:.2}; one block of a thousand {:.1} ms\n",
        measured.partition,
        measured.rows,
        packed.bytes,
        measured.bytes() / packed.bytes,
        most.join(", "),
        packed.pack_us,
        packed.unpack_us,
        packed.scan_us,
        packed.block_ms
    )
}
