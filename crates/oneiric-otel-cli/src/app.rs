//! The server, put together: the running system of the library, and the listeners last. It is taken apart in the reverse
//! order.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use oneiric_otel::forward::Forwarder;
use oneiric_otel::pipeline::{Ack, Ingest, IngestOptions, Outlet};
use oneiric_otel::query::SQL_TIME;
use oneiric_otel::settings::Settings;
use oneiric_otel::store::{Database, SqlReader};
use oneiric_otel::system::{ModelLoader, ModelState, Schema, System, SystemOptions};
use oneiric_otel_api::ApiOptions;
use oneiric_otel_server::{BoundServer, Readiness, Routes, Server, ServerError, ServerOptions};
use serde::{Deserialize, Serialize};
use tokio::sync::watch as value;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::backend::Backend;
use crate::intake::Intake;
use crate::own_traces::OwnTraces;
use crate::progress::Progress;
use crate::report::Identity;
use crate::watch::{self, Watch};
use crate::{failure, forwarding, model, security};

/// What is left to do after the first signal is given this long.
pub(crate) const DRAIN: Duration = Duration::from_secs(10);
/// Of it the requests in flight, which come first.
const DRAIN_REQUESTS: Duration = Duration::from_secs(5);
const READY_WITHIN: Duration = Duration::from_secs(3);

/// Where the server listens.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Addresses {
    #[serde(rename = "grpc_addr")]
    pub(crate) grpc: SocketAddr,
    #[serde(rename = "http_addr")]
    pub(crate) http: SocketAddr,
    #[serde(rename = "api_addr")]
    pub(crate) api: Option<SocketAddr>,
}

/// What one server has and another does without.
#[derive(Debug, Default)]
pub(crate) struct Choices {
    pub(crate) settings: Settings,
    pub(crate) api: ApiOptions,
    pub(crate) own_traces: Option<OwnTraces>,
    /// A connection for SQL of anybody.
    pub(crate) sql: Option<SqlReader>,
    /// Where else requests go.
    pub(crate) forward: Option<Forwarder>,
    pub(crate) ports: Ports,
}

/// Whose addresses are left for free ports when they are in use.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Ports {
    pub(crate) any_grpc: bool,
    pub(crate) any_http: bool,
    pub(crate) any_api: bool,
}

/// A server that answers.
#[derive(Debug)]
pub(crate) struct App {
    system: System,
    addresses: Addresses,
    own_traces: Option<OwnTraces>,
    stop_serving: CancellationToken,
    serving: JoinHandle<Result<()>>,
}

impl App {
    /// Starts everything on an open database; the model loads in the background.
    pub(crate) async fn start(
        backend: Backend,
        schema: Schema,
        intake: Intake,
        server: ServerOptions,
        choices: Choices,
        progress: Arc<Progress>,
    ) -> Result<Self> {
        let Choices { settings, api, own_traces, sql, forward, ports } = choices;
        let Intake { ack, disk, report, left_spools } = intake;
        let promises_commit = matches!(ack, Ack::Stored);
        let (endpoint, precision) = (settings.endpoint_options(), settings.precision());
        let model = ModelLoader::new(move || {
            model::load(endpoint.clone(), precision, &progress).map_err(|error| format!("{error:#}"))
        });
        let outlet = forward.clone().map(|forwarder| Arc::new(forwarder) as Arc<dyn Outlet>);
        let options = SystemOptions {
            ingest: IngestOptions { outlet, ..settings.ingest_options(ack) },
            embed: settings.embed_options(),
            query: settings.query_options(),
            remember_requests: Duration::from_hours(24 * u64::from(settings.ledger_days)),
            retention: settings.retention_options(),
            disk,
            model: Some(model),
            embedding_fallback: settings.embedding_fallback,
            sql,
            left_spools: Some(left_spools),
            ..SystemOptions::default()
        };
        let mut system = backend.serve(schema, options);
        let ingest = system.ingest().clone();
        let database = system.backend().database().clone();
        if let Some(own_traces) = &own_traces {
            own_traces.store_in(ingest.clone());
        }
        let asked = ingest.clone();
        let pinged = database.clone();
        let readiness = Readiness::new(move || {
            let can_acknowledge = asked.can_acknowledge();
            let database = promises_commit.then(|| pinged.clone());
            async move {
                can_acknowledge?;
                match database {
                    Some(database) => ask_database(database).await,
                    None => Ok(()),
                }
            }
        });
        let bound = match bind(server, ports, &ingest, &readiness, forward.as_ref()).await {
            Ok(bound) => bound,
            Err(error) => {
                system.stop(Duration::ZERO).await?;
                return Err(error);
            }
        };
        let watched = forward.clone();
        if let Some(forwarder) = forward {
            system.spawn("forwarding", |stop| forwarder.run(stop));
        }
        let addresses = Addresses { grpc: bound.grpc_addr(), http: bound.http_addr(), api: bound.api_addr() };
        let watch = Watch {
            identity: Identity { started_at: watch::now(), addresses, target: database.target().to_owned() },
            ingest,
            queries: system.queries().clone(),
            database,
            derived: system.derived(),
            refusals: bound.refusals(),
            seen: Arc::default(),
            own_traces: own_traces.clone(),
            forward: watched,
        };
        let bound = bound.with_pages(watch.pages()).with_routes(Routes {
            router: oneiric_otel_api::router(system.asked(), &api),
            unauthenticated: oneiric_otel_api::unauthenticated,
        });
        let reporting = watch.clone();
        system.spawn("reports", |stop| reporting.leave_reports(report, stop));
        system.spawn("watch", |stop| watch.ask(stop));
        let stop_serving = CancellationToken::new();
        let stop = stop_serving.clone();
        let serving = tokio::spawn(async move { Ok(bound.serve(stop).await?) });
        Ok(Self { system, addresses, own_traces, stop_serving, serving })
    }

    pub(crate) fn addresses(&self) -> Addresses {
        self.addresses
    }

    pub(crate) fn database(&self) -> &Database {
        self.system.backend().database()
    }

    /// Where the model stands.
    pub(crate) fn model(&self) -> value::Receiver<ModelState> {
        self.system.model()
    }

    /// Ends only if the listeners end by themselves, which they should not.
    pub(crate) async fn serving(&mut self) -> Result<()> {
        (&mut self.serving).await.context("the listeners ended badly")?
    }

    /// Stops accepting, finishes what is in flight, stops the rest, lets go of PostgreSQL.
    pub(crate) async fn stop(self) -> Result<()> {
        let began = Instant::now();
        self.stop_serving.cancel();
        if !self.serving.is_finished() {
            self.serving.await.context("the listeners ended badly")??;
        }
        if let Some(own_traces) = &self.own_traces {
            own_traces.finish().await;
        }
        self.system.stop(DRAIN.saturating_sub(began.elapsed())).await?;
        Ok(())
    }
}

/// A question has this long for what is not its statement.
const BESIDE_STATEMENT: Duration = Duration::from_secs(10);

/// What the settings say about the API.
///
/// # Errors
/// If an origin cannot be one.
pub(crate) fn api_options(settings: &Settings) -> Result<ApiOptions> {
    let origins = settings.cors_origins.iter().map(|origin| origin.parse().map_err(anyhow::Error::msg));
    let cors_origins = origins.collect::<Result<_>>().context("cors_origins")?;
    // Longer than a statement may take, of ours or of the user's, so that it is the statement of which is told.
    let time_limit = settings.query_timeout().max(SQL_TIME) + BESIDE_STATEMENT;
    Ok(ApiOptions { cors_origins, time_limit, ..ApiOptions::default() })
}

async fn bind(
    server: ServerOptions,
    ports: Ports,
    ingest: &Ingest,
    readiness: &Readiness,
    forward: Option<&Forwarder>,
) -> Result<BoundServer> {
    let mut options = ServerOptions { drain_timeout: DRAIN_REQUESTS, ..server };
    let ServerOptions { grpc_addr, http_addr, api_addr, .. } = &mut options;
    let addresses =
        [(ports.any_grpc, Some(grpc_addr)), (ports.any_http, Some(http_addr)), (ports.any_api, api_addr.as_mut())];
    for (may_be_any, address) in addresses {
        if let Some(address) = address
            && may_be_any
            && is_busy(address).await
        {
            "127.0.0.1:0".clone_into(address);
        }
    }
    let guard = options.clone();
    let bound = Server::bind(options, ingest.clone(), readiness.clone()).await.map_err(|error| {
        let in_use = error.to_string().contains("in use");
        let hint = if matches!(error, ServerError::Security(_)) {
            "--tls-cert, --tls-key, --tls-client-ca and --token-file say which files are read"
        } else if in_use {
            "give other addresses with --grpc-addr, --http-addr and --api-addr, or stop the program that listens there"
        } else {
            "--grpc-addr, --http-addr and --api-addr take HOST:PORT"
        };
        failure::advised(error.to_string(), hint)
    })?;
    if let Some(forwarder) = forward {
        forwarding::refuse_loop(forwarder, &[bound.grpc_addr(), bound.http_addr()]).await?;
    }
    security::watch(&bound, &guard)?;
    Ok(bound)
}

async fn is_busy(address: &str) -> bool {
    matches!(tokio::net::TcpListener::bind(address).await,
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse)
}

/// Whether a commit could be promised now.
async fn ask_database(database: Database) -> Result<(), String> {
    match tokio::time::timeout(READY_WITHIN, database.ping()).await {
        Ok(answer) => answer.map_err(|error| error.to_string()),
        Err(_) => Err(format!("the database did not answer within {} s", READY_WITHIN.as_secs())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_statement_ends_before_its_question_whosever_it_is() {
        for (query_timeout_seconds, expected) in [(1, 40), (30, 40), (600, 610)] {
            let settings = Settings { query_timeout_seconds, ..Settings::default() };
            let options = api_options(&settings).expect("there are no origins");
            assert_eq!(options.time_limit, Duration::from_secs(expected), "{query_timeout_seconds}");
        }
    }
}
