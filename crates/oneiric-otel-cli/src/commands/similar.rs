//! `similar`: traces like a given one.

use anyhow::Result;
use oneiric_otel::query::{SimilarAnswer, SimilarRequest};

use super::Ending;
use crate::args::{Global, Similar};
use crate::finder::{self, Finder};
use crate::screen;

pub(crate) async fn run(global: &Global, similar: &Similar) -> Result<Ending> {
    let request = SimilarRequest {
        trace_id: similar.trace_id,
        threshold: similar.threshold,
        limit: similar.narrow.limit as usize,
        filter: finder::filter(&similar.narrow),
    };
    let mut finder = Finder::open(global, true).await?;
    let answer = match finder.no_model.take() {
        Some(error) => Err(error),
        None => finder.service.find_similar_traces(&request).await.map_err(|error| finder.explain(error)),
    };
    finder.release().await?;
    let answer = answer?;
    if global.json {
        screen::print_json(&answer)?;
    } else {
        screen::print(&tell(&answer, similar.threshold))?;
    }
    Ok(Ending::Good)
}

fn tell(answer: &SimilarAnswer, threshold: f64) -> String {
    let text = screen::clean_short(answer.trace.text.as_deref().unwrap_or_default(), 400);
    let head = format!("like {}: {text}\n", answer.trace.trace_id);
    if answer.hits.is_empty() {
        return format!("{head}no other trace reaches a cosine of {threshold}; --threshold takes a lower one\n");
    }
    format!("{head}\n{}", finder::show_hits(&answer.hits, "cosine"))
}
