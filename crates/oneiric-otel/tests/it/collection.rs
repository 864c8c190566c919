//! Collecting what nothing refers to any more: nothing that a record refers to goes, whoever writes meanwhile.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use oneiric_otel::otlp::Signal;
use oneiric_otel::store::Database;
use oneiric_otel::store::retention::{CollectionOutcome, CollectionRun};
use opentelemetry_proto::tonic::metrics::v1::Metric;
use opentelemetry_proto::tonic::metrics::v1::metric::Data;

use crate::retention::{let_pass, log_of, run, span_of};
use crate::scene::{Scene, of_service};
use crate::writing::{Bench, gauge};

/// Requests that are sent while rows are collected.
const SENT: u64 = 60;

/// What of each table refers to something that is not there.
const DANGLING: &[&str] = &[
    "otel_spans s LEFT JOIN otel_resources r USING (resource_id) LEFT JOIN otel_scopes c USING (scope_id)
     WHERE r.resource_id IS NULL OR c.scope_id IS NULL",
    "otel_logs s LEFT JOIN otel_resources r USING (resource_id) LEFT JOIN otel_scopes c USING (scope_id)
     WHERE r.resource_id IS NULL OR c.scope_id IS NULL",
    "otel_metric_series s LEFT JOIN otel_resources r USING (resource_id) LEFT JOIN otel_scopes c USING (scope_id)
     WHERE r.resource_id IS NULL OR c.scope_id IS NULL",
    "otel_metrics p LEFT JOIN otel_metric_series s USING (series_id) WHERE s.series_id IS NULL",
    "otel_metric_rollups p LEFT JOIN otel_metric_series s USING (series_id) WHERE s.series_id IS NULL",
];

/// What nothing refers to.
const UNREFERENCED: &[&str] = &[
    "otel_resources r WHERE NOT EXISTS (SELECT FROM otel_spans s WHERE s.resource_id = r.resource_id)
       AND NOT EXISTS (SELECT FROM otel_logs s WHERE s.resource_id = r.resource_id)
       AND NOT EXISTS (SELECT FROM otel_metric_series s WHERE s.resource_id = r.resource_id)",
    "otel_scopes r WHERE NOT EXISTS (SELECT FROM otel_spans s WHERE s.scope_id = r.scope_id)
       AND NOT EXISTS (SELECT FROM otel_logs s WHERE s.scope_id = r.scope_id)
       AND NOT EXISTS (SELECT FROM otel_metric_series s WHERE s.scope_id = r.scope_id)",
    "otel_metric_series r WHERE NOT EXISTS (SELECT FROM otel_metrics s WHERE s.series_id = r.series_id)
       AND NOT EXISTS (SELECT FROM otel_metric_rollups s WHERE s.series_id = r.series_id)",
    "otel_log_templates r WHERE NOT EXISTS (SELECT FROM otel_logs s WHERE s.template_id = r.template_id)",
];

/// So many days pass for all that is collected, and for nothing else.
fn unseen_for(days: u32) -> String {
    let tables = ["otel_resources", "otel_scopes", "otel_metric_series", "otel_log_templates"];
    let mut sql: Vec<String> =
        tables.iter().map(|table| format!("UPDATE {table} SET last_seen = last_seen - {days}")).collect();
    sql.push(format!(
        "UPDATE otel_retirements SET retired_at = retired_at - interval '{days} days', looked_at = looked_at - interval '{days} days'"
    ));
    sql.join("; ")
}

pub(crate) async fn execute(scene: &Scene, sql: &str) {
    scene.bench.test.client().await.batch_execute(sql).await.unwrap();
}

/// Days pass for everything, and a new connection.
async fn pass(scene: &Scene, days: u32) -> Database {
    let database = let_pass(scene, days).await;
    execute(scene, &unseen_for(days)).await;
    database
}

pub(crate) fn at_once() -> CollectionRun {
    CollectionRun { at_once: true, trust_clock: true, patience: Duration::from_secs(20), ..CollectionRun::default() }
}

async fn collect(database: &Database) -> CollectionOutcome {
    database.migrate_deferred().await.unwrap();
    database.collect(&at_once()).await.unwrap()
}

async fn assert_none(scene: &Scene, what: &[&str]) {
    for rows in what {
        assert_eq!(scene.bench.count(rows).await, 0, "{rows}");
    }
}

fn points_of(days: u64, name: &str) -> Metric {
    let mut metric = gauge(name, &[1.0]);
    if let Some(Data::Gauge(gauge)) = &mut metric.data {
        gauge.data_points[0].time_unix_nano = span_of(days, 1).start_time_unix_nano;
    }
    metric
}

/// A record of each kind, of a service.
pub(crate) async fn send(scene: &Scene, service: &str, days: u64, id: u64) {
    scene.spans(service, vec![span_of(days, id)]).await;
    scene.logs(service, vec![log_of(days)]).await;
    scene.bench.send(Signal::Metrics, of_service(service, vec![points_of(days, "load")])).await.unwrap();
}

async fn reopened(scene: Scene) -> Scene {
    Scene { bench: Bench::on(scene.bench.test).await, ..scene }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nothing_refers_to_goes_with_the_partitions() {
    let scene = Scene::new().await;
    send(&scene, "shop", 200, 1).await;
    let database = pass(&scene, 0).await;
    assert_eq!(collect(&database).await, CollectionOutcome::default(), "all was seen today");

    let database = pass(&scene, 3).await;
    let outcome = collect(&database).await;
    assert_eq!((outcome.retired, outcome.collected(), outcome.waits_for), (3, 0, vec![]));
    assert_none(&scene, DANGLING).await;

    let database = pass(&scene, 91).await;
    let outcome = collect(&database).await;
    assert_eq!(outcome.collected(), 0, "the partitions are still there: {outcome:?}");
    let dropped = database.run_retention(&run()).await.unwrap().dropped;
    assert_eq!(dropped.len(), 3, "{dropped:?}");
    let database = pass(&scene, 7).await;
    let outcome = collect(&database).await;
    assert_eq!((outcome.resources, outcome.scopes, outcome.series), (1, 1, 1), "{outcome:?}");
    assert_none(&scene, UNREFERENCED).await;
    assert_eq!(scene.bench.count("otel_retirements").await, 0);
    let state = database.retention_state().await.unwrap().collection;
    let gone: Vec<(&str, i64)> = state.tables.iter().map(|rows| (rows.table.as_str(), rows.collected)).collect();
    let expected = [
        ("otel_log_templates", 1),
        ("otel_metric_series", 1),
        ("otel_resources", 1),
        ("otel_scopes", 1),
        ("otel_texts", 0),
    ];
    assert_eq!(gone, expected);
    assert_eq!(collect(&database).await, CollectionOutcome::default());

    let scene = reopened(scene).await;
    send(&scene, "shop", 0, 2).await;
    assert_none(&scene, DANGLING).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_retired_comes_back_with_its_id() {
    let scene = Scene::new().await;
    send(&scene, "shop", 0, 1).await;
    execute(&scene, &unseen_for(300)).await;
    assert_eq!(collect(&scene.bench.store).await.retired, 3);
    let in_use = "otel_resources, otel_scopes, otel_metric_series s WHERE coalesce(otel_resources.retirement,
                  otel_scopes.retirement, s.retirement) IS NULL";
    assert_eq!(scene.bench.count(in_use).await, 0);
    // This writer remembers the ids, and may have asked for them a moment ago.
    send(&scene, "shop", 0, 2).await;
    assert_eq!(scene.bench.count(in_use).await, 1);
    assert_eq!(scene.bench.count("otel_resources").await, 1, "the same row");
    assert_eq!(scene.bench.count("otel_metric_series").await, 1, "the same row");
    assert_eq!(scene.bench.count("otel_spans JOIN otel_resources USING (resource_id)").await, 2);
    assert_eq!(collect(&scene.bench.store).await.retired, 0, "it was seen today");
    assert_eq!(scene.bench.count("otel_resources WHERE last_seen > current_date - 100").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn that_a_row_is_seen_is_noted_once_a_day() {
    let scene = Scene::new().await;
    send(&scene, "shop", 0, 1).await;
    execute(&scene, &unseen_for(300)).await;
    // Another process, which remembers nothing.
    let scene = reopened(scene).await;
    send(&scene, "shop", 0, 2).await;
    for table in ["otel_resources", "otel_scopes", "otel_metric_series"] {
        assert_eq!(scene.bench.count(&format!("{table} WHERE last_seen > current_date - 100")).await, 1, "{table}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_that_saw_a_row_before_it_was_retired_keeps_it() {
    let scene = Scene::new().await;
    send(&scene, "shop", 0, 1).await;
    execute(&scene, &unseen_for(3)).await;
    let writing = scene.bench.test.client().await;
    writing.batch_execute("BEGIN; SELECT FROM otel_resources").await.unwrap();
    let impatient = CollectionRun { patience: Duration::from_millis(300), ..at_once() };
    scene.bench.store.migrate_deferred().await.unwrap();
    let outcome = scene.bench.store.collect(&impatient).await.unwrap();
    assert_eq!((outcome.retired, outcome.waits_for.len()), (3, 1), "{outcome:?}");
    let unlabelled = "otel_retirements WHERE generation IS NULL";
    assert_eq!(scene.bench.count(unlabelled).await, 3);
    // To a partition that is made now, though the row is retired.
    writing
        .batch_execute(
            "DELETE FROM otel_spans;
             SELECT otel_ensure_partition('otel_spans', '2040-01-01');
             INSERT INTO otel_spans (start_time, duration_ns, span_hash, resource_id, trace_id, scope_id, flags, start_ns, span_id,
                                     service_name, name, kind, status, attributes)
             SELECT '2040-01-01', 1, 1, resource_id, gen_random_uuid(), scope_id, 0, 0, '', '', '', '', '', '{}'
             FROM otel_resources, otel_scopes;
             COMMIT",
        )
        .await
        .unwrap();
    execute(&scene, "DELETE FROM otel_logs; DELETE FROM otel_metrics").await;
    let old = "UPDATE otel_retirements SET retired_at = retired_at - interval '200 days'";
    for _ in 0..3 {
        collect(&scene.bench.store).await;
        execute(&scene, old).await;
    }
    assert_eq!(scene.bench.count(unlabelled).await, 0);
    assert_eq!(scene.bench.count("otel_metric_series").await, 0, "its points are gone");
    assert_none(&scene, DANGLING).await;
    assert_eq!(scene.bench.count("otel_resources").await, 1);
    execute(&scene, "DELETE FROM otel_spans").await;
    collect(&scene.bench.store).await;
    assert_none(&scene, &UNREFERENCED[..3]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_writes_while_rows_are_collected_loses_nothing() {
    let scene = Scene::new().await;
    scene.bench.store.migrate_deferred().await.unwrap();
    let collector = Database::new(scene.bench.test.url()).unwrap();
    let has_ended = AtomicBool::new(false);
    let write = async {
        for id in 1..=SENT {
            scene.spans("kept", vec![span_of(0, id)]).await;
            send(&scene, &format!("gone {}", id % 5), 0, 1000 + id).await;
        }
        has_ended.store(true, Ordering::Relaxed);
    };
    let gone =
        "DELETE FROM otel_spans WHERE service_name LIKE 'gone%'; DELETE FROM otel_logs; DELETE FROM otel_metrics";
    let age = format!("{}; {gone}", unseen_for(200));
    let retire = async {
        let mut retired = 0;
        while !has_ended.load(Ordering::Relaxed) {
            // May lose to a writer that it waits for in a circle.
            drop(scene.bench.test.client().await.batch_execute(&age).await);
            retired += collector.collect(&at_once()).await.unwrap().retired;
        }
        retired
    };
    let ((), retired) = tokio::join!(write, retire);
    assert!(retired > 0, "it is about rows that are retired meanwhile");
    assert_none(&scene, DANGLING).await;
    assert_eq!(scene.bench.count("otel_spans WHERE service_name = 'kept'").await, SENT as i64);
    assert_eq!(scene.bench.count("otel_telemetry_dlq").await, 0);
    for _ in 0..3 {
        execute(&scene, &age).await;
        collect(&collector).await;
    }
    assert_none(&scene, DANGLING).await;
    assert_none(&scene, &UNREFERENCED[..3]).await;
    assert_eq!(scene.bench.count("otel_resources").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_a_record_refers_to_is_ever_deleted_and_all_else_is_in_the_end() {
    let mut scene = Scene::new().await;
    // Knuth's generator: the same cases every time.
    let mut state: u64 = 20_261_121;
    let mut random = |below: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    let (mut id, mut collected) = (0, 0);
    for _ in 0..6 {
        for _ in 0..6 {
            id += 1;
            let (service, days) = (format!("service {}", random(12)), [0, 150, 200, 400, 20_000][random(5) as usize]);
            match random(3) {
                0 => scene.spans(&service, vec![span_of(days, id)]).await,
                1 => scene.logs(&service, vec![log_of(days)]).await,
                _ => {
                    let points = vec![points_of(days, &format!("load {}", random(3)))];
                    scene.bench.send(Signal::Metrics, of_service(&service, points)).await.map(drop).unwrap();
                }
            }
        }
        let database = pass(&scene, [3, 50, 100][random(3) as usize]).await;
        if random(2) == 0 {
            database.run_retention(&run()).await.unwrap();
        }
        collected += collect(&database).await.collected();
        assert_none(&scene, DANGLING).await;
        scene = reopened(scene).await;
    }
    for _ in 0..3 {
        let database = pass(&scene, 100).await;
        database.run_retention(&run()).await.unwrap();
        collected += collect(&database).await.collected();
        assert_none(&scene, DANGLING).await;
    }
    assert_none(&scene, UNREFERENCED).await;
    assert!(collected > 0 && scene.bench.count("otel_spans").await > 0, "the cases are good for something");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_program_stops_retiring_and_its_series_keep_their_owners() {
    let scene = Scene::new().await;
    send(&scene, "shop", 0, 1).await;
    execute(&scene, &format!("{}; UPDATE otel_ingest_ledger SET refreshed = NULL", unseen_for(3))).await;
    let outcome = collect(&scene.bench.store).await;
    assert!(outcome.held_back.is_some_and(|why| why.contains("older program")), "it wrote just now");
    assert!(scene.bench.store.retention_state().await.unwrap().collection.older_program);
    assert_eq!(outcome.retired, 0);

    execute(&scene, "UPDATE otel_ingest_ledger SET received_at = now() - interval '3 days'").await;
    assert_eq!(collect(&scene.bench.store).await.retired, 3);
    let series =
        "INSERT INTO otel_metric_series (content_hash, resource_id, scope_id, monotonic, service_name, metric_name,
                    metric_type, temporality, unit, description, attributes)
                  SELECT gen_random_uuid(), resource_id, scope_id, false, 'shop', 'a', 'gauge', '', '', '', '{}'
                  FROM otel_resources, otel_scopes";
    let client = scene.bench.test.client().await;
    let refused = client.batch_execute(series).await.unwrap_err();
    assert_eq!(refused.code().unwrap().code(), "40001", "a class after which it looks everything up again");
    send(&scene, "shop", 0, 2).await;
    client.batch_execute(series).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_that_somebody_detached_keeps_what_it_refers_to() {
    let scene = Scene::new().await;
    send(&scene, "shop", 0, 1).await;
    execute(&scene, &unseen_for(3)).await;
    collect(&scene.bench.store).await;
    let name = scene.row("SELECT tableoid::regclass FROM otel_spans").await;
    execute(
        &scene,
        &format!("ALTER TABLE otel_spans DETACH PARTITION {name}; DELETE FROM otel_logs; DELETE FROM otel_metrics"),
    )
    .await;
    for _ in 0..3 {
        execute(&scene, &unseen_for(200)).await;
        let outcome = collect(&scene.bench.store).await;
        assert!(outcome.waits_for.iter().any(|why| why.contains("detached")), "{outcome:?}");
    }
    assert_eq!(scene.bench.count("otel_resources").await, 1);
    execute(&scene, &format!("DROP TABLE {name}")).await;
    scene.bench.store.run_retention(&run()).await.unwrap();
    for _ in 0..2 {
        collect(&scene.bench.store).await;
        execute(&scene, &unseen_for(200)).await;
    }
    assert_none(&scene, UNREFERENCED).await;
}
