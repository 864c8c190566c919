//! What an application stores of metrics: points of every kind that OTLP has.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

use super::record::Origin;
use crate::query::{Attributes, Moment};

/// Data points of one metric.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MetricData {
    /// Who measured; none for the origin that the adapter was built with.
    #[serde(default)]
    pub origin: Option<Arc<Origin>>,
    /// Name, such as `http.server.request.duration`.
    pub name: String,
    /// What is measured. May be empty.
    #[serde(default)]
    pub description: String,
    /// The unit in UCUM, such as `s` or `By`. May be empty.
    #[serde(default)]
    pub unit: String,
    /// The points and their kind.
    pub points: MetricPoints,
}

impl MetricData {
    /// One value of now that goes up and down.
    pub fn gauge(name: impl Into<String>, value: impl Into<f64>, labels: impl Into<Attributes>) -> Self {
        Self::of(name, MetricPoints::Gauge(vec![NumberPoint::now(value.into(), labels.into())]))
    }

    /// What was added since the last point of a sum that only grows. No two have the same time: points are known by what
    /// they are, and equal ones would count once.
    pub fn counter(name: impl Into<String>, added: impl Into<f64>, labels: impl Into<Attributes>) -> Self {
        let point = NumberPoint::now(added.into(), labels.into());
        let points = vec![NumberPoint { time: a_later_moment(), ..point }];
        Self::of(name, MetricPoints::Sum { points, temporality: Temporality::Delta, monotonic: true })
    }

    fn of(name: impl Into<String>, points: MetricPoints) -> Self {
        Self { origin: None, name: name.into(), description: String::new(), unit: String::new(), points }
    }
}

/// Now, or a nanosecond after the last one of this process.
fn a_later_moment() -> Moment {
    static LAST: AtomicU64 = AtomicU64::new(0);
    let now = Moment::now().0;
    let later = |last: u64| now.max(last.saturating_add(1));
    let last = LAST.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| Some(later(last)));
    Moment(later(last.unwrap_or_default()))
}

/// Points of one kind.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum MetricPoints {
    /// Values that go up and down.
    Gauge(Vec<NumberPoint>),
    /// Sums.
    Sum {
        /// The points.
        points: Vec<NumberPoint>,
        /// What a point is the sum of.
        temporality: Temporality,
        /// Whether it only grows.
        monotonic: bool,
    },
    /// Values by class.
    Histogram {
        /// The points.
        points: Vec<HistogramPoint>,
        /// What a point counts.
        temporality: Temporality,
    },
    /// Values by class, where the bounds grow by a factor.
    ExponentialHistogram {
        /// The points.
        points: Vec<ExponentialHistogramPoint>,
        /// What a point counts.
        temporality: Temporality,
    },
    /// Values by quantiles that their source has computed.
    Summary(Vec<SummaryPoint>),
}

impl MetricPoints {
    /// How many.
    pub fn len(&self) -> usize {
        match self {
            Self::Gauge(points) | Self::Sum { points, .. } => points.len(),
            Self::Histogram { points, .. } => points.len(),
            Self::ExponentialHistogram { points, .. } => points.len(),
            Self::Summary(points) => points.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// What a point of a sum or histogram covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Temporality {
    /// What came since the point before.
    Delta,
    /// What came since the start.
    Cumulative,
}

/// A number at a time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NumberPoint {
    /// When it was measured.
    pub time: Moment,
    /// When what it sums up began; none where that is unknown or it is no sum.
    #[serde(default)]
    pub start_time: Option<Moment>,
    /// The value.
    pub value: Number,
    /// Its labels.
    #[serde(default)]
    pub labels: Attributes,
}

impl NumberPoint {
    /// A value of now.
    pub fn now(value: impl Into<Number>, labels: Attributes) -> Self {
        Self { time: Moment::now(), start_time: None, value: value.into(), labels }
    }
}

/// A value of a point. The two kinds stay apart.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Number {
    /// An integer.
    Int(i64),
    /// A double.
    Double(f64),
}

impl From<i64> for Number {
    fn from(value: i64) -> Self {
        Self::Int(value)
    }
}

impl From<f64> for Number {
    fn from(value: f64) -> Self {
        Self::Double(value)
    }
}

/// Values of a time by class.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HistogramPoint {
    /// When it was taken.
    pub time: Moment,
    /// When what it counts began; none where that is unknown.
    #[serde(default)]
    pub start_time: Option<Moment>,
    /// How many values.
    pub count: u64,
    /// Their sum.
    #[serde(default)]
    pub sum: Option<f64>,
    /// The smallest.
    #[serde(default)]
    pub min: Option<f64>,
    /// The greatest.
    #[serde(default)]
    pub max: Option<f64>,
    /// Upper bounds of the classes, rising; the last class has none.
    pub bounds: Vec<f64>,
    /// Values in each class: one more than there are bounds.
    pub bucket_counts: Vec<u64>,
    /// Its labels.
    #[serde(default)]
    pub labels: Attributes,
}

/// Values of a time by class. Of the class with index `i` the upper bound is `2^(2^-scale * (i + 1))`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExponentialHistogramPoint {
    /// When it was taken.
    pub time: Moment,
    /// When what it counts began; none where that is unknown.
    #[serde(default)]
    pub start_time: Option<Moment>,
    /// How many values.
    pub count: u64,
    /// Their sum.
    #[serde(default)]
    pub sum: Option<f64>,
    /// The smallest.
    #[serde(default)]
    pub min: Option<f64>,
    /// The greatest.
    #[serde(default)]
    pub max: Option<f64>,
    /// How fine the classes are.
    pub scale: i32,
    /// Values not further from zero than [`Self::zero_threshold`].
    pub zero_count: u64,
    /// What counts as zero.
    #[serde(default)]
    pub zero_threshold: f64,
    /// Classes of values above zero.
    #[serde(default)]
    pub positive: ExponentialBuckets,
    /// Classes of values below zero, by what they are without the sign.
    #[serde(default)]
    pub negative: ExponentialBuckets,
    /// Its labels.
    #[serde(default)]
    pub labels: Attributes,
}

/// Classes with neighbouring indexes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExponentialBuckets {
    /// The index of the first.
    pub offset: i32,
    /// Values in each.
    pub bucket_counts: Vec<u64>,
}

/// Values of a time by quantiles.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SummaryPoint {
    /// When it was taken.
    pub time: Moment,
    /// When what it sums up began; none where that is unknown.
    #[serde(default)]
    pub start_time: Option<Moment>,
    /// How many values.
    pub count: u64,
    /// Their sum.
    pub sum: f64,
    /// Quantiles, such as 0.5 and 0.99, each with its value.
    pub quantiles: Vec<(f64, f64)>,
    /// Its labels.
    #[serde(default)]
    pub labels: Attributes,
}
