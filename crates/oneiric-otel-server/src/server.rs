//! A server from its options to its end: binds, serves, drains.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use oneiric_otel::pipeline::Ingest;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::api::{Api, Page, Readiness, Routes};
use crate::connection::{Connections, Respond};
use crate::crowd::Crowd;
use crate::receivers::Receiver;
use crate::security::{Guarded, Refusals, Reload, Security};
use crate::{ServerOptions, address};

/// Connections on the API listener. They are counted apart, so that a flood of telemetry does not hide health.
const MAX_API_CONNECTIONS: usize = 256;

/// Why a server does not start.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// An option that cannot be.
    #[error("{0}")]
    Option(String),
    /// A certificate, a key or tokens that cannot be used. The message names the file.
    #[error("{0}")]
    Security(String),
    /// An address cannot be listened on.
    #[error("cannot listen on {address} for {purpose}: {reason}")]
    Bind {
        /// The address as it was given.
        address: String,
        /// What the address is for.
        purpose: &'static str,
        /// What is in the way and what to do.
        reason: String,
        /// The system's error.
        source: io::Error,
    },
}

impl ServerError {
    pub(crate) fn bind(purpose: &'static str, address: &str, source: io::Error) -> Self {
        let reason = match source.kind() {
            io::ErrorKind::AddrInUse => "the port is already in use; stop the program that listens there, or give \
                                         another address (port 0 picks a free one)"
                .to_owned(),
            io::ErrorKind::PermissionDenied => {
                format!("{source}; ports below 1024 need privileges, give another address")
            }
            io::ErrorKind::AddrNotAvailable => format!("{source}; this machine does not have that address"),
            _ => source.to_string(),
        };
        Self::Bind { address: address.to_owned(), purpose, reason, source }
    }
}

/// Makes servers.
#[derive(Debug)]
pub struct Server;

impl Server {
    /// Listens on all addresses of `options`, so that whatever can go wrong at start goes wrong here. Connections wait
    /// in the kernel's queue until [`BoundServer::serve`].
    ///
    /// Requests go to `ingest`; `/readyz` asks `readiness`.
    ///
    /// # Errors
    /// When an option is out of range, a file for TLS or of tokens is not as it must be, or an address cannot be listened on. The message names it and says what to do.
    pub async fn bind(
        options: ServerOptions,
        ingest: Ingest,
        readiness: Readiness,
    ) -> Result<BoundServer, ServerError> {
        options.check()?;
        let security = Security::load(&options)?;
        let grpc = address::bind("OTLP/gRPC", &options.grpc_addr).await?;
        let http = address::bind("OTLP/HTTP", &options.http_addr).await?;
        let api = match &options.api_addr {
            Some(addr) => address::bind("the API", addr).await?,
            None => Vec::new(),
        };
        let local = |listeners: &[TcpListener], purpose, asked: &str| {
            listeners
                .iter()
                .map(TcpListener::local_addr)
                .collect::<Result<Vec<_>, _>>()
                .map_err(|error| ServerError::bind(purpose, asked, error))
        };
        let addresses = Addresses {
            grpc: local(&grpc, "OTLP/gRPC", &options.grpc_addr)?,
            http: local(&http, "OTLP/HTTP", &options.http_addr)?,
            api: local(&api, "the API", options.api_addr.as_deref().unwrap_or_default())?,
        };
        Ok(BoundServer {
            options,
            security,
            ingest,
            readiness,
            pages: Vec::new(),
            routes: None,
            grpc,
            http,
            api,
            addresses,
        })
    }
}

#[derive(Debug)]
struct Addresses {
    grpc: Vec<SocketAddr>,
    http: Vec<SocketAddr>,
    api: Vec<SocketAddr>,
}

/// A server that listens and does not answer yet.
#[derive(Debug)]
pub struct BoundServer {
    options: ServerOptions,
    security: Arc<Security>,
    ingest: Ingest,
    readiness: Readiness,
    pages: Vec<Page>,
    routes: Option<Routes>,
    grpc: Vec<TcpListener>,
    http: Vec<TcpListener>,
    api: Vec<TcpListener>,
    addresses: Addresses,
}

impl BoundServer {
    /// Where OTLP/gRPC is expected: the first address, 127.0.0.1 for `localhost`.
    pub fn grpc_addr(&self) -> SocketAddr {
        self.addresses.grpc[0]
    }

    /// Where OTLP/HTTP is expected.
    pub fn http_addr(&self) -> SocketAddr {
        self.addresses.http[0]
    }

    /// Where the API is answered: health, readiness and [pages](Page).
    pub fn api_addr(&self) -> Option<SocketAddr> {
        self.addresses.api.first().copied()
    }

    /// Every address that is listened on.
    pub fn addresses(&self) -> impl Iterator<Item = SocketAddr> {
        let Addresses { grpc, http, api } = &self.addresses;
        [grpc, http, api].into_iter().flatten().copied()
    }

    /// Reads certificates and tokens again, now or while the server runs.
    pub fn reload(&self) -> Reload {
        Reload(Arc::clone(&self.security))
    }

    /// Shows these pages on the API listener.
    #[must_use]
    pub fn with_pages(self, pages: Vec<Page>) -> Self {
        Self { pages, ..self }
    }

    /// Answers these routes on the API listener.
    #[must_use]
    pub fn with_routes(self, routes: Routes) -> Self {
        Self { routes: Some(routes), ..self }
    }

    /// What the server turns away, as it goes on.
    pub fn refusals(&self) -> Arc<Refusals> {
        Arc::clone(self.security.refusals())
    }

    /// Serves until `shutdown`. Then no connection or request is begun any more, requests under way are finished and
    /// answered, and what is still open after [`ServerOptions::drain_timeout`] is cut: its sender has no promise and
    /// sends again.
    pub async fn serve(self, shutdown: CancellationToken) -> Result<(), ServerError> {
        let Self { options, security, ingest, readiness, pages, routes, grpc, http, api, .. } = self;
        let stop = shutdown.child_token();
        let cut = CancellationToken::new();
        let tasks = TaskTracker::new();
        let max_refused_bytes = options.max_request_bytes;
        let receiver = Guarded {
            responder: Receiver::new(&options, ingest, tasks.clone()),
            security: Arc::clone(&security),
            max_refused_bytes,
            tasks: tasks.clone(),
        };
        let otlp = Connections {
            crowd: Crowd::new(options.max_connections),
            security: Arc::clone(&security),
            idle_timeout: options.idle_timeout,
            stop: stop.clone(),
            cut: cut.clone(),
            tasks: tasks.clone(),
        };
        // The API answers until everything else has ended.
        let api_stop = CancellationToken::new();
        let api_tasks = TaskTracker::new();
        let api_connections = Connections {
            crowd: Crowd::new(MAX_API_CONNECTIONS),
            security: Arc::clone(&security),
            idle_timeout: options.idle_timeout,
            stop: api_stop.clone(),
            cut: api_stop.clone(),
            tasks: api_tasks.clone(),
        };
        listen(&otlp, grpc.into_iter().chain(http), &receiver);
        let api_responder = Guarded {
            responder: Api::new(readiness, pages, routes, options.tokens.is_none(), stop.clone()),
            security,
            max_refused_bytes,
            tasks: api_tasks.clone(),
        };
        listen(&api_connections, api, &api_responder);

        stop.cancelled().await;
        tasks.close();
        drain(&tasks, &cut, options.drain_timeout).await;
        api_stop.cancel();
        api_tasks.close();
        api_tasks.wait().await;
        Ok(())
    }
}

fn listen<R: Respond>(connections: &Connections, listeners: impl IntoIterator<Item = TcpListener>, responder: &R) {
    for listener in listeners {
        connections.tasks.spawn(connections.clone().accept(listener, responder.clone()));
    }
}

async fn drain(tasks: &TaskTracker, cut: &CancellationToken, timeout: Duration) {
    if tokio::time::timeout(timeout, tasks.wait()).await.is_err() {
        tracing::warn!(
            connections = tasks.len(),
            seconds = timeout.as_secs_f32(),
            "requests did not finish in time and are cut off; they were not acknowledged"
        );
    }
    cut.cancel();
}
