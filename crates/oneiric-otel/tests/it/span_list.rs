//! Spans across traces are listed by what is known of them, in pages that fit together.

use std::time::Duration;

use jiff::SignedDuration;
use oneiric_otel::query::{QueryError, QueryService, SpanFilter, SpanPage, SpansRequest, TimeRange};
use opentelemetry_proto::tonic::trace::v1::Span;

use crate::catalogue::{hour, noon};
use crate::scene::{Scene, failed, span, text};

fn ask(filter: SpanFilter) -> SpansRequest {
    SpansRequest { filter, range: hour(), limit: 100, cursor: None }
}

fn names(page: &SpanPage) -> Vec<&str> {
    page.spans.iter().filter_map(|span| span.name.as_str()).collect()
}

async fn scene() -> Scene {
    let scene = Scene::new().await;
    let at = Duration::from_secs;
    let slow = |span: Span| Span { end_time_unix_nano: span.start_time_unix_nano + 2_000_000_000, ..span };
    let to_redis = |mut span: Span| {
        span.attributes.push(text("db.system", "redis"));
        span
    };
    let shop = vec![
        span(1, 1, 0, "GET /", at(1)),
        slow(span(1, 2, 1, "render", at(2))),
        span(2, 1, 0, "GET /", at(5)),
        to_redis(span(2, 2, 1, "GET key", at(6))),
    ];
    scene.spans("shop", shop).await;
    scene
        .spans("bank", vec![failed(span(1, 3, 1, "debit", at(3)), "refused", &[]), span(2, 3, 1, "debit", at(7))])
        .await;
    // A name that rows have the beginning of, and one before the time that is asked about.
    scene.spans(&"long".repeat(100), vec![span(3, 1, 0, "odd", at(4))]).await;
    let yesterday = span(4, 1, 0, "earlier", Duration::ZERO);
    let start = yesterday.start_time_unix_nano - 86_400_000_000_000;
    scene.spans("shop", vec![Span { start_time_unix_nano: start, end_time_unix_nano: start, ..yesterday }]).await;
    scene
}

fn queries(scene: &Scene) -> QueryService {
    QueryService::new(scene.bench.store.clone(), None)
}

#[tokio::test(flavor = "multi_thread")]
async fn spans_are_found_by_what_is_known_of_them_before_their_trace_is_derived() {
    let scene = scene().await;
    let queries = queries(&scene);
    let some = |text: &str| Some(text.to_owned());
    let none = SpanFilter::default;
    for (filter, expected) in [
        (none(), &["debit", "GET key", "GET /", "odd", "debit", "render", "GET /"][..]),
        (SpanFilter { service: some("shop"), ..none() }, &["GET key", "GET /", "render", "GET /"]),
        (SpanFilter { service: Some("long".repeat(100)), ..none() }, &["odd"]),
        (SpanFilter { operation: some("debit"), ..none() }, &["debit", "debit"]),
        (SpanFilter { status: some("error"), ..none() }, &["debit"]),
        (SpanFilter { min_duration: Some(Duration::from_secs(1)), ..none() }, &["render"]),
        (
            SpanFilter { max_duration: Some(Duration::from_secs(1)), service: some("shop"), ..none() },
            &["GET key", "GET /", "GET /"],
        ),
        (SpanFilter { attributes: vec!["db.system.name=redis".parse().unwrap()], ..none() }, &["GET key"]),
        (SpanFilter { attributes: vec!["service.name=bank".parse().unwrap()], ..none() }, &["debit", "debit"]),
        (SpanFilter { operation: some("nothing"), ..none() }, &[]),
    ] {
        let page = queries.find_spans(&ask(filter.clone())).await.unwrap();
        assert_eq!((names(&page).as_slice(), &page.next), (expected, &None), "{filter:?}");
    }
    let page = queries.find_spans(&ask(SpanFilter { status: some("error"), ..none() })).await.unwrap();
    assert_eq!((page.spans[0].service_name.as_str(), page.spans[0].status.code.as_str()), ("bank", "error"));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_span_is_in_one_page_also_where_many_begin_at_once() {
    let scene = scene().await;
    // One start, three traces, two spans of one id.
    for trace in 5..8 {
        let twin = span(trace, 1, 0, "twin", Duration::from_secs(9));
        let other = Span { end_time_unix_nano: twin.end_time_unix_nano + 1, ..twin.clone() };
        scene.spans("shop", vec![twin, other]).await;
    }
    let queries = queries(&scene);
    let all = queries.find_spans(&ask(SpanFilter::default())).await.unwrap().spans;
    assert_eq!(all.len(), 13);
    for limit in [1, 4] {
        let mut request = SpansRequest { limit, ..ask(SpanFilter::default()) };
        let mut seen = Vec::new();
        loop {
            let page = queries.find_spans(&request).await.unwrap();
            assert!(page.spans.len() <= limit);
            seen.extend(page.spans);
            let Some(next) = page.next else { break };
            // "Until now" is another time on every page.
            let range = TimeRange::new(noon(), noon() + SignedDuration::from_secs(1)).unwrap();
            request = SpansRequest { cursor: Some(next), range, ..request };
        }
        assert_eq!(seen, all, "{limit} at a time");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn questions_about_spans_that_cannot_be_answered_are_named() {
    let scene = scene().await;
    let queries = queries(&scene);
    let first = queries.find_spans(&SpansRequest { limit: 1, ..ask(SpanFilter::default()) }).await.unwrap();
    let some = |text: &str| Some(text.to_owned());
    let of = |filter| ask(filter);
    for (request, expected) in [
        (SpansRequest { limit: 0, ..ask(SpanFilter::default()) }, "limit: expected a number from 1 to 1000"),
        (of(SpanFilter { status: some("bad"), ..SpanFilter::default() }), "status: expected error, ok or unset"),
        (of(SpanFilter { operation: some("a\0"), ..SpanFilter::default() }), "operation: expected a name"),
        (
            of(SpanFilter { service: some("shoop"), ..SpanFilter::default() }),
            "service: \"shoop\" is not known; there is shop",
        ),
        (
            SpansRequest { cursor: first.next, ..of(SpanFilter { service: some("shop"), ..SpanFilter::default() }) },
            "cursor: expected",
        ),
    ] {
        let error: QueryError = queries.find_spans(&request).await.expect_err("wrong");
        assert!(error.to_string().starts_with(expected), "{error}");
    }
}
