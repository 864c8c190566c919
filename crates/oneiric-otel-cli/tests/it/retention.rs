//! `retention`: what is shown, dropped and refused.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use oneiric_otel_testkit::TestDatabase;
use serde_json::{Value, json};

use crate::cli::{run, run_with_input};

/// Spans of as many days ago as are said.
fn spans(days: &[u64]) -> Vec<u8> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let span = |days: &u64| {
        let start = now.saturating_sub(Duration::from_hours(24 * days)).as_nanos();
        json!({"traceId": format!("{:032x}", days + 1), "spanId": format!("{:016x}", days + 1), "name": "tick",
               "startTimeUnixNano": start.to_string(), "endTimeUnixNano": start.to_string()})
    };
    let spans: Vec<Value> = days.iter().map(span).collect();
    json!({"resourceSpans": [{"scopeSpans": [{"spans": spans}]}]}).to_string().into_bytes()
}

/// As if all of it had come so many days before, and the clock had been watched since.
async fn let_pass(database: &TestDatabase, days: u32) {
    let sql = format!(
        "UPDATE otel.otel_partition_writes SET relation = NULL,
           last_write = CASE WHEN last_write = '-infinity' THEN last_write ELSE last_write - interval '{days} days' END;
         UPDATE otel.otel_retention_clock SET looked_at = now(), steady_since = now() - interval '2 days'"
    );
    database.client().await.batch_execute(&sql).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_old_is_shown_dropped_and_told_of() {
    let database = TestDatabase::create().await;
    let url = ["--database-url", database.url()];
    run_with_input(&[&["import", "-", "--no-wait"], &url[..]].concat(), &spans(&[0, 200])).await.expect(0);
    let json = async |command: &[&str], code: i32| -> Value {
        let told = run(&[&["retention"], command, &url[..], &["--json"]].concat()).await.expect(code).stdout;
        serde_json::from_str(&told).unwrap()
    };
    // The clock was never watched.
    let shown = json(&["show"], 0).await;
    assert!(shown["held_back"].as_str().is_some_and(|why| why.contains("without a jump")), "{shown}");
    let outcome = json(&["run"], 0).await;
    assert_eq!(outcome["dropped"], json!([]), "nothing is due, so nothing is held back: {outcome}");

    let_pass(&database, 91).await;
    let shown = json(&["show"], 0).await;
    let table = |name: &str| shown["tables"].as_array().unwrap().iter().find(|table| table["table"] == name).unwrap();
    assert_eq!((&table("otel_spans")["retention_days"], &table("otel_spans")["step"]), (&json!(90), &json!("day")));
    assert_eq!(table("otel_traces")["derived_from"], "otel_spans");
    let due = table("otel_spans")["partitions"].as_array().unwrap().iter().filter(|one| one["is_due"] == true).count();
    assert_eq!(due, 1, "{shown}");
    let text = run(&[&["retention", "show"], &url[..]].concat()).await.expect(0).stdout;
    assert!(text.contains("otel_metric_rollups") && text.contains("90 d"), "{text}");

    let planned = json(&["run", "--dry-run"], 0).await;
    assert_eq!(planned["dropped"].as_array().unwrap().len(), 1, "{planned}");
    assert_eq!(database.count("SELECT count(*) FROM otel.otel_spans").await, 2);
    // What the settings say is told and not written down.
    let planned = json(&["run", "--dry-run", "--set", "retention_days=forever", "--set", "partition=month"], 0).await;
    assert_eq!(planned["dropped"], json!([]));

    let doubted = "UPDATE otel.otel_retention_clock SET steady_since = now()";
    database.client().await.batch_execute(doubted).await.unwrap();
    let outcome = json(&["run"], 1).await;
    assert_eq!(outcome["dropped"], json!([]), "{outcome}");
    let outcome = json(&["run", "--trust-clock"], 0).await;
    assert_eq!(outcome["dropped"][0]["state"], "dropped", "{outcome}");
    assert_eq!(database.count("SELECT count(*) FROM otel.otel_spans").await, 1);
    let text = run(&[&["retention", "show"], &url[..]].concat()).await.expect(0).stdout;
    assert!(text.contains("dropped, the latest first") && text.contains("_coarse"), "{text}");
    // No server was here: the indexes that collecting needs are not built.
    let again = [&["retention", "run", "--trust-clock"], &url[..]].concat();
    let text = run(&again).await.expect(0).stdout;
    assert!(text.starts_with("nothing is too old\ncollecting waits for the index"), "{text}");
    run(&[&["db", "migrate"], &url[..]].concat()).await.expect(0);
    assert_eq!(run(&again).await.expect(0).stdout, "nothing is too old\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn too_many_partitions_are_refused_and_so_is_who_may_not() {
    let refused = run(&["retention", "show", "--set", "partition=hour", "--set", "retention_days=90"]).await.expect(2);
    assert!(
        refused.stderr.contains("day or week or month") && refused.stderr.contains("partition"),
        "{}",
        refused.stderr
    );
    let refused = run(&["retention", "show", "--set", "retention_days_logs=0"]).await.expect(2);
    assert!(refused.stderr.contains("from 1 to 3650, or forever"), "{}", refused.stderr);

    let database = TestDatabase::create().await;
    run_with_input(&["import", "-", "--no-wait", "--database-url", database.url()], &spans(&[0])).await.expect(0);
    let month = ["--database-url", database.url(), "--set", "retention_days_logs=3650", "--set", "partition=month"];
    run(&[&["retention", "run"], &month[..]].concat()).await.expect(0);
    // The database has another word on what is not set.
    let refused =
        run(&["retention", "run", "--database-url", database.url(), "--set", "partition=day"]).await.expect(1);
    assert!(refused.stderr.contains("otel_logs") && refused.stderr.contains("expected month"), "{}", refused.stderr);

    let writer = database.create_role("writer").await;
    run(&["db", "roles", "--database-url", database.url(), "--writer", &writer.name]).await.expect(0);
    let refused = run(&["retention", "run", "--database-url", &writer.url]).await.expect(1);
    assert!(refused.stderr.contains("does not own"), "{}", refused.stderr);
    run(&["retention", "show", "--database-url", &writer.url]).await.expect(0);
}
