//! Files into a database.

use std::process::Stdio;
use std::time::Duration;

use oneiric_otel_testkit::TestDatabase;
use oneiric_otel_testkit::data::shared_data_for;
use serde_json::json;
use tokio::io::AsyncWriteExt as _;
use tokio::time::timeout;

use crate::cli::{PATIENCE, command, run, run_with_input, text};

const TRACE: &str = "5b8efff798038103d269b633813fc60c";

/// A request with one span, on one line.
fn request(trace_id: &str, name: &str) -> String {
    json!({"resourceSpans": [{
        "resource": {"attributes": [{"key": "service.name", "value": {"stringValue": "till"}}]},
        "scopeSpans": [{"spans": [{
            "traceId": trace_id, "spanId": "eee19b7ec3c1b174", "name": name, "kind": 2,
            "startTimeUnixNano": "1544712660000000000", "endTimeUnixNano": "1544712661000000000",
            "status": {"code": 2, "message": "\u{1b}[31mprinter out of paper"}
        }]}]
    }]})
    .to_string()
}

#[tokio::test]
async fn the_examples_of_the_protocol_are_kept_and_a_second_time_adds_nothing() {
    let Some(examples) = shared_data_for("the_examples_of_the_protocol", "otlp/opentelemetry-proto") else { return };
    let database = TestDatabase::create().await;
    let arguments = ["import", text(&examples), "--json", "--database-url", database.url()];
    let summary = run(&arguments).await.expect(0).json();
    assert_eq!(summary["files"], 4);
    assert_eq!(summary["rejected"], 0, "{summary:#}");
    assert_eq!(summary["accepted"]["spans"], 1);
    assert_eq!(summary["derived"]["traces"], 1);
    assert!(summary["derived"]["not_embedded"].is_null(), "{summary:#}");
    let counts = "select (select count(*) from otel_spans) + (select count(*) from otel_logs)
                       + (select count(*) from otel_metrics)";
    let stored = {
        let client = database.client().await;
        client.query_one(counts, &[]).await.unwrap().get::<_, i64>(0)
    };
    let kept: i64 = summary["accepted"].as_object().unwrap().values().map(|count| count.as_i64().unwrap()).sum();
    assert_eq!(stored, kept);

    let again = run(&arguments).await.expect(0).json();
    assert_eq!(again["repeated_requests"], again["requests"], "{again:#}");
    assert_eq!(database.count(counts).await, stored);
}

#[tokio::test]
async fn stdin_is_read_and_what_is_bad_costs_only_itself() {
    let database = TestDatabase::create().await;
    let input =
        format!("{}\nnot json\n{}\n", request(TRACE, "print"), request("5b8efff798038103d269b633813fc6", "short id"));
    let arguments = ["import", "-", "--json", "--database-url", database.url()];
    let summary = run_with_input(&arguments, input.as_bytes()).await.expect(0).json();
    assert_eq!(summary["accepted"]["spans"], 1, "{summary:#}");
    assert_eq!(summary["rejected"], 1, "{summary:#}");
    assert_eq!(summary["unreadable"], 1, "{summary:#}");
    let reasons = summary["reasons"].to_string();
    assert!(reasons.contains("stdin: ") && reasons.contains("16 bytes"), "{reasons}");

    // The trace is shown, and what its sender wrote does not drive the terminal.
    let tree = run(&["trace", TRACE, "--database-url", database.url()]).await.expect(0).stdout;
    assert!(tree.contains("printer out of paper") && !tree.contains('\u{1b}'), "{tree:?}");
    let found = run(&["search", "printer out of paper", "--database-url", database.url()]).await.expect(0).stdout;
    assert!(found.contains(TRACE) && !found.contains('\u{1b}'), "{found}");
}

#[tokio::test]
async fn enum_names_are_read_as_their_numbers_and_counted() {
    let database = TestDatabase::create().await;
    let named = request(TRACE, "print")
        .replace(r#""kind":2"#, r#""kind":"SPAN_KIND_SERVER""#)
        .replace(r#""code":2"#, r#""code":"STATUS_CODE_ERROR""#);
    let arguments = ["import", "-", "--no-wait", "--database-url", database.url()];
    let summary = run_with_input(&[&arguments[..], &["--json"]].concat(), named.as_bytes()).await.expect(0).json();
    assert_eq!(summary["enum_names"], 2, "{summary:#}");
    assert_eq!(summary["accepted"]["spans"], 1, "{summary:#}");
    assert_eq!(summary["rejected"], 0, "{summary:#}");

    let table = run_with_input(&arguments, named.as_bytes()).await.expect(0).stdout;
    let row = table.lines().find(|line| line.contains("enum names that were read as their numbers"));
    assert!(row.is_some_and(|row| row.split_whitespace().any(|word| word == "2")), "{table}");
    // Written as OTLP says, it is the same span: nothing is added, and there is no name to tell of.
    let numbered = request(TRACE, "print");
    let table = run_with_input(&arguments, numbered.as_bytes()).await.expect(0).stdout;
    assert!(!table.contains("enum names"), "{table}");
    assert_eq!(database.count("select count(*) from otel_spans").await, 1);
}

#[tokio::test]
async fn an_import_that_keeps_nothing_fails_and_says_why() {
    let database = TestDatabase::create().await;
    let arguments = ["import", "-", "--no-wait", "--database-url", database.url()];
    let nothing = run_with_input(&arguments, b"{\"hello\": 1}").await.expect(1);
    assert!(nothing.stdout.contains("resourceSpans"), "{}", nothing.stdout);
    let truncated =
        run_with_input(&[&arguments[..], &["--signal=traces"]].concat(), b"\x0a\x80\x01abc").await.expect(1);
    assert!(truncated.stdout.contains("rejected: stdin"), "{}", truncated.stdout);
    let zipped = run_with_input(&arguments, b"\x1f\x8b\x08\0").await.expect(1);
    assert!(zipped.stdout.contains("gzip -dc"), "{}", zipped.stdout);
    // Nothing to keep is not a failure to keep it.
    run_with_input(&arguments, b"").await.expect(0);
    assert_eq!(database.count("select count(*) from otel_spans").await, 0);
}

#[tokio::test]
async fn files_that_cannot_be_read_are_named() {
    let database = TestDatabase::create().await;
    let missing = run(&["import", "/no/such/file.json", "--database-url", database.url()]).await.expect(1);
    assert!(missing.stderr.starts_with("error: cannot read /no/such/file.json: "), "{}", missing.stderr);
    assert!(missing.stderr.contains("\nhint: "), "{}", missing.stderr);

    // A file that is there and refuses to be read, even by root.
    let unreadable = "/proc/self/mem";
    if !std::path::Path::new(unreadable).exists() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let good = dir.path().join("good.json");
    std::fs::write(&good, request(TRACE, "print")).unwrap();
    let arguments = ["import", unreadable, text(&good), "--no-wait", "--database-url", database.url()];
    let mixed = run(&arguments).await.expect(0);
    assert!(mixed.stdout.contains("cannot read /proc/self/mem"), "{}", mixed.stdout);
    assert_eq!(database.count("select count(*) from otel_spans").await, 1);
    run(&["import", unreadable, "--no-wait", "--database-url", database.url()]).await.expect(1);
}

#[tokio::test]
async fn what_the_database_cannot_take_now_is_tried_again() {
    let database = TestDatabase::create().await;
    let url = ["--database-url", database.url()];
    run(&[&["db", "migrate"], &url[..]].concat()).await.expect(0);
    // Numbers are not given back by a transaction that failed, so that this counts the attempts.
    let trouble = "create sequence otel.attempts;
                   create function otel.refuse() returns trigger language plpgsql as $$ begin
                       if nextval('otel.attempts') <= 5 then
                           raise exception 'not now' using errcode = 'serialization_failure';
                       end if;
                       return null;
                   end $$;
                   create trigger refuse before insert on otel.otel_spans execute function otel.refuse()";
    database.client().await.batch_execute(trouble).await.unwrap();
    let arguments = [&["import", "-", "--no-wait", "--json"], &url[..]].concat();
    let summary = run_with_input(&arguments, request(TRACE, "print").as_bytes()).await.expect(0).json();
    assert_eq!(summary["accepted"]["spans"], 1, "{summary:#}");
    assert_eq!(summary["rejected"], 0, "{summary:#}");
    assert_eq!(database.count("select count(*) from otel_spans").await, 1);
}

#[tokio::test]
async fn an_import_that_the_database_does_not_take_fails_and_is_completed_by_another() {
    let database = TestDatabase::create().await;
    let url = ["--database-url", database.url()];
    run(&[&["db", "migrate"], &url[..]].concat()).await.expect(0);
    let client = database.client().await;
    client.batch_execute("alter table otel.otel_spans rename to elsewhere").await.unwrap();
    let log = json!({"resourceLogs": [{"scopeLogs": [{"logRecords": [
        {"timeUnixNano": "1544712660000000000", "severityText": "fine"}
    ]}]}]});
    let input = format!("{log}\n{}\n", request(TRACE, "print"));
    let arguments = [&["import", "-", "--no-wait", "--json"], &url[..]].concat();
    let failed = run_with_input(&arguments, input.as_bytes()).await.expect(1);
    assert!(failed.stderr.contains("error: stdin: line 2: cannot store now: "), "{}", failed.stderr);
    assert!(failed.stderr.contains("\nhint: ") && failed.stderr.contains("not doubled"), "{}", failed.stderr);

    client.batch_execute("alter table otel.elsewhere rename to otel_spans").await.unwrap();
    let summary = run_with_input(&arguments, input.as_bytes()).await.expect(0).json();
    assert_eq!(summary["accepted"], json!({"spans": 1, "data_points": 0, "log_records": 1}), "{summary:#}");
    assert_eq!(database.count("select (select count(*) from otel_spans) + (select count(*) from otel_logs)").await, 2);
}

#[tokio::test]
async fn stdin_is_stored_while_more_of_it_is_to_come() {
    let database = TestDatabase::create().await;
    let url = ["--database-url", database.url()];
    run(&[&["db", "migrate"], &url[..]].concat()).await.expect(0);
    let arguments = [&["import", "-", "--no-wait"], &url[..]].concat();
    let mut import = command(&arguments).stdin(Stdio::piped()).spawn().unwrap();
    let mut stdin = import.stdin.take().unwrap();
    for (lines, name) in [(1, "first"), (2, "second")] {
        stdin.write_all(format!("{}\n", request(TRACE, name)).as_bytes()).await.unwrap();
        let stored = async {
            while database.count("select count(*) from otel_spans").await < lines {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        timeout(PATIENCE, stored).await.expect("stored before stdin ends");
    }
    drop(stdin);
    assert!(timeout(PATIENCE, import.wait()).await.unwrap().unwrap().success());
}

#[tokio::test]
async fn a_directory_without_telemetry_is_said_and_packed_files_are_named() {
    let database = TestDatabase::create().await;
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("README.md"), "nothing").unwrap();
    let arguments = ["import", text(dir.path()), "--no-wait", "--database-url", database.url()];
    let empty = run(&arguments).await.expect(1);
    assert!(empty.stderr.contains("there is no telemetry") && empty.stderr.contains("\nhint: "), "{}", empty.stderr);
    std::fs::write(dir.path().join("spans.json.gz"), b"\x1f\x8b\x08\0").unwrap();
    let packed = run(&arguments).await.expect(1);
    assert!(packed.stdout.contains("spans.json.gz: it is compressed; use `gzip -dc"), "{}", packed.stdout);
}

#[tokio::test]
async fn traces_that_wait_to_be_derived_are_told_and_lists_fit_a_narrow_terminal() {
    let database = TestDatabase::create().await;
    let url = ["--database-url", database.url()];
    let input = request(TRACE, &"a long name ".repeat(20));
    let import = [&["import", "-", "--no-wait"], &url[..]].concat();
    run_with_input(&import, input.as_bytes()).await.expect(0);
    for question in [&["traces"][..], &["search", "printer"]] {
        let told = run(&[question, &url[..]].concat()).await.expect(0).stdout;
        assert!(told.contains("note: 1 trace waits to be derived"), "{told}");
        let json = run(&[question, &["--json"], &url[..]].concat()).await.expect(0).json();
        assert_eq!(json["traces_to_derive"], 1, "{json:#}");
    }
    run_with_input(&[&["import", "-"], &url[..]].concat(), input.as_bytes()).await.expect(0);
    for question in [&["traces"][..], &["search", "printer"]] {
        let told = run(&[question, &url[..]].concat()).await.expect(0).stdout;
        let head = told.lines().next().unwrap();
        assert!(head.contains(TRACE) && head.len() <= 80, "{told}");
        assert!(!told.contains("note:"), "{told}");
    }
}
