//! PostgreSQL: connections, schema, rows in and rows out.
//!
//! The only module that knows tables and SQLSTATEs. It knows nothing of receivers, retries or rendering: every call is
//! one attempt, and its [`StoreError`] says which [class](ErrorClass) of trouble it met.

pub(crate) mod attributes;
mod batch;
mod buckets;
pub(crate) mod catalogue;
mod census;
pub(crate) mod context;
mod copy;
mod database;
mod dead_letters;
mod dimensions;
pub(crate) mod embeddings;
mod error;
pub(crate) mod errors;
pub(crate) mod export;
mod fallback;
mod fidelity;
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing;
mod leases;
pub(crate) mod logs;
pub(crate) mod marks;
pub(crate) mod metrics;
mod migrate;
pub(crate) mod model_switch;
pub(crate) mod outdated;
mod partitions;
mod read;
mod reader;
mod residue;
pub mod retention;
mod roles;
pub(crate) mod rollups;
pub(crate) mod rows;
pub(crate) mod sample;
pub(crate) mod search;
mod series;
mod series_cap;
pub(crate) mod span_list;
mod spans;
mod spools;
pub(crate) mod sql;
pub(crate) mod template_vectors;
pub(crate) mod templates;
pub(crate) mod text_words;
pub(crate) mod texts;
mod tls;
pub(crate) mod traces;
mod tree;
mod vector_index;
mod write;

pub use census::{Census, Collecting, ModelChange};
pub use database::{Database, DatabaseStatus};
pub use dead_letters::{DeadLetterEntry, DeadLetterFilter, MANY_DEAD_LETTERS, Replayed};
pub use error::{ErrorClass, StoreError};
pub use fallback::Fallback;
pub use migrate::{MigrationState, SCHEMA_VERSION};
pub use read::Stored;
pub use roles::{Granted, Grantees};
pub use series_cap::MAX_METRIC_SERIES;
pub use spools::SpoolNote;
pub use sql::{SqlColumn, SqlError, SqlReader, Truncated, reader_grants};
pub use templates::TemplateCounts;

pub(crate) use batch::{Batch, LogTemplate, Owner, References, Series, Touch};
pub(crate) use copy::{Micros, Rows};
pub(crate) use dead_letters::DeadLetter;
pub(crate) use dimensions::service_name;
pub(crate) use leases::{EMBEDDING, Lease, MAINTENANCE};
pub(crate) use partitions::Partitions;
pub(crate) use residue::prefix;
pub(crate) use series_cap::SERIES_LIMIT;
pub(crate) use write::{Render, Store, Written};
