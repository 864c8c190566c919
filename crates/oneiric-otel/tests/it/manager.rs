//! The manager: what it is told is found at each destination, whatever happens to the other one, and no misuse of it hangs
//! or panics.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::time::Duration;

use oneiric_otel::compare::{Summary, Terms, facts};
use oneiric_otel::derive::DeriveOptions;
use oneiric_otel::forward::{Endpoint, ForwardOptions, Protocol};
use oneiric_otel::manager::{
    Backend, Destination, InstrumentError, ManagerBuilder, ManagerOptions, ObservabilityManager,
};
use oneiric_otel::pipeline::{BreakerOptions, Ingest, IngestOptions};
use oneiric_otel::query::{LogsRequest, QueryError, QueryService, TraceId};
use oneiric_otel::settings::{Loader, Settings, SettingsError};
use oneiric_otel::storage::{
    EmbeddingChoice, Level, Origin, OtelStorage, OtelStorageOptions, OtlpDestination, OtlpReport, StorageError,
    StoreRefused, Temporality,
};
use oneiric_otel::store::Database;
use oneiric_otel_server::{Readiness, Server, ServerOptions};
use oneiric_otel_testkit::TestDatabase;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use crate::gate::{Fault, Gate};

/// A database for the manager, and a second server with a database of its own. Both are behind gates.
struct Stage {
    source: TestDatabase,
    target: TestDatabase,
    database: Gate,
    endpoint: Gate,
    /// Through its gate.
    url: String,
    dir: TempDir,
    stop: CancellationToken,
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Stage {
    async fn new() -> Self {
        let (source, target) = (TestDatabase::create().await, TestDatabase::create().await);
        let store = Database::new(target.url()).unwrap();
        store.migrate().await.unwrap();
        let ingest = Ingest::start(store, IngestOptions::default());
        let free = "127.0.0.1:0".to_owned();
        let options =
            ServerOptions { grpc_addr: free.clone(), http_addr: free, api_addr: None, ..ServerOptions::default() };
        let server = Server::bind(options, ingest, Readiness::new(async || Ok(()))).await.unwrap();
        let endpoint = Gate::before(server.http_addr()).await;
        let stop = CancellationToken::new();
        tokio::spawn(server.serve(stop.clone()));
        let (database, url) = Gate::before_database(source.url()).await;
        Self { source, target, database, endpoint, url, dir: tempfile::tempdir().unwrap(), stop }
    }

    fn builder(&self, backend: Backend) -> ManagerBuilder {
        let builder = ObservabilityManager::builder().backend(backend).storage(storage(Some(&self.url), &self.dir));
        if backend == Backend::Postgresql { builder } else { builder.otlp(otlp(&self.endpoint)) }
    }

    async fn manager(&self, backend: Backend) -> ObservabilityManager {
        let manager = self.builder(backend).build().unwrap();
        manager.init().await.unwrap();
        manager
    }

    fn gate(&mut self, destination: Destination) -> &mut Gate {
        match destination {
            Destination::Postgresql => &mut self.database,
            Destination::Otlp => &mut self.endpoint,
        }
    }

    fn behind(&self, destination: Destination) -> &TestDatabase {
        match destination {
            Destination::Postgresql => &self.source,
            Destination::Otlp => &self.target,
        }
    }

    /// Waits until a destination has so many rows; hangs, and so fails, when it never does.
    async fn await_rows(&self, destination: Destination, table: &str, rows: i64) {
        let sql = format!("SELECT count(*) FROM otel.{table}");
        while self.behind(destination).count(&sql).await != rows {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// What the spans of both sides say of each other.
    async fn compare(&self) -> Summary {
        compare(&self.source, &self.target).await
    }
}

/// What two databases say of their traces.
async fn compare(source: &TestDatabase, target: &TestDatabase) -> Summary {
    let mut ids = BTreeSet::new();
    for side in [source, target] {
        let sql = "SELECT DISTINCT trace_id::text FROM otel.otel_spans";
        let rows = side.client().await.query(sql, &[]).await.unwrap();
        ids.extend(rows.iter().map(|row| row.get::<_, String>(0)));
    }
    let service = |side: &TestDatabase| QueryService::new(Database::new(side.url()).unwrap(), None);
    let (here, there) = (service(source), service(target));
    let mut summary = Summary::default();
    for id in ids {
        let trace_id: TraceId = id.parse().unwrap();
        let mut sides = Vec::new();
        for side in [&here, &there] {
            let groups = side.get_trace_otlp(trace_id).await.map_or_else(|_| Vec::new(), |(groups, _)| groups);
            sides.push(groups.iter().flat_map(|group| facts::of_group(group, Terms::Otlp)).collect());
        }
        let there = sides.pop().unwrap();
        if let Some(difference) = summary.add(&id, sides.pop().unwrap(), there) {
            panic!("{difference:#?}");
        }
    }
    summary
}

fn storage(url: Option<&str>, dir: &TempDir) -> OtelStorageOptions {
    OtelStorageOptions {
        connection_string: url.map(str::to_owned),
        data_dir: Some(dir.path().to_owned()),
        origin: Origin::service("workflows"),
        embedding: EmbeddingChoice::None,
        ingest: IngestOptions {
            write_timeout: Duration::from_millis(500),
            breaker: BreakerOptions { open_for: Duration::from_millis(100), ..BreakerOptions::default() },
            ..IngestOptions::default()
        },
        derive: DeriveOptions {
            quiet_after_root: Duration::ZERO,
            interval: Duration::from_millis(50),
            ..DeriveOptions::default()
        },
        ..OtelStorageOptions::default()
    }
}

/// Impatient.
fn otlp(endpoint: &Gate) -> OtlpDestination {
    let usual = otlp_at(&format!("http://{}", endpoint.address));
    let options = ForwardOptions {
        timeout: Duration::from_secs(2),
        retry_backoff: Duration::from_millis(5),
        longest_backoff: Duration::from_millis(50),
        breaker: BreakerOptions { open_for: Duration::from_millis(100), ..BreakerOptions::default() },
        ..usual.options
    };
    OtlpDestination { options, ..usual }
}

fn otlp_at(url: &str) -> OtlpDestination {
    OtlpDestination::new(Endpoint::new(url, Protocol::HttpProtobuf).unwrap())
}

async fn otlp_report(manager: &ObservabilityManager) -> OtlpReport {
    manager.health().await.otlp.unwrap()
}

fn logs_of(trace_id: Option<TraceId>, level: Option<&str>) -> LogsRequest {
    LogsRequest { trace_id, level: level.map(str::to_owned), limit: 100, ..LogsRequest::default() }
}

/// A run with a repository and two tasks, one of which fails, and a log record.
fn failed_run(manager: &ObservabilityManager, number: u64) -> TraceId {
    let workflow = manager.start_workflow_trace(&format!("run-{number}"), "nightly", [("trigger", "cron")]);
    let repository = workflow.repository("process_repository", "fastblocks");
    repository.task("fetch_repo").end().unwrap();
    let mut tests = repository.task("run_tests");
    let error: std::num::ParseIntError = "x".parse::<u8>().unwrap_err();
    tests.fail(&error);
    tests.log(Level::Error, "3 tests failed", [("attempt", 1)]).unwrap();
    drop(tests);
    drop(repository);
    let trace_id = workflow.trace_id();
    manager.end_workflow_trace(workflow, Some("3 tests failed")).unwrap();
    trace_id
}

#[tokio::test]
async fn what_it_is_told_is_found_on_both_sides() {
    let stage = Stage::new().await;
    let manager = stage.manager(Backend::Both).await;
    let trace_id = failed_run(&manager, 17);
    manager.log_debug("begun", [("n", 1)], None).unwrap();
    manager.log_info("goes on", [("n", 2)], None).unwrap();
    manager.log_warning("slow", [("n", 3)], Some(trace_id)).unwrap();
    manager.log_error("broken", [("n", 4)], Some(trace_id)).unwrap();
    manager.log_critical("lost", [("n", 5)], Some(trace_id)).unwrap();
    manager.record_metric("repositories.waiting", 7.5, [("queue", "night")]).unwrap();
    manager.flush().await.unwrap();
    for destination in [Destination::Postgresql, Destination::Otlp] {
        stage.await_rows(destination, "otel_spans", 4).await;
        stage.await_rows(destination, "otel_logs", 6).await;
        stage.await_rows(destination, "otel_metrics", 1).await;
    }
    assert_eq!((stage.compare().await.traces, otlp_report(&manager).await.rejected_records), (1, 0));

    let of_trace = manager.get_logs(&logs_of(Some(trace_id), Some("error"))).await.unwrap().logs;
    let mut told: Vec<_> = of_trace
        .iter()
        .map(|entry| (entry.severity_number, entry.severity_text.as_deref(), entry.body.as_deref().unwrap()))
        .collect();
    told.sort_unstable();
    let expected =
        [(17, Some("ERROR"), "3 tests failed"), (17, Some("ERROR"), "broken"), (21, Some("CRITICAL"), "lost")];
    assert_eq!(told, expected);
    let of_span = of_trace.iter().find(|entry| entry.body.as_deref() == Some("3 tests failed")).unwrap();
    assert_eq!(of_span.attributes["workflow.id"], "run-17");
    assert_eq!(of_span.attributes["vcs.repository.name"], "fastblocks");
    assert_eq!(manager.get_logs(&logs_of(None, None)).await.unwrap().logs.len(), 6);
    let past = LogsRequest { end: Some("2020-01-01T00:00:00Z".parse().unwrap()), ..logs_of(None, None) };
    assert!(manager.get_logs(&past).await.unwrap().logs.is_empty());

    let spans = manager.storage().unwrap().get_trace(trace_id, 10).await.unwrap().spans;
    let named = |name: &str| spans.iter().find(|span| span.name.as_str() == Some(name)).unwrap();
    let (root, repository, tests) = (named("nightly"), named("process_repository"), named("run_tests"));
    assert_eq!((&root.parent_span_id, root.status.code.as_str()), (&None, "error"));
    assert_eq!(root.attributes.get("trigger").and_then(|value| value.as_str()), Some("cron"));
    assert_eq!(repository.parent_span_id.as_ref(), Some(&root.span_id));
    assert_eq!(tests.parent_span_id.as_ref(), Some(&repository.span_id));
    for (key, value) in [
        ("workflow.id", "run-17"),
        ("workflow.name", "nightly"),
        ("workflow.task.name", "run_tests"),
        ("vcs.repository.name", "fastblocks"),
    ] {
        assert_eq!(tests.attributes.get(key).and_then(|value| value.as_str()), Some(value), "{key}");
    }
    assert!(root.attributes.get("vcs.repository.name").is_none());
    assert_eq!(tests.error_type.as_deref(), Some("core::num::error::ParseIntError"));
    assert_eq!(
        tests.events[0].attributes.get("exception.message").unwrap().as_str(),
        Some("invalid digit found in string")
    );
    assert!(spans.iter().all(|span| span.duration_ns >= 0));
    manager.shutdown().await.unwrap();
}

/// Both go on while one of them fails, and what was missed is made up for.
async fn the_other_goes_on(failing: Destination, fault: Fault) {
    let mut stage = Stage::new().await;
    let manager = stage.manager(Backend::Both).await;
    let other = if failing == Destination::Otlp { Destination::Postgresql } else { Destination::Otlp };
    failed_run(&manager, 0);
    stage.await_rows(failing, "otel_spans", 4).await;
    stage.gate(failing).fail(fault).await;
    for number in 1..=20 {
        failed_run(&manager, number);
        // One by one, so that there are many requests.
        manager.flush().await.unwrap();
    }
    stage.await_rows(other, "otel_spans", 84).await;
    stage.await_rows(other, "otel_logs", 21).await;
    let missed = stage.behind(failing).count("SELECT count(*) FROM otel.otel_spans").await;
    assert_eq!(missed, 4, "nothing passes the gate");
    match failing {
        Destination::Otlp => while otlp_report(&manager).await.circuit_breakers["traces"] == "closed" {},
        Destination::Postgresql => {
            let health = manager.health().await;
            assert!(!health.is_healthy && health.problems[0].starts_with("postgresql: "), "{health:?}");
            assert!(health.problems.iter().all(|problem| !problem.starts_with("otlp: ")), "{health:?}");
        }
    }
    stage.gate(failing).recover().await;
    stage.await_rows(failing, "otel_spans", 84).await;
    stage.await_rows(failing, "otel_logs", 21).await;
    let summary = stage.compare().await;
    assert_eq!((summary.traces, summary.same_traces), (21, 21));
    let health = manager.health().await;
    assert_eq!(health.refused_records.values().sum::<u64>(), 0);
    manager.shutdown().await.unwrap();
}

#[tokio::test]
async fn an_endpoint_that_is_down_costs_the_database_nothing() {
    the_other_goes_on(Destination::Otlp, Fault::Down).await;
}

#[tokio::test]
async fn an_endpoint_that_hangs_costs_the_database_nothing() {
    the_other_goes_on(Destination::Otlp, Fault::Hanging).await;
}

#[tokio::test]
async fn a_database_that_is_down_costs_the_endpoint_nothing() {
    the_other_goes_on(Destination::Postgresql, Fault::Down).await;
}

#[tokio::test]
async fn a_database_that_hangs_costs_the_endpoint_nothing() {
    the_other_goes_on(Destination::Postgresql, Fault::Hanging).await;
}

#[tokio::test]
async fn a_full_queue_before_one_destination_is_told_and_the_other_has_everything() {
    let stage = Stage::new().await;
    // Nothing listens there, and the spool is small.
    let away = otlp_at("http://127.0.0.1:1");
    let away = OtlpDestination { options: ForwardOptions { max_bytes: 256 << 10, ..away.options }, ..away };
    let options = OtelStorageOptions {
        queue_max_bytes: 1 << 20,
        cleanup_timeout: Duration::from_secs(1),
        ..storage(Some(&stage.url), &stage.dir)
    };
    let manager = ObservabilityManager::builder().backend(Backend::Both).storage(options).otlp(away).build().unwrap();
    manager.init().await.unwrap();
    let text = "x".repeat(50_000);
    let mut sent = 0;
    let refusal = loop {
        sent += 1;
        if let Err(refusal) = manager.log_info(text.as_str(), [("n", sent)], None) {
            break refusal;
        }
        // The database keeps up.
        manager.storage().unwrap().flush().await.unwrap();
    };
    assert_eq!(refusal.destination, Destination::Otlp);
    assert!(matches!(refusal.reason, StoreRefused::QueueFull { .. }), "{refusal}");
    assert_eq!(manager.health().await.refused_records[&Destination::Otlp], 1);
    stage.await_rows(Destination::Postgresql, "otel_logs", sent.into()).await;
    let error = manager.shutdown().await.unwrap_err();
    assert!(error.failures.iter().all(|(destination, _)| *destination == Destination::Otlp), "{error}");
}

#[tokio::test]
async fn delta_points_for_which_there_is_no_room_come_with_the_next_collection() {
    let mut stage = Stage::new().await;
    stage.endpoint.fail(Fault::Down).await;
    let to = otlp(&stage.endpoint);
    let to = OtlpDestination { options: ForwardOptions { max_bytes: 256 << 10, ..to.options }, ..to };
    let options = OtelStorageOptions { queue_max_bytes: 1 << 20, ..storage(None, &stage.dir) };
    let builder = ObservabilityManager::builder().backend(Backend::Otlp).storage(options).otlp(to);
    let manager = builder.temporality(Temporality::Delta).metric_interval(Duration::from_millis(20)).build().unwrap();
    manager.init().await.unwrap();
    let runs = manager.counter("runs", "{run}", "").unwrap();
    let text = "x".repeat(50_000);
    while manager.log_info(text.as_str(), [("n", 1)], None).is_ok() {}
    let refused = manager.health().await.refused_records[&Destination::Otlp];
    for _ in 0..5 {
        // Enough that the queue has no room for it.
        for label in 0..100 {
            runs.add(1, [("label", format!("{label}{}", "y".repeat(1000)))]);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(manager.health().await.refused_records[&Destination::Otlp], refused);
    stage.endpoint.recover().await;
    let told = "SELECT coalesce(sum(value_int), 0)::bigint FROM otel.otel_metrics";
    while stage.target.count(told).await != 500 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    manager.shutdown().await.unwrap();
}

#[tokio::test]
async fn with_otlp_no_database_is_needed() {
    let stage = Stage::new().await;
    let options = storage(None, &stage.dir);
    let builder = ObservabilityManager::builder().backend(Backend::Otlp).storage(options);
    let manager = builder.store_logs(false).otlp(otlp(&stage.endpoint)).build().unwrap();
    manager.init().await.unwrap();
    failed_run(&manager, 1);
    manager.record_metric("a", 1.0, [("b", "c")]).unwrap();
    manager.shutdown().await.unwrap();
    stage.await_rows(Destination::Otlp, "otel_spans", 4).await;
    stage.await_rows(Destination::Otlp, "otel_logs", 1).await;
    stage.await_rows(Destination::Otlp, "otel_metrics", 1).await;
    assert!(manager.storage().is_none());
    let refused = manager.get_logs(&logs_of(None, None)).await;
    assert!(matches!(refused, Err(QueryError::Unavailable { .. })));
}

#[tokio::test]
async fn flags_say_what_the_database_stores() {
    let stage = Stage::new().await;
    let tables = ["otel_spans", "otel_metrics", "otel_logs"];
    for (off, table) in tables.iter().enumerate() {
        let builder = stage.builder(Backend::Both);
        let builder = builder.store_traces(off != 0).store_metrics(off != 1).store_logs(off != 2);
        let manager = builder.build().unwrap();
        manager.init().await.unwrap();
        let count = async || stage.source.count(&format!("SELECT count(*) FROM otel.{table}")).await;
        let before = count().await;
        failed_run(&manager, 1);
        manager.record_metric("a", 1.0, [("b", "c")]).unwrap();
        manager.shutdown().await.unwrap();
        assert_eq!(count().await, before, "{table}");
    }
    for (table, rows) in [("otel_spans", 4), ("otel_metrics", 1), ("otel_logs", 1)] {
        stage.await_rows(Destination::Otlp, table, 3 * rows).await;
        stage.await_rows(Destination::Postgresql, table, 2 * rows).await;
    }
}

#[tokio::test]
async fn before_init_and_after_shutdown_there_are_typed_errors_and_counts() {
    let stage = Stage::new().await;
    let manager = stage.builder(Backend::Both).build().unwrap();
    let counter = manager.counter("runs", "{run}", "").unwrap();
    counter.add(1, [("when", "before")]);
    let early = manager.log_info("early", [("n", 1)], None).unwrap_err();
    assert_eq!((early.destination, early.reason), (Destination::Postgresql, StoreRefused::NotInitialised));
    drop(manager.start_workflow_trace("run-0", "early", [("n", 1)]));
    assert!(manager.flush().await.unwrap_err().to_string().contains("not initialised"));
    assert!(manager.shutdown().await.unwrap_err().to_string().contains("not initialised"));
    assert!(matches!(manager.get_logs(&logs_of(None, None)).await, Err(QueryError::Unavailable { .. })));
    let health = manager.health().await;
    assert!(!health.is_healthy && health.problems.len() == 2, "{health:?}");
    manager.init().await.unwrap();
    assert!(manager.init().await.unwrap_err().to_string().contains("initialised already"));
    let open = manager.start_workflow_trace("run-1", "open", [("n", 1)]);
    manager.shutdown().await.unwrap();
    manager.shutdown().await.unwrap();
    // The point that was made before `init`.
    stage.await_rows(Destination::Postgresql, "otel_metrics", 1).await;
    drop(open);
    counter.add(1, [("when", "after")]);
    let late = manager.record_metric("late", 1.0, [("n", 1)]).unwrap_err();
    assert_eq!(late.reason, StoreRefused::Closed);
    assert!(manager.init().await.is_err() && manager.flush().await.is_err());
    let health = manager.health().await;
    // The log record and the span, and afterwards the span and the value.
    let refused = health.refused_records[&Destination::Otlp];
    assert_eq!((refused, health.refused_records[&Destination::Postgresql]), (4, 4));
    assert_eq!(health.ignored_measurements, 1);
}

#[tokio::test]
async fn a_destination_that_cannot_start_does_not_keep_the_other_from_working() {
    let stage = Stage::new().await;
    let options = storage(Some("mysql://u:secret@h/d"), &stage.dir);
    let builder = ObservabilityManager::builder().backend(Backend::Both).storage(options);
    let manager = builder.otlp(otlp(&stage.endpoint)).build().unwrap();
    let error = manager.init().await.unwrap_err();
    assert_eq!(error.failures.len(), 1);
    let shown = error.to_string();
    assert!(shown.starts_with("postgresql: ") && !shown.contains("secret"), "{shown}");
    assert!(manager.log_error("still sent", [("n", 1)], None).is_err(), "it is said that it is not stored");
    stage.await_rows(Destination::Otlp, "otel_logs", 1).await;
    assert!(manager.init().await.is_err());
    assert!(manager.shutdown().await.unwrap_err().to_string().contains("not initialised"));
    let error = manager.init().await.unwrap_err().to_string();
    assert_eq!(error, "postgresql: the storage is closed; otlp: the storage is closed");
}

#[tokio::test]
async fn a_manager_that_is_dropped_stores_what_was_measured_and_its_endpoint_gets_what_another_left() {
    let mut stage = Stage::new().await;
    let manager = stage.manager(Backend::Postgresql).await;
    let runs = manager.counter("runs", "{run}", "").unwrap();
    runs.add(1, [("n", 1)]);
    drop(manager);
    stage.await_rows(Destination::Postgresql, "otel_metrics", 1).await;

    stage.endpoint.fail(Fault::Down).await;
    let options = OtelStorageOptions {
        cleanup_timeout: Duration::from_secs(1),
        left_spools_interval: Duration::from_millis(50),
        ..storage(None, &stage.dir)
    };
    let builder = ObservabilityManager::builder().backend(Backend::Otlp).storage(options).otlp(otlp(&stage.endpoint));
    let (first, second) = (builder.clone().build().unwrap(), builder.build().unwrap());
    first.init().await.unwrap();
    second.init().await.unwrap();
    failed_run(&first, 1);
    first.shutdown().await.unwrap();
    stage.endpoint.recover().await;
    stage.await_rows(Destination::Otlp, "otel_spans", 4).await;
    second.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_workflow_ends_as_its_guard_says_and_own_attributes_win() {
    let stage = Stage::new().await;
    let manager = stage.manager(Backend::Postgresql).await;
    let mut workflow = manager.start_workflow_trace("run-1", "nightly", [("workflow.id", "mine")]);
    workflow.set_error("no answer");
    workflow.log(Level::Warn, "slow", [("workflow.name", "other")]).unwrap();
    let trace_id = workflow.trace_id();
    manager.end_workflow_trace(workflow, None).unwrap();
    manager.flush().await.unwrap();
    stage.await_rows(Destination::Postgresql, "otel_spans", 1).await;
    stage.await_rows(Destination::Postgresql, "otel_logs", 1).await;
    let root = &manager.storage().unwrap().get_trace(trace_id, 10).await.unwrap().spans[0];
    assert_eq!((root.status.code.as_str(), root.status.message.as_str()), ("error", Some("no answer")));
    let keys: Vec<_> = root.attributes.0.iter().map(|(key, _)| key.as_str()).collect();
    assert_eq!(keys, ["workflow.name", "workflow.id"]);
    let entry = &manager.get_logs(&logs_of(Some(trace_id), None)).await.unwrap().logs[0];
    assert_eq!(
        (entry.severity_text.as_deref(), &entry.attributes["workflow.name"]),
        (Some("WARNING"), &"other".into())
    );
    manager.shutdown().await.unwrap();
}

#[tokio::test]
async fn an_endpoint_that_hangs_does_not_hold_up_the_shutdown_and_the_next_process_sends() {
    let mut stage = Stage::new().await;
    stage.endpoint.fail(Fault::Hanging).await;
    let options = OtelStorageOptions { cleanup_timeout: Duration::from_secs(1), ..storage(None, &stage.dir) };
    let builder = ObservabilityManager::builder().backend(Backend::Otlp).storage(options);
    let builder = builder.otlp(otlp(&stage.endpoint));
    let manager = builder.clone().build().unwrap();
    manager.init().await.unwrap();
    failed_run(&manager, 1);
    manager.flush().await.unwrap();
    manager.shutdown().await.unwrap();
    stage.endpoint.recover().await;
    let next = builder.build().unwrap();
    next.init().await.unwrap();
    stage.await_rows(Destination::Otlp, "otel_spans", 4).await;
    next.shutdown().await.unwrap();
}

#[tokio::test]
async fn guards_end_by_being_dropped_by_panics_and_on_other_threads() {
    let stage = Stage::new().await;
    let manager = stage.manager(Backend::Postgresql).await;
    let workflow = manager.start_workflow_trace("run-1", "nightly", [("n", 1)]);
    let trace_id = workflow.trace_id();
    assert_eq!(workflow.traceparent(), format!("00-{trace_id}-{}-01", workflow.span_id()));
    let guard = workflow.task("panics");
    let panicked = tokio::spawn(async move {
        assert!(guard.traceparent().is_empty(), "it is not, so this panics");
    });
    assert!(panicked.await.unwrap_err().is_panic());
    let mut elsewhere = workflow.child("elsewhere");
    let thread = std::thread::spawn(move || {
        elsewhere.set_attribute("n", 1);
        elsewhere.set_attribute("n", 2);
        elsewhere.set_error("no");
        elsewhere.set_ok();
    });
    thread.join().unwrap();
    drop(workflow);
    manager.flush().await.unwrap();
    stage.await_rows(Destination::Postgresql, "otel_spans", 3).await;
    let spans = manager.storage().unwrap().get_trace(trace_id, 10).await.unwrap().spans;
    let named = |name: &str| spans.iter().find(|span| span.name.as_str() == Some(name)).unwrap();
    assert_eq!(named("panics").status.code, "error");
    assert_eq!(named("nightly").status.code, "unset");
    let elsewhere = named("elsewhere");
    assert_eq!(
        (elsewhere.status.code.as_str(), elsewhere.attributes.0.iter().filter(|(key, _)| key == "n").count()),
        ("ok", 1)
    );
    manager.shutdown().await.unwrap();
}

#[tokio::test]
async fn counters_and_histograms_are_collected_by_themselves() {
    for temporality in [Temporality::Cumulative, Temporality::Delta] {
        let stage = Stage::new().await;
        let builder = stage.builder(Backend::Postgresql).temporality(temporality).label_sets(3);
        let manager = builder.metric_interval(Duration::from_millis(10)).build().unwrap();
        manager.init().await.unwrap();
        let runs = manager.counter("runs", "{run}", "Runs").unwrap();
        let took = manager.histogram("took", "s", "Durations", &[1.0, 10.0]).unwrap();
        let other = manager.up_down_counter("runs", "{run}", "Runs").unwrap_err();
        assert_eq!(other, InstrumentError::Different { name: "runs".to_owned() });
        runs.add(2, [("queue", "night")]);
        took.record(3.5, [("queue", "night")]);
        let points = "SELECT count(*) FROM otel.otel_metrics";
        // By the thread, not by a flush.
        while stage.source.count(points).await < 2 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        for queue in ["day", "noon", "dawn"] {
            runs.add(1, [("queue", queue)]);
        }
        runs.add(3, [("queue", "night")]);
        manager.shutdown().await.unwrap();
        // What all label sets add up to: of cumulative points the last, of delta points all.
        let value = match temporality {
            Temporality::Cumulative => "max(value_int)",
            Temporality::Delta => "sum(value_int)",
        };
        let sql = format!(
            "SELECT sum(value)::bigint FROM (SELECT {value} AS value FROM otel.otel_metrics WHERE series_id IN \
             (SELECT series_id FROM otel.otel_metric_series WHERE metric_name = 'runs') \
             GROUP BY series_id) AS series"
        );
        assert_eq!(stage.source.count(&sql).await, 8, "{temporality:?}");
        let health = manager.health().await;
        assert!(health.overflowed_measurements >= 1 || temporality == Temporality::Delta, "{health:?}");
    }
}

#[tokio::test]
async fn wrong_options_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let builder = || ObservabilityManager::builder().storage(storage(Some("postgresql://u@h/d"), &dir));
    let endpoint = || otlp_at("http://127.0.0.1:1");
    let no_queue = OtelStorageOptions { queue_max_bytes: 1, ..storage(None, &dir) };
    for (name, builder) in [
        ("otlp", builder().backend(Backend::Both)),
        ("otlp", builder().backend(Backend::Otlp)),
        ("otlp", builder().otlp(endpoint())),
        ("metric_interval", builder().metric_interval(Duration::ZERO)),
        ("label_sets", builder().label_sets(1)),
        ("queue_max_bytes", builder().storage(no_queue).backend(Backend::Otlp).otlp(endpoint())),
    ] {
        let error = builder.build().unwrap_err().to_string();
        assert!(error.starts_with(&format!("{name}: expected")), "{error}");
    }
}

const PREFIX: &str = "MAHAVISHNU_OTEL_STORAGE__";

/// Settings out of variables with a host's prefix.
fn host_settings(variables: &[(&str, &str)]) -> Result<Settings, SettingsError> {
    let named = variables.iter().map(|(name, value)| (format!("{PREFIX}{name}"), OsString::from(value)));
    Loader::new().variables(PREFIX, named).finish().map(|resolved| resolved.settings)
}

#[tokio::test]
async fn a_host_takes_everything_from_its_variables() {
    let stage = Stage::new().await;
    let endpoint = format!("http://{}", stage.endpoint.address);
    let settings = host_settings(&[
        ("STORAGE_BACKEND", "both"),
        ("CONNECTION_STRING", &stage.url),
        ("DATA_DIR", stage.dir.path().to_str().unwrap()),
        ("ACK", "stored"),
        ("STORE_METRICS", "false"),
        ("OTLP__ENDPOINT", &endpoint),
        ("OTLP__HEADERS", "x-team=night%20shift"),
        ("APPLICATION__SERVICE_NAME", "mahavishnu"),
        ("APPLICATION__CLEANUP_TIMEOUT_SECONDS", "60"),
        ("APPLICATION__METRIC_TEMPORALITY", "delta"),
    ]);
    let settings = settings.unwrap();
    let options = ManagerOptions::from_settings(&settings).unwrap();
    assert_eq!((options.backend, options.temporality), (Backend::Both, Temporality::Delta));
    assert_eq!(options.storage.cleanup_timeout, Duration::from_mins(1));
    let builder = ManagerBuilder::from_settings(&settings).unwrap();
    // What the program says wins.
    let manager = builder.storage(OtelStorageOptions { embedding: EmbeddingChoice::None, ..options.storage }).build();
    let manager = manager.unwrap();
    manager.init().await.unwrap();
    failed_run(&manager, 1);
    manager.counter("runs", "{run}", "").unwrap().add(1, [("a", "b")]);
    manager.shutdown().await.unwrap();
    for destination in [Destination::Postgresql, Destination::Otlp] {
        stage.await_rows(destination, "otel_spans", 4).await;
        stage.await_rows(destination, "otel_logs", 1).await;
        let metrics = i64::from(destination == Destination::Otlp);
        stage.await_rows(destination, "otel_metrics", metrics).await;
        let named = "SELECT count(*) FROM otel.spans WHERE service_name = 'mahavishnu'";
        assert_eq!(stage.behind(destination).count(named).await, 4);
    }
    assert_eq!(stage.compare().await.same_traces, 1);
    ObservabilityManager::from_settings(&settings).unwrap();
    OtelStorage::from_settings(&settings).unwrap();
}

#[test]
fn wrong_settings_are_named_wherever_they_are_found() {
    let refused = |variables: &[(&str, &str)]| match host_settings(variables) {
        Err(error) => error.to_string(),
        Ok(settings) => ObservabilityManager::from_settings(&settings).unwrap_err().to_string(),
    };
    let both = |name, value| vec![("STORAGE_BACKEND", "both"), ("OTLP__ENDPOINT", "http://h:4318"), (name, value)];
    for (variables, expected) in [
        (vec![("STORAGE_BACKEND", "jaeger")], "STORAGE_BACKEND: storage_backend: expected otlp, postgresql or both"),
        (vec![("STORAGE_BACKEND", "otlp")], "otlp.endpoint: storage_backend is otlp or both"),
        (vec![("OTLP__ENDPOINT", "http://h:1")], "otlp.endpoint: storage_backend is postgresql"),
        (both("OTLP__HEADERS", "content-type=s3cr3t"), "otlp.headers: "),
        (both("OTLP__HEADERS", "a=%00s3cr3t"), "otlp.headers: "),
        (both("OTLP__CA", "/no/such"), "otlp.ca: "),
        (both("OTLP__PROTOCOL", "grpc"), ""),
        (vec![("STORAGE_BACKEND", "otlp"), ("OTLP__ENDPOINT", "http://u:s3cr3t@h:1")], "otlp.endpoint: expected"),
        (vec![("APPLICATION__THREADS", "0")], "application.threads: expected a whole number from 1 to 64"),
        (vec![("APPLICATION__SERVICE_NAM", "x")], "the nearest one is application.service_name"),
    ] {
        if expected.is_empty() {
            ObservabilityManager::from_settings(&host_settings(&variables).unwrap()).unwrap();
            continue;
        }
        let error = refused(&variables);
        assert!(error.contains(expected) && !error.contains("s3cr3t"), "{variables:?}: {error}");
    }
    // A program makes its own settings too.
    let settings = Settings { batch_size: 1, ..Settings::default() };
    let error = OtelStorage::from_settings(&settings).unwrap_err();
    assert!(matches!(error, StorageError::Settings(_)) && error.to_string().contains("batch_size"), "{error}");
}

#[test]
fn a_runtime_that_is_shut_down_under_it_holds_nothing_up() {
    let runtime = || tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let (outer, inner) = (runtime(), runtime());
    let stage = outer.block_on(Stage::new());
    let (manager, open) = inner.block_on(async {
        let manager = stage.manager(Backend::Both).await;
        failed_run(&manager, 1);
        let open = manager.start_workflow_trace("run-2", "open", [("n", 1)]);
        (manager, open)
    });
    inner.shutdown_background();
    drop(open);
    manager.log_info("after it ended", [("n", 1)], None).unwrap();
    outer.block_on(async {
        manager.flush().await.unwrap();
        for destination in [Destination::Postgresql, Destination::Otlp] {
            stage.await_rows(destination, "otel_spans", 5).await;
            stage.await_rows(destination, "otel_logs", 2).await;
        }
        manager.shutdown().await.unwrap();
    });
    // No runtime is needed to end it either.
    let manager = outer.block_on(stage.manager(Backend::Both));
    futures::executor::block_on(manager.shutdown()).unwrap();
    let _guard = outer.enter();
    drop(stage);
}

#[path = "../../examples/workflow.rs"]
#[expect(dead_code, reason = "its main is not called")]
mod example;

#[tokio::test]
async fn the_example_finds_runs_that_failed_alike_and_both_sides_have_all_of_it() {
    let mut stage = Stage::new().await;
    let url = format!("http://{}", stage.endpoint.address);
    let settings = host_settings(&[
        ("STORAGE_BACKEND", "both"),
        ("CONNECTION_STRING", &stage.url),
        ("DATA_DIR", stage.dir.path().to_str().unwrap()),
        ("OTLP__ENDPOINT", &url),
    ]);
    let settings = settings.unwrap();
    for (run, fault) in [(1, None), (2, Some(Fault::Down))] {
        let settings = settings.clone();
        let running = tokio::spawn(async move { example::run(&settings).await.map_err(|error| error.to_string()) });
        if let Some(fault) = fault {
            stage.endpoint.fail(fault).await;
            while stage.source.count("SELECT count(*) FROM otel.otel_spans").await < 200 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            stage.endpoint.recover().await;
        }
        let report = running.await.unwrap().unwrap();
        assert_eq!((report.runs.len(), report.failed.len()), (7, 5));
        assert!(!report.similar.is_empty(), "{report:?}");
        let spans = stage.source.count("SELECT count(*) FROM otel.otel_spans").await;
        stage.await_rows(Destination::Otlp, "otel_spans", spans).await;
        let summary = stage.compare().await;
        assert_eq!((summary.traces, summary.same_traces), (7 * run, 7 * run));
        for table in ["otel_logs", "otel_metrics"] {
            let rows = stage.source.count(&format!("SELECT count(*) FROM otel.{table}")).await;
            stage.await_rows(Destination::Otlp, table, rows).await;
        }
    }
}
