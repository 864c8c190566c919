//! The embedding model, from the parts to memory.

use std::sync::Arc;

use anyhow::{Context as _, Result};
use oneiric_otel::embed::{Embedder, EndpointModel, EndpointOptions};
use oneiric_otel::settings::Settings;
use oneiric_otel_embed::MiniLm;
use oneiric_otel_parts::Parts;

use crate::progress::Progress;

/// The model that the settings name: one behind an endpoint is asked for a vector, ours is loaded, on all processors, and
/// downloaded before where that has not happened yet. Blocks for a part of a second, or for the download.
fn load(endpoint: Option<EndpointOptions>, progress: &Progress) -> Result<Arc<dyn Embedder>> {
    if let Some(endpoint) = endpoint {
        return Ok(Arc::new(EndpointModel::connect(endpoint)?));
    }
    let dir = Parts::open_default()?.minilm(progress)?;
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let model = MiniLm::load(&dir).with_context(|| format!("the embedding model in {}", dir.display()))?;
    Ok(Arc::new(model.with_threads(threads)))
}

/// [`load`] beside other work.
pub(crate) async fn load_in_background(settings: &Settings, progress: Arc<Progress>) -> Result<Arc<dyn Embedder>> {
    let endpoint = settings.endpoint_options();
    tokio::task::spawn_blocking(move || load(endpoint, &progress))
        .await
        .context("the loading of the model was cut off")?
}
