//! `psql`: an SQL shell on the database.

use std::os::unix::process::ExitStatusExt as _;
use std::sync::Arc;

use anyhow::Result;

use super::Ending;
use crate::args::{Global, Psql};
use crate::backend::Backend;
use crate::progress::Progress;
use crate::signals::Signals;
use crate::{failure, hide};

/// The tables' schema first, so that `select count(*) from otel_spans` works as it stands.
const SEARCH_PATH: &str = "-c search_path=otel,public";

pub(crate) async fn run(global: &Global, psql: Psql, mut signals: Signals) -> Result<Ending> {
    let backend = Backend::open_unmigrated(global, &Arc::new(Progress::new())).await?;
    let mut command = tokio::process::Command::from(backend.psql(global.database_url())?);
    let options = std::env::var("PGOPTIONS").ok().filter(|_| global.database_url().is_some());
    command.env("PGOPTIONS", format!("{} {SEARCH_PATH}", options.unwrap_or_default()).trim());
    hide::variables().for_each(|variable| {
        command.env_remove(variable);
    });
    command.args(psql.arguments);
    // Ctrl-C cancels a statement in psql. It reaches us too and must not end us before psql.
    let ended = tokio::select! {
        status = command.kill_on_drop(true).status() => Ok(status),
        code = signals.first() => Err(code),
    };
    backend.release().await?;
    let status = match ended {
        Ok(status) => status,
        Err(code) => return Ok(Ending::Code(code)),
    };
    let status = status.map_err(|error| {
        failure::advised(
            format!("cannot run psql: {error}"),
            "install PostgreSQL's client programs, or name a PostgreSQL installation in ONEIRIC_OTEL_POSTGRES_DIR",
        )
    })?;
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(1);
    Ok(Ending::Code(u8::try_from(code).unwrap_or(1)))
}
