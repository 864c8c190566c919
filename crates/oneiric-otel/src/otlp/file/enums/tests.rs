use std::fs;
use std::path::Path;

use oneiric_otel_testkit::data::shared_data_for;
use serde_json::Value;

use super::*;
use crate::otlp::file::MAX_REQUEST_BYTES;
use crate::otlp::file::values::Values;
use crate::otlp::file::window::Window;

/// The text that comes out, without the padding, and the count. The padding is checked to keep the length.
#[track_caller]
fn numbered(signal: Signal, text: &str) -> (String, u64) {
    let body = Bytes::copy_from_slice(text.as_bytes());
    let (written, count) = number_names(signal, &body);
    assert_eq!(written.len(), body.len(), "{text}");
    if count == 0 {
        assert_eq!(written.as_ptr(), body.as_ptr(), "without names nothing is copied");
    }
    (String::from_utf8_lossy(&written).into_owned(), count)
}

#[track_caller]
fn untouched(signal: Signal, text: &str) {
    assert_eq!(numbered(signal, text), (text.to_owned(), 0));
}

#[test]
fn every_name_of_the_four_enums_becomes_its_number() {
    let mut named = 0;
    for number in 0..=25 {
        let members = [
            (Signal::Traces, "kind", SpanKind::try_from(number).ok().map(|kind| kind.as_str_name())),
            (Signal::Traces, "code", StatusCode::try_from(number).ok().map(|code| code.as_str_name())),
            (
                Signal::Metrics,
                "aggregationTemporality",
                AggregationTemporality::try_from(number).ok().map(|kind| kind.as_str_name()),
            ),
            (
                Signal::Logs,
                "severityNumber",
                SeverityNumber::try_from(number).ok().map(|severity| severity.as_str_name()),
            ),
        ];
        for (signal, key, name) in members {
            let Some(name) = name else { continue };
            let (written, count) = numbered(signal, &format!(r#"{{"{key}":"{name}"}}"#));
            assert_eq!((written.replace(' ', ""), count), (format!(r#"{{"{key}":{number}}}"#), 1));
            named += 1;
        }
    }
    assert_eq!(named, 6 + 3 + 3 + 25);
}

#[test]
fn the_rest_of_the_text_stays_where_it_was() {
    let text = "{ \"kind\" :\r\n\t\"SPAN_KIND_SERVER\" , \"name\":\"ü\", \"status\":{\"code\":\"STATUS_CODE_ERROR\"}}";
    let expected = "{ \"kind\" :\r\n\t2                  , \"name\":\"ü\", \"status\":{\"code\":2                  }}";
    assert_eq!(numbered(Signal::Traces, text), (expected.to_owned(), 2));
}

#[test]
fn escapes_are_read_as_json_reads_them() {
    let text = r#"{"k\u0069nd":"SPAN_KIND\u005fSERVER","a\"kind":"SPAN_KIND_SERVER","\\":1,"kind":"SPAN_KIND_CLIENT"}"#;
    let (written, count) = numbered(Signal::Traces, text);
    assert_eq!(count, 2);
    let expected = r#"{"k\u0069nd":2,"a\"kind":"SPAN_KIND_SERVER","\\":1,"kind":3}"#;
    assert_eq!(written.replace(' ', ""), expected);
}

#[test]
fn texts_and_other_members_are_never_touched() {
    for text in [
        r#"{"key":"kind","value":{"stringValue":"SPAN_KIND_SERVER"}}"#,
        r#"{"name":"SPAN_KIND_SERVER","kindOf":"SPAN_KIND_SERVER","Kind":"SPAN_KIND_SERVER"}"#,
        r#"{"stringValue":"{\"kind\":\"SPAN_KIND_SERVER\"}"}"#,
        r#"{"stringValue":"\\","b":"\"kind\":\"SPAN_KIND_SERVER\"\\\""}"#,
        r#"["kind","SPAN_KIND_SERVER",{"kind":["SPAN_KIND_SERVER"]},{"kind":2,"a":"SPAN_KIND_SERVER"}]"#,
        r#"{"a":"kind","b":"SPAN_KIND_SERVER"}"#,
    ] {
        untouched(Signal::Traces, text);
    }
}

#[test]
fn names_that_are_not_of_the_enum_stay() {
    for name in ["SERVER", "span_kind_server", " SPAN_KIND_SERVER", "SPAN_KIND_", "2", "", "STATUS_CODE_OK", "\\ud800"]
    {
        untouched(Signal::Traces, &format!(r#"{{"kind":"{name}"}}"#));
    }
}

#[test]
fn the_enums_of_other_signals_stay() {
    let members = [
        (Signal::Traces, r#"{"kind":"SPAN_KIND_SERVER"}"#),
        (Signal::Metrics, r#"{"aggregationTemporality":"AGGREGATION_TEMPORALITY_DELTA"}"#),
        (Signal::Logs, r#"{"severityNumber":"SEVERITY_NUMBER_INFO"}"#),
    ];
    for (own, text) in members {
        for signal in [Signal::Traces, Signal::Metrics, Signal::Logs] {
            assert_eq!(numbered(signal, text).1, u64::from(signal == own), "{text} as {signal:?}");
        }
    }
}

#[test]
fn text_that_breaks_off_is_left_as_it_is() {
    let text = r#"{"k\u0069nd" : "SPAN_KIND\u005fSERVER""#;
    for end in 0..text.len() {
        untouched(Signal::Traces, text.get(..end).unwrap());
    }
    assert_eq!(numbered(Signal::Traces, text).1, 1);
    untouched(Signal::Traces, r#"{"kind":"SPAN_KIND_SERVER\"#);
}

/// Replaces the names in a tree of values, without the text.
fn number_tree(signal: Signal, value: &mut Value, count: &mut u64) {
    match value {
        Value::Array(elements) => elements.iter_mut().for_each(|element| number_tree(signal, element, count)),
        Value::Object(members) => {
            for (key, value) in members {
                let number = match (signal, key.as_str(), value.as_str()) {
                    (Signal::Traces, "kind", Some(name)) => SpanKind::from_str_name(name).map(i32::from),
                    (Signal::Traces, "code", Some(name)) => StatusCode::from_str_name(name).map(i32::from),
                    (Signal::Metrics, "aggregationTemporality", Some(name)) => {
                        AggregationTemporality::from_str_name(name).map(i32::from)
                    }
                    (Signal::Logs, "severityNumber", Some(name)) => SeverityNumber::from_str_name(name).map(i32::from),
                    _ => None,
                };
                match number {
                    Some(number) => {
                        *value = number.into();
                        *count += 1;
                    }
                    None => number_tree(signal, value, count),
                }
            }
        }
        _ => {}
    }
}

fn check_files(folder: &Path, replaced: &mut u64) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            check_files(&path, replaced);
            continue;
        }
        for item in Values::new(Window::new(fs::File::open(&path).unwrap()), MAX_REQUEST_BYTES).flatten() {
            for signal in [Signal::Traces, Signal::Metrics, Signal::Logs] {
                let mut expected: Value = serde_json::from_slice(&item.body).unwrap();
                let mut count = 0;
                number_tree(signal, &mut expected, &mut count);
                let (written, found) = number_names(signal, &item.body);
                let written: Value = serde_json::from_slice(&written).unwrap();
                assert!(written == expected && found == count, "{}, {}: {found} and {count}", path.display(), item.at);
                *replaced += found;
            }
        }
    }
}

#[test]
fn the_text_of_real_files_is_changed_as_their_tree_of_values_would_be() {
    let Some(folder) = shared_data_for("enum names of otlp files", "otlp") else { return };
    let mut replaced = 0;
    check_files(&folder, &mut replaced);
    assert!(replaced > 0, "the files have names");
}
