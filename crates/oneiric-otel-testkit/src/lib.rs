//! What the tests, benches and examples of oneiric-otel stand on: real databases, real data, real clients.
//!
//! Everything here drives real components; nothing is simulated. This crate must not know how oneiric-otel stores or
//! finds anything: it sees a PostgreSQL from outside, and OTLP on the wire.

#[cfg(feature = "harness")]
pub mod arbitrary;
#[cfg(feature = "harness")]
pub mod certificates;
pub mod data;
#[cfg(feature = "harness")]
pub mod database;
#[cfg(feature = "harness")]
mod embedded;
pub mod nezha;
mod otlp;
#[cfg(feature = "harness")]
mod owner;
#[cfg(feature = "harness")]
pub mod python;
#[cfg(all(test, feature = "harness"))]
mod receiver;
#[cfg(feature = "send")]
pub mod send;
#[cfg(feature = "harness")]
mod server;
pub mod who_and_when;
#[cfg(feature = "harness")]
pub mod wire;

#[cfg(feature = "harness")]
pub use database::{TestDatabase, TestRole};
#[cfg(feature = "harness")]
pub use server::Version;
