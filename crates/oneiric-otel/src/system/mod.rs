//! The running system without its listeners: a database, the write path, and the workers in the background. The server of
//! the command line and [`crate::storage::OtelStorage`] are two doors to it.
//!
//! Promise: this is the one place that starts workers and takes them down again, in the reverse order. It knows no socket
//! and no command line.

mod backend;
mod data_dir;
mod disk;
#[cfg(feature = "embedded")]
mod embedded;
mod left;
mod maintenance;
mod model;
mod spools;
mod tasks;

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

pub use backend::{Backend, BackendError, Schema};
pub use data_dir::default_data_dir;
pub use disk::DiskGuard;
#[cfg(feature = "embedded")]
pub use embedded::Embedded;
pub use left::{LeftSpools, LeftSpoolsOptions};
pub use maintenance::MaintenanceOptions;
use maintenance::Upkeep;
pub use model::{ModelLoader, ModelState};
pub(crate) use spools::open_free_spool;
#[cfg(feature = "forward")]
pub(crate) use spools::{file_name, in_free_directory, left_behind};
pub use spools::{name_of, open_spool, spool_dir, spools, spools_of};
pub use tasks::Tasks;

use crate::derive::{DeriveOptions, Derived, Deriver};
use crate::embed::{EmbedOptions, FormerModel};
use crate::pipeline::{Ack, BreakerState, Ingest, IngestOptions, Replayer};
use crate::query::{QueryOptions, QueryService};
use crate::retention::RetentionOptions;
use crate::rollup::{RollupOptions, RollupWorker};
use crate::settings::EmbeddingFallback;
use crate::store::SqlReader;

/// Requests that wait at most when they are only in memory.
pub const MEMORY_REQUESTS: usize = 1000;

/// [`SystemOptions::remember_requests`] unless somebody says otherwise.
pub(crate) const REMEMBER_REQUESTS: Duration = Duration::from_hours(7 * 24);

/// Of the time to stop, what background tasks get at least.
const STOP_TASKS_WITHIN: Duration = Duration::from_secs(2);

/// How a system works.
#[derive(Debug)]
pub struct SystemOptions {
    /// The write path.
    pub ingest: IngestOptions,
    /// The derivation of traces.
    pub derive: DeriveOptions,
    /// The embedding of texts.
    pub embed: EmbedOptions,
    /// The rolling up of metrics.
    pub rollup: RollupOptions,
    /// From which similarity something counts.
    pub query: QueryOptions,
    /// How long a request that is sent again adds nothing.
    pub remember_requests: Duration,
    /// How long telemetry is kept and how it is cut, where that is to be otherwise than the database has it.
    pub retention: RetentionOptions,
    /// When the database is maintained.
    pub maintenance: MaintenanceOptions,
    /// The disk that must not fill up.
    pub disk: Option<DiskGuard>,
    /// What loads the embedding model; without it texts wait for vectors.
    pub model: Option<ModelLoader>,
    /// What a trace without a vector has in its place while there is no model.
    pub embedding_fallback: EmbeddingFallback,
    /// A connection for SQL of anybody.
    pub sql: Option<SqlReader>,
    /// Where applications that are gone may have left requests for this database, which are written then.
    pub left_spools: Option<LeftSpoolsOptions>,
}

impl Default for SystemOptions {
    fn default() -> Self {
        Self {
            ingest: IngestOptions::default(),
            derive: DeriveOptions::default(),
            embed: EmbedOptions::default(),
            rollup: RollupOptions::default(),
            query: QueryOptions::default(),
            remember_requests: REMEMBER_REQUESTS,
            retention: RetentionOptions::default(),
            maintenance: MaintenanceOptions::default(),
            disk: None,
            model: None,
            embedding_fallback: EmbeddingFallback::None,
            sql: None,
            left_spools: None,
        }
    }
}

/// A running system. Dropping it without [`Self::stop`] cancels what runs in the background.
pub struct System {
    backend: Backend,
    ingest: Ingest,
    tasks: Tasks,
    derived: Arc<dyn Fn() -> Derived + Send + Sync>,
    model: watch::Receiver<ModelState>,
    queries: QueryService,
    asked: watch::Receiver<QueryService>,
    is_ready: watch::Receiver<bool>,
    left: LeftSpools,
}

impl fmt::Debug for System {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("System").field("backend", &self.backend).field("model", &self.model).finish_non_exhaustive()
    }
}

impl System {
    /// Starts everything on an open database, in the runtime of the caller. The model loads in the background, and a
    /// database that is away is waited for there; requests are admitted at once.
    pub fn start(backend: Backend, schema: Schema, options: SystemOptions) -> Self {
        let SystemOptions {
            ingest,
            derive,
            embed,
            rollup,
            query,
            remember_requests,
            retention,
            maintenance,
            disk,
            model: loader,
            embedding_fallback,
            sql,
            left_spools,
        } = options;
        let upkeep = Upkeep { remember_requests, retention, options: maintenance };
        let database = backend.database().clone();
        let max_metric_series = ingest.max_metric_series;
        let left_ingest = IngestOptions { ack: Ack::Stored, ..ingest.clone() };
        let ingest = Ingest::new(ingest);
        let mut tasks = Tasks::default();
        if let Some(disk) = disk {
            let ingest = ingest.clone();
            tasks.spawn("disk", |stop| disk.run(ingest, stop));
        }
        let (opened, is_ready) = watch::channel(false);
        let (awaited, writing) = (database.clone(), ingest.clone());
        let maintained = backend.other_way().cloned();
        tasks.spawn("schema", |stop| async move {
            let wait = maintenance::await_schema(&awaited, maintained.as_ref(), schema);
            if stop.run_until_cancelled(wait).await.is_some() {
                writing.start_writing(awaited);
                opened.send_replace(true);
            }
        });
        #[cfg(feature = "embedded")]
        if let Some(embedded) = backend.embedded_server().cloned() {
            tasks.spawn("embedded-postgres", |stop| embedded.keep_running(stop));
        }
        let (maintained, received) = (backend.maintenance().clone(), ingest.clone());
        tasks.spawn_after("maintenance", &is_ready, move |stop| {
            maintenance::maintain(maintained, received, upkeep, stop)
        });
        let left = LeftSpools::default();
        if let Some(options) = left_spools {
            let (name, database, told) =
                (name_of(backend.target(), backend.is_embedded()), database.clone(), left.clone());
            tasks.spawn_after("left-spools", &is_ready, |stop| {
                left::write(options, name, database, left_ingest, told, stop)
            });
        }
        let replayer = Replayer::new(database.clone(), Replayer::EVERY).with_max_metric_series(max_metric_series);
        tasks.spawn_after("dead-letters", &is_ready, |stop| async move { replayer.run(stop).await });
        let deriver = Deriver::new(database.clone(), derive).maintaining_over(backend.maintenance().clone());
        let derived = Arc::new(deriver.totals());
        let texts_written = deriver.texts_written();
        let rollups = RollupWorker::new(database.clone(), rollup);
        tasks.spawn_after("metric-rollups", &is_ready, |stop| async move { rollups.run(stop).await });
        tasks.spawn_after("derivation", &is_ready, |stop| async move { deriver.run(stop).await });
        let first = if loader.is_some() { ModelState::Loading } else { ModelState::None };
        let (model_state, model) = watch::channel(first);
        let former = FormerModel::default();
        if let Some(loader) = loader {
            let models = (loader, former.clone());
            let texts = (database.clone(), backend.maintenance().clone());
            tasks.spawn_after("embedding", &is_ready, move |stop| {
                model::run(texts, models, (embed, embedding_fallback), texts_written, model_state, stop)
            });
        } else {
            let fallback = (database.clone(), embedding_fallback);
            tasks.spawn_after("embedding", &is_ready, |stop| async move {
                stop.run_until_cancelled(model::set_fallback(&fallback, "none is wanted")).await;
            });
        }
        let queries = QueryService::new(database, None).with_options(query).with_former(former);
        let queries = match sql {
            Some(sql) => queries.with_sql(sql),
            None => queries,
        };
        let asked = with_model_once_loaded(queries.clone(), model.clone(), &mut tasks);
        Self { backend, ingest, tasks, derived, model, queries, asked, is_ready, left }
    }

    /// Starts a task that ends when the system is stopped, before those that are here already.
    pub fn spawn<F>(&mut self, name: &'static str, run: impl FnOnce(CancellationToken) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.tasks.spawn(name, run);
    }

    /// The database.
    pub fn backend(&self) -> &Backend {
        &self.backend
    }

    /// The write path.
    pub fn ingest(&self) -> &Ingest {
        &self.ingest
    }

    /// What was derived since the start.
    pub fn derived(&self) -> Arc<dyn Fn() -> Derived + Send + Sync> {
        Arc::clone(&self.derived)
    }

    /// Where the model stands.
    pub fn model(&self) -> watch::Receiver<ModelState> {
        self.model.clone()
    }

    /// Whether the schema is there, so that something is written.
    pub fn is_ready(&self) -> watch::Receiver<bool> {
        self.is_ready.clone()
    }

    /// The spools of processes that are gone.
    pub fn left_spools(&self) -> LeftSpools {
        self.left.clone()
    }

    /// Whom to ask about its cache: see [`Self::asked`] for questions.
    pub fn queries(&self) -> &QueryService {
        &self.queries
    }

    /// Whom to ask questions: by words alone until the model is loaded.
    pub fn asked(&self) -> watch::Receiver<QueryService> {
        self.asked.clone()
    }

    /// Takes no more requests, writes what waits as far as that can be done within `patience`, stops the workers and lets
    /// go of the database. What cannot be written in time stays in the spool, or is counted as dropped where there is
    /// none.
    ///
    /// # Errors
    /// When the embedded server cannot be stopped.
    pub async fn stop(self, patience: Duration) -> Result<(), BackendError> {
        let Self { backend, ingest, tasks, .. } = self;
        let began = Instant::now();
        let left = match ingest.status().breaker.state {
            BreakerState::Closed => patience.saturating_sub(STOP_TASKS_WITHIN),
            // Nothing can be written: there is nothing to wait for.
            BreakerState::Open | BreakerState::HalfOpen => Duration::ZERO,
        };
        if tokio::time::timeout(left, ingest.drain()).await.is_err() {
            ingest.abandon().await;
            let waiting = ingest.status().spool.map_or(0, |spool| spool.lanes.iter().map(|lane| lane.entries).sum());
            tracing::warn!(requests = waiting, "not everything could be written in time; the rest waits in the spool");
        }
        tasks.stop(patience.saturating_sub(began.elapsed()).max(STOP_TASKS_WITHIN)).await;
        backend.release().await
    }
}

fn with_model_once_loaded(
    service: QueryService,
    mut model: watch::Receiver<ModelState>,
    tasks: &mut Tasks,
) -> watch::Receiver<QueryService> {
    let (replace, asked) = watch::channel(service.clone());
    tasks.spawn("questions", |stop| async move {
        let loaded = async {
            let loaded = model.wait_for(|state| matches!(state, ModelState::Ready(_))).await;
            if let Ok(ModelState::Ready(embedder)) = loaded.as_deref() {
                replace.send_replace(service.with_embedder(Arc::clone(embedder)));
            }
        };
        stop.run_until_cancelled(loaded).await;
    });
    asked
}
