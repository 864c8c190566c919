//! What is kept of the points of one stream in one stretch of time, so that any such stretches can be put together.
//!
//! Pure. [`Partial`]s form a monoid in the order of time: however points are grouped, as long as they stay in order, the
//! result is the same. That is what lets an hour be computed once and a month be answered from hours.
//!
//! A counter that goes on counting (cumulative) has increased by the difference to the point before, unless it was reset:
//! its value fell, or it began anew after the point before. After a reset all of its value is new. The first point of a
//! stream is the increase since its own start; see [`Partial::increase_since`].

use super::buckets::Distribution;

/// How the values of a stream are to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Counting {
    /// Each point is a state: gauges.
    State,
    /// Each point is what came since the point before.
    Delta,
    /// Each point is all that came since the start, and never falls but by a reset.
    Cumulative,
    /// Each point is all that came since the start, and may fall: an up-down counter.
    CumulativeUpDown,
}

/// The value of a point.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Measure {
    Number(f64),
    Distribution(Distribution),
}

/// A point of a stream.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Sample {
    /// Nanoseconds since 1970.
    pub(crate) time: u64,
    /// When counting began; 0 when unknown.
    pub(crate) start: u64,
    pub(crate) measure: Measure,
}

/// See the module.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Partial {
    /// Points.
    pub(crate) points: f64,
    /// Of the values of numbers; of distributions see `increase`.
    pub(crate) sum: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
    pub(crate) first: Sample,
    pub(crate) last: Sample,
    /// How much was counted after the first point, and with it where every point is an increase of its own. None where
    /// nothing is counted, and, of a cumulative stream, after one point.
    pub(crate) increase: Option<Measure>,
}

impl Partial {
    /// Of one point.
    pub(crate) fn of(sample: Sample, counting: Counting) -> Self {
        let value = match &sample.measure {
            Measure::Number(value) => *value,
            Measure::Distribution(_) => 0.0,
        };
        let increase = (counting == Counting::Delta).then(|| sample.measure.clone());
        Self { points: 1.0, sum: value, min: value, max: value, first: sample.clone(), last: sample, increase }
    }

    /// Takes in what comes after it.
    pub(crate) fn append(&mut self, later: Self, counting: Counting) {
        let between = match counting {
            Counting::Cumulative | Counting::CumulativeUpDown => Some(step(&self.last, &later.first, counting)),
            Counting::State | Counting::Delta => None,
        };
        for more in [between, later.increase].into_iter().flatten() {
            add(&mut self.increase, more);
        }
        self.points += later.points;
        self.sum += later.sum;
        self.min = self.min.min(later.min);
        self.max = self.max.max(later.max);
        self.last = later.last;
    }

    /// How much was counted in this stretch: since `before`, the last point before it, if there is one. Without one, the
    /// first point counts whole if its counting began at or after `begin`: else nobody knows how much of it is of this
    /// stretch.
    pub(crate) fn increase_since(&self, before: Option<&Sample>, begin: u64, counting: Counting) -> Option<Measure> {
        let mut increase = self.increase.clone();
        if matches!(counting, Counting::Cumulative | Counting::CumulativeUpDown) {
            match before {
                Some(before) => add(&mut increase, step(before, &self.first, counting)),
                None if self.first.start >= begin && self.first.start != 0 => {
                    add(&mut increase, self.first.measure.clone());
                }
                None => {}
            }
        }
        increase
    }
}

/// What was counted from one point to the next.
fn step(before: &Sample, next: &Sample, counting: Counting) -> Measure {
    let began_anew = next.start != 0 && next.start != before.start && next.start >= before.time;
    match (&before.measure, &next.measure) {
        (Measure::Number(then), Measure::Number(now)) => {
            let reset = began_anew || (counting == Counting::Cumulative && now < then);
            Measure::Number(if reset { *now } else { now - then })
        }
        (Measure::Distribution(then), Measure::Distribution(now)) if !began_anew => {
            Measure::Distribution(now.since(then).unwrap_or_else(|| now.clone()))
        }
        (_, now) => now.clone(),
    }
}

fn add(increase: &mut Option<Measure>, more: Measure) {
    match (increase.as_mut(), more) {
        (Some(Measure::Number(sum)), Measure::Number(more)) => *sum += more,
        (Some(Measure::Distribution(sum)), Measure::Distribution(more)) => sum.add(&more),
        (_, more) => *increase = Some(more),
    }
}
