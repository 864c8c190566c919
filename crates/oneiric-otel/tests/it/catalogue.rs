//! What there is is listed as it is: services, operations, and who calls whom.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use oneiric_otel::otlp::Signal;
use oneiric_otel::query::{
    AttributeKeysRequest, AttributeValuesRequest, NodeKind, OperationsRequest, QueryService, TimeRange,
};
use opentelemetry_proto::tonic::trace::v1::Span;

use crate::scene::{NOON, Scene, failed, span, text};

const SERVER: i32 = 2;
const CLIENT: i32 = 3;
const PRODUCER: i32 = 4;
const CONSUMER: i32 = 5;

pub(crate) fn noon() -> Timestamp {
    Timestamp::from_nanosecond(i128::from(NOON)).unwrap()
}

/// The hour from noon.
pub(crate) fn hour() -> TimeRange {
    TimeRange::new(noon(), noon() + SignedDuration::from_hours(1)).unwrap()
}

pub(crate) fn asking(scene: &Scene) -> QueryService {
    QueryService::new(scene.bench.store.clone(), None)
}

fn of_kind(kind: i32, span: Span) -> Span {
    Span { kind, ..span }
}

fn naming(mut span: Span, attributes: &[(&str, &str)]) -> Span {
    span.attributes.extend(attributes.iter().map(|(key, value)| text(key, value)));
    span
}

/// Ten orders: the shop calls payment, which asks a database and a bank, and puts mail into a queue. Every fifth fails.
async fn orders() -> Scene {
    let scene = Scene::new().await;
    for number in 0..10 {
        let at = Duration::from_secs(number);
        let part = |id, parent, kind, name: &str| of_kind(kind, span(number, id, parent, name, at));
        let charge = part(3, 2, SERVER, "charge");
        let charge = if number % 5 == 0 { failed(charge, "card declined", &[]) } else { charge };
        scene.spans("shop", vec![part(1, 0, SERVER, "POST /order"), part(2, 1, CLIENT, "charge")]).await;
        scene
            .spans(
                "payment",
                vec![
                    charge,
                    naming(part(4, 3, CLIENT, "SELECT"), &[("db.system", "postgresql"), ("db.name", "cards")]),
                    naming(part(5, 3, CLIENT, "POST"), &[("server.address", "bank.example")]),
                    naming(
                        part(6, 3, PRODUCER, "send"),
                        &[("messaging.system", "kafka"), ("messaging.destination.name", "mail")],
                    ),
                ],
            )
            .await;
        scene
            .spans(
                "mailer",
                vec![naming(
                    part(7, 6, CONSUMER, "process"),
                    &[("messaging.system", "kafka"), ("messaging.destination.name", "mail")],
                )],
            )
            .await;
    }
    scene.derive().await;
    scene
}

#[tokio::test(flavor = "multi_thread")]
async fn services_are_counted_by_traces_and_spans() {
    let scene = orders().await;
    let catalogue = asking(&scene).services(hour()).await.unwrap();
    assert_eq!((catalogue.sample.traces, catalogue.sample.exact), (10, true));
    let told: Vec<_> = catalogue
        .services
        .iter()
        .map(|service| {
            let spans = (service.span_count, service.error_span_count);
            (service.name.as_str(), service.trace_count, service.error_trace_count, spans)
        })
        .collect();
    assert_eq!(
        told,
        [
            ("mailer", 10, 2, (Some(10), Some(0))),
            ("payment", 10, 2, (Some(40), Some(2))),
            ("shop", 10, 2, (Some(20), Some(0)))
        ]
    );
    let shop = &catalogue.services[2];
    assert_eq!(shop.last_seen, noon() + SignedDuration::from_secs(9));
    assert_eq!(shop.root_latency.map(|latency| latency.p99_ns), Some(10_000_000));
    assert_eq!(catalogue.services[0].root_latency, None, "it is the root of none");
    let before = TimeRange::new(noon() - SignedDuration::from_hours(1), noon()).unwrap();
    assert_eq!(asking(&scene).services(before).await.unwrap().services, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn operations_of_a_service_are_listed_by_frequency() {
    let scene = orders().await;
    let mut request = OperationsRequest { range: hour(), service: "payment".to_owned(), limit: 3 };
    let answer = asking(&scene).operations(&request).await.unwrap();
    let told: Vec<_> = answer.operations.iter().map(|it| (it.name.as_str(), it.kind.as_str(), it.count)).collect();
    assert_eq!(told, [("POST", "client", 10), ("SELECT", "client", 10), ("charge", "server", 10)]);
    assert!(answer.more, "send is left out");
    assert_eq!(answer.operations[2].error_count, 2);
    assert_eq!(answer.operations[2].latency.map(|latency| latency.p50_ns), Some(10_000_000));
    request.limit = 0;
    let error = asking(&scene).operations(&request).await.expect_err("none");
    assert_eq!(error.to_string(), "limit: expected a number from 1 to 1000");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_service_map_shows_services_and_what_sends_no_spans() {
    let scene = orders().await;
    let answer = asking(&scene).dependencies(hour()).await.unwrap();
    let mut told: Vec<_> = answer
        .dependencies
        .iter()
        .map(|it| {
            assert_eq!(it.call_count, 10, "{it:?}");
            (it.caller.name.as_str(), it.callee.kind, it.callee.name.as_str(), it.error_count)
        })
        .collect();
    told.sort_unstable();
    assert_eq!(
        told,
        [
            ("kafka/mail", NodeKind::Service, "mailer", 0),
            ("payment", NodeKind::Service, "mailer", 0),
            ("payment", NodeKind::Database, "postgresql/cards", 0),
            ("payment", NodeKind::Queue, "kafka/mail", 0),
            ("payment", NodeKind::External, "bank.example", 0),
            ("shop", NodeKind::Service, "payment", 2),
        ]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_sends_spans_elsewhere_is_a_service() {
    let scene = Scene::new().await;
    // The server's span is lost in the first trace.
    let call = of_kind(CLIENT, span(1, 1, 0, "GET", Duration::ZERO));
    scene.spans("a", vec![naming(call, &[("peer.service", "b")])]).await;
    scene.spans("b", vec![span(2, 1, 0, "GET", Duration::ZERO)]).await;
    scene.derive().await;
    let answer = asking(&scene).dependencies(hour()).await.unwrap();
    assert_eq!(answer.dependencies.len(), 1);
    assert_eq!(answer.dependencies[0].callee.kind, NodeKind::Service);
}

#[tokio::test(flavor = "multi_thread")]
async fn attributes_are_completed_with_old_and_new_names_as_one() {
    let scene = Scene::new().await;
    let at = Duration::ZERO;
    let old = naming(span(1, 1, 0, "a", at), &[("http.status_code", "503"), ("order.id", "A7")]);
    let new = naming(span(2, 1, 0, "a", at), &[("http.response.status_code", "503"), ("order.id", "a8")]);
    let newer = naming(span(3, 1, 0, "a", at), &[("http.response.status_code", "200")]);
    scene.spans("shop", vec![old, new, newer]).await;
    let keys = |prefix: &str| AttributeKeysRequest {
        signal: Signal::Traces,
        prefix: prefix.to_owned(),
        range: hour(),
        limit: 10,
    };
    let answer = asking(&scene).attribute_keys(&keys("HTTP.")).await.unwrap();
    assert_eq!((answer.keys.len(), answer.records_read, answer.more), (1, 3, false));
    let key = &answer.keys[0];
    assert_eq!((key.key.as_str(), key.seen), ("http.response.status_code", 3));
    assert_eq!((&key.same_as[..], &key.types[..]), (&["http.status_code".to_owned()][..], &["string".to_owned()][..]));
    let all = asking(&scene).attribute_keys(&keys("")).await.unwrap();
    assert!(all.keys.iter().any(|key| key.key == "service.name" && key.of_resource && !key.of_record), "{all:?}");
    let values = |key: &str, prefix: &str| AttributeValuesRequest {
        signal: Signal::Traces,
        key: key.to_owned(),
        prefix: prefix.to_owned(),
        range: hour(),
        limit: 10,
    };
    for (key, prefix, expected) in [
        ("http.status_code", "", &[("503", 2), ("200", 1)][..]),
        ("order.id", "a", &[("A7", 1), ("a8", 1)][..]),
        ("service.name", "sh", &[("shop", 3)][..]),
        ("order.id", "b", &[][..]),
    ] {
        let answer = asking(&scene).attribute_values(&values(key, prefix)).await.unwrap();
        let told: Vec<_> = answer.values.iter().map(|value| (value.value.as_str(), value.seen)).collect();
        assert_eq!(told, expected, "{key} {prefix}");
    }
    for signal in [Signal::Logs, Signal::Metrics] {
        let nothing = asking(&scene).attribute_keys(&AttributeKeysRequest { signal, ..keys("") }).await.unwrap();
        assert_eq!((nothing.keys.len(), nothing.records_read), (0, 0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_about_the_past_is_given_again_unless_the_caller_wants_it_anew() {
    let scene = orders().await;
    let past = TimeRange::new(noon() - SignedDuration::from_hours(24 * 365), noon()).unwrap();
    let queries = asking(&scene);
    assert_eq!(queries.services(past).await.unwrap().services, []);
    scene
        .bench
        .test
        .client()
        .await
        .batch_execute("UPDATE otel_traces SET start_time = start_time - interval '1 hour'")
        .await
        .unwrap();
    assert_eq!(queries.services(past).await.unwrap().services, [], "kept");
    assert_eq!(queries.bypassing_cache().services(past).await.unwrap().services.len(), 3);
    let counts = queries.cache_counts();
    assert_eq!((counts.hits, counts.misses, counts.bypassed), (1, 1, 1));
}
