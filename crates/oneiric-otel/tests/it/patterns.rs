//! A great many log lines read as a few patterns.

use std::time::Duration;

use oneiric_otel::otlp::{Encoding, Signal};
use oneiric_otel::pipeline::{Ingest, IngestOptions, Request};
use oneiric_otel::query::{Level, LogsRequest};
use oneiric_otel_testkit::data::shared_data_for;
use oneiric_otel_testkit::nezha;

use crate::scene::{Scene, log, of_service};

fn ask(limit: usize) -> LogsRequest {
    LogsRequest { limit, ..LogsRequest::default() }
}

fn lines(count: u64, line: impl Fn(u64) -> String) -> Vec<opentelemetry_proto::tonic::logs::v1::LogRecord> {
    (0..count).map(|i| log(i, 9, &line(i), Duration::from_secs(i))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_lines_of_a_real_system_read_as_some_patterns() {
    let Some(dir) = shared_data_for("the_lines_of_a_real_system_read_as_some_patterns", nezha::FOLDER) else { return };
    let scene = Scene::new().await;
    for request in nezha::logs(&dir).take(6) {
        scene.bench.send(Signal::Logs, request.unwrap().to_vec()).await.unwrap();
    }
    let lines = scene.bench.count("otel_logs").await;
    let distinct = scene.bench.test.count("SELECT count(DISTINCT body) FROM otel_logs").await;
    let templates = scene.bench.count("otel_log_templates").await;
    let found = scene.queries().log_patterns(&ask(1000)).await.unwrap();
    let counted: i64 = found.patterns.iter().map(|pattern| pattern.count).sum();
    assert_eq!((counted, found.more_records, found.without_template), (lines, 0, 0));
    assert!(templates * 20 < distinct, "{templates} templates of {distinct} lines");
    assert!(found.patterns.len() as i64 <= templates);
    // Of each service a few patterns are nearly all it says.
    let shop = LogsRequest { service: Some("ts-order-service".to_owned()), ..ask(20) };
    let found = scene.queries().log_patterns(&shop).await.unwrap();
    let counted: i64 = found.patterns.iter().map(|pattern| pattern.count).sum();
    assert!(found.more_records * 20 < counted, "{found:#?}");
    let first = &found.patterns[0];
    assert_eq!(first.example.as_ref().unwrap().service_name, "ts-order-service");
    let of_it = LogsRequest { templates: Some(first.templates.clone()), ..ask(1000) };
    let page = scene.queries().search_logs(&of_it).await.unwrap();
    assert_eq!(page.logs.len() as i64, first.count.min(1000));
}

#[tokio::test(flavor = "multi_thread")]
async fn patterns_are_counted_filtered_and_cut() {
    let scene = Scene::new().await;
    scene.logs("shop", lines(40, |i| format!("user user{} bought {} things", i + 10, i + 10))).await;
    scene
        .logs("shop", lines(30, |i| format!("worker {} is now idle again", ["ann", "bob", "eve"][i as usize % 3])))
        .await;
    scene.logs("bank", vec![log(1, 17, "out of money", Duration::ZERO)]).await;
    let queries = scene.queries();
    let found = queries.log_patterns(&ask(2)).await.unwrap();
    let read: Vec<(&str, i64)> =
        found.patterns.iter().map(|pattern| (pattern.pattern.as_str(), pattern.count)).collect();
    assert_eq!(read, [("user user<*> bought <*> things", 40), ("worker <*> is now idle again", 30)]);
    assert_eq!((found.more_patterns, found.more_records), (1, 1));
    assert_eq!((found.patterns[0].templates.len(), found.patterns[1].templates.len()), (1, 3));
    let newest = found.patterns[0].example.as_ref().unwrap();
    assert_eq!((newest.body.as_deref(), newest.time), (Some("user user49 bought 49 things"), found.patterns[0].last));
    let errors = LogsRequest { level: Some("error".to_owned()), ..ask(10) };
    let found = queries.log_patterns(&errors).await.unwrap();
    assert_eq!((found.patterns.len(), found.patterns[0].level), (1, Some(Level::Error)));
    let words = LogsRequest { query: Some("idle".to_owned()), ..ask(10) };
    assert_eq!(queries.log_patterns(&words).await.unwrap().patterns[0].count, 30);
    let nobody = LogsRequest { service: Some("shoop".to_owned()), ..ask(10) };
    let error = queries.log_patterns(&nobody).await.expect_err("unknown").to_string();
    assert!(error.starts_with("service: \"shoop\" is not known"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn records_of_older_versions_and_templates_that_are_gone_are_told() {
    let scene = Scene::new().await;
    scene.logs("shop", lines(5, |i| format!("took {} ms", i + 10))).await;
    scene.logs("shop", vec![log(1, 9, "old", Duration::ZERO)]).await;
    let client = scene.bench.test.client().await;
    client.batch_execute("UPDATE otel_logs SET template_id = NULL WHERE body = 'old'").await.unwrap();
    client.batch_execute("DELETE FROM otel_log_templates").await.unwrap();
    let found = scene.queries().log_patterns(&ask(10)).await.unwrap();
    assert_eq!(found.without_template, 1);
    assert_eq!((found.patterns[0].pattern.as_str(), found.patterns[0].count), ("took <*> ms", 5));
    // What is known to be stored is not asked for again; a new process does.
    scene.logs("shop", lines(6, |i| format!("took {} ms", i + 10))).await;
    assert_eq!(scene.bench.count("otel_log_templates").await, 0);
    let other = Ingest::start(scene.bench.store.clone(), IngestOptions::default());
    let body = of_service("shop", lines(7, |i| format!("took {} ms", i + 10)));
    let request = Request { signal: Signal::Logs, encoding: Encoding::Protobuf, body: body.into() };
    other.submit(request).await.unwrap();
    assert_eq!(scene.bench.count("otel_log_templates").await, 1);
}
