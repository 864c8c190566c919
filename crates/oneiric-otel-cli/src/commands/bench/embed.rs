//! `bench embed`: how fast and how exact the embedding model is.

use std::sync::Arc;

use anyhow::{Context as _, Result};
use oneiric_otel_bench::embed::{self, Report, Scope};
use oneiric_otel_parts::Parts;

use super::{Ending, Steps, show};
use crate::args::Global;
use crate::args::bench::Embed;
use crate::progress::Progress;
use crate::screen;

pub(super) async fn run(global: &Global, embed: &Embed) -> Result<Ending> {
    let progress = Arc::new(Progress::new());
    let (shown, wanted) = (Arc::clone(&progress), embed.clone());
    let measured = tokio::task::spawn_blocking(move || {
        let model = Parts::open_default()?.minilm(&*shown)?;
        let scope = Scope {
            model: &model,
            texts: wanted.texts as usize,
            rounds: wanted.rounds as usize,
            python: wanted.python.as_deref(),
        };
        embed::run(scope, &Steps(&shown))
    })
    .await
    .context("the measurement was cut off");
    progress.end();
    let report = measured??;
    show(global, &report, tell)
}

fn tell(report: &Report) -> String {
    let python = report
        .python
        .as_deref()
        .unwrap_or("sentence-transformers not measured: --python names an interpreter that has it");
    let mut rates = screen::table(&[
        "arithmetic",
        "threads",
        "texts/s",
        "of the sgemm limit",
        "texts/CPU s",
        "of the limit in CPU time",
        "times Python",
    ]);
    for rate in &report.rates {
        rates.add_row([
            rate.engine.to_owned(),
            rate.threads.to_string(),
            format!("{:.1}", rate.texts_per_second),
            format!("{:.0} %", rate.share_of_limit * 100.0),
            format!("{:.1}", rate.texts_per_processor_second),
            format!("{:.0} %", rate.processor_share_of_limit * 100.0),
            rate.times_python.map_or_else(|| "-".to_owned(), |times| format!("{times:.2}")),
        ]);
    }
    let mut engines = screen::table(&[
        "arithmetic",
        "load ms",
        "resident MB",
        "highest MB",
        "one text p50 ms",
        "p99",
        "a question beside a backlog p50 ms",
        "p99",
    ]);
    for engine in &report.engines {
        engines.add_row([
            engine.engine.to_owned(),
            format!("{:.0}", engine.load_ms),
            format!("{:.0}", engine.resident_mb),
            format!("{:.0}", engine.highest_mb),
            format!("{:.1}", engine.single.p50_ms),
            format!("{:.1}", engine.single.p99_ms),
            format!("{:.1}", engine.question.p50_ms),
            format!("{:.1}", engine.question.p99_ms),
        ]);
    }
    let (machine, exactness) = (&report.machine, &report.exactness);
    format!(
        "{}, {} processors, int8 by {}\n{} texts of {:.1} word pieces; {python}\n{rates}\n{engines}\n\
         int8 against f32: least cosine {:.5}, mean {:.5}, {:.1} % of the ten nearest are the same\n",
        machine.processor,
        machine.processors,
        machine.instructions,
        report.texts,
        report.pieces_per_text,
        exactness.least_cosine,
        exactness.mean_cosine,
        exactness.same_neighbours * 100.0
    )
}
