//! Gives every stored text its vector, in the background and from the database.
//!
//! Work is claimed newest first inside a transaction that ends with its vectors: a crash loses and doubles nothing, and
//! any number of workers share the work. A text that the model does not answer stays without a vector, with the reason, and
//! is tried again later.
//!
//! While a model is not complete and another one is, new texts get vectors of the other first, if this process can load it:
//! so that one answers for all texts, old and new, until the first is complete. See `renewal`.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::{Mutex, Notify};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument as _, Span, field};

use super::batches::Batches;
use super::renewal::Standing;
use super::{Embedder, FormerModel};
use crate::self_trace;
use crate::store::embeddings::RegisteredModel;
use crate::store::model_switch::Renewal;
use crate::store::{Database, EMBEDDING, Lease, StoreError};

/// Every text.
pub(super) const ALL: RangeInclusive<i64> = 0..=i64::MAX;

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
    /// The share of the time in which texts are embedded again that had vectors of another model, 0 to 1.
    pub renewal_share: f64,
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
            renewal_share: 0.5,
        }
    }
}

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

impl Embedded {
    fn add(&mut self, other: Self) {
        self.vectors += other.vectors;
        self.failed += other.failed;
    }
}

/// Something that happens once.
#[derive(Debug, Default)]
pub(super) struct Once(AtomicBool);

impl Once {
    pub(super) fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    pub(super) fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Embeds the texts of one database with one model.
pub struct EmbeddingWorker {
    pub(super) database: Database,
    pub(super) embedder: Arc<dyn Embedder>,
    pub(super) options: EmbedOptions,
    wake: Arc<NewTexts>,
    maintenance: Option<Database>,
    /// What answers until the model is complete.
    pub(super) former: FormerModel,
    presence: Presence,
    has_begun: Once,
    pub(super) is_complete: Once,
    /// Held by whoever embeds.
    pub(super) turn: Mutex<()>,
    /// Wakes what says that the model is complete.
    pub(super) drained: Notify,
    /// How often the model was complete and could not be said to be.
    pub(super) put_off: AtomicU64,
}

/// Tells other processes that there is one with a model.
struct Presence {
    lease: Lease,
    told: std::sync::Mutex<Option<Instant>>,
}

impl Presence {
    fn new(database: &Database, upkeep: Duration) -> Self {
        /// It is told every `upkeep`, if the database answers.
        const LEAST: Duration = Duration::from_secs(90);
        let lease = Lease::new(database.clone(), EMBEDDING, LEAST.max(upkeep * 3));
        Self { lease, told: std::sync::Mutex::default() }
    }

    /// Whether it was told this long ago, or never. Then it is to be told now.
    fn is_due(&self, every: Duration) -> bool {
        let mut told = self.told.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let is_due = told.is_none_or(|told| told.elapsed() >= every);
        if is_due {
            *told = Some(Instant::now());
        }
        is_due
    }
}

/// What a worker finds: its model, and whether another one answers for now.
pub(super) struct Stand {
    pub(super) model: RegisteredModel,
    pub(super) renewal: Option<Renewal>,
}

impl std::fmt::Debug for EmbeddingWorker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EmbeddingWorker").field("model", self.embedder.model()).finish_non_exhaustive()
    }
}

impl EmbeddingWorker {
    /// Prepares a worker that `wake` wakes besides the clock. Nothing happens before [`Self::run`] or a pass.
    pub fn new(database: Database, embedder: Arc<dyn Embedder>, options: EmbedOptions, wake: Arc<NewTexts>) -> Self {
        Self {
            presence: Presence::new(&database, options.upkeep),
            database,
            embedder,
            options,
            wake,
            maintenance: None,
            former: FormerModel::default(),
            has_begun: Once::default(),
            is_complete: Once::default(),
            turn: Mutex::default(),
            drained: Notify::default(),
            put_off: AtomicU64::new(0),
        }
    }

    /// The same worker with another way to a model that answers until this one is complete.
    #[must_use]
    pub fn with_former(self, former: FormerModel) -> Self {
        Self { former, ..self }
    }

    /// The same worker with another way to the database, for building indexes.
    #[must_use]
    pub fn maintaining_over(self, maintenance: Database) -> Self {
        Self { maintenance: Some(maintenance), ..self }
    }

    /// Embeds what comes until `token` is cancelled. Trouble is logged and tried again. Builds the vector index when
    /// there are enough vectors; embedding does not wait for it.
    pub async fn run(&self, token: CancellationToken) {
        let maintain = token.run_until_cancelled(self.renew_and_maintain());
        tokio::join!(maintain, self.embed_new(&token));
        self.presence.lease.give_back().await;
    }

    /// How often the model had all its vectors and could not answer yet, because the view `traces` could not be had.
    pub fn put_off(&self) -> u64 {
        self.put_off.load(Ordering::Relaxed)
    }

    async fn embed_new(&self, token: &CancellationToken) {
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
                result = self.traced(self.embed_waiting(upkeep)) => result,
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

    /// Embeds every text that waits now, also what had vectors of another model. Those that failed wait for their next try and
    /// are counted.
    pub async fn embed_all_now(&self) -> Result<Embedded, StoreError> {
        let work = async {
            let Some(stand) = self.stand().await? else {
                return Ok(Embedded { no_pgvector: true, ..Embedded::default() });
            };
            let own = self.batches(&self.embedder, &stand.model);
            let mut embedded = own.all_texts(&ALL, self.options.batch_texts).await?;
            if let Some(renewal) = &stand.renewal
                && let Some(former) = self.database.registered_model(&renewal.former).await?
            {
                while own.templates(Some(&former), self.options.batch_texts).await? {}
            }
            while own.templates(None, self.options.batch_texts).await? {}
            while self.finish(&stand).await? == Standing::IndexBuilt {
                embedded.add(own.all_texts(&ALL, self.options.batch_texts).await?);
            }
            Ok(embedded)
        };
        let done = self.traced(work).await;
        self.presence.lease.give_back().await;
        done
    }

    /// Builds the index on vectors if there are enough of them, which [`Self::run`] does by itself. Returns whether there is one.
    pub async fn build_index(&self) -> Result<bool, StoreError> {
        let Some(model) = self.database.register_model(self.embedder.model()).await? else { return Ok(false) };
        self.make_index(&model).await?;
        self.database.has_vector_index(&model).await
    }

    /// Builds the index if it is due. Returns whether it did.
    pub(super) async fn make_index(&self, model: &RegisteredModel) -> Result<bool, StoreError> {
        let Some(kind) = self.options.index else { return Ok(false) };
        self.maintenance.as_ref().unwrap_or(&self.database).build_vector_index(model, kind).await
    }

    /// Does it in a span of its own if there are new texts of others.
    async fn traced(&self, work: impl Future<Output = Result<Embedded, StoreError>>) -> Result<Embedded, StoreError> {
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
        let outcome = work.instrument(span.clone()).await;
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

    /// What there is to work with; none without pgvector.
    pub(super) async fn stand(&self) -> Result<Option<Stand>, StoreError> {
        let identity = self.embedder.model();
        if self.presence.is_due(self.options.upkeep) {
            // A process without a model that finds this asks for no hashes.
            self.presence.lease.take(Duration::ZERO).await?;
            if self.database.end_fallback().await? {
                tracing::info!("there is an embedding model: hashes in place of vectors are gone");
            }
        }
        let Some(model) = self.database.register_model(identity).await? else { return Ok(None) };
        if !self.has_begun.is_set() {
            self.database.begin_with_model(&model).await?;
            self.has_begun.set();
        }
        let renewal = self.database.renewal(identity, &model).await?;
        if renewal.is_none() {
            self.former.let_go().await;
        }
        Ok(Some(Stand { model, renewal }))
    }

    pub(super) fn batches<'a>(&'a self, embedder: &'a Arc<dyn Embedder>, model: &'a RegisteredModel) -> Batches<'a> {
        Batches { database: &self.database, embedder, model, tokens: self.options.batch_tokens }
    }

    /// Embeds all that waits for the model that answers: our own, or one that is loaded for the time until ours is complete.
    /// Where that one cannot be loaded, ours gets what is new.
    async fn embed_waiting(&self, upkeep: bool) -> Result<Embedded, StoreError> {
        let Some(stand) = self.stand().await? else {
            return Ok(Embedded { no_pgvector: true, ..Embedded::default() });
        };
        let mut new = ALL;
        if let Some(renewal) = &stand.renewal {
            if let Some(served) = self.serve_with_former(&stand.model, renewal, upkeep).await? {
                return Ok(served);
            }
            new = renewal.up_to.saturating_add(1)..=i64::MAX;
        }
        let own = self.batches(&self.embedder, &stand.model);
        let mut total = Embedded::default();
        while self.embed_batch(&own, &new, &mut total).await? {}
        if upkeep {
            let _turn = self.turn.lock().await;
            while own.templates(None, self.options.batch_texts).await? {}
        }
        if total.vectors > 0 && stand.renewal.is_none() && !self.is_complete.is_set() {
            self.drained.notify_one();
        }
        Ok(total)
    }

    /// Gives the model that answers for now what it lacks. None if it cannot be loaded here.
    async fn serve_with_former(
        &self,
        own: &RegisteredModel,
        renewal: &Renewal,
        upkeep: bool,
    ) -> Result<Option<Embedded>, StoreError> {
        let Some(embedder) = self.former.get(&renewal.former).await else { return Ok(None) };
        let Some(model) = self.database.registered_model(&renewal.former).await? else { return Ok(None) };
        self.database.serve_with_model(&model).await?;
        let former = self.batches(&embedder, &model);
        let mut embedded = Embedded::default();
        // It may have much to do, and meanwhile nobody needs it any more.
        while self.embed_batch(&former, &ALL, &mut embedded).await? && !self.database.is_complete(own).await? {}
        if upkeep {
            let _turn = self.turn.lock().await;
            while former.templates(None, self.options.batch_texts).await? {}
        }
        Ok(Some(embedded))
    }

    /// Embeds a batch of these texts when it is its turn. Returns whether there may be more.
    async fn embed_batch(
        &self,
        batches: &Batches<'_>,
        ids: &RangeInclusive<i64>,
        total: &mut Embedded,
    ) -> Result<bool, StoreError> {
        // Whoever waits for it has the next turn.
        let _turn = self.turn.lock().await;
        let (batch, claimed) = batches.texts(ids, self.options.batch_texts).await?;
        total.add(batch);
        Ok(claimed > 0)
    }
}
