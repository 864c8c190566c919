//! Distinct texts, and the work that each new one makes for the models.

use std::collections::HashMap;

use tokio_postgres::IsolationLevel;
use tokio_postgres::types::Type;
use uuid::Uuid;

use super::database::Database;
use super::error::StoreError;
use super::retention::note_collected;
use super::traces::Transaction;
use crate::query::words::words_and_names;

/// Texts of one pass of [`Database::collect_texts`].
const COLLECTED_AT_ONCE: i64 = 2000;

/// What a pass of [`Database::collect_texts`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Collected {
    /// Texts that are gone now.
    pub(crate) texts: u64,
    /// Where the next pass goes on; 0 is the beginning.
    pub(crate) next: i64,
}

/// Ids of texts by their hash.
#[derive(Debug, Default)]
pub(crate) struct StoredTexts {
    pub(crate) ids: HashMap<Uuid, i64>,
    /// How many of them were not known before.
    pub(crate) new: u64,
}

/// Stores the texts that are not there yet and gives each new one as work to every model that is in use, or answers for
/// one that is not complete: one that no worker has used for a day gets what it lacks when a worker uses it again.
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
        if missing.iter().any(|hash| !stored.ids.contains_key(hash)) {
            return Err(StoreError::transient("a text was deleted while it was stored again"));
        }
    }
    transaction
        .execute_typed(
            "INSERT INTO otel.otel_embedding_work (text_id, model_id)
             SELECT t.text_id, m.model_id FROM unnest($1::bigint[]) AS t (text_id)
             CROSS JOIN otel.otel_embedding_models m LEFT JOIN otel.otel_embedding_progress p USING (model_id)
             WHERE greatest(m.last_used, p.last_served) > now() - interval '1 day'
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

impl Database {
    /// Deletes texts that describe no trace any more, with their vectors: among the next so many after the text `after`, those of an
    /// earlier version than `version`, and of any version an hour after they were written. They would take the places
    /// of others among the candidates of a search. A role that does not own the schema leaves them to its owner.
    pub(crate) async fn collect_texts(&self, version: i16, after: i64) -> Result<Collected, StoreError> {
        if !self.owns_schema().await? {
            return Ok(Collected { texts: 0, next: 0 });
        }
        let mut client = self.client().await?;
        let transaction = client.build_transaction().isolation_level(IsolationLevel::ReadCommitted).start().await?;
        let looked_at = transaction
            .query_typed(
                "WITH x AS MATERIALIZED (SELECT text_id, text_version, created_at FROM otel.otel_texts
                                         WHERE text_id > $1 ORDER BY text_id LIMIT $3)
                 SELECT max(x.text_id), count(*),
                        array_agg(x.text_id) FILTER (
                          WHERE (x.text_version < $2 OR x.created_at < now() - interval '1 hour')
                            AND NOT EXISTS (SELECT FROM otel.otel_trace_texts l WHERE l.text_id = x.text_id))
                 FROM x",
                &[(&after, Type::INT8), (&version, Type::INT2), (&COLLECTED_AT_ONCE, Type::INT8)],
            )
            .await?;
        let row = looked_at.first().ok_or_else(|| StoreError::transient("an aggregate gave no row"))?;
        let is_whole = row.get::<_, i64>(1) == COLLECTED_AT_ONCE;
        let next = if is_whole { row.get::<_, Option<i64>>(0).unwrap_or_default() } else { 0 };
        let Some(idle) = row.get::<_, Option<Vec<i64>>>(2) else { return Ok(Collected { texts: 0, next }) };
        // Whoever links a text has a lock on it. Once we have it, the next statement sees all links.
        let locked = transaction
            .query_typed(
                "SELECT text_id FROM otel.otel_texts WHERE text_id = ANY($1) FOR UPDATE SKIP LOCKED",
                &[(&idle, Type::INT8_ARRAY)],
            )
            .await?;
        let locked: Vec<i64> = locked.iter().map(|row| row.get(0)).collect();
        let gone = transaction
            .query_typed(
                "DELETE FROM otel.otel_texts x WHERE x.text_id = ANY($1)
                 AND NOT EXISTS (SELECT FROM otel.otel_trace_texts l WHERE l.text_id = x.text_id)
                 RETURNING x.text_id",
                &[(&locked, Type::INT8_ARRAY)],
            )
            .await?;
        let gone: Vec<i64> = gone.iter().map(|row| row.get(0)).collect();
        delete_vectors(&transaction, &gone).await?;
        note_collected(&transaction, "otel_texts", gone.len() as u64).await?;
        transaction.commit().await?;
        Ok(Collected { texts: gone.len() as u64, next })
    }
}

/// Deletes the work first: a worker that is at it holds it, and has stored its vector when we get it.
async fn delete_vectors(transaction: &Transaction<'_>, texts: &[i64]) -> Result<(), StoreError> {
    let delete = "DELETE FROM otel.otel_embedding_work WHERE text_id = ANY($1)";
    transaction.execute_typed(delete, &[(&texts, Type::INT8_ARRAY)]).await?;
    let tables = transaction
        .query_typed(
            "SELECT to_regclass(format('otel.otel_embeddings_%s', model_id))::text FROM otel.otel_embedding_models",
            &[],
        )
        .await?;
    for table in tables.iter().filter_map(|row| row.get::<_, Option<String>>(0)) {
        let delete = format!("DELETE FROM {table} WHERE text_id = ANY($1)");
        transaction.execute_typed(&delete, &[(&texts, Type::INT8_ARRAY)]).await?;
    }
    Ok(())
}
