//! A great many log lines read as a few patterns.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use oneiric_otel::otlp::{Encoding, Signal};
use oneiric_otel::pipeline::{Ingest, IngestOptions, Request};
use oneiric_otel::query::{Level, LogsRequest};
use oneiric_otel_testkit::data::shared_data_for;
use oneiric_otel_testkit::nezha;

use opentelemetry_proto::tonic::logs::v1::LogRecord;

use crate::scene::{Scene, log, of_service};

/// About all times.
fn ask(limit: usize) -> LogsRequest {
    LogsRequest { limit, start: Some(Timestamp::UNIX_EPOCH), ..LogsRequest::default() }
}

fn lines(count: u64, line: impl Fn(u64) -> String) -> Vec<LogRecord> {
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
    let counts = other.counts().log_templates;
    assert_eq!((counts.stored, counts.left_out), (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_time_the_newest_of_a_day_are_counted_and_it_is_said() {
    let scene = Scene::new().await;
    let now = Timestamp::now();
    let ago = |hours: i64, body: &str| LogRecord {
        time_unix_nano: u64::try_from((now - SignedDuration::from_hours(hours)).as_nanosecond()).unwrap(),
        ..log(1, 9, body, Duration::ZERO)
    };
    scene.logs("shop", vec![ago(1, "of today"), ago(20, "of today, early"), ago(30, "of yesterday")]).await;
    let today = LogsRequest { start: None, ..ask(10) };
    let texts = async |request: &LogsRequest| {
        let found = scene.queries().log_patterns(request).await.unwrap();
        (
            found.patterns.into_iter().map(|pattern| pattern.pattern).collect::<Vec<_>>(),
            found.start,
            found.start_is_bound,
        )
    };
    let (mut found, start, is_bound) = texts(&today).await;
    found.sort();
    assert_eq!((found, is_bound), (vec!["of today".to_owned(), "of today, early".to_owned()], false));
    assert!(start > now - SignedDuration::from_hours(25));
    assert_eq!(texts(&ask(10)).await.0.len(), 3, "all that is asked about");

    // More than are counted unasked, made in the database for speed.
    let client = scene.bench.test.client().await;
    let many = "INSERT INTO otel_logs (time, resource_id, scope_id, flags, time_ns, severity_number, time_is_observed,
                                       service_name, body, attributes, template_id)
                SELECT time + n * interval '1 millisecond', resource_id, scope_id, flags, time_ns, severity_number,
                       time_is_observed, service_name, body, attributes, template_id
                FROM otel_logs, generate_series(1, 500000) n WHERE body = 'of today'";
    client.batch_execute(many).await.unwrap();
    let (found, start, is_bound) = texts(&today).await;
    assert_eq!((found, is_bound), (vec!["of today".to_owned()], true));
    assert!(start > now - SignedDuration::from_hours(2));
    assert_eq!(texts(&ask(10)).await.0.len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn patterns_are_remembered_and_examples_are_of_the_filter() {
    let scene = Scene::new().await;
    scene.logs("shop", vec![log(1, 9, "took 50 ms", Duration::ZERO), log(2, 9, "took 60 ms", Duration::ZERO)]).await;
    let queries = scene.queries();
    let of_one = LogsRequest { query: Some("50".to_owned()), ..ask(10) };
    for _ in 0..2 {
        let found = queries.log_patterns(&of_one).await.unwrap();
        assert_eq!(found.patterns[0].count, 1);
        assert_eq!(found.patterns[0].example.as_ref().unwrap().body.as_deref(), Some("took 50 ms"));
    }
    assert_eq!(queries.log_patterns(&ask(10)).await.unwrap().patterns[0].count, 2, "another question");
    let counts = queries.cache_counts();
    assert_eq!((counts.hits, counts.misses), (1, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_are_found_by_what_they_mean() {
    let scene = Scene::new().await;
    let line = |severity, body: &str, at| log(at, severity, body, Duration::from_secs(at));
    let mut logs = vec![
        line(17, "connect ECONNREFUSED 10.0.3.7:8443", 1),
        line(17, "deadlock detected while updating table orders", 2),
        line(9, "user 42 logged in from Vienna", 3),
        line(9, "cache warmed with 1000 entries", 4),
        line(13, "certificate expires in 3 days", 5),
    ];
    logs.extend((10..15).map(|at| line(17, &format!("connect ECONNREFUSED 10.0.3.{at}:8443"), at)));
    scene.logs("shop", logs).await;
    let ask = |question: &str| LogsRequest { query: Some(question.to_owned()), ..ask(3) };
    let queries = scene.queries();
    let none = queries.search_logs_by_meaning(&ask("the server could not be reached")).await.expect_err("no vectors");
    assert!(matches!(none, oneiric_otel::query::QueryError::Unavailable { .. }), "{none}");
    scene.embed().await;
    assert_eq!(scene.bench.count("otel_texts").await, 0, "templates are no texts of traces");
    for (question, template) in [
        ("the server could not be reached over the network", "connect ECONNREFUSED <*>"),
        ("two database transactions blocked each other", "deadlock detected while updating table orders"),
        ("TLS is about to run out", "certificate expires in <*> days"),
        ("somebody signed in", "user <*> logged in from Vienna"),
    ] {
        let found = queries.search_logs_by_meaning(&ask(question)).await.unwrap();
        assert_eq!(
            found.templates.first().map(|near| near.template.as_str()),
            Some(template),
            "{question}: {found:#?}"
        );
        assert!(!found.page.logs.is_empty());
    }
    let refused = queries.search_logs_by_meaning(&ask("connection refused")).await.unwrap();
    assert_eq!(refused.page.logs[0].body.as_deref(), Some("connect ECONNREFUSED 10.0.3.14:8443"), "the newest first");
    let next = LogsRequest {
        query: None,
        templates: Some(refused.templates.iter().map(|near| near.template_id).collect()),
        cursor: refused.page.next,
        ..ask("")
    };
    assert_eq!(
        queries.search_logs(&next).await.unwrap().logs[0].body.as_deref(),
        Some("connect ECONNREFUSED 10.0.3.11:8443")
    );
    let found = queries.search_logs_by_meaning(&ask("how do I bake sourdough bread")).await.unwrap();
    assert!(found.nothing_near && found.page.logs.is_empty(), "{found:#?}");
    let warnings = LogsRequest { level: Some("error".to_owned()), ..ask("TLS is about to run out") };
    let found = queries.search_logs_by_meaning(&warnings).await.unwrap();
    assert!(found.templates.iter().all(|near| near.level == Some(Level::Error)));
    let empty = queries.search_logs_by_meaning(&ask(" ")).await.expect_err("empty").to_string();
    assert_eq!(empty, "query: expected a description of 1 to 1000 characters without NUL");
}
