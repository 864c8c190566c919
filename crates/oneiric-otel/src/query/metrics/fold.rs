//! From the stretches of many streams to the points of an answer.
//!
//! Pure. Streams come one after the other, the stretches of each in order of time; memory holds the answer and the one
//! stream that is being read.

use std::collections::BTreeMap;

use super::Aggregation;
use super::buckets::Distribution;
use super::partial::{Counting, Measure, Partial, Sample};

/// The steps of an answer: `[start, end)` cut at the multiples of `step` since 1970. Nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Grid {
    pub(crate) start: u64,
    pub(crate) end: u64,
    pub(crate) step: u64,
}

impl Grid {
    /// The number of the step that a time lies in.
    pub(crate) fn bucket(&self, time: u64) -> u64 {
        time / self.step
    }

    /// How many steps there are.
    pub(crate) fn len(&self) -> u64 {
        self.bucket(self.end.saturating_sub(1)) - self.bucket(self.start) + 1
    }

    /// When a step begins.
    pub(crate) fn begins(&self, bucket: u64) -> u64 {
        bucket.saturating_mul(self.step)
    }

    /// Seconds of the step that lie in the range.
    fn covered_seconds(&self, bucket: u64) -> f64 {
        let from = self.begins(bucket).max(self.start);
        let until = self.begins(bucket).saturating_add(self.step).min(self.end);
        until.saturating_sub(from) as f64 / 1e9
    }
}

/// What is known of one step of a group of streams.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Cell {
    points: f64,
    sum: f64,
    min: f64,
    max: f64,
    last: (u64, f64),
    increase: Option<Measure>,
}

impl Cell {
    fn of(partial: &Partial, increase: Option<Measure>) -> Self {
        let last = match &partial.last.measure {
            Measure::Number(value) => *value,
            Measure::Distribution(_) => 0.0,
        };
        let (points, sum, min, max) = (partial.points, partial.sum, partial.min, partial.max);
        Self { points, sum, min, max, last: (partial.last.time, last), increase }
    }

    fn merge(&mut self, other: Self) {
        self.points += other.points;
        self.sum += other.sum;
        self.min = self.min.min(other.min);
        self.max = self.max.max(other.max);
        if other.last.0 >= self.last.0 {
            self.last = other.last;
        }
        match (&mut self.increase, other.increase) {
            (Some(Measure::Number(sum)), Some(Measure::Number(more))) => *sum += more,
            (Some(Measure::Distribution(sum)), Some(Measure::Distribution(more))) => sum.add(&more),
            (increase @ None, more) => *increase = more,
            _ => {}
        }
    }

    /// The value of the step; none where nothing can be said.
    fn value(&self, aggregation: Aggregation, seconds: f64) -> Option<f64> {
        match &self.increase {
            Some(Measure::Distribution(distribution)) => of_distribution(distribution, aggregation, seconds),
            increase => {
                let increase = increase.as_ref().and_then(|measure| match measure {
                    Measure::Number(value) => Some(*value),
                    Measure::Distribution(_) => None,
                });
                match aggregation {
                    Aggregation::Avg => Some(self.sum / self.points),
                    Aggregation::Sum => Some(self.sum),
                    Aggregation::Min => Some(self.min),
                    Aggregation::Max => Some(self.max),
                    Aggregation::Count => Some(self.points),
                    Aggregation::Last => Some(self.last.1),
                    Aggregation::Increase => increase,
                    Aggregation::Rate => increase.map(|increase| increase / seconds),
                    Aggregation::Quantile(_) => None,
                }
            }
        }
    }
}

fn of_distribution(distribution: &Distribution, aggregation: Aggregation, seconds: f64) -> Option<f64> {
    let measured = distribution.count > 0.0;
    match aggregation {
        Aggregation::Avg => distribution.sum.filter(|_| measured).map(|sum| sum / distribution.count),
        Aggregation::Sum => distribution.sum,
        Aggregation::Min => distribution.lowest().filter(|_| measured),
        Aggregation::Max => distribution.highest().filter(|_| measured),
        Aggregation::Count | Aggregation::Increase => Some(distribution.count),
        Aggregation::Rate => Some(distribution.count / seconds),
        Aggregation::Quantile(q) => distribution.quantile(q).filter(|_| measured),
        Aggregation::Last => None,
    }
}

/// The steps of a group of streams.
#[derive(Debug, Default)]
pub(crate) struct Cells(BTreeMap<u64, Cell>);

impl Cells {
    /// How many steps have something.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// The points of the answer: when each step begins, and its value. Steps without one are left out.
    pub(crate) fn values(&self, grid: Grid, aggregation: Aggregation) -> Vec<(u64, f64)> {
        let value = |(bucket, cell): (&u64, &Cell)| {
            let value = cell.value(aggregation, grid.covered_seconds(*bucket))?;
            Some((grid.begins(*bucket), value))
        };
        self.0.iter().filter_map(value).collect()
    }
}

/// Reads one stream.
#[derive(Debug)]
pub(crate) struct StreamFold {
    grid: Grid,
    counting: Counting,
    distributions: bool,
    /// The last point before `open`.
    before: Option<Sample>,
    open: Option<(u64, Partial)>,
}

impl StreamFold {
    pub(crate) fn new(grid: Grid, counting: Counting, distributions: bool) -> Self {
        Self { grid, counting, distributions, before: None, open: None }
    }

    /// Takes the next stretch, which lies in one step, or before the range.
    pub(crate) fn take(&mut self, stretch: Partial, cells: &mut Cells) {
        if stretch.first.time < self.grid.start {
            self.before = Some(stretch.last);
            return;
        }
        if let Some((_, open)) = &self.open
            && open.last.time == stretch.first.time
        {
            return; // Of points at the same time the first counts.
        }
        let bucket = self.grid.bucket(stretch.first.time);
        match &mut self.open {
            Some((at, open)) if *at == bucket => open.append(stretch, self.counting),
            _ => {
                self.close(cells);
                self.open = Some((bucket, stretch));
            }
        }
    }

    /// Ends the stream, or the step.
    pub(crate) fn close(&mut self, cells: &mut Cells) {
        let Some((bucket, partial)) = self.open.take() else { return };
        let increase = partial.increase_since(self.before.as_ref(), self.grid.start, self.counting);
        // A distribution that is not known to have grown says nothing.
        if increase.is_some() || !self.distributions {
            let cell = Cell::of(&partial, increase);
            match cells.0.get_mut(&bucket) {
                Some(known) => known.merge(cell),
                None => {
                    cells.0.insert(bucket, cell);
                }
            }
        }
        self.before = Some(partial.last);
    }
}
