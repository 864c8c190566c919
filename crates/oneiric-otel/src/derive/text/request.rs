//! The sentence about a whole trace.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use super::normal::{duration, line, mask, words};
use super::{Attributes, Story, failure};
use crate::derive::trace::{LogFact, SpanFact};

/// Characters of an error message in a sentence.
const MESSAGE_CHARACTERS: usize = 240;
/// Distinct log lines in a sentence, and characters of each.
const LOG_LINES: usize = 4;
const LOG_CHARACTERS: usize = 200;
/// Characters that the list of operations of a healthy trace may take.
const OPERATIONS_CHARACTERS: usize = 500;
/// From here on a duration is worth telling in a trace that failed, and is called slow in one that did not.
const SLOW_NS: u64 = 1_000_000_000;

/// Says who failed and because of what; of a healthy trace what was done.
pub(super) fn sentence(story: &Story<'_>) -> String {
    let mut text = match story.outline.cause {
        Some(cause) => failing(story, cause),
        None if story.logs.is_empty() => return healthy(story),
        None => String::new(),
    };
    if text.is_empty() && !story.logs.iter().any(LogFact::is_error) {
        // Warnings alone are often of every request: what they warn of comes second.
        push_request(&mut text, story);
        push_logs(&mut text, story.logs);
    } else {
        push_logs(&mut text, story.logs);
        push_request(&mut text, story);
    }
    push_agents(&mut text, story);
    text
}

fn failing(story: &Story<'_>, cause: usize) -> String {
    let none = Attributes::default();
    let span = &story.spans[cause];
    let details = story.details.get(&cause).unwrap_or(&none);
    let mut text = mask(&span.service);
    let callee = story.outline.callee.map(|callee| mask(&story.spans[callee].service));
    match target(span, details, callee) {
        Some(target) => write!(text, " failed calling {target}"),
        None => write!(text, " failed in {}", short(&words(&span.name), 120)),
    }
    .unwrap_or_default(); // Writing to a string cannot fail.
    let reasons = reasons(span, details);
    if !reasons.is_empty() {
        text.push_str(": ");
        text.push_str(&reasons.join(", "));
    }
    text.push('.');
    let kind = span.error_type.as_deref().filter(|kind| *kind != "_OTHER" && kind.parse::<i64>().is_err());
    let message = span.message().map(|message| short(&line(message), MESSAGE_CHARACTERS));
    let message = match (kind.map(words), message) {
        (Some(kind), Some(message)) if !message.contains(&kind) => format!("{kind}: {message}"),
        (_, Some(message)) => message,
        (Some(kind), None) => kind,
        (None, None) => return text,
    };
    push_part(&mut text, &message);
    if !text.ends_with(['.', '!', '?']) {
        text.push('.');
    }
    text
}

/// What a failing span was calling, with the words of its convention.
fn target(span: &SpanFact, details: &Attributes, callee: Option<String>) -> Option<String> {
    let peer = details.text("service.peer.name").map(|peer| mask(&peer)).or(callee).or_else(|| {
        (&*span.kind == "client").then(|| details.text("server.address")).flatten().and_then(|host| host_name(&host))
    });
    if let Some(system) = details.text("db.system.name") {
        let mut text = format!("the {} database", mask(&system));
        if let Some(collection) = details.text("db.collection.name").or_else(|| details.text("db.namespace")) {
            write!(text, " {}", short(&mask(&collection), 60)).unwrap_or_default();
        }
        if let Some(operation) = details.text("db.operation.name") {
            write!(text, " ({})", short(&mask(&operation), 40)).unwrap_or_default();
        }
        return Some(text);
    }
    if let Some(system) = details.text("messaging.system") {
        let mut text = format!("the {} message queue", mask(&system));
        if let Some(destination) = details.text("messaging.destination.name") {
            write!(text, " {}", short(&mask(&destination), 60)).unwrap_or_default();
        }
        return Some(text);
    }
    if let Some(tool) = details.text("gen_ai.tool.name") {
        return Some(format!("the tool {}", short(&mask(&tool), 60)));
    }
    if let Some(model) = details.text("gen_ai.request.model") {
        let provider = details.text("gen_ai.provider.name").map(|provider| format!(" of {}", mask(&provider)));
        return Some(format!("the language model {}{}", short(&model, 60), provider.unwrap_or_default()));
    }
    let outgoing = matches!(&*span.kind, "client" | "producer");
    match peer {
        Some(peer) if outgoing => Some(format!("{peer} ({})", short(&words(&span.name), 100))),
        _ => None,
    }
}

/// A host's name without its port; `None` for a bare address, which tells nothing.
fn host_name(host: &str) -> Option<String> {
    let name = mask(host);
    name.contains(char::is_alphabetic).then(|| short(&name, 80))
}

fn reasons(span: &SpanFact, details: &Attributes) -> Vec<String> {
    let mut reasons = Vec::new();
    let http = details.integer("http.response.status_code").or(span.http_status.map(i64::from));
    reasons.extend(http.and_then(failure::http));
    let grpc = details.text("rpc.status_code").and_then(|status| failure::grpc(&status));
    reasons.extend(grpc.map(str::to_owned));
    let code = details.text("db.response.status_code").or_else(|| span.error_type.clone());
    let state = code.filter(|_| details.get("db.system.name").is_some()).and_then(|code| failure::sqlstate(&code));
    reasons.extend(state.map(str::to_owned));
    let error = format!("{} {}", span.error_type.as_deref().unwrap_or_default(), span.message().unwrap_or_default());
    for words in failure::signs(&error) {
        // "timed out" need not be said twice because both the code and the message say it.
        let first = words.split(',').next().unwrap_or(words);
        if !reasons.iter().any(|reason| reason.contains(first)) {
            reasons.push(words.to_owned());
        }
    }
    reasons
}

fn push_logs(text: &mut String, logs: &[LogFact]) {
    let mut said = BTreeSet::new();
    for log in logs {
        if said.len() == LOG_LINES {
            break;
        }
        let whole = match (&log.exception_type, &log.exception_message) {
            (Some(kind), Some(message)) => format!("{kind}: {message}"),
            (Some(kind), None) => format!("{kind}: {}", log.body),
            (None, Some(message)) => message.clone(),
            (None, None) => log.body.clone(),
        };
        let line = short(&line(&whole), LOG_CHARACTERS);
        if line.is_empty() || text.contains(&line) || !said.insert(line.clone()) {
            continue;
        }
        let service = mask(&log.service);
        let verb = if log.is_error() { "reports an error" } else { "warns" };
        let signs = match failure::signs(&line).first() {
            Some(signs) if !text.contains(signs) => format!(" ({signs})"),
            _ => String::new(),
        };
        push_part(text, &format!("{service} {verb}{signs}: {line}."));
    }
}

/// The request that it happened in.
fn push_request(text: &mut String, story: &Story<'_>) {
    let root = &story.spans[story.outline.root];
    let elapsed = story.summary.duration_ns.unsigned_abs();
    let mut part = format!("Request {}", entry(story));
    let failed = story.summary.error_count > 0;
    if failed {
        part.push_str(if root.failed() { " failed" } else { " went on" });
    }
    if elapsed >= SLOW_NS {
        write!(part, " {} {}", if failed { "after" } else { "took" }, duration(elapsed)).unwrap_or_default();
        push_slowest(&mut part, story);
    }
    part.push('.');
    push_part(text, &part);
}

/// Service and name of the root; where that name says nothing, such as `/*`, also the first that does.
fn entry(story: &Story<'_>) -> String {
    let root = &story.spans[story.outline.root];
    let mut entry = format!("{} {}", mask(&root.service), short(&words(&root.name), 120));
    let first = story.spans.iter().find(|span| says_something(&span.name) && span.service != root.service);
    if let Some(span) = first.filter(|_| !says_something(&root.name)) {
        write!(entry, " to {} {}", mask(&span.service), short(&words(&span.name), 100)).unwrap_or_default();
    }
    entry
}

/// Whether a name is more than a method and signs.
fn says_something(name: &str) -> bool {
    name.split(|c: char| !c.is_alphabetic()).filter(|word| !word.is_empty()).any(|word| {
        !["http", "get", "post", "put", "patch", "delete", "head", "options"].contains(&word.to_lowercase().as_str())
    })
}

fn push_slowest(part: &mut String, story: &Story<'_>) {
    if let Some(slowest) = &story.outline.slowest {
        let span = &story.spans[slowest.span];
        write!(part, ", most of it in {} {}", mask(&span.service), short(&words(&span.name), 100)).unwrap_or_default();
        if let Some(callee) = slowest.callee {
            write!(part, " calling {}", mask(&story.spans[callee].service)).unwrap_or_default();
        }
    }
}

fn healthy(story: &Story<'_>) -> String {
    let none = Attributes::default();
    let root = &story.spans[story.outline.root];
    let details = story.details.get(&story.outline.root).unwrap_or(&none);
    let elapsed = story.summary.duration_ns.unsigned_abs();
    let root_name = words(&root.name);
    let mut text = entry(story);
    let route = details.text("http.route").map(|route| mask(route.split('?').next().unwrap_or_default()));
    if let Some(route) = route.filter(|route| !root_name.contains(route)) {
        write!(text, " {}", short(&route, 80)).unwrap_or_default();
    }
    if elapsed >= SLOW_NS {
        write!(text, " was slow, took {}", duration(elapsed)).unwrap_or_default();
        push_slowest(&mut text, story);
    } else {
        write!(text, " succeeded in {}", duration(elapsed)).unwrap_or_default();
    }
    text.push('.');
    push_agents(&mut text, story);
    let mut operations: BTreeSet<String> =
        story.spans.iter().filter(|span| says_something(&span.name)).map(|span| words(&span.name)).collect();
    operations.remove(&root_name);
    let mut listed = String::new();
    for operation in operations {
        if listed.len() + operation.len() > OPERATIONS_CHARACTERS {
            break;
        }
        listed.push_str(if listed.is_empty() { "Operations: " } else { ", " });
        listed.push_str(&operation);
    }
    if !listed.is_empty() {
        push_part(&mut text, &listed);
    }
    text
}

/// Agents, tools and models that took part.
fn push_agents(text: &mut String, story: &Story<'_>) {
    for (heading, name) in
        [("Agents", "gen_ai.agent.name"), ("Tools", "gen_ai.tool.name"), ("Models", "gen_ai.request.model")]
    {
        let mut names = BTreeSet::new();
        for step in &story.outline.agent_steps {
            if let Some(name) = story.details.get(step).and_then(|details| details.text(name)) {
                names.insert(short(&super::normal::clean(&name), 60));
            }
        }
        if !names.is_empty() {
            let listed: Vec<String> = names.into_iter().take(8).collect();
            push_part(text, &format!("{heading}: {}.", listed.join(", ")));
        }
    }
}

fn push_part(text: &mut String, part: &str) {
    if !text.is_empty() {
        text.push(' ');
    }
    text.push_str(part);
}

fn short(text: &str, characters: usize) -> String {
    text.chars().take(characters).collect()
}
