//! OpenTelemetry traces, metrics and logs stored directly in PostgreSQL + pgvector, and found again by meaning, by SQL
//! and by time.
//!
//! ```text
//!            bytes                 records               rows
//! receiver ────────▶ otlp::decode ────────▶ pipeline ────────▶ store ──▶ PostgreSQL
//!                                                                           │
//!                    query ◀── store ◀── rows                 derive ◀──────┤ touched traces
//!                                                             embed  ◀──────┘ new texts
//! ```
//!
//! Only this crate talks to PostgreSQL. It knows no socket and no command line: receivers hand it bytes through
//! [`pipeline::Ingest`], applications their records through [`storage::OtelStorage`], and a model reaches it through
//! [`embed::Embedder`].

pub mod compare;
pub mod conventions;
pub mod derive;
pub mod embed;
#[cfg(feature = "forward")]
pub mod forward;
pub mod manager;
pub mod otlp;
pub mod pipeline;
pub mod query;
pub mod retention;
pub mod rollup;
pub mod self_trace;
pub mod settings;
pub mod storage;
pub mod store;
pub mod system;
