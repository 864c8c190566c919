//! The embedding model of a running system: loaded in the background, tried again where that failed.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::embed::{EmbedOptions, Embedder, EmbeddingWorker, FormerModel, NewTexts};
use crate::settings::EmbeddingFallback;
use crate::store::Database;

/// A model that cannot be loaded, as without a network at the first start, is tried again after this time.
const LOAD_AGAIN_AFTER: Duration = Duration::from_mins(1);

/// What loads a model, or says why it cannot be had. It blocks, and is called again after a failure.
#[derive(Clone)]
pub struct ModelLoader(Arc<dyn Fn() -> Result<Arc<dyn Embedder>, String> + Send + Sync>);

impl ModelLoader {
    /// Loads with `load`.
    pub fn new(load: impl Fn() -> Result<Arc<dyn Embedder>, String> + Send + Sync + 'static) -> Self {
        Self(Arc::new(load))
    }

    /// A model that is there already.
    pub fn ready(embedder: Arc<dyn Embedder>) -> Self {
        Self::new(move || Ok(Arc::clone(&embedder)))
    }

    async fn load(&self) -> Result<Arc<dyn Embedder>, String> {
        let load = Arc::clone(&self.0);
        let loaded = tokio::task::spawn_blocking(move || load()).await;
        loaded.unwrap_or_else(|_| Err("the loading of the model was cut off".to_owned()))
    }
}

impl fmt::Debug for ModelLoader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ModelLoader")
    }
}

/// Where the model stands.
#[derive(Clone)]
pub enum ModelState {
    /// There is none and will be none: traces are stored without vectors.
    None,
    /// It is on its way.
    Loading,
    /// It is there.
    Ready(Arc<dyn Embedder>),
    /// Why it could not be loaded. It is tried again.
    Failed(String),
}

impl fmt::Debug for ModelState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("None"),
            Self::Loading => f.write_str("Loading"),
            Self::Ready(embedder) => f.debug_tuple("Ready").field(embedder.model()).finish(),
            Self::Failed(reason) => f.debug_tuple("Failed").field(reason).finish(),
        }
    }
}

/// Says in the database that there is no model, and that hashes stand in place of vectors, or do not.
pub(super) async fn set_fallback((database, fallback): &(Database, EmbeddingFallback), reason: &str) {
    let done = match fallback {
        EmbeddingFallback::Hash => database.fall_back_to_hashes(reason).await.map(|is_shown| {
            if is_shown {
                tracing::warn!(
                    reason,
                    "traces without a vector show a hash of their id in its place: these are not embeddings"
                );
            }
        }),
        EmbeddingFallback::None => database.end_fallback().await.map(drop),
    };
    if let Err(error) = done {
        tracing::warn!(%error, "what stands in place of vectors could not be noted");
    }
}

/// Loads the model and embeds what comes, until it is stopped. Storing does not wait for any of it.
pub(super) async fn run(
    (database, maintenance): (Database, Database),
    (loader, former): (ModelLoader, FormerModel),
    (options, fallback): (EmbedOptions, EmbeddingFallback),
    texts_written: Arc<NewTexts>,
    state: watch::Sender<ModelState>,
    stop: CancellationToken,
) {
    let fallback = (database.clone(), fallback);
    let load = async {
        loop {
            match loader.load().await {
                Ok(embedder) => return embedder,
                Err(reason) => {
                    tracing::warn!(error = reason, "no embedding model: traces are stored without vectors");
                    set_fallback(&fallback, &reason).await;
                    state.send_replace(ModelState::Failed(reason));
                    tokio::time::sleep(LOAD_AGAIN_AFTER).await;
                }
            }
        }
    };
    let Some(embedder) = stop.run_until_cancelled(load).await else { return };
    tracing::info!(model = %embedder.model(), "the embedding model is loaded");
    state.send_replace(ModelState::Ready(Arc::clone(&embedder)));
    let worker = EmbeddingWorker::new(database, embedder, options, texts_written).with_former(former);
    worker.maintaining_over(maintenance).run(stop).await;
}
