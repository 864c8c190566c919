//! What is to be known before anything is dropped: when partitions were written, and whether the clock can be trusted.
//!
//! Every decision is by the database's clock. One that jumps ahead would make everything old, so nothing is dropped
//! before the clock has gone on for a day without a jump, while it is not the one of this machine, or when what comes in
//! is all of long ago.

use std::time::{Duration, Instant, SystemTime};

use tokio_postgres::types::Type;

use crate::store::{Database, Micros, StoreError};

/// By how much the clocks of the database and of this machine may differ.
const CLOCKS_DIFFER: Duration = Duration::from_hours(1);

impl Database {
    /// Notes which partitions were written since it was last looked, by whoever does not note it, and that the clock was
    /// looked at. Needs the rights of the schema's owner.
    pub(super) async fn look_at_partitions(&self) -> Result<(), StoreError> {
        let mut client = self.client().await?;
        let transaction = client.transaction().await?;
        // The counter begins anew after a crash of the server: less than before, and nothing, is nothing written.
        transaction
            .batch_execute(
                "WITH there AS MATERIALIZED (
                   SELECT i.inhparent AS parent_id, c.relname::text AS partition, c.oid,
                          pg_stat_get_tuples_inserted(c.oid) AS inserted
                   FROM otel.otel_partitioned_tables t
                   JOIN pg_inherits i ON i.inhparent = format('otel.%I', t.parent)::regclass
                   JOIN pg_class c ON c.oid = i.inhrelid
                 ), known AS MATERIALIZED (
                   SELECT w.partition FROM otel.otel_partition_writes w ORDER BY w.partition FOR UPDATE
                 ), gone AS (
                   DELETE FROM otel.otel_partition_writes w
                   WHERE w.retired_at IS NULL AND w.partition NOT IN (SELECT partition FROM there)
                     AND w.partition IN (SELECT partition FROM known)
                 ), new AS (
                   INSERT INTO otel.otel_partition_writes (partition, parent, last_write, relation, inserted)
                   SELECT h.partition, c.relname, now(), h.oid, h.inserted
                   FROM there h JOIN pg_class c ON c.oid = h.parent_id
                   WHERE h.partition NOT IN (SELECT partition FROM known)
                   ON CONFLICT DO NOTHING
                 )
                 UPDATE otel.otel_partition_writes w
                 SET last_write = CASE WHEN w.relation = h.oid AND (h.inserted > w.inserted OR h.inserted > 0)
                                       THEN greatest(w.last_write, now()) ELSE w.last_write END,
                     generation = CASE WHEN w.relation <> h.oid THEN 0 ELSE w.generation END,
                     relation = h.oid, inserted = h.inserted
                 FROM there h
                 WHERE w.partition = h.partition AND w.partition IN (SELECT partition FROM known)
                   AND (w.relation IS DISTINCT FROM h.oid OR w.inserted IS DISTINCT FROM h.inserted);
                 UPDATE otel.otel_retention_clock
                 SET steady_since = CASE WHEN now() NOT BETWEEN looked_at - interval '5 minutes' AND looked_at + interval '2 days'
                                         THEN now() ELSE steady_since END,
                     looked_at = now()",
            )
            .await?;
        transaction.commit().await?;
        Ok(())
    }

    /// Notes of times that are still to come are of a clock that went back, and count as of now: else nothing would be due before
    /// they come. Only when the clock can be trusted: by one that is behind, what was noted rightly is still to come.
    pub(super) async fn mend_notes_to_come(&self) -> Result<(), StoreError> {
        let mut client = self.client().await?;
        let transaction = client.transaction().await?;
        // Another transaction may have begun a moment later than this one.
        transaction
            .batch_execute(
                "UPDATE otel.otel_partitioned_tables SET changed_at = now() WHERE changed_at > now() + interval '5 minutes';
                 WITH known AS MATERIALIZED (
                   SELECT w.partition FROM otel.otel_partition_writes w
                   WHERE greatest(w.first_write, w.last_write) > now() + interval '5 minutes' ORDER BY w.partition FOR UPDATE)
                 UPDATE otel.otel_partition_writes w
                 SET last_write = least(w.last_write, now()), first_write = CASE WHEN w.first_write <= now() THEN w.first_write END
                 FROM known k WHERE w.partition = k.partition",
            )
            .await?;
        transaction.commit().await?;
        Ok(())
    }

    /// Why the clock cannot be trusted, if it cannot.
    pub(super) async fn doubts_of_clock(&self) -> Result<Option<String>, StoreError> {
        let before = SystemTime::now();
        let row = self
            .query_one(
                "SELECT clock_timestamp(), clock_timestamp() - c.steady_since >= interval '1 day',
                        to_char(c.steady_since AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"'),
                        n.newest < now() - interval '7 days'
                 FROM otel.otel_retention_clock c,
                      (SELECT max(p.upper_bound) FROM otel.otel_partitioned_tables t
                       CROSS JOIN LATERAL otel.otel_partitions(t.parent) p
                       JOIN otel.otel_partition_writes w ON w.partition = p.partition
                       WHERE t.source IS NULL AND w.last_write > now() - interval '1 day') n (newest)",
                &[],
            )
            .await?;
        let theirs = Micros::to_unix_nanos(row.get(0), 0);
        let ours = before.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_nanos();
        let apart = Duration::from_nanos(u64::try_from(u128::from(theirs).abs_diff(ours)).unwrap_or(u64::MAX));
        if apart > CLOCKS_DIFFER {
            return Ok(Some(format!("the clocks of the database and of this machine are {} s apart", apart.as_secs())));
        }
        if !row.get::<_, bool>(1) {
            let since: &str = row.get(2);
            return Ok(Some(format!(
                "the database's clock is being watched since {since} and must go on for a day without a jump"
            )));
        }
        if row.get::<_, Option<bool>>(3) == Some(true) {
            return Ok(Some(
                "all that came within a day is older than 7 days: the database's clock may be ahead".to_owned(),
            ));
        }
        Ok(None)
    }

    /// Waits until those who use a table now have come to the end of their transactions. `false` when that takes longer
    /// than `patience`: a partition cannot be detached as long as they do.
    pub(super) async fn users_end(&self, table: &str, patience: Duration) -> Result<bool, StoreError> {
        const LOOK_EVERY: Duration = Duration::from_millis(200);
        let sql = "SELECT coalesce(array_agg(DISTINCT l.virtualtransaction), '{}') FROM pg_locks l
                   WHERE l.locktype = 'relation' AND l.granted AND l.relation = format('otel.%I', $1)::regclass
                     AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
                     AND l.pid IS DISTINCT FROM pg_backend_pid()";
        let users = async || -> Result<Vec<String>, StoreError> {
            Ok(self.query_one(sql, &[(&table, Type::TEXT)]).await?.get(0))
        };
        let begun = Instant::now();
        let mut left = users().await?;
        while !left.is_empty() {
            if begun.elapsed() >= patience {
                return Ok(false);
            }
            tokio::time::sleep(LOOK_EVERY).await;
            let now = users().await?;
            left.retain(|user| now.contains(user));
        }
        Ok(true)
    }
}
