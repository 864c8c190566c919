use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use oneiric_otel_testkit::data::{files, shared_data_for};
use opentelemetry_proto::tonic::metrics::v1::Gauge;
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use serde_json::Value;

use super::*;
use crate::otlp::canonical::bits_equal;
use crate::otlp::{Group, Undecodable, decode, json};

const SPANS: &str = r#"{"resourceSpans":[{"scopeSpans":[{"spans":[{"name":"s"}]}]}]}"#;
const LOGS: &str = r#"{"resourceLogs":[{"scopeLogs":[{"logRecords":[{"severityText":"w"}]}]}]}"#;
/// In the shared data: spans whose kinds are names, three requests one after the other.
const NAMED_KINDS: &str = "otlp/gcp-opentelemetry-operations-go/exporter/collector/integrationtest/testdata/fixtures/\
                           traces/traces_basic.json";

/// What is found, as `traces at line 1` or the error.
fn found(name: &str, bytes: impl Into<Vec<u8>>, hint: Option<Signal>) -> Vec<String> {
    requests(name, Bytes::from(bytes.into()), hint)
        .map(|found| match found {
            Ok(FileRequest { signal, encoding, at, .. }) => format!("{signal:?} in {encoding:?} at {at}"),
            Err(error) => error.to_string(),
        })
        .collect()
}

#[test]
fn an_empty_file_has_no_requests() {
    for bytes in ["", " \n\r\n", "\u{feff}", "{}", "[]", "{}\n{}"] {
        assert!(found("x.json", bytes, None).is_empty(), "{bytes:?}");
    }
}

#[test]
fn one_object_lines_concatenated_and_arrays_are_read() {
    let pretty = serde_json::to_string_pretty(&serde_json::from_str::<Value>(SPANS).unwrap()).unwrap();
    assert_eq!(found("x", SPANS, None), ["Traces in Json at line 1"]);
    assert_eq!(
        found("x", format!("\u{feff}\n{SPANS}\r\n\n{LOGS}\n"), None),
        ["Traces in Json at line 2", "Logs in Json at line 4"]
    );
    assert_eq!(found("x", format!("{LOGS}{SPANS}"), None), ["Logs in Json at line 1", "Traces in Json at line 1"]);
    let second = pretty.lines().count() + 1;
    assert_eq!(
        found("x", format!("{pretty}\n{pretty}"), None),
        ["Traces in Json at line 1".to_owned(), format!("Traces in Json at line {second}")]
    );
    assert_eq!(
        found("x", format!("[{LOGS},\n{SPANS}]"), None),
        ["Logs in Json at line 1, element 1", "Traces in Json at line 1, element 2"]
    );
}

#[test]
fn a_file_may_be_cut_anywhere_while_it_is_read() {
    let file = r#"{"resourceMetrics":[{"scopeMetrics":[{"metrics":[{"sum":{"dataPoints":[{"asDouble":-0.5e+1,"x":[true,null,"\u00e9é"]}]}}]}]}]}"#;
    let whole: Vec<_> = read("x", file.as_bytes(), None).collect();
    assert!(matches!(&*whole, [Ok(request)] if request.body == file), "{whole:?}");
    for end in 0..file.len() {
        let (begin, rest) = file.as_bytes().split_at(end);
        let pieces: Vec<_> = read("x", Read::chain(begin, rest), None).collect();
        assert_eq!(pieces, whole, "cut behind {:?}", String::from_utf8_lossy(begin));
    }
}

#[test]
fn bodies_are_the_objects_themselves() {
    let file = Bytes::from(format!(" [ {LOGS} , {SPANS} ]\n{SPANS}"));
    let bodies: Vec<Bytes> = requests("x", file, None).map(|found| found.unwrap().body).collect();
    assert_eq!(bodies, [LOGS, SPANS, SPANS]);
}

#[test]
fn an_object_of_two_signals_is_a_request_of_each() {
    let both = r#"{"resourceSpans":[],"resourceLogs":[]}"#;
    assert_eq!(found("x", both, None), ["Traces in Json at line 1", "Logs in Json at line 1"]);
}

#[test]
fn a_bad_line_does_not_cost_its_neighbours() {
    for bad in [
        r#"{"resourceSpans":[{"#,
        r#"{"resourceSpans":["#,
        r#"{"resourceSpans"#,
        "{\"a\":\"\u{1}\"}",
        "}",
        "# comment",
        r#"{"a":1}}"#,
    ] {
        let found = found("x", format!("{SPANS}\n{bad}\n{LOGS}\n{SPANS}\n"), None);
        assert_eq!(found.first().unwrap(), "Traces in Json at line 1", "{bad}");
        assert!(found[1].starts_with("line 2: "), "{bad}: {}", found[1]);
        assert_eq!(found[found.len() - 2..], ["Logs in Json at line 3", "Traces in Json at line 4"], "{bad}");
    }
    let bad_utf8 = [SPANS.as_bytes(), b"\n{\"a\":\"\xff\"}\n", LOGS.as_bytes()].concat();
    assert_eq!(found("x", bad_utf8, None)[2], "Logs in Json at line 3");
}

#[test]
fn a_file_of_garbage_is_given_up() {
    let found = found("x", "{\"a\":[\n".repeat(1200), None);
    assert_eq!(found.len(), 1000);
    assert!(found[0].contains("does not end"), "{}", found[0]);
    assert!(found[999].contains("the rest of the file is skipped"), "{}", found[999]);
}

#[test]
fn other_json_says_what_was_found_and_what_is_accepted() {
    for (file, said) in [
        (r#"{"traceID":"x","spans":[],"c":1,"d":2,"e":3,"f":4}"#, "the keys traceID, spans, c, d, e, ..."),
        (r#"{"resource_spans":[]}"#, "the keys resource_spans;"),
        (r#"[[{"resourceSpans":[]}]]"#, "found a list in a list"),
        (r#"["x"]"#, "found a JSON value that is no object"),
    ] {
        let found = found("x", file, None);
        assert!(found[0].contains(said) && found[0].contains("resourceMetrics"), "{file}: {}", found[0]);
    }
}

fn group<R>(record: R) -> Vec<Group<R>> {
    vec![Group { resource: <_>::default(), scope: <_>::default(), records: vec![record] }]
}

fn protobuf_traces() -> Vec<u8> {
    protobuf::encode(&group(Span { trace_id: vec![1; 16], span_id: vec![2; 8], ..Span::default() }))
}

#[test]
fn protobuf_tells_its_signal_by_hint_name_or_content() {
    let traces = protobuf_traces();
    let logs = protobuf::encode(&group(LogRecord { time_unix_nano: 5, ..LogRecord::default() }));
    let data = Some(Data::Gauge(Gauge::default()));
    let metrics = protobuf::encode(&group(Metric { name: "m".to_owned(), data, ..Metric::default() }));
    assert_eq!(found("x.pb", traces.clone(), None), ["Traces in Protobuf at message 1"]);
    assert_eq!(found("x.pb", logs.clone(), None), ["Logs in Protobuf at message 1"]);
    assert_eq!(found("x.pb", metrics.clone(), None), ["Metrics in Protobuf at message 1"]);
    // A record without fields can be anything.
    let anything = protobuf::encode(&group(LogRecord::default()));
    assert_eq!(found("/logs/my-Metrics.pb", anything.clone(), None), ["Metrics in Protobuf at message 1"]);
    assert_eq!(found("x.pb", anything, Some(Signal::Traces)), ["Traces in Protobuf at message 1"]);
    // A name that is wrong does not hide what the file is; a hint is obeyed.
    assert_eq!(found("blog.pb", traces.clone(), None), ["Traces in Protobuf at message 1"]);
    assert!(found("x.pb", traces, Some(Signal::Logs))[0].contains("nor OTLP protobuf of Logs"));
    for garbage in [&b"\xff\xff\xff\xff"[..], b"PK\x03\x04", b"hello", b"\x1f\x8b\x08\x00"] {
        let found = found("x", garbage, None);
        assert!(found.len() == 1 && found[0].contains("accepted are OTLP/JSON"), "{found:?}");
    }
}

#[test]
fn length_prefixed_protobuf_is_read() {
    let traces = protobuf_traces();
    let mut fixed = Vec::new();
    let mut varint = Vec::new();
    for _ in 0..3 {
        fixed.extend_from_slice(&u32::try_from(traces.len()).unwrap().to_be_bytes());
        fixed.extend_from_slice(&traces);
        prost::encode_length_delimiter(traces.len(), &mut varint).unwrap();
        varint.extend_from_slice(&traces);
    }
    let expected = [1, 2, 3].map(|index| format!("Traces in Protobuf at message {index}"));
    assert_eq!(found("x", fixed, None), expected);
    assert_eq!(found("x", varint.clone(), None), expected);
    assert_eq!(found("traces", varint, None), expected);
}

#[test]
fn a_protobuf_file_that_begins_like_json_is_protobuf() {
    let record = Span { trace_id: vec![1; 16], span_id: vec![2; 8], name: "x".repeat(89), ..Span::default() };
    let file = protobuf::encode(&group(record));
    assert_eq!(file.get(..2), Some(&b"\n{"[..]));
    assert_eq!(found("x", file, None), ["Traces in Protobuf at message 1"]);
}

/// How many records a request holds by a count of its own, of kept and undecodable ones alike.
fn count(body: &[u8], resources: &str, scopes: &str, records: &str) -> u64 {
    let list = |value: &Value, key: &str| value[key].as_array().cloned().unwrap_or_default();
    let request: Value = serde_json::from_slice(body).unwrap();
    let mut count = 0;
    for resource in list(&request, resources) {
        for scope in list(&resource, scopes) {
            for record in list(&scope, records) {
                let kinds = ["gauge", "sum", "histogram", "exponentialHistogram", "summary"];
                let points: u64 = kinds.iter().map(|kind| list(&record[kind], "dataPoints").len() as u64).sum();
                count += if records == "metrics" { points } else { 1 };
            }
        }
    }
    count
}

/// Decodes, checks the count and both round trips, and says how many records were kept and which were lost.
fn check<R: Record>(path: &Path, request: &FileRequest) -> (u64, Vec<Undecodable>) {
    let decoded: Decoded<R> = decode(request.encoding, &request.body).unwrap();
    let kept: u64 = decoded.groups.iter().flat_map(|group| &group.records).map(Record::count).sum();
    if request.encoding == Encoding::Json {
        let lost: u64 = decoded.undecodable.iter().map(|lost| lost.records).sum();
        let names = R::NAMES;
        let expected = count(&request.body, names.resources, names.scopes, names.records);
        assert_eq!(kept + lost, expected, "{}: {:?}", path.display(), decoded.undecodable);
    }
    for again in [
        decode::<R>(Encoding::Json, &json::encode(&decoded.groups).into()).unwrap(),
        decode::<R>(Encoding::Protobuf, &protobuf::encode(&decoded.groups).into()).unwrap(),
    ] {
        assert_eq!(again.undecodable, [], "{}", path.display());
        for (left, right) in decoded.groups.iter().zip(&again.groups) {
            assert!(bits_equal(left.resource.as_ref(), right.resource.as_ref()), "{}", path.display());
            assert!(bits_equal(left.scope.as_ref(), right.scope.as_ref()), "{}", path.display());
            assert_eq!(left.records.len(), right.records.len());
            for (left, right) in left.records.iter().zip(&right.records) {
                assert!(bits_equal(left, right), "{}: {left:?}", path.display());
            }
        }
        assert_eq!(decoded.groups.len(), again.groups.len());
    }
    (kept, decoded.undecodable)
}

#[test]
fn every_file_of_real_telemetry_is_read_whole_or_refused_with_a_reason() {
    let Some(folder) = shared_data_for("otlp files", "otlp") else { return };
    let mut kept = [0, 0, 0];
    let mut reasons: BTreeMap<&str, u64> = BTreeMap::new();
    let mut refused = 0;
    let mut enum_names = [0, 0, 0];
    for path in files(&folder) {
        let bytes = Bytes::from(fs::read(&path).unwrap());
        for found in requests(path.to_str().unwrap(), bytes, None) {
            let request = match found {
                Ok(request) => request,
                Err(error) => {
                    assert!(error.reason.contains("accepted are"), "{}: {error}", path.display());
                    refused += 1;
                    continue;
                }
            };
            let (read, lost) = match request.signal {
                Signal::Traces => check::<Span>(&path, &request),
                Signal::Metrics => check::<Metric>(&path, &request),
                Signal::Logs => check::<LogRecord>(&path, &request),
            };
            kept[request.signal as usize] += read;
            enum_names[request.signal as usize] += request.enum_names;
            for Undecodable { records, reason, .. } in lost {
                let known = ["looks like base64", "expected a string"];
                let class = known.into_iter().find(|class| reason.contains(class));
                *reasons.entry(class.unwrap_or("unexpected")).or_default() += records;
            }
        }
    }
    // Lost are only records that OTLP/JSON forbids: ids in base64, and `"unit": 1`. Enums by name are read.
    assert_eq!(kept, [52, 804, 93]);
    assert_eq!(enum_names, [65, 116, 4]);
    let expected = [("expected a string", 18), ("looks like base64", 12)];
    assert_eq!(reasons.into_iter().collect::<Vec<_>>(), expected);
    assert_eq!(refused, 158);
}

#[test]
fn spans_whose_kinds_are_names_are_read_from_a_file_and_refused_from_a_sender() {
    let Some(path) = shared_data_for("spans_whose_kinds_are_names", NAMED_KINDS) else { return };
    let text = Bytes::from(fs::read(&path).unwrap());
    let mut kinds = BTreeMap::new();
    let mut enum_names = 0;
    for request in requests("traces_basic.json", text.clone(), None) {
        let request = request.unwrap();
        enum_names += request.enum_names;
        let decoded: Decoded<Span> = decode(request.encoding, &request.body).unwrap();
        assert_eq!(decoded.undecodable, []);
        for span in decoded.groups.iter().flat_map(|group| &group.records) {
            *kinds.entry(span.kind().as_str_name()).or_insert(0) += 1;
        }
    }
    assert_eq!(enum_names, 45);
    let expected = [("SPAN_KIND_CLIENT", 15), ("SPAN_KIND_INTERNAL", 15), ("SPAN_KIND_SERVER", 15)];
    assert_eq!(kinds.into_iter().collect::<Vec<_>>(), expected);

    let mut sent = 0;
    for item in Values::new(Window::new(text.reader()), MAX_REQUEST_BYTES) {
        let decoded: Decoded<Span> = decode(Encoding::Json, &item.unwrap().body).unwrap();
        assert!(decoded.groups.is_empty());
        assert!(decoded.undecodable.iter().all(|lost| lost.reason.contains("written as their number")));
        sent += decoded.undecodable.len();
    }
    assert_eq!(sent, 45);
}

#[test]
fn an_object_of_two_signals_has_each_name_counted_once() {
    let both = r#"{"resourceSpans":[{"scopeSpans":[{"spans":[{"kind":"SPAN_KIND_SERVER"}]}]}],
        "resourceLogs":[{"scopeLogs":[{"logRecords":[{"severityNumber":"SEVERITY_NUMBER_INFO"}]}]}]}"#;
    let found: Vec<FileRequest> = requests("x", both.into(), None).map(Result::unwrap).collect();
    assert_eq!(
        found.iter().map(|request| (request.signal, request.enum_names)).collect::<Vec<_>>(),
        [(Signal::Traces, 1), (Signal::Logs, 1)]
    );
    let logs: Decoded<LogRecord> = decode(Encoding::Json, &found[1].body).unwrap();
    assert_eq!(logs.groups[0].records[0].severity_number, 9);
}

#[test]
fn an_enum_name_that_nobody_knows_costs_its_record() {
    let line = SPANS.replace(r#""name":"s""#, r#""kind":"SPAN_KIND_OTHER"},{"kind":"SPAN_KIND_CLIENT""#);
    let request = requests("x", line.into(), None).next().unwrap().unwrap();
    assert_eq!(request.enum_names, 1);
    let decoded: Decoded<Span> = decode(Encoding::Json, &request.body).unwrap();
    assert_eq!(decoded.groups[0].records[0].kind, 3);
    assert!(decoded.undecodable[0].reason.contains("SPAN_KIND_OTHER"), "{:?}", decoded.undecodable);
}

/// Gives out so many bytes at a time, as a pipe may.
struct Pieces<'a> {
    bytes: &'a [u8],
    size: usize,
}

impl Read for Pieces<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let count = self.size.min(into.len());
        self.bytes.read(&mut into[..count])
    }
}

/// What is found in pieces and with a limit, as `traces at line 1` or the error.
fn found_within(limit: usize, name: &str, source: impl Read) -> Vec<String> {
    let shown = |found: Result<FileRequest, FileError>| match found {
        Ok(FileRequest { signal, at, .. }) => format!("{signal:?} at {at}"),
        Err(error) => error.to_string(),
    };
    read_within(limit, name, source, None).map(shown).collect()
}

fn with_lengths(messages: &[Vec<u8>], varint: bool) -> Vec<u8> {
    let mut file = Vec::new();
    for message in messages {
        if varint {
            prost::encode_length_delimiter(message.len(), &mut file).unwrap();
        } else {
            file.extend_from_slice(&u32::try_from(message.len()).unwrap().to_be_bytes());
        }
        file.extend_from_slice(message);
    }
    file
}

#[test]
fn it_does_not_matter_in_what_pieces_a_file_comes() {
    let pretty = serde_json::to_string_pretty(&serde_json::from_str::<Value>(SPANS).unwrap()).unwrap();
    let files = [
        format!("\u{feff} \n{SPANS}\r\n\n{LOGS}{LOGS}\n{pretty}\n{pretty}\n 1234567890 \"text\" true\n{SPANS}")
            .into_bytes(),
        format!("[{LOGS},\n[1, 2], {pretty}]\n[]{SPANS}").into_bytes(),
        format!("{SPANS}\n{{\"a\":\n{LOGS}\n{SPANS}\n{{\"a\":[\"").into_bytes(),
        protobuf_traces(),
        with_lengths(&[protobuf_traces(), protobuf_traces()], false),
        with_lengths(&[protobuf_traces(), protobuf_traces()], true),
        b"garbage".to_vec(),
    ];
    for file in files {
        let whole: Vec<_> = requests("x", file.clone().into(), None).collect();
        assert!(!whole.is_empty());
        for size in [1, 2, 3, 7, 64] {
            let pieces: Vec<_> = read("x", Pieces { bytes: &file, size }, None).collect();
            assert_eq!(pieces, whole, "in pieces of {size}");
        }
    }
}

#[test]
fn a_file_without_end_is_read_as_it_comes() {
    #[derive(Debug)]
    struct Endless(usize);
    impl Read for Endless {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            let line = format!("{SPANS}\n");
            for byte in &mut *into {
                *byte = line.as_bytes()[self.0 % line.len()];
                self.0 += 1;
            }
            Ok(into.len())
        }
    }
    let mut requests = read("x", Endless(0), None);
    for line in 1..20_000 {
        assert_eq!(requests.next().unwrap().unwrap().at, format!("line {line}"));
    }
    let Rest::Json(values) = &requests.rest else { panic!("{:?}", requests.rest) };
    assert!(format!("{values:?}").len() < 4 << 20, "what was given out is not kept");
}

#[test]
fn a_json_value_beyond_the_limit_costs_only_itself() {
    let long = SPANS.replace("\"s\"", &format!("\"{}\"", "s".repeat(5000)));
    let pretty = serde_json::to_string_pretty(&serde_json::from_str::<Value>(&long).unwrap()).unwrap();
    for (large, lines) in [(&long, 1), (&pretty, pretty.lines().count())] {
        for size in [10, 100, 100_000] {
            let file = format!("{SPANS}\n{large}\n{LOGS}\n");
            let found = found_within(200, "x", Pieces { bytes: file.as_bytes(), size });
            assert_eq!(found[0], "Traces at line 1");
            assert!(found[1].starts_with("line 2: ") && found[1].contains("a request may have 64 MiB"), "{}", found[1]);
            assert_eq!(found[2..], [format!("Logs at line {}", lines + 2)]);
        }
    }
    // An array is not a value: it may be as long as it likes.
    let array = format!("[{}{SPANS}]", format!("{SPANS},\n").repeat(99));
    let found = found_within(200, "x", array.as_bytes());
    assert_eq!(found.len(), 100);
    assert_eq!(found[99], "Traces at line 1, element 100");
}

#[test]
fn an_array_that_is_cut_off_keeps_what_it_has() {
    let found = |file: String| found_within(1000, "x", file.as_bytes());
    let cut_off = "line 1: the array that begins here does not end";
    assert_eq!(found(format!("[{SPANS},\n")), ["Traces at line 1, element 1", cut_off]);
    assert_eq!(found(format!("[{SPANS}\n{LOGS}")), ["Traces at line 1, element 1", cut_off, "Logs at line 2"]);
    let broken = found(format!("[{SPANS},\n{{\"a\": nonsense}},\n{LOGS}]\n{SPANS}"));
    assert!(broken[1].starts_with("line 1, element 2: ") && broken[1].contains("cannot be read"), "{broken:?}");
    assert_eq!(broken[2..], ["Logs at line 1, element 3", "Traces at line 4"]);
}

#[test]
fn protobuf_beyond_the_limit_is_read_if_it_has_lengths() {
    let traces = protobuf_traces();
    let limit = traces.len() + 10;
    let large = protobuf::encode(&group(Span { name: "x".repeat(1000), trace_id: vec![1; 16], ..Span::default() }));
    for varint in [false, true] {
        let messages = [traces.clone(), traces.clone(), traces.clone(), large.clone(), traces.clone()];
        let file = with_lengths(&messages, varint);
        for size in [1, 100_000] {
            let found = found_within(limit, "x", Pieces { bytes: &file, size });
            assert_eq!(found[..3], [1, 2, 3].map(|number| format!("Traces at message {number}")));
            let reason = format!("message 4: it has {} bytes; a request may have 64 MiB", large.len());
            assert_eq!(found[3..], [reason, "Traces at message 5".to_owned()]);
        }
        let cut = found_within(limit, "x", &file[..file.len() - 1]);
        assert!(cut[4].starts_with("message 5: the file ends before"), "{cut:?}");
        assert_eq!(cut.len(), 5);
    }
    for name in ["x", "traces.pb"] {
        let single = found_within(limit, name, &*large);
        assert!(single.len() == 1 && single[0].contains("a request may have 64 MiB"), "{single:?}");
    }
    assert_eq!(found_within(traces.len(), "x", &*traces), ["Traces at message 1"]);
}

#[test]
fn a_source_that_fails_is_told_after_what_it_gave() {
    struct Failing;
    impl Read for Failing {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::other("the disk is gone"))
        }
    }
    assert_eq!(found_within(200, "x", Failing), ["byte 0: cannot read on: the disk is gone"]);
    let lines = format!("{SPANS}\n{LOGS}\n{{");
    let expected = ["Traces at line 1", "Logs at line 2", "line 3: cannot read on: the disk is gone"];
    assert_eq!(found_within(200, "x", Read::chain(lines.as_bytes(), Failing)), expected);
    let file = with_lengths(&[protobuf_traces(), protobuf_traces(), protobuf_traces()], false);
    let limit = protobuf_traces().len();
    let found = found_within(limit, "x", Read::chain(&*file, Failing));
    assert_eq!(found.last().unwrap(), "message 4: cannot read on: the disk is gone");
}
