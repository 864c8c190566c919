//! How much is stored and what still waits.

use std::collections::BTreeMap;

use jiff::Timestamp;
use tokio_postgres::types::Type;
use uuid::Uuid;

use super::database::Database;
use super::embeddings::CURRENT_MODELS;
use super::error::StoreError;
use super::fallback::Fallback;
use super::retention::timestamp;

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
    /// The change from one model to another that is under way.
    pub model_change: Option<ModelChange>,
    /// Whether hashes stand in place of vectors, which are no embeddings.
    pub embedding_fallback: Option<Fallback>,
    /// Collecting what nothing refers to any more; none before migration 27.
    pub collecting: Option<Collecting>,
    /// Whether there is anything to embed or embedded.
    #[serde(skip)]
    pub has_texts: bool,
}

/// How collecting what nothing refers to any more goes on.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Collecting {
    /// Rows that were deleted, ever, by table.
    pub collected: BTreeMap<String, i64>,
    /// When it was last run; none when it never was.
    pub looked_at: Option<Timestamp>,
    /// Why that run retired nothing, if so.
    pub held_back: Option<String>,
    /// What kept rows for longer than retention does, in that run.
    pub waits_for: Vec<String>,
}

/// A model that is being made ready while another one answers.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ModelChange {
    /// The model that answers until the other is complete.
    pub from: String,
    /// The model that is being made ready.
    pub to: String,
    /// Texts that were there before it and wait for its vector. 0: log templates or the index are left to do.
    pub texts_left: i64,
}

impl Database {
    async fn collecting(&self) -> Result<Option<Collecting>, StoreError> {
        let sql = "SELECT c.looked_at, c.held_back, c.waits_for, d.tables, d.counts
                   FROM otel.otel_collection c,
                        (SELECT array_agg(parent) AS tables, array_agg(row_count) AS counts FROM otel.otel_collected) d";
        let rows = match self.query(sql, &[]).await {
            Ok(rows) => rows,
            Err(error) if error.is_undefined() => return Ok(None),
            Err(error) => return Err(error),
        };
        Ok(rows.first().map(|row| Collecting {
            collected: row.get::<_, Vec<String>>(3).into_iter().zip(row.get::<_, Vec<i64>>(4)).collect(),
            looked_at: timestamp(row.get(0)),
            held_back: row.get(1),
            waits_for: row.get(2),
        }))
    }

    async fn model_change(&self) -> Result<Option<ModelChange>, StoreError> {
        let sql = format!(
            "WITH models AS (
               SELECT m.model_id, p.complete_at, greatest(m.last_used, p.last_served) AS used, p.renews_to,
                      format('%s (%s, %s dimensions)', m.name, m.precision, m.dimension) AS shown
               FROM otel.otel_embedding_models m JOIN otel.otel_embedding_progress p USING (model_id))
             SELECT f.shown, n.shown, (SELECT count(*) FROM otel.otel_embedding_work w
                                       WHERE w.model_id = n.model_id AND w.text_id <= n.renews_to)
             FROM models n, (SELECT shown FROM models WHERE complete_at IS NOT NULL
                             ORDER BY used DESC, model_id DESC LIMIT 1) f
             WHERE n.complete_at IS NULL AND n.model_id IN {CURRENT_MODELS} ORDER BY n.model_id LIMIT 1"
        );
        match self.query(&sql, &[]).await {
            Ok(rows) => {
                Ok(rows.first().map(|row| ModelChange { from: row.get(0), to: row.get(1), texts_left: row.get(2) }))
            }
            // Before migration 19.
            Err(error) if error.is_undefined_table() => Ok(None),
            Err(error) => Err(error),
        }
    }

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
                         AND p.relname IN ('otel_spans', 'otel_logs', 'otel_metrics', 'otel_metric_series', 'otel_traces',
                                           'otel_texts')) t
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
            model_change: self.model_change().await?,
            embedding_fallback: self.fallback().await?,
            collecting: self.collecting().await?,
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
