//! The schema's versions.
//!
//! *Required* migrations run in one transaction each, before anything else uses the database; several instances may
//! start at once and wait for each other on the bookkeeping table. *Deferred* ones build indexes and the like, outside
//! a transaction and after the server is ready; they must be safe to repeat. Both share one sequence of numbers, and a
//! migration that has been applied is never edited: its checksum is compared at every start.

use std::time::Duration;

use deadpool_postgres::Transaction;
use tokio_postgres::types::Type;

use super::database::Database;
use super::error::StoreError;
use super::roles;

/// How long to wait before asking for the right to migrate again.
const LOCK_POLL: Duration = Duration::from_millis(200);
/// How long a migration waits for a table that somebody uses, such as a backup: meanwhile everybody else waits behind it.
const LOCK_PATIENCE_MS: u32 = 3000;
/// How long it leaves the table to the others then.
const LOCK_PAUSE: Duration = Duration::from_secs(3);

struct Migration {
    version: i32,
    name: &'static str,
    sql: &'static str,
    /// The index that a deferred migration builds.
    index: Option<&'static str>,
    /// The least [`SCHEMA_VERSION`] of a program that can work with a database that has this migration without knowing it:
    /// one that only adds what such a program may ignore. None: only programs that know it. Noted in the database; programs
    /// before version 12 do not look for it.
    works_with: Option<i32>,
}

impl Migration {
    const fn required(version: i32, name: &'static str, sql: &'static str) -> Self {
        Self { version, name, sql, index: None, works_with: None }
    }

    const fn deferred(version: i32, name: &'static str, sql: &'static str, index: &'static str) -> Self {
        Self { version, name, sql, index: Some(index), works_with: None }
    }

    const fn works_with(self, version: i32) -> Self {
        Self { works_with: Some(version), ..self }
    }

    fn full_name(&self) -> String {
        full_name(self.version, self.name)
    }

    fn checksum(&self) -> String {
        blake3::hash(self.sql.as_bytes()).to_hex().to_string()
    }
}

const REQUIRED: &[Migration] = &[
    Migration::required(1, "telemetry", include_str!("../../migrations/required/0001_telemetry.sql")),
    Migration::required(3, "dead_letters", include_str!("../../migrations/required/0003_dead_letters.sql")),
    Migration::required(4, "roles", include_str!("../../migrations/required/0004_roles.sql")),
    Migration::required(5, "views", include_str!("../../migrations/required/0005_views.sql")),
    Migration::required(7, "logs", include_str!("../../migrations/required/0007_logs.sql")),
    Migration::required(8, "errors", include_str!("../../migrations/required/0008_errors.sql")),
    Migration::required(9, "log_views", include_str!("../../migrations/required/0009_log_views.sql")),
    Migration::required(10, "metric_rollups", include_str!("../../migrations/required/0010_metric_rollups.sql")),
    Migration::required(
        12,
        "compatible_programs",
        include_str!("../../migrations/required/0012_compatible_programs.sql"),
    ),
    Migration::required(13, "read_indexes", include_str!("../../migrations/required/0013_read_indexes.sql"))
        .works_with(12),
    Migration::required(14, "exemplar_index", include_str!("../../migrations/required/0014_exemplar_index.sql"))
        .works_with(12),
    Migration::required(15, "retention", include_str!("../../migrations/required/0015_retention.sql")).works_with(12),
    Migration::required(16, "leases", include_str!("../../migrations/required/0016_leases.sql")).works_with(12),
    Migration::required(17, "collection", include_str!("../../migrations/required/0017_collection.sql")).works_with(12),
    Migration::required(19, "embedding_switch", include_str!("../../migrations/required/0019_embedding_switch.sql"))
        .works_with(12),
    Migration::required(
        20,
        "embedding_fallback",
        include_str!("../../migrations/required/0020_embedding_fallback.sql"),
    )
    .works_with(12),
    Migration::required(26, "spools", include_str!("../../migrations/required/0026_spools.sql")).works_with(12),
    Migration::required(27, "collection_state", include_str!("../../migrations/required/0027_collection_state.sql"))
        .works_with(12),
    Migration::required(28, "early_traces", include_str!("../../migrations/required/0028_early_traces.sql"))
        .works_with(12),
];

const DEFERRED: &[Migration] = &[
    Migration::deferred(
        2,
        "resource_attributes_index",
        include_str!("../../migrations/deferred/0002_resource_attributes_index.sql"),
        "otel.otel_resources_attributes",
    ),
    Migration::deferred(
        11,
        "metric_series_service_index",
        include_str!("../../migrations/deferred/0011_metric_series_service_index.sql"),
        "otel.otel_metric_series_service",
    ),
    Migration::deferred(
        18,
        "metric_series_owner_index",
        include_str!("../../migrations/deferred/0018_metric_series_owner_index.sql"),
        COLLECTION_INDEXES[0],
    ),
    Migration::deferred(
        22,
        "resource_retirement_index",
        include_str!("../../migrations/deferred/0022_resource_retirement_index.sql"),
        COLLECTION_INDEXES[1],
    ),
    Migration::deferred(
        23,
        "scope_retirement_index",
        include_str!("../../migrations/deferred/0023_scope_retirement_index.sql"),
        COLLECTION_INDEXES[2],
    ),
    Migration::deferred(
        24,
        "metric_series_retirement_index",
        include_str!("../../migrations/deferred/0024_metric_series_retirement_index.sql"),
        COLLECTION_INDEXES[3],
    ),
    Migration::deferred(
        25,
        "ledger_unrefreshed_index",
        include_str!("../../migrations/deferred/0025_ledger_unrefreshed_index.sql"),
        COLLECTION_INDEXES[4],
    ),
    Migration {
        index: None,
        ..Migration::deferred(
            29,
            "early_traces_of_before",
            include_str!("../../migrations/deferred/0029_early_traces_of_before.sql"),
            "",
        )
    },
    Migration::deferred(
        30,
        "dead_letters_due_index",
        include_str!("../../migrations/deferred/0030_dead_letters_due_index.sql"),
        "otel.otel_telemetry_dlq_due",
    ),
];

/// Nothing is collected without them: it would read whole tables again and again.
pub(super) const COLLECTION_INDEXES: [&str; 5] = [
    "otel.otel_metric_series_owner",
    "otel.otel_resources_retirement",
    "otel.otel_scopes_retirement",
    "otel.otel_metric_series_retirement",
    "otel.otel_ingest_ledger_unrefreshed",
];

/// The newest required migration this program knows.
pub const SCHEMA_VERSION: i32 = REQUIRED[REQUIRED.len() - 1].version;

const BOOKKEEPING: &str = "
    CREATE SCHEMA IF NOT EXISTS otel;
    CREATE TABLE IF NOT EXISTS otel.otel_migrations (
      version    integer PRIMARY KEY,
      name       text NOT NULL,
      track      text NOT NULL CHECK (track IN ('required', 'deferred')),
      checksum   text NOT NULL,
      applied_at timestamptz NOT NULL DEFAULT now()
    );";

/// Which migrations a database has.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct MigrationState {
    /// The newest required migration applied, 0 for an empty database.
    pub version: i32,
    /// Required migrations this program would apply.
    pub pending: Vec<String>,
    /// Deferred migrations this program would apply.
    pub pending_deferred: Vec<String>,
    /// Migrations that this program does not know and can work with all the same: a newer one has applied them.
    pub newer: Vec<String>,
    /// Why this program cannot work with the schema, if it cannot.
    pub conflict: Option<String>,
}

impl Database {
    /// Brings the schema to [`SCHEMA_VERSION`]. Returns the names of the migrations applied now. Roles that were granted
    /// their part get what the migrations add. Where nothing is to be done, any role that may read the schema's version
    /// can call this. A newer schema that is marked as one this program can work with is left as it is, with a warning.
    ///
    /// # Errors
    /// When the database is newer than this program and not so marked, when an applied migration differs from ours, when the schema
    /// belongs to somebody else, or when the database refuses a statement. Nothing of a failed migration stays.
    pub async fn migrate(&self) -> Result<Vec<String>, StoreError> {
        self.migrate_to(SCHEMA_VERSION).await
    }

    /// Brings the schema to `target` and no further: how the tests make a database of an earlier version.
    pub async fn migrate_to(&self, target: i32) -> Result<Vec<String>, StoreError> {
        let before = self.applied().await?;
        verify(&before)?;
        let newer = newer(&before);
        if !newer.is_empty() {
            tracing::warn!(?newer, "the schema is newer than this program, and marked as one that it can work with");
        }
        if next_required(&before, target).is_none() {
            return Ok(Vec::new());
        }
        self.create_bookkeeping().await?;
        if !self.owns_schema().await? {
            let version = required_version(&before);
            return Err(StoreError::misconfigured(format!(
                "the schema is at version {version}, this program needs {target}, and this role does not own it: its \
                 owner has to run `oneiric-otel db migrate`"
            )));
        }
        let mut applied_now = Vec::new();
        loop {
            let mut client = self.client().await?;
            let transaction = client.transaction().await?;
            if !try_lock(&transaction).await? {
                transaction.rollback().await?;
                tokio::time::sleep(LOCK_POLL).await;
                continue;
            }
            let applied = applied(&transaction).await?;
            verify(&applied)?;
            let Some(next) = next_required(&applied, target) else { return Ok(applied_now) };
            transaction.batch_execute("SET LOCAL search_path = otel, public; SET LOCAL timezone = 'UTC'").await?;
            transaction.batch_execute(&format!("SET LOCAL lock_timeout = '{LOCK_PATIENCE_MS}ms'")).await?;
            match transaction.batch_execute(next.sql).await.map_err(StoreError::from) {
                Ok(()) => {}
                Err(error) if error.is_locked() || error.is_deadlock() => {
                    tracing::info!(version = next.version, name = next.name, "a table is in use; migrating again soon");
                    transaction.rollback().await?;
                    tokio::time::sleep(LOCK_PAUSE).await;
                    continue;
                }
                Err(error) => return Err(error),
            }
            roles::renew(&transaction).await?;
            record(&transaction, next, "required").await?;
            transaction.commit().await?;
            tracing::info!(version = next.version, name = next.name, "migrated the schema");
            applied_now.push(next.full_name());
        }
    }

    /// Applies the deferred migrations. Meant to run after the server is ready; queries work without them, slower.
    /// Instances that start together wait for each other. A role that does not own the schema leaves them to its owner.
    pub async fn migrate_deferred(&self) -> Result<Vec<String>, StoreError> {
        let pending = self.migration_state().await?.pending_deferred;
        if pending.is_empty() {
            return Ok(Vec::new());
        }
        if !self.owns_schema().await? {
            tracing::info!(
                ?pending,
                "deferred migrations wait for the schema's owner to run `oneiric-otel db migrate`"
            );
            return Ok(Vec::new());
        }
        let mut applied_now = Vec::new();
        loop {
            let mut client = self.client().await?;
            let transaction = client.transaction().await?;
            // Held until the end, while other connections look and build: CREATE INDEX CONCURRENTLY cannot run in a
            // transaction, and waits for every transaction that has a snapshot. This one has none: it has asked nothing.
            if !try_lock(&transaction).await? {
                transaction.rollback().await?;
                tokio::time::sleep(LOCK_POLL).await;
                continue;
            }
            let applied = applied(&self.client().await?.transaction().await?).await?;
            verify(&applied)?;
            let missing = |migration: &&Migration| !applied.iter().any(|row| row.version == migration.version);
            let Some(next) = DEFERRED.iter().find(missing) else { return Ok(applied_now) };
            self.build(next).await?;
            record(&transaction, next, "deferred").await?;
            transaction.commit().await?;
            applied_now.push(next.full_name());
        }
    }

    /// Runs a deferred migration. A build that was cut off leaves an index that is never used: it goes first.
    async fn build(&self, migration: &Migration) -> Result<(), StoreError> {
        let invalid = "SELECT count(*) FROM pg_index WHERE indexrelid = to_regclass($1) AND NOT indisvalid";
        let is_invalid = async |index: &str| -> Result<bool, StoreError> {
            let row = self.query_one(invalid, &[(&index, Type::TEXT)]).await?;
            Ok(row.get::<_, i64>(0) > 0)
        };
        let client = self.client().await?;
        if let Some(index) = migration.index
            && is_invalid(index).await?
        {
            client.batch_execute(&format!("DROP INDEX CONCURRENTLY {index}")).await?;
        }
        client.batch_execute(migration.sql).await?;
        match migration.index {
            Some(index) if is_invalid(index).await? => {
                Err(StoreError::transient(format!("the index {index} could not be built")))
            }
            _ => Ok(()),
        }
    }

    /// Which migrations the database has and which it lacks.
    pub async fn migration_state(&self) -> Result<MigrationState, StoreError> {
        let applied = self.applied().await?;
        let missing = |migrations: &[Migration]| {
            migrations
                .iter()
                .filter(|migration| !applied.iter().any(|row| row.version == migration.version))
                .map(Migration::full_name)
                .collect()
        };
        Ok(MigrationState {
            version: required_version(&applied),
            pending: missing(REQUIRED),
            pending_deferred: missing(DEFERRED),
            newer: newer(&applied),
            conflict: verify(&applied).err().map(|error| error.to_string()),
        })
    }

    /// The migrations that the database has: none where there is no schema.
    async fn applied(&self) -> Result<Vec<Applied>, StoreError> {
        let mut client = self.client().await?;
        match applied(&client.transaction().await?).await {
            Err(error) if error.is_undefined_table() => Ok(Vec::new()),
            applied => applied,
        }
    }

    /// Whether this role has the rights of the schema's owner. There must be a schema.
    pub(super) async fn owns_schema(&self) -> Result<bool, StoreError> {
        let sql = "SELECT pg_has_role(current_user, relowner, 'USAGE') FROM pg_class
                   WHERE oid = 'otel.otel_migrations'::regclass";
        Ok(self.query_one(sql, &[]).await?.get(0))
    }

    async fn create_bookkeeping(&self) -> Result<(), StoreError> {
        let there = self.query_one("SELECT to_regclass('otel.otel_migrations') IS NOT NULL", &[]).await?;
        if there.get(0) {
            return Ok(());
        }
        match self.client().await?.batch_execute(BOOKKEEPING).await.map_err(StoreError::from) {
            // IF NOT EXISTS does not cover two sessions at the same instant: the second meets the first's catalog row.
            Err(error) if error.is_duplicate_key() => Ok(()),
            other => other,
        }
    }
}

/// Takes the right to migrate, for as long as the transaction lasts; false when somebody else has it. Whoever does not
/// get it asks again later: waiting for the lock would hold a snapshot, for which an index build of its holder would wait
/// in turn.
async fn try_lock(transaction: &Transaction<'_>) -> Result<bool, StoreError> {
    let lock = "LOCK TABLE otel.otel_migrations IN SHARE ROW EXCLUSIVE MODE NOWAIT";
    match transaction.batch_execute(lock).await.map_err(StoreError::from) {
        Ok(()) => Ok(true),
        Err(error) if error.is_locked() => Ok(false),
        Err(error) => Err(error),
    }
}

struct Applied {
    version: i32,
    name: String,
    track: String,
    checksum: String,
    works_with: Option<i32>,
}

impl Applied {
    fn full_name(&self) -> String {
        full_name(self.version, &self.name)
    }

    /// Whether this program need not know it.
    fn may_be_unknown(&self) -> bool {
        // A deferred migration only adds speed.
        self.track == "deferred" || self.works_with.is_some_and(|version| version <= SCHEMA_VERSION)
    }
}

fn full_name(version: i32, name: &str) -> String {
    format!("{version:04}_{name}")
}

async fn applied(transaction: &Transaction<'_>) -> Result<Vec<Applied>, StoreError> {
    // Before migration 12 there is no such column.
    let sql = "SELECT version, name, track, checksum, (to_jsonb(m) ->> 'works_with')::integer
               FROM otel.otel_migrations m ORDER BY version";
    let rows = transaction.query(sql, &[]).await?;
    Ok(rows
        .into_iter()
        .map(|row| Applied {
            version: row.get(0),
            name: row.get(1),
            track: row.get(2),
            checksum: row.get(3),
            works_with: row.get(4),
        })
        .collect())
}

/// The first required migration up to `target` that is not applied.
fn next_required(applied: &[Applied], target: i32) -> Option<&'static Migration> {
    REQUIRED
        .iter()
        .find(|migration| migration.version <= target && !applied.iter().any(|row| row.version == migration.version))
}

fn required_version(applied: &[Applied]) -> i32 {
    applied.iter().filter(|row| row.track == "required").map(|row| row.version).max().unwrap_or(0)
}

async fn record(transaction: &Transaction<'_>, migration: &Migration, track: &str) -> Result<(), StoreError> {
    transaction
        .execute(
            "INSERT INTO otel.otel_migrations (version, name, track, checksum) VALUES ($1, $2, $3, $4)
             ON CONFLICT (version) DO NOTHING",
            &[&migration.version, &migration.name, &track, &migration.checksum()],
        )
        .await?;
    if let Some(works_with) = &migration.works_with {
        let mark = "UPDATE otel.otel_migrations SET works_with = $2 WHERE version = $1";
        transaction.execute(mark, &[&migration.version, works_with]).await?;
    }
    Ok(())
}

fn known(row: &Applied) -> Option<&'static Migration> {
    REQUIRED.iter().chain(DEFERRED).find(|migration| migration.version == row.version)
}

/// Required migrations that this program does not know and need not.
fn newer(applied: &[Applied]) -> Vec<String> {
    let newer = applied.iter().filter(|row| row.track == "required" && known(row).is_none() && row.may_be_unknown());
    newer.map(Applied::full_name).collect()
}

fn verify(applied: &[Applied]) -> Result<(), StoreError> {
    for row in applied {
        match known(row) {
            Some(migration) if migration.checksum() == row.checksum => {}
            Some(_) => {
                return Err(StoreError::misconfigured(format!(
                    "the database's migration {} is not the one this program has: it was made by another build",
                    row.full_name()
                )));
            }
            None if row.may_be_unknown() => {}
            None => {
                return Err(StoreError::misconfigured(format!(
                    "the database has migration {}, newer than this program knows ({SCHEMA_VERSION:04}): use a newer \
                     oneiric-otel",
                    row.full_name()
                )));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_migration_has_a_number_of_its_own_and_required_ones_rise() {
        let all: Vec<i32> = REQUIRED.iter().chain(DEFERRED).map(|migration| migration.version).collect();
        assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len(), "{all:?}");
        assert!(REQUIRED.is_sorted_by_key(|migration| migration.version));
        // Programs that look for the mark have migration 12.
        assert!(
            REQUIRED
                .iter()
                .all(|migration| migration.works_with.is_none_or(|least| (12..migration.version).contains(&least)))
        );
    }
}
