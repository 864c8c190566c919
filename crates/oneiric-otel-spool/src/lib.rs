//! A spool on disk: requests wait here, durably, between the moment they are received and the moment they are written.
//!
//! It promises that an entry whose append was answered with `Ok` is read back, in order and with its exact bytes, until
//! it is released, whatever happens to the process or the machine in between; that an entry whose bytes the disk changed
//! is noticed, kept in quarantine and counted, and costs no other entry; and that its files stay within `max_bytes`.
//! It knows bytes only: nothing of what they mean or where they go.
//!
//! # Files
//!
//! ```text
//! DIR/format                  "oneiric-otel-spool 1"
//! DIR/lock                    locked while a process uses the spool; its process id
//! DIR/LANE/0000000000000001.seg
//! DIR/quarantine/NAME.bin     bytes nobody can use
//! DIR/quarantine/NAME.json    what is known about them
//! ```
//!
//! A segment is a header of 64 bytes and records, each at a multiple of 64. Numbers are little-endian, checksums CRC-32,
//! bytes not listed are zero.
//!
//! ```text
//! segment header                                record header, 40 bytes, then the body, then zeros
//!  0  "ONOSPOOL"                                 0  u64 marker of the segment
//!  8  u32 version                                8  u32 checksum of the record's offset and this header
//! 12  u32 checksum of this header               12  u32 length of the body
//! 16  u64 number, as in the file name           16  u32 checksum of marker and body
//! 24  u64 marker, random                        20  u64 received, Unix time in microseconds
//! 32  u32 checksum of the lane's name           28  u16 tag
//! ```
//!
//! The marker is never told to anybody, so bytes in a client's body cannot pass for a record.
//!
//! # Invariants
//!
//! * One thread writes. A group is one vectored write and one `fdatasync` per lane's file; then it is shown to readers and
//!   answered, in that order. The name of a new segment is durable before its first entry is answered.
//! * Nothing is added to a file that an earlier process wrote, nor to one in which a write or a sync failed: it is cut back
//!   to what was durable and sealed. A later sync of the same file does not make a failed one good.
//! * In memory an entry is one bit: slot `offset / 64` of its segment is set while the entry is durable and not released.
//!   That is 2 MiB for a spool of 1 GiB, however many entries it has.
//! * A sealed segment without entries is removed. A lane that is idle is sealed, so that an idle spool is empty.
//! * Each lane has a guaranteed share (an eighth of `max_bytes` with three lanes); the rest goes to who comes first.
//!
//! # After a crash
//!
//! | what is found | what it was | what happens |
//! |---|---|---|
//! | a file too short for a record | a segment being created | removed, counted as torn |
//! | a record that ends behind the file's end, a header cut off, zeros | a write that was never acknowledged | ignored, counted as torn |
//! | a whole record | acknowledged, or about to be | read; senders that got no answer repeat, so one too many does no harm |
//! | a released entry | its segment held others | read again: writing is idempotent |
//! | other bytes where a header should be | damage | the next header is searched, the bytes between go to quarantine |
//! | a damaged segment header | damage | the marker is taken from the first record; failing that, the file goes to quarantine |
//! | a body that does not match | damage, or a torn write within the last group | noticed when read, goes to quarantine |
//!
//! A block that cannot be read at all is treated as damage at open, and its segment stays for a time when it can be. When
//! reading an entry it is an error that may pass; [`Spool::set_aside`] saves what can be read.

mod bitmap;
mod commit;
mod directory;
mod disk;
mod error;
mod format;
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing;
pub mod quarantine;
mod recovery;
mod state;
#[cfg(test)]
mod tests;

pub use error::{AppendError, ReadError, SpoolError};
pub use recovery::Recovered;
pub use state::{Counters, NotAccepting};

use bytes::Bytes;
use commit::Committer;
use disk::{Disk, DiskFile, RealDisk};
use format::{ALIGN, RECORD_HEADER, RecordHeader, body_checksum, segment_name, unix_micros};
use quarantine::{Content, Origin};
use state::{Chore, Queued, State};
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};
use tokio::sync::Semaphore;

/// Bytes accepted but not yet durable, at most.
const WAITING_BYTES: u32 = 64 << 20;
/// The unit in which they are counted; a small entry takes one.
const ROOM_UNIT: u32 = 1 << 10;
/// Less would hold next to nothing.
const LEAST_BYTES: u64 = 64 << 10;

/// Where the spool is and how large it may become.
#[derive(Clone, Debug)]
pub struct SpoolOptions {
    /// The directory; made when it is missing, together with what is missing above it.
    pub dir: PathBuf,
    /// Names of the lanes, in the order of their [`Lane`] numbers: letters, digits, `-` and `_`.
    pub lanes: Vec<String>,
    /// Bound on the bytes of all segment files; quarantined bytes count when entries are accepted. At least 64 KiB.
    pub max_bytes: u64,
    /// Where a segment ends and the next begins; lowered to a fourth of a lane's equal part of `max_bytes`. A longer entry
    /// has a segment of its own.
    pub segment_bytes: u64,
}

impl SpoolOptions {
    /// 1 GiB in segments of 16 MiB.
    pub fn new(dir: impl Into<PathBuf>, lanes: impl IntoIterator<Item = impl Into<String>>) -> Self {
        let lanes = lanes.into_iter().map(Into::into).collect();
        Self { dir: dir.into(), lanes, max_bytes: 1 << 30, segment_bytes: 16 << 20 }
    }

    fn check(&self) -> Result<(), SpoolError> {
        let refused = |reason: String| Err(SpoolError::Options { reason });
        if self.lanes.is_empty() {
            return refused("there must be at least one lane".to_owned());
        }
        for (index, name) in self.lanes.iter().enumerate() {
            let plain =
                !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
            let taken = ["format", "lock", "probe", "quarantine"].contains(&name.as_str());
            if !plain || taken || self.lanes[..index].contains(name) {
                return refused(format!(
                    "{name:?} cannot name a lane: distinct names of letters, digits, - and _ are accepted, except format, \
                     lock, probe and quarantine"
                ));
            }
        }
        if self.max_bytes < LEAST_BYTES {
            return refused(format!("max_bytes is {}, at least {LEAST_BYTES} is accepted", self.max_bytes));
        }
        Ok(())
    }
}

/// A lane's index in [`SpoolOptions::lanes`].
pub type Lane = usize;

/// A place in a lane, between entries or at one. The default is before everything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    segment: u64,
    offset: u64,
}

/// Names an entry while the spool is open. Within a lane, ids are in the order of appending.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntryId {
    lane: Lane,
    segment: u64,
    offset: u64,
}

impl EntryId {
    /// The lane it is in.
    pub fn lane(self) -> Lane {
        self.lane
    }

    /// Where it is.
    pub fn position(self) -> Position {
        Position { segment: self.segment, offset: self.offset }
    }

    /// The place behind it, from which [`Spool::next`] finds the entry that follows.
    pub fn after(self) -> Position {
        Position { segment: self.segment, offset: self.offset + ALIGN }
    }
}

impl fmt::Display for EntryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "entry {} of segment {} in lane {}", self.offset, self.segment, self.lane)
    }
}

/// An entry, read back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// What it is called.
    pub id: EntryId,
    /// The place behind it.
    pub next: Position,
    /// As appended; means nothing to the spool.
    pub tag: u16,
    /// When it was appended, to the microsecond.
    pub received_at: SystemTime,
    /// As appended.
    pub body: Bytes,
}

/// What is in a lane.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LaneStatus {
    /// Its name.
    pub name: String,
    /// Entries that are durable and not released.
    pub entries: u64,
    /// Bytes of its files.
    pub bytes: u64,
    /// When the first of those entries was appended; None without entries, or where the disk fails.
    pub oldest: Option<SystemTime>,
}

/// What is in the spool.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SpoolStatus {
    /// In the order of the options.
    pub lanes: Vec<LaneStatus>,
    /// Bytes of all segment files.
    pub bytes: u64,
    /// Bytes in quarantine.
    pub quarantine_bytes: u64,
    /// The bound.
    pub max_bytes: u64,
    /// Set while writing fails.
    pub not_accepting: Option<NotAccepting>,
    /// What happened since the spool was opened.
    pub counters: Counters,
}

/// Knobs that only tests turn.
#[derive(Clone, Copy)]
struct Tuning {
    /// [`SpoolOptions::segment_bytes`], lowered.
    segment_bytes: u64,
    /// After this long without an append, a lane without entries is sealed.
    idle: Duration,
    /// How often the committer looks around without being asked, where there is anything to look after.
    care: Duration,
}

/// What the handles and the committer share.
struct Shared {
    dir: PathBuf,
    lanes: Vec<String>,
    disk: Arc<dyn Disk>,
    tuning: Tuning,
    state: Mutex<State>,
    /// Wakes the committer.
    wake: Condvar,
    room: Arc<Semaphore>,
    /// Held while something is put into quarantine.
    quarantine: Mutex<()>,
}

impl Shared {
    /// Nothing in the state is half done when its holder panics.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lane_dir(&self, lane: Lane) -> PathBuf {
        self.dir.join(&self.lanes[lane])
    }

    /// Takes note of what is in quarantine now; keeps the last figure when that cannot be told.
    fn count_quarantine(&self) {
        match quarantine::bytes(&*self.disk, &self.dir) {
            Ok(bytes) => self.lock().quarantine_bytes = bytes,
            Err(error) => tracing::debug!(%error, "cannot list the quarantine"),
        }
    }

    fn shut(&self) {
        self.lock().closing = true;
        self.room.close();
        self.wake.notify_one();
    }
}

/// An open spool. A clone is another handle to the same one; the last to go closes it.
///
/// Closing blocks on the disk: in asynchronous code, call [`Spool::close`] where blocking is allowed.
#[derive(Clone)]
pub struct Spool {
    shared: Arc<Shared>,
    thread: Arc<CommitThread>,
}

impl fmt::Debug for Spool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Spool").field("dir", &self.shared.dir).finish_non_exhaustive()
    }
}

/// The committer's thread, joined when the last handle goes.
struct CommitThread {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl CommitThread {
    fn stop(&self) {
        self.shared.shut();
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        // An answer to an append may hold the last handle; then this runs on the thread itself, which ends by itself.
        if let Some(thread) = thread
            && thread.thread().id() != std::thread::current().id()
            && thread.join().is_err()
        {
            tracing::error!("the spool's thread panicked");
        }
    }
}

impl Drop for CommitThread {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Where an entry is.
struct Located {
    file: Arc<dyn DiskFile>,
    marker: u64,
}

/// An entry's bytes as they are on disk.
enum Stored {
    Whole(RecordHeader, Vec<u8>),
    DamagedBody(RecordHeader, Vec<u8>),
    /// Everything up to the next entry.
    DamagedHeader(Vec<u8>),
}

impl Spool {
    /// Opens the spool, made when it is missing, and finds what an earlier process left. Blocks; reads all headers.
    pub fn open(options: SpoolOptions) -> Result<(Self, Recovered), SpoolError> {
        let tuning = Tuning { segment_bytes: 0, idle: Duration::from_secs(5), care: Duration::from_secs(1) };
        let (spool, recovered, committer) = Self::open_on(Arc::new(RealDisk), options, tuning)?;
        let dir = spool.shared.dir.clone();
        let thread = std::thread::Builder::new().name("spool".to_owned()).spawn(move || committer.run());
        let thread = thread.map_err(|error| SpoolError::io("start a thread for", &dir, error))?;
        *spool.thread.thread.lock().unwrap_or_else(PoisonError::into_inner) = Some(thread);
        Ok((spool, recovered))
    }

    /// The spool without its thread: the caller runs the committer.
    fn open_on(
        disk: Arc<dyn Disk>,
        options: SpoolOptions,
        tuning: Tuning,
    ) -> Result<(Self, Recovered, Committer), SpoolError> {
        options.check()?;
        let SpoolOptions { dir, lanes, max_bytes, segment_bytes } = options;
        let tuning = Tuning { segment_bytes: segment_bytes.min(max_bytes / (4 * lanes.len() as u64)), ..tuning };
        let lock = directory::prepare(&*disk, &dir, &lanes)?;
        recovery::tidy(&*disk, &dir)?;
        let mut recovered = Recovered::default();
        let states = lanes.iter().map(|lane| recovery::lane(&*disk, &dir, lane, &mut recovered));
        let mut state = State { lanes: states.collect::<Result<_, _>>()?, max_bytes, ..State::default() };
        state.counters.torn_bytes = recovered.torn_bytes;
        state.counters.damaged = recovered.damaged.len() as u64;
        state.chore = Chore::Remove;
        let shared = Arc::new(Shared {
            dir,
            lanes,
            disk,
            tuning,
            state: Mutex::new(state),
            wake: Condvar::new(),
            room: Arc::new(Semaphore::new((WAITING_BYTES / ROOM_UNIT) as usize)),
            quarantine: Mutex::new(()),
        });
        shared.count_quarantine();
        let committer = Committer::new(Arc::clone(&shared), lock);
        let thread = Arc::new(CommitThread { shared: Arc::clone(&shared), thread: Mutex::new(None) });
        Ok((Self { shared, thread }, recovered, committer))
    }

    /// Queues an entry for the next group commit, waiting while 64 MiB are queued.
    ///
    /// `done` runs on the spool's thread: with the id when the entry is durable and can be read, or with the failure. In a
    /// lane, answers come in the order of appending. It must not block. After `Err` from here it is never called.
    /// Dropping the future before it is ready appends nothing.
    pub async fn append(
        &self,
        lane: Lane,
        tag: u16,
        body: Bytes,
        done: impl FnOnce(Result<EntryId, AppendError>) + Send + 'static,
    ) -> Result<(), AppendError> {
        let received_at = unix_micros(SystemTime::now());
        let units = body.len().div_ceil(ROOM_UNIT as usize).clamp(1, (WAITING_BYTES / ROOM_UNIT) as usize);
        let room = Arc::clone(&self.shared.room).acquire_many_owned(units as u32).await;
        let room = room.map_err(|_| AppendError::Closed)?;
        let admitted = {
            let mut state = self.shared.lock();
            let admitted = state.admit(lane, body.len() as u64);
            if admitted.is_ok() {
                state.queue.push_back(Queued { lane, tag, received_at, body, done: Box::new(done), room });
            }
            admitted
        };
        self.shared.wake.notify_one();
        admitted
    }

    /// The first entry at or after `from` that can be read; None at the end, until more is appended. Does not touch the
    /// disk. Released entries are passed over.
    pub fn next(&self, lane: Lane, from: Position) -> Option<EntryId> {
        let Position { segment, offset } = self.shared.lock().lanes.get(lane)?.next(from)?;
        Some(EntryId { lane, segment, offset })
    }

    /// The start of what is there.
    pub fn first(&self, lane: Lane) -> Position {
        let state = self.shared.lock();
        let segments =
            state.lanes.get(lane).map(|lane| lane.segments.keys().next().copied().unwrap_or(lane.next_segment));
        Position { segment: segments.unwrap_or_default(), offset: 0 }
    }

    /// Reads an entry and checks it. Blocks on the disk.
    ///
    /// A damaged entry is put into quarantine, released and counted; go on at [`EntryId::after`]. Any other failure leaves
    /// the entry where it is: try again, or give up with [`Spool::set_aside`].
    pub fn read(&self, id: EntryId) -> Result<Entry, ReadError> {
        match self.load(id)? {
            None => Err(ReadError::Released { id }),
            Some(Stored::Whole(header, body)) => Ok(Entry {
                id,
                next: id.after(),
                tag: header.tag,
                received_at: header.received_at(),
                body: Bytes::from(body),
            }),
            Some(damaged) => {
                let quarantined = self.keep(id, Some(damaged), "the checksum does not match")?;
                if self.forget(id) {
                    self.shared.lock().counters.damaged += 1;
                }
                Err(ReadError::Damaged { id, quarantined })
            }
        }
    }

    /// The entry's work is durably done: it will not be read again. Its bytes go with its segment.
    pub fn release(&self, id: EntryId) {
        self.forget(id);
    }

    /// Puts an entry durably into quarantine, for example because it cannot be decoded, then releases it. Blocks on the
    /// disk. What cannot be read of it is replaced by zeros.
    pub fn set_aside(&self, id: EntryId, reason: &str) -> Result<(), SpoolError> {
        let stored = match self.load(id) {
            Ok(None) => return Err(SpoolError::Released { id }),
            Ok(stored) => stored,
            Err(error) => {
                tracing::warn!(%error, "an entry cannot be read and is set aside as far as possible");
                None
            }
        };
        self.keep(id, stored, reason)?;
        if self.forget(id) {
            self.shared.lock().counters.set_aside += 1;
        }
        Ok(())
    }

    /// What is in the spool now. Reads at most one record header per lane from disk.
    pub fn status(&self) -> SpoolStatus {
        let lanes: Vec<LaneStatus> = (0..self.shared.lanes.len()).map(|lane| self.lane_status(lane)).collect();
        let state = self.shared.lock();
        SpoolStatus {
            bytes: lanes.iter().map(|lane| lane.bytes).sum(),
            lanes,
            quarantine_bytes: state.quarantine_bytes,
            max_bytes: state.max_bytes,
            not_accepting: state.not_accepting.clone(),
            counters: state.counters,
        }
    }

    /// Writes what is queued, removes what is released, and gives the directory free. Blocks. Other handles can still read.
    pub fn close(self) {
        self.thread.stop();
    }

    fn lane_status(&self, lane: Lane) -> LaneStatus {
        let oldest = self.next(lane, Position::default()).and_then(|id| {
            let Located { file, marker } = self.locate(id).ok()??;
            Some(read_header(&*file, marker, id.offset).ok()??.received_at())
        });
        let state = self.shared.lock();
        let (entries, bytes) = (state.lanes[lane].entries(), state.lanes[lane].bytes());
        LaneStatus { name: self.shared.lanes[lane].clone(), entries, bytes, oldest }
    }

    /// None when the entry is released.
    fn locate(&self, id: EntryId) -> Result<Option<Located>, SpoolError> {
        let (marker, cached) = {
            let state = self.shared.lock();
            let Some(lane) = state.lanes.get(id.lane) else { return Ok(None) };
            let Some(segment) = lane.segments.get(&id.segment).filter(|segment| segment.holds(id.offset)) else {
                return Ok(None);
            };
            let cached = lane.reader.as_ref().filter(|(number, _)| *number == id.segment);
            (segment.marker, cached.map(|(_, file)| Arc::clone(file)))
        };
        if let Some(file) = cached {
            return Ok(Some(Located { file, marker }));
        }
        let path = self.shared.lane_dir(id.lane).join(segment_name(id.segment));
        let file = self.shared.disk.open(&path).map_err(|error| SpoolError::io("open", &path, error))?;
        let mut state = self.shared.lock();
        let lane = &mut state.lanes[id.lane];
        if lane.segments.contains_key(&id.segment) {
            lane.reader = Some((id.segment, Arc::clone(&file)));
        }
        Ok(Some(Located { file, marker }))
    }

    /// None when the entry is released.
    fn load(&self, id: EntryId) -> Result<Option<Stored>, SpoolError> {
        let Some(Located { file, marker }) = self.locate(id)? else { return Ok(None) };
        let failed = |error| {
            let path = self.shared.lane_dir(id.lane).join(segment_name(id.segment));
            SpoolError::io("read", &path, error)
        };
        let Some(header) = read_header(&*file, marker, id.offset).map_err(failed)? else {
            let mut bytes = vec![0; (self.end(id) - id.offset) as usize];
            let read = file.read_at(id.offset, &mut bytes).map_err(failed)?;
            bytes.truncate(read);
            return Ok(Some(Stored::DamagedHeader(bytes)));
        };
        let mut body = vec![0; header.body_length as usize];
        let read = file.read_at(id.offset + RECORD_HEADER, &mut body).map_err(failed)?;
        let whole = read == body.len() && body_checksum(&body, marker) == header.body_checksum;
        body.truncate(read);
        Ok(Some(if whole { Stored::Whole(header, body) } else { Stored::DamagedBody(header, body) }))
    }

    /// Where the next entry begins, or the segment ends.
    fn end(&self, id: EntryId) -> u64 {
        let state = self.shared.lock();
        let lane = &state.lanes[id.lane];
        let next = lane.next(id.after()).filter(|next| next.segment == id.segment).map(|next| next.offset);
        let file_length = || lane.segments.get(&id.segment).map_or(id.offset, |segment| segment.file_length);
        next.unwrap_or_else(file_length)
    }

    /// Puts an entry's bytes, or without them what can be read, into quarantine and says under which name.
    fn keep(&self, id: EntryId, stored: Option<Stored>, reason: &str) -> Result<String, SpoolError> {
        let (content, header, bytes) = match stored {
            Some(Stored::Whole(header, body)) => (Content::Body, Some(header), body),
            Some(Stored::DamagedBody(header, body)) => (Content::DamagedBody, Some(header), body),
            Some(Stored::DamagedHeader(bytes)) => (Content::Raw, None, bytes),
            None => {
                let file = self.locate(id)?;
                let bytes =
                    file.map(|located| recovery::salvage(&*located.file, id.offset, self.end(id) - id.offset).0);
                (Content::Raw, None, bytes.unwrap_or_default())
            }
        };
        let origin = Origin {
            lane: &self.shared.lanes[id.lane],
            segment: id.segment,
            marker: self.shared.lock().lanes[id.lane].segments.get(&id.segment).map_or(0, |segment| segment.marker),
            offset: id.offset,
            content,
            tag: header.map(|header| header.tag),
            received_at: header.map(|header| header.received_at),
            reason,
        };
        let turn = self.shared.quarantine.lock().unwrap_or_else(PoisonError::into_inner);
        let about = quarantine::keep(&*self.shared.disk, &self.shared.dir, &origin, &bytes)?;
        drop(turn);
        self.shared.count_quarantine();
        Ok(about.name)
    }

    /// Says whether the entry was there.
    fn forget(&self, id: EntryId) -> bool {
        let mut state = self.shared.lock();
        let Some(lane) = state.lanes.get_mut(id.lane) else { return false };
        if !lane.release(id.segment, id.offset) {
            return false;
        }
        let finished = lane.segments.get(&id.segment).is_some_and(|segment| segment.sealed && segment.entries() == 0);
        state.counters.released += 1;
        if finished {
            state.chore = state.chore.max(Chore::Remove);
        }
        drop(state);
        if finished {
            self.shared.wake.notify_one();
        }
        true
    }
}

/// None when there is no record of this segment here.
fn read_header(file: &dyn DiskFile, marker: u64, offset: u64) -> std::io::Result<Option<RecordHeader>> {
    let mut bytes = [0; RECORD_HEADER as usize];
    let read = file.read_at(offset, &mut bytes)?;
    Ok(RecordHeader::decode(&bytes[..read], marker, offset))
}
