//! Metrics over time, as people ask for them, from points as applications send them.

use std::time::Duration;

use jiff::Timestamp;
use oneiric_otel::otlp::{Group, ResourceEnvelope, Signal, protobuf};
use oneiric_otel::query::{Aggregation, MetricRange, MetricsRequest, QueryError};
use opentelemetry_proto::tonic::metrics::v1::{
    Gauge, Histogram, HistogramDataPoint, Metric, NumberDataPoint, Sum, Summary, SummaryDataPoint, metric,
    number_data_point, summary_data_point,
};
use opentelemetry_proto::tonic::resource::v1::Resource;

use crate::scene::{NOON, SECOND, Scene, of_service, text};

const MINUTE: u64 = 60 * SECOND;
const DELTA: i32 = 1;
const CUMULATIVE: i32 = 2;

fn time(nanos: u64) -> Timestamp {
    Timestamp::from_nanosecond(i128::from(nanos)).unwrap()
}

fn point(minute: u64, start: u64, value: f64, pod: &str) -> NumberDataPoint {
    NumberDataPoint {
        attributes: vec![text("pod", pod)],
        start_time_unix_nano: if start == u64::MAX { 0 } else { NOON + start * MINUTE },
        time_unix_nano: NOON + minute * MINUTE + SECOND,
        value: Some(number_data_point::Value::AsDouble(value)),
        ..NumberDataPoint::default()
    }
}

fn sum(name: &str, temporality: i32, data_points: Vec<NumberDataPoint>) -> Metric {
    let data = Sum { data_points, aggregation_temporality: temporality, is_monotonic: true };
    Metric { name: name.to_owned(), unit: "1".to_owned(), data: Some(metric::Data::Sum(data)), ..Metric::default() }
}

fn gauge(name: &str, data_points: Vec<NumberDataPoint>) -> Metric {
    Metric { name: name.to_owned(), data: Some(metric::Data::Gauge(Gauge { data_points })), ..Metric::default() }
}

fn histogram(minute: u64, counts: [u64; 4], sum: f64) -> HistogramDataPoint {
    HistogramDataPoint {
        start_time_unix_nano: NOON,
        time_unix_nano: NOON + minute * MINUTE + SECOND,
        count: counts.iter().sum(),
        sum: Some(sum),
        bucket_counts: counts.to_vec(),
        explicit_bounds: vec![10.0, 20.0, 40.0],
        ..HistogramDataPoint::default()
    }
}

async fn store(scene: &Scene, service: &str, metrics: Vec<Metric>) {
    scene.bench.send(Signal::Metrics, of_service(service, metrics)).await.unwrap();
}

fn ask(name: &str, aggregation: &str) -> MetricsRequest {
    MetricsRequest {
        name: name.to_owned(),
        labels: Vec::new(),
        service: None,
        start: time(NOON),
        end: time(NOON + 10 * MINUTE),
        step: Duration::from_mins(5),
        aggregation: aggregation.parse::<Aggregation>().unwrap(),
        group_by: Some(Vec::new()),
    }
}

async fn values(scene: &Scene, request: &MetricsRequest) -> Vec<f64> {
    let range: MetricRange = scene.queries().get_metrics_by_time_range(request).await.unwrap();
    assert_eq!(range.series.len(), 1);
    range.series[0].points.iter().map(|point| point.value).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn gauges_are_aggregated_by_step_and_label() {
    let scene = Scene::new().await;
    let points = |pod: &str, base: f64| -> Vec<NumberDataPoint> {
        (0..10).filter(|minute| *minute != 7).map(|minute| point(minute, u64::MAX, base + minute as f64, pod)).collect()
    };
    let unknown = NumberDataPoint { flags: 1, value: None, ..point(7, u64::MAX, 0.0, "a") };
    let nothing = point(7, u64::MAX, f64::NAN, "a");
    store(&scene, "shop", vec![gauge("load", points("a", 0.0)), gauge("load", vec![unknown, nothing])]).await;
    store(&scene, "shop", vec![gauge("load", points("b", 100.0))]).await;
    for (aggregation, expected) in [
        ("avg", [52.0, 57.0]),
        ("sum", [520.0, 456.0]),
        ("min", [0.0, 5.0]),
        ("max", [104.0, 109.0]),
        ("count", [10.0, 8.0]),
        ("last", [104.0, 109.0]),
    ] {
        assert_eq!(values(&scene, &ask("load", aggregation)).await, expected, "{aggregation}");
    }
    let minutes = MetricsRequest {
        step: Duration::from_mins(1),
        group_by: Some(vec!["pod".to_owned(), "service.name".to_owned()]),
        ..ask("load", "avg")
    };
    let range = scene.queries().get_metrics_by_time_range(&minutes).await.unwrap();
    assert_eq!(range.series.len(), 2);
    assert_eq!(range.series[0].labels["pod"], "a");
    assert_eq!(range.series[0].labels["service.name"], "shop");
    assert_eq!(range.series[0].labels.len(), 2);
    let times: Vec<Timestamp> = range.series[1].points.iter().map(|point| point.time).collect();
    assert_eq!(times.len(), 9, "a gap is a gap");
    assert_eq!(times[0], time(NOON));
    let one = MetricsRequest { labels: vec![("pod".to_owned(), "b".to_owned())], group_by: None, ..ask("load", "max") };
    assert_eq!(values(&scene, &one).await, [104.0, 109.0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn counters_increase_through_resets_and_from_before_the_range() {
    let scene = Scene::new().await;
    let cumulative = vec![
        NumberDataPoint {
            time_unix_nano: NOON - MINUTE,
            start_time_unix_nano: NOON - 9 * MINUTE,
            ..point(0, 0, 90.0, "a")
        },
        NumberDataPoint { start_time_unix_nano: NOON - 9 * MINUTE, ..point(1, 0, 100.0, "a") },
        NumberDataPoint { start_time_unix_nano: NOON - 9 * MINUTE, ..point(3, 0, 130.0, "a") },
        // It fell: a reset.
        point(6, u64::MAX, 4.0, "a"),
        // It began anew and is higher already: a reset too.
        point(8, 7, 50.0, "a"),
        // Another one that began in the range.
        point(2, 1, 7.0, "b"),
        // And one that began before it: nobody knows when it counted the first 1000.
        NumberDataPoint { start_time_unix_nano: NOON - 9 * MINUTE, ..point(2, 0, 1000.0, "c") },
        NumberDataPoint { start_time_unix_nano: NOON - 9 * MINUTE, ..point(3, 0, 1003.0, "c") },
    ];
    store(&scene, "shop", vec![sum("hits", CUMULATIVE, cumulative)]).await;
    assert_eq!(values(&scene, &ask("hits", "increase")).await, [10.0 + 30.0 + 7.0 + 3.0, 4.0 + 50.0]);
    assert_eq!(values(&scene, &ask("hits", "rate")).await, [50.0 / 300.0, 54.0 / 300.0]);
    let delta = (0..10).map(|minute| point(minute, minute, 6.0, "a")).collect();
    store(&scene, "shop", vec![sum("clicks", DELTA, delta)]).await;
    assert_eq!(values(&scene, &ask("clicks", "rate")).await, [0.1, 0.1]);
    // Of a step that lies partly in the range, the part counts.
    let part = MetricsRequest { start: time(NOON + 4 * MINUTE), ..ask("clicks", "rate") };
    assert_eq!(values(&scene, &part).await, [0.1, 0.1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn histograms_give_what_was_measured_in_the_step() {
    let scene = Scene::new().await;
    let data_points = vec![
        histogram(0, [10, 0, 0, 0], 50.0),
        histogram(4, [10, 10, 0, 0], 200.0),
        histogram(6, [10, 10, 20, 0], 800.0),
    ];
    let data = metric::Data::Histogram(Histogram { data_points, aggregation_temporality: CUMULATIVE });
    let latency = Metric { name: "latency".to_owned(), unit: "ms".to_owned(), data: Some(data), ..Metric::default() };
    store(&scene, "shop", vec![latency]).await;
    for (aggregation, expected) in [
        ("count", [20.0, 20.0]),
        ("sum", [200.0, 600.0]),
        ("avg", [10.0, 30.0]),
        ("p50", [10.0, 30.0]),
        ("quantile(0.75)", [15.0, 35.0]),
        ("max", [20.0, 40.0]),
        ("increase", [20.0, 20.0]),
        ("rate", [20.0 / 300.0, 20.0 / 300.0]),
    ] {
        assert_eq!(values(&scene, &ask("latency", aggregation)).await, expected, "{aggregation}");
    }
    let quantile = |quantile, value| summary_data_point::ValueAtQuantile { quantile, value };
    let summary = SummaryDataPoint {
        start_time_unix_nano: NOON,
        time_unix_nano: NOON + MINUTE,
        count: 4,
        sum: 8.0,
        quantile_values: vec![quantile(0.5, 2.0), quantile(1.0, 4.0)],
        ..SummaryDataPoint::default()
    };
    let data = Some(metric::Data::Summary(Summary { data_points: vec![summary] }));
    store(&scene, "shop", vec![Metric { name: "old".to_owned(), data, ..Metric::default() }]).await;
    assert_eq!(values(&scene, &ask("old", "p75")).await, [3.0]);
    assert_eq!(values(&scene, &ask("old", "avg")).await, [2.0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_and_their_labels_are_listed() {
    let scene = Scene::new().await;
    store(&scene, "shop", vec![gauge("load.a", vec![point(0, 0, 1.0, "x"), point(0, 0, 1.0, "y")])]).await;
    store(
        &scene,
        "bank",
        vec![gauge("load.a", vec![point(0, 0, 1.0, "x")]), sum("hits", DELTA, vec![point(0, 0, 1.0, "x")])],
    )
    .await;
    let queries = scene.queries();
    let all = queries.metrics(None, None, 10).await.unwrap();
    assert_eq!(all.iter().map(|metric| metric.name.as_str()).collect::<Vec<_>>(), ["hits", "load.a"]);
    assert_eq!((all[0].kind.as_str(), all[0].temporality.as_str(), all[0].monotonic), ("sum", "delta", true));
    assert_eq!((all[1].streams, all[1].services.len()), (3, 2));
    assert_eq!(queries.metrics(Some("LOAD"), Some("shop"), 10).await.unwrap().len(), 1);
    let labels = queries.metric_labels("load.a").await.unwrap();
    assert_eq!(labels.iter().map(|label| label.key.as_str()).collect::<Vec<_>>(), ["pod", "service.name"]);
    assert_eq!(labels[0].values, ["x", "y"]);
    let before = queries.cache_counts();
    for _ in 0..2 {
        assert_eq!(queries.get_metrics_by_time_range(&ask("load.a", "avg")).await.unwrap().series.len(), 1);
    }
    let counts = queries.cache_counts();
    assert_eq!((counts.hits, counts.misses), (before.hits + 1, before.misses + 1), "what is over is asked for once");
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_questions_about_metrics_are_named() {
    let scene = Scene::new().await;
    store(&scene, "shop", vec![gauge("cpu.load", vec![point(0, 0, 1.0, "x")])]).await;
    let good = ask("cpu.load", "avg");
    for (request, message) in [
        (ask("cpu.lod", "avg"), "name: \"cpu.lod\" is not known; there is cpu.load"),
        (
            MetricsRequest { service: Some("shoop".to_owned()), ..good.clone() },
            "service: \"shoop\" is not known; there is shop",
        ),
        (MetricsRequest { end: good.start, ..good.clone() }, "end: expected a time after start"),
        (MetricsRequest { step: Duration::ZERO, ..good.clone() }, "step: expected a duration of 1 ms or more"),
        (
            MetricsRequest { step: Duration::from_millis(1), ..good.clone() },
            "step: expected at most 11000 steps in the range: a step of 55 ms or more",
        ),
        (ask("cpu.load", "rate"), "aggregation: expected avg, sum, min, max, count, last for a gauge"),
        (
            MetricsRequest { aggregation: Aggregation::Quantile(1.5), ..good.clone() },
            "aggregation: expected avg, sum, min, max, count, last, rate, increase, pN such as p95, or quantile(Q) with Q \
             from 0 to 1",
        ),
    ] {
        let error = scene.queries().get_metrics_by_time_range(&request).await.expect_err("wrong");
        assert_eq!(error.to_string(), message);
    }
    let nobody = MetricsRequest { labels: vec![("pod".to_owned(), "nobody".to_owned())], ..good };
    assert!(scene.queries().get_metrics_by_time_range(&nobody).await.unwrap().series.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn labels_that_no_stream_has_are_named_with_those_that_are_like_them() {
    let scene = Scene::new().await;
    store(&scene, "shop", vec![gauge("load", vec![point(0, 0, 1.0, "x")])]).await;
    // Of another metric.
    let other = NumberDataPoint { attributes: vec![text("port", "80")], ..point(0, 0, 1.0, "x") };
    store(&scene, "shop", vec![gauge("open", vec![other])]).await;
    // One that only a resource has.
    let attributes = vec![text("service.name", "bank"), text("host.name", "db-7")];
    let resource = Resource { attributes, ..Resource::default() };
    let resource = ResourceEnvelope { resource: Some(resource), ..ResourceEnvelope::default() };
    let records = vec![gauge("load", vec![point(0, 0, 2.0, "y")])];
    let group = Group { resource: resource.into(), scope: <_>::default(), records };
    scene.bench.send(Signal::Metrics, protobuf::encode(&[group])).await.unwrap();
    let queries = scene.queries();
    let with = |key: &str, value: &str| MetricsRequest {
        labels: vec![(key.to_owned(), value.to_owned())],
        ..ask("load", "avg")
    };
    let by = |key: &str| MetricsRequest { group_by: Some(vec![key.to_owned()]), ..ask("load", "avg") };
    for (request, argument, near) in [
        (with("port", "80"), "labels", "pod"),
        (with("hostname", "db-7"), "labels", "host.name"),
        (by("pot"), "group_by", "pod"),
    ] {
        match queries.get_metrics_by_time_range(&request).await.expect_err("no stream has it") {
            QueryError::Unknown { name, near: found, .. } => {
                assert_eq!((name, found.first().map(String::as_str)), (argument, Some(near)), "{found:?}");
            }
            error => panic!("{error}"),
        }
    }
    // What a stream has or its resource is known, whether or not another stream passes the filter.
    for request in [with("host.name", "db-8"), with("pod", "z")] {
        assert!(queries.get_metrics_by_time_range(&request).await.unwrap().series.is_empty());
    }
    let of_bank = MetricsRequest { group_by: Some(vec!["host.name".to_owned()]), ..with("pod", "x") };
    assert_eq!(queries.get_metrics_by_time_range(&of_bank).await.unwrap().series.len(), 1);
    assert_eq!(queries.get_metrics_by_time_range(&by("service.name")).await.unwrap().series.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn points_are_found_by_their_key_in_the_partitions_of_the_range() {
    let scene = Scene::new().await;
    let day = 24 * 60;
    let points = (0..3000).map(|i| point(i % 3 * day, 0, i as f64, &format!("pod {}", i / 3))).collect();
    store(&scene, "shop", vec![gauge("load", points)]).await;
    scene.bench.test.client().await.batch_execute("ANALYZE").await.unwrap();
    let one = MetricsRequest { labels: vec![("pod".to_owned(), "pod 7".to_owned())], ..ask("load", "avg") };
    let plan = scene.queries().explain_metrics(&one).await.unwrap();
    assert!(plan.contains("_pkey") && !plan.contains("Append"), "the key, and one partition:\n{plan}");
}
