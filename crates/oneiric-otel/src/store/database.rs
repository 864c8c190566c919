//! Two pools of connections to one database: one for what is written and maintained, one for questions, so that neither
//! waits for the other.

use std::fmt;
use std::str::FromStr as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use deadpool_postgres::{Manager, ManagerConfig, Pool, RecyclingMethod, Transaction};
use tokio::sync::Semaphore;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Config, Row};

use super::embeddings::PGVECTOR_INSTALLABLE;
use super::error::StoreError;
use super::reader::{self, READ_LIMIT, Reader, ReaderRows};
use super::tls::{self, Connector};

/// A pooled connection. Nothing may be set on its session: behind PgBouncer in transaction mode the next transaction
/// may meet another session. So every name in SQL carries its schema, and what is not in a transaction is one
/// `query_typed`, which prepares nothing.
pub(crate) type Client = deadpool_postgres::Object;

/// A value for a statement and its type, which spares asking the server for it.
pub(crate) type Argument<'a> = (&'a (dyn ToSql + Sync), Type);

/// Connections held open to the server at most, for writing and for questions.
const MAX_CONNECTIONS: usize = 16;
const MAX_READERS: usize = 16;
/// Of those for questions, how many may be in use by answers that are read row by row.
const MAX_STREAMS: usize = 8;

/// How long to wait for a connection before calling the database busy.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a connection may be silent before the peer is asked whether it lives, and may not answer.
const SILENCE: Duration = Duration::from_secs(30);
/// What the driver has where the URL says nothing.
const DEFAULT_KEEPALIVES_IDLE: Duration = Duration::from_hours(2);

/// A database, reached through pools. Cheap to clone.
#[derive(Clone)]
pub struct Database {
    pool: Pool,
    connector: Connector,
    target: String,
    readers: Readers,
}

/// The connections for questions, which may lead to a replica.
#[derive(Clone)]
struct Readers {
    pool: Pool,
    connector: Connector,
    limit: Duration,
    patience: Duration,
    /// Answers that are read row by row: whoever reads one asks other questions meanwhile, so they never take all
    /// connections.
    streams: Arc<Semaphore>,
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Never the URL: it holds the password.
        f.debug_struct("Database").field("target", &self.target).finish_non_exhaustive()
    }
}

/// What `db status` reports.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct DatabaseStatus {
    /// Host, port and database, without credentials.
    pub target: String,
    /// Version of PostgreSQL, such as `16.14`.
    pub server_version: String,
    /// Version of pgvector, when the extension is installed in this database.
    pub pgvector_version: Option<String>,
    /// Whether the server could install pgvector.
    pub pgvector_available: bool,
    /// Whether it is available and this role may install it.
    pub pgvector_installable: bool,
    /// The state of the schema.
    pub schema: super::MigrationState,
    /// Size of the database.
    pub size_bytes: i64,
}

impl Database {
    /// Prepares pools for `url` (`postgresql://` or `postgres://`). Connects to nothing yet.
    ///
    /// # Errors
    /// When the URL cannot be understood, or a file that it names for TLS cannot be used. The message never repeats the
    /// URL.
    pub fn new(url: &str) -> Result<Self, StoreError> {
        let (config, connector) = parse(url)?;
        let target = describe(&config);
        let pool = pool(config.clone(), connector.clone(), MAX_CONNECTIONS)?;
        let streams = Arc::new(Semaphore::new(MAX_STREAMS));
        let pool_of_readers = pool_of_readers(config, &connector)?;
        let (limit, patience) = (READ_LIMIT, READ_LIMIT);
        let readers = Readers { pool: pool_of_readers, connector: connector.clone(), limit, patience, streams };
        Ok(Self { pool, connector, target, readers })
    }

    /// The same, with questions asked of `url`: a replica, or the same database as a role with fewer rights.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn reading_from(mut self, url: &str) -> Result<Self, StoreError> {
        let (config, connector) = parse(url)?;
        self.readers = Readers { pool: pool_of_readers(config, &connector)?, connector, ..self.readers };
        Ok(self)
    }

    /// The same, with another limit to the time of each statement of a question; 30 s is usual.
    #[must_use]
    pub fn with_read_limit(mut self, limit: Duration) -> Self {
        self.readers.limit = limit;
        self
    }

    /// The same, with another limit to the time in which whoever reads an answer row by row takes none; 30 s is usual.
    #[must_use]
    pub fn with_patience(mut self, patience: Duration) -> Self {
        self.readers.patience = patience;
        self
    }

    /// A connection for a question. A statement that takes too long, or for which nobody waits any more, is cancelled.
    ///
    /// # Errors
    /// When the database is away, busy or refuses us.
    pub(crate) async fn reader(&self) -> Result<Reader, StoreError> {
        let Readers { pool, connector, limit, .. } = &self.readers;
        let client = pool.get().await.map_err(|error| tls::explain(&error).unwrap_or_else(|| error.into()))?;
        Ok(Reader::new(client, connector.clone(), *limit))
    }

    /// The rows of a question's statement, one by one. Whoever takes none for too long gets no more.
    ///
    /// # Errors
    /// When the database is away, busy or refuses us.
    pub(crate) async fn stream(&self, sql: &str, arguments: Vec<Argument<'_>>) -> Result<ReaderRows, StoreError> {
        // Before the connection: to wait with one in hand would keep those who read from getting theirs.
        let turn = Arc::clone(&self.readers.streams).acquire_owned();
        let turn = tokio::time::timeout(CONNECT_TIMEOUT, turn).await;
        let Ok(Ok(turn)) = turn else {
            return Err(StoreError::transient("too many large answers are being read at once"));
        };
        self.reader().await?.stream(sql, arguments, turn, self.readers.patience).await
    }

    /// A connection from the pool.
    ///
    /// # Errors
    /// When the database is away, busy or refuses us.
    pub(crate) async fn client(&self) -> Result<Client, StoreError> {
        self.pool.get().await.map_err(|error| tls::explain(&error).unwrap_or_else(|| error.into()))
    }

    /// A connection that goes back to the pool only when it is [kept](Leased::keep): whoever drops a transaction in its
    /// middle, because of an error or because it takes too long, does not know in what state the connection is. What
    /// still runs on it then is cancelled: behind a lock it would wait for as long as that is held, with what it has
    /// written already.
    pub(crate) async fn lease(&self) -> Result<Leased, StoreError> {
        let (client, connector) = (Some(self.client().await?), self.connector.clone());
        Ok(Leased { client, connector, commits: Arc::default() })
    }

    /// One statement outside a transaction, in one round trip.
    pub(crate) async fn query(&self, sql: &str, arguments: &[Argument<'_>]) -> Result<Vec<Row>, StoreError> {
        let leased = self.lease().await?;
        let rows = leased.client()?.query_typed(sql, arguments).await;
        leased.keep();
        Ok(rows?)
    }

    /// One statement outside a transaction that returns one row.
    pub(crate) async fn query_one(&self, sql: &str, arguments: &[Argument<'_>]) -> Result<Row, StoreError> {
        let row = self.query(sql, arguments).await?.pop();
        row.ok_or_else(|| StoreError::misconfigured(format!("expected a row from {sql}")))
    }

    /// Runs a statement that cannot be in a transaction, and cancels it when it takes longer than this. What it has done then
    /// is for the caller to find out.
    pub(super) async fn run_within(&self, statement: &str, limit: Duration) -> Result<(), StoreError> {
        let connection = self.lease().await?;
        match tokio::time::timeout(limit, connection.client()?.batch_execute(statement)).await {
            Ok(done) => done?,
            Err(_) => return Err(StoreError::too_long(limit)),
        }
        connection.keep();
        Ok(())
    }

    /// Asks the database for nothing, to see whether it answers.
    pub async fn ping(&self) -> Result<(), StoreError> {
        self.client().await?.simple_query("SELECT 1").await?;
        Ok(())
    }

    /// Warns if the server may lose what it says is committed.
    pub(crate) async fn warn_of_volatility(&self) {
        let sql = "SELECT name FROM pg_settings WHERE name IN ('fsync', 'full_page_writes') AND setting = 'off'";
        for row in self.query(sql, &[]).await.unwrap_or_default() {
            tracing::warn!(
                setting = row.get::<_, &str>(0),
                database = self.target(),
                "it is off: what the database has committed may be lost with the machine's power"
            );
        }
    }

    /// Host, port and database for messages, without credentials.
    pub fn target(&self) -> &str {
        &self.target
    }

    /// Closes all connections. Calls in flight finish with an error.
    pub fn close(&self) {
        self.pool.close();
        self.readers.pool.close();
    }

    /// Asks the database about itself.
    pub async fn status(&self) -> Result<DatabaseStatus, StoreError> {
        let sql = format!(
            "SELECT current_setting('server_version'),
                    (SELECT extversion FROM pg_extension WHERE extname = 'vector'),
                    EXISTS (SELECT FROM pg_available_extensions WHERE name = 'vector'),
                    pg_database_size(current_database()), {PGVECTOR_INSTALLABLE}"
        );
        let row = self.query_one(&sql, &[]).await?;
        Ok(DatabaseStatus {
            target: self.target.clone(),
            server_version: row.get(0),
            pgvector_version: row.get(1),
            pgvector_available: row.get(2),
            pgvector_installable: row.get(4),
            size_bytes: row.get(3),
            schema: self.migration_state().await?,
        })
    }
}

/// See [`Database::lease`].
pub(crate) struct Leased {
    client: Option<Client>,
    connector: Connector,
    commits: Arc<AtomicBool>,
}

impl Leased {
    fn client(&self) -> Result<&Client, StoreError> {
        self.client.as_ref().ok_or_else(given_back)
    }

    pub(crate) async fn transaction(&mut self) -> Result<Transaction<'_>, StoreError> {
        Ok(self.client.as_mut().ok_or_else(given_back)?.transaction().await?)
    }

    /// To be set before a COMMIT is sent: from then on nothing is cancelled. A commit that waits for a standby would end at
    /// once, visible here and not there.
    pub(crate) fn commits(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.commits)
    }

    /// Gives the connection back to the pool.
    pub(crate) fn keep(mut self) {
        self.client.take();
    }
}

fn given_back() -> StoreError {
    StoreError::transient("the connection was given back")
}

impl Drop for Leased {
    fn drop(&mut self) {
        let Some(client) = self.client.take() else { return };
        if client.is_closed() || self.commits.load(Ordering::Relaxed) {
            drop(Client::take(client));
        } else {
            reader::give_up(client, self.connector.clone());
        }
    }
}

/// What a URL says, with our defaults where it says nothing.
fn parse(url: &str) -> Result<(Config, Connector), StoreError> {
    if !(url.starts_with("postgresql://") || url.starts_with("postgres://")) {
        return Err(StoreError::misconfigured("database URL: expected it to begin with postgresql:// or postgres://"));
    }
    let (url, connector) = Connector::of_url(url)?;
    let mut config =
        Config::from_str(&url).map_err(|error| StoreError::misconfigured(format!("database URL: {error}")))?;
    if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
        return Err(StoreError::misconfigured("database URL: the host is missing"));
    }
    if config.get_application_name().is_none() {
        config.application_name("oneiric-otel");
    }
    if config.get_connect_timeout().is_none() {
        config.connect_timeout(CONNECT_TIMEOUT);
    }
    // A peer that went away without a word is noticed, unless the URL says how.
    if config.get_tcp_user_timeout().is_none() {
        config.tcp_user_timeout(SILENCE);
    }
    if config.get_keepalives_idle() >= DEFAULT_KEEPALIVES_IDLE {
        config.keepalives_idle(SILENCE);
    }
    Ok((config, connector))
}

fn pool(config: Config, connector: Connector, connections: usize) -> Result<Pool, StoreError> {
    let manager = Manager::from_connect(config, connector, ManagerConfig { recycling_method: RecyclingMethod::Fast });
    Pool::builder(manager)
        .max_size(connections)
        .runtime(deadpool_postgres::Runtime::Tokio1)
        .wait_timeout(Some(CONNECT_TIMEOUT))
        .create_timeout(Some(CONNECT_TIMEOUT))
        .build()
        .map_err(|error| StoreError::misconfigured(format!("connection pool: {error}")))
}

fn pool_of_readers(config: Config, connector: &Connector) -> Result<Pool, StoreError> {
    pool(config, connector.clone(), MAX_READERS)
}

fn describe(config: &Config) -> String {
    use tokio_postgres::config::Host;
    let hosts: Vec<String> = config
        .get_hosts()
        .iter()
        .map(|host| match host {
            Host::Tcp(name) => name.clone(),
            #[cfg(unix)]
            Host::Unix(path) => path.display().to_string(),
        })
        .collect();
    let addresses = || config.get_hostaddrs().iter().map(ToString::to_string).collect::<Vec<_>>();
    let host = if hosts.is_empty() { addresses().join(",") } else { hosts.join(",") };
    let ports: Vec<String> = config.get_ports().iter().map(ToString::to_string).collect();
    let port = if ports.is_empty() { "5432".to_owned() } else { ports.join(",") };
    format!("{host}:{port}/{}", config.get_dbname().or(config.get_user()).unwrap_or("postgres"))
}
