//! The keys of a map: in which order jsonb gives them back, and how that is told.
//!
//! Few lists of keys come again and again, so what follows from a list alone is kept: its order, and its JSON.

use super::write_string;
use crate::otlp::view::Attribute;

/// The most keys whose order fits a 64-bit rank: 20! < 2^64 < 21!.
const MAX_RANKED: usize = 20;

/// Lists that are kept.
const KEPT: usize = 8;

/// The longest list that is kept, in keys and in bytes.
const MAX_KEPT_KEYS: usize = 128;
const MAX_KEPT_BYTES: usize = 4096;

/// What follows from the keys of a map, in the order in which they came.
#[derive(Debug, Default)]
pub(super) struct Keys {
    /// The keys one behind the other, and where each ends.
    text: String,
    ends: Vec<usize>,
    /// jsonb cannot tell them: equal keys, NUL in a key, too many.
    pub(super) irregular: bool,
    /// Their permutation, where jsonb has another order and can tell them.
    pub(super) permutation: Vec<u8>,
    /// Their positions in the order of jsonb.
    order: Vec<u32>,
    /// `"key":` of each in the order of jsonb, a comma before all but the first, and where each ends.
    json: Vec<u8>,
    json_ends: Vec<usize>,
}

impl Keys {
    /// Each key in the order of jsonb: its position, and what stands before its value.
    pub(super) fn in_order(&self) -> impl Iterator<Item = (usize, &[u8])> {
        let mut start = 0;
        self.order.iter().zip(&self.json_ends).map(move |(position, end)| {
            let json = &self.json[start..*end];
            start = *end;
            (*position as usize, json)
        })
    }

    fn are_of(&self, entries: &[impl Attribute]) -> bool {
        let mut start = 0;
        let is_same = |(entry, end): (&_, &usize)| {
            let key = &self.text.as_bytes()[start..*end];
            start = *end;
            key == Attribute::key(entry).as_bytes()
        };
        self.ends.len() == entries.len() && entries.iter().zip(&self.ends).all(is_same)
    }

    fn learn(&mut self, entries: &[impl Attribute]) {
        let Self { text, ends, irregular, permutation, order, json, json_ends } = self;
        text.clear();
        ends.clear();
        for entry in entries {
            text.push_str(entry.key());
            ends.push(text.len());
        }

        order.clear();
        order.extend(0..entries.len() as u32);
        let key = |position: &u32| entries[*position as usize].key();
        let compare = |a: &str, b: &str| a.len().cmp(&b.len()).then_with(|| a.as_bytes().cmp(b.as_bytes()));
        order.sort_by(|a, b| compare(key(a), key(b)));
        *irregular = entries.len() > usize::from(u16::MAX)
            || order.windows(2).any(|pair| key(&pair[0]) == key(&pair[1]))
            || text.contains('\0');
        permutation.clear();
        if !*irregular && !order.is_sorted() {
            write_permutation(order, permutation);
        }

        json.clear();
        json_ends.clear();
        for (i, position) in order.iter().enumerate() {
            if i > 0 {
                json.push(b',');
            }
            write_string(json, key(position));
            json.push(b':');
            json_ends.push(json.len());
        }
    }
}

/// The keys of the maps that were written last.
#[derive(Debug, Default)]
pub(super) struct KnownKeys([Option<Box<Keys>>; KEPT]);

impl KnownKeys {
    /// Takes out what follows from the keys of these entries. Give it back with [`Self::keep`].
    pub(super) fn take(&mut self, entries: &[impl Attribute]) -> Box<Keys> {
        let bytes = entries.iter().map(|entry| entry.key().len()).sum();
        let mut keys = self.0[place(entries.len(), bytes)].take().unwrap_or_default();
        if !keys.are_of(entries) {
            keys.learn(entries);
        }
        keys
    }

    pub(super) fn keep(&mut self, keys: Box<Keys>) {
        let (count, bytes) = (keys.ends.len(), keys.text.len());
        if count <= MAX_KEPT_KEYS && bytes <= MAX_KEPT_BYTES {
            self.0[place(count, bytes)] = Some(keys);
        }
    }
}

fn place(count: usize, bytes: usize) -> usize {
    (count + bytes) % KEPT
}

fn write_permutation(order: &[u32], out: &mut Vec<u8>) {
    if order.len() <= MAX_RANKED {
        let bytes = rank(order).to_le_bytes();
        out.extend_from_slice(&bytes[..rank_bytes(order.len())]);
    } else {
        for position in order {
            out.extend_from_slice(&(*position as u16).to_le_bytes());
        }
    }
}

/// How many bytes the permutation of so many keys has.
pub(super) fn permutation_bytes(count: usize) -> usize {
    if count <= MAX_RANKED { rank_bytes(count) } else { count * 2 }
}

/// The inverse of writing a permutation of so many keys.
pub(super) fn read_permutation(bytes: &[u8], count: usize) -> Vec<u32> {
    if count <= MAX_RANKED {
        let mut rank = [0; 8];
        rank[..bytes.len()].copy_from_slice(bytes);
        return unrank(u64::from_le_bytes(rank), count);
    }
    bytes.chunks_exact(2).map(|pair| u32::from(u16::from_le_bytes([pair[0], pair[1]]))).collect()
}

/// Bytes that a rank of `count` keys needs.
pub(super) fn rank_bytes(count: usize) -> usize {
    let highest = (2..=count as u64).product::<u64>().saturating_sub(1);
    (64 - highest.leading_zeros() as usize).div_ceil(8)
}

/// The number of a permutation in lexicographic order.
pub(super) fn rank(order: &[u32]) -> u64 {
    let mut rank = 0;
    for (i, position) in order.iter().enumerate() {
        let smaller_later = order[i + 1..].iter().filter(|later| *later < position).count() as u64;
        rank = rank * (order.len() - i) as u64 + smaller_later;
    }
    rank
}

/// The permutation with this number.
pub(super) fn unrank(mut rank: u64, count: usize) -> Vec<u32> {
    let mut digits = vec![0; count];
    for i in (0..count).rev() {
        let base = (count - i) as u64;
        digits[i] = (rank % base) as usize;
        rank /= base;
    }
    let mut free: Vec<u32> = (0..count as u32).collect();
    digits.into_iter().map(|digit| free.remove(digit)).collect()
}
