//! What the services measure once a minute: a gauge, two counters, a histogram and an exponential histogram.

use opentelemetry_proto::tonic::metrics::v1::exponential_histogram_data_point::Buckets;
use opentelemetry_proto::tonic::metrics::v1::{
    AggregationTemporality, ExponentialHistogram, ExponentialHistogramDataPoint, Gauge, Histogram, HistogramDataPoint,
    Metric, NumberDataPoint, ResourceMetrics, ScopeMetrics, Sum, metric::Data, number_data_point::Value,
};
use rand::Rng as _;
use rand::SeedableRng as _;
use rand::rngs::StdRng;

use super::company::{Company, Service, scatter};
use super::record::{resource, scope, text};

const MINUTE: u64 = 60 * 1_000_000_000;
/// Processes live for so long, and counters begin again with each.
const LIFETIME: u64 = 3 * 24 * 60;
const BOUNDS: [f64; 8] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0];
/// Requests that land in each bucket in a minute, about.
const SHAPE: [u64; 9] = [40, 90, 160, 120, 60, 25, 6, 3, 1];

pub(super) fn of_minute(company: &Company, minute: u64) -> Vec<ResourceMetrics> {
    let time = company.scenario.start_unix_nanos + minute * MINUTE;
    let born = company.scenario.start_unix_nanos + minute / LIFETIME * LIFETIME * MINUTE;
    let age = minute % LIFETIME + 1;
    company
        .services
        .iter()
        .enumerate()
        .map(|(number, service)| {
            let seed = scatter(company.scenario.seed ^ minute << 8 ^ number as u64);
            let metrics = metrics(service, time, born, age, &mut StdRng::seed_from_u64(seed));
            let scope_metrics = vec![ScopeMetrics { scope: Some(scope(service)), metrics, ..ScopeMetrics::default() }];
            ResourceMetrics { resource: Some(resource(service)), scope_metrics, ..ResourceMetrics::default() }
        })
        .collect()
}

fn metrics(service: &Service, time: u64, born: u64, age: u64, random: &mut StdRng) -> Vec<Metric> {
    let cumulative = AggregationTemporality::Cumulative as i32;
    let point = |value: Value| NumberDataPoint {
        start_time_unix_nano: born,
        time_unix_nano: time,
        value: Some(value),
        ..NumberDataPoint::default()
    };
    let whole = |count: u64| Value::AsInt(i64::try_from(count).unwrap_or(i64::MAX));
    let by_entity = |scale: u64| {
        let points = service.entities.iter().enumerate().map(|(place, entity)| NumberDataPoint {
            attributes: vec![text("entity", *entity)],
            ..point(whole(age * scale * (place as u64 + 1)))
        });
        Data::Sum(Sum { data_points: points.collect(), aggregation_temporality: cumulative, is_monotonic: true })
    };
    let memory = 300_000_000 + random.random_range(0..200_000_000_u64);
    let gauge = Data::Gauge(Gauge { data_points: vec![point(whole(memory))] });
    let bucket_counts: Vec<u64> = SHAPE.iter().map(|count| count * age).collect();
    let histogram = HistogramDataPoint {
        start_time_unix_nano: born,
        time_unix_nano: time,
        count: bucket_counts.iter().sum(),
        sum: Some(age as f64 * 21.5),
        bucket_counts,
        explicit_bounds: BOUNDS.to_vec(),
        attributes: vec![text("http.route", format!("/{}s", service.entities[0]))],
        ..HistogramDataPoint::default()
    };
    let exponential = ExponentialHistogramDataPoint {
        start_time_unix_nano: born,
        time_unix_nano: time,
        count: age * 60,
        sum: Some(age as f64 * 60.0),
        scale: 2,
        positive: Some(Buckets { offset: -8, bucket_counts: (1..=8).map(|bucket| bucket * age).collect() }),
        zero_count: age * 24,
        ..ExponentialHistogramDataPoint::default()
    };
    vec![
        metric("process.memory.usage", "By", gauge),
        metric("retail.operations", "{operation}", by_entity(40)),
        metric("retail.changes", "{change}", by_entity(7)),
        metric(
            "http.server.request.duration",
            "s",
            Data::Histogram(Histogram { data_points: vec![histogram], aggregation_temporality: cumulative }),
        ),
        metric(
            "retail.queue.delay",
            "s",
            Data::ExponentialHistogram(ExponentialHistogram {
                data_points: vec![exponential],
                aggregation_temporality: cumulative,
            }),
        ),
    ]
}

fn metric(name: &str, unit: &str, data: Data) -> Metric {
    Metric { name: name.to_owned(), unit: unit.to_owned(), data: Some(data), ..Metric::default() }
}
