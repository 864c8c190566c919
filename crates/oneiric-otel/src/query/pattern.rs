//! Patterns as SQL has them: `%` for any text, `_` for any character, `\` before a character that stands for itself.
//!
//! Promises: upper and lower case are the same, for the letters of every script and whatever the database's locale is; a
//! pattern without a wildcard means a substring.
//! Knows nothing of tables.

use std::fmt::Write as _;

use super::QueryError;

/// Characters of a pattern at most.
const MAX_CHARACTERS: usize = 1000;

/// A pattern that was understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pattern {
    parts: Vec<Part>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    /// This character, in either case.
    Letter(char),
    /// `_`
    One,
    /// `%`
    Many,
}

impl Pattern {
    /// Reads the argument `name`.
    ///
    /// # Errors
    /// [`QueryError::InvalidArgument`] when there is nothing to look for, too much, a NUL, or a `\` with nothing behind
    /// it.
    pub(crate) fn parse(name: &'static str, text: &str) -> Result<Self, QueryError> {
        let wrong = |accepted: String| QueryError::InvalidArgument { name, accepted };
        if text.is_empty() || text.chars().count() > MAX_CHARACTERS || text.contains('\0') {
            return Err(wrong(format!(
                "a text of 1 to {MAX_CHARACTERS} characters without NUL, in which % stands for any text and _ for any character"
            )));
        }
        let mut parts = Vec::new();
        let mut characters = text.chars();
        while let Some(character) = characters.next() {
            match character {
                '%' if parts.last() == Some(&Part::Many) => {}
                '%' => parts.push(Part::Many),
                '_' => parts.push(Part::One),
                '\\' => match characters.next() {
                    Some(escaped) => parts.push(Part::Letter(escaped)),
                    None => {
                        return Err(wrong(r"a pattern that does not end in a single \; \\ is a backslash".to_owned()));
                    }
                },
                other => parts.push(Part::Letter(other)),
            }
        }
        if parts.iter().all(|part| matches!(part, Part::Letter(_))) {
            parts.insert(0, Part::Many);
            parts.push(Part::Many);
        }
        Ok(Self { parts })
    }

    /// The operator with which SQL compares a text to [`Self::operand`]. Databases with the locale C know the two cases
    /// of ASCII letters alone, so other letters are spelled out in a regular expression.
    pub(crate) fn operator(&self) -> &'static str {
        if self.is_ascii() { "ILIKE" } else { "~" }
    }

    /// What stands right of [`Self::operator`]: a value, never to be put into the statement.
    pub(crate) fn operand(&self) -> String {
        if self.is_ascii() { self.like() } else { self.regular_expression() }
    }

    /// Runs of characters without a wildcard between them, in order: every text that fits has each of them.
    pub(crate) fn literals(&self) -> Vec<String> {
        let mut runs = vec![String::new()];
        for part in &self.parts {
            match (part, runs.last_mut()) {
                (Part::Letter(letter), Some(run)) => run.push(*letter),
                _ => runs.push(String::new()),
            }
        }
        runs.retain(|run| !run.is_empty());
        runs
    }

    fn is_ascii(&self) -> bool {
        self.parts.iter().all(|part| !matches!(part, Part::Letter(letter) if !letter.is_ascii()))
    }

    fn like(&self) -> String {
        let mut like = String::new();
        for part in &self.parts {
            match part {
                Part::Many => like.push('%'),
                Part::One => like.push('_'),
                Part::Letter(letter) => {
                    if matches!(letter, '%' | '_' | '\\') {
                        like.push('\\');
                    }
                    like.push(*letter);
                }
            }
        }
        like
    }

    fn regular_expression(&self) -> String {
        // `***:` is no part of it: what follows is read as an advanced expression, in which `.` is any character.
        let mut expression = "***:^".to_owned();
        for part in &self.parts {
            match part {
                Part::Many => expression.push_str(".*"),
                Part::One => expression.push('.'),
                Part::Letter(letter) => {
                    let cases = cases(*letter);
                    expression.push_str(if cases.len() > 1 { "(?:" } else { "" });
                    for (place, case) in cases.iter().enumerate() {
                        expression.push_str(if place > 0 { "|" } else { "" });
                        if case.is_alphanumeric() {
                            expression.push(*case);
                        } else {
                            // Writing to a string cannot fail.
                            write!(expression, "\\U{:08x}", u32::from(*case)).unwrap_or_default();
                        }
                    }
                    expression.push_str(if cases.len() > 1 { ")" } else { "" });
                }
            }
        }
        expression.push('$');
        expression
    }
}

/// The character itself and, where that is one character too, in upper and in lower case.
fn cases(character: char) -> Vec<char> {
    let mut cases = vec![character];
    let single = |mut other: Box<dyn Iterator<Item = char>>| match (other.next(), other.next()) {
        (Some(one), None) => Some(one),
        _ => None,
    };
    for other in [single(Box::new(character.to_lowercase())), single(Box::new(character.to_uppercase()))] {
        cases.extend(other.filter(|other| !cases.contains(other)));
    }
    // ASCII in both: the Kelvin sign is no K, since LIKE does not think so.
    if character.is_ascii() {
        cases.retain(char::is_ascii);
    }
    cases
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(text: &str) -> Pattern {
        Pattern::parse("pattern", text).expect("a pattern")
    }

    #[test]
    fn without_a_wildcard_a_substring_is_meant() {
        assert_eq!(pattern("refused").operand(), "%refused%");
        assert_eq!(pattern("100\\%").operand(), "%100\\%%");
        assert_eq!(pattern("a\\b_").operand(), "ab_");
        assert_eq!(pattern("%a%%b_c\\\\%").operand(), "%a%b_c\\\\%");
        assert_eq!(pattern("timeout%").operand(), "timeout%");
    }

    #[test]
    fn letters_beyond_ascii_are_spelled_in_both_cases() {
        let umlaut = pattern("é.");
        assert_eq!((umlaut.operator(), umlaut.operand().as_str()), ("~", "***:^.*(?:é|É)\\U0000002e.*$"));
        assert_eq!(pattern("e.").operator(), "ILIKE");
    }

    #[test]
    fn literals_are_what_stands_between_wildcards() {
        assert_eq!(pattern("%time%out_of\\_%").literals(), ["time", "out", "of_"]);
        assert_eq!(pattern("%").literals(), Vec::<String>::new());
    }

    #[test]
    fn what_is_no_pattern_is_named() {
        for wrong in ["", "a\\", "\\\\\\", "nul\0", &"x".repeat(1001)] {
            let error = Pattern::parse("pattern", wrong).expect_err("no pattern");
            assert!(error.to_string().starts_with("pattern: expected "), "{error}");
        }
    }
}
