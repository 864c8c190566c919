//! all-MiniLM-L6-v2 on the processor of this machine, as an [`Embedder`].

use std::sync::Arc;

pub use oneiric_otel_embed::Precision;
use oneiric_otel_embed::{LoadError, MiniLm};
use oneiric_otel_parts::{Parts, PartsError, Progress};

use super::{EmbedError, Embedder, EmbeddingModel};

/// A model of `oneiric-otel-embed`.
#[derive(Debug)]
pub struct LocalModel {
    identity: EmbeddingModel,
    model: MiniLm,
}

/// Why there is no local model.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LocalModelError {
    /// The weights could not be obtained.
    #[error(transparent)]
    Parts(#[from] PartsError),
    /// They are there and cannot be used.
    #[error("the embedding model: {0}")]
    Load(#[from] LoadError),
}

impl LocalModel {
    /// Presents a loaded model.
    pub fn new(model: MiniLm) -> Self {
        let (name, precision) = (model.name().to_owned(), model.precision().as_str().to_owned());
        Self { identity: EmbeddingModel { name, dimension: model.dimension(), precision }, model }
    }

    /// Loads all-MiniLM-L6-v2, on all processors; downloads it before where that has not happened yet. Blocks for a part of
    /// a second, or for the download.
    ///
    /// # Errors
    /// When it cannot be downloaded, or its files are damaged.
    pub fn obtain(precision: Precision, progress: &dyn Progress) -> Result<Arc<dyn Embedder>, LocalModelError> {
        let dir = Parts::open_default()?.minilm(progress)?;
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        Ok(Arc::new(Self::new(MiniLm::load(&dir, precision)?.with_threads(threads))))
    }
}

/// Loads the model of this identity, if it is all-MiniLM-L6-v2 in one of its precisions.
pub(super) fn load(model: &EmbeddingModel) -> Option<Result<Arc<dyn Embedder>, String>> {
    let precision = [Precision::Int8, Precision::F32].into_iter().find(|one| one.as_str() == model.precision)?;
    let is_ours = model.name == oneiric_otel_embed::NAME;
    is_ours.then(|| LocalModel::obtain(precision, &oneiric_otel_parts::Silent).map_err(|error| error.to_string()))
}

impl Embedder for LocalModel {
    fn model(&self) -> &EmbeddingModel {
        &self.identity
    }

    fn embed(&self, texts: &[&str]) -> Result<Vec<Vec<f32>>, EmbedError> {
        let vectors = self.model.embed(texts);
        vectors.map_err(|error| EmbedError { model: error.model, reason: error.reason })
    }

    fn token_count(&self, text: &str) -> usize {
        self.model.token_count(text)
    }
}
