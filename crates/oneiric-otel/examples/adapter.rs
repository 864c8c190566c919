//! An application that stores its own traces, metrics and logs, and asks which failure is like the last one.
//!
//!     cargo run -p oneiric-otel --features embedded,local-model --example adapter [DATABASE_URL]
//!
//! Without a URL it brings its own PostgreSQL.

#![expect(clippy::print_stdout, reason = "a program that reports")]

use std::error::Error;
use std::time::Duration;

use oneiric_otel::derive::DeriveOptions;
use oneiric_otel::query::{ContextRequest, SimilarRequest, TraceFilter};
use oneiric_otel::storage::{
    Attributes, Batch, Level, LogEntry, MetricData, OtelStorage, SpanData, SpanId, SpanStatus, TraceData, TraceId,
};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    run(std::env::args().nth(1)).await
}

/// Works on the database of this URL, or on one of its own.
pub(crate) async fn run(url: Option<String>) -> Result<(), Box<dyn Error>> {
    let dir = tempfile::tempdir()?;
    let mut builder = OtelStorage::builder().service_name("workflows").data_dir(dir.path()).min_free_bytes(0);
    if let Some(url) = url {
        builder = builder.connection_string(url);
    }
    // For the sake of the example traces are looked at as soon as they are there.
    let derive = DeriveOptions { quiet_after_root: Duration::ZERO, ..DeriveOptions::default() };
    let storage = builder.derive(derive).build()?;
    storage.init().await?;

    let first = failed_run("fetch_repo", "connection timeout after 30 s");
    let second = failed_run("fetch_repo", "connection timeout after 31 s");
    let other = failed_run("run_tests", "3 tests failed");
    let ids: Vec<TraceId> = [&first, &second, &other].iter().map(|batch| batch.traces[0].spans[0].trace_id).collect();
    for batch in [first, second, other] {
        // Returns within microseconds; nothing is waited for.
        drop(storage.batch_store(batch)?);
    }
    // Now everything is durable.
    storage.flush().await?;

    // Derived and embedded in the background, seconds later.
    let request = SimilarRequest { trace_id: ids[0], threshold: 0.0, limit: 10, filter: TraceFilter::default() };
    let similar = loop {
        if let Ok(answer) = storage.find_similar_traces(&request).await
            && answer.hits.len() >= 2
        {
            break answer;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    for hit in &similar.hits {
        println!("{:.2}  {}  {}", hit.score, hit.newest.trace_id, hit.text);
    }
    let context = storage.get_trace_context(&ContextRequest::new(ids[0])).await?;
    println!("{} spans, {} logs", context.spans.len(), context.logs.len());
    storage.cleanup().await?;
    Ok(())
}

/// What a failed run leaves behind.
fn failed_run(step: &str, error: &str) -> Batch {
    let trace_id = TraceId::random();
    let mut root = SpanData::new(trace_id, SpanId::random(), "process_repository");
    root.attributes = Attributes::from([("repository", "fastblocks")]);
    let mut failed = SpanData::new(trace_id, SpanId::random(), step);
    failed.parent_span_id = Some(root.span_id.clone());
    for span in [&mut root, &mut failed] {
        span.status = SpanStatus::Error;
        error.clone_into(&mut span.status_message);
    }
    let mut log = LogEntry::new(Level::Error, error);
    (log.trace_id, log.span_id) = (Some(trace_id), Some(failed.span_id.clone()));
    Batch {
        traces: vec![TraceData { origin: None, spans: vec![root, failed] }],
        metrics: vec![MetricData::counter("runs.failed", 1, [("step", step)])],
        logs: vec![log],
    }
}
