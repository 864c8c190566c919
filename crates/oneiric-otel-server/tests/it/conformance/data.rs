//! D1 to D5.
#![expect(clippy::unnecessary_wraps, reason = "the fields of the messages are optional")]

use oneiric_otel::otlp::Signal;
use oneiric_otel::store::Database;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, ArrayValue, EntityRef, KeyValueList};
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use opentelemetry_proto::tonic::metrics::v1::{
    Exemplar, ExponentialHistogram, ExponentialHistogramDataPoint, Gauge, Histogram, HistogramDataPoint, Metric,
    NumberDataPoint, Sum, Summary, SummaryDataPoint, exemplar, exponential_histogram_data_point, metric,
    number_data_point, summary_data_point,
};
use opentelemetry_proto::tonic::trace::v1::{Span, Status, span};
use prost::Message;

use super::Case;
use crate::messages::{self, NOON, attribute, text};
use crate::wire::{self, PROTOBUF};

/// Sends over both protocols, in turn, and tells what was rejected.
async fn send(case: &Case, signal: Signal, request: &impl Message) -> Option<(i64, String)> {
    let body = request.encode_to_vec();
    let answer = wire::call(case.server.grpc, wire::method(signal), None, wire::frame(0, &body)).await;
    assert_eq!(answer.code, 0, "{answer:?}");
    let reply = wire::send(case.server.http, wire::post(wire::path(signal), PROTOBUF, body)).await;
    assert_eq!((reply.status, &reply.body), (200, &answer.body), "the same answer to the same request");
    wire::partial_success(signal, &answer.body)
}

pub(super) async fn d1(case: Case) {
    let good = messages::span(case.service, 0);
    let wrong = |trace_id: Vec<u8>, span_id: Vec<u8>| Span { trace_id, span_id, ..good.clone() };
    let spans = vec![
        wrong(vec![0; 16], vec![1; 8]),
        wrong(vec![1; 15], vec![1; 8]),
        good.clone(),
        wrong(vec![1; 17], vec![1; 8]),
        wrong(Vec::new(), vec![1; 8]),
        wrong(vec![1; 16], vec![0; 8]),
        wrong(vec![1; 16], vec![1; 7]),
        Span { parent_span_id: vec![1, 2, 3], ..messages::span(case.service, 1) },
    ];
    let (rejected, reason) = send(&case, Signal::Traces, &messages::traces(case.service, spans)).await.unwrap();
    assert_eq!(rejected, 6, "{reason}");
    assert!(reason.contains("traceId") && reason.contains("15 bytes"), "{reason}");
    assert_eq!(case.stored(Signal::Traces).await, 2, "an odd parent is kept");

    let logs = vec![
        LogRecord { trace_id: vec![0; 16], span_id: vec![0; 8], ..messages::log(0) },
        LogRecord { trace_id: vec![1; 15], span_id: vec![2; 9], ..messages::log(1) },
        LogRecord { trace_id: vec![1; 16], span_id: vec![2; 8], ..messages::log(2) },
    ];
    assert_eq!(send(&case, Signal::Logs, &messages::logs(case.service, logs)).await, None);
    assert_eq!(case.stored(Signal::Logs).await, 3);
    assert_eq!(case.stored_where("otel_logs", "trace_id is null").await, 2);
}

pub(super) async fn d2(case: Case) {
    let logs = vec![
        LogRecord { observed_time_unix_nano: NOON + 2_000_000_000, ..messages::log(0) },
        LogRecord {
            time_unix_nano: 0,
            observed_time_unix_nano: NOON + 1_000_000_000,
            event_name: "payment.failed".to_owned(),
            severity_number: 9,
            severity_text: "Information".to_owned(),
            ..LogRecord::default()
        },
    ];
    assert_eq!(send(&case, Signal::Logs, &messages::logs(case.service, logs)).await, None);
    assert_eq!(case.stored_where("otel_logs", "time = '2026-11-20T12:00:00Z' and severity_number = 0").await, 1);
    let observed = "time = '2026-11-20T12:00:01Z' and time_is_observed and event_name = 'payment.failed'
                    and severity_number = 9 and severity_text = 'Information'";
    assert_eq!(case.stored_where("otel_logs", observed).await, 1);
}

pub(super) async fn d3(case: Case) {
    let backwards = Span { end_time_unix_nano: NOON - 5, ..messages::span(case.service, 0) };
    let unended = Span { end_time_unix_nano: 0, ..messages::span(case.service, 1) };
    let request = messages::traces(case.service, vec![backwards.clone(), unended.clone()]);
    assert_eq!(send(&case, Signal::Traces, &request).await, None);
    assert_eq!(case.stored_where("otel_spans", "duration_ns = -5").await, 1);
    assert_eq!(read_spans(&case, &backwards.trace_id).await, [backwards, unended]);
}

async fn read_spans(case: &Case, trace_id: &[u8]) -> Vec<Span> {
    let database = Database::new(case.server.test().url()).unwrap();
    let stored = database.trace_spans(trace_id.try_into().unwrap()).await.unwrap();
    stored.into_iter().map(|stored| stored.record).collect()
}

fn value(value: Value) -> Option<AnyValue> {
    Some(AnyValue { value: Some(value) })
}

pub(super) async fn d4(case: Case) {
    let attributes = vec![
        attribute("double", value(Value::DoubleValue(-0.0))),
        attribute("int", value(Value::IntValue(i64::MIN))),
        attribute("bytes", value(Value::BytesValue(vec![0, 255]))),
        attribute("nul", text("a\0b")),
        attribute("empty", Some(AnyValue { value: None })),
        attribute("absent", None),
        attribute("array", value(Value::ArrayValue(ArrayValue { values: vec![AnyValue { value: None }] }))),
        attribute("map", value(Value::KvlistValue(KeyValueList { values: vec![attribute("k", text("v"))] }))),
    ];
    let full = Span {
        trace_state: "vendor=1".to_owned(),
        parent_span_id: vec![9; 8],
        flags: 0x301,
        kind: 99,
        attributes: attributes.clone(),
        dropped_attributes_count: 1,
        events: vec![span::Event {
            time_unix_nano: NOON + 123,
            name: "exception".to_owned(),
            attributes: attributes.clone(),
            dropped_attributes_count: 2,
        }],
        dropped_events_count: 3,
        links: vec![span::Link {
            trace_id: vec![7; 16],
            span_id: vec![8; 8],
            trace_state: "other=2".to_owned(),
            attributes: attributes.clone(),
            dropped_attributes_count: 4,
            flags: 5,
        }],
        dropped_links_count: 6,
        status: Some(Status { message: "no".to_owned(), code: 2 }),
        ..messages::span(case.service, 0)
    };
    let mut request = messages::traces(case.service, vec![full.clone()]);
    let group = &mut request.resource_spans[0];
    "https://example.test/resource".clone_into(&mut group.schema_url);
    "https://example.test/scope".clone_into(&mut group.scope_spans[0].schema_url);
    let resource = group.resource.as_mut().unwrap();
    resource.attributes.extend(attributes.clone());
    resource.dropped_attributes_count = 7;
    resource.entity_refs = vec![EntityRef {
        schema_url: "https://example.test/entity".to_owned(),
        r#type: "service".to_owned(),
        id_keys: vec!["service.name".to_owned()],
        description_keys: vec!["service.version".to_owned()],
    }];
    let scope = group.scope_spans[0].scope.as_mut().unwrap();
    scope.attributes = attributes;
    scope.dropped_attributes_count = 8;

    assert_eq!(send(&case, Signal::Traces, &request).await, None);
    let database = Database::new(case.server.test().url()).unwrap();
    let stored = database.trace_spans(full.trace_id.clone().try_into().unwrap()).await.unwrap();
    assert_eq!(stored.len(), 1);
    let group = &request.resource_spans[0];
    // Debug shows -0.0, which equality does not tell from 0.0.
    assert_eq!(format!("{:?}", stored[0].record), format!("{full:?}"));
    assert_eq!(stored[0].resource.resource, group.resource);
    assert_eq!(stored[0].resource.schema_url, group.schema_url);
    assert_eq!(stored[0].scope.scope, group.scope_spans[0].scope);
    assert_eq!(stored[0].scope.schema_url, group.scope_spans[0].schema_url);
}

fn number(number: u64, value: number_data_point::Value) -> NumberDataPoint {
    NumberDataPoint {
        attributes: vec![attribute("queue", text("q"))],
        start_time_unix_nano: NOON - 60_000_000_000,
        time_unix_nano: NOON + number,
        exemplars: vec![exemplar()],
        value: Some(value),
        ..NumberDataPoint::default()
    }
}

fn exemplar() -> Exemplar {
    Exemplar {
        filtered_attributes: vec![attribute("user", text("u"))],
        time_unix_nano: NOON,
        span_id: vec![1; 8],
        trace_id: vec![2; 16],
        value: Some(exemplar::Value::AsDouble(0.25)),
    }
}

fn metric(name: &str, data: metric::Data) -> Metric {
    Metric {
        name: name.to_owned(),
        unit: "s".to_owned(),
        description: "d".to_owned(),
        data: Some(data),
        ..Metric::default()
    }
}

pub(super) async fn d5(case: Case) {
    let histogram_point = HistogramDataPoint {
        time_unix_nano: NOON,
        count: 3,
        sum: Some(4.5),
        bucket_counts: vec![1, 2],
        explicit_bounds: vec![1.0],
        exemplars: vec![exemplar()],
        min: Some(0.5),
        max: Some(2.0),
        ..HistogramDataPoint::default()
    };
    let exponential_point = ExponentialHistogramDataPoint {
        time_unix_nano: NOON,
        count: 5,
        sum: Some(-1.0),
        scale: -3,
        zero_count: 1,
        positive: Some(exponential_histogram_data_point::Buckets { offset: -2, bucket_counts: vec![1, 2] }),
        negative: Some(exponential_histogram_data_point::Buckets { offset: 4, bucket_counts: vec![1] }),
        zero_threshold: 0.125,
        exemplars: vec![exemplar()],
        ..ExponentialHistogramDataPoint::default()
    };
    let summary_point = SummaryDataPoint {
        time_unix_nano: NOON,
        count: 2,
        sum: 7.0,
        quantile_values: vec![summary_data_point::ValueAtQuantile { quantile: 0.5, value: 3.5 }],
        ..SummaryDataPoint::default()
    };
    let (delta, cumulative) = (1, 2);
    let sent = vec![
        metric(
            "gauge",
            metric::Data::Gauge(Gauge { data_points: vec![number(0, number_data_point::Value::AsDouble(1.5))] }),
        ),
        metric(
            "sum",
            metric::Data::Sum(Sum {
                data_points: vec![number(1, number_data_point::Value::AsInt(-7))],
                aggregation_temporality: cumulative,
                is_monotonic: true,
            }),
        ),
        metric(
            "sum.delta",
            metric::Data::Sum(Sum {
                data_points: vec![number(2, number_data_point::Value::AsInt(7))],
                aggregation_temporality: delta,
                is_monotonic: false,
            }),
        ),
        metric(
            "histogram",
            metric::Data::Histogram(Histogram { data_points: vec![histogram_point], aggregation_temporality: delta }),
        ),
        metric(
            "exponential",
            metric::Data::ExponentialHistogram(ExponentialHistogram {
                data_points: vec![exponential_point],
                aggregation_temporality: cumulative,
            }),
        ),
        metric("summary", metric::Data::Summary(Summary { data_points: vec![summary_point] })),
    ];
    assert_eq!(send(&case, Signal::Metrics, &messages::metrics(case.service, sent.clone())).await, None);
    let database = Database::new(case.server.test().url()).unwrap();
    let mut stored: Vec<Metric> =
        database.all_points().await.unwrap().into_iter().map(|stored| stored.record).collect();
    let mut expected = sent;
    stored.sort_by(|left, right| left.name.cmp(&right.name));
    expected.sort_by(|left, right| left.name.cmp(&right.name));
    assert_eq!(stored, expected);
    for (kind, rows) in [("gauge", 1), ("sum", 2), ("histogram", 1), ("exponential_histogram", 1), ("summary", 1)] {
        let found = format!("metric_type = '{kind}'");
        assert_eq!(case.stored_where(messages::table(Signal::Metrics), &found).await, rows, "{kind}");
    }
    for (temporality, rows) in [("delta", 2), ("cumulative", 2)] {
        let found = format!("temporality = '{temporality}'");
        assert_eq!(case.stored_where(messages::table(Signal::Metrics), &found).await, rows, "{temporality}");
    }
}
