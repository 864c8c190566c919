//! Questions that take too long, and those for which nobody waits any more, end in the server too.

use std::time::Duration;

use oneiric_otel::query::{QueryError, QueryService, TraceFilter, TracesRequest};
use oneiric_otel::store::Database;

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
async fn questions_go_where_the_reader_url_leads() {
    let (written, read) = (Bench::new().await, Bench::new().await);
    read.test.client().await.batch_execute("ALTER TABLE otel_traces RENAME TO elsewhere").await.unwrap();
    let database = Database::new(written.test.url()).unwrap().reading_from(read.test.url()).unwrap();
    let error = QueryService::new(database.clone(), None).find_traces(&everything()).await.expect_err("renamed there");
    assert!(error.to_string().contains("otel_traces"), "{error}");
    database.ping().await.unwrap();
}
