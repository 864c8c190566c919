//! How much is stored and what still waits.

use std::collections::BTreeMap;

use tokio_postgres::types::Type;
use uuid::Uuid;

use super::database::Database;
use super::embeddings::CURRENT_MODELS;
use super::error::StoreError;

/// Numbers about a database.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Census {
    /// Rows by table, as PostgreSQL's statistics have them: right to some thousandths, and instant at any size. None for
    /// a table that is not empty and of which the statistics know nothing, as after a crash.
    pub approximate_rows: BTreeMap<String, Option<i64>>,
    /// Traces that were written to since they were derived.
    pub traces_to_derive: i64,
    /// Texts that wait for their vector, of the models that were in use within a day.
    pub texts_to_embed: i64,
    /// A reason why a text could not be embedded, while one waits for it.
    pub embedding_error: Option<String>,
    /// Records that the database refused and that nobody has looked at.
    pub dead_letters: i64,
    /// The models that vectors come from.
    pub models: Vec<String>,
    /// Whether there is anything to embed or embedded.
    #[serde(skip)]
    pub has_texts: bool,
}

impl Database {
    /// Counts what is stored and what waits. The schema must be migrated.
    pub async fn census(&self) -> Result<Census, StoreError> {
        let client = self.client().await?;
        let row = client
            .query_typed_one(
                &format!(
                    "SELECT (SELECT count(DISTINCT trace_id) FROM otel.otel_trace_touches),
                        (SELECT count(*) FROM otel.otel_embedding_work WHERE model_id IN {CURRENT_MODELS}),
                        (SELECT last_error FROM otel.otel_embedding_work
                         WHERE last_error IS NOT NULL AND model_id IN {CURRENT_MODELS} LIMIT 1),
                        (SELECT count(*) FROM otel.otel_telemetry_dlq WHERE processed_at IS NULL),
                        ARRAY(SELECT format('%s (%s, %s dimensions)', name, precision, dimension)
                              FROM otel.otel_embedding_models ORDER BY model_id),
                        EXISTS (SELECT FROM otel.otel_texts)"
                ),
                &[],
            )
            .await?;
        let tables = client
            .query_typed(
                "SELECT name, CASE WHEN sum(rows) > 0 OR sum(bytes) = 0 THEN sum(rows)::bigint END
                 FROM (SELECT p.relname::text AS name, pg_relation_size(c.oid) AS bytes,
                              coalesce(nullif(pg_stat_get_live_tuples(c.oid), 0), greatest(c.reltuples, 0)) AS rows
                       FROM pg_class p LEFT JOIN pg_inherits i ON i.inhparent = p.oid
                       JOIN pg_class c ON c.oid = coalesce(i.inhrelid, p.oid)
                       WHERE p.relnamespace = 'otel'::regnamespace
                         AND p.relname IN ('otel_spans', 'otel_logs', 'otel_metrics', 'otel_traces', 'otel_texts')) t
                 GROUP BY name",
                &[],
            )
            .await?;
        Ok(Census {
            approximate_rows: tables.iter().map(|row| (row.get(0), row.get(1))).collect(),
            traces_to_derive: row.get(0),
            texts_to_embed: row.get(1),
            embedding_error: row.get(2),
            dead_letters: row.get(3),
            models: row.get(4),
            has_texts: row.get(5),
        })
    }

    /// Whether something is stored of a service that is none of these. The schema must be migrated.
    pub async fn has_other_services(&self, services: &[&str]) -> Result<bool, StoreError> {
        let client = self.client().await?;
        let row = client
            .query_typed_one(
                "SELECT EXISTS (SELECT FROM otel.otel_resources WHERE service_name <> ALL($1))",
                &[(&services, Type::TEXT_ARRAY)],
            )
            .await?;
        Ok(row.get(0))
    }

    /// How many of these traces are derived, with nothing of them waiting to be derived again.
    pub async fn settled_traces(&self, trace_ids: &[[u8; 16]]) -> Result<i64, StoreError> {
        let trace_ids: Vec<Uuid> = trace_ids.iter().copied().map(Uuid::from_bytes).collect();
        let client = self.client().await?;
        let row = client
            .query_typed_one(
                "SELECT count(*) FROM otel.otel_trace_keys k
                 WHERE k.trace_id = ANY($1)
                   AND NOT EXISTS (SELECT FROM otel.otel_trace_touches t
                                   WHERE t.slot = get_byte(uuid_send(k.trace_id), 15) % 16 AND t.trace_id = k.trace_id)",
                &[(&trace_ids, Type::UUID_ARRAY)],
            )
            .await?;
        Ok(row.get(0))
    }
}
