//! The life of an adapter: from nothing to a running system and back.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use tokio::runtime::{Handle, Runtime};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::closing::Closing;
use super::encode::{CUT_VALUE, Usual};
use super::health::{HealthReport, report};
use super::queue::{Bounds, Queue};
use super::worker::{Target, Worker};
use super::{
    Acknowledge, Durability, EmbeddingChoice, OtelStorage, OtelStorageOptions, Shared, StorageError, StoreRefused,
};
use crate::pipeline::{Ack, Ingest, IngestOptions};
use crate::query::QueryService;
use crate::self_trace;
use crate::store::{Database, SqlReader, StoreError};
use crate::system::{
    Backend, DiskGuard, LeftSpools, LeftSpoolsOptions, MaintenanceOptions, ModelLoader, ModelState, Schema, System,
    SystemOptions, default_data_dir, open_free_spool,
};

/// Where an adapter is in its life.
#[derive(Debug, Default)]
pub(super) enum Life {
    /// `init` was not called, or failed.
    #[default]
    New,
    Running(Box<Parts>),
    Closed(Closing),
}

/// What calls need while it runs, and find closed afterwards.
#[derive(Debug, Clone)]
pub(super) struct Running {
    pub(super) queue: Arc<Queue>,
    pub(super) asked: watch::Receiver<QueryService>,
    pub(super) ingest: Ingest,
    pub(super) database: Database,
    pub(super) is_embedded: bool,
    pub(super) model: watch::Receiver<ModelState>,
    pub(super) left: LeftSpools,
    pub(super) runtime: Option<Handle>,
}

/// What has to be taken down.
#[derive(Debug)]
pub(super) struct Parts {
    system: System,
    queue: Arc<Queue>,
    runtime: OwnRuntime,
    timeout: Duration,
}

impl Parts {
    /// Begins to store what was accepted, as far as there is time, and to stop everything.
    fn close(self) -> Closing {
        let Self { system, queue, runtime, timeout } = self;
        Closing::begin(runtime, async move {
            let began = Instant::now();
            let settled = queue.settle_within(timeout).await;
            let stopped = system.stop(timeout.saturating_sub(began.elapsed())).await;
            queue.clear();
            stopped?;
            settled
        })
    }
}

impl OtelStorage {
    /// Connects, brings the schema up to date, looks whether pgvector is there, and starts the workers, on threads of
    /// their own. The embedding model loads in the background. To be called once; after an error it may be called again.
    ///
    /// With [`Acknowledge::Spooled`] a database that is away is no error: records wait in the spool, and it is tried
    /// again. Otherwise it is.
    ///
    /// # Errors
    /// [`StorageError`], which says what could not be had.
    pub async fn init(&self) -> Result<(), StorageError> {
        // Whoever holds it is initialising or cleaning up.
        let mut life = self.shared.life.try_lock().map_err(|_| StorageError::AlreadyInitialised)?;
        match *life {
            Life::New => {}
            Life::Running(_) => return Err(StorageError::AlreadyInitialised),
            Life::Closed(_) => return Err(StorageError::Closed),
        }
        let ended = self.shared.starting();
        let runtime = OwnRuntime::start(self.shared.options.threads)?;
        let begun = ended.run_until_cancelled(runtime.run(Box::pin(begin(self.shared.options.clone()))));
        let Some(begun) = begun.await else {
            *life = Life::Closed(Closing::over());
            return Err(StorageError::Closed);
        };
        let (system, queue) = begun?;
        let running = Running {
            queue: Arc::clone(&queue),
            asked: system.asked(),
            ingest: system.ingest().clone(),
            database: system.backend().database().clone(),
            is_embedded: system.backend().is_embedded(),
            model: system.model(),
            left: system.left_spools(),
            runtime: runtime.handle(),
        };
        // Only one initialisation gets here: the lock is held, and the life was new.
        drop(self.shared.running.set(running));
        *life = Life::Running(Box::new(Parts { system, queue, runtime, timeout: self.shared.options.cleanup_timeout }));
        Ok(())
    }

    /// Waits until everything that was accepted before this call is durable, as [`Acknowledge`] says.
    ///
    /// # Errors
    /// [`StorageError::NotStored`] with the number of records that were accepted and could not be stored, of all that no
    /// flush has reported before. Records that can never be stored as they are do not count: their receipts say so, and
    /// [`Self::health`] counts them.
    pub async fn flush(&self) -> Result<(), StorageError> {
        self.running()?.queue.flush().await
    }

    /// Stores what was accepted, stops the workers and lets go of the database, within
    /// [`OtelStorageOptions::cleanup_timeout`]. Calls of `store_*` are refused from the beginning of this call on. What
    /// waits in the spool is written by a later process. An `init` that is under way is given up. It goes on when nobody waits
    /// for it any more; a further call waits for the same end and is told the same.
    ///
    /// # Errors
    /// [`StorageError::NotInitialised`], or what could not be stored or stopped; it is closed all the same.
    pub async fn cleanup(&self) -> Result<(), StorageError> {
        if let Some(running) = self.shared.running.get() {
            running.queue.close(StoreRefused::Closed);
        }
        self.shared.stop_starting();
        let closing = {
            let mut life = self.shared.life.lock().await;
            let closing = match std::mem::take(&mut *life) {
                Life::New => return Err(StorageError::NotInitialised),
                Life::Closed(closing) => closing,
                Life::Running(parts) => parts.close(),
            };
            *life = Life::Closed(closing.clone());
            closing
        };
        closing.outcome().await
    }

    /// The state of the adapter and of everything behind it. Asks the database, for at most some seconds.
    ///
    /// # Errors
    /// [`StorageError::NotInitialised`] and [`StorageError::Closed`].
    pub async fn health(&self) -> Result<HealthReport, StorageError> {
        self.asked()?;
        let running = self.running()?.clone();
        let early = self.shared.refused_early.load(Ordering::Relaxed);
        run_on(running.runtime.clone(), async move {
            let mut report = report(&running).await;
            report.queue.refused_records += early;
            Ok(report)
        })
        .await
    }
}

impl Shared {
    /// An `init` begins, which [`Self::stop_starting`] ends.
    fn starting(&self) -> CancellationToken {
        let ended = CancellationToken::new();
        *self.starting.lock().unwrap_or_else(PoisonError::into_inner) = Some(ended.clone());
        ended
    }

    fn stop_starting(&self) {
        if let Some(ended) = self.starting.lock().unwrap_or_else(PoisonError::into_inner).take() {
            ended.cancel();
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let Life::Running(parts) = std::mem::take(self.life.get_mut()) else { return };
        tracing::warn!(
            records = parts.queue.report().records,
            "the storage was dropped without cleanup(): it is cleaned up in the background, if the process lives that long"
        );
        parts.queue.close(StoreRefused::Closed);
        // It goes on by itself.
        drop(parts.close());
    }
}

/// The threads of an adapter. They end when it is dropped, and nobody waits for that.
#[derive(Debug)]
pub(super) struct OwnRuntime(Option<Runtime>);

impl OwnRuntime {
    pub(super) fn start(threads: usize) -> Result<Self, StorageError> {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        let runtime = builder.worker_threads(threads).thread_name("oneiric-otel").enable_all().build();
        Ok(Self(Some(runtime.map_err(StorageError::Threads)?)))
    }

    pub(super) fn handle(&self) -> Option<Handle> {
        self.0.as_ref().map(|runtime| runtime.handle().clone())
    }

    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, StorageError>> + Send + 'static,
    ) -> Result<T, StorageError> {
        run_on(self.handle(), work).await
    }
}

impl Drop for OwnRuntime {
    fn drop(&mut self) {
        // To wait for it is not allowed within a runtime of the application.
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

/// Does work on threads of the adapter, without telemetry of it.
pub(super) async fn run_on<T: Send + 'static>(
    runtime: Option<Handle>,
    work: impl Future<Output = Result<T, StorageError>> + Send + 'static,
) -> Result<T, StorageError> {
    let runtime = runtime.ok_or(StorageError::Interrupted)?;
    let done = self_trace::without_telemetry(|| runtime.spawn(self_trace::inherit(work)));
    done.await.unwrap_or(Err(StorageError::Interrupted))
}

async fn begin(options: OtelStorageOptions) -> Result<(System, Arc<Queue>), StorageError> {
    let data_dir = data_dir(&options)?;
    let backend = open(&options, &data_dir).await?;
    match prepare(&options, &data_dir, &backend).await {
        Ok((schema, system)) => start(&options, backend, schema, system),
        Err(error) => {
            if let Err(error) = backend.release().await {
                tracing::warn!(%error, "the database was not let go of");
            }
            Err(error)
        }
    }
}

pub(super) fn data_dir(options: &OtelStorageOptions) -> Result<PathBuf, StorageError> {
    let dir = options.data_dir.clone().or_else(default_data_dir);
    dir.and_then(|dir| std::path::absolute(dir).ok()).ok_or_else(|| StorageError::InvalidOption {
        name: "data_dir",
        accepted: "a directory, because the home directory is unknown".to_owned(),
    })
}

async fn open(options: &OtelStorageOptions, data_dir: &Path) -> Result<Backend, StorageError> {
    let Some(url) = &options.connection_string else { return embedded(data_dir, options.query_timeout).await };
    let given = |name: &str| {
        let target = format!("given by {name}");
        move |error| StorageError::Database { target, error }
    };
    let database = Database::new(url).map_err(given("connection_string"))?;
    let database = match &options.reader_url {
        Some(reader) => database.reading_from(reader).map_err(given("reader_url"))?,
        None => database,
    };
    let database = database.with_read_limit(options.query_timeout);
    let maintenance = options.maintenance_url.as_deref().map(Database::new).transpose();
    Ok(Backend::new(database, maintenance.map_err(given("maintenance_url"))?))
}

#[cfg(feature = "embedded")]
async fn embedded(data_dir: &Path, read_limit: Duration) -> Result<Backend, StorageError> {
    Ok(Backend::embedded(data_dir.to_owned(), read_limit, Arc::new(oneiric_otel_parts::Silent)).await?)
}

#[cfg(not(feature = "embedded"))]
async fn embedded(_: &Path, _: Duration) -> Result<Backend, StorageError> {
    // Refused when it was built.
    let accepted = "a URL: this program has no embedded PostgreSQL".to_owned();
    std::future::ready(Err(StorageError::InvalidOption { name: "connection_string", accepted })).await
}

/// Everything that may fail before something runs.
async fn prepare(
    options: &OtelStorageOptions,
    data_dir: &Path,
    backend: &Backend,
) -> Result<(Schema, SystemOptions), StorageError> {
    let schema = match options.acknowledge {
        Acknowledge::Spooled => backend.migrate_if_there().await,
        Acknowledge::Stored | Acknowledge::Memory => backend.migrate().await.map(|_| Schema::Ready),
    };
    let schema = schema.map_err(|error| of_database(backend, error))?;
    if schema == Schema::Ready {
        let has_pgvector = backend.maintenance().install_pgvector().await;
        if !has_pgvector.map_err(|error| of_database(backend, error))? {
            tracing::warn!(
                database = backend.target(),
                "pgvector is missing: traces are stored without vectors and cannot be searched by meaning"
            );
        }
    }
    let sql = sql_reader(options, backend, schema).await?;
    let ack = match options.acknowledge {
        Acknowledge::Spooled => Ack::Spooled(open_free_spool(data_dir, backend, options.spool_max_bytes).await?),
        Acknowledge::Stored => Ack::Stored,
        Acknowledge::Memory => Ack::Memory { requests: options.memory_calls },
    };
    let disk = DiskGuard { dir: data_dir.to_owned(), min_free_bytes: options.min_free_bytes };
    let system = SystemOptions {
        ingest: IngestOptions { ack, ..options.ingest.clone() },
        derive: options.derive.clone(),
        embed: options.embed.clone(),
        rollup: options.rollup.clone(),
        query: options.query,
        remember_requests: options.remember_requests,
        retention: options.retention,
        maintenance: MaintenanceOptions::default(),
        disk: backend.is_embedded().then_some(disk),
        model: loader(&options.embedding),
        embedding_fallback: options.embedding_fallback,
        sql,
        left_spools: Some(LeftSpoolsOptions {
            data_dir: data_dir.to_owned(),
            max_bytes: options.spool_max_bytes,
            every: options.left_spools_interval,
        }),
    };
    Ok((schema, system))
}

async fn sql_reader(
    options: &OtelStorageOptions,
    backend: &Backend,
    schema: Schema,
) -> Result<Option<SqlReader>, StorageError> {
    if let Some(url) = &options.sql_reader_url {
        let target = || "given by sql_reader_url".to_owned();
        return SqlReader::new(url).map(Some).map_err(|error| StorageError::Database { target: target(), error });
    }
    embedded_sql_reader(backend, schema).await
}

#[cfg(feature = "embedded")]
async fn embedded_sql_reader(backend: &Backend, schema: Schema) -> Result<Option<SqlReader>, StorageError> {
    match (backend.embedded_server(), schema) {
        (Some(server), Schema::Ready) => Ok(Some(server.sql_reader(backend.database()).await?)),
        _ => Ok(None),
    }
}

#[cfg(not(feature = "embedded"))]
async fn embedded_sql_reader(_: &Backend, _: Schema) -> Result<Option<SqlReader>, StorageError> {
    std::future::ready(Ok(None)).await
}

fn loader(choice: &EmbeddingChoice) -> Option<ModelLoader> {
    match choice {
        EmbeddingChoice::Other(loader) => Some(loader.clone()),
        EmbeddingChoice::None => None,
        #[cfg(feature = "local-model")]
        EmbeddingChoice::Usual => Some(ModelLoader::new(|| {
            let precision = crate::settings::Settings::default().precision();
            crate::embed::LocalModel::obtain(precision, &oneiric_otel_parts::Silent).map_err(|error| error.to_string())
        })),
        #[cfg(not(feature = "local-model"))]
        EmbeddingChoice::Usual => None,
    }
}

fn start(
    options: &OtelStorageOptions,
    backend: Backend,
    schema: Schema,
    system: SystemOptions,
) -> Result<(System, Arc<Queue>), StorageError> {
    let usual = Usual::of(&options.origin)
        .ok_or_else(|| StorageError::InvalidOption { name: "origin", accepted: CUT_VALUE.to_owned() })?;
    let newest = (options.acknowledge == Acknowledge::Memory).then_some(options.memory_calls);
    let queue = Queue::new(Bounds { bytes: options.queue_max_bytes, newest });
    let mut system = System::start(backend, schema, system);
    let worker = Worker {
        queue: Arc::clone(&queue),
        target: Target::Database(system.ingest().clone()),
        usual,
        durability: match options.acknowledge {
            Acknowledge::Spooled => Durability::Spooled,
            Acknowledge::Stored => Durability::Stored,
            Acknowledge::Memory => Durability::Memory,
        },
        gather: options.gather_interval,
        patience: options.store_timeout,
    };
    system.spawn("adapter", |stop| worker.run(stop));
    Ok((system, queue))
}

fn of_database(backend: &Backend, error: StoreError) -> StorageError {
    StorageError::Database { target: backend.target().to_owned(), error }
}
