//! What forwarding counts.

use std::sync::atomic::{AtomicU64, Ordering};

/// What has passed since the start, of one signal.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ForwardCounts {
    /// Requests that the endpoint took.
    pub forwarded_requests: u64,
    /// Records in them that the endpoint rejected.
    pub rejected_records: u64,
    /// Requests that the endpoint refused for good, or that stood in the way of others; they are in quarantine.
    pub refused_requests: u64,
    /// Requests that were not queued because the queue took none.
    pub dropped_requests: u64,
    /// Requests of which nothing is left: refused while the quarantine was full, or damaged on disk.
    pub lost_requests: u64,
    /// Requests that could not be read, or not be set aside, which the next process tries again.
    pub left_requests: u64,
    /// Tries that failed.
    pub failed_attempts: u64,
}

#[derive(Debug, Default)]
pub(super) struct Counters {
    forwarded: AtomicU64,
    rejected: AtomicU64,
    refused: AtomicU64,
    dropped: AtomicU64,
    lost: AtomicU64,
    left: AtomicU64,
    failed: AtomicU64,
}

fn add(counter: &AtomicU64, number: u64) {
    counter.fetch_add(number, Ordering::Relaxed);
}

impl Counters {
    pub(super) fn forwarded(&self, rejected: u64) {
        add(&self.forwarded, 1);
        add(&self.rejected, rejected);
    }

    pub(super) fn refused(&self) {
        add(&self.refused, 1);
    }

    pub(super) fn dropped(&self) {
        add(&self.dropped, 1);
    }

    pub(super) fn lost(&self) {
        add(&self.lost, 1);
    }

    pub(super) fn left(&self) {
        add(&self.left, 1);
    }

    pub(super) fn failed(&self) {
        add(&self.failed, 1);
    }

    pub(super) fn counts(&self) -> ForwardCounts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        ForwardCounts {
            forwarded_requests: read(&self.forwarded),
            rejected_records: read(&self.rejected),
            refused_requests: read(&self.refused),
            dropped_requests: read(&self.dropped),
            lost_requests: read(&self.lost),
            left_requests: read(&self.left),
            failed_attempts: read(&self.failed),
        }
    }
}
