//! The canonical encoding of metrics and their data points.

use opentelemetry_proto::tonic::metrics::v1::exponential_histogram_data_point::Buckets;
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::summary_data_point::ValueAtQuantile;
use opentelemetry_proto::tonic::metrics::v1::{
    Exemplar, ExponentialHistogram, ExponentialHistogramDataPoint, Gauge, Histogram, HistogramDataPoint, Metric,
    NumberDataPoint, Sum, Summary, SummaryDataPoint, exemplar, number_data_point,
};

use super::{
    END, Encode, boolean, bytes, double, fixed32, fixed64, message, messages, numbers, optional, optional_double,
    present_double, signed32, signed64, text,
};
use crate::otlp::point::{MetricDescriptor, MetricKind};

/// Tags 1 to 12 are those of `Metric`, where the tag of the oneof stands for the kind; temporality and monotonicity,
/// which lie inside its members, follow under tags of our own.
impl Encode for MetricDescriptor {
    fn encode(&self, out: &mut Vec<u8>) {
        let Self { name, description, unit, metadata, kind, temporality, monotonic } = self;
        text(1, name, out);
        text(2, description, out);
        text(3, unit, out);
        out.push(match kind {
            MetricKind::Gauge => 5,
            MetricKind::Sum => 7,
            MetricKind::Histogram => 9,
            MetricKind::ExponentialHistogram => 10,
            MetricKind::Summary => 11,
        });
        messages(12, metadata, out);
        signed32(13, *temporality, out);
        boolean(14, *monotonic, out);
        out.push(END);
    }
}

impl Encode for Metric {
    fn encode(&self, out: &mut Vec<u8>) {
        let Self { name, description, unit, metadata, data } = self;
        text(1, name, out);
        text(2, description, out);
        text(3, unit, out);
        match data {
            None => {}
            Some(Data::Gauge(gauge)) => message(5, gauge, out),
            Some(Data::Sum(sum)) => message(7, sum, out),
            Some(Data::Histogram(histogram)) => message(9, histogram, out),
            Some(Data::ExponentialHistogram(histogram)) => message(10, histogram, out),
            Some(Data::Summary(summary)) => message(11, summary, out),
        }
        messages(12, metadata, out);
        out.push(END);
    }
}

impl Encode for Gauge {
    fn encode(&self, out: &mut Vec<u8>) {
        let Self { data_points } = self;
        messages(1, data_points, out);
        out.push(END);
    }
}

impl Encode for Sum {
    fn encode(&self, out: &mut Vec<u8>) {
        let Self { data_points, aggregation_temporality, is_monotonic } = self;
        messages(1, data_points, out);
        signed32(2, *aggregation_temporality, out);
        boolean(3, *is_monotonic, out);
        out.push(END);
    }
}

impl Encode for Histogram {
    fn encode(&self, out: &mut Vec<u8>) {
        let Self { data_points, aggregation_temporality } = self;
        messages(1, data_points, out);
        signed32(2, *aggregation_temporality, out);
        out.push(END);
    }
}

impl Encode for ExponentialHistogram {
    fn encode(&self, out: &mut Vec<u8>) {
        let Self { data_points, aggregation_temporality } = self;
        messages(1, data_points, out);
        signed32(2, *aggregation_temporality, out);
        out.push(END);
    }
}

impl Encode for Summary {
    fn encode(&self, out: &mut Vec<u8>) {
        let Self { data_points } = self;
        messages(1, data_points, out);
        out.push(END);
    }
}

impl Encode for NumberDataPoint {
    fn encode(&self, out: &mut Vec<u8>) {
        let Self { attributes, start_time_unix_nano, time_unix_nano, exemplars, flags, value } = self;
        fixed64(2, *start_time_unix_nano, out);
        fixed64(3, *time_unix_nano, out);
        if let Some(number_data_point::Value::AsDouble(value)) = value {
            present_double(4, *value, out);
        }
        messages(5, exemplars, out);
        if let Some(number_data_point::Value::AsInt(value)) = value {
            signed64(6, *value, out);
        }
        messages(7, attributes, out);
        fixed32(8, *flags, out);
        out.push(END);
    }
}

impl Encode for HistogramDataPoint {
    fn encode(&self, out: &mut Vec<u8>) {
        let Self {
            attributes,
            start_time_unix_nano,
            time_unix_nano,
            count,
            sum,
            bucket_counts,
            explicit_bounds,
            exemplars,
            flags,
            min,
            max,
        } = self;
        fixed64(2, *start_time_unix_nano, out);
        fixed64(3, *time_unix_nano, out);
        fixed64(4, *count, out);
        optional_double(5, *sum, out);
        numbers(6, bucket_counts.iter().copied(), out);
        numbers(7, explicit_bounds.iter().map(|bound| bound.to_bits()), out);
        messages(8, exemplars, out);
        messages(9, attributes, out);
        fixed32(10, *flags, out);
        optional_double(11, *min, out);
        optional_double(12, *max, out);
        out.push(END);
    }
}

impl Encode for ExponentialHistogramDataPoint {
    fn encode(&self, out: &mut Vec<u8>) {
        let Self {
            attributes,
            start_time_unix_nano,
            time_unix_nano,
            count,
            sum,
            scale,
            zero_count,
            positive,
            negative,
            flags,
            exemplars,
            min,
            max,
            zero_threshold,
        } = self;
        messages(1, attributes, out);
        fixed64(2, *start_time_unix_nano, out);
        fixed64(3, *time_unix_nano, out);
        fixed64(4, *count, out);
        optional_double(5, *sum, out);
        signed32(6, *scale, out);
        fixed64(7, *zero_count, out);
        optional(8, positive.as_ref(), out);
        optional(9, negative.as_ref(), out);
        fixed32(10, *flags, out);
        messages(11, exemplars, out);
        optional_double(12, *min, out);
        optional_double(13, *max, out);
        double(14, *zero_threshold, out);
        out.push(END);
    }
}

impl Encode for Buckets {
    fn encode(&self, out: &mut Vec<u8>) {
        let Self { offset, bucket_counts } = self;
        signed32(1, *offset, out);
        numbers(2, bucket_counts.iter().copied(), out);
        out.push(END);
    }
}

impl Encode for SummaryDataPoint {
    fn encode(&self, out: &mut Vec<u8>) {
        let Self { attributes, start_time_unix_nano, time_unix_nano, count, sum, quantile_values, flags } = self;
        fixed64(2, *start_time_unix_nano, out);
        fixed64(3, *time_unix_nano, out);
        fixed64(4, *count, out);
        double(5, *sum, out);
        messages(6, quantile_values, out);
        messages(7, attributes, out);
        fixed32(8, *flags, out);
        out.push(END);
    }
}

impl Encode for ValueAtQuantile {
    fn encode(&self, out: &mut Vec<u8>) {
        let Self { quantile, value } = self;
        double(1, *quantile, out);
        double(2, *value, out);
        out.push(END);
    }
}

impl Encode for Exemplar {
    fn encode(&self, out: &mut Vec<u8>) {
        let Self { filtered_attributes, time_unix_nano, span_id, trace_id, value } = self;
        fixed64(2, *time_unix_nano, out);
        if let Some(exemplar::Value::AsDouble(value)) = value {
            present_double(3, *value, out);
        }
        bytes(4, span_id, out);
        bytes(5, trace_id, out);
        if let Some(exemplar::Value::AsInt(value)) = value {
            signed64(6, *value, out);
        }
        messages(7, filtered_attributes, out);
        out.push(END);
    }
}
