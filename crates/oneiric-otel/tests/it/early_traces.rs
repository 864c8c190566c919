//! Traces whose first spans arrive days after the others are found by when they began, and nothing else is looked for in the
//! partitions of those days.

use jiff::{SignedDuration, Timestamp};
use oneiric_otel::otlp::Signal;
use oneiric_otel::query::{ErrorGroupsRequest, ErrorTracesRequest, TimeRange, TraceFilter, TracesRequest};
use opentelemetry_proto::tonic::trace::v1::Span;

use crate::catalogue::{asking, noon};
use crate::scene::{Scene, failed, of_service, span};

/// A day of which everything is long over.
fn old_noon() -> Timestamp {
    noon() - SignedDuration::from_hours(24 * 40)
}

fn at(mut span: Span, days: i64) -> Span {
    let start = old_noon() + SignedDuration::from_hours(24 * days);
    span.start_time_unix_nano = u64::try_from(start.as_nanosecond()).unwrap();
    span.end_time_unix_nano = span.start_time_unix_nano + 1000;
    span
}

/// A trace that began on the old day and is in a partition five days later, one of each of these days, and one that has no start.
async fn scene() -> Scene {
    let scene = Scene::new().await;
    scene
        .bench
        .test
        .client()
        .await
        .batch_execute("UPDATE otel_partitioned_tables SET retention = '100 years'")
        .await
        .unwrap();
    let part = |number, id, parent, name: &str| {
        failed(span(number, id, parent, name, std::time::Duration::ZERO), "refused", &[])
    };
    scene
        .spans("shop", vec![at(part(1, 1, 0, "old"), 0), at(part(2, 1, 0, "later"), 5), at(part(3, 2, 1, "end"), 5)])
        .await;
    let timeless = Span { start_time_unix_nano: 0, ..part(4, 2, 1, "timeless") };
    scene.spans("shop", vec![timeless]).await;
    scene.derive().await;
    scene
        .bench
        .send(Signal::Traces, of_service("edge", vec![at(part(3, 1, 0, "begin"), 0), at(part(4, 1, 0, "start"), 0)]))
        .await
        .unwrap();
    scene.derive().await;
    scene
}

fn day() -> TimeRange {
    let hours = SignedDuration::from_hours;
    TimeRange::new(old_noon() - hours(1), old_noon() + hours(23)).unwrap()
}

/// What each kind of question finds on the old day: names of roots, sorted.
async fn found(scene: &Scene) -> Vec<Vec<String>> {
    let service = asking(scene);
    let sorted = |mut names: Vec<String>| {
        names.sort();
        names
    };
    let range = day();
    let errors = ErrorTracesRequest { pattern: "refused".to_owned(), service: None, range, limit: 10, after: None };
    let errors = service.get_traces_by_error(&errors).await.unwrap();
    let filter = TraceFilter { since: Some(range.start()), until: Some(range.end()), ..TraceFilter::default() };
    let listed = service.find_traces(&TracesRequest::new(filter, 10)).await.unwrap();
    let groups = ErrorGroupsRequest {
        range,
        service: None,
        new_since: None,
        only_new: false,
        step: None,
        limit: 10,
        after: None,
    };
    let groups = service.error_groups(&groups).await.unwrap();
    let services = service.services(range).await.unwrap();
    vec![
        sorted(errors.traces.into_iter().map(|trace| trace.root_name).collect()),
        sorted(listed.traces.into_iter().map(|trace| trace.root_name).collect()),
        sorted(groups.groups.into_iter().map(|group| group.example.root_name).collect()),
        sorted(
            services.services.into_iter().map(|service| format!("{} {}", service.name, service.trace_count)).collect(),
        ),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trace_is_found_by_its_start_however_late_its_first_span_came() {
    let scene = scene().await;
    let all = ["begin", "old", "start"].map(String::from).to_vec();
    let everything = vec![all.clone(), all.clone(), all, vec!["edge 2".to_owned(), "shop 3".to_owned()]];
    assert_eq!(found(&scene).await, everything, "before it is known what was there before");
    scene.bench.store.migrate_deferred().await.unwrap();
    assert_eq!(found(&scene).await, everything);
    let noted = "SELECT string_agg(bucket_from::date || ' ' || first_start::date, ',') FROM otel.otel_early_traces";
    assert_eq!(scene.row(&format!("({noted})")).await, "2026-10-16 2026-10-11");
    // The partitions after the day are left out for all but what is noted.
    let client = scene.bench.test.client().await;
    client
        .batch_execute("CREATE TABLE put_by AS SELECT * FROM otel_early_traces; DELETE FROM otel_early_traces")
        .await
        .unwrap();
    assert_eq!(found(&scene).await[0], ["old", "start"]);
    client.batch_execute("INSERT INTO otel_early_traces SELECT * FROM put_by").await.unwrap();
    // Away for a time, and back.
    client.batch_execute("ALTER TABLE otel_traces DETACH PARTITION otel_traces_20261016").await.unwrap();
    assert_eq!(found(&scene).await[0], ["old", "start"]);
    scene.bench.store.forget_errors().await.unwrap();
    let back = "ALTER TABLE otel_traces ATTACH PARTITION otel_traces_20261016
                FOR VALUES FROM ('2026-10-16 00:00:00+00') TO ('2026-10-17 00:00:00+00')";
    client.batch_execute(back).await.unwrap();
    assert_eq!(found(&scene).await, everything);
}

#[tokio::test(flavor = "multi_thread")]
async fn early_traces_of_before_are_found_out() {
    let scene = scene().await;
    // As a database of an earlier version is, with traces that no trigger has seen.
    let client = scene.bench.test.client().await;
    client
        .batch_execute(
            "TRUNCATE otel_early_traces; INSERT INTO otel_early_traces VALUES ('-infinity', 'infinity', '-infinity')",
        )
        .await
        .unwrap();
    assert_eq!(found(&scene).await[0], ["begin", "old", "start"]);
    scene.bench.store.migrate_deferred().await.unwrap();
    assert_eq!(scene.bench.count("otel_early_traces WHERE first_start < timestamptz '2026-10-12'").await, 1);
    assert_eq!(found(&scene).await[0], ["begin", "old", "start"]);
}
