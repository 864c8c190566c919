//! What processes that are gone left behind: spools of applications that nobody works on any more.
//!
//! Promise: a spool that another process uses is not touched; what is found in any other is written like everything else,
//! and its spool then stays empty for the next who needs one. What is found and what cannot be opened is told.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use oneiric_otel_spool::{Spool, SpoolError};
use tokio_util::sync::CancellationToken;

use super::spools::{left_behind, spool_options, spools};
use crate::pipeline::{Ack, Ingest, IngestOptions};
use crate::store::Database;

/// Where spools of others may lie, and how often it is looked there.
#[derive(Debug, Clone)]
pub struct LeftSpoolsOptions {
    /// The data directory.
    pub data_dir: PathBuf,
    /// Bound on the bytes of a spool.
    pub max_bytes: u64,
    /// How often.
    pub every: Duration,
}

/// The spools that were left behind, at one moment.
#[derive(Debug, Clone, Default)]
pub struct LeftSpools(Arc<Mutex<BTreeMap<PathBuf, String>>>);

impl LeftSpools {
    /// What is to be told of each, in words.
    pub fn problems(&self) -> Vec<String> {
        self.lock().iter().map(|(dir, state)| format!("{}: {state}", dir.display())).collect()
    }

    /// Somebody works on what is in it.
    pub(crate) fn found(&self, dir: &Path, requests: u64) {
        tracing::warn!(spool = %dir.display(), requests, "requests of a process that is gone are taken over");
        self.lock().insert(dir.to_owned(), "requests of a process that is gone are taken over".to_owned());
    }

    /// It cannot be opened.
    pub(crate) fn failed(&self, dir: &Path, error: &dyn std::error::Error) {
        let state = format!("requests of a process that is gone wait there, and it cannot be opened: {error}");
        if self.lock().insert(dir.to_owned(), state.clone()).as_ref() != Some(&state) {
            tracing::error!(spool = %dir.display(), %error, "requests of a process that is gone cannot be taken over");
        }
    }

    /// Nothing is to be told any more.
    pub(crate) fn forget(&self, dir: &Path) {
        self.lock().remove(dir);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<PathBuf, String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes what applications on this machine that are gone left for a database, until told to stop. `name` is what is called
/// after the database.
pub(super) async fn write(
    options: LeftSpoolsOptions,
    name: String,
    database: Database,
    ingest: IngestOptions,
    left: LeftSpools,
    stop: CancellationToken,
) {
    loop {
        for dir in left_behind(spools(&options.data_dir), name.clone()).await {
            let (path, max_bytes) = (dir.clone(), options.max_bytes);
            let opened = tokio::task::spawn_blocking(move || Spool::open(spool_options(&path, max_bytes))).await;
            let (spool, recovered) = match opened {
                Ok(Ok(opened)) => opened,
                Ok(Err(SpoolError::InUse { .. })) => {
                    left.forget(&dir);
                    continue;
                }
                Ok(Err(error)) => {
                    left.failed(&dir, &error);
                    continue;
                }
                Err(_) => return,
            };
            left.found(&dir, recovered.entries);
            let ingest = IngestOptions { ack: Ack::Spooled(spool), outlet: None, ..ingest.clone() };
            let ingest = Ingest::start(database.clone(), ingest);
            if stop.run_until_cancelled(ingest.drain()).await.is_none() {
                // What is left waits for the next who looks.
                return ingest.abandon().await;
            }
            left.forget(&dir);
        }
        if stop.run_until_cancelled(tokio::time::sleep(options.every)).await.is_none() {
            return;
        }
    }
}
