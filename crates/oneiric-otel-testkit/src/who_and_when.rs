//! The Who&When recordings: 126 failed runs of agents that work together, as traces.
//!
//! A run is a trace of the service `who-and-when`: a root span `invoke_workflow` and below it one span for each message,
//! in order, named after the agent that wrote it. The message is in `gen_ai.output.messages`, as instrumentations write
//! it: JSON with role and parts. Times are made up (the recordings have none): every message takes two seconds, every
//! run begins an hour after the one before. Ids are hashes of the run's file name and the message's number.
//!
//! Nothing that the annotators or the benchmark know is in the traces: not who failed nor where nor why, nor the right
//! answer. That is in the [`labels`]; in three of them (14, 15, 59) the step is not one of the agent they blame. The
//! texts contain benchmark questions: they must stay out of training data.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};
use prost::Message as _;
use serde::Deserialize;

use crate::otlp::{attribute, resource};

/// The folder of this data set in the shared data.
pub const FOLDER: &str = "labelled/who-and-when";
/// Runs, each a trace.
pub const RUNS: usize = 126;
/// Messages of all runs. Each is a span; with the root spans there are `MESSAGES + RUNS` spans.
pub const MESSAGES: usize = 1_099;

const SUBSET: &str = "Algorithm-Generated";
/// 2025-01-01T00:00:00Z.
const FIRST_RUN_NANOS: u64 = 1_735_689_600_000_000_000;
const RUN_STEP_NANOS: u64 = 3_600_000_000_000;
const MESSAGE_NANOS: u64 = 2_000_000_000;

/// What annotators found out about a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Label {
    /// The run's file name, such as `17.json`.
    pub file: String,
    /// The trace of the run.
    pub trace_id: [u8; 16],
    /// The agent that made the decisive mistake.
    pub mistake_agent: String,
    /// The number of its message, from 0.
    pub mistake_step: usize,
    /// The span of that message.
    pub mistake_span_id: [u8; 8],
    /// The mistake in the annotators' words: a natural query whose answer is this run.
    pub mistake_reason: String,
    /// The question the agents were asked.
    pub question: String,
}

#[derive(Deserialize)]
struct Run {
    history: Vec<Entry>,
}

#[derive(Deserialize)]
struct Entry {
    name: String,
    role: String,
    content: String,
}

/// The runs as encoded `ExportTraceServiceRequest`s, one a run, in the order of their numbers. `dir` is the folder with
/// `labels.tsv`.
///
/// # Errors
/// An unreadable file, named; the runs after it still come.
pub fn traces(dir: &Path) -> impl Iterator<Item = Result<Bytes>> + Send + use<> {
    let (files, failure) = match files(dir) {
        Ok(files) => (files, None),
        Err(error) => (Vec::new(), Some(Err(error))),
    };
    let requests = files.into_iter().enumerate().map(|(number, path)| {
        read_run(&path, number)
            .with_context(|| path.display().to_string())
            .map(|request| request.encode_to_vec().into())
    });
    failure.into_iter().chain(requests)
}

/// The labels of all runs, in the order of the file.
///
/// # Errors
/// An unreadable file or line, named.
pub fn labels(dir: &Path) -> Result<Vec<Label>> {
    let path = dir.join("labels.tsv");
    let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let mut labels = Vec::new();
    for (index, line) in text.lines().enumerate().skip(1) {
        // The only quotes in the file are part of the texts.
        let columns: Vec<&str> = line.split('\t').collect();
        let [subset, file, _steps, agent, step, reason, question] = columns[..] else {
            anyhow::bail!("{}, line {}: {} columns instead of 7", path.display(), index + 1, columns.len());
        };
        ensure!(subset == SUBSET, "{}, line {}: unknown subset {subset}", path.display(), index + 1);
        let mistake_step: usize =
            step.parse().with_context(|| format!("{}, line {}: mistake_step {step}", path.display(), index + 1))?;
        labels.push(Label {
            file: file.to_owned(),
            trace_id: trace_id(file),
            mistake_agent: agent.to_owned(),
            mistake_step,
            mistake_span_id: span_id(file, Some(mistake_step)),
            mistake_reason: reason.to_owned(),
            question: question.to_owned(),
        });
    }
    Ok(labels)
}

/// The runs' files by number.
fn files(dir: &Path) -> Result<Vec<PathBuf>> {
    let dir = dir.join(SUBSET);
    let mut numbered = Vec::new();
    for entry in std::fs::read_dir(&dir).with_context(|| dir.display().to_string())? {
        let path = entry?.path();
        let number = path.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| stem.parse::<u32>().ok());
        let number = number.with_context(|| format!("{}: not the number of a run", path.display()))?;
        numbered.push((number, path));
    }
    numbered.sort();
    Ok(numbered.into_iter().map(|(_, path)| path).collect())
}

fn read_run(path: &Path, number: usize) -> Result<ExportTraceServiceRequest> {
    let file = path.file_name().and_then(|name| name.to_str()).context("the name is not text")?;
    let run: Run = serde_json::from_slice(&std::fs::read(path)?)?;
    let start = FIRST_RUN_NANOS + number as u64 * RUN_STEP_NANOS;
    let root = Span {
        trace_id: trace_id(file).to_vec(),
        span_id: span_id(file, None).to_vec(),
        name: "invoke_workflow".to_owned(),
        kind: SpanKind::Internal.into(),
        start_time_unix_nano: start,
        end_time_unix_nano: start + run.history.len() as u64 * MESSAGE_NANOS,
        attributes: vec![attribute("gen_ai.operation.name", "invoke_workflow")],
        ..Span::default()
    };
    let mut spans = Vec::with_capacity(run.history.len() + 1);
    for (step, entry) in run.history.into_iter().enumerate() {
        let message = serde_json::json!([{
            "role": entry.role,
            "parts": [{"type": "text", "content": entry.content}],
        }]);
        let start = start + step as u64 * MESSAGE_NANOS;
        spans.push(Span {
            trace_id: root.trace_id.clone(),
            span_id: span_id(file, Some(step)).to_vec(),
            parent_span_id: root.span_id.clone(),
            name: entry.name.clone(),
            kind: SpanKind::Internal.into(),
            start_time_unix_nano: start,
            end_time_unix_nano: start + MESSAGE_NANOS,
            attributes: vec![
                attribute("gen_ai.operation.name", "invoke_agent"),
                attribute("gen_ai.agent.name", entry.name),
                attribute("gen_ai.output.messages", message.to_string()),
            ],
            ..Span::default()
        });
    }
    spans.insert(0, root);
    let resource_spans = ResourceSpans {
        resource: Some(resource(vec![attribute("service.name", "who-and-when")])),
        scope_spans: vec![ScopeSpans { spans, ..ScopeSpans::default() }],
        ..ResourceSpans::default()
    };
    Ok(ExportTraceServiceRequest { resource_spans: vec![resource_spans] })
}

fn trace_id(file: &str) -> [u8; 16] {
    let mut id = [0; 16];
    blake3::Hasher::new().update(format!("{SUBSET}/{file}").as_bytes()).finalize_xof().fill(&mut id);
    id
}

/// The span of a message, or the root span.
fn span_id(file: &str, step: Option<usize>) -> [u8; 8] {
    let part = step.map_or_else(|| "root".to_owned(), |step| step.to_string());
    let mut id = [0; 8];
    blake3::Hasher::new().update(format!("{SUBSET}/{file}#{part}").as_bytes()).finalize_xof().fill(&mut id);
    id
}

#[cfg(test)]
mod tests {
    use std::collections::{HashMap, HashSet};

    use super::*;
    use crate::data::shared_data_for;

    #[test]
    fn every_run_is_a_trace_and_every_label_points_into_one() -> Result<()> {
        let Some(dir) = shared_data_for("who-and-when", FOLDER) else { return Ok(()) };
        let requests = traces(&dir).collect::<Result<Vec<_>>>()?;
        assert_eq!(requests.len(), RUNS);
        assert_eq!(requests, traces(&dir).collect::<Result<Vec<_>>>()?);
        let mut spans: HashMap<(Vec<u8>, Vec<u8>), String> = HashMap::new();
        let mut trace_ids = HashSet::new();
        for request in requests {
            for resource_spans in ExportTraceServiceRequest::decode(request)?.resource_spans {
                for span in resource_spans.scope_spans.into_iter().flat_map(|scope| scope.spans) {
                    trace_ids.insert(span.trace_id.clone());
                    assert!(span.status.is_none());
                    spans.insert((span.trace_id, span.span_id), span.name);
                }
            }
        }
        assert_eq!((trace_ids.len(), spans.len()), (RUNS, MESSAGES + RUNS));
        let labels = labels(&dir)?;
        assert_eq!(labels.len(), RUNS);
        let mut inconsistent = Vec::new();
        for label in labels {
            assert!(!label.mistake_reason.is_empty() && !label.question.is_empty());
            match spans.get(&(label.trace_id.to_vec(), label.mistake_span_id.to_vec())) {
                Some(agent) if *agent == label.mistake_agent => {}
                Some(_another) => inconsistent.push(label.file),
                None => panic!("{}: there is no step {}", label.file, label.mistake_step),
            }
        }
        assert_eq!(inconsistent, ["14.json", "15.json", "59.json"]);
        Ok(())
    }

    #[test]
    fn a_missing_folder_is_named() {
        let items: Vec<String> = traces(Path::new("nowhere")).map(|item| format!("{item:#?}")).collect();
        assert_eq!(items.len(), 1);
        assert!(items[0].contains("nowhere/Algorithm-Generated"), "{}", items[0]);
        assert!(labels(Path::new("nowhere")).is_err());
    }
}
