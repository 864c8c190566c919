//! A growing set of small numbers, one bit each: which slots of a segment start an entry that is not released.

/// A set of slot numbers that knows its size.
#[derive(Default)]
pub(crate) struct Bitmap {
    words: Vec<u64>,
    count: u64,
}

impl Bitmap {
    pub(crate) fn insert(&mut self, slot: u64) {
        let (word, bit) = place(slot);
        if word >= self.words.len() {
            self.words.resize(word + 1, 0);
        }
        if self.words[word] & bit == 0 {
            self.words[word] |= bit;
            self.count += 1;
        }
    }

    /// Says whether the slot was there.
    pub(crate) fn remove(&mut self, slot: u64) -> bool {
        let there = self.contains(slot);
        if there {
            let (word, bit) = place(slot);
            self.words[word] &= !bit;
            self.count -= 1;
        }
        there
    }

    pub(crate) fn contains(&self, slot: u64) -> bool {
        let (word, bit) = place(slot);
        self.words.get(word).is_some_and(|bits| bits & bit != 0)
    }

    /// The first slot at or after `from`.
    pub(crate) fn first_from(&self, from: u64) -> Option<u64> {
        let (start, _) = place(from);
        let masked = |index: usize, bits: u64| if index == start { bits & (u64::MAX << (from % 64)) } else { bits };
        let words = self.words.iter().enumerate().skip(start);
        words
            .map(|(index, bits)| (index, masked(index, *bits)))
            .find(|(_, bits)| *bits != 0)
            .map(|(index, bits)| index as u64 * 64 + u64::from(bits.trailing_zeros()))
    }

    pub(crate) fn count(&self) -> u64 {
        self.count
    }
}

fn place(slot: u64) -> (usize, u64) {
    ((slot / 64) as usize, 1 << (slot % 64))
}

#[cfg(test)]
mod tests {
    use super::Bitmap;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn behaves_like_a_set(steps in prop::collection::vec((any::<bool>(), 0_u64..300), 0..200), from in 0_u64..400) {
            let (mut bitmap, mut set) = (Bitmap::default(), BTreeSet::new());
            for (insert, slot) in steps {
                if insert {
                    bitmap.insert(slot);
                    set.insert(slot);
                } else {
                    prop_assert_eq!(bitmap.remove(slot), set.remove(&slot));
                }
                prop_assert_eq!(bitmap.contains(slot), set.contains(&slot));
            }
            prop_assert_eq!(bitmap.count(), set.len() as u64);
            prop_assert_eq!(bitmap.first_from(from), set.range(from..).next().copied());
        }
    }
}
