//! Segments of the spool: whatever is in a file, what is recovered of it is what was written.

use std::ops::Range;

use flate2::Crc;
use oneiric_otel_spool::fuzzing::{recover, segment};

use crate::memory;

/// Bytes of memory for a byte of a segment: the file, what is set aside of it, and what is known about that.
const FACTOR: usize = 256;

const SEGMENT_HEADER: usize = 64;
const RECORD_HEADER: usize = 40;
const ALIGN: usize = 64;

/// A file in the place of a segment.
pub fn raw(file: &[u8]) {
    memory::bounded(file.len(), FACTOR, || {
        check(file);
    });
}

/// A segment that was written with some bodies and then damaged. The first byte says how many bodies of which lengths,
/// the second how many changes there are; a change is a place in two bytes and what is done there in one.
pub fn damaged(input: &[u8]) {
    let Some(([count, changes], rest)) = input.split_first_chunk() else { return };
    let (changes, rest) = rest.split_at((usize::from(changes % 16) * 3).min(rest.len()));
    memory::bounded(input.len() * 8, FACTOR, || {
        let length = 1 + usize::from(count >> 3);
        let bodies: Vec<&[u8]> = rest.chunks(length * 7).take(usize::from(count % 8) + 1).collect();
        // An input cannot know the marker: nobody is told it.
        let marker = marker(input);
        let written = segment(marker, &bodies);
        let mut file = written.clone();
        let mut touched = Vec::new();
        for change in changes.chunks_exact(3) {
            let at = usize::from(u16::from_le_bytes([change[0], change[1]])) % file.len().max(1);
            match change[2] {
                0 => file.truncate(at),
                1 => file.resize(file.len() + at, 0),
                2 => file.iter_mut().skip(at).take(ALIGN).for_each(|byte| *byte = 0),
                mask => file.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= mask),
            }
        }
        for (at, byte) in written.iter().enumerate() {
            if file.get(at) != Some(byte) {
                touched.push(at);
            }
        }
        let found = check(&file);
        let is_whole = |range: &Range<usize>| !touched.iter().any(|at| range.contains(at));
        let places = places(&bodies);
        // Without a header the marker is taken from the first record.
        if !is_whole(&(0..SEGMENT_HEADER)) && !places.first().is_some_and(is_whole) {
            return;
        }
        for (body, place) in bodies.iter().zip(&places) {
            if is_whole(place) {
                let read = found.iter().find(|(offset, _)| *offset == place.start).map(|(_, body)| body.as_deref());
                assert_eq!(read, Some(Some(*body)), "an undamaged record at {place:?} is lost");
            }
        }
    });
}

/// Where the records of these bodies are.
fn places(bodies: &[&[u8]]) -> Vec<Range<usize>> {
    let mut start = SEGMENT_HEADER;
    let place = |body: &&[u8]| {
        let place = start..start + (RECORD_HEADER + body.len()).next_multiple_of(ALIGN);
        start = place.end;
        place
    };
    bodies.iter().map(place).collect()
}

fn marker(input: &[u8]) -> u64 {
    input.iter().fold(0x9e37_79b9_7f4a_7c15, |hash: u64, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0xff51_afd7_ed55_8ccd).rotate_left(29)
    })
}

/// Recovers a segment and checks that every body fits its checksum and that every byte is accounted for.
fn check(file: &[u8]) -> Vec<(usize, Option<Vec<u8>>)> {
    let Ok((recovered, found)) = recover(file) else { return Vec::new() };
    assert_eq!(recovered.entries, found.len() as u64, "an entry is neither read nor damaged");
    let mut accounted = recovered.torn_bytes + recovered.damaged.iter().map(|part| part.length).sum::<u64>();
    let mut end = 0;
    for (offset, body) in &found {
        let offset = *offset as usize;
        assert!(offset >= SEGMENT_HEADER && offset % ALIGN == 0 && offset >= end, "entries overlap at {offset}");
        let header = &file[offset..offset + RECORD_HEADER];
        let length = u32_at(header, 12) as usize;
        end = offset + (RECORD_HEADER + length).next_multiple_of(ALIGN);
        assert!(end <= file.len(), "an entry at {offset} ends behind the file");
        accounted += (end - offset) as u64;
        let stored = &file[offset + RECORD_HEADER..][..length];
        let mut checksum = Crc::new();
        checksum.update(&header[..8]);
        checksum.update(stored);
        let fits = checksum.sum() == u32_at(header, 16);
        assert_eq!(body.as_deref(), fits.then_some(stored), "the body at {offset}");
    }
    if recovered.entries > 0 {
        accounted += SEGMENT_HEADER as u64;
        assert_eq!(accounted, file.len() as u64, "bytes are neither read nor kept nor counted");
    }
    found.into_iter().map(|(offset, body)| (offset as usize, body.map(|body| body.to_vec()))).collect()
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}
