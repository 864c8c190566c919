//! The demo, and what can be done with what it leaves.

use oneiric_otel_testkit::TestDatabase;
use serde_json::Value;

use crate::cli::{data_dir, run, run_with_input, text};

#[tokio::test]
async fn the_demo_finds_each_fault_by_words_that_its_telemetry_does_not_use() {
    let whole = data_dir();
    let whole = text(whole.path());
    let ports = ["--grpc-addr=127.0.0.1:0", "--http-addr=127.0.0.1:0", "--api-addr=127.0.0.1:0"];
    let demo = run(&[&["demo", "--once", "--json", "--data-dir", whole], &ports[..]].concat()).await.expect(0);
    let told = demo.json();
    // Whatever else lies in the data directory is not mixed with inventions.
    let dir = told["data_dir"].as_str().unwrap();
    assert_eq!(dir, format!("{whole}/demo"));
    run(&["traces", "--data-dir", whole]).await.expect(1);

    let searches = told["searches"].as_array().unwrap();
    assert_eq!(searches.len(), 3);
    for search in searches {
        assert_eq!(search["found"][0], search["expected"], "{search:#}");
        for word in search["fault_words"].as_array().unwrap() {
            let word = word.as_str().unwrap();
            assert_eq!(occurrences(dir, word).await, 0, "{word:?} occurs in the telemetry");
        }
    }
    // The check can fail: a word that is there is seen.
    assert!(occurrences(dir, "econnrefused").await > 0);
    assert_eq!(told["faults"].as_object().unwrap().len(), 5);

    // Everything that was sent is there, and nothing else.
    for (table, sent) in [("otel_spans", "spans"), ("otel_logs", "logs"), ("otel_traces", "traces")] {
        assert_eq!(count(dir, &format!("select count(*) from {table}")).await, told[sent].as_i64().unwrap(), "{table}");
    }
    let names = "select count(distinct metric_name) from otel_metric_series";
    assert_eq!(count(dir, names).await, 3, "three instruments");
    assert_eq!(count(dir, "select count(distinct service_name) from otel_resources").await, 6);

    refused_payments_come_first(dir).await;
    whole_traces_are_shown(dir, &told).await;
}

async fn refused_payments_come_first(dir: &str) {
    let found = run(&["search", "could not reach the payment service", "--json", "--data-dir", dir]).await.expect(0);
    let answer = found.json();
    assert_eq!(answer["nothing_near"], false);
    assert_eq!(answer["note"], Value::Null);
    let first = &answer["hits"][0];
    let message = first["newest"]["error_message"].as_str().unwrap();
    assert!(message.contains("ECONNREFUSED") && message.contains(":8443"), "{first:#}");

    let table = run(&["search", "could not reach the payment service", "--limit=2", "--data-dir", dir]).await.expect(0);
    let id = first["newest"]["trace_id"].as_str().unwrap();
    assert!(table.stdout.contains(id), "{}", table.stdout);

    let filtered = ["search", "could not reach the payment service", "--status=ok", "--json", "--data-dir", dir];
    for hit in run(&filtered).await.expect(0).json()["hits"].as_array().unwrap() {
        assert_eq!(hit["newest"]["status"], "ok");
    }
}

async fn whole_traces_are_shown(dir: &str, told: &Value) {
    let id = told["searches"][0]["answer"]["hits"][0]["newest"]["trace_id"].as_str().unwrap();
    let tree = run(&["trace", id, "--data-dir", dir]).await.expect(0).stdout;
    for part in ["storefront  POST /checkout", "└─ checkout  POST /charge", "exception ECONNREFUSED", "log error"] {
        assert!(tree.contains(part), "{part:?} is not in\n{tree}");
    }
    let whole = run(&["trace", id, "--json", "--data-dir", dir]).await.expect(0).json();
    let spans: usize = whole["traces"]["resourceSpans"]
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|resource| resource["scopeSpans"].as_array().unwrap())
        .map(|scope| scope["spans"].as_array().unwrap().len())
        .sum();
    assert_eq!(whole["summary"]["span_count"], spans);
    assert!(whole["logs"]["resourceLogs"].is_array());

    let similar = run(&["similar", id, "--threshold=0.5", "--json", "--data-dir", dir]).await.expect(0).json();
    assert!(!similar["hits"].as_array().unwrap().is_empty());

    let listed = run(&["traces", "--status=error", "--limit=5", "--json", "--data-dir", dir]).await.expect(0).json();
    let listed = listed["traces"].as_array().unwrap().clone();
    assert_eq!(listed.len(), 5);
    assert!(listed.iter().all(|trace| trace["status"] == "error"));

    let health = run(&["health", "--json", "--data-dir", dir]).await.expect(0).json();
    assert_eq!(health["healthy"], true, "{health:#}");
    assert_eq!(health["telemetry"]["texts_to_embed"], 0);
    let status = run(&["db", "status", "--data-dir", dir]).await.expect(0).stdout;
    assert!(status.contains("pgvector    0.8"), "{status}");
}

/// Rows of spans, logs and resources in which a word occurs.
async fn occurrences(dir: &str, word: &str) -> i64 {
    let in_table =
        |table: &str| format!("(select count(*) from {table} t where position('{word}' in lower(t::text)) > 0)");
    let sql = format!("select {} + {} + {}", in_table("otel_spans"), in_table("otel_logs"), in_table("otel_resources"));
    count(dir, &sql).await
}

async fn count(dir: &str, sql: &str) -> i64 {
    let answer = run(&["psql", "--data-dir", dir, "-Atc", sql]).await.expect(0).stdout;
    answer.trim().parse().unwrap()
}

#[tokio::test]
async fn the_demo_leaves_a_database_with_other_telemetry_alone() {
    let database = TestDatabase::create().await;
    let url = ["--database-url", database.url()];
    let log = r#"{"resourceLogs":[{"scopeLogs":[{"logRecords":[{"timeUnixNano":"1544712660000000000"}]}]}]}"#;
    run_with_input(&[&["import", "-", "--no-wait"], &url[..]].concat(), log.as_bytes()).await.expect(0);
    let demo = run(&[&["demo", "--once"], &url[..]].concat()).await.expect(1);
    assert!(demo.stderr.contains("telemetry that is not the demo's"), "{}", demo.stderr);
    assert!(demo.stderr.contains("\nhint: create a database for the demo"), "{}", demo.stderr);
    assert_eq!(database.count("select count(*) from otel_spans").await, 0);
}
