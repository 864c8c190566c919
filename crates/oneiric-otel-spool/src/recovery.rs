//! Finds the entries that an earlier process left. Headers are checked here, bodies when they are read.

use crate::disk::{Disk, DiskFile};
use crate::error::SpoolError;
use crate::format::{
    ALIGN, RECORD_HEADER, RecordHeader, SEGMENT_HEADER, SegmentHeader, VERSION, claimed_marker, record_length,
    segment_number,
};
use crate::quarantine::{self, Content, Origin, Quarantined};
use crate::state::{LaneState, Segment};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Bytes read at once: headers lie a body apart, resynchronising reads everything. Fuzz targets read less, to meet the
/// ends of what is read in short files.
const STEP: usize = if cfg!(fuzzing) { 128 } else { 4096 };
const STRIDE: usize = if cfg!(fuzzing) { 256 } else { 1 << 20 };

/// What was found when the spool was opened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Recovered {
    /// Entries to be read.
    pub entries: u64,
    /// Bytes of the files that hold them.
    pub bytes: u64,
    /// Bytes at ends of segments that were being written when the process or the machine stopped. Their entries were
    /// never acknowledged.
    pub torn_bytes: u64,
    /// Stretches of segments in which no record can be found; their bytes are in quarantine.
    pub damaged: Vec<Quarantined>,
}

/// Reads what is in a lane.
pub(crate) fn lane(
    disk: &dyn Disk,
    dir: &Path,
    lane: &str,
    recovered: &mut Recovered,
) -> Result<LaneState, SpoolError> {
    let lane_dir = dir.join(lane);
    let files = disk.list(&lane_dir).map_err(|error| SpoolError::io("list", &lane_dir, error))?;
    let mut numbers: Vec<u64> = files.iter().filter_map(|file| segment_number(&file.name)).collect();
    numbers.sort_unstable();
    let mut state = LaneState { next_segment: numbers.last().map_or(1, |last| last + 1), ..LaneState::default() };
    for number in numbers {
        let path = lane_dir.join(crate::format::segment_name(number));
        let file = disk.open(&path).map_err(|error| SpoolError::io("open", &path, error))?;
        let length = file.length().map_err(|error| SpoolError::io("read", &path, error))?;
        let mut scan = Scan { disk, dir, lane, number, file, length, path, window: (0, Vec::new()) };
        let segment = scan.segment(recovered)?;
        recovered.entries += segment.entries();
        recovered.bytes += segment.file_length;
        state.segments.insert(number, segment);
    }
    Ok(state)
}

struct Scan<'a> {
    disk: &'a dyn Disk,
    dir: &'a Path,
    lane: &'a str,
    number: u64,
    file: Arc<dyn DiskFile>,
    length: u64,
    path: PathBuf,
    /// The bytes last read for a header, and where they begin.
    window: (u64, Vec<u8>),
}

impl Scan<'_> {
    fn segment(&mut self, recovered: &mut Recovered) -> Result<Segment, SpoolError> {
        if self.length < SEGMENT_HEADER + RECORD_HEADER {
            recovered.torn_bytes += self.length;
            return Ok(Segment::new(0, self.length, true));
        }
        let Some(marker) = self.marker()? else {
            let whole = self.lost(0..self.length, 0, "the segment's header is damaged", recovered)?;
            return Ok(Segment::new(0, self.length, whole));
        };
        let mut segment = Segment::new(marker, self.length, true);
        let mut offset = SEGMENT_HEADER;
        while offset < self.length {
            if let Some(header) = self.record(marker, offset) {
                let end = offset + record_length(u64::from(header.body_length));
                if end > self.length {
                    recovered.torn_bytes += self.length - offset;
                    break;
                }
                segment.add(offset);
                offset = end;
            } else {
                let found = self.resynchronise(marker, offset + ALIGN);
                // A file that could not be read stays, unsealed, until it can be.
                segment.sealed &= self.lost(offset..found, marker, "no record can be found here", recovered)?;
                offset = found;
            }
        }
        Ok(segment)
    }

    /// None when the segment's records cannot be told from other bytes.
    fn marker(&self) -> Result<Option<u64>, SpoolError> {
        let start = self.bytes(0, (SEGMENT_HEADER + RECORD_HEADER) as usize).unwrap_or_default();
        match SegmentHeader::decode(&start) {
            Some(header) if header.version > VERSION => {
                Err(SpoolError::NewerFormat { path: self.path.clone(), found: header.version, known: VERSION })
            }
            Some(header) if header.number == self.number && header.lane == crc32fast::hash(self.lane.as_bytes()) => {
                Ok(Some(header.marker))
            }
            // A file from elsewhere under this name.
            Some(_) => Ok(None),
            None => Ok(start.get(SEGMENT_HEADER as usize..).and_then(claimed_marker)),
        }
    }

    fn record(&mut self, marker: u64, offset: u64) -> Option<RecordHeader> {
        let (start, bytes) = &self.window;
        let inside = *start <= offset && offset + RECORD_HEADER <= start + bytes.len() as u64;
        if !inside {
            // What follows the header may be unreadable without harm to it.
            let bytes = self.bytes(offset, STEP).or_else(|| self.bytes(offset, RECORD_HEADER as usize));
            self.window = (offset, bytes?);
        }
        let (start, bytes) = &self.window;
        RecordHeader::decode(&bytes[(offset - start) as usize..], marker, offset)
    }

    /// The next offset with a record, or the end of the file.
    fn resynchronise(&self, marker: u64, mut offset: u64) -> u64 {
        while offset < self.length {
            // A stretch that cannot be read at once is tried in the smallest steps.
            let bytes = self.bytes(offset, STRIDE).or_else(|| self.bytes(offset, STEP)).unwrap_or_default();
            let slots = bytes.chunks(ALIGN as usize).enumerate();
            let mut starts = slots.map(|(slot, bytes)| (offset + slot as u64 * ALIGN, bytes));
            if let Some((found, _)) = starts.find(|(at, bytes)| RecordHeader::decode(bytes, marker, *at).is_some()) {
                return found;
            }
            offset += (bytes.len() as u64).next_multiple_of(ALIGN).max(STEP as u64);
        }
        self.length
    }

    /// Counts a stretch without records as torn when nothing is in it, and keeps it otherwise. False when parts of it
    /// cannot be read.
    fn lost(
        &self,
        range: std::ops::Range<u64>,
        marker: u64,
        reason: &str,
        recovered: &mut Recovered,
    ) -> Result<bool, SpoolError> {
        let length = range.end - range.start;
        let (bytes, whole) = salvage(&*self.file, range.start, length);
        // A header that was cut off, or space that was never written.
        let cut = range.end == self.length && length < RECORD_HEADER;
        if whole && (cut || bytes.iter().all(|byte| *byte == 0)) {
            recovered.torn_bytes += length;
            return Ok(true);
        }
        let reason = if whole { reason.to_owned() } else { format!("{reason}, and parts cannot be read") };
        let origin = Origin {
            lane: self.lane,
            segment: self.number,
            marker,
            offset: range.start,
            content: Content::Raw,
            tag: None,
            received_at: None,
            reason: &reason,
        };
        let about = quarantine::keep(self.disk, self.dir, &origin, &bytes)?;
        recovered.damaged.push(about);
        Ok(whole)
    }

    /// None where the disk fails; short at the end of the file.
    fn bytes(&self, offset: u64, length: usize) -> Option<Vec<u8>> {
        let mut buffer = vec![0; length];
        let read = self.file.read_at(offset, &mut buffer);
        let read = read.inspect_err(|error| tracing::warn!(%error, path = %self.path.display(), offset, "unreadable"));
        buffer.truncate(read.ok()?);
        Some(buffer)
    }
}

/// Reads what can be read, with zeros for the rest, and says whether that was everything.
pub(crate) fn salvage(file: &dyn DiskFile, offset: u64, length: u64) -> (Vec<u8>, bool) {
    let mut bytes = vec![0; length as usize];
    if file.read_at(offset, &mut bytes).is_ok_and(|read| read as u64 == length) {
        return (bytes, true);
    }
    bytes.fill(0);
    for (index, block) in bytes.chunks_mut(STEP).enumerate() {
        let at = offset + (index * STEP) as u64;
        if let Err(error) = file.read_at(at, block) {
            block.fill(0);
            tracing::warn!(%error, offset = at, "a block cannot be read");
        }
    }
    (bytes, false)
}

/// Removes what a crash left of files that never came to be.
pub(crate) fn tidy(disk: &dyn Disk, dir: &Path) -> Result<(), SpoolError> {
    let quarantine = quarantine::directory(dir);
    for dir in [dir, &quarantine] {
        let files = disk.list(dir).map_err(|error| SpoolError::io("list", dir, error))?;
        for file in files.iter().filter(|file| is_temporary(&file.name)) {
            let path = dir.join(&file.name);
            disk.remove(&path).map_err(|error: io::Error| SpoolError::io("remove", &path, error))?;
        }
    }
    Ok(())
}

fn is_temporary(name: &str) -> bool {
    name == "format.tmp" || name.ends_with(".bin.tmp") || name.ends_with(".json.tmp")
}
