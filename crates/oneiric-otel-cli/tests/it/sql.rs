//! SQL on the command line.

use std::os::unix::fs::PermissionsExt as _;

use oneiric_otel_testkit::TestDatabase;
use serde_json::{Value, json};

use crate::cli::{data_dir, run, run_with_input, text};

const SPAN: &str = r#"{"resourceSpans":[{"resource":{"attributes":[{"key":"service.name","value":{"stringValue":"till"}}]},
    "scopeSpans":[{"spans":[{"traceId":"5b8efff798038103d269b633813fc60c","spanId":"eee19b7ec3c1b174",
    "name":"print\u001b[2J receipt, \"twice\"","kind":1,
    "startTimeUnixNano":"1767225600000000000","endTimeUnixNano":"1767225601000000000"}]}]}]}"#;

#[tokio::test]
async fn the_embedded_database_answers_without_any_preparation() {
    let dir = data_dir();
    let at = ["--data-dir", text(dir.path())];
    let sql = |arguments: &[&str]| {
        let all: Vec<String> = ["sql"].iter().chain(arguments).chain(&at).map(|word| (*word).to_owned()).collect();
        async move { run(&all.iter().map(String::as_str).collect::<Vec<_>>()).await }
    };
    sql(&["SELECT 1"]).await.expect(1);
    run_with_input(&[&["import", "-", "--no-wait"], &at[..]].concat(), SPAN.as_bytes()).await.expect(0);
    let table = sql(&["SELECT service_name, name, duration_ms, status_message FROM spans"]).await.expect(0).stdout;
    assert!(table.contains("till") && table.contains("print receipt") && table.contains("1000.0"), "{table}");
    assert!(table.ends_with("(1 row)\n") && !table.contains('\u{1b}'), "{table}");

    // The role's password is in a file for the owner alone. Without the file there is a new one.
    let password = dir.path().join("postgres/reader-password");
    assert_eq!(std::fs::metadata(&password).unwrap().permissions().mode() & 0o777, 0o600);
    std::fs::remove_file(&password).unwrap();
    let row = sql(&[
        "SELECT current_user AS me, count(*) AS n, $1::int + $2::int AS sum FROM spans",
        "--param=1",
        "--param",
        "-3",
        "--json",
    ])
    .await
    .expect(0);
    assert_eq!(row.json(), json!({"me": "oneiric_reader", "n": 1, "sum": -2}));
    assert!(row.stdout.starts_with("{\"me\":"), "in the order of the columns: {}", row.stdout);

    let csv = sql(&["SELECT span_id, name, NULL AS nothing FROM spans", "--format=csv"]).await.expect(0).stdout;
    assert_eq!(csv, "span_id,name,nothing\neee19b7ec3c1b174,\"print\u{1b}[2J receipt, \"\"twice\"\"\",\n");
    let lines = sql(&["SELECT n FROM generate_series(1, 10) n", "--json", "--limit=3"]).await.expect(0);
    let numbers: Vec<Value> = lines.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(numbers, [json!({"n": 1}), json!({"n": 2}), json!({"n": 3})]);
    assert!(lines.stderr.contains("note: these are the first 3 rows"), "{}", lines.stderr);

    for (statement, words) in [
        ("SELECT nam FROM spans", &["column \"nam\" does not exist", "line 1, column 8"][..]),
        ("LISTEN spans", &["sql: expected one statement that returns rows"]),
        ("DELETE FROM spans", &["cannot delete from view"]),
        ("SELECT * FROM otel.otel_telemetry_dlq", &["permission denied"]),
        ("SELECT 1; SELECT 2", &["multiple commands"]),
        ("SELECT $1", &["params: expected one value"]),
    ] {
        let refused = sql(&[statement]).await.expect(1).stderr;
        assert!(words.iter().all(|word| refused.contains(word)), "{statement}: {refused}");
    }
    sql(&["SELECT 1", "--json", "--format=csv"]).await.expect(1);
    sql(&["SELECT 1", "--limit=0"]).await.expect(2);
    sql(&[]).await.expect(2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_of_the_users_needs_a_role_for_it() {
    let database = TestDatabase::create().await;
    let url = ["--database-url", database.url()];
    run_with_input(&[&["import", "-", "--no-wait"], &url[..]].concat(), SPAN.as_bytes()).await.expect(0);
    let refused = run(&[&["sql", "SELECT 1"], &url[..]].concat()).await.expect(1).stderr;
    for words in ["is none: it is a superuser", "CREATE ROLE", "GRANT SELECT ON otel.spans", "--sql-reader-url"] {
        assert!(refused.contains(words), "{words}: {refused}");
    }
    let reader = database.create_role("reader").await;
    run(&[&["db", "roles", "--reader", &reader.name], &url[..]].concat()).await.expect(0);
    let count = ["sql", "SELECT count(*) AS n FROM spans", "--json"];
    let by_setting = run(&[&count[..], &url, &["--sql-reader-url", &reader.url]].concat()).await.expect(0);
    assert_eq!(by_setting.json(), json!({"n": 1}));
    // A connection that is the reader's needs no other.
    let by_itself = run(&[&count[..], &["--database-url", &reader.url]].concat()).await.expect(0);
    assert_eq!(by_itself.json(), json!({"n": 1}));

    let wrong = run(&[&count[..], &url, &["--sql-reader-url", "u:secret@h"]].concat()).await.expect(2).stderr;
    assert!(wrong.contains("--sql-reader-url") && !wrong.contains("secret"), "{wrong}");
    let alone = run(&[&count[..], &["--sql-reader-url", &reader.url]].concat()).await.expect(2).stderr;
    assert!(alone.contains("--database-url"), "{alone}");
}
