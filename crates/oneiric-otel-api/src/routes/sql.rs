//! SQL of anybody over the views, as a role that can read them and nothing else.

use std::time::Duration;

use oneiric_otel::query::{QueryService, SQL_BYTES, SQL_ROWS, SQL_TIME, SqlAnswer, SqlRequest};
use serde::Deserialize;
use serde_json::Value;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::Asked;
use crate::answer::Answer;
use crate::asking::Asking;
use crate::body::JsonBody;
use crate::openapi::ProblemsOfBody;
use crate::parameters::{Nothing, Query};
use crate::problem::Problem;

pub(super) fn routes() -> OpenApiRouter<Asked> {
    OpenApiRouter::new().routes(routes!(sql)).routes(routes!(sql_too))
}

/// A statement and what it may cost.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"sql": "SELECT service_name, count(*) FROM traces WHERE status = $1 GROUP BY 1", "params": ["error"]}))]
pub(crate) struct Statement {
    /// One statement that returns rows, with `$1`, `$2` and so on for values.
    #[schema(min_length = 1, max_length = 1_048_576)]
    sql: String,
    /// The values.
    #[serde(default)]
    #[schema(value_type = Vec<Value>)]
    params: Vec<Value>,
    /// Rows at most.
    #[serde(default = "usual_rows")]
    #[schema(minimum = 1, maximum = 100_000, default = 10_000)]
    max_rows: usize,
    /// Bytes at most, as the database sends them.
    #[serde(default = "usual_bytes")]
    #[schema(minimum = 1024, maximum = 67_108_864, default = 16_777_216)]
    max_bytes: usize,
    /// How many milliseconds it may take.
    #[serde(default = "usual_time")]
    #[schema(minimum = 1, maximum = 30_000, default = 30_000)]
    timeout_ms: u64,
}

fn usual_rows() -> usize {
    SQL_ROWS
}

fn usual_bytes() -> usize {
    SQL_BYTES
}

fn usual_time() -> u64 {
    u64::try_from(SQL_TIME.as_millis()).unwrap_or(u64::MAX)
}

/// Runs one statement over the views and returns its rows.
#[utoipa::path(post, path = "/api/v1/sql", tag = "sql", request_body = Statement,
    responses((status = 200, description = "The rows", body = SqlAnswer), ProblemsOfBody))]
async fn sql(
    Asking(service): Asking,
    Query(Nothing {}): Query<Nothing>,
    JsonBody(statement): JsonBody<Statement>,
) -> Result<Answer<SqlAnswer>, Problem> {
    run(&service, statement).await
}

/// The same as `/api/v1/sql`.
#[utoipa::path(post, path = "/api/sql", tag = "sql", request_body = Statement,
    responses((status = 200, description = "The rows", body = SqlAnswer), ProblemsOfBody))]
async fn sql_too(
    Asking(service): Asking,
    Query(Nothing {}): Query<Nothing>,
    JsonBody(statement): JsonBody<Statement>,
) -> Result<Answer<SqlAnswer>, Problem> {
    run(&service, statement).await
}

async fn run(service: &QueryService, statement: Statement) -> Result<Answer<SqlAnswer>, Problem> {
    let Statement { sql, params, max_rows, max_bytes, timeout_ms } = statement;
    let request = SqlRequest { sql, params, max_rows, max_bytes, timeout: Duration::from_millis(timeout_ms) };
    Ok(Answer::now(service.custom_query(&request).await?))
}
