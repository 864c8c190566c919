//! `traces`: what there is, newest first.

use anyhow::Result;
use oneiric_otel::query::TracesRequest;

use super::Ending;
use crate::args::{Global, Traces};
use crate::finder::{self, Finder, Waiting};
use crate::screen;

pub(crate) async fn run(global: &Global, traces: &Traces) -> Result<Ending> {
    let request = TracesRequest::new(finder::filter(&traces.narrow), traces.narrow.limit as usize);
    let finder = Finder::open(global, false).await?;
    let page = finder.service.find_traces(&request).await.map_err(|error| finder.explain(error));
    let traces_to_derive = finder.traces_to_derive().await;
    finder.release().await?;
    let page = Waiting { answer: page?, traces_to_derive: traces_to_derive? };
    if global.json {
        screen::print_json(&page)?;
    } else {
        let traces = &page.answer.traces;
        let shown = if traces.is_empty() { "no such traces\n".to_owned() } else { finder::show_traces(traces) };
        screen::print(&(shown + &page.note()))?;
    }
    Ok(Ending::Good)
}
