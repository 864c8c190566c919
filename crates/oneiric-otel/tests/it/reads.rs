//! Questions about much read little: the right indexes, and only the partitions of their time.
//!
//! Not by asking for plans: the statistics of PostgreSQL tell what was really read by the questions as they are sent.

use std::time::Duration;

use jiff::SignedDuration;
use oneiric_otel::query::{
    ErrorGroupsRequest, ErrorTracesRequest, OperationsRequest, QueryService, SpanFilter, SpansRequest, TimeRange,
};
use oneiric_otel::store::Database;

use crate::catalogue::noon;
use crate::errors::days_of_errors;
use crate::scene::Scene;

/// Asks, and waits until the server has counted.
async fn asked<A>(scene: &Scene, ask: impl AsyncFnOnce(&QueryService) -> A) -> A {
    scene.bench.test.client().await.batch_execute("SELECT pg_stat_reset()").await.unwrap();
    let database = Database::new(scene.bench.test.url()).unwrap();
    let answer = ask(&QueryService::new(database.clone(), None)).await;
    // A session that ends says what it read.
    let sessions = "SELECT count(*) FROM pg_stat_activity
                    WHERE datname = current_database() AND query LIKE 'COMMIT%' AND application_name = 'oneiric-otel'";
    let before = scene.bench.test.count(sessions).await;
    database.close();
    drop(database);
    for _ in 0..200 {
        if scene.bench.test.count(sessions).await < before {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    answer
}

/// Times that this index, or that of a partition made from it, was used.
async fn uses(scene: &Scene, column: &str, like: &str) -> i64 {
    scene
        .bench
        .test
        .count(&format!(
            "SELECT coalesce(sum(s.idx_scan), 0) FROM pg_stat_user_indexes s JOIN pg_indexes i
               ON i.schemaname = s.schemaname AND i.indexname = s.indexrelname
             WHERE s.relname LIKE '{like}' AND i.indexdef LIKE '%{column}%'"
        ))
        .await
}

/// Times that these tables were read whole, and that they were read at all.
async fn reads(scene: &Scene, like: &str) -> (i64, i64) {
    let sum =
        |what: &str| format!("SELECT coalesce(sum({what}), 0) FROM pg_stat_user_tables WHERE relname LIKE '{like}'");
    let whole = scene.bench.test.count(&sum("seq_scan")).await;
    (whole, whole + scene.bench.test.count(&sum("coalesce(idx_scan, 0)")).await)
}

fn last_hours(hours: i64) -> TimeRange {
    TimeRange::new(noon() - SignedDuration::from_hours(hours), noon()).unwrap()
}

fn errors(pattern: &str, hours: i64) -> ErrorTracesRequest {
    ErrorTracesRequest { pattern: pattern.to_owned(), service: None, range: last_hours(hours), limit: 10, after: None }
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_are_looked_for_through_their_indexes() {
    let scene = Scene::new().await;
    days_of_errors(&scene).await;
    let id = scene.row("md5('29997')").await;
    let page = asked(&scene, async |queries| queries.get_traces_by_error(&errors(&id, 200)).await.unwrap()).await;
    assert_eq!(page.traces.len(), 1);
    assert_eq!(uses(&scene, "otel_error_trigrams", "otel_errors").await, 1);
    assert_eq!(uses(&scene, "otel_error_id", "otel_traces_%").await, 1, "in the partition of its day alone");
    assert_eq!(reads(&scene, "otel_errors").await.0, 0);
    assert_eq!(reads(&scene, "otel_traces_2026%").await.0, 0);

    let page = asked(&scene, async |queries| queries.get_traces_by_error(&errors("refused", 30)).await.unwrap()).await;
    assert_eq!(page.traces.len(), 10);
    assert_eq!(reads(&scene, "otel_errors").await, (0, 0), "what is frequent is among the newest");
    assert_eq!(reads(&scene, "otel_traces_20261118").await, (0, 0), "that day is over before");
    assert!(reads(&scene, "otel_traces_20261120").await.1 > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn groups_and_catalogue_read_the_days_they_are_asked_about() {
    let scene = Scene::new().await;
    days_of_errors(&scene).await;
    scene
        .bench
        .test
        .client()
        .await
        .batch_execute(
            "SELECT otel_ensure_partition('otel_spans', timestamptz '2026-11-20 12:00:00+00' - n * interval '1 day')
             FROM generate_series(0, 6) n;
             INSERT INTO otel_resources (content_hash, service_name, schema_url, attributes, envelope)
             VALUES (gen_random_uuid(), 'shop', '', '{}', '');
             INSERT INTO otel_scopes (content_hash, name, version, schema_url, attributes, envelope)
             VALUES (gen_random_uuid(), '', '', '', '{}', '');
             INSERT INTO otel_spans (start_time, duration_ns, span_hash, resource_id, trace_id, scope_id, flags, start_ns,
                                     span_id, service_name, name, kind, status, attributes)
             SELECT t.start_time, 1, n, 1, t.trace_id, 1, 0, 0, int8send(n), 'shop', 'op', 'server', 'unset', '{}'
             FROM otel_traces t CROSS JOIN generate_series(1, 4) n;
             ANALYZE otel_spans;
             -- What this has read is counted now, and not while the next question is watched.
             SELECT pg_stat_force_next_flush();",
        )
        .await
        .unwrap();
    let groups = ErrorGroupsRequest {
        range: last_hours(20),
        service: None,
        new_since: None,
        only_new: false,
        step: None,
        limit: 5,
        after: None,
    };
    let answer = asked(&scene, async |queries| queries.error_groups(&groups).await.unwrap()).await;
    assert_eq!(answer.groups.len(), 5);
    assert_eq!(reads(&scene, "otel_traces_20261118").await, (0, 0));

    let spans = SpansRequest { filter: SpanFilter::default(), range: last_hours(20), limit: 10, cursor: None };
    let page = asked(&scene, async |queries| queries.find_spans(&spans).await.unwrap()).await;
    assert_eq!((page.spans.len(), page.next.is_some()), (10, true));
    assert_eq!(reads(&scene, "otel_spans_2026%").await.0, 0, "the newest are found through the index on services");
    assert_eq!(reads(&scene, "otel_spans_20261118").await, (0, 0));

    let request = OperationsRequest { range: last_hours(20), service: "shop".to_owned(), limit: 10 };
    let answer = asked(&scene, async |queries| queries.operations(&request).await.unwrap()).await;
    assert!(answer.sample.exact);
    assert_eq!(answer.operations[0].count, 4 * answer.sample.traces);
    assert_eq!(reads(&scene, "otel_spans_2026%").await.0, 0, "spans are read trace by trace");
    assert_eq!(reads(&scene, "otel_spans_20261118").await, (0, 0));

    let request = OperationsRequest { range: last_hours(200), ..request };
    let answer = asked(&scene, async |queries| queries.operations(&request).await.unwrap()).await;
    assert_eq!((answer.sample.traces, answer.sample.traces_read, answer.sample.exact), (30_000, 5000, false));
    assert_eq!(answer.operations[0].count, 120_000, "scaled");
    assert_eq!(reads(&scene, "otel_spans_2026%").await.0, 0);
}
