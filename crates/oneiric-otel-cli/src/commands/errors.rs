//! `errors`: failing traces grouped by what they have in common, or listed by their error.

use anyhow::Result;
use oneiric_otel::query::{ErrorGroup, ErrorGroups, ErrorGroupsRequest, ErrorTracesRequest, TracePage};
use serde::Serialize;

use super::Ending;
use crate::args::{Errors, Global};
use crate::finder::{self, Finder, Waiting};
use crate::{moment, screen};

/// What was asked for.
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Answer {
    Groups(ErrorGroups),
    Traces(TracePage),
}

pub(crate) async fn run(global: &Global, errors: &Errors) -> Result<Ending> {
    let finder = Finder::open(global, false).await?;
    let found = match &errors.pattern {
        None => groups(&finder, errors).await.map(Answer::Groups),
        Some(pattern) => traces(&finder, errors, pattern).await.map(Answer::Traces),
    };
    let traces_to_derive = finder.traces_to_derive().await;
    finder.release().await?;
    let answer = Waiting { answer: found?, traces_to_derive: traces_to_derive? };
    if global.json {
        screen::print_json(&answer)?;
    } else {
        let told = match &answer.answer {
            Answer::Groups(groups) => tell(groups),
            Answer::Traces(page) => tell_traces(page),
        };
        screen::print(&(told + &answer.note()))?;
    }
    Ok(Ending::Good)
}

async fn traces(finder: &Finder, errors: &Errors, pattern: &str) -> Result<TracePage> {
    let request = ErrorTracesRequest {
        pattern: pattern.to_owned(),
        service: errors.service.clone(),
        range: errors.when.range()?,
        limit: errors.limit as usize,
        after: errors.cursor.clone(),
    };
    finder.service.get_traces_by_error(&request).await.map_err(|error| finder.explain(error))
}

fn tell_traces(page: &TracePage) -> String {
    if page.traces.is_empty() {
        return "no trace failed like this in this time\n".to_owned();
    }
    finder::show_traces(&page.traces) + &finder::more(page.next.as_deref())
}

async fn groups(finder: &Finder, errors: &Errors) -> Result<ErrorGroups> {
    let request = ErrorGroupsRequest {
        range: errors.when.range()?,
        service: errors.service.clone(),
        new_since: errors.new_since.map(|moment| moment.0),
        only_new: errors.new_since.is_some(),
        step: None,
        limit: errors.limit as usize,
        after: errors.cursor.clone(),
    };
    finder.service.error_groups(&request).await.map_err(|error| finder.explain(error))
}

fn tell(answer: &ErrorGroups) -> String {
    if answer.groups.is_empty() {
        return "nothing failed in this time\n".to_owned();
    }
    let mut lines = String::new();
    for group in &answer.groups {
        lines.push_str(&show(group));
        lines.push('\n');
    }
    lines + &finder::more(answer.next.as_deref())
}

fn show(group: &ErrorGroup) -> String {
    let traces = if group.count == 1 { "trace" } else { "traces" };
    let new = if group.is_new == Some(true) { "  NEW" } else { "" };
    let seen = |time| moment::show_short(moment::unix_nanos(time));
    let mut lines = format!(
        "{} {traces}, {} to {}{new}  {}\n",
        group.count,
        seen(group.first_seen),
        seen(group.last_seen),
        bars(&group.trend).trim_end()
    );
    let text = group.text.as_deref().or(group.error_message.as_deref()).unwrap_or_default();
    lines.push_str(&screen::indent(&screen::clean_short(text, finder::TEXT_CHARACTERS)));
    lines.push_str(&screen::indent(&format!("such as {}", group.example.trace_id)));
    lines
}

/// A number per character, the highest as high as a line.
fn bars(trend: &[i64]) -> String {
    const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let most = trend.iter().copied().max().unwrap_or_default().max(1);
    let bar = |count: i64| match count {
        ..=0 => ' ',
        count => {
            usize::try_from((count * 8 - 1) / most).ok().and_then(|height| BARS.get(height)).copied().unwrap_or('█')
        }
    };
    trend.iter().map(|count| bar(*count)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_grow_with_the_numbers() {
        assert_eq!(bars(&[0, 1, 4, 8]), " ▁▄█");
        assert_eq!(bars(&[0, 0]), "  ");
        assert_eq!(bars(&[i64::from(i32::MAX)]), "█");
        assert_eq!(bars(&[]), "");
    }
}
