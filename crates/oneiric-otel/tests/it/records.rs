//! A trace is read back span by span: as records, as a stream, and as the OTLP that came.

use std::time::Duration;

use futures::TryStreamExt as _;
use oneiric_otel::query::{Detail, LIST_VALUE_BYTES, QueryError, QueryService, SpanId, SpanRecord, TraceId};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::{Event, Link};

use crate::scene::{Scene, failed, span, text, trace_id};

const ZERO: Duration = Duration::ZERO;

fn id(number: u64) -> TraceId {
    TraceId(trace_id(number).try_into().unwrap())
}

fn queries(scene: &Scene) -> QueryService {
    QueryService::new(scene.bench.store.clone(), None)
}

fn rich() -> Span {
    let mut span = failed(span(1, 7, 3, "chat", Duration::from_nanos(1_000_000_001)), "no answer", &[]);
    span.kind = 3;
    span.attributes = vec![
        KeyValue {
            key: "count".to_owned(),
            value: Some(AnyValue { value: Some(Value::IntValue(i64::MAX)) }),
            ..KeyValue::default()
        },
        text("prompt", &"long ".repeat(2000)),
    ];
    span.events = vec![Event {
        time_unix_nano: 5,
        name: "exception".to_owned(),
        attributes: vec![text("exception.type", "Timeout"), text("exception.message", "gave up")],
        ..Event::default()
    }];
    span.links = vec![Link { trace_id: vec![0xab], span_id: vec![1; 8], ..Link::default() }];
    span
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_says_what_the_span_said() {
    let scene = Scene::new().await;
    scene.spans("shop", vec![span(1, 3, 0, "POST /ask", ZERO), rich()]).await;
    let queries = queries(&scene);
    for derived in [false, true] {
        let trace = queries.get_trace(id(1), 10).await.unwrap();
        assert_eq!((trace.spans.len(), trace.spans_cut, trace.overview.is_some()), (2, false, derived));
        let json = serde_json::to_value(&trace).unwrap();
        assert_eq!(json["trace_id"], id(1).to_string());
        let span = &json["spans"][1];
        for (field, expected) in [
            ("span_id", "\"0000000000000007\""),
            ("parent_span_id", "\"0000000000000003\""),
            ("service_name", "\"shop\""),
            ("kind", "\"client\""),
            ("start_time", "\"2026-11-20T12:00:01.000000001Z\""),
            ("duration_ns", "10000000"),
            ("status", r#"{"code":"error","message":"no answer"}"#),
            ("error_type", "\"Timeout\""),
            ("error_message", "\"gave up\""),
        ] {
            assert_eq!(span[field].to_string(), expected, "{field}");
        }
        assert_eq!(json["spans"][0]["parent_span_id"], serde_json::Value::Null);
        assert_eq!(span["attributes"]["count"].to_string(), r#"{"$int":"9223372036854775807"}"#);
        assert_eq!(span["attributes"]["prompt"]["$length"], 10_000);
        assert_eq!(span["attributes"]["prompt"]["$cut"].as_str().unwrap().len(), LIST_VALUE_BYTES);
        assert_eq!(span["events"][0]["time"], "1970-01-01T00:00:00.000000005Z");
        assert_eq!(span["links"][0]["trace_id"], "ab");
        assert_eq!(span["resource"]["attributes"]["service.name"], "shop");
        scene.derive().await;
    }
    let whole = queries.get_span(id(1), &SpanId(7u64.to_be_bytes().to_vec())).await.unwrap();
    assert_eq!(whole.len(), 1);
    assert_eq!(whole[0].attributes.get("prompt").and_then(|value| value.as_str()).map(str::len), Some(10_000));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_trace_is_streamed_in_order_and_cut_where_it_is_asked_for_whole() {
    let scene = Scene::new().await;
    let spans: Vec<Span> =
        (1..=2000).map(|number| span(1, number, number / 2, "step", Duration::from_micros(number / 3))).collect();
    let (of_shop, of_cart) = spans.split_at(1200);
    scene.spans("shop", of_shop.to_vec()).await;
    scene.spans("cart", of_cart.to_vec()).await;
    scene.derive().await;
    let queries = queries(&scene);
    let streamed: Vec<SpanRecord> =
        queries.stream_trace(id(1), Detail::List).await.unwrap().try_collect().await.unwrap();
    assert_eq!(streamed.len(), 2000);
    assert!(
        streamed.windows(2).all(|pair| (pair[0].start_time, &pair[0].span_id) < (pair[1].start_time, &pair[1].span_id))
    );
    let some = queries.get_trace(id(1), 700).await.unwrap();
    assert!(some.spans_cut && some.spans == streamed[..700]);
    let all = queries.get_trace(id(1), 2000).await.unwrap();
    assert!(!all.spans_cut && all.spans == streamed);

    // Those that are not read to their end leave the pool as it was.
    for _ in 0..40 {
        let mut stream = queries.stream_trace(id(1), Detail::List).await.unwrap();
        assert!(stream.try_next().await.unwrap().is_some());
    }

    // More at once than there are connections: each needs a second one for a moment.
    let at_once = (0..60).map(|_| {
        let queries = queries.clone();
        tokio::spawn(async move { queries.get_trace(id(1), 2000).await.map(|trace| trace.spans.len()) })
    });
    for read in futures::future::join_all(at_once).await {
        assert_eq!(read.unwrap().unwrap(), 2000);
    }

    let (groups, cut) = queries.get_trace_otlp(id(1)).await.unwrap();
    assert!(!cut);
    assert_eq!(groups.len(), 2);
    let mut read: Vec<Span> = groups.into_iter().flat_map(|group| group.records).collect();
    read.sort_by(|a, b| a.span_id.cmp(&b.span_id));
    assert_eq!(read, spans);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_there_is_said() {
    let scene = Scene::new().await;
    scene.spans("shop", vec![span(1, 3, 0, "POST /ask", ZERO), span(1, 3, 0, "another with its id", ZERO)]).await;
    let queries = queries(&scene);
    let span_id = |number: u64| SpanId(number.to_be_bytes().to_vec());
    assert_eq!(queries.get_span(id(1), &span_id(3)).await.unwrap().len(), 2);
    for error in [
        queries.get_trace(id(2), 10).await.expect_err("unknown"),
        queries.stream_trace(id(2), Detail::Whole).await.err().expect("unknown"),
        queries.get_trace_otlp(id(2)).await.expect_err("unknown"),
        queries.get_span(id(1), &span_id(4)).await.expect_err("unknown"),
        queries.get_span(id(2), &span_id(3)).await.expect_err("unknown"),
    ] {
        assert!(matches!(error, QueryError::NotFound { .. }), "{error}");
    }
    for limit in [0, 100_001] {
        let error = queries.get_trace(id(1), limit).await.expect_err("a wrong limit");
        assert_eq!(error.to_string(), "limit: expected a number from 1 to 100000");
    }
}
