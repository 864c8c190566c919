//! What a benchmark sees of a database from outside: rows, write-ahead log, sizes, and the processes of PostgreSQL.
//!
//! SQL of its own, on connections of its own: what is measured is not asked how it did.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde::Serialize;
use tokio_postgres::{Client, NoTls};

use crate::process;

/// How long the number of rows may stay as it is.
const PATIENCE: Duration = Duration::from_mins(3);
/// The pause between two looks at what waits is twenty times as long as a look takes, within these bounds.
const LOOK_LEAST: Duration = Duration::from_millis(20);
const LOOK_MOST: Duration = Duration::from_millis(500);

/// Settings that decide how fast a database writes.
const TELLING_SETTINGS: [&str; 8] = [
    "fsync",
    "synchronous_commit",
    "full_page_writes",
    "wal_level",
    "wal_compression",
    "shared_buffers",
    "max_wal_size",
    "checkpoint_timeout",
];

/// A database server.
#[derive(Debug, Clone, Serialize)]
pub struct Description {
    /// Its version.
    pub version: String,
    /// The settings that decide how fast it writes, by name.
    pub settings: Vec<(String, String)>,
}

/// Bytes on disk of one table, its TOAST included, or of one index, all partitions together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Size {
    /// Its name.
    pub name: String,
    /// Whether it is an index.
    pub is_index: bool,
    /// Bytes.
    pub bytes: u64,
}

/// A connection, which lives as long as the client. Without TLS.
///
/// # Errors
/// If the database cannot be reached.
pub async fn connect(url: &str) -> Result<Client> {
    let (client, connection) =
        tokio_postgres::connect(url, NoTls).await.context("connect to the database under test")?;
    // Ends with the client; its errors reach whoever uses the client.
    tokio::spawn(connection);
    Ok(client)
}

/// Uses the embedded database of a server that runs, and lets go of it, so that it ends with the server.
pub(crate) async fn with_embedded<T>(data: &Path, work: impl AsyncFnOnce(String) -> Result<T>) -> Result<T> {
    let Some(embedded) = oneiric_otel_postgres::Server::attach(data)? else {
        bail!("the embedded PostgreSQL does not run");
    };
    let done = work(embedded.connection().url()).await;
    embedded.release()?;
    done
}

/// What server it is.
///
/// # Errors
/// If it does not answer.
pub async fn describe(client: &Client) -> Result<Description> {
    let mut settings = Vec::new();
    for name in TELLING_SETTINGS {
        let row = client.query_one("SELECT current_setting($1)", &[&name]).await?;
        settings.push((name.to_owned(), row.get(0)));
    }
    let row = client.query_one("SELECT current_setting('server_version')", &[]).await?;
    Ok(Description { version: row.get(0), settings })
}

/// The main process of the server, if it runs on this machine and can be seen.
///
/// # Errors
/// If the database does not answer.
pub async fn postmaster(client: &Client) -> Result<Option<u32>> {
    let backend: i32 = client.query_one("SELECT pg_backend_pid()", &[]).await?.get(0);
    let backend = u32::try_from(backend)?;
    if !process::title(backend).contains("postgres") {
        return Ok(None);
    }
    Ok(process::parent(backend).filter(|parent| *parent > 1))
}

/// Rows of telemetry that were committed: what the ledger of requests counts, which costs little to ask and commits with
/// the rows.
///
/// # Errors
/// If the database does not answer.
pub async fn committed_rows(client: &Client) -> Result<u64> {
    let sql = "SELECT coalesce(sum(records), 0)::bigint FROM otel.otel_ingest_ledger";
    Ok(u64::try_from(client.query_one(sql, &[]).await?.get::<_, i64>(0))?)
}

/// Spans that are stored, each of them counted.
///
/// # Errors
/// If the database does not answer.
pub async fn count_spans(client: &Client) -> Result<u64> {
    let row = client.query_one("SELECT count(*) FROM otel.otel_spans", &[]).await?;
    Ok(u64::try_from(row.get::<_, i64>(0))?)
}

/// Waits until so many rows are committed and tells `seen` how many are, each time that it looks.
///
/// # Errors
/// If there are no more for minutes.
pub async fn wait_for_rows(client: &Client, rows: u64, look_every: Duration, mut seen: impl FnMut(u64)) -> Result<()> {
    let (mut last, mut since) = (None, Instant::now());
    loop {
        let now = committed_rows(client).await?;
        seen(now);
        if now >= rows {
            return Ok(());
        }
        if last != Some(now) {
            (last, since) = (Some(now), Instant::now());
        } else if since.elapsed() > PATIENCE {
            bail!("{now} of {rows} rows are stored, and none was added for {PATIENCE:?}");
        }
        tokio::time::sleep(look_every).await;
    }
}

/// Keeps every server from deriving traces for as long as the client that comes back lives.
///
/// # Errors
/// If the database does not answer.
pub async fn hold_derivation(url: &str) -> Result<Client> {
    let client = connect(url).await?;
    client.batch_execute("BEGIN; SELECT slot FROM otel.otel_trace_slots ORDER BY slot FOR UPDATE").await?;
    Ok(client)
}

/// Waits until every trace is derived and, `with_vectors`, every text has its vector. Returns how many traces there are.
///
/// What waits is looked for, and not counted, as long as there is patience: counting a million touches every few
/// milliseconds takes more of PostgreSQL than deriving them.
///
/// # Errors
/// If nothing is left to wait for but a failure, or nothing moves for minutes.
pub async fn wait_for_traces(client: &Client, with_vectors: bool) -> Result<u64> {
    let sql = "SELECT EXISTS (SELECT FROM otel.otel_trace_touches), EXISTS (SELECT FROM otel.otel_embedding_work),
                      (SELECT last_error FROM otel.otel_embedding_work WHERE last_error IS NOT NULL LIMIT 1)";
    let count =
        "SELECT (SELECT count(*) FROM otel.otel_trace_touches), (SELECT count(*) FROM otel.otel_embedding_work)";
    let (mut last, mut since) = (None, Instant::now());
    loop {
        let asked = Instant::now();
        let row = client.query_one(sql, &[]).await?;
        let (touches, texts): (bool, bool) = (row.get(0), row.get(1));
        let is_waited_for = touches || (with_vectors && texts);
        if !is_waited_for {
            break;
        }
        if let Some(error) = row.get::<_, Option<String>>(2).filter(|_| with_vectors) {
            bail!("texts cannot be embedded: {error}");
        }
        if since.elapsed() > PATIENCE {
            let row = client.query_one(count, &[]).await?;
            let left: (i64, i64) = (row.get(0), row.get(1));
            if last == Some(left) {
                bail!("{} touches and {} texts wait, and nothing moved for {PATIENCE:?}", left.0, left.1);
            }
            (last, since) = (Some(left), Instant::now());
        }
        tokio::time::sleep((asked.elapsed() * 20).clamp(LOOK_LEAST, LOOK_MOST)).await;
    }
    let traces: i64 = client.query_one("SELECT count(*) FROM otel.otel_traces", &[]).await?.get(0);
    Ok(u64::try_from(traces)?)
}

/// Bytes of write-ahead log that the server has written since it was made.
///
/// # Errors
/// If the database does not answer.
pub async fn wal_bytes(client: &Client) -> Result<u64> {
    let row = client.query_one("SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint", &[]).await?;
    Ok(u64::try_from(row.get::<_, i64>(0))?)
}

/// Writes everything to disk, so that what is measured next begins as every measurement does. A role that must not order
/// it goes without.
pub async fn checkpoint(client: &Client) {
    drop(client.batch_execute("CHECKPOINT").await);
}

/// What lies on disk of the telemetry's schema, largest first.
///
/// # Errors
/// If the database does not answer.
pub async fn sizes(client: &Client) -> Result<Vec<Size>> {
    let sql = "SELECT coalesce(p.relname, c.relname)::text, c.relkind = 'i',
                      sum(CASE WHEN c.relkind = 'i' THEN pg_relation_size(c.oid) ELSE pg_table_size(c.oid) END)::bigint AS bytes
               FROM pg_class c
               LEFT JOIN pg_inherits h ON h.inhrelid = c.oid
               LEFT JOIN pg_class p ON p.oid = h.inhparent
               WHERE c.relnamespace = 'otel'::regnamespace AND c.relkind IN ('r', 'i')
               GROUP BY 1, 2 ORDER BY bytes DESC, 1";
    let rows = client.query(sql, &[]).await?;
    let size = |row: &tokio_postgres::Row| {
        let bytes = u64::try_from(row.get::<_, i64>(2))?;
        Ok(Size { name: row.get(0), is_index: row.get(1), bytes })
    };
    rows.iter().map(size).collect()
}
