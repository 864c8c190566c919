//! The adapter: what it stores comes back through it, its receipts say what is true, and no misuse of it hangs or panics.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use oneiric_otel::derive::DeriveOptions;
use oneiric_otel::query::{Aggregation, ContextRequest, LogsRequest, MetricsRequest, QueryError, TimeRange};
use oneiric_otel::storage::{
    Acknowledge, Attributes, Batch, Durability, EmbeddingChoice, Level, LogEntry, MetricData, Moment, NotStored,
    Origin, OtelStorage, OtelStorageBuilder, OtlpRecords, SpanData, SpanEvent, SpanId, SpanStatus, StorageError,
    StoreRefused, TraceData, TraceId,
};
use oneiric_otel_testkit::TestDatabase;
use tempfile::TempDir;

use crate::writing;

/// A database and an adapter on it.
struct Stage {
    test: TestDatabase,
    dir: TempDir,
}

impl Stage {
    async fn new() -> Self {
        Self { test: TestDatabase::create().await, dir: tempfile::tempdir().unwrap() }
    }

    fn builder(&self) -> OtelStorageBuilder {
        builder(self.test.url(), &self.dir)
    }

    async fn storage(&self, acknowledge: Acknowledge) -> OtelStorage {
        let storage = self.builder().acknowledge(acknowledge).build().unwrap();
        storage.init().await.unwrap();
        storage
    }

    async fn count(&self, table: &str) -> i64 {
        self.test.count(&format!("SELECT count(*) FROM otel.{table}")).await
    }

    /// Waits until the writers have brought so many.
    async fn await_count(&self, table: &str, count: i64) {
        while self.count(table).await != count {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

fn builder(url: &str, dir: &TempDir) -> OtelStorageBuilder {
    OtelStorage::builder()
        .connection_string(url)
        .data_dir(dir.path())
        .service_name("orders")
        .embedding(EmbeddingChoice::None)
        .derive(DeriveOptions {
            quiet_after_root: Duration::ZERO,
            interval: Duration::from_millis(50),
            ..DeriveOptions::default()
        })
}

fn span(trace_id: TraceId, name: &str) -> SpanData {
    SpanData::new(trace_id, SpanId::random(), name)
}

fn log(text: &str) -> LogEntry {
    LogEntry::new(Level::Error, text)
}

/// Nothing listens there.
const NOWHERE: &str = "postgresql://nobody:secret@127.0.0.1:1/otel";

#[tokio::test]
async fn what_is_stored_comes_back_through_the_same_handle() {
    let stage = Stage::new().await;
    let storage = stage.storage(Acknowledge::Stored).await;
    let trace_id = TraceId::random();
    let mut root = span(trace_id, "process_repository");
    root.status = SpanStatus::Error;
    root.status_message = "connection timeout".to_owned();
    root.attributes = Attributes::from([("repository", "fastblocks")]);
    root.events.push(SpanEvent {
        time: Moment::now(),
        name: "exception".to_owned(),
        attributes: Attributes::from([("exception.type", "TimeoutError"), ("exception.message", "connection timeout")]),
    });
    let mut child = span(trace_id, "fetch_repo");
    child.parent_span_id = Some(root.span_id.clone());
    let entry =
        LogEntry { trace_id: Some(trace_id), span_id: Some(root.span_id.clone()), ..log("no answer from host") };
    let metric = MetricData::gauge("repositories.waiting", 7.5, [("queue", "night")]);
    let batch = Batch {
        traces: vec![TraceData { origin: None, spans: vec![root.clone(), child] }],
        metrics: vec![metric],
        logs: vec![entry],
    };
    let receipt = storage.batch_store(batch).unwrap();
    let done = receipt.await.unwrap();
    assert_eq!((done.records, done.rejected, done.durability), (4, 0, Durability::Stored));

    while storage.get_trace_summary(trace_id).await.is_err() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let summary = storage.get_trace_summary(trace_id).await.unwrap();
    assert_eq!((summary.status.as_str(), summary.span_count), ("error", 2));
    assert_eq!((summary.service_name.as_str(), summary.root_name.as_str()), ("orders", "process_repository"));
    let read = storage.get_trace(trace_id, 10).await.unwrap();
    let found = read.spans.iter().find(|span| span.span_id == root.span_id).unwrap();
    assert_eq!(
        (&found.attributes, found.start_time, found.end_time),
        (&root.attributes, root.start_time, root.end_time)
    );
    assert_eq!(found.events[0].attributes, root.events[0].attributes);
    let context = storage.get_trace_context(&ContextRequest::new(trace_id)).await.unwrap();
    assert_eq!(context.logs.len(), 1);
    let words = LogsRequest { query: Some("answer".into()), limit: 5, ..LogsRequest::default() };
    assert_eq!(storage.search_logs(&words).await.unwrap().logs[0].trace_id, Some(trace_id));
    let lately = TimeRange::asked(None, None).unwrap();
    let asked = MetricsRequest {
        name: "repositories.waiting".to_owned(),
        labels: vec![("queue".to_owned(), "night".to_owned())],
        service: None,
        start: lately.start(),
        end: lately.end(),
        step: Duration::from_mins(1),
        aggregation: Aggregation::Last,
        group_by: None,
    };
    let range = storage.get_metrics_by_time_range(&asked).await.unwrap();
    assert_eq!(range.series.len(), 1);
    assert_eq!(storage.services(lately).await.unwrap().services[0].name, "orders");
    storage.cleanup().await.unwrap();
}

#[tokio::test]
async fn receipts_say_what_is_promised() {
    let stage = Stage::new().await;
    for (acknowledge, durability) in [
        (Acknowledge::Spooled, Durability::Spooled),
        (Acknowledge::Stored, Durability::Stored),
        (Acknowledge::Memory, Durability::Memory),
    ] {
        let storage = stage.storage(acknowledge).await;
        let done = storage.store_log(log("a")).unwrap().await.unwrap();
        assert_eq!((done.records, done.durability), (1, durability));
        let nothing = storage.batch_store(Batch::default()).unwrap().await.unwrap();
        assert_eq!(nothing.records, 0);
        storage.cleanup().await.unwrap();
    }
    assert_eq!(stage.count("otel_logs").await, 3, "cleanup waits for what is in spool or memory");
}

#[tokio::test]
async fn equal_records_of_two_calls_are_two_logs_and_one_span() {
    let stage = Stage::new().await;
    let storage = stage.storage(Acknowledge::Stored).await;
    let (entry, trace) = (log("again"), TraceData { origin: None, spans: vec![span(TraceId::random(), "once")] });
    for _ in 0..3 {
        storage.store_log(entry.clone()).unwrap().await.unwrap();
        storage.store_trace(trace.clone()).unwrap().await.unwrap();
    }
    assert_eq!((stage.count("otel_logs").await, stage.count("otel_spans").await), (3, 1));
    storage.cleanup().await.unwrap();
}

#[tokio::test]
async fn each_receipt_tells_of_its_own_records() {
    let stage = Stage::new().await;
    let storage = stage.builder().acknowledge(Acknowledge::Stored).gather_interval(Duration::from_mins(1)).build();
    let storage = storage.unwrap();
    storage.init().await.unwrap();
    let odd = SpanData { span_id: SpanId(vec![1; 3]), ..span(TraceId::random(), "odd id") };
    let good = storage.store_spans(vec![span(TraceId::random(), "a"), span(TraceId::random(), "b")]).unwrap();
    let mixed = storage.store_spans(vec![span(TraceId::random(), "c"), odd.clone()]).unwrap();
    let bad = storage.store_spans(vec![odd]).unwrap();
    let foreign =
        TraceData { origin: Some(Arc::new(Origin::service("billing"))), spans: vec![span(TraceId::random(), "d")] };
    let foreign = storage.store_trace(foreign).unwrap();
    let flushed = storage.flush().await;
    let good = good.await.unwrap();
    assert_eq!((good.records, good.rejected), (2, 0));
    let mixed = mixed.await.unwrap();
    assert_eq!((mixed.records, mixed.rejected), (1, 1));
    assert!(mixed.message.contains("spanId has 3 bytes"), "{}", mixed.message);
    let bad = bad.await.unwrap();
    assert_eq!((bad.records, bad.rejected), (0, 1));
    assert_eq!(foreign.await.unwrap().records, 1);
    assert!(flushed.is_ok(), "what can never be stored is no failure of the storage: {flushed:?}");
    assert_eq!(storage.health().await.unwrap().queue.not_stored_records, 2);
    assert_eq!(stage.count("otel_spans").await, 4);
    storage.cleanup().await.unwrap();
}

#[tokio::test]
async fn otlp_records_are_stored_as_they_are() {
    let stage = Stage::new().await;
    let storage = stage.storage(Acknowledge::Stored).await;
    let group = oneiric_otel::otlp::Group {
        resource: Arc::default(),
        scope: Arc::default(),
        records: vec![writing::span(7, 1, "raw")],
    };
    assert_eq!(storage.store_otlp(OtlpRecords::Traces(vec![group])).unwrap().await.unwrap().records, 1);
    let read = storage.get_trace(TraceId([7; 16]), 10).await.unwrap();
    assert_eq!(read.spans.len(), 1);
    storage.cleanup().await.unwrap();
}

#[tokio::test]
async fn before_init_and_after_cleanup_there_are_typed_errors() {
    let stage = Stage::new().await;
    let storage = stage.builder().build().unwrap();
    assert_eq!(storage.store_log(log("early")).unwrap_err(), StoreRefused::NotInitialised);
    assert!(matches!(storage.flush().await, Err(StorageError::NotInitialised)));
    assert!(matches!(storage.cleanup().await, Err(StorageError::NotInitialised)));
    assert!(matches!(storage.health().await, Err(StorageError::NotInitialised)));
    assert!(matches!(storage.get_log("x").await, Err(QueryError::Unavailable { .. })));
    let (first, second) = tokio::join!(storage.init(), storage.init());
    assert!(first.is_ok() && matches!(second, Err(StorageError::AlreadyInitialised)), "{first:?} {second:?}");
    assert!(matches!(storage.init().await, Err(StorageError::AlreadyInitialised)));
    storage.cleanup().await.unwrap();
    storage.cleanup().await.unwrap();
    assert_eq!(storage.store_log(log("late")).unwrap_err(), StoreRefused::Closed);
    assert!(matches!(storage.flush().await, Err(StorageError::Closed)));
    assert!(matches!(storage.health().await, Err(StorageError::Closed)));
    assert!(matches!(storage.init().await, Err(StorageError::Closed)));
    assert!(matches!(storage.get_log("x").await, Err(QueryError::Unavailable { .. })));
}

#[tokio::test]
async fn wrong_options_are_named() {
    let dir = tempfile::tempdir().unwrap();
    for (name, builder) in [
        ("queue_max_bytes", builder(NOWHERE, &dir).queue_max_bytes(1)),
        ("spool_max_bytes", builder(NOWHERE, &dir).spool_max_bytes(1)),
        ("memory_calls", builder(NOWHERE, &dir).memory_calls(0)),
        ("store_timeout", builder(NOWHERE, &dir).store_timeout(Duration::ZERO)),
        ("threads", builder(NOWHERE, &dir).threads(0)),
        ("gather_interval", builder(NOWHERE, &dir).gather_interval(Duration::from_secs(61))),
    ] {
        let error = builder.build().unwrap_err().to_string();
        assert!(error.starts_with(&format!("{name}: expected")), "{error}");
    }
    let error = builder("mysql://u:secret@h/d", &dir).build().unwrap().init().await.unwrap_err().to_string();
    assert!(error.contains("connection_string") && !error.contains("secret"), "{error}");
    let shown = format!("{:?}", builder(NOWHERE, &dir).build().unwrap());
    assert!(!shown.contains("secret"), "{shown}");
}

#[tokio::test]
async fn a_database_that_is_away_is_waited_for_with_a_spool_and_said_without() {
    let dir = tempfile::tempdir().unwrap();
    let storage = builder(NOWHERE, &dir).cleanup_timeout(Duration::from_secs(1)).build().unwrap();
    storage.init().await.unwrap();
    let done = storage.store_log(log("waits")).unwrap().await.unwrap();
    assert_eq!(done.durability, Durability::Spooled);
    let health = storage.health().await.unwrap();
    assert!(health.is_accepting && !health.is_healthy && !health.database.is_up, "{health:?}");
    assert_eq!(health.spool.unwrap().requests["logs"], 1);
    let json = serde_json::to_string(&storage.health().await.unwrap()).unwrap();
    assert!(!json.contains("secret"), "{json}");
    storage.cleanup().await.unwrap();

    // The next process finds it.
    let storage = builder(NOWHERE, &dir).cleanup_timeout(Duration::from_secs(1)).build().unwrap();
    storage.init().await.unwrap();
    assert_eq!(storage.health().await.unwrap().spool.unwrap().requests["logs"], 1);
    storage.cleanup().await.unwrap();

    let storage = builder(NOWHERE, &dir).acknowledge(Acknowledge::Stored).build().unwrap();
    assert!(matches!(storage.init().await, Err(StorageError::Database { .. })));
}

#[tokio::test]
async fn two_applications_have_a_spool_each() {
    let stage = Stage::new().await;
    let (one, two) = (stage.storage(Acknowledge::Spooled).await, stage.storage(Acknowledge::Spooled).await);
    one.store_log(log("one")).unwrap().await.unwrap();
    two.store_log(log("two")).unwrap().await.unwrap();
    one.cleanup().await.unwrap();
    two.cleanup().await.unwrap();
    assert_eq!(stage.count("otel_logs").await, 2);
}

#[tokio::test]
async fn what_does_not_fit_is_refused_and_counted() {
    let stage = Stage::new().await;
    let storage = stage.builder().queue_max_bytes(1 << 20).gather_interval(Duration::from_mins(1)).build().unwrap();
    storage.init().await.unwrap();
    let large = log(&"x".repeat(600 << 10));
    let first = storage.store_log(large.clone()).unwrap();
    assert!(matches!(storage.store_log(large), Err(StoreRefused::QueueFull { records: 1, .. })));
    let refused = storage.store_log(log(&"x".repeat(2 << 20)));
    assert!(matches!(refused, Err(StoreRefused::TooLarge { .. })));
    storage.flush().await.unwrap();
    first.await.unwrap();
    let later = storage.store_log(log("there is room again")).unwrap();
    storage.flush().await.unwrap();
    later.await.unwrap();
    let queue = storage.health().await.unwrap().queue;
    assert_eq!((queue.accepted_records, queue.refused_records, queue.records, queue.bytes), (2, 2, 0, 0));
    storage.cleanup().await.unwrap();
}

#[tokio::test]
async fn in_memory_the_oldest_is_dropped_and_its_receipt_says_so() {
    let stage = Stage::new().await;
    let storage = stage.builder().acknowledge(Acknowledge::Memory).memory_calls(10);
    let storage = storage.gather_interval(Duration::from_mins(1)).build().unwrap();
    storage.init().await.unwrap();
    let receipts: Vec<_> = (0..25).map(|number| storage.store_log(log(&number.to_string())).unwrap()).collect();
    let flushed = storage.flush().await;
    let outcomes = join_all(receipts).await;
    let dropped = outcomes.iter().take_while(|outcome| **outcome == Err(NotStored::Dropped)).count();
    assert_eq!(dropped, 15);
    assert!(outcomes[15..].iter().all(|outcome| outcome.as_ref().unwrap().durability == Durability::Memory));
    assert!(matches!(flushed, Err(StorageError::NotStored { records: 15, .. })), "{flushed:?}");
    storage.flush().await.unwrap();
    assert_eq!(storage.health().await.unwrap().queue.dropped_records, 15);
    storage.cleanup().await.unwrap();
    assert_eq!(stage.count("otel_logs").await, 10);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn every_receipt_that_is_good_is_in_the_database_after_cleanup() {
    let stage = Stage::new().await;
    let storage = stage.storage(Acknowledge::Spooled).await;
    let caller = |caller: usize| {
        let storage = storage.clone();
        tokio::spawn(async move {
            let mut receipts = Vec::new();
            for number in 0..500 {
                match storage.store_log(log(&format!("{caller} {number}"))) {
                    Ok(receipt) => receipts.push(receipt),
                    Err(refused) => assert_eq!(refused, StoreRefused::Closed),
                }
                tokio::task::yield_now().await;
            }
            join_all(receipts).await.into_iter().flatten().count()
        })
    };
    let callers: Vec<_> = (0..8).map(caller).collect();
    tokio::time::sleep(Duration::from_millis(5)).await;
    storage.cleanup().await.unwrap();
    let good: usize = join_all(callers).await.into_iter().map(|caller| caller.expect("no caller panics")).sum();
    assert_eq!(stage.count("otel_logs").await, good as i64);
}

#[tokio::test]
async fn a_panic_in_a_task_of_the_caller_costs_nobody_else() {
    let stage = Stage::new().await;
    let storage = stage.storage(Acknowledge::Stored).await;
    let clone = storage.clone();
    let panicked = tokio::spawn(async move {
        let receipt = clone.store_log(log("before the panic")).unwrap();
        assert!(receipt.await.is_err(), "it is stored, so this panics with the handle in hand");
    });
    assert!(panicked.await.unwrap_err().is_panic());
    storage.store_log(log("after it")).unwrap().await.unwrap();
    assert_eq!(stage.count("otel_logs").await, 2);
    storage.cleanup().await.unwrap();
}

#[tokio::test]
async fn dropped_without_cleanup_it_cleans_up_in_the_background() {
    let stage = Stage::new().await;
    let storage = stage.storage(Acknowledge::Spooled).await;
    let receipt = storage.store_log(log("kept")).unwrap();
    drop(storage);
    receipt.await.unwrap();
    stage.await_count("otel_logs", 1).await;
}

#[test]
fn without_a_runtime_it_stores_and_refuses_questions() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let stage = runtime.block_on(Stage::new());
    let storage = stage.builder().build().unwrap();
    futures::executor::block_on(async {
        storage.init().await.unwrap();
        storage.store_log(log("from elsewhere")).unwrap().await.unwrap();
        assert!(storage.health().await.unwrap().is_healthy);
        assert!(matches!(storage.get_log("x").await, Err(QueryError::Unavailable { .. })));
        storage.cleanup().await.unwrap();
    });
    assert_eq!(runtime.block_on(stage.count("otel_logs")), 1);
}

#[test]
fn a_runtime_that_is_shut_down_or_blocked_under_it_holds_nothing_up() {
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (outer, inner) = (runtime(), runtime());
    let stage = outer.block_on(Stage::new());
    let (storage, before) = inner.block_on(async {
        let storage = stage.builder().acknowledge(Acknowledge::Stored).build().unwrap();
        storage.init().await.unwrap();
        assert!(storage.services(TimeRange::asked(None, None).unwrap()).await.is_ok(), "a connection lives there");
        // The only thread of this runtime does nothing else meanwhile.
        futures::executor::block_on(storage.store_log(log("while it is blocked")).unwrap()).unwrap();
        let before = storage.store_log(log("before it ends")).unwrap();
        (storage, before)
    });
    inner.shutdown_timeout(Duration::from_secs(10));
    outer.block_on(async {
        before.await.unwrap();
        storage.store_log(log("after it ended")).unwrap().await.unwrap();
        storage.flush().await.unwrap();
        assert!(storage.health().await.unwrap().is_healthy);
        assert!(storage.services(TimeRange::asked(None, None).unwrap()).await.is_ok());
        storage.cleanup().await.unwrap();
        assert_eq!(stage.count("otel_logs").await, 3);
    });
}

#[tokio::test]
async fn without_a_url_it_brings_its_own_database() {
    let dir = tempfile::tempdir().unwrap();
    let storage = OtelStorage::builder().data_dir(dir.path()).embedding(EmbeddingChoice::None).min_free_bytes(0);
    let storage = storage.acknowledge(Acknowledge::Stored).build().unwrap();
    storage.init().await.unwrap();
    storage.store_log(log("at home")).unwrap().await.unwrap();
    let health = storage.health().await.unwrap();
    assert!(
        health.is_healthy && health.database.is_embedded && health.database.pgvector_version.is_some(),
        "{health:?}"
    );
    let sql = oneiric_otel::query::SqlRequest::new("SELECT count(*) FROM logs");
    assert_eq!(storage.custom_query(&sql).await.unwrap().rows.len(), 1);
    storage.cleanup().await.unwrap();
}

#[path = "../../examples/adapter.rs"]
#[expect(dead_code, reason = "its main is not called")]
mod example;

#[tokio::test]
async fn the_example_finds_a_failure_like_another() {
    let test = TestDatabase::create().await;
    example::run(Some(test.url().to_owned())).await.unwrap();
    assert_eq!(test.count("SELECT count(*) FROM otel.otel_traces").await, 3);
}
