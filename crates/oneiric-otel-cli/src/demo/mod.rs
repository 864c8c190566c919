//! The demo's simulated system: what happens in it, how it tells of it, and what is asked about it.

pub(crate) mod agent;
pub(crate) mod plan;
pub(crate) mod searches;
pub(crate) mod shop;
pub(crate) mod system;

/// The plan that the demo plays.
pub(crate) const SEED: u64 = 20_261_117;
