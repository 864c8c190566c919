//! The cap on metric series: what is there goes on, what is new is kept until there is room, and nothing is stored twice.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use oneiric_otel::otlp::{Encoding, Signal, protobuf};
use oneiric_otel::pipeline::{Accepted, Ack, Ingest, IngestOptions, ReplayCounts, Replayer, Request};
use oneiric_otel::store::{Database, DeadLetterEntry, DeadLetterFilter, Replayed};
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::{Histogram, HistogramDataPoint, Metric};

use crate::writing::{Bench, gauge, log, request, span};

/// A write path of its own on the database of `bench`, as another server has it.
fn server(bench: &Bench, limit: u64) -> Ingest {
    let database = Database::new(bench.test.url()).unwrap();
    Ingest::start(database, IngestOptions { max_metric_series: limit, ..IngestOptions::default() })
}

async fn bench(limit: u64) -> Bench {
    let bench = Bench::new().await;
    Bench { ingest: server(&bench, limit), ..bench }
}

fn replayer(bench: &Bench, limit: u64) -> Replayer {
    let database = Database::new(bench.test.url()).unwrap();
    Replayer::new(database, Replayer::EVERY).with_max_metric_series(limit)
}

async fn send(ingest: &Ingest, metrics: Vec<Metric>) -> Accepted {
    let body = request(metrics).into();
    ingest.submit(Request { signal: Signal::Metrics, encoding: Encoding::Protobuf, body }).await.unwrap()
}

/// A gauge of each name, with one point.
fn gauges(names: &[&str]) -> Vec<Metric> {
    names.iter().map(|name| gauge(name, &[1.0])).collect()
}

fn with_last_point_twice(mut metric: Metric) -> Metric {
    if let Some(Data::Gauge(gauge)) = &mut metric.data {
        gauge.data_points.extend(gauge.data_points.last().cloned());
    }
    metric
}

async fn sql(bench: &Bench, statements: &str) {
    bench.test.client().await.batch_execute(statements).await.unwrap();
}

async fn letters(bench: &Bench) -> Vec<DeadLetterEntry> {
    let open = DeadLetterFilter { processed: Some(false), ..DeadLetterFilter::default() };
    bench.store.dead_letters(&open, 1000).await.unwrap()
}

/// The metrics of a letter by name.
async fn metrics(bench: &Bench, letter: &DeadLetterEntry) -> BTreeMap<String, Metric> {
    let (_, raw) = bench.store.dead_letter(letter.id).await.unwrap().unwrap();
    let groups = protobuf::decode_metrics(&Bytes::from(raw)).unwrap().groups;
    groups.into_iter().flat_map(|group| group.records).map(|metric| (metric.name.clone(), metric)).collect()
}

async fn counts(bench: &Bench) -> (i64, i64, usize) {
    (bench.count("otel_metric_series").await, bench.count("otel_metrics").await, letters(bench).await.len())
}

/// As if the time of every letter had come.
async fn wait_for_retry(bench: &Bench) {
    sql(bench, "UPDATE otel_telemetry_dlq SET next_retry_at = now()").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn at_the_cap_known_series_go_on_and_points_of_new_ones_are_one_letter_of_their_request() {
    let bench = bench(3).await;
    assert_eq!(send(&bench.ingest, gauges(&["a", "b"])).await.message, "");
    let new: Vec<Metric> = ["c", "d", "e"].map(|name| gauge(name, &[1.0, 2.0, 3.0])).into();
    let repeated = new.iter().cloned().map(with_last_point_twice).collect();
    let mixed = [vec![gauge("a", &[1.0, 2.0]), gauge("b", &[1.0, 2.0])], repeated].concat();
    let accepted = send(&bench.ingest, mixed.clone()).await;
    assert_eq!((accepted.records, accepted.rejected), (16, 0));
    let note = "no room for new metric series (limits.max_metric_series); 6 data points";
    assert!(accepted.message.contains(note), "{}", accepted.message);
    assert_eq!(counts(&bench).await, (3, 4 + 3, 1), "one of three fits, with all its points");

    let letter = letters(&bench).await.remove(0);
    assert_eq!(
        (letter.records, letter.error_class.as_str(), letter.telemetry_type.as_str()),
        (6, "series-limit", "metric")
    );
    for part in ["3 are stored", "limit is 3", "limits.max_metric_series"] {
        assert!(letter.error_message.contains(part), "{}", letter.error_message);
    }
    let kept = metrics(&bench, &letter).await;
    assert_eq!(kept.len(), 2);
    for metric in new {
        assert!(kept.get(&metric.name).is_none_or(|kept| *kept == metric), "all of its points, in their order");
    }

    send(&bench.ingest, mixed).await;
    assert_eq!(counts(&bench).await, (3, 7, 1), "a request that is sent again adds nothing");
    let again: Vec<Metric> = kept.keys().map(|name| gauge(name, &[7.0])).collect();
    send(&bench.ingest, [gauges(&["b"]), again].concat()).await;
    assert_eq!(counts(&bench).await, (3, 7, 2), "what was refused is asked about again");
    let counted = bench.ingest.counts();
    assert_eq!(counted.dead_letters, BTreeMap::from([("series-limit", 8)]));
    assert_eq!(counted.written_records["metrics"], 2 + 10 + 1);
    assert_eq!((counted.failed_batches, counted.write_retries), (0, 0));
    assert_eq!(bench.ingest.status().max_metric_series, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn letters_are_stored_once_when_there_is_room() {
    let bench = bench(1).await;
    let sent = gauges(&["a", "b", "c", "d", "e"]);
    send(&bench.ingest, sent.clone()).await;
    assert_eq!(counts(&bench).await, (1, 1, 1));
    wait_for_retry(&bench).await;
    let full = replayer(&bench, 1);
    assert_eq!(full.replay_due().await.unwrap(), ReplayCounts::default(), "there is no room: it is not even read");
    let first = letters(&bench).await.remove(0);
    assert_eq!(first.retry_count, 0);
    let Replayed::Refused { reason } = full.replay(first.id).await.unwrap() else { panic!("there is no room") };
    assert!(reason.contains("limits.max_metric_series"), "{reason}");
    let refused = letters(&bench).await.remove(0);
    assert_eq!((refused.id, refused.records, refused.retry_count), (first.id, 4, 1), "it stays whole");

    let part = replayer(&bench, 3).replay(first.id).await.unwrap();
    assert_eq!(part, Replayed::Stored { records: 2, refused: 2 });
    assert_eq!(counts(&bench).await, (3, 3, 1));
    let rest = letters(&bench).await.remove(0);
    assert_eq!((rest.records, rest.retry_count, rest.error_class.as_str()), (2, 2, "series-limit"));
    assert_eq!(metrics(&bench, &rest).await.len(), 2);

    wait_for_retry(&bench).await;
    let raised = replayer(&bench, 5);
    assert_eq!(raised.replay_due().await.unwrap(), ReplayCounts { stored: 1, refused: 0 });
    assert_eq!(raised.replay_due().await.unwrap(), ReplayCounts::default());
    send(&server(&bench, 5), sent).await;
    assert_eq!(counts(&bench).await, (5, 5, 0));
    let distinct = "(SELECT DISTINCT series_id FROM otel_metrics) m";
    assert_eq!(bench.count(distinct).await, 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_for_room_is_not_looked_through_for_what_else_is_due() {
    let bench = bench(1).await;
    bench.store.migrate_deferred().await.unwrap();
    send(&bench.ingest, gauges(&["a", "b"])).await;
    sql(
        &bench,
        "INSERT INTO otel_telemetry_dlq
         SELECT (jsonb_populate_record(d, jsonb_build_object('id', gen_random_uuid()))).*
         FROM otel_telemetry_dlq d, generate_series(1, 20000)",
    )
    .await;
    wait_for_retry(&bench).await;
    sql(&bench, "ANALYZE otel_telemetry_dlq").await;
    assert_eq!(replayer(&bench, 1).replay_due().await.unwrap(), ReplayCounts::default());
    // A server process tells what it did some seconds later.
    let through_index = "SELECT coalesce(sum(idx_scan), 0)::bigint FROM pg_stat_user_indexes WHERE indexrelname = 'otel_telemetry_dlq_due'";
    let told = async {
        while bench.test.count(through_index).await == 0 {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(Duration::from_mins(1), told).await.expect("letters are found through the index");
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_on_one_database_share_the_cap() {
    let bench = bench(4).await;
    let other = server(&bench, 4);
    send(&bench.ingest, gauges(&["a", "b", "c"])).await;
    send(&other, gauges(&["c", "d", "e"])).await;
    assert_eq!(counts(&bench).await, (4, 4, 1));
    for (ingest, value) in [(&bench.ingest, 5.0), (&other, 6.0)] {
        send(ingest, vec![gauge("f", &[value]), gauge("a", &[value])]).await;
    }
    assert_eq!(counts(&bench).await, (4, 6, 3));
}

#[tokio::test(flavor = "multi_thread")]
async fn retired_series_come_back_at_the_cap() {
    let bench = bench(2).await;
    send(&bench.ingest, gauges(&["a", "b"])).await;
    sql(
        &bench,
        "INSERT INTO otel_retirements (parent) VALUES ('otel_metric_series');
         UPDATE otel_metric_series SET content_hash = otel_turned_over(content_hash), retirement = 1",
    )
    .await;
    let accepted = send(&bench.ingest, vec![gauge("a", &[5.0]), gauge("b", &[5.0]), gauge("c", &[5.0])]).await;
    assert!(accepted.message.contains("; 1 data points"), "{}", accepted.message);
    assert_eq!(counts(&bench).await, (2, 4, 1));
    assert_eq!(bench.count("otel_metric_series WHERE retirement IS NULL").await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_count_and_not_the_ids_that_were_given() {
    let bench = bench(3).await;
    send(&bench.ingest, gauges(&["a", "b"])).await;
    sql(
        &bench,
        "DELETE FROM otel_metrics WHERE series_id = 1; DELETE FROM otel_metric_series WHERE series_id = 1;
         ALTER TABLE otel_metric_series ALTER COLUMN series_id RESTART WITH 1000",
    )
    .await;
    let restarted = server(&bench, 3);
    send(&restarted, gauges(&["c"])).await;
    assert_eq!(counts(&bench).await, (2, 2, 0));
    send(&restarted, gauges(&["d"])).await;
    assert_eq!(counts(&bench).await, (3, 3, 0), "now the ids are beyond the cap, and the rows are not");
    send(&restarted, gauges(&["e"])).await;
    assert_eq!(counts(&bench).await, (3, 3, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn json_and_every_kind_of_point_come_back_as_they_were() {
    let bench = bench(1).await;
    send(&bench.ingest, gauges(&["a"])).await;
    let json = r#"{"resourceMetrics":[{"resource":{"attributes":[{"key":"service.name","value":{"stringValue":"shop"}}]},
        "scopeMetrics":[{"scope":{"name":"s"},"metrics":[
          {"name":"g","unit":"By","gauge":{"dataPoints":[{"timeUnixNano":"1795176000000000001","asInt":"7"}]}},
          {"name":"a","gauge":{"dataPoints":[{"timeUnixNano":"1795176000000000002","asDouble":2}]}}]}]}]}"#;
    let body = Bytes::from_static(json.as_bytes());
    bench.ingest.submit(Request { signal: Signal::Metrics, encoding: Encoding::Json, body }).await.unwrap();
    assert_eq!(letters(&bench).await[0].records, 2, "of another resource it is another series");

    let bounds = vec![f64::NEG_INFINITY, -0.0, 1.0e-310, f64::from_bits(0x7ff8_0000_0000_0001)];
    let point = |bounds: &[f64], time| HistogramDataPoint {
        time_unix_nano: time,
        bucket_counts: vec![1; bounds.len() + 1],
        explicit_bounds: bounds.to_vec(),
        ..HistogramDataPoint::default()
    };
    let time = 1_795_176_000_000_000_003;
    let data_points = vec![point(&bounds, time), point(&[], time + 1), point(&[2.5], time + 2)];
    let histogram = Histogram { data_points, ..Histogram::default() };
    let metric = Metric { name: "h".to_owned(), data: Some(Data::Histogram(histogram)), ..Metric::default() };
    send(&bench.ingest, vec![metric.clone()]).await;
    let letter = letters(&bench).await.remove(0);
    assert_eq!(letter.records, 3);
    // Not by `==`: one of the bounds is no number.
    let kept = metrics(&bench, &letter).await.remove("h").unwrap();
    assert_eq!(request(vec![kept]), request(vec![metric]));

    wait_for_retry(&bench).await;
    assert_eq!(replayer(&bench, 100).replay_due().await.unwrap(), ReplayCounts { stored: 2, refused: 0 });
    assert_eq!(counts(&bench).await, (1 + 2 + 3, 1 + 2 + 3, 0));
    let client = bench.test.client().await;
    let stored = "SELECT explicit_bounds FROM otel_metric_series WHERE metric_name = 'h'
                  ORDER BY coalesce(cardinality(explicit_bounds), 0)";
    let stored: Vec<Option<Vec<f64>>> = client.query(stored, &[]).await.unwrap().iter().map(|row| row.get(0)).collect();
    let bits = |bounds: &[f64]| bounds.iter().map(|bound| bound.to_bits()).collect::<Vec<_>>();
    assert_eq!((&stored[0], &stored[1]), (&None, &Some(vec![2.5])));
    assert_eq!(bits(stored[2].as_deref().unwrap()), bits(&bounds));
    let units = "otel_metric_series WHERE unit = 'By' AND service_name = 'shop'";
    assert_eq!(bench.count(units).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn other_signals_know_no_cap_and_requests_together_keep_theirs_apart() {
    let bench = bench(1).await;
    let requests = (0..20u8).map(|i| {
        let name = if i % 2 == 0 { "a".to_owned() } else { format!("new {i}") };
        let metrics = vec![gauge("a", &[f64::from(i), 100.0]), gauge(&name, &[f64::from(i) + 0.5])];
        send(&bench.ingest, metrics)
    });
    send(&bench.ingest, gauges(&["a"])).await;
    for accepted in futures::future::join_all(requests).await {
        assert_eq!(accepted.records, 3);
    }
    assert_eq!(bench.count("otel_metric_series").await, 1);
    let letters = letters(&bench).await;
    assert_eq!((letters.len(), letters.iter().map(|letter| letter.records).sum::<i32>()), (10, 10));
    bench.send(Signal::Traces, request(vec![span(1, 1, "a")])).await.unwrap();
    bench.send(Signal::Logs, request(vec![log("a")])).await.unwrap();
    assert_eq!((bench.count("otel_spans").await, bench.count("otel_logs").await), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waited_in_a_spool_is_kept_too() {
    let (bench, dir) = (bench(1).await, tempfile::tempdir().unwrap());
    let spool = crate::spooling::open(dir.path());
    let database = Database::new(bench.test.url()).unwrap();
    let options = IngestOptions { ack: Ack::Spooled(spool), max_metric_series: 1, ..IngestOptions::default() };
    let ingest = Ingest::start(database, options);
    assert_eq!(send(&ingest, gauges(&["a", "b"])).await.message, "", "it is answered before it is known");
    ingest.drain().await;
    assert_eq!(counts(&bench).await, (1, 1, 1));
    let waiting: u64 = ingest.status().spool.unwrap().lanes.iter().map(|lane| lane.entries).sum();
    assert_eq!(waiting, 0);
    let letter = letters(&bench).await.remove(0);
    assert_eq!(metrics(&bench, &letter).await.len(), 1);
}
