//! Encoding that keeps -0.0.
//!
//! prost leaves out a double without presence when it equals 0.0, and -0.0 equals 0.0, so four fields of OTLP lose the
//! sign of a zero: the sum and the quantiles of a summary, and the zero threshold of an exponential histogram. What
//! prost leaves out is written after what it writes: the order of fields in a message is free. Reading is not affected.

use bytes::Bytes;
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::{ExponentialHistogramDataPoint, Metric, SummaryDataPoint};
use prost::Message;

use crate::otlp::point::Point;

/// A data point as protobuf.
pub fn encode_point(point: Point<'_>) -> Vec<u8> {
    match point {
        Point::Number(point) => point.encode_to_vec(),
        Point::Histogram(point) => point.encode_to_vec(),
        Point::ExponentialHistogram(point) => exponential_point(point),
        Point::Summary(point) => summary_point(point),
    }
}

/// A metric as protobuf.
pub fn encode_metric(metric: &Metric) -> Vec<u8> {
    let rest = match &metric.data {
        Some(Data::ExponentialHistogram(histogram)) if histogram.data_points.iter().any(drops_threshold) => {
            MetricData {
                exponential_histogram: Some(PointBytes {
                    data_points: histogram.data_points.iter().map(|point| exponential_point(point).into()).collect(),
                    aggregation_temporality: histogram.aggregation_temporality,
                }),
                summary: None,
            }
        }
        Some(Data::Summary(summary)) if summary.data_points.iter().any(drops_zero) => MetricData {
            exponential_histogram: None,
            summary: Some(PointBytes {
                data_points: summary.data_points.iter().map(|point| summary_point(point).into()).collect(),
                aggregation_temporality: 0,
            }),
        },
        _ => return metric.encode_to_vec(),
    };
    let Metric { name, description, unit, metadata, data: _ } = metric.clone();
    let mut out = Metric { name, description, unit, metadata, data: None }.encode_to_vec();
    out.extend(rest.encode_to_vec());
    out
}

/// The members of `Metric.data` that can lose a sign, with points that are encoded already.
#[derive(Clone, PartialEq, Message)]
struct MetricData {
    #[prost(message, optional, tag = "10")]
    exponential_histogram: Option<PointBytes>,
    #[prost(message, optional, tag = "11")]
    summary: Option<PointBytes>,
}

#[derive(Clone, PartialEq, Message)]
struct PointBytes {
    #[prost(bytes = "bytes", repeated, tag = "1")]
    data_points: Vec<Bytes>,
    #[prost(int32, tag = "2")]
    aggregation_temporality: i32,
}

fn is_negative_zero(value: f64) -> bool {
    value.to_bits() == (-0.0_f64).to_bits()
}

fn drops_threshold(point: &ExponentialHistogramDataPoint) -> bool {
    is_negative_zero(point.zero_threshold)
}

fn drops_zero(point: &SummaryDataPoint) -> bool {
    is_negative_zero(point.sum)
        || point.quantile_values.iter().any(|pair| is_negative_zero(pair.quantile) || is_negative_zero(pair.value))
}

/// `ExponentialHistogramDataPoint.zero_threshold` with presence.
#[derive(Clone, PartialEq, Message)]
struct Threshold {
    #[prost(double, optional, tag = "14")]
    zero_threshold: Option<f64>,
}

fn exponential_point(point: &ExponentialHistogramDataPoint) -> Vec<u8> {
    let mut out = point.encode_to_vec();
    if drops_threshold(point) {
        out.extend(Threshold { zero_threshold: Some(point.zero_threshold) }.encode_to_vec());
    }
    out
}

/// `SummaryDataPoint.sum` and `quantile_values` with presence.
#[derive(Clone, PartialEq, Message)]
struct SummaryValues {
    #[prost(double, optional, tag = "5")]
    sum: Option<f64>,
    #[prost(message, repeated, tag = "6")]
    quantile_values: Vec<Quantile>,
}

#[derive(Clone, PartialEq, Message)]
struct Quantile {
    #[prost(double, optional, tag = "1")]
    quantile: Option<f64>,
    #[prost(double, optional, tag = "2")]
    value: Option<f64>,
}

fn summary_point(point: &SummaryDataPoint) -> Vec<u8> {
    if !drops_zero(point) {
        return point.encode_to_vec();
    }
    let quantile_values = point.quantile_values.iter();
    let values = SummaryValues {
        sum: Some(point.sum),
        quantile_values: quantile_values
            .map(|pair| Quantile { quantile: Some(pair.quantile), value: Some(pair.value) })
            .collect(),
    };
    let mut out = SummaryDataPoint { sum: 0.0, quantile_values: Vec::new(), ..point.clone() }.encode_to_vec();
    out.extend(values.encode_to_vec());
    out
}
