//! How an installation tells a waiting person what it is doing.
//!
//! This crate reports through [`Progress`] and never prints. It must not know about terminals or progress bars.

/// Receives the steps of an installation. Steps do not overlap: `begin`, any number of `advance`, `finish`.
pub trait Progress: Send + Sync {
    /// A step starts. `total_bytes` is its size where that is known beforehand.
    fn begin(&self, what: &str, total_bytes: Option<u64>);
    /// `bytes` more are done. The sum never exceeds the total that `begin` named.
    fn advance(&self, bytes: u64);
    /// The step is over, well or not.
    fn finish(&self);
    /// Something worth knowing that is not a step, such as which PostgreSQL was chosen and why.
    fn note(&self, _text: &str) {}
}

/// Shows nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Progress for Silent {
    fn begin(&self, _what: &str, _total_bytes: Option<u64>) {}
    fn advance(&self, _bytes: u64) {}
    fn finish(&self) {}
}
