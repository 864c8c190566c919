//! `compare` against files, and against an HTTP server that answers as a Jaeger does.
//!
//! No package registry has a Jaeger to run, so its part is played by a server with the shapes of `/api/services` and
//! `/api/traces` as Jaeger's own code has them, with its limit on answers, and with the windows of time that are asked for.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use oneiric_otel_testkit::TestDatabase;
use serde_json::{Value, json};

use crate::cli::{Run, run, run_with_input, text};

const START: u64 = 1_767_225_600_000_000_000;

/// Spans of traces, each with a root and a child, one request for a trace.
fn otlp(traces: u64) -> Vec<Value> {
    let trace = |trace: u64| {
        let span = |span: u64| {
            let start = START + trace * 1_000_000 + span * 1000;
            json!({
                "traceId": format!("{:032x}", trace + 1), "spanId": format!("{:016x}", 2 * trace + span + 1),
                "parentSpanId": if span == 0 { String::new() } else { format!("{:016x}", 2 * trace + 1) },
                "name": if span == 0 { "GET /" } else { "SELECT" }, "kind": if span == 0 { 2 } else { 3 },
                "startTimeUnixNano": start.to_string(), "endTimeUnixNano": (start + 5_000_500).to_string(),
                "attributes": [{"key": "number", "value": {"intValue": trace.to_string()}}],
                "status": {"code": 2, "message": "boom"},
                "events": [{"timeUnixNano": (start + 10_000).to_string(), "name": "retry"}]
            })
        };
        json!({"resourceSpans": [{
            "resource": {"attributes": [{"key": "service.name", "value": {"stringValue": "shop"}}]},
            "scopeSpans": [{"scope": {"name": "lib"}, "spans": [span(0), span(1)]}]
        }]})
    };
    (0..traces).map(trace).collect()
}

fn lines(requests: &[Value]) -> String {
    requests.iter().map(Value::to_string).collect::<Vec<_>>().join("\n")
}

async fn filled(requests: &[Value]) -> TestDatabase {
    let database = TestDatabase::create().await;
    let import = ["import", "-", "--no-wait", "--database-url", database.url()];
    run_with_input(&import, lines(requests).as_bytes()).await.expect(0);
    database
}

async fn compare(database: &TestDatabase, arguments: &[&str]) -> Run {
    run(&[&["compare", "--database-url", database.url()], arguments].concat()).await
}

/// The spans with differences, as `TRACE/SPAN kind fields`.
fn named(outcome: &Value) -> Vec<String> {
    let mut named = Vec::new();
    for trace in outcome["traces"].as_array().unwrap() {
        for span in trace["spans"].as_array().unwrap() {
            let fields: Vec<&str> =
                span["fields"].as_array().into_iter().flatten().map(|f| f["field"].as_str().unwrap()).collect();
            let id = |value: &Value| value.as_str().unwrap().trim_start_matches('0').to_owned();
            let kind = span["kind"].as_str().unwrap();
            named.push(
                format!("{}/{} {kind} {}", id(&trace["trace_id"]), id(&span["span_id"]), fields.join(","))
                    .trim()
                    .to_owned(),
            );
        }
    }
    named
}

fn span_of(request: &mut Value, span: usize) -> &mut Value {
    &mut request["resourceSpans"][0]["scopeSpans"][0]["spans"][span]
}

#[tokio::test]
async fn an_export_is_the_same_and_each_change_is_named() {
    let requests = otlp(30);
    let database = filled(&requests).await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("spans.jsonl");
    run(&["export", "--database-url", database.url(), "--output", text(&file)]).await.expect(0);
    let same = compare(&database, &["--otlp-file", text(&file), "--json"]).await.expect(0).json();
    assert_eq!((&same["summary"]["traces"], &same["summary"]["same_traces"]), (&30.into(), &30.into()), "{same:#}");
    assert_eq!((&same["summary"]["spans_here"], &same["summary"]["spans_there"]), (&60.into(), &60.into()));
    let shown = compare(&database, &["--otlp-file", text(&file)]).await.expect(0).stdout;
    assert_eq!(shown, "30 traces compared, 30 are the same; 60 spans here, 60 there\n");

    let mut there = requests.clone();
    span_of(&mut there[2], 1)["name"] = "INSERT\u{1b}[31m".into();
    span_of(&mut there[3], 0)["attributes"][0]["value"] = json!({"stringValue": "3"});
    there[4]["resourceSpans"][0]["scopeSpans"][0]["spans"].as_array_mut().unwrap().remove(1);
    there.push(requests[5].clone());
    let extra = otlp(31).pop().unwrap();
    there.push(extra);
    there.remove(6);
    std::fs::write(&file, lines(&there)).unwrap();
    // And a row is gone here.
    database
        .client()
        .await
        .execute("delete from otel.otel_spans where span_id = '\\x0000000000000010'", &[])
        .await
        .unwrap();
    let different = compare(&database, &["--otlp-file", text(&file), "--json"]).await.expect(1).json();
    assert_eq!(
        named(&different),
        [
            "3/6 different name",
            "4/7 different attributes.number",
            "5/a missing_there",
            "6/b doubled_there",
            "6/c doubled_there",
            "7/d missing_there",
            "7/e missing_there",
            "8/10 missing_here",
            "1f/3d missing_here",
            "1f/3e missing_here",
        ]
    );
    let summary = &different["summary"];
    assert_eq!((&summary["traces"], &summary["same_traces"]), (&31.into(), &24.into()), "{summary:#}");
    assert_eq!((&summary["traces_missing_here"], &summary["traces_missing_there"]), (&1.into(), &1.into()));
    assert_eq!(summary["fields"], json!({"attributes": 1, "name": 1}));
    let shown = compare(&database, &["--otlp-file", text(&file)]).await.expect(1).stdout;
    assert!(shown.contains("attributes.number: here 3, there \"3\""), "{shown}");
    assert!(shown.contains("missing there, 2 spans here") && !shown.contains('\u{1b}'), "{shown}");
    let few = compare(&database, &["--otlp-file", text(&file), "--limit=2"]).await.expect(1).stdout;
    assert!(few.contains("and 5 more traces that differ"), "{few}");
}

#[tokio::test]
async fn a_range_narrows_both_sides_and_a_file_can_come_in_pieces() {
    let requests = otlp(20);
    let database = filled(&requests[..15]).await;
    let dir = tempfile::tempdir().unwrap();
    let (first, second) = (dir.path().join("1.jsonl"), dir.path().join("2.jsonl"));
    std::fs::write(&first, lines(&requests[..10])).unwrap();
    std::fs::write(&second, lines(&requests[10..20])).unwrap();
    // Without a range it is the file's: what is stored beside it says nothing.
    compare(&database, &["--otlp-file", text(&first)]).await.expect(0);
    let both = ["--otlp-file", text(&first), "--otlp-file", text(&second)];
    let all = compare(&database, &[&both[..], &["--json"]].concat()).await.expect(1).json();
    assert_eq!((&all["summary"]["traces_missing_here"], &all["summary"]["traces"]), (&5.into(), &20.into()));
    let until = "--until=2026-01-01T00:00:00.015Z";
    compare(&database, &[&both[..], &[until]].concat()).await.expect(0);
    let since = "--since=2026-01-01T00:00:00.010Z";
    let less = compare(&database, &["--otlp-file", text(&first), since, until, "--json"]).await.expect(1).json();
    assert_eq!((&less["summary"]["traces_missing_there"], &less["summary"]["traces"]), (&5.into(), &5.into()));
}

#[tokio::test]
async fn what_cannot_be_compared_is_no_difference() {
    let requests = otlp(2);
    let database = filled(&requests).await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("spans.jsonl");
    let refused = async |arguments: &[&str], words: &str| {
        let refused = compare(&database, arguments).await.expect(2);
        let said = format!("{}{}", refused.stdout, refused.stderr);
        assert!(said.contains(words), "{arguments:?}: {said}");
    };
    refused(&[], "--otlp-file").await;
    refused(&["--otlp-file", "/no/such/file"], "/no/such/file").await;
    refused(&["--jaeger", "http://127.0.0.1:1"], "--since").await;
    refused(&["--jaeger", "http://127.0.0.1:1", "--since=1h"], "Jaeger at http://127.0.0.1:1").await;
    refused(&["--jaeger", "nonsense", "--since=1h"], "http://HOST:PORT").await;
    refused(&["--otlp-file=x", "--since=1h", "--until=2h"], "--until").await;
    std::fs::write(&file, lines(&requests)).unwrap();
    let nothing = ["--since=2020-01-01T00:00:00Z", "--until=2020-01-02T00:00:00Z"];
    refused(&[&["--otlp-file", text(&file)], &nothing[..]].concat(), "neither side has a span").await;
    refused(&["--otlp-file", text(&file), "--since=2030-01-01T00:00:00Z"], "no range to compare").await;
    refused(&["--otlp-file", text(&file), "--until=2020-01-01T00:00:00Z"], "no range to compare").await;
    refused(&["--jaeger", "http://127.0.0.1:1", "--since=2130-01-01T00:00:00Z"], "the range would begin").await;
    std::fs::write(&file, "").unwrap();
    refused(&["--otlp-file", text(&file)], "no span").await;
    // What can be read is the same; the rest nobody knows.
    std::fs::write(&file, format!("{}\n{{\"resourceSpans\":7}}\n", lines(&requests))).unwrap();
    refused(&["--otlp-file", text(&file)], "could not be read").await;
    let away =
        run(&["compare", "--database-url", "postgresql://nobody@127.0.0.1:1/x", "--otlp-file", text(&file)]).await;
    assert!(away.expect(2).stderr.contains("error: database"));
}

/// What Jaeger makes of a request of [`otlp`].
fn as_jaeger(request: &Value) -> Value {
    let spans = request["resourceSpans"][0]["scopeSpans"][0]["spans"].as_array().unwrap();
    let number = |value: &Value| value.as_str().unwrap().parse::<u64>().unwrap();
    let span = |span: &Value| {
        let (start, end) = (number(&span["startTimeUnixNano"]), number(&span["endTimeUnixNano"]));
        let parent = span["parentSpanId"].as_str().unwrap();
        let reference = json!({"refType": "CHILD_OF", "traceID": span["traceId"], "spanID": parent});
        json!({
            "traceID": span["traceId"], "spanID": span["spanId"], "operationName": span["name"],
            "references": if parent.is_empty() { json!([]) } else { json!([reference]) },
            "startTime": start / 1000, "duration": (end - start) / 1000,
            "tags": [
                {"key": "otel.scope.name", "type": "string", "value": "lib"},
                {"key": "number", "type": "int64", "value": number(&span["attributes"][0]["value"]["intValue"])},
                {"key": "span.kind", "type": "string", "value": if span["kind"] == 2 { "server" } else { "client" }},
                {"key": "otel.status_code", "type": "string", "value": "ERROR"},
                {"key": "error", "type": "bool", "value": true},
                {"key": "otel.status_description", "type": "string", "value": "boom"}
            ],
            "logs": [{"timestamp": number(&span["events"][0]["timeUnixNano"]) / 1000,
                      "fields": [{"key": "event", "type": "string", "value": "retry"}]}],
            "processID": "p1", "warnings": null
        })
    };
    json!({
        "traceID": spans[0]["traceId"], "spans": spans.iter().map(span).collect::<Vec<_>>(),
        "processes": {"p1": {"serviceName": "shop", "tags": []}}, "warnings": null
    })
}

/// Serves traces as Jaeger's query API does, for ever.
fn serve_jaeger(traces: Arc<Mutex<Vec<Value>>>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let traces = Arc::clone(&traces);
            std::thread::spawn(move || answer(stream.unwrap(), &traces.lock().unwrap()));
        }
    });
    url
}

fn answer(mut stream: TcpStream, traces: &[Value]) {
    let mut head = String::new();
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    while reader.read_line(&mut head).unwrap() > 2 {}
    let target = head.split(' ').nth(1).unwrap();
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let parameter = |name: &str| query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
    let (status, data) = match path {
        "/jaeger/api/services" => (200, json!(["shop", "till & co"])),
        "/jaeger/api/traces" if parameter("service") == Some("shop") => {
            let number = |name| parameter(name).unwrap().parse::<u64>().unwrap();
            let (start, end, limit) = (number("start"), number("end"), number("limit"));
            let began = |trace: &&Value| {
                let spans = trace["spans"].as_array().unwrap();
                spans.iter().any(|span| (start..=end).contains(&span["startTime"].as_u64().unwrap()))
            };
            (200, traces.iter().filter(began).take(limit as usize).cloned().collect())
        }
        "/jaeger/api/traces" if parameter("service") == Some("till%20%26%20co") => (200, json!([])),
        _ => (404, json!(null)),
    };
    let body = json!({"data": data, "total": 0, "limit": 0, "offset": 0, "errors": null}).to_string();
    let head = format!("HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {}\r\n", body.len());
    // Whoever asked may be gone.
    drop(stream.write_all(format!("{head}Connection: close\r\n\r\n{body}").as_bytes()));
}

#[tokio::test]
async fn a_jaeger_is_read_whole_and_compared_in_its_terms() {
    // More than it gives with one answer.
    let requests = otlp(450);
    let database = filled(&requests).await;
    let traces = Arc::new(Mutex::new(requests.iter().map(as_jaeger).collect::<Vec<_>>()));
    let url = format!("{}/jaeger/", serve_jaeger(Arc::clone(&traces)));
    let range = ["--since=2026-01-01T00:00:00Z", "--until=2026-01-01T01:00:00Z", "--json"];
    let arguments = [&["--jaeger", &url], &range[..]].concat();
    let same = compare(&database, &arguments).await.expect(0).json();
    assert_eq!((&same["summary"]["traces"], &same["summary"]["spans_there"]), (&450.into(), &900.into()), "{same:#}");

    {
        let mut traces = traces.lock().unwrap();
        traces[7]["spans"][1]["tags"][1]["value"] = 8.into();
        traces[8]["spans"][0]["duration"] = 5001.into();
        traces[9]["spans"].as_array_mut().unwrap().remove(0);
        traces.remove(10);
        let doubled = traces[11]["spans"][0].clone();
        traces[11]["spans"].as_array_mut().unwrap().push(doubled);
    }
    let different = compare(&database, &arguments).await.expect(1).json();
    assert_eq!(
        named(&different),
        [
            "8/10 different attributes.number",
            "9/11 different duration",
            "a/13 missing_there",
            "b/15 missing_there",
            "b/16 missing_there",
            "d/19 doubled_there",
        ]
    );
    let nothing_there = format!("{}/elsewhere", url.trim_end_matches("/jaeger/"));
    let refused = compare(&database, &[&["--jaeger", &nothing_there], &range[..]].concat()).await.expect(2);
    assert!(refused.stderr.contains("404") && refused.stdout.is_empty(), "{}", refused.stderr);
}
