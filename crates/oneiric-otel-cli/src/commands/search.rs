//! `search`: traces by a description in words.

use anyhow::Result;
use oneiric_otel::query::{SearchAnswer, SearchRequest};

use super::Ending;
use crate::args::{Global, Search};
use crate::finder::{self, Finder, Waiting};
use crate::screen;

pub(crate) async fn run(global: &Global, search: &Search) -> Result<Ending> {
    let request = SearchRequest {
        text: search.text.join(" "),
        limit: search.narrow.limit as usize,
        filter: finder::filter(&search.narrow),
    };
    let finder = Finder::open(global, true).await?;
    if let Some(error) = &finder.no_model {
        tracing::warn!(error = format!("{error:#}"), "no embedding model: only words are compared");
    }
    let answer = finder.service.search_traces(&request).await.map_err(|error| finder.explain(error));
    let traces_to_derive = finder.traces_to_derive().await;
    finder.release().await?;
    let answer = Waiting { answer: answer?, traces_to_derive: traces_to_derive? };
    if global.json {
        screen::print_json(&answer)?;
    } else {
        screen::print(&tell(&answer))?;
    }
    Ok(Ending::Good)
}

fn tell(waiting: &Waiting<SearchAnswer>) -> String {
    let answer = &waiting.answer;
    let note = answer.note.as_ref().map(|note| format!("note: {note}\n")).unwrap_or_default() + &waiting.note();
    if answer.nothing_near {
        return format!("nothing that is stored comes near this description\n{note}");
    }
    format!("{}{note}", finder::show_hits(&answer.hits, "score"))
}
