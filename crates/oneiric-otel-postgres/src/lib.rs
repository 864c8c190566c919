//! A private PostgreSQL server: created, started, shared by several processes, and stopped by the last of them.
//!
//! [`Server::attach_or_start`] takes an installation (see the crate `oneiric-otel-parts`) and a data directory and
//! returns when the server takes connections. It listens on a Unix socket only, asks for a random password, and keeps
//! what it has acknowledged: fsync, full page writes and data checksums are on.
//!
//! Promises: whatever is killed when, the next call finds a working server and everything that was committed; a data
//! directory of another major version is never touched; as root, the server runs as an unprivileged user.
//!
//! This crate must not know what is stored: there is a database `otel` and a superuser `oneiric`, and no table. It
//! blocks and knows no async runtime; it never prints.
//!
//! # Environment
//! `ONEIRIC_OTEL_POSTGRES_USER`: as root, the existing user to run the server as. Default: the owner of the data
//! directory, else `postgres`, else `nobody`.

mod account;
mod cluster;
mod connection;
mod error;
mod installation;
mod layout;
mod lock;
mod postmaster;
mod server;
mod server_log;
mod settings;

pub use connection::ConnectionInfo;
pub use error::PostgresError;
pub use server::{Options, Server, Status};
