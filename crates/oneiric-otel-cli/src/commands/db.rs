//! `db`: the state of the database, and its migration.

use std::sync::Arc;

use anyhow::Result;
use serde_json::json;

use super::Ending;
use crate::args::{Db, Global};
use crate::backend::Backend;
use crate::progress::Progress;
use crate::{failure, screen};

pub(crate) async fn run(global: &Global, command: &Db) -> Result<Ending> {
    let progress = Arc::new(Progress::new());
    let backend = Backend::open_unmigrated(global, &progress).await?;
    let done = match command {
        Db::Status => status(global, &backend).await,
        Db::Migrate => migrate(global, &backend, &progress).await,
    };
    backend.release().await?;
    done.map(|()| Ending::Good)
}

async fn status(global: &Global, backend: &Backend) -> Result<()> {
    let status = backend.database().status().await.map_err(|error| failure::of_database(&error, backend.target()))?;
    if global.json {
        return screen::print_json(&status);
    }
    let pgvector = match (&status.pgvector_version, status.pgvector_available) {
        (Some(version), _) => version.clone(),
        (None, true) => "available, not installed yet".to_owned(),
        (None, false) => "missing: no search by meaning until the server has pgvector 0.8 or newer".to_owned(),
    };
    let or_none = |names: &[String]| if names.is_empty() { "none".to_owned() } else { names.join(", ") };
    screen::print(&format!(
        "database    {}\npostgresql  {}\npgvector    {pgvector}\nschema      version {}{}\npending     {}\ndeferred    {}\nsize        {}\n",
        screen::clean(&status.target),
        screen::clean(&status.server_version),
        status.schema.version,
        status.schema.conflict.as_ref().map_or(String::new(), |conflict| format!("; {}", screen::clean(conflict))),
        or_none(&status.schema.pending),
        or_none(&status.schema.pending_deferred),
        indicatif::BinaryBytes(status.size_bytes.unsigned_abs()),
    ))
}

async fn migrate(global: &Global, backend: &Backend, progress: &Progress) -> Result<()> {
    let required = backend.migrate().await?;
    progress.start("deferred migrations", None);
    let deferred = backend.database().migrate_deferred().await;
    progress.end();
    let deferred = deferred.map_err(|error| failure::of_database(&error, backend.target()))?;
    if global.json {
        return screen::print_json(&json!({ "applied": required, "applied_deferred": deferred }));
    }
    let applied: Vec<String> = required.into_iter().chain(deferred).collect();
    if applied.is_empty() {
        return screen::print("the schema is up to date\n");
    }
    screen::print(&format!("applied {}\n", applied.join(", ")))
}
