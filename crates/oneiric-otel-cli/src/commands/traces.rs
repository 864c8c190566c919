//! `traces`: what there is, newest first, one page or all.

use anyhow::Result;
use oneiric_otel::query::{TraceOrder, TracePage, TracesRequest};

use super::Ending;
use crate::args::{Global, Order, Traces};
use crate::finder::{self, Finder, Waiting};
use crate::screen;

pub(crate) async fn run(global: &Global, traces: &Traces) -> Result<Ending> {
    let finder = Finder::open(global, false).await?;
    let listed = list(global, traces, &finder).await;
    finder.release().await?;
    listed.map(|()| Ending::Good)
}

async fn list(global: &Global, traces: &Traces, finder: &Finder) -> Result<()> {
    let mut request = TracesRequest {
        filter: finder::filter(&traces.narrow),
        order: match traces.order {
            Order::Newest => TraceOrder::Newest,
            Order::Oldest => TraceOrder::Oldest,
            Order::Longest => TraceOrder::Longest,
        },
        limit: traces.narrow.limit as usize,
        cursor: traces.cursor.clone(),
    };
    loop {
        let page = finder.service.find_traces(&request).await.map_err(|error| finder.explain(error))?;
        let next = page.next.clone();
        let goes_on = traces.all && next.is_some();
        show(global, finder, page, goes_on).await?;
        if !goes_on {
            return Ok(());
        }
        request.cursor = next;
    }
}

async fn show(global: &Global, finder: &Finder, page: TracePage, goes_on: bool) -> Result<()> {
    let traces_to_derive = finder.traces_to_derive().await?;
    let page = Waiting { answer: page, traces_to_derive };
    if global.json {
        return screen::print_json(&page);
    }
    let traces = &page.answer.traces;
    let shown = if traces.is_empty() { "no such traces\n".to_owned() } else { finder::show_traces(traces) };
    if goes_on {
        return screen::print(&shown);
    }
    screen::print(&(shown + &finder::more(page.answer.next.as_deref()) + &page.note()))
}
