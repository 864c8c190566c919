//! Logs are found by their words and by what else is known of them, whole and in a fixed order.

use std::time::Duration;

use jiff::Timestamp;
use oneiric_otel::otlp::Signal;
use oneiric_otel::query::{Level, LogPage, LogsRequest, QueryError, TemplateId, TraceId};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValueList};
use opentelemetry_proto::tonic::logs::v1::LogRecord;

use crate::scene::{NOON, SECOND, Scene, log, of_service, text, trace_id};

const DAY: u64 = 24 * 3600 * SECOND;
const AHEAD: u64 = 3650 * DAY;

fn ask(query: &str) -> LogsRequest {
    LogsRequest { query: Some(query.to_owned()), limit: 100, ..LogsRequest::default() }
}

fn all() -> LogsRequest {
    LogsRequest { limit: 100, ..LogsRequest::default() }
}

fn bodies(page: &LogPage) -> Vec<&str> {
    page.logs.iter().map(|log| log.body.as_deref().unwrap_or_default()).collect()
}

async fn found(scene: &Scene, request: &LogsRequest) -> Vec<String> {
    let page = scene.queries().search_logs(request).await.unwrap();
    assert_eq!(page.searched_back_to, None);
    bodies(&page).into_iter().map(str::to_owned).collect()
}

fn at(number: u64, severity: i32, body: &str) -> LogRecord {
    log(number, severity, body, Duration::from_secs(number))
}

/// Records with names that consist of parts, in a partition whose time has passed and in one whose time has not.
async fn names() -> Scene {
    let scene = Scene::new().await;
    let mut logs = vec![
        at(1, 17, "java.util.concurrent.TimeoutException: no answer"),
        at(2, 13, "cannot reach redis-1.cache.internal:6379"),
        at(3, 9, "GET /api/v1/users/2/orders took 31ms"),
        at(4, 9, "IOException in my_function of OrderServiceImpl"),
        LogRecord { body: None, event_name: "session.start".to_owned(), ..at(5, 9, "") },
        LogRecord {
            attributes: vec![text("exception.type", "ConnectException"), text("exception.stacktrace", "at Foo.barBaz")],
            ..at(6, 17, "failed")
        },
        at(7, 9, "Ошибка ОПЛАТЫ заказа"),
        at(8, 9, "支付服务超时。"),
        at(9, 5, "50%_done back\\slash"),
    ];
    let members = KeyValueList { values: vec![text("message", "line\nbreak"), text("host", "db-7")] };
    logs.push(LogRecord { body: Some(AnyValue { value: Some(Value::KvlistValue(members)) }), ..at(10, 9, "") });
    let old = logs.iter().cloned().map(|log| LogRecord { time_unix_nano: log.time_unix_nano - 300 * DAY, ..log });
    scene.logs("shop", old.collect()).await;
    assert!(!scene.bench.store.close_partitions().await.unwrap().is_empty());
    scene.logs("shop", logs.into_iter().map(ahead).collect()).await;
    scene
}

/// Ten years later.
fn ahead(log: LogRecord) -> LogRecord {
    LogRecord { time_unix_nano: log.time_unix_nano + AHEAD, ..log }
}

#[tokio::test(flavor = "multi_thread")]
async fn names_are_found_by_their_parts_with_and_without_an_index() {
    let scene = names().await;
    let json = r#"{"host": "db-7", "message": "line\nbreak"}"#;
    for (query, body) in [
        ("timeoutexception", "java.util.concurrent.TimeoutException: no answer"),
        ("TIMEOUT", "java.util.concurrent.TimeoutException: no answer"),
        ("concurrent", "java.util.concurrent.TimeoutException: no answer"),
        ("java.util.concurrent.TimeoutException", "java.util.concurrent.TimeoutException: no answer"),
        ("\"no answer\"", "java.util.concurrent.TimeoutException: no answer"),
        ("timeout* -redis answer", "java.util.concurrent.TimeoutException: no answer"),
        ("redis", "cannot reach redis-1.cache.internal:6379"),
        ("cache internal", "cannot reach redis-1.cache.internal:6379"),
        ("redis-1.cache.internal", "cannot reach redis-1.cache.internal:6379"),
        ("6379", "cannot reach redis-1.cache.internal:6379"),
        ("/api/v1/users", "GET /api/v1/users/2/orders took 31ms"),
        ("orders -exception", "GET /api/v1/users/2/orders took 31ms"),
        ("io", "IOException in my_function of OrderServiceImpl"),
        ("my_function", "IOException in my_function of OrderServiceImpl"),
        ("impl", "IOException in my_function of OrderServiceImpl"),
        ("session", ""),
        ("connect", "failed"),
        ("baz", "failed"),
        ("оплаты", "Ошибка ОПЛАТЫ заказа"),
        ("服务", "支付服务超时。"),
        ("50%_done", "50%_done back\\slash"),
        ("back\\slash\\", "50%_done back\\slash"),
        ("break db-7", json),
    ] {
        let hits = found(&scene, &ask(query)).await;
        // The cheap look for letters beyond ASCII needs the database to know them, the exact one not.
        assert_eq!(hits, [body, body], "{query}");
    }
    for nothing in ["timeoutexc", "\"answer no\"", "redis -cache", "支付服务 -超时", "服务超支"] {
        assert_eq!(found(&scene, &ask(nothing)).await, Vec::<String>::new(), "{nothing}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn filters_narrow_down() {
    let scene = names().await;
    let textual = LogRecord { severity_text: "ERROR".to_owned(), ..at(11, 0, "x") };
    scene.logs("other", vec![ahead(textual)]).await;
    let trace = TraceId(trace_id(2).try_into().unwrap());
    let queries = scene.queries();
    let request = LogsRequest { trace_id: Some(trace), ..all() };
    let page = queries.search_logs(&request).await.unwrap();
    assert_eq!(bodies(&page), ["cannot reach redis-1.cache.internal:6379"; 2]);
    assert_eq!(page.logs[0].trace_id, Some(trace));
    assert_eq!(page.logs[0].level, Some(Level::Warn));

    let errors = LogsRequest { level: Some("Error".to_owned()), ..all() };
    let page = queries.search_logs(&errors).await.unwrap();
    assert_eq!(page.logs.len(), 5);
    assert_eq!(page.logs[0].service_name, "other", "a severity that is only a text counts");

    let recent = Timestamp::from_nanosecond(i128::from(NOON)).unwrap();
    assert_eq!(found(&scene, &LogsRequest { start: Some(recent), ..errors.clone() }).await.len(), 3);
    assert_eq!(found(&scene, &LogsRequest { end: Some(recent), ..errors.clone() }).await.len(), 2);
    assert_eq!(found(&scene, &LogsRequest { service: Some("other".to_owned()), ..errors }).await, ["x"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_give_every_record_once_also_where_times_are_equal() {
    let scene = Scene::new().await;
    for request in 0..3 {
        let logs = (0..100).map(|i| at(i / 40, 9, &format!("record {request} {i}"))).collect();
        scene.logs("shop", logs).await;
    }
    for query in [None, Some("record".to_owned())] {
        let mut request = LogsRequest { limit: 7, query, ..LogsRequest::default() };
        let mut seen = Vec::new();
        loop {
            let page = scene.queries().search_logs(&request).await.unwrap();
            seen.extend(page.logs.into_iter().map(|log| (log.time, log.id, log.body)));
            // What comes meanwhile and is newer changes nothing.
            scene.logs("shop", vec![at(1000 + seen.len() as u64, 9, "late")]).await;
            let Some(next) = page.next else { break };
            request.cursor = Some(next);
        }
        let mut old: Vec<_> = seen.iter().filter(|(_, _, body)| body.as_deref() != Some("late")).collect();
        assert!(old.is_sorted_by(|a, b| a.0 >= b.0));
        assert_eq!(old.len(), 300);
        old.sort_by_key(|(_, _, body)| body.clone());
        old.dedup_by_key(|(_, _, body)| body.clone());
        assert_eq!(old.len(), 300);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_are_cut_and_the_record_is_whole() {
    let scene = Scene::new().await;
    let large = LogRecord {
        attributes: vec![text("prompt", &"é".repeat(100_000)), text("model", "m")],
        event_name: "e".repeat(5000),
        severity_text: "s".repeat(5000),
        ..at(1, 9, &"ä".repeat(3000))
    };
    scene.logs("agent", vec![large.clone()]).await;
    let page = scene.queries().search_logs(&all()).await.unwrap();
    let entry = &page.logs[0];
    assert_eq!(entry.body.as_ref().unwrap().len(), 4096);
    assert_eq!(entry.body_bytes, 6000);
    assert_eq!(entry.event_name.as_ref().map(String::len), Some(4096));
    assert_eq!(entry.severity_text.as_ref().map(String::len), Some(4096));
    assert!(entry.attributes_cut);
    let cut = serde_json::json!({ "$cut": "é".repeat(2048), "$type": "string", "$length": 200_000 });
    assert_eq!(entry.attributes["prompt"], cut);
    assert_eq!(entry.attributes["model"], "m");
    assert_eq!(scene.queries().get_log(&entry.id).await.unwrap().record, large);

    let middling = LogRecord { attributes: vec![text("prompt", &"x".repeat(4097))], ..at(2, 9, "") };
    let small = LogRecord { attributes: vec![text("a", &"x".repeat(4096)), text("b", "x")], ..at(3, 9, "") };
    scene.logs("agent", vec![middling, small]).await;
    let page = scene.queries().search_logs(&all()).await.unwrap();
    assert!(!page.logs[0].attributes_cut && page.logs[0].attributes["a"].is_string());
    assert_eq!(page.logs[1].attributes["prompt"]["$length"], 4097);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_ends_early_where_records_are_large() {
    let scene = Scene::new().await;
    // No value is cut, and three records are more than a page holds.
    let attributes: Vec<_> = (0..1800).map(|n| text(&format!("key{n}"), &"x".repeat(4000))).collect();
    for number in 1..=5 {
        scene.logs("agent", vec![LogRecord { attributes: attributes.clone(), ..at(number, 9, "large") }]).await;
    }
    for request in [all(), LogsRequest { level: Some("info".to_owned()), ..all() }] {
        let (mut times, mut cursor, mut pages) = (Vec::new(), None, 0);
        loop {
            let page = scene.queries().search_logs(&LogsRequest { cursor, ..request.clone() }).await.unwrap();
            assert!(page.logs.len() <= 2 && page.searched_back_to.is_none());
            times.extend(page.logs.iter().map(|log| log.time));
            (cursor, pages) = (page.next, pages + 1);
            if cursor.is_none() {
                break;
            }
        }
        assert_eq!((times.len(), pages), (5, 3));
        assert!(times.is_sorted_by(|newer, older| newer > older), "each once: {times:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_search_stops_at_a_bound_says_so_and_goes_on() {
    let scene = Scene::new().await;
    // Past the bound of one answer, made in the database for speed.
    scene.logs("shop", vec![at(1, 9, "the needle")]).await;
    let client = scene.bench.test.client().await;
    client
        .batch_execute(
            "INSERT INTO otel_logs (time, resource_id, scope_id, flags, time_ns, severity_number, time_is_observed,
                                    service_name, body, attributes)
             SELECT time + n * interval '1 millisecond', resource_id, scope_id, flags, time_ns, severity_number,
                    time_is_observed, service_name, 'hay', attributes
             FROM otel_logs, generate_series(1, 450000) n",
        )
        .await
        .unwrap();
    let queries = scene.queries();
    let page = queries.search_logs(&ask("needle")).await.unwrap();
    assert!(page.logs.is_empty());
    let stopped = page.searched_back_to.unwrap();
    assert!(stopped > Timestamp::from_nanosecond(i128::from(NOON + SECOND)).unwrap());
    let page = queries.search_logs(&LogsRequest { cursor: page.next, ..ask("needle") }).await.unwrap();
    assert_eq!(bodies(&page), ["the needle"]);
    assert_eq!((page.next, page.searched_back_to), (None, None));

    // Where templates are indexed nothing is looked through.
    let rare = LogsRequest { templates: Some(vec![TemplateId(-1)]), ..all() };
    assert!(queries.search_logs(&rare).await.unwrap().searched_back_to.is_some());
    let partition = "SELECT tableoid::regclass::text FROM otel_logs LIMIT 1";
    let partition: String = client.query_one(partition, &[]).await.unwrap().get(0);
    let name = partition.trim_start_matches("otel.");
    let index = format!("CREATE INDEX {name}_template ON otel.{name} (template_id, time)");
    client.batch_execute(&index).await.unwrap();
    assert_eq!(queries.search_logs(&rare).await.unwrap().searched_back_to, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_arguments_are_named() {
    let scene = Scene::new().await;
    scene.logs("shop", vec![at(1, 9, "x")]).await;
    let noon = Timestamp::UNIX_EPOCH;
    let words = "query: expected words, \"phrases\", -exclusions or prefixes*, with a letter or digit and 1000 characters \
                 at most, without NUL";
    for (request, message) in [
        (LogsRequest { limit: 0, ..all() }, "limit: expected a number from 1 to 1000"),
        (ask("  "), words),
        (ask("-- \\"), words),
        (ask("a\0b"), words),
        (ask(&"x".repeat(1001)), words),
        (
            LogsRequest { level: Some("loud".to_owned()), ..all() },
            "level: expected trace, debug, info, warn, error, fatal",
        ),
        (LogsRequest { start: Some(noon), end: Some(noon), ..all() }, "end: expected a time after start"),
        (
            LogsRequest { cursor: Some("abc".to_owned()), ..all() },
            "cursor: expected the next of a page of this same query, with the same filters and order",
        ),
        (
            LogsRequest { service: Some("a\0b".to_owned()), ..all() },
            "service: expected a name that is not empty, without NUL",
        ),
        (LogsRequest { service: Some("shoop".to_owned()), ..all() }, "service: \"shoop\" is not known; there is shop"),
    ] {
        let error = scene.queries().search_logs(&request).await.expect_err("wrong");
        assert_eq!(error.to_string(), message);
    }
    let gone = scene.queries().search_logs(&all()).await.unwrap().logs[0].id.clone();
    scene.bench.test.client().await.batch_execute("DELETE FROM otel_logs").await.unwrap();
    assert!(matches!(scene.queries().get_log(&gone).await, Err(QueryError::NotFound { .. })));
    let page = scene.queries().search_logs(&LogsRequest { service: Some("shop".to_owned()), ..all() }).await.unwrap();
    assert!(page.logs.is_empty() && page.next.is_none(), "a known service without logs");
}

#[tokio::test(flavor = "multi_thread")]
async fn closed_partitions_answer_from_their_indexes_and_others_are_left_alone() {
    let scene = names().await;
    let store = &scene.bench.store;
    assert_eq!(store.close_partitions().await.unwrap(), Vec::<String>::new(), "each once");
    let client = scene.bench.test.client().await;
    let invalid = "UPDATE pg_index SET indisvalid = false WHERE indexrelid = (SELECT oid FROM pg_class
                   WHERE relname LIKE 'otel_logs%_words' AND relkind = 'i' LIMIT 1)";
    client.batch_execute(invalid).await.unwrap();
    assert_eq!(store.close_partitions().await.unwrap().len(), 1, "a build that was cut off is repeated");

    let body = "x".repeat(200);
    let old = NOON - 300 * DAY;
    let logs = (0..3000).map(|i| LogRecord { time_unix_nano: old + i, ..at(0, 9, &format!("{body} {i}")) }).collect();
    scene.bench.send(Signal::Logs, of_service("shop", logs)).await.unwrap();
    let logs = (0..3000).map(|i| ahead(at(i, 9, "later"))).collect();
    scene.bench.send(Signal::Logs, of_service("shop", logs)).await.unwrap();
    client.batch_execute("ANALYZE otel_logs").await.unwrap();
    let day = |nanos: u64| Some(Timestamp::from_nanosecond(i128::from(nanos)).unwrap());
    let closed = LogsRequest { start: day(old), end: day(old + DAY), ..ask("2718") };
    let plan = scene.queries().explain_logs(&closed).await.unwrap();
    assert!(plan.contains("_words") && !plan.contains("Append"), "the index, and one partition:\n{plan}");
    let open = LogsRequest { query: None, limit: 10, start: day(NOON + AHEAD), end: day(NOON + AHEAD + DAY), ..closed };
    let plan = scene.queries().explain_logs(&open).await.unwrap();
    assert!(plan.contains("_time_idx") && !plan.contains("Append"), "the index on time, and one partition:\n{plan}");
}
