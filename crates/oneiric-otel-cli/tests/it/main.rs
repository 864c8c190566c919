//! The real binary against real databases, one file per behaviour.
#![expect(clippy::unwrap_used, reason = "a failed step is a failed test")]

mod api;
mod backup;
mod bad_input;
mod bench;
mod bench_long;
mod cli;
mod compare;
mod config;
mod demo;
mod dlq;
mod export;
mod forward;
mod guide;
mod import;
mod own_traces;
mod queries;
mod questions;
mod readme;
mod retention;
mod roles;
mod security;
mod serve;
mod sql;
mod tour;
mod workflow;
