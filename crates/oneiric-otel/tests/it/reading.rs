//! Questions that take too long, and those for which nobody waits any more, end in the server too.

use std::time::Duration;

use futures::StreamExt as _;
use oneiric_otel::query::{QueryError, QueryService, TraceFilter, TraceId, TracesRequest};
use oneiric_otel::store::Database;
use opentelemetry_proto::tonic::trace::v1::Span;

use crate::scene::{Scene, span, text, trace_id};
use crate::writing::Bench;

/// Statements that run in the test's database, without this one.
const RUNNING: &str = "SELECT count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND state = 'active' AND pid <> pg_backend_pid() AND query LIKE '%otel_traces%'";

fn everything() -> TracesRequest {
    TracesRequest::new(TraceFilter::default(), 10)
}

/// Makes every question about traces wait until the connection is dropped, without a lock that writers ask for.
async fn hold_up(bench: &Bench) -> tokio_postgres::Client {
    let client = bench.test.client().await;
    client.batch_execute("BEGIN; LOCK TABLE otel_traces IN ACCESS EXCLUSIVE MODE").await.unwrap();
    client
}

async fn until_running(bench: &Bench, wanted: i64) {
    while bench.test.count(RUNNING).await != wanted {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_question_that_is_dropped_disappears_from_the_server() {
    let bench = Bench::new().await;
    let lock = hold_up(&bench).await;
    let queries = QueryService::new(bench.store.clone(), None);
    let asked = tokio::spawn(async move { queries.find_traces(&everything()).await });
    until_running(&bench, 1).await;
    asked.abort();
    until_running(&bench, 0).await;
    drop(lock);
}

#[tokio::test(flavor = "multi_thread")]
async fn hundreds_of_abandoned_questions_leave_the_pools_usable() {
    let bench = Bench::new().await;
    let lock = hold_up(&bench).await;
    let queries = QueryService::new(bench.store.clone(), None);
    for _ in 0..20 {
        let asked: Vec<_> = (0..10)
            .map(|_| {
                tokio::spawn({
                    let queries = queries.clone();
                    async move { queries.find_traces(&everything()).await }
                })
            })
            .collect();
        until_running(&bench, 10).await;
        for question in asked {
            question.abort();
        }
        until_running(&bench, 0).await;
        bench.store.ping().await.unwrap();
    }
    drop(lock);
    assert_eq!(queries.find_traces(&everything()).await.unwrap().traces, []);
    let sessions = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()";
    assert!(bench.test.count(sessions).await <= 40, "what was abandoned is closed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_question_that_takes_too_long_is_cancelled_and_says_what_to_do() {
    let bench = Bench::new().await;
    let lock = hold_up(&bench).await;
    let store = bench.store.clone().with_read_limit(Duration::from_millis(50));
    let error = QueryService::new(store, None).find_traces(&everything()).await.expect_err("held up");
    assert!(matches!(error, QueryError::TooLong), "{error}");
    assert!(error.to_string().contains("shorter time range"), "{error}");
    until_running(&bench, 0).await;
    drop(lock);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_nobody_reads_on_is_ended() {
    let scene = Scene::new().await;
    // More than connections and buffers hold.
    let long = text("prompt", &"x".repeat(1_000_000));
    for number in 1..=40 {
        let span = Span { attributes: vec![long.clone()], ..span(1, number, 0, "ask", Duration::ZERO) };
        scene.spans("agent", vec![span]).await;
    }
    let trace = TraceId(trace_id(1).try_into().unwrap());
    let store = Database::new(scene.bench.test.url()).unwrap().with_patience(Duration::from_secs(1));
    let queries = QueryService::new(store, None);
    let sending = "SELECT count(*) FROM pg_stat_activity
                   WHERE datname = current_database() AND state = 'active' AND query LIKE '%FROM otel.otel_spans%'
                     AND pid <> pg_backend_pid()";
    let mut streams = Vec::new();
    // As many as there may be at a time.
    for _ in 0..8 {
        let mut stream = queries.stream_trace_otlp(trace).await.unwrap();
        assert!(stream.next().await.unwrap().is_ok());
        streams.push(stream);
    }
    while scene.bench.test.count(sending).await > 0 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let whole = queries.stream_trace_otlp(trace).await.unwrap();
    assert_eq!(whole.filter(|span| std::future::ready(span.is_ok())).count().await, 40, "there is room again");
    for stream in streams {
        let error = stream.filter_map(async |span| span.err()).collect::<Vec<_>>().await;
        assert!(
            matches!(&error[..], [error @ QueryError::NotTaken { .. }] if error.to_string().contains("nobody read on")),
            "{error:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn questions_go_where_the_reader_url_leads() {
    let (written, read) = (Bench::new().await, Bench::new().await);
    read.test.client().await.batch_execute("ALTER TABLE otel_traces RENAME TO elsewhere").await.unwrap();
    let database = Database::new(written.test.url()).unwrap().reading_from(read.test.url()).unwrap();
    let error = QueryService::new(database.clone(), None).find_traces(&everything()).await.expect_err("renamed there");
    assert!(error.to_string().contains("otel_traces"), "{error}");
    database.ping().await.unwrap();
}
