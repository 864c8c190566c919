//! The bytes of a segment file: its header and the headers of its records. See the crate's head for the layout.

use bytes::Bytes;
use std::time::{Duration, SystemTime};

/// The format this build writes, and the newest it reads.
pub(crate) const VERSION: u32 = 1;
/// Records start at multiples of this.
pub(crate) const ALIGN: u64 = 64;
/// Bytes before the first record.
pub(crate) const SEGMENT_HEADER: u64 = 64;
/// Bytes before a record's body.
pub(crate) const RECORD_HEADER: u64 = 40;

const MAGIC: &[u8; 8] = b"ONOSPOOL";

/// What the first bytes of a segment file say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    pub(crate) version: u32,
    pub(crate) number: u64,
    /// Random; starts every record of this segment and seeds its checksums.
    pub(crate) marker: u64,
    /// Checksum of the lane's name.
    pub(crate) lane: u32,
}

impl SegmentHeader {
    pub(crate) fn new(number: u64, marker: u64, lane_name: &str) -> Self {
        Self { version: VERSION, number, marker, lane: crc32fast::hash(lane_name.as_bytes()) }
    }

    pub(crate) fn encode(&self) -> [u8; SEGMENT_HEADER as usize] {
        let mut bytes = [0; SEGMENT_HEADER as usize];
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8..12].copy_from_slice(&self.version.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.number.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.marker.to_le_bytes());
        bytes[32..36].copy_from_slice(&self.lane.to_le_bytes());
        let checksum = segment_checksum(&bytes);
        bytes[12..16].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    /// None when these bytes are not a whole segment header.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes = bytes.get(..SEGMENT_HEADER as usize)?;
        if !bytes.starts_with(MAGIC) || u32_at(bytes, 12) != segment_checksum(bytes) {
            return None;
        }
        Some(Self {
            version: u32_at(bytes, 8),
            number: u64_at(bytes, 16),
            marker: u64_at(bytes, 24),
            lane: u32_at(bytes, 32),
        })
    }
}

fn segment_checksum(bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&bytes[..12]);
    hasher.update(&bytes[16..]);
    hasher.finalize()
}

/// What precedes a record's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RecordHeader {
    pub(crate) body_length: u32,
    pub(crate) body_checksum: u32,
    /// Unix time in microseconds.
    pub(crate) received_at: u64,
    pub(crate) tag: u16,
}

impl RecordHeader {
    pub(crate) fn encode(&self, marker: u64, offset: u64) -> [u8; RECORD_HEADER as usize] {
        let mut bytes = [0; RECORD_HEADER as usize];
        bytes[..8].copy_from_slice(&marker.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.body_length.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.body_checksum.to_le_bytes());
        bytes[20..28].copy_from_slice(&self.received_at.to_le_bytes());
        bytes[28..30].copy_from_slice(&self.tag.to_le_bytes());
        let checksum = record_checksum(&bytes, offset);
        bytes[8..12].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    /// None when no record of the segment with this marker starts with these bytes at this offset.
    pub(crate) fn decode(bytes: &[u8], marker: u64, offset: u64) -> Option<Self> {
        let bytes = bytes.get(..RECORD_HEADER as usize)?;
        if u64_at(bytes, 0) != marker || u32_at(bytes, 8) != record_checksum(bytes, offset) {
            return None;
        }
        Some(Self {
            body_length: u32_at(bytes, 12),
            body_checksum: u32_at(bytes, 16),
            received_at: u64_at(bytes, 20),
            tag: u16::from_le_bytes([bytes[28], bytes[29]]),
        })
    }

    pub(crate) fn received_at(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_micros(self.received_at)
    }
}

/// The marker that a record at the start of the file claims; for a segment whose own header is damaged.
pub(crate) fn claimed_marker(first_record: &[u8]) -> Option<u64> {
    let marker = first_record.get(..8).map(|bytes| u64_at(bytes, 0))?;
    RecordHeader::decode(first_record, marker, SEGMENT_HEADER).map(|_| marker)
}

fn record_checksum(bytes: &[u8], offset: u64) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&offset.to_le_bytes());
    hasher.update(&bytes[..8]);
    hasher.update(&bytes[12..RECORD_HEADER as usize]);
    hasher.finalize()
}

/// Seeded, so that a block left over from another file does not pass.
pub(crate) fn body_checksum(body: &[u8], marker: u64) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&marker.to_le_bytes());
    hasher.update(body);
    hasher.finalize()
}

/// Bytes a record takes on disk: header, body, zeros up to the next multiple of [`ALIGN`].
pub(crate) fn record_length(body_length: u64) -> u64 {
    (RECORD_HEADER + body_length).next_multiple_of(ALIGN)
}

/// Unix time in microseconds; 0 for times before 1970.
pub(crate) fn unix_micros(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_micros() as u64)
}

/// One record, ready to be written.
pub(crate) struct Record {
    header: [u8; RECORD_HEADER as usize],
    body: Bytes,
}

impl Record {
    pub(crate) fn new(marker: u64, offset: u64, tag: u16, received_at: u64, body: Bytes) -> Self {
        let header = RecordHeader {
            body_length: body.len() as u32,
            body_checksum: body_checksum(&body, marker),
            received_at,
            tag,
        };
        Self { header: header.encode(marker, offset), body }
    }

    /// Header, body and padding.
    pub(crate) fn parts(&self) -> [&[u8]; 3] {
        const ZEROS: [u8; ALIGN as usize] = [0; ALIGN as usize];
        let used = RECORD_HEADER + self.body.len() as u64;
        let padding = record_length(self.body.len() as u64) - used;
        [&self.header, &self.body, &ZEROS[..padding as usize]]
    }
}

pub(crate) fn segment_name(number: u64) -> String {
    format!("{number:016}.seg")
}

/// The number in a segment's file name; None for any other file.
pub(crate) fn segment_number(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".seg")?;
    let plain = digits.len() == 16 && digits.bytes().all(|byte| byte.is_ascii_digit());
    if plain { digits.parse().ok() } else { None }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The layout is a promise to spools on disk.
    #[test]
    fn the_layout_is_frozen() {
        let segment = SegmentHeader { version: 1, number: 0x0102, marker: 0x1122_3344_5566_7788, lane: 0xaabb_ccdd };
        let mut wanted = [0_u8; 64];
        wanted[..12].copy_from_slice(b"ONOSPOOL\x01\0\0\0");
        wanted[16..18].copy_from_slice(&[2, 1]);
        wanted[24..32].copy_from_slice(&[0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11]);
        wanted[32..36].copy_from_slice(&[0xdd, 0xcc, 0xbb, 0xaa]);
        let checksum = segment_checksum(&wanted);
        wanted[12..16].copy_from_slice(&checksum.to_le_bytes());
        assert_eq!(segment.encode(), wanted);
        assert_eq!(SegmentHeader::decode(&wanted), Some(segment));

        let record = RecordHeader { body_length: 3, body_checksum: 4, received_at: 5, tag: 6 };
        let bytes = record.encode(segment.marker, 128);
        assert_eq!(bytes[..8], wanted[24..32]);
        assert_eq!(bytes[12..], [3, 0, 0, 0, 4, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 6, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(RecordHeader::decode(&bytes, segment.marker, 128), Some(record));
    }

    #[test]
    fn any_flipped_bit_is_noticed() {
        let segment = SegmentHeader::new(7, 8, "traces").encode();
        for bit in 0..segment.len() * 8 {
            let mut flipped = segment;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(SegmentHeader::decode(&flipped), None, "bit {bit}");
        }
        let record = RecordHeader { body_length: 3, body_checksum: 4, received_at: 5, tag: 6 }.encode(9, 64);
        for bit in 0..record.len() * 8 {
            let mut flipped = record;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(RecordHeader::decode(&flipped, 9, 64), None, "bit {bit}");
        }
    }

    #[test]
    fn a_record_belongs_to_its_segment_and_place() {
        let bytes = RecordHeader { body_length: 3, body_checksum: 4, received_at: 5, tag: 6 }.encode(9, 64);
        assert!(RecordHeader::decode(&bytes, 9, 64).is_some());
        assert_eq!(RecordHeader::decode(&bytes, 9, 128), None);
        assert_eq!(RecordHeader::decode(&bytes, 8, 64), None);
    }

    #[test]
    fn only_segment_names_are_segments() {
        assert_eq!(segment_number(&segment_name(42)), Some(42));
        for name in ["42.seg", "0000000000000042.seg.bak", "+000000000000042.seg", "notes.txt", ".seg"] {
            assert_eq!(segment_number(name), None, "{name}");
        }
    }
}
