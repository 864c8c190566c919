//! Questions about much read little: the right indexes, and only the partitions of their time. What counts is what the
//! server says that it did, not what it planned.

use std::sync::LazyLock;
use std::time::Duration;

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use oneiric_otel::query::{
    ContextRequest, ErrorGroupsRequest, ErrorTracesRequest, LogsRequest, OperationsRequest, QueryService,
    SearchRequest, SpanFilter, SpansRequest, TimeRange, TraceFilter, TraceId, TracesRequest,
};
use oneiric_otel::store::Database;
use opentelemetry_proto::tonic::trace::v1::Span;

use crate::catalogue::noon;
use crate::errors::days_of_errors;
use crate::scene::{NOON, Scene, failed, log, minilm, span, text, trace_id};

const DAYS: u64 = 3;
const TRACES: u64 = 1000;
const DAY: Duration = Duration::from_hours(24);

/// Noon, three days ago. Days of the past months have partitions of their own, those of long ago have not. Asked for once:
/// midnight may come in the middle of a test.
fn first_noon() -> Timestamp {
    static FIRST_NOON: LazyLock<Timestamp> = LazyLock::new(|| {
        let midnight = Timestamp::now().to_zoned(TimeZone::UTC).start_of_day().unwrap().timestamp();
        midnight + Duration::from_hours(12) - DAY * DAYS as u32
    });
    *FIRST_NOON
}

fn nanos(time: Timestamp) -> u64 {
    u64::try_from(time.as_nanosecond()).unwrap()
}

/// As many traces on each of some days, each with two spans and a log record, one in fifty failed.
async fn days() -> Scene {
    let scene = Scene::new().await;
    let first = nanos(first_noon());
    for day in 0..DAYS {
        let at = |number: u64| DAY * day as u32 + Duration::from_millis(number % TRACES);
        let moved = |mut span: Span| {
            span.start_time_unix_nano = span.start_time_unix_nano - NOON + first;
            span.end_time_unix_nano = span.end_time_unix_nano - NOON + first;
            span
        };
        let numbers = day * TRACES..(day + 1) * TRACES;
        let roots = numbers.clone().map(|number| {
            let mut root = moved(span(number, 1, 0, "GET /", at(number)));
            root.attributes =
                vec![text("order.id", &number.to_string()), text("order.ref", &format!("ref-{number:05}"))];
            if number % 50 == 0 { failed(root, "no", &[]) } else { root }
        });
        scene.spans("shop", roots.collect()).await;
        scene
            .spans("stock", numbers.clone().map(|number| moved(span(number, 2, 1, "load", at(number)))).collect())
            .await;
        let logs = numbers.map(|number| {
            let mut log = log(number, 9, "hello", at(number));
            log.time_unix_nano = log.time_unix_nano - NOON + first;
            log
        });
        scene.logs("shop", logs.collect()).await;
    }
    scene.derive().await;
    settled(scene).await
}

/// The scene with statistics, and nobody at work in its database.
async fn settled(scene: Scene) -> Scene {
    scene.bench.test.client().await.batch_execute("ANALYZE").await.unwrap();
    scene.bench.store.close();
    scene
}

/// Waits until no other server process is left: each tells what it did when it ends, at the latest.
async fn all_told(scene: &Scene) {
    let others = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
                  AND backend_type = 'client backend' AND pid <> pg_backend_pid()";
    while scene.bench.test.count(others).await > 0 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Asks, and waits until the server has counted what that read.
async fn asked<A>(scene: &Scene, ask: impl AsyncFnOnce(&QueryService) -> A) -> A {
    all_told(scene).await;
    scene.bench.test.client().await.batch_execute("SELECT pg_stat_reset()").await.unwrap();
    let database = Database::new(scene.bench.test.url()).unwrap();
    let answer = ask(&QueryService::new(database.clone(), Some(minilm()))).await;
    database.close();
    all_told(scene).await;
    answer
}

/// The partitions that a question reads, each with an index through which it does, as `partition index`; `-` is a scan of
/// all of it. Those without rows do not count.
async fn scans_of(scene: &Scene, ask: impl AsyncFnOnce(&QueryService)) -> Vec<String> {
    asked(scene, ask).await;
    let sql = "SELECT t.relname::text, s.name
               FROM pg_stat_user_tables t
               JOIN pg_class c ON c.oid = t.relid AND c.reltuples > 0
               CROSS JOIN LATERAL (SELECT '-' AS name, t.seq_scan AS scans
                                   UNION ALL
                                   SELECT i.indexrelname::text, i.idx_scan FROM pg_stat_user_indexes i
                                   WHERE i.relid = t.relid) s
               WHERE t.relname ~ '^otel_(spans|traces|logs)_[0-9]' AND s.scans > 0 ORDER BY 1, 2";
    let rows = scene.bench.test.client().await.query(sql, &[]).await.unwrap();
    // Indexes of partitions are named after them.
    let scan = |(partition, index): (String, String)| format!("{partition} {}", index.replace(&partition, ""));
    rows.iter().map(|row| scan((row.get(0), row.get(1)))).collect()
}

/// Times that this index, or that of a partition made from it, was used.
async fn uses(scene: &Scene, column: &str, like: &str) -> i64 {
    scene
        .bench
        .test
        .count(&format!(
            "SELECT coalesce(sum(s.idx_scan), 0) FROM pg_stat_user_indexes s JOIN pg_indexes i
               ON i.schemaname = s.schemaname AND i.indexname = s.indexrelname
             WHERE s.relname LIKE '{like}' AND i.indexdef LIKE '%{column}%'"
        ))
        .await
}

/// Times that these tables were read whole, and that they were read at all. There must be such tables.
async fn reads(scene: &Scene, like: &str) -> (i64, i64) {
    let of_tables =
        |what: &str| format!("SELECT coalesce({what}, 0) FROM pg_stat_user_tables WHERE relname LIKE '{like}'");
    let sum = |what: &str| of_tables(&format!("sum({what})"));
    assert!(scene.bench.test.count(&of_tables("count(*)")).await > 0, "there is no table like {like}");
    let whole = scene.bench.test.count(&sum("seq_scan")).await;
    (whole, whole + scene.bench.test.count(&sum("coalesce(idx_scan, 0)")).await)
}

/// Requires that these indexes were read, no other partition, and none as a whole. Other indexes of these partitions
/// may be among them: the planner looks at the ends of an index to see how far a range goes.
fn read_through(read: &[String], expected: &[String]) {
    let of = |scan: &String| scan.split(' ').next().map(str::to_owned);
    let partitions: Vec<_> = expected.iter().map(of).collect();
    assert!(expected.iter().all(|index| read.contains(index)), "{read:?} and not {expected:?}");
    assert!(read.iter().all(|scan| partitions.contains(&of(scan)) && !scan.ends_with(" -")), "{read:?}");
}

fn partition(table: &str, day: u32) -> String {
    let day = (first_noon() + DAY * day).to_zoned(TimeZone::UTC).strftime("%Y%m%d").to_string();
    format!("otel_{table}_{day}")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trace_is_read_from_one_partition_of_each_table_through_an_index() {
    let scene = days().await;
    let id = TraceId(trace_id(TRACES + 7).try_into().unwrap());
    let read = scans_of(&scene, async |queries| {
        assert_eq!(queries.get_trace(id, 100).await.unwrap().spans.len(), 2);
    })
    .await;
    let (spans, traces, logs) = (partition("spans", 1), partition("traces", 1), partition("logs", 1));
    read_through(&read, &[format!("{spans} _pkey"), format!("{traces} _pkey")]);

    let context = scans_of(&scene, async |queries| {
        let context = queries.get_trace_context(&ContextRequest::new(id)).await.unwrap();
        assert_eq!((context.spans.len(), context.logs.len(), context.overview.is_some()), (2, 1, true));
    })
    .await;
    read_through(&context, &[format!("{logs} _trace_id_idx"), format!("{spans} _pkey"), format!("{traces} _pkey")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_of_traces_look_at_their_time_only_and_at_no_more_rows_than_they_show() {
    let scene = days().await;
    let since = first_noon() + DAY * 2 - Duration::from_hours(2);
    let last_day = |filter: TraceFilter| TraceFilter { since: Some(since), ..filter };
    let last = partition("traces", 2);
    let by_start = format!("{last} _start_time_idx");
    for (filter, index) in [
        (TraceFilter::default(), by_start.clone()),
        (TraceFilter { service: Some("stock".to_owned()), ..TraceFilter::default() }, by_start),
        (
            TraceFilter { status: Some("error".to_owned()), ..TraceFilter::default() },
            format!("{last} _start_time_idx1"),
        ),
    ] {
        let filter = last_day(filter);
        let read = scans_of(&scene, async |queries| {
            assert_eq!(queries.find_traces(&TracesRequest::new(filter.clone(), 10)).await.unwrap().traces.len(), 10);
        })
        .await;
        read_through(&read, &[index]);
    }

    // Page after page, the same.
    let read = scans_of(&scene, async |queries| {
        let mut request = TracesRequest::new(last_day(TraceFilter::default()), 10);
        request.cursor = queries.find_traces(&request).await.unwrap().next;
        assert!(request.cursor.is_some() && queries.find_traces(&request).await.unwrap().next.is_some());
    })
    .await;
    read_through(&read, &[format!("{last} _start_time_idx")]);

    // With an attribute, the spans of those traces are looked at, one by one.
    let filter =
        last_day(TraceFilter { attributes: vec!["service.name=stock".parse().unwrap()], ..TraceFilter::default() });
    let read = scans_of(&scene, async |queries| {
        assert_eq!(queries.find_traces(&TracesRequest::new(filter, 10)).await.unwrap().traces.len(), 10);
    })
    .await;
    let spans = partition("spans", 2);
    read_through(&read, &[format!("{spans} _pkey"), format!("{last} _start_time_idx")]);

    // A rare one is found through its index, where the partition has one.
    let index = format!("CREATE INDEX ON {spans} USING gin (attributes jsonb_path_ops); ANALYZE {spans}");
    scene.bench.test.client().await.batch_execute(&index).await.unwrap();
    let rare = format!("order.id={}", 2 * TRACES + 77);
    let filter = last_day(TraceFilter { attributes: vec![rare.parse().unwrap()], ..TraceFilter::default() });
    let read = scans_of(&scene, async |queries| {
        assert_eq!(queries.find_traces(&TracesRequest::new(filter, 10)).await.unwrap().traces.len(), 1);
    })
    .await;
    assert!(read.contains(&format!("{spans} _attributes_idx")), "{read:?}");
    assert!(read.iter().all(|scan| scan.starts_with(&last) || scan.starts_with(&spans)), "{read:?}");
    assert!(!read.contains(&format!("{spans} -")), "{read:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn patterns_are_counted_in_their_time_and_their_examples_are_looked_up() {
    let scene = days().await;
    let noon = first_noon() + DAY * 2;
    let request = LogsRequest {
        start: Some(noon),
        end: Some(noon + Duration::from_millis(100)),
        limit: 10,
        ..LogsRequest::default()
    };
    let read = scans_of(&scene, async |queries| {
        let found = queries.log_patterns(&request).await.unwrap();
        assert_eq!((found.patterns.len(), found.patterns[0].count), (1, 100));
        assert!(found.patterns[0].example.is_some());
    })
    .await;
    read_through(&read, &[format!("{} _time_idx", partition("logs", 2))]);
}

#[tokio::test(flavor = "multi_thread")]
async fn vectors_of_templates_of_other_models_are_left_alone() {
    let scene = Scene::new().await;
    scene.logs("shop", vec![log(1, 17, "connect ECONNREFUSED 10.0.3.7:8443", Duration::ZERO)]).await;
    scene.embed().await;
    let others = "INSERT INTO otel.otel_log_template_vectors (model_id, template_id, embedding)
                  SELECT 99, n, array_fill(1::real, '{8}') FROM generate_series(1, 20000) n;
                  INSERT INTO otel.otel_log_templates (template_id, severity, service_name, template)
                  SELECT n, 9, 'other', 'x' FROM generate_series(1, 20000) n ON CONFLICT DO NOTHING";
    scene.bench.test.client().await.batch_execute(others).await.unwrap();
    let scene = settled(scene).await;
    let request =
        LogsRequest { query: Some("the peer refuses connections".to_owned()), limit: 10, ..LogsRequest::default() };
    let found = asked(&scene, async |queries| queries.search_logs_by_meaning(&request).await.unwrap()).await;
    assert_eq!((found.templates.len(), found.page.logs.len()), (1, 1));
    assert_eq!(reads(&scene, "otel_log_template_vectors").await.0, 0);
    assert_eq!(uses(&scene, "(model_id, template_id)", "otel_log_template_vectors").await, 1);
    let (whole, all) = reads(&scene, "otel_log_templates").await;
    assert!(whole == 0 && all > 0, "{whole} of {all} not through its key");
}

fn last_hours(hours: i64) -> TimeRange {
    TimeRange::new(noon() - SignedDuration::from_hours(hours), noon()).unwrap()
}

fn errors(pattern: &str, hours: i64) -> ErrorTracesRequest {
    ErrorTracesRequest { pattern: pattern.to_owned(), service: None, range: last_hours(hours), limit: 10, after: None }
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_are_looked_for_through_their_indexes() {
    let scene = Scene::new().await;
    days_of_errors(&scene).await;
    let scene = settled(scene).await;
    let id = scene.row("md5('29997')").await;
    let page = asked(&scene, async |queries| queries.get_traces_by_error(&errors(&id, 200)).await.unwrap()).await;
    assert_eq!(page.traces.len(), 1);
    assert_eq!(uses(&scene, "otel_error_trigrams", "otel_errors").await, 1);
    assert_eq!(uses(&scene, "otel_error_id", "otel_traces_%").await, 1, "in the partition of its day alone");
    assert_eq!(reads(&scene, "otel_errors").await.0, 0);
    assert_eq!(reads(&scene, "otel_traces_2026%").await.0, 0);

    let page = asked(&scene, async |queries| queries.get_traces_by_error(&errors("refused", 30)).await.unwrap()).await;
    assert_eq!(page.traces.len(), 10);
    assert_eq!(reads(&scene, "otel_errors").await, (0, 0), "what is frequent is among the newest");
    assert_eq!(reads(&scene, "otel_traces_20261118").await, (0, 0), "that day is over before");
    assert!(reads(&scene, "otel_traces_20261120").await.1 > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn groups_and_catalogue_read_the_days_they_are_asked_about() {
    let scene = Scene::new().await;
    days_of_errors(&scene).await;
    scene
        .bench
        .test
        .client()
        .await
        .batch_execute(
            "SELECT otel_ensure_partition('otel_spans', timestamptz '2026-11-20 12:00:00+00' - n * interval '1 day')
             FROM generate_series(0, 6) n;
             INSERT INTO otel_resources (content_hash, service_name, schema_url, attributes, envelope)
             VALUES (gen_random_uuid(), 'shop', '', '{}', '');
             INSERT INTO otel_scopes (content_hash, name, version, schema_url, attributes, envelope)
             VALUES (gen_random_uuid(), '', '', '', '{}', '');
             INSERT INTO otel_spans (start_time, duration_ns, span_hash, resource_id, trace_id, scope_id, flags, start_ns,
                                     span_id, service_name, name, kind, status, attributes)
             SELECT t.start_time, 1, n, 1, t.trace_id, 1, 0, 0, int8send(n), 'shop', 'op', 'server', 'unset', '{}'
             FROM otel_traces t CROSS JOIN generate_series(1, 4) n;
             ANALYZE otel_spans;",
        )
        .await
        .unwrap();
    let scene = settled(scene).await;
    let groups = ErrorGroupsRequest {
        range: last_hours(20),
        service: None,
        new_since: None,
        only_new: false,
        step: None,
        limit: 5,
        after: None,
    };
    let answer = asked(&scene, async |queries| queries.error_groups(&groups).await.unwrap()).await;
    assert_eq!(answer.groups.len(), 5);
    assert_eq!(reads(&scene, "otel_traces_20261118").await, (0, 0));

    let spans = SpansRequest { filter: SpanFilter::default(), range: last_hours(20), limit: 10, cursor: None };
    let page = asked(&scene, async |queries| queries.find_spans(&spans).await.unwrap()).await;
    assert_eq!((page.spans.len(), page.next.is_some()), (10, true));
    assert_eq!(reads(&scene, "otel_spans_2026%").await.0, 0, "the newest are found through the index on services");
    assert_eq!(reads(&scene, "otel_spans_20261118").await, (0, 0));

    let request = OperationsRequest { range: last_hours(20), service: "shop".to_owned(), limit: 10 };
    let answer = asked(&scene, async |queries| queries.operations(&request).await.unwrap()).await;
    assert!(answer.sample.exact);
    assert_eq!(answer.operations[0].count, 4 * answer.sample.traces);
    assert_eq!(reads(&scene, "otel_spans_2026%").await.0, 0, "spans are read trace by trace");
    assert_eq!(reads(&scene, "otel_spans_20261118").await, (0, 0));

    let request = OperationsRequest { range: last_hours(200), ..request };
    let answer = asked(&scene, async |queries| queries.operations(&request).await.unwrap()).await;
    assert_eq!((answer.sample.traces, answer.sample.traces_read, answer.sample.exact), (30_000, 5000, false));
    assert_eq!(answer.operations[0].count, 120_000, "scaled");
    assert_eq!(reads(&scene, "otel_spans_2026%").await.0, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_number_in_a_question_is_looked_up_in_the_index_on_attributes_and_in_the_newest_traces() {
    let scene = days().await;
    let spans = partition("spans", 0);
    let index =
        format!("CREATE INDEX {spans}_attributes ON {spans} USING gin (attributes jsonb_path_ops); ANALYZE {spans}");
    scene.bench.test.client().await.batch_execute(&index).await.unwrap();
    all_told(&scene).await;
    // Of the first day, which is beyond the newest 2,000 traces, and of the last, which has no index yet.
    for number in [42, 2 * TRACES + 77] {
        let read = scans_of(&scene, async |queries| {
            let text = format!("what became of ref-{number:05}?");
            let request = SearchRequest { text, limit: 10, filter: TraceFilter::default() };
            let answer = queries.search_traces(&request).await.unwrap();
            assert_eq!(answer.hits[0].newest.trace_id.0.as_slice(), trace_id(number), "{:#?}", answer.hits[0]);
            let exact = answer.hits[0].exact.as_ref().unwrap();
            assert_eq!((exact.attribute.as_deref(), exact.value.len()), (Some("order.ref"), 9));
        })
        .await;
        assert!(read.contains(&format!("{spans} _attributes")), "{read:?}");
        assert!(!read.iter().any(|scan| scan.contains("_spans_") && scan.ends_with(" -")), "{read:?}");
    }
}
