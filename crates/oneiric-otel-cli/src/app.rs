//! The running system, put together: database, write path, derivation, embedding, maintenance, and the listeners last.
//! It is taken apart in the reverse order.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use oneiric_otel::derive::{DeriveOptions, Deriver};
use oneiric_otel::pipeline::{Ack, BreakerState, Ingest, Replayer};
use oneiric_otel::query::QueryService;
use oneiric_otel::rollup::{RollupOptions, RollupWorker};
use oneiric_otel::self_trace;
use oneiric_otel::settings::Settings;
use oneiric_otel::store::{Database, ErrorClass, SqlReader};
use oneiric_otel_api::ApiOptions;
use oneiric_otel_server::{BoundServer, Readiness, Routes, Server, ServerError, ServerOptions};
use serde::{Deserialize, Serialize};
use tokio::sync::watch as value;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument as _, Span};

use crate::backend::{self, Backend, Embedded, Schema};
use crate::embedding::{self, ModelState};
use crate::failure;
use crate::intake::Intake;
use crate::own_traces::OwnTraces;
use crate::progress::Progress;
use crate::report::Identity;
use crate::security;
use crate::tasks::Tasks;
use crate::watch::{self, Watch};

/// What is left to do after the first signal is given this long.
pub(crate) const DRAIN: Duration = Duration::from_secs(10);
/// Of it the requests in flight, which come first, and the background tasks, which come last.
const DRAIN_REQUESTS: Duration = Duration::from_secs(5);
const DRAIN_TASKS: Duration = Duration::from_secs(2);
const MAINTAIN_EVERY: Duration = Duration::from_hours(1);
/// How long dead letters are kept that were stored after all.
const KEEP_PROCESSED_LETTERS: Duration = Duration::from_hours(30 * 24);
const CHECK_EMBEDDED_EVERY: Duration = Duration::from_secs(2);
const READY_WITHIN: Duration = Duration::from_secs(3);
/// How often a database that is away at the start is asked.
const ASK_AGAIN_AFTER: Duration = Duration::from_secs(2);

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
    pub(crate) own_traces: Option<OwnTraces>,
    /// A connection for SQL of anybody.
    pub(crate) sql: Option<SqlReader>,
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
    backend: Backend,
    ingest: Ingest,
    tasks: Tasks,
    addresses: Addresses,
    own_traces: Option<OwnTraces>,
    stop_serving: CancellationToken,
    serving: JoinHandle<Result<()>>,
    model: value::Receiver<ModelState>,
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
        let Choices { settings, own_traces, sql, ports } = choices;
        let database = backend.database().clone();
        let Intake { ack, disk, report } = intake;
        let promises_commit = matches!(ack, Ack::Stored);
        let ingest = Ingest::new(settings.ingest_options(ack));
        if let Some(own_traces) = &own_traces {
            own_traces.store_in(ingest.clone());
        }
        let mut tasks = Tasks::default();
        if let Some(disk) = disk {
            let ingest = ingest.clone();
            tasks.spawn("disk", |stop| disk.run(ingest, stop));
        }
        let (opened, ready) = value::channel(false);
        let (awaited, writing) = (database.clone(), ingest.clone());
        let maintenance = backend.maintenance().clone();
        tasks.spawn("schema", |stop| async move {
            if stop.run_until_cancelled(await_schema(&awaited, &maintenance, schema)).await.is_some() {
                writing.start_writing(awaited);
                opened.send_replace(true);
            }
        });

        if let Some(embedded) = backend.embedded() {
            tasks.spawn("embedded-postgres", |stop| keep_running(embedded, stop));
        }
        let (maintained, received) = (backend.maintenance().clone(), ingest.clone());
        let remember = Duration::from_hours(24 * u64::from(settings.ledger_days));
        tasks.spawn_after("maintenance", &ready, move |stop| maintain(maintained, received, remember, stop));
        let replayer = Replayer::new(database.clone(), Replayer::EVERY);
        tasks.spawn_after("dead-letters", &ready, |stop| async move { replayer.run(stop).await });
        let deriver = Deriver::new(database.clone(), DeriveOptions::default());
        let derived = Arc::new(deriver.totals());
        let texts_written = deriver.texts_written();
        let rollups = RollupWorker::new(database.clone(), RollupOptions::default());
        tasks.spawn_after("metric-rollups", &ready, |stop| async move { rollups.run(stop).await });
        tasks.spawn_after("derivation", &ready, |stop| async move { deriver.run(stop).await });
        let (model_state, model) = value::channel(ModelState::Loading);
        let embedded_texts = embedding::Texts { database: database.clone(), written: texts_written };
        let embedded_by = settings.clone();
        tasks.spawn_after("embedding", &ready, |stop| {
            embedding::run(embedded_texts, embedded_by, progress, model_state, stop)
        });

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
        let bound = match bind(server, ports, &ingest, &readiness).await {
            Ok(bound) => bound,
            Err(error) => {
                tasks.stop(DRAIN).await;
                ingest.abandon().await;
                backend.release().await?;
                return Err(error);
            }
        };
        let addresses = Addresses { grpc: bound.grpc_addr(), http: bound.http_addr(), api: bound.api_addr() };
        let queries = QueryService::new(database.clone(), None).with_options(settings.query_options());
        let queries = match sql {
            Some(sql) => queries.with_sql(sql),
            None => queries,
        };
        let watch = Watch {
            identity: Identity { started_at: watch::now(), addresses, target: backend.target().to_owned() },
            ingest: ingest.clone(),
            queries: queries.clone(),
            database,
            derived,
            refusals: bound.refusals(),
            seen: Arc::default(),
            own_traces: own_traces.clone(),
        };
        let service = questions(queries, model.clone(), &mut tasks);
        let api = api_options(&settings)?;
        let bound = bound.with_pages(watch.pages()).with_routes(Routes {
            router: oneiric_otel_api::router(service, &api),
            unauthenticated: oneiric_otel_api::unauthenticated,
        });
        let reporting = watch.clone();
        tasks.spawn("reports", |stop| reporting.leave_reports(report, stop));
        tasks.spawn("watch", |stop| watch.ask(stop));
        let stop_serving = CancellationToken::new();
        let stop = stop_serving.clone();
        let serving = tokio::spawn(async move { Ok(bound.serve(stop).await?) });
        Ok(Self { backend, ingest, tasks, addresses, own_traces, stop_serving, serving, model })
    }

    pub(crate) fn addresses(&self) -> Addresses {
        self.addresses
    }

    pub(crate) fn database(&self) -> &Database {
        self.backend.database()
    }

    /// Where the model stands.
    pub(crate) fn model(&self) -> value::Receiver<ModelState> {
        self.model.clone()
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
        let breaker = self.ingest.status().breaker;
        let left = match breaker.state {
            BreakerState::Closed => DRAIN.saturating_sub(DRAIN_TASKS + began.elapsed()),
            // Nothing can be written: there is nothing to wait for.
            BreakerState::Open | BreakerState::HalfOpen => Duration::ZERO,
        };
        if tokio::time::timeout(left, self.ingest.drain()).await.is_err() {
            self.ingest.abandon().await;
            let waiting =
                self.ingest.status().spool.map_or(0, |spool| spool.lanes.iter().map(|lane| lane.entries).sum());
            tracing::warn!(requests = waiting, "not everything could be written in time; the rest waits in the spool");
        }
        self.tasks.stop(DRAIN.saturating_sub(began.elapsed()).max(DRAIN_TASKS)).await;
        self.backend.release().await
    }
}

/// A question has this long for what is not its statement.
const BESIDE_STATEMENT: Duration = Duration::from_secs(10);

fn api_options(settings: &Settings) -> Result<ApiOptions> {
    let origins = settings.cors_origins.iter().map(|origin| origin.parse().map_err(anyhow::Error::msg));
    let cors_origins = origins.collect::<Result<_>>().context("cors_origins")?;
    // Longer than a statement may take, so that it is the statement of which is told.
    Ok(ApiOptions { cors_origins, time_limit: settings.query_timeout() + BESIDE_STATEMENT, ..ApiOptions::default() })
}

async fn bind(server: ServerOptions, ports: Ports, ingest: &Ingest, readiness: &Readiness) -> Result<BoundServer> {
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
    security::watch(&bound, &guard)?;
    Ok(bound)
}

/// Whom the API asks: by words alone until the model is loaded.
fn questions(
    service: QueryService,
    mut model: value::Receiver<ModelState>,
    tasks: &mut Tasks,
) -> value::Receiver<QueryService> {
    let (replace, asked) = value::channel(service.clone());
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

async fn is_busy(address: &str) -> bool {
    matches!(tokio::net::TcpListener::bind(address).await,
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse)
}

/// Brings the schema up to date, as soon as the database can be asked.
async fn await_schema(database: &Database, maintenance: &Database, schema: Schema) {
    if schema == Schema::Ready {
        return;
    }
    let mut told = None;
    loop {
        match backend::migrate(database, maintenance).await {
            Ok(_) => return tracing::info!(database = database.target(), "the database is there"),
            Err(error) if error.class() == ErrorClass::Transient => {
                tracing::debug!(%error, "the database is still away");
            }
            Err(error) => {
                let reason = error.to_string();
                if told.as_ref() != Some(&reason) {
                    tracing::error!(%error, "the database cannot be used; requests wait for it");
                    told = Some(reason);
                }
            }
        }
        tokio::time::sleep(ASK_AGAIN_AFTER).await;
    }
}

/// Whether a commit could be promised now.
async fn ask_database(database: Database) -> Result<(), String> {
    match tokio::time::timeout(READY_WITHIN, database.ping()).await {
        Ok(answer) => answer.map_err(|error| error.to_string()),
        Err(_) => Err(format!("the database did not answer within {} s", READY_WITHIN.as_secs())),
    }
}

/// Partitions ahead of time, the indexes that may take long, and the end of what need not be remembered.
async fn maintain(database: Database, ingest: Ingest, remember: Duration, stop: CancellationToken) {
    let work = async {
        match database.migrate_deferred().await {
            Ok(applied) if applied.is_empty() => {}
            Ok(applied) => tracing::info!(migrations = ?applied, "applied deferred migrations"),
            Err(error) => tracing::warn!(%error, "deferred migrations wait for the next start"),
        }
        let mut seen = 0;
        loop {
            let received = ingest.counts().requests_of_others();
            let span = if received > std::mem::replace(&mut seen, received) {
                tracing::info_span!(target: self_trace::TARGET, "maintain", oneiric_otel.for_others = true)
            } else {
                Span::none()
            };
            maintain_once(&database, &ingest, remember).instrument(span).await;
            tokio::time::sleep(MAINTAIN_EVERY).await;
        }
    };
    stop.run_until_cancelled(work).await;
}

/// What waits in the spool may have been written before a crash: its requests must not be forgotten before they are
/// recognised.
fn remember_requests(ingest: &Ingest, remember: Duration) -> Duration {
    /// Between the clocks of this machine and of the database.
    const MARGIN: Duration = Duration::from_hours(24);
    let oldest = ingest.status().spool.and_then(|spool| spool.lanes.iter().filter_map(|lane| lane.oldest).min());
    let age = oldest.map_or(Duration::ZERO, |oldest| oldest.elapsed().unwrap_or_default() + MARGIN);
    age.max(remember)
}

async fn maintain_once(database: &Database, ingest: &Ingest, remember: Duration) {
    match database.make_partitions().await {
        Ok(made) => tracing::debug!(made, "made partitions ahead of time"),
        Err(error) => tracing::warn!(%error, "partitions could not be made ahead of time"),
    }
    match database.forget_requests(remember_requests(ingest, remember)).await {
        Ok(forgotten) => tracing::debug!(forgotten, "forgot requests of long ago"),
        Err(error) => tracing::warn!(%error, "requests of long ago could not be forgotten"),
    }
    match database.forget_dead_letters(KEEP_PROCESSED_LETTERS).await {
        Ok(forgotten) => tracing::debug!(forgotten, "forgot dead letters that were stored after all"),
        Err(error) => tracing::warn!(%error, "dead letters of long ago could not be forgotten"),
    }
    match database.forget_errors().await {
        Ok(forgotten) => tracing::debug!(forgotten, "forgot errors whose traces are gone"),
        Err(error) => tracing::warn!(%error, "errors whose traces are gone could not be forgotten"),
    }
    // Last, because it may take long.
    match database.close_partitions().await {
        Ok(built) => tracing::debug!(?built, "built the indexes of partitions whose time has passed"),
        Err(error) => tracing::warn!(%error, "indexes of partitions whose time has passed could not be built"),
    }
}

/// Starts the embedded server again when it has died.
async fn keep_running(embedded: Embedded, stop: CancellationToken) {
    let work = async {
        loop {
            tokio::time::sleep(CHECK_EMBEDDED_EVERY).await;
            let embedded = Arc::clone(&embedded);
            let looked = tokio::task::spawn_blocking(move || {
                let mut server = backend::lock(&embedded);
                if server.check_health().is_ok() { Ok(false) } else { server.ensure_running() }
            });
            match looked.await {
                Ok(Ok(false)) => {}
                Ok(Ok(true)) => tracing::warn!("the embedded PostgreSQL had died and was started again"),
                Ok(Err(error)) => tracing::error!(%error, "the embedded PostgreSQL does not run"),
                Err(error) => tracing::error!(%error, "the look at the embedded PostgreSQL was cut off"),
            }
        }
    };
    stop.run_until_cancelled(work).await;
}
