//! Cuts work into chunks and spreads chunks over threads.
//!
//! Promises results in the order of the work, and nothing about who did what.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

/// Pieces in the smallest chunk that is worth a thread of its own.
const FEWEST_PIECES: usize = 64;

/// Groups texts of the given lengths, in pieces, into chunks for `threads` workers: lists of positions in `lengths`. A
/// chunk has at most `pieces`, unless it is a single text.
///
/// Longest first, so that the last chunks to finish are short ones.
pub(crate) fn group(lengths: &[usize], threads: usize, pieces: usize) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..lengths.len()).collect();
    order.sort_by_key(|&text| std::cmp::Reverse(lengths[text]));
    let all = lengths.iter().sum::<usize>();
    let most = all.div_ceil(threads.max(1)).clamp(FEWEST_PIECES.min(pieces), pieces);

    let mut chunks: Vec<Vec<usize>> = Vec::new();
    let mut room = 0;
    for text in order {
        if lengths[text] > room || chunks.is_empty() {
            chunks.push(Vec::new());
            room = most;
        }
        room = room.saturating_sub(lengths[text]);
        if let Some(chunk) = chunks.last_mut() {
            chunk.push(text);
        }
    }
    chunks
}

/// Calls `work` with 0 to `count - 1`, on up to `threads` threads of which the caller is one, and gives the results in
/// that order.
pub(crate) fn spread<T: Send>(count: usize, threads: usize, work: impl Fn(usize) -> T + Sync) -> Vec<T> {
    let next = AtomicUsize::new(0);
    let worker = || {
        let mut done = Vec::new();
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            if index >= count {
                return done;
            }
            done.push((index, work(index)));
        }
    };
    let mut all = thread::scope(|scope| {
        let others: Vec<_> = (1..threads.min(count)).map(|_| scope.spawn(worker)).collect();
        let mut all = worker();
        for other in others {
            match other.join() {
                Ok(done) => all.extend(done),
                // The worker has an error of ours; it must not look like a missing result.
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        all
    });
    all.sort_unstable_by_key(|(index, _)| *index);
    all.into_iter().map(|(_, result)| result).collect()
}

#[cfg(test)]
mod tests {
    use super::{group, spread};

    const PIECES: usize = 400;

    #[test]
    fn every_text_is_in_one_chunk_and_no_chunk_is_too_large() {
        for count in [0, 1, 2, 7, 500] {
            let lengths: Vec<usize> = (0..count).map(|i| 2 + i * 97 % 255).collect();
            for threads in [1, 2, 5] {
                let chunks = group(&lengths, threads, PIECES);
                let mut texts: Vec<usize> = chunks.iter().flatten().copied().collect();
                texts.sort_unstable();
                assert_eq!(texts, (0..count).collect::<Vec<_>>());
                for chunk in &chunks {
                    let pieces = chunk.iter().map(|&text| lengths[text]).sum::<usize>();
                    assert!(chunk.len() == 1 || pieces <= PIECES, "{pieces} pieces");
                }
            }
        }
    }

    #[test]
    fn a_few_texts_are_shared_between_two_threads() {
        assert_eq!(group(&[50, 50, 50, 50], 1, PIECES), [[0, 1, 2, 3]]);
        assert_eq!(group(&[50, 50, 50, 50], 2, PIECES), [[0, 1], [2, 3]]);
        assert_eq!(group(&[10, 10, 10], 2, PIECES), [[0, 1, 2]]);
    }

    #[test]
    fn results_come_in_the_order_of_the_work() {
        for threads in [1, 2, 8] {
            assert_eq!(spread(100, threads, |i| i * i), (0..100).map(|i| i * i).collect::<Vec<_>>());
            assert!(spread(0, threads, |i| i).is_empty());
        }
    }
}
