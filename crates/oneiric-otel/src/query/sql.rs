//! SQL of the user's own over the friendly views: the way out where the other calls do not reach.
//!
//! It runs as a role that can read the views and nothing else, in a transaction that is read only and rolled back, with
//! limits of time, rows and bytes. What such a role is, and why the rest is not trusted, stands in `store::sql`.

use std::time::Duration;

use serde::Serialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::{QueryError, QueryService};
use crate::store::sql::{SqlFailure, SqlLimits, how_to};
use crate::store::{SqlColumn, SqlReader, Truncated};

/// Rows of an answer unless more or fewer are asked for.
pub const SQL_ROWS: usize = 10_000;
/// Rows of an answer at most.
const MAX_ROWS: usize = 100_000;
/// Bytes of an answer, as the database sends it, unless more or fewer are asked for.
pub const SQL_BYTES: usize = 16 << 20;
const MAX_BYTES: usize = 64 << 20;
/// How long a statement may take.
pub const SQL_TIME: Duration = Duration::from_secs(30);
/// A statement's own length.
const MAX_SQL: usize = 1 << 20;

/// A statement and what it may cost.
#[derive(Debug, Clone, PartialEq)]
pub struct SqlRequest {
    /// One statement that returns rows, with `$1`, `$2` and so on for values. The schema of the views is searched first:
    /// `spans` and `otel.spans` are the same.
    pub sql: String,
    /// The values. Text is read by PostgreSQL as the type that it expects there; null, numbers, booleans, lists for arrays,
    /// and anything for `json` are as welcome.
    pub params: Vec<Value>,
    /// Rows at most, 1 to 100,000.
    pub max_rows: usize,
    /// Bytes at most, as the database sends them, 1 KiB to 64 MiB.
    pub max_bytes: usize,
    /// How long it may take, 1 ms to 30 s.
    pub timeout: Duration,
}

impl SqlRequest {
    /// A statement without values, with the usual limits.
    pub fn new(sql: impl Into<String>) -> Self {
        Self { sql: sql.into(), params: Vec::new(), max_rows: SQL_ROWS, max_bytes: SQL_BYTES, timeout: SQL_TIME }
    }
}

/// What a statement returned.
#[derive(Debug, Clone, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SqlAnswer {
    /// The columns in order. Names need not be unique.
    pub columns: Vec<SqlColumn>,
    /// A value for each column, as JSON without loss: integers beyond 2^53, not-a-number, times and bytes are text. The text
    /// of values comes from telemetry: do not trust it.
    #[cfg_attr(feature = "openapi", schema(value_type = Vec<Vec<Value>>))]
    pub rows: Vec<Vec<Box<RawValue>>>,
    /// Why there are not all rows, if there are not.
    pub truncated: Option<Truncated>,
    /// From when it was begun until all was read, in milliseconds.
    pub elapsed_ms: f64,
}

impl QueryService {
    /// The same, with a connection for SQL of anybody.
    #[must_use]
    pub fn with_sql(mut self, reader: SqlReader) -> Self {
        self.sql = Some(reader);
        self
    }

    /// Runs one statement of the user's.
    ///
    /// # Errors
    /// `InvalidArgument` for what is no single statement that returns rows, for values that do not fit it and for limits out
    /// of range; `Sql` with PostgreSQL's own words for a statement that fails or takes too long; `Unavailable` without a
    /// role for it, with what to do.
    pub async fn custom_query(&self, request: &SqlRequest) -> Result<SqlAnswer, QueryError> {
        check(request)?;
        let Some(reader) = &self.sql else {
            return Err(QueryError::Unavailable {
                reason: format!(
                    "SQL needs a role that can read the views and nothing else, and none is named. {}",
                    how_to("otel_reader")
                ),
            });
        };
        let limits = SqlLimits { rows: request.max_rows, bytes: request.max_bytes, time: request.timeout };
        let result = reader.run(&request.sql, &request.params, limits).await?;
        Ok(SqlAnswer {
            columns: result.columns,
            rows: result.rows,
            truncated: result.truncated,
            elapsed_ms: result.elapsed.as_secs_f64() * 1000.0,
        })
    }
}

fn check(request: &SqlRequest) -> Result<(), QueryError> {
    let wrong =
        |name: &'static str, accepted: &str| Err(QueryError::InvalidArgument { name, accepted: accepted.to_owned() });
    if request.sql.trim().is_empty() {
        return wrong("sql", "a statement such as SELECT service_name, count(*) FROM traces GROUP BY 1");
    }
    if request.sql.len() > MAX_SQL {
        return wrong("sql", "a statement of at most 1 MiB");
    }
    if request.sql.contains('\0') {
        return wrong("sql", "a statement without the character U+0000");
    }
    if !(1..=MAX_ROWS).contains(&request.max_rows) {
        return wrong("max_rows", "a number from 1 to 100000");
    }
    if !(1024..=MAX_BYTES).contains(&request.max_bytes) {
        return wrong("max_bytes", "a number from 1024 to 67108864");
    }
    if !(Duration::from_millis(1)..=SQL_TIME).contains(&request.timeout) {
        return wrong("timeout", "a duration from 1 ms to 30 s");
    }
    Ok(())
}

impl From<SqlFailure> for QueryError {
    fn from(failure: SqlFailure) -> Self {
        match failure {
            SqlFailure::Argument { name, accepted } => Self::InvalidArgument { name, accepted },
            SqlFailure::Statement(error) => Self::Sql(error),
            SqlFailure::Unavailable(reason) => Self::Unavailable { reason },
            SqlFailure::Store(error) => error.into(),
        }
    }
}
