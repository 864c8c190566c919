//! A server on free ports with a database of its own.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use oneiric_otel::pipeline::{Ingest, IngestOptions};
use oneiric_otel::store::Database;
use oneiric_otel_server::{Readiness, Refusals, Reload, Server, ServerError, ServerOptions};
use oneiric_otel_testkit::TestDatabase;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Nothing here should take this long; a test that hangs fails instead.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);

/// A database without a server behind it: the port is reserved and never listened on.
const NOWHERE: &str = "postgresql://nobody@127.0.0.1:1/nothing";

/// A running server. It stops when it is dropped.
pub(crate) struct Serving {
    pub(crate) grpc: SocketAddr,
    pub(crate) http: SocketAddr,
    pub(crate) api: SocketAddr,
    pub(crate) reload: Reload,
    pub(crate) refusals: Arc<Refusals>,
    pub(crate) stop: CancellationToken,
    pub(crate) task: JoinHandle<Result<(), ServerError>>,
    test: Option<TestDatabase>,
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.stop.cancel();
        // Dropping a database blocks until every session of the whole PostgreSQL server has taken note. On a thread
        // that drives other tests' sessions it would wait for itself.
        let test = self.test.take();
        tokio::task::spawn_blocking(move || drop(test));
    }
}

/// Options for a test: loopback, free ports.
pub(crate) fn options() -> ServerOptions {
    let free = "127.0.0.1:0".to_owned();
    ServerOptions {
        grpc_addr: free.clone(),
        http_addr: free.clone(),
        api_addr: Some(free),
        drain_timeout: Duration::from_secs(5),
        ..ServerOptions::default()
    }
}

/// Always ready.
pub(crate) fn ready() -> Readiness {
    Readiness::new(async || Ok(()))
}

/// A write path on a database that is away.
pub(crate) fn stranded() -> Ingest {
    Ingest::start(Database::new(NOWHERE).unwrap(), IngestOptions::default())
}

impl Serving {
    pub(crate) async fn start() -> Self {
        Self::start_with(options(), ready()).await
    }

    pub(crate) async fn start_with(options: ServerOptions, readiness: Readiness) -> Self {
        let (test, ingest) = Self::write_path().await;
        Self::start_on(options, readiness, ingest, test).await
    }

    /// Gives the write path too.
    pub(crate) async fn start_watched() -> (Self, Ingest) {
        let (test, ingest) = Self::write_path().await;
        (Self::start_on(options(), ready(), ingest.clone(), test).await, ingest)
    }

    async fn write_path() -> (TestDatabase, Ingest) {
        let test = TestDatabase::create().await;
        let database = Database::new(test.url()).unwrap();
        database.migrate().await.unwrap();
        (test, Ingest::start(database, IngestOptions::default()))
    }

    /// The database of this server is away. It keeps another one for counting.
    pub(crate) async fn start_stranded() -> Self {
        let test = TestDatabase::create().await;
        Self::start_on(options(), ready(), stranded(), test).await
    }

    async fn start_on(options: ServerOptions, readiness: Readiness, ingest: Ingest, test: TestDatabase) -> Self {
        let bound = Server::bind(options, ingest, readiness).await.unwrap();
        let (grpc, http, api) = (bound.grpc_addr(), bound.http_addr(), bound.api_addr().unwrap());
        let (reload, refusals) = (bound.reload(), bound.refusals());
        let stop = CancellationToken::new();
        let task = tokio::spawn(bound.serve(stop.clone()));
        Self { grpc, http, api, reload, refusals, stop, task, test: Some(test) }
    }

    pub(crate) fn test(&self) -> &TestDatabase {
        self.test.as_ref().expect("taken only by drop")
    }

    pub(crate) async fn count(&self, what: &str) -> i64 {
        self.test().count(&format!("select count(*) from {what}")).await
    }
}
