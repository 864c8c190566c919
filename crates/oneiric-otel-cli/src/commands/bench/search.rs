//! `bench search`: how good search is, on labelled telemetry.

use std::fmt::Write as _;
use std::sync::Arc;

use anyhow::Result;
use oneiric_otel_bench::search::recall::{self, RecallReport};
use oneiric_otel_bench::search::{self, Measured, Report, Scope, SetReport};

use super::{Ending, Steps, show};
use crate::args::Global;
use crate::args::bench::Search;
use crate::backend::Backend;
use crate::progress::Progress;
use crate::{data_dir, model, screen};

pub(super) async fn run(global: &Global, search: &Search) -> Result<Ending> {
    let progress = Arc::new(Progress::new());
    let mut global = global.clone();
    if global.database_url().is_none() {
        let place = if search.recall.is_some() { "recall" } else { "search" };
        global.resolved.settings.data_dir = Some(data_dir::of_bench(&global)?.join(place));
    }
    let embedder = model::load_in_background(global.settings(), Arc::clone(&progress)).await?;
    let backend = Backend::open_for_writing(&global, &progress).await?;
    let scope =
        Scope { data: search.data.as_deref(), set: search.only.as_deref(), without_original: search.without_original };
    if let Some(texts) = search.recall {
        let watcher = Steps(&progress);
        let report = recall::run(backend.database(), embedder, scope, texts as usize, &watcher).await;
        progress.end();
        backend.release().await?;
        let report = report?;
        return show(&global, &report, tell_recall);
    }
    let report = search::run(backend.database(), embedder, scope, &Steps(&progress)).await;
    progress.end();
    backend.release().await?;
    let report = report?;
    show(&global, &report, |report| tell(report, search.each))
}

fn tell(report: &Report, each: bool) -> String {
    let mut text = format!("model {}\n", report.model);
    for set in &report.sets {
        write!(text, "\n{}: {} traces, {} texts\n", set.set, set.traces, set.texts).unwrap_or_default();
        text.push_str(&tell_set(set));
        if each {
            text.push_str(&tell_each(set));
        }
    }
    text
}

fn tell_set(set: &SetReport) -> String {
    let mut table = screen::table(&["what", "way", "asked", "recall@10", "MRR", "nDCG@10"]);
    let mut add = |what: &str, measured: &Measured| {
        let quality = &measured.quality;
        table.add_row([
            what.to_owned(),
            measured.way.to_owned(),
            measured.asked.to_string(),
            format!("{:.3}", quality.recall),
            format!("{:.3}", quality.reciprocal_rank),
            format!("{:.3}", quality.ndcg),
        ]);
    };
    for measured in &set.questions {
        add("questions", measured);
    }
    for measured in &set.unseen {
        add("unseen questions", measured);
    }
    for measured in &set.similar {
        add("similar traces", measured);
    }
    let near = &set.nothing_near;
    format!(
        "{table}\n\"nothing near\": precision {:.2}; told to {} of {} questions without an answer and {} of {} with one\n",
        near.precision(),
        near.unanswerable_silent,
        near.unanswerable,
        near.answerable_silent,
        near.answerable
    )
}

fn tell_each(set: &SetReport) -> String {
    let mut table = screen::table(&["MRR", "nDCG@10", "cosine", "words", "question", "best"]);
    let number = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.2}"));
    for asked in &set.each {
        table.add_row([
            number(asked.quality.map(|quality| quality.reciprocal_rank)),
            number(asked.quality.map(|quality| quality.ndcg)),
            number(asked.best_cosine),
            number(asked.best_word_share),
            screen::clean_short(&asked.question, 200),
            screen::clean_short(asked.best.as_deref().unwrap_or("nothing near"), 200),
        ]);
    }
    format!("{table}\n")
}

fn tell_recall(report: &RecallReport) -> String {
    let mut table = screen::table(&["way", "filter", "asked", "recall@10", "least", "median ms", "every vector, ms"]);
    for way in &report.ways {
        table.add_row([
            way.way.to_owned(),
            way.filter.to_owned(),
            way.asked.to_string(),
            format!("{:.4}", way.recall),
            format!("{:.1}", way.least),
            format!("{:.1}", way.usual_ms),
            format!("{:.1}", way.exact_ms),
        ]);
    }
    let index = if report.indexed { "an index on the vectors" } else { "too few vectors for an index" };
    format!("model {}, {} composed texts beside the sets, {index}\n{table}\n", report.model, report.texts)
}
