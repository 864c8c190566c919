//! Vectors of log templates: a table for all models, read whole for each question. There are few templates, and no more
//! than some thousands a day get a vector, so that a flood of distinct lines does not hold up the texts of traces.

use deadpool_postgres::Transaction;
use tokio_postgres::types::Type;

use super::batch::LogTemplate;
use super::database::Database;
use super::embeddings::{RegisteredModel, vector_literal};
use super::error::StoreError;

/// Vectors of one model in a day at most.
const VECTORS_A_DAY: i64 = 5000;

/// A template and how near it is.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct NearTemplate {
    pub(crate) template_id: i64,
    pub(crate) cosine: f64,
    pub(crate) template: LogTemplate,
}

/// Which templates are meant. `None` lets all through.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct TemplateFilter<'a> {
    pub(crate) service: Option<&'a str>,
    /// The lowest severity.
    pub(crate) severity: Option<i16>,
    pub(crate) among: Option<&'a [i64]>,
}

/// Templates that wait for a vector of the model, the gravest first and of these the newest; none when there were enough
/// today. With `former` those that this model has a vector of, however many. They stay claimed until the transaction ends.
pub(crate) async fn claim_templates(
    transaction: &Transaction<'_>,
    model: &RegisteredModel,
    former: Option<&RegisteredModel>,
    limit: i64,
) -> Result<Vec<(i64, LogTemplate)>, StoreError> {
    let rows = transaction
        .query_typed(
            "SELECT t.template_id, t.service_name, t.severity, t.template FROM otel.otel_log_templates t
             WHERE NOT EXISTS (SELECT FROM otel.otel_log_template_vectors v
                               WHERE v.model_id = $1 AND v.template_id = t.template_id
                                 AND (v.embedding IS NOT NULL OR v.tried_at > now() - interval '1 hour'))
               AND CASE WHEN $4::smallint IS NULL
                        THEN (SELECT count(*) FROM otel.otel_log_template_vectors
                              WHERE model_id = $1 AND tried_at > now() - interval '1 day') < $2
                        ELSE EXISTS (SELECT FROM otel.otel_log_template_vectors f
                                     WHERE f.model_id = $4 AND f.template_id = t.template_id AND f.embedding IS NOT NULL)
                   END
             ORDER BY t.severity DESC, t.first_seen DESC, t.template_id LIMIT $3
             FOR UPDATE OF t SKIP LOCKED",
            &[
                (&model.id, Type::INT2),
                (&VECTORS_A_DAY, Type::INT8),
                (&limit, Type::INT8),
                (&former.map(|former| former.id), Type::INT2),
            ],
        )
        .await?;
    let template =
        |row: &tokio_postgres::Row| LogTemplate { service_name: row.get(1), severity: row.get(2), text: row.get(3) };
    Ok(rows.iter().map(|row| (row.get(0), template(row))).collect())
}

/// Stores vectors of templates; none is tried again in an hour.
pub(crate) async fn store_template_vectors(
    transaction: &Transaction<'_>,
    model: &RegisteredModel,
    vectors: &[(i64, Option<Vec<f32>>)],
) -> Result<(), StoreError> {
    for (id, vector) in vectors {
        transaction
            .execute_typed(
                "INSERT INTO otel.otel_log_template_vectors (model_id, template_id, embedding) VALUES ($1, $2, $3)
                 ON CONFLICT (model_id, template_id) DO UPDATE SET tried_at = now(), embedding = excluded.embedding",
                &[(&model.id, Type::INT2), (id, Type::INT8), (vector, Type::FLOAT4_ARRAY)],
            )
            .await?;
    }
    Ok(())
}

impl Database {
    /// The templates nearest to `vector`, nearest first.
    pub(crate) async fn nearest_templates(
        &self,
        model: &RegisteredModel,
        vector: &[f32],
        filter: TemplateFilter<'_>,
        limit: i64,
    ) -> Result<Vec<NearTemplate>, StoreError> {
        let vector_type = format!("{}.vector", model.vector_schema());
        let sql = format!(
            "SELECT n.template_id, 1 - n.distance, t.service_name, t.severity, t.template
             FROM (SELECT v.template_id, v.embedding::{vector_type} {} $1::text::{vector_type} AS distance
                   FROM otel.otel_log_template_vectors v WHERE v.model_id = $2 AND v.embedding IS NOT NULL) n
             JOIN otel.otel_log_templates t USING (template_id)
             WHERE ($3::text IS NULL OR t.service_name = $3) AND ($4::smallint IS NULL OR t.severity >= $4)
               AND ($6::bigint[] IS NULL OR t.template_id = ANY($6))
             ORDER BY n.distance, n.template_id LIMIT $5",
            model.distance()
        );
        let literal = vector_literal(vector);
        let rows = self
            .reader()
            .await?
            .query_typed(
                &sql,
                &[
                    (&literal, Type::TEXT),
                    (&model.id, Type::INT2),
                    (&filter.service, Type::TEXT),
                    (&filter.severity, Type::INT2),
                    (&limit, Type::INT8),
                    (&filter.among, Type::INT8_ARRAY),
                ],
            )
            .await?;
        Ok(rows
            .iter()
            .map(|row| NearTemplate {
                template_id: row.get(0),
                cosine: row.get(1),
                template: LogTemplate { service_name: row.get(2), severity: row.get(3), text: row.get(4) },
            })
            .collect())
    }
}
