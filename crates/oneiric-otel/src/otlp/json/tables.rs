//! Every message of OTLP as a table: the JSON name of a field, its place in the message, its codec.
//!
//! One table drives reading and writing. Members of a oneof stand in a block of their own; there each is named by the
//! variant that holds it.

use opentelemetry_proto::tonic::common::v1::{
    AnyValue, ArrayValue, EntityRef, InstrumentationScope, KeyValue, KeyValueList, any_value::Value as AnyValueKind,
};
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use opentelemetry_proto::tonic::metrics::v1::exemplar::Value as ExemplarValue;
use opentelemetry_proto::tonic::metrics::v1::exponential_histogram_data_point::Buckets;
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::number_data_point::Value as PointValue;
use opentelemetry_proto::tonic::metrics::v1::summary_data_point::ValueAtQuantile;
use opentelemetry_proto::tonic::metrics::v1::{
    Exemplar, ExponentialHistogram, ExponentialHistogramDataPoint, Gauge, Histogram, HistogramDataPoint, Metric,
    NumberDataPoint, Sum, Summary, SummaryDataPoint,
};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::span::{Event, Link};
use opentelemetry_proto::tonic::trace::v1::{Span, Status};
use serde::de::{Error, IgnoredAny, MapAccess};
use serde::ser::SerializeMap;

use super::codec::{
    Base64, Bool, Codec, Double, Enum, Id, List, Maybe, Narrow, Nullable, Sub, SubOrNull, Text, Wide, Written,
};
use super::message::{Key, Message, Seen};

macro_rules! table {
    ($message:ident {
        $($key:literal => $slot:ident: $codec:ty,)*
    } $(oneof $choice:ident: $kind:ident {
        $($member:literal => $variant:ident: $member_codec:ty,)*
    })?) => {
        impl Message for $message {
            const NAME: &'static str = stringify!($message);

            fn read_fields<'de, A: MapAccess<'de>>(mut fields: A) -> Result<Self, A::Error> {
                #[expect(non_camel_case_types, reason = "fields keep the names they have in the message")]
                #[derive(Clone, Copy)]
                enum Field {
                    $($slot,)*
                    $($($variant,)*)?
                    /// Makes the attribute above hold for messages that have a oneof only.
                    unknown_field,
                }

                let find = |key: &str| match key {
                    $($key => (Field::$slot, $key),)*
                    $($($member => (Field::$variant, $member),)*)?
                    _ => (Field::unknown_field, ""),
                };
                let mut message = Self::default();
                let mut seen = Seen::default();
                while let Some((field, key)) = fields.next_key_seed(Key(find))? {
                    if matches!(field, Field::unknown_field) {
                        fields.next_value::<IgnoredAny>()?;
                        continue;
                    }
                    seen.note(field as u32, key)?;
                    match field {
                        $(Field::$slot => {
                            if let Some(value) = fields.next_value_seed(Nullable::<$codec>::new())? {
                                message.$slot = value;
                            }
                        })*
                        $($(Field::$variant => {
                            if let Some(value) = fields.next_value_seed(Nullable::<$member_codec>::new())? {
                                if message.$choice.is_some() {
                                    return Err(second_member(Self::NAME, stringify!($choice), key));
                                }
                                message.$choice = Some($kind::$variant(value));
                            }
                        })*)?
                        Field::unknown_field => {}
                    }
                }
                Ok(message)
            }

            fn write_fields<M: SerializeMap>(&self, fields: &mut M) -> Result<(), M::Error> {
                $(if !<$codec>::is_default(&self.$slot) {
                    fields.serialize_entry($key, &Written::<$codec>(&self.$slot))?;
                })*
                $(match &self.$choice {
                    $(Some($kind::$variant(value)) => {
                        fields.serialize_entry($member, &Written::<$member_codec>(value))?;
                    })*
                    None => {}
                })?
                Ok(())
            }
        }
    };
}

fn second_member<E: Error>(message: &str, oneof: &str, key: &str) -> E {
    E::custom(format_args!("{message} has a second {oneof}, `{key}`; one is accepted"))
}

table! { Resource {
    "attributes" => attributes: List<Sub<KeyValue>>,
    "droppedAttributesCount" => dropped_attributes_count: Narrow<u32>,
    "entityRefs" => entity_refs: List<Sub<EntityRef>>,
}}

table! { EntityRef {
    "schemaUrl" => schema_url: Text,
    "type" => r#type: Text,
    "idKeys" => id_keys: List<Text>,
    "descriptionKeys" => description_keys: List<Text>,
}}

table! { InstrumentationScope {
    "name" => name: Text,
    "version" => version: Text,
    "attributes" => attributes: List<Sub<KeyValue>>,
    "droppedAttributesCount" => dropped_attributes_count: Narrow<u32>,
}}

table! { KeyValue {
    "key" => key: Text,
    "value" => value: Maybe<Sub<AnyValue>>,
    "keyStrindex" => key_strindex: Narrow<i32>,
}}

table! { AnyValue {} oneof value: AnyValueKind {
    "stringValue" => StringValue: Text,
    "boolValue" => BoolValue: Bool,
    "intValue" => IntValue: Wide<i64>,
    "doubleValue" => DoubleValue: Double,
    "arrayValue" => ArrayValue: Sub<ArrayValue>,
    "kvlistValue" => KvlistValue: Sub<KeyValueList>,
    "bytesValue" => BytesValue: Base64,
    "stringValueStrindex" => StringValueStrindex: Narrow<i32>,
}}

table! { ArrayValue {
    "values" => values: List<SubOrNull<AnyValue>>,
}}

table! { KeyValueList {
    "values" => values: List<Sub<KeyValue>>,
}}

table! { Span {
    "traceId" => trace_id: Id,
    "spanId" => span_id: Id,
    "traceState" => trace_state: Text,
    "parentSpanId" => parent_span_id: Id,
    "flags" => flags: Narrow<u32>,
    "name" => name: Text,
    "kind" => kind: Enum,
    "startTimeUnixNano" => start_time_unix_nano: Wide<u64>,
    "endTimeUnixNano" => end_time_unix_nano: Wide<u64>,
    "attributes" => attributes: List<Sub<KeyValue>>,
    "droppedAttributesCount" => dropped_attributes_count: Narrow<u32>,
    "events" => events: List<Sub<Event>>,
    "droppedEventsCount" => dropped_events_count: Narrow<u32>,
    "links" => links: List<Sub<Link>>,
    "droppedLinksCount" => dropped_links_count: Narrow<u32>,
    "status" => status: Maybe<Sub<Status>>,
}}

table! { Event {
    "timeUnixNano" => time_unix_nano: Wide<u64>,
    "name" => name: Text,
    "attributes" => attributes: List<Sub<KeyValue>>,
    "droppedAttributesCount" => dropped_attributes_count: Narrow<u32>,
}}

table! { Link {
    "traceId" => trace_id: Id,
    "spanId" => span_id: Id,
    "traceState" => trace_state: Text,
    "attributes" => attributes: List<Sub<KeyValue>>,
    "droppedAttributesCount" => dropped_attributes_count: Narrow<u32>,
    "flags" => flags: Narrow<u32>,
}}

table! { Status {
    "message" => message: Text,
    "code" => code: Enum,
}}

table! { LogRecord {
    "timeUnixNano" => time_unix_nano: Wide<u64>,
    "observedTimeUnixNano" => observed_time_unix_nano: Wide<u64>,
    "severityNumber" => severity_number: Enum,
    "severityText" => severity_text: Text,
    "body" => body: Maybe<Sub<AnyValue>>,
    "attributes" => attributes: List<Sub<KeyValue>>,
    "droppedAttributesCount" => dropped_attributes_count: Narrow<u32>,
    "flags" => flags: Narrow<u32>,
    "traceId" => trace_id: Id,
    "spanId" => span_id: Id,
    "eventName" => event_name: Text,
}}

table! { Metric {
    "name" => name: Text,
    "description" => description: Text,
    "unit" => unit: Text,
    "metadata" => metadata: List<Sub<KeyValue>>,
} oneof data: Data {
    "gauge" => Gauge: Sub<Gauge>,
    "sum" => Sum: Sub<Sum>,
    "histogram" => Histogram: Sub<Histogram>,
    "exponentialHistogram" => ExponentialHistogram: Sub<ExponentialHistogram>,
    "summary" => Summary: Sub<Summary>,
}}

table! { Gauge {
    "dataPoints" => data_points: List<Sub<NumberDataPoint>>,
}}

table! { Sum {
    "dataPoints" => data_points: List<Sub<NumberDataPoint>>,
    "aggregationTemporality" => aggregation_temporality: Enum,
    "isMonotonic" => is_monotonic: Bool,
}}

table! { Histogram {
    "dataPoints" => data_points: List<Sub<HistogramDataPoint>>,
    "aggregationTemporality" => aggregation_temporality: Enum,
}}

table! { ExponentialHistogram {
    "dataPoints" => data_points: List<Sub<ExponentialHistogramDataPoint>>,
    "aggregationTemporality" => aggregation_temporality: Enum,
}}

table! { Summary {
    "dataPoints" => data_points: List<Sub<SummaryDataPoint>>,
}}

table! { NumberDataPoint {
    "attributes" => attributes: List<Sub<KeyValue>>,
    "startTimeUnixNano" => start_time_unix_nano: Wide<u64>,
    "timeUnixNano" => time_unix_nano: Wide<u64>,
    "exemplars" => exemplars: List<Sub<Exemplar>>,
    "flags" => flags: Narrow<u32>,
} oneof value: PointValue {
    "asDouble" => AsDouble: Double,
    "asInt" => AsInt: Wide<i64>,
}}

table! { HistogramDataPoint {
    "attributes" => attributes: List<Sub<KeyValue>>,
    "startTimeUnixNano" => start_time_unix_nano: Wide<u64>,
    "timeUnixNano" => time_unix_nano: Wide<u64>,
    "count" => count: Wide<u64>,
    "sum" => sum: Maybe<Double>,
    "bucketCounts" => bucket_counts: List<Wide<u64>>,
    "explicitBounds" => explicit_bounds: List<Double>,
    "exemplars" => exemplars: List<Sub<Exemplar>>,
    "flags" => flags: Narrow<u32>,
    "min" => min: Maybe<Double>,
    "max" => max: Maybe<Double>,
}}

table! { ExponentialHistogramDataPoint {
    "attributes" => attributes: List<Sub<KeyValue>>,
    "startTimeUnixNano" => start_time_unix_nano: Wide<u64>,
    "timeUnixNano" => time_unix_nano: Wide<u64>,
    "count" => count: Wide<u64>,
    "sum" => sum: Maybe<Double>,
    "scale" => scale: Narrow<i32>,
    "zeroCount" => zero_count: Wide<u64>,
    "positive" => positive: Maybe<Sub<Buckets>>,
    "negative" => negative: Maybe<Sub<Buckets>>,
    "flags" => flags: Narrow<u32>,
    "exemplars" => exemplars: List<Sub<Exemplar>>,
    "min" => min: Maybe<Double>,
    "max" => max: Maybe<Double>,
    "zeroThreshold" => zero_threshold: Double,
}}

table! { Buckets {
    "offset" => offset: Narrow<i32>,
    "bucketCounts" => bucket_counts: List<Wide<u64>>,
}}

table! { SummaryDataPoint {
    "attributes" => attributes: List<Sub<KeyValue>>,
    "startTimeUnixNano" => start_time_unix_nano: Wide<u64>,
    "timeUnixNano" => time_unix_nano: Wide<u64>,
    "count" => count: Wide<u64>,
    "sum" => sum: Double,
    "quantileValues" => quantile_values: List<Sub<ValueAtQuantile>>,
    "flags" => flags: Narrow<u32>,
}}

table! { ValueAtQuantile {
    "quantile" => quantile: Double,
    "value" => value: Double,
}}

table! { Exemplar {
    "filteredAttributes" => filtered_attributes: List<Sub<KeyValue>>,
    "timeUnixNano" => time_unix_nano: Wide<u64>,
    "spanId" => span_id: Id,
    "traceId" => trace_id: Id,
} oneof value: ExemplarValue {
    "asDouble" => AsDouble: Double,
    "asInt" => AsInt: Wide<i64>,
}}
