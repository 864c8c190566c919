//! What a request leaves in the tables: exactly its records, once, or a dead letter with the reason.

use std::time::Duration;

use oneiric_otel::otlp::{Encoding, Group, Signal, protobuf};
use oneiric_otel::pipeline::{Accepted, Ingest, IngestOptions, Refused, Request};
use oneiric_otel::store::Database;
use oneiric_otel_testkit::{TestDatabase, Version};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use opentelemetry_proto::tonic::metrics::v1::{Gauge, Metric, NumberDataPoint, metric, number_data_point};
use opentelemetry_proto::tonic::trace::v1::Span;

/// A migrated database with a write path on it.
pub(crate) struct Bench {
    pub(crate) ingest: Ingest,
    pub(crate) store: Database,
    pub(crate) test: TestDatabase,
}

impl Bench {
    pub(crate) async fn new() -> Self {
        Self::on(TestDatabase::create().await).await
    }

    pub(crate) async fn on(test: TestDatabase) -> Self {
        let store = Database::new(test.url()).expect("a valid URL");
        store.migrate().await.expect("migrates");
        let ingest = Ingest::start(store.clone(), IngestOptions::default());
        Self { ingest, store, test }
    }

    pub(crate) async fn count(&self, what: &str) -> i64 {
        self.test.count(&format!("SELECT count(*) FROM {what}")).await
    }

    pub(crate) async fn send(&self, signal: Signal, body: Vec<u8>) -> Result<Accepted, Refused> {
        self.ingest.submit(Request { signal, encoding: Encoding::Protobuf, body: body.into() }).await
    }
}

/// 2026-11-20T12:00:00Z in nanoseconds.
const NOON: u64 = 1_795_176_000_000_000_000;

pub(crate) fn span(trace: u8, id: u8, name: &str) -> Span {
    Span {
        trace_id: vec![trace; 16],
        span_id: vec![id; 8],
        name: name.to_owned(),
        start_time_unix_nano: NOON + u64::from(id) * 1_000_000,
        end_time_unix_nano: NOON + u64::from(id) * 1_000_000 + 500,
        ..Span::default()
    }
}

pub(crate) fn log(text: &str) -> LogRecord {
    LogRecord {
        time_unix_nano: NOON,
        body: Some(AnyValue { value: Some(Value::StringValue(text.to_owned())) }),
        ..LogRecord::default()
    }
}

pub(crate) fn gauge(name: &str, values: &[f64]) -> Metric {
    let data_points = values
        .iter()
        .zip(1..)
        .map(|(value, i)| NumberDataPoint {
            time_unix_nano: NOON + i,
            value: Some(number_data_point::Value::AsDouble(*value)),
            ..NumberDataPoint::default()
        })
        .collect();
    Metric { name: name.to_owned(), data: Some(metric::Data::Gauge(Gauge { data_points })), ..Metric::default() }
}

pub(crate) fn request<R: oneiric_otel::otlp::record::Record>(records: Vec<R>) -> Vec<u8> {
    protobuf::encode(&[Group { resource: std::sync::Arc::default(), scope: std::sync::Arc::default(), records }])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_sent_again_adds_nothing() {
    let bench = Bench::new().await;
    for _ in 0..3 {
        let spans = request(vec![span(1, 1, "a"), span(1, 2, "b")]);
        assert_eq!(bench.send(Signal::Traces, spans).await.expect("accepted").records, 2);
        let logs = request(vec![log("x"), log("x"), log("y")]);
        assert_eq!(bench.send(Signal::Logs, logs).await.expect("accepted").records, 3);
        let metrics = request(vec![gauge("g", &[1.0, 2.0])]);
        assert_eq!(bench.send(Signal::Metrics, metrics).await.expect("accepted").records, 2);
    }
    assert_eq!(bench.count("otel_spans").await, 2);
    assert_eq!(bench.count("otel_logs").await, 3, "equal log records of one request are all kept");
    assert_eq!(bench.count("otel_metrics").await, 2);
    assert_eq!(bench.count("otel_ingest_ledger").await, 3);
    assert_eq!(bench.ingest.counts().duplicate_requests, 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn spans_and_points_sent_again_in_another_request_add_nothing() {
    let bench = Bench::new().await;
    bench.send(Signal::Traces, request(vec![span(1, 1, "a"), span(1, 2, "b")])).await.expect("accepted");
    bench
        .send(Signal::Traces, request(vec![span(1, 2, "b"), span(1, 3, "c"), span(1, 3, "c")]))
        .await
        .expect("accepted");
    assert_eq!(bench.count("otel_spans").await, 3);
    bench.send(Signal::Metrics, request(vec![gauge("g", &[1.0])])).await.expect("accepted");
    bench.send(Signal::Metrics, request(vec![gauge("g", &[1.0, 2.0])])).await.expect("accepted");
    assert_eq!(bench.count("otel_metrics").await, 2);
    assert_eq!(bench.count("otel_metric_series").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn different_spans_with_one_id_in_the_same_microsecond_both_survive() {
    let bench = Bench::new().await;
    let first = span(1, 1, "one");
    let second = Span { name: "other".to_owned(), ..first.clone() };
    bench.send(Signal::Traces, request(vec![first])).await.expect("accepted");
    bench.send(Signal::Traces, request(vec![second])).await.expect("accepted");
    assert_eq!(bench.count("otel_spans").await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn equal_requests_at_the_same_time_are_stored_once() {
    let bench = Bench::new().await;
    let body = request(vec![log("same"); 10]);
    let sends: Vec<_> = (0..32).map(|_| bench.send(Signal::Logs, body.clone())).collect();
    for accepted in futures::future::join_all(sends).await {
        assert_eq!(accepted.expect("accepted").records, 10);
    }
    assert_eq!(bench.count("otel_logs").await, 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn overlapping_requests_at_the_same_time_add_each_span_once() {
    let bench = Bench::new().await;
    let sends: Vec<_> = (0..24u8)
        .map(|i| {
            let spans = (0..50u8).map(|j| span(1, (i % 5) * 10 + j + 1, "shared")).collect();
            bench.send(Signal::Traces, request(spans))
        })
        .collect();
    for accepted in futures::future::join_all(sends).await {
        assert_eq!(accepted.expect("accepted").records, 50);
    }
    assert_eq!(bench.count("otel_spans").await, 90);
    assert_eq!(bench.ingest.counts().write_retries, 0, "rows go in by key, so transactions cannot lock each other out");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_bad_span_never_costs_its_neighbours() {
    let bench = Bench::new().await;
    let short = Span { trace_id: vec![1; 15], ..span(1, 2, "short") };
    let zero = Span { span_id: vec![0; 8], ..span(1, 3, "zero") };
    let answer = bench.send(Signal::Traces, request(vec![span(1, 1, "good"), short, zero, span(1, 4, "good")])).await;
    let accepted = answer.expect("accepted");
    assert_eq!((accepted.records, accepted.rejected), (2, 2));
    assert!(accepted.message.contains("traceId has 15 bytes"), "{}", accepted.message);
    assert!(accepted.message.contains("spanId is all zero"), "{}", accepted.message);
    assert_eq!(bench.count("otel_spans").await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_beyond_its_limits_is_rejected_and_not_cut() {
    let bench = Bench::new().await;
    let attribute = |i: usize| KeyValue { key: format!("k{i}"), ..KeyValue::default() };
    let many = Span { attributes: (0..10_001).map(attribute).collect(), ..span(1, 1, "many") };
    let large = Span { name: "x".repeat(16 * 1024 * 1024), ..span(1, 2, "") };
    let accepted = bench.send(Signal::Traces, request(vec![many, large, span(1, 3, "c")])).await.expect("accepted");
    assert_eq!((accepted.records, accepted.rejected), (1, 2));
    assert_eq!(bench.count("otel_spans").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn records_the_database_refuses_become_dead_letters_with_the_good_ones_stored() {
    let bench = Bench::new().await;
    let client = bench.test.client().await;
    client.batch_execute("ALTER TABLE otel_spans ADD CHECK (name <> 'poison')").await.expect("constraint");
    client.batch_execute("ALTER TABLE otel_logs ADD CHECK (body <> 'poison')").await.expect("constraint");
    client.batch_execute("ALTER TABLE otel_metrics ADD CHECK (value_double <> 13)").await.expect("constraint");

    let mut spans: Vec<Span> = (1..=100).map(|i| span(7, i, "fine")).collect();
    spans[41].name = "poison".to_owned();
    spans[77].name = "poison".to_owned();
    let accepted = bench.send(Signal::Traces, request(spans.clone())).await.expect("accepted");
    assert_eq!((accepted.records, accepted.rejected), (100, 0));
    assert!(accepted.message.contains("2 records"), "{}", accepted.message);
    bench.send(Signal::Logs, request(vec![log("fine"), log("poison")])).await.expect("accepted");
    bench.send(Signal::Metrics, request(vec![gauge("g", &[12.0, 13.0, 14.0])])).await.expect("accepted");

    assert_eq!(bench.count("otel_spans").await, 98);
    assert_eq!(bench.count("otel_logs").await, 1);
    assert_eq!(bench.count("otel_metrics").await, 2);
    assert_eq!(bench.ingest.counts().dead_letters["bad-data"], 4);
    let letters = client
        .query("SELECT telemetry_type, error_class, error_message, raw_data FROM otel_telemetry_dlq", &[])
        .await
        .expect("dead letters");
    assert_eq!(letters.len(), 4);
    let replayable: Vec<Span> = letters
        .iter()
        .filter(|row| row.get::<_, &str>(0) == "trace")
        .flat_map(|row| protobuf::decode_traces(&row.get::<_, Vec<u8>>(3).into()).expect("OTLP").groups)
        .flat_map(|group| group.records)
        .collect();
    assert_eq!(replayable, [spans[41].clone(), spans[77].clone()]);
    assert!(letters.iter().all(|row| row.get::<_, &str>(1) == "bad-data"));
    assert!(letters.iter().all(|row| row.get::<_, &str>(2).contains("23514")));

    // The whole is one transaction: a second delivery changes nothing.
    bench.send(Signal::Traces, request(spans)).await.expect("accepted");
    assert_eq!(bench.count("otel_telemetry_dlq").await, 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn data_of_any_age_is_stored_in_few_partitions() {
    let bench = Bench::new().await;
    let year = 365 * 24 * 3600 * 1_000_000_000u64;
    let times = [0, 1, 20 * year, 31 * year, 53 * year, 53 * year + 999, NOON, NOON + 20 * year, 140 * year, u64::MAX];
    let spans =
        times.iter().zip(1..).map(|(time, id)| Span { start_time_unix_nano: *time, ..span(1, id, "aged") }).collect();
    assert_eq!(bench.send(Signal::Traces, request(spans)).await.expect("accepted").records, 10);
    assert_eq!(bench.count("otel_spans").await, 10);
    assert!(bench.count("otel_partitions('otel_spans')").await <= 14);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_dropped_behind_our_back_is_made_again() {
    let bench = Bench::new().await;
    let old = |id| Span { start_time_unix_nano: 1_600_000_000_000_000_000, ..span(1, id, "old") };
    bench.send(Signal::Traces, request(vec![old(1)])).await.expect("accepted");
    let client = bench.test.client().await;
    client.batch_execute("DROP TABLE otel_spans_20200101_coarse").await.expect("dropped");
    bench.send(Signal::Traces, request(vec![old(2)])).await.expect("accepted");
    assert_eq!(bench.count("otel_spans").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_away_is_no_reason_to_lose_or_to_lie() {
    let nowhere = Database::new("postgresql://nobody@127.0.0.1:1/none").expect("a valid URL");
    let ingest = Ingest::start(nowhere, IngestOptions { max_retries: 0, ..IngestOptions::default() });
    let body = request(vec![span(1, 1, "a")]).into();
    let answer = ingest.submit(Request { signal: Signal::Traces, encoding: Encoding::Protobuf, body }).await;
    match answer {
        Err(Refused::Unavailable { retry_after, .. }) => assert!(retry_after > Duration::ZERO),
        other => panic!("expected to be told to come back, got {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn traces_are_touched_by_spans_and_by_logs_that_tell_of_errors() {
    let bench = Bench::new().await;
    let child = Span { parent_span_id: vec![9; 8], ..span(2, 2, "child") };
    bench.send(Signal::Traces, request(vec![span(1, 1, "root"), child])).await.expect("accepted");
    let of_trace =
        |trace: u8, severity| LogRecord { trace_id: vec![trace; 16], severity_number: severity, ..log("something") };
    bench.send(Signal::Logs, request(vec![of_trace(3, 9), of_trace(4, 13), of_trace(5, 17)])).await.expect("accepted");
    let client = bench.test.client().await;
    let rows = client
        .query("SELECT left(trace_id::text, 2), has_root, records, slot FROM otel_trace_touches ORDER BY 1", &[])
        .await
        .expect("touches");
    let touches: Vec<(String, bool, i32, i16)> =
        rows.iter().map(|row| (row.get(0), row.get(1), row.get(2), row.get(3))).collect();
    assert_eq!(
        touches,
        [("01".into(), true, 1, 1), ("02".into(), false, 1, 2), ("04".into(), false, 1, 4), ("05".into(), false, 1, 5)]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resource_beyond_its_limits_costs_only_its_own_records() {
    use oneiric_otel::otlp::ResourceEnvelope;
    use opentelemetry_proto::tonic::resource::v1::Resource;
    let bench = Bench::new().await;
    let attribute = |i: usize| KeyValue { key: format!("k{i}"), ..KeyValue::default() };
    let resource = Resource { attributes: (0..10_001).map(attribute).collect(), ..Resource::default() };
    let group = |resource: Option<Resource>, records| Group {
        resource: std::sync::Arc::new(ResourceEnvelope { resource, schema_url: String::new() }),
        scope: std::sync::Arc::default(),
        records,
    };
    let groups = [group(Some(resource), vec![span(1, 1, "a"), span(1, 2, "b")]), group(None, vec![span(1, 3, "c")])];
    let accepted = bench.send(Signal::Traces, protobuf::encode(&groups)).await.expect("accepted");
    assert_eq!((accepted.records, accepted.rejected), (1, 2));
    assert!(accepted.message.contains("resource: 10001 attributes"), "{}", accepted.message);
    assert_eq!(bench.count("otel_spans").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn resources_that_the_database_lost_are_stored_again() {
    let bench = Bench::new().await;
    bench.send(Signal::Traces, request(vec![span(1, 1, "a")])).await.expect("accepted");
    let client = bench.test.client().await;
    client.batch_execute("TRUNCATE otel_resources, otel_scopes").await.expect("lost");
    bench.send(Signal::Traces, request(vec![span(1, 2, "b")])).await.expect("accepted");
    assert_eq!(bench.count("otel_spans JOIN otel_resources USING (resource_id) WHERE name = 'b'").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_clock_does_not_take_the_partitions_of_days_to_come() {
    let bench = Bench::new().await;
    let client = bench.test.client().await;
    let day = 24 * 3600 * 1_000_000_000u64;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_nanos() as u64;
    let ahead = |days: u64| Span { start_time_unix_nano: now + days * day, ..span(1, days as u8, "ahead") };
    bench.send(Signal::Traces, request(vec![ahead(10), ahead(200)])).await.expect("accepted");
    let widest = "SELECT max(upper_bound - lower_bound) <= interval '31 days' FROM otel_partitions('otel_spans')
                  WHERE upper_bound < 'infinity'";
    let row = client.query_one(widest, &[]).await.expect("partitions");
    assert!(row.get::<_, bool>(0), "a month at most");
}

#[tokio::test(flavor = "multi_thread")]
async fn functions_in_the_public_schema_do_not_stand_in_for_built_in_ones() {
    let bench = Bench::new().await;
    let client = bench.test.client().await;
    client
        .batch_execute(
            "CREATE FUNCTION public.date_trunc(text, timestamptz) RETURNS timestamptz LANGUAGE plpgsql
             AS $$ BEGIN RAISE EXCEPTION 'shadowed'; END $$",
        )
        .await
        .expect("created");
    let old = Span { start_time_unix_nano: 1_600_000_000_000_000_000, ..span(1, 1, "old") };
    assert_eq!(bench.send(Signal::Traces, request(vec![old])).await.expect("accepted").records, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn postgresql_18_stores_and_gives_back_too() {
    let bench = Bench::on(TestDatabase::create_on(Version::V18).await).await;
    let spans = vec![span(1, 1, "a"), Span { parent_span_id: vec![1; 8], ..span(1, 2, "b") }];
    bench.send(Signal::Traces, request(spans.clone())).await.expect("accepted");
    bench.send(Signal::Traces, request(vec![spans[1].clone(), span(1, 3, "c")])).await.expect("accepted");
    bench.send(Signal::Logs, request(vec![log("x"); 2])).await.expect("accepted");
    bench.send(Signal::Metrics, request(vec![gauge("g", &[1.0])])).await.expect("accepted");
    bench.store.migrate_deferred().await.expect("migrates");
    let stored = bench.store.trace_spans([1; 16]).await.expect("read");
    assert_eq!(stored.len(), 3);
    assert_eq!(stored[0].record, spans[0]);
    assert_eq!((bench.count("otel_logs").await, bench.count("otel_metrics").await), (2, 1));
    let version = bench.store.status().await.expect("status").server_version;
    assert!(version.starts_with("18"), "{version}");
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_are_remembered_for_as_long_as_asked() {
    let bench = Bench::new().await;
    bench.send(Signal::Logs, request(vec![log("old")])).await.expect("accepted");
    let client = bench.test.client().await;
    client.batch_execute("UPDATE otel_ingest_ledger SET received_at = now() - interval '8 days'").await.expect("aged");
    bench.send(Signal::Logs, request(vec![log("new")])).await.expect("accepted");
    let week = Duration::from_hours(7 * 24);
    assert_eq!(bench.store.forget_requests(week).await.expect("forgets"), 1);
    assert_eq!(bench.count("otel_ingest_ledger").await, 1);
}
