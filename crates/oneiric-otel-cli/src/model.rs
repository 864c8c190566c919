//! The embedding model, from the parts to memory.

use std::sync::Arc;

use anyhow::{Context as _, Result};
use oneiric_otel::embed::Embedder;
use oneiric_otel_embed::MiniLm;
use oneiric_otel_parts::Parts;

use crate::progress::Progress;

/// Loads the model, on all processors; downloads it before where that has not happened yet. Blocks for a part of a
/// second, or for the download.
pub(crate) fn load(progress: &Progress) -> Result<Arc<dyn Embedder>> {
    let dir = Parts::open_default()?.minilm(progress)?;
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let model = MiniLm::load(&dir).with_context(|| format!("the embedding model in {}", dir.display()))?;
    Ok(Arc::new(model.with_threads(threads)))
}

/// [`load`] beside other work.
pub(crate) async fn load_in_background(progress: Arc<Progress>) -> Result<Arc<dyn Embedder>> {
    tokio::task::spawn_blocking(move || load(&progress)).await.context("the loading of the model was cut off")?
}
