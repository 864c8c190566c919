//! Gives every stored text its vector, in the background and from the database.
//!
//! Work is claimed newest first inside a transaction, embedded on a blocking thread, and gone when the transaction with
//! the vectors commits: a crash loses and doubles nothing, and any number of workers share the work. A text that the
//! model does not answer stays without a vector, with the reason, and is tried again later; a panic of the model is no
//! answer.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument as _, Span, field};

use super::{EmbedError, Embedder};
use crate::pipeline::template::HOLE;
use crate::self_trace;
use crate::store::embeddings::{RegisteredModel, Work, claim_work, postpone_work, store_vectors};
use crate::store::template_vectors::{claim_templates, store_template_vectors};
use crate::store::{Database, LogTemplate, StoreError};

/// How much is embedded at a time.
#[derive(Debug, Clone)]
pub struct EmbedOptions {
    /// Texts of one transaction at most.
    pub batch_texts: usize,
    /// Tokens of one call of the model at most, unless a single text has more.
    pub batch_tokens: usize,
    /// Pause between two looks for work when nothing wakes the worker.
    pub interval: Duration,
    /// Pause between two looks whether pgvector has appeared, and whether an index is due.
    pub upkeep: Duration,
    /// The vector index that is built when there are enough vectors; none for none.
    pub index: Option<IndexKind>,
}

/// An index on vectors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IndexKind {
    /// Hierarchical navigable small worlds: finds nearly all, takes long to build.
    Hnsw,
    /// Lists of vectors that lie together, made anew when there are four times as many: built in a fraction of the time,
    /// finds less.
    Ivfflat,
}

impl Default for EmbedOptions {
    fn default() -> Self {
        Self {
            batch_texts: 64,
            batch_tokens: 4096,
            interval: Duration::from_millis(500),
            upkeep: Duration::from_secs(30),
            index: Some(IndexKind::Hnsw),
        }
    }
}

/// Log templates of one call of the model.
const TEMPLATES_AT_ONCE: usize = 16;

/// What a pass did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Embedded {
    /// Vectors stored.
    pub vectors: u64,
    /// Texts put back for a later try.
    pub failed: u64,
    /// Whether pgvector is missing, so that nothing could be done.
    pub no_pgvector: bool,
}

/// Wakes a worker when there are new texts, and tells it whether they came of telemetry of others.
#[derive(Debug, Default)]
pub struct NewTexts {
    written: Notify,
    for_others: AtomicBool,
}

impl NewTexts {
    /// New texts are in the database.
    pub(crate) fn notify(&self, for_others: bool) {
        self.for_others.fetch_or(for_others, Ordering::Relaxed);
        self.written.notify_one();
    }

    /// Whether some came of telemetry of others since the last call.
    fn take_for_others(&self) -> bool {
        self.for_others.swap(false, Ordering::Relaxed)
    }
}

/// Embeds the texts of one database with one model.
pub struct EmbeddingWorker {
    database: Database,
    embedder: Arc<dyn Embedder>,
    options: EmbedOptions,
    wake: Arc<NewTexts>,
    maintenance: Option<Database>,
}

impl std::fmt::Debug for EmbeddingWorker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EmbeddingWorker").field("model", self.embedder.model()).finish_non_exhaustive()
    }
}

impl EmbeddingWorker {
    /// Prepares a worker that `wake` wakes besides the clock. Nothing happens before [`Self::run`] or a pass.
    pub fn new(database: Database, embedder: Arc<dyn Embedder>, options: EmbedOptions, wake: Arc<NewTexts>) -> Self {
        Self { database, embedder, options, wake, maintenance: None }
    }

    /// The same worker with another way to the database, for building indexes.
    #[must_use]
    pub fn maintaining_over(self, maintenance: Database) -> Self {
        Self { maintenance: Some(maintenance), ..self }
    }

    /// Embeds what comes until `token` is cancelled. Trouble is logged and tried again. Builds the vector index when
    /// there are enough vectors.
    pub async fn run(&self, token: CancellationToken) {
        let mut failures: u32 = 0;
        let mut told_missing = false;
        let mut next_upkeep = Instant::now();
        loop {
            let upkeep = Instant::now() >= next_upkeep;
            if upkeep {
                next_upkeep = Instant::now() + self.options.upkeep;
            }
            let result = tokio::select! {
                () = token.cancelled() => return,
                result = self.pass(upkeep) => result,
            };
            let mut pause = self.options.interval;
            match result {
                Ok(embedded) => {
                    failures = 0;
                    if embedded.no_pgvector {
                        if !told_missing {
                            tracing::warn!(
                                database = self.database.target(),
                                "pgvector is missing: traces are stored without vectors and cannot be searched by meaning"
                            );
                        }
                        pause = self.options.upkeep;
                    }
                    told_missing = embedded.no_pgvector;
                }
                Err(error) => {
                    failures = failures.saturating_add(1);
                    if failures.is_power_of_two() {
                        tracing::warn!(%error, class = error.class().as_str(), failures, "texts could not be embedded");
                    }
                    pause *= 2u32.pow(failures.min(5));
                }
            }
            tokio::select! {
                () = token.cancelled() => return,
                // Without pgvector or database new texts are no reason to look sooner.
                () = self.wake.written.notified(), if failures == 0 && !told_missing => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Embeds every text that waits now. Those that failed wait for their next try and are counted.
    pub async fn embed_all_now(&self) -> Result<Embedded, StoreError> {
        let embedded = self.pass(false).await?;
        if let Some(model) = self.database.register_model(self.embedder.model()).await? {
            while self.embed_templates(&model).await? {}
        }
        Ok(embedded)
    }

    /// Builds the index on vectors if there are enough of them, which [`Self::run`] does by itself. Returns whether there is one.
    pub async fn build_index(&self) -> Result<bool, StoreError> {
        let Some(model) = self.database.register_model(self.embedder.model()).await? else { return Ok(false) };
        self.make_index(&model).await?;
        self.database.has_vector_index(&model).await
    }

    async fn make_index(&self, model: &RegisteredModel) -> Result<(), StoreError> {
        if let Some(kind) = self.options.index {
            self.maintenance.as_ref().unwrap_or(&self.database).build_vector_index(model, kind).await?;
        }
        Ok(())
    }

    async fn pass(&self, upkeep: bool) -> Result<Embedded, StoreError> {
        let span = if self.wake.take_for_others() {
            tracing::info_span!(
                target: self_trace::TARGET,
                "embed texts",
                otel.status_description = field::Empty,
                oneiric_otel.for_others = true,
                oneiric_otel.texts = field::Empty,
                oneiric_otel.failed_texts = field::Empty,
            )
        } else {
            Span::none()
        };
        let outcome = self.embed_waiting(upkeep).instrument(span.clone()).await;
        match &outcome {
            Ok(done) => {
                span.record("oneiric_otel.texts", done.vectors as i64)
                    .record("oneiric_otel.failed_texts", done.failed as i64);
            }
            Err(error) => {
                span.record("otel.status_description", field::display(error));
            }
        }
        outcome
    }

    async fn embed_waiting(&self, upkeep: bool) -> Result<Embedded, StoreError> {
        let mut total = Embedded::default();
        let Some(model) = self.database.register_model(self.embedder.model()).await? else {
            return Ok(Embedded { no_pgvector: true, ..total });
        };
        loop {
            let (batch, claimed) = self.embed_batch(&model).await?;
            total.vectors += batch.vectors;
            total.failed += batch.failed;
            if claimed == 0 {
                break;
            }
        }
        if upkeep {
            while self.embed_templates(&model).await? {}
            self.make_index(&model).await?;
        }
        Ok(total)
    }

    /// Embeds a batch of log templates. Returns whether there may be more.
    async fn embed_templates(&self, model: &RegisteredModel) -> Result<bool, StoreError> {
        let mut client = self.database.client().await?;
        let transaction = client.transaction().await?;
        let claimed = claim_templates(&transaction, model, self.options.batch_texts as i64).await?;
        if claimed.is_empty() {
            return Ok(false);
        }
        let mut vectors = Vec::with_capacity(claimed.len());
        for part in claimed.chunks(TEMPLATES_AT_ONCE) {
            let work = part.iter().map(|(id, template)| Work { text_id: *id, text: spoken(template), attempts: 0 });
            let embedded = self.embed(model, work.collect()).await?;
            if let Err(error) = &embedded {
                tracing::warn!(%error, templates = part.len(), "log templates stay without vectors for now");
            }
            let mut embedded = embedded.unwrap_or_default().into_iter();
            vectors.extend(part.iter().map(|(id, _)| (*id, embedded.next())));
        }
        store_template_vectors(&transaction, model, &vectors).await?;
        transaction.commit().await?;
        Ok(true)
    }

    /// Embeds one claimed batch. Returns also how many texts were claimed.
    async fn embed_batch(&self, model: &RegisteredModel) -> Result<(Embedded, usize), StoreError> {
        let mut client = self.database.client().await?;
        let transaction = client.transaction().await?;
        let work = claim_work(&transaction, model, self.options.batch_texts as i64).await?;
        let claimed = work.len();
        let mut done = Embedded::default();
        for part in self.cut(work).await? {
            let ids: Vec<i64> = part.iter().map(|work| work.text_id).collect();
            match self.embed(model, part).await? {
                Ok(vectors) => {
                    done.vectors += vectors.len() as u64;
                    let vectors: Vec<(i64, Vec<f32>)> = ids.into_iter().zip(vectors).collect();
                    store_vectors(&transaction, model, &vectors).await?;
                }
                Err(error) => {
                    done.failed += ids.len() as u64;
                    tracing::warn!(%error, texts = ids.len(), "texts stay without vectors for now");
                    postpone_work(&transaction, model, &ids, &error.to_string()).await?;
                }
            }
        }
        transaction.commit().await?;
        Ok((done, claimed))
    }

    /// Parts of at most [`EmbedOptions::batch_tokens`]. What failed before is tried alone, so that one text that the
    /// model cannot read does not hold up others.
    async fn cut(&self, work: Vec<Work>) -> Result<Vec<Vec<Work>>, StoreError> {
        let embedder = Arc::clone(&self.embedder);
        let budget = self.options.batch_tokens;
        on_blocking_thread(move || {
            let mut parts: Vec<Vec<Work>> = Vec::new();
            let mut open: Vec<Work> = Vec::new();
            let mut tokens = 0;
            for work in work {
                if work.attempts > 0 {
                    parts.push(vec![work]);
                    continue;
                }
                // A text that cannot even be counted is tried alone. Counting changes nothing that could be left half done.
                let Ok(more) = catch_unwind(AssertUnwindSafe(|| embedder.token_count(&work.text))) else {
                    parts.push(vec![work]);
                    continue;
                };
                if tokens + more > budget && !open.is_empty() {
                    parts.push(std::mem::take(&mut open));
                    tokens = 0;
                }
                tokens += more;
                open.push(work);
            }
            if !open.is_empty() {
                parts.push(open);
            }
            parts
        })
        .await
    }

    async fn embed(
        &self,
        model: &RegisteredModel,
        work: Vec<Work>,
    ) -> Result<Result<Vec<Vec<f32>>, EmbedError>, StoreError> {
        let embedder = Arc::clone(&self.embedder);
        let dimension = model.dimension;
        let name = self.embedder.model().name.clone();
        let answer = tokio::task::spawn_blocking(move || {
            let texts: Vec<&str> = work.iter().map(|work| work.text.as_str()).collect();
            let vectors = embedder.embed(&texts)?;
            check(&vectors, texts.len(), dimension)
                .map_err(|reason| EmbedError { model: embedder.model().name.clone(), reason })?;
            Ok(vectors)
        })
        .await;
        match answer {
            Ok(answer) => Ok(answer),
            // Else one text would hold up all older ones for ever.
            Err(error) if error.is_panic() => {
                Ok(Err(EmbedError { model: name, reason: format!("it panicked: {error}") }))
            }
            Err(error) => Err(interrupted(&error)),
        }
    }
}

/// A template as a sentence: who says it, how grave it is, and what stays the same.
fn spoken(template: &LogTemplate) -> String {
    let kind = match template.severity {
        21.. => "fatal error",
        17.. => "error",
        13.. => "warning",
        _ => "log",
    };
    let said = template.text.split(HOLE).map(str::trim).filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" ");
    format!("{kind} in {}: {said}", template.service_name)
}

/// A vector that is not one would poison every comparison with it.
pub(crate) fn check(vectors: &[Vec<f32>], texts: usize, dimension: usize) -> Result<(), String> {
    if vectors.len() != texts {
        return Err(format!("it gave {} vectors for {texts} texts", vectors.len()));
    }
    for vector in vectors {
        if vector.len() != dimension {
            return Err(format!("it gave a vector of {} components instead of {dimension}", vector.len()));
        }
        if !vector.iter().all(|component| component.is_finite()) || vector.iter().all(|component| *component == 0.0) {
            return Err("it gave a vector without a direction".to_owned());
        }
    }
    Ok(())
}

async fn on_blocking_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, StoreError> {
    tokio::task::spawn_blocking(work).await.map_err(|error| interrupted(&error))
}

fn interrupted(error: &tokio::task::JoinError) -> StoreError {
    StoreError::transient(format!("embedding was interrupted: {error}"))
}

#[cfg(test)]
mod tests {
    use super::check;

    #[test]
    fn vectors_without_direction_or_of_another_size_are_refused() {
        assert_eq!(check(&[vec![0.6, 0.8]], 1, 2), Ok(()));
        assert!(check(&[vec![0.6, 0.8]], 2, 2).is_err());
        assert!(check(&[vec![0.6, 0.8]], 1, 3).is_err());
        assert!(check(&[vec![f32::NAN, 0.8]], 1, 2).is_err());
        assert!(check(&[vec![0.0, 0.0]], 1, 2).is_err());
    }
}
