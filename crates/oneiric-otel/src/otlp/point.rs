//! A metric taken apart into what its data points share and the points themselves, and put together again.
//!
//! A point is the record of the metrics signal: it has an identity, a time and a row of its own.

use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::{
    Exemplar, ExponentialHistogram, ExponentialHistogramDataPoint, Gauge, Histogram, HistogramDataPoint, Metric,
    NumberDataPoint, Sum, Summary, SummaryDataPoint,
};

/// Which member of the oneof a metric has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum MetricKind {
    /// Values at a time.
    Gauge,
    /// Sums over an interval.
    Sum,
    /// Distributions with explicit bounds.
    Histogram,
    /// Distributions with exponential bounds.
    ExponentialHistogram,
    /// Quantiles computed by the sender.
    Summary,
}

/// All of a metric that is not a data point.
#[derive(Debug, Clone, PartialEq)]
pub struct MetricDescriptor {
    /// The name, which OTLP allows to be empty.
    pub name: String,
    /// What it means.
    pub description: String,
    /// Its unit in UCUM.
    pub unit: String,
    /// Attributes of the metric itself, in their order.
    pub metadata: Vec<KeyValue>,
    /// What its points are.
    pub kind: MetricKind,
    /// The aggregation temporality, known or not; 0 for kinds that have none.
    pub temporality: i32,
    /// Whether a sum only grows; false for other kinds.
    pub monotonic: bool,
}

/// A data point that is owned by someone else.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Point<'a> {
    /// A point of a gauge or a sum.
    Number(&'a NumberDataPoint),
    /// A point of a histogram.
    Histogram(&'a HistogramDataPoint),
    /// A point of an exponential histogram.
    ExponentialHistogram(&'a ExponentialHistogramDataPoint),
    /// A point of a summary.
    Summary(&'a SummaryDataPoint),
}

/// The data points of one metric, in their order.
#[derive(Debug, Clone, PartialEq)]
pub enum Points {
    /// Points of a gauge or a sum.
    Number(Vec<NumberDataPoint>),
    /// Points of a histogram.
    Histogram(Vec<HistogramDataPoint>),
    /// Points of an exponential histogram.
    ExponentialHistogram(Vec<ExponentialHistogramDataPoint>),
    /// Points of a summary.
    Summary(Vec<SummaryDataPoint>),
}

impl<'a> Point<'a> {
    /// The attributes, which with the metric make the series.
    pub fn attributes(self) -> &'a [KeyValue] {
        match self {
            Self::Number(point) => &point.attributes,
            Self::Histogram(point) => &point.attributes,
            Self::ExponentialHistogram(point) => &point.attributes,
            Self::Summary(point) => &point.attributes,
        }
    }

    /// The end of what it covers, in nanoseconds since 1970.
    pub fn time_unix_nano(self) -> u64 {
        match self {
            Self::Number(point) => point.time_unix_nano,
            Self::Histogram(point) => point.time_unix_nano,
            Self::ExponentialHistogram(point) => point.time_unix_nano,
            Self::Summary(point) => point.time_unix_nano,
        }
    }

    /// The start of what it covers, in nanoseconds since 1970; 0 when unknown.
    pub fn start_time_unix_nano(self) -> u64 {
        match self {
            Self::Number(point) => point.start_time_unix_nano,
            Self::Histogram(point) => point.start_time_unix_nano,
            Self::ExponentialHistogram(point) => point.start_time_unix_nano,
            Self::Summary(point) => point.start_time_unix_nano,
        }
    }

    /// The flags; bit 0 says that no value was recorded.
    pub fn flags(self) -> u32 {
        match self {
            Self::Number(point) => point.flags,
            Self::Histogram(point) => point.flags,
            Self::ExponentialHistogram(point) => point.flags,
            Self::Summary(point) => point.flags,
        }
    }

    /// Sampled measurements; summaries have none.
    pub fn exemplars(self) -> &'a [Exemplar] {
        match self {
            Self::Number(point) => &point.exemplars,
            Self::Histogram(point) => &point.exemplars,
            Self::ExponentialHistogram(point) => &point.exemplars,
            Self::Summary(_) => &[],
        }
    }
}

impl Points {
    /// How many there are.
    pub fn len(&self) -> usize {
        match self {
            Self::Number(points) => points.len(),
            Self::Histogram(points) => points.len(),
            Self::ExponentialHistogram(points) => points.len(),
            Self::Summary(points) => points.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The point at this place, if there are so many.
    pub fn get(&self, index: usize) -> Option<Point<'_>> {
        match self {
            Self::Number(points) => points.get(index).map(Point::Number),
            Self::Histogram(points) => points.get(index).map(Point::Histogram),
            Self::ExponentialHistogram(points) => points.get(index).map(Point::ExponentialHistogram),
            Self::Summary(points) => points.get(index).map(Point::Summary),
        }
    }

    /// The point at this place alone, if there are so many.
    pub fn only(&self, index: usize) -> Option<Self> {
        Some(match self {
            Self::Number(points) => Self::Number(vec![points.get(index)?.clone()]),
            Self::Histogram(points) => Self::Histogram(vec![points.get(index)?.clone()]),
            Self::ExponentialHistogram(points) => Self::ExponentialHistogram(vec![points.get(index)?.clone()]),
            Self::Summary(points) => Self::Summary(vec![points.get(index)?.clone()]),
        })
    }

    /// Of the same kind, none.
    pub(crate) fn none(&self) -> Self {
        match self {
            Self::Number(_) => Self::Number(Vec::new()),
            Self::Histogram(_) => Self::Histogram(Vec::new()),
            Self::ExponentialHistogram(_) => Self::ExponentialHistogram(Vec::new()),
            Self::Summary(_) => Self::Summary(Vec::new()),
        }
    }

    /// Adds points of the same kind behind these. Of another kind they belong to another metric, and are not added.
    pub(crate) fn append(&mut self, more: Self) {
        match (self, more) {
            (Self::Number(points), Self::Number(more)) => points.extend(more),
            (Self::Histogram(points), Self::Histogram(more)) => points.extend(more),
            (Self::ExponentialHistogram(points), Self::ExponentialHistogram(more)) => points.extend(more),
            (Self::Summary(points), Self::Summary(more)) => points.extend(more),
            _ => {}
        }
    }

    /// Keeps those for which `keep`, which is asked for each in their order, says so.
    pub(crate) fn retain(&mut self, mut keep: impl FnMut() -> bool) {
        match self {
            Self::Number(points) => points.retain(|_| keep()),
            Self::Histogram(points) => points.retain(|_| keep()),
            Self::ExponentialHistogram(points) => points.retain(|_| keep()),
            Self::Summary(points) => points.retain(|_| keep()),
        }
    }

    /// The points, in their order.
    pub fn iter(&self) -> impl Iterator<Item = Point<'_>> {
        (0..self.len()).filter_map(|index| self.get(index))
    }
}

/// Takes a metric apart. A metric without data is `None`; one with data and no points has none, and is no record either.
pub fn split(metric: Metric) -> Option<(MetricDescriptor, Points)> {
    let Metric { name, description, unit, metadata, data } = metric;
    let (kind, temporality, monotonic, points) = match data? {
        Data::Gauge(Gauge { data_points }) => (MetricKind::Gauge, 0, false, Points::Number(data_points)),
        Data::Sum(Sum { data_points, aggregation_temporality, is_monotonic }) => {
            (MetricKind::Sum, aggregation_temporality, is_monotonic, Points::Number(data_points))
        }
        Data::Histogram(Histogram { data_points, aggregation_temporality }) => {
            (MetricKind::Histogram, aggregation_temporality, false, Points::Histogram(data_points))
        }
        Data::ExponentialHistogram(ExponentialHistogram { data_points, aggregation_temporality }) => {
            let points = Points::ExponentialHistogram(data_points);
            (MetricKind::ExponentialHistogram, aggregation_temporality, false, points)
        }
        Data::Summary(Summary { data_points }) => (MetricKind::Summary, 0, false, Points::Summary(data_points)),
    };
    Some((MetricDescriptor { name, description, unit, metadata, kind, temporality, monotonic }, points))
}

/// Points that are not of the kind that the descriptor names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the data points do not belong to a metric of kind {0:?}")]
pub struct KindMismatch(pub MetricKind);

/// Puts a metric together; the inverse of [`split`].
///
/// # Errors
/// [`KindMismatch`] when the points are of another kind than the descriptor.
pub fn join(descriptor: MetricDescriptor, points: Points) -> Result<Metric, KindMismatch> {
    let MetricDescriptor { name, description, unit, metadata, kind, temporality, monotonic } = descriptor;
    let data = match (kind, points) {
        (MetricKind::Gauge, Points::Number(data_points)) => Data::Gauge(Gauge { data_points }),
        (MetricKind::Sum, Points::Number(data_points)) => {
            Data::Sum(Sum { data_points, aggregation_temporality: temporality, is_monotonic: monotonic })
        }
        (MetricKind::Histogram, Points::Histogram(data_points)) => {
            Data::Histogram(Histogram { data_points, aggregation_temporality: temporality })
        }
        (MetricKind::ExponentialHistogram, Points::ExponentialHistogram(data_points)) => {
            Data::ExponentialHistogram(ExponentialHistogram { data_points, aggregation_temporality: temporality })
        }
        (MetricKind::Summary, Points::Summary(data_points)) => Data::Summary(Summary { data_points }),
        (kind, _) => return Err(KindMismatch(kind)),
    };
    Ok(Metric { name, description, unit, metadata, data: Some(data) })
}
