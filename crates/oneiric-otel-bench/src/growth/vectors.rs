//! What it costs to take vectors out of the index: deleting them and VACUUM, in a table as the product's.

use std::time::Instant;

use anyhow::{Context as _, Result};
use serde::Serialize;
use tokio_postgres::Client;

/// Of so many, one is deleted.
const DELETED_ONE_OF: u32 = 10;

/// A vector index before and after a part of its vectors is deleted, vacuumed, and stored anew.
#[derive(Debug, Clone, Serialize)]
pub struct Vacuum {
    /// Vectors at first, of 384 numbers of two bytes, near 500 centres.
    pub vectors: u64,
    /// Vectors that were deleted, everywhere among them.
    pub deleted: u64,
    /// Seconds that building the index took.
    pub build_seconds: f64,
    /// Seconds that VACUUM took before anything was deleted.
    pub idle_vacuum_seconds: f64,
    /// Seconds that it took afterwards.
    pub vacuum_seconds: f64,
    /// Seconds until as many vectors were stored again.
    pub refill_seconds: f64,
    /// Bytes of the index when it was built.
    pub bytes_built: u64,
    /// After the VACUUM.
    pub bytes_vacuumed: u64,
    /// After as many were stored again.
    pub bytes_refilled: u64,
}

/// Makes the table and the index in a schema of its own, measures, and drops it.
pub(super) async fn measure(client: &Client, count: u32, tell: &impl Fn(&str)) -> Result<Vacuum> {
    let schema = "SELECT format('%I', n.nspname) FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace
                  WHERE e.extname = 'vector'";
    let found = client.query_opt(schema, &[]).await?.context("the database has no extension vector")?;
    let schema: String = found.get(0);
    tell("making vectors");
    run(
        client,
        &format!(
            "DROP SCHEMA IF EXISTS oneiric_otel_bench CASCADE;
             CREATE SCHEMA oneiric_otel_bench;
             CREATE TABLE oneiric_otel_bench.vectors (id bigint PRIMARY KEY, embedding {schema}.halfvec(384) NOT NULL)
             WITH (autovacuum_enabled = off)"
        ),
    )
    .await?;
    fill(client, &schema, 0, count, 1).await?;
    tell("building the index");
    let build_seconds = run(
        client,
        &format!(
            "CREATE INDEX vectors_hnsw ON oneiric_otel_bench.vectors
             USING hnsw (embedding {schema}.halfvec_cosine_ops) WITH (m = 16, ef_construction = 64)"
        ),
    )
    .await?;
    tell("VACUUM");
    let vacuum = "VACUUM (INDEX_CLEANUP ON) oneiric_otel_bench.vectors";
    let idle_vacuum_seconds = run(client, vacuum).await?;
    let bytes_built = bytes(client).await?;
    let delete = format!("DELETE FROM oneiric_otel_bench.vectors WHERE id % {DELETED_ONE_OF} = 0");
    let deleted = client.execute(&delete, &[]).await?;
    let vacuum_seconds = run(client, vacuum).await?;
    let bytes_vacuumed = bytes(client).await?;
    tell("storing as many vectors again");
    let refill_seconds = fill(client, &schema, count, u32::try_from(deleted)?, 2).await?;
    let bytes_refilled = bytes(client).await?;
    run(client, "DROP SCHEMA oneiric_otel_bench CASCADE").await?;
    Ok(Vacuum {
        vectors: u64::from(count),
        deleted,
        build_seconds,
        idle_vacuum_seconds,
        vacuum_seconds,
        refill_seconds,
        bytes_built,
        bytes_vacuumed,
        bytes_refilled,
    })
}

/// Stores vectors near 500 centres; the same ones for the same seed. Returns the seconds it took.
async fn fill(client: &Client, schema: &str, first: u32, count: u32, seed: u32) -> Result<f64> {
    let last = u64::from(first) + u64::from(count);
    run(
        client,
        &format!(
            "SELECT setseed(0.{seed});
             INSERT INTO oneiric_otel_bench.vectors
             SELECT i, (SELECT array_agg((sin((i % 500 + 1) * j) + random() - 0.5)::real) FROM generate_series(1, 384) j)
                       ::{schema}.vector::{schema}.halfvec
             FROM generate_series({first}, {last} - 1) i"
        ),
    )
    .await
}

async fn run(client: &Client, sql: &str) -> Result<f64> {
    let began = Instant::now();
    client.batch_execute(sql).await?;
    Ok(began.elapsed().as_secs_f64())
}

async fn bytes(client: &Client) -> Result<u64> {
    let row = client.query_one("SELECT pg_relation_size('oneiric_otel_bench.vectors_hnsw')", &[]).await?;
    Ok(row.get::<_, i64>(0).unsigned_abs())
}
