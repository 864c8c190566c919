//! `bench startup`: how long the server takes to start, and until traces can be searched.

use std::sync::Arc;

use anyhow::{Context as _, Result};
use oneiric_otel_bench::startup::{self, Options, Report};

use super::{Ending, Place, Steps, show, without_url};
use crate::args::Global;
use crate::args::bench::Startup;
use crate::progress::Progress;
use crate::{model, screen};

pub(super) async fn run(global: &Global, arguments: &Startup) -> Result<Ending> {
    without_url(global)?;
    let place = Place::make(global, "startup")?;
    let options = Options {
        program: std::env::current_exe().context("find this program")?,
        dir: place.0.clone(),
        starts: arguments.starts,
        traces: arguments.traces,
    };
    let progress = Arc::new(Progress::new());
    let embedder = model::load_in_background(global.settings(), Arc::new(progress.beside())).await?;
    let steps = Steps(&progress);
    let report = startup::run(&options, embedder, &|what| steps.tell(what)).await;
    progress.end();
    let report = report?;
    show(global, &report, tell)
}

fn tell(report: &Report) -> String {
    let mut table = screen::table(&["what", "seconds"]);
    let mut row = |what: String, seconds: f64| {
        table.add_row([what, format!("{seconds:.2}")]);
    };
    row("first start, which makes the database".to_owned(), report.first_start_seconds);
    row(format!("start to ready, p50 of {}", report.count), report.starts.p50_ms / 1000.0);
    row("start to ready, longest".to_owned(), report.starts.max_ms / 1000.0);
    let searchable = report.searchable;
    row(format!("{} traces stored", searchable.traces), searchable.stored_seconds);
    row("derived".to_owned(), searchable.derived_seconds);
    row("embedded and searchable".to_owned(), searchable.searchable_seconds);
    format!("{}\n\n{table}\n", report.machine.line())
}
