//! Vectors: one table per model, what is nearest in it, and the work that waits for a model.
//!
//! pgvector may be missing. Then no model can be registered and everything else goes on; when it appears later, the
//! next registration finds it.

use std::ops::RangeInclusive;
use std::time::Duration;

use tokio_postgres::types::{ToSql, Type};

use super::database::{Client, Database};
use super::error::StoreError;
use crate::embed::EmbeddingModel;

/// Vectors that the index keeps in view at least: with 100 it missed two of a hundred of the nearest ten, with 200 one.
const LEAST_EF_SEARCH: i64 = 200;

/// The pause before work that failed is tried again, doubled each time up to the second value.
const FIRST_RETRY: Duration = Duration::from_secs(2);
const LAST_RETRY: Duration = Duration::from_mins(5);

/// An SQL condition: the server has pgvector, and this role may install it in this database.
pub(crate) const PGVECTOR_INSTALLABLE: &str = "
    EXISTS (SELECT FROM pg_available_extension_versions
            WHERE name = 'vector'
              AND ((SELECT rolsuper FROM pg_roles WHERE rolname = current_user)
                   OR trusted AND has_database_privilege(current_database(), 'CREATE')))";

/// A model that has a table in this database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RegisteredModel {
    pub(crate) id: i16,
    pub(crate) dimension: usize,
    /// Lists of its ivfflat index, 0 without one.
    lists: i64,
    /// The schema that pgvector lies in, quoted: its types and operators need not be on the search path.
    vector_schema: String,
}

impl RegisteredModel {
    /// The table of its vectors.
    pub(super) fn table(&self) -> String {
        format!("otel.otel_embeddings_{}", self.id)
    }

    pub(super) fn index(&self) -> String {
        format!("otel_embeddings_{}_hnsw", self.id)
    }

    fn vector_type(&self) -> String {
        format!("{}.halfvec", self.vector_schema)
    }

    /// The quoted schema of pgvector.
    pub(super) fn vector_schema(&self) -> &str {
        &self.vector_schema
    }

    /// The operator of the distance by cosine.
    pub(super) fn distance(&self) -> String {
        format!("OPERATOR({}.<=>)", self.vector_schema)
    }
}

/// A text that waits for its vector.
#[derive(Debug, Clone)]
pub(crate) struct Work {
    pub(crate) text_id: i64,
    pub(crate) text: String,
    /// How often it failed.
    pub(crate) attempts: i32,
}

/// How the nearest texts are looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scan {
    /// Through the model's index, where it has one.
    Index,
    /// By comparing every vector.
    Everything,
}

/// The models whose work somebody does: used within a day, and of one name the precision that was used last. What is left of
/// another waits for nobody.
pub(super) const CURRENT_MODELS: &str = "(SELECT DISTINCT ON (name) model_id FROM otel.otel_embedding_models
    WHERE last_used > now() - interval '1 day' ORDER BY name, last_used DESC, model_id DESC)";

/// A text and how near it is, as the cosine of the angle between the vectors.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Near {
    pub(crate) text_id: i64,
    pub(crate) cosine: f64,
}

impl Database {
    /// Gives the model its table in this database, and every text that has no vector of it to the model as work.
    /// Installs pgvector first when it is available and we may. `None` without pgvector.
    ///
    /// Says also that the model is in use. A model that was not for a day got no new texts as work; it gets all that it
    /// lacks now.
    pub(crate) async fn register_model(&self, model: &EmbeddingModel) -> Result<Option<RegisteredModel>, StoreError> {
        let mut client = self.client().await?;
        let Some(vector_schema) = vector_schema(&client, true).await? else { return Ok(None) };
        if let Some(known) = find(&client, model, &vector_schema).await? {
            use_model(&mut client, &known, Use::Own).await?;
            return Ok(Some(known));
        }
        let dimension = i32::try_from(model.dimension)
            .map_err(|_| StoreError::misconfigured(format!("model {model}: more dimensions than a vector can have")))?;
        let row = client
            .query_typed_one(
                "SELECT otel.otel_register_model($1, $2, $3)",
                &[(&model.name, Type::TEXT), (&model.precision, Type::TEXT), (&dimension, Type::INT4)],
            )
            .await?;
        let Some(id) = row.get(0) else {
            // Another instance was faster.
            return find(&client, model, &vector_schema).await;
        };
        let registered = RegisteredModel { id, dimension: model.dimension, lists: 0, vector_schema };
        tracing::info!(%model, model_id = registered.id, "registered an embedding model");
        Ok(Some(registered))
    }

    /// The model's table, if it was registered and pgvector is still there. Changes nothing.
    pub(crate) async fn registered_model(&self, model: &EmbeddingModel) -> Result<Option<RegisteredModel>, StoreError> {
        let client = self.client().await?;
        let Some(vector_schema) = vector_schema(&client, false).await? else { return Ok(None) };
        find(&client, model, &vector_schema).await
    }

    /// Installs pgvector in this database, if it is missing, the server has it and this role may. Returns whether it is
    /// there then. The schema must be migrated.
    pub async fn install_pgvector(&self) -> Result<bool, StoreError> {
        let client = self.client().await?;
        Ok(vector_schema(&client, true).await?.is_some())
    }

    /// Whether pgvector is installed in this database.
    pub(crate) async fn has_pgvector(&self) -> Result<bool, StoreError> {
        let client = self.client().await?;
        Ok(vector_schema(&client, false).await?.is_some())
    }

    /// Texts that wait for a vector of the model, also those that wait for another try.
    pub(crate) async fn embedding_backlog(&self, model: &RegisteredModel) -> Result<i64, StoreError> {
        let client = self.reader().await?;
        let row = client
            .query_typed_one(
                "SELECT count(*) FROM otel.otel_embedding_work WHERE model_id = $1",
                &[(&model.id, Type::INT2)],
            )
            .await?;
        Ok(row.get(0))
    }

    /// The texts nearest to `vector`, nearest first.
    pub(crate) async fn nearest_texts(
        &self,
        model: &RegisteredModel,
        vector: &[f32],
        limit: i64,
        scan: Scan,
    ) -> Result<Vec<Near>, StoreError> {
        self.nearest(model, vector, limit, scan, None).await
    }

    /// The same, with `texts` only among these, which needs no index.
    async fn nearest(
        &self,
        model: &RegisteredModel,
        vector: &[f32],
        limit: i64,
        scan: Scan,
        texts: Option<&[i64]>,
    ) -> Result<Vec<Near>, StoreError> {
        // The settings exist only once pgvector's library is loaded; the cast loads it.
        let mut settings = format!(
            "SELECT NULL::{} IS NULL; SET LOCAL hnsw.ef_search = {}; SET LOCAL hnsw.iterative_scan = relaxed_order",
            model.vector_type(),
            limit.clamp(LEAST_EF_SEARCH, 1000)
        );
        if model.lists > 0 {
            let probes = super::vector_index::probes(model.lists);
            let more =
                format!("; SET LOCAL ivfflat.probes = {probes}; SET LOCAL ivfflat.iterative_scan = relaxed_order");
            settings.push_str(&more);
        }
        if scan == Scan::Everything {
            settings.push_str("; SET LOCAL enable_indexscan = off");
        }
        let only = if texts.is_some() { "WHERE text_id = ANY($3)" } else { "" };
        let distance = model.distance();
        let statement = format!(
            "WITH near AS MATERIALIZED (
               SELECT text_id, embedding {distance} $1::text::{} AS distance FROM {} {only}
               ORDER BY distance LIMIT $2)
             SELECT text_id, distance FROM near ORDER BY distance, text_id",
            model.vector_type(),
            model.table()
        );
        let literal = vector_literal(vector);
        let mut values: Vec<(&(dyn ToSql + Sync), Type)> = vec![(&literal, Type::TEXT), (&limit, Type::INT8)];
        if let Some(texts) = &texts {
            values.push((texts, Type::INT8_ARRAY));
        }
        let rows = self.reader().await?.query_after(&settings, &statement, &values).await?;
        Ok(rows.iter().map(|row| Near { text_id: row.get(0), cosine: 1.0 - row.get::<_, f64>(1) }).collect())
    }

    /// How near single texts are to `vector`. Texts without a vector are left out.
    pub(crate) async fn cosines(
        &self,
        model: &RegisteredModel,
        vector: &[f32],
        texts: &[i64],
    ) -> Result<Vec<Near>, StoreError> {
        if texts.is_empty() {
            return Ok(Vec::new());
        }
        let limit = i64::try_from(texts.len()).unwrap_or(i64::MAX);
        self.nearest(model, vector, limit, Scan::Index, Some(texts)).await
    }

    /// The vectors of texts, in the order of the texts; those without a vector are left out.
    pub(crate) async fn vectors_of(
        &self,
        model: &RegisteredModel,
        texts: &[i64],
    ) -> Result<Vec<(i64, Vec<f32>)>, StoreError> {
        let client = self.reader().await?;
        let rows = client
            .query_typed(
                &format!(
                    "SELECT e.text_id, e.embedding::{}.vector::real[] FROM {} e
                     WHERE e.text_id = ANY($1) ORDER BY array_position($1, e.text_id)",
                    model.vector_schema,
                    model.table()
                ),
                &[(&texts, Type::INT8_ARRAY)],
            )
            .await?;
        Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
    }
}

/// Claims waiting texts of these ids, newest first. They stay claimed until the transaction ends.
pub(crate) async fn claim_work(
    transaction: &deadpool_postgres::Transaction<'_>,
    model: &RegisteredModel,
    ids: &RangeInclusive<i64>,
    limit: i64,
) -> Result<Vec<Work>, StoreError> {
    let rows = transaction
        .query_typed(
            "SELECT w.text_id, x.text, w.attempts
             FROM otel.otel_embedding_work w LEFT JOIN otel.otel_texts x USING (text_id)
             WHERE w.model_id = $1 AND w.not_before <= now() AND w.text_id BETWEEN $3 AND $4
             ORDER BY w.text_id DESC LIMIT $2
             FOR UPDATE OF w SKIP LOCKED",
            &[(&model.id, Type::INT2), (&limit, Type::INT8), (ids.start(), Type::INT8), (ids.end(), Type::INT8)],
        )
        .await?;
    let mut work = Vec::with_capacity(rows.len());
    let mut gone: Vec<i64> = Vec::new();
    for row in rows {
        match row.get::<_, Option<String>>(1) {
            Some(text) => work.push(Work { text_id: row.get(0), text, attempts: row.get(2) }),
            None => gone.push(row.get(0)),
        }
    }
    if !gone.is_empty() {
        finish_work(transaction, model, &gone).await?;
    }
    Ok(work)
}

/// Stores vectors and takes their texts off the work. A vector must have the model's dimension.
pub(crate) async fn store_vectors(
    transaction: &deadpool_postgres::Transaction<'_>,
    model: &RegisteredModel,
    vectors: &[(i64, Vec<f32>)],
) -> Result<(), StoreError> {
    let ids: Vec<i64> = vectors.iter().map(|(id, _)| *id).collect();
    let literals: Vec<String> = vectors.iter().map(|(_, vector)| vector_literal(vector)).collect();
    transaction
        .execute_typed(
            &format!(
                "INSERT INTO {} (text_id, embedding)
                 SELECT u.text_id, u.embedding::{} FROM unnest($1::bigint[], $2::text[]) AS u (text_id, embedding)
                 ON CONFLICT (text_id) DO NOTHING",
                model.table(),
                model.vector_type()
            ),
            &[(&ids, Type::INT8_ARRAY), (&literals, Type::TEXT_ARRAY)],
        )
        .await?;
    finish_work(transaction, model, &ids).await
}

/// Puts texts back for a later try.
pub(crate) async fn postpone_work(
    transaction: &deadpool_postgres::Transaction<'_>,
    model: &RegisteredModel,
    texts: &[i64],
    reason: &str,
) -> Result<(), StoreError> {
    transaction
        .execute_typed(
            "UPDATE otel.otel_embedding_work
             SET attempts = attempts + 1, last_error = $3,
                 not_before = now() + least($4 * 2.0 ^ least(attempts, 20), $5) * interval '1 second'
             WHERE model_id = $1 AND text_id = ANY($2)",
            &[
                (&model.id, Type::INT2),
                (&texts, Type::INT8_ARRAY),
                (&reason, Type::TEXT),
                (&FIRST_RETRY.as_secs_f64(), Type::FLOAT8),
                (&LAST_RETRY.as_secs_f64(), Type::FLOAT8),
            ],
        )
        .await?;
    Ok(())
}

async fn finish_work(
    transaction: &deadpool_postgres::Transaction<'_>,
    model: &RegisteredModel,
    texts: &[i64],
) -> Result<(), StoreError> {
    transaction
        .execute_typed(
            "DELETE FROM otel.otel_embedding_work WHERE model_id = $1 AND text_id = ANY($2)",
            &[(&model.id, Type::INT2), (&texts, Type::INT8_ARRAY)],
        )
        .await?;
    Ok(())
}

/// How a model is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    /// As the one that is asked for.
    Own,
    /// As the one that answers until that is complete.
    ForAnother,
}

/// Notes that a model is in use, at most once an hour.
pub(super) async fn use_model(client: &mut Client, model: &RegisteredModel, how: Use) -> Result<(), StoreError> {
    let used = match how {
        Use::Own => "m.last_used",
        Use::ForAnother => "coalesce(p.last_served, '-infinity')",
    };
    let row = client
        .query_typed_opt(
            &format!(
                "SELECT greatest(m.last_used, p.last_served) <= now() - interval '1 day'
                 FROM otel.otel_embedding_models m LEFT JOIN otel.otel_embedding_progress p USING (model_id)
                 WHERE m.model_id = $1 AND {used} <= now() - interval '1 hour'"
            ),
            &[(&model.id, Type::INT2)],
        )
        .await?;
    let Some(row) = row else { return Ok(()) };
    let transaction = client.transaction().await?;
    if row.get(0) {
        // As when it was registered: whoever stores texts sees the model in use, or is seen here.
        transaction.batch_execute("LOCK TABLE otel.otel_texts IN SHARE ROW EXCLUSIVE MODE").await?;
        let lacking = transaction
            .execute_typed(
                &format!(
                    "INSERT INTO otel.otel_embedding_work (text_id, model_id)
                     SELECT text_id, $1 FROM otel.otel_texts x
                     WHERE NOT EXISTS (SELECT FROM {} e WHERE e.text_id = x.text_id)
                     ON CONFLICT DO NOTHING",
                    model.table()
                ),
                &[(&model.id, Type::INT2)],
            )
            .await?;
        if lacking > 0 && how == Use::Own {
            // Another that is complete answers until this one is again.
            transaction
                .execute_typed(
                    "UPDATE otel.otel_embedding_progress
                     SET complete_at = NULL, renews_to = (SELECT coalesce(max(text_id), 0) FROM otel.otel_texts)
                     WHERE model_id = $1
                       AND EXISTS (SELECT FROM otel.otel_embedding_models o JOIN otel.otel_embedding_progress p USING (model_id)
                                   WHERE o.model_id <> $1 AND p.complete_at IS NOT NULL
                                     AND greatest(o.last_used, p.last_served) > now() - interval '1 day')",
                    &[(&model.id, Type::INT2)],
                )
                .await?;
        }
    }
    let note = match how {
        Use::Own => "UPDATE otel.otel_embedding_models SET last_used = now() WHERE model_id = $1",
        Use::ForAnother => "UPDATE otel.otel_embedding_progress SET last_served = now() WHERE model_id = $1",
    };
    transaction.execute_typed(note, &[(&model.id, Type::INT2)]).await?;
    transaction.commit().await?;
    Ok(())
}

async fn find(
    client: &Client,
    model: &EmbeddingModel,
    vector_schema: &str,
) -> Result<Option<RegisteredModel>, StoreError> {
    let row = client
        .query_typed_opt(
            "SELECT model_id, dimension FROM otel.otel_embedding_models WHERE name = $1 AND precision = $2",
            &[(&model.name, Type::TEXT), (&model.precision, Type::TEXT)],
        )
        .await?;
    let Some(row) = row else { return Ok(None) };
    let dimension: i16 = row.get(1);
    if usize::try_from(dimension) != Ok(model.dimension) {
        return Err(StoreError::misconfigured(format!(
            "the database has vectors of {} ({}) with {dimension} dimensions, this model gives {}",
            model.name, model.precision, model.dimension
        )));
    }
    let registered = RegisteredModel {
        id: row.get(0),
        dimension: model.dimension,
        lists: 0,
        vector_schema: vector_schema.to_owned(),
    };
    // Dropping the extension with CASCADE takes the column with it, not the table.
    let row = client
        .query_typed_one(
            "SELECT EXISTS (SELECT FROM pg_attribute WHERE attrelid = to_regclass($1) AND attname = 'embedding'
                                                     AND NOT attisdropped),
                    (SELECT coalesce(max(substring(c.relname FROM '_ivfflat_([0-9]+)$')::bigint), 0)
                     FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
                     WHERE i.indrelid = to_regclass($1) AND i.indisvalid)",
            &[(&registered.table(), Type::TEXT)],
        )
        .await?;
    if row.get(0) {
        return Ok(Some(RegisteredModel { lists: row.get(1), ..registered }));
    }
    Err(StoreError::misconfigured(format!(
        "table {} of model {} is gone; delete the model's row from otel.otel_embedding_models to embed everything again",
        registered.table(),
        model.name
    )))
}

/// The quoted schema of pgvector. With `install`, it is created when the server has it and lets us.
async fn vector_schema(client: &Client, install: bool) -> Result<Option<String>, StoreError> {
    const FIND: &str = "SELECT quote_ident(otel.otel_vector_schema())";
    let schema: Option<String> = client.query_typed_one(FIND, &[]).await?.get(0);
    if schema.is_some() || !install {
        return Ok(schema);
    }
    let installable = format!("SELECT {PGVECTOR_INSTALLABLE}");
    if !client.query_typed_one(&installable, &[]).await?.get::<_, bool>(0) {
        return Ok(None);
    }
    for schema in ["public", "otel"] {
        match client.batch_execute(&format!("CREATE EXTENSION IF NOT EXISTS vector SCHEMA {schema}")).await {
            Ok(()) => break,
            Err(error) => {
                let error = StoreError::from(error);
                // Another instance may have made it at the same instant; a missing right is told once per try.
                if !error.is_duplicate_key() {
                    tracing::warn!(%error, schema, "pgvector is available but could not be installed");
                }
            }
        }
    }
    Ok(client.query_typed_one(FIND, &[]).await?.get(0))
}

/// A vector as pgvector reads it.
pub(super) fn vector_literal(vector: &[f32]) -> String {
    use std::fmt::Write as _;
    let mut literal = String::with_capacity(vector.len() * 12 + 2);
    literal.push('[');
    for (place, component) in vector.iter().enumerate() {
        if place > 0 {
            literal.push(',');
        }
        write!(literal, "{component}").unwrap_or_default(); // Writing to a string cannot fail.
    }
    literal.push(']');
    literal
}
