//! Answers are the same whether hours are rolled up or not, whatever comes late, and from whom.

use std::time::Duration;

use jiff::Timestamp;
use oneiric_otel::otlp::Signal;
use oneiric_otel::query::{MetricRange, MetricsRequest};
use oneiric_otel::rollup::{RollupOptions, RollupWorker};
use opentelemetry_proto::tonic::metrics::v1::{
    ExponentialHistogram, ExponentialHistogramDataPoint, Gauge, Histogram, HistogramDataPoint, Metric, NumberDataPoint,
    Sum, exponential_histogram_data_point::Buckets, metric, number_data_point,
};

use crate::scene::{NOON, SECOND, Scene, of_service, text};

const MINUTE: u64 = 60 * SECOND;
const HOUR: u64 = 60 * MINUTE;
const CUMULATIVE: i32 = 2;

fn number(at: u64, value: f64, pod: &str) -> NumberDataPoint {
    NumberDataPoint {
        attributes: vec![text("pod", pod)],
        start_time_unix_nano: NOON - HOUR,
        time_unix_nano: NOON + at,
        value: Some(number_data_point::Value::AsDouble(value)),
        ..NumberDataPoint::default()
    }
}

fn metric(name: &str, data: metric::Data) -> Metric {
    Metric { name: name.to_owned(), data: Some(data), ..Metric::default() }
}

fn gauge(points: Vec<NumberDataPoint>) -> Metric {
    metric("load", metric::Data::Gauge(Gauge { data_points: points }))
}

/// Ten hours of every kind, with resets and gaps.
fn everything() -> Vec<Metric> {
    let minutes = || (0..600u64).step_by(7).filter(|minute| !(240..310).contains(minute));
    let counted = |minute: u64| (minute % 200) as f64;
    let loads = minutes().flat_map(|at| ["a", "b"].map(|pod| number(at * MINUTE, (at % 13) as f64, pod))).collect();
    let hits = minutes().map(|at| number(at * MINUTE, counted(at), "a")).collect();
    let explicit = minutes().map(|at| HistogramDataPoint {
        start_time_unix_nano: NOON - HOUR,
        time_unix_nano: NOON + at * MINUTE,
        count: 3 * (at % 200),
        sum: Some(counted(at)),
        bucket_counts: vec![at % 200, 2 * (at % 200), 0],
        explicit_bounds: vec![1.0, 5.0],
        ..HistogramDataPoint::default()
    });
    let exponential = minutes().map(|at| ExponentialHistogramDataPoint {
        time_unix_nano: NOON + at * MINUTE,
        count: at + 4,
        sum: Some(7.0),
        scale: (at % 3) as i32,
        zero_count: 1,
        positive: Some(Buckets { offset: (at % 5) as i32 - 2, bucket_counts: vec![at, 2] }),
        negative: Some(Buckets { offset: 1, bucket_counts: vec![1] }),
        ..ExponentialHistogramDataPoint::default()
    });
    vec![
        gauge(loads),
        metric(
            "hits",
            metric::Data::Sum(Sum { data_points: hits, aggregation_temporality: CUMULATIVE, is_monotonic: true }),
        ),
        metric(
            "latency",
            metric::Data::Histogram(Histogram { data_points: explicit.collect(), aggregation_temporality: CUMULATIVE }),
        ),
        metric(
            "sizes",
            metric::Data::ExponentialHistogram(ExponentialHistogram {
                data_points: exponential.collect(),
                aggregation_temporality: 1,
            }),
        ),
    ]
}

async fn store(scene: &Scene, metrics: Vec<Metric>) {
    scene.bench.send(Signal::Metrics, of_service("shop", metrics)).await.unwrap();
}

fn worker(scene: &Scene) -> RollupWorker {
    RollupWorker::new(scene.bench.store.clone(), RollupOptions::default())
}

fn time(nanos: u64) -> Timestamp {
    Timestamp::from_nanosecond(i128::from(nanos)).unwrap()
}

fn ask(name: &str, aggregation: &str, start: u64, end: u64, hours: u64) -> MetricsRequest {
    MetricsRequest {
        name: name.to_owned(),
        labels: Vec::new(),
        service: None,
        start: time(NOON + start),
        end: time(NOON + end),
        step: Duration::from_hours(hours),
        aggregation: aggregation.parse().unwrap(),
        group_by: Some(Vec::new()),
    }
}

/// Answers to all kinds of questions, also of ranges that begin and end within an hour.
async fn answers(scene: &Scene) -> Vec<MetricRange> {
    let mut answers = Vec::new();
    for (name, aggregations) in [
        ("load", &["avg", "sum", "min", "max", "count", "last"][..]),
        ("hits", &["increase", "rate", "last"]),
        ("latency", &["p50", "p99", "sum", "count", "avg"]),
        ("sizes", &["p50", "p99", "max"]),
    ] {
        for aggregation in aggregations {
            for (start, end, hours) in [(0, 10 * HOUR, 1), (0, 10 * HOUR, 3), (31 * MINUTE, 7 * HOUR + 7 * MINUTE, 2)] {
                let request = ask(name, aggregation, start, end, hours);
                answers.push(scene.queries().get_metrics_by_time_range(&request).await.unwrap());
            }
        }
    }
    answers
}

/// Equal, but for the order in which floats were added.
#[track_caller]
fn assert_same(answers: &[MetricRange], others: &[MetricRange]) {
    for (answer, other) in answers.iter().zip(others) {
        let values = |range: &MetricRange| -> Vec<(Timestamp, f64)> {
            range.series.iter().flat_map(|series| &series.points).map(|point| (point.time, point.value)).collect()
        };
        let (these, those) = (values(answer), values(other));
        assert_eq!(these.len(), those.len(), "{answer:#?} {other:#?}");
        assert!(!these.is_empty());
        for (this, that) in these.iter().zip(&those) {
            let near = (this.1 - that.1).abs() <= 1e-9 * this.1.abs().max(1.0);
            assert!(this.0 == that.0 && near, "{} {}: {this:?} and {that:?}", answer.name, answer.aggregation);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_from_rolled_hours_are_those_from_points() {
    let scene = Scene::new().await;
    store(&scene, everything()).await;
    let raw = answers(&scene).await;
    assert_eq!(worker(&scene).roll_up_all_now().await.unwrap(), 9, "those with points");
    assert_eq!(scene.bench.count("otel_metric_touches").await, 0);
    assert_same(&raw, &answers(&scene).await);
    assert_eq!(worker(&scene).roll_up_all_now().await.unwrap(), 0, "what is rolled up stays");

    // The points themselves are read only where hours are cut.
    let whole = ask("hits", "increase", 0, 10 * HOUR, 5);
    let before = scene.queries().get_metrics_by_time_range(&whole).await.unwrap();
    scene.bench.test.client().await.batch_execute("DELETE FROM otel_metrics").await.unwrap();
    assert_eq!(scene.queries().get_metrics_by_time_range(&whole).await.unwrap(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn late_points_are_seen_at_once_and_rolled_up_again() {
    let scene = Scene::new().await;
    store(&scene, everything()).await;
    worker(&scene).roll_up_all_now().await.unwrap();
    let late = || vec![gauge(vec![number(5 * HOUR + MINUTE / 2, 1000.0, "a"), number(9 * HOUR + 1, 3.0, "c")])];
    store(&scene, late()).await;
    let seen = answers(&scene).await;
    assert_eq!(scene.bench.test.count("SELECT count(DISTINCT hour) FROM otel_metric_touches").await, 2);
    worker(&scene).roll_up_all_now().await.unwrap();
    assert_same(&seen, &answers(&scene).await);
    let other = Scene::new().await;
    store(&other, everything()).await;
    store(&other, late()).await;
    assert_same(&seen, &answers(&other).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn several_workers_and_writers_at_once_end_in_the_right_hours() {
    let scene = Scene::new().await;
    let points = |writer: u64| (0..60).map(move |i| number(i * 10 * MINUTE + writer, 1.0, &format!("pod {writer}")));
    let writers = (0..8).map(|writer| store(&scene, vec![gauge(points(writer).collect())]));
    let workers: Vec<RollupWorker> = (0..4).map(|_| worker(&scene)).collect();
    let rolling = workers.iter().map(async |worker| {
        for _ in 0..10 {
            worker.roll_up_all_now().await.unwrap();
        }
    });
    tokio::join!(futures::future::join_all(writers), futures::future::join_all(rolling));
    worker(&scene).roll_up_all_now().await.unwrap();
    scene.bench.test.client().await.batch_execute("DELETE FROM otel_metrics").await.unwrap();
    let range = scene.queries().get_metrics_by_time_range(&ask("load", "count", 0, 10 * HOUR, 10)).await.unwrap();
    let total: f64 = range.series[0].points.iter().map(|point| point.value).sum();
    assert!((total - 480.0).abs() < 1e-9, "{range:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn points_of_a_version_without_touches_are_not_overlooked() {
    let scene = Scene::new().await;
    store(&scene, vec![gauge(vec![number(0, 1.0, "a")])]).await;
    worker(&scene).roll_up_all_now().await.unwrap();
    // What an older version leaves.
    store(&scene, vec![gauge(vec![number(MINUTE, 2.0, "a")])]).await;
    let client = scene.bench.test.client().await;
    client
        .batch_execute(
            "TRUNCATE otel_metric_touches;
             UPDATE otel_ingest_ledger SET touched = NULL WHERE received_at = (SELECT max(received_at) FROM otel_ingest_ledger)",
        )
        .await
        .unwrap();
    let request = ask("load", "sum", 0, HOUR, 1);
    let sum = async || scene.queries().get_metrics_by_time_range(&request).await.unwrap().series[0].points[0].value;
    assert!((sum().await - 3.0).abs() < 1e-9, "from the points");
    assert_eq!(worker(&scene).roll_up_all_now().await.unwrap(), 0, "it may still be at it");
    client
        .batch_execute(
            "UPDATE otel_ingest_ledger SET received_at = received_at - interval '2 hours';
             UPDATE otel_metric_hours SET rolled_at = rolled_at - interval '2 hours'",
        )
        .await
        .unwrap();
    assert!((sum().await - 3.0).abs() < 1e-9, "still from the points");
    assert_eq!(worker(&scene).roll_up_all_now().await.unwrap(), 1, "all hours with points");
    client.batch_execute("DELETE FROM otel_metrics").await.unwrap();
    assert!((sum().await - 3.0).abs() < 1e-9, "from the hour, which is right now");
}
