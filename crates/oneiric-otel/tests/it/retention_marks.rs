//! What a run of retention that was cut off leaves behind, what a clock that went forward and back has noted, and who runs it.

use std::time::Duration;

use oneiric_otel::store::Database;
use oneiric_otel::store::retention::RetentionRun;
use oneiric_otel::system::{Backend, MaintenanceOptions, Schema, System, SystemOptions};

use crate::retention::{MARK, let_pass, names, run, send_span};
use crate::scene::Scene;

const RETIRED: &str = "otel_dropped_partitions WHERE state = 'retired'";

/// A span of 200 days ago, in a partition that a run has marked just now, and nobody's connection to it.
async fn marked() -> (Scene, Database) {
    let scene = Scene::new().await;
    send_span(&scene, 200, 1).await;
    let database = let_pass(&scene, 91).await;
    assert_eq!(scene.bench.test.client().await.execute(MARK, &[]).await.unwrap(), 1);
    (scene, database)
}

async fn execute(scene: &Scene, sql: &str) {
    scene.bench.test.client().await.batch_execute(sql).await.unwrap();
}

const LONG_AGO: &str = "UPDATE otel_dropped_partitions SET begun_at = now() - interval '6 minutes'";

#[tokio::test(flavor = "multi_thread")]
async fn a_mark_of_a_run_that_was_killed_goes_without_another_run() {
    let (scene, database) = marked().await;
    let abandoned = RetentionRun::default().abandoned;
    let write = "SELECT otel_note_writes('otel_spans', ARRAY[now() - interval '200 days'])";
    let client = scene.bench.test.client().await;
    assert_eq!(database.open_abandoned_partitions(abandoned).await.unwrap(), 0, "the run may be at work");
    assert!(client.batch_execute(write).await.is_err(), "nobody may write to it");
    execute(&scene, LONG_AGO).await;
    assert_eq!(database.open_abandoned_partitions(abandoned).await.unwrap(), 1);
    client.batch_execute(write).await.unwrap();
    assert_eq!(scene.bench.count(RETIRED).await, 0);
    assert_eq!(database.open_abandoned_partitions(abandoned).await.unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_that_is_half_detached_is_left_to_the_next_run() {
    let (scene, database) = marked().await;
    execute(&scene, LONG_AGO).await;
    let half = "UPDATE pg_inherits SET inhdetachpending = true WHERE inhrelid IN (SELECT relation FROM otel_dropped_partitions)";
    execute(&scene, half).await;
    assert_eq!(database.open_abandoned_partitions(RetentionRun::default().abandoned).await.unwrap(), 0);
    assert_eq!(scene.bench.count(RETIRED).await, 1);
    execute(&scene, &half.replace("true", "false")).await;
    // A clock that went back since it was marked.
    execute(&scene, "UPDATE otel_dropped_partitions SET begun_at = now() + interval '1 year'").await;
    assert_eq!(database.open_abandoned_partitions(RetentionRun::default().abandoned).await.unwrap(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_look_for_such_marks_though_another_maintains_the_database() {
    let (scene, _) = marked().await;
    execute(&scene, LONG_AGO).await;
    execute(&scene, "UPDATE otel_leases SET holder = gen_random_uuid(), until = now() + interval '1 hour'").await;
    let maintenance = MaintenanceOptions { look_every: Duration::from_millis(20), ..MaintenanceOptions::default() };
    let options = SystemOptions { maintenance, ..SystemOptions::default() };
    let backend = Backend::new(Database::new(scene.bench.test.url()).unwrap(), None);
    let system = System::start(backend, Schema::Ready, options);
    while scene.bench.count(RETIRED).await > 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    system.stop(Duration::from_secs(5)).await.unwrap();
    assert_eq!(scene.bench.count("otel_partition_writes WHERE retired_at IS NOT NULL").await, 0);
    assert_eq!(scene.bench.count("otel_spans").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_clock_that_was_ahead_has_noted_is_due_in_its_time() {
    let (scene, database) = marked().await;
    // The mark, too, is of that clock.
    let ahead = "UPDATE otel_dropped_partitions SET begun_at = now() + interval '1 year';
                 UPDATE otel_partitioned_tables SET changed_at = now() + interval '1 year';
                 UPDATE otel_partition_writes SET first_write = now() + interval '1 year', last_write = now() + interval '1 year'
                 WHERE last_write <> '-infinity'";
    execute(&scene, ahead).await;
    let to_come = "otel_partition_writes WHERE last_write > now() OR first_write > now()";
    // By a clock that may be behind, what was noted rightly is to come.
    execute(&scene, "UPDATE otel_retention_clock SET looked_at = now(), steady_since = now()").await;
    assert!(database.run_retention(&run()).await.unwrap().held_back.is_some());
    assert_eq!(scene.bench.count(to_come).await, 1);
    assert_eq!(scene.bench.count(RETIRED).await, 0, "whoever writes to it need not wait for a year");

    let steady = "UPDATE otel_retention_clock SET looked_at = now(), steady_since = now() - interval '2 days'";
    execute(&scene, steady).await;
    // Something of today, or all that came would be old.
    execute(&scene, "SELECT otel_make_partitions(); SELECT otel_note_writes('otel_spans', ARRAY[now()])").await;
    let careful = RetentionRun { abandoned: RetentionRun::default().abandoned, ..run() };
    assert_eq!(names(&database.run_retention(&careful).await.unwrap()), [""; 0]);
    assert_eq!(scene.bench.count(to_come).await, 0);
    assert_eq!(scene.bench.count("otel_partitioned_tables WHERE changed_at > now()").await, 0);
    let later = "UPDATE otel_partitioned_tables SET changed_at = changed_at - interval '91 days'";
    execute(&scene, later).await;
    let database = let_pass(&scene, 91).await;
    assert_eq!(names(&database.run_retention(&careful).await.unwrap()), ["otel_spans"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_runs_it_by_hand_takes_the_job_from_servers_for_that_time() {
    let scene = Scene::new().await;
    let client = scene.bench.test.client().await;
    let store = &scene.bench.store;
    let held = "otel_leases WHERE job = 'maintenance' AND until > now()";
    let work = async || scene.bench.count(held).await;
    assert_eq!(store.maintain_alone(Duration::ZERO, work()).await.unwrap(), 1);
    // What servers do besides is still to be done.
    assert_eq!(
        scene
            .bench
            .count("otel_leases WHERE job = 'maintenance' AND done_at = '-infinity' AND until = '-infinity'")
            .await,
        1
    );

    // A server that is at it is waited for, and not for ever.
    let server = "UPDATE otel_leases SET holder = gen_random_uuid(), until = now() + interval '1 hour'";
    client.batch_execute(server).await.unwrap();
    assert_eq!(store.maintain_alone(Duration::ZERO, work()).await.unwrap(), 1);
    let ends = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        client.batch_execute("UPDATE otel_leases SET until = '-infinity'").await.unwrap();
    };
    let own = async || scene.row("SELECT holder::text FROM otel_leases WHERE job = 'maintenance'").await;
    let before = own().await;
    let (after, ()) = tokio::join!(store.maintain_alone(Duration::from_mins(10), own()), ends);
    assert_ne!(after.unwrap(), before);
}
