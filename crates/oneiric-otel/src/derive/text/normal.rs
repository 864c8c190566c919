//! Takes out of a text what differs from one trace to the next: ids, numbers, exact durations, control characters.

use std::borrow::Cow;
use std::iter::Peekable;
use std::str::Chars;

/// Words with digits that are names and not numbers.
const KEPT: &[&str] = &[
    "utf8", "utf16", "sha1", "sha256", "sha512", "md5", "base64", "ipv4", "ipv6", "x509", "oauth2", "http2", "http3",
    "ec2", "k8s", "log4j", "i18n", "l10n", "int32", "int64", "uint32", "uint64", "float32", "float64", "gpt4", "p95",
    "p99", "win32", "neo4j", "h2c",
];

/// A number of three digits after one of these is a status code.
const STATUS_WORDS: &[&str] = &["status", "code", "http", "error", "statuscode", "response", "returned", "got"];

/// Nominal durations in nanoseconds, in steps of about 1-2-5.
const STEPS: &[(u64, &str)] = &[
    (1_000_000, "1 ms"),
    (2_000_000, "2 ms"),
    (5_000_000, "5 ms"),
    (10_000_000, "10 ms"),
    (20_000_000, "20 ms"),
    (50_000_000, "50 ms"),
    (100_000_000, "100 ms"),
    (200_000_000, "200 ms"),
    (500_000_000, "500 ms"),
    (1_000_000_000, "1 second"),
    (2_000_000_000, "2 seconds"),
    (5_000_000_000, "5 seconds"),
    (10_000_000_000, "10 seconds"),
    (20_000_000_000, "20 seconds"),
    (60_000_000_000, "1 minute"),
    (120_000_000_000, "2 minutes"),
    (300_000_000_000, "5 minutes"),
    (600_000_000_000, "10 minutes"),
    (1_200_000_000_000, "20 minutes"),
    (3_600_000_000_000, "1 hour"),
    (7_200_000_000_000, "2 hours"),
    (18_000_000_000_000, "5 hours"),
    (36_000_000_000_000, "10 hours"),
    (86_400_000_000_000, "1 day"),
    (172_800_000_000_000, "2 days"),
    (432_000_000_000_000, "5 days"),
    (864_000_000_000_000, "10 days"),
];

/// The duration in words, in the nearest step: 1.4 and 1.6 seconds are "1 second" and "2 seconds".
pub(super) fn duration(nanoseconds: u64) -> &'static str {
    if nanoseconds < 700_000 {
        return "under 1 ms";
    }
    let mut nearest = STEPS[0].1;
    for pair in STEPS.windows(2) {
        let [(low, _), (high, words)] = pair else { break };
        // Above the geometric mean the higher step is nearer. Squares fit a u128.
        if u128::from(nanoseconds) * u128::from(nanoseconds) < u128::from(*low) * u128::from(*high) {
            return nearest;
        }
        nearest = words;
    }
    if nanoseconds > 2 * 864_000_000_000_000 { "many days" } else { nearest }
}

/// Without terminal escapes, control and invisible characters; white space runs become one space.
pub(super) fn clean(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        if character == '\u{1b}' {
            skip_escape(&mut characters);
        } else if character.is_whitespace() || character.is_control() {
            if !out.is_empty() && !out.ends_with(' ') {
                out.push(' ');
            }
        } else if !is_invisible(character) {
            out.push(character);
        }
    }
    if out.ends_with(' ') {
        out.pop();
    }
    out
}

/// A CSI sequence ends with a character from `@` to `~`; of other escapes only the escape itself is dropped.
fn skip_escape(characters: &mut Peekable<Chars<'_>>) {
    if characters.next_if_eq(&'[').is_none() {
        return;
    }
    for character in characters.by_ref() {
        if ('@'..='~').contains(&character) {
            return;
        }
    }
}

/// Zero-width characters, direction overrides, byte-order marks, tags.
fn is_invisible(character: char) -> bool {
    matches!(character,
        '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}'
        | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// [`clean`], with ids, hexadecimal and numbers replaced by `#`. Status codes after "status" and the like stay.
pub(super) fn mask(text: &str) -> String {
    let cleaned = clean(text);
    let mut out = String::with_capacity(cleaned.len());
    let mut previous_word = String::new();
    let mut rest = cleaned.as_str();
    while let Some(character) = rest.chars().next() {
        if !character.is_alphanumeric() {
            out.push(character);
            rest = tail(rest, character.len_utf8());
            continue;
        }
        if let Some(length) = uuid_at(rest) {
            push_mask(&mut out);
            rest = tail(rest, length);
            previous_word.clear();
            continue;
        }
        let length = rest.find(|c: char| !c.is_alphanumeric()).unwrap_or(rest.len());
        let token = rest.get(..length).unwrap_or_default();
        push_token(&mut out, token, &previous_word);
        previous_word = token.to_lowercase();
        rest = tail(rest, length);
    }
    out
}

/// [`clean`], with only long ids masked: prose keeps its numbers.
pub(super) fn mask_ids(text: &str) -> String {
    let cleaned = clean(text);
    let mut out = String::with_capacity(cleaned.len());
    let mut rest = cleaned.as_str();
    while let Some(character) = rest.chars().next() {
        if !character.is_alphanumeric() {
            out.push(character);
            rest = tail(rest, character.len_utf8());
            continue;
        }
        if let Some(length) = uuid_at(rest) {
            push_mask(&mut out);
            rest = tail(rest, length);
            continue;
        }
        let length = rest.find(|c: char| !c.is_alphanumeric()).unwrap_or(rest.len());
        let token = rest.get(..length).unwrap_or_default();
        let mixed = token.contains(|c: char| c.is_ascii_digit()) && token.contains(|c: char| c.is_alphabetic());
        if token.len() > 40 || (mixed && token.len() >= 16) {
            push_mask(&mut out);
        } else {
            out.push_str(token);
        }
        rest = tail(rest, length);
    }
    out
}

fn tail(text: &str, from: usize) -> &str {
    text.get(from..).unwrap_or_default()
}

/// The length of the UUID that `text` begins with.
fn uuid_at(text: &str) -> Option<usize> {
    let bytes = text.as_bytes().get(..36)?;
    let fits = bytes.iter().enumerate().all(|(place, byte)| match place {
        8 | 13 | 18 | 23 => *byte == b'-',
        _ => byte.is_ascii_hexdigit(),
    });
    let ends = !text.as_bytes().get(36).is_some_and(u8::is_ascii_alphanumeric);
    (fits && ends).then_some(36)
}

fn push_token(out: &mut String, token: &str, previous_word: &str) {
    let digits = token.chars().filter(char::is_ascii_digit).count();
    let all_hexadecimal = token.bytes().all(|byte| byte.is_ascii_hexdigit());
    if digits == 0 {
        if (all_hexadecimal && token.len() >= 16) || token.len() > 80 {
            push_mask(out);
        } else {
            out.push_str(token);
        }
        return;
    }
    if digits == token.len() {
        let is_status = token.len() == 3 && token.starts_with(['4', '5']) && STATUS_WORDS.contains(&previous_word);
        if is_status {
            out.push_str(token);
        } else {
            push_mask(out);
        }
        return;
    }
    let lower = token.to_lowercase();
    if KEPT.contains(&lower.as_str()) {
        out.push_str(token);
        return;
    }
    let is_time = token.bytes().all(|byte| byte.is_ascii_digit() || byte == b'T' || byte == b'Z');
    let random =
        (all_hexadecimal && token.len() >= 6) || lower.starts_with("0x") || token.len() > 40 || changes(token) >= 4;
    if is_time || random {
        push_mask(out);
        return;
    }
    push_mixed(out, token);
}

/// How often letters and digits take turns.
fn changes(token: &str) -> usize {
    let mut count = 0;
    let mut before: Option<bool> = None;
    for character in token.chars() {
        let digit = character.is_ascii_digit();
        if before.is_some_and(|before| before != digit) {
            count += 1;
        }
        before = Some(digit);
    }
    count
}

/// A word with numbers in it: `v1` and `Travel2Service` keep theirs, `user42` and `250ms` do not.
fn push_mixed(out: &mut String, token: &str) {
    let mut rest = token;
    let mut first = true;
    while !rest.is_empty() {
        let letters = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        out.push_str(rest.get(..letters).unwrap_or_default());
        first &= letters == 0;
        rest = tail(rest, letters);
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        if digits == 1 && !first {
            out.push_str(rest.get(..digits).unwrap_or_default());
        } else if digits > 0 {
            push_mask(out);
        }
        first = false;
        rest = tail(rest, digits);
    }
}

/// Appends `#`, unless it would only continue a row of them: dates, versions, addresses and lists are one `#`.
fn push_mask(out: &mut String) {
    let before = out.trim_end_matches(['.', ':', '-', '/', ',', '+', ' ', '_']);
    if before.ends_with('#') && out.len() - before.len() <= 2 {
        out.truncate(before.len());
        return;
    }
    out.push('#');
}

/// Levels and fillers that a log line begins with and that its record says better.
const LINE_STARTS: &[&str] = &[
    "#", "-", ":", "|", "*", "trace", "debug", "info", "warn", "warning", "error", "fatal", "severe", "critical",
    "panic",
];

/// Names of ids that every line of some loggers repeats.
const ID_NAMES: &[&str] = &["traceid", "spanid", "requestid", "correlationid", "parentid"];

/// [`mask`], then written as people write: `o.s.OrderServiceImpl` is "Order Service Impl", `[a][b]` is "a b".
pub(super) fn words(text: &str) -> String {
    let masked = mask(text).replace(['[', ']'], " ");
    let mut out = String::with_capacity(masked.len() + 16);
    for token in masked.split_whitespace() {
        if !out.is_empty() {
            out.push(' ');
        }
        push_split(&mut out, without_package(token));
    }
    out
}

/// The telling line of a log or of an exception's text, in [`words`], without time, level and ids at its beginning.
pub(super) fn line(text: &str) -> String {
    let spoken = words(&without_logger(telling_line(text)));
    let mut kept: Vec<&str> = Vec::new();
    let mut tokens = spoken.split(' ').peekable();
    while let Some(token) = tokens.next() {
        let bare: String = token.chars().filter(|c| c.is_alphanumeric()).collect::<String>().to_lowercase();
        let next_bare =
            tokens.peek().map(|next| next.chars().filter(|c| c.is_alphanumeric()).collect::<String>().to_lowercase());
        // "Trace ID: #", in two words.
        if next_bare.as_deref() == Some("id") && ID_NAMES.contains(&format!("{bare}id").as_str()) {
            tokens.next();
            tokens.next_if(|next| next.starts_with('#'));
            continue;
        }
        if kept.is_empty() && (LINE_STARTS.contains(&token.to_lowercase().trim_end_matches(':')) || token == "#:") {
            continue;
        }
        if ID_NAMES.contains(&bare.as_str())
            && (token.contains('#') || tokens.next_if(|next| next.starts_with('#')).is_some())
        {
            continue;
        }
        kept.push(token);
    }
    kept.join(" ")
}

/// Of a chain of exceptions the innermost, of a Python traceback the last line, else the first line.
fn telling_line(text: &str) -> &str {
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let first = lines.next().unwrap_or_default();
    if let Some(cause) = text.lines().rev().find_map(|line| line.trim().strip_prefix("Caused by: ")) {
        return cause;
    }
    if first.starts_with("Traceback (most recent call last)") {
        return lines.next_back().unwrap_or(first);
    }
    match first.rfind("nested exception is ") {
        Some(at) => tail(first, at + "nested exception is ".len()),
        None => first,
    }
}

/// Words at the beginning of a line among which the logger's name may stand, after time, level and thread.
const LOGGER_WITHIN: usize = 8;

/// A line without the logger's name in it: which class wrote it says less than what it wrote, and stands in every line
/// of that class.
fn without_logger(line: &str) -> Cow<'_, str> {
    let mut words = line.split_whitespace().take(LOGGER_WITHIN);
    let Some(logger) = words.find(|word| is_logger(word)) else { return Cow::Borrowed(line) };
    let rest = line.split_once(logger).map_or("", |(_, rest)| rest.trim_start_matches([':', '-', '|', ' ']));
    if rest.is_empty() { Cow::Borrowed(line) } else { Cow::Owned(line.replacen(logger, "", 1)) }
}

/// `c.s.OrderServiceImpl`, `com.example.Orders#17` or `a.b.C:12`; no exception.
fn is_logger(word: &str) -> bool {
    let word = word.trim_end_matches([':', '-']).trim_start_matches('[').trim_end_matches(']');
    let name = word.split(['#', ':', '(']).next().unwrap_or_default();
    let Some((package, class)) = name.rsplit_once('.') else { return false };
    let is_name = |part: &str| part.chars().all(|c| c.is_alphanumeric() || c == '_' || c == '$');
    let is_error = ["Exception", "Error", "Failure", "Throwable"].iter().any(|end| class.ends_with(end));
    let is_package = package.split('.').all(|part| part.starts_with(|c: char| c.is_ascii_lowercase()) && is_name(part));
    is_package && !is_error && class.starts_with(|c: char| c.is_ascii_uppercase()) && is_name(class)
}

/// `java.lang.IllegalStateException:` without `java.lang.`.
fn without_package(token: &str) -> &str {
    let Some((package, name)) = token.rsplit_once('.') else { return token };
    let is_package = !package.is_empty()
        && package.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '.' || c == '_');
    if is_package && name.starts_with(|c: char| c.is_ascii_uppercase()) { name } else { token }
}

/// A space between `aa` and `Bb`; after a single letter there is none, so that `gRPC` and `iPhone` stay whole.
fn push_split(out: &mut String, token: &str) {
    if token.contains('/') {
        out.push_str(token);
        return;
    }
    let mut since_split = 0;
    let mut after_small = false;
    for character in token.chars() {
        if character.is_uppercase() && after_small && since_split >= 2 {
            out.push(' ');
            since_split = 0;
        }
        after_small = character.is_lowercase();
        since_split += 1;
        out.push(character);
    }
}

#[cfg(test)]
mod tests;
