//! Records as they are stored: rows that PostgreSQL takes, and jsonb and hints that give back what came.

use oneiric_otel::otlp::canonical::bits_equal;
use oneiric_otel::otlp::point;
use oneiric_otel::store::fuzzing::{Columns, log_row, point_row, read, read_attributes, read_residue, span_row, write};
use opentelemetry_proto::tonic::common::v1::KeyValueList;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use opentelemetry_proto::tonic::metrics::v1::Metric;
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::Event;
use prost::Message;

use crate::memory;

/// Bytes of memory for a byte of attributes: a value in a list takes two.
const FACTOR: usize = 4096;

/// Checks attributes, given as an `Event` in protobuf, and as a value beside them.
pub fn attributes(event: &[u8]) {
    memory::bounded(event.len(), FACTOR, || {
        let Ok(Event { attributes, .. }) = Event::decode(event) else { return };
        let value = Some(AnyValue { value: Some(Value::KvlistValue(KeyValueList { values: attributes.clone() })) });
        for value in [None, value, attributes.first().and_then(|first| first.value.clone())] {
            let (json, hints) = write(&attributes, value.as_ref());
            let json = String::from_utf8(json).expect("JSON is UTF-8");
            let (attributes_back, value_back) = read(&jsonb(&json), &hints).expect("what was written can be read");
            assert!(bits_equal(attributes.as_slice(), attributes_back.as_slice()), "attributes differ: {json}");
            assert!(same_value(value, value_back), "a value differs: {json}");
        }
    });
}

fn same_value(left: Option<AnyValue>, right: Option<AnyValue>) -> bool {
    let list = |value| [KeyValue { key: String::new(), value, key_strindex: 0 }];
    bits_equal(list(left).as_slice(), list(right).as_slice())
}

/// Checks that hints which do not fit do no harm: the first two bytes are the length of the residue, the rest is JSON.
pub fn hints(input: &[u8]) {
    let Some((length, rest)) = input.split_first_chunk() else { return };
    let (residue, json) = rest.split_at(usize::from(u16::from_le_bytes(*length)).min(rest.len()));
    let Ok(json) = std::str::from_utf8(json) else { return };
    memory::bounded(input.len(), FACTOR, || {
        read_residue(residue, json);
        if let Some((attributes, value)) = read(json, residue) {
            // Whatever was read can be written, and is then read as it is.
            let (json, hints) = write(&attributes, value.as_ref());
            let json = String::from_utf8(json).expect("JSON is UTF-8");
            let again = read(&jsonb(&json), &hints).expect("what was written can be read");
            assert!(bits_equal(attributes.as_slice(), again.0.as_slice()), "attributes differ: {json}");
            assert!(same_value(value, again.1), "a value differs: {json}");
        }
    });
}

/// Checks the row of a record in protobuf. The first byte says which: a span, a log record or a metric.
pub fn rows(input: &[u8]) {
    let Some((which, record)) = input.split_first() else { return };
    memory::bounded(record.len(), FACTOR, || match which % 3 {
        0 => {
            let Ok(span) = Span::decode(record) else { return };
            check_row(&span_row(&span), Some(&span.attributes));
        }
        1 => {
            let Ok(log) = LogRecord::decode(record) else { return };
            check_row(&log_row(&log), Some(&log.attributes));
        }
        _ => {
            let Ok(metric) = Metric::decode(record) else { return };
            let Some((_, points)) = point::split(metric) else { return };
            points.iter().for_each(|point| check_row(&point_row(point), None));
        }
    });
}

/// Whether PostgreSQL takes the columns, and the attributes come back.
fn check_row(columns: &Columns, attributes: Option<&[KeyValue]>) {
    let mut stored = String::new();
    let mut residue: &[u8] = &[];
    for (name, value) in columns {
        let Some(value) = value else { continue };
        let text = || std::str::from_utf8(value).expect("text is UTF-8");
        match *name {
            "attributes" | "events" | "links" | "body_json" | "exemplars" => {
                let json = text().strip_prefix('\u{1}').expect("the version of jsonb");
                let json = jsonb(json);
                if *name == "attributes" {
                    stored = json;
                }
            }
            "service_name" | "name" | "kind" | "status" | "status_message" | "error_type" | "error_message"
            | "trace_state" | "severity_text" | "event_name" | "body" => {
                assert!(!text().contains('\0'), "a text column refuses NUL: {name}");
            }
            "bucket_counts" | "positive_counts" | "negative_counts" | "quantiles" | "quantile_values" => {
                let count = i32::from_be_bytes(value[12..16].try_into().expect("a count"));
                assert_eq!(value.len(), 20 + count as usize * 12, "the length of {name}");
            }
            "residue" => residue = value,
            "trace_id" => assert_eq!(value.len(), 16, "the length of a uuid"),
            "span_id" | "parent_span_id" => {}
            name => assert!([1, 2, 4, 8].contains(&value.len()), "{name} has {} bytes", value.len()),
        }
    }
    if let Some(attributes) = attributes {
        let back = read_attributes(&stored, residue).expect("what was written can be read");
        assert!(bits_equal(attributes, back.as_slice()), "attributes differ: {stored}");
    }
}

/// JSON as PostgreSQL gives it back from a jsonb column: keys ordered by length and then by bytes, the last of equal ones
/// only, numbers as decimals without an exponent.
///
/// # Panics
/// When it is JSON that PostgreSQL refuses.
fn jsonb(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    let rest = value(json, &mut out);
    assert!(rest.trim_start().is_empty(), "more than one JSON value: {json}");
    out
}

/// Takes a value from the beginning of `json` and writes it as jsonb; gives back the rest.
fn value<'a>(json: &'a str, out: &mut String) -> &'a str {
    let json = json.trim_start();
    match json.as_bytes().first().expect("a JSON value") {
        b'{' => object(&json[1..], out),
        b'[' => {
            out.push('[');
            let mut rest = json[1..].trim_start();
            while !rest.starts_with(']') {
                rest = value(rest, out).trim_start();
                if let Some(more) = rest.strip_prefix(',') {
                    out.push_str(", ");
                    rest = more;
                }
            }
            out.push(']');
            &rest[1..]
        }
        b'"' => {
            let end = string_end(json);
            assert!(!has_nul(&json[..end]), "jsonb refuses NUL: {json}");
            out.push_str(&json[..end]);
            &json[end..]
        }
        b'-' | b'0'..=b'9' => {
            let end = json.find(|c: char| !matches!(c, '0'..='9' | '+' | '-' | '.' | 'e' | 'E')).unwrap_or(json.len());
            out.push_str(&decimal(&json[..end]));
            &json[end..]
        }
        _ => {
            let word = ["true", "false", "null"].into_iter().find(|word| json.starts_with(word)).expect("a JSON value");
            out.push_str(word);
            &json[word.len()..]
        }
    }
}

fn object<'a>(json: &'a str, out: &mut String) -> &'a str {
    let mut entries: Vec<(String, &str, String)> = Vec::new();
    let mut rest = json.trim_start();
    while !rest.starts_with('}') {
        let end = string_end(rest);
        let written = &rest[..end];
        let key: String = serde_json::from_str(written).expect("a JSON string");
        assert!(!has_nul(written), "jsonb refuses NUL: {json}");
        rest = rest[end..].trim_start().strip_prefix(':').expect("a colon");
        let mut member = String::new();
        rest = value(rest, &mut member).trim_start();
        entries.retain(|(earlier, ..)| *earlier != key);
        entries.push((key, written, member));
        rest = rest.strip_prefix(',').unwrap_or(rest).trim_start();
    }
    entries.sort_by(|(a, ..), (b, ..)| a.len().cmp(&b.len()).then_with(|| a.as_bytes().cmp(b.as_bytes())));
    let entries: Vec<String> = entries.iter().map(|(_, key, member)| format!("{key}: {member}")).collect();
    out.push('{');
    out.push_str(&entries.join(", "));
    out.push('}');
    &rest[1..]
}

/// Whether a JSON string has a NUL. A backslash may stand before `u0000` for itself.
fn has_nul(string: &str) -> bool {
    string.contains("u0000") && serde_json::from_str::<String>(string).expect("a JSON string").contains('\0')
}

/// Where the string that begins `json` ends.
fn string_end(json: &str) -> usize {
    let mut escaped = false;
    let closes = |(at, byte): (usize, u8)| {
        let closes = at > 0 && byte == b'"' && !escaped;
        escaped = byte == b'\\' && !escaped;
        closes
    };
    json.bytes().enumerate().position(closes).expect("the end of a string") + 1
}

/// A number as `numeric` writes it: no exponent, and as many digits after the point as were given.
fn decimal(number: &str) -> String {
    let (sign, number) = number.strip_prefix('-').map_or(("", number), |rest| ("-", rest));
    let (mantissa, exponent) = number.split_once(['e', 'E']).unwrap_or((number, "0"));
    let exponent: i32 = exponent.parse().expect("an exponent");
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = format!("{whole}{fraction}");
    let point = whole.len() as i32 + exponent;
    let (whole, fraction) = if point <= 0 {
        (String::new(), format!("{}{digits}", "0".repeat(point.unsigned_abs() as usize)))
    } else if point as usize >= digits.len() {
        (format!("{digits}{}", "0".repeat(point as usize - digits.len())), String::new())
    } else {
        let (whole, fraction) = digits.split_at(point as usize);
        (whole.to_owned(), fraction.to_owned())
    };
    let whole = whole.trim_start_matches('0');
    let whole = if whole.is_empty() { "0" } else { whole };
    // numeric has no negative zero.
    let is_zero = whole == "0" && fraction.bytes().all(|digit| digit == b'0');
    let sign = if is_zero { "" } else { sign };
    if fraction.is_empty() { format!("{sign}{whole}") } else { format!("{sign}{whole}.{fraction}") }
}
