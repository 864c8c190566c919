//! Failing traces are grouped by how they failed.

use std::time::Duration;

use jiff::SignedDuration;
use oneiric_otel::query::{ErrorGroupsRequest, TimeRange};

use crate::catalogue::{asking, hour, noon};
use crate::scene::{Scene, failed, span};

fn groups() -> ErrorGroupsRequest {
    ErrorGroupsRequest {
        range: hour(),
        service: None,
        new_since: None,
        only_new: false,
        step: None,
        limit: 10,
        after: None,
    }
}

/// Three kinds of failure, 5, 3 and 3 times, a minute apart from noon; one of them also an hour earlier.
async fn failures() -> Scene {
    let scene = Scene::new().await;
    let mut number = 0;
    for (name, message, times) in
        [("GET /a", "connection refused", 5), ("GET /b", "card declined", 3), ("GET /c", "out of memory", 3)]
    {
        for minute in 0..times {
            number += 1;
            let at = Duration::from_secs(minute * 60);
            let service = if minute == 0 { "edge" } else { "shop" };
            scene.spans(service, vec![failed(span(number, 1, 0, name, at), message, &[])]).await;
            scene.spans("helper", vec![span(number, 2, 1, "helps", at), span(100 + number, 1, 0, name, at)]).await;
        }
    }
    scene.derive().await;
    scene
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_are_grouped_by_shape_with_their_trend() {
    let scene = failures().await;
    let answer = asking(&scene).error_groups(&groups()).await.unwrap();
    assert_eq!((answer.step_seconds, answer.start_time), (60, noon()));
    let told: Vec<_> =
        answer.groups.iter().map(|group| (group.error_message.as_deref().unwrap_or_default(), group.count)).collect();
    assert_eq!(answer.groups.iter().map(|group| group.count).sum::<i64>(), 11, "{told:?}");
    let refused: Vec<_> = answer.groups.iter().filter(|g| g.example.root_name == "GET /a" && g.count > 1).collect();
    let group = refused[0];
    assert_eq!(group.services, ["helper", "shop"]);
    assert_eq!(group.trend.len(), 60);
    assert_eq!(group.trend[..6], [0, 1, 1, 1, 1, 0]);
    assert_eq!(group.first_seen, noon() + SignedDuration::from_mins(1));
    assert_eq!(group.last_seen, noon() + SignedDuration::from_mins(4));
    assert_eq!(group.example.start_time, group.last_seen, "the newest is the example");
    assert_eq!(group.is_new, None);
    let of_edge = ErrorGroupsRequest { service: Some("edge".to_owned()), ..groups() };
    let answer = asking(&scene).error_groups(&of_edge).await.unwrap();
    assert_eq!(answer.groups.iter().map(|group| group.count).collect::<Vec<_>>(), [1, 1, 1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn groups_come_in_pages_without_gap_or_repetition() {
    let scene = failures().await;
    let all = asking(&scene).error_groups(&groups()).await.unwrap().groups;
    let mut request = ErrorGroupsRequest { limit: 1, ..groups() };
    let mut seen = Vec::new();
    loop {
        let page = asking(&scene).error_groups(&request).await.unwrap();
        seen.extend(page.groups);
        let Some(next) = page.next else { break };
        request.after = Some(next);
    }
    assert_eq!(seen, all);
    assert!(seen.windows(2).all(|pair| (-pair[0].count, pair[0].shape) < (-pair[1].count, pair[1].shape)));
    let of_another = ErrorGroupsRequest { service: Some("edge".to_owned()), ..request };
    let error = asking(&scene).error_groups(&of_another).await.expect_err("a cursor of another question");
    assert!(error.to_string().starts_with("cursor: expected"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn new_shapes_are_told_from_those_that_were_there_before() {
    let scene = failures().await;
    // Long ago, as "GET /b" of the shop fails later.
    scene
        .bench
        .test
        .client()
        .await
        .batch_execute(
            "SELECT otel_ensure_partition('otel_trace_texts', timestamptz '2026-11-01 00:00:00+00');
                        INSERT INTO otel_trace_texts (bucket, text_id, trace_id)
                        SELECT timestamptz '2026-11-01 00:00:00+00', text_ids[1], gen_random_uuid() FROM otel_traces
                        WHERE root_name = 'GET /b' AND service_name = 'shop' AND status = 'error' LIMIT 1",
        )
        .await
        .unwrap();
    let since = noon() - SignedDuration::from_hours(1);
    let request = ErrorGroupsRequest { new_since: Some(since), ..groups() };
    let answer = asking(&scene).error_groups(&request).await.unwrap();
    let old: Vec<_> = answer.groups.iter().filter(|group| group.is_new == Some(false)).collect();
    assert_eq!(old.len(), 1);
    assert_eq!(old[0].example.root_name, "GET /b");
    assert!(old[0].first_ever < since && old[0].first_seen > since);
    let only = asking(&scene).error_groups(&ErrorGroupsRequest { only_new: true, ..request }).await.unwrap();
    assert_eq!(only.groups.len(), answer.groups.len() - 1);
    let error =
        asking(&scene).error_groups(&ErrorGroupsRequest { only_new: true, ..groups() }).await.expect_err("when");
    assert!(error.to_string().starts_with("new_since: expected"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn questions_that_cannot_be_answered_are_named() {
    let scene = Scene::new().await;
    let of_years = TimeRange::new(noon() - SignedDuration::from_hours(24 * 365), noon()).unwrap();
    for (request, message) in [
        (ErrorGroupsRequest { limit: 1001, ..groups() }, "limit: expected a number from 1 to 1000"),
        (
            ErrorGroupsRequest { step: Some(Duration::from_secs(1)), range: of_years, ..groups() },
            "step: expected whole seconds, of which the time asked about has at most 1000",
        ),
    ] {
        assert_eq!(asking(&scene).error_groups(&request).await.expect_err("wrong").to_string(), message);
    }
}
