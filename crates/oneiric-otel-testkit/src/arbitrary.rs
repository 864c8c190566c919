//! Arbitrary OTLP messages for property tests: everything that the protobuf types can hold, the odd corners far more
//! often than in life.
//!
//! Generated are all kinds of values, text with NUL and beyond ASCII, every bit pattern of doubles (NaN with payload,
//! -0.0, infinities, subnormals), integers and times over their whole range, enums known or not, keys that repeat, ids of
//! any length, nested arrays and maps, absent values beside empty ones. Messages stay small, so that a failure shrinks to
//! something that can be read. Text is valid UTF-8: a `String` cannot hold anything else.

use std::ops::Range;

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
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

/// How many elements a list has.
const FEW: Range<usize> = 0..4;

/// A span of any content. Its ids are those of [`id`], so most are not valid ones; see [`valid_span`].
pub fn span() -> impl Strategy<Value = Span> {
    let ids = (id(), id(), id(), text());
    let what = (text(), enumeration(), time(), time(), flags());
    let lists = (attributes(), vec(event(), FEW), vec(link(), FEW));
    let rest = (dropped(), dropped(), dropped(), option::of(status()));
    (ids, what, lists, rest).prop_map(|(ids, what, lists, rest)| {
        let (trace_id, span_id, parent_span_id, trace_state) = ids;
        let (name, kind, start_time_unix_nano, end_time_unix_nano, flags) = what;
        let (attributes, events, links) = lists;
        let (dropped_attributes_count, dropped_events_count, dropped_links_count, status) = rest;
        Span {
            trace_id,
            span_id,
            trace_state,
            parent_span_id,
            flags,
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
        }
    })
}

/// A span that a store must keep: its own ids have 16 and 8 bytes, not all zero; the rest is as in [`span`].
pub fn valid_span() -> impl Strategy<Value = Span> {
    (span(), valid_id(16), valid_id(8)).prop_map(|(span, trace_id, span_id)| Span { trace_id, span_id, ..span })
}

/// A log record of any content.
pub fn log_record() -> impl Strategy<Value = LogRecord> {
    let when = (time(), time());
    let what = (enumeration(), text(), option::of(value()), text());
    let rest = (attributes(), dropped(), flags(), id(), id());
    (when, what, rest).prop_map(|(when, what, rest)| {
        let (time_unix_nano, observed_time_unix_nano) = when;
        let (severity_number, severity_text, body, event_name) = what;
        let (attributes, dropped_attributes_count, flags, trace_id, span_id) = rest;
        LogRecord {
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
        }
    })
}

/// A metric of any kind or without data, with any number of points, none among them.
pub fn metric() -> impl Strategy<Value = Metric> {
    let data = prop_oneof![
        vec(number_data_point(), FEW).prop_map(|data_points| Data::Gauge(Gauge { data_points })),
        (vec(number_data_point(), FEW), enumeration(), any::<bool>()).prop_map(
            |(data_points, aggregation_temporality, is_monotonic)| {
                Data::Sum(Sum { data_points, aggregation_temporality, is_monotonic })
            }
        ),
        (vec(histogram_data_point(), FEW), enumeration()).prop_map(|(data_points, aggregation_temporality)| {
            Data::Histogram(Histogram { data_points, aggregation_temporality })
        }),
        (vec(exponential_histogram_data_point(), FEW), enumeration()).prop_map(
            |(data_points, aggregation_temporality)| {
                Data::ExponentialHistogram(ExponentialHistogram { data_points, aggregation_temporality })
            }
        ),
        vec(summary_data_point(), FEW).prop_map(|data_points| Data::Summary(Summary { data_points })),
    ];
    (text(), text(), text(), attributes(), option::weighted(0.9, data))
        .prop_map(|(name, description, unit, metadata, data)| Metric { name, description, unit, metadata, data })
}

/// A resource and its schema URL; the resource may be absent, which is not the same as empty.
pub fn resource_envelope() -> impl Strategy<Value = (Option<Resource>, String)> {
    (option::of(resource()), text())
}

/// A scope and its schema URL; the scope may be absent, which is not the same as empty.
pub fn scope_envelope() -> impl Strategy<Value = (Option<InstrumentationScope>, String)> {
    (option::of(scope()), text())
}

/// A resource of any content.
pub fn resource() -> impl Strategy<Value = Resource> {
    (attributes(), dropped(), vec(entity_ref(), FEW)).prop_map(|(attributes, dropped_attributes_count, entity_refs)| {
        Resource { attributes, dropped_attributes_count, entity_refs }
    })
}

/// An instrumentation scope of any content.
pub fn scope() -> impl Strategy<Value = InstrumentationScope> {
    (text(), text(), attributes(), dropped()).prop_map(|(name, version, attributes, dropped_attributes_count)| {
        InstrumentationScope { name, version, attributes, dropped_attributes_count }
    })
}

/// A point of a gauge or a sum: an integer, a double or no value.
pub fn number_data_point() -> impl Strategy<Value = NumberDataPoint> {
    let value = prop_oneof![
        double().prop_map(number_data_point::Value::AsDouble),
        int64().prop_map(number_data_point::Value::AsInt),
    ];
    (attributes(), time(), time(), vec(exemplar(), FEW), flags(), option::of(value)).prop_map(
        |(attributes, start_time_unix_nano, time_unix_nano, exemplars, flags, value)| NumberDataPoint {
            attributes,
            start_time_unix_nano,
            time_unix_nano,
            exemplars,
            flags,
            value,
        },
    )
}

/// A point of a histogram; counts and bounds need not fit together.
pub fn histogram_data_point() -> impl Strategy<Value = HistogramDataPoint> {
    let head = (attributes(), time(), time(), uint64(), flags());
    let stats = (option::of(double()), option::of(double()), option::of(double()));
    let lists = (vec(uint64(), FEW), vec(double(), FEW), vec(exemplar(), FEW));
    (head, stats, lists).prop_map(|(head, stats, lists)| {
        let (attributes, start_time_unix_nano, time_unix_nano, count, flags) = head;
        let (sum, min, max) = stats;
        let (bucket_counts, explicit_bounds, exemplars) = lists;
        HistogramDataPoint {
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
        }
    })
}

/// A point of an exponential histogram.
pub fn exponential_histogram_data_point() -> impl Strategy<Value = ExponentialHistogramDataPoint> {
    let head = (attributes(), time(), time(), uint64(), flags());
    let stats = (option::of(double()), option::of(double()), option::of(double()));
    let buckets = (int32(), uint64(), double(), option::of(buckets()), option::of(buckets()));
    (head, stats, buckets, vec(exemplar(), FEW)).prop_map(|(head, stats, buckets, exemplars)| {
        let (attributes, start_time_unix_nano, time_unix_nano, count, flags) = head;
        let (sum, min, max) = stats;
        let (scale, zero_count, zero_threshold, positive, negative) = buckets;
        ExponentialHistogramDataPoint {
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
        }
    })
}

/// A point of a summary.
pub fn summary_data_point() -> impl Strategy<Value = SummaryDataPoint> {
    let quantile = (double(), double()).prop_map(|(quantile, value)| ValueAtQuantile { quantile, value });
    (attributes(), time(), time(), uint64(), double(), vec(quantile, FEW), flags()).prop_map(
        |(attributes, start_time_unix_nano, time_unix_nano, count, sum, quantile_values, flags)| SummaryDataPoint {
            attributes,
            start_time_unix_nano,
            time_unix_nano,
            count,
            sum,
            quantile_values,
            flags,
        },
    )
}

/// Attributes, in which a key may occur twice.
pub fn attributes() -> impl Strategy<Value = Vec<KeyValue>> {
    vec(key_value(value().boxed()), FEW)
}

/// A value of any kind, empty or nested among them.
pub fn value() -> impl Strategy<Value = AnyValue> {
    let leaf = prop_oneof![
        1 => Just(None),
        4 => text().prop_map(|text| Some(Value::StringValue(text))),
        1 => any::<bool>().prop_map(|value| Some(Value::BoolValue(value))),
        2 => int64().prop_map(|value| Some(Value::IntValue(value))),
        2 => double().prop_map(|value| Some(Value::DoubleValue(value))),
        1 => vec(any::<u8>(), 0..9).prop_map(|value| Some(Value::BytesValue(value))),
        1 => int32().prop_map(|value| Some(Value::StringValueStrindex(value))),
    ]
    .prop_map(|value| AnyValue { value });
    leaf.prop_recursive(4, 12, 3, |inner| {
        prop_oneof![
            vec(inner.clone(), FEW).prop_map(|values| Value::ArrayValue(ArrayValue { values })),
            vec(key_value(inner.boxed()), FEW).prop_map(|values| Value::KvlistValue(KeyValueList { values })),
        ]
        .prop_map(|value| AnyValue { value: Some(value) })
    })
}

/// A trace or span id: mostly of the right lengths, else empty, too short or too long, all zero among them.
pub fn id() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        3 => vec(any::<u8>(), 16),
        3 => vec(any::<u8>(), 8),
        2 => Just(Vec::new()),
        1 => vec(any::<u8>(), 1..33),
        1 => vec(Just(0), 1..33),
    ]
}

/// An id of this length that is not all zero.
pub fn valid_id(length: usize) -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>(), length).prop_map(|mut id| {
        if id.iter().all(|byte| *byte == 0) {
            id.fill(1);
        }
        id
    })
}

/// Any double by its bits, the odd ones often: NaN with payload and sign, -0.0, infinities, subnormals, extremes.
pub fn double() -> impl Strategy<Value = f64> {
    prop_oneof![
        any::<u64>().prop_map(f64::from_bits),
        (any::<bool>(), 1..1_u64 << 52)
            .prop_map(|(negative, payload)| { f64::from_bits(u64::from(negative) << 63 | 0x7ff << 52 | payload) }),
        prop::sample::select(vec![
            0.0,
            -0.0,
            1.0,
            0.1,
            f64::INFINITY,
            f64::NEG_INFINITY,
            f64::NAN,
            f64::MAX,
            f64::MIN,
            f64::MIN_POSITIVE,
            f64::from_bits(1),
            9_007_199_254_740_993.0,
        ]),
        -1e6..1e6_f64,
    ]
}

/// Nanoseconds since 1970 over the whole range of the type: 0, now, beyond the signed range, the last one.
pub fn time() -> impl Strategy<Value = u64> {
    prop_oneof![
        2 => 1_400_000_000_000_000_000..2_000_000_000_000_000_000_u64,
        1 => uint64(),
    ]
}

/// Text: empty, plain, of any characters, with NUL.
pub fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        2 => Just(String::new()),
        4 => "[a-c.]{1,3}",
        2 => any::<String>().prop_map(|text| text.chars().take(12).collect()),
        1 => prop::sample::select(vec!["\0", "a\0b", "\u{feff}", "\u{10ffff}", "日本語", "\"\\\n\u{1f}\u{7f}\u{2028}"])
            .prop_map(str::to_owned),
    ]
}

fn key_value(value: BoxedStrategy<AnyValue>) -> impl Strategy<Value = KeyValue> {
    let index = prop_oneof![9 => Just(0), 1 => int32()];
    (text(), option::weighted(0.9, value), index).prop_map(|(key, value, key_strindex)| KeyValue {
        key,
        value,
        key_strindex,
    })
}

fn event() -> impl Strategy<Value = Event> {
    (time(), text(), attributes(), dropped()).prop_map(
        |(time_unix_nano, name, attributes, dropped_attributes_count)| Event {
            time_unix_nano,
            name,
            attributes,
            dropped_attributes_count,
        },
    )
}

fn link() -> impl Strategy<Value = Link> {
    (id(), id(), text(), attributes(), dropped(), flags()).prop_map(
        |(trace_id, span_id, trace_state, attributes, dropped_attributes_count, flags)| Link {
            trace_id,
            span_id,
            trace_state,
            attributes,
            dropped_attributes_count,
            flags,
        },
    )
}

fn status() -> impl Strategy<Value = Status> {
    (text(), enumeration()).prop_map(|(message, code)| Status { message, code })
}

fn exemplar() -> impl Strategy<Value = Exemplar> {
    let value = prop_oneof![double().prop_map(exemplar::Value::AsDouble), int64().prop_map(exemplar::Value::AsInt),];
    (attributes(), time(), id(), id(), option::of(value)).prop_map(
        |(filtered_attributes, time_unix_nano, span_id, trace_id, value)| Exemplar {
            filtered_attributes,
            time_unix_nano,
            span_id,
            trace_id,
            value,
        },
    )
}

fn buckets() -> impl Strategy<Value = Buckets> {
    (int32(), vec(uint64(), FEW)).prop_map(|(offset, bucket_counts)| Buckets { offset, bucket_counts })
}

fn entity_ref() -> impl Strategy<Value = EntityRef> {
    (text(), text(), vec(text(), FEW), vec(text(), FEW)).prop_map(|(schema_url, r#type, id_keys, description_keys)| {
        EntityRef { schema_url, r#type, id_keys, description_keys }
    })
}

/// A number of an enum, mostly a known one of any OTLP enum.
fn enumeration() -> impl Strategy<Value = i32> {
    prop_oneof![4 => 0..6_i32, 1 => 6..25_i32, 1 => int32()]
}

fn flags() -> impl Strategy<Value = u32> {
    prop_oneof![Just(0), Just(1), Just(0x101), any::<u32>()]
}

fn dropped() -> impl Strategy<Value = u32> {
    prop_oneof![3 => Just(0), 1 => any::<u32>(), 1 => Just(u32::MAX)]
}

fn int32() -> impl Strategy<Value = i32> {
    prop_oneof![any::<i32>(), -3..4_i32, Just(i32::MIN), Just(i32::MAX)]
}

fn int64() -> impl Strategy<Value = i64> {
    prop_oneof![any::<i64>(), -3..4_i64, Just(i64::MIN), Just(i64::MAX), Just(1 << 53 | 1)]
}

fn uint64() -> impl Strategy<Value = u64> {
    prop_oneof![any::<u64>(), 0..4_u64, Just(u64::MAX), Just(1 << 63), Just(1 << 53 | 1)]
}
