//! The mathematics of metrics as properties.

use proptest::prelude::*;

use super::Aggregation;
use super::buckets::{Buckets, Distribution, MAX_BUCKETS, Side};
use super::fold::{Cells, Grid, StreamFold};
use super::groups::extremes;
use super::partial::{Counting, Measure, Partial, Sample};

const COUNTINGS: [Counting; 4] = [Counting::State, Counting::Delta, Counting::Cumulative, Counting::CumulativeUpDown];

fn number(time: u64, start: u64, value: f64) -> Sample {
    Sample { time, start, measure: Measure::Number(value) }
}

fn exponential(scale: i32, values: &[f64]) -> Distribution {
    let base = (-f64::from(scale)).exp2().exp2();
    let place = |value: f64| value.log(base).ceil() as i32 - 1;
    let side = |wanted: Vec<f64>| {
        let places: Vec<i32> = wanted.into_iter().map(place).collect();
        let Some(offset) = places.iter().copied().min() else { return Side::default() };
        let mut counts = vec![0.0; places.iter().map(|place| (place - offset) as usize).max().unwrap_or(0) + 1];
        for place in places {
            counts[(place - offset) as usize] += 1.0;
        }
        Side { offset, counts }
    };
    Distribution {
        count: values.len() as f64,
        sum: Some(values.iter().sum()),
        min: None,
        max: None,
        buckets: Buckets::Exponential {
            scale,
            zero_threshold: 0.0,
            zero_count: values.iter().filter(|value| **value == 0.0).count() as f64,
            positive: side(values.iter().copied().filter(|value| *value > 0.0).collect()),
            negative: side(values.iter().filter(|value| **value < 0.0).map(|value| -value).collect()),
        },
    }
}

fn explicit(values: &[f64]) -> Distribution {
    let bounds = vec![1.0, 5.0, 10.0, 50.0, 100.0];
    let mut counts = vec![0.0; 6];
    for value in values {
        counts[bounds.partition_point(|bound| bound < value)] += 1.0;
    }
    let sum = Some(values.iter().sum());
    Distribution {
        count: values.len() as f64,
        sum,
        min: None,
        max: None,
        buckets: Buckets::Explicit { bounds, counts },
    }
}

fn measures() -> impl Strategy<Value = Vec<Measure>> {
    let values = || prop::collection::vec(-100i32..100, 0..6);
    let floats = |values: Vec<i32>| -> Vec<f64> { values.into_iter().map(f64::from).collect() };
    prop_oneof![
        prop::collection::vec((-100i32..100).prop_map(|value| Measure::Number(f64::from(value))), 1..12),
        prop::collection::vec(values().prop_map(move |v| Measure::Distribution(explicit(&floats(v)))), 1..12),
        prop::collection::vec(
            (values(), -1i32..4).prop_map(move |(v, scale)| Measure::Distribution(exponential(scale, &floats(v)))),
            1..8
        ),
    ]
}

fn fold(samples: &[Sample], counting: Counting) -> Option<Partial> {
    let mut all: Option<Partial> = None;
    for sample in samples {
        let one = Partial::of(sample.clone(), counting);
        match &mut all {
            Some(all) => all.append(one, counting),
            None => all = Some(one),
        }
    }
    all
}

/// Without empty buckets at the ends, of which an order of adding may leave more than another.
fn settled(mut partial: Partial) -> Partial {
    if let Some(Measure::Distribution(distribution)) = &mut partial.increase
        && let Buckets::Exponential { positive, negative, .. } = &mut distribution.buckets
    {
        for side in [positive, negative] {
            while side.counts.last() == Some(&0.0) {
                side.counts.pop();
            }
            while side.counts.first() == Some(&0.0) {
                side.counts.remove(0);
                side.offset += 1;
            }
            if side.counts.is_empty() {
                side.offset = 0;
            }
        }
    }
    partial
}

proptest! {
    #[test]
    fn stretches_can_be_put_together_in_any_grouping(
        measures in measures(),
        restarts in prop::collection::vec(any::<bool>(), 12),
        cuts in (0usize..12, 0usize..12),
        counting in prop::sample::select(&COUNTINGS[..]),
    ) {
        let mut start = 1;
        let samples: Vec<Sample> = measures.into_iter().zip(restarts).zip(1..).map(|((measure, restart), place)| {
            let time = place * 10;
            if restart {
                start = time - 5;
            }
            Sample { time, start, measure }
        }).collect();
        let (a, b) = (cuts.0.min(samples.len()), cuts.1.min(samples.len()));
        let (a, b) = (a.min(b), a.max(b));
        let parts = [&samples[..a], &samples[a..b], &samples[b..]];
        let join = |left: Option<Partial>, right: Option<Partial>| match (left, right) {
            (Some(mut left), Some(right)) => {
                left.append(right, counting);
                Some(left)
            }
            (left, right) => left.or(right),
        };
        let [one, two, three] = parts.map(|part| fold(part, counting));
        let left = join(join(one.clone(), two.clone()), three.clone());
        let right = join(one, join(two, three));
        prop_assert_eq!(left.clone().map(settled), right.map(settled));
        prop_assert_eq!(left.map(settled), fold(&samples, counting).map(settled));
    }

    #[test]
    fn the_increase_of_a_counter_is_what_was_counted_whatever_resets_come(
        steps in prop::collection::vec((0u32..100, prop::bool::weighted(0.2)), 1..50),
        minutes in 1u64..10,
    ) {
        let (mut value, mut start, mut samples, mut counted) = (0.0, 1_000, Vec::new(), 0.0);
        for ((more, restart), place) in steps.into_iter().zip(1u64..) {
            let time = 1_000 + place * 60_000_000_000;
            if restart {
                value = 0.0;
                start = time - 1_000;
            }
            value += f64::from(more);
            counted += f64::from(more);
            samples.push(number(time, start, value));
        }
        let grid = Grid { start: 1_000, end: u64::MAX, step: minutes * 60_000_000_000 };
        let mut fold = StreamFold::new(grid, Counting::Cumulative, false);
        let mut cells = Cells::default();
        for sample in samples {
            fold.take(Partial::of(sample, Counting::Cumulative), &mut cells);
        }
        fold.close(&mut cells);
        let sum: f64 = cells.values(grid, Aggregation::Increase).iter().map(|(_, value)| value).sum();
        prop_assert!((sum - counted).abs() < 1e-6, "{} and not {}", sum, counted);
    }

    #[test]
    fn quantiles_of_exponential_histograms_are_within_the_error_of_their_scale(
        values in prop::collection::vec(1u32..1_000_000, 1..200),
        at in 0usize..200,
        scale in 2i32..6,
    ) {
        let mut values: Vec<f64> = values.into_iter().map(f64::from).collect();
        let distribution = exponential(scale, &values);
        values.sort_by(f64::total_cmp);
        let rank = at % values.len();
        let q = (rank as f64 + 0.5) / values.len() as f64;
        let told = distribution.quantile(q).expect("there are values");
        let base = (-f64::from(scale)).exp2().exp2();
        let exact = values[rank];
        prop_assert!(told <= exact * base * 1.000_001 && told >= exact / base * 0.999_999, "{} for {}", told, exact);
    }

    #[test]
    fn downscaling_loses_no_measurement(a in prop::collection::vec(-1000i32..1000, 1..30), b in prop::collection::vec(-1000i32..1000, 1..30)) {
        // Off the bounds of buckets, on which rounding decides.
        let floats =
            |values: &[i32]| -> Vec<f64> { values.iter().map(|&v| f64::from(v) + 0.3 * f64::from(v.signum())).collect() };
        let mut both = exponential(4, &floats(&a));
        both.add(&exponential(1, &floats(&b)));
        let mut coarse = exponential(1, &floats(&a));
        coarse.add(&exponential(1, &floats(&b)));
        prop_assert_eq!(both, coarse);
    }

    #[test]
    fn merged_histograms_stay_small_and_lose_no_measurement(
        a in prop::collection::vec(-3.0f64..6.0, 1..30),
        b in prop::collection::vec(-3.0f64..6.0, 1..30),
        scales in (0i32..=20, 0i32..=20),
    ) {
        let one = |exponents: &[f64], scale: i32| {
            let mut all: Option<Distribution> = None;
            for exponent in exponents {
                let single = exponential(scale, &[10f64.powf(*exponent)]);
                match &mut all {
                    Some(all) => all.add(&single),
                    None => all = Some(single),
                }
            }
            all.expect("there are values")
        };
        let mut both = one(&a, scales.0);
        both.add(&one(&b, scales.1));
        prop_assert!(buckets_of(&both) <= MAX_BUCKETS);
        prop_assert!((counted(&both) - (a.len() + b.len()) as f64).abs() < 1e-9);
        let mut exponents = [a, b].concat();
        exponents.sort_by(f64::total_cmp);
        let middle = 10f64.powf(exponents[(exponents.len() - 1) / 2]);
        let told = both.quantile(((exponents.len() - 1) / 2) as f64 / exponents.len() as f64 + 1e-3).expect("values");
        // Nine decades in 1024 buckets, or the scale that a sender has.
        prop_assert!(told < middle * 2.1 && told > middle / 2.1, "{} for {}", told, middle);
    }

    #[test]
    fn hostile_histograms_stay_small(
        points in prop::collection::vec(
            (hostile(), hostile(), hostile(), prop::collection::vec(0u8..3, 0..5)), 1..6
        ),
        q in 0.0f64..=1.0,
    ) {
        let mut all: Option<Distribution> = None;
        let mut sum = 0.0;
        for (scale, positive, negative, counts) in points {
            let counts: Vec<f64> = counts.into_iter().map(f64::from).collect();
            let raw = |offset| Side { offset, counts: counts.clone() };
            sum += 2.0 * counts.iter().sum::<f64>();
            for buckets in [
                Buckets::exponential(scale, (0.0, 0.0), &raw(positive), &raw(negative)),
                // As roll-ups of older versions may hold them.
                Buckets::Exponential {
                    scale, zero_threshold: 0.0, zero_count: 0.0, positive: raw(positive), negative: raw(negative)
                },
            ] {
                let count = 2.0 * counts.iter().sum::<f64>();
                let point = Distribution { count, sum: None, min: None, max: None, buckets };
                match &mut all {
                    Some(all) => all.add(&point),
                    None => all = Some(point),
                }
            }
        }
        let all = all.expect("there are points");
        prop_assert!(buckets_of(&all) <= 2 * MAX_BUCKETS);
        prop_assert!((counted(&all) - 2.0 * sum).abs() < 1e-9);
        prop_assert!(all.quantile(q).is_none_or(|value| !value.is_nan()));
    }

    #[test]
    fn quantiles_take_any_extremes(
        min in prop::option::of(any::<f64>().boxed().prop_union(Just(f64::NAN).boxed())),
        max in prop::option::of(any::<f64>().boxed().prop_union(Just(f64::NAN).boxed())),
        q in 0.0f64..=1.0,
    ) {
        for distribution in [explicit(&[-3.0, 2.0, 700.0]), exponential(2, &[-3.0, 2.0, 700.0])] {
            let told = Distribution { min, max, ..distribution.clone() }.quantile(q);
            prop_assert!(told.is_some());
            let (min, max) = extremes(min, max);
            prop_assert!(!min.into_iter().chain(max).any(f64::is_nan));
            let told = Distribution { min, max, ..distribution }.quantile(q).expect("there are values");
            prop_assert!(min.is_none_or(|min| told >= min) && max.is_none_or(|max| told <= max));
        }
    }
}

/// Numbers as far apart as they can be, and ordinary ones.
fn hostile() -> impl Strategy<Value = i32> {
    prop_oneof![
        any::<i32>(),
        -20i32..=20,
        prop::sample::select(vec![i32::MIN, i32::MAX, -2_000_000_000, 2_000_000_000]),
    ]
}

/// Buckets that take up memory.
fn buckets_of(distribution: &Distribution) -> usize {
    match &distribution.buckets {
        Buckets::Exponential { positive, negative, .. } => positive.counts.len() + negative.counts.len(),
        _ => 0,
    }
}

/// Measurements in all buckets.
fn counted(distribution: &Distribution) -> f64 {
    match &distribution.buckets {
        Buckets::Exponential { positive, negative, zero_count, .. } => {
            positive.counts.iter().chain(&negative.counts).sum::<f64>() + zero_count
        }
        _ => 0.0,
    }
}

#[test]
fn quantiles_of_explicit_histograms_are_interpolated() {
    let distribution = Distribution {
        count: 100.0,
        sum: None,
        min: None,
        max: None,
        buckets: Buckets::Explicit { bounds: vec![10.0, 20.0, 40.0], counts: vec![10.0, 50.0, 40.0, 0.0] },
    };
    assert_eq!(distribution.quantile(0.05), Some(5.0));
    assert_eq!(distribution.quantile(0.1), Some(10.0));
    assert_eq!(distribution.quantile(0.35), Some(15.0));
    assert_eq!(distribution.quantile(1.0), Some(40.0));
    let overflow = Buckets::Explicit { bounds: vec![10.0], counts: vec![0.0, 4.0] };
    let open = Distribution { buckets: overflow, ..distribution.clone() };
    assert_eq!(open.quantile(0.5), Some(10.0), "nobody knows how far the last bucket goes");
    assert_eq!(Distribution { max: Some(30.0), ..open }.quantile(0.5), Some(20.0));
    let unknown = Buckets::Explicit { bounds: Vec::new(), counts: Vec::new() };
    assert_eq!(Distribution { buckets: unknown, ..distribution }.quantile(0.5), None);
}

#[test]
fn negative_and_zero_buckets_count() {
    let distribution = exponential(0, &[-8.0, -8.0, 0.0, 0.0, 8.0, 8.0]);
    assert!(distribution.quantile(0.1).unwrap_or_default() < -4.0);
    assert_eq!(distribution.quantile(0.5), Some(0.0));
    assert!(distribution.quantile(0.99).unwrap_or_default() > 4.0);
    assert_eq!((distribution.lowest(), distribution.highest()), (Some(-8.0), Some(8.0)));
    // What a wider zero bucket swallows is in it.
    let mut wide = exponential(0, &[]);
    if let Buckets::Exponential { zero_threshold, zero_count, .. } = &mut wide.buckets {
        (*zero_threshold, *zero_count) = (6.0, 1.0);
        wide.count = 1.0;
    }
    wide.add(&distribution);
    assert!(matches!(&wide.buckets, Buckets::Exponential { zero_count, .. } if (*zero_count - 7.0).abs() < 1e-9));
}

#[test]
fn histograms_with_other_bounds_share_what_they_can() {
    let with = |bounds: &[f64], counts: &[f64]| Distribution {
        count: counts.iter().sum(),
        sum: Some(1.0),
        min: None,
        max: None,
        buckets: Buckets::Explicit { bounds: bounds.to_vec(), counts: counts.to_vec() },
    };
    let mut one = with(&[1.0, 5.0, 10.0], &[1.0, 2.0, 3.0, 4.0]);
    one.add(&with(&[5.0, 10.0, 20.0], &[1.0, 1.0, 1.0, 1.0]));
    assert_eq!(one.buckets, Buckets::Explicit { bounds: vec![5.0, 10.0], counts: vec![4.0, 4.0, 6.0] });
    assert_eq!((one.count, one.sum), (14.0, Some(2.0)));
}

#[test]
fn aggregations_are_read_as_they_are_written() {
    for (text, written) in
        [("AVG", "avg"), ("p95", "quantile(0.95)"), ("quantile(0.5)", "quantile(0.5)"), ("rate", "rate")]
    {
        assert_eq!(text.parse::<Aggregation>().expect(text).to_string(), written);
    }
    for wrong in ["", "mean", "p101", "p-1", "quantile(2)", "quantile(0.5", "pNaN", "quantile(inf)"] {
        let error = wrong.parse::<Aggregation>().expect_err(wrong).to_string();
        assert!(error.starts_with("aggregation: expected avg, sum"), "{error}");
    }
}
