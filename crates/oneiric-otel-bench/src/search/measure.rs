//! How good a ranking is, as numbers from 0 to 1.
//!
//! Pure functions over a ranking written as "is this one relevant", best first. Relevance is yes or no.

use serde::Serialize;

/// How far down a ranking is looked at.
pub(super) const DEPTH: usize = 10;

/// What one ranking, or the mean of several, is worth.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Quality {
    /// Share of the relevant that are among the first ten; of more relevant than that, all ten are enough.
    pub recall: f64,
    /// 1 / the rank of the first relevant one, 0 if there is none at any depth.
    pub reciprocal_rank: f64,
    /// Discounted cumulative gain of the first ten over the best that could be had.
    pub ndcg: f64,
}

impl Quality {
    /// Measures a ranking. `relevant` is how many there are, found or not.
    pub fn of(ranking: &[bool], relevant: usize) -> Self {
        let possible = relevant.min(DEPTH);
        if possible == 0 {
            return Self::default();
        }
        let found = ranking.iter().take(DEPTH).filter(|is_relevant| **is_relevant).count();
        let first = ranking.iter().position(|is_relevant| *is_relevant);
        let gain: f64 =
            (0..).zip(ranking.iter().take(DEPTH)).filter(|(_, hit)| **hit).map(|(rank, _)| discount(rank)).sum();
        Self {
            recall: found as f64 / possible as f64,
            reciprocal_rank: first.map_or(0.0, |rank| 1.0 / (rank as f64 + 1.0)),
            ndcg: gain / (0..possible).map(discount).sum::<f64>(),
        }
    }

    /// The mean; nothing is worth nothing.
    pub fn mean(all: &[Self]) -> Self {
        let mean = |part: fn(&Self) -> f64| all.iter().map(part).sum::<f64>() / all.len().max(1) as f64;
        Self {
            recall: mean(|quality| quality.recall),
            reciprocal_rank: mean(|quality| quality.reciprocal_rank),
            ndcg: mean(|quality| quality.ndcg),
        }
    }
}

/// What a relevant one at this rank, from 0, counts.
fn discount(rank: usize) -> f64 {
    1.0 / (rank as f64 + 2.0).log2()
}

/// How often an answer is "nothing near", and how often that is right.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct NothingNear {
    /// Questions that have an answer.
    pub answerable: usize,
    /// Of them, those that were told that nothing is near: the mistakes.
    pub answerable_silent: usize,
    /// Questions about what is not there.
    pub unanswerable: usize,
    /// Of them, those that were told so.
    pub unanswerable_silent: usize,
}

impl NothingNear {
    /// Of the answers "nothing near", the share that is right; 1 where none was given.
    pub fn precision(&self) -> f64 {
        let silent = self.answerable_silent + self.unanswerable_silent;
        if silent == 0 { 1.0 } else { self.unanswerable_silent as f64 / silent as f64 }
    }

    /// Of the questions without an answer, the share that was told so.
    pub fn recall(&self) -> f64 {
        self.unanswerable_silent as f64 / self.unanswerable.max(1) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(a: f64, b: f64) -> bool {
        (a - b).abs() < 1e-9
    }

    #[test]
    fn a_ranking_by_hand() {
        // Relevant at ranks 2 and 4 of three: gains 1/log2(3) + 1/log2(5) of 1 + 1/log2(3) + 1/log2(4).
        let quality = Quality::of(&[false, true, false, true], 3);
        assert!(close(quality.recall, 2.0 / 3.0));
        assert!(close(quality.reciprocal_rank, 0.5));
        assert!(close(quality.ndcg, (0.630_929_753_571_457 + 0.430_676_558_073_393) / 2.130_929_753_571_457));
    }

    #[test]
    fn the_best_ranking_is_worth_one_whatever_there_is_more() {
        let all = [true; 30];
        let best = Quality { recall: 1.0, reciprocal_rank: 1.0, ndcg: 1.0 };
        assert_eq!(Quality::of(&all, 30), best);
        assert_eq!(Quality::of(&[true, false], 1), best);
    }

    #[test]
    fn what_is_beyond_the_depth_counts_for_the_rank_alone() {
        let mut ranking = [false; 20];
        ranking[19] = true;
        assert_eq!(Quality::of(&ranking, 1), Quality { recall: 0.0, reciprocal_rank: 0.05, ndcg: 0.0 });
        assert_eq!(Quality::of(&[], 2), Quality::default());
        assert_eq!(Quality::of(&[false], 0), Quality::default());
    }

    #[test]
    fn the_mean_is_of_each_measure() {
        let one = Quality { recall: 1.0, reciprocal_rank: 0.5, ndcg: 0.0 };
        let two = Quality { recall: 0.0, reciprocal_rank: 0.5, ndcg: 1.0 };
        assert_eq!(Quality::mean(&[one, two]), Quality { recall: 0.5, reciprocal_rank: 0.5, ndcg: 0.5 });
        assert_eq!(Quality::mean(&[]), Quality::default());
    }

    #[test]
    fn silence_is_right_or_wrong() {
        let told = NothingNear { answerable: 10, answerable_silent: 1, unanswerable: 4, unanswerable_silent: 3 };
        assert!(close(told.precision(), 0.75) && close(told.recall(), 0.75));
        assert!(close(NothingNear::default().precision(), 1.0));
    }
}
