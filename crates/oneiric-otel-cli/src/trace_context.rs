//! What belongs to a trace besides its spans, for people: how it failed, where its time went, what was logged and measured.

use oneiric_otel::query::{
    ContextLog, ContextPoint, ContextSeries, CriticalPath, FailedSpan, PathOperation, TraceContext, TraceFailure,
};

use crate::moment;
use crate::screen::{clean_short, indent};

const NAME_CHARACTERS: usize = 60;
const MESSAGE_CHARACTERS: usize = 200;
/// Steps of a critical path that are shown.
const STEPS: usize = 30;

/// All that is there of it, each part under its name. Ends with a line break, unless it is empty.
pub(crate) fn show(context: &TraceContext) -> String {
    let mut lines = String::new();
    let mut part = |name: String, of: Vec<String>| {
        if of.is_empty() {
            return;
        }
        lines.push('\n');
        lines.push_str(&name);
        lines.push('\n');
        for line in of {
            lines.push_str(&indent(&line));
        }
    };
    if let Some(failure) = &context.failure {
        part(format!("how it failed ({})", counted(failure.failed_spans, "failed span")), failure_lines(failure));
    }
    if let Some(path) = &context.critical_path {
        let total = moment::show_duration(path.total_ns);
        part(format!("where its time went ({total})"), share_lines(path));
        part("step by step".to_owned(), step_lines(path));
    }
    part(format!("logs ({})", context.logs.len()), context.logs.iter().map(log_line).collect());
    part(format!("metrics ({})", context.metrics.len()), context.metrics.iter().map(series_line).collect());
    part("notes".to_owned(), context.notes.iter().map(|note| clean_short(note, MESSAGE_CHARACTERS)).collect());
    lines
}

fn counted(number: usize, thing: &str) -> String {
    format!("{number} {thing}{}", if number == 1 { "" } else { "s" })
}

fn operation(service: &str, name: &str) -> String {
    format!("{}  {}", clean_short(service, NAME_CHARACTERS), clean_short(name, NAME_CHARACTERS))
}

fn failure_lines(failure: &TraceFailure) -> Vec<String> {
    let told = |span: &FailedSpan| {
        let parts = [span.error_type.as_deref(), span.message.as_deref()];
        let error = parts.into_iter().flatten().collect::<Vec<_>>().join(": ");
        let line =
            format!("{}  {}", operation(&span.service_name, &span.name), clean_short(&error, MESSAGE_CHARACTERS));
        line.trim_end().to_owned()
    };
    let mut lines = vec![format!("first: {}", told(&failure.first))];
    if failure.cause != failure.first {
        lines.push(format!("cause: {}", told(&failure.cause)));
    }
    for span in &failure.handed_up_to {
        lines.push(format!("then: {}", told(span)));
    }
    if !failure.reached_root {
        lines.push("the root did not fail".to_owned());
    }
    lines
}

fn share_lines(path: &CriticalPath) -> Vec<String> {
    let line = |part: &PathOperation| {
        format!(
            "{:>3.0} %  {}  {}  {}",
            part.share * 100.0,
            moment::show_duration(part.self_ns),
            operation(&part.service_name, &part.name),
            counted(part.spans, "span"),
        )
    };
    path.operations.iter().map(line).collect()
}

fn step_lines(path: &CriticalPath) -> Vec<String> {
    let mut lines: Vec<String> = path
        .steps
        .iter()
        .take(STEPS)
        .map(|step| {
            format!(
                "+{}  {}  {}{}",
                moment::show_duration(step.offset_ns),
                moment::show_duration(step.self_ns),
                operation(&step.service_name, &step.name),
                if step.failed { "  ERROR" } else { "" },
            )
        })
        .collect();
    if path.steps.len() > STEPS || path.steps_cut {
        lines.push("and more: --json has them".to_owned());
    }
    lines
}

fn log_line(log: &ContextLog) -> String {
    let level = if log.severity_text.is_empty() { log.severity_number.to_string() } else { log.severity_text.clone() };
    let body = log.body.as_str().map_or_else(|| serde_json::to_string(&log.body).unwrap_or_default(), str::to_owned);
    let said = format!("{} {body}", log.event_name);
    format!(
        "{}  {}  {}  {}",
        moment::show(log.time.0),
        clean_short(&level, 10),
        clean_short(&log.service_name, NAME_CHARACTERS),
        clean_short(said.trim(), MESSAGE_CHARACTERS),
    )
}

fn series_line(series: &ContextSeries) -> String {
    let attributes = match series.attributes.get() {
        "{}" => String::new(),
        some => format!("  {}", clean_short(some, 2 * NAME_CHARACTERS)),
    };
    let last = series.points.last().map(|point| value(point, &series.unit)).unwrap_or_default();
    format!(
        "{}{attributes}  {}, last {last}{}",
        operation(&series.service_name, &series.metric_name),
        counted(series.points.len(), "point"),
        if series.has_exemplar { "  (measured in this trace)" } else { "" },
    )
}

fn value(point: &ContextPoint, unit: &str) -> String {
    let unit = clean_short(unit, 20);
    match (point.value, point.count, point.sum) {
        (Some(value), ..) => format!("{value} {unit}").trim_end().to_owned(),
        (None, Some(count), Some(sum)) => format!("{count} of together {sum} {unit}").trim_end().to_owned(),
        (None, Some(count), None) => count.to_string(),
        _ => "unknown".to_owned(),
    }
}
