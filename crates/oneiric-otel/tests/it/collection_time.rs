//! When what nothing refers to any more is collected, and what a clock that went forward and back leaves behind.

use oneiric_otel::store::retention::{CollectionOutcome, CollectionRun};

use crate::collection::{at_once, execute, send};
use crate::retention::{let_pass, run};
use crate::scene::Scene;

const SHARED: [&str; 3] = ["otel_resources", "otel_scopes", "otel_metric_series"];

async fn seen_on(scene: &Scene, day: &str) {
    for table in SHARED {
        execute(scene, &format!("UPDATE {table} SET last_seen = {day}")).await;
    }
}

/// What a server does every hour.
async fn by_the_hour(scene: &Scene) -> CollectionOutcome {
    scene.bench.store.migrate_deferred().await.unwrap();
    scene.bench.store.collect(&CollectionRun { at_once: false, ..at_once() }).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_last_seen_on_the_day_before_is_retired_in_the_afternoon() {
    let scene = Scene::new().await;
    send(&scene, "shop", 0, 1).await;
    // An hour after noon nobody remembers an id of the day before. It was looked just before.
    seen_on(&scene, "(now() - interval '13 hours')::date - 1").await;
    let looked = "UPDATE otel_collection SET swept_at = (now() - interval '13 hours')::date + interval '12:59:59'";
    execute(&scene, looked).await;
    assert_eq!(by_the_hour(&scene).await.retired, 3);
    assert_eq!(scene.bench.count("otel_retirements WHERE generation IS NOT NULL").await, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn series_are_looked_for_again_when_a_partition_is_gone_that_had_points() {
    let scene = Scene::new().await;
    send(&scene, "shop", 5, 1).await;
    seen_on(&scene, "current_date - 3").await;
    assert_eq!(by_the_hour(&scene).await.retired, 3);
    // Kept for three days, and retired longer ago: they are looked for, and the points are still there.
    execute(
        &scene,
        "UPDATE otel_partitioned_tables SET retention = interval '3 days' WHERE parent = 'otel_metrics';
         UPDATE otel_retirements SET retired_at = now() - interval '4 days'",
    )
    .await;
    assert_eq!(by_the_hour(&scene).await.series, 0);
    assert_eq!(scene.bench.count("otel_retirements WHERE looked_at IS NOT NULL").await, 1);
    let database = let_pass(&scene, 4).await;
    assert_eq!(database.run_retention(&run()).await.unwrap().dropped.len(), 1);
    assert_eq!(database.collect(&at_once()).await.unwrap().series, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn templates_go_half_a_day_after_their_logs_and_not_while_a_record_may_have_them() {
    let scene = Scene::new().await;
    send(&scene, "shop", 5, 1).await;
    let kept = "UPDATE otel_partitioned_tables SET retention = interval '3 days' WHERE parent = 'otel_logs'";
    execute(&scene, kept).await;
    let database = let_pass(&scene, 4).await;
    // Seen on the day before those that are kept. A record may have come until noon of the day after.
    let seen = "((now() - interval '3 days 13 hours')::date - 1)";
    execute(
        &scene,
        &format!(
            "UPDATE otel_log_templates SET last_seen = {seen};
             UPDATE otel_partition_writes SET first_write = {seen} + interval '35 hours'
             WHERE parent = 'otel_logs' AND last_write <> '-infinity'"
        ),
    )
    .await;
    database.migrate_deferred().await.unwrap();
    assert_eq!(database.collect(&at_once()).await.unwrap().templates, 0, "a record has it");
    let outcome = database.run_retention(&run()).await.unwrap();
    assert_eq!(outcome.dropped.len(), 1, "{outcome:?}");
    assert_eq!(database.collect(&at_once()).await.unwrap().templates, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn days_that_a_clock_was_ahead_do_not_keep_rows() {
    let scene = Scene::new().await;
    send(&scene, "shop", 0, 1).await;
    seen_on(&scene, "current_date + 300").await;
    execute(&scene, "UPDATE otel_log_templates SET last_seen = current_date + 300").await;
    execute(&scene, "UPDATE otel_collection SET swept_at = now() + interval '300 days'").await;
    assert_eq!(by_the_hour(&scene).await.retired, 3);
    assert_eq!(scene.bench.count("otel_log_templates WHERE last_seen > current_date").await, 0);
    // What is in use comes back, with the right day.
    send(&scene, "shop", 0, 2).await;
    for table in SHARED {
        let seen = format!("{table} WHERE retirement IS NULL AND last_seen <= current_date");
        assert_eq!(scene.bench.count(&seen).await, 1, "{table}");
    }

    seen_on(&scene, "current_date - 3").await;
    assert_eq!(scene.bench.store.collect(&at_once()).await.unwrap().retired, 3);
    let ahead = "UPDATE otel_retirements SET retired_at = now() + interval '1 year', looked_at = now() + interval '1 year'
                 WHERE parent = 'otel_metric_series'; UPDATE otel_retirements SET retired_at = now() + interval '1 year'";
    execute(&scene, ahead).await;
    scene.bench.store.collect(&at_once()).await.unwrap();
    assert_eq!(scene.bench.count("otel_retirements WHERE greatest(retired_at, looked_at) > now()").await, 0);
    assert_eq!(
        scene.bench.count("otel_retirements WHERE looked_at IS NOT NULL").await,
        1,
        "nothing else was looked for"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_says_what_it_waited_for_and_what_is_gone() {
    let scene = Scene::new().await;
    send(&scene, "shop", 0, 1).await;
    let collecting = async || scene.bench.store.census().await.unwrap().collecting.unwrap();
    assert_eq!(collecting().await.looked_at, None);
    // The indexes are not built.
    let outcome = scene.bench.store.collect(&at_once()).await.unwrap();
    let state = collecting().await;
    assert!(outcome.waits_for[0].contains("the index otel.otel_metric_series_owner"), "{outcome:?}");
    assert_eq!((state.waits_for, state.held_back), (outcome.waits_for.clone(), None));
    assert_eq!(scene.bench.store.retention_state().await.unwrap().collection.waits_for, outcome.waits_for);
    assert!(state.looked_at.is_some());

    execute(&scene, "UPDATE otel_ingest_ledger SET refreshed = NULL").await;
    let outcome = by_the_hour(&scene).await;
    assert!(outcome.held_back.is_some());
    let state = collecting().await;
    assert_eq!((state.waits_for, state.held_back), (vec![], outcome.held_back));
    execute(&scene, "UPDATE otel_ingest_ledger SET refreshed = true; DELETE FROM otel_metrics").await;
    seen_on(&scene, "current_date - 3").await;
    by_the_hour(&scene).await;
    execute(&scene, "UPDATE otel_retirements SET retired_at = now() - interval '1 year'").await;
    by_the_hour(&scene).await;
    assert_eq!(collecting().await.collected["otel_metric_series"], 1);
}
