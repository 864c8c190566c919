//! What a row takes on disk, what each index costs, and what a closed partition would take if it were packed.
//!
//! Works on the telemetry that a database has: of each signal the largest partition, as many of its rows as are asked for. They
//! are copied into a schema of its own, dropped afterwards, once without indexes and once with each of them alone.
//!
//! Packed means: a thousand rows that lie side by side become one row of arrays, a column each, which PostgreSQL compresses
//! (TOAST). SQL reads it with `unnest`, without an extension. ADR 14 says what follows from the figures.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use oneiric_otel::otlp::Signal;
use serde::Serialize;
use tokio_postgres::Client;

use crate::database::{self, Description};
use crate::machine::Machine;
use crate::process;

/// Where the copies lie.
const SCHEMA: &str = "oneiric_otel_bench";
/// Rows of a packed block.
const ROWS_OF_A_BLOCK: u64 = 1000;

/// What was measured.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// On which machine.
    pub machine: Machine,
    /// On which database.
    pub database: Description,
    /// The signals that have rows.
    pub signals: Vec<Measured>,
}

/// One signal.
#[derive(Debug, Clone, Serialize)]
pub struct Measured {
    /// Its largest partition.
    pub partition: String,
    /// Rows that were copied.
    pub rows: u64,
    /// Bytes of a row in the table, TOAST included.
    pub table_bytes: f64,
    /// What writing them without an index took.
    pub writing: Cost,
    /// What each index adds.
    pub indexes: Vec<Index>,
    /// The same rows, packed.
    pub packed: Packed,
}

/// What an index adds.
#[derive(Debug, Clone, Serialize)]
pub struct Index {
    /// Its name on the partition.
    pub name: String,
    /// Bytes of a row in it.
    pub bytes: f64,
    /// What it adds to writing a row.
    pub cost: Cost,
}

/// Microseconds per row; less than what can be told apart may be negative.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Cost {
    /// By the clock.
    pub wall_us: f64,
    /// Of PostgreSQL's processes; none where they cannot be seen.
    pub cpu_us: Option<f64>,
}

/// Rows in blocks.
#[derive(Debug, Clone, Serialize)]
pub struct Packed {
    /// Bytes of a row.
    pub bytes: f64,
    /// Bytes of a row by column, the largest first.
    pub columns: Vec<(String, f64)>,
    /// Microseconds per row to pack them.
    pub pack_us: f64,
    /// Microseconds per row to read all columns of all blocks.
    pub unpack_us: f64,
    /// Microseconds per row to read the rows as they are.
    pub scan_us: f64,
    /// Milliseconds to read one block.
    pub block_ms: f64,
}

impl Measured {
    /// Bytes of a row in the table and its indexes.
    pub fn bytes(&self) -> f64 {
        self.table_bytes + self.indexes.iter().map(|index| index.bytes).sum::<f64>()
    }
}

/// Measures the largest partition of each signal that has one, with `rows` of its rows at most. `tell` hears what goes on.
///
/// # Errors
/// If the database cannot be asked, or the role may not make a schema.
pub async fn run(url: &str, rows: u64, tell: &impl Fn(&str)) -> Result<Report> {
    let client = database::connect(url).await?;
    let bench = Bench { postgres: database::postmaster(&client).await?, client: &client, rows };
    let mut signals = Vec::new();
    for signal in [Signal::Traces, Signal::Logs, Signal::Metrics] {
        bench.begin().await?;
        let measured = bench.signal(signal, tell).await;
        bench.end().await?;
        signals.extend(measured?);
    }
    Ok(Report { machine: Machine::here(), database: database::describe(&client).await?, signals })
}

/// The table of a signal, and the order in which its rows are packed: what is asked for together lies together.
fn table(signal: Signal) -> (&'static str, &'static str) {
    match signal {
        Signal::Traces => ("otel_spans", "start_time, trace_id"),
        Signal::Logs => ("otel_logs", "resource_id, time"),
        Signal::Metrics => ("otel_metrics", "series_id, time"),
    }
}

struct Bench<'a> {
    client: &'a Client,
    postgres: Option<u32>,
    rows: u64,
}

impl Bench<'_> {
    async fn begin(&self) -> Result<()> {
        let sql = format!("DROP SCHEMA IF EXISTS {SCHEMA} CASCADE; CREATE SCHEMA {SCHEMA}");
        self.client.batch_execute(&sql).await.with_context(|| format!("make the schema {SCHEMA}"))
    }

    async fn end(&self) -> Result<()> {
        Ok(self.client.batch_execute(&format!("DROP SCHEMA {SCHEMA} CASCADE")).await?)
    }

    /// None if the signal has no rows.
    async fn signal(&self, signal: Signal, tell: &impl Fn(&str)) -> Result<Option<Measured>> {
        let (parent, order) = table(signal);
        let sql = "SELECT c.relname::text FROM pg_inherits h JOIN pg_class c ON c.oid = h.inhrelid
                   WHERE h.inhparent = ('otel.' || $1::text)::regclass ORDER BY pg_table_size(c.oid) DESC, 1 LIMIT 1";
        let Some(row) = self.client.query_opt(sql, &[&parent]).await? else { return Ok(None) };
        let partition: String = row.get(0);
        tell(&format!("{partition}: rows"));
        self.client
            .batch_execute(&format!(
                "CREATE TABLE {SCHEMA}.source (LIKE otel.{partition} INCLUDING STORAGE);
                 INSERT INTO {SCHEMA}.source SELECT * FROM otel.{partition} LIMIT {}",
                self.rows
            ))
            .await?;
        let row = self.client.query_one(&format!("SELECT count(*) FROM {SCHEMA}.source"), &[]).await?;
        let rows = u64::try_from(row.get::<_, i64>(0))?;
        if rows == 0 {
            return Ok(None);
        }
        let writing = self.write(rows, None).await?;
        let table_bytes = self.size("target").await? as f64 / rows as f64;
        let indexes = self.indexes(&partition, rows, writing, tell).await?;
        tell(&format!("{partition}: packed"));
        let packed = self.packed(order, rows).await?;
        Ok(Some(Measured { partition, rows, table_bytes, writing, indexes, packed }))
    }

    async fn indexes(&self, partition: &str, rows: u64, bare: Cost, tell: &impl Fn(&str)) -> Result<Vec<Index>> {
        let sql =
            "SELECT c.relname::text, pg_get_indexdef(c.oid) FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
                   WHERE i.indrelid = ('otel.' || $1::text)::regclass ORDER BY 1";
        let mut indexes = Vec::new();
        for row in self.client.query(sql, &[&partition]).await? {
            let (name, definition): (String, String) = (row.get(0), row.get(1));
            tell(&format!("{partition}: {name}"));
            let (_, how) = definition.split_once(" USING ").context("an index says how")?;
            let with = self.write(rows, Some(how)).await?;
            let cost = Cost {
                wall_us: with.wall_us - bare.wall_us,
                cpu_us: with.cpu_us.zip(bare.cpu_us).map(|(with, bare)| with - bare),
            };
            indexes.push(Index { name, bytes: self.size("one").await? as f64 / rows as f64, cost });
        }
        Ok(indexes)
    }

    /// Writes the rows into an empty table with one index or none.
    async fn write(&self, rows: u64, index: Option<&str>) -> Result<Cost> {
        let mut sql = format!(
            "DROP TABLE IF EXISTS {SCHEMA}.target;
             CREATE TABLE {SCHEMA}.target (LIKE {SCHEMA}.source INCLUDING STORAGE)"
        );
        if let Some(how) = index {
            write!(sql, "; CREATE INDEX one ON {SCHEMA}.target USING {how}")?;
        }
        self.client.batch_execute(&sql).await?;
        database::checkpoint(self.client).await;
        let cpu = || self.postgres.map(process::cpu_time_of_tree);
        let (began, before) = (Instant::now(), cpu());
        self.client.batch_execute(&format!("INSERT INTO {SCHEMA}.target SELECT * FROM {SCHEMA}.source")).await?;
        let used = cpu().zip(before).map(|(after, before)| after.saturating_sub(before));
        Ok(Cost { wall_us: per_row(began.elapsed(), rows), cpu_us: used.map(|used| per_row(used, rows)) })
    }

    async fn packed(&self, order: &str, rows: u64) -> Result<Packed> {
        let columns = self.columns().await?;
        let list = |each: &dyn Fn(&Column) -> String| columns.iter().map(each).collect::<Vec<_>>().join(", ");
        let names = list(&|column| column.name.clone());
        let pack = format!(
            "CREATE TABLE {SCHEMA}.blocks AS SELECT number AS block, {} FROM
               (SELECT *, (row_number() OVER (ORDER BY {order}) - 1) / {ROWS_OF_A_BLOCK} AS number FROM {SCHEMA}.source) s
             GROUP BY number",
            list(&|column| format!("array_agg({} ORDER BY {order}) AS {}", column.packable(), column.name))
        );
        // No two processes: what is compared is the work.
        self.client.batch_execute("SET max_parallel_workers_per_gather = 0").await?;
        let pack = self.timed(&pack).await?;
        let sizes = list(&|column| format!("sum(pg_column_size({}))::float8", column.name));
        let row = self.client.query_one(&format!("SELECT {sizes} FROM {SCHEMA}.blocks"), &[]).await?;
        let mut sizes = Vec::new();
        for (at, column) in columns.iter().enumerate() {
            sizes.push((column.name.clone(), row.try_get::<_, Option<f64>>(at)?.unwrap_or_default() / rows as f64));
        }
        sizes.sort_by(|(_, one), (_, other)| other.total_cmp(one));
        let of_blocks = |which: &str| {
            format!(
                "SELECT count(*) FROM {SCHEMA}.blocks b, unnest({}) AS u({names}) WHERE {which}",
                list(&|column| format!("b.{}", column.name))
            )
        };
        let unpack = self.timed(&of_blocks("true")).await?;
        let block = self.timed(&of_blocks("b.block = 0")).await?;
        let scan = self.timed(&format!("SELECT count(s) FROM {SCHEMA}.source s")).await?;
        Ok(Packed {
            bytes: self.size("blocks").await? as f64 / rows as f64,
            columns: sizes,
            pack_us: per_row(pack, rows),
            unpack_us: per_row(unpack, rows),
            scan_us: per_row(scan, rows),
            block_ms: block.as_secs_f64() * 1e3,
        })
    }

    async fn columns(&self) -> Result<Vec<Column>> {
        let sql = format!(
            "SELECT attname::text, format_type(atttypid, NULL) FROM pg_attribute
             WHERE attrelid = '{SCHEMA}.source'::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attnum"
        );
        let rows = self.client.query(&sql, &[]).await?;
        Ok(rows.iter().map(|row| Column { name: row.get(0), kind: row.get(1) }).collect())
    }

    async fn timed(&self, sql: &str) -> Result<Duration> {
        let began = Instant::now();
        self.client.batch_execute(sql).await?;
        Ok(began.elapsed())
    }

    async fn size(&self, name: &str) -> Result<u64> {
        let sql = format!("SELECT pg_table_size('{SCHEMA}.{name}')");
        Ok(u64::try_from(self.client.query_one(&sql, &[]).await?.get::<_, i64>(0))?)
    }
}

struct Column {
    name: String,
    kind: String,
}

impl Column {
    /// Arrays of unequal lengths make no array.
    fn packable(&self) -> String {
        if self.kind.ends_with("[]") { format!("{}::text", self.name) } else { self.name.clone() }
    }
}

fn per_row(time: Duration, rows: u64) -> f64 {
    time.as_secs_f64() * 1e6 / rows as f64
}
