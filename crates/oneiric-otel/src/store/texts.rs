//! Distinct texts, and the work that each new one makes for the models.

use std::collections::HashMap;

use tokio_postgres::types::Type;
use uuid::Uuid;

use super::error::StoreError;
use super::traces::Transaction;
use crate::query::words::words_and_names;

/// Ids of texts by their hash.
#[derive(Debug, Default)]
pub(crate) struct StoredTexts {
    pub(crate) ids: HashMap<Uuid, i64>,
    /// How many of them were not known before.
    pub(crate) new: u64,
}

/// Stores the texts that are not there yet and gives each new one as work to every model that is in use: one that no
/// worker has used for a day gets what it lacks when a worker uses it again.
///
/// The order of the hashes is the order of the locks, so that two transactions that store the same texts wait for each
/// other and do not deadlock; a transaction calls this once.
pub(crate) async fn store_texts(
    transaction: &Transaction<'_>,
    version: i16,
    texts: &HashMap<Uuid, String>,
) -> Result<StoredTexts, StoreError> {
    let hashes: Vec<Uuid> = texts.keys().copied().collect();
    let mut stored = StoredTexts { ids: find(transaction, &hashes).await?, new: 0 };
    let mut missing: Vec<Uuid> = hashes.into_iter().filter(|hash| !stored.ids.contains_key(hash)).collect();
    if missing.is_empty() {
        return Ok(stored);
    }
    missing.sort_unstable();
    let bodies: Vec<&str> = missing.iter().map(|hash| texts[hash].as_str()).collect();
    let words: Vec<String> = bodies.iter().map(|body| words_and_names(body)).collect();
    let rows = transaction
        .query_typed(
            "INSERT INTO otel.otel_texts (text_hash, text_version, text, words)
             SELECT u.text_hash, $3, u.text, otel.otel_text_words(u.words)
             FROM unnest($1::uuid[], $2::text[], $4::text[]) WITH ORDINALITY AS u (text_hash, text, words, place)
             ORDER BY u.place
             ON CONFLICT (text_hash) DO NOTHING
             RETURNING text_id, text_hash",
            &[
                (&missing, Type::UUID_ARRAY),
                (&bodies, Type::TEXT_ARRAY),
                (&version, Type::INT2),
                (&words, Type::TEXT_ARRAY),
            ],
        )
        .await?;
    let new: Vec<i64> = rows.iter().map(|row| row.get(0)).collect();
    stored.new = new.len() as u64;
    for row in rows {
        stored.ids.insert(row.get(1), row.get(0));
    }
    // Those that another transaction stored meanwhile are visible now: the insert waited for its commit.
    missing.retain(|hash| !stored.ids.contains_key(hash));
    if !missing.is_empty() {
        stored.ids.extend(find(transaction, &missing).await?);
    }
    transaction
        .execute_typed(
            "INSERT INTO otel.otel_embedding_work (text_id, model_id)
             SELECT t.text_id, m.model_id FROM unnest($1::bigint[]) AS t (text_id) CROSS JOIN otel.otel_embedding_models m
             WHERE m.last_used > now() - interval '1 day'
             ON CONFLICT DO NOTHING",
            &[(&new, Type::INT8_ARRAY)],
        )
        .await?;
    Ok(stored)
}

async fn find(transaction: &Transaction<'_>, hashes: &[Uuid]) -> Result<HashMap<Uuid, i64>, StoreError> {
    let rows = transaction
        .query_typed(
            "SELECT text_hash, text_id FROM otel.otel_texts WHERE text_hash = ANY($1) FOR KEY SHARE",
            &[(&hashes, Type::UUID_ARRAY)],
        )
        .await?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}
