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
//! Only this crate talks to PostgreSQL. It knows no socket, no command line and no model runtime: receivers hand it
//! bytes through [`pipeline::Ingest`], and a model reaches it through [`embed::Embedder`].

pub mod conventions;
pub mod derive;
pub mod embed;
pub mod otlp;
pub mod pipeline;
pub mod query;
pub mod rollup;
pub mod self_trace;
pub mod settings;
pub mod store;
