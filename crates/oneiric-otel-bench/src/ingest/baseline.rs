//! The same rows by the plainest ways there are, into tables with the same columns, partitions and indexes, on the same
//! server, in the same run: what storing telemetry is measured against.

use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use anyhow::{Context as _, Result};
use bytes::{Bytes, BytesMut};
use futures::SinkExt as _;
use serde::Serialize;
use tokio::task::JoinSet;
use tokio_postgres::types::{IsNull, ToSql, Type};
use tokio_postgres::{Client, Statement};

use super::rows::{HEADER, RowFile, TRAILER, values};
use crate::database;
use crate::meter::{Meter, per_million};

/// Rows of a transaction: those of the server's own.
const ROWS_OF_A_TRANSACTION: u64 = 5000;
/// Rows of one INSERT. Its parameters are counted in 16 bits.
const ROWS_OF_AN_INSERT: usize = 1000;
/// INSERT is slow, and its rate does not depend on how many there are.
const INSERTED_ROWS: u64 = 100_000;
/// Connections that are tried.
const CONNECTIONS: [usize; 3] = [1, 2, 4];

/// One way to write the rows.
#[derive(Debug, Clone, Serialize)]
pub struct Baseline {
    /// What was done.
    pub way: &'static str,
    /// Connections at the same time, each with a transaction of 5,000 rows.
    pub connections: usize,
    /// Rows that were written.
    pub rows: u64,
    /// Rows per second.
    pub rows_per_second: f64,
    /// Processor seconds of PostgreSQL per million rows; none where they cannot be seen.
    pub postgres_cpu: Option<f64>,
    /// Processor seconds of the client that writes the rows, which are encoded already.
    pub client_cpu: Option<f64>,
    /// Bytes of a row in the format of COPY.
    pub bytes_per_row: f64,
    /// Bytes of write-ahead log per row.
    pub wal_bytes_per_row: f64,
}

/// Writes the first `rows` of the stored spans again in each way. `dir` holds them meanwhile.
pub(super) async fn measure(
    url: &str,
    postgres: Option<u32>,
    dir: &Path,
    rows: u64,
    tell: &impl Fn(&str),
) -> Result<Vec<Baseline>> {
    let client = database::connect(url).await?;
    let path = dir.join("rows");
    let file = RowFile::write(&client, &path, rows, ROWS_OF_A_TRANSACTION).await;
    let bench = Bench { url, postgres, client, file: Arc::new(file?) };
    let mut measured = Vec::new();
    for connections in CONNECTIONS {
        tell(&format!("COPY on {connections} connections"));
        measured.push(bench.copy(connections).await?);
    }
    tell("INSERT");
    measured.push(bench.insert().await?);
    bench.client.batch_execute("DROP SCHEMA oneiric_otel_bench CASCADE").await?;
    std::fs::remove_file(&path).with_context(|| format!("remove {}", path.display()))?;
    Ok(measured)
}

struct Bench<'a> {
    url: &'a str,
    postgres: Option<u32>,
    client: Client,
    file: Arc<RowFile>,
}

impl Bench<'_> {
    /// An empty copy of the table, with its partitions and indexes.
    async fn make_table(&self) -> Result<()> {
        self.client
            .batch_execute(
                "DROP SCHEMA IF EXISTS oneiric_otel_bench CASCADE;
                 CREATE SCHEMA oneiric_otel_bench;
                 CREATE TABLE oneiric_otel_bench.spans (LIKE otel.otel_spans INCLUDING ALL) PARTITION BY RANGE (start_time);
                 DO $$
                 DECLARE part record;
                 BEGIN
                   FOR part IN SELECT c.relname, pg_get_expr(c.relpartbound, c.oid) AS bounds FROM pg_inherits h
                               JOIN pg_class c ON c.oid = h.inhrelid WHERE h.inhparent = 'otel.otel_spans'::regclass LOOP
                     EXECUTE format('CREATE TABLE oneiric_otel_bench.%I PARTITION OF oneiric_otel_bench.spans %s',
                                    part.relname, part.bounds);
                   END LOOP;
                 END $$",
            )
            .await?;
        database::checkpoint(&self.client).await;
        Ok(())
    }

    async fn copy(&self, connections: usize) -> Result<Baseline> {
        self.make_table().await?;
        let write = |client: Client, file: Arc<RowFile>, next: Arc<AtomicUsize>| async move {
            let statement = client.prepare("COPY oneiric_otel_bench.spans FROM STDIN (FORMAT binary)").await?;
            while let Some((rows, _)) = next_piece(&file, &next, usize::MAX)? {
                let mut sink = pin!(client.copy_in(&statement).await?);
                sink.feed(Bytes::from_static(HEADER)).await?;
                sink.feed(rows).await?;
                sink.feed(Bytes::from_static(TRAILER)).await?;
                sink.as_mut().finish().await?;
            }
            Ok(())
        };
        self.run("COPY BINARY", connections, self.file.rows(), write).await
    }

    async fn insert(&self) -> Result<Baseline> {
        self.make_table().await?;
        let pieces = usize::try_from(INSERTED_ROWS.min(self.file.rows()).div_ceil(ROWS_OF_A_TRANSACTION))?;
        let rows = self.file.rows().min(pieces as u64 * ROWS_OF_A_TRANSACTION);
        let write = move |mut client: Client, file: Arc<RowFile>, next: Arc<AtomicUsize>| async move {
            let mut statement: Option<(usize, Statement)> = None;
            while let Some((bytes, _)) = next_piece(&file, &next, pieces)? {
                let rows = values(&bytes)?;
                let transaction = client.transaction().await?;
                for rows in rows.chunks(ROWS_OF_AN_INSERT) {
                    let known = statement.take().filter(|(length, _)| *length == rows.len());
                    let known = match known {
                        Some((_, statement)) => statement,
                        None => transaction.prepare(&insert_statement(rows)).await?,
                    };
                    let raw: Vec<Raw<'_>> = rows.iter().flatten().map(|value| Raw(*value)).collect();
                    let parameters: Vec<&(dyn ToSql + Sync)> = raw.iter().map(|raw| raw as _).collect();
                    transaction.execute(&known, &parameters).await?;
                    statement = Some((rows.len(), known));
                }
                transaction.commit().await?;
            }
            Ok(())
        };
        self.run("INSERT of 1,000 rows", 2, rows, write).await
    }

    async fn run<W, F>(&self, way: &'static str, connections: usize, rows: u64, write: W) -> Result<Baseline>
    where
        W: Fn(Client, Arc<RowFile>, Arc<AtomicUsize>) -> F,
        F: Future<Output = Result<()>> + Send + 'static,
    {
        let next = Arc::new(AtomicUsize::new(0));
        let mut clients = Vec::new();
        for _ in 0..connections {
            clients.push(database::connect(self.url).await?);
        }
        let own = std::process::id();
        let before = Meter::read(&self.client, Some(own), self.postgres).await?;
        let began = Instant::now();
        let mut writing = JoinSet::new();
        for client in clients {
            writing.spawn(write(client, Arc::clone(&self.file), Arc::clone(&next)));
        }
        while let Some(joined) = writing.join_next().await {
            joined??;
        }
        let seconds = began.elapsed().as_secs_f64();
        let used = Meter::read(&self.client, Some(own), self.postgres).await?.since(&before);
        Ok(Baseline {
            way,
            connections,
            rows,
            rows_per_second: rows as f64 / seconds,
            postgres_cpu: used.postgres.map(|cpu| per_million(cpu, rows)),
            client_cpu: used.server.map(|cpu| per_million(cpu, rows)),
            bytes_per_row: self.file.bytes() as f64 / self.file.rows() as f64,
            wal_bytes_per_row: used.wal as f64 / rows as f64,
        })
    }
}

/// The next rows that nobody else writes, of the first `pieces`.
fn next_piece(file: &RowFile, next: &AtomicUsize, pieces: usize) -> Result<Option<(Bytes, u64)>> {
    let number = next.fetch_add(1, Ordering::Relaxed);
    if number >= file.pieces().min(pieces) {
        return Ok(None);
    }
    file.piece(number).map(Some)
}

fn insert_statement(rows: &[Vec<Option<&[u8]>>]) -> String {
    let mut number = 0;
    let mut row = |columns: usize| {
        let numbers: Vec<String> = (0..columns).map(|column| format!("${}", number + column + 1)).collect();
        number += columns;
        format!("({})", numbers.join(", "))
    };
    let rows: Vec<String> = rows.iter().map(|values| row(values.len())).collect();
    format!("INSERT INTO oneiric_otel_bench.spans VALUES {}", rows.join(", "))
}

/// A value in the binary format of its type, whatever that is.
#[derive(Debug)]
struct Raw<'a>(Option<&'a [u8]>);

impl ToSql for Raw<'_> {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        let Some(value) = self.0 else { return Ok(IsNull::Yes) };
        out.extend_from_slice(value);
        Ok(IsNull::No)
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    tokio_postgres::types::to_sql_checked!();
}
