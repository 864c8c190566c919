//! What the spool knows in memory: its segments, what waits to be written, and who may still append. No disk here.

use crate::bitmap::Bitmap;
use crate::disk::DiskFile;
use crate::error::AppendError;
use crate::format::{ALIGN, RECORD_HEADER, SEGMENT_HEADER, record_length};
use crate::{EntryId, Lane, Position};
use bytes::Bytes;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::SystemTime;
use tokio::sync::OwnedSemaphorePermit;

/// Answers the one who appended.
pub(crate) type Done = Box<dyn FnOnce(Result<EntryId, AppendError>) + Send>;

/// An entry that waits for its group commit.
pub(crate) struct Queued {
    pub(crate) lane: Lane,
    pub(crate) tag: u16,
    pub(crate) received_at: u64,
    pub(crate) body: Bytes,
    pub(crate) done: Done,
    /// Its share of the bytes that may wait.
    pub(crate) room: OwnedSemaphorePermit,
}

impl Queued {
    /// Bytes this entry may add to the disk: its record, and a segment that it may be the first of.
    pub(crate) fn reserved(&self) -> u64 {
        reservation(self.body.len() as u64)
    }
}

fn reservation(body_length: u64) -> u64 {
    SEGMENT_HEADER + record_length(body_length)
}

/// One segment file that is there, or may be.
pub(crate) struct Segment {
    pub(crate) marker: u64,
    /// Bytes it takes on disk.
    pub(crate) file_length: u64,
    /// No entry will be added; the file can go once it has none.
    pub(crate) sealed: bool,
    /// The entries that are durable and not released, by offset in units of [`ALIGN`].
    entries: Bitmap,
}

impl Segment {
    pub(crate) fn new(marker: u64, file_length: u64, sealed: bool) -> Self {
        Self { marker, file_length, sealed, entries: Bitmap::default() }
    }

    pub(crate) fn add(&mut self, offset: u64) {
        self.entries.insert(offset / ALIGN);
    }

    pub(crate) fn holds(&self, offset: u64) -> bool {
        offset.is_multiple_of(ALIGN) && self.entries.contains(offset / ALIGN)
    }

    fn first_from(&self, offset: u64) -> Option<u64> {
        self.entries.first_from(offset.div_ceil(ALIGN)).map(|slot| slot * ALIGN)
    }

    pub(crate) fn entries(&self) -> u64 {
        self.entries.count()
    }
}

/// A lane's segments.
#[derive(Default)]
pub(crate) struct LaneState {
    pub(crate) segments: BTreeMap<u64, Segment>,
    /// The number of the next segment; numbers are not used again while the spool is open.
    pub(crate) next_segment: u64,
    /// Bytes that what is queued may add.
    pub(crate) reserved: u64,
    /// The file last read from.
    pub(crate) reader: Option<(u64, Arc<dyn DiskFile>)>,
}

impl LaneState {
    /// Bytes on disk.
    pub(crate) fn bytes(&self) -> u64 {
        self.segments.values().map(|segment| segment.file_length).sum()
    }

    pub(crate) fn entries(&self) -> u64 {
        self.segments.values().map(Segment::entries).sum()
    }

    pub(crate) fn next(&self, from: Position) -> Option<Position> {
        let start = |number: u64| if number == from.segment { from.offset } else { 0 };
        self.segments.range(from.segment..).find_map(|(&segment, state)| {
            let offset = state.first_from(start(segment))?;
            Some(Position { segment, offset })
        })
    }

    /// Says whether the entry was there.
    pub(crate) fn release(&mut self, segment: u64, offset: u64) -> bool {
        offset.is_multiple_of(ALIGN)
            && self.segments.get_mut(&segment).is_some_and(|state| state.entries.remove(offset / ALIGN))
    }

    /// Sealed segments without entries: their files can go.
    pub(crate) fn finished(&self) -> Vec<u64> {
        let finished = self.segments.iter().filter(|(_, segment)| segment.sealed && segment.entries() == 0);
        finished.map(|(number, _)| *number).collect()
    }

    pub(crate) fn forget(&mut self, segment: u64) {
        self.segments.remove(&segment);
        if self.reader.as_ref().is_some_and(|(number, _)| *number == segment) {
            self.reader = None;
        }
    }
}

/// That appends are refused since a write failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotAccepting {
    /// When it began.
    pub since: SystemTime,
    /// What failed.
    pub reason: String,
}

/// Counts since the spool was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counters {
    /// Entries made durable.
    pub appended: u64,
    /// Bytes of their bodies.
    pub appended_bytes: u64,
    /// Entries released, those set aside among them.
    pub released: u64,
    /// Appends refused because the spool was full.
    pub refused_full: u64,
    /// Entries whose writing failed.
    pub failed: u64,
    /// Times a segment was made durable.
    pub fsyncs: u64,
    /// Bytes at the ends of segments that a crash left incomplete, found at open.
    pub torn_bytes: u64,
    /// Damaged stretches found at open, and entries found damaged when read.
    pub damaged: u64,
    /// Entries set aside by the caller.
    pub set_aside: u64,
}

/// Work for the committer besides the queue; the later ones include the earlier.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Chore {
    #[default]
    None,
    /// Segments are done with.
    Remove,
    /// An append was refused for want of room: lanes without entries need not become idle first.
    MakeRoom,
}

/// Everything that changes.
#[derive(Default)]
pub(crate) struct State {
    pub(crate) lanes: Vec<LaneState>,
    pub(crate) queue: VecDeque<Queued>,
    pub(crate) max_bytes: u64,
    pub(crate) quarantine_bytes: u64,
    pub(crate) not_accepting: Option<NotAccepting>,
    /// While not accepting: one append is on its way to find out whether it works again.
    pub(crate) trying: bool,
    /// What is to be done besides the queue.
    pub(crate) chore: Chore,
    pub(crate) closing: bool,
    pub(crate) counters: Counters,
}

impl State {
    /// Accepts an entry of this length or says why not. An accepted one must be queued.
    pub(crate) fn admit(&mut self, lane: Lane, body_length: u64) -> Result<(), AppendError> {
        let max_bytes = self.max_bytes;
        if self.closing {
            return Err(AppendError::Closed);
        }
        if lane >= self.lanes.len() {
            return Err(AppendError::NoLane { lane });
        }
        let limit = self.longest_body();
        if body_length > limit {
            return Err(AppendError::TooLarge { length: body_length, limit });
        }
        if let Some(NotAccepting { since, reason }) = &self.not_accepting
            && self.trying
        {
            return Err(AppendError::NotAccepting { since: *since, reason: reason.clone() });
        }
        let used = self.lanes.iter().map(occupied).sum::<u64>() + self.quarantine_bytes;
        let others = self.lanes.iter().enumerate().filter(|(other, _)| *other != lane);
        let kept_for_others = others.map(|(_, state)| self.guaranteed().saturating_sub(occupied(state))).sum::<u64>();
        if used + kept_for_others + reservation(body_length) > max_bytes {
            self.chore = Chore::MakeRoom;
            self.counters.refused_full += 1;
            return Err(AppendError::Full { used, quarantine: self.quarantine_bytes, max_bytes });
        }
        self.trying = self.not_accepting.is_some();
        self.lanes[lane].reserved += reservation(body_length);
        Ok(())
    }

    /// Bytes that each lane gets whatever the others hold: with three lanes an eighth of the bound.
    fn guaranteed(&self) -> u64 {
        self.max_bytes / 8 * 3 / self.lanes.len() as u64
    }

    /// What an otherwise empty spool takes.
    fn longest_body(&self) -> u64 {
        let kept_for_others = self.guaranteed() * (self.lanes.len() as u64 - 1);
        let room = (self.max_bytes - kept_for_others).saturating_sub(SEGMENT_HEADER);
        (room / ALIGN * ALIGN).saturating_sub(RECORD_HEADER).min(u64::from(u32::MAX))
    }

    /// Anything that needs a look from time to time without being asked.
    pub(crate) fn needs_care(&self) -> bool {
        self.not_accepting.is_some()
            || self.quarantine_bytes > 0
            || self.lanes.iter().any(|lane| !lane.segments.is_empty())
    }
}

fn occupied(lane: &LaneState) -> u64 {
    lane.bytes() + lane.reserved
}
