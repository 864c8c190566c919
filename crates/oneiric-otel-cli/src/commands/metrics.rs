//! `metrics`: which there are, their labels, and their values over time.

use std::time::Duration;

use anyhow::Result;
use oneiric_otel::query::{MetricLabel, MetricOverview, MetricRange, MetricSeries, MetricsRequest, QueryError};
use serde::Serialize;

use super::Ending;
use crate::args::{Global, Metrics};
use crate::finder::Finder;
use crate::{moment, screen};

/// Steps of a series, where their length is not given.
const USUAL_STEPS: i64 = 60;
/// Values of a label that are shown.
const VALUES: usize = 20;

/// What was asked for.
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Answer {
    List(Vec<MetricOverview>),
    Labels(Vec<MetricLabel>),
    Values(MetricRange),
}

pub(crate) async fn run(global: &Global, metrics: &Metrics) -> Result<Ending> {
    let request = match &metrics.name {
        Some(name) if !metrics.labels => Some(request(name, metrics)?),
        _ => None,
    };
    let finder = Finder::open(global, false).await?;
    let found = ask(&finder, metrics, request).await.map_err(|error| finder.explain(error));
    finder.release().await?;
    let answer = found?;
    if global.json {
        screen::print_json(&answer)?;
    } else {
        screen::print(&match &answer {
            Answer::List(metrics) => tell_list(metrics),
            Answer::Labels(labels) => tell_labels(labels),
            Answer::Values(range) => tell_values(range),
        })?;
    }
    Ok(Ending::Good)
}

fn request(name: &str, metrics: &Metrics) -> Result<MetricsRequest> {
    let range = metrics.when.range()?;
    let seconds = range.end().duration_since(range.start()).as_secs().div_euclid(USUAL_STEPS).max(1);
    Ok(MetricsRequest {
        name: name.to_owned(),
        labels: metrics.with.iter().map(|label| label.0.clone()).collect(),
        service: metrics.service.clone(),
        start: range.start(),
        end: range.end(),
        step: metrics.step.map_or(Duration::from_secs(seconds.unsigned_abs()), |length| length.0),
        aggregation: metrics.aggregation,
        group_by: (metrics.total || !metrics.by.is_empty()).then(|| metrics.by.clone()),
    })
}

async fn ask(finder: &Finder, metrics: &Metrics, request: Option<MetricsRequest>) -> Result<Answer, QueryError> {
    match (&metrics.name, request) {
        (_, Some(request)) => finder.service.get_metrics_by_time_range(&request).await.map(Answer::Values),
        (Some(name), None) => finder.service.metric_labels(name).await.map(Answer::Labels),
        (None, None) => {
            let limit = metrics.limit as usize;
            finder.service.metrics(None, metrics.service.as_deref(), limit).await.map(Answer::List)
        }
    }
}

fn tell_list(metrics: &[MetricOverview]) -> String {
    if metrics.is_empty() {
        return "no metric is stored\n".to_owned();
    }
    let mut table = screen::table(&["metric", "type", "unit", "series", "services"]);
    for metric in metrics {
        table.add_row([
            screen::clean_short(&metric.name, 60),
            screen::clean_short(&metric.kind, 30),
            screen::clean_short(&metric.unit, 20),
            metric.streams.to_string(),
            screen::clean_short(&metric.services.join(", "), 60),
        ]);
    }
    format!("{table}\n")
}

fn tell_labels(labels: &[MetricLabel]) -> String {
    let mut lines = String::new();
    for label in labels {
        lines.push_str(&screen::clean_short(&label.key, 60));
        lines.push('\n');
        let more = if label.values.len() > VALUES { ", …" } else { "" };
        let values: Vec<String> =
            label.values.iter().take(VALUES).map(|value| screen::clean_short(value, 60)).collect();
        lines.push_str(&screen::indent(&(values.join(", ") + more)));
    }
    lines
}

fn tell_values(range: &MetricRange) -> String {
    if range.series.iter().all(|series| series.points.is_empty()) {
        return "nothing was measured in this time; --since goes further back\n".to_owned();
    }
    let name = screen::clean_short(&range.name, 60);
    let step = moment::show_duration((range.step_seconds * 1e9) as u64);
    let mut lines = format!("{name}: {} every {step}\n", range.aggregation);
    for series in &range.series {
        lines.push('\n');
        lines.push_str(&show(series));
    }
    lines
}

fn show(series: &MetricSeries) -> String {
    let labels: Vec<String> = series.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    let labels = if labels.is_empty() { "all".to_owned() } else { screen::clean_short(&labels.join(" "), 200) };
    let values = || series.points.iter().map(|point| point.value);
    let (least, most) = (values().fold(f64::INFINITY, f64::min), values().fold(f64::NEG_INFINITY, f64::max));
    let unit = screen::clean_short(&series.unit, 20);
    let head = match series.points.last() {
        Some(last) => {
            format!("{labels}\n    last {} {unit}, from {} to {}", number(last.value), number(least), number(most))
        }
        None => labels,
    };
    format!("{}\n    {}\n", head.trim_end(), bars(series, least, most))
}

fn number(value: f64) -> String {
    let short = format!("{value:.3}");
    if short.contains('.') { short.trim_end_matches('0').trim_end_matches('.').to_owned() } else { short }
}

/// A character for each point, as high as it lies between the least and the most.
fn bars(series: &MetricSeries, least: f64, most: f64) -> String {
    const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let height = |value: f64| if most > least { ((value - least) / (most - least) * 7.0).round() } else { 3.0 };
    let bar = |value: f64| BARS.get(height(value) as usize).copied().unwrap_or(' ');
    series.points.iter().map(|point| bar(point.value)).collect()
}
