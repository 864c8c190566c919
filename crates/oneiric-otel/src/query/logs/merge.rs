//! Templates that differ in a few words read as one pattern.
//!
//! Pure and deterministic: the same templates with the same counts give the same patterns, in whatever order they come.
//! The frequent ones come first; a template joins the first pattern of its service, severity and number of words with
//! which it shares most of them, and where the two differ the pattern has a hole from then on.

use std::collections::HashMap;

use crate::pipeline::template::HOLE;

/// Share of words that a template has in common with its pattern at least.
const ALIKE: f64 = 0.6;
/// Shorter ones are compared word by word.
const MIN_WORDS: usize = 3;

/// A template and what is known of its records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Counted {
    pub(super) id: i64,
    pub(super) service: String,
    pub(super) severity: i16,
    pub(super) text: String,
    pub(super) records: i64,
}

/// Templates that read as one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Merged {
    pub(super) service: String,
    pub(super) severity: i16,
    pub(super) text: String,
    pub(super) records: i64,
    /// The most frequent first.
    pub(super) ids: Vec<i64>,
}

struct Pattern {
    words: Vec<String>,
    merged: Merged,
}

/// The patterns of templates, the most frequent first.
pub(super) fn merge(mut templates: Vec<Counted>) -> Vec<Merged> {
    templates.sort_by(|a, b| b.records.cmp(&a.records).then(a.id.cmp(&b.id)));
    let mut patterns: HashMap<(String, i16, usize), Vec<Pattern>> = HashMap::new();
    for template in templates {
        let words: Vec<String> = template.text.split(' ').map(str::to_owned).collect();
        let alike = patterns.entry((template.service.clone(), template.severity, words.len())).or_default();
        if let Some(pattern) = alike.iter_mut().find(|pattern| are_alike(&pattern.words, &words)) {
            for (word, other) in pattern.words.iter_mut().zip(&words) {
                if word != other {
                    HOLE.clone_into(word);
                }
            }
            pattern.merged.records += template.records;
            pattern.merged.ids.push(template.id);
        } else {
            let Counted { id, service, severity, text, records } = template;
            alike.push(Pattern { words, merged: Merged { service, severity, text, records, ids: vec![id] } });
        }
    }
    let mut merged: Vec<Merged> = patterns
        .into_values()
        .flatten()
        .map(|pattern| Merged { text: pattern.words.join(" "), ..pattern.merged })
        .collect();
    merged.sort_by(|a, b| b.records.cmp(&a.records).then_with(|| a.ids.cmp(&b.ids)));
    merged
}

fn are_alike(pattern: &[String], words: &[String]) -> bool {
    if words.len() < MIN_WORDS {
        return pattern == words;
    }
    let same = pattern.iter().zip(words).filter(|(one, other)| one == other);
    // Holes alone are no likeness.
    let (mut shared, mut told) = (0, false);
    for (word, _) in same {
        shared += 1;
        told |= word != HOLE;
    }
    told && f64::from(shared) >= ALIKE * words.len() as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(id: i64, text: &str, records: i64) -> Counted {
        Counted { id, service: "s".to_owned(), severity: 9, text: text.to_owned(), records }
    }

    #[test]
    fn templates_that_differ_in_a_word_are_one_in_any_order() {
        let mut templates = vec![
            counted(1, "user alice has logged in", 5),
            counted(2, "user bob has logged in", 7),
            counted(3, "user carol has logged in", 5),
            counted(4, "the cart is empty now", 6),
            counted(5, "a b", 1),
            counted(6, "a c", 1),
        ];
        let patterns = merge(templates.clone());
        let read: Vec<(&str, i64)> = patterns.iter().map(|pattern| (pattern.text.as_str(), pattern.records)).collect();
        assert_eq!(read, [("user <*> has logged in", 17), ("the cart is empty now", 6), ("a b", 1), ("a c", 1)]);
        assert_eq!(patterns[0].ids, [2, 1, 3]);
        templates.reverse();
        assert_eq!(merge(templates), patterns);
    }

    #[test]
    fn other_services_and_severities_stay_apart() {
        let other = Counted { service: "t".to_owned(), ..counted(2, "user bob has logged in", 1) };
        let worse = Counted { severity: 17, ..counted(3, "user bob has logged in", 1) };
        assert_eq!(merge(vec![counted(1, "user bob has logged in", 1), other, worse]).len(), 3);
        let holes = merge(vec![counted(1, "<*> <*> <*> a", 1), counted(2, "<*> <*> <*> b", 1)]);
        assert_eq!(holes.len(), 2, "holes alone are no likeness");
    }
}
