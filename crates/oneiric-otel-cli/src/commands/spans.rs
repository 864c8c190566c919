//! `spans`: spans whatever traces they are of, newest first.

use anyhow::Result;
use oneiric_otel::query::{SpanFilter, SpanPage, SpanRecord, SpansRequest};

use super::Ending;
use crate::args::{Global, Spans};
use crate::finder::{self, Finder};
use crate::{moment, screen};

pub(crate) async fn run(global: &Global, spans: &Spans) -> Result<Ending> {
    let request = SpansRequest {
        filter: SpanFilter {
            service: spans.service.clone(),
            operation: spans.operation.clone(),
            status: spans.status.map(|status| status.as_str().to_owned()),
            min_duration: spans.min_duration.map(|length| length.0),
            max_duration: spans.max_duration.map(|length| length.0),
            attributes: spans.attributes.clone(),
        },
        range: spans.when.range()?,
        limit: spans.limit as usize,
        cursor: spans.cursor.clone(),
    };
    let finder = Finder::open(global, false).await?;
    let found = finder.service.find_spans(&request).await.map_err(|error| finder.explain(error));
    finder.release().await?;
    let page = found?;
    if global.json {
        screen::print_json(&page)?;
    } else {
        screen::print(&tell(&page))?;
    }
    Ok(Ending::Good)
}

fn tell(page: &SpanPage) -> String {
    if page.spans.is_empty() {
        return "no such spans in this time\n".to_owned();
    }
    let mut lines = String::new();
    for span in &page.spans {
        lines.push_str(&show(span));
    }
    lines + &finder::more(page.next.as_deref())
}

fn show(span: &SpanRecord) -> String {
    let head = format!(
        "{}  {}  {}  {}  {}\n",
        span.trace_id,
        span.span_id,
        moment::show_short(span.start_time.0),
        moment::show_duration(u64::try_from(span.duration_ns).unwrap_or_default()),
        screen::clean_short(&span.status.code, 10),
    );
    let service = screen::clean_short(&span.service_name, 40);
    let mut what = format!("{service}  {}", screen::clean_short(span.name.as_str().unwrap_or_default(), 60));
    if let Some(error) = span.error_message.as_ref().and_then(|message| message.as_str()) {
        what = format!("{what}  {}", screen::clean_short(error, 120));
    }
    head + &screen::indent(&what)
}
