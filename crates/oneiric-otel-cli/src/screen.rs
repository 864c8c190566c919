//! What goes to stdout: text and tables for people, JSON for programs.
//!
//! Text from telemetry is not to be trusted: whoever can send a span could otherwise move the cursor, retitle the
//! window or hide a line. [`clean`] makes it harmless for people, [`escape`] in JSON.

use std::fmt::Write as _;
use std::io::{self, IsTerminal as _, Write as _};

use anyhow::{Context as _, Result};
use comfy_table::{ContentArrangement, LineStyle, Table, TableStyle};
use serde::Serialize;

/// The width of tables where stdout is no terminal.
const WIDTH_ELSEWHERE: u16 = 140;

/// Writes text to stdout.
///
/// # Errors
/// If stdout cannot be written to, as when the reader of a pipe is gone.
pub(crate) fn print(text: &str) -> Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).context("cannot write to stdout")
}

/// Writes one line of JSON.
///
/// # Errors
/// As [`print()`].
pub(crate) fn print_json(value: &impl Serialize) -> Result<()> {
    let mut text = escape(&serde_json::to_string(value).context("the answer has no JSON form")?);
    text.push('\n');
    print(&text)
}

/// JSON on many lines, for people.
///
/// # Errors
/// If the value has no JSON form.
pub(crate) fn pretty_json(value: &impl Serialize) -> Result<String> {
    let mut text = escape(&serde_json::to_string_pretty(value).context("the answer has no JSON form")?);
    text.push('\n');
    Ok(text)
}

/// JSON that says the same and does nothing to a terminal. JSON itself asks for the escape of control characters below
/// U+0020 alone. The others stand nowhere but in strings, where an escape means the character.
pub(crate) fn escape(json: &str) -> String {
    let mut escaped = String::with_capacity(json.len());
    for c in json.chars() {
        // serde_json has escaped the rest of the control characters.
        if ('\u{7f}'..='\u{9f}').contains(&c) || is_line_break(c) || is_mark(c) {
            write!(escaped, "\\u{:04x}", u32::from(c)).unwrap_or_default(); // Writing to a string cannot fail.
        } else {
            escaped.push(c);
        }
    }
    escaped
}

/// Marks that reorder or hide what is shown around them. All are of 16 bits.
fn is_mark(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

fn is_line_break(c: char) -> bool {
    matches!(c, '\u{2028}' | '\u{2029}')
}

/// An empty table with these headings, for rows of one line.
pub(crate) fn table(headings: &[&str]) -> Table {
    let line = LineStyle::none().fill('─').junction('─');
    let mut table = Table::new();
    table.load_style(TableStyle::new().header_separator(line));
    table.set_content_arrangement(ContentArrangement::Dynamic);
    if !io::stdout().is_terminal() {
        table.set_width(WIDTH_ELSEWHERE);
    }
    table.set_header(headings);
    table
}

/// Text below something, broken between words to fit the width. Ends with a line break.
pub(crate) fn indent(text: &str) -> String {
    indent_within(usize::from(table(&[]).width().unwrap_or(WIDTH_ELSEWHERE)), text)
}

fn indent_within(width: usize, text: &str) -> String {
    let mut lines = String::new();
    let mut room = 0;
    for word in text.split(' ').filter(|word| !word.is_empty()) {
        let length = word.chars().count() + 1;
        if length > room {
            lines.push_str(if lines.is_empty() { "   " } else { "\n   " });
            room = width.saturating_sub(3);
        }
        lines.push(' ');
        lines.push_str(word);
        room = room.saturating_sub(length);
    }
    lines.push('\n');
    lines
}

/// Untrusted text on one line: escape sequences, control characters and those that turn the direction of writing
/// become one space or nothing.
pub(crate) fn clean(text: &str) -> String {
    let mut cleaned = String::with_capacity(text.len());
    let mut characters = text.chars().peekable();
    while let Some(c) = characters.next() {
        match c {
            '\u{1b}' => skip_escape(&mut characters),
            // The same as ESC [ in one character.
            '\u{9b}' => skip_sequence(&mut characters),
            c if c.is_control() || is_line_break(c) => {
                if !cleaned.ends_with(' ') && !cleaned.is_empty() {
                    cleaned.push(' ');
                }
            }
            c if is_mark(c) => {}
            c => cleaned.push(c),
        }
    }
    cleaned.truncate(cleaned.trim_end().len());
    cleaned
}

/// [`clean`], cut to a number of characters.
pub(crate) fn clean_short(text: &str, characters: usize) -> String {
    let cleaned = clean(text);
    if cleaned.chars().count() <= characters {
        return cleaned;
    }
    let mut cut: String = cleaned.chars().take(characters.saturating_sub(1)).collect();
    cut.push('…');
    cut
}

type Characters<'a> = std::iter::Peekable<std::str::Chars<'a>>;

fn skip_escape(characters: &mut Characters<'_>) {
    match characters.peek() {
        Some('[') => {
            characters.next();
            skip_sequence(characters);
        }
        // Strings that a terminal takes as a title, a link or a request; they end with BEL or ESC \.
        Some(']' | 'P' | 'X' | '^' | '_') => {
            while let Some(c) = characters.next() {
                if c == '\u{7}' || c == '\u{9c}' {
                    break;
                }
                if c == '\u{1b}' {
                    if characters.peek() == Some(&'\\') {
                        characters.next();
                    }
                    break;
                }
            }
        }
        Some(c) if !c.is_control() => {
            characters.next();
        }
        _ => {}
    }
}

/// Parameters up to the final character.
fn skip_sequence(characters: &mut Characters<'_>) {
    while let Some(&c) = characters.peek() {
        if c.is_control() || !c.is_ascii() {
            return;
        }
        characters.next();
        if ('@'..='~').contains(&c) {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn telemetry_cannot_drive_the_terminal() {
        assert_eq!(clean("plain text, ünïcödé 日本"), "plain text, ünïcödé 日本");
        assert_eq!(clean("\u{1b}[2J\u{1b}[31mred\u{1b}[0m"), "red");
        assert_eq!(clean("a\u{1b}]0;new title\u{7}b"), "ab");
        assert_eq!(clean("a\u{1b}]8;;http://x\u{1b}\\b"), "ab");
        assert_eq!(clean("a\u{9b}31mb"), "ab");
        assert_eq!(clean("one\r\ntwo\tthree\u{0}"), "one two three");
        assert_eq!(clean("safe\u{202e}txt.exe"), "safetxt.exe");
        assert_eq!(clean("\u{1b}"), "");
        assert_eq!(clean("unfinished \u{1b}[12"), "unfinished");
        for c in clean(&(0..=0x10_ffff).filter_map(char::from_u32).collect::<String>()).chars() {
            assert!(!c.is_control(), "{c:?}");
        }
        assert_eq!(clean_short("abcdef", 4), "abc…");
        assert_eq!(clean_short("abcd", 4), "abcd");
    }

    #[test]
    fn json_says_the_same_and_is_harmless() {
        let all: String = (0..=0x10_ffff).filter_map(char::from_u32).collect();
        let escaped = escape(&serde_json::to_string(&all).expect("a string"));
        assert_eq!(serde_json::from_str::<String>(&escaped).expect("JSON"), all);
        // What is left is text as it stands.
        assert_eq!(clean(&escaped), escaped);
        assert_eq!(escape("{\"a\":\"\u{9b}31m ü \u{202e}\"}"), r#"{"a":"\u009b31m ü \u202e"}"#);
    }

    #[test]
    fn text_is_broken_between_words() {
        assert_eq!(
            indent_within(14, "one two three four a-word-without-end end"),
            concat!("    one two\n", "    three four\n", "    a-word-without-end\n", "    end\n",)
        );
        assert_eq!(indent_within(0, "a b"), "    a\n    b\n");
        assert_eq!(indent_within(80, ""), "\n");
    }
}
