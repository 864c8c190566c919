//! Puts generated telemetry into a database, by the write path that requests take.

use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _};
use oneiric_otel::derive::{DeriveOptions, Deriver};
use oneiric_otel::embed::{EmbedOptions, Embedder, EmbeddingWorker};
use oneiric_otel::otlp::{Encoding, Signal};
use oneiric_otel::pipeline::{Ingest, IngestOptions, Refused, Request};
use oneiric_otel::rollup::{RollupOptions, RollupWorker};
use oneiric_otel::store::Database;
use serde::Serialize;

use crate::generate::Generator;

/// Traces of a request, which makes one of about two megabytes.
const TRACES_OF_A_REQUEST: u64 = 400;
/// Minutes of metrics in a request.
const MINUTES_OF_A_REQUEST: u64 = 10;
/// Requests under way at the same time.
const AT_ONCE: usize = 8;

/// What went in, and how long each part of it took.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Filled {
    /// Traces that were derived.
    pub traces: u64,
    /// Spans in all.
    pub spans: u64,
    /// Log records in all.
    pub log_records: u64,
    /// Data points in all.
    pub data_points: u64,
    /// Distinct texts that were embedded.
    pub texts: u64,
    /// Hours of metrics that were rolled up.
    pub hours: u64,
    /// Indexes of partitions whose time has passed.
    pub indexes: u64,
    /// Seconds until all spans and logs were committed, the generator's own work included.
    pub records_seconds: f64,
    /// Seconds until all data points were committed.
    pub metrics_seconds: f64,
    /// Seconds until every trace was derived.
    pub derive_seconds: f64,
    /// Seconds until every text had its vector.
    pub embed_seconds: f64,
    /// Seconds until every hour of metrics was rolled up.
    pub roll_up_seconds: f64,
    /// Seconds until the partitions whose time has passed had their indexes.
    pub close_seconds: f64,
}

/// Is told how it goes.
pub trait Watcher: Send + Sync {
    /// A step begins, of so many parts where they are known.
    fn step(&self, what: &str, parts: Option<u64>);
    /// So many more parts of it are done.
    fn done(&self, parts: u64);
}

/// Stores everything that `generator` has, derives, embeds and rolls it up. What is stored already is not stored again. The schema
/// must be migrated.
///
/// # Errors
/// When something is refused, rejected or cannot be derived: a benchmark on a part of the data would mislead.
pub async fn fill(
    database: &Database,
    embedder: Arc<dyn Embedder>,
    generator: Arc<Generator>,
    watcher: &impl Watcher,
) -> Result<Filled> {
    let mut filled = Filled::default();
    let ingest = Ingest::start(database.clone(), IngestOptions::default());

    let began = Instant::now();
    let parts = generator.traces().div_ceil(TRACES_OF_A_REQUEST);
    watcher.step("storing spans and logs", Some(parts));
    let mut stored = futures::stream::iter(0..parts)
        .map(|part| {
            let (ingest, generator) = (ingest.clone(), Arc::clone(&generator));
            async move {
                let first = part * TRACES_OF_A_REQUEST;
                let traces = first..(first + TRACES_OF_A_REQUEST).min(generator.traces());
                let made = tokio::task::spawn_blocking(move || generator.requests(traces)).await?;
                let spans = submit(&ingest, Signal::Traces, made.traces).await?;
                let log_records = submit(&ingest, Signal::Logs, made.logs).await?;
                Ok::<_, anyhow::Error>((spans, log_records))
            }
        })
        .buffer_unordered(AT_ONCE);
    while let Some(part) = stored.next().await {
        let (spans, log_records) = part?;
        filled.spans += spans;
        filled.log_records += log_records;
        watcher.done(1);
    }
    drop(stored);
    filled.records_seconds = began.elapsed().as_secs_f64();

    let began = Instant::now();
    let minutes = generator.minutes();
    watcher.step("storing data points", None);
    filled.data_points = futures::stream::iter((0..minutes).step_by(MINUTES_OF_A_REQUEST as usize))
        .map(|first| {
            let (ingest, generator) = (ingest.clone(), Arc::clone(&generator));
            async move {
                let part = first..(first + MINUTES_OF_A_REQUEST).min(minutes);
                let made = tokio::task::spawn_blocking(move || generator.metrics(part)).await?;
                submit(&ingest, Signal::Metrics, made).await
            }
        })
        .buffer_unordered(AT_ONCE)
        .try_fold(0, |sum, points| async move { Ok(sum + points) })
        .await?;
    ingest.drain().await;
    filled.metrics_seconds = began.elapsed().as_secs_f64();

    let began = Instant::now();
    watcher.step("deriving traces", None);
    let derived = Deriver::new(database.clone(), DeriveOptions::default()).derive_all_now().await?;
    filled.derive_seconds = began.elapsed().as_secs_f64();
    filled.traces = derived.traces;
    let left = database.census().await?.traces_to_derive;
    if left > 0 {
        bail!("{left} traces could not be derived");
    }

    let began = Instant::now();
    watcher.step("embedding texts", None);
    let worker = EmbeddingWorker::new(database.clone(), embedder, EmbedOptions::default(), Arc::default());
    let embedded = worker.embed_all_now().await?;
    if embedded.no_pgvector || embedded.failed > 0 {
        bail!("{} texts could not be embedded; pgvector missing: {}", embedded.failed, embedded.no_pgvector);
    }
    filled.texts = embedded.vectors;
    filled.embed_seconds = began.elapsed().as_secs_f64();

    let began = Instant::now();
    watcher.step("rolling metrics up", None);
    filled.hours = RollupWorker::new(database.clone(), RollupOptions::default()).roll_up_all_now().await?;
    filled.roll_up_seconds = began.elapsed().as_secs_f64();

    // A server does it within the hour.
    let began = Instant::now();
    watcher.step("closing partitions", None);
    database.migrate_deferred().await?;
    filled.indexes = database.close_partitions().await?.len() as u64;
    filled.close_seconds = began.elapsed().as_secs_f64();
    Ok(filled)
}

/// Returns how many records were accepted.
pub(crate) async fn submit(ingest: &Ingest, signal: Signal, body: Bytes) -> Result<u64> {
    loop {
        let request = Request { signal, encoding: Encoding::Protobuf, body: body.clone() };
        match ingest.submit(request).await {
            Ok(accepted) if accepted.rejected == 0 => return Ok(accepted.records),
            Ok(accepted) => bail!("{} generated records were rejected: {}", accepted.rejected, accepted.message),
            Err(Refused::Unavailable { retry_after, .. }) => tokio::time::sleep(retry_after).await,
            Err(refused) => return Err(refused).context("a generated request"),
        }
    }
}
