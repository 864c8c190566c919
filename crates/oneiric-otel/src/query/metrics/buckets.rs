//! Distributions: how many measurements fell where.
//!
//! Pure. Distributions of one metric can be added and, where one continues the other, subtracted; what two do not share
//! (a scale, a zero threshold, bounds) is brought to what both can say. Numbers are counts of measurements, so 2^53 of
//! them are exact.

/// Buckets of an exponential histogram on one side of zero: `counts[i]` measurements lie in
/// `(base^(offset + i), base^(offset + i + 1)]`, with a base of `2^(2^-scale)`.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Side {
    pub(crate) offset: i32,
    pub(crate) counts: Vec<f64>,
}

/// Counts by bucket.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Buckets {
    /// `counts[i]` measurements are greater than `bounds[i - 1]` and at most `bounds[i]`. Without bounds there is one
    /// bucket; without counts nothing is known of the distribution.
    Explicit { bounds: Vec<f64>, counts: Vec<f64> },
    /// See [`Side`]; measurements of at most `zero_threshold` from zero are counted apart.
    Exponential { scale: i32, zero_threshold: f64, zero_count: f64, positive: Side, negative: Side },
    /// What a summary says of its own: shares and the values below which they lie. It cannot be computed with: of two
    /// that follow each other the later one stays.
    Quantiles(Vec<(f64, f64)>),
}

/// A distribution.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Distribution {
    pub(crate) count: f64,
    /// None when the sender gave none, as for measurements that may be negative.
    pub(crate) sum: Option<f64>,
    pub(crate) min: Option<f64>,
    pub(crate) max: Option<f64>,
    pub(crate) buckets: Buckets,
}

/// Scales below this hold every double in one bucket.
const MIN_SCALE: i32 = -11;

/// The finest scale; at a finer one than SDKs use, numbers of buckets would not fit their type.
const MAX_SCALE: i32 = 20;

/// Buckets of one side at most: what is wider is brought to a lower scale, as SDKs do.
pub(super) const MAX_BUCKETS: usize = 1024;

impl Side {
    /// The number of a bucket at another scale, among those that hold doubles.
    fn place(&self, place: usize, from: i32, to: i32) -> i64 {
        let steps = u32::try_from(i64::from(from) - i64::from(to)).unwrap_or_default().min(63);
        let (first, last) = match u32::try_from(to) {
            Ok(finer) => (-1075 << finer, (1024 << finer) - 1),
            Err(_) => (-1075 >> to.unsigned_abs(), 1023 >> to.unsigned_abs()),
        };
        (index(self.offset, place) >> steps).clamp(first, last)
    }

    /// The first and the last bucket that is not empty, numbered as at the scale `to`.
    fn extent(&self, from: i32, to: i32) -> Option<(i64, i64)> {
        let first = self.counts.iter().position(|count| *count != 0.0)?;
        let last = self.counts.iter().rposition(|count| *count != 0.0)?;
        Some((self.place(first, from, to), self.place(last, from, to)))
    }

    /// The same at a scale at which it has at most [`MAX_BUCKETS`], without empty ends.
    fn brought(&self, from: i32, to: i32) -> Self {
        let Some((first, last)) = self.extent(from, to) else { return Self::default() };
        let mut counts = vec![0.0; usize::try_from(last - first).unwrap_or_default() + 1];
        for (place, count) in self.counts.iter().enumerate().filter(|(_, count)| **count != 0.0) {
            let to = self.place(place, from, to) - first;
            if let Some(slot) = usize::try_from(to).ok().and_then(|to| counts.get_mut(to)) {
                *slot += count;
            }
        }
        // What holds doubles at the finest scale or a lower one is numbered within 32 bits.
        Self { offset: i32::try_from(first).unwrap_or_default(), counts }
    }

    /// Adds `weight` times the other, of the same scale. Both are near enough: see [`common_scale`].
    fn add(&mut self, other: &Self, weight: f64) {
        if other.counts.is_empty() {
            return;
        }
        if self.counts.is_empty() {
            self.offset = other.offset;
        }
        let first = self.offset.min(other.offset);
        let end = |side: &Self| i64::from(side.offset) + side.counts.len() as i64;
        let length = usize::try_from(end(self).max(end(other)) - i64::from(first)).unwrap_or_default();
        let mut counts = vec![0.0; length];
        for (side, weight) in [(&*self, 1.0), (other, weight)] {
            let shift = usize::try_from(i64::from(side.offset) - i64::from(first)).unwrap_or_default();
            for (slot, count) in counts.iter_mut().skip(shift).zip(&side.counts) {
                *slot += weight * count;
            }
        }
        (self.offset, self.counts) = (first, counts);
    }

    /// Takes the buckets out that begin below `threshold` and returns how much was in them.
    fn take_below(&mut self, threshold: f64, scale: i32) -> f64 {
        let below = self
            .counts
            .iter()
            .enumerate()
            .take_while(|(place, _)| lower(index(self.offset, *place), scale) < threshold);
        let number = below.count();
        let taken = self.counts.drain(..number).sum();
        self.offset = self.offset.saturating_add(i32::try_from(number).unwrap_or(i32::MAX));
        taken
    }
}

fn index(offset: i32, place: usize) -> i64 {
    i64::from(offset) + place as i64
}

/// The lower bound of an exponential bucket; that of the first one beyond all doubles is the greatest of them.
fn lower(index: i64, scale: i32) -> f64 {
    (index as f64 * (-f64::from(scale)).exp2()).exp2().min(f64::MAX)
}

/// The finest scale, not above any of theirs, at which sides put together have at most [`MAX_BUCKETS`]. Each of `joined`
/// are sides, with their scales, that are to become one.
fn common_scale(joined: [&[(&Side, i32)]; 2]) -> i32 {
    let finest = joined.iter().flat_map(|sides| sides.iter()).map(|(_, scale)| *scale).min().unwrap_or(MAX_SCALE);
    let mut common = finest.clamp(MIN_SCALE, MAX_SCALE);
    let fits = |sides: &[(&Side, i32)], common| {
        let extents = || sides.iter().filter_map(|(side, scale)| side.extent(*scale, common));
        let (first, last) = (extents().map(|(first, _)| first).min(), extents().map(|(_, last)| last).max());
        first.zip(last).is_none_or(|(first, last)| last - first < MAX_BUCKETS as i64)
    };
    while common > MIN_SCALE && !joined.iter().all(|sides| fits(sides, common)) {
        common -= 1;
    }
    common
}

impl Buckets {
    /// Those of an exponential histogram as it came, whatever its scale and offsets are.
    pub(crate) fn exponential(scale: i32, zero: (f64, f64), positive: &Side, negative: &Side) -> Self {
        let common = common_scale([&[(positive, scale)], &[(negative, scale)]]);
        let (zero_threshold, zero_count) = zero;
        Self::Exponential {
            scale: common,
            zero_threshold: if zero_threshold.is_finite() { zero_threshold.max(0.0) } else { 0.0 },
            zero_count,
            positive: positive.brought(scale, common),
            negative: negative.brought(scale, common),
        }
    }

    fn counts(&self) -> Box<dyn Iterator<Item = f64> + '_> {
        match self {
            Self::Explicit { counts, .. } => Box::new(counts.iter().copied()),
            Self::Exponential { zero_count, positive, negative, .. } => {
                Box::new(negative.counts.iter().chain(&positive.counts).copied().chain([*zero_count]))
            }
            Self::Quantiles(_) => Box::new(std::iter::empty()),
        }
    }

    /// Adds `weight` times the other.
    fn add(&mut self, other: &Self, weight: f64) {
        match (&mut *self, other) {
            (Self::Explicit { bounds, counts }, Self::Explicit { bounds: other_bounds, counts: other_counts }) => {
                let shared: Vec<f64> = bounds.iter().copied().filter(|bound| other_bounds.contains(bound)).collect();
                let mut sum = onto(&shared, bounds, counts);
                let more = onto(&shared, other_bounds, other_counts);
                if sum.is_empty() {
                    sum = vec![0.0; more.len()];
                }
                for (slot, count) in sum.iter_mut().zip(more) {
                    *slot += weight * count;
                }
                (*bounds, *counts) = (shared, sum);
            }
            (Self::Exponential { .. }, Self::Exponential { .. }) => self.add_exponential(other, weight),
            (Self::Quantiles(quantiles), Self::Quantiles(later)) => {
                if weight > 0.0 {
                    quantiles.clone_from(later);
                }
            }
            // Of two kinds only the number is known.
            _ => *self = Self::Explicit { bounds: Vec::new(), counts: Vec::new() },
        }
    }

    fn add_exponential(&mut self, other: &Self, weight: f64) {
        let (
            Self::Exponential { scale, zero_threshold, zero_count, positive, negative },
            Self::Exponential {
                scale: other_scale,
                zero_threshold: other_threshold,
                zero_count: other_zero,
                positive: other_positive,
                negative: other_negative,
            },
        ) = (self, other)
        else {
            return;
        };
        let common = common_scale([
            &[(&*positive, *scale), (other_positive, *other_scale)],
            &[(&*negative, *scale), (other_negative, *other_scale)],
        ]);
        let threshold = zero_threshold.max(*other_threshold);
        let mut sides = [positive.brought(*scale, common), negative.brought(*scale, common)];
        let mut others = [other_positive.brought(*other_scale, common), other_negative.brought(*other_scale, common)];
        let mut zero = *zero_count + weight * other_zero;
        for side in &mut sides {
            zero += side.take_below(threshold, common);
        }
        for side in &mut others {
            zero += weight * side.take_below(threshold, common);
        }
        for (side, other) in sides.iter_mut().zip(&others) {
            side.add(other, weight);
        }
        let [new_positive, new_negative] = sides;
        (*scale, *zero_threshold, *zero_count) = (common, threshold, zero);
        (*positive, *negative) = (new_positive, new_negative);
    }

    /// Bounds and counts from the lowest: `(from, to, count)`, without empty ones. Infinite bounds are those of explicit
    /// buckets only.
    fn spans(&self) -> Vec<(f64, f64, f64)> {
        let mut spans = Vec::new();
        match self {
            Self::Explicit { bounds, counts } => {
                for (place, count) in counts.iter().enumerate() {
                    let from = place.checked_sub(1).and_then(|place| bounds.get(place)).copied();
                    let to = bounds.get(place).copied();
                    spans.push((from.unwrap_or(f64::NEG_INFINITY), to.unwrap_or(f64::INFINITY), *count));
                }
            }
            Self::Exponential { scale, zero_threshold, zero_count, positive, negative } => {
                let side = |side: &Side| -> Vec<(f64, f64, f64)> {
                    let bounds = |place| {
                        (lower(index(side.offset, place), *scale), lower(index(side.offset, place) + 1, *scale))
                    };
                    side.counts
                        .iter()
                        .enumerate()
                        .map(|(place, count)| (bounds(place).0, bounds(place).1, *count))
                        .collect()
                };
                spans.extend(side(negative).into_iter().rev().map(|(from, to, count)| (-to, -from, count)));
                spans.push((-zero_threshold, *zero_threshold, *zero_count));
                spans.extend(side(positive));
            }
            Self::Quantiles(_) => {}
        }
        spans.retain(|(_, _, count)| *count > 0.0);
        spans
    }
}

/// Counts brought to fewer bounds, all of which are among `bounds`.
fn onto(shared: &[f64], bounds: &[f64], counts: &[f64]) -> Vec<f64> {
    if counts.is_empty() {
        return Vec::new();
    }
    let mut sums = vec![0.0; shared.len() + 1];
    for (place, count) in counts.iter().enumerate() {
        let to = bounds.get(place).map_or(shared.len(), |bound| shared.partition_point(|shared| shared < bound));
        if let Some(slot) = sums.get_mut(to) {
            *slot += count;
        }
    }
    sums
}

/// The value of a share between those that were recorded.
fn recorded(quantiles: &[(f64, f64)], q: f64) -> Option<f64> {
    let (above, high) =
        quantiles.iter().copied().filter(|(share, _)| *share >= q).min_by(|a, b| a.0.total_cmp(&b.0))?;
    let (below, low) = quantiles.iter().copied().filter(|(share, _)| *share <= q).max_by(|a, b| a.0.total_cmp(&b.0))?;
    Some(if above > below { low + (high - low) * (q - below) / (above - below) } else { high })
}

impl Distribution {
    /// Takes another in.
    pub(crate) fn add(&mut self, other: &Self) {
        if other.count <= 0.0 {
            return;
        }
        if self.count <= 0.0 {
            self.clone_from(other);
            return;
        }
        self.count += other.count;
        self.sum = self.sum.zip(other.sum).map(|(one, other)| one + other);
        // Known of both or not known.
        self.min = self.min.zip(other.min).map(|(one, other)| one.min(other));
        self.max = self.max.zip(other.max).map(|(one, other)| one.max(other));
        self.buckets.add(&other.buckets, 1.0);
    }

    /// What came since `earlier`, of a distribution that goes on counting; none when it cannot be its continuation.
    /// Smallest and greatest value are those of all its life, so they are no longer known.
    pub(crate) fn since(&self, earlier: &Self) -> Option<Self> {
        if self.count < earlier.count {
            return None;
        }
        let mut buckets = self.buckets.clone();
        if earlier.count > 0.0 {
            buckets.add(&earlier.buckets, -1.0);
        }
        if buckets.counts().any(|count| count < 0.0) {
            return None;
        }
        let sum = self.sum.zip(if earlier.count > 0.0 { earlier.sum } else { Some(0.0) });
        Some(Self {
            count: self.count - earlier.count,
            sum: sum.map(|(now, then)| now - then),
            min: None,
            max: None,
            buckets,
        })
    }

    /// The value below which the share `q` of all measurements lies, as far as the buckets tell; none when nothing was
    /// measured, or nothing is known of where.
    ///
    /// Within an explicit bucket values are taken to be spread evenly; the first reaches from the smallest value, or from
    /// zero where its bound is above it, and of the last, whose end is unknown, its beginning is told, or the greatest
    /// value. Within an exponential bucket they are taken to be spread evenly over the logarithm.
    pub(crate) fn quantile(&self, q: f64) -> Option<f64> {
        if let Buckets::Quantiles(quantiles) = &self.buckets {
            return recorded(quantiles, q);
        }
        let spans = self.buckets.spans();
        let total: f64 = spans.iter().map(|(_, _, count)| count).sum();
        let rank = q * total;
        let mut seen = 0.0;
        let (from, to, count) = spans.iter().copied().find(|(_, _, count)| {
            seen += count;
            seen >= rank
        })?;
        let share = ((rank - (seen - count)) / count).clamp(0.0, 1.0);
        let value = match &self.buckets {
            Buckets::Explicit { .. } => {
                let from = match self.min {
                    Some(min) if from.is_infinite() => min,
                    _ if from.is_infinite() && to > 0.0 => 0.0,
                    _ => from,
                };
                match (from.is_finite(), to.is_finite()) {
                    (true, true) => from + (to - from) * share,
                    (false, true) => to,
                    (true, false) => self.max.map_or(from, |max| from + (max - from).max(0.0) * share),
                    (false, false) => return None,
                }
            }
            Buckets::Exponential { .. } if from > 0.0 => (from * (to / from).powf(share)).min(to),
            Buckets::Exponential { .. } if to < 0.0 => -(-from * (to / from).powf(share)),
            Buckets::Exponential { .. } | Buckets::Quantiles(_) => from + (to - from) * share,
        };
        // Not clamp, which panics where a sender's smallest value is above its greatest, or either is no number.
        let value = self.min.map_or(value, |min| value.max(min));
        Some(self.max.map_or(value, |max| value.min(max)))
    }

    /// The smallest value: as it came, else the beginning of the lowest bucket.
    pub(crate) fn lowest(&self) -> Option<f64> {
        let from = || self.buckets.spans().first().map(|(from, _, _)| *from);
        self.min.or_else(from).filter(|value| value.is_finite())
    }

    /// The greatest value: as it came, else the end of the highest bucket.
    pub(crate) fn highest(&self) -> Option<f64> {
        let to = || self.buckets.spans().last().map(|(_, to, _)| *to);
        self.max.or_else(to).filter(|value| value.is_finite())
    }
}
