//! The messages of an agent's run: what was asked, answered, and passed to tools.
//!
//! Contents come in four dialects: lists of messages in one attribute (OpenTelemetry), numbered attributes
//! (OpenInference, OpenLLMetry), plain input and output values, and events. System prompts are left out and results of
//! tools kept short: they are long, repeat from run to run, and drown what the run was about.

use std::collections::{BTreeMap, HashSet};

use serde_json::{Map, Value};

use super::normal::{mask, mask_ids};
use super::{Attributes, MAX_TEXT_CHARACTERS, Story};

/// Word pieces of one text by [`estimate_pieces`]: the model reads 256, and the estimate may be a little low.
const CHUNK_PIECES: usize = 220;
/// Word pieces that a part repeats of the one before, so that what a cut divides stands whole in one of them.
const OVERLAP_PIECES: usize = 50;
/// Characters of one message that are read, and of a tool's result.
const MESSAGE_CHARACTERS: usize = 20_000;
const TOOL_RESULT_CHARACTERS: usize = 300;
/// Nesting of JSON that is looked into.
const MAX_DEPTH: usize = 8;

/// Attributes that hold a list of messages as JSON, and what hold one content. The side tells who speaks.
const LISTS: &[&str] = &["gen_ai.input.messages", "gen_ai.output.messages"];
const CONTENTS: &[(&str, Role)] = &[
    ("gen_ai.prompt", Role::User),
    ("gen_ai.completion", Role::Assistant),
    ("gen_ai.tool.call.arguments", Role::Assistant),
    ("gen_ai.tool.call.result", Role::Tool),
    ("input.value", Role::User),
    ("output.value", Role::Assistant),
    ("traceloop.entity.input", Role::User),
    ("traceloop.entity.output", Role::Assistant),
    ("message.content", Role::Assistant),
    ("content", Role::Assistant),
];
/// Prefixes of numbered attributes such as `gen_ai.prompt.0.content`.
const NUMBERED: &[&str] = &["gen_ai.prompt.", "gen_ai.completion.", "llm.input_messages.", "llm.output_messages."];

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Role {
    System,
    User,
    Assistant,
    Tool,
}

impl Role {
    fn of(name: &str) -> Self {
        match name.to_lowercase().as_str() {
            "system" | "developer" => Self::System,
            "user" | "human" => Self::User,
            "tool" | "function" => Self::Tool,
            _ => Self::Assistant,
        }
    }
}

struct Message {
    role: Role,
    content: String,
}

/// One text per message, long ones in several parts, each under the name of its agent, tool or operation.
pub(super) fn messages(story: &Story<'_>) -> Vec<String> {
    let mut texts = Vec::new();
    let mut seen = HashSet::new();
    for &step in &story.outline.agent_steps {
        let Some(details) = story.details.get(&step) else { continue };
        let who = details
            .text("gen_ai.agent.name")
            .or_else(|| details.text("gen_ai.tool.name"))
            .unwrap_or_else(|| story.spans[step].name.to_string());
        let who: String = mask(&who).chars().take(80).collect();
        for message in read(details) {
            if message.role == Role::System {
                continue;
            }
            let limit = if message.role == Role::Tool { TOOL_RESULT_CHARACTERS } else { MESSAGE_CHARACTERS };
            let content: String = mask_ids(&message.content).chars().take(limit).collect();
            // Every call repeats the conversation so far.
            if content.chars().count() < 3 || !seen.insert(content.clone()) {
                continue;
            }
            let who = if message.role == Role::User { "user" } else { who.as_str() };
            texts.extend(chunks(&content).into_iter().map(|chunk| format!("{who}: {chunk}")));
        }
    }
    texts
}

fn read(details: &Attributes) -> Vec<Message> {
    let mut messages = Vec::new();
    for list in LISTS {
        if let Some(value) = details.values.get(*list) {
            read_list(value, &mut messages);
        }
    }
    for prefix in NUMBERED {
        read_numbered(&details.values, prefix, &mut messages);
    }
    let mut contents_only = messages.is_empty();
    for (name, attributes) in &details.events {
        let before = messages.len();
        read_event(name, attributes, &mut messages);
        contents_only &= messages.len() == before;
    }
    // Plain values repeat the messages in one lump, so they count only where there are no messages.
    if contents_only {
        for (key, role) in CONTENTS {
            if let Some(value) = details.values.get(*key) {
                push(&mut messages, *role, value);
            }
        }
    }
    messages
}

fn read_list(value: &Value, messages: &mut Vec<Message>) {
    let parsed;
    let value = match value {
        Value::String(text) => {
            parsed = serde_json::from_str(text).unwrap_or(Value::Null);
            &parsed
        }
        other => other,
    };
    let Value::Array(list) = value else { return };
    for message in list {
        let Value::Object(message) = message else { continue };
        let role = message.get("role").and_then(Value::as_str).map_or(Role::Assistant, Role::of);
        match message.get("parts").or_else(|| message.get("content")) {
            Some(Value::Array(parts)) => {
                for part in parts {
                    let kind = part.get("type").and_then(Value::as_str).unwrap_or_default();
                    let role =
                        if kind.contains("tool_call_response") || kind == "tool_result" { Role::Tool } else { role };
                    push(messages, role, part);
                }
            }
            Some(content) => push(messages, role, content),
            None => push(messages, role, &Value::Object(message.clone())),
        }
    }
}

fn read_numbered(values: &Map<String, Value>, prefix: &str, messages: &mut Vec<Message>) {
    let mut roles: BTreeMap<u32, Role> = BTreeMap::new();
    let mut contents: BTreeMap<u32, Vec<&Value>> = BTreeMap::new();
    for (key, value) in values {
        let Some((number, field)) = key.strip_prefix(prefix).and_then(|rest| rest.split_once('.')) else { continue };
        let Ok(number) = number.parse::<u32>() else { continue };
        let field = field.strip_prefix("message.").unwrap_or(field);
        if field == "role" {
            roles.insert(number, Role::of(value.as_str().unwrap_or_default()));
        } else if field == "content" || field.ends_with("arguments") || field.rsplit('.').next() == Some("text") {
            contents.entry(number).or_default().push(value);
        }
    }
    let spoken = if prefix.contains("prompt") || prefix.contains("input") { Role::User } else { Role::Assistant };
    for (number, values) in contents {
        for value in values {
            push(messages, roles.get(&number).copied().unwrap_or(spoken), value);
        }
    }
}

fn read_event(name: &str, attributes: &Map<String, Value>, messages: &mut Vec<Message>) {
    let role = match name {
        "gen_ai.system.message" => Role::System,
        "gen_ai.tool.message" => Role::Tool,
        _ if name.contains("user") || name.contains("prompt") || name.contains("input") => Role::User,
        _ => Role::Assistant,
    };
    if name == "exception" {
        return;
    }
    for list in LISTS {
        if let Some(value) = attributes.get(*list) {
            read_list(value, messages);
        }
    }
    for key in [
        "content",
        "gen_ai.event.content",
        "gen_ai.prompt",
        "gen_ai.completion",
        "message",
        "input",
        "response",
        "output",
    ] {
        if let Some(value) = attributes.get(key) {
            push(messages, role, value);
        }
    }
}

fn push(messages: &mut Vec<Message>, role: Role, value: &Value) {
    let mut content = String::new();
    plain(value, MAX_DEPTH, &mut content);
    if !content.trim().is_empty() {
        messages.push(Message { role, content });
    }
}

/// The readable strings inside a value, also of JSON inside a string.
fn plain(value: &Value, depth: usize, out: &mut String) {
    if depth == 0 || out.len() > MESSAGE_CHARACTERS * 4 {
        return;
    }
    match value {
        Value::String(text) => {
            if text.trim_start().starts_with(['{', '['])
                && let Ok(inner @ (Value::Object(_) | Value::Array(_))) = serde_json::from_str(text)
            {
                plain(&inner, depth - 1, out);
                return;
            }
            if !out.is_empty() {
                out.push(' ');
            }
            out.push_str(text);
        }
        Value::Array(values) => values.iter().for_each(|value| plain(value, depth - 1, out)),
        Value::Object(values) => {
            for (key, value) in values {
                if !matches!(key.as_str(), "type" | "id" | "role" | "tool_call_id" | "mime_type" | "finish_reason") {
                    plain(value, depth - 1, out);
                }
            }
        }
        Value::Number(number) => {
            if !out.is_empty() {
                out.push(' ');
            }
            out.push_str(&number.to_string());
        }
        Value::Bool(_) | Value::Null => {}
    }
}

/// Cuts between words so that no part is longer than the model reads. Each part begins with the end of the one before.
fn chunks(content: &str) -> Vec<String> {
    let words: Vec<(&str, usize)> = content.split(' ').map(|word| (word, estimate_pieces(word))).collect();
    let mut chunks = Vec::new();
    let mut from = 0;
    while from < words.len() {
        let to = from + fitting(words[from..].iter(), CHUNK_PIECES, MAX_TEXT_CHARACTERS - 100).max(1);
        chunks.push(words[from..to].iter().map(|(word, _)| *word).collect::<Vec<_>>().join(" "));
        if to == words.len() {
            break;
        }
        let repeated = fitting(words[from..to].iter().rev(), OVERLAP_PIECES, MAX_TEXT_CHARACTERS / 4);
        from = (to - repeated).max(from + 1);
    }
    chunks
}

/// How many of the words fit.
fn fitting<'a>(words: impl Iterator<Item = &'a (&'a str, usize)>, pieces: usize, bytes: usize) -> usize {
    let (mut pieces_left, mut bytes_left) = (pieces, bytes);
    let fits = |(word, more): &&(&str, usize)| {
        let room = *more <= pieces_left && word.len() < bytes_left;
        if room {
            pieces_left -= more;
            bytes_left -= word.len() + 1;
        }
        room
    };
    words.take_while(fits).count()
}

/// About how many word pieces the model makes of a word.
fn estimate_pieces(word: &str) -> usize {
    let mut pieces = 0;
    let mut letters = 0;
    for character in word.chars() {
        if character.is_ascii_alphabetic() {
            letters += 1;
            // Whole words are one piece up to a length; rare ones fall apart into bits of about four letters.
            if letters == 1 || letters == 9 || (letters > 9 && letters % 4 == 1) {
                pieces += 1;
            }
        } else {
            letters = 0;
            pieces += 1;
        }
    }
    pieces
}
