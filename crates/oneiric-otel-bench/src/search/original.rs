//! The text format that this system started from, to compare with.
//!
//! One text a trace, numbers as they are: `shop POST /pay ERROR in 2500ms status=500 connection timeout key=value
//! operations: charge reserve`. It was compared by vectors alone, and so it is here: exactly, in memory.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt::Write as _;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use oneiric_otel::embed::Embedder;
use oneiric_otel::query::TraceId;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use prost::Message as _;

/// Texts of one call of the model.
const AT_ONCE: usize = 64;
/// Characters that can matter: the model reads 256 word pieces.
const CHARACTERS: usize = 4000;

/// What is known of a trace while its spans come.
#[derive(Debug, Default)]
struct Told {
    root: Option<(u64, String, String)>,
    start: u64,
    end: u64,
    failed: bool,
    status_code: Option<i64>,
    error: Option<String>,
    attributes: BTreeSet<String>,
    operations: BTreeSet<(u64, String)>,
}

/// The traces of requests, told in the original form.
#[derive(Debug, Default)]
pub(super) struct Originals {
    traces: HashMap<[u8; 16], Told>,
}

/// Distinct texts with their traces and vectors.
pub(super) struct Texts {
    texts: Vec<(String, Vec<TraceId>, Vec<f32>)>,
}

impl Originals {
    /// Takes in the spans of a request.
    pub(super) fn add(&mut self, request: &[u8]) -> Result<()> {
        for of_resource in ExportTraceServiceRequest::decode(request)?.resource_spans {
            let attributes = of_resource.resource.map(|resource| resource.attributes).unwrap_or_default();
            let service = string(&attributes, "service.name").unwrap_or_default();
            for span in of_resource.scope_spans.into_iter().flat_map(|scope| scope.spans) {
                let Ok(id) = span.trace_id.as_slice().try_into() else { continue };
                self.traces.entry(id).or_default().add(&service, span);
            }
        }
        Ok(())
    }

    /// Embeds each distinct text.
    pub(super) async fn embed(self, embedder: &Arc<dyn Embedder>) -> Result<Texts> {
        let mut traces: BTreeMap<String, Vec<TraceId>> = BTreeMap::new();
        for (id, told) in self.traces {
            traces.entry(told.text()).or_default().push(TraceId(id));
        }
        let mut texts = Vec::with_capacity(traces.len());
        let mut rest = traces.into_iter().peekable();
        while rest.peek().is_some() {
            let part: Vec<(String, Vec<TraceId>)> = rest.by_ref().take(AT_ONCE).collect();
            let words: Vec<String> = part.iter().map(|(text, _)| text.clone()).collect();
            let vectors = embed(embedder, words).await?;
            texts.extend(part.into_iter().zip(vectors).map(|((text, traces), vector)| (text, traces, vector)));
        }
        Ok(Texts { texts })
    }
}

impl Told {
    fn add(&mut self, service: &str, span: Span) {
        let began = span.start_time_unix_nano;
        self.start = if self.start == 0 { began } else { self.start.min(began) };
        self.end = self.end.max(span.end_time_unix_nano);
        let is_root = span.parent_span_id.is_empty();
        if is_root && self.root.as_ref().is_none_or(|(start, ..)| began < *start) {
            self.root = Some((began, service.to_owned(), span.name.clone()));
        }
        for key in ["http.response.status_code", "http.status_code"] {
            let code = span.attributes.iter().find(|attribute| attribute.key == key).and_then(|attribute| {
                match attribute.value.as_ref()?.value.as_ref()? {
                    Value::IntValue(code) => Some(*code),
                    _ => None,
                }
            });
            self.status_code = code.max(self.status_code);
        }
        if let Some(status) = span.status.filter(|status| status.code() == StatusCode::Error) {
            self.failed = true;
            let thrown = span.events.iter().find_map(|event| {
                Some(format!(
                    "{} {}",
                    string(&event.attributes, "exception.type")?,
                    string(&event.attributes, "exception.message").unwrap_or_default()
                ))
            });
            let message = Some(status.message).filter(|message| !message.is_empty()).or(thrown);
            self.error = self.error.take().or(message);
        }
        for attribute in &span.attributes {
            if let Some(AnyValue { value: Some(Value::StringValue(value)) }) = &attribute.value {
                self.attributes.insert(format!(
                    "{}={}",
                    attribute.key,
                    value.chars().take(CHARACTERS).collect::<String>()
                ));
            }
        }
        self.operations.insert((began, span.name));
    }

    fn text(&self) -> String {
        let none = (0, String::new(), String::new());
        let (_, service, operation) = self.root.as_ref().unwrap_or(&none);
        let milliseconds = self.end.saturating_sub(self.start) / 1_000_000;
        let status = if self.failed { "ERROR" } else { "OK" };
        let mut text = format!("{service} {operation} {status} in {milliseconds}ms");
        if let Some(code) = self.status_code {
            write!(text, " status={code}").unwrap_or_default(); // Writing to a string cannot fail.
        }
        if let Some(error) = &self.error {
            write!(text, " {error}").unwrap_or_default();
        }
        for attribute in &self.attributes {
            write!(text, " {attribute}").unwrap_or_default();
        }
        text.push_str(" operations:");
        let mut seen = HashSet::new();
        for (_, operation) in self.operations.iter().filter(|(_, operation)| seen.insert(operation.clone())) {
            write!(text, " {operation}").unwrap_or_default();
        }
        text.chars().take(CHARACTERS).collect()
    }
}

impl Texts {
    /// The traces of each distinct text, in order of the text.
    pub(super) fn traces(&self) -> impl Iterator<Item = &[TraceId]> {
        self.texts.iter().map(|(_, traces, _)| traces.as_slice())
    }

    /// The positions of all texts, nearest to the question first; equally near ones in order of the text.
    pub(super) async fn rank(&self, embedder: &Arc<dyn Embedder>, question: &str) -> Result<Vec<usize>> {
        let vector = embed(embedder, vec![question.to_owned()]).await?.pop().context("the model gave no vector")?;
        Ok(self.nearest(&vector))
    }

    /// As [`Self::rank`], for a text of the list, which is left out.
    pub(super) fn rank_like(&self, text: usize) -> Vec<usize> {
        let ranked = self.texts.get(text).map(|(.., vector)| self.nearest(vector)).unwrap_or_default();
        ranked.into_iter().filter(|other| *other != text).collect()
    }

    fn nearest(&self, vector: &[f32]) -> Vec<usize> {
        let cosine = |other: &[f32]| vector.iter().zip(other).map(|(a, b)| a * b).sum::<f32>();
        let mut ranked: Vec<(f32, usize)> =
            self.texts.iter().enumerate().map(|(place, (.., other))| (cosine(other), place)).collect();
        ranked.sort_by(|(a, a_place), (b, b_place)| b.total_cmp(a).then(a_place.cmp(b_place)));
        ranked.into_iter().map(|(_, place)| place).collect()
    }
}

/// The vectors of texts, computed where they hold up no other task.
pub(super) async fn embed(embedder: &Arc<dyn Embedder>, texts: Vec<String>) -> Result<Vec<Vec<f32>>> {
    let embedder = Arc::clone(embedder);
    let vectors = tokio::task::spawn_blocking(move || {
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        embedder.embed(&texts)
    });
    Ok(vectors.await??)
}

fn string(attributes: &[KeyValue], key: &str) -> Option<String> {
    let attribute = attributes.iter().find(|attribute| attribute.key == key)?;
    match attribute.value.as_ref()?.value.as_ref()? {
        Value::StringValue(text) => Some(text.clone()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_is_told_as_the_original_did() {
        let span = |id: u8, parent: &[u8], name: &str, start: u64, end: u64| Span {
            span_id: vec![id; 8],
            parent_span_id: parent.to_vec(),
            name: name.to_owned(),
            start_time_unix_nano: start * 1_000_000,
            end_time_unix_nano: end * 1_000_000,
            ..Span::default()
        };
        let mut told = Told::default();
        let mut failed = span(2, &[1; 8], "charge", 20, 30);
        failed.status = Some(opentelemetry_proto::tonic::trace::v1::Status {
            code: StatusCode::Error.into(),
            message: "connection timeout".to_owned(),
        });
        let value = Some(AnyValue { value: Some(Value::IntValue(500)) });
        failed.attributes = vec![KeyValue { key: "http.status_code".to_owned(), value, ..KeyValue::default() }];
        told.add("payment", failed);
        told.add("shop", span(1, &[], "POST /pay", 10, 2510));
        assert_eq!(
            told.text(),
            "shop POST /pay ERROR in 2500ms status=500 connection timeout operations: POST /pay charge"
        );
    }
}
