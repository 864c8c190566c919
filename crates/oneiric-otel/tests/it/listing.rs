//! Traces are listed by every filter, in every order, in pages that fit together.

use std::time::Duration;

use jiff::Timestamp;
use oneiric_otel::otlp::{Group, ResourceEnvelope, Signal, protobuf};
use oneiric_otel::query::{
    AttributeFilter, QueryError, QueryService, SearchRequest, TraceFilter, TraceOrder, TracePage, TracesRequest,
};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, ArrayValue, KeyValue};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::Span;

use crate::scene::{NOON, Scene, failed, span, text};

const ZERO: Duration = Duration::ZERO;

fn with(mut span: Span, attributes: Vec<KeyValue>) -> Span {
    span.attributes = attributes;
    span
}

fn typed(key: &str, value: Value) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
}

fn request(filter: TraceFilter) -> TracesRequest {
    TracesRequest::new(filter, 100)
}

fn by(attributes: &[&str]) -> TraceFilter {
    let attributes = attributes.iter().map(|text| text.parse::<AttributeFilter>().unwrap()).collect();
    TraceFilter { attributes, ..TraceFilter::default() }
}

fn names(page: &TracePage) -> Vec<&str> {
    let mut names: Vec<&str> = page.traces.iter().map(|trace| trace.root_name.as_str()).collect();
    names.sort_unstable();
    names
}

fn queries(scene: &Scene) -> QueryService {
    QueryService::new(scene.bench.store.clone(), None)
}

/// Eight traces whose roots are `a` to `h`.
async fn letters() -> Scene {
    let scene = Scene::new().await;
    let many = |words: &[&str]| {
        let value = |word: &&str| AnyValue { value: Some(Value::StringValue((*word).to_owned())) };
        Value::ArrayValue(ArrayValue { values: words.iter().map(value).collect() })
    };
    let spans = vec![
        with(span(1, 1, 0, "a", ZERO), vec![typed("http.status_code", Value::IntValue(200))]),
        with(span(2, 1, 0, "b", ZERO), vec![text("http.response.status_code", "200")]),
        with(span(3, 1, 0, "c", ZERO), vec![typed("http.response.status_code", Value::DoubleValue(200.0))]),
        with(span(4, 1, 0, "d", ZERO), vec![typed("http.response.status_code", Value::IntValue(503))]),
        with(span(5, 1, 0, "e", ZERO), vec![text("host", "DB-7.internal"), typed("cached", Value::BoolValue(true))]),
        with(span(6, 1, 0, "f", ZERO), vec![typed("tags", many(&["red", "green"])), text("size", "12")]),
        // Two filters, met by two spans.
        with(span(7, 1, 0, "g", ZERO), vec![text("http.route", "/pay")]),
        with(span(7, 2, 1, "g2", ZERO), vec![text("db.system", "redis"), typed("size", Value::DoubleValue(12.5))]),
    ];
    scene.spans("shop", spans).await;
    let attributes =
        vec![text("service.name", "billing"), text("deployment.environment", "prod"), text("host", "db-8")];
    let resource =
        ResourceEnvelope { resource: Some(Resource { attributes, ..Resource::default() }), ..Default::default() };
    let billing = Group { resource: resource.into(), scope: <_>::default(), records: vec![span(8, 1, 0, "h", ZERO)] };
    scene.bench.send(Signal::Traces, protobuf::encode(&[billing])).await.unwrap();
    scene.derive().await;
    scene
}

#[tokio::test(flavor = "multi_thread")]
async fn attributes_are_found_by_any_name_and_type() {
    let scene = letters().await;
    let queries = queries(&scene);
    let check = async |filters: &[&str], expected: &str| {
        let page = queries.find_traces(&request(by(filters))).await.unwrap();
        assert_eq!(names(&page).concat(), expected, "{filters:?}");
    };
    for round in 0..2 {
        check(&["http.response.status_code=200"], "abc").await;
        check(&["http.status_code=200.0"], "abc").await;
        check(&["http.status_code!=200"], "d").await;
        check(&["http.status_code>=500"], "d").await;
        check(&["http.status_code<500"], "abc").await;
        check(&["http.status_code"], "abcd").await;
        check(&["cached=True"], "e").await;
        check(&["tags=green"], "f").await;
        check(&["tags=blue"], "").await;
        check(&["tags!=blue"], "f").await;
        check(&["size=12"], "f").await;
        check(&["size>=12"], "fg").await;
        check(&["size>12"], "g").await;
        check(&["host>5"], "").await;
        check(&["host~db-"], "eh").await;
        check(&["host~db__"], "h").await;
        check(&["host~%.INTERNAL"], "e").await;
        check(&[r"host~db\_8"], "").await;
        check(&["deployment.environment.name=prod"], "h").await;
        check(&["db.system.name=redis", "http.route=/pay"], "g").await;
        check(&["db.system.name=redis", "http.route=/other"], "").await;
        if round == 0 {
            // The same with the index that a partition may have.
            let sql = "CREATE INDEX ON otel_spans USING gin (attributes jsonb_path_ops); ANALYZE otel_spans";
            scene.bench.test.client().await.batch_execute(sql).await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn numbers_are_compared_however_many_digits_they_have() {
    let scene = Scene::new().await;
    let sized = |number, name: &str, value| with(span(number, 1, 0, name, ZERO), vec![typed("size", value)]);
    let digits = |count: usize| Value::StringValue("7".repeat(count));
    let spans = vec![
        sized(1, "a", Value::DoubleValue(1e50)),
        sized(2, "b", digits(60)),
        sized(3, "c", Value::DoubleValue(-1e300)),
        sized(4, "d", Value::DoubleValue(1.0 / 3e60)),
        sized(5, "e", Value::StringValue(format!("{}x", "7".repeat(60)))),
        // No number anybody counts with: what PostgreSQL would not read must not end the question.
        sized(6, "f", digits(200_000)),
        sized(7, "g", Value::StringValue("1e999999999".to_owned())),
    ];
    scene.spans("shop", spans).await;
    scene.derive().await;
    for (filter, expected) in [("size>1e49", "ab"), ("size<-1e299", "c"), ("size<1", "cd"), ("size>=7e59", "b")] {
        let page = queries(&scene).find_traces(&request(by(&[filter]))).await.unwrap();
        assert_eq!(names(&page).concat(), expected, "{filter}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn descriptions_are_narrowed_by_attributes_too() {
    let scene = letters().await;
    let ask = SearchRequest { text: "shop".to_owned(), limit: 10, filter: by(&["http.status_code=503"]) };
    let answer = queries(&scene).search_traces(&ask).await.unwrap();
    assert_eq!(answer.hits.iter().map(|hit| hit.newest.root_name.as_str()).collect::<Vec<_>>(), ["d"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_order_is_paged_without_gap_or_repetition() {
    let scene = Scene::new().await;
    let lasting = |trace: u64, at: u64, ms: u64| {
        let mut span = span(trace, 1, 0, "run", Duration::from_nanos(at));
        span.end_time_unix_nano = span.start_time_unix_nano + ms * 1_000_000;
        span
    };
    // Many that began in one microsecond, and many that took equally long.
    let spans = (0..60).map(|trace| lasting(trace, trace / 3 * 400, trace % 4)).collect();
    scene.spans("shop", spans).await;
    scene.derive().await;
    let queries = queries(&scene);
    let noon = Timestamp::from_nanosecond(i128::from(NOON)).unwrap();
    for order in [TraceOrder::Newest, TraceOrder::Oldest, TraceOrder::Longest] {
        let filter = TraceFilter { since: Some(noon), ..TraceFilter::default() };
        let mut request = TracesRequest { filter, order, limit: 7, cursor: None };
        let mut seen = Vec::new();
        loop {
            let page = queries.find_traces(&request).await.unwrap();
            seen.extend(page.traces.iter().map(|trace| (trace.start_time, trace.duration_ns, trace.trace_id)));
            request.cursor = page.next;
            if request.cursor.is_none() {
                break;
            }
            assert_eq!(page.traces.len(), 7);
            // What comes meanwhile is newer than all that was listed newest first, and moves nothing.
            scene.spans("shop", vec![lasting(1000 + seen.len() as u64, 10_000_000, 0)]).await;
        }
        let known: Vec<_> = seen.iter().filter(|(.., id)| id.0[14] < 3).copied().collect();
        assert_eq!(known.len(), 60, "{order:?}");
        let sorted = match order {
            TraceOrder::Newest => seen.windows(2).all(|pair| (pair[0].0, pair[0].2) > (pair[1].0, pair[1].2)),
            TraceOrder::Oldest => seen.windows(2).all(|pair| (pair[0].0, pair[0].2) < (pair[1].0, pair[1].2)),
            TraceOrder::Longest => seen.windows(2).all(|pair| (pair[0].1, pair[0].2) > (pair[1].1, pair[1].2)),
        };
        assert!(sorted, "{order:?}: {seen:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_is_refused_by_name() {
    let scene = Scene::new().await;
    scene.spans("checkout", vec![failed(span(1, 1, 0, "pay", ZERO), "no", &[]), span(2, 1, 0, "pay", ZERO)]).await;
    scene.spans("cart", vec![span(3, 1, 0, "add", ZERO)]).await;
    scene.derive().await;
    let queries = queries(&scene);
    let refused = async |request: TracesRequest| queries.find_traces(&request).await.expect_err("wrong").to_string();

    let noon = Timestamp::from_nanosecond(i128::from(NOON)).unwrap();
    let backwards =
        TraceFilter { since: Some(noon), until: Some(noon - Duration::from_secs(1)), ..TraceFilter::default() };
    assert_eq!(refused(request(backwards)).await, "until: expected a time after since");

    let unknown = TraceFilter { service: Some("chekout".to_owned()), ..TraceFilter::default() };
    let error = queries.find_traces(&request(unknown)).await.expect_err("unknown");
    assert_eq!(error.to_string(), "service: \"chekout\" is not known; there is checkout, cart");
    assert!(matches!(&error, QueryError::Unknown { near, .. } if near.len() == 2), "{error:?}");

    let longest = TracesRequest { order: TraceOrder::Longest, ..request(TraceFilter::default()) };
    assert!(refused(longest).await.starts_with("since: expected a time"));

    let first = TracesRequest { limit: 1, ..request(TraceFilter::default()) };
    let cursor = queries.find_traces(&first).await.unwrap().next;
    assert!(cursor.is_some());
    let failing = TraceFilter { status: Some("error".to_owned()), ..TraceFilter::default() };
    for (filter, order) in [(failing, TraceOrder::Newest), (TraceFilter::default(), TraceOrder::Oldest)] {
        let of_another = TracesRequest { filter, order, limit: 1, cursor: cursor.clone() };
        assert!(refused(of_another).await.starts_with("cursor: expected the next of a page"));
    }
    let garbage = TracesRequest { cursor: Some("garbage".to_owned()), ..first };
    assert!(refused(garbage).await.starts_with("cursor: expected"));
}
