//! What is said about records that were not stored, and what is counted.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::{Accepted, Refused};
use crate::otlp::{Signal, Undecodable};
use crate::store::TemplateCounts;

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

    /// Adds what comes after these.
    pub(crate) fn append(&mut self, other: Self) {
        self.records += other.records;
        self.more += other.more;
        for reason in other.reasons {
            if self.reasons.len() < SPELLED_OUT {
                self.reasons.push(reason);
            } else {
                self.more += 1;
            }
        }
    }

    pub(crate) fn add_undecodable(&mut self, undecodable: &[Undecodable]) {
        for one in undecodable {
            self.add(&one.path, &one.reason, one.records);
        }
    }

    /// How many records.
    pub(crate) fn records(&self) -> u64 {
        self.records
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

/// Upper bounds of the classes of [`Latencies`], in seconds.
const LATENCY_BOUNDS: [f64; 12] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0];

/// Counters of the write path since the start of the process.
#[derive(Debug, Default)]
pub struct IngestCounters {
    requests: BySignal,
    records: BySignal,
    written: BySignal,
    rejected: AtomicU64,
    malformed: AtomicU64,
    unavailable: AtomicU64,
    duplicates: AtomicU64,
    own: AtomicU64,
    dropped: AtomicU64,
    switched_off: AtomicU64,
    retries: AtomicU64,
    failed_batches: AtomicU64,
    written_batches: BySignal,
    latencies: LatencyCounters,
    dead_letters: Mutex<BTreeMap<&'static str, u64>>,
}

#[derive(Debug, Default)]
struct BySignal([AtomicU64; Signal::ALL.len()]);

impl BySignal {
    fn add(&self, signal: Signal, count: u64) {
        self.0[signal as usize].fetch_add(count, Ordering::Relaxed);
    }

    fn read(&self) -> BTreeMap<&'static str, u64> {
        Signal::ALL.iter().map(|signal| (signal.as_str(), self.0[*signal as usize].load(Ordering::Relaxed))).collect()
    }
}

#[derive(Debug, Default)]
struct LatencyCounters {
    /// One more than there are bounds: the last is for what took longer.
    classes: [AtomicU64; LATENCY_BOUNDS.len() + 1],
    micros: AtomicU64,
}

/// How long transactions took, from the first statement to the commit.
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize)]
pub struct Latencies {
    /// For each upper bound in seconds how many took at most that long.
    pub at_most: Vec<(f64, u64)>,
    /// How many there were.
    pub count: u64,
    /// Seconds that they took together.
    pub sum_seconds: f64,
}

/// The values of [`IngestCounters`] at one moment.
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize)]
pub struct IngestCounts {
    /// Requests answered with success, by signal.
    pub requests: BTreeMap<&'static str, u64>,
    /// Records acknowledged, by signal.
    pub records: BTreeMap<&'static str, u64>,
    /// Records committed, by signal: those of a request that was stored before do not count.
    pub written_records: BTreeMap<&'static str, u64>,
    /// Records rejected.
    pub rejected_records: u64,
    /// Requests refused as malformed.
    pub malformed_requests: u64,
    /// Requests refused because no promise could be given at the time.
    pub unavailable_requests: u64,
    /// Requests that were stored before.
    pub duplicate_requests: u64,
    /// Of `requests`, those with telemetry of this process.
    pub own_requests: u64,
    /// Records that were acknowledged and dropped: only with [`super::Ack::Memory`].
    pub dropped_records: u64,
    /// Of `rejected_records`, those of signals that are not stored: see [`super::StoredSignals`].
    pub switched_off_records: u64,
    /// Records that became dead letters, by class of error.
    pub dead_letters: BTreeMap<&'static str, u64>,
    /// Transactions that were tried again.
    pub write_retries: u64,
    /// Batches that failed with their retries used up.
    pub failed_batches: u64,
    /// Transactions that were committed.
    pub write_latency: Latencies,
    /// Templates of log records that were new.
    pub log_templates: TemplateCounts,
}

impl IngestCounts {
    /// Requests of others that were answered with success.
    pub fn requests_of_others(&self) -> u64 {
        self.requests.values().sum::<u64>().saturating_sub(self.own_requests)
    }
}

impl IngestCounters {
    pub(crate) fn accepted(&self, signal: Signal, accepted: &Accepted) {
        self.requests.add(signal, 1);
        self.records.add(signal, accepted.records);
        self.rejected.fetch_add(accepted.rejected, Ordering::Relaxed);
    }

    pub(crate) fn refused(&self, signal: Signal, refused: &Refused) {
        match refused {
            Refused::Malformed { .. } => &self.malformed,
            Refused::Unavailable { .. } => &self.unavailable,
        }
        .fetch_add(1, Ordering::Relaxed);
        tracing::debug!(signal = signal.as_str(), reason = %refused, "refused a request");
    }

    pub(crate) fn written(&self, signal: Signal, records: u64) {
        self.written.add(signal, records);
    }

    pub(crate) fn duplicate_request(&self) {
        self.duplicates.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn own_request(&self) {
        self.own.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn dropped(&self, records: u64) {
        self.dropped.fetch_add(records, Ordering::Relaxed);
    }

    pub(crate) fn switched_off(&self, records: u64) {
        self.switched_off.fetch_add(records, Ordering::Relaxed);
    }

    pub(crate) fn dead_lettered(&self, class: &'static str, records: u64) {
        if records > 0 {
            *self.dead_letters.lock().unwrap_or_else(PoisonError::into_inner).entry(class).or_default() += records;
        }
    }

    pub(crate) fn retried(&self) {
        self.retries.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn batch_failed(&self) {
        self.failed_batches.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn batch_written(&self, signal: Signal, took: Duration) {
        self.written_batches.add(signal, 1);
        let class = LATENCY_BOUNDS.partition_point(|bound| *bound < took.as_secs_f64());
        self.latencies.classes[class].fetch_add(1, Ordering::Relaxed);
        self.latencies.micros.fetch_add(u64::try_from(took.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Batches that were committed.
    pub(crate) fn written_batches(&self) -> u64 {
        Signal::ALL.iter().map(|signal| self.written_batches_of(*signal)).sum()
    }

    /// Those of a signal.
    pub(crate) fn written_batches_of(&self, signal: Signal) -> u64 {
        self.written_batches.0[signal as usize].load(Ordering::Relaxed)
    }

    /// The values now.
    pub fn counts(&self) -> IngestCounts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        IngestCounts {
            requests: self.requests.read(),
            records: self.records.read(),
            written_records: self.written.read(),
            rejected_records: read(&self.rejected),
            malformed_requests: read(&self.malformed),
            unavailable_requests: read(&self.unavailable),
            duplicate_requests: read(&self.duplicates),
            own_requests: read(&self.own),
            dropped_records: read(&self.dropped),
            switched_off_records: read(&self.switched_off),
            dead_letters: self.dead_letters.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            write_retries: read(&self.retries),
            failed_batches: read(&self.failed_batches),
            write_latency: self.latencies.read(),
            // The store counts these.
            log_templates: TemplateCounts::default(),
        }
    }
}

impl LatencyCounters {
    fn read(&self) -> Latencies {
        let mut count = 0;
        let mut at_most = Vec::with_capacity(LATENCY_BOUNDS.len());
        for (class, counter) in self.classes.iter().enumerate() {
            count += counter.load(Ordering::Relaxed);
            at_most.extend(LATENCY_BOUNDS.get(class).map(|bound| (*bound, count)));
        }
        let sum_seconds = Duration::from_micros(self.micros.load(Ordering::Relaxed)).as_secs_f64();
        Latencies { at_most, count, sum_seconds }
    }
}
