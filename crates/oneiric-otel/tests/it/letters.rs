//! Dead letters tried again: each record exactly once, whoever tries and wherever it is cut off.

use std::time::Duration;

use bytes::Bytes;
use oneiric_otel::derive::{DeriveOptions, Deriver};
use oneiric_otel::otlp::{Encoding, Signal, protobuf};
use oneiric_otel::pipeline::{ReplayCounts, Replayer, Request};
use oneiric_otel::store::{Database, DeadLetterEntry, DeadLetterFilter, Replayed};
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::trace::v1::Span;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::scene::of_service;
use crate::writing::{Bench, gauge, log, request, span};

const ALLOW: &str = "ALTER TABLE otel_spans DROP CONSTRAINT spans_for_now;
    ALTER TABLE otel_logs DROP CONSTRAINT logs_for_now;
    ALTER TABLE otel_metrics DROP CONSTRAINT metrics_for_now";

/// A database that refuses what is called poison, and the number 13.
async fn bench() -> Bench {
    let bench = Bench::new().await;
    sql(
        &bench,
        "ALTER TABLE otel_spans ADD CONSTRAINT spans_for_now CHECK (name <> 'poison');
         ALTER TABLE otel_logs ADD CONSTRAINT logs_for_now CHECK (body <> 'poison');
         ALTER TABLE otel_metrics ADD CONSTRAINT metrics_for_now CHECK (value_double <> 13)",
    )
    .await;
    bench
}

async fn sql(bench: &Bench, statements: &str) {
    bench.test.client().await.batch_execute(statements).await.unwrap();
}

/// As if the time of every letter had come.
async fn wait_for_retry(bench: &Bench) {
    sql(bench, "UPDATE otel_telemetry_dlq SET next_retry_at = now()").await;
}

fn replayer(bench: &Bench) -> Replayer {
    Replayer::new(bench.store.clone(), Replayer::EVERY)
}

async fn letters(bench: &Bench) -> Vec<DeadLetterEntry> {
    let open = DeadLetterFilter { processed: Some(false), ..DeadLetterFilter::default() };
    bench.store.dead_letters(&open, 1000).await.unwrap()
}

/// Puts a letter there as an earlier version might have left it.
async fn leave(bench: &Bench, telemetry_type: &str, records: i32, raw: &[u8]) -> Uuid {
    let insert = "INSERT INTO otel_telemetry_dlq (telemetry_type, records, error_class, error_message, raw_data)
                  VALUES ($1, $2, 'stuck', 'it stood in the way', $3) RETURNING id";
    bench.test.client().await.query_one(insert, &[&telemetry_type, &records, &raw]).await.unwrap().get(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn letters_are_stored_once_the_database_takes_them() {
    let bench = bench().await;
    let poison = Span { name: "poison".to_owned(), ..span(1, 2, "") };
    bench.send(Signal::Traces, request(vec![span(1, 1, "fine"), poison])).await.unwrap();
    bench.send(Signal::Logs, request(vec![log("poison"), log("fine"), log("poison")])).await.unwrap();
    bench.send(Signal::Metrics, request(vec![gauge("g", &[12.0, 13.0])])).await.unwrap();
    assert_eq!(letters(&bench).await.len(), 4);
    Deriver::new(bench.store.clone(), DeriveOptions::default()).derive_all_now().await.unwrap();

    let replayer = replayer(&bench);
    assert_eq!(replayer.replay_due().await.unwrap(), ReplayCounts::default(), "their time has not come");
    for retries in 1..=2 {
        wait_for_retry(&bench).await;
        assert_eq!(replayer.replay_due().await.unwrap(), ReplayCounts { stored: 0, refused: 4 });
        for letter in letters(&bench).await {
            assert_eq!(letter.retry_count, retries);
            assert!(letter.last_error.unwrap().contains("for_now"));
        }
        let pause = 5 << retries;
        let paused = format!(
            "otel_telemetry_dlq WHERE next_retry_at > now() + interval '{} minutes'
             AND next_retry_at <= now() + interval '{pause} minutes'",
            pause - 2
        );
        assert_eq!(bench.count(&paused).await, 4);
    }
    sql(&bench, "UPDATE otel_telemetry_dlq SET retry_count = 1000").await;
    wait_for_retry(&bench).await;
    replayer.replay_due().await.unwrap();
    assert_eq!(bench.count("otel_telemetry_dlq WHERE next_retry_at <= now() + interval '1 day'").await, 4);

    sql(&bench, ALLOW).await;
    wait_for_retry(&bench).await;
    assert_eq!(replayer.replay_due().await.unwrap(), ReplayCounts { stored: 4, refused: 0 });
    assert!(letters(&bench).await.is_empty());
    assert_eq!(replayer.replay_due().await.unwrap(), ReplayCounts::default());
    for (table, rows) in [("otel_spans", 2), ("otel_logs", 3), ("otel_metrics", 2)] {
        assert_eq!(bench.count(table).await, rows, "{table}");
    }
    let bodies = "otel_logs WHERE body = 'poison'";
    assert_eq!(bench.count(bodies).await, 2, "equal log records of one request are all kept");
    let derived = Deriver::new(bench.store.clone(), DeriveOptions::default()).derive_all_now().await.unwrap();
    assert_eq!(derived.traces, 1, "a trace is derived again when a span of it comes back");
}

#[tokio::test(flavor = "multi_thread")]
async fn replayers_at_the_same_time_store_each_letter_once() {
    let bench = bench().await;
    bench.send(Signal::Logs, request(vec![log("poison"); 60])).await.unwrap();
    assert_eq!(letters(&bench).await.len(), 60);
    sql(&bench, ALLOW).await;
    wait_for_retry(&bench).await;
    let replayers: Vec<Replayer> =
        (0..4).map(|_| Replayer::new(Database::new(bench.test.url()).unwrap(), Replayer::EVERY)).collect();
    let counts = futures::future::join_all(replayers.iter().map(Replayer::replay_due)).await;
    let stored: u64 = counts.into_iter().map(|counts| counts.unwrap().stored).sum();
    assert_eq!(stored, 60);
    assert_eq!(bench.count("otel_logs").await, 60);
    assert!(letters(&bench).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_that_is_cut_off_leaves_the_letter_and_nothing_else() {
    let bench = bench().await;
    let poison = Span { name: "poison".to_owned(), ..span(1, 2, "") };
    bench.send(Signal::Traces, request(vec![poison])).await.unwrap();
    sql(&bench, ALLOW).await;
    let letter = letters(&bench).await[0].id;

    // It is held up after its row is inserted and before the letter is marked.
    let mut holder = bench.test.client().await;
    let hold = holder.transaction().await.unwrap();
    hold.batch_execute("LOCK TABLE otel_trace_touches IN ACCESS EXCLUSIVE MODE").await.unwrap();
    let first = replayer(&bench);
    let replaying = tokio::spawn(async move { first.replay(letter).await });
    let waiting = "pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
    while bench.count(waiting).await == 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(replayer(&bench).replay(letter).await.unwrap(), Replayed::Elsewhere, "it is claimed");
    sql(&bench, &format!("SELECT pg_terminate_backend(pid) FROM {waiting}")).await;
    assert!(matches!(replaying.await.unwrap().unwrap(), Replayed::Refused { .. }));
    hold.rollback().await.unwrap();

    assert_eq!(bench.count("otel_spans").await, 0);
    assert_eq!(letters(&bench).await[0].retry_count, 1);
    let replayed = replayer(&bench).replay(letter).await.unwrap();
    assert_eq!(replayed, Replayed::Stored { records: 1, refused: 0 });
    assert_eq!(replayer(&bench).replay(letter).await.unwrap(), Replayed::Elsewhere, "it is processed");
    assert_eq!(bench.count("otel_spans").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_do_not_apply_to_what_was_admitted() {
    let bench = bench().await;
    let attribute = |i: usize| KeyValue { key: format!("k{i}"), ..KeyValue::default() };
    let many = Span { attributes: (0..10_001).map(attribute).collect(), ..span(1, 1, "many") };
    assert_eq!(bench.send(Signal::Traces, request(vec![many.clone()])).await.unwrap().rejected, 1);
    let letter = leave(&bench, "trace", 1, &request(vec![many])).await;
    let replayed = replayer(&bench).replay(letter).await.unwrap();
    assert_eq!(replayed, Replayed::Stored { records: 1, refused: 0 });
    assert_eq!(bench.count("otel_spans").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_letter_with_many_records_the_good_ones_are_stored() {
    let bench = bench().await;
    let logs = vec![log("fine"), log("poison"), log("fine"), log("fine")];
    let letter = leave(&bench, "log", 4, &request(logs)).await;
    let replayed = replayer(&bench).replay(letter).await.unwrap();
    assert_eq!(replayed, Replayed::Stored { records: 3, refused: 1 });
    assert_eq!(bench.count("otel_logs").await, 3);
    let left = letters(&bench).await;
    assert_eq!(left.len(), 1);
    assert_ne!(left[0].id, letter);
    assert_eq!((left[0].records, left[0].retry_count, left[0].error_class.as_str()), (1, 1, "bad-data"));
    let (_, raw) = bench.store.dead_letter(left[0].id).await.unwrap().unwrap();
    let records = protobuf::decode_logs(&Bytes::from(raw)).unwrap().groups.remove(0).records;
    assert_eq!(records, [log("poison")]);

    // One of which everything is refused stays whole.
    let whole = leave(&bench, "log", 2, &request(vec![log("poison"), log("poison")])).await;
    assert!(matches!(replayer(&bench).replay(whole).await.unwrap(), Replayed::Refused { .. }));
    assert_eq!(letters(&bench).await.len(), 2);

    sql(&bench, ALLOW).await;
    wait_for_retry(&bench).await;
    assert_eq!(replayer(&bench).replay_due().await.unwrap(), ReplayCounts { stored: 2, refused: 0 });
    assert_eq!(bench.count("otel_logs").await, 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_was_refused_whole_comes_back_once() {
    let bench = Bench::new().await;
    sql(&bench, "ALTER TABLE otel_resources ADD CONSTRAINT for_now CHECK (service_name <> 'poison')").await;
    let body = of_service("poison", vec![log("a"), log("a"), log("b")]);
    bench.send(Signal::Logs, body.clone()).await.unwrap();
    assert_eq!(letters(&bench).await[0].records, 3);
    let letter = letters(&bench).await[0].id;
    assert!(matches!(replayer(&bench).replay(letter).await.unwrap(), Replayed::Refused { .. }));
    sql(&bench, "ALTER TABLE otel_resources DROP CONSTRAINT for_now").await;
    let replayed = replayer(&bench).replay(letter).await.unwrap();
    assert_eq!(replayed, Replayed::Stored { records: 3, refused: 0 });
    bench.send(Signal::Logs, body).await.unwrap();
    assert_eq!(bench.count("otel_logs").await, 3, "its sender tries again and adds nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn spans_that_came_by_another_way_are_not_doubled() {
    let bench = bench().await;
    let poison = Span { name: "poison".to_owned(), ..span(1, 2, "") };
    bench.send(Signal::Traces, request(vec![poison.clone()])).await.unwrap();
    sql(&bench, ALLOW).await;
    bench.send(Signal::Traces, request(vec![poison, span(1, 3, "new")])).await.unwrap();
    let letter = letters(&bench).await[0].id;
    replayer(&bench).replay(letter).await.unwrap();
    assert_eq!(bench.count("otel_spans").await, 2);
    assert!(letters(&bench).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_letter_that_cannot_be_read_stays_with_the_reason() {
    let bench = bench().await;
    for (kind, raw) in [("trace", &b"\xff\xff\xff"[..]), ("metric", b"{}"), ("log", b"")] {
        let letter = leave(&bench, kind, 1, raw).await;
        let Replayed::Refused { reason } = replayer(&bench).replay(letter).await.unwrap() else { panic!("{kind}") };
        assert!(!reason.is_empty());
    }
    assert!(letters(&bench).await.iter().all(|letter| letter.retry_count == 1 && letter.last_error.is_some()));
    let gone = replayer(&bench).replay(Uuid::nil()).await.unwrap();
    assert_eq!(gone, Replayed::Elsewhere);
}

#[tokio::test(flavor = "multi_thread")]
async fn letters_are_replayed_in_the_background() {
    let bench = bench().await;
    bench.send(Signal::Logs, request(vec![log("poison"); 3])).await.unwrap();
    wait_for_retry(&bench).await;
    let stop = CancellationToken::new();
    let background = Replayer::new(bench.store.clone(), Duration::from_millis(10));
    let running = tokio::spawn({
        let stop = stop.clone();
        async move { background.run(stop).await }
    });
    while bench.count("otel_telemetry_dlq WHERE retry_count = 1").await < 3 {
        tokio::task::yield_now().await;
    }
    sql(&bench, ALLOW).await;
    wait_for_retry(&bench).await;
    while bench.count("otel_telemetry_dlq WHERE processed_at IS NULL").await > 0 {
        tokio::task::yield_now().await;
    }
    stop.cancel();
    running.await.unwrap();
    assert_eq!(bench.count("otel_logs").await, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn letters_are_found_filtered_and_purged() {
    let bench = bench().await;
    let log_letter = leave(&bench, "log", 1, &request(vec![log("a")])).await;
    let span_letter = leave(&bench, "trace", 1, &request(vec![span(1, 1, "a")])).await;
    sql(
        &bench,
        &format!("UPDATE otel_telemetry_dlq SET created_at = now() - interval '40 days' WHERE id = '{log_letter}'"),
    )
    .await;
    let ids = async |filter: DeadLetterFilter| -> Vec<Uuid> {
        bench.store.dead_letters(&filter, 10).await.unwrap().iter().map(|letter| letter.id).collect()
    };
    let month_ago = jiff::Timestamp::now() - jiff::SignedDuration::from_hours(30 * 24);
    let all = DeadLetterFilter::default();
    assert_eq!(ids(all.clone()).await, [span_letter, log_letter], "newest first");
    assert_eq!(ids(DeadLetterFilter { since: Some(month_ago), ..all.clone() }).await, [span_letter]);
    assert_eq!(ids(DeadLetterFilter { until: Some(month_ago), ..all.clone() }).await, [log_letter]);
    assert_eq!(ids(DeadLetterFilter { signal: Some(Signal::Logs), ..all.clone() }).await, [log_letter]);
    assert_eq!(ids(DeadLetterFilter { class: Some("stuck".to_owned()), ..all.clone() }).await.len(), 2);
    assert!(ids(DeadLetterFilter { class: Some("bad-data".to_owned()), ..all.clone() }).await.is_empty());
    let prefix: String = span_letter.to_string().to_uppercase().chars().take(12).collect();
    assert_eq!(bench.store.dead_letters_by_prefix(&prefix).await.unwrap()[0].id, span_letter);
    assert_eq!(bench.store.dead_letters_by_prefix("").await.unwrap().len(), 2);
    assert!(bench.store.dead_letters_by_prefix("%").await.unwrap().is_empty());

    replayer(&bench).replay(span_letter).await.unwrap();
    assert_eq!(ids(DeadLetterFilter { processed: Some(true), ..all.clone() }).await, [span_letter]);
    assert_eq!(bench.store.forget_dead_letters(Duration::from_hours(1)).await.unwrap(), 0, "it was processed just now");
    assert_eq!(bench.store.forget_dead_letters(Duration::ZERO).await.unwrap(), 1, "the other one never expires");
    let processed = DeadLetterFilter { processed: Some(true), ..all };
    assert_eq!(bench.store.purge_matching_dead_letters(&processed).await.unwrap(), 0);
    assert_eq!(bench.store.purge_dead_letters(&[log_letter, span_letter]).await.unwrap(), 1);
    assert_eq!(bench.count("otel_telemetry_dlq").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_spool_has_set_aside_can_be_stored() {
    let bench = bench().await;
    let replayer = replayer(&bench);
    let body = Bytes::from(request(vec![log("poison"), log("fine")]));
    for _ in 0..2 {
        replayer.store_set_aside("logs", Some(0), body.clone()).await.unwrap();
    }
    assert_eq!((bench.count("otel_logs").await, letters(&bench).await.len()), (1, 1), "a second time adds nothing");
    let answer =
        bench.ingest.submit(Request { signal: Signal::Logs, encoding: Encoding::Protobuf, body }).await.unwrap();
    assert_eq!((answer.records, bench.count("otel_logs").await), (2, 1), "nor does its sender");
    let empty_object = Bytes::from_static(b"{\"resourceLogs\":[{\"scopeLogs\":[{\"logRecords\":[{}]}]}]}");
    replayer.store_set_aside("logs", Some(1), empty_object.clone()).await.unwrap();
    assert_eq!(bench.count("otel_logs").await, 2, "the tag says that it is JSON");
    for (lane, tag) in [("logs", Some(0)), ("logs", None), ("other", Some(1))] {
        replayer.store_set_aside(lane, tag, empty_object.clone()).await.unwrap_err();
    }
}
