//! What the tests, benches and examples of oneiric-otel stand on: real databases, real data, real clients.
//!
//! Everything here drives real components; nothing is simulated. This crate must not know how oneiric-otel stores or
//! finds anything: it sees a PostgreSQL from outside, and OTLP on the wire.

pub mod arbitrary;
pub mod certificates;
pub mod data;
pub mod database;
mod embedded;
pub mod nezha;
mod otlp;
mod owner;
pub mod python;
#[cfg(test)]
mod receiver;
pub mod send;
mod server;
pub mod who_and_when;

pub use database::{TestDatabase, TestRole};
pub use server::Version;
