//! What can refer to a retired resource or scope: partitions of an earlier generation, and what was detached. Partitions that are
//! older than retention lets them become are looked through, or they would keep what was retired since they were made.

use std::time::{Duration, Instant};

use tokio_postgres::types::Type;

use super::collect::{CollectionOutcome, RESOURCES, SCOPES, Shared, ids_of, next_generation, read_committed};
use crate::store::roles::quoted;
use crate::store::{Database, StoreError};

/// How long rows are looked for that a partition refers to.
const LOOK_THROUGH_WITHIN: Duration = Duration::from_mins(2);

impl Database {
    /// Looks through partitions that are older than retention lets them become, such as one to which old data comes again and
    /// again: they would keep all that was retired since they were made. What they refer to is labelled anew.
    pub(super) async fn pass_old_partitions(
        &self,
        until: Instant,
        outcome: &mut CollectionOutcome,
    ) -> Result<(), StoreError> {
        let detached = format!("SELECT c.relname::text FROM {} ORDER BY 1 LIMIT 1", with_column("resource_id"));
        if let Some(row) = self.query(&detached, &[]).await?.first() {
            outcome.waits_for.push(detached_table(row.get(0)));
            return Ok(());
        }
        let in_the_way = "
            SELECT p.partition, w.generation
            FROM otel.otel_partitioned_tables t CROSS JOIN LATERAL otel.otel_partitions(t.parent) p
            JOIN otel.otel_partition_writes w ON w.partition = p.partition
            WHERE t.parent IN ('otel_spans', 'otel_logs') AND t.expires AND w.retired_at IS NULL
              AND EXISTS (SELECT FROM otel.otel_retirements r
                          WHERE r.parent IN ('otel_resources', 'otel_scopes') AND r.generation >= w.generation
                            AND r.retired_at < now() - t.retention - ('1 ' || t.step)::interval - interval '1 day')
              AND NOT EXISTS (SELECT FROM otel.otel_dropped_partitions d
                              WHERE d.parent = t.parent AND d.state IN ('retired', 'detached'))
            ORDER BY w.generation, p.partition";
        for row in self.query(in_the_way, &[]).await? {
            if Instant::now() >= until {
                break;
            }
            let (partition, generation): (String, i64) = (row.get(0), row.get(1));
            match self.pass_old_partition(&partition, generation).await {
                Ok(()) => {}
                Err(error) if error.is_too_long() => {
                    outcome.waits_for.push(format!("{partition}, which is too large to look through"));
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    async fn pass_old_partition(&self, partition: &str, generation: i64) -> Result<(), StoreError> {
        // In one snapshot: whatever is labelled later has this generation or a later one.
        let sql = "SELECT c.generation, (SELECT coalesce(array_agg(r.retirement), '{}') FROM otel.otel_retirements r
                                         WHERE r.generation IS NOT NULL AND r.parent IN ('otel_resources', 'otel_scopes'))
                   FROM otel.otel_collection c";
        let row = self.query_one(sql, &[]).await?;
        let (now, retirements): (i64, Vec<i64>) = (row.get(0), row.get(1));
        let mut kept = Vec::new();
        for shared in [RESOURCES, SCOPES] {
            kept.push((shared, self.referred_to(shared, partition, &retirements).await?));
        }
        let mut client = self.client().await?;
        let transaction = read_committed(&mut client).await?;
        let passed = "UPDATE otel.otel_partition_writes SET generation = $3 WHERE partition = $1 AND generation = $2";
        let arguments = [(&partition as _, Type::TEXT), (&generation as _, Type::INT8), (&now as _, Type::INT8)];
        if transaction.execute_typed(passed, &arguments).await? == 0 {
            // Rows came to it from another, meanwhile.
            return Ok(());
        }
        let label = next_generation(&transaction).await?;
        for (Shared { table, id, .. }, rows) in kept.iter().filter(|(_, rows)| !rows.is_empty()) {
            let renew = format!(
                "WITH new AS (INSERT INTO otel.otel_retirements (parent, generation) VALUES ($3, $4) RETURNING retirement)
                 UPDATE otel.{table} t SET retirement = new.retirement FROM new
                 WHERE t.{id} = ANY($1) AND t.retirement = ANY($2)"
            );
            transaction
                .execute_typed(
                    &renew,
                    &[
                        (rows, Type::INT8_ARRAY),
                        (&retirements, Type::INT8_ARRAY),
                        (table, Type::TEXT),
                        (&label, Type::INT8),
                    ],
                )
                .await?;
        }
        Ok(transaction.commit().await?)
    }

    /// The rows of these retirements to which a partition refers.
    async fn referred_to(
        &self,
        Shared { table, id, .. }: Shared,
        partition: &str,
        retirements: &[i64],
    ) -> Result<Vec<i64>, StoreError> {
        let partition = quoted(partition);
        let sql = format!(
            "SELECT t.{id}::bigint FROM otel.{table} t
             WHERE t.retirement = ANY($1) AND t.{id} IN (SELECT p.{id} FROM otel.{partition} p)"
        );
        let mut client = self.client().await?;
        let transaction = client.transaction().await?;
        let limit = format!("SET LOCAL statement_timeout = '{}s'", LOOK_THROUGH_WITHIN.as_secs());
        transaction.batch_execute(&limit).await?;
        ids_of(&transaction, &sql, retirements).await
    }
}

/// The least generation of what spans and logs are in, attached or not: it can refer to what was retired then or later.
pub(super) fn least_generation() -> String {
    format!(
        "SELECT coalesce(min(g.generation), 9223372036854775807) FROM (
           SELECT coalesce(w.generation, 0) FROM (VALUES ('otel_spans'), ('otel_logs')) v (parent)
           CROSS JOIN LATERAL otel.otel_partitions(v.parent) p
           LEFT JOIN otel.otel_partition_writes w  -- of this table, not of an earlier one of its name
             ON w.partition = p.partition AND coalesce(w.relation = to_regclass(format('otel.%I', p.partition)), true)
           UNION ALL
           SELECT w.generation FROM otel.otel_partition_writes w WHERE w.parent IN ('otel_spans', 'otel_logs')
           UNION ALL
           SELECT 0 FROM otel.otel_dropped_partitions d
           WHERE d.parent IN ('otel_spans', 'otel_logs') AND d.state IN ('retired', 'detached')
           UNION ALL
           SELECT 0 FROM {}) g (generation)",
        with_column("resource_id")
    )
}

/// Tables of the schema with this column that are no partitions: somebody detached them.
pub(super) fn with_column(column: &str) -> String {
    format!(
        "pg_class c WHERE c.relnamespace = 'otel'::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition
           AND c.relname NOT IN ('otel_resources', 'otel_metric_series')
           AND c.relname NOT IN (SELECT t.parent FROM otel.otel_partitioned_tables t)
           AND EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attname = '{column}' AND NOT a.attisdropped)
           AND NOT EXISTS (SELECT FROM otel.otel_dropped_partitions d WHERE d.relation = c.oid AND d.state IN ('retired', 'detached'))"
    )
}

pub(super) fn detached_table(table: &str) -> String {
    format!("{table}, which somebody detached: attach it, drop it or move it out of the schema")
}
