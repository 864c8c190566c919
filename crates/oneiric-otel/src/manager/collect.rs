//! The collection of counters and histograms: by a thread of its own, and when somebody asks for it.

use std::sync::atomic::Ordering;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, PoisonError, Weak};

use super::Shared;
use crate::otlp::Signal;
use crate::storage::{Batch, StorageError, StoreRefused, Temporality};

/// Delta points that wait for room at most, for each destination. The oldest give way.
const MOST_KEPT_POINTS: usize = 20_000;

impl Shared {
    /// Hands over what counters and histograms have to tell. A cumulative point that is refused is made up for by the next; a
    /// delta point for which there is no room is kept.
    pub(super) fn collect(&self) {
        let collected = self.instruments.collect();
        if self.options.temporality == Temporality::Cumulative {
            // Counted where it is refused.
            return drop(self.metrics(collected));
        }
        // After the last collection nobody comes for what was kept.
        let is_last = self.instruments.counts().closed.load(Ordering::Acquire);
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        for way in self.ways().filter(|way| self.goes(Signal::Metrics, *way)) {
            let destination = way.destination();
            let before = kept.remove(&destination).unwrap_or_default();
            let (mut waiting, mut lost) = (Vec::new(), 0);
            // One by one: together they may be more than ever fit.
            for metric in before.into_iter().chain(collected.iter().cloned()) {
                match way.take(Batch { metrics: vec![metric.clone()], ..Batch::default() }) {
                    Ok(()) => {}
                    Err(StoreRefused::QueueFull { .. }) if !is_last => waiting.push(metric),
                    Err(_) => lost += metric.points.len(),
                }
            }
            let mut points: usize = waiting.iter().map(|metric| metric.points.len()).sum();
            while points > MOST_KEPT_POINTS && !waiting.is_empty() {
                let oldest = waiting.remove(0).points.len();
                (points, lost) = (points - oldest, lost + oldest);
            }
            kept.insert(destination, waiting);
            self.count_refused(destination, lost as u64);
        }
    }

    /// Starts the thread that collects, unless there is one. It ends with the manager, which it does not keep alive.
    pub(super) fn start_collector(self: &Arc<Self>) -> Result<(), StorageError> {
        let mut collector = self.collector.lock().unwrap_or_else(PoisonError::into_inner);
        if collector.is_some() {
            return Ok(());
        }
        let (sender, ended) = mpsc::channel();
        let (shared, interval): (Weak<Self>, _) = (Arc::downgrade(self), self.options.metric_interval);
        let run = move || {
            while ended.recv_timeout(interval) == Err(RecvTimeoutError::Timeout) {
                let Some(shared) = shared.upgrade() else { return };
                shared.collect();
            }
        };
        let thread = std::thread::Builder::new().name("oneiric-otel-metrics".to_owned());
        thread.spawn(run).map_err(StorageError::Threads)?;
        *collector = Some(sender);
        Ok(())
    }
}
