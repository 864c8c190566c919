//! The group commit: the only writer of segments. One step writes what is queued, makes it durable, answers, and removes
//! segments that hold nothing.

use crate::directory;
use crate::disk::DiskFile;
use crate::error::AppendError;
use crate::format::{Record, SEGMENT_HEADER, SegmentHeader, record_length, segment_name};
use crate::state::{Chore, Done, NotAccepting, Queued, Segment, State};
use crate::{EntryId, Lane, Shared};
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

/// A group is at most this long, or one entry: the first to wait need not wait for all the others.
const GROUP_BYTES: usize = 8 << 20;

/// The segment a lane is written to. Nothing follows `length` in the file.
struct Active {
    number: u64,
    marker: u64,
    file: Arc<dyn DiskFile>,
    path: PathBuf,
    /// Bytes that are durable; 0 while nothing is.
    length: u64,
    last_append: Instant,
}

/// What remains of a run that was written: who to answer, with what.
type Answers = Vec<(Queued, EntryId)>;

/// Writes, on a thread of its own.
pub(crate) struct Committer {
    shared: Arc<Shared>,
    active: Vec<Option<Active>>,
    looked_around: Instant,
    /// Held as long as anything may be written.
    _lock: Box<dyn Send>,
}

impl Committer {
    pub(crate) fn new(shared: Arc<Shared>, lock: Box<dyn Send>) -> Self {
        let active = shared.lanes.iter().map(|_| None).collect();
        Self { shared, active, looked_around: Instant::now(), _lock: lock }
    }

    /// Works until the spool is closed, and leaves no finished segment behind.
    pub(crate) fn run(mut self) {
        while self.wait() {
            self.step();
        }
        self.finish();
    }

    /// Returns when there is something to do; false when the spool is closing.
    fn wait(&self) -> bool {
        let state = self.shared.lock();
        let idle = |state: &mut State| state.queue.is_empty() && !state.closing && state.chore == Chore::None;
        let state = if state.needs_care() {
            let waited = self.shared.wake.wait_timeout_while(state, self.shared.tuning.care, idle);
            waited.map_or_else(|poisoned| poisoned.into_inner().0, |(state, _)| state)
        } else {
            let waited = self.shared.wake.wait_while(state, idle);
            waited.unwrap_or_else(std::sync::PoisonError::into_inner)
        };
        !state.closing
    }

    /// One round of everything.
    pub(crate) fn step(&mut self) {
        let chore = std::mem::take(&mut self.shared.lock().chore);
        self.commit();
        self.seal_idle(if chore == Chore::MakeRoom { Duration::ZERO } else { self.shared.tuning.idle });
        self.remove_finished();
        self.look_around();
    }

    /// Writes all that is queued, seals, and removes what is finished.
    pub(crate) fn finish(&mut self) {
        while !self.shared.lock().queue.is_empty() {
            self.commit();
        }
        self.seal_idle(Duration::ZERO);
        self.remove_finished();
    }

    /// Writes one group.
    fn commit(&mut self) {
        let mut lanes: Vec<VecDeque<Queued>> = self.shared.lanes.iter().map(|_| VecDeque::new()).collect();
        for queued in self.take_group() {
            lanes[queued.lane].push_back(queued);
        }
        for (lane, mut waiting) in lanes.into_iter().enumerate() {
            while !waiting.is_empty() {
                self.commit_run(lane, &mut waiting);
            }
        }
    }

    fn take_group(&self) -> Vec<Queued> {
        let mut state = self.shared.lock();
        let mut bytes = 0;
        let fitting = state.queue.iter().take_while(|queued| {
            bytes += queued.body.len();
            bytes <= GROUP_BYTES
        });
        let count = fitting.count().max(1).min(state.queue.len());
        state.queue.drain(..count).collect()
    }

    /// Writes the entries that go into one segment. After a failure everything that waits is answered with it.
    fn commit_run(&mut self, lane: Lane, waiting: &mut VecDeque<Queued>) {
        let result = self.make_room(lane, waiting).map(|active| {
            let run = take_run(&active, waiting, self.shared.tuning.segment_bytes);
            let written = self.write(lane, &active, &run);
            (active, run, written)
        });
        match result {
            Ok((active, run, Ok((length, ids)))) => {
                let answers: Answers = run.into_iter().zip(ids).collect();
                self.publish(lane, active, length, answers);
            }
            Ok((active, run, Err(failure))) => {
                self.abandon(lane, &active, failure.reached);
                run.into_iter().rev().for_each(|queued| waiting.push_front(queued));
                self.fail(lane, &active.path, &failure.error, waiting.drain(..).collect());
            }
            Err((path, error)) => self.fail(lane, &path, &error, waiting.drain(..).collect()),
        }
    }

    /// The segment the next entry goes to, taken out of its place.
    fn make_room(&mut self, lane: Lane, waiting: &VecDeque<Queued>) -> Result<Active, (PathBuf, io::Error)> {
        let needed = waiting.front().map_or(0, |queued| record_length(queued.body.len() as u64));
        if let Some(active) = self.active[lane].take() {
            if active.length + needed <= self.shared.tuning.segment_bytes {
                return Ok(active);
            }
            self.seal(lane, active.number);
        }
        let number = {
            let mut state = self.shared.lock();
            let number = state.lanes[lane].next_segment;
            state.lanes[lane].next_segment += 1;
            number
        };
        let path = self.shared.lane_dir(lane).join(segment_name(number));
        let file = self.shared.disk.create(&path).map_err(|error| (path.clone(), error))?;
        Ok(Active { number, marker: rand::random(), file, path, length: 0, last_append: Instant::now() })
    }

    /// Writes the run behind what is durable and makes it durable too. Returns the file's new length.
    fn write(&self, lane: Lane, active: &Active, run: &[Queued]) -> Result<(u64, Vec<EntryId>), Failure> {
        let fresh = active.length == 0;
        let header = SegmentHeader::new(active.number, active.marker, &self.shared.lanes[lane]).encode();
        let header = if fresh { header.as_slice() } else { &[] };
        let mut length = active.length + header.len() as u64;
        let mut ids = Vec::with_capacity(run.len());
        let mut records = Vec::with_capacity(run.len());
        for queued in run {
            ids.push(EntryId { lane, segment: active.number, offset: length });
            records.push(Record::new(active.marker, length, queued.tag, queued.received_at, queued.body.clone()));
            length += record_length(queued.body.len() as u64);
        }
        let parts = std::iter::once(header).chain(records.iter().flat_map(Record::parts));
        let mut parts: Vec<IoSlice<'_>> = parts.filter(|part| !part.is_empty()).map(IoSlice::new).collect();
        let done = active.file.write_all_at(active.length, &mut parts).and_then(|()| active.file.sync());
        let done =
            done.and_then(|()| if fresh { self.shared.disk.sync_dir(&self.shared.lane_dir(lane)) } else { Ok(()) });
        done.map(|()| (length, ids)).map_err(|error| Failure { error, reached: length })
    }

    /// Shows the run to readers and answers it.
    fn publish(&mut self, lane: Lane, mut active: Active, length: u64, answers: Answers) {
        active.length = length;
        active.last_append = Instant::now();
        let recovered = {
            let mut state = self.shared.lock();
            let counters = &mut state.counters;
            counters.fsyncs += 1;
            counters.appended += answers.len() as u64;
            counters.appended_bytes += answers.iter().map(|(queued, _)| queued.body.len() as u64).sum::<u64>();
            let lane = &mut state.lanes[lane];
            lane.reserved -= answers.iter().map(|(queued, _)| queued.reserved()).sum::<u64>();
            let segment = lane.segments.entry(active.number);
            let segment = segment.or_insert_with(|| Segment::new(active.marker, length, false));
            segment.file_length = length;
            for (_, id) in &answers {
                segment.add(id.offset);
            }
            state.trying = false;
            state.not_accepting.take()
        };
        self.active[lane] = Some(active);
        if recovered.is_some() {
            tracing::info!("the spool accepts again");
        }
        for (Queued { done, room, .. }, id) in answers {
            drop(room);
            answer(done, Ok(id));
        }
    }

    /// Gives a segment up after a failure: what was durable stays readable, nothing is added.
    ///
    /// After a failed sync the system may believe that lost bytes are written, so the rest of this file is never used. Its
    /// space counts as free only when cutting it off is durable: a crash must not bring it back.
    fn abandon(&self, lane: Lane, active: &Active, reached: u64) {
        let shared = &self.shared;
        let cleaned = if active.length == 0 {
            shared.disk.remove(&active.path).and_then(|()| shared.disk.sync_dir(&shared.lane_dir(lane)))
        } else {
            active.file.truncate(active.length).and_then(|()| active.file.sync())
        };
        if let Err(error) = &cleaned {
            tracing::warn!(%error, path = %active.path.display(), "cannot undo a failed write; its bytes are ignored");
        }
        let file_length = if cleaned.is_ok() { active.length } else { reached };
        if file_length > 0 {
            let mut state = shared.lock();
            let segment = state.lanes[lane].segments.entry(active.number);
            let segment = segment.or_insert_with(|| Segment::new(active.marker, file_length, true));
            segment.file_length = file_length;
            segment.sealed = true;
        }
    }

    fn fail(&mut self, lane: Lane, path: &Path, error: &io::Error, failed: Vec<Queued>) {
        self.looked_around = Instant::now();
        let reason = format!("cannot write {}: {error}", path.display());
        let first = {
            let mut state = self.shared.lock();
            state.lanes[lane].reserved -= failed.iter().map(Queued::reserved).sum::<u64>();
            state.counters.failed += failed.len() as u64;
            state.trying = false;
            let since = state.not_accepting.as_ref().map_or_else(SystemTime::now, |before| before.since);
            state.not_accepting.replace(NotAccepting { since, reason: reason.clone() }).is_none()
        };
        if first {
            tracing::error!(%reason, "the spool does not accept");
        }
        for Queued { done, room, .. } in failed {
            drop(room);
            answer(done, Err(AppendError::Io { reason: reason.clone() }));
        }
    }

    fn seal(&self, lane: Lane, number: u64) {
        if let Some(segment) = self.shared.lock().lanes[lane].segments.get_mut(&number) {
            segment.sealed = true;
        }
    }

    /// Seals active segments without entries whose last append is this long ago, so that an idle spool is empty.
    fn seal_idle(&mut self, idle: Duration) {
        for lane in 0..self.active.len() {
            let empty = |active: &&mut Active| {
                let state = self.shared.lock();
                state.lanes[lane].segments.get(&active.number).is_none_or(|segment| segment.entries() == 0)
            };
            let done = self.active[lane].take_if(|active| active.last_append.elapsed() >= idle && empty(&active));
            if let Some(active) = done {
                self.seal(lane, active.number);
            }
        }
    }

    /// What cannot be removed durably is tried again at the next step, and counts until then.
    fn remove_finished(&self) {
        for lane in 0..self.active.len() {
            let finished = self.shared.lock().lanes[lane].finished();
            if finished.is_empty() {
                continue;
            }
            let removed: Vec<u64> = finished.into_iter().filter(|number| self.remove(lane, *number)).collect();
            match self.shared.disk.sync_dir(&self.shared.lane_dir(lane)) {
                Ok(()) => {
                    let mut state = self.shared.lock();
                    for number in removed {
                        state.lanes[lane].forget(number);
                    }
                }
                Err(error) => tracing::warn!(%error, lane = self.shared.lanes[lane], "cannot remove segments durably"),
            }
        }
    }

    /// Says whether the file is gone.
    fn remove(&self, lane: Lane, number: u64) -> bool {
        let path = self.shared.lane_dir(lane).join(segment_name(number));
        match self.shared.disk.remove(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(%error, path = %path.display(), "cannot remove a segment that is done with");
                false
            }
            _ => true,
        }
    }

    /// Notices what others changed: a quarantine that was purged, a disk that works again.
    fn look_around(&mut self) {
        if self.looked_around.elapsed() < self.shared.tuning.care {
            return;
        }
        self.looked_around = Instant::now();
        let (failing, quarantined) = {
            let state = self.shared.lock();
            (state.not_accepting.is_some() && !state.trying, state.quarantine_bytes > 0)
        };
        if quarantined {
            self.shared.count_quarantine();
        }
        if failing && directory::probe(&*self.shared.disk, &self.shared.dir).is_ok() {
            self.shared.lock().not_accepting = None;
            tracing::info!("the spool accepts again");
        }
    }
}

impl Drop for Committer {
    /// Only a panic leaves anything queued: nobody waits for ever.
    fn drop(&mut self) {
        let left: Vec<Queued> = {
            let mut state = self.shared.lock();
            state.closing = true;
            if std::thread::panicking() {
                let reason = "its thread panicked".to_owned();
                state.not_accepting = Some(NotAccepting { since: SystemTime::now(), reason });
            }
            state.queue.drain(..).collect()
        };
        self.shared.room.close();
        for queued in left {
            answer(queued.done, Err(AppendError::Closed));
        }
    }
}

struct Failure {
    error: io::Error,
    /// Up to where the file may have been written.
    reached: u64,
}

/// The first entries that fit into the segment, at least one.
fn take_run(active: &Active, waiting: &mut VecDeque<Queued>, segment_bytes: u64) -> Vec<Queued> {
    let mut length = active.length.max(SEGMENT_HEADER);
    let mut run = Vec::new();
    while let Some(next) = waiting.front() {
        length += record_length(next.body.len() as u64);
        if length > segment_bytes && !run.is_empty() {
            break;
        }
        run.extend(waiting.pop_front());
    }
    run
}

/// A caller's panic must not end the spool.
fn answer(done: Done, result: Result<EntryId, AppendError>) {
    if catch_unwind(AssertUnwindSafe(|| done(result))).is_err() {
        tracing::error!("the answer to an append panicked");
    }
}
