//! `bench series`: what metric series cost.

use anyhow::{Context as _, Result};
use oneiric_otel_bench::series::{self, Options, Rate, Report, Size};

use super::{Ending, Place, Steps, show, without_url};
use crate::args::Global;
use crate::args::bench::Series;
use crate::progress::Progress;
use crate::screen;

pub(super) async fn run(global: &Global, arguments: &Series) -> Result<Ending> {
    without_url(global)?;
    let place = Place::make(global, "series")?;
    let options = Options {
        program: std::env::current_exe().context("find this program")?,
        dir: place.0.clone(),
        at: arguments.at.clone(),
        points: arguments.points,
        points_per_request: arguments.points_per_request,
    };
    let progress = Progress::new();
    let steps = Steps(&progress);
    let report = series::run(&options, &|what| steps.tell(what)).await;
    progress.end();
    let report = report?;
    show(global, &report, tell)
}

fn tell(report: &Report) -> String {
    let mut tables =
        screen::table(&["series", "table bytes each", "index bytes each", "count ms", "dead letter bytes a point"]);
    for size in &report.sizes {
        tables.add_row([
            size.series.to_string(),
            format!("{:.0}", size.table_bytes),
            format!("{:.0}", size.index_bytes),
            format!("{:.0}", size.count.p50_ms),
            format!("{:.0}", size.letter_bytes),
        ]);
    }
    let mut rates = screen::table(&[
        "series",
        "points",
        "per second",
        "p50 ms",
        "p99 ms",
        "CPU s per million: server",
        "PostgreSQL",
        "server MiB",
    ]);
    for size in &report.sizes {
        for (what, rate) in kinds(size) {
            rates.add_row([size.series.to_string(), format!("{} {what}", rate.points)].into_iter().chain(cells(rate)));
        }
    }
    format!("{}\nPostgreSQL {}\n\n{tables}\n\n{rates}\n", report.machine.line(), report.database.version)
}

fn kinds(size: &Size) -> [(&'static str, &Rate); 4] {
    [
        ("of new series", &size.new),
        ("of known ones", &size.known),
        ("of remembered ones", &size.remembered),
        ("without room", &size.refused),
    ]
}

fn cells(rate: &Rate) -> [String; 6] {
    let seconds = |cpu: Option<f64>| cpu.map_or_else(|| "-".to_owned(), |cpu| format!("{cpu:.1}"));
    let mib = |bytes: u64| format!("{:.0}", bytes as f64 / f64::from(1 << 20));
    [
        format!("{:.0}", rate.per_second),
        format!("{:.1}", rate.latency.p50_ms),
        format!("{:.1}", rate.latency.p99_ms),
        seconds(rate.cpu.server),
        seconds(rate.cpu.postgres),
        rate.server_memory.map_or_else(|| "-".to_owned(), mib),
    ]
}
