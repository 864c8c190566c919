//! The embedding model, from the parts to memory.

use std::sync::Arc;

use anyhow::{Context as _, Result};
use oneiric_otel::embed::{Embedder, EndpointModel, EndpointOptions, LocalModel, Precision};
use oneiric_otel::settings::Settings;

use crate::progress::Progress;

/// The model that the settings name: one behind an endpoint is asked for a vector, ours is loaded. See
/// [`LocalModel::obtain`].
pub(crate) fn load(
    endpoint: Option<EndpointOptions>,
    precision: Precision,
    progress: &Progress,
) -> Result<Arc<dyn Embedder>> {
    match endpoint {
        Some(endpoint) => Ok(Arc::new(EndpointModel::connect(endpoint)?)),
        None => Ok(LocalModel::obtain(precision, progress)?),
    }
}

/// [`load`] beside other work.
pub(crate) async fn load_in_background(settings: &Settings, progress: Arc<Progress>) -> Result<Arc<dyn Embedder>> {
    let (endpoint, precision) = (settings.endpoint_options(), settings.precision());
    tokio::task::spawn_blocking(move || load(endpoint, precision, &progress))
        .await
        .context("the loading of the model was cut off")?
}
