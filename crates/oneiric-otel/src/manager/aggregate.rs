//! Measurements of one instrument, put together until they are collected. Pure: the time is given.
//!
//! Promises, those of the OpenTelemetry SDK: a sum or histogram has one point a label set and collection. A cumulative
//! point covers everything since the instrument was made, a delta point what came since the collection before, without a gap.
//! Label sets beyond the limit share one point with the label `otel.metric.overflow = true`, so no measurement is lost
//! and memory is bounded. A value that no sum can take is counted and left out.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::storage::{Attributes, HistogramPoint, MetricData, MetricPoints, Moment, Number, NumberPoint, Temporality};

/// The label of what has no room for its own labels.
const OVERFLOW: &str = "otel.metric.overflow";

/// What an instrument does with values.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Kind {
    /// Adds those that are not negative.
    Counter,
    /// Adds.
    UpDownCounter,
    /// Sorts them into classes with these upper bounds.
    Histogram(Vec<f64>),
}

/// What an instrument is.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Description {
    pub(super) name: String,
    pub(super) about: String,
    pub(super) unit: String,
    pub(super) kind: Kind,
}

/// What became of a measurement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Measured {
    Kept,
    /// Under the label of the overflow.
    Overflowed,
    /// No number, or a negative one where they must not be, or labels that are only the beginning of some.
    Invalid,
}

/// An instrument with its series.
#[derive(Debug)]
pub(super) struct Aggregate {
    pub(super) description: Description,
    temporality: Temporality,
    /// Label sets at most, that of the overflow among them.
    label_sets: usize,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// When what is in the series began.
    start: Moment,
    /// By labels in order, as JSON.
    series: BTreeMap<String, Series>,
}

#[derive(Debug, Clone)]
struct Series {
    labels: Attributes,
    sum: Number,
    /// Only of histograms.
    classes: Classes,
}

#[derive(Debug, Clone, Default)]
struct Classes {
    count: u64,
    range: Option<(f64, f64)>,
    counts: Vec<u64>,
}

impl Aggregate {
    pub(super) fn new(description: Description, temporality: Temporality, label_sets: usize, now: Moment) -> Self {
        let state = Mutex::new(State { start: now, series: BTreeMap::new() });
        Self { description, temporality, label_sets, state }
    }

    pub(super) fn measure(&self, value: Number, labels: Attributes) -> Measured {
        let is_valid = match value {
            Number::Int(value) => value >= 0 || self.description.kind != Kind::Counter,
            Number::Double(value) => value.is_finite() && (value >= 0.0 || self.description.kind != Kind::Counter),
        };
        if !is_valid {
            return Measured::Invalid;
        }
        let labels = in_order(labels);
        let Ok(key) = serde_json::to_string(&labels) else { return Measured::Invalid };
        let mut state = self.lock();
        if let Some(series) = state.series.get_mut(&key) {
            series.add(value, &self.description.kind);
            return Measured::Kept;
        }
        // One series that cannot be written would take all the others with it.
        if labels.clone().into_otlp().is_none() {
            return Measured::Invalid;
        }
        let has_room = state.series.len() + 1 < self.label_sets;
        let (key, labels) =
            if has_room { (key, labels) } else { (String::new(), Attributes::from([(OVERFLOW, true)])) };
        let kind = &self.description.kind;
        state.series.entry(key).or_insert_with(|| Series::new(labels, kind)).add(value, kind);
        if has_room { Measured::Kept } else { Measured::Overflowed }
    }

    /// What was measured, as points of now. None when there is nothing to tell.
    pub(super) fn collect(&self, now: Moment) -> Option<MetricData> {
        let mut state = self.lock();
        let start = state.start;
        // The clock may have been set back: a point never ends before it begins.
        let time = now.max(start);
        let series: Vec<Series> = match self.temporality {
            Temporality::Cumulative => state.series.values().cloned().collect(),
            Temporality::Delta => {
                state.start = time;
                std::mem::take(&mut state.series).into_values().collect()
            }
        };
        drop(state);
        if series.is_empty() {
            return None;
        }
        let Description { name, about, unit, kind } = self.description.clone();
        let temporality = self.temporality;
        let points = match kind {
            Kind::Histogram(bounds) => {
                let points = series.into_iter().map(|series| series.histogram(start, time, &bounds)).collect();
                MetricPoints::Histogram { points, temporality }
            }
            Kind::Counter | Kind::UpDownCounter => {
                let points = series.into_iter().map(|series| series.number(start, time)).collect();
                MetricPoints::Sum { points, temporality, monotonic: kind == Kind::Counter }
            }
        };
        Some(MetricData { origin: None, name, description: about, unit, points })
    }

    /// A panic with the lock in hand leaves nothing half done here.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Series {
    fn new(labels: Attributes, kind: &Kind) -> Self {
        let counts = match kind {
            Kind::Histogram(bounds) => vec![0; bounds.len() + 1],
            Kind::Counter | Kind::UpDownCounter => Vec::new(),
        };
        Self { labels, sum: Number::Int(0), classes: Classes { counts, ..Classes::default() } }
    }

    fn add(&mut self, value: Number, kind: &Kind) {
        self.sum = sum(self.sum, value);
        let Kind::Histogram(bounds) = kind else { return };
        let value = double(value);
        let class = bounds.partition_point(|bound| *bound < value);
        let Classes { count, range, counts } = &mut self.classes;
        *count += 1;
        let (low, high) = range.unwrap_or((value, value));
        *range = Some((low.min(value), high.max(value)));
        if let Some(count) = counts.get_mut(class) {
            *count += 1;
        }
    }

    fn number(self, start: Moment, time: Moment) -> NumberPoint {
        NumberPoint { time, start_time: Some(start), value: self.sum, labels: self.labels }
    }

    fn histogram(self, start: Moment, time: Moment, bounds: &[f64]) -> HistogramPoint {
        let Classes { count, range, counts } = self.classes;
        HistogramPoint {
            time,
            start_time: Some(start),
            count,
            sum: Some(double(self.sum)),
            min: range.map(|(low, _)| low),
            max: range.map(|(_, high)| high),
            bounds: bounds.to_vec(),
            bucket_counts: counts,
            labels: self.labels,
        }
    }
}

/// Labels are a set: their order says nothing, and of equal keys the last one counts.
fn in_order(Attributes(mut labels): Attributes) -> Attributes {
    labels.reverse();
    labels.sort_by(|(a, _), (b, _)| a.cmp(b));
    labels.dedup_by(|(later, _), (kept, _)| later == kept);
    Attributes(labels)
}

/// Integers stay integers as far as they go.
fn sum(a: Number, b: Number) -> Number {
    if let (Number::Int(a), Number::Int(b)) = (a, b)
        && let Some(sum) = a.checked_add(b)
    {
        return Number::Int(sum);
    }
    // Beyond the largest double is the largest double: an infinite sum could not be told from a mistake.
    Number::Double((double(a) + double(b)).clamp(f64::MIN, f64::MAX))
}

fn double(number: Number) -> f64 {
    match number {
        Number::Int(value) => value as f64,
        Number::Double(value) => value,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn aggregate(kind: Kind, temporality: Temporality, label_sets: usize) -> Aggregate {
        let description = Description { name: "n".to_owned(), about: "d".to_owned(), unit: "s".to_owned(), kind };
        Aggregate::new(description, temporality, label_sets, Moment(100))
    }

    fn labels(value: i64) -> Attributes {
        Attributes::from([("label", value)])
    }

    fn sums(data: Option<MetricData>) -> Vec<NumberPoint> {
        match data.expect("there are points").points {
            MetricPoints::Sum { points, .. } => points,
            other => panic!("a sum, not {other:?}"),
        }
    }

    #[test]
    fn cumulative_points_cover_everything_and_delta_points_what_is_new() {
        for temporality in [Temporality::Cumulative, Temporality::Delta] {
            let counter = aggregate(Kind::Counter, temporality, 10);
            assert_eq!(counter.collect(Moment(150)), None);
            let begun = if temporality == Temporality::Delta { 150 } else { 100 };
            assert_eq!(counter.measure(2.into(), labels(1)), Measured::Kept);
            counter.measure(3.into(), labels(1));
            let first = sums(counter.collect(Moment(200)));
            assert_eq!((first[0].start_time, first[0].time), (Some(Moment(begun)), Moment(200)));
            assert_eq!((first[0].value, &first[0].labels), (Number::Int(5), &labels(1)));
            counter.measure(Number::Double(0.5), labels(2));
            let second = sums(counter.collect(Moment(300)));
            let told: Vec<_> = second.iter().map(|point| (point.start_time, point.value)).collect();
            let mut expected = vec![(Some(Moment(200)), Number::Double(0.5))];
            if temporality == Temporality::Cumulative {
                expected = vec![(Some(Moment(100)), Number::Int(5)), (Some(Moment(100)), Number::Double(0.5))];
            }
            assert_eq!(told, expected);
        }
    }

    #[test]
    fn what_a_sum_cannot_take_is_said_and_left_out() {
        let counter = aggregate(Kind::Counter, Temporality::Delta, 10);
        for value in [Number::Int(-1), Number::Double(-0.1), Number::Double(f64::NAN), Number::Double(f64::INFINITY)] {
            assert_eq!(counter.measure(value, labels(1)), Measured::Invalid, "{value:?}");
        }
        let cut = crate::storage::AttributeValue::Cut { start: "x".to_owned(), kind: "string", length: 9 };
        assert_eq!(counter.measure(1.into(), Attributes::from([("label", cut)])), Measured::Invalid);
        assert_eq!(counter.collect(Moment(200)), None);
        let both_ways = aggregate(Kind::UpDownCounter, Temporality::Cumulative, 10);
        assert_eq!(both_ways.measure(Number::Int(-1), labels(1)), Measured::Kept);
        both_ways.measure(Number::Int(i64::MIN), labels(1));
        assert_eq!(sums(both_ways.collect(Moment(200)))[0].value, Number::Double(i64::MIN as f64));
    }

    #[test]
    fn labels_are_a_set_and_beyond_the_limit_they_share_a_series() {
        let counter = aggregate(Kind::Counter, Temporality::Cumulative, 3);
        counter.measure(1.into(), Attributes::from([("a", "1"), ("b", "2")]));
        counter.measure(1.into(), Attributes::from([("b", "2"), ("a", "0"), ("a", "1")]));
        counter.measure(1.into(), labels(1));
        assert_eq!(counter.measure(1.into(), labels(2)), Measured::Overflowed);
        assert_eq!(counter.measure(4.into(), labels(3)), Measured::Overflowed);
        assert_eq!(counter.measure(1.into(), labels(1)), Measured::Kept, "what is there already has its place");
        let mut found: Vec<_> = sums(counter.collect(Moment(200)))
            .into_iter()
            .map(|point| (serde_json::to_string(&point.labels).expect("JSON"), point.value))
            .collect();
        found.sort_by(|a, b| a.0.cmp(&b.0));
        let expected = [
            (r#"{"a":"1","b":"2"}"#.to_owned(), Number::Int(2)),
            (r#"{"label":1}"#.to_owned(), Number::Int(2)),
            (r#"{"otel.metric.overflow":true}"#.to_owned(), Number::Int(5)),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn histograms_count_by_upper_bounds_that_belong_to_their_class() {
        let histogram = aggregate(Kind::Histogram(vec![1.0, 5.0]), Temporality::Delta, 10);
        for value in [-3.0, 1.0, 1.5, 5.0, 5.1] {
            histogram.measure(Number::Double(value), labels(1));
        }
        let Some(MetricData { points: MetricPoints::Histogram { points, temporality }, unit, .. }) =
            histogram.collect(Moment(200))
        else {
            panic!("a histogram")
        };
        assert_eq!((temporality, unit.as_str()), (Temporality::Delta, "s"));
        let point = &points[0];
        assert_eq!((point.count, point.min, point.max), (5, Some(-3.0), Some(5.1)));
        assert_eq!((&point.bucket_counts, &point.bounds), (&vec![2, 2, 1], &vec![1.0, 5.0]));
        assert!((point.sum.expect("a sum") - 9.6).abs() < 1e-9);
        assert_eq!(histogram.collect(Moment(300)), None, "nothing came since");
    }

    #[test]
    fn a_clock_that_was_set_back_makes_no_point_that_ends_before_it_begins() {
        let counter = aggregate(Kind::Counter, Temporality::Delta, 10);
        counter.measure(1.into(), labels(1));
        assert_eq!(sums(counter.collect(Moment(50)))[0].time, Moment(100));
    }

    proptest! {
        #[test]
        fn whatever_is_collected_when_nothing_is_lost(
            steps in proptest::collection::vec((0_i64..1000, 0_i64..6, any::<bool>()), 0..60),
        ) {
            let (delta, total) =
                (aggregate(Kind::Counter, Temporality::Delta, 4), aggregate(Kind::Counter, Temporality::Cumulative, 4));
            let (mut told, mut expected, mut time) = (0, 0, 100);
            let int = |points: Vec<NumberPoint>| points.iter().map(|point| double(point.value) as i64).sum::<i64>();
            let mut end = Moment(100);
            for (value, label, collect) in steps {
                time += 1;
                delta.measure(value.into(), labels(label));
                total.measure(value.into(), labels(label));
                expected += value;
                if collect {
                    let points = sums(delta.collect(Moment(time)));
                    prop_assert!(points.len() <= 4 && points.iter().all(|point| point.start_time == Some(end)));
                    end = Moment(time);
                    told += int(points);
                    prop_assert_eq!(told, expected);
                    prop_assert_eq!(int(sums(total.collect(Moment(time)))), expected);
                }
            }
        }
    }
}
