//! What is acknowledged as spooled is stored exactly once, whatever happens between.

use std::path::Path;
use std::time::{Duration, Instant};

use oneiric_otel::otlp::{Encoding, Signal};
use oneiric_otel::pipeline::{
    Accepted, Ack, BreakerOptions, BreakerState, Ingest, IngestOptions, IngestStatus, Refused, Request, StoredSignals,
};
use oneiric_otel::store::Database;
use oneiric_otel_spool::{Spool, SpoolOptions};
use oneiric_otel_testkit::TestDatabase;
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use opentelemetry_proto::tonic::trace::v1::Span;

use crate::writing::{gauge, log, request, span};

/// Longer than anything here takes, however busy the machine.
const PATIENCE: Duration = Duration::from_mins(2);

pub(crate) fn open(dir: &Path) -> Spool {
    Spool::open(SpoolOptions::new(dir, Signal::ALL.map(Signal::as_str))).expect("a spool").0
}

/// Retries and pauses of the breaker are short, so that nothing here waits for a minute.
pub(crate) fn options(ack: Ack) -> IngestOptions {
    IngestOptions {
        ack,
        retry_backoff: Duration::from_millis(1),
        batch_interval: Duration::from_millis(1),
        breaker: BreakerOptions { open_for: Duration::from_millis(50), ..BreakerOptions::default() },
        ..IngestOptions::default()
    }
}

pub(crate) async fn migrated() -> (TestDatabase, Database) {
    let test = TestDatabase::create().await;
    let database = Database::new(test.url()).expect("a valid URL");
    database.migrate().await.expect("migrates");
    (test, database)
}

pub(crate) async fn send(ingest: &Ingest, signal: Signal, body: Vec<u8>) -> Result<Accepted, Refused> {
    ingest.submit(Request { signal, encoding: Encoding::Protobuf, body: body.into() }).await
}

pub(crate) fn one_span(number: u32) -> Vec<u8> {
    request(vec![Span { start_time_unix_nano: 1_795_176_000_000_000_000 + u64::from(number), ..span(7, 7, "one") }])
}

/// Sends one span, one log record and one point a number.
async fn send_numbered(ingest: &Ingest, numbers: std::ops::Range<u32>) {
    for number in numbers {
        let text = LogRecord { ..log(&format!("line {number}")) };
        send(ingest, Signal::Traces, one_span(number)).await.expect("accepted");
        send(ingest, Signal::Logs, request(vec![text])).await.expect("accepted");
        send(ingest, Signal::Metrics, request(vec![gauge("g", &[f64::from(number)])])).await.expect("accepted");
    }
}

pub(crate) async fn stored(test: &TestDatabase) -> (i64, i64, i64) {
    let count = async |table| test.count(&format!("SELECT count(*) FROM otel.{table}")).await;
    (count("otel_spans").await, count("otel_logs").await, count("otel_metrics").await)
}

/// Waits until the write path is as it should be.
async fn wait_for(ingest: &Ingest, what: &str, is_so: impl Fn(&IngestStatus) -> bool) {
    let began = Instant::now();
    while !is_so(&ingest.status()) {
        assert!(began.elapsed() < PATIENCE, "waited in vain for: {what}; {:?}", ingest.status());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn entries(status: &IngestStatus) -> u64 {
    status.spool.iter().flat_map(|spool| &spool.lanes).map(|lane| lane.entries).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_came_while_the_database_was_away_is_stored_when_it_is_there() {
    let dir = tempfile::tempdir().expect("a directory");
    let (test, database) = migrated().await;
    let ingest = Ingest::new(options(Ack::Spooled(open(dir.path()))));
    send_numbered(&ingest, 0..50).await;
    assert_eq!(entries(&ingest.status()), 150);
    ingest.start_writing(database);
    ingest.drain().await;
    assert_eq!(stored(&test).await, (50, 50, 50));
    assert_eq!(entries(&ingest.status()), 0);
    assert_eq!(ingest.counts().written_records["logs"], 50);
    let late = send(&ingest, Signal::Traces, one_span(0)).await;
    assert!(matches!(late, Err(Refused::Unavailable { .. })), "{late:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_earlier_process_left_is_stored_once() {
    let dir = tempfile::tempdir().expect("a directory");
    let copy = tempfile::tempdir().expect("a directory");
    let (test, database) = migrated().await;
    let ingest = Ingest::new(options(Ack::Spooled(open(dir.path()))));
    send_numbered(&ingest, 0..20).await;
    ingest.abandon().await;
    drop(ingest);
    // What is on disk if the process dies after the commit and before the release.
    for signal in Signal::ALL.map(Signal::as_str) {
        let lane = dir.path().join(signal);
        std::fs::create_dir(copy.path().join(signal)).expect("made");
        for file in std::fs::read_dir(lane).expect("a lane").map(|file| file.expect("a file")) {
            std::fs::copy(file.path(), copy.path().join(signal).join(file.file_name())).expect("copied");
        }
    }
    for dir in [dir.path(), copy.path()] {
        let ingest = Ingest::start(database.clone(), options(Ack::Spooled(open(dir))));
        ingest.drain().await;
        assert_eq!(stored(&test).await, (20, 20, 20));
        assert_eq!(entries(&ingest.status()), 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_fit_in_memory_is_read_from_the_spool() {
    let dir = tempfile::tempdir().expect("a directory");
    let (test, database) = migrated().await;
    let tight = IngestOptions { queue_memory: 40_000, batch_rows: 20, ..options(Ack::Spooled(open(dir.path()))) };
    let ingest = Ingest::new(tight);
    send_numbered(&ingest, 0..200).await;
    let status = ingest.status();
    assert_eq!(entries(&status), 600);
    assert!(status.waiting_requests < 100, "{} in memory", status.waiting_requests);
    ingest.start_writing(database);
    // More comes while the backlog is read.
    send_numbered(&ingest, 200..300).await;
    wait_for(&ingest, "an empty spool", |status| entries(status) == 0).await;
    assert_eq!(stored(&test).await, (300, 300, 300));
    let counts = ingest.counts();
    assert_eq!((counts.duplicate_requests, counts.written_records["traces"]), (0, 300));
    ingest.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_the_database_cannot_take_holds_nobody_up_and_becomes_a_dead_letter() {
    let dir = tempfile::tempdir().expect("a directory");
    let (test, database) = migrated().await;
    let client = test.client().await;
    client
        .batch_execute(
            "CREATE FUNCTION otel.refuse() RETURNS trigger LANGUAGE plpgsql AS $$
             BEGIN RAISE EXCEPTION 'out of luck' USING ERRCODE = '40001'; END $$;
             CREATE TRIGGER refuse BEFORE INSERT ON otel.otel_spans FOR EACH ROW
             WHEN (NEW.name = 'poison') EXECUTE FUNCTION otel.refuse()",
        )
        .await
        .expect("a trigger");
    let ingest = Ingest::new(options(Ack::Spooled(open(dir.path()))));
    for number in 0..20 {
        let body = if number == 11 { request(vec![span(1, 1, "poison")]) } else { one_span(number) };
        send(&ingest, Signal::Traces, body).await.expect("accepted");
    }
    ingest.start_writing(database);
    // Others are written all the time, as on a real server.
    let mut number = 100;
    let began = Instant::now();
    while test.count("SELECT count(*) FROM otel.otel_telemetry_dlq WHERE error_class = 'stuck'").await == 0 {
        assert!(began.elapsed() < PATIENCE, "{:?}", ingest.status());
        send(&ingest, Signal::Traces, one_span(number)).await.expect("accepted");
        number += 1;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    ingest.drain().await;
    assert_eq!(stored(&test).await.0, i64::from(number - 100 + 19));
    assert_eq!(ingest.counts().dead_letters["stuck"], 1);
    assert_eq!(entries(&ingest.status()), 0);
    let letter = client
        .query_one("SELECT telemetry_type, records, error_message, raw_data FROM otel.otel_telemetry_dlq", &[])
        .await
        .expect("one dead letter");
    assert_eq!((letter.get::<_, &str>(0), letter.get::<_, i32>(1)), ("trace", 1));
    assert!(letter.get::<_, &str>(2).contains("out of luck"));
    assert_eq!(letter.get::<_, Vec<u8>>(3), request(vec![span(1, 1, "poison")]));
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_database_is_away_the_breaker_is_open_and_the_spool_takes_more() {
    let dir = tempfile::tempdir().expect("a directory");
    let nowhere = Database::new("postgresql://nobody@127.0.0.1:1/none").expect("a valid URL");
    let breaker = BreakerOptions { open_for: PATIENCE, ..BreakerOptions::default() };
    let ingest = Ingest::start(nowhere, IngestOptions { breaker, ..options(Ack::Spooled(open(dir.path()))) });
    for number in 0..10 {
        send(&ingest, Signal::Traces, one_span(number)).await.expect("accepted");
    }
    wait_for(&ingest, "an open breaker", |status| status.breaker.state == BreakerState::Open).await;
    let status = ingest.status();
    assert!(status.breaker.failing_since.is_some() && status.breaker.last_error.is_some(), "{status:?}");
    assert_eq!(status.refusing, None, "it can acknowledge");
    assert!(status.counts.write_retries >= 3);
    send(&ingest, Signal::Traces, one_span(10)).await.expect("accepted");
    ingest.abandon().await;
    drop(ingest);
    // Nothing was lost by giving up.
    let (test, database) = migrated().await;
    Ingest::start(database, options(Ack::Spooled(open(dir.path())))).drain().await;
    assert_eq!(stored(&test).await.0, 11);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_without_rights_opens_the_breaker_at_once_and_the_data_waits() {
    let dir = tempfile::tempdir().expect("a directory");
    let (test, database) = migrated().await;
    let client = test.client().await;
    client.batch_execute("ALTER TABLE otel.otel_ingest_ledger RENAME TO elsewhere").await.expect("renamed");
    let ingest = Ingest::start(database, options(Ack::Spooled(open(dir.path()))));
    send_numbered(&ingest, 0..5).await;
    wait_for(&ingest, "an open breaker", |status| status.breaker.opened > 0).await;
    assert!(ingest.status().breaker.last_error.is_some_and(|error| error.contains("42P01")));
    client.batch_execute("ALTER TABLE otel.elsewhere RENAME TO otel_ingest_ledger").await.expect("renamed");
    wait_for(&ingest, "an empty spool", |status| entries(status) == 0).await;
    assert_eq!(stored(&test).await, (5, 5, 5));
    assert_eq!(test.count("SELECT count(*) FROM otel.otel_telemetry_dlq").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_for_the_commit_is_told_at_once_while_there_can_be_none() {
    let nowhere = Database::new("postgresql://nobody@127.0.0.1:1/none").expect("a valid URL");
    let breaker = BreakerOptions { open_for: PATIENCE, ..BreakerOptions::default() };
    let ingest = Ingest::start(nowhere, IngestOptions { breaker, ..options(Ack::Stored) });
    let sends = (0..40).map(|number| {
        let ingest = ingest.clone();
        async move { send(&ingest, Signal::Traces, one_span(number)).await }
    });
    for answer in futures::future::join_all(sends).await {
        assert!(matches!(answer, Err(Refused::Unavailable { .. })), "{answer:?}");
    }
    assert_eq!(ingest.status().breaker.state, BreakerState::Open);
    assert!(ingest.can_acknowledge().is_err_and(|reason| reason.contains("does not take writes")));
    assert_eq!(ingest.status().waiting_requests, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn in_memory_the_oldest_requests_are_dropped_and_counted() {
    let (test, database) = migrated().await;
    let ingest = Ingest::new(options(Ack::Memory { requests: 10 }));
    for number in 0..25 {
        send(&ingest, Signal::Traces, one_span(number)).await.expect("accepted");
    }
    assert_eq!(ingest.counts().dropped_records, 15);
    ingest.start_writing(database);
    ingest.drain().await;
    assert_eq!(stored(&test).await.0, 10);
    assert_eq!(test.count("SELECT min(start_ns) FROM otel.otel_spans").await, 15);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_spool_refuses_leaves_other_signals_their_share_and_recovers() {
    let dir = tempfile::tempdir().expect("a directory");
    let (test, database) = migrated().await;
    let small = SpoolOptions { max_bytes: 1 << 20, ..SpoolOptions::new(dir.path(), Signal::ALL.map(Signal::as_str)) };
    let ingest = Ingest::new(options(Ack::Spooled(Spool::open(small).expect("a spool").0)));
    let large = |id: u8| request(vec![Span { name: "x".repeat(20_000), ..span(9, id, "") }]);
    let mut accepted = 0;
    let refused = loop {
        match send(&ingest, Signal::Traces, large(accepted + 1)).await {
            Ok(_) => accepted += 1,
            Err(refused) => break refused,
        }
    };
    assert!(accepted > 20, "{accepted}");
    assert!(
        matches!(&refused, Refused::Unavailable { reason, retry_after } if reason.contains("full") && !retry_after.is_zero()),
        "{refused:?}"
    );
    send(&ingest, Signal::Logs, request(vec![log("still welcome")])).await.expect("accepted");
    ingest.start_writing(database);
    let began = Instant::now();
    while send(&ingest, Signal::Traces, large(200)).await.is_err() {
        assert!(began.elapsed() < PATIENCE, "{:?}", ingest.status());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    ingest.drain().await;
    assert_eq!(stored(&test).await, (i64::from(accepted) + 1, 1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_somebody_has_locked_stops_its_own_signal_alone() {
    let dir = tempfile::tempdir().expect("a directory");
    let (test, database) = migrated().await;
    let one_by_one = IngestOptions { batch_rows: 1, ..options(Ack::Spooled(open(dir.path()))) };
    let ingest = Ingest::start(database, one_by_one);
    let somebody = test.client().await;
    somebody.batch_execute("BEGIN; LOCK TABLE otel.otel_metrics IN ACCESS EXCLUSIVE MODE").await.expect("locked");
    send_numbered(&ingest, 0..20).await;
    wait_for(&ingest, "spans and logs to be written", |status| {
        let written = |signal: &str| status.counts.written_records.get(signal).copied().unwrap_or_default();
        (written("traces"), written("logs"), written("metrics")) == (20, 20, 0)
    })
    .await;
    assert_eq!(ingest.counts().failed_batches, 0, "nobody has given up waiting for the lock by then");
    somebody.batch_execute("ROLLBACK").await.expect("let go");
    ingest.drain().await;
    assert_eq!(stored(&test).await, (20, 20, 20));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_is_given_up_leaves_nothing_running() {
    let (test, database) = migrated().await;
    let hasty = IngestOptions { write_timeout: Duration::from_secs(1), ..options(Ack::Stored) };
    let ingest = Ingest::start(database, hasty);
    let somebody = test.client().await;
    somebody.batch_execute("BEGIN; LOCK TABLE otel.otel_spans IN ACCESS EXCLUSIVE MODE").await.expect("locked");
    let sender = ingest.clone();
    let refused = tokio::spawn(async move { send(&sender, Signal::Traces, one_span(1)).await });
    let waiting =
        format!("SELECT count(*) FROM pg_stat_activity WHERE datname = '{}' AND wait_event_type = 'Lock'", test.name());
    let wait_for_count = async |count: i64| {
        let began = Instant::now();
        while test.count(&waiting).await != count {
            assert!(began.elapsed() < PATIENCE, "waited in vain for {count} who wait for a lock");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    wait_for_count(1).await;
    let refused = refused.await.expect("no panic");
    assert!(matches!(refused, Err(Refused::Unavailable { .. })), "{refused:?}");
    wait_for_count(0).await;
    somebody.batch_execute("ROLLBACK").await.expect("let go");
    let began = Instant::now();
    while send(&ingest, Signal::Traces, one_span(1)).await.is_err() {
        assert!(began.elapsed() < PATIENCE, "{:?}", ingest.status());
    }
    assert_eq!(stored(&test).await.0, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_was_made_for_somebody_whose_runtime_stands_still_serves_others() {
    let (_test, database) = migrated().await;
    let asked = database.clone();
    let (done, asked_all) = tokio::sync::oneshot::channel();
    let (sender, receiver) = std::sync::mpsc::channel::<()>();
    let somebody = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async { futures::future::join_all((0..8).map(|_| asked.ping())).await });
        done.send(()).expect("somebody waits");
        receiver.recv().expect("told to end");
    });
    asked_all.await.expect("asked");
    let all = futures::future::join_all((0..8).map(|_| database.ping()));
    let answered = tokio::time::timeout(Duration::from_secs(20), all).await.expect("they answer");
    assert!(answered.iter().all(Result::is_ok), "{answered:?}");
    sender.send(()).expect("it waits");
    somebody.join().expect("no panic");
}

#[tokio::test(flavor = "multi_thread")]
async fn records_of_a_signal_that_is_not_stored_are_rejected_and_nothing_else_is_said_of_them() {
    let (test, database) = migrated().await;
    let signals = StoredSignals { logs: false, ..StoredSignals::default() };
    let ingest = Ingest::start(database, IngestOptions { signals, ..options(Ack::Stored) });
    let body = request(vec![log("one"), log("two")]);
    let logs = Request { signal: Signal::Logs, encoding: Encoding::Protobuf, body: body.into() };
    let examined = ingest.examine(logs.clone()).await.expect("an answer");
    let submitted = ingest.submit(logs).await.expect("an answer");
    assert_eq!(examined, submitted);
    assert_eq!((submitted.records, submitted.rejected), (0, 2));
    assert!(submitted.message.contains("store_logs"), "{}", submitted.message);
    assert_eq!(ingest.counts().switched_off_records, 2, "an examination is no delivery");
    assert_eq!(stored(&test).await, (0, 0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_are_refused_while_something_outside_is_in_the_way() {
    let (test, database) = migrated().await;
    let ingest = Ingest::start(database, options(Ack::Stored));
    ingest.refuse_because(Some("the disk is nearly full".to_owned()));
    let refused = send(&ingest, Signal::Traces, one_span(1)).await;
    assert!(
        matches!(&refused, Err(Refused::Unavailable { reason, .. }) if reason == "the disk is nearly full"),
        "{refused:?}"
    );
    assert_eq!(ingest.can_acknowledge(), Err("the disk is nearly full".to_owned()));
    ingest.refuse_because(None);
    send(&ingest, Signal::Traces, one_span(1)).await.expect("accepted");
    assert_eq!(stored(&test).await.0, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_in_json_come_back_from_the_spool_as_they_were() {
    let dir = tempfile::tempdir().expect("a directory");
    let (test, database) = migrated().await;
    let body = r#"{"resourceSpans":[{"scopeSpans":[{"spans":[
        {"traceId":"0102030405060708090a0b0c0d0e0f10","spanId":"0102030405060708","name":"good"},
        {"traceId":"","spanId":"0102030405060708","name":"bad"}]}]}]}"#;
    let ingest = Ingest::new(options(Ack::Spooled(open(dir.path()))));
    let request = Request { signal: Signal::Traces, encoding: Encoding::Json, body: body.into() };
    let accepted = ingest.submit(request).await.expect("accepted in part");
    assert_eq!((accepted.records, accepted.rejected), (1, 1));
    ingest.abandon().await;
    drop(ingest);
    Ingest::start(database, options(Ack::Spooled(open(dir.path())))).drain().await;
    assert_eq!(test.count("SELECT count(*) FROM otel.otel_spans WHERE name = 'good'").await, 1);
    assert_eq!(stored(&test).await.0, 1);
}
