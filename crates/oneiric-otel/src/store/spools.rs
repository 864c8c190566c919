//! What waits in the spools of the processes that write to a database, as each says now and then. A request that waits may
//! have been stored before a crash: it must not be forgotten as long as a process may send it again.
//!
//! A process that is gone, or cannot reach the database, counts for as long as requests are remembered since it said
//! something. Who is away for longer than that and has requests that were stored stores their log records once more.

use std::time::Duration;

use tokio_postgres::types::Type;
use uuid::Uuid;

use super::database::Database;
use super::error::StoreError;

/// An SQL condition: the process `s` has said something while requests are remembered, which is `$1` seconds, and a day at least.
pub(super) const COUNTS: &str =
    "s.reported_at BETWEEN now() - greatest($1, 86400) * interval '1 second' AND now() + interval '1 day'";

/// Requests that were stored earlier than this expression says are in no spool. The clocks of the machines may differ by a day.
pub(super) fn in_no_spool_before() -> String {
    format!(
        "(SELECT coalesce(min(least(s.oldest, s.reported_at)) - interval '1 day', 'infinity') FROM otel.otel_spools s
          WHERE {COUNTS})"
    )
}

/// What waits in the spool of a process, as the database is told.
#[derive(Debug, Clone, Copy)]
pub struct SpoolNote {
    process: Uuid,
}

impl Default for SpoolNote {
    /// Of a process that has said nothing yet.
    fn default() -> Self {
        Self { process: Uuid::new_v4() }
    }
}

impl SpoolNote {
    /// Says how long the oldest request waits; none for a spool in which nothing does.
    ///
    /// # Errors
    /// When the database is away, or this role may not write to it.
    pub async fn say(&self, database: &Database, oldest: Option<Duration>) -> Result<(), StoreError> {
        let sql = "INSERT INTO otel.otel_spools (process, oldest, reported_at)
                   VALUES ($1, now() - $2 * interval '1 second', now())
                   ON CONFLICT (process) DO UPDATE SET oldest = excluded.oldest, reported_at = excluded.reported_at";
        let waits = oldest.unwrap_or_default().as_secs_f64();
        database.query(sql, &[(&self.process, Type::UUID), (&waits, Type::FLOAT8)]).await?;
        Ok(())
    }
}
