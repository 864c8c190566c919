//! A judge of the promises of `oneiric-otel serve`: it sends numbered items from many clients, remembers which requests
//! were acknowledged, breaks what it can, and then requires every acknowledged item exactly once with its exact content.
//!
//! ```text
//! content ─▶ client ──OTLP──▶ serving (processes) ──▶ proxy ──▶ postgres
//!    │          ▼                 ▲                     ▲          ▲
//!    │        ledger              └───── run ◀─ plan ───┴──────────┤
//!    └──────────┴─▶ verify ────────────────────────────────────────┘
//! ```
//!
//! It sees the server from outside: OTLP, signals, and rows. The rules by which a row is compared are written a second
//! time here.

pub mod bench;
pub mod client;
pub mod compare;
pub mod content;
pub mod crowd;
pub mod disk;
pub mod ledger;
pub mod plan;
pub mod postgres;
pub mod proxy;
pub mod report;
pub mod run;
pub mod serving;
pub mod throughput;
pub mod verify;

use oneiric_otel_bench::process;
