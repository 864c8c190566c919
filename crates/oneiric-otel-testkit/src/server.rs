//! The PostgreSQL server that test databases live on: one that the environment names, else the private one.
//!
//! Every process looks at each server once and drops the databases that dead test runs left there.

use std::collections::HashMap;
use std::env;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result};

use crate::database;
use crate::embedded::Embedded;

/// A version of PostgreSQL to test on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Version {
    /// PostgreSQL 16, the reference.
    V16,
    /// PostgreSQL 18.
    V18,
}

impl Version {
    fn url_variable(self) -> &'static str {
        match self {
            Self::V16 => "ONEIRIC_OTEL_TEST_DATABASE_URL",
            Self::V18 => "ONEIRIC_OTEL_TEST_DATABASE_URL_18",
        }
    }
}

/// A running server. Clones are the same server.
#[derive(Debug, Clone)]
pub(crate) struct Server {
    url: Arc<str>,
    /// Holds on to the private server.
    _embedded: Option<Arc<Embedded>>,
}

impl Server {
    /// The connection string of its maintenance database.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }
}

static SERVERS: Mutex<Option<HashMap<Version, Server>>> = Mutex::new(None);

/// The server of this process for that version. Blocks while it starts; later calls are instant.
pub(crate) fn acquire(version: Version) -> Result<Server> {
    // A panic while holding it leaves the map as it was.
    let mut servers = SERVERS.lock().unwrap_or_else(PoisonError::into_inner);
    let servers = servers.get_or_insert_with(HashMap::new);
    if let Some(server) = servers.get(&version) {
        return Ok(server.clone());
    }
    let named = env::var(version.url_variable()).ok().filter(|url| !url.is_empty());
    let server = if let Some(url) = named {
        Server { url: url.into(), _embedded: None }
    } else {
        let embedded = Embedded::attach(version)?;
        Server { url: embedded.url().into(), _embedded: Some(Arc::new(embedded)) }
    };
    // On a thread of its own: the caller may be inside a runtime, where another one must not be blocked on.
    let url = server.url.clone();
    std::thread::spawn(move || run_blocking(async move { database::sweep(&url).await }))
        .join()
        .map_err(|_panic| anyhow::anyhow!("the thread that drops abandoned databases panicked"))?
        .context("look at the databases on the test server")?;
    servers.insert(version, server.clone());
    Ok(server)
}

/// Runs a future to its end on a runtime of its own. Not for threads that are inside a runtime.
pub(crate) fn run_blocking(future: impl Future<Output = Result<()>>) -> Result<()> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(future)
}
