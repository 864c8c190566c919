//! What an adapter says about itself.

use std::collections::BTreeMap;
use std::time::Duration;

use oneiric_otel_spool::SpoolStatus;
use serde::{Deserialize, Serialize};

use super::life::Running;
use crate::pipeline::IngestStatus;
use crate::store::{Fallback, ModelChange, StoreError};
use crate::system::ModelState;

/// How long the database is waited for.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// The state of an adapter and of everything behind it, at one moment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HealthReport {
    /// Whether records can be acknowledged now and the database answers.
    pub is_healthy: bool,
    /// Whether records are acknowledged now; with a spool also while the database is away.
    pub is_accepting: bool,
    /// What is wrong, in words; empty when nothing is.
    pub problems: Vec<String>,
    /// The database.
    pub database: DatabaseReport,
    /// Whether there is search by meaning.
    pub embedding: EmbeddingReport,
    /// What was accepted and is not durable yet.
    pub queue: QueueReport,
    /// The circuit breaker before the database: `closed`, `open` or `half_open`.
    pub circuit_breaker: String,
    /// The spool; none where acknowledgements promise something else.
    pub spool: Option<SpoolReport>,
    /// What passed the write path since the start.
    pub written: WrittenReport,
}

/// The database, as far as it answers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatabaseReport {
    /// Host, port and database, without credentials.
    pub target: String,
    /// Whether this is the private PostgreSQL.
    pub is_embedded: bool,
    /// Whether it answered.
    pub is_up: bool,
    /// Version of PostgreSQL, such as `16.14`; none where it did not answer.
    pub server_version: Option<String>,
    /// Version of pgvector; none where it is not installed, and with it search by meaning.
    pub pgvector_version: Option<String>,
    /// Version of the schema.
    pub schema_version: Option<i32>,
    /// Traces that wait to be derived.
    pub traces_to_derive: Option<i64>,
    /// Texts that wait for a vector.
    pub texts_to_embed: Option<i64>,
    /// The change from one embedding model to another that is under way.
    pub model_change: Option<ModelChange>,
    /// Whether hashes stand in place of vectors, which are no embeddings.
    pub embedding_fallback: Option<Fallback>,
    /// Dead letters that wait for somebody.
    pub dead_letters: Option<i64>,
}

/// The embedding model.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EmbeddingReport {
    /// `none`, `loading`, `ready` or `failed`.
    pub state: String,
    /// The model, once it is there.
    pub model: Option<String>,
    /// Why it could not be loaded; it is tried again.
    pub reason: Option<String>,
}

/// What was handed over and is not durable yet, and what became of the rest. Numbers are records: spans, log records and
/// data points.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueReport {
    /// Records that are not durable yet.
    pub records: u64,
    /// Their bytes in memory, about.
    pub bytes: usize,
    /// The bound on them.
    pub max_bytes: usize,
    /// Records accepted since the start.
    pub accepted_records: u64,
    /// Records refused at once.
    pub refused_records: u64,
    /// Records that gave way to newer ones before they were written; only with acknowledgement in memory.
    pub dropped_records: u64,
    /// Records that were accepted and then rejected, given up or interrupted.
    pub not_stored_records: u64,
}

/// Requests on disk.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpoolReport {
    /// Requests that wait, by signal.
    pub requests: BTreeMap<String, u64>,
    /// Bytes of the spool's files.
    pub bytes: u64,
    /// The bound on them.
    pub max_bytes: u64,
    /// Bytes that could not be read.
    pub quarantine_bytes: u64,
}

/// What passed the write path.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WrittenReport {
    /// Records committed, by signal.
    pub records: BTreeMap<String, u64>,
    /// Records that became dead letters.
    pub dead_letters: u64,
    /// Records that were acknowledged in memory and dropped.
    pub dropped_records: u64,
}

/// Looks at everything; asks the database, for at most some seconds.
pub(super) async fn report(running: &Running) -> HealthReport {
    let mut problems = Vec::new();
    let database = match tokio::time::timeout(ANSWER_WITHIN, examine(running)).await {
        Ok(Ok(database)) => database,
        Ok(Err(error)) => away(running, &mut problems, &error.to_string()),
        Err(_) => away(running, &mut problems, &format!("no answer within {} s", ANSWER_WITHIN.as_secs())),
    };
    if database.is_up && database.pgvector_version.is_none() {
        problems.push("pgvector is missing: no search by meaning".to_owned());
    }
    let status = running.ingest.status();
    let refusing = status.refusing.as_ref().map(|refusing| refusing.reason.clone());
    let closed = running.queue.closed();
    let is_accepting = refusing.is_none() && closed.is_none();
    problems.extend(refusing.map(|reason| format!("records are refused: {reason}")));
    problems.extend(closed.map(|reason| reason.to_string()));
    let embedding = embedding(&running.model.borrow());
    problems.extend(running.left.problems());
    problems.extend(database.embedding_fallback.iter().map(Fallback::problem));
    problems.extend(embedding.reason.iter().map(|reason| format!("no embedding model: {reason}")));
    HealthReport {
        is_healthy: is_accepting && database.is_up,
        is_accepting,
        problems,
        database,
        embedding,
        queue: running.queue.report(),
        circuit_breaker: status.breaker.state.as_str().to_owned(),
        spool: status.spool.as_ref().map(spool),
        written: written(&status),
    }
}

async fn examine(running: &Running) -> Result<DatabaseReport, StoreError> {
    let status = running.database.status().await?;
    let census = running.database.census().await?;
    Ok(DatabaseReport {
        target: status.target,
        is_embedded: running.is_embedded,
        is_up: true,
        server_version: Some(status.server_version),
        pgvector_version: status.pgvector_version,
        schema_version: Some(status.schema.version),
        traces_to_derive: Some(census.traces_to_derive),
        texts_to_embed: Some(census.texts_to_embed),
        model_change: census.model_change,
        embedding_fallback: census.embedding_fallback,
        dead_letters: Some(census.dead_letters),
    })
}

fn away(running: &Running, problems: &mut Vec<String>, reason: &str) -> DatabaseReport {
    problems.push(format!("the database does not answer: {reason}"));
    let target = running.database.target().to_owned();
    DatabaseReport { target, is_embedded: running.is_embedded, ..DatabaseReport::default() }
}

fn embedding(state: &ModelState) -> EmbeddingReport {
    let report = |state: &str| EmbeddingReport { state: state.to_owned(), ..EmbeddingReport::default() };
    match state {
        ModelState::None => report("none"),
        ModelState::Loading => report("loading"),
        ModelState::Ready(embedder) => EmbeddingReport { model: Some(embedder.model().to_string()), ..report("ready") },
        ModelState::Failed(reason) => EmbeddingReport { reason: Some(reason.clone()), ..report("failed") },
    }
}

fn spool(status: &SpoolStatus) -> SpoolReport {
    SpoolReport {
        requests: status.lanes.iter().map(|lane| (lane.name.clone(), lane.entries)).collect(),
        bytes: status.bytes,
        max_bytes: status.max_bytes,
        quarantine_bytes: status.quarantine_bytes,
    }
}

fn written(status: &IngestStatus) -> WrittenReport {
    let counts = &status.counts;
    let records: BTreeMap<String, u64> =
        counts.written_records.iter().map(|(signal, records)| ((*signal).to_owned(), *records)).collect();
    WrittenReport { records, dead_letters: counts.dead_letters.values().sum(), dropped_records: counts.dropped_records }
}
