//! Failing traces are found by their error and grouped by how they failed.

use std::time::Duration;

use jiff::SignedDuration;
use oneiric_otel::query::{ErrorGroupsRequest, ErrorTracesRequest, OperationsRequest, QueryError, TimeRange};

use crate::catalogue::{asking, hour, noon};
use crate::scene::{Scene, failed, log, span};

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
    // "Until now" is another time on every page.
    let later = TimeRange::new(noon() + SignedDuration::from_secs(90), noon() + SignedDuration::from_hours(2)).unwrap();
    let page = asking(&scene).error_groups(&ErrorGroupsRequest { limit: 1, ..groups() }).await.unwrap();
    let rest = ErrorGroupsRequest { range: later, after: page.next, ..groups() };
    let rest = asking(&scene).error_groups(&rest).await.unwrap();
    assert_eq!((rest.start_time, rest.groups.as_slice()), (page.start_time, &all[1..]));
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
    let (service, queries) = ("a\0b".to_owned(), asking(&scene));
    let of_groups = ErrorGroupsRequest { service: Some(service.clone()), ..groups() };
    let of_traces = ErrorTracesRequest { service: Some(service.clone()), ..errors("x") };
    let of_operations = OperationsRequest { range: hour(), service, limit: 10 };
    for error in [
        queries.error_groups(&of_groups).await.expect_err("NUL"),
        queries.get_traces_by_error(&of_traces).await.expect_err("NUL"),
        queries.operations(&of_operations).await.expect_err("NUL"),
        queries.metrics(None, Some("a\0b"), 10).await.expect_err("NUL"),
    ] {
        assert!(matches!(error, QueryError::InvalidArgument { name: "service", .. }), "{error}");
    }
    for error in [
        queries.metrics(Some("a\0b"), None, 10).await.expect_err("NUL"),
        queries.metric_labels("a\0b").await.expect_err("NUL"),
    ] {
        assert!(matches!(error, QueryError::InvalidArgument { name: "name", .. }), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn services_are_found_by_their_whole_name_however_long_it_is() {
    let scene = Scene::new().await;
    let service = "shop".repeat(100);
    scene.spans(&service, vec![failed(span(1, 1, 0, "pay", Duration::ZERO), "refused", &[])]).await;
    scene.derive().await;
    let queries = asking(&scene);
    let of_groups = ErrorGroupsRequest { service: Some(service.clone()), ..groups() };
    assert_eq!(queries.error_groups(&of_groups).await.unwrap().groups.len(), 1);
    let of_traces = ErrorTracesRequest { service: Some(service.clone()), ..errors("refused") };
    assert_eq!(found(&scene, &of_traces).await, ["pay"]);
    let of_operations = OperationsRequest { range: hour(), service, limit: 10 };
    assert_eq!(queries.operations(&of_operations).await.unwrap().operations.len(), 1);
}

fn errors(pattern: &str) -> ErrorTracesRequest {
    ErrorTracesRequest { pattern: pattern.to_owned(), service: None, range: hour(), limit: 100, after: None }
}

/// Names of the roots of the traces that are found, newest first.
async fn found(scene: &Scene, request: &ErrorTracesRequest) -> Vec<String> {
    let page = asking(scene).get_traces_by_error(request).await.unwrap();
    page.traces.into_iter().map(|trace| trace.root_name).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn traces_are_found_by_patterns_of_their_error() {
    let scene = Scene::new().await;
    let messages = [
        ("a", "connect ECONNREFUSED 10.0.0.1:5432"),
        ("b", "used 100% of the quota_limit"),
        ("c", "Zugriff VERWEIGERT: \u{dc}BERLAST"),
        ("d", "path C:\\temp is full"),
        ("e", "\u{41e}\u{428}\u{418}\u{411}\u{41a}\u{410} \u{43e}\u{43f}\u{43b}\u{430}\u{442}\u{44b}"),
    ];
    for (number, (name, message)) in (1..).zip(messages) {
        let at = Duration::from_secs(number);
        let failing = failed(span(number, 1, 0, name, at), message, &[("error.type", "java.io.IOException")]);
        scene.spans("shop", vec![failing]).await;
    }
    scene.spans("shop", vec![span(9, 1, 0, "healthy", Duration::from_secs(9))]).await;
    scene.logs("shop", vec![log(9, 17, "lock timeout of writer 7", Duration::from_secs(9))]).await;
    scene.derive().await;
    for (pattern, names) in [
        ("econnrefused", "a"),
        ("connect%5432", "a"),
        ("connect", "a"),
        ("connect%", "a"),
        ("refused%", ""),
        ("100\\%", "b"),
        ("quota\\_limit", "b"),
        ("quota__limit", ""),
        ("%quota_limit", "b"),
        ("\u{fc}berlast", "c"),
        ("c:\\\\TEMP", "d"),
        ("\u{43e}\u{448}\u{438}\u{431}\u{43a}\u{430}", "e"),
        ("IOException", "edcba"),
        ("io", "edcba"),
        ("lock timeout", "healthy"),
        ("nothing like it", ""),
    ] {
        assert_eq!(found(&scene, &errors(pattern)).await.concat(), names, "{pattern}");
    }
    let mut request = ErrorTracesRequest { limit: 2, ..errors("ioexception") };
    let mut seen = Vec::new();
    loop {
        let page = asking(&scene).get_traces_by_error(&request).await.unwrap();
        seen.extend(page.traces.into_iter().map(|trace| trace.root_name));
        let Some(next) = page.next else { break };
        request.after = Some(next);
    }
    assert_eq!(seen.concat(), "edcba");
    // "Until now" is another time on every page.
    let first = asking(&scene).get_traces_by_error(&ErrorTracesRequest { limit: 2, ..errors("io") }).await.unwrap();
    let later = TimeRange::new(hour().start(), hour().end() + SignedDuration::from_secs(1)).unwrap();
    let rest = ErrorTracesRequest { range: later, after: first.next, ..errors("io") };
    assert_eq!(found(&scene, &rest).await.concat(), "cba");
    let error = asking(&scene).get_traces_by_error(&errors("ends in \\")).await.expect_err("no pattern");
    assert!(matches!(error, QueryError::InvalidArgument { name: "pattern", .. }), "{error}");
    let nobody = ErrorTracesRequest { service: Some("shoop".to_owned()), ..errors("io") };
    let error = asking(&scene).get_traces_by_error(&nobody).await.expect_err("nobody");
    assert!(matches!(&error, QueryError::Unknown { near, .. } if near == &["shop"]), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_of_a_long_message_is_found_wherever_it_stands() {
    let scene = Scene::new().await;
    days_of_errors(&scene).await;
    let client = scene.bench.test.client().await;
    // Old ones, behind more traces with an error than are looked at one by one.
    client
        .batch_execute(
            "UPDATE otel_traces SET error_message = 'needle-one ' || repeat('hay ', 900) WHERE trace_id = lpad(to_hex(29001), 32, '0')::uuid;
             UPDATE otel_traces SET error_message = repeat('hay ', 900) || 'needle-two' WHERE trace_id = lpad(to_hex(29005), 32, '0')::uuid;
             UPDATE otel_traces SET error_message = repeat('\u{fc}', 300) || 'needle-three' WHERE trace_id = lpad(to_hex(29009), 32, '0')::uuid",
        )
        .await
        .unwrap();
    let long_ago = TimeRange::new(noon() - SignedDuration::from_hours(200), noon()).unwrap();
    for (pattern, number) in [("needle-one", 29_001_u128), ("hay needle-two", 29_005), ("needle-three", 29_009)] {
        let request = ErrorTracesRequest { range: long_ago, ..errors(pattern) };
        let page = asking(&scene).get_traces_by_error(&request).await.unwrap();
        let ids: Vec<u128> = page.traces.iter().map(|trace| u128::from_be_bytes(trace.trace_id.0)).collect();
        assert_eq!(ids, [number], "{pattern}");
    }
    let indexed =
        "SELECT count(*) FROM pg_indexes WHERE indexname = 'otel_errors_trigrams' AND indexdef LIKE '%<= 512%'";
    assert_eq!(scene.bench.test.count(indexed).await, 1, "long messages are not in the index");
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_whose_traces_are_gone_are_forgotten_and_others_are_not() {
    let scene = Scene::new().await;
    days_of_errors(&scene).await;
    let client = scene.bench.test.client().await;
    // However long ago, and as it is dropped at the end of its time.
    client
        .batch_execute(
            "SELECT otel_ensure_partition('otel_traces', timestamptz '2019-05-05 12:00:00+00');
             INSERT INTO otel_traces (bucket, start_time, end_time, seen_from, seen_to, duration_ns, trace_id, span_count,
                                      error_count, log_count, start_ns, root_seen, status, service_name, root_name,
                                      services, error_message, text_ids)
             SELECT t, t, t, t, t, 1, gen_random_uuid(), 1, 1, 0, 0, true, 'error', 'shop', 'op', '{shop}', 'of 2019', '{}'
             FROM (SELECT timestamptz '2019-05-05 12:00:00+00' AS t) x;
             DROP TABLE otel_traces_20261118",
        )
        .await
        .unwrap();
    let count = async |condition: &str| {
        scene.bench.test.count(&format!("SELECT count(*) FROM otel.otel_errors WHERE {condition}")).await
    };
    let of_the_day = "first_day = '2026-11-18' AND last_day = '2026-11-18'";
    let (gone, all) = (count(of_the_day).await, count("true").await);
    assert!(gone > 1000 && all > gone);
    // More than are forgotten in one transaction.
    let others = "INSERT INTO otel.otel_errors (error_id, first_day, last_day, error_message)
                  SELECT n, '1999-12-31', '1999-12-31', 'x' FROM generate_series(1, 6000) n";
    client.batch_execute(others).await.unwrap();
    assert_eq!(scene.bench.store.forget_errors().await.unwrap(), gone as u64 + 6000);
    assert_eq!((count(of_the_day).await, count("true").await), (0, all - gone));
    assert_eq!(count("error_message = 'of 2019'").await, 1);
    assert_eq!(count("error_message = 'connection refused'").await, 1, "it was on other days too");
    assert_eq!(scene.bench.store.forget_errors().await.unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_are_forgotten_in_the_order_in_which_they_are_noted() {
    let scene = Scene::new().await;
    let mut other = scene.bench.test.client().await;
    // Stored in another order than that of their ids.
    let errors = "INSERT INTO otel.otel_errors (error_id, first_day, last_day, error_message)
                  SELECT n, '2001-01-01', '2001-01-01', 'x' FROM generate_series(100, 1, -1) n";
    other.batch_execute(errors).await.unwrap();
    let holding = other.transaction().await.unwrap();
    let lock = "SELECT FROM otel.otel_errors WHERE error_id = $1 FOR UPDATE";
    holding.execute(lock, &[&1_i64]).await.unwrap();
    let meanwhile = async {
        while scene.bench.test.count(WAITING).await == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        // Who waits for the first holds nothing that comes after it.
        holding.batch_execute("SET LOCAL lock_timeout = '2s'").await.unwrap();
        for later in [2_i64, 50, 100] {
            let locked = holding.execute(lock, &[&later]).await;
            assert_eq!(locked.map_err(|error| error.to_string()), Ok(1), "{later}");
        }
        // One of them occurs again, on a day that has a partition: it is kept.
        let noted = "UPDATE otel.otel_errors SET last_day = current_date + 1 WHERE error_id = 50";
        holding.batch_execute(noted).await.unwrap();
        holding.commit().await.unwrap();
    };
    let (forgotten, ()) = tokio::join!(scene.bench.store.forget_errors(), meanwhile);
    assert_eq!(forgotten.unwrap(), 99);
    assert_eq!(scene.bench.test.count("SELECT count(*) FROM otel.otel_errors WHERE error_id = 50").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_are_noted_in_one_order_so_that_derivers_wait_for_each_other_and_no_more() {
    let scene = Scene::new().await;
    // Of one slot, so of one transaction.
    let (known, new) = (|round| 16 + 64 * round, |round| 32 + 64 * round);
    let before = (0..2).map(|round| span(known(round), 1, 0, "pay", Duration::ZERO)).collect();
    scene.spans("shop", before).await;
    scene.derive().await;
    let id = async |message: &str| -> i64 {
        scene.row(&format!("otel.otel_error_id(NULL, '{message}')")).await.parse().unwrap()
    };
    for round in 0..2_u64 {
        let (a, b) = (format!("refused {round}"), format!("closed {round}"));
        let (first, last) = if id(&a).await < id(&b).await { (a, b) } else { (b, a) };
        // One of a trace that has a row, one of a trace that has none; both ways.
        let (of_known, of_new) = if round == 0 { (&first, &last) } else { (&last, &first) };
        let at = Duration::from_millis(round);
        let again = span(known(round), 2, 1, "debit", at);
        scene.spans("shop", vec![failed(again, of_known, &[])]).await;
        scene.spans("shop", vec![failed(span(new(round), 1, 0, "pay", at), of_new, &[])]).await;
        let mut other = scene.bench.test.client().await;
        let holding = other.transaction().await.unwrap();
        let note =
            "INSERT INTO otel.otel_errors (error_id, first_day, last_day) VALUES ($1, '2026-11-20', '2026-11-20')";
        holding.execute(note, &[&id(&first).await]).await.unwrap();
        let derive = scene.derive();
        let meanwhile = async {
            while scene.bench.test.count(WAITING).await == 0 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            // Who waits for the first holds nothing that comes after it.
            holding.batch_execute("SET LOCAL lock_timeout = '2s'").await.unwrap();
            let noted = holding.execute(note, &[&id(&last).await]).await;
            assert_eq!(noted.map_err(|error| error.to_string()), Ok(1), "round {round}");
            holding.rollback().await.unwrap();
        };
        tokio::join!(derive, meanwhile);
        assert_eq!(scene.bench.test.count("SELECT count(*) FROM otel.otel_errors").await, 2 * (round as i64 + 1));
    }
}

/// Who waits for a lock.
const WAITING: &str = "SELECT count(*) FROM pg_stat_activity
                       WHERE datname = current_database() AND wait_event_type = 'Lock' AND pid <> pg_backend_pid()";

/// Six days of 5,000 traces that ended at noon of 2026-11-20, half of them with an error, of which every other is the
/// only one of its kind. Each day has a partition of its own, however long ago it is.
pub(crate) async fn days_of_errors(scene: &Scene) {
    scene
        .bench
        .test
        .client()
        .await
        .batch_execute(
            "UPDATE otel_partitioned_tables SET retention = '100 years';
             SELECT otel_ensure_partition('otel_traces', timestamptz '2026-11-20 12:00:00+00' - n * interval '1 day')
             FROM generate_series(0, 6) n;
             INSERT INTO otel_traces (bucket, start_time, end_time, seen_from, seen_to, duration_ns, trace_id, span_count,
                                      error_count, log_count, start_ns, root_seen, status, service_name, root_name,
                                      services, error_type, error_message, text_ids)
             SELECT t, t, t, t, t, 1, lpad(to_hex(n), 32, '0')::uuid, 1, n % 2, 0, 0, true,
                    CASE WHEN n % 2 = 1 THEN 'error' ELSE 'unset' END, 'shop', 'op', '{shop}',
                    CASE WHEN n % 2 = 1 THEN 'Refused' END,
                    CASE n % 4 WHEN 1 THEN 'rate limit reached by request ' || md5(n::text) WHEN 3 THEN 'connection refused' END,
                    ARRAY[n % 50]
             FROM (SELECT n, timestamptz '2026-11-20 12:00:00+00' - n * interval '17 seconds' AS t
                   FROM generate_series(1, 30000) n) x;
             ANALYZE otel_traces; ANALYZE otel_errors;",
        )
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn old_and_rare_errors_are_found_like_new_and_frequent_ones() {
    let scene = Scene::new().await;
    days_of_errors(&scene).await;
    let noon = noon();
    let ago = |hours: i64| noon - SignedDuration::from_hours(hours);
    let find = |pattern: String, from: i64, limit: usize| {
        let request = ErrorTracesRequest { range: TimeRange::new(ago(from), noon).unwrap(), limit, ..errors(&pattern) };
        let scene = &scene;
        async move {
            let page = asking(scene).get_traces_by_error(&request).await.unwrap();
            page.traces.into_iter().map(|trace| u128::from_be_bytes(trace.trace_id.0)).collect::<Vec<_>>()
        }
    };
    let rare = async |number: u32| scene.row(&format!("md5('{number}')")).await;
    for number in [1, 9001, 29_997] {
        let id = rare(number).await;
        assert_eq!(find(id, 200, 10).await, [u128::from(number)]);
    }
    assert_eq!(find(rare(29_997).await, 24, 10).await, [0; 0], "it is older");
    assert_eq!(find("connection refused".to_owned(), 200, 3).await, [3, 7, 11]);
    assert_eq!(find("rate limit".to_owned(), 200, 3).await, [1, 5, 9]);
    assert_eq!(find("connection refused".to_owned(), 200, 1000).await.len(), 1000);
    // Page by page through all of them: from the newest to errors and to traces.
    let mut request = ErrorTracesRequest {
        range: TimeRange::new(ago(200), noon).unwrap(),
        limit: 1000,
        ..errors("rate limit reached by request a")
    };
    let mut seen = Vec::new();
    loop {
        let page = asking(&scene).get_traces_by_error(&request).await.unwrap();
        seen.extend(page.traces.into_iter().map(|trace| u128::from_be_bytes(trace.trace_id.0)));
        let Some(next) = page.next else { break };
        request.after = Some(next);
    }
    let all = "SELECT count(*) FROM otel.otel_traces WHERE error_message LIKE '%request a%'";
    assert_eq!(seen.len() as i64, scene.bench.test.count(all).await);
    assert!(seen.is_sorted() && seen.len() > 400);
}
