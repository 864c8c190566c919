//! The canonical encoding of every message of OTLP. The format is described in [`super`].
//!
//! Each message is taken apart without `..`, so that a field that a new version of the protobuf files adds cannot be
//! forgotten here: it does not compile until it is written.

use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{
    AnyValue, ArrayValue, EntityRef, InstrumentationScope, KeyValue, KeyValueList,
};
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use opentelemetry_proto::tonic::metrics::v1::exponential_histogram_data_point::Buckets;
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::summary_data_point::ValueAtQuantile;
use opentelemetry_proto::tonic::metrics::v1::{
    Exemplar, ExponentialHistogram, ExponentialHistogramDataPoint, Gauge, Histogram, HistogramDataPoint, Metric,
    NumberDataPoint, Sum, Summary, SummaryDataPoint, exemplar, number_data_point,
};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::span::{Event, Link};
use opentelemetry_proto::tonic::trace::v1::{Span, Status};

use crate::otlp::point::{MetricDescriptor, MetricKind};
use crate::otlp::{ResourceEnvelope, ScopeEnvelope};

/// Ends a message; no field has this tag.
const END: u8 = 0;

/// A message with a canonical encoding.
pub trait Encode {
    /// Appends the canonical bytes.
    fn encode(&self, out: &mut Vec<u8>);
}

fn length(mut value: usize, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn bytes(tag: u8, value: &[u8], out: &mut Vec<u8>) {
    if !value.is_empty() {
        present_bytes(tag, value, out);
    }
}

fn present_bytes(tag: u8, value: &[u8], out: &mut Vec<u8>) {
    out.push(tag);
    length(value.len(), out);
    out.extend_from_slice(value);
}

fn text(tag: u8, value: &str, out: &mut Vec<u8>) {
    bytes(tag, value.as_bytes(), out);
}

fn texts(tag: u8, values: &[String], out: &mut Vec<u8>) {
    for value in values {
        present_bytes(tag, value.as_bytes(), out);
    }
}

fn fixed64(tag: u8, value: u64, out: &mut Vec<u8>) {
    if value != 0 {
        present_fixed64(tag, value, out);
    }
}

fn present_fixed64(tag: u8, value: u64, out: &mut Vec<u8>) {
    out.push(tag);
    out.extend_from_slice(&value.to_le_bytes());
}

fn signed64(tag: u8, value: i64, out: &mut Vec<u8>) {
    present_fixed64(tag, value as u64, out);
}

fn double(tag: u8, value: f64, out: &mut Vec<u8>) {
    fixed64(tag, value.to_bits(), out);
}

fn present_double(tag: u8, value: f64, out: &mut Vec<u8>) {
    present_fixed64(tag, value.to_bits(), out);
}

fn optional_double(tag: u8, value: Option<f64>, out: &mut Vec<u8>) {
    if let Some(value) = value {
        present_double(tag, value, out);
    }
}

fn fixed32(tag: u8, value: u32, out: &mut Vec<u8>) {
    if value != 0 {
        present_fixed32(tag, value, out);
    }
}

fn present_fixed32(tag: u8, value: u32, out: &mut Vec<u8>) {
    out.push(tag);
    out.extend_from_slice(&value.to_le_bytes());
}

fn signed32(tag: u8, value: i32, out: &mut Vec<u8>) {
    fixed32(tag, value as u32, out);
}

fn boolean(tag: u8, value: bool, out: &mut Vec<u8>) {
    if value {
        out.extend_from_slice(&[tag, 1]);
    }
}

fn numbers(tag: u8, values: impl ExactSizeIterator<Item = u64>, out: &mut Vec<u8>) {
    if values.len() == 0 {
        return;
    }
    out.push(tag);
    length(values.len(), out);
    for value in values {
        out.extend_from_slice(&value.to_le_bytes());
    }
}

fn message<M: Encode>(tag: u8, value: &M, out: &mut Vec<u8>) {
    out.push(tag);
    value.encode(out);
}

fn optional<M: Encode>(tag: u8, value: Option<&M>, out: &mut Vec<u8>) {
    if let Some(value) = value {
        message(tag, value, out);
    }
}

fn messages<M: Encode>(tag: u8, values: &[M], out: &mut Vec<u8>) {
    for value in values {
        message(tag, value, out);
    }
}

impl Encode for ResourceEnvelope {
    fn encode(&self, out: &mut Vec<u8>) {
        let Self { resource, schema_url } = self;
        optional(1, resource.as_ref(), out);
        text(3, schema_url, out);
        out.push(END);
    }
}

impl Encode for ScopeEnvelope {
    fn encode(&self, out: &mut Vec<u8>) {
        let Self { scope, schema_url } = self;
        optional(1, scope.as_ref(), out);
        text(3, schema_url, out);
        out.push(END);
    }
}

impl Encode for Resource {
    fn encode(&self, out: &mut Vec<u8>) {
        let Self { attributes, dropped_attributes_count, entity_refs } = self;
        messages(1, attributes, out);
        fixed32(2, *dropped_attributes_count, out);
        messages(3, entity_refs, out);
        out.push(END);
    }
}

impl Encode for EntityRef {
    fn encode(&self, out: &mut Vec<u8>) {
        let Self { schema_url, r#type, id_keys, description_keys } = self;
        text(1, schema_url, out);
        text(2, r#type, out);
        texts(3, id_keys, out);
        texts(4, description_keys, out);
        out.push(END);
    }
}

impl Encode for InstrumentationScope {
    fn encode(&self, out: &mut Vec<u8>) {
        let Self { name, version, attributes, dropped_attributes_count } = self;
        text(1, name, out);
        text(2, version, out);
        messages(3, attributes, out);
        fixed32(4, *dropped_attributes_count, out);
        out.push(END);
    }
}

/// The attributes of a series.
impl Encode for [KeyValue] {
    fn encode(&self, out: &mut Vec<u8>) {
        messages(1, self, out);
        out.push(END);
    }
}

impl Encode for KeyValue {
    fn encode(&self, out: &mut Vec<u8>) {
        let Self { key, value, key_strindex } = self;
        text(1, key, out);
        optional(2, value.as_ref(), out);
        signed32(3, *key_strindex, out);
        out.push(END);
    }
}

impl Encode for AnyValue {
    fn encode(&self, out: &mut Vec<u8>) {
        let Self { value } = self;
        match value {
            None => {}
            Some(Value::StringValue(value)) => present_bytes(1, value.as_bytes(), out),
            Some(Value::BoolValue(value)) => out.extend_from_slice(&[2, u8::from(*value)]),
            Some(Value::IntValue(value)) => signed64(3, *value, out),
            Some(Value::DoubleValue(value)) => present_double(4, *value, out),
            Some(Value::ArrayValue(value)) => message(5, value, out),
            Some(Value::KvlistValue(value)) => message(6, value, out),
            Some(Value::BytesValue(value)) => present_bytes(7, value, out),
            Some(Value::StringValueStrindex(value)) => present_fixed32(8, *value as u32, out),
        }
        out.push(END);
    }
}

impl Encode for ArrayValue {
    fn encode(&self, out: &mut Vec<u8>) {
        let Self { values } = self;
        messages(1, values, out);
        out.push(END);
    }
}

impl Encode for KeyValueList {
    fn encode(&self, out: &mut Vec<u8>) {
        let Self { values } = self;
        messages(1, values, out);
        out.push(END);
    }
}

impl Encode for Span {
    fn encode(&self, out: &mut Vec<u8>) {
        let Self {
            trace_id,
            span_id,
            trace_state,
            parent_span_id,
            name,
            kind,
            start_time_unix_nano,
            end_time_unix_nano,
            attributes,
            dropped_attributes_count,
            events,
            dropped_events_count,
            links,
            dropped_links_count,
            status,
            flags,
        } = self;
        bytes(1, trace_id, out);
        bytes(2, span_id, out);
        text(3, trace_state, out);
        bytes(4, parent_span_id, out);
        text(5, name, out);
        signed32(6, *kind, out);
        fixed64(7, *start_time_unix_nano, out);
        fixed64(8, *end_time_unix_nano, out);
        messages(9, attributes, out);
        fixed32(10, *dropped_attributes_count, out);
        messages(11, events, out);
        fixed32(12, *dropped_events_count, out);
        messages(13, links, out);
        fixed32(14, *dropped_links_count, out);
        optional(15, status.as_ref(), out);
        fixed32(16, *flags, out);
        out.push(END);
    }
}

impl Encode for Event {
    fn encode(&self, out: &mut Vec<u8>) {
        let Self { time_unix_nano, name, attributes, dropped_attributes_count } = self;
        fixed64(1, *time_unix_nano, out);
        text(2, name, out);
        messages(3, attributes, out);
        fixed32(4, *dropped_attributes_count, out);
        out.push(END);
    }
}

impl Encode for Link {
    fn encode(&self, out: &mut Vec<u8>) {
        let Self { trace_id, span_id, trace_state, attributes, dropped_attributes_count, flags } = self;
        bytes(1, trace_id, out);
        bytes(2, span_id, out);
        text(3, trace_state, out);
        messages(4, attributes, out);
        fixed32(5, *dropped_attributes_count, out);
        fixed32(6, *flags, out);
        out.push(END);
    }
}

impl Encode for Status {
    fn encode(&self, out: &mut Vec<u8>) {
        let Self { message, code } = self;
        text(2, message, out);
        signed32(3, *code, out);
        out.push(END);
    }
}

impl Encode for LogRecord {
    fn encode(&self, out: &mut Vec<u8>) {
        let Self {
            time_unix_nano,
            observed_time_unix_nano,
            severity_number,
            severity_text,
            body,
            attributes,
            dropped_attributes_count,
            flags,
            trace_id,
            span_id,
            event_name,
        } = self;
        fixed64(1, *time_unix_nano, out);
        signed32(2, *severity_number, out);
        text(3, severity_text, out);
        optional(5, body.as_ref(), out);
        messages(6, attributes, out);
        fixed32(7, *dropped_attributes_count, out);
        fixed32(8, *flags, out);
        bytes(9, trace_id, out);
        bytes(10, span_id, out);
        fixed64(11, *observed_time_unix_nano, out);
        text(12, event_name, out);
        out.push(END);
    }
}

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
