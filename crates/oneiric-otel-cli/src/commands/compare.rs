//! `compare`: whether what is stored here is what another place has, for those who write to two.
//!
//! Exit codes: 0 both say the same; 1 there are differences; 2 it could not be compared, or not all of it.

mod jaeger;
mod spill;

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use jiff::Timestamp;
use oneiric_otel::compare::{Kind, SpanDifference, SpanFacts, Summary, Terms, TraceDifference, facts};
use oneiric_otel::otlp::file::FileRequest;
use oneiric_otel::otlp::{self, Encoding};
use oneiric_otel::query::ExportRequest;
use opentelemetry_proto::tonic::trace::v1::Span;
use serde::Serialize;
use tokio::sync::mpsc;

use super::Ending;
use super::import::{Met, Source, read};
use crate::args::{Compare, Global};
use crate::finder::Finder;
use crate::moment::unix_nanos;
use crate::{failure, screen};
use jaeger::Jaeger;
use spill::{Side, Spill};

/// What could not be compared, of which more is said than how much.
const REASONS: usize = 20;
/// Characters of a value that a person is shown.
const VALUE_CHARACTERS: usize = 120;
const NANOS_PER_MICRO: u64 = 1000;

/// Everything that came of it.
#[derive(Debug, Default, Serialize)]
struct Outcome {
    summary: Summary,
    /// Spans that began in this range were compared.
    since: Option<Timestamp>,
    until: Option<Timestamp>,
    traces: Vec<TraceDifference>,
    /// Traces that differ beyond those.
    more_traces: u64,
    /// Requests of the files with metrics or logs, which are not compared.
    other_requests: u64,
    /// Parts of the other side that could not be read.
    unreadable: u64,
    reasons: Vec<String>,
}

impl Outcome {
    fn miss(&mut self, count: u64, reason: String) {
        self.unreadable += count;
        if self.reasons.len() < REASONS {
            self.reasons.push(reason);
        }
    }

    fn ending(&self) -> Ending {
        match (self.summary.is_same(), self.unreadable) {
            (true, 0) => Ending::Good,
            (false, _) => Ending::Bad,
            (true, _) => CANNOT,
        }
    }
}

const CANNOT: Ending = Ending::Code(2);

pub(crate) async fn run(global: &Global, compare: &Compare) -> Result<Ending> {
    let outcome = match work(global, compare).await {
        Ok(outcome) => outcome,
        Err(error) => {
            failure::report(&error);
            return Ok(CANNOT);
        }
    };
    if global.json {
        screen::print_json(&outcome)?;
    } else {
        screen::print(&tell(&outcome))?;
    }
    Ok(outcome.ending())
}

async fn work(global: &Global, compare: &Compare) -> Result<Outcome> {
    let mut outcome = Outcome::default();
    let mut spill = Spill::new();
    let terms = if compare.other.jaeger.is_some() { Terms::Jaeger } else { Terms::Otlp };
    let mut range = Range::asked(compare, terms);
    match &compare.other.jaeger {
        Some(url) => read_jaeger(url, &mut range, &mut spill).await?,
        None => read_files(&compare.other.otlp_file, &range, &mut spill, &mut outcome).await?,
    }
    let Some((since, until)) = range.found(spill.starts())? else {
        anyhow::bail!(match outcome.reasons.first() {
            Some(reason) => format!("the other side cannot be read: {reason}"),
            None =>
                "the other side has no span, so there is no range to compare: --since and --until give one".to_owned(),
        });
    };
    (outcome.since, outcome.until) = (Some(since), Some(until));
    let finder = Finder::open(global, false).await?;
    let done = read_ours(&finder, (since, until), terms, &mut spill).await;
    finder.release().await?;
    done?;
    let limit = compare.limit as usize;
    spill.finish(|trace_id, here, there| {
        if let Some(difference) = outcome.summary.add(trace_id, here, there) {
            if outcome.traces.len() < limit {
                outcome.traces.push(difference);
            } else {
                outcome.more_traces += 1;
            }
        }
    })?;
    if outcome.summary.traces == 0 {
        let unread = outcome.reasons.first().map(|reason| format!("; not all could be read: {reason}"));
        anyhow::bail!(
            "there is nothing to compare: neither side has a span from {since} to {until}{}",
            unread.unwrap_or_default()
        );
    }
    outcome.traces.sort_by(|a, b| a.trace_id.cmp(&b.trace_id));
    Ok(outcome)
}

/// Which spans, by their start. Both sides are narrowed alike.
#[derive(Debug, Clone, Copy)]
struct Range {
    since: Option<Timestamp>,
    until: Option<Timestamp>,
}

impl Range {
    /// As the arguments say. What is told in microseconds is narrowed in them.
    fn asked(compare: &Compare, terms: Terms) -> Self {
        let step = match terms {
            Terms::Otlp => 1,
            Terms::Jaeger => NANOS_PER_MICRO,
        };
        let since = compare.since.map(|since| time(unix_nanos(since.0) / step * step));
        let until = compare.until.map(|until| time(unix_nanos(until.0).div_ceil(step) * step));
        Self { since, until }
    }

    fn contains(&self, span: &SpanFacts) -> bool {
        let start = span.start_unix_nanos;
        self.since.is_none_or(|since| unix_nanos(since) <= start)
            && self.until.is_none_or(|until| start < unix_nanos(until))
    }

    /// With the first and last start of the other side where nothing was asked for.
    fn found(self, starts: Option<(u64, u64)>) -> Result<Option<(Timestamp, Timestamp)>> {
        let since = self.since.or(starts.map(|(first, _)| time(first)));
        let until = self.until.or(starts.map(|(_, last)| time(last.saturating_add(1))));
        let (Some(since), Some(until)) = (since, until) else { return Ok(None) };
        in_order(since, until).map(Some)
    }
}

/// Where one end alone was asked for, the other may lie beyond.
fn in_order(since: Timestamp, until: Timestamp) -> Result<(Timestamp, Timestamp)> {
    if since >= until {
        anyhow::bail!("there is nothing to compare: the range would begin at {since} and end at {until}");
    }
    Ok((since, until))
}

fn time(unix_nanos: u64) -> Timestamp {
    Timestamp::from_nanosecond(i128::from(unix_nanos)).unwrap_or(Timestamp::MAX)
}

/// What is stored here.
async fn read_ours(
    finder: &Finder,
    (since, until): (Timestamp, Timestamp),
    terms: Terms,
    spill: &mut Spill,
) -> Result<()> {
    let request = ExportRequest {
        since: Some(since),
        until: Some(until),
        service: None,
        signals: vec![otlp::Signal::Traces],
        encoding: Encoding::Protobuf,
    };
    let mut parts = finder.service.export(request).map_err(|error| finder.explain(error))?;
    while let Some(part) = parts.next().await.map_err(|error| finder.explain(error))? {
        let decoded = otlp::decode::<Span>(Encoding::Protobuf, &part.body).context("what is stored cannot be read")?;
        for group in &decoded.groups {
            for span in facts::of_group(group, terms) {
                spill.add(Side::Here, 0, &span)?;
            }
        }
    }
    Ok(())
}

async fn read_jaeger(url: &str, range: &mut Range, spill: &mut Spill) -> Result<()> {
    let until = *range.until.get_or_insert_with(Timestamp::now);
    let (since, until) = in_order(range.since.unwrap_or(until), until)?;
    let narrowed = *range;
    let mut answers = 0;
    let (since, until) = (unix_nanos(since) / NANOS_PER_MICRO, unix_nanos(until) / NANOS_PER_MICRO);
    let mut take = |traces: Vec<Vec<SpanFacts>>| -> Result<()> {
        answers += 1;
        for span in traces.iter().flatten().filter(|span| narrowed.contains(span)) {
            spill.add(Side::There, answers, span)?;
        }
        Ok(())
    };
    Jaeger::new(url)?.read(since, until, &mut take).await
}

/// Files are read as `import` reads them.
async fn read_files(files: &[PathBuf], range: &Range, spill: &mut Spill, outcome: &mut Outcome) -> Result<()> {
    for path in files {
        let source = match path.to_str() {
            Some("-") => Source::Stdin,
            _ => Source::File(path.clone()),
        };
        let (sender, mut receiver) = mpsc::channel(1);
        let reader = std::thread::Builder::new().name("read".to_owned());
        reader.spawn(move || read(&source, Some(otlp::Signal::Traces), &sender)).context("cannot start a thread")?;
        while let Some(met) = receiver.recv().await {
            match met {
                Met::Beginning => {}
                Met::Unreadable(reason) => outcome.miss(1, reason),
                Met::Request(FileRequest { signal: otlp::Signal::Traces, encoding, body, at, .. }) => {
                    read_request(encoding, &body, &at, range, spill, outcome)?;
                }
                Met::Request(_) => outcome.other_requests += 1,
            }
        }
    }
    Ok(())
}

fn read_request(
    encoding: Encoding,
    body: &Bytes,
    at: &str,
    range: &Range,
    spill: &mut Spill,
    outcome: &mut Outcome,
) -> Result<()> {
    let decoded = match otlp::decode::<Span>(encoding, body) {
        Ok(decoded) => decoded,
        Err(error) => {
            outcome.miss(1, format!("{at}: {error}"));
            return Ok(());
        }
    };
    for undecodable in decoded.undecodable {
        outcome.miss(undecodable.records, format!("{at}: {}: {}", undecodable.path, undecodable.reason));
    }
    for group in &decoded.groups {
        for span in facts::of_group(group, Terms::Otlp).filter(|span| range.contains(span)) {
            spill.add(Side::There, 0, &span)?;
        }
    }
    Ok(())
}

fn tell(outcome: &Outcome) -> String {
    let mut lines = Vec::new();
    for trace in &outcome.traces {
        let TraceDifference { trace_id, spans_here, spans_there, spans } = trace;
        let found = match (spans_here, spans_there) {
            (0, there) => format!("missing here, {there} spans there"),
            (here, 0) => format!("missing there, {here} spans here"),
            (here, there) => format!("{here} spans here, {there} there"),
        };
        lines.push(format!("trace {}: {found}\n", screen::clean(trace_id)));
        if *spans_here > 0 && *spans_there > 0 {
            lines.extend(spans.iter().flat_map(tell_span));
        }
    }
    if outcome.more_traces > 0 {
        lines.push(format!("and {} more traces that differ\n", outcome.more_traces));
    }
    lines.extend(tell_summary(outcome));
    lines.concat()
}

fn tell_span(span: &SpanDifference) -> Vec<String> {
    let what = match span.kind {
        Kind::MissingHere => "missing here",
        Kind::MissingThere => "missing there",
        Kind::DoubledHere => "once more here",
        Kind::DoubledThere => "once more there",
        Kind::Different => "different",
    };
    let short = |text: &str| screen::clean_short(text, VALUE_CHARACTERS);
    let value = |value: &Option<String>| value.as_ref().map_or_else(|| "nothing".to_owned(), |value| short(value));
    let mut lines = vec![format!("  span {} {}: {what}\n", screen::clean(&span.span_id), short(&span.name))];
    lines.extend(span.fields.iter().map(|field| {
        format!("    {}: here {}, there {}\n", short(&field.field), value(&field.here), value(&field.there))
    }));
    lines
}

fn tell_summary(outcome: &Outcome) -> Vec<String> {
    let Summary { traces, same_traces, spans_here, spans_there, traces_missing_here, traces_missing_there, .. } =
        &outcome.summary;
    let mut lines = vec![format!(
        "{traces} traces compared, {same_traces} are the same; {spans_here} spans here, {spans_there} there\n"
    )];
    if !outcome.summary.is_same() {
        lines.push(format!("traces missing: {traces_missing_here} here, {traces_missing_there} there\n"));
        let count = |kind| outcome.summary.spans.get(&kind).copied().unwrap_or_default();
        lines.push(format!(
            "spans missing: {} here, {} there; once more: {} here, {} there; different: {}\n",
            count(Kind::MissingHere),
            count(Kind::MissingThere),
            count(Kind::DoubledHere),
            count(Kind::DoubledThere),
            count(Kind::Different)
        ));
        let fields: Vec<String> =
            outcome.summary.fields.iter().map(|(name, count)| format!("{name} {count}")).collect();
        if !fields.is_empty() {
            lines.push(format!("fields that differ: {}\n", screen::clean(&fields.join(", "))));
        }
    }
    if outcome.other_requests > 0 {
        lines.push(format!("{} requests with metrics or logs were not compared\n", outcome.other_requests));
    }
    if outcome.unreadable > 0 {
        lines.push(format!("{} parts of the other side could not be read:\n", outcome.unreadable));
        lines.extend(outcome.reasons.iter().map(|reason| format!("  {}\n", screen::clean(reason))));
    }
    lines
}
