//! Integration tests of the library against a real PostgreSQL, one file per behaviour.
#![expect(clippy::unwrap_used, reason = "a failed step is a failed test")]

mod catalogue;
mod collecting;
mod context;
mod endpoint;
mod errors;
mod export;
mod fidelity;
mod gate;
mod leaving;
mod letters;
mod listing;
mod log_meaning;
mod logs;
mod manager;
mod metrics;
mod migrations;
mod outlet;
mod partitions;
mod patterns;
mod plans;
mod reading;
mod records;
mod roles;
mod rollups;
mod scene;
mod search;
mod span_list;
mod spooling;
mod sql;
mod sql_attacks;
mod storage;
mod tls;
mod traces;
mod views;
mod writing;
