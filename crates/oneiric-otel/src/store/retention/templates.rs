//! Collecting log templates that no record has any more, with their vectors.
//!
//! Whoever stores a record with a template notes once in half a day that it was seen, so records may have it until noon of the
//! day after. A template that is missing is made
//! again of one of its records when it is read, so nothing is lost where that was not noted.

use std::time::Instant;

use tokio_postgres::IsolationLevel;
use tokio_postgres::types::Type;

use super::collect::note_collected;
use crate::store::roles::quoted;
use crate::store::{Database, StoreError};

/// Templates of one look.
const AT_ONCE: i64 = 2000;

impl Database {
    /// Deletes templates that were last seen on a day whose logs are gone, and that no partition has that can have them. Returns how
    /// many.
    pub(super) async fn collect_templates(&self, until: Instant) -> Result<u64, StoreError> {
        let page = "WITH t AS MATERIALIZED (SELECT template_id, last_seen FROM otel.otel_log_templates
                                            WHERE template_id > $1 ORDER BY template_id LIMIT $2)
                    SELECT max(t.template_id), count(*),
                           coalesce(array_agg(t.template_id) FILTER (WHERE t.last_seen < (now() - k.retention - interval '13 hours')::date), '{}')
                    FROM t, otel.otel_partitioned_tables k WHERE k.parent = 'otel_logs' AND k.expires";
        // Of a clock that went back.
        let to_come = "UPDATE otel.otel_log_templates SET last_seen = current_date WHERE last_seen > current_date + 1";
        self.query(to_come, &[]).await?;
        let (mut collected, mut after) = (0, i64::MIN);
        while Instant::now() < until {
            let row = self.query_one(page, &[(&after, Type::INT8), (&AT_ONCE, Type::INT8)]).await?;
            let old: Vec<i64> = row.get(2);
            if !old.is_empty() {
                collected += self.delete_templates(old, until).await?;
            }
            if row.get::<_, i64>(1) < AT_ONCE {
                break;
            }
            after = row.get(0);
        }
        Ok(collected)
    }

    async fn delete_templates(&self, mut old: Vec<i64>, until: Instant) -> Result<u64, StoreError> {
        // Of the others it is known that all their records came later.
        let older = "SELECT p.partition FROM otel.otel_partitions('otel_logs') p
                     LEFT JOIN otel.otel_partition_writes w ON w.partition = p.partition
                     WHERE coalesce(w.last_write, 'infinity') <> '-infinity'
                       AND coalesce(w.first_write, '-infinity')
                           <= (SELECT max(last_seen) + interval '37 hours' FROM otel.otel_log_templates WHERE template_id = ANY($1))";
        for row in self.query(older, &[(&old, Type::INT8_ARRAY)]).await? {
            if Instant::now() >= until {
                return Ok(0);
            }
            let partition = quoted(row.get(0));
            let sql = format!(
                "SELECT coalesce(array_agg(u.id), '{{}}') FROM unnest($1::bigint[]) u (id)
                 WHERE NOT EXISTS (SELECT FROM otel.{partition} l WHERE l.template_id = u.id)"
            );
            old = self.query_one(&sql, &[(&old, Type::INT8_ARRAY)]).await?.get(0);
        }
        let mut client = self.client().await?;
        let transaction = client.build_transaction().isolation_level(IsolationLevel::ReadCommitted).start().await?;
        // Who embeds a template has a lock on it.
        let lock = "SELECT t.template_id FROM otel.otel_log_templates t, otel.otel_partitioned_tables k
                    WHERE t.template_id = ANY($1) AND k.parent = 'otel_logs' AND k.expires
                      AND t.last_seen < (now() - k.retention - interval '13 hours')::date
                    FOR UPDATE OF t SKIP LOCKED";
        let rows = transaction.query_typed(lock, &[(&old, Type::INT8_ARRAY)]).await?;
        let locked: Vec<i64> = rows.iter().map(|row| row.get(0)).collect();
        let vectors = "DELETE FROM otel.otel_log_template_vectors WHERE template_id = ANY($1)";
        transaction.execute_typed(vectors, &[(&locked, Type::INT8_ARRAY)]).await?;
        let delete = "DELETE FROM otel.otel_log_templates WHERE template_id = ANY($1)";
        let gone = transaction.execute_typed(delete, &[(&locked, Type::INT8_ARRAY)]).await?;
        note_collected(&transaction, "otel_log_templates", gone).await?;
        transaction.commit().await?;
        Ok(gone)
    }
}
