//! Each kind of record, field by field.

use opentelemetry_proto::tonic::common::v1::AnyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;

use super::*;
use crate::query::{AttributeValue, Level};
use crate::storage::{LogEntry, MetricData};

fn origins() -> Origins {
    Origins::new(Usual::of(&Origin::service("workflows")).expect("whole values"))
}

fn key(key: &str, value: Value) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
}

fn one<R: Clone>(groups: Option<Vec<Group<R>>>) -> R {
    let groups = groups.expect("whole values");
    assert_eq!((groups.len(), groups[0].records.len()), (1, 1));
    let resource = groups[0].resource.resource.as_ref().expect("a resource");
    assert_eq!(resource.attributes[0], key("service.name", Value::StringValue("workflows".to_owned())));
    groups[0].records[0].clone()
}

#[test]
fn a_log_entry_has_severity_body_and_its_place_in_a_trace() {
    for (level, number) in [
        (Level::Trace, 1),
        (Level::Debug, 5),
        (Level::Info, 9),
        (Level::Warn, 13),
        (Level::Error, 17),
        (Level::Fatal, 21),
    ] {
        let record = one(logs(&mut origins(), vec![LogEntry::new(level, "x")]));
        assert_eq!(record.severity_number, number, "{level:?}");
    }
    let entry = LogEntry {
        time: Moment(17),
        observed_time: Some(Moment(18)),
        severity_text: "CRITICAL".to_owned(),
        attributes: Attributes::from([("attempt", 3)]),
        trace_id: Some(crate::query::TraceId([7; 16])),
        span_id: Some(SpanId(vec![8; 8])),
        event_name: "workflow.failed".to_owned(),
        ..LogEntry::new(Level::Fatal, "no answer")
    };
    let record = one(logs(&mut origins(), vec![entry]));
    let expected = LogRecord {
        time_unix_nano: 17,
        observed_time_unix_nano: 18,
        severity_number: 21,
        severity_text: "CRITICAL".to_owned(),
        body: Some(AnyValue { value: Some(Value::StringValue("no answer".to_owned())) }),
        attributes: vec![key("attempt", Value::IntValue(3))],
        trace_id: vec![7; 16],
        span_id: vec![8; 8],
        event_name: "workflow.failed".to_owned(),
        ..LogRecord::default()
    };
    assert_eq!(record, expected);
    let nothing = LogEntry { level: None, ..LogEntry::new(Level::Info, AttributeValue::Null) };
    let record = one(logs(&mut origins(), vec![nothing]));
    assert_eq!((record.severity_number, record.trace_id, record.span_id), (0, Vec::new(), Vec::new()));
}

#[test]
fn a_metric_has_its_type_unit_and_labels() {
    let labels = || Attributes::from([("queue", "night")]);
    let number = |value: Number| NumberPoint { time: Moment(9), start_time: Some(Moment(4)), value, labels: labels() };
    let encode = |points: MetricPoints| {
        let (name, description, unit) = ("n".to_owned(), "d".to_owned(), "s".to_owned());
        let record = one(metrics(&mut origins(), vec![MetricData { origin: None, name, description, unit, points }]));
        assert_eq!((record.name.as_str(), record.description.as_str(), record.unit.as_str()), ("n", "d", "s"));
        record.data.expect("points")
    };
    let metric::Data::Gauge(gauge) = encode(MetricPoints::Gauge(vec![number(Number::Double(0.5))])) else {
        panic!("a gauge")
    };
    let expected = NumberDataPoint {
        attributes: vec![key("queue", Value::StringValue("night".to_owned()))],
        start_time_unix_nano: 4,
        time_unix_nano: 9,
        value: Some(number_data_point::Value::AsDouble(0.5)),
        ..NumberDataPoint::default()
    };
    assert_eq!(gauge.data_points, [expected]);
    for (temporality, told) in [(Temporality::Delta, 1), (Temporality::Cumulative, 2)] {
        for monotonic in [true, false] {
            let points = vec![number(Number::Int(i64::MAX))];
            let metric::Data::Sum(sum) = encode(MetricPoints::Sum { points, temporality, monotonic }) else {
                panic!("a sum")
            };
            assert_eq!((sum.aggregation_temporality, sum.is_monotonic), (told, monotonic));
            assert_eq!(sum.data_points[0].value, Some(number_data_point::Value::AsInt(i64::MAX)));
        }
    }
    let point = HistogramPoint {
        time: Moment(9),
        start_time: None,
        count: 3,
        sum: Some(4.5),
        min: Some(0.5),
        max: None,
        bounds: vec![1.0],
        bucket_counts: vec![1, 2],
        labels: labels(),
    };
    let points = MetricPoints::Histogram { points: vec![point], temporality: Temporality::Delta };
    let metric::Data::Histogram(histogram) = encode(points) else { panic!("a histogram") };
    let point = &histogram.data_points[0];
    assert_eq!((point.count, point.sum, point.min, point.max), (3, Some(4.5), Some(0.5), None));
    assert_eq!(
        (point.start_time_unix_nano, &point.bucket_counts, &point.explicit_bounds),
        (0, &vec![1, 2], &vec![1.0])
    );
}

#[test]
fn exponential_histograms_and_summaries_are_written_as_they_are() {
    let encode = |points: MetricPoints| {
        let data = MetricData { points, ..MetricData::gauge("n", 0.0, [("a", 1)]) };
        assert_eq!(data.points.len(), 1);
        let text = serde_json::to_string(&data).expect("JSON");
        assert_eq!(serde_json::from_str::<MetricData>(&text).expect("the same"), data);
        one(metrics(&mut origins(), vec![data])).data.expect("points")
    };
    let point = ExponentialHistogramPoint {
        time: Moment(9),
        start_time: Some(Moment(4)),
        count: 6,
        sum: Some(1.5),
        min: None,
        max: Some(8.0),
        scale: -3,
        zero_count: 1,
        zero_threshold: 0.25,
        positive: ExponentialBuckets { offset: -2, bucket_counts: vec![1, 2] },
        negative: ExponentialBuckets { offset: 7, bucket_counts: vec![2] },
        labels: Attributes::from([("queue", "night")]),
    };
    let points = MetricPoints::ExponentialHistogram { points: vec![point], temporality: Temporality::Delta };
    let metric::Data::ExponentialHistogram(histogram) = encode(points) else { panic!("an exponential histogram") };
    let expected = ExponentialHistogramDataPoint {
        attributes: vec![key("queue", Value::StringValue("night".to_owned()))],
        start_time_unix_nano: 4,
        time_unix_nano: 9,
        count: 6,
        sum: Some(1.5),
        max: Some(8.0),
        scale: -3,
        zero_count: 1,
        zero_threshold: 0.25,
        positive: Some(Buckets { offset: -2, bucket_counts: vec![1, 2] }),
        negative: Some(Buckets { offset: 7, bucket_counts: vec![2] }),
        ..ExponentialHistogramDataPoint::default()
    };
    assert_eq!((histogram.aggregation_temporality, histogram.data_points), (1, vec![expected]));

    let quantiles = vec![(0.5, 1.25), (0.99, 4.0)];
    let (time, labels) = (Moment(9), Attributes::default());
    let point = SummaryPoint { time, start_time: None, count: 3, sum: 7.5, quantiles, labels };
    let metric::Data::Summary(summary) = encode(MetricPoints::Summary(vec![point])) else { panic!("a summary") };
    let at = |quantile, value| ValueAtQuantile { quantile, value };
    let expected = SummaryDataPoint {
        time_unix_nano: 9,
        count: 3,
        sum: 7.5,
        quantile_values: vec![at(0.5, 1.25), at(0.99, 4.0)],
        ..SummaryDataPoint::default()
    };
    assert_eq!(summary.data_points, [expected]);
}

#[test]
fn metrics_name_the_process_unless_their_origin_does() {
    let instance = |origin: Origin| {
        let mut origins = Origins::new(Usual::of(&origin).expect("whole values"));
        let groups = metrics(&mut origins, vec![MetricData::gauge("n", 1.0, [("a", 1)])]).expect("whole values");
        let spans = spans(&mut origins, vec![TraceData::default()]).expect("whole values");
        let ids = |resource: &ResourceEnvelope| {
            let attributes = &resource.resource.as_ref().expect("a resource").attributes;
            attributes.iter().filter(|attribute| attribute.key == INSTANCE_ID).cloned().collect::<Vec<_>>()
        };
        (ids(&groups[0].resource), ids(&spans[0].resource))
    };
    let (of_metrics, of_spans) = instance(Origin::service("workflows"));
    assert_eq!((of_metrics.len(), of_spans.len()), (1, 0));
    let mut named = Origin::service("workflows");
    named.resource.insert(INSTANCE_ID, "one");
    let own = vec![key(INSTANCE_ID, Value::StringValue("one".to_owned()))];
    assert_eq!(instance(named), (own.clone(), own));
}

#[test]
fn no_two_counted_points_are_equal() {
    let points: std::collections::BTreeSet<Moment> = (0..1000)
        .map(|_| match MetricData::counter("n", 1, [("a", 1)]).points {
            MetricPoints::Sum { points, .. } => points[0].time,
            other => panic!("a sum, not {other:?}"),
        })
        .collect();
    assert_eq!(points.len(), 1000);
}

#[test]
fn a_value_that_was_cut_is_not_written() {
    let cut = || AttributeValue::Cut { start: "a".to_owned(), kind: "string", length: 9 };
    let mut entry = LogEntry::new(Level::Info, "x");
    entry.attributes.insert("long", cut());
    assert!(logs(&mut origins(), vec![entry]).is_none());
    let metric = MetricData::gauge("n", 1.0, [("long", cut())]);
    assert!(metrics(&mut origins(), vec![metric]).is_none());
}
