//! The demo's simulated system: what happens in it, as plain data, and what is asked about it.
//!
//! The command `demo` sends it through real SDKs; `bench search` measures on it.

mod agent;
pub mod plan;
pub mod searches;
pub mod shop;

pub use agent::AGENT;

/// The plan that the demo plays.
pub const SEED: u64 = 20_261_117;
