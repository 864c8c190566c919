//! The database that a command works on: the one that --database-url names, or the embedded one, attached to or
//! started for as long as it is needed.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use anyhow::{Error, Result};
use oneiric_otel::settings::{DatabaseUrl, Settings};
use oneiric_otel::store::{Database, SCHEMA_VERSION, SqlReader, StoreError};
use oneiric_otel::system::{self, BackendError, Schema, System, SystemOptions};
use oneiric_otel_parts::Parts;
use oneiric_otel_postgres::{Server, Status};

use crate::args::Global;
use crate::progress::Progress;
use crate::{data_dir, failure};

/// An open database. Letting go of it stops the embedded server if nobody else uses it.
#[derive(Debug)]
pub(crate) struct Backend(system::Backend);

impl Backend {
    /// For commands that bring data: makes what is missing.
    pub(crate) async fn open_for_writing(global: &Global, progress: &Arc<Progress>) -> Result<Self> {
        let backend = Self::open(global, progress).await?;
        backend.migrate().await?;
        Ok(backend)
    }

    async fn open(global: &Global, progress: &Arc<Progress>) -> Result<Self> {
        if let Some(backend) = Self::of_url(global.settings())? {
            return Ok(backend);
        }
        Self::start(data_dir::of(global)?, global.settings(), progress).await
    }

    /// For servers: a database that is away is no error, since requests can wait for it.
    pub(crate) async fn open_for_serving(global: &Global, progress: &Arc<Progress>) -> Result<(Self, Schema)> {
        let backend = Self::open(global, progress).await?;
        let schema = backend.0.migrate_if_there().await;
        let schema = schema.map_err(|error| failure::of_database(&error, backend.maintenance().target()))?;
        Ok((backend, schema))
    }

    /// For commands that read: there must be data to read.
    pub(crate) async fn open_for_reading(global: &Global, progress: &Arc<Progress>) -> Result<Self> {
        let backend = Self::open_unmigrated(global, progress).await?;
        let state = backend
            .database()
            .migration_state()
            .await
            .map_err(|error| failure::of_database(&error, backend.target()))?;
        if backend.is_embedded() {
            // Ours alone, so nobody needs to be asked.
            backend.migrate().await?;
        } else if !state.pending.is_empty() {
            return Err(failure::advised(
                format!(
                    "database {}: its schema is at version {}, this program needs {SCHEMA_VERSION}",
                    backend.target(),
                    state.version
                ),
                "run `oneiric-otel db migrate` with the same --database-url",
            ));
        }
        Ok(backend)
    }

    /// For commands that look at whatever is there.
    pub(crate) async fn open_unmigrated(global: &Global, progress: &Arc<Progress>) -> Result<Self> {
        if let Some(backend) = Self::of_url(global.settings())? {
            return Ok(backend);
        }
        let dir = data_dir::of(global)?;
        let status = Server::status(&dir)?;
        if status == Status::NotInitialised {
            return Err(failure::advised(
                format!("there is no database in {}", dir.display()),
                "start `oneiric-otel serve` or `oneiric-otel import` to make one, or name another with --data-dir or \
                 --database-url",
            ));
        }
        Self::start(dir, global.settings(), progress).await
    }

    /// For SQL of the user's. A database by URL is not looked at: the role for SQL may see the views alone.
    pub(crate) async fn open_for_sql(global: &Global, progress: &Arc<Progress>) -> Result<Self> {
        if let Some(backend) = Self::of_url(global.settings())? {
            return Ok(backend);
        }
        Self::open_for_reading(global, progress).await
    }

    /// A connection for SQL of anybody. The embedded database, whose schema must be there, has a role for it that is made
    /// by the first who asks; otherwise the URL leads to one, or is refused when it is used.
    pub(crate) async fn sql_reader(&self, global: &Global) -> Result<SqlReader> {
        if let Some(server) = self.0.embedded_server() {
            let reader = server.sql_reader(self.database()).await;
            return reader.map_err(|error| explain(error, self.target()));
        }
        let (url, name) = match (&global.settings().sql_reader_url, global.database_url()) {
            (Some(url), _) => (url.expose(), "given by --sql-reader-url"),
            (None, url) => (url.map_or("", DatabaseUrl::expose), "given by --database-url"),
        };
        SqlReader::new(url).map_err(|error| failure::of_database(&error, name))
    }

    /// The same for a server, which does without where it cannot be had.
    pub(crate) async fn sql_reader_for_serving(&self, global: &Global, schema: Schema) -> Option<SqlReader> {
        // Nothing can be made in a database that is away; one by URL is not asked here.
        if self.is_embedded() && schema == Schema::Awaited {
            return None;
        }
        match self.sql_reader(global).await {
            Ok(reader) => Some(reader),
            Err(error) => {
                tracing::warn!(error = format!("{error:#}"), "no SQL over HTTP: the role for it cannot be had");
                None
            }
        }
    }

    /// Whether opening starts no server.
    pub(crate) fn is_running(global: &Global) -> Result<bool> {
        if global.database_url().is_some() {
            return Ok(true);
        }
        Ok(matches!(Server::status(&data_dir::of(global)?)?, Status::Running { .. }))
    }

    /// The database that the settings name, if they name one.
    fn of_url(settings: &Settings) -> Result<Option<Self>> {
        let explain = |(setting, error): (_, StoreError)| failure::of_database(&error, &format!("given by {setting}"));
        let Some(database) = settings.database().map_err(explain)? else { return Ok(None) };
        let maintenance = settings.maintenance_database().map_err(explain)?;
        Ok(Some(Self(system::Backend::new(database, maintenance))))
    }

    /// Attaches to the embedded server of a directory, or starts it.
    async fn start(dir: PathBuf, settings: &Settings, progress: &Arc<Progress>) -> Result<Self> {
        let progress = Arc::clone(progress);
        let backend = system::Backend::embedded(dir, settings.query_timeout(), progress).await;
        Ok(Self(backend.map_err(|error| explain(error, "that is embedded"))?))
    }

    /// Starts a system on it.
    pub(crate) fn serve(self, schema: Schema, options: SystemOptions) -> System {
        System::start(self.0, schema, options)
    }

    /// As the library knows it.
    pub(crate) fn system(&self) -> &system::Backend {
        &self.0
    }

    /// Brings the schema up to date.
    pub(crate) async fn migrate(&self) -> Result<Vec<String>> {
        self.0.migrate().await.map_err(|error| failure::of_database(&error, self.maintenance().target()))
    }

    /// The database for migrations and maintenance.
    pub(crate) fn maintenance(&self) -> &Database {
        self.0.maintenance()
    }

    pub(crate) fn database(&self) -> &Database {
        self.0.database()
    }

    /// Host, port and database, without credentials.
    pub(crate) fn target(&self) -> &str {
        self.0.target()
    }

    /// Whether this is the embedded database.
    pub(crate) fn is_embedded(&self) -> bool {
        self.0.is_embedded()
    }

    /// A psql that connects here; `url` is that of the settings.
    ///
    /// # Errors
    /// If the password in the URL cannot be told from the rest.
    pub(crate) fn psql(&self, url: Option<&DatabaseUrl>) -> Result<Command> {
        if let Some(server) = self.0.embedded_server() {
            return Ok(server.psql_command());
        }
        // Arguments are in the process list, the environment is not.
        let Some(public) = url.and_then(DatabaseUrl::split_password) else {
            let message = "the password in --database-url cannot be told from the rest, and psql would show it";
            return Err(failure::advised(message, "write @ as %40 in it, except between password and host"));
        };
        let mut command = Command::new(psql_program());
        if let Some(password) = public.password {
            command.env("PGPASSWORD", password);
        }
        command.arg("--dbname").arg(public.url);
        Ok(command)
    }

    /// Closes the connections and lets go of the embedded server.
    pub(crate) async fn release(self) -> Result<()> {
        let target = self.target().to_owned();
        self.0.release().await.map_err(|error| explain(error, &target))
    }
}

/// An error of the library, with what to do about it.
fn explain(error: BackendError, target: &str) -> Error {
    match error {
        BackendError::Store(error) => failure::of_database(&error, target),
        other => Error::new(other),
    }
}

/// The psql in PATH, else the one among the parts if those are there already.
fn psql_program() -> PathBuf {
    let in_path =
        std::env::var_os("PATH").is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join("psql").is_file()));
    if in_path {
        return PathBuf::from("psql");
    }
    let parts = Parts::open_default().and_then(|parts| parts.postgres(&oneiric_otel_parts::Silent));
    let bundled = parts.map(|dir| dir.join("bin/psql")).ok();
    bundled.filter(|program| Path::is_file(program)).unwrap_or_else(|| PathBuf::from("psql"))
}
