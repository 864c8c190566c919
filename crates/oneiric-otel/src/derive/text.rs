//! The texts that describe a trace: what search reads and what is embedded.
//!
//! A request trace gets one text: a sentence that says who failed and because of what, then the first error lines. A
//! healthy one says what was done and how long it took. A run of an agent gets one text more for each message.
//!
//! Promises, for any input: the same facts give the same texts; traces that differ in ids, numbers and small
//! differences of duration share a text; at most [`MAX_TEXTS`] texts of at most [`MAX_TEXT_CHARACTERS`] characters; no
//! control characters. Pure: no clock, no database, no model.

mod agent;
mod attributes;
mod failure;
mod normal;
mod request;

use std::collections::{HashMap, HashSet};

use super::trace::{LogFact, Outline, SpanFact, TraceSummary};

pub use attributes::Attributes;

/// Version of the rules in this module. A text of another version has another hash, so changed rules give new texts.
pub const TEXT_VERSION: i16 = 2;

/// Texts of one trace at most: the sentence, and the first and last messages of an agent's run.
pub const MAX_TEXTS: usize = 64;

/// Length of a text at most. The model reads the first 256 word pieces, words are searched in all of it.
pub const MAX_TEXT_CHARACTERS: usize = 1600;

/// All that a text is made of.
#[derive(Debug)]
pub struct Story<'a> {
    /// The spans, in the order of the outline's positions.
    pub spans: &'a [SpanFact],
    /// The first error logs, then warnings.
    pub logs: &'a [LogFact],
    /// Which spans are telling.
    pub outline: &'a Outline,
    /// What is known of the whole.
    pub summary: &'a TraceSummary,
    /// Attributes and events of the telling spans, by position.
    pub details: &'a HashMap<usize, Attributes>,
}

/// Which spans' attributes [`describe`] wants to see, as positions, first those that it would miss most: what an agent
/// was asked stands at the beginning, how it came out at the end.
pub fn wanted_details(outline: &Outline) -> Vec<usize> {
    let mut wanted = vec![outline.root];
    wanted.extend(outline.cause);
    let steps = &outline.agent_steps;
    for (first, last) in steps.iter().zip(steps.iter().rev()).take(steps.len().div_ceil(2)) {
        wanted.extend([*last, *first]);
    }
    let mut seen = HashSet::new();
    wanted.retain(|position| seen.insert(*position));
    wanted
}

/// The trace's texts, first the sentence about the whole. Never empty, without repetition.
pub fn describe(story: &Story<'_>) -> Vec<String> {
    let mut texts = vec![bound(&request::sentence(story))];
    if !story.outline.agent_steps.is_empty() {
        texts.extend(agent::messages(story).iter().map(|message| bound(message)));
    }
    let mut seen = HashSet::new();
    texts.retain(|text| !text.is_empty() && seen.insert(text.clone()));
    if texts.len() > MAX_TEXTS {
        // What was asked stands at the beginning, how it came out at the end.
        let last = texts.split_off(texts.len() - (MAX_TEXTS - MAX_TEXTS / 3));
        texts.truncate(MAX_TEXTS / 3);
        texts.extend(last);
    }
    if texts.is_empty() {
        texts.push("a trace without names".to_owned());
    }
    texts
}

/// Identifies a text of this version.
pub fn text_hash(text: &str) -> [u8; 16] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&TEXT_VERSION.to_be_bytes());
    hasher.update(text.as_bytes());
    let mut hash = [0; 16];
    hasher.finalize_xof().fill(&mut hash);
    hash
}

fn bound(text: &str) -> String {
    normal::clean(text).chars().take(MAX_TEXT_CHARACTERS).collect::<String>().trim_end().to_owned()
}

#[cfg(test)]
mod tests;
