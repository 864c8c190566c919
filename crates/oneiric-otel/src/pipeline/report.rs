//! What is said about records that were not stored, and what is counted.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use super::{Accepted, Refused};
use crate::otlp::{Signal, Undecodable};

/// Reasons that an answer spells out. The others are counted.
const SPELLED_OUT: usize = 5;

/// The records of a request that are rejected.
#[derive(Debug, Default, Clone)]
pub(crate) struct Rejections {
    records: u64,
    reasons: Vec<String>,
    more: u64,
}

impl Rejections {
    pub(crate) fn add(&mut self, path: &str, reason: &str, records: u64) {
        self.records += records;
        if self.reasons.len() < SPELLED_OUT {
            self.reasons.push(format!("{path}: {reason}"));
        } else {
            self.more += 1;
        }
    }

    pub(crate) fn add_undecodable(&mut self, undecodable: &[Undecodable]) {
        for one in undecodable {
            self.add(&one.path, &one.reason, one.records);
        }
    }

    /// The reasons in one text.
    pub(crate) fn text(&self) -> String {
        let reasons = self.reasons.join("; ");
        if self.more > 0 { format!("{reasons}; and {} more", self.more) } else { reasons }
    }

    /// The answer when `stored` records were kept.
    pub(crate) fn answer(&self, stored: u64) -> Accepted {
        Accepted { records: stored, rejected: self.records, message: self.text() }
    }
}

/// Counters of the write path since the start of the process.
#[derive(Debug, Default)]
pub struct IngestCounters {
    requests: AtomicU64,
    records: Mutex<BTreeMap<&'static str, u64>>,
    rejected: AtomicU64,
    malformed: AtomicU64,
    unavailable: AtomicU64,
    duplicates: AtomicU64,
    dead_letters: AtomicU64,
    retries: AtomicU64,
}

/// The values of [`IngestCounters`] at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct IngestCounts {
    /// Requests answered with success.
    pub requests: u64,
    /// Records stored, by signal.
    pub records: BTreeMap<String, u64>,
    /// Records rejected.
    pub rejected_records: u64,
    /// Requests refused as malformed.
    pub malformed_requests: u64,
    /// Requests refused because they could not be stored at the time.
    pub unavailable_requests: u64,
    /// Requests that were stored before.
    pub duplicate_requests: u64,
    /// Records that the database refused.
    pub dead_letters: u64,
    /// Transactions that were tried again.
    pub write_retries: u64,
}

impl IngestCounters {
    pub(crate) fn accepted(&self, signal: Signal, accepted: &Accepted) {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.rejected.fetch_add(accepted.rejected, Ordering::Relaxed);
        *self.lock().entry(signal.as_str()).or_default() += accepted.records;
    }

    pub(crate) fn refused(&self, signal: Signal, refused: &Refused) {
        match refused {
            Refused::Malformed { .. } => &self.malformed,
            Refused::Unavailable { .. } => &self.unavailable,
        }
        .fetch_add(1, Ordering::Relaxed);
        tracing::debug!(signal = signal.as_str(), reason = %refused, "refused a request");
    }

    pub(crate) fn duplicate_request(&self) {
        self.duplicates.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn dead_lettered(&self, records: u64) {
        self.dead_letters.fetch_add(records, Ordering::Relaxed);
    }

    pub(crate) fn retried(&self) {
        self.retries.fetch_add(1, Ordering::Relaxed);
    }

    /// The values now.
    pub fn counts(&self) -> IngestCounts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        IngestCounts {
            requests: read(&self.requests),
            records: self.lock().iter().map(|(signal, records)| ((*signal).to_owned(), *records)).collect(),
            rejected_records: read(&self.rejected),
            malformed_requests: read(&self.malformed),
            unavailable_requests: read(&self.unavailable),
            duplicate_requests: read(&self.duplicates),
            dead_letters: read(&self.dead_letters),
            write_retries: read(&self.retries),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<&'static str, u64>> {
        self.records.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}
