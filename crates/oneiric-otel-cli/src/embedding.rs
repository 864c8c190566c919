//! The embedding of texts all at once, before a command ends.

use std::sync::Arc;

use anyhow::Result;
use oneiric_otel::embed::{Embedded, EmbeddingWorker};
use oneiric_otel::settings::{EmbeddingFallback, Settings};
use oneiric_otel::store::Database;

use crate::progress::Progress;
use crate::{failure, model};

/// Embeds every text that waits.
///
/// # Errors
/// When there is no model or the database does not answer. What was embedded before is stored.
pub(crate) async fn embed_all_now(
    settings: &Settings,
    database: &Database,
    progress: &Arc<Progress>,
) -> Result<Embedded> {
    let embedder = match model::load_in_background(settings, Arc::new(progress.beside())).await {
        Ok(embedder) => embedder,
        Err(error) => {
            if settings.embedding_fallback == EmbeddingFallback::Hash {
                let noted = database.fall_back_to_hashes(&format!("{error:#}")).await;
                noted.map_err(|error| failure::of_database(&error, database.target()))?;
            }
            return Err(error);
        }
    };
    progress.start("embedding", None);
    let worker = EmbeddingWorker::new(database.clone(), embedder, settings.embed_options(), Arc::default());
    let embedded = worker.embed_all_now().await;
    progress.end();
    embedded.map_err(|error| failure::of_database(&error, database.target()))
}
