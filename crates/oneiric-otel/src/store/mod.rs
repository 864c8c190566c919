//! PostgreSQL: connections, schema, rows in and rows out.
//!
//! The only module that knows tables and SQLSTATEs. It knows nothing of receivers, retries or rendering: every call is
//! one attempt, and its [`StoreError`] says which [class](ErrorClass) of trouble it met.

mod database;
mod error;
mod migrate;

pub use database::{Client, Database, DatabaseStatus};
pub use error::{ErrorClass, StoreError};
pub use migrate::{MigrationState, SCHEMA_VERSION};
