//! What was accepted and is not durable yet: bounded by its bytes, filled without waiting, emptied by the worker.
//!
//! Promises: adding never waits for the database or a disk, and takes a lock only for a push. Every entry is answered
//! exactly once; one that is dropped with its task is answered by that. Its bytes count until then, wherever it is.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use opentelemetry_proto::tonic::logs::v1::LogRecord;
use opentelemetry_proto::tonic::metrics::v1::Metric;
use opentelemetry_proto::tonic::trace::v1::Span;
use tokio::sync::{Notify, oneshot};
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::error::{NotStored, StorageError, StoreRefused};
use super::health::QueueReport;
use super::metric::MetricData;
use super::receipt::{Outcome, Receipt};
use super::record::{Batch, LogEntry, TraceData};
use super::weight::Weight;
use crate::otlp::Group;

/// How long the worker looks for entries by itself after the last one.
const LULL: Duration = Duration::from_secs(2);
/// And how often at most.
const SHORTEST_NAP: Duration = Duration::from_millis(5);
/// What an entry takes besides its records.
const ENTRY_BYTES: usize = size_of::<Entry>() + 64;

/// Records of one signal, as they were handed over.
#[derive(Debug)]
pub(super) enum Records {
    Traces(Vec<TraceData>),
    Metrics(Vec<MetricData>),
    Logs(Vec<LogEntry>),
    SpanGroups(Vec<Group<Span>>),
    MetricGroups(Vec<Group<Metric>>),
    LogGroups(Vec<Group<LogRecord>>),
}

impl Records {
    /// What a call hands over: at least one part, so that there is something to answer.
    pub(super) fn of(batch: Batch) -> Vec<Self> {
        let Batch { traces, metrics, logs } = batch;
        let parts = [
            (!traces.is_empty()).then_some(Self::Traces(traces)),
            (!metrics.is_empty()).then_some(Self::Metrics(metrics)),
            (!logs.is_empty()).then_some(Self::Logs(logs)),
        ];
        let mut call: Vec<Self> = parts.into_iter().flatten().collect();
        if call.is_empty() {
            call.push(Self::Logs(Vec::new()));
        }
        call
    }

    /// Whether there are none.
    #[cfg(feature = "sdk")]
    pub(super) fn is_empty(&self) -> bool {
        self.count() == 0
    }

    /// How many there are.
    pub(super) fn count(&self) -> u64 {
        self.measure().1
    }

    /// Bytes in memory, about, and how many there are. Also nothing takes room.
    fn measure(&self) -> (usize, u64) {
        let (bytes, records) = match self {
            Self::Traces(records) => (records.weight(), records.count()),
            Self::Metrics(records) => (records.weight(), records.count()),
            Self::Logs(records) => (records.weight(), records.count()),
            Self::SpanGroups(records) => (records.weight(), records.count()),
            Self::MetricGroups(records) => (records.weight(), records.count()),
            Self::LogGroups(records) => (records.weight(), records.count()),
        };
        (bytes + ENTRY_BYTES, records)
    }
}

/// Records of one call that wait.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) records: Records,
    pub(super) reply: Reply,
    pub(super) since: Instant,
}

/// Bounds on what waits.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// Bytes in memory.
    pub(super) bytes: usize,
    /// Entries, of which the oldest is dropped when there are more; without it what does not fit is refused.
    pub(super) newest: Option<usize>,
}

/// The queue. Shared by the adapter and its worker.
#[derive(Debug)]
pub(super) struct Queue {
    bounds: Bounds,
    state: Mutex<State>,
    /// There is something to do, or the queue was closed.
    filled: Notify,
    /// What is there is wanted at once.
    hurry: Notify,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<Entry>,
    /// Of what is not answered, also where it does not wait here any more.
    bytes: usize,
    records: u64,
    closed: Option<StoreRefused>,
    /// The worker looks for work when it is woken.
    is_idle: bool,
    /// Entries since the last flush, and those of earlier ones that are not answered yet.
    epoch: Arc<Epoch>,
    earlier: Vec<Arc<Epoch>>,
    counts: Counts,
}

#[derive(Debug, Default, Clone, Copy)]
struct Counts {
    accepted: u64,
    refused: u64,
    dropped: u64,
    not_stored: u64,
}

/// Entries between two flushes.
#[derive(Debug, Default)]
struct Epoch {
    tracker: TaskTracker,
    failed: Mutex<Option<(u64, NotStored)>>,
}

/// The one answer to an entry.
#[derive(Debug)]
pub(super) struct Reply {
    sender: Option<oneshot::Sender<Outcome>>,
    queue: Arc<Queue>,
    epoch: Arc<Epoch>,
    bytes: usize,
    records: u64,
    _token: TaskTrackerToken,
}

impl Queue {
    pub(super) fn new(bounds: Bounds) -> Arc<Self> {
        let (filled, hurry) = (Notify::new(), Notify::new());
        Arc::new(Self { bounds, state: Mutex::default(), filled, hurry })
    }

    /// Takes the records of a call in, all or none; what is refused stays in `call`.
    pub(super) fn push(self: &Arc<Self>, call: &mut Vec<Records>) -> Result<Receipt, StoreRefused> {
        let now = Instant::now();
        let sizes: Vec<(usize, u64)> = call.iter().map(Records::measure).collect();
        let (bytes, records) = sizes.iter().fold((0, 0), |(bytes, records), one| (bytes + one.0, records + one.1));
        let mut receivers = Vec::with_capacity(call.len());
        let mut displaced = Vec::new();
        let mut state = self.lock();
        if let Err(refused) = self.admit(&mut state, bytes, call.len(), &mut displaced) {
            state.counts.refused += records;
            return Err(refused);
        }
        state.bytes += bytes;
        state.records += records;
        state.counts.accepted += records;
        for (part, (bytes, records)) in call.drain(..).zip(sizes) {
            let (sender, receiver) = oneshot::channel();
            receivers.push(receiver);
            let epoch = Arc::clone(&state.epoch);
            let token = epoch.tracker.token();
            let reply = Reply { sender: Some(sender), queue: Arc::clone(self), epoch, bytes, records, _token: token };
            state.waiting.push_back(Entry { records: part, reply, since: now });
        }
        let wake = std::mem::replace(&mut state.is_idle, false);
        drop(state);
        if wake {
            self.filled.notify_one();
        }
        for entry in displaced {
            entry.reply.resolve(Err(NotStored::Dropped));
        }
        Ok(Receipt::new(receivers))
    }

    fn admit(
        &self,
        state: &mut State,
        bytes: usize,
        entries: usize,
        displaced: &mut Vec<Entry>,
    ) -> Result<(), StoreRefused> {
        let Bounds { bytes: max_bytes, newest } = self.bounds;
        if let Some(refused) = &state.closed {
            return Err(refused.clone());
        }
        if bytes > max_bytes {
            return Err(StoreRefused::TooLarge { bytes, max_bytes });
        }
        let Some(newest) = newest else {
            if state.bytes + bytes > max_bytes {
                return Err(StoreRefused::QueueFull { records: state.records, bytes: state.bytes, max_bytes });
            }
            return Ok(());
        };
        let mut freed = 0;
        while (state.waiting.len() + entries > newest || state.bytes - freed + bytes > max_bytes)
            && let Some(oldest) = state.waiting.pop_front()
        {
            freed += oldest.reply.bytes;
            displaced.push(oldest);
        }
        Ok(())
    }

    /// What waits, up to so many bytes but at least one entry; none when the queue is closed and empty. An entry waits for
    /// others up to `gather`, unless somebody is in a hurry.
    pub(super) async fn take(&self, bytes: usize, gather: Duration) -> Option<Vec<Entry>> {
        let gathered = self.wait_for_work(gather).await?;
        if !gathered && !self.is_enough(bytes) {
            self.nap(gather).await;
        }
        let mut state = self.lock();
        let mut taken = Vec::new();
        let mut sum = 0;
        while let Some(next) = state.waiting.front() {
            sum += next.reply.bytes;
            if sum > bytes && !taken.is_empty() {
                break;
            }
            taken.extend(state.waiting.pop_front());
        }
        Some(taken)
    }

    /// Waits until something is there, and says whether it may have waited for `gather` by then; none when the queue is
    /// closed and empty.
    ///
    /// To wake a thread that sleeps costs a caller several times what the rest of its call does. So the worker looks by
    /// itself while calls come, and wants to be woken only after a while without any.
    async fn wait_for_work(&self, gather: Duration) -> Option<bool> {
        let mut lull = Duration::ZERO;
        loop {
            let filled = self.filled.notified();
            let is_idle = {
                let mut state = self.lock();
                state.is_idle = false;
                if !state.waiting.is_empty() {
                    return Some(lull > Duration::ZERO);
                }
                if state.closed.is_some() {
                    return None;
                }
                // Who waits for nobody is woken by everybody.
                state.is_idle = lull >= LULL || gather.is_zero();
                state.is_idle
            };
            if is_idle {
                filled.await;
                lull = Duration::ZERO;
            } else {
                let pause = gather.max(SHORTEST_NAP);
                self.nap(pause).await;
                lull += pause;
            }
        }
    }

    async fn nap(&self, pause: Duration) {
        tokio::select! {
            () = self.hurry.notified() => {}
            () = tokio::time::sleep(pause) => {}
        }
    }

    fn is_enough(&self, bytes: usize) -> bool {
        let state = self.lock();
        state.closed.is_some() || state.waiting.iter().map(|entry| entry.reply.bytes).sum::<usize>() >= bytes
    }

    /// Waits until everything that was accepted before this call is answered. Says what was not stored of what nobody
    /// asked about in a flush before.
    pub(super) async fn settle(&self) -> Result<(), (u64, NotStored)> {
        let epochs = {
            let mut state = self.lock();
            let epoch = std::mem::take(&mut state.epoch);
            epoch.tracker.close();
            state.earlier.push(epoch);
            state.earlier.clone()
        };
        self.hurry.notify_one();
        let mut failed: Option<(u64, NotStored)> = None;
        for epoch in &epochs {
            epoch.tracker.wait().await;
            if let Some((records, reason)) = lock(&epoch.failed).take() {
                let before = failed.map_or(0, |(records, _)| records);
                failed = Some((before + records, reason));
            }
        }
        self.lock().earlier.retain(|epoch| !epoch.tracker.is_empty());
        failed.map_or(Ok(()), Err)
    }

    /// As [`Self::settle`], for a caller: a queue that is closed is an error too.
    pub(super) async fn flush(&self) -> Result<(), StorageError> {
        let settled = self.settle().await;
        match (self.closed(), settled) {
            (_, Err((records, reason))) => Err(StorageError::NotStored { records, reason }),
            (Some(_), Ok(())) => Err(StorageError::Closed),
            (None, Ok(())) => Ok(()),
        }
    }

    /// As [`Self::settle`], for so long.
    pub(super) async fn settle_within(&self, within: Duration) -> Result<(), StorageError> {
        match tokio::time::timeout(within, self.settle()).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err((records, reason))) => Err(StorageError::NotStored { records, reason }),
            Err(_) => Err(StorageError::TimedOut { within }),
        }
    }

    /// Refuses what comes from now on for this reason. What waits is still taken.
    pub(super) fn close(&self, reason: StoreRefused) {
        self.lock().closed.get_or_insert(reason);
        self.filled.notify_one();
        self.hurry.notify_one();
    }

    /// Why nothing is taken any more, if so.
    pub(super) fn closed(&self) -> Option<StoreRefused> {
        self.lock().closed.clone()
    }

    /// Drops what waits, which answers it.
    pub(super) fn clear(&self) {
        let waiting = std::mem::take(&mut self.lock().waiting);
        drop(waiting);
    }

    /// The queue now.
    pub(super) fn report(&self) -> QueueReport {
        let state = self.lock();
        let Counts { accepted, refused, dropped, not_stored } = state.counts;
        QueueReport {
            records: state.records,
            bytes: state.bytes,
            max_bytes: self.bounds.bytes,
            accepted_records: accepted,
            refused_records: refused,
            dropped_records: dropped,
            not_stored_records: not_stored,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

impl Reply {
    /// Answers.
    pub(super) fn resolve(mut self, outcome: Outcome) {
        self.answer(outcome);
    }

    fn answer(&mut self, outcome: Outcome) {
        let Some(sender) = self.sender.take() else { return };
        // What can never be stored as it is, is no failure of ours.
        if let Err(reason) = &outcome
            && !matches!(reason, NotStored::Rejected { .. })
        {
            let mut failed = lock(&self.epoch.failed);
            let before = failed.as_ref().map_or(0, |(records, _)| *records);
            *failed = Some((before + self.records, reason.clone()));
        }
        {
            let mut state = self.queue.lock();
            state.bytes -= self.bytes;
            state.records -= self.records;
            match &outcome {
                Err(NotStored::Dropped) => state.counts.dropped += self.records,
                Err(_) => state.counts.not_stored += self.records,
                Ok(acknowledged) => state.counts.not_stored += acknowledged.rejected,
            }
        }
        // Who dropped the receipt does not want to know.
        drop(sender.send(outcome));
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        self.answer(Err(NotStored::Interrupted));
    }
}

/// A panic with a lock in hand leaves nothing half done here.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GATHER: Duration = Duration::from_millis(10);

    fn queue() -> Arc<Queue> {
        Queue::new(Bounds { bytes: 1 << 20, newest: None })
    }

    fn push(queue: &Arc<Queue>) -> Receipt {
        queue.push(&mut vec![Records::Logs(vec![LogEntry::new(crate::storage::Level::Info, "one")])]).expect("room")
    }

    fn worker(queue: &Arc<Queue>) -> tokio::task::JoinHandle<Option<usize>> {
        let queue = Arc::clone(queue);
        tokio::spawn(async move { queue.take(usize::MAX, GATHER).await.map(|taken| taken.len()) })
    }

    #[test]
    fn calls_with_nothing_in_them_take_room_too() {
        let queue = queue();
        let mut accepted = 0;
        while let Ok(receipt) = queue.push(&mut Records::of(Batch::default())) {
            drop(receipt);
            accepted += 1;
        }
        assert!((1000..20_000).contains(&accepted), "{accepted}");
    }

    #[tokio::test(start_paused = true)]
    async fn the_worker_wants_to_be_woken_only_after_a_lull() {
        let queue = queue();
        let worker = worker(&queue);
        tokio::time::sleep(LULL / 2).await;
        assert!(!queue.lock().is_idle, "it looks by itself");
        tokio::time::sleep(LULL).await;
        assert!(queue.lock().is_idle);
        let began = tokio::time::Instant::now();
        drop((push(&queue), push(&queue)));
        assert_eq!(worker.await.expect("no panic"), Some(2));
        assert_eq!(began.elapsed(), GATHER, "one waited for the other");
    }

    #[tokio::test(start_paused = true)]
    async fn what_comes_while_it_looks_waits_no_longer_than_to_gather() {
        let queue = queue();
        let worker = worker(&queue);
        tokio::time::sleep(GATHER + GATHER / 2).await;
        let began = tokio::time::Instant::now();
        drop(push(&queue));
        assert_eq!(worker.await.expect("no panic"), Some(1));
        assert!(began.elapsed() <= GATHER, "{:?}", began.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_in_a_hurry_and_who_closes_wait_for_no_pause() {
        let queue = queue();
        let hurried = worker(&queue);
        tokio::time::sleep(GATHER / 2).await;
        let began = tokio::time::Instant::now();
        drop(push(&queue));
        queue.hurry.notify_one();
        assert_eq!(hurried.await.expect("no panic"), Some(1));
        let ended = worker(&queue);
        tokio::task::yield_now().await;
        queue.close(StoreRefused::Closed);
        assert_eq!(ended.await.expect("no panic"), None);
        assert_eq!(began.elapsed(), Duration::ZERO);
    }
}
