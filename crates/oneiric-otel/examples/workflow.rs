//! A small workflow engine: runs work on several repositories at the same time, tasks fail and are tried again, and its
//! log, spans and metrics go into PostgreSQL and, if there is one, to an OTLP endpoint. Afterwards it asks which earlier
//! runs failed like the last one.
//!
//!     cargo run -p oneiric-otel --features embedded,forward,local-model --example workflow
//!
//! All that can be set comes from variables that begin with `WORKFLOWS_OTEL_STORAGE__`. Without any it brings its own
//! PostgreSQL. To send to an OTLP endpoint too:
//!
//!     WORKFLOWS_OTEL_STORAGE__STORAGE_BACKEND=both WORKFLOWS_OTEL_STORAGE__OTLP__ENDPOINT=http://127.0.0.1:4318

#![expect(clippy::print_stdout, reason = "a program that reports")]

use std::error::Error;
use std::time::{Duration, Instant};

use oneiric_otel::manager::{Counter, Histogram, ManagerBuilder, ManagerOptions, ObservabilityManager, SpanGuard};
use oneiric_otel::query::{LogsRequest, SimilarRequest, TraceFilter};
use oneiric_otel::settings::Settings;
use oneiric_otel::storage::{Level, OtelStorage, TraceId};
use tokio::task::JoinSet;

const REPOSITORIES: [&str; 4] = ["fastblocks", "crackerjack", "session-buddy", "mahavishnu"];
const TASKS: [&str; 3] = ["fetch_repo", "run_tests", "merge_pr"];
const ATTEMPTS: u64 = 3;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let settings = Settings::from_env("WORKFLOWS_OTEL_STORAGE__")?;
    let report = run(&settings).await?;
    println!("{} runs, {} of them failed", report.runs.len(), report.failed.len());
    Ok(())
}

/// What came of it.
#[derive(Debug, Default)]
pub(crate) struct Report {
    pub(crate) runs: Vec<TraceId>,
    pub(crate) failed: Vec<TraceId>,
    /// Runs that failed like the last one.
    pub(crate) similar: Vec<TraceId>,
}

/// Works on the database, and sends to the endpoint, that the settings name.
pub(crate) async fn run(settings: &Settings) -> Result<Report, Box<dyn Error>> {
    let mut options = ManagerOptions::from_settings(settings)?;
    // For the sake of the example traces are looked at as soon as they are there.
    options.storage.derive.quiet_after_root = Duration::ZERO;
    let manager = ManagerBuilder::from(options).service_name("workflows").build()?;
    manager.init().await?;

    let engine = Engine::new(&manager)?;
    let mut report = Report::default();
    let mut runs: JoinSet<(TraceId, bool)> = (1..=6).map(|number| engine.clone().workflow(number)).collect();
    while let Some(run) = runs.join_next().await {
        let (trace_id, failed) = run?;
        report.runs.push(trace_id);
        report.failed.extend(failed.then_some(trace_id));
    }
    let (last, failed) = engine.workflow(8).await;
    report.runs.push(last);
    report.failed.extend(failed.then_some(last));

    // Everything is durable now; it is derived and embedded in the background.
    manager.flush().await?;
    let storage = manager.storage().ok_or("a database")?;
    report.similar = failed_alike(storage, last, &report.failed).await?;
    let request =
        LogsRequest { trace_id: Some(last), level: Some("error".into()), limit: 10, ..LogsRequest::default() };
    for entry in manager.get_logs(&request).await?.logs {
        println!("{} {}", entry.severity_text.unwrap_or_default(), entry.body.unwrap_or_default());
    }
    if let Some(otlp) = manager.health().await.otlp {
        println!("{} requests wait for {}", otlp.waiting(), otlp.endpoint);
    }
    manager.shutdown().await?;
    Ok(report)
}

/// Waits until all these runs have been derived and embedded, and finds those that failed like this one.
async fn failed_alike(
    storage: &OtelStorage,
    trace_id: TraceId,
    failed: &[TraceId],
) -> Result<Vec<TraceId>, Box<dyn Error>> {
    for trace_id in failed {
        while storage.get_trace_summary(*trace_id).await.is_err() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    loop {
        let health = storage.health().await?.database;
        if (health.traces_to_derive, health.texts_to_embed) == (Some(0), Some(0)) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let request = SimilarRequest { trace_id, threshold: 0.85, limit: 10, filter: TraceFilter::default() };
    let mut similar = Vec::new();
    for hit in storage.find_similar_traces(&request).await?.hits {
        println!("{:.2}  {} runs: {}", hit.score, hit.trace_count, hit.text);
        similar.push(hit.newest.trace_id);
    }
    Ok(similar)
}

/// Why a task fails.
#[derive(Debug, Clone, PartialEq, Eq)]
struct TaskError(String);

impl std::fmt::Display for TaskError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl Error for TaskError {}

#[derive(Clone)]
struct Engine {
    manager: ObservabilityManager,
    runs: Counter,
    retries: Counter,
    durations: Histogram,
}

impl Engine {
    fn new(manager: &ObservabilityManager) -> Result<Self, Box<dyn Error>> {
        Ok(Self {
            runs: manager.counter("workflow.runs", "{run}", "Runs that have ended")?,
            retries: manager.counter("workflow.task.retries", "{retry}", "Tasks that were tried again")?,
            durations: manager.histogram(
                "workflow.task.duration",
                "s",
                "How long a try took",
                &[0.001, 0.01, 0.1, 1.0],
            )?,
            manager: manager.clone(),
        })
    }

    /// All repositories at the same time. Says whether the run failed.
    async fn workflow(self, number: u64) -> (TraceId, bool) {
        let workflow = self.manager.start_workflow_trace(&format!("run-{number}"), "nightly", [("trigger", "cron")]);
        let mut repositories = JoinSet::new();
        for repository in REPOSITORIES {
            let span = workflow.repository("process_repository", repository);
            repositories.spawn(self.clone().repository(number, repository, span));
        }
        let ended = repositories.join_all().await;
        let error = ended.into_iter().find_map(Result::err).map(|error| error.to_string());
        let trace_id = workflow.trace_id();
        self.runs.add(1, [("failed", error.is_some())]);
        // A record that is refused is counted; a run does not fail for it.
        drop(match &error {
            Some(error) => {
                self.manager.log_error(format!("run failed: {error}"), [("run", number as i64)], Some(trace_id))
            }
            None => self.manager.log_info("run done", [("run", number as i64)], Some(trace_id)),
        });
        drop(self.manager.end_workflow_trace(workflow, error.as_deref()));
        (trace_id, error.is_some())
    }

    async fn repository(self, number: u64, repository: &str, mut span: SpanGuard) -> Result<(), TaskError> {
        for task in TASKS {
            if let Err(error) = self.task(number, repository, task, &span).await {
                span.set_error(&error.to_string());
                return Err(error);
            }
        }
        span.set_ok();
        Ok(())
    }

    async fn task(&self, number: u64, repository: &str, name: &str, within: &SpanGuard) -> Result<(), TaskError> {
        let mut attempt = 1;
        loop {
            let mut span = within.task(name);
            span.set_attribute("attempt", attempt as i64);
            let began = Instant::now();
            let outcome = work(number, repository, name, attempt).await;
            self.durations.record(began.elapsed().as_secs_f64(), [("task", name)]);
            let Err(error) = outcome else {
                span.set_ok();
                return Ok(());
            };
            span.fail(&error);
            let level = if attempt < ATTEMPTS { Level::Warn } else { Level::Error };
            drop(span.log(level, format!("{name} failed: {error}"), [("attempt", attempt as i64)]));
            if attempt == ATTEMPTS {
                return Err(error);
            }
            self.retries.add(1, [("task", name)]);
            attempt += 1;
        }
    }
}

/// What a task would do, and the failures that it is to have: every other run cannot reach a host, every third fails its
/// tests, and some tasks succeed when they are tried again.
async fn work(number: u64, repository: &str, task: &str, attempt: u64) -> Result<(), TaskError> {
    tokio::time::sleep(Duration::from_millis(number % 3)).await;
    match (repository, task) {
        ("crackerjack", "fetch_repo") if number.is_multiple_of(2) => {
            Err(TaskError(format!("connection timeout after {} s: git.example.com", 30 + number)))
        }
        ("session-buddy", "run_tests") if number.is_multiple_of(3) => Err(TaskError("3 tests failed".to_owned())),
        ("mahavishnu", "merge_pr") if attempt < 2 => Err(TaskError("merge conflict in Cargo.lock".to_owned())),
        _ => Ok(()),
    }
}
