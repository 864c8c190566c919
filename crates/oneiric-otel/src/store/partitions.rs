//! Partitions by time: which exist, making those that records need, and the indexes of those whose time has passed.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use deadpool_postgres::Transaction;
use tokio_postgres::IsolationLevel;
use tokio_postgres::types::Type;

use super::copy::Micros;
use super::database::Database;
use super::error::StoreError;
use super::roles::quoted;

/// How long a note that a partition is written to is good for.
const NOTED_FOR: Duration = Duration::from_mins(30);
/// How long to wait for a partition that is being dropped to be gone, and how often to look.
const GONE_WITHIN: Duration = Duration::from_secs(5);
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// The ranges of time that have a partition, per table. What is remembered here can be out of date only by a partition
/// that was dropped since, and then the write fails and [`Partitions::forget`] is called.
///
/// Before a write to a partition it is noted in the database that it is written to, once in a while: retention keeps what
/// was written lately, and nobody writes to what it is dropping.
#[derive(Debug, Default)]
pub(crate) struct Partitions {
    covered: Mutex<HashMap<&'static str, Vec<Covered>>>,
}

/// A partition.
#[derive(Debug, Clone, Copy)]
struct Covered {
    lower: Micros,
    upper: Micros,
    /// When it was last noted that it is written to.
    noted: Option<Instant>,
}

impl Covered {
    fn has(&self, time: Micros) -> bool {
        self.lower <= time && time < self.upper
    }

    fn is_noted(&self) -> bool {
        self.noted.is_some_and(|noted| noted.elapsed() < NOTED_FOR)
    }
}

impl Partitions {
    /// Makes sure that `table` has a partition for each of these times, and that it is known to be written to.
    pub(crate) async fn ensure(
        &self,
        database: &Database,
        table: &'static str,
        times: &[Micros],
    ) -> Result<(), StoreError> {
        let missing: Vec<Micros> = times.iter().copied().filter(|time| !self.is_noted(table, *time)).collect();
        if missing.is_empty() {
            return Ok(());
        }
        let begun = Instant::now();
        loop {
            match self.make(database, table, &missing).await {
                // It is being dropped: then there will be room for a new one.
                Err(error) if error.is_locked() && begun.elapsed() < GONE_WITHIN => {
                    tokio::time::sleep(LOOK_EVERY).await;
                }
                made => return made,
            }
        }
    }

    async fn make(&self, database: &Database, table: &'static str, times: &[Micros]) -> Result<(), StoreError> {
        let noted = Instant::now();
        for time in times {
            if self.covers(table, *time) {
                continue; // made before, or on the way to an earlier one
            }
            database
                .query("SELECT otel.otel_ensure_partition($1, $2)", &[(&table, Type::TEXT), (time, Type::TIMESTAMPTZ)])
                .await?;
            self.read(database, table).await?;
        }
        database
            .query("SELECT otel.otel_note_writes($1, $2)", &[(&table, Type::TEXT), (&times, Type::TIMESTAMPTZ_ARRAY)])
            .await?;
        for partition in self.lock().entry(table).or_default() {
            if times.iter().any(|time| partition.has(*time)) {
                partition.noted = Some(noted);
            }
        }
        Ok(())
    }

    /// Reads which partitions there are.
    async fn read(&self, database: &Database, table: &'static str) -> Result<(), StoreError> {
        let rows = database
            .query(
                "SELECT greatest(lower_bound, '1900-01-01'), least(upper_bound, '9999-01-01')
                 FROM otel.otel_partitions($1)",
                &[(&table, Type::TEXT)],
            )
            .await?;
        let mut covered = self.lock();
        let before = covered.remove(table).unwrap_or_default();
        let noted = |lower, upper| {
            before.iter().find(|known| (known.lower, known.upper) == (lower, upper)).and_then(|known| known.noted)
        };
        let partitions = rows.iter().map(|row| {
            let (lower, upper) = (row.get(0), row.get(1));
            Covered { lower, upper, noted: noted(lower, upper) }
        });
        covered.insert(table, partitions.collect());
        Ok(())
    }

    /// Forgets what exists.
    pub(crate) fn forget(&self) {
        self.lock().clear();
    }

    fn covers(&self, table: &str, time: Micros) -> bool {
        self.lock().get(table).is_some_and(|known| known.iter().any(|partition| partition.has(time)))
    }

    fn is_noted(&self, table: &str, time: Micros) -> bool {
        let known = self.lock();
        known.get(table).is_some_and(|known| known.iter().any(|partition| partition.has(time) && partition.is_noted()))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<&'static str, Vec<Covered>>> {
        self.covered.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// An index that a partition gets when its time has passed: on a partition that is being written to it would cost more
/// than the rows themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PartitionIndex {
    /// The words of log records.
    LogWords,
    /// The log records of a template.
    LogTemplates,
    /// The attributes of spans.
    SpanAttributes,
}

impl PartitionIndex {
    const ALL: [Self; 3] = [Self::LogWords, Self::LogTemplates, Self::SpanAttributes];

    /// What follows the partition's name in the index's.
    pub(crate) fn suffix(self) -> &'static str {
        match self {
            Self::LogWords => "_words",
            Self::LogTemplates => "_template",
            Self::SpanAttributes => "_attributes",
        }
    }

    fn parent(self) -> &'static str {
        match self {
            Self::LogWords | Self::LogTemplates => "otel_logs",
            Self::SpanAttributes => "otel_spans",
        }
    }

    fn definition(self) -> &'static str {
        match self {
            Self::LogWords => "USING gin (otel.otel_log_words(body, body_json, event_name, attributes))",
            Self::LogTemplates => "(template_id, time)",
            Self::SpanAttributes => "USING gin (attributes jsonb_path_ops)",
        }
    }
}

impl Database {
    /// Builds the indexes of partitions whose time has passed by an hour, one after the other and without holding up
    /// anybody; those that are there already are left alone. A role that does not own the schema leaves them to its
    /// owner, and of several servers one does it. Returns the names of the indexes built now.
    ///
    /// # Errors
    /// The first failure, after the other indexes were built. The next call tries again, and replaces what a build that
    /// was cut off left behind.
    pub async fn close_partitions(&self) -> Result<Vec<String>, StoreError> {
        let mut built = Vec::new();
        if !self.owns_schema().await? {
            return Ok(built);
        }
        let mut client = self.client().await?;
        // Held while other connections build.
        let transaction = client.build_transaction().isolation_level(IsolationLevel::ReadCommitted).start().await?;
        if !claim_job(&transaction, "close_partitions").await? {
            return Ok(built);
        }
        // A simple query ends the one before: its portal has a snapshot, for which the builds would wait.
        transaction.batch_execute("SET LOCAL idle_in_transaction_session_timeout = 0").await?;
        let mut failed = None;
        for index in PartitionIndex::ALL {
            for (partition, left_behind) in self.partitions_without(index).await? {
                match self.build_index(index, &partition, left_behind).await {
                    Ok(name) => built.push(name),
                    // A server that went away will not do better with the next.
                    Err(error) if transaction.client().is_closed() => return Err(error),
                    Err(error) => {
                        tracing::warn!(partition, %error, "an index of a partition could not be built");
                        failed.get_or_insert(error);
                    }
                }
            }
        }
        transaction.commit().await?;
        failed.map_or(Ok(built), Err)
    }

    /// Builds an index of a partition and returns its name.
    async fn build_index(
        &self,
        index: PartitionIndex,
        partition: &str,
        left_behind: bool,
    ) -> Result<String, StoreError> {
        let name = format!("{partition}{}", index.suffix());
        // Somebody may have made the partition by hand, with any name.
        let (quoted_name, partition) = (quoted(&name), quoted(partition));
        let builder = self.client().await?;
        if left_behind {
            builder.batch_execute(&format!("DROP INDEX CONCURRENTLY IF EXISTS otel.{quoted_name}")).await?;
        }
        let definition = index.definition();
        let create = format!("CREATE INDEX CONCURRENTLY {quoted_name} ON otel.{partition} {definition}");
        builder.batch_execute(&create).await?;
        // Of an expression the planner knows nothing before.
        builder.batch_execute(&format!("ANALYZE otel.{partition}")).await?;
        tracing::info!(index = name, "built an index of a partition whose time has passed");
        Ok(name)
    }

    /// The partitions whose time has passed and that lack a valid index, the newest first, and whether an invalid one is
    /// there.
    async fn partitions_without(&self, index: PartitionIndex) -> Result<Vec<(String, bool)>, StoreError> {
        let rows = self
            .query(
                "SELECT p.partition, i.indexrelid IS NOT NULL
                 FROM otel.otel_partitions($1) p
                 LEFT JOIN pg_index i ON i.indexrelid = to_regclass(format('otel.%I', p.partition || $2))
                 WHERE p.upper_bound < now() - interval '1 hour' AND (i.indexrelid IS NULL OR NOT i.indisvalid)
                 ORDER BY p.upper_bound DESC",
                &[(&index.parent(), Type::TEXT), (&index.suffix(), Type::TEXT)],
            )
            .await?;
        Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
    }
}

/// Takes the right to do a job until the transaction ends; `false` when somebody else has it.
pub(crate) async fn claim_job(transaction: &Transaction<'_>, job: &str) -> Result<bool, StoreError> {
    let row = transaction
        .query_typed_opt("SELECT FROM otel.otel_jobs WHERE job = $1 FOR UPDATE SKIP LOCKED", &[(&job, Type::TEXT)])
        .await?;
    Ok(row.is_some())
}

impl Database {
    /// Makes the partitions of the near future. Returns how many were missing.
    pub async fn make_partitions(&self) -> Result<i32, StoreError> {
        Ok(self.query_one("SELECT otel.otel_make_partitions()", &[]).await?.get(0))
    }
}
