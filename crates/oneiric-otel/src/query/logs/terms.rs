//! What somebody typed to find logs: words, `"phrases"`, `-exclusions` and `prefixes*`.
//!
//! Pure: how records are cut into words is the database's part, so that a question and the index agree.

use crate::store::logs::WordTerm;

/// A question about logs, taken apart.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Terms {
    /// What is compared word by word.
    pub(super) words: Vec<WordTerm>,
    /// What is compared as it stands, because its script puts no space between words; and whether it must be missing.
    pub(super) substrings: Vec<(String, bool)>,
}

impl Terms {
    /// Takes a question apart.
    pub(super) fn read(question: &str) -> Self {
        let mut terms = Self::default();
        let mut rest = question.trim_start();
        while !rest.is_empty() {
            let negated = rest.starts_with('-') && rest.chars().nth(1).is_some_and(|next| !next.is_whitespace());
            let begun = if negated { rest.get(1..).unwrap_or_default() } else { rest };
            let (text, after) = match begun.strip_prefix('"') {
                // A phrase that is never closed goes to the end.
                Some(phrase) => phrase.split_once('"').unwrap_or((phrase, "")),
                None => begun.split_once(char::is_whitespace).unwrap_or((begun, "")),
            };
            let (prefix, after) = match after.strip_prefix('*') {
                Some(after) => (true, after),
                None => (text.ends_with('*'), after),
            };
            terms.add(text.trim_end_matches('*'), prefix, negated);
            rest = after.trim_start();
        }
        terms
    }

    fn add(&mut self, text: &str, prefix: bool, negated: bool) {
        if !text.contains(char::is_alphanumeric) {
            return;
        }
        if text.contains(super::super::words::is_unspaced) {
            self.substrings.push((text.to_owned(), negated));
        } else {
            self.words.push(WordTerm { text: text.to_owned(), prefix, negated });
        }
    }

    /// Whether there is nothing to look for.
    pub(super) fn is_empty(&self) -> bool {
        self.words.is_empty() && self.substrings.is_empty()
    }

    /// Patterns for ILIKE that every hit fits: all of the substrings, and of the words the longest part, which is the
    /// cheap look before the exact one. Letters beyond ASCII may have a case that the database does not know.
    pub(super) fn like(&self) -> Vec<String> {
        let parts = self.words.iter().filter(|term| !term.negated).flat_map(|term| {
            let parts = term.text.split(|character: char| !character.is_alphanumeric());
            parts.filter(|part| part.is_ascii() && !part.is_empty())
        });
        let longest = parts.max_by_key(|part| part.len()).map(contains);
        let substrings = self.substrings.iter().filter(|(_, negated)| !negated).map(|(text, _)| contains(text));
        substrings.chain(longest).collect()
    }

    /// Patterns that no hit fits.
    pub(super) fn unlike(&self) -> Vec<String> {
        self.substrings.iter().filter(|(_, negated)| *negated).map(|(text, _)| contains(text)).collect()
    }
}

/// A pattern of texts that contain this one.
fn contains(text: &str) -> String {
    let mut pattern = String::with_capacity(text.len() + 2);
    pattern.push('%');
    for character in text.chars() {
        if matches!(character, '%' | '_' | '\\') {
            pattern.push('\\');
        }
        pattern.push(character);
    }
    pattern.push('%');
    pattern
}

#[cfg(test)]
mod tests {
    use super::*;

    fn word(text: &str) -> WordTerm {
        WordTerm { text: text.to_owned(), prefix: false, negated: false }
    }

    #[test]
    fn words_phrases_exclusions_and_prefixes() {
        let terms = Terms::read(r#"  timeout "connection refused" -debug -"health check" redis* --flag "con"* "#);
        let expected = [
            word("timeout"),
            word("connection refused"),
            WordTerm { negated: true, ..word("debug") },
            WordTerm { negated: true, ..word("health check") },
            WordTerm { prefix: true, ..word("redis") },
            WordTerm { negated: true, ..word("-flag") },
            WordTerm { prefix: true, ..word("con") },
        ];
        assert_eq!(terms.words, expected);
        assert_eq!(terms.like(), ["%connection%"]);
    }

    #[test]
    fn what_has_no_letter_or_digit_is_nothing() {
        for nothing in ["", "  ", "-", "- -", "***", "\"\"", "\"", "\\", "%_"] {
            assert!(Terms::read(nothing).is_empty(), "{nothing}");
        }
        assert_eq!(Terms::read("\"open to the end").words, [word("open to the end")]);
        assert_eq!(Terms::read("back\\slash\\").words, [word("back\\slash\\")]);
    }

    #[test]
    fn scripts_without_spaces_are_substrings() {
        let terms = Terms::read("支付服务 -超时 error_50%");
        assert_eq!(terms.like(), ["%支付服务%", "%error%"]);
        assert_eq!(terms.unlike(), ["%超时%"]);
        assert_eq!(contains("a_b%\\"), "%a\\_b\\%\\\\%");
    }
}
