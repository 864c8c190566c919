//! The index on the vectors of a model: when it is built, of which kind, and whether it is there.

use tokio_postgres::types::Type;

use super::database::Database;
use super::embeddings::RegisteredModel;
use super::error::StoreError;
use crate::embed::IndexKind;

/// Above this number of vectors an index is faster than looking at all of them.
const INDEX_FROM_ROWS: i64 = 10_000;

/// Dimensions that an index can take.
const MAX_INDEXED_DIMENSION: usize = 4000;

/// Vectors of a list, as pgvector recommends up to a million; beyond, lists grow with the square root of the vectors.
const VECTORS_OF_A_LIST: i64 = 1000;

/// Lists are made anew when there should be so many times as many.
const OUTGROWN: i64 = 4;

/// What is known before an index is built.
struct Ground {
    /// Whether there are enough vectors, and no index of another kind or one that is being built.
    is_free: bool,
    /// Of an index of the kind of interest: whether it can be used.
    valid: Option<bool>,
    is_ours: bool,
    vectors: i64,
}

impl Database {
    /// Whether the model has an index that answers.
    pub(crate) async fn has_vector_index(&self, model: &RegisteredModel) -> Result<bool, StoreError> {
        let valid = "SELECT EXISTS (SELECT FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
                                    JOIN pg_am a ON a.oid = c.relam
                                    WHERE i.indrelid = to_regclass($1) AND i.indisvalid AND a.amname IN ('hnsw', 'ivfflat'))";
        Ok(self.client().await?.query_typed_one(valid, &[(&model.table(), Type::TEXT)]).await?.get(0))
    }

    /// Whether the model has so many vectors that this kind of index should be there, and none answers. False where it cannot be
    /// built: then questions have to do without.
    pub(crate) async fn lacks_vector_index(
        &self,
        model: &RegisteredModel,
        kind: IndexKind,
    ) -> Result<bool, StoreError> {
        if model.dimension > MAX_INDEXED_DIMENSION || self.has_vector_index(model).await? {
            return Ok(false);
        }
        let table = model.table();
        let sql = format!(
            "SELECT (SELECT count(*) FROM (SELECT FROM {table} LIMIT {}) t) > {INDEX_FROM_ROWS},
                    pg_has_role(current_user, relowner, 'USAGE')
             FROM pg_class WHERE oid = '{table}'::regclass",
            INDEX_FROM_ROWS + 1
        );
        let row = self.client().await?.query_typed_one(&sql, &[]).await?;
        Ok(row.get(0) && (kind == IndexKind::Hnsw || row.get(1)))
    }

    /// Builds the model's index when it has grown large enough and none is there or being built. Returns whether it did.
    pub(crate) async fn build_vector_index(
        &self,
        model: &RegisteredModel,
        kind: IndexKind,
    ) -> Result<bool, StoreError> {
        if model.dimension > MAX_INDEXED_DIMENSION {
            return Ok(false);
        }
        let ground = self.ground(model, kind).await?;
        if !ground.is_free {
            return Ok(false);
        }
        match kind {
            IndexKind::Hnsw if ground.valid == Some(true) => Ok(false),
            IndexKind::Hnsw => self.build_hnsw(model, &ground).await,
            IndexKind::Ivfflat => self.build_ivfflat(model, &ground).await,
        }
    }

    async fn ground(&self, model: &RegisteredModel, kind: IndexKind) -> Result<Ground, StoreError> {
        let (table, method) = (model.table(), method(kind));
        let row = self
            .client()
            .await?
            .query_typed_one(
                &format!(
                    "WITH indexes AS (
                       SELECT a.amname, i.indisvalid FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
                       JOIN pg_am a ON a.oid = c.relam
                       WHERE i.indrelid = '{table}'::regclass AND a.amname IN ('hnsw', 'ivfflat'))
                     SELECT (SELECT count(*) FROM (SELECT FROM {table} LIMIT {}) t) > {INDEX_FROM_ROWS}
                              AND NOT EXISTS (SELECT FROM indexes WHERE amname <> '{method}' AND indisvalid)
                              AND NOT EXISTS (SELECT FROM pg_stat_progress_create_index
                                              WHERE relid = '{table}'::regclass AND datname = current_database()),
                            (SELECT bool_or(indisvalid) FROM indexes WHERE amname = '{method}'),
                            pg_has_role(current_user, c.relowner, 'USAGE'),
                            greatest(c.reltuples::bigint, {INDEX_FROM_ROWS})
                     FROM pg_class c WHERE c.oid = '{table}'::regclass",
                    INDEX_FROM_ROWS + 1
                ),
                &[],
            )
            .await?;
        Ok(Ground { is_free: row.get(0), valid: row.get(1), is_ours: row.get(2), vectors: row.get(3) })
    }

    async fn build_hnsw(&self, model: &RegisteredModel, ground: &Ground) -> Result<bool, StoreError> {
        let client = self.client().await?;
        let (table, index) = (model.table(), model.index());
        if !ground.is_ours {
            let built = "SELECT otel.otel_build_vector_index($1)";
            let built: bool = client.query_typed_one(built, &[(&model.id, Type::INT2)]).await?.get(0);
            if built {
                tracing::info!(%index, "built a vector index");
            }
            return Ok(built);
        }
        if ground.valid == Some(false) {
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

    /// The number of lists is in the name. Indexes with other numbers give way to the new one.
    async fn build_ivfflat(&self, model: &RegisteredModel, ground: &Ground) -> Result<bool, StoreError> {
        let wanted = lists(ground.vectors);
        let client = self.client().await?;
        let known = "SELECT c.relname::text, i.indisvalid FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
                     JOIN pg_am a ON a.oid = c.relam WHERE i.indrelid = to_regclass($1) AND a.amname = 'ivfflat'";
        let known = client.query_typed(known, &[(&model.table(), Type::TEXT)]).await?;
        let known: Vec<(String, bool)> = known.iter().map(|row| (row.get(0), row.get(1))).collect();
        let is_enough = |(name, valid): &(String, bool)| *valid && lists_of(name) * OUTGROWN > wanted;
        if known.iter().any(is_enough) {
            return Ok(false);
        }
        if !ground.is_ours {
            tracing::warn!(
                table = model.table(),
                "no ivfflat index is built: the role does not own the table; give maintenance_url one that does, or set \
                 vector_index to hnsw"
            );
            return Ok(false);
        }
        let index = format!("otel_embeddings_{}{LISTS}{wanted}", model.id);
        for (name, _) in known.iter().filter(|(_, valid)| !valid) {
            // What a build that was cut off left behind.
            client.batch_execute(&format!("DROP INDEX CONCURRENTLY IF EXISTS otel.{name}")).await?;
        }
        client
            .batch_execute(&format!(
                "CREATE INDEX CONCURRENTLY IF NOT EXISTS {index} ON {}
                 USING ivfflat (embedding {}.halfvec_cosine_ops) WITH (lists = {wanted})",
                model.table(),
                model.vector_schema()
            ))
            .await?;
        tracing::info!(%index, "built a vector index");
        for (name, _) in known.iter().filter(|(name, valid)| *valid && *name != index) {
            client.batch_execute(&format!("DROP INDEX CONCURRENTLY IF EXISTS otel.{name}")).await?;
        }
        Ok(true)
    }
}

/// Before the number of lists in the name of an index.
const LISTS: &str = "_ivfflat_";

fn method(kind: IndexKind) -> &'static str {
    match kind {
        IndexKind::Hnsw => "hnsw",
        IndexKind::Ivfflat => "ivfflat",
    }
}

/// How many lists so many vectors should have.
fn lists(vectors: i64) -> i64 {
    if vectors > VECTORS_OF_A_LIST * VECTORS_OF_A_LIST {
        return (vectors as f64).sqrt() as i64;
    }
    (vectors / VECTORS_OF_A_LIST).max(1)
}

fn lists_of(index: &str) -> i64 {
    index.rsplit_once(LISTS).and_then(|(_, lists)| lists.parse().ok()).unwrap_or_default()
}

/// Lists that a question looks through: twice the square root finds about what is near, and never fewer than ten.
pub(super) fn probes(lists: i64) -> i64 {
    ((2.0 * (lists as f64).sqrt()).ceil() as i64).max(10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_grow_with_the_vectors_and_probes_with_the_lists() {
        for (vectors, expected, looked) in
            [(10_000, 10, 10), (100_000, 100, 20), (1_000_000, 1000, 64), (4_000_000, 2000, 90)]
        {
            assert_eq!((lists(vectors), probes(lists(vectors))), (expected, looked), "{vectors}");
        }
        assert_eq!((lists_of("otel_embeddings_1_ivfflat_10"), lists_of("otel_embeddings_1_hnsw")), (10, 0));
    }
}
