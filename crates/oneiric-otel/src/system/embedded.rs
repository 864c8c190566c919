//! This process's share in the embedded PostgreSQL.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use oneiric_otel_parts::{Parts, Progress};
use oneiric_otel_postgres::{ConnectionInfo, Options, Server};
use tokio_util::sync::CancellationToken;

use super::BackendError;
use crate::store::{Database, SqlReader};

const CHECK_EVERY: Duration = Duration::from_secs(2);

/// The share. Its calls block, so they run on threads for that.
#[derive(Debug, Clone)]
pub struct Embedded(Arc<Mutex<Server>>);

impl Embedded {
    /// Attaches to the server of a directory, or starts it. Returns also the URL of its database.
    pub(super) async fn open(data_dir: PathBuf, progress: Arc<dyn Progress>) -> Result<(Self, String), BackendError> {
        let server =
            on_blocking_thread("the start of PostgreSQL", move || attach_or_start(&data_dir, &*progress)).await??;
        let url = server.connection().url();
        Ok((Self(Arc::new(Mutex::new(server))), url))
    }

    /// A connection for SQL of anybody, as a role that is made by the first who asks. The schema must be there.
    ///
    /// # Errors
    /// When the role cannot be made.
    pub async fn sql_reader(&self, database: &Database) -> Result<SqlReader, BackendError> {
        let server = self.clone();
        let reader: ConnectionInfo =
            on_blocking_thread("the making of the role for SQL", move || server.lock().reader_connection()).await??;
        database.make_reader(&reader.user, &reader.password).await?;
        Ok(SqlReader::new(&reader.url())?)
    }

    /// A psql that connects here.
    pub fn psql_command(&self) -> Command {
        self.lock().psql_command()
    }

    /// Lets go of the server, unless another clone of this share is in use.
    pub(super) async fn release(self) -> Result<(), BackendError> {
        let Some(server) = Arc::into_inner(self.0) else { return Ok(()) };
        let server = server.into_inner().unwrap_or_else(PoisonError::into_inner);
        on_blocking_thread("the stop of PostgreSQL", move || server.release()).await??;
        Ok(())
    }

    /// Starts the server again when it has died.
    pub(super) async fn keep_running(self, stop: CancellationToken) {
        let work = async {
            loop {
                tokio::time::sleep(CHECK_EVERY).await;
                let embedded = self.clone();
                let looked = on_blocking_thread("the look at the embedded PostgreSQL", move || {
                    let mut server = embedded.lock();
                    if server.check_health().is_ok() { Ok(false) } else { server.ensure_running() }
                });
                match looked.await {
                    Ok(Ok(false)) => {}
                    Ok(Ok(true)) => tracing::warn!("the embedded PostgreSQL had died and was started again"),
                    Ok(Err(error)) => tracing::error!(%error, "the embedded PostgreSQL does not run"),
                    Err(error) => tracing::error!(%error, "the embedded PostgreSQL was not looked at"),
                }
            }
        };
        stop.run_until_cancelled(work).await;
    }

    /// A panic while holding the lock leaves the server usable.
    fn lock(&self) -> MutexGuard<'_, Server> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn on_blocking_thread<T: Send + 'static>(
    what: &'static str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, BackendError> {
    tokio::task::spawn_blocking(work).await.map_err(|_| BackendError::Interrupted { what })
}

fn attach_or_start(data_dir: &Path, progress: &dyn Progress) -> Result<Server, BackendError> {
    // A running server needs no parts, and what it runs on may not be what the environment names now.
    if let Some(server) = Server::attach(data_dir)? {
        return Ok(server);
    }
    let installation = Parts::open_default()?.postgres(progress)?;
    Ok(Server::attach_or_start(&Options { installation, data_dir: data_dir.to_owned() })?)
}
