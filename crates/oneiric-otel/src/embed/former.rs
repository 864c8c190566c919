//! The model that answers until the one that is asked for is complete: loaded when somebody needs it, and let go when
//! nobody does any more.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Mutex;

use super::{Embedder, EmbeddingModel};

/// How long a question waits for such a model. It goes on loading.
const PATIENCE: Duration = Duration::from_secs(5);

/// After so long it is tried again to load one that could not be.
const LOAD_AGAIN_AFTER: Duration = Duration::from_mins(1);

type Load = dyn Fn(&EmbeddingModel) -> Option<Result<Arc<dyn Embedder>, String>> + Send + Sync;

/// What loads models that a database has vectors of and that are not the one in use, and holds the one that was needed
/// last. Clones hold the same.
#[derive(Clone)]
pub struct FormerModel {
    load: Arc<Load>,
    held: Arc<Mutex<Option<Held>>>,
}

struct Held {
    model: EmbeddingModel,
    embedder: Option<Arc<dyn Embedder>>,
    tried: Instant,
}

impl Default for FormerModel {
    /// Loads all-MiniLM-L6-v2 in either precision, where the crate has the feature `local-model`. Others cannot be had: what is
    /// behind an endpoint may be another model today.
    fn default() -> Self {
        #[cfg(feature = "local-model")]
        return Self::new(super::local::load);
        #[cfg(not(feature = "local-model"))]
        Self::new(|_| None)
    }
}

impl FormerModel {
    /// Loads with `load`, which gives none for a model that it does not know. It blocks.
    pub fn new(
        load: impl Fn(&EmbeddingModel) -> Option<Result<Arc<dyn Embedder>, String>> + Send + Sync + 'static,
    ) -> Self {
        Self { load: Arc::new(load), held: Arc::default() }
    }

    /// The model, if it can be had: exactly this one, with its precision and dimension.
    pub(crate) async fn get(&self, model: &EmbeddingModel) -> Option<Arc<dyn Embedder>> {
        let (this, model) = (self.clone(), model.clone());
        // A task of its own, so that a question that waits no longer does not cut it off.
        tokio::spawn(async move { this.load(model).await }).await.ok().flatten()
    }

    /// As [`Self::get`] for somebody who waits for an answer.
    pub(crate) async fn get_soon(&self, model: &EmbeddingModel) -> Option<Arc<dyn Embedder>> {
        tokio::time::timeout(PATIENCE, self.get(model)).await.ok().flatten()
    }

    /// Frees its memory.
    pub(crate) async fn let_go(&self) {
        *self.held.lock().await = None;
    }

    async fn load(self, model: EmbeddingModel) -> Option<Arc<dyn Embedder>> {
        let mut held = self.held.lock().await;
        if let Some(known) = held.as_ref().filter(|known| known.model == model)
            && (known.embedder.is_some() || known.tried.elapsed() < LOAD_AGAIN_AFTER)
        {
            return known.embedder.clone();
        }
        let (load, wanted) = (Arc::clone(&self.load), model.clone());
        let loaded = tokio::task::spawn_blocking(move || load(&wanted)).await.ok().flatten();
        let embedder = match loaded {
            Some(Ok(embedder)) if *embedder.model() == model => Some(embedder),
            Some(Err(reason)) => {
                tracing::warn!(%model, reason, "the model that answers until the new one is complete cannot be loaded");
                None
            }
            _ => None,
        };
        *held = Some(Held { model, embedder: embedder.clone(), tried: Instant::now() });
        embedder
    }
}

impl fmt::Debug for FormerModel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FormerModel")
    }
}
