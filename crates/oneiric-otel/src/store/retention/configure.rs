//! How long tables keep their records, and how they are cut.

use deadpool_postgres::Transaction;
use tokio_postgres::types::Type;

use crate::otlp::Signal;
use crate::retention::{Keep, RetentionOptions, Step, check};
use crate::store::{Database, StoreError};

/// A table whose retention or step was changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetentionChange {
    /// The table.
    pub table: String,
    /// How long it keeps its records now, and before.
    pub keep: (Keep, Keep),
    /// The time of its partitions now, and before.
    pub step: (Step, Step),
}

/// A table as the database has it.
struct Configured {
    table: String,
    keep: Keep,
    step: Step,
}

impl Configured {
    fn wanted(&self, options: &RetentionOptions) -> (Keep, Step) {
        let signal = match self.table.as_str() {
            "otel_metrics" | "otel_metric_rollups" => Signal::Metrics,
            "otel_logs" => Signal::Logs,
            _ => Signal::Traces,
        };
        // Hours of a month are few.
        let step = options.step.filter(|_| self.table != "otel_metric_rollups");
        (options.of(signal).unwrap_or(self.keep), step.unwrap_or(self.step))
    }
}

impl Database {
    /// Changes what the options say otherwise than the database, and returns it. What exists stays as it is: a new step
    /// starts after the last partition.
    ///
    /// # Errors
    /// When there would be too many partitions, with what is accepted; when something is to be changed and this role does
    /// not own the schema. Then nothing is changed.
    pub async fn configure_retention(&self, options: &RetentionOptions) -> Result<Vec<RetentionChange>, StoreError> {
        let mut client = self.client().await?;
        let transaction = client.transaction().await?;
        let changes = changes(&transaction, options).await?;
        if changes.is_empty() {
            return Ok(changes);
        }
        if !self.owns_schema().await? {
            return Err(StoreError::misconfigured(format!(
                "retention and partitions are to be changed ({}), and this role does not own the schema: give the server its \
                 owner with --maintenance-url, or let the owner run `oneiric-otel retention run` with the same settings",
                changes.iter().map(|change| change.table.as_str()).collect::<Vec<_>>().join(", ")
            )));
        }
        apply(&transaction, &changes).await?;
        transaction.commit().await?;
        for change in &changes {
            let ((keep, kept), (step, stepped)) = (change.keep, change.step);
            tracing::info!(
                table = change.table, %keep, before = %kept, partition = step.as_str(), partition_before = stepped.as_str(),
                "changed how long telemetry is kept or how it is cut"
            );
        }
        Ok(changes)
    }
}

/// What the options say otherwise than the database.
pub(super) async fn changes(
    transaction: &Transaction<'_>,
    options: &RetentionOptions,
) -> Result<Vec<RetentionChange>, StoreError> {
    let rows = transaction
        .query_typed(
            "SELECT parent, expires, ceil(extract(epoch FROM retention) / 86400)::bigint, step
             FROM otel.otel_partitioned_tables ORDER BY parent",
            &[],
        )
        .await?;
    let mut changes = Vec::new();
    for row in rows {
        let days = u32::try_from(row.get::<_, i64>(2)).unwrap_or(u32::MAX);
        let keep = if row.get(1) { Keep::Days(days) } else { Keep::Forever };
        let configured = Configured { table: row.get(0), keep, step: Step::of(row.get(3)).unwrap_or(Step::Day) };
        let (keep, step) = configured.wanted(options);
        if (keep, step) == (configured.keep, configured.step) {
            continue;
        }
        check(keep, step).map_err(|reason| StoreError::misconfigured(format!("{}: {reason}", configured.table)))?;
        changes.push(RetentionChange {
            table: configured.table,
            keep: (keep, configured.keep),
            step: (step, configured.step),
        });
    }
    Ok(changes)
}

/// Makes the changes.
pub(super) async fn apply(transaction: &Transaction<'_>, changes: &[RetentionChange]) -> Result<(), StoreError> {
    for RetentionChange { table, keep: (keep, kept), step: (step, _) } in changes {
        let (days, expires) = (f64::from(keep.days()), *keep != Keep::Forever);
        let is_shorter = expires && (*kept == Keep::Forever || keep.days() < kept.days());
        let ahead = i32::try_from(step.ahead()).unwrap_or_default();
        transaction
            .execute_typed(
                "UPDATE otel.otel_partitioned_tables
                 SET retention = make_interval(days => $2::double precision::integer), expires = $3, step = $4, ahead = $5,
                     changed_at = CASE WHEN $6 THEN now() ELSE changed_at END
                 WHERE parent = $1",
                &[
                    (table, Type::TEXT),
                    (&days, Type::FLOAT8),
                    (&expires, Type::BOOL),
                    (&step.as_str(), Type::TEXT),
                    (&ahead, Type::INT4),
                    (&is_shorter, Type::BOOL),
                ],
            )
            .await?;
    }
    Ok(())
}
