//! `logs`: log records, the newest last as in a file, or their patterns.

use anyhow::Result;
use oneiric_otel::query::{LogEntry, LogPage, LogPatterns, LogsRequest};
use serde::Serialize;

use super::Ending;
use crate::args::{Global, Logs};
use crate::finder::{self, Finder};
use crate::{moment, screen};

const BODY_CHARACTERS: usize = 400;

pub(crate) async fn run(global: &Global, logs: &Logs) -> Result<Ending> {
    let request = LogsRequest {
        query: Some(logs.query.join(" ")).filter(|query| !query.is_empty()),
        trace_id: logs.trace,
        level: logs.level.map(|level| level.as_str().to_owned()),
        service: logs.service.clone(),
        start: logs.since.map(|moment| moment.0),
        end: logs.until.map(|moment| moment.0),
        templates: Some(logs.templates.clone()).filter(|templates| !templates.is_empty()),
        limit: logs.limit as usize,
        cursor: logs.cursor.clone(),
        ..LogsRequest::default()
    };
    let finder = Finder::open(global, false).await?;
    let found = if logs.patterns {
        finder.service.log_patterns(&request).await.map(Answer::Patterns)
    } else {
        finder.service.search_logs(&request).await.map(Answer::Page)
    };
    let found = found.map_err(|error| finder.explain(error));
    finder.release().await?;
    let answer = found?;
    if global.json {
        screen::print_json(&answer)?;
    } else {
        screen::print(&match &answer {
            Answer::Page(page) => tell(page),
            Answer::Patterns(patterns) => tell_patterns(patterns),
        })?;
    }
    Ok(Ending::Good)
}

/// What was asked for.
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Answer {
    Page(LogPage),
    Patterns(LogPatterns),
}

fn tell_patterns(patterns: &LogPatterns) -> String {
    if patterns.patterns.is_empty() {
        return "no such log records\n".to_owned();
    }
    let mut lines = String::new();
    for pattern in &patterns.patterns {
        let level = pattern.level.map_or("-", oneiric_otel::query::Level::as_str);
        let service = screen::clean_short(&pattern.service_name, 40);
        let last = moment::show_short(moment::unix_nanos(pattern.last));
        let head = format!("{}  {level}  {service}  last {last}\n", pattern.count);
        lines.push_str(&head);
        lines.push_str(&screen::indent(&screen::clean_short(&pattern.pattern, BODY_CHARACTERS)));
    }
    if patterns.more_records > 0 {
        let rest = format!("note: {} more records have rarer patterns\n", patterns.more_records);
        lines.push_str(&rest);
    }
    lines
}

fn tell(page: &LogPage) -> String {
    let mut lines = String::new();
    // The last one stands above the prompt, as in a log.
    for log in page.logs.iter().rev() {
        lines.push_str(&show(log));
    }
    if page.logs.is_empty() {
        lines.push_str("no such log records\n");
    }
    if let Some(time) = page.searched_back_to {
        lines.push_str("note: nothing was looked at that is older than ");
        lines.push_str(&moment::show(moment::unix_nanos(time)));
        lines.push('\n');
    }
    lines + &finder::more(page.next.as_deref())
}

fn show(log: &LogEntry) -> String {
    let level = log.level.map_or("-", oneiric_otel::query::Level::as_str);
    let trace = log.trace_id.map(|id| format!("  {id}")).unwrap_or_default();
    let service = screen::clean_short(&log.service_name, 40);
    let head = format!("{}  {level}  {service}{trace}\n", moment::show(moment::unix_nanos(log.time)));
    let event = log.event_name.as_deref().unwrap_or_default();
    let body = log.body.as_deref().unwrap_or_default();
    let said = format!("{event} {body}");
    head + &screen::indent(&screen::clean_short(said.trim(), BODY_CHARACTERS))
}
