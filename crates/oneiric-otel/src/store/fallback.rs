//! Hashes of ids in place of vectors, where somebody asks for them and there is no embedding model.
//!
//! Promise: they stand in one column of the view `traces` and nowhere else, and only while the fallback is on and a trace has
//! no vector. See migration 20.

use tokio_postgres::types::Type;

use super::database::Database;
use super::error::StoreError;
use super::leases::HAS_MODEL;

/// Characters of a reason that are kept.
const REASON_CHARACTERS: usize = 500;

/// That hashes stand in place of vectors.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Fallback {
    /// Since when, in UTC.
    pub since: String,
    /// Why there is no embedding model.
    pub reason: String,
}

impl Fallback {
    /// What is wrong with it, for a person.
    pub fn problem(&self) -> String {
        format!(
            "embedding_fallback = hash: since {} traces without a vector show a hash of their id in its place (column \
             embedding_fallback of the view traces); these are not embeddings, they say nothing about a trace, and nothing is \
             searched or compared by them. There is no embedding model: {}",
            self.since, self.reason
        )
    }
}

impl Database {
    /// Shows hashes in place of vectors from now on, because there is no embedding model for this reason. Returns whether it does:
    /// not while another process has a model. The schema must be migrated.
    pub async fn fall_back_to_hashes(&self, reason: &str) -> Result<bool, StoreError> {
        let reason: String = reason.chars().filter(|c| *c != '\0').take(REASON_CHARACTERS).collect();
        let sql = format!(
            "INSERT INTO otel.otel_embedding_fallback (kind, reason) SELECT 'hash', $1 WHERE NOT {HAS_MODEL}
             ON CONFLICT (kind) DO UPDATE SET reason = excluded.reason RETURNING 1"
        );
        Ok(!self.query(&sql, &[(&reason, Type::TEXT)]).await?.is_empty())
    }

    /// Shows them no more. Returns whether it did.
    pub(crate) async fn end_fallback(&self) -> Result<bool, StoreError> {
        Ok(!self.query("DELETE FROM otel.otel_embedding_fallback RETURNING 1", &[]).await?.is_empty())
    }

    /// Whether hashes stand in place of vectors.
    pub(crate) async fn fallback(&self) -> Result<Option<Fallback>, StoreError> {
        let sql = "SELECT to_char(since AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"'), reason
                   FROM otel.otel_embedding_fallback";
        match self.query(sql, &[]).await {
            Ok(rows) => Ok(rows.first().map(|row| Fallback { since: row.get(0), reason: row.get(1) })),
            // Before migration 20.
            Err(error) if error.is_undefined_table() => Ok(None),
            Err(error) => Err(error),
        }
    }
}
