//! SQL of the user's own: the one place where statements are run that the program did not write.
//!
//! What keeps it harmless, in the order in which it counts:
//!
//! 1. The role. It can read the friendly views and nothing else, and it is not used before that is [checked](role).
//! 2. The transaction. It is read only, has a snapshot before the statement begins (so that it cannot be made to write),
//!    has limits of time, and is rolled back whatever happens. Locks that a session can hold beyond it are given back.
//! 3. The statement. There is one, prepared, its values bound; it returns rows, and is wrapped so that the server stops
//!    at the row limit and sends no row beyond the byte limit.
//! 4. The connection. Whatever did not end as it should, a limit of the client's among it, ends the connection too; the
//!    server notices within a second that nobody listens.
//!
//! Nothing is searched for forbidden words: that is not how SQL is made safe.

mod decode;
mod encode;
mod role;
mod wrap;

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::{TryStreamExt as _, pin_mut};
use serde_json::Value;
use serde_json::value::RawValue;
use tokio::sync::{Mutex, Semaphore};
use tokio_postgres::error::{DbError, ErrorPosition, SqlState};
use tokio_postgres::{Row, RowStream};

use super::database::{Client, Database};
use super::error::StoreError;

pub(crate) use role::how_to;
pub use role::reader_grants;

/// Statements of users that run at a time.
const CONCURRENCY: usize = 4;
/// How long to wait for one of them to end.
const PATIENCE: Duration = Duration::from_secs(10);
/// What the client waits longer than the server, which can say more about it.
const GRACE: Duration = Duration::from_secs(2);
/// How long a role counts as fit once it was found so.
const TRUST: Duration = Duration::from_mins(1);
/// Names of types beyond the server's own were looked up, and what looks them up stays prepared in the session.
const FIRST_OID_OF_USERS: u32 = 16_384;

/// A connection for SQL of anybody, as a role that can read the views and nothing else. Cheap to clone.
#[derive(Debug, Clone)]
pub struct SqlReader {
    database: Database,
    /// When the role was last found fit.
    checked: Arc<Mutex<Option<Instant>>>,
    trust: Duration,
    permits: Arc<Semaphore>,
}

/// What a statement may cost.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SqlLimits {
    pub(crate) rows: usize,
    pub(crate) bytes: usize,
    pub(crate) time: Duration,
}

/// A column of an answer.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SqlColumn {
    /// Its name, which need not be unique.
    pub name: String,
    /// PostgreSQL's name of its type, such as `timestamptz` or `_int8` for a list of `int8`.
    pub r#type: String,
}

/// Why an answer is not complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum Truncated {
    /// There are more rows than asked for.
    Rows,
    /// The next row would have been more bytes than asked for.
    Bytes,
}

/// What a statement returned.
#[derive(Debug)]
pub(crate) struct SqlResult {
    pub(crate) columns: Vec<SqlColumn>,
    pub(crate) rows: Vec<Vec<Box<RawValue>>>,
    pub(crate) truncated: Option<Truncated>,
    pub(crate) elapsed: Duration,
}

/// PostgreSQL refused a statement or gave it up.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, serde::Serialize)]
#[error("{message} (SQLSTATE {code})")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SqlError {
    /// PostgreSQL's message.
    pub message: String,
    /// The SQLSTATE, such as `42703` for a column that is not there.
    pub code: String,
    /// More about it.
    pub detail: Option<String>,
    /// What could be done.
    pub hint: Option<String>,
    /// Where in the statement, in characters from 1.
    pub position: Option<usize>,
}

impl SqlError {
    fn new(code: &str, message: impl Into<String>) -> Self {
        Self { message: message.into(), code: code.to_owned(), detail: None, hint: None, position: None }
    }

    fn of(error: &DbError, prefix: usize) -> Self {
        let position = match error.position() {
            Some(ErrorPosition::Original(at)) => usize::try_from(*at).ok(),
            _ => None,
        };
        Self {
            message: error.message().to_owned(),
            code: error.code().code().to_owned(),
            detail: error.detail().map(str::to_owned),
            hint: error.hint().map(str::to_owned),
            position: position.and_then(|at| at.checked_sub(prefix)).filter(|at| *at > 0),
        }
    }

    fn too_long(limit: Duration) -> Self {
        Self::new("57014", format!("the statement took longer than {} s and was cancelled", limit.as_secs_f64()))
    }
}

/// Why there is no result.
#[derive(Debug)]
pub(crate) enum SqlFailure {
    /// An argument is not of the accepted form.
    Argument { name: &'static str, accepted: String },
    /// The statement failed.
    Statement(Box<SqlError>),
    /// The role is not one for SQL of anybody, or all connections are taken.
    Unavailable(String),
    /// The database did not answer.
    Store(StoreError),
}

impl From<StoreError> for SqlFailure {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<SqlError> for SqlFailure {
    fn from(error: SqlError) -> Self {
        Self::Statement(Box::new(error))
    }
}

/// What is wrong with a statement, or with the connection. `prefix` is what stands before the user's text.
fn failure(error: tokio_postgres::Error, prefix: usize) -> SqlFailure {
    match error.as_db_error() {
        // Another session, or the server's shutdown, ended this one.
        Some(database) if !database.code().code().starts_with("57P") => SqlError::of(database, prefix).into(),
        _ => SqlFailure::Store(error.into()),
    }
}

fn sql(accepted: impl Into<String>) -> SqlFailure {
    SqlFailure::Argument { name: "sql", accepted: accepted.into() }
}

impl SqlReader {
    /// Prepares a pool for `url`, the connection of the reader. Connects to nothing yet.
    ///
    /// # Errors
    /// As [`Database::new`].
    pub fn new(url: &str) -> Result<Self, StoreError> {
        let database = Database::new(url)?;
        Ok(Self { database, checked: Arc::default(), trust: TRUST, permits: Arc::new(Semaphore::new(CONCURRENCY)) })
    }

    /// The same, with another time after which the role is checked again; a minute is usual.
    #[must_use]
    pub fn with_trust(mut self, trust: Duration) -> Self {
        self.trust = trust;
        self
    }

    /// Host, port and database for messages, without credentials.
    pub fn target(&self) -> &str {
        self.database.target()
    }

    /// Closes all connections. Calls in flight finish with an error.
    pub fn close(&self) {
        self.database.close();
    }

    /// Runs one statement of the user's and returns its rows.
    pub(crate) async fn run(&self, text: &str, values: &[Value], limits: SqlLimits) -> Result<SqlResult, SqlFailure> {
        let permit = tokio::time::timeout(PATIENCE, self.permits.acquire()).await;
        let Ok(Ok(_permit)) = permit else {
            return Err(SqlFailure::Unavailable(format!(
                "{CONCURRENCY} statements run already, and none ended within {} s: try again later",
                PATIENCE.as_secs()
            )));
        };
        let session = Session(Some(self.database.client().await?));
        let started = Instant::now();
        let asked = tokio::time::timeout(limits.time + GRACE, self.ask(session, text, values, limits));
        let Ok(answer) = asked.await else { return Err(SqlError::too_long(limits.time).into()) };
        let mut result = answer?;
        result.elapsed = started.elapsed();
        Ok(result)
    }

    async fn ask(
        &self,
        session: Session,
        text: &str,
        values: &[Value],
        limits: SqlLimits,
    ) -> Result<SqlResult, SqlFailure> {
        session.begin(limits.time).await?;
        let client = session.client()?;
        self.check(client).await?;
        let answered = session.answer(text, values, limits).await;
        // An error of the statement leaves the session as good as a result does.
        match answered {
            Ok(answer) => {
                if answer.reusable {
                    session.end().await?;
                }
                Ok(answer.result)
            }
            Err(SqlFailure::Store(error)) => Err(SqlFailure::Store(error)),
            Err(failure) => {
                session.end().await?;
                Err(failure)
            }
        }
    }
}

impl SqlReader {
    /// Whether the role is one for SQL of anybody. Asked again and again: somebody may have given it more since.
    async fn check(&self, client: &Client) -> Result<(), SqlFailure> {
        // Who comes meanwhile waits, and need not ask.
        let mut checked = self.checked.lock().await;
        if checked.is_none_or(|at| at.elapsed() >= self.trust) {
            *checked = None;
            role::check(client).await?;
            *checked = Some(Instant::now());
        }
        Ok(())
    }
}

struct Answer {
    result: SqlResult,
    /// Whether the session is at a point where it can go on.
    reusable: bool,
}

/// A connection that goes back to the pool only after [`Session::end`], and is closed otherwise.
struct Session(Option<Client>);

impl Session {
    fn client(&self) -> Result<&Client, StoreError> {
        self.0.as_ref().ok_or_else(|| StoreError::transient("the connection was given back"))
    }

    /// Opens the transaction. Its first query takes the snapshot, after which nothing can make it write. Names are found
    /// in the schema of the views first; times are those of UTC.
    async fn begin(&self, limit: Duration) -> Result<(), StoreError> {
        let limit = limit.as_millis().max(1);
        let idle = limit + GRACE.as_millis();
        let statements = format!(
            "BEGIN READ ONLY;
             SET LOCAL statement_timeout = {limit};
             SET LOCAL lock_timeout = 1000;
             SET LOCAL idle_in_transaction_session_timeout = {idle};
             SET LOCAL client_connection_check_interval = 1000;
             SET LOCAL search_path = otel, public;
             SET LOCAL timezone = 'UTC';
             SELECT 1;
             SAVEPOINT statement"
        );
        Ok(self.client()?.batch_execute(&statements).await?)
    }

    /// Gives the connection back as it was. Advisory locks outlive a transaction, and so does nothing else that a
    /// statement with rows can do.
    async fn end(mut self) -> Result<(), StoreError> {
        let reset = "ROLLBACK TO SAVEPOINT statement; SELECT pg_catalog.pg_advisory_unlock_all(); ROLLBACK";
        self.client()?.batch_execute(reset).await?;
        self.0.take();
        Ok(())
    }

    async fn answer(&self, text: &str, values: &[Value], limits: SqlLimits) -> Result<Answer, SqlFailure> {
        let client = self.client()?;
        let plain = client.prepare(text).await.map_err(|error| failure(error, 0))?;
        if plain.columns().is_empty() {
            return Err(sql(wrap::ACCEPTED));
        }
        let parameters = encode::parameters(&plain, values)?;
        let columns = plain.columns().iter();
        let columns: Vec<SqlColumn> = columns
            .map(|column| SqlColumn { name: column.name().to_owned(), r#type: column.type_().name().to_owned() })
            .collect();
        let known = plain.columns().iter().all(|column| column.type_().oid() < FIRST_OID_OF_USERS);
        let known = known && plain.params().iter().all(|kind| kind.oid() < FIRST_OID_OF_USERS);

        // Whatever can be wrapped is, whatever it looks like.
        let wrapped = wrap::wrap(text, &plain, limits);
        let (statement, prefix) = match client.prepare(&wrapped.text).await {
            Ok(statement) => (statement, Some(wrapped.prefix)),
            Err(error) if error.code() != Some(&SqlState::SYNTAX_ERROR) => return Err(failure(error, wrapped.prefix)),
            Err(_) if wrap::is_bare(text, &plain) => {
                client.batch_execute("ROLLBACK TO SAVEPOINT statement").await.map_err(StoreError::from)?;
                (plain, None)
            }
            Err(_) => return Err(sql(wrap::ACCEPTED)),
        };
        let (is_wrapped, prefix) = (prefix.is_some(), prefix.unwrap_or_default());
        let rows = client.query_raw(&statement, parameters).await.map_err(|error| failure(error, prefix))?;
        let (rows, truncated) = fetch(rows, columns.len(), is_wrapped, limits, prefix).await?;
        // Otherwise rows are on their way still.
        let reusable = known && (is_wrapped && truncated != Some(Truncated::Bytes) || truncated.is_none());
        Ok(Answer { result: SqlResult { columns, rows, truncated, elapsed: Duration::ZERO }, reusable })
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if let Some(client) = self.0.take() {
            drop(Client::take(client));
        }
    }
}

/// Reads rows as they come, up to the limits. `sized` says that the last column tells whether the row is there: the server
/// leaves out one that is larger than all of the answer may be.
async fn fetch(
    rows: RowStream,
    columns: usize,
    sized: bool,
    limits: SqlLimits,
    prefix: usize,
) -> Result<(Vec<Vec<Box<RawValue>>>, Option<Truncated>), SqlFailure> {
    let mut read = Vec::new();
    let mut bytes = 0;
    pin_mut!(rows);
    while let Some(row) = rows.try_next().await.map_err(|error| failure(error, prefix))? {
        if read.len() == limits.rows {
            return Ok((read, Some(Truncated::Rows)));
        }
        bytes += row.raw_size_bytes();
        let fits = !sized || row.try_get::<_, bool>(columns).map_err(StoreError::from)?;
        if !fits || bytes > limits.bytes {
            if read.is_empty() {
                let message =
                    format!("the first row is larger than the {} bytes that an answer may have", limits.bytes);
                return Err(SqlError::new("54000", message).into());
            }
            return Ok((read, Some(Truncated::Bytes)));
        }
        read.push(cells(&row, columns)?);
    }
    Ok((read, None))
}

fn cells(row: &Row, columns: usize) -> Result<Vec<Box<RawValue>>, SqlFailure> {
    (0..columns).map(|index| Ok(row.try_get::<_, decode::Cell>(index).map_err(StoreError::from)?.0)).collect()
}
