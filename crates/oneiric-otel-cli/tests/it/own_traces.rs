//! A server that traces itself stores spans of its work for others, and none of its work for itself.

use std::time::{Duration, Instant};

use oneiric_otel_testkit::TestDatabase;

use crate::cli::{PATIENCE, Serving};
use crate::serve::{post, request};

/// Longer than own spans take from their making to the work that could make further ones: exported within 0.1 s, written
/// within 0.2 s, derived after 2 s of quiet, embedded at once.
const ROUND: Duration = Duration::from_secs(5);

const OWN: &str = "from otel_spans where service_name = 'oneiric-otel'";

async fn wait_until(database: &TestDatabase, what: &str) {
    let began = Instant::now();
    while database.count(&format!("select count(*) where {what}")).await == 0 {
        assert!(began.elapsed() < PATIENCE, "waited in vain for: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn send(serving: &Serving, requests: std::ops::Range<u64>) {
    let http = serving.address("http_addr");
    let sender = tokio::task::spawn_blocking(move || {
        for number in requests {
            assert_eq!(post(&http, &request(number)), Some(200));
        }
    });
    sender.await.unwrap();
}

/// How many own spans there are once there are no more, for two rounds with nothing waiting.
async fn settled(database: &TestDatabase) -> i64 {
    let began = Instant::now();
    let own = format!("select count(*) {OWN}");
    loop {
        let before = database.count(&own).await;
        tokio::time::sleep(2 * ROUND).await;
        let idle =
            "not exists (select from otel.otel_trace_touches) and not exists (select from otel.otel_embedding_work)";
        if database.count(&own).await == before && database.count(&format!("select count(*) where {idle}")).await == 1 {
            return before;
        }
        assert!(began.elapsed() < PATIENCE, "own spans go on for ever: {before} and more");
    }
}

#[tokio::test]
async fn own_spans_are_stored_and_cause_no_further_ones() {
    const REQUESTS: i64 = 20;
    let database = TestDatabase::create().await;
    let arguments = ["--database-url", database.url(), "--trace-self"];
    let serving = Serving::start_with(&arguments, &[("OTEL_BSP_SCHEDULE_DELAY", "100")]).await;
    assert_eq!(settled(&database).await, 0, "nothing was sent");

    send(&serving, 0..REQUESTS as u64).await;
    for name in ["POST /v1/traces", "spool append", "COPY otel_spans", "derive traces", "embed texts"] {
        wait_until(&database, &format!("exists (select {OWN} and name = '{name}')")).await;
    }
    let own = settled(&database).await;
    // A request is received and appended; it is written, derived and embedded, at worst alone.
    assert!(own <= 5 * REQUESTS, "{own} spans of {REQUESTS} requests");

    let received = format!("{OWN} and name = 'POST /v1/traces'");
    let roots =
        database.count(&format!("select count(*) {received} and kind = 'server' and parent_span_id is null")).await;
    assert_eq!(roots, database.count(&format!("select count(*) {received}")).await);
    let appended = database.count(&format!("select count(*) {OWN} and name = 'spool append'")).await;
    let join = "select count(*) from otel_spans child join otel_spans parent
                on parent.trace_id = child.trace_id and parent.span_id = child.parent_span_id
                where child.name = 'spool append' and parent.name = 'POST /v1/traces'";
    assert_eq!((database.count(join).await, roots), (appended, appended));
    let told = database
        .count(&format!("select count(*) {received} and attributes @> '{{\"http.response.status_code\": 200}}'"))
        .await;
    assert_eq!(told, roots);

    serving.terminate().await;
    assert_eq!(serving.end().await, Some(0));
}

#[tokio::test]
async fn without_the_flag_there_are_no_own_spans_and_with_it_the_last_are_stored_at_the_end() {
    let database = TestDatabase::create().await;
    let serving = Serving::start(&["--database-url", database.url()]).await;
    send(&serving, 0..3).await;
    wait_until(&database, "(select count(*) from otel_traces) = 3").await;
    serving.terminate().await;
    assert_eq!(serving.end().await, Some(0));
    assert_eq!(database.count(&format!("select count(*) {OWN}")).await, 0);

    // Nothing is exported before the end.
    let variables = [("OTEL_BSP_SCHEDULE_DELAY", "3600000"), ("OTEL_STORAGE_TRACE_SELF", "true")];
    let serving = Serving::start_with(&["--database-url", database.url()], &variables).await;
    send(&serving, 3..6).await;
    serving.terminate().await;
    assert_eq!(serving.end().await, Some(0));
    assert_eq!(database.count(&format!("select count(*) {OWN} and name = 'POST /v1/traces'")).await, 3);
}
