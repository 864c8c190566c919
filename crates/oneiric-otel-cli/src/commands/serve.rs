//! `serve`: receives telemetry until it is told to stop.

use std::sync::Arc;

use anyhow::Result;

use super::Ending;
use crate::app::{self, Addresses, App, Choices, Ports};
use crate::args::Global;
use crate::backend::Backend;
use crate::intake::Intake;
use crate::own_traces::OwnTraces;
use crate::progress::Progress;
use crate::signals::Signals;
use crate::{data_dir, forwarding, open_files, screen, security};

pub(crate) async fn run(global: &Global, own_traces: Option<OwnTraces>, mut signals: Signals) -> Result<Ending> {
    let mut server = security::options(&global.resolved)?;
    server.max_connections = open_files::make_room(server.max_connections);
    let api = app::api_options(global.settings())?;
    let scheme = if server.tls.is_some() { "https" } else { "http" };
    let progress = Arc::new(Progress::new());
    let start = async {
        let (backend, schema) = Backend::open_for_serving(global, &progress).await?;
        let data_dir = data_dir::of(global)?;
        let intake = Intake::open(&data_dir, &backend, global.settings())?;
        let forward = forwarding::open(&data_dir, global.settings())?;
        let sql = backend.sql_reader_for_serving(global, schema).await;
        App::start(
            backend,
            schema,
            intake,
            server,
            Choices { settings: global.settings().clone(), api, own_traces, sql, forward, ports: Ports::default() },
            Arc::clone(&progress),
        )
        .await
    };
    let mut app = tokio::select! {
        app = start => app?,
        code = signals.first() => return Ok(Ending::Code(code)),
    };
    let announced = announce(global, scheme, app.addresses(), app.database().target());
    let served = match announced {
        Ok(()) => tokio::select! {
            served = app.serving() => served,
            _ = signals.first() => Ok(()),
        },
        Err(error) => Err(error),
    };
    tracing::info!("stopping");
    let stopped = app.stop().await;
    served.and(stopped).map(|()| Ending::Good)
}

fn announce(global: &Global, scheme: &str, addresses: Addresses, database: &str) -> Result<()> {
    if global.json {
        return screen::print_json(&addresses);
    }
    let api = addresses.api.map(|api| format!("health     {scheme}://{api}/readyz\n")).unwrap_or_default();
    screen::print(&format!(
        "ready\nOTLP/gRPC  {scheme}://{}\nOTLP/HTTP  {scheme}://{}\n{api}database   {}\n",
        addresses.grpc,
        addresses.http,
        screen::clean(database)
    ))
}
