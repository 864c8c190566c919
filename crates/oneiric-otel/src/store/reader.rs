//! A connection that answers a question somebody waits for.
//!
//! Promises: a statement is given up when its time is over, and when nobody waits for it any more because the future was
//! dropped; given up means cancelled in the server. A connection on which that happened does not go back to the pool:
//! nobody knows whether the cancellation still meets the next statement.
//!
//! Every statement is a read-only transaction of its own, sent in one go with its beginning and end: so its time limit
//! stands in the server too, for the case that this process ends, and no session keeps a setting.

use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures::TryStreamExt as _;
use tokio::runtime::Handle;
use tokio::sync::{Mutex, OwnedSemaphorePermit};
use tokio::task::AbortHandle;
use tokio::time::Instant;
use tokio_postgres::{Row, RowStream};

use super::database::{Argument, Client};
use super::error::StoreError;
use super::tls::Connector;
use crate::self_trace;

/// How long a statement may take.
pub(super) const READ_LIMIT: Duration = Duration::from_secs(30);

/// The server gives up later than we do, so that ours is the word that the caller gets.
const SERVER_GRACE: Duration = Duration::from_secs(5);

/// How long a cancellation may take.
const CANCEL_WITHIN: Duration = Duration::from_secs(5);

/// A connection for questions. See the module.
pub(crate) struct Reader {
    client: Option<Client>,
    connector: Connector,
    limit: Duration,
    /// Statements that were sent and have not been answered to the end.
    running: AtomicUsize,
}

impl Reader {
    pub(super) fn new(client: Client, connector: Connector, limit: Duration) -> Self {
        Self { client: Some(client), connector, limit, running: AtomicUsize::new(0) }
    }

    /// The rows of a statement.
    pub(crate) async fn query_typed(&self, sql: &str, arguments: &[Argument<'_>]) -> Result<Vec<Row>, StoreError> {
        self.query_after("", sql, arguments).await
    }

    /// The row of a statement that returns one or none.
    pub(crate) async fn query_typed_opt(
        &self,
        sql: &str,
        arguments: &[Argument<'_>],
    ) -> Result<Option<Row>, StoreError> {
        let mut rows = self.query_typed(sql, arguments).await?.into_iter();
        match (rows.next(), rows.next()) {
            (row, None) => Ok(row),
            _ => Err(StoreError::misconfigured(format!("expected at most one row from {sql}"))),
        }
    }

    /// The row of a statement that returns one.
    pub(crate) async fn query_typed_one(&self, sql: &str, arguments: &[Argument<'_>]) -> Result<Row, StoreError> {
        let row = self.query_typed_opt(sql, arguments).await?;
        row.ok_or_else(|| StoreError::misconfigured(format!("expected a row from {sql}")))
    }

    /// The rows of a statement, in the transaction of which `preparation` comes first: statements such as `SET LOCAL`,
    /// with semicolons between them.
    pub(crate) async fn query_after(
        &self,
        preparation: &str,
        sql: &str,
        arguments: &[Argument<'_>],
    ) -> Result<Vec<Row>, StoreError> {
        let client = self.client.as_ref().ok_or_else(|| StoreError::transient("the connection was given back"))?;
        let server_limit = (self.limit + SERVER_GRACE).as_millis();
        let begin = format!("BEGIN READ ONLY; SET LOCAL statement_timeout = {server_limit}; {preparation}");
        self.running.fetch_add(1, Ordering::Relaxed);
        // Each sends at its first poll, so they arrive in this order without waiting for each other.
        let exchange = async {
            tokio::join!(
                client.batch_execute(&begin),
                client.query_typed(sql, arguments),
                client.batch_execute("COMMIT")
            )
        };
        let Ok((begun, rows, ended)) = tokio::time::timeout(self.limit, exchange).await else {
            return Err(StoreError::too_long(self.limit));
        };
        self.running.fetch_sub(1, Ordering::Relaxed);
        begun?;
        let rows = rows?;
        ended?;
        Ok(rows)
    }
}

/// Rows that are taken one by one. The server sends on only as they are taken, so a large answer takes little memory, and
/// its statement has no limit as a whole, but each row has, and so has the time in which nobody takes one: few answers
/// can be read at a time, and each holds a snapshot. Dropped before the last row, it is cancelled.
pub(crate) struct ReaderRows {
    state: Arc<Mutex<State>>,
    patience: Duration,
    watch: AbortHandle,
}

enum State {
    Open(Box<Open>),
    /// The last row was taken.
    Ended,
    /// Nobody took a row for too long.
    Abandoned,
}

struct Open {
    rows: Pin<Box<RowStream>>,
    reader: Reader,
    /// When somebody last took a row.
    taken: Instant,
    /// The right to be one of few.
    _turn: OwnedSemaphorePermit,
}

impl Reader {
    /// See [`Database::stream`](super::database::Database::stream).
    pub(super) async fn stream(
        self,
        sql: &str,
        arguments: Vec<Argument<'_>>,
        turn: OwnedSemaphorePermit,
        patience: Duration,
    ) -> Result<ReaderRows, StoreError> {
        let client = self.client.as_ref().ok_or_else(|| StoreError::transient("the connection was given back"))?;
        self.running.fetch_add(1, Ordering::Relaxed);
        let begun = tokio::time::timeout(self.limit, client.query_typed_raw(sql, arguments)).await;
        let rows = Box::pin(begun.map_err(|_| StoreError::too_long(self.limit))??);
        let open = Open { rows, reader: self, taken: Instant::now(), _turn: turn };
        let state = Arc::new(Mutex::new(State::Open(Box::new(open))));
        let watch = tokio::spawn(end_when_idle(Arc::downgrade(&state), patience)).abort_handle();
        Ok(ReaderRows { state, patience, watch })
    }
}

impl ReaderRows {
    /// The next row; none after the last.
    pub(crate) async fn next(&mut self) -> Result<Option<Row>, StoreError> {
        let mut state = self.state.lock().await;
        let open = match &mut *state {
            State::Open(open) => open,
            State::Ended => return Ok(None),
            State::Abandoned => return Err(StoreError::not_taken(self.patience)),
        };
        let next = tokio::time::timeout(open.reader.limit, open.rows.try_next()).await;
        let row = next.map_err(|_| StoreError::too_long(open.reader.limit))??;
        open.taken = Instant::now();
        if row.is_none() {
            open.reader.running.store(0, Ordering::Relaxed);
            *state = State::Ended;
        }
        Ok(row)
    }
}

impl Drop for ReaderRows {
    fn drop(&mut self) {
        self.watch.abort();
    }
}

/// Ends an answer of which nobody took a row for so long.
async fn end_when_idle(state: Weak<Mutex<State>>, patience: Duration) {
    let mut due = Instant::now() + patience;
    loop {
        tokio::time::sleep_until(due).await;
        let Some(state) = state.upgrade() else { return };
        // Somebody who waits for a row has it locked.
        let Ok(mut state) = state.try_lock() else {
            due = Instant::now() + patience;
            continue;
        };
        match &*state {
            State::Open(open) if open.taken + patience > Instant::now() => due = open.taken + patience,
            State::Open(_) => {
                tracing::debug!("an answer was ended of which nobody took a row for too long");
                *state = State::Abandoned;
                return;
            }
            State::Ended | State::Abandoned => return,
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let Some(client) = self.client.take() else { return };
        if self.running.load(Ordering::Relaxed) == 0 {
            return;
        }
        give_up(client, self.connector.clone());
    }
}

/// Cancels what runs on a connection and closes it, without waiting for that.
pub(super) fn give_up(client: Client, connector: Connector) {
    let client = Abandoned(Some(client));
    if let Some(runtime) = connector.runtime().or_else(|| Handle::try_current().ok()) {
        drop(runtime.spawn(self_trace::inherit(abandon(client, connector))));
    }
}

/// A connection that does not go back to the pool, whatever becomes of the task that has it.
struct Abandoned(Option<Client>);

impl Drop for Abandoned {
    fn drop(&mut self) {
        if let Some(client) = self.0.take() {
            drop(Client::take(client));
        }
    }
}

/// Its place in the pool is free afterwards, not before: else those who come and go could keep more statements running
/// than there are places.
async fn abandon(client: Abandoned, connector: Connector) {
    let Some(token) = client.0.as_ref().map(|client| client.cancel_token()) else { return };
    match tokio::time::timeout(CANCEL_WITHIN, connector.cancel(&token)).await {
        Ok(Ok(())) => tracing::debug!("cancelled a statement that nobody waits for"),
        Ok(Err(error)) => tracing::warn!(%error, "a statement that nobody waits for could not be cancelled"),
        Err(_) => tracing::warn!("a statement that nobody waits for could not be cancelled in time"),
    }
    drop(client);
}
