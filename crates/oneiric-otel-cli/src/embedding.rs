//! The embedding of texts: in the background while a server runs, or all at once before a command ends.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use oneiric_otel::embed::{Embedded, Embedder, EmbeddingWorker, NewTexts};
use oneiric_otel::settings::Settings;
use oneiric_otel::store::Database;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::progress::Progress;
use crate::{failure, model};

/// A model that cannot be loaded, as without a network at the first start, is tried again after this time.
const LOAD_AGAIN_AFTER: Duration = Duration::from_mins(1);

/// Where the model stands.
#[derive(Clone)]
pub(crate) enum ModelState {
    Loading,
    Ready(Arc<dyn Embedder>),
    /// Why it could not be loaded. It is tried again.
    Failed(String),
}

impl std::fmt::Debug for ModelState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Loading => f.write_str("Loading"),
            Self::Ready(embedder) => f.debug_tuple("Ready").field(embedder.model()).finish(),
            Self::Failed(reason) => f.debug_tuple("Failed").field(reason).finish(),
        }
    }
}

/// Where texts come from.
#[derive(Debug)]
pub(crate) struct Texts {
    pub(crate) database: Database,
    /// That there are new ones.
    pub(crate) written: Arc<NewTexts>,
}

/// Loads the model and embeds what comes, until it is stopped. Storing does not wait for any of it.
pub(crate) async fn run(
    texts: Texts,
    settings: Settings,
    progress: Arc<Progress>,
    state: watch::Sender<ModelState>,
    stop: CancellationToken,
) {
    let load = async {
        loop {
            match model::load_in_background(&settings, Arc::clone(&progress)).await {
                Ok(embedder) => return embedder,
                Err(error) => {
                    tracing::warn!(
                        error = format!("{error:#}"),
                        "no embedding model: traces are stored without vectors"
                    );
                    state.send_replace(ModelState::Failed(format!("{error:#}")));
                    tokio::time::sleep(LOAD_AGAIN_AFTER).await;
                }
            }
        }
    };
    let Some(embedder) = stop.run_until_cancelled(load).await else { return };
    tracing::info!(model = %embedder.model(), "the embedding model is loaded");
    state.send_replace(ModelState::Ready(Arc::clone(&embedder)));
    EmbeddingWorker::new(texts.database, embedder, settings.embed_options(), texts.written).run(stop).await;
}

/// Embeds every text that waits.
///
/// # Errors
/// When there is no model or the database does not answer. What was embedded before is stored.
pub(crate) async fn embed_all_now(
    settings: &Settings,
    database: &Database,
    progress: &Arc<Progress>,
) -> Result<Embedded> {
    let embedder = model::load_in_background(settings, Arc::new(progress.beside())).await?;
    progress.start("embedding", None);
    let worker = EmbeddingWorker::new(database.clone(), embedder, settings.embed_options(), Arc::default());
    let embedded = worker.embed_all_now().await;
    progress.end();
    embedded.map_err(|error| failure::of_database(&error, database.target()))
}
