//! The template of a log record: what it says, without what varies from one to the next.
//!
//! Pure and frozen: a template's id is a function of the record alone, so any number of servers agree on it, now and after
//! a restart. A change here makes other ids for the same records, which the tests with fixed ids forbid; what is still too
//! fine is put together when it is read.

use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::logs::v1::LogRecord;

use crate::store::LogTemplate;

/// Stands for what varies.
pub(crate) const HOLE: &str = "<*>";

/// Bytes of a body that are looked at.
const READ_BYTES: usize = 1024;
/// A template ends after the word that takes it beyond this. Longer text is prose, of which the beginning is enough.
const TEMPLATE_BYTES: usize = 200;
/// JSON text up to this size is parsed for its message.
const JSON_BYTES: usize = 16 * 1024;

/// Members of a structured body that hold its message.
const MESSAGE_KEYS: &[&str] = &["message", "msg", "event", "error", "log", "text"];
/// Keys in `key="value"` whose value is text and not a variable.
const TEXT_KEYS: &[&str] = &["message", "msg", "event", "error", "err", "level", "severity", "logger"];

/// The template of a record and its id. `text` is a buffer.
pub(super) fn template(log: &LogRecord, service: &str, text: &mut String) -> (i64, i16) {
    text.clear();
    say(log, text);
    let severity = severity_class(log.severity_number);
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"log template 1\0");
    hasher.update(&severity.to_le_bytes());
    hasher.update(&(service.len() as u64).to_le_bytes());
    hasher.update(service.as_bytes());
    hasher.update(text.as_bytes());
    let mut id = [0; 8];
    hasher.finalize_xof().fill(&mut id);
    (i64::from_le_bytes(id), severity)
}

/// The row of a template that [`template`] made.
pub(super) fn row(service: &str, severity: i16, text: &str) -> LogTemplate {
    LogTemplate { service_name: service.to_owned(), severity, text: text.replace('\0', "\u{fffd}") }
}

/// The lowest number of the class of a severity; 0 when unknown.
fn severity_class(number: i32) -> i16 {
    match number {
        1..=4 => 1,
        5..=8 => 5,
        9..=12 => 9,
        13..=16 => 13,
        17..=20 => 17,
        21.. => 21,
        _ => 0,
    }
}

fn say(log: &LogRecord, out: &mut String) {
    match log.body.as_ref().and_then(|body| body.value.as_ref()) {
        Some(Value::StringValue(text)) if !text.is_empty() => match json_message(text) {
            Some(message) => mask(&message, out),
            None => mask(text, out),
        },
        Some(Value::KvlistValue(map)) => {
            let text = |key: &&str| {
                let member = map.values.iter().find(|member| member.key == **key)?;
                match member.value.as_ref()?.value.as_ref()? {
                    Value::StringValue(text) if !text.is_empty() => Some(text.as_str()),
                    _ => None,
                }
            };
            match MESSAGE_KEYS.iter().find_map(text) {
                Some(message) => mask(message, out),
                None => name_keys(map.values.iter().map(|member| member.key.as_str()).collect(), out),
            }
        }
        Some(Value::ArrayValue(_)) => out.push_str("[...]"),
        Some(_) | None => mask(&log.event_name, out),
    }
}

/// The message in a body that is JSON as text.
fn json_message(text: &str) -> Option<String> {
    if !text.starts_with('{') || text.len() > JSON_BYTES {
        return None;
    }
    let map: serde_json::Map<String, serde_json::Value> = serde_json::from_str(text).ok()?;
    let message = MESSAGE_KEYS.iter().find_map(|key| map.get(*key)?.as_str().filter(|text| !text.is_empty()));
    Some(message.map_or_else(
        || {
            let mut keys = String::new();
            name_keys(map.keys().map(String::as_str).collect(), &mut keys);
            keys
        },
        str::to_owned,
    ))
}

fn name_keys(mut keys: Vec<&str>, out: &mut String) {
    keys.sort_unstable();
    out.push('{');
    for key in keys.into_iter().take_while(|key| key.len() < TEMPLATE_BYTES) {
        if out.len() > TEMPLATE_BYTES {
            break;
        }
        if out.len() > 1 {
            out.push_str(", ");
        }
        out.push_str(key);
    }
    out.push('}');
}

/// Appends `text` with holes where numbers, ids, addresses and the like stand, and one space for any white space.
pub(crate) fn mask(text: &str, out: &mut String) {
    let mut rest = crate::store::prefix(text, READ_BYTES).trim();
    let begun = out.len();
    while let Some(first) = rest.chars().next() {
        if out.len() - begun > TEMPLATE_BYTES {
            return;
        }
        if first.is_whitespace() {
            if !out.ends_with(' ') {
                out.push(' ');
            }
            rest = rest.trim_start();
        } else if is_part(first) {
            let end = rest.find(|character| !is_part(character)).unwrap_or(rest.len());
            let (token, after) = rest.split_at(end);
            push_token(token, out);
            rest = after;
        } else if let Some(after) = quoted_value(rest, out) {
            push_hole(out);
            rest = after;
        } else {
            out.push(if first.is_control() { ' ' } else { first });
            rest = rest.get(first.len_utf8()..).unwrap_or_default();
        }
    }
}

/// Whether a character may stand inside a name, number, path or address.
fn is_part(character: char) -> bool {
    character.is_alphanumeric()
        || matches!(character, '_' | '-' | '.' | ':' | '/' | '@' | '%' | '+' | '\\' | '#' | '$' | '~')
}

/// What follows the quoted value of `key="value"` that `rest` begins with, if it is a variable.
fn quoted_value<'a>(rest: &'a str, out: &str) -> Option<&'a str> {
    let before = out.strip_suffix('=')?;
    let key = before.rsplit(|character: char| !character.is_alphanumeric()).next().unwrap_or_default();
    if TEXT_KEYS.iter().any(|text| key.eq_ignore_ascii_case(text)) {
        return None;
    }
    let quote = rest.chars().next().filter(|quote| matches!(quote, '"' | '\''))?;
    Some(rest.get(1..)?.split_once(quote)?.1)
}

/// A hole, unless it would only continue one: dates, addresses and lists of numbers are one hole.
fn push_hole(out: &mut String) {
    let before = out.trim_end_matches(['.', ':', '-', '/', ',', '+', ' ', '_', '#', '%']);
    if before.ends_with(HOLE) && out.len() - before.len() <= 2 {
        out.truncate(before.len());
    } else {
        out.push_str(HOLE);
    }
}

fn push_token(token: &str, out: &mut String) {
    // The end of a sentence is no part of a name.
    let name = token.trim_end_matches(['.', ':']);
    let end = token.get(name.len()..).unwrap_or_default();
    let has_digit = name.bytes().any(|byte| byte.is_ascii_digit());
    if name.contains("://") || (name.contains('@') && name.contains('.')) || is_id(name) {
        push_hole(out);
    } else if !has_digit && name.len() <= 64 {
        out.push_str(name);
    } else {
        // `OrderId:4bf92f35-77b3-4da6-a3ce-929d0e0e4736` is a name and an id.
        for piece in name.split_inclusive([':', '/', '+', '%', '#', '$', '~', '@', '\\']) {
            let id = piece.trim_end_matches([':', '/', '+', '%', '#', '$', '~', '@', '\\']);
            if is_id(id) {
                push_hole(out);
            } else {
                for part in id.split_inclusive(['.', '-', '_']) {
                    let word = part.trim_end_matches(['.', '-', '_']);
                    push_word(word, out);
                    out.push_str(part.get(word.len()..).unwrap_or_default());
                }
            }
            out.push_str(piece.get(id.len()..).unwrap_or_default());
        }
    }
    out.push_str(end);
}

/// Long runs of hexadecimal digits and hyphens: UUIDs, hashes, trace ids. And JSON Web Tokens, which begin with `{"` in
/// base64.
fn is_id(name: &str) -> bool {
    name.len() >= 16 && (name.starts_with("eyJ") || name.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-'))
}

fn push_word(word: &str, out: &mut String) {
    let digits = word.bytes().filter(u8::is_ascii_digit).count();
    if digits == 0 {
        if word.len() > 64 {
            push_hole(out);
        } else {
            out.push_str(word);
        }
        return;
    }
    let letters = word.find(|character: char| character.is_ascii_digit()).unwrap_or_default();
    let is_hex = word.len() >= 6 && word.bytes().all(|byte| byte.is_ascii_hexdigit());
    // `v1`, `http2` and `Travel2Service` are names.
    if digits == 1 && letters > 0 && !is_hex && word.len() <= 40 {
        out.push_str(word);
        return;
    }
    let tail = word.get(letters..).unwrap_or_default();
    // `user42` is a name and a number.
    if letters > 2 && !is_hex && tail.bytes().all(|byte| byte.is_ascii_digit()) {
        out.push_str(word.get(..letters).unwrap_or_default());
        out.push_str(HOLE);
        return;
    }
    push_hole(out);
}

#[cfg(test)]
mod tests {
    use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, KeyValueList};
    use proptest::prelude::*;

    use super::*;

    fn masked(text: &str) -> String {
        let mut out = String::new();
        mask(text, &mut out);
        out
    }

    #[test]
    fn what_varies_becomes_a_hole() {
        for (text, template) in [
            ("GET /api/v1/users/2117/orders took 31ms", "GET /api/v1/users/<*>/orders took <*>"),
            ("cannot reach redis-12.cache.internal:6379.", "cannot reach redis-<*>.cache.internal:<*>."),
            ("2023-01-29T10:00:00.123Z INFO  started", "<*> INFO started"),
            ("user42 paid 3.50 EUR, 7 items", "user<*> paid <*> EUR, <*> items"),
            ("id=4bf92f35-77b3-4da6-a3ce-929d0e0e4736 ok", "id=<*> ok"),
            ("token deadbeefcafedeadbeef", "token <*>"),
            ("[OrderId:4bf92f35-77b3-a0ec-a3ce-929d0e0e4736,Price: 50.0]", "[OrderId:<*>,Price: <*>]"),
            ("USER TOKEN: eyJhbGciOiJIUzI1NiJ9.eyJzdWIi-OiJm_ZHNl.x-Q9 USER ID: 1", "USER TOKEN: <*> USER ID: <*>"),
            ("mail to a.b@c.de from https://x.y/z?a=1", "mail to <*> from <*>?a=<*>"),
            ("java.util.TimeoutException: 5000", "java.util.TimeoutException: <*>"),
            ("level=info msg=\"all is well\" user=\"alice b\" n=5", "level=info msg=\"all is well\" user=<*> n=<*>"),
            ("peer 10.0.3.17:8443 [1, 2, 3]", "peer <*> [<*>]"),
            ("Travel2Service on http2 with utf8", "Travel2Service on http2 with utf8"),
            ("  a\n\tb  ", "a b"),
            ("支付服务超时 1200 次", "支付服务超时 <*> 次"),
        ] {
            assert_eq!(masked(text), template);
        }
    }

    #[test]
    fn the_message_of_a_structured_body_counts() {
        let string = |text: &str| Some(AnyValue { value: Some(Value::StringValue(text.to_owned())) });
        let of = |body| {
            let mut text = String::new();
            template(
                &LogRecord { body, event_name: "session.start".to_owned(), ..LogRecord::default() },
                "s",
                &mut text,
            );
            text
        };
        assert_eq!(of(string(r#"{"level":"info","msg":"took 5 s"}"#)), "took <*> s");
        assert_eq!(of(string(r#"{"b":1,"a":2}"#)), "{a, b}");
        let member = |key: &str| KeyValue { key: key.to_owned(), value: string("took 5 s"), ..KeyValue::default() };
        let map = |values| Some(AnyValue { value: Some(Value::KvlistValue(KeyValueList { values })) });
        assert_eq!(of(map(vec![member("x"), member("message")])), "took <*> s");
        assert_eq!(of(map(vec![member("x"), member("a")])), "{a, x}");
        assert_eq!(of(None), "session.start");
    }

    #[test]
    fn ids_are_frozen() {
        let log = LogRecord {
            severity_number: 18,
            body: Some(AnyValue { value: Some(Value::StringValue("took 5 ms".to_owned())) }),
            ..LogRecord::default()
        };
        let mut text = String::new();
        assert_eq!(template(&log, "shop", &mut text), (FROZEN, 17));
        assert_ne!(template(&log, "bank", &mut text).0, FROZEN);
        assert_ne!(template(&LogRecord { severity_number: 9, ..log.clone() }, "shop", &mut text).0, FROZEN);
    }

    const FROZEN: i64 = 6_233_839_168_310_720_248;

    proptest! {
        #[test]
        fn any_text_has_a_bounded_template(text in "\\PC{0,400}") {
            let out = masked(&text);
            prop_assert!(out.len() <= TEMPLATE_BYTES + READ_BYTES);
        }

        #[test]
        fn a_number_makes_no_other_template(a in 10u64.., b in 10u64..) {
            prop_assert_eq!(masked(&format!("took {a} ms of x{a}")), masked(&format!("took {b} ms of x{b}")));
        }
    }
}
