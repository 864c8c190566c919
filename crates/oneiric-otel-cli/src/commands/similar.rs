//! `similar`: traces like a given one.

use anyhow::Result;
use oneiric_otel::query::{SimilarAnswer, SimilarRequest, TraceDiff};
use serde::Serialize;

use super::{Ending, diff};
use crate::args::{Global, Similar};
use crate::finder::{self, Finder};
use crate::screen;

/// What is printed.
#[derive(Serialize)]
struct Output {
    #[serde(flatten)]
    answer: SimilarAnswer,
    /// Of each hit its newest trace side by side with the given one.
    #[serde(skip_serializing_if = "Option::is_none")]
    explanations: Option<Vec<TraceDiff>>,
}

pub(crate) async fn run(global: &Global, similar: &Similar) -> Result<Ending> {
    let threshold = similar.threshold.unwrap_or(global.settings().similarity_threshold);
    let mut finder = Finder::open(global, true).await?;
    let found = match finder.no_model.take() {
        Some(error) => Err(error),
        None => find(&finder, similar, threshold).await,
    };
    finder.release().await?;
    let output = found?;
    if global.json {
        screen::print_json(&output)?;
    } else {
        screen::print(&tell(&output, threshold))?;
    }
    Ok(Ending::Good)
}

async fn find(finder: &Finder, similar: &Similar, threshold: f64) -> Result<Output> {
    let request = SimilarRequest {
        trace_id: similar.trace_id,
        threshold,
        limit: similar.narrow.limit as usize,
        filter: finder::filter(&similar.narrow),
    };
    let answer = finder.service.find_similar_traces(&request).await.map_err(|error| finder.explain(error))?;
    let mut explanations = similar.explain.then(Vec::new);
    if let Some(explanations) = &mut explanations {
        for hit in &answer.hits {
            let explained = finder.service.explain_similarity(similar.trace_id, hit.newest.trace_id).await;
            explanations.push(explained.map_err(|error| finder.explain(error))?);
        }
    }
    Ok(Output { answer, explanations })
}

fn tell(output: &Output, threshold: f64) -> String {
    let answer = &output.answer;
    let text = screen::clean_short(answer.trace.text.as_deref().unwrap_or_default(), 400);
    let head = format!("like {}: {text}\n", answer.trace.trace_id);
    if answer.hits.is_empty() {
        return format!("{head}no other trace reaches a cosine of {threshold}; --threshold takes a lower one\n");
    }
    let Some(explanations) = &output.explanations else {
        return format!("{head}\n{}", finder::show_hits(&answer.hits, "cosine"));
    };
    let mut lines = head;
    for (hit, explanation) in answer.hits.iter().zip(explanations) {
        lines.push('\n');
        lines.push_str(finder::show_hits(std::slice::from_ref(hit), "cosine").trim_end());
        lines.push('\n');
        lines.push_str(&diff::show(explanation));
    }
    lines
}
