//! Traces as Jaeger's query API gives them (`/api/traces`), as facts in Jaeger's terms.
//!
//! Jaeger puts into tags what OTLP has fields for; they are taken out again. The shapes are those of Jaeger's
//! `internal/uimodel`. A span of a shape that is not known is an error of the answer: a span left out would look missing.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::facts::{Told, quoted, string_of_jaeger};
use super::{Facts, SpanFacts, Terms};

/// An answer of `/api/traces`.
#[derive(Debug, Deserialize)]
struct Answer {
    /// None where nothing was found.
    #[serde(default)]
    data: Option<Vec<Trace>>,
    #[serde(default)]
    errors: Option<Vec<Trouble>>,
}

/// An answer of `/api/services`.
#[derive(Debug, Deserialize)]
struct Services {
    #[serde(default)]
    data: Option<Vec<String>>,
    #[serde(default)]
    errors: Option<Vec<Trouble>>,
}

#[derive(Debug, Deserialize)]
struct Trouble {
    #[serde(default)]
    msg: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Trace {
    #[serde(default)]
    spans: Vec<Span>,
    #[serde(default)]
    processes: BTreeMap<String, Process>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Span {
    #[serde(rename = "traceID")]
    trace: String,
    #[serde(rename = "spanID")]
    id: String,
    #[serde(default)]
    operation_name: String,
    #[serde(default)]
    references: Option<Vec<Reference>>,
    /// Unix time in microseconds.
    start_time: u64,
    /// In microseconds.
    #[serde(default)]
    duration: u64,
    #[serde(default)]
    tags: Option<Vec<Tag>>,
    #[serde(default)]
    logs: Option<Vec<Log>>,
    #[serde(default, rename = "processID")]
    process: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Reference {
    ref_type: String,
    #[serde(rename = "traceID")]
    trace: String,
    #[serde(rename = "spanID")]
    span: String,
}

#[derive(Debug, Clone, Deserialize)]
struct Tag {
    key: String,
    #[serde(default, rename = "type")]
    kind: String,
    value: serde_json::Value,
}

#[derive(Debug, Deserialize)]
struct Log {
    /// Unix time in microseconds.
    timestamp: u64,
    #[serde(default)]
    fields: Vec<Tag>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Process {
    #[serde(default)]
    service_name: String,
    #[serde(default)]
    tags: Option<Vec<Tag>>,
}

/// The names in an answer of `/api/services`.
///
/// # Errors
/// Says what is wrong with the answer.
pub fn services(body: &[u8]) -> Result<Vec<String>, String> {
    let Services { data, errors } = serde_json::from_slice(body).map_err(|error| unknown(&error))?;
    no_trouble(errors)?;
    Ok(data.unwrap_or_default())
}

/// The traces in an answer of `/api/traces`, each with all of its spans.
///
/// # Errors
/// Says what is wrong with the answer.
pub fn traces(body: &[u8]) -> Result<Vec<Vec<SpanFacts>>, String> {
    let Answer { data, errors } = serde_json::from_slice(body).map_err(|error| unknown(&error))?;
    no_trouble(errors)?;
    let spans = |Trace { spans, processes }: Trace| spans.into_iter().map(|span| span.told(&processes)).collect();
    data.unwrap_or_default().into_iter().map(spans).collect()
}

fn unknown(error: &serde_json::Error) -> String {
    format!("the answer is not what Jaeger's query API answers: {error}")
}

fn no_trouble(errors: Option<Vec<Trouble>>) -> Result<(), String> {
    let texts: Vec<String> = errors.unwrap_or_default().into_iter().map(|trouble| trouble.msg).collect();
    if texts.is_empty() { Ok(()) } else { Err(texts.join("; ")) }
}

/// Ids of 64 bits are those of 128 bits that begin with zeros.
fn id(text: &str, digits: usize) -> Result<String, String> {
    let is_hex = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    if !is_hex || text.len() > digits {
        return Err(format!("an id must have up to {digits} hex digits, found {text:?}"));
    }
    Ok(format!("{:0>digits$}", text.to_ascii_lowercase()))
}

impl Span {
    fn told(self, processes: &BTreeMap<String, Process>) -> Result<SpanFacts, String> {
        let (trace_id, span_id) = (id(&self.trace, 32)?, id(&self.id, 16)?);
        let mut tags = self.tags.unwrap_or_default();
        let mut told = Told { terms: Terms::Jaeger, facts: Facts::new() };
        told.put("name", &self.operation_name);
        told.put("start_time", &self.start_time);
        told.put("duration", &self.duration);
        told.put("kind", &take_text(&mut tags, "span.kind").unwrap_or_else(|| "unspecified".to_owned()));
        told.put("trace_state", &take_text(&mut tags, "w3c.tracestate").unwrap_or_default());
        status(&mut told, &mut tags);
        let name = take_text(&mut tags, "otel.scope.name").or_else(|| take_text(&mut tags, "otel.library.name"));
        told.put("scope.name", &name.unwrap_or_default());
        let version =
            take_text(&mut tags, "otel.scope.version").or_else(|| take_text(&mut tags, "otel.library.version"));
        told.put("scope.version", &version.unwrap_or_default());
        references(&mut told, self.references.unwrap_or_default(), &trace_id)?;
        attributes(&mut told, "", tags);
        logs(&mut told, self.logs.unwrap_or_default());
        let process =
            processes.get(&self.process).ok_or_else(|| format!("span {span_id} names no process of its trace"))?;
        told.put("resource.attributes.service.name", &quoted(&process.service_name));
        attributes(&mut told, "resource.", process.tags.clone().unwrap_or_default());
        let start_unix_nanos = self.start_time.saturating_mul(1000);
        Ok(SpanFacts { trace_id, span_id, start_unix_nanos, facts: told.facts })
    }
}

/// Takes the last tag of this name out, if it is text: Jaeger adds its own behind those of the span.
fn take_text(tags: &mut Vec<Tag>, key: &str) -> Option<String> {
    let place = tags.iter().rposition(|tag| tag.key == key && tag.value.is_string())?;
    match tags.remove(place).value {
        serde_json::Value::String(text) => Some(text),
        _ => None,
    }
}

fn status(told: &mut Told, tags: &mut Vec<Tag>) {
    let code = take_text(tags, "otel.status_code").map(|code| code.to_ascii_lowercase());
    if code.as_deref() == Some("error")
        && let Some(place) = tags.iter().rposition(|tag| tag.key == "error" && tag.value == true)
    {
        tags.remove(place);
    }
    told.put("status.code", &code.unwrap_or_else(|| "unset".to_owned()));
    told.put("status.message", &take_text(tags, "otel.status_description").unwrap_or_default());
}

/// The first child-of within the trace is the parent; the others are links.
fn references(told: &mut Told, references: Vec<Reference>, trace_id: &str) -> Result<(), String> {
    let mut parent = None;
    let mut links = 0;
    for Reference { ref_type, trace, span } in references {
        let (trace, span) = (id(&trace, 32)?, id(&span, 16)?);
        if ref_type == "CHILD_OF" && parent.is_none() && trace == trace_id {
            parent = Some(span);
            continue;
        }
        told.put(format!("links[{links}].trace_id"), &trace);
        told.put(format!("links[{links}].span_id"), &span);
        links += 1;
    }
    told.put("parent_span_id", &parent.unwrap_or_default());
    Ok(())
}

fn logs(told: &mut Told, logs: Vec<Log>) {
    let named = |mut log: Log| {
        let name = log.fields.iter().position(|field| field.key == "event" && field.value.is_string());
        let name = name.map(|place| log.fields.remove(place).value);
        (log.timestamp, name.as_ref().and_then(|name| name.as_str()).unwrap_or_default().to_owned(), log.fields)
    };
    let mut events: Vec<(u64, String, Vec<Tag>)> = logs.into_iter().map(named).collect();
    events.sort_by(|a, b| (a.0, &a.1).cmp(&(b.0, &b.1)));
    for (number, (time, name, fields)) in events.into_iter().enumerate() {
        let place = format!("events[{number}].");
        told.put(format!("{place}name"), &name);
        told.put(format!("{place}time"), &time);
        attributes(told, &place, fields);
    }
}

fn attributes(told: &mut Told, place: &str, tags: Vec<Tag>) {
    for Tag { key, kind, value } in tags {
        told.put(format!("{place}attributes.{key}"), &value_text(&kind, &value));
    }
}

/// A value with its type. Integers beyond what JavaScript counts come as text.
fn value_text(kind: &str, value: &serde_json::Value) -> String {
    match (kind, value) {
        ("int64", serde_json::Value::String(text)) => text.clone(),
        ("binary", serde_json::Value::String(text)) => format!("bytes {text}"),
        ("float64", serde_json::Value::Number(number)) => {
            number.as_f64().map_or_else(|| number.to_string(), |double| format!("{double:?}"))
        }
        ("float64", serde_json::Value::String(text)) => {
            text.parse::<f64>().map_or_else(|_| quoted(text), |double| format!("{double:?}"))
        }
        (_, serde_json::Value::String(text)) => string_of_jaeger(text),
        (_, other) => other.to_string(),
    }
}
