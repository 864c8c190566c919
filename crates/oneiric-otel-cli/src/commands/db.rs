//! `db`: the state of the database, its migration, and who may use it.

use std::sync::Arc;

use anyhow::Result;
use oneiric_otel::store::Grantees;
use serde_json::json;

use super::Ending;
use crate::args::{Db, DbRoles, Global};
use crate::backend::Backend;
use crate::progress::Progress;
use crate::{failure, screen};

pub(crate) async fn run(global: &Global, command: &Db) -> Result<Ending> {
    let progress = Arc::new(Progress::new());
    let backend = Backend::open_unmigrated(global, &progress).await?;
    let done = match command {
        Db::Status => status(global, &backend).await,
        Db::Migrate => migrate(global, &backend, &progress).await,
        Db::Roles(roles) => grant(global, &backend, roles).await,
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
        "database    {}\npostgresql  {}\npgvector    {pgvector}\nschema      version {}{}{}\npending     {}\ndeferred    {}\nsize        {}\n",
        screen::clean(&status.target),
        screen::clean(&status.server_version),
        status.schema.version,
        status.schema.conflict.as_ref().map_or(String::new(), |conflict| format!("; {}", screen::clean(conflict))),
        match status.schema.newer.as_slice() {
            [] => String::new(),
            newer => format!("; newer than this program, which can work with {}", screen::clean(&newer.join(", "))),
        },
        or_none(&status.schema.pending),
        or_none(&status.schema.pending_deferred),
        indicatif::BinaryBytes(status.size_bytes.unsigned_abs()),
    ))
}

async fn migrate(global: &Global, backend: &Backend, progress: &Progress) -> Result<()> {
    let required = backend.migrate().await?;
    progress.start("deferred migrations", None);
    let database = backend.maintenance();
    let done = async {
        // What a server that connects as a writer could not do itself.
        database.install_pgvector().await?;
        database.migrate_deferred().await
    };
    let deferred = done.await;
    progress.end();
    let deferred = deferred.map_err(|error| failure::of_database(&error, database.target()))?;
    if global.json {
        return screen::print_json(&json!({ "applied": required, "applied_deferred": deferred }));
    }
    let applied: Vec<String> = required.into_iter().chain(deferred).collect();
    if applied.is_empty() {
        return screen::print("the schema is up to date\n");
    }
    screen::print(&format!("applied {}\n", applied.join(", ")))
}

async fn grant(global: &Global, backend: &Backend, roles: &DbRoles) -> Result<()> {
    let database = backend.maintenance();
    let grantees = Grantees { writer: roles.writer.clone(), reader: roles.reader.clone() };
    let granted = database.grant_roles(&grantees, roles.dry_run).await;
    let granted = granted.map_err(|error| failure::of_database(&error, database.target()))?;
    for note in &granted.notes {
        tracing::warn!("{note}");
    }
    if global.json {
        return screen::print_json(&granted);
    }
    if roles.dry_run {
        // As they stand, to be run: a name is no telemetry, but harmless it must be.
        let statements = granted.statements.iter().map(|statement| format!("{};\n", screen::clean(statement)));
        return screen::print(&statements.collect::<String>());
    }
    let part = |what: &str, role: &Option<String>| {
        role.as_ref().map(|role| format!("{what} {}\n", screen::clean(role))).unwrap_or_default()
    };
    screen::print(&format!("{}{}", part("writer", &roles.writer), part("reader", &roles.reader)))
}
