//! Traces whose texts an earlier version of the rules has written.

use tokio_postgres::types::Type;
use uuid::Uuid;

use super::copy::Micros;
use super::database::Database;
use super::embeddings::CURRENT_MODELS;
use super::error::StoreError;
use super::traces::Seen;
use super::write::slot;

/// A trace with a text of an earlier version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Outdated {
    pub(crate) trace_id: Uuid,
    pub(crate) seen: Seen,
    pub(crate) has_root: bool,
    /// Spans and logs that its row was derived from.
    pub(crate) records: i64,
}

impl Database {
    /// Whether texts wait for their first try of a model that is in use.
    pub(crate) async fn texts_wait(&self) -> Result<bool, StoreError> {
        let sql = format!(
            "SELECT EXISTS (SELECT FROM otel.otel_embedding_work WHERE attempts = 0 AND model_id IN {CURRENT_MODELS})"
        );
        Ok(self.query_one(&sql, &[]).await?.get(0))
    }

    /// Traces with texts of an earlier version than `version`, at most `limit` and those with the newest texts first. Left out are
    /// those that are due anyway, and those whose spans are gone: their texts stay as they are.
    pub(crate) async fn outdated_traces(&self, version: i16, limit: i64) -> Result<Vec<Outdated>, StoreError> {
        let sql = "SELECT t.trace_id, t.seen_from, t.seen_to, t.root_seen, t.span_count::bigint + t.log_count
                   FROM (SELECT text_id FROM otel.otel_texts WHERE text_version < $1 ORDER BY text_id DESC) x
                   JOIN otel.otel_trace_texts l USING (text_id)
                   JOIN otel.otel_traces t ON t.trace_id = l.trace_id AND t.bucket = l.bucket
                   WHERE NOT EXISTS (SELECT FROM otel.otel_trace_touches o WHERE o.trace_id = t.trace_id)
                     AND NOT EXISTS (SELECT FROM otel.otel_trace_orphans o WHERE o.trace_id = t.trace_id)
                   LIMIT $2";
        let rows = self.query(sql, &[(&version, Type::INT2), (&limit, Type::INT8)]).await?;
        let mut traces: Vec<Outdated> = Vec::with_capacity(rows.len());
        for row in rows {
            let trace_id = row.get(0);
            // A run has many texts.
            if !traces.iter().rev().any(|known| known.trace_id == trace_id) {
                let seen = Seen { from: row.get(1), to: row.get(2) };
                traces.push(Outdated { trace_id, seen, has_root: row.get(3), records: row.get(4) });
            }
        }
        Ok(traces)
    }

    /// Makes traces due, but for those that are. Returns how many.
    pub(crate) async fn touch_again(&self, traces: &[Outdated]) -> Result<u64, StoreError> {
        let ids: Vec<Uuid> = traces.iter().map(|trace| trace.trace_id).collect();
        let from: Vec<Micros> = traces.iter().map(|trace| trace.seen.from).collect();
        let to: Vec<Micros> = traces.iter().map(|trace| trace.seen.to).collect();
        let has_root: Vec<bool> = traces.iter().map(|trace| trace.has_root).collect();
        let slots: Vec<i16> = ids.iter().map(|id| slot(id.into_bytes())).collect();
        let touch = "INSERT INTO otel.otel_trace_touches (first_time, last_time, trace_id, records, slot, has_root)
                     SELECT u.first_time, u.last_time, u.trace_id, 1, u.slot, u.has_root
                     FROM unnest($1::timestamptz[], $2::timestamptz[], $3::uuid[], $4::smallint[], $5::boolean[])
                       AS u (first_time, last_time, trace_id, slot, has_root)
                     WHERE NOT EXISTS (SELECT FROM otel.otel_trace_touches o WHERE o.trace_id = u.trace_id)";
        let client = self.client().await?;
        Ok(client
            .execute_typed(
                touch,
                &[
                    (&from, Type::TIMESTAMPTZ_ARRAY),
                    (&to, Type::TIMESTAMPTZ_ARRAY),
                    (&ids, Type::UUID_ARRAY),
                    (&slots, Type::INT2_ARRAY),
                    (&has_root, Type::BOOL_ARRAY),
                ],
            )
            .await?)
    }
}
