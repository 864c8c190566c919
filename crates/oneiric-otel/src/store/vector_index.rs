//! The index on the vectors of a model: when it is built, and whether it is there.

use tokio_postgres::types::Type;

use super::database::Database;
use super::embeddings::RegisteredModel;
use super::error::StoreError;

/// Above this number of vectors an index is faster than looking at all of them.
const INDEX_FROM_ROWS: i64 = 10_000;

/// Dimensions that an index can take.
const MAX_INDEXED_DIMENSION: usize = 4000;

impl Database {
    /// Whether the model has an index that answers.
    pub(crate) async fn has_vector_index(&self, model: &RegisteredModel) -> Result<bool, StoreError> {
        let index = format!("otel.{}", model.index());
        let valid = "SELECT EXISTS (SELECT FROM pg_index WHERE indexrelid = to_regclass($1) AND indisvalid)";
        Ok(self.client().await?.query_typed_one(valid, &[(&index, Type::TEXT)]).await?.get(0))
    }

    /// Builds the model's index when it has grown large enough and none is there or being built. Returns whether it did.
    pub(crate) async fn build_vector_index(&self, model: &RegisteredModel) -> Result<bool, StoreError> {
        if model.dimension > MAX_INDEXED_DIMENSION {
            return Ok(false);
        }
        let client = self.client().await?;
        let (table, index) = (model.table(), model.index());
        let row = client
            .query_typed_one(
                &format!(
                    "SELECT (SELECT count(*) FROM (SELECT FROM {table} LIMIT {}) t) > {INDEX_FROM_ROWS},
                            (SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass('otel.{index}')),
                            EXISTS (SELECT FROM pg_stat_progress_create_index
                                    WHERE relid = '{table}'::regclass AND datname = current_database()),
                            (SELECT pg_has_role(current_user, relowner, 'USAGE') FROM pg_class
                             WHERE oid = '{table}'::regclass)",
                    INDEX_FROM_ROWS + 1
                ),
                &[],
            )
            .await?;
        let (large, valid, building): (bool, Option<bool>, bool) = (row.get(0), row.get(1), row.get(2));
        if !large || valid == Some(true) || building {
            return Ok(false);
        }
        if !row.get::<_, bool>(3) {
            let built = "SELECT otel.otel_build_vector_index($1)";
            let built: bool = client.query_typed_one(built, &[(&model.id, Type::INT2)]).await?.get(0);
            if built {
                tracing::info!(%index, "built a vector index");
            }
            return Ok(built);
        }
        if valid == Some(false) {
            // What a build that was cut off left behind.
            client.batch_execute(&format!("DROP INDEX CONCURRENTLY IF EXISTS otel.{index}")).await?;
        }
        // With the server's maintenance_work_mem: outside a transaction there is no setting for one statement, and a
        // setting of the session would stay with the connection of a pooler.
        client
            .batch_execute(&format!(
                "CREATE INDEX CONCURRENTLY IF NOT EXISTS {index} ON {table}
                 USING hnsw (embedding {}.halfvec_cosine_ops) WITH (m = 16, ef_construction = 64)",
                model.vector_schema()
            ))
            .await?;
        tracing::info!(%index, "built a vector index");
        Ok(true)
    }
}
