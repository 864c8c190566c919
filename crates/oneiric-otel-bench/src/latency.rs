//! How long things took: from the first byte of a request to its acknowledgement, or from a question to its answer.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Times, kept whole: four bytes each.
#[derive(Debug, Default)]
pub struct Latencies {
    micros: Vec<u32>,
}

/// What is told of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Quantiles {
    /// The median, in milliseconds.
    pub p50_ms: f64,
    /// 99 of 100 were at most this.
    pub p99_ms: f64,
    /// The longest.
    pub max_ms: f64,
}

impl Latencies {
    /// Adds one.
    pub fn add(&mut self, latency: Duration) {
        self.micros.push(u32::try_from(latency.as_micros()).unwrap_or(u32::MAX));
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.micros.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.micros.is_empty()
    }

    /// Adds all of another.
    pub fn append(&mut self, other: &Self) {
        self.micros.extend_from_slice(&other.micros);
    }

    /// By nearest rank; zeros when there are none.
    pub fn quantiles(mut self) -> Quantiles {
        self.micros.sort_unstable();
        let at = |share: f64| {
            let rank = (share * self.micros.len() as f64).ceil() as usize;
            self.micros.get(rank.saturating_sub(1)).map_or(0.0, |micros| f64::from(*micros) / 1000.0)
        };
        Quantiles { p50_ms: at(0.5), p99_ms: at(0.99), max_ms: at(1.0) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(clippy::float_cmp, reason = "whole milliseconds are exact")]
    fn quantiles_are_by_nearest_rank() {
        let mut latencies = Latencies::default();
        (1..=200).rev().for_each(|ms| latencies.add(Duration::from_millis(ms)));
        let quantiles = latencies.quantiles();
        assert_eq!((quantiles.p50_ms, quantiles.p99_ms, quantiles.max_ms), (100.0, 198.0, 200.0));
        assert_eq!(Latencies::default().quantiles().max_ms, 0.0);
    }
}
