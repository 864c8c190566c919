//! Questions from the command line about one small scene: what fails, which services there are, what they wrote.

use oneiric_otel_testkit::TestDatabase;
use serde_json::{Value, json};

use crate::cli::{run, run_with_input};

/// Two services and a log line, `traces` times within a minute; the call to the bank fails.
fn scene(traces: u64) -> String {
    let start = 1_767_225_600_000_000_000_u64;
    let span = |trace: u64, id: u64, parent: Option<u64>, name: &str, failed: bool| {
        let begin = start + trace * 1_000_000_000;
        json!({
            "traceId": format!("{:032x}", trace + 1), "spanId": format!("{id:016x}"),
            "parentSpanId": parent.map(|id| format!("{id:016x}")), "name": name, "kind": if parent.is_some() { 2 } else { 1 },
            "startTimeUnixNano": begin.to_string(), "endTimeUnixNano": (begin + (trace + 1) * 1_000_000).to_string(),
            "attributes": [{"key": "http.response.status_code", "value": {"intValue": if failed { "503" } else { "200" }}}],
            "status": if failed { json!({"code": 2, "message": "\u{1b}[31mbank is closed"}) } else { json!({}) },
        })
    };
    let of = |service: &str, name: &str, parent: Option<u64>, id: u64| {
        let spans: Vec<Value> = (0..traces).map(|trace| span(trace, id, parent, name, trace % 2 == 0)).collect();
        json!({
            "resource": {"attributes": [{"key": "service.name", "value": {"stringValue": service}}]},
            "scopeSpans": [{"spans": spans}],
        })
    };
    let spans = json!({"resourceSpans": [of("till", "pay", None, 1), of("bank", "debit", Some(1), 2)]});
    let logs = json!({"resourceLogs": [{
        "resource": {"attributes": [{"key": "service.name", "value": {"stringValue": "bank"}}]},
        "scopeLogs": [{"logRecords": [{
            "timeUnixNano": start.to_string(), "severityNumber": 17, "severityText": "ERROR",
            "traceId": format!("{:032x}", 1), "body": {"stringValue": "java.net.SocketTimeoutException: \u{1b}]0;closed"},
        }]}],
    }]});
    let points: Vec<Value> = (0..traces)
        .map(|number| {
            json!({
                "timeUnixNano": (start + number * 60_000_000_000).to_string(), "asDouble": number,
                "attributes": [{"key": "pool", "value": {"stringValue": "\u{1b}[31mred"}}],
            })
        })
        .collect();
    let metrics = json!({"resourceMetrics": [{
        "resource": {"attributes": [{"key": "service.name", "value": {"stringValue": "bank"}}]},
        "scopeMetrics": [{"metrics": [{"name": "queue.length", "unit": "{item}", "gauge": {"dataPoints": points}}]}],
    }]});
    format!("{spans}\n{logs}\n{metrics}\n")
}

pub(crate) async fn database() -> TestDatabase {
    let database = TestDatabase::create().await;
    run_with_input(&["import", "-", "--database-url", database.url()], scene(6).as_bytes()).await.expect(0);
    database
}

#[tokio::test]
async fn tables_for_people_are_harmless_and_json_for_programs_says_the_same() {
    let database = database().await;
    let url = ["--database-url", database.url()];
    let since = "--since=2025-12-01";
    let first = format!("{:032x}", 1);
    let second = format!("{:032x}", 2);
    let minutes = ["--since=2026-01-01T00:00:00Z", "--until=2026-01-01T00:06:00Z"];
    let values = [&["metrics", "queue.length", "--step=1m"], &minutes[..]].concat();
    let cases: [(&[&str], &[&str], &str, Value); 19] = [
        (&["errors", "bank is", since], &["pay"], "/traces/0/error_message", json!("\u{1b}[31mbank is closed")),
        (
            &["logs", "--patterns", since],
            &["1  error  bank", "--template ", "SocketTimeoutException"],
            "/patterns/0/count",
            json!(1),
        ),
        (&["logs", "--patterns"], &["no such log records", "note: only records since"], "/patterns", json!([])),
        (
            &["logs", "--meaning=a connection timed out"],
            &["cosine 0.", "SocketTimeoutException"],
            "/page/logs/0/level",
            json!("error"),
        ),
        (&["logs", "--meaning=sourdough bread recipes"], &["no log records mean"], "/nothing_near", json!(true)),
        (&["metrics"], &["queue.length", "gauge", "bank"], "/0/streams", json!(1)),
        (&["metrics", "queue.length", "--labels"], &["pool"], "/0/key", json!("pool")),
        (&values, &["avg every 60", "last 5", "▁"], "/series/0/points/5/value", json!(5.0)),
        (&["errors", since], &["2 traces", "1 trace,", "bank is closed", "such as"], "/groups/0/count", json!(2)),
        (&["services", since], &["service", "till", "bank"], "/services/0/name", json!("bank")),
        (&["services", "bank", since], &["debit", "server"], "/operations/0/count", json!(6)),
        (&["services", "--dependencies", since], &["till", "bank"], "/dependencies/0/call_count", json!(6)),
        (&["logs", "timeout", "--level", "error"], &["SocketTimeoutException"], "/logs/0/service_name", json!("bank")),
        (&["logs", "--trace", &first], &[&first], "/logs/0/level", json!("error")),
        (&["diff", &first, &second], &["a ", "b "], "/a/error_count", json!(2)),
        (&["spans", "--service=bank", since], &["debit", "bank is closed"], "/spans/0/service_name", json!("bank")),
        (&["spans", "--attr=http.status_code=200", "--limit=1", since], &["--cursor"], "/spans/1", Value::Null),
        (
            &["trace", &first, "--critical-path"],
            &["first: bank debit bank is closed", "100 %", "step by step"],
            "/context/failure/cause/name",
            json!("debit"),
        ),
        (
            &["trace", &first, "--context"],
            &["logs (1)", "SocketTimeoutException", "queue.length", "where its time went"],
            "/context/metrics/0/metric_name",
            json!("queue.length"),
        ),
    ];
    for (question, shown, pointer, value) in cases {
        let table = run(&[question, &url[..]].concat()).await.expect(0).stdout;
        for part in shown {
            assert!(table.contains(part), "{question:?}: {part} in\n{table}");
        }
        assert!(!table.contains('\u{1b}'), "{question:?}: {table:?}");
        let json = run(&[question, &["--json"], &url[..]].concat()).await.expect(0).json();
        assert_eq!(json.pointer(pointer).unwrap_or(&Value::Null), &value, "{question:?}: {json:#}");
    }
    // Ids of templates are text, which no reader of JSON rounds, and come back as they are.
    let patterns = run(&[&["logs", "--patterns", since, "--json"], &url[..]].concat()).await.expect(0).json();
    let template = patterns["patterns"][0]["templates"][0].as_str().unwrap();
    let of_it = run(&[&["logs", "--template", template, "--json"], &url[..]].concat()).await.expect(0).json();
    assert_eq!(of_it["logs"][0]["template_id"].as_str(), Some(template));
    let explained =
        run(&[&["similar", &first, "--explain", "--threshold=0"], &url[..]].concat()).await.expect(0).stdout;
    assert!(explained.contains("= ") || explained.contains("! "), "{explained}");
    // A day back there was nothing, which is said.
    for question in [&["errors"][..], &["services"], &["services", "--dependencies"]] {
        let nothing = run(&[question, &url[..]].concat()).await.expect(0).stdout;
        assert!(nothing.contains("in this time"), "{nothing}");
    }
}

#[tokio::test]
async fn traces_are_narrowed_and_listed_page_by_page() {
    let database = database().await;
    let url = ["--database-url", database.url()];
    let count = async |flags: &[&str]| {
        let listed = run(&[&["traces", "--json"], flags, &url[..]].concat()).await.expect(0).json();
        listed["traces"].as_array().unwrap().len()
    };
    assert_eq!(count(&[]).await, 6);
    assert_eq!(count(&["--attr", "http.status_code>=500"]).await, 3);
    assert_eq!(count(&["--attr", "http.response.status_code=200", "--service", "bank"]).await, 3);
    assert_eq!(count(&["--min-duration", "3ms", "--max-duration", "5ms"]).await, 3);
    assert_eq!(count(&["--operation", "pay", "--status", "error"]).await, 3);
    assert_eq!(count(&["--operation", "debit"]).await, 0);

    let page = run(&[&["traces", "--json", "--limit=4", "--order=oldest"], &url[..]].concat()).await.expect(0).json();
    let cursor = page["next"].as_str().unwrap();
    assert_eq!(count(&["--limit=4", "--order=oldest", "--cursor", cursor]).await, 2);
    let shown = run(&[&["traces", "--limit=4", "--order=oldest"], &url[..]].concat()).await.expect(0).stdout;
    assert!(shown.contains(&format!("--cursor {cursor}")), "{shown}");
    let all = run(&[&["traces", "--limit=2", "--all"], &url[..]].concat()).await.expect(0).stdout;
    assert_eq!(all.matches("pay").count(), 6, "{all}");
    let pages = run(&[&["traces", "--limit=4", "--all", "--json"], &url[..]].concat()).await.expect(0).stdout;
    assert_eq!(pages.lines().count(), 2, "{pages}");
}

#[tokio::test]
async fn a_later_page_is_about_the_time_of_the_first_whatever_now_is() {
    let database = database().await;
    let url = ["--database-url", database.url()];
    let cases: [(&[&str], &str); 3] = [
        (&["errors", "--since=2025-12-01"], "groups"),
        (&["errors", "bank is", "--since=2000d"], "traces"),
        (&["traces", "--since=2000d"], "traces"),
    ];
    for (question, list) in cases {
        let question = [question, &["--json", "--limit=1"], &url[..]].concat();
        let first = run(&question).await.expect(0).json();
        let cursor = first["next"].as_str().unwrap();
        let second = run(&[&question[..], &["--cursor", cursor]].concat()).await.expect(0).json();
        assert_eq!(second[list].as_array().map(Vec::len), Some(1), "{question:?}: {second}");
        assert_ne!(second[list], first[list], "{question:?}");
    }
}

#[tokio::test]
async fn wrong_questions_are_refused_with_what_is_accepted() {
    let database = database().await;
    let url = ["--database-url", database.url()];
    let cases: [(&[&str], i32, &str); 14] = [
        (&["traces", "--attr", "=x"], 2, "key=value"),
        (&["traces", "--min-duration", "5"], 2, "250ms"),
        (&["traces", "--cursor", "nonsense"], 1, "cursor"),
        (&["traces", "--order", "longest"], 1, "since"),
        (&["traces", "--service", "tell"], 1, "till"),
        (&["errors", "--since", "1h", "--until", "2h"], 2, "after --since"),
        (&["logs", "..."], 1, "query"),
        (&["metrics", "queue.length", "--agg", "median"], 2, "increase"),
        (&["metrics", "queue.size"], 1, "queue.length"),
        (&["metrics", "queue.length", "--by", "pod"], 1, "there is pool"),
        (&["spans", "--service", "tell"], 1, "till"),
        (&["spans", "--since", "1h", "--until", "2h"], 2, "after --since"),
        (&["services", "--limit", "0"], 2, "1..=1000"),
        (&["diff", &"0".repeat(31), "x"], 2, "32 hexadecimal digits"),
    ];
    for (question, code, accepted) in cases {
        let refused = run(&[question, &url[..]].concat()).await.expect(code);
        assert!(refused.stderr.contains(accepted), "{question:?}: {}", refused.stderr);
        assert!(refused.stdout.is_empty(), "{question:?}: {}", refused.stdout);
    }
}
