//! All that belongs to a trace comes with it: logs, metrics, where the time went, and how it failed.

use std::time::Duration;

use oneiric_otel::otlp::Signal;
use oneiric_otel::query::{ContextRequest, QueryError, QueryService, TraceId};
use opentelemetry_proto::tonic::metrics::v1::{
    Exemplar, Gauge, Histogram, HistogramDataPoint, Metric, NumberDataPoint, exemplar, metric, number_data_point,
};
use opentelemetry_proto::tonic::trace::v1::Span;

use crate::scene::{NOON, SECOND, Scene, failed, log, of_service, span, trace_id};

const ZERO: Duration = Duration::ZERO;

fn request(number: u64) -> ContextRequest {
    ContextRequest::new(TraceId(trace_id(number).try_into().unwrap()))
}

fn lasting(span: Span, ms: u64) -> Span {
    Span { end_time_unix_nano: span.start_time_unix_nano + ms * 1_000_000, ..span }
}

fn gauge(name: &str, seconds: &[u64]) -> Metric {
    let point = |second: &u64| NumberDataPoint {
        time_unix_nano: NOON + second * SECOND,
        value: Some(number_data_point::Value::AsInt(7)),
        ..NumberDataPoint::default()
    };
    let data_points = seconds.iter().map(point).collect();
    Metric { name: name.to_owned(), data: Some(metric::Data::Gauge(Gauge { data_points })), ..Metric::default() }
}

fn latency(trace: u64) -> Metric {
    let exemplar = Exemplar {
        time_unix_nano: NOON,
        trace_id: trace_id(trace),
        span_id: vec![1; 8],
        value: Some(exemplar::Value::AsDouble(0.1)),
        ..Exemplar::default()
    };
    let point = HistogramDataPoint {
        time_unix_nano: NOON + 30 * SECOND,
        count: 3,
        sum: Some(1.5),
        exemplars: vec![exemplar],
        ..HistogramDataPoint::default()
    };
    let histogram = Histogram { data_points: vec![point], aggregation_temporality: 1 };
    Metric { name: "latency".to_owned(), data: Some(metric::Data::Histogram(histogram)), ..Metric::default() }
}

/// A request to a shop that calls the stock, which fails; and what was logged and measured meanwhile.
async fn scene() -> Scene {
    let scene = Scene::new().await;
    let root = failed(lasting(span(1, 1, 0, "GET /", ZERO), 100), "stock is down", &[]);
    let call = failed(lasting(span(1, 2, 1, "reserve", Duration::from_millis(20)), 60), "refused", &[]);
    scene.spans("shop", vec![root, lasting(span(2, 1, 0, "GET /other", ZERO), 5)]).await;
    scene.spans("stock", vec![call]).await;
    let in_span = |mut log: opentelemetry_proto::tonic::logs::v1::LogRecord| {
        log.span_id = 2u64.to_be_bytes().to_vec();
        log
    };
    let day = Duration::from_hours(24);
    let logs = vec![in_span(log(1, 17, "cannot connect", ZERO)), log(1, 9, "hello", ZERO), log(1, 9, "late", day)];
    scene.logs("stock", logs).await;
    scene.logs("shop", vec![log(3, 9, "of a trace without spans", ZERO)]).await;
    let send = async |service: &str, metrics: Vec<Metric>| {
        scene.bench.send(Signal::Metrics, of_service(service, metrics)).await.unwrap();
    };
    send("shop", vec![gauge("cpu", &[0, 30, 3600]), latency(1), gauge("hours ago", &[7200])]).await;
    send("elsewhere", vec![gauge("cpu", &[0])]).await;
    scene
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trace_comes_with_what_belongs_to_it() {
    let scene = scene().await;
    let queries = QueryService::new(scene.bench.store.clone(), None);
    for derived in [false, true] {
        let context = queries.get_trace_context(&request(1)).await.unwrap();
        assert_eq!((context.overview.is_some(), context.spans.len()), (derived, 2));
        assert_eq!(context.notes, Vec::<String>::new());

        let logs: Vec<&str> = context.logs.iter().filter_map(|log| log.body.as_str()).collect();
        assert_eq!(logs.len(), 2, "{logs:?}");
        let in_span = context.logs.iter().find(|log| log.span_id.is_some()).unwrap();
        assert_eq!(in_span.body.as_str(), Some("cannot connect"));
        assert_eq!((in_span.service_name.as_str(), in_span.severity_number), ("stock", 17));

        let metrics: Vec<(&str, bool, usize)> = context
            .metrics
            .iter()
            .map(|series| (series.metric_name.as_str(), series.has_exemplar, series.points.len()))
            .collect();
        assert_eq!(metrics, [("latency", true, 1), ("cpu", false, 2)]);
        assert_eq!((context.metrics[0].points[0].count, context.metrics[1].points[0].value), (Some(3), Some(7.0)));

        let path = context.critical_path.unwrap();
        let steps: Vec<(&str, u64)> = path.steps.iter().map(|step| (step.name.as_str(), step.self_ns)).collect();
        assert_eq!(steps, [("GET /", 20_000_000), ("reserve", 60_000_000), ("GET /", 20_000_000)]);
        let failure = context.failure.unwrap();
        assert_eq!((failure.first.name.as_str(), failure.cause.name.as_str()), ("reserve", "reserve"));
        assert_eq!(failure.cause.message.as_deref(), Some("refused"));
        assert!(failure.reached_root);
        scene.derive().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_left_out_is_said() {
    let scene = scene().await;
    let queries = QueryService::new(scene.bench.store.clone(), None);
    let little = ContextRequest { spans: 1, logs: 1, series: 1, ..request(1) };
    let context = queries.get_trace_context(&little).await.unwrap();
    assert_eq!((context.spans.len(), context.logs.len(), context.metrics.len()), (1, 1, 1));
    let notes = [
        "only the first 1 of 2 spans are shown",
        "only the first 1 log records are shown",
        "only 1 of 2 metric series are shown",
    ];
    assert_eq!(context.notes, notes);
    assert!(context.failure.is_some() && context.critical_path.is_some(), "of all spans nevertheless");
    let nothing = ContextRequest { spans: 0, logs: 0, series: 0, ..request(1) };
    let context = queries.get_trace_context(&nothing).await.unwrap();
    assert!(
        context.failure.is_some() && context.notes.is_empty(),
        "who asks for none misses none: {:?}",
        context.notes
    );

    let logs_only = queries.get_trace_context(&request(3)).await.unwrap();
    assert_eq!((logs_only.logs.len(), logs_only.spans.len()), (1, 0));
    assert_eq!(logs_only.notes, ["no span of the trace is stored, only log records"]);

    let healthy = queries.get_trace_context(&request(2)).await.unwrap();
    assert!(healthy.failure.is_none() && healthy.logs.is_empty());
    let error = queries.get_trace_context(&request(4)).await.expect_err("unknown");
    assert!(matches!(error, QueryError::NotFound { .. }), "{error}");
    let error = queries.get_trace_context(&ContextRequest { logs: 10_001, ..request(1) }).await.expect_err("too much");
    assert_eq!(error.to_string(), "logs: expected a number from 0 to 10000");
}

#[tokio::test(flavor = "multi_thread")]
async fn series_that_ended_before_are_not_looked_at_and_too_many_are_said() {
    let scene = scene().await;
    let queries = QueryService::new(scene.bench.store.clone(), None);
    let client = scene.bench.test.client().await;
    // More than are looked at, before the others in order, of which nothing came for years.
    client
        .batch_execute(
            "INSERT INTO otel_metric_series (content_hash, resource_id, scope_id, monotonic, service_name, metric_name,
                                             metric_type, temporality, unit, description, attributes, last_seen)
             SELECT gen_random_uuid(), 1, 1, false, 'shop', 'a' || n, 'gauge', '', '', '', '{}', date '2020-01-01'
             FROM generate_series(1, 2100) n",
        )
        .await
        .unwrap();
    let told = async || {
        let context = queries.get_trace_context(&request(1)).await.unwrap();
        (context.metrics.iter().map(|series| series.metric_name.clone()).collect::<Vec<_>>(), context.notes)
    };
    assert_eq!(told().await, (vec!["latency".to_owned(), "cpu".to_owned()], vec![]));
    client.batch_execute("UPDATE otel_metric_series SET last_seen = current_date").await.unwrap();
    let (metrics, notes) = told().await;
    assert_eq!(metrics, ["latency"], "an exemplar leads to its series, whatever its name is");
    assert_eq!(notes, ["only the first 2000 metric series of the trace's services were looked at"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn series_with_an_exemplar_of_the_trace_belong_to_it_whoever_sent_them() {
    let scene = scene().await;
    scene.bench.send(Signal::Metrics, of_service("gateway", vec![latency(2), gauge("cpu", &[0])])).await.unwrap();
    let queries = QueryService::new(scene.bench.store.clone(), None);
    let context = queries.get_trace_context(&request(2)).await.unwrap();
    let metrics: Vec<(&str, &str, bool)> = context
        .metrics
        .iter()
        .map(|series| (series.service_name.as_str(), series.metric_name.as_str(), series.has_exemplar))
        .collect();
    assert_eq!(metrics, [("gateway", "latency", true), ("shop", "cpu", false), ("shop", "latency", false)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_traces_are_compared_by_what_they_did() {
    let scene = scene().await;
    let queries = QueryService::new(scene.bench.store.clone(), None);
    let id = |number: u64| request(number).trace_id;
    let diff = queries.explain_similarity(id(1), id(2)).await.unwrap();
    assert_eq!((diff.a.span_count, diff.a.error_count, diff.b.span_count, diff.b.error_count), (2, 2, 1, 0));
    assert_eq!((diff.services.both, diff.services.only_a), (vec!["shop".to_owned()], vec!["stock".to_owned()]));
    assert!(
        diff.differ.iter().any(|part| part == "errors only in a: shop GET /: stock is down, stock reserve: refused")
    );
    let same = queries.diff_traces(id(1), id(1)).await.unwrap();
    assert!(same.differ.is_empty() && same.agree.len() == 5, "{same:?}");
    for (a, b) in [(1, 4), (4, 1)] {
        let error = queries.diff_traces(id(a), id(b)).await.expect_err("unknown");
        assert!(matches!(error, QueryError::NotFound { .. }), "{error}");
    }
}
