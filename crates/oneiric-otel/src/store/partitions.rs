//! Partitions by time: which exist, and making those that records need.

use std::collections::HashMap;
use std::sync::Mutex;

use tokio_postgres::types::Type;

use super::copy::Micros;
use super::database::Database;
use super::error::StoreError;

/// The ranges of time that have a partition, per table. What is remembered here can be out of date only by a partition
/// that was dropped since, and then the write fails and [`Partitions::forget`] is called.
#[derive(Debug, Default)]
pub(crate) struct Partitions {
    covered: Mutex<HashMap<&'static str, Vec<(Micros, Micros)>>>,
}

impl Partitions {
    /// Makes sure that `table` has a partition for each of these times.
    pub(crate) async fn ensure(
        &self,
        database: &Database,
        table: &'static str,
        times: &[Micros],
    ) -> Result<(), StoreError> {
        let missing: Vec<Micros> = times.iter().copied().filter(|time| !self.covers(table, *time)).collect();
        if missing.is_empty() {
            return Ok(());
        }
        for time in missing {
            if self.covers(table, time) {
                continue; // made on the way to an earlier one
            }
            database
                .query("SELECT otel.otel_ensure_partition($1, $2)", &[(&table, Type::TEXT), (&time, Type::TIMESTAMPTZ)])
                .await?;
            let rows = database
                .query(
                    "SELECT greatest(lower_bound, '1900-01-01'), least(upper_bound, '9999-01-01')
                     FROM otel.otel_partitions($1)",
                    &[(&table, Type::TEXT)],
                )
                .await?;
            let ranges = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
            self.lock().insert(table, ranges);
        }
        Ok(())
    }

    /// Forgets what exists.
    pub(crate) fn forget(&self) {
        self.lock().clear();
    }

    fn covers(&self, table: &str, time: Micros) -> bool {
        self.lock().get(table).is_some_and(|ranges| ranges.iter().any(|(lower, upper)| *lower <= time && time < *upper))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<&'static str, Vec<(Micros, Micros)>>> {
        self.covered.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Database {
    /// Makes the partitions of the near future. Returns how many were missing.
    pub async fn make_partitions(&self) -> Result<i32, StoreError> {
        Ok(self.query_one("SELECT otel.otel_make_partitions()", &[]).await?.get(0))
    }
}
