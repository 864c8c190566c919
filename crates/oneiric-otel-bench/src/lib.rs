//! Benchmarks that anyone can run: `oneiric-otel bench`.
//!
//! Promises: what is measured is the product as users run it, on a real database; ratios are measured side by side in one
//! run; what is printed can also be had as JSON. It knows nothing of the command line.

pub mod database;
pub mod demo;
pub mod embed;
pub mod fill;
pub mod generate;
pub mod growth;
pub mod ingest;
pub mod latency;
pub mod load;
pub mod machine;
mod meter;
pub mod process;
pub mod questions;
pub mod retention;
pub mod search;
mod sender;
pub mod series;
pub mod server;
pub mod size;
pub mod standard;
pub mod startup;
