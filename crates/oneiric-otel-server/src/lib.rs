//! The server of oneiric-otel: OTLP over gRPC and HTTP in, promises out.
//!
//! ```text
//! grpc_addr ─┐                 ┌ grpc ┐
//!            ├─▶ connection ─▶ receiver ├─▶ body: sized, budgeted, decompressed ─▶ oneiric_otel::pipeline::Ingest
//! http_addr ─┘                 └ http ┘
//! api_addr  ───▶ connection ─▶ /healthz, /readyz, pages, routes
//! ```
//!
//! Before a connection says anything there is TLS, and before a request is looked at its bearer token: see `security`.
//!
//! This crate owns sockets, protocol and limits. It looks into no request: the bytes of a message go to
//! [`oneiric_otel::pipeline::Ingest`] undecoded, and what comes back is translated to both protocols in one place.

mod address;
mod api;
mod connection;
mod crowd;
mod options;
mod receivers;
mod security;
mod server;

pub use api::{Page, Readiness, Routes};
pub use options::ServerOptions;
#[cfg(fuzzing)]
#[doc(hidden)]
pub use receivers::fuzzing;
pub use security::{Refusals, Reload, TlsFiles, TokenSource, Tokens};
pub use server::{BoundServer, Server, ServerError};
