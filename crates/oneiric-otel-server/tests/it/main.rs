//! Integration tests of the receivers: real sockets, real clients, a real PostgreSQL, and what SQL counts afterwards.
#![expect(clippy::unwrap_used, reason = "a failed step is a failed test")]

mod conformance;
mod hostile;
mod lifecycle;
mod messages;
mod nezha;
mod python;
mod sdk;
mod security;
mod serving;
mod wire;
