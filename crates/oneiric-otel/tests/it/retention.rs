//! Retention: what is too old goes, nothing else does, whoever works on the database meanwhile, and nobody waits for it.

use std::time::Duration;

use oneiric_otel::otlp::Signal;
use oneiric_otel::retention::{Keep, RetentionOptions, Step};
use oneiric_otel::store::retention::{RetentionOutcome, RetentionRun};
use oneiric_otel::store::{Database, ErrorClass};
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use opentelemetry_proto::tonic::trace::v1::Span;

use crate::scene::{SECOND, Scene, log, of_service, span};
use crate::writing::gauge;

/// A clock that was watched for long enough.
const STEADY: &str = "UPDATE otel_retention_clock SET looked_at = now(), steady_since = now() - interval '2 days'";

pub(crate) fn run() -> RetentionRun {
    let (settle, abandoned) = (Duration::ZERO, Duration::ZERO);
    RetentionRun { settle, abandoned, patience: Duration::from_secs(1), ..RetentionRun::default() }
}

/// Nanoseconds of so many days ago.
fn days_ago(days: u64) -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    now.as_nanos() as u64 - days * 86_400 * SECOND
}

pub(crate) fn span_of(days: u64, id: u64) -> Span {
    let start = days_ago(days);
    Span { start_time_unix_nano: start, end_time_unix_nano: start + 1, ..span(id, id, 0, "work", Duration::ZERO) }
}

pub(crate) fn log_of(days: u64) -> LogRecord {
    LogRecord { time_unix_nano: days_ago(days), ..log(1, 9, "x", Duration::ZERO) }
}

pub(crate) async fn send_span(scene: &Scene, days: u64, id: u64) {
    scene.spans("shop", vec![span_of(days, id)]).await;
}

/// Lets so many days pass since the last write of everything. Connections that wrote are closed before, because they tell of
/// their rows as late as they like.
pub(crate) async fn let_pass(scene: &Scene, days: u32) -> Database {
    scene.bench.store.close();
    let end = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
               WHERE datname = current_database() AND application_name = 'oneiric-otel'";
    while scene.bench.test.count(end).await > 0 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let database = Database::new(scene.bench.test.url()).unwrap();
    scene
        .bench
        .test
        .client()
        .await
        .batch_execute(&format!(
            "UPDATE otel_partition_writes SET relation = NULL, first_write = first_write - interval '{days} days',
               last_write = last_write - interval '{days} days' WHERE last_write <> '-infinity';
             UPDATE otel_partition_writes SET relation = NULL; {STEADY}"
        ))
        .await
        .unwrap();
    database
}

pub(crate) fn names(outcome: &RetentionOutcome) -> Vec<&str> {
    outcome.dropped.iter().filter(|dropped| dropped.state != "kept").map(|dropped| dropped.table.as_str()).collect()
}

/// Spans, logs and points of 200 days ago, 30 days ago and today, with their traces and roll-ups.
async fn history() -> Scene {
    let scene = Scene::new().await;
    for (days, id) in [(200, 1), (30, 2), (0, 3)] {
        send_span(&scene, days, id).await;
        scene.logs("shop", vec![log_of(days)]).await;
        let mut metric = gauge("load", &[1.0]);
        if let Some(opentelemetry_proto::tonic::metrics::v1::metric::Data::Gauge(gauge)) = &mut metric.data {
            gauge.data_points[0].time_unix_nano = days_ago(days);
        }
        scene.bench.send(Signal::Metrics, of_service("shop", vec![metric])).await.unwrap();
    }
    scene.derive().await;
    scene
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_old_goes_and_nothing_else_does() {
    let scene = history().await;
    let database = let_pass(&scene, 0).await;
    let outcome = database.run_retention(&run()).await.unwrap();
    assert_eq!((outcome.held_back, outcome.dropped, outcome.left), (None, vec![], vec![]), "it came today");

    let database = let_pass(&scene, 91).await;
    let planned = database.retention_dry_run(&RetentionOptions::default()).await.unwrap();
    assert_eq!(scene.bench.count("otel_spans").await, 3, "nothing was changed");
    let outcome = database.run_retention(&run()).await.unwrap();
    assert_eq!(
        names(&outcome),
        ["otel_logs", "otel_metrics", "otel_spans", "otel_trace_texts", "otel_traces"],
        "{outcome:?}"
    );
    let mut as_planned = names(&planned);
    as_planned.sort_unstable();
    assert_eq!(as_planned, names(&outcome));
    for table in ["otel_spans", "otel_logs", "otel_metrics", "otel_traces", "otel_trace_keys"] {
        assert_eq!(scene.bench.count(table).await, 2, "{table}");
    }
    let state = database.retention_state().await.unwrap();
    assert_eq!(state.dropped.len(), 5);
    assert!(state.dropped.iter().all(|dropped| dropped.state == "dropped" && dropped.bytes > 0), "{state:?}");
    assert!(state.tables.iter().flat_map(|table| &table.partitions).all(|partition| !partition.is_due), "{state:?}");
    assert_eq!(database.run_retention(&run()).await.unwrap(), RetentionOutcome::default(), "nothing is left to do");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_late_is_kept_from_its_arrival_on() {
    let scene = Scene::new().await;
    send_span(&scene, 200, 1).await;
    let database = let_pass(&scene, 89).await;
    assert_eq!(database.run_retention(&run()).await.unwrap().dropped, vec![]);
    let scene = Scene { bench: crate::writing::Bench::on(scene.bench.test).await, ..scene };
    send_span(&scene, 200, 2).await;
    let database = let_pass(&scene, 89).await;
    assert_eq!(database.run_retention(&run()).await.unwrap().dropped, vec![], "the second came 89 days ago");
    assert_eq!(scene.bench.count("otel_spans").await, 2);
    let database = let_pass(&scene, 2).await;
    assert_eq!(names(&database.run_retention(&run()).await.unwrap()), ["otel_spans"]);
    assert_eq!(scene.bench.count("otel_spans").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_nobody_noted_is_seen_by_its_rows() {
    let scene = Scene::new().await;
    send_span(&scene, 200, 1).await;
    let database = let_pass(&scene, 91).await;
    assert_eq!(database.retention_state().await.unwrap().held_back, None);
    // Adopts the counters.
    let hold = "UPDATE otel_retention_clock SET steady_since = now()";
    let client = scene.bench.test.client().await;
    client.batch_execute(hold).await.unwrap();
    assert!(database.run_retention(&run()).await.unwrap().held_back.is_some());
    // As a program before this one, or somebody by hand, writes.
    client
        .batch_execute(
            "INSERT INTO otel_spans SELECT (s).* FROM (SELECT s FROM otel_spans s) x ON CONFLICT DO NOTHING;
             CREATE TEMP TABLE copied AS SELECT * FROM otel_spans; UPDATE copied SET span_hash = span_hash + 1;
             INSERT INTO otel_spans SELECT * FROM copied; SELECT pg_stat_force_next_flush()",
        )
        .await
        .unwrap();
    client.batch_execute(STEADY).await.unwrap();
    assert_eq!(database.run_retention(&run()).await.unwrap().dropped, vec![]);
    assert_eq!(scene.bench.count("otel_spans").await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_begins_while_a_partition_is_chosen_keeps_it() {
    let scene = Scene::new().await;
    send_span(&scene, 200, 1).await;
    let database = let_pass(&scene, 91).await;
    let client = scene.bench.test.client().await;
    let time = "now() - interval '200 days'";
    client.batch_execute(&format!("BEGIN; SELECT otel_note_writes('otel_spans', ARRAY[{time}])")).await.unwrap();
    let running = tokio::spawn({
        let database = database.clone();
        async move { database.run_retention(&run()).await }
    });
    let waiting =
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
    while scene.bench.test.count(waiting).await == 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    client.batch_execute("COMMIT").await.unwrap();
    assert_eq!(running.await.unwrap().unwrap().dropped, vec![]);
    assert_eq!(scene.bench.count("otel_spans").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_while_a_partition_is_dropped_waits_and_is_stored() {
    let scene = Scene::new().await;
    send_span(&scene, 200, 1).await;
    let database = let_pass(&scene, 91).await;
    let client = scene.bench.test.client().await;
    client
        .batch_execute("UPDATE otel_partition_writes SET retired_at = now() WHERE last_write <> '-infinity'")
        .await
        .unwrap();
    let scene = Scene { bench: crate::writing::Bench::on(scene.bench.test).await, ..scene };
    let release = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        client.batch_execute("UPDATE otel_partition_writes SET retired_at = NULL").await.unwrap();
    };
    tokio::join!(send_span(&scene, 200, 2), release);
    assert_eq!(scene.bench.count("otel_spans").await, 2);
    assert_eq!(scene.bench.count("otel_telemetry_dlq").await, 0);
    drop(database);
}

/// Adds a span by SQL that waits for no lock.
async fn write_and_read(scene: &Scene) {
    let client = scene.bench.test.client().await;
    client
        .batch_execute(
            "SET lock_timeout = '1ms'; CREATE TEMP TABLE copied AS SELECT * FROM otel_spans WHERE start_time > now() - interval '1 day';
             UPDATE copied SET span_hash = span_hash + 1 + (random() * 1e15)::bigint; INSERT INTO otel_spans SELECT * FROM copied;
             SELECT count(*) FROM otel_spans",
        )
        .await
        .expect("neither waits for a lock");
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_waits_for_a_partition_that_waits_for_a_long_question() {
    let scene = Scene::new().await;
    send_span(&scene, 200, 1).await;
    send_span(&scene, 0, 2).await;
    let database = let_pass(&scene, 91).await;
    let reading = scene.bench.test.client().await;
    reading.batch_execute("BEGIN; SELECT count(*) FROM otel_spans").await.unwrap();
    let outcome = database.run_retention(&run()).await.unwrap();
    assert_eq!(outcome.dropped, vec![]);
    assert!(outcome.left[0].reason.contains("otel_spans"), "{outcome:?}");
    // It may be written to again.
    assert_eq!(scene.bench.count("otel_partition_writes WHERE retired_at IS NOT NULL").await, 0);

    // As a process does that dies while it detaches.
    let client = scene.bench.test.client().await;
    let row = client
        .query_one(
            "SELECT partition FROM otel_partitions('otel_spans') WHERE upper_bound < now() - interval '90 days'",
            &[],
        )
        .await
        .unwrap();
    let partition: String = row.get(0);
    client
        .batch_execute(&format!(
            "UPDATE otel_partition_writes SET retired_at = now() WHERE partition = '{partition}';
             INSERT INTO otel_dropped_partitions (parent, partition, relation, lower_bound, upper_bound, last_write, row_count,
                                                  bytes, retention, state, inserted)
             SELECT 'otel_spans', partition, 'otel.{partition}'::regclass, lower_bound, upper_bound,
                    now() - interval '91 days', 1, 1, '90 days',
                    'retired', 1 FROM otel_partitions('otel_spans') WHERE partition = '{partition}'"
        ))
        .await
        .unwrap();
    client.batch_execute("SET statement_timeout = '500ms'").await.unwrap();
    let detach = format!("ALTER TABLE otel_spans DETACH PARTITION {partition} CONCURRENTLY");
    client.batch_execute(&detach).await.expect_err("it waits for the reader and is cut off");
    assert_eq!(scene.bench.count("pg_inherits WHERE inhdetachpending").await, 1);
    write_and_read(&scene).await;
    let error = database_error(&scene, "SELECT otel_ensure_partition('otel_spans', now() - interval '200 days')").await;
    assert!(error.contains("is being detached"), "{error}");
    // Nor is anybody held up by one that waits to finish it.
    let finishing = tokio::spawn({
        let database = database.clone();
        let run = RetentionRun { patience: Duration::from_mins(1), ..run() };
        async move { database.run_retention(&run).await }
    });
    tokio::time::sleep(Duration::from_millis(300)).await;
    write_and_read(&scene).await;
    reading.batch_execute("COMMIT").await.unwrap();
    let outcome = finishing.await.unwrap().unwrap();
    assert_eq!(names(&outcome), ["otel_spans"], "{outcome:?}");
    write_and_read(&scene).await;
}

async fn database_error(scene: &Scene, sql: &str) -> String {
    let error = scene.bench.test.client().await.batch_execute(sql).await.expect_err("refused");
    error.as_db_error().map_or_else(|| error.to_string(), |error| error.message().to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_jumps_drops_nothing() {
    let scene = Scene::new().await;
    send_span(&scene, 1, 1).await;
    send_span(&scene, 200, 2).await;
    let database = let_pass(&scene, 91).await;
    let client = scene.bench.test.client().await;
    // The last look was a year ago, or will be in a year.
    for interval in ["- interval '365 days'", "+ interval '365 days'"] {
        client.batch_execute(&format!("UPDATE otel_retention_clock SET looked_at = now() {interval}")).await.unwrap();
        let outcome = database.run_retention(&run()).await.unwrap();
        assert!(outcome.held_back.as_ref().is_some_and(|why| why.contains("without a jump")), "{outcome:?}");
        assert_eq!(outcome.dropped, vec![]);
        client.batch_execute(STEADY).await.unwrap();
    }
    // What comes in is of long ago.
    client
        .batch_execute(
            "UPDATE otel_partition_writes w SET last_write = now(), first_write = now() FROM otel_partitions('otel_spans') p
             WHERE p.partition = w.partition AND p.upper_bound < now() - interval '90 days'",
        )
        .await
        .unwrap();
    let outcome = database.run_retention(&run()).await.unwrap();
    assert!(outcome.held_back.as_ref().is_some_and(|why| why.contains("may be ahead")), "{outcome:?}");
    let_pass(&scene, 91).await;
    let trusting = RetentionRun { trust_clock: true, ..run() };
    client.batch_execute("UPDATE otel_retention_clock SET steady_since = now()").await.unwrap();
    assert_eq!(names(&database.run_retention(&trusting).await.unwrap()), ["otel_spans"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn partitions_made_by_hand_are_used_or_left_alone() {
    let scene = Scene::new().await;
    let client = scene.bench.test.client().await;
    client
        .batch_execute(
            "CREATE TABLE odd PARTITION OF otel_spans FOR VALUES FROM ('2026-01-01 03:00:00+00') TO ('2026-01-17 17:30:00+00');
             CREATE SCHEMA elsewhere; CREATE TABLE elsewhere.away PARTITION OF otel_spans
               FOR VALUES FROM ('2025-01-01 00:00:00+00') TO ('2025-02-01 00:00:00+00');
             CREATE TABLE otel_spans_20240101_coarse (LIKE otel_spans INCLUDING ALL)",
        )
        .await
        .unwrap();
    let at = |seconds: u64, id: u64| Span {
        start_time_unix_nano: seconds * SECOND,
        end_time_unix_nano: seconds * SECOND,
        ..span(id, id, 0, "work", Duration::ZERO)
    };
    // 2026-01-10, 2026-01-18, 2025-01-15, and 2024-03-01 whose partition cannot have its usual name.
    let spans = vec![at(1_768_003_200, 1), at(1_768_737_600, 2), at(1_736_899_200, 3), at(1_709_251_200, 4)];
    scene.spans("shop", spans).await;
    assert_eq!(scene.bench.count("otel_spans").await, 4);
    assert_eq!(scene.bench.count("odd").await, 1);
    assert_eq!(scene.bench.count("otel_spans_20240101_coarse_2").await, 1);
    let database = let_pass(&scene, 91).await;
    let outcome = database.run_retention(&run()).await.unwrap();
    assert_eq!(outcome.dropped.len(), 3, "{outcome:?}");
    assert_eq!(scene.bench.count("otel_spans").await, 1, "what lies in another schema is left alone");
    let state = database.retention_state().await.unwrap();
    let alone: Vec<_> =
        state.tables.iter().flat_map(|table| &table.partitions).filter_map(|p| p.left_alone.as_ref()).collect();
    assert!(alone.len() == 1 && alone[0].contains("elsewhere"), "{alone:?}");
    assert_eq!(state.detached[0].table, "otel_spans_20240101_coarse", "somebody's table is told of and stays");

    // Beside a DEFAULT partition nothing can be detached concurrently.
    client.batch_execute("CREATE TABLE rest PARTITION OF otel_logs DEFAULT").await.unwrap();
    let scene = Scene { bench: crate::writing::Bench::on(scene.bench.test).await, ..scene };
    scene.logs("shop", vec![log_of(0)]).await;
    assert_eq!(scene.bench.count("otel_logs").await, 1);
    client
        .batch_execute(
            "CREATE TABLE old PARTITION OF otel_logs FOR VALUES FROM ('2026-01-01 00:00:00+00') TO ('2026-02-01 00:00:00+00')",
        )
        .await
        .unwrap();
    let database = let_pass(&scene, 0).await;
    database.run_retention(&run()).await.unwrap();
    let database_again = let_pass(&scene, 91).await;
    let outcome = database_again.run_retention(&run()).await.unwrap();
    assert_eq!(names(&outcome), ["otel_logs"], "{outcome:?}");
    let state = database_again.retention_state().await.unwrap();
    let told = |table: &str, partition: &str| {
        let table = state.tables.iter().find(|known| known.table == table).unwrap();
        table.partitions.iter().find(|known| known.partition == partition).and_then(|known| known.left_alone.clone())
    };
    assert!(told("otel_logs", "rest").is_some_and(|why| why.contains("DEFAULT")), "{state:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_drop_is_ended_by_the_next_run_and_two_runs_do_it_once() {
    let scene = history().await;
    let database = let_pass(&scene, 91).await;
    let client = scene.bench.test.client().await;
    // A dropped table's lock keeps the first run from dropping it.
    let row = client
        .query_one(
            "SELECT partition FROM otel_partitions('otel_spans') WHERE upper_bound < now() - interval '90 days'",
            &[],
        )
        .await
        .unwrap();
    let partition: String = row.get(0);
    let outcome = async {
        let detached = async {
            let open =
                "SELECT count(*) FROM otel_dropped_partitions WHERE state = 'detached' AND parent = 'otel_spans'";
            while scene.bench.test.count(open).await == 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            client.batch_execute(&format!("BEGIN; SELECT count(*) FROM {partition}")).await.unwrap();
        };
        let slow = RetentionRun { settle: Duration::from_secs(2), ..run() };
        let (outcome, ()) = tokio::join!(database.run_retention(&slow), detached);
        outcome.unwrap()
    }
    .await;
    assert_eq!(outcome.left.len(), 1, "{outcome:?}");
    assert_eq!(outcome.left[0].partition, partition);
    client.batch_execute("COMMIT").await.unwrap();
    let other = Database::new(scene.bench.test.url()).unwrap();
    let (options, other_options) = (run(), run());
    let (one, two) = tokio::join!(database.run_retention(&options), other.run_retention(&other_options));
    let (one, two) = (one.unwrap(), two.unwrap());
    assert_eq!(one.dropped.len() + two.dropped.len(), 1, "{one:?} {two:?}");
    assert_eq!(scene.bench.count("otel_spans").await, 2);
    assert_eq!(scene.bench.count("otel_dropped_partitions WHERE state <> 'dropped'").await, 0);
}

/// Runs retention on a span of 200 days ago, and `meanwhile` after its partition is detached and before it is dropped.
async fn while_detached(meanwhile: &str) -> (Scene, RetentionOutcome) {
    let scene = Scene::new().await;
    send_span(&scene, 200, 1).await;
    let database = let_pass(&scene, 91).await;
    let client = scene.bench.test.client().await;
    let select = "SELECT partition FROM otel_partitions('otel_spans') WHERE upper_bound < now() - interval '90 days'";
    let partition: String = client.query_one(select, &[]).await.unwrap().get(0);
    let detached = async {
        let open = "SELECT count(*) FROM otel_dropped_partitions WHERE state = 'detached' AND parent = 'otel_spans'";
        while scene.bench.test.count(open).await == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        client.batch_execute(&meanwhile.replace("PARTITION", &partition)).await.unwrap();
    };
    let slow = RetentionRun { settle: Duration::from_secs(3), ..run() };
    let (outcome, ()) = tokio::join!(database.run_retention(&slow), detached);
    (scene, outcome.unwrap())
}

/// Writes a second span into the detached partition, as one may that began before.
const WRITE: &str = "CREATE TEMP TABLE copied AS SELECT * FROM PARTITION; UPDATE copied SET span_hash = span_hash + 1;
                     INSERT INTO PARTITION SELECT * FROM copied; SELECT pg_stat_force_next_flush();";

#[tokio::test(flavor = "multi_thread")]
async fn what_was_written_to_a_partition_on_its_way_comes_back_with_it() {
    let (scene, outcome) = while_detached(WRITE).await;
    assert_eq!(names(&outcome), [""; 0], "{outcome:?}");
    assert_eq!(scene.bench.count("otel_spans").await, 2);
    assert_eq!(scene.bench.count("otel_dropped_partitions WHERE state = 'kept'").await, 1);

    let instead = "SELECT otel_ensure_partition('otel_spans', now() - interval '200 days');";
    let (scene, outcome) = while_detached(&format!("{instead} {WRITE}")).await;
    assert_eq!(outcome.left, vec![], "{outcome:?}");
    assert_eq!(scene.bench.count("otel_spans").await, 2, "in the partition that came in its place");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retention_that_is_made_longer_keeps_what_is_on_its_way() {
    let longer = "UPDATE otel_partitioned_tables SET retention = interval '400 days'";
    let (scene, outcome) = while_detached(longer).await;
    assert_eq!(names(&outcome), [""; 0], "{outcome:?}");
    assert_eq!(scene.bench.count("otel_spans").await, 1);
}

/// Marks the partition of a span that is too old, as a run does that goes on with it or is killed.
pub(crate) const MARK: &str =
    "WITH marked AS (UPDATE otel_partition_writes SET retired_at = now()
                            WHERE parent = 'otel_spans' AND relation IS NULL AND last_write <> '-infinity'
                              AND last_write < now() - interval '90 days' RETURNING *)
            INSERT INTO otel_dropped_partitions (parent, partition, relation, lower_bound, upper_bound, last_write, row_count,
                                                 bytes, retention, state, inserted)
            SELECT 'otel_spans', m.partition, format('otel.%I', m.partition)::regclass, p.lower_bound, p.upper_bound,
                   m.last_write, 1, 1, interval '90 days', 'retired', 1000
            FROM marked m JOIN otel_partitions('otel_spans') p ON p.partition = m.partition";

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_that_another_run_works_on_is_left_to_it() {
    let scene = Scene::new().await;
    send_span(&scene, 200, 1).await;
    let database = let_pass(&scene, 91).await;
    let client = scene.bench.test.client().await;
    assert_eq!(client.execute(MARK, &[]).await.unwrap(), 1);
    let careful = RetentionRun { abandoned: RetentionRun::default().abandoned, ..run() };
    assert_eq!(names(&database.run_retention(&careful).await.unwrap()), [""; 0]);
    assert_eq!(scene.bench.count("otel_dropped_partitions WHERE state = 'retired'").await, 1);
    client.batch_execute("UPDATE otel_dropped_partitions SET begun_at = now() - interval '1 hour'").await.unwrap();
    assert_eq!(names(&database.run_retention(&careful).await.unwrap()), ["otel_spans"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trace_whose_partition_is_gone_begins_anew() {
    let scene = Scene::new().await;
    send_span(&scene, 200, 1).await;
    scene.derive().await;
    assert_eq!(scene.bench.count("otel_trace_keys").await, 1);
    let database = let_pass(&scene, 91).await;
    database.run_retention(&run()).await.unwrap();
    assert_eq!(scene.bench.count("otel_trace_keys").await, 0);
    let scene = Scene { bench: crate::writing::Bench::on(scene.bench.test).await, ..scene };
    let deriver =
        oneiric_otel::derive::Deriver::new(scene.bench.store.clone(), oneiric_otel::derive::DeriveOptions::default());
    let scene = Scene { deriver, ..scene };
    // The same trace.
    scene.spans("shop", vec![Span { span_id: vec![9; 8], ..span_of(199, 1) }]).await;
    scene.derive().await;
    assert_eq!(scene.bench.count("otel_traces").await, 1);
    assert_eq!(scene.bench.count("otel_trace_keys").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn retention_and_steps_are_changed_by_who_says_so_alone() {
    let scene = history().await;
    let database = &scene.bench.store;
    assert_eq!(database.configure_retention(&RetentionOptions::default()).await.unwrap(), vec![]);
    let hours = RetentionOptions { step: Some(Step::Hour), ..RetentionOptions::default() };
    let refused = database.configure_retention(&hours).await.unwrap_err();
    assert_eq!(refused.class(), ErrorClass::Misconfigured);
    assert!(refused.to_string().contains("day or week or month"), "{refused}");

    let keep = |keep| RetentionOptions { logs: Some(keep), ..RetentionOptions::default() };
    let changed = database.configure_retention(&keep(Keep::Days(20))).await.unwrap();
    assert_eq!(changed.len(), 1);
    assert_eq!((changed[0].table.as_str(), changed[0].keep), ("otel_logs", (Keep::Days(20), Keep::DEFAULT)));
    assert_eq!(database.configure_retention(&keep(Keep::Days(20))).await.unwrap(), vec![]);
    // Who shortens it has a day to think again, unless he says otherwise.
    let database = let_pass(&scene, 31).await;
    let outcome = database.run_retention(&run()).await.unwrap();
    assert_eq!(outcome.dropped, vec![]);
    assert!(
        outcome.left.iter().all(|left| left.reason.contains("shortened")) && !outcome.left.is_empty(),
        "{outcome:?}"
    );
    let at_once = RetentionRun { shortened_at_once: true, ..run() };
    let outcome = database.run_retention(&at_once).await.unwrap();
    assert!(names(&outcome).iter().all(|table| *table == "otel_logs") && outcome.dropped.len() == 2, "{outcome:?}");

    let forever = RetentionOptions {
        traces: Some(Keep::Forever),
        metrics: Some(Keep::Forever),
        logs: Some(Keep::Forever),
        step: Some(Step::Month),
    };
    assert_eq!(database.configure_retention(&forever).await.unwrap().len(), 6);
    let database = let_pass(&scene, 4000).await;
    assert_eq!(database.run_retention(&at_once).await.unwrap().dropped, vec![]);
    // The new step starts after the last partition that was made.
    let client = scene.bench.test.client().await;
    let last = "SELECT max(upper_bound) FROM otel_partitions('otel_spans') WHERE upper_bound < 'infinity'";
    let before: std::time::SystemTime = client.query_one(last, &[]).await.unwrap().get(0);
    client.batch_execute("SELECT otel_ensure_partition('otel_spans', now() + interval '40 days')").await.unwrap();
    client.batch_execute("SELECT otel_ensure_partition('otel_spans', now() + interval '5 days')").await.unwrap();
    let begins = client
        .query_one(
            "SELECT lower_bound, upper_bound = date_trunc('month', upper_bound, 'UTC') FROM otel_partitions('otel_spans')
             WHERE lower_bound <= now() + interval '5 days' AND upper_bound > now() + interval '5 days'",
            &[],
        )
        .await
        .unwrap();
    assert_eq!(begins.get::<_, std::time::SystemTime>(0), before);
    assert!(begins.get::<_, bool>(1));
}
