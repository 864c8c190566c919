//! `traces`: what there is, newest first.

use anyhow::Result;
use oneiric_otel::query::TracesRequest;

use super::Ending;
use crate::args::{Global, Traces};
use crate::finder::{self, Finder};
use crate::screen;

pub(crate) async fn run(global: &Global, traces: &Traces) -> Result<Ending> {
    let request =
        TracesRequest { filter: finder::filter(&traces.narrow), limit: traces.narrow.limit as usize, after: None };
    let finder = Finder::open(global, false).await?;
    let page = finder.service.find_traces(&request).await.map_err(|error| finder.explain(error));
    finder.release().await?;
    let page = page?;
    if global.json {
        screen::print_json(&page)?;
    } else if page.traces.is_empty() {
        screen::print("no such traces\n")?;
    } else {
        screen::print(&format!("{}\n", finder::traces_table(&page.traces)))?;
    }
    Ok(Ending::Good)
}
