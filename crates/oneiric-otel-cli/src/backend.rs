//! The database that a command works on: the one that --database-url names, or the embedded one, attached to or
//! started for as long as it is needed.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result};
use oneiric_otel::settings::{DatabaseUrl, Settings};
use oneiric_otel::store::{Database, ErrorClass, SCHEMA_VERSION, SqlReader, StoreError};
use oneiric_otel_parts::Parts;
use oneiric_otel_postgres::{Options, Server, Status};

use crate::args::Global;
use crate::progress::Progress;
use crate::{data_dir, failure};

/// An open database. Letting go of it stops the embedded server if nobody else uses it.
#[derive(Debug)]
pub(crate) struct Backend {
    database: Database,
    /// Another way to it, for migrations and maintenance.
    maintenance: Option<Database>,
    embedded: Option<Embedded>,
}

/// Whether the schema is known to be up to date.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Schema {
    Ready,
    /// The database could not be asked yet.
    Awaited,
}

/// The share in the embedded server. Its calls block.
pub(crate) type Embedded = Arc<Mutex<Server>>;

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
        let schema = match migrate(&backend.database, backend.maintenance()).await {
            Ok(_) => Schema::Ready,
            Err(error) if error.class() == ErrorClass::Transient => {
                tracing::warn!(%error, database = backend.target(), "the database is away; requests wait for it");
                Schema::Awaited
            }
            Err(error) => return Err(failure::of_database(&error, backend.maintenance().target())),
        };
        Ok((backend, schema))
    }

    /// For commands that read: there must be data to read.
    pub(crate) async fn open_for_reading(global: &Global, progress: &Arc<Progress>) -> Result<Self> {
        let backend = Self::open_unmigrated(global, progress).await?;
        let state =
            backend.database.migration_state().await.map_err(|error| failure::of_database(&error, backend.target()))?;
        if backend.embedded.is_some() {
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
        let Some(server) = &self.embedded else {
            let (url, name) = match (&global.settings().sql_reader_url, global.database_url()) {
                (Some(url), _) => (url.expose(), "given by --sql-reader-url"),
                (None, url) => (url.map_or("", DatabaseUrl::expose), "given by --database-url"),
            };
            return SqlReader::new(url).map_err(|error| failure::of_database(&error, name));
        };
        let server = Arc::clone(server);
        let reader = tokio::task::spawn_blocking(move || lock(&server).reader_connection())
            .await
            .context("the role for SQL was not made")??;
        let made = self.database.make_reader(&reader.user, &reader.password).await;
        made.map_err(|error| failure::of_database(&error, self.target()))?;
        SqlReader::new(&reader.url()).map_err(|error| failure::of_database(&error, self.target()))
    }

    /// The same for a server, which does without where it cannot be had.
    pub(crate) async fn sql_reader_for_serving(&self, global: &Global, schema: Schema) -> Option<SqlReader> {
        // Nothing can be made in a database that is away; one by URL is not asked here.
        if self.embedded.is_some() && schema == Schema::Awaited {
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
        Ok(Some(Self { database, maintenance, embedded: None }))
    }

    /// Attaches to the embedded server of a directory, or starts it.
    async fn start(dir: PathBuf, settings: &Settings, progress: &Arc<Progress>) -> Result<Self> {
        let progress = Arc::clone(progress);
        let server = tokio::task::spawn_blocking(move || attach_or_start(dir, &progress))
            .await
            .context("the start of PostgreSQL was cut off")??;
        let url = server.connection().url();
        let database = Database::new(&url).map_err(|error| failure::of_database(&error, "that is embedded"))?;
        let database = database.with_read_limit(settings.query_timeout());
        Ok(Self { database, maintenance: None, embedded: Some(Arc::new(Mutex::new(server))) })
    }

    /// Brings the schema up to date.
    pub(crate) async fn migrate(&self) -> Result<Vec<String>> {
        let maintenance = self.maintenance();
        let applied = migrate(&self.database, maintenance).await;
        applied.map_err(|error| failure::of_database(&error, maintenance.target()))
    }

    /// The database for migrations and maintenance.
    pub(crate) fn maintenance(&self) -> &Database {
        self.maintenance.as_ref().unwrap_or(&self.database)
    }

    pub(crate) fn database(&self) -> &Database {
        &self.database
    }

    /// Host, port and database, without credentials.
    pub(crate) fn target(&self) -> &str {
        self.database.target()
    }

    /// The embedded server, if that is what this is.
    pub(crate) fn embedded(&self) -> Option<Embedded> {
        self.embedded.clone()
    }

    /// A psql that connects here; `url` is that of the settings.
    ///
    /// # Errors
    /// If the password in the URL cannot be told from the rest.
    pub(crate) fn psql(&self, url: Option<&DatabaseUrl>) -> Result<Command> {
        if let Some(server) = &self.embedded {
            return Ok(lock(server).psql_command());
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
        self.database.close();
        if let Some(maintenance) = &self.maintenance {
            maintenance.close();
        }
        let Some(server) = self.embedded.and_then(Arc::into_inner) else { return Ok(()) };
        let server = server.into_inner().unwrap_or_else(PoisonError::into_inner);
        tokio::task::spawn_blocking(move || server.release()).await.context("the stop of PostgreSQL was cut off")??;
        Ok(())
    }
}

/// Brings the schema of `database` up to date, over the connection `maintenance`.
pub(crate) async fn migrate(database: &Database, maintenance: &Database) -> Result<Vec<String>, StoreError> {
    let mut applied = maintenance.migrate().await?;
    // Nothing is left to be done, if both lead to the same database.
    applied.extend(database.migrate().await?);
    Ok(applied)
}

/// The server behind the lock. A panic while holding it leaves it usable.
pub(crate) fn lock(server: &Embedded) -> std::sync::MutexGuard<'_, Server> {
    server.lock().unwrap_or_else(PoisonError::into_inner)
}

fn attach_or_start(data_dir: PathBuf, progress: &Progress) -> Result<Server> {
    // A running server needs no parts, and what it runs on may not be what the environment names now.
    if let Some(server) = Server::attach(&data_dir)? {
        return Ok(server);
    }
    let installation = Parts::open_default()?.postgres(progress)?;
    Ok(Server::attach_or_start(&Options { installation, data_dir })?)
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
