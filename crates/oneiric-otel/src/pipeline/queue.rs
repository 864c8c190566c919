//! Requests that were admitted and are not written yet, a lane for each signal.
//!
//! # Order and fairness
//! A lane gives its oldest request first, and lanes take turns, so that a flood of one signal does not hold up another.
//! What a writer could not write comes back in halves until the request at fault is alone. A lane of which nothing can be
//! written is held for a while, so that it does not spend the breaker's patience for the others. And of four writers or
//! more it never takes the last that others might need: a table that somebody has locked stops its own signal alone.
//!
//! # Memory
//! With a spool, a lane keeps prepared only what fits in its share of memory, what failed included; the rest lies in the
//! spool, is read from there in order and prepared again. Memory is a short cut and never the truth: everything that is
//! held here is in the spool until it is released. Without a spool the number of requests is bounded.

use std::collections::VecDeque;
use std::mem;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use oneiric_otel_spool::{EntryId, Position, Spool};
use tokio::sync::{Notify, OwnedSemaphorePermit, oneshot};
use tokio::time::Instant;

use super::Refused;
use crate::otlp::{Encoding, Signal};
use crate::store::Batch;

/// How long a lane that cannot be written is held, and an entry waits that failed alone while others were written. Doubled
/// up to the longest.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// How long to leave a spool alone that could not be read.
const READ_PAUSE: Duration = Duration::from_secs(1);
/// In so many parts a lane's memory is filled from the spool.
const READ_PARTS: usize = 4;
/// How often an entry may be unreadable before the lane goes on without it.
const READ_TRIES: u32 = 3;

fn pause(failures: u32) -> Duration {
    FIRST_PAUSE.saturating_mul(1 << failures.saturating_sub(1).min(6)).min(LONGEST_PAUSE)
}

/// A request that is ready to be written.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) source: Source,
    pub(super) batch: Batch,
    /// Records that were accepted.
    pub(super) records: u64,
    /// When it was admitted, or read from the spool.
    pub(super) since: Instant,
    /// Somebody who waits for the commit.
    pub(super) reply: Option<Reply>,
}

/// The bytes of a request, for the case that the database refuses something of it.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) signal: Signal,
    pub(super) encoding: Encoding,
    /// It carries telemetry of ours.
    pub(super) own: bool,
    pub(super) place: Place,
}

/// Where the bytes of a request are.
#[derive(Debug)]
pub(super) enum Place {
    Memory(Bytes),
    Spool(EntryId),
}

/// How somebody who waits is told.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) sender: oneshot::Sender<Result<Outcome, Refused>>,
    /// The place in the queue, given back with the reply.
    pub(super) _place: OwnedSemaphorePermit,
}

/// What became of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Outcome {
    /// Records that are dead letters now.
    pub(super) refused: u64,
    /// Of these, data points of series for which there is no room.
    pub(super) limited: u64,
}

impl Entry {
    /// Bytes of memory.
    pub(super) fn memory(&self) -> usize {
        let body = match &self.source.place {
            Place::Memory(body) => body.len(),
            Place::Spool(_) => 0,
        };
        size_of::<Self>() + self.batch.memory() + body
    }

    fn rows(&self) -> usize {
        self.batch.rows.len()
    }
}

/// Entries of one signal that are written in one transaction.
#[derive(Debug)]
pub(super) struct Work {
    pub(super) signal: Signal,
    /// At least one, oldest first.
    pub(super) entries: Vec<Entry>,
    pub(super) record: FailureRecord,
}

/// How a batch has fared so far.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct FailureRecord {
    /// How often the one entry of the batch failed alone although others were written since.
    pub(super) alone: u32,
    /// How many batches of its signal had been written when it failed last; none if it did not fail yet.
    pub(super) written_then: Option<u64>,
    not_before: Option<Instant>,
}

/// What bounds a queue.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// Rows of one batch; a larger request is a batch of its own.
    pub(super) batch_rows: usize,
    /// How long an entry may wait for others to fill the batch.
    pub(super) batch_interval: Duration,
    /// Bytes of memory for entries that wait, all lanes together.
    pub(super) memory: usize,
    /// Requests that wait in memory, where nothing else bounds them: the oldest goes when another comes.
    pub(super) requests: Option<usize>,
    /// Writers that take from it.
    pub(super) writers: usize,
}

impl Bounds {
    /// Bytes of memory for a lane, and for a batch.
    fn lane_memory(&self) -> usize {
        self.memory / Signal::ALL.len()
    }
}

/// The queue.
#[derive(Debug)]
pub(super) struct Queue {
    bounds: Bounds,
    spool: Option<Spool>,
    state: Mutex<State>,
    /// Something came, or a writer is free. Wakes one who takes.
    changed: Notify,
    /// It may be closed and empty. Wakes all who wait for that.
    over: Notify,
}

#[derive(Debug)]
struct State {
    lanes: [Lane; Signal::ALL.len()],
    /// The lane whose turn it is.
    turn: usize,
    closed: bool,
}

#[derive(Debug, Default)]
struct Lane {
    /// Oldest first.
    entries: VecDeque<Entry>,
    /// Of `entries`.
    rows: usize,
    /// Of `entries` and `returned`, in bytes.
    memory: usize,
    /// Batches that came back, oldest first.
    returned: VecDeque<Work>,
    /// Batches that failed since one was written, and until when the lane is held for it.
    failures: u32,
    held_until: Option<Instant>,
    /// Batches that writers have in hand.
    writing: usize,
    /// The first entry of the spool that is not here; none when all are.
    unread: Option<Position>,
    /// The newest entry that was read from the spool.
    last_read: Option<EntryId>,
    /// Somebody reads from the spool.
    reading: bool,
    /// How often the next entry could not be read, and when to try again.
    unreadable: u32,
    read_after: Option<Instant>,
}

/// What there is to do in a lane.
enum Task {
    Write(Work),
    Read(Reading),
}

/// The right to read a lane's next entries from the spool. They are handed over with [`Queue::refill`].
#[derive(Debug)]
pub(super) struct Reading {
    pub(super) signal: Signal,
    pub(super) from: Position,
    /// Bytes of memory to fill, about.
    pub(super) bytes: usize,
    /// Whether an entry that cannot be read is to be passed over.
    pub(super) gives_up: bool,
}

/// What was read of a lane.
#[derive(Debug)]
pub(super) struct Read {
    /// In order.
    pub(super) entries: Vec<Entry>,
    /// Where to go on.
    pub(super) to: Position,
    /// The newest entry that was looked at.
    pub(super) last: Option<EntryId>,
    /// The entry at `to` could not be read.
    pub(super) trouble: bool,
}

/// What [`Queue::take`] gives.
#[derive(Debug)]
pub(super) enum Taken {
    Work(Work),
    Reading(Reading),
}

impl Queue {
    pub(super) fn new(bounds: Bounds, spool: Option<Spool>) -> Self {
        let mut lanes: [Lane; Signal::ALL.len()] = Default::default();
        if let Some(spool) = &spool {
            for (number, lane) in lanes.iter_mut().enumerate() {
                lane.unread = spool.next(number, spool.first(number)).map(EntryId::position);
            }
        }
        let state = State { lanes, turn: 0, closed: false };
        Self { bounds, spool, state: Mutex::new(state), changed: Notify::new(), over: Notify::new() }
    }

    /// Whether [`Self::push_spooled`] would keep an entry now. If not, nobody needs to prepare it before it is read back.
    pub(super) fn takes_spooled(&self, signal: Signal) -> bool {
        let state = self.lock();
        let lane = &state.lanes[signal as usize];
        lane.unread.is_none() && lane.memory < self.bounds.lane_memory()
    }

    /// Takes note of a request that is durable in the spool, and keeps its entry if there is one and room for it. Requests
    /// of a lane must come in the order of the spool.
    pub(super) fn push_spooled(&self, id: EntryId, signal: Signal, entry: Option<Entry>) {
        let mut state = self.lock();
        let lane = &mut state.lanes[signal as usize];
        let left = self.bounds.lane_memory().saturating_sub(lane.memory);
        if lane.unread.is_some() || lane.last_read.is_some_and(|read| id <= read) {
            // It is behind what has to be read first, or was read already.
        } else if let Some(entry) = entry.filter(|entry| entry.memory() <= left) {
            lane.push(entry);
        } else {
            lane.unread = Some(id.position());
        }
        drop(state);
        self.changed.notify_one();
    }

    /// Adds an entry that is only here. Returns the entries that had to go for it, oldest first; when the queue is closed,
    /// that is this one.
    pub(super) fn push(&self, entry: Entry) -> Vec<Entry> {
        let mut gone = Vec::new();
        let mut state = self.lock();
        if state.closed {
            return vec![entry];
        }
        let memory = entry.memory();
        if let Some(requests) = self.bounds.requests {
            let too_many = |state: &State| {
                let waiting: usize = state.lanes.iter().map(Lane::requests).sum();
                waiting > 0 && (waiting >= requests || state.memory() + memory > self.bounds.memory)
            };
            while too_many(&state) {
                match state.drop_oldest() {
                    Some(oldest) => gone.push(oldest),
                    None => break,
                }
            }
        }
        state.lanes[entry.source.signal as usize].push(entry);
        drop(state);
        self.changed.notify_one();
        gone
    }

    /// The next thing to do, when there is one; none when the queue is closed and empty. With `others_first`, what failed
    /// alone while others were written comes last. Who takes a batch says with [`Self::leave`] that he is done.
    pub(super) async fn take(&self, others_first: bool) -> Option<Taken> {
        loop {
            let changed = self.changed.notified();
            let due = {
                let mut state = self.lock();
                match state.next(&self.bounds, others_first) {
                    Next::Task(Task::Write(work)) => {
                        // There may be more for another writer.
                        self.changed.notify_one();
                        return Some(Taken::Work(work));
                    }
                    Next::Task(Task::Read(reading)) => {
                        self.changed.notify_one();
                        return Some(Taken::Reading(reading));
                    }
                    Next::At(due) => Some(due),
                    Next::Nothing if state.closed && state.is_empty() => {
                        self.changed.notify_waiters();
                        self.over.notify_waiters();
                        return None;
                    }
                    Next::Nothing => None,
                }
            };
            match due {
                Some(due) => tokio::select! {
                    () = tokio::time::sleep_until(due) => {}
                    () = changed => {}
                },
                None => changed.await,
            }
        }
    }

    /// The writer who took a batch of this signal is free.
    pub(super) fn leave(&self, signal: Signal) {
        let mut state = self.lock();
        let lane = &mut state.lanes[signal as usize];
        lane.writing = lane.writing.saturating_sub(1);
        drop(state);
        self.changed.notify_one();
    }

    /// Ends when the queue is closed and empty.
    pub(super) async fn finished(&self) {
        loop {
            let over = self.over.notified();
            {
                let state = self.lock();
                if state.closed && state.is_empty() {
                    self.over.notify_waiters();
                    return;
                }
            }
            over.await;
        }
    }

    /// Hands over what was read from the spool.
    pub(super) fn refill(&self, reading: &Reading, read: Read) {
        let Some(spool) = &self.spool else { return };
        let mut state = self.lock();
        let number = reading.signal as usize;
        let lane = &mut state.lanes[number];
        for entry in read.entries {
            lane.push(entry);
        }
        lane.last_read = read.last.or(lane.last_read);
        lane.unread = spool.next(number, read.to).map(EntryId::position);
        lane.reading = false;
        lane.unreadable = if read.trouble { lane.unreadable + 1 } else { 0 };
        lane.read_after = read.trouble.then(|| Instant::now() + READ_PAUSE);
        drop(state);
        self.changed.notify_one();
    }

    /// Takes a batch back that was not tried.
    pub(super) fn give_back(&self, work: Work) {
        self.lock().lanes[work.signal as usize].take_back(work);
        self.changed.notify_one();
    }

    /// Takes a batch back that failed; if it has several entries, in halves. `written` counts the batches of its signal
    /// that were written by now, `others_fare_well` says whether any was meanwhile.
    pub(super) fn give_back_failed(&self, mut work: Work, written: u64, others_fare_well: bool) {
        let now = Instant::now();
        work.record.written_then = Some(written);
        work.record.not_before = (work.record.alone > 0).then(|| now + pause(work.record.alone));
        let second = work.entries.split_off(work.entries.len().div_ceil(2));
        let mut state = self.lock();
        let lane = &mut state.lanes[work.signal as usize];
        // Who waits for the commit is not to wait for this too.
        let nobody_waits = work.entries.iter().all(|entry| entry.reply.is_none());
        if !others_fare_well && nobody_waits {
            lane.failures += 1;
            lane.held_until = Some(now + pause(lane.failures));
        }
        if !second.is_empty() {
            lane.take_back(Work { signal: work.signal, entries: second, record: work.record });
        }
        lane.take_back(work);
        drop(state);
        self.changed.notify_one();
    }

    /// A batch of this signal was written.
    pub(super) fn written(&self, signal: Signal) {
        let mut state = self.lock();
        let lane = &mut state.lanes[signal as usize];
        lane.failures = 0;
        if lane.held_until.take().is_some() {
            drop(state);
            self.changed.notify_one();
        }
    }

    /// Removes everything that waits: for queues without a spool, whose senders are told to come back.
    pub(super) fn take_all(&self) -> Vec<Entry> {
        let mut state = self.lock();
        let take = |lane: &mut Lane| {
            let left = Lane { writing: lane.writing, ..Lane::default() };
            let Lane { returned, entries, .. } = mem::replace(lane, left);
            returned.into_iter().flat_map(|work| work.entries).chain(entries)
        };
        let all = state.lanes.iter_mut().flat_map(take).collect();
        drop(state);
        self.over.notify_waiters();
        all
    }

    /// Nothing comes any more; what waits does not wait for more.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_waiters();
        self.changed.notify_one();
        self.over.notify_waiters();
    }

    pub(super) fn is_closed(&self) -> bool {
        self.lock().closed
    }

    /// Whether more than three quarters of what bounds the queue are taken.
    pub(super) fn is_crowded(&self) -> bool {
        let (requests, _) = self.waiting();
        let most = |bound: usize| bound / 4 * 3;
        self.bounds.requests.is_some_and(|bound| requests >= most(bound))
            || self.lock().memory() >= most(self.bounds.memory)
    }

    /// Requests and rows that wait in memory.
    pub(super) fn waiting(&self) -> (usize, usize) {
        let state = self.lock();
        let returned = || state.lanes.iter().flat_map(|lane| &lane.returned).flat_map(|work| &work.entries);
        let requests = state.lanes.iter().map(Lane::requests).sum();
        let rows = state.lanes.iter().map(|lane| lane.rows).sum::<usize>() + returned().map(Entry::rows).sum::<usize>();
        (requests, rows)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

enum Next {
    Task(Task),
    /// Not before this moment, unless something comes.
    At(Instant),
    Nothing,
}

impl State {
    /// The next thing to do, beginning with the lane whose turn it is.
    fn next(&mut self, bounds: &Bounds, others_first: bool) -> Next {
        let now = Instant::now();
        let lanes = self.lanes.len();
        let mut due: Option<Instant> = None;
        let passes: &[bool] = if others_first { &[false, true] } else { &[true] };
        for with_suspects in passes {
            for step in 0..lanes {
                let number = (self.turn + step) % lanes;
                let may_write = self.has_writer_for(number, bounds.writers);
                let lane = &mut self.lanes[number];
                match lane.next(Signal::ALL[number], bounds, self.closed, *with_suspects, may_write, now) {
                    Next::Task(task) => {
                        if matches!(task, Task::Write(_)) {
                            self.lanes[number].writing += 1;
                        }
                        self.turn = (number + 1) % lanes;
                        return Next::Task(task);
                    }
                    Next::At(at) => due = earlier(due, Some(at)),
                    Next::Nothing => {}
                }
            }
        }
        due.map_or(Next::Nothing, Next::At)
    }

    /// Whether a lane may have another writer: its first always, one more while each lane without any can still have one.
    fn has_writer_for(&self, number: usize, writers: usize) -> bool {
        let free = writers.saturating_sub(self.lanes.iter().map(|lane| lane.writing).sum());
        let without = self.lanes.iter().filter(|lane| lane.writing == 0).count();
        self.lanes[number].writing == 0 || free > without
    }

    fn drop_oldest(&mut self) -> Option<Entry> {
        let lanes = self.lanes.iter_mut().filter(|lane| lane.oldest().is_some());
        lanes.min_by_key(|lane| lane.oldest())?.drop_oldest()
    }

    /// Bytes of the entries that wait.
    fn memory(&self) -> usize {
        self.lanes.iter().map(|lane| lane.memory).sum()
    }

    fn is_empty(&self) -> bool {
        self.lanes.iter().all(|lane| lane.requests() == 0 && lane.unread.is_none() && !lane.reading)
    }
}

fn earlier(one: Option<Instant>, other: Option<Instant>) -> Option<Instant> {
    one.into_iter().chain(other).min()
}

impl Lane {
    fn push(&mut self, entry: Entry) {
        self.rows += entry.rows();
        self.memory += entry.memory();
        self.entries.push_back(entry);
    }

    fn pop(&mut self) -> Option<Entry> {
        let entry = self.entries.pop_front()?;
        self.rows -= entry.rows();
        self.memory -= entry.memory();
        Some(entry)
    }

    /// When the oldest entry was admitted.
    fn oldest(&self) -> Option<Instant> {
        earlier(self.entries.front().map(|entry| entry.since), self.returned.front().and_then(Work::since))
    }

    /// Takes the oldest entry, also if it was tried already.
    fn drop_oldest(&mut self) -> Option<Entry> {
        let fresh = self.entries.front().map(|entry| entry.since);
        let is_older = |work: &Work| fresh.is_none() || work.since() <= fresh;
        if !self.returned.front().is_some_and(is_older) {
            return self.pop();
        }
        let mut work = self.returned.pop_front()?;
        self.memory -= work.memory();
        let oldest = work.entries.remove(0);
        if !work.entries.is_empty() {
            self.take_back(work);
        }
        Some(oldest)
    }

    /// Puts a batch among those that came back, by age.
    fn take_back(&mut self, work: Work) {
        self.memory += work.memory();
        let at = self.returned.partition_point(|other| other.since() < work.since());
        self.returned.insert(at, work);
    }

    /// Requests that wait here.
    fn requests(&self) -> usize {
        self.entries.len() + self.returned.iter().map(|work| work.entries.len()).sum::<usize>()
    }

    fn next(
        &mut self,
        signal: Signal,
        bounds: &Bounds,
        closed: bool,
        with_suspects: bool,
        may_write: bool,
        now: Instant,
    ) -> Next {
        if let Some(held) = self.held_until
            && held > now
            && !closed
        {
            return Next::At(held);
        }
        let is_due =
            |work: &Work| may_write && (closed || work.is_due(now)) && (with_suspects || work.record.alone == 0);
        let returned = self.returned.iter().position(is_due).and_then(|at| self.returned.remove(at));
        if let Some(work) = returned {
            self.memory -= work.memory();
            return Next::Task(Task::Write(work));
        }
        // Without a writer for it nothing is due: when one is free, somebody looks again.
        let mut due = self.returned.iter().filter(|_| may_write).filter_map(|work| work.record.not_before).min();
        let is_full = self.rows >= bounds.batch_rows || self.memory >= bounds.lane_memory();
        // Read ahead, and a part at a time: while one writer reads and prepares, the others have something to write.
        let reads_ahead = !is_full || self.memory < bounds.lane_memory() / 2;
        if reads_ahead
            && !self.reading
            && let Some(from) = self.unread
        {
            if self.read_after.is_none_or(|at| at <= now) {
                self.reading = true;
                let left = bounds.lane_memory().saturating_sub(self.memory);
                let bytes = left.min(bounds.lane_memory() / READ_PARTS).max(1);
                let gives_up = self.unreadable >= READ_TRIES;
                return Next::Task(Task::Read(Reading { signal, from, bytes, gives_up }));
            }
            due = earlier(due, self.read_after);
        }
        let Some(oldest) = self.entries.front().filter(|_| may_write) else {
            return due.map_or(Next::Nothing, Next::At);
        };
        let full_at = oldest.since + bounds.batch_interval;
        if !is_full && !closed && now < full_at {
            return Next::At(earlier(due, Some(full_at)).unwrap_or(full_at));
        }
        let (mut rows, mut memory) = (0, 0);
        let mut entries = Vec::new();
        while rows < bounds.batch_rows
            && memory < bounds.lane_memory()
            && let Some(entry) = self.pop()
        {
            rows += entry.rows();
            memory += entry.memory();
            entries.push(entry);
        }
        Next::Task(Task::Write(Work { signal, entries, record: FailureRecord::default() }))
    }
}

impl Work {
    /// When its oldest entry was admitted.
    fn since(&self) -> Option<Instant> {
        self.entries.first().map(|entry| entry.since)
    }

    fn memory(&self) -> usize {
        self.entries.iter().map(Entry::memory).sum()
    }

    fn is_due(&self, now: Instant) -> bool {
        self.record.not_before.is_none_or(|at| at <= now)
    }
}

#[cfg(test)]
mod tests;
