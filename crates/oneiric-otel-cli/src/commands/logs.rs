//! `logs`: log records, the newest last as in a file, by their words or by what they mean; or their patterns.

use anyhow::Result;
use oneiric_otel::query::{Level, LogEntry, LogPage, LogPattern, LogPatterns, LogsByMeaning, LogsRequest};
use serde::Serialize;

use super::Ending;
use crate::args::{Global, Logs};
use crate::finder::{self, Finder};
use crate::{moment, screen};

const BODY_CHARACTERS: usize = 400;
/// Template ids of a pattern that are shown.
const TEMPLATES: usize = 3;

pub(crate) async fn run(global: &Global, logs: &Logs) -> Result<Ending> {
    let request = LogsRequest {
        query: logs.meaning.clone().or_else(|| Some(logs.query.join(" ")).filter(|query| !query.is_empty())),
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
    let mut finder = Finder::open(global, logs.meaning.is_some()).await?;
    let found = match finder.no_model.take() {
        Some(error) => Err(error),
        None => find(&finder, logs, &request).await,
    };
    finder.release().await?;
    let answer = found?;
    if global.json {
        screen::print_json(&answer)?;
    } else {
        screen::print(&match &answer {
            Answer::Page(page) => tell(page),
            Answer::Patterns(patterns) => tell_patterns(patterns, logs.since.is_some()),
            Answer::Meaning(found) => tell_meaning(found),
        })?;
    }
    Ok(Ending::Good)
}

async fn find(finder: &Finder, logs: &Logs, request: &LogsRequest) -> Result<Answer> {
    let service = &finder.service;
    let found = if logs.meaning.is_some() {
        service.search_logs_by_meaning(request).await.map(Answer::Meaning)
    } else if logs.patterns {
        service.log_patterns(request).await.map(Answer::Patterns)
    } else {
        service.search_logs(request).await.map(Answer::Page)
    };
    found.map_err(|error| finder.explain(error))
}

/// What was asked for.
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Answer {
    Page(LogPage),
    Patterns(LogPatterns),
    Meaning(LogsByMeaning),
}

fn tell_patterns(patterns: &LogPatterns, is_asked: bool) -> String {
    let since = if is_asked && !patterns.start_is_bound {
        String::new()
    } else {
        let start = moment::show(moment::unix_nanos(patterns.start));
        format!("note: only records since {start} were counted; --since takes another time\n")
    };
    if patterns.patterns.is_empty() {
        return format!("no such log records\n{since}");
    }
    let mut lines: String = patterns.patterns.iter().map(show_pattern).collect();
    lines.push_str(&since);
    if patterns.more_records > 0 {
        let rest = format!("note: {} more records have rarer patterns\n", patterns.more_records);
        lines.push_str(&rest);
    }
    lines
}

fn show_pattern(pattern: &LogPattern) -> String {
    let level = pattern.level.map_or("-", Level::as_str);
    let service = screen::clean_short(&pattern.service_name, 40);
    let last = moment::show_short(moment::unix_nanos(pattern.last));
    let ids = pattern.templates.iter().take(TEMPLATES);
    let templates = ids.map(|id| format!("  --template {id}")).collect::<Vec<_>>().concat();
    let more = if pattern.templates.len() > TEMPLATES { "  ..." } else { "" };
    let head = format!("{}  {level}  {service}  last {last}{templates}{more}\n", pattern.count);
    head + &screen::indent(&screen::clean_short(&pattern.pattern, BODY_CHARACTERS))
}

fn tell_meaning(found: &LogsByMeaning) -> String {
    if found.nothing_near {
        return "no log records mean anything like it\n".to_owned();
    }
    let mut lines = String::new();
    let mut flags = String::new();
    for near in &found.templates {
        let level = near.level.map_or("-", Level::as_str);
        let service = screen::clean_short(&near.service_name, 40);
        let head = format!("cosine {:.2}  {level}  {service}\n", near.cosine);
        lines.push_str(&head);
        lines.push_str(&screen::indent(&screen::clean_short(&near.template, BODY_CHARACTERS)));
        let flag = format!(" --template {}", near.template_id);
        flags.push_str(&flag);
    }
    lines.push('\n');
    lines.push_str(&records(&found.page));
    if let Some(cursor) = &found.page.next {
        let more = format!("there are more, in place of --meaning:{flags} --cursor {}\n", screen::clean(cursor));
        lines.push_str(&more);
    }
    lines
}

fn tell(page: &LogPage) -> String {
    records(page) + &finder::more(page.next.as_deref())
}

fn records(page: &LogPage) -> String {
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
    lines
}

fn show(log: &LogEntry) -> String {
    let level = log.level.map_or("-", Level::as_str);
    let trace = log.trace_id.map(|id| format!("  {id}")).unwrap_or_default();
    let service = screen::clean_short(&log.service_name, 40);
    let head = format!("{}  {level}  {service}{trace}\n", moment::show(moment::unix_nanos(log.time)));
    let event = log.event_name.as_deref().unwrap_or_default();
    let body = log.body.as_deref().unwrap_or_default();
    let said = format!("{event} {body}");
    head + &screen::indent(&screen::clean_short(said.trim(), BODY_CHARACTERS))
}
