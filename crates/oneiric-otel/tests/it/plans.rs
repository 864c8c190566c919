//! Questions about traces look into the partitions of their time only, and there through an index. What counts is what
//! the server says that it did, not what it planned.

use std::collections::BTreeMap;
use std::sync::LazyLock;
use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use oneiric_otel::query::{ContextRequest, QueryService, TraceFilter, TraceId, TracesRequest};
use oneiric_otel::store::Database;
use opentelemetry_proto::tonic::trace::v1::Span;

use crate::scene::{NOON, Scene, failed, log, span, text, trace_id};

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
            root.attributes = vec![text("order.id", &number.to_string())];
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
    scene.bench.test.client().await.batch_execute("ANALYZE").await.unwrap();
    scene.bench.store.close();
    all_told(&scene).await;
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

/// How often each partition with rows was read, and through which index; `-` is a scan of all of it.
type Scans = BTreeMap<(String, String), i64>;

async fn scans(scene: &Scene) -> Scans {
    let sql = "SELECT t.relname::text, s.name, s.scans
               FROM pg_stat_user_tables t
               CROSS JOIN LATERAL (SELECT '-' AS name, t.seq_scan AS scans
                                   UNION ALL
                                   SELECT i.indexrelname::text, i.idx_scan FROM pg_stat_user_indexes i
                                   WHERE i.relid = t.relid) s
               WHERE t.relname ~ '^otel_(spans|traces|logs)_[0-9]' AND t.n_tup_ins > 0";
    let rows = scene.bench.test.client().await.query(sql, &[]).await.unwrap();
    rows.iter().map(|row| ((row.get(0), row.get(1)), row.get(2))).collect()
}

/// The scans that a question makes, as `partition index`, without repetition.
async fn scans_of<F: Future<Output = ()>>(scene: &Scene, ask: impl FnOnce(QueryService) -> F) -> Vec<String> {
    let before = scans(scene).await;
    let database = Database::new(scene.bench.test.url()).unwrap();
    ask(QueryService::new(database.clone(), None)).await;
    database.close();
    all_told(scene).await;
    let mut made = Vec::new();
    for ((partition, index), count) in scans(scene).await {
        if count > before.get(&(partition.clone(), index.clone())).copied().unwrap_or(0) {
            // Indexes of partitions are named after them.
            made.push(format!("{partition} {}", index.replace(&partition, "")));
        }
    }
    made
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
    all_told(&scene).await;
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
