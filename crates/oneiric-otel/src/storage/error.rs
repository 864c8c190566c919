//! What can go wrong between an application and what it stores.

use std::time::Duration;

use oneiric_otel_spool::SpoolError;

use crate::settings::SettingsError;
use crate::store::StoreError;
use crate::system::BackendError;

/// Why an adapter could not be built, started, flushed or closed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StorageError {
    /// An option is not of the accepted form.
    #[error("{name}: expected {accepted}")]
    InvalidOption {
        /// The option.
        name: &'static str,
        /// What it must be.
        accepted: String,
    },
    /// Settings are not as they must be; each problem names its setting.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// It was not initialised.
    #[error("the storage is not initialised: call init() first")]
    NotInitialised,
    /// It was initialised before, or is being initialised.
    #[error("the storage is initialised already")]
    AlreadyInitialised,
    /// It was cleaned up. A new one can be built.
    #[error("the storage is closed")]
    Closed,
    /// The threads to work on could not be started.
    #[error("cannot start threads: {0}")]
    Threads(std::io::Error),
    /// It ended badly in the middle; the log says more.
    #[error("interrupted")]
    Interrupted,
    /// The database could not be used.
    #[error("database {target}: {error}")]
    Database {
        /// Host, port and database.
        target: String,
        /// What was wrong.
        error: StoreError,
    },
    /// The embedded database could not be used.
    #[error("embedded database: {0}")]
    Backend(#[from] BackendError),
    /// The spool could not be opened.
    #[error("cannot use the spool: {0}")]
    Spool(#[from] SpoolError),
    /// Records that were accepted before could not be stored.
    #[error("{records} records were not stored, the last because: {reason}")]
    NotStored {
        /// How many.
        records: u64,
        /// Why, of the last.
        reason: NotStored,
    },
    /// It is closed, though not as it should be.
    #[error("not closed well: {reason}")]
    NotClosed {
        /// What went wrong.
        reason: String,
    },
    /// It was not done in time; it goes on.
    #[error("not done within {} s", within.as_secs_f64())]
    TimedOut {
        /// The time it was given.
        within: Duration,
    },
}

/// Why records were refused at once. Nothing of them is stored, and each refusal is counted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StoreRefused {
    /// The storage is not initialised.
    #[error("the storage is not initialised: call init() first")]
    NotInitialised,
    /// The storage was cleaned up.
    #[error("the storage is closed")]
    Closed,
    /// Too much waits to be stored. Later there is room again.
    #[error("{records} records with {bytes} bytes wait to be stored; at most {max_bytes} bytes may")]
    QueueFull {
        /// Records that wait.
        records: u64,
        /// Their bytes in memory, about.
        bytes: usize,
        /// [`super::OtelStorageOptions::queue_max_bytes`].
        max_bytes: usize,
    },
    /// The records of one call are too many for the queue at any time.
    #[error("{bytes} bytes in one call; at most {max_bytes} may wait")]
    TooLarge {
        /// Their bytes in memory, about.
        bytes: usize,
        /// [`super::OtelStorageOptions::queue_max_bytes`].
        max_bytes: usize,
    },
}

/// Why records that were accepted are not stored after all. They are counted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NotStored {
    /// They can never be stored as they are.
    #[error("{reason}")]
    Rejected {
        /// What is wrong and what is accepted.
        reason: String,
    },
    /// Newer ones took their place in memory.
    #[error("dropped: too many newer records wait in memory")]
    Dropped,
    /// No promise could be given for as long as [`super::OtelStorageOptions::store_timeout`].
    #[error("given up after {} s: {reason}", after.as_secs_f64())]
    Unavailable {
        /// What was in the way.
        reason: String,
        /// How long it was tried.
        after: Duration,
    },
    /// No answer came in time. They may be stored yet.
    #[error("no answer within {} s; they may be stored yet", after.as_secs_f64())]
    TimedOut {
        /// How long it was waited.
        after: Duration,
    },
    /// The storage ended before they were durable: there was no time left, or the process has a defect.
    #[error("interrupted: the storage ended before the records were durable")]
    Interrupted,
}
