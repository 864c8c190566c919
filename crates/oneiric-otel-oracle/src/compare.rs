//! Whether a row says what the item said, column by column.
//!
//! The rules of the natural form are written here a second time, from the description of the schema and not from the
//! program that writes it. What jsonb cannot say (the order of attributes, NUL, NaN) is checked by reading traces back
//! whole, in [`crate::verify`].

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use opentelemetry_proto::tonic::metrics::v1::exponential_histogram_data_point::Buckets;
use opentelemetry_proto::tonic::metrics::v1::{Exemplar, Metric, NumberDataPoint, exemplar, metric, number_data_point};
use opentelemetry_proto::tonic::trace::v1::Span;
use serde_json::{Map, Value as Json};
use tokio_postgres::Row;

/// The column in which a row differs from its item, and how.
pub type Difference = String;

/// The columns of a span, for [`span`].
pub const SPAN_COLUMNS: &str = "(extract(epoch FROM start_time) * 1000000)::bigint AS micros, start_ns AS nanos, duration_ns,
    resource_id, scope_id, trace_id, flags, dropped_attributes_count, dropped_events_count, dropped_links_count, span_id,
    parent_span_id, service_name, name, kind, status, status_message, trace_state, attributes::text AS attributes,
    events::text AS events, links::text AS links";

/// The columns of a log record, for [`log`].
pub const LOG_COLUMNS: &str =
    "(extract(epoch FROM time) * 1000000)::bigint AS micros, time_ns AS nanos, observed_delta_ns,
    resource_id, scope_id, trace_id, flags, dropped_attributes_count, severity_number, time_is_observed, span_id,
    service_name, severity_text, event_name, body, body_json::text AS body_json, attributes::text AS attributes";

/// The columns of a point `p` and its series `s`, for [`point`].
pub const POINT_COLUMNS: &str = "(extract(epoch FROM p.time) * 1000000)::bigint AS micros, p.time_ns AS nanos,
    p.start_delta_ns, p.value_double, p.value_int, p.count, p.sum, p.min, p.max, p.zero_threshold, p.zero_count, p.flags,
    p.exponential_scale, p.positive_offset, p.negative_offset, p.bucket_counts, p.positive_counts, p.negative_counts,
    p.quantiles, p.quantile_values, p.exemplars::text AS exemplars, s.resource_id, s.scope_id, s.service_name,
    s.metric_name, s.metric_type, s.temporality, s.monotonic, s.unit, s.description, s.attributes::text AS attributes,
    s.explicit_bounds";

/// A row under comparison with what it should say.
struct Columns<'a> {
    row: &'a Row,
    different: Option<Difference>,
}

impl<'a> Columns<'a> {
    fn of(row: &'a Row) -> Self {
        Self { row, different: None }
    }

    /// Notes the first difference.
    fn note(&mut self, column: &str, expected: &dyn std::fmt::Debug, found: &dyn std::fmt::Debug) {
        if self.different.is_none() {
            let short = |value: &dyn std::fmt::Debug| format!("{value:?}").chars().take(300).collect::<String>();
            self.different = Some(format!("{column}: expected {}, found {}", short(expected), short(found)));
        }
    }

    fn equal<T>(&mut self, column: &str, expected: &T)
    where
        T: for<'b> tokio_postgres::types::FromSql<'b> + PartialEq + std::fmt::Debug,
    {
        match self.row.try_get::<_, T>(column) {
            Ok(found) if found == *expected => {}
            Ok(found) => self.note(column, expected, &found),
            Err(error) => self.note(column, expected, &error),
        }
    }

    /// By bits.
    fn double(&mut self, column: &str, expected: Option<f64>) {
        match self.row.try_get::<_, Option<f64>>(column) {
            Ok(found) if found.map(f64::to_bits) == expected.map(f64::to_bits) => {}
            Ok(found) => self.note(column, &expected, &found),
            Err(error) => self.note(column, &expected, &error),
        }
    }

    fn doubles(&mut self, column: &str, expected: &[f64]) {
        let bits = |values: &[f64]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
        match self.row.try_get::<_, Option<Vec<f64>>>(column) {
            Ok(found) if bits(found.as_deref().unwrap_or_default()) == bits(expected) => {}
            Ok(found) => self.note(column, &expected, &found),
            Err(error) => self.note(column, &expected, &error),
        }
    }

    fn counts(&mut self, column: &str, expected: &[u64]) {
        let expected: Vec<i64> = expected.iter().map(|count| *count as i64).collect();
        match self.row.try_get::<_, Option<Vec<i64>>>(column) {
            Ok(found) if found.clone().unwrap_or_default() == expected => {}
            Ok(found) => self.note(column, &expected, &found),
            Err(error) => self.note(column, &expected, &error),
        }
    }

    /// A column that is null where the message has zero or nothing.
    fn text_or_null(&mut self, column: &str, expected: &str) {
        self.equal(column, &(!expected.is_empty()).then(|| without_nul(expected)));
    }

    fn count_or_null(&mut self, column: &str, expected: u32) {
        self.equal(column, &(expected != 0).then_some(expected as i32));
    }

    /// A jsonb column, read as text.
    fn json(&mut self, column: &str, same: impl FnOnce(Option<&Json>) -> bool, expected: &dyn std::fmt::Debug) {
        let found = self.row.try_get::<_, Option<&str>>(column);
        let parsed = match found {
            Ok(text) => text.map(serde_json::from_str::<Json>).transpose(),
            Err(error) => return self.note(column, expected, &error),
        };
        match parsed {
            Ok(json) if same(json.as_ref()) => {}
            Ok(json) => self.note(column, expected, &json),
            Err(error) => self.note(column, expected, &error),
        }
    }

    fn time(&mut self, column: &str, expected: u64) {
        let micros = self.row.try_get::<_, i64>("micros");
        let nanos = self.row.try_get::<_, i16>("nanos");
        match (micros, nanos) {
            (Ok(micros), Ok(nanos)) => {
                let found = i128::from(micros) * 1000 + i128::from(nanos);
                if found != i128::from(expected) {
                    self.note(column, &expected, &found);
                }
            }
            other => self.note(column, &expected, &other),
        }
    }

    fn end(self) -> Result<(), Difference> {
        self.different.map_or(Ok(()), Err)
    }
}

/// Compares a row of `otel_spans`.
///
/// # Errors
/// The first difference.
pub fn span(row: &Row, span: &Span, service: &str) -> Result<(), Difference> {
    let mut columns = Columns::of(row);
    columns.time("start_time", span.start_time_unix_nano);
    columns.equal("duration_ns", &(span.end_time_unix_nano.wrapping_sub(span.start_time_unix_nano) as i64));
    columns.equal("trace_id", &uuid(&span.trace_id));
    columns.equal("span_id", &span.span_id);
    columns.equal("parent_span_id", &(!span.parent_span_id.is_empty()).then(|| span.parent_span_id.clone()));
    columns.equal("flags", &(span.flags as i32));
    columns.count_or_null("dropped_attributes_count", span.dropped_attributes_count);
    columns.count_or_null("dropped_events_count", span.dropped_events_count);
    columns.count_or_null("dropped_links_count", span.dropped_links_count);
    columns.equal("service_name", &service.to_owned());
    columns.equal("name", &without_nul(&span.name));
    let kinds = ["unspecified", "internal", "server", "client", "producer", "consumer"];
    columns.equal("kind", &name_in(&kinds, span.kind));
    let code = span.status.as_ref().map_or(0, |status| status.code);
    columns.equal("status", &name_in(&["unset", "ok", "error"], code));
    columns.equal("status_message", &span.status.as_ref().map(|status| without_nul(&status.message)));
    columns.text_or_null("trace_state", &span.trace_state);
    columns.json("attributes", |json| is_attributes(json, &span.attributes), &span.attributes);
    columns.json("events", |json| same_list(json, &span.events, is_event), &span.events);
    columns.json("links", |json| same_list(json, &span.links, is_link), &span.links);
    columns.end()
}

/// Compares a row of `otel_logs`.
///
/// # Errors
/// The first difference.
pub fn log(row: &Row, log: &LogRecord, service: &str) -> Result<(), Difference> {
    let mut columns = Columns::of(row);
    columns.time("time", log.time_unix_nano);
    columns.equal("time_is_observed", &false);
    let observed = log.observed_time_unix_nano;
    columns.equal("observed_delta_ns", &(observed != 0).then(|| observed.wrapping_sub(log.time_unix_nano) as i64));
    columns.equal("trace_id", &Some(uuid(&log.trace_id)));
    columns.equal("span_id", &Some(log.span_id.clone()));
    columns.equal("flags", &(log.flags as i32));
    columns.count_or_null("dropped_attributes_count", log.dropped_attributes_count);
    columns.equal("severity_number", &(log.severity_number as i16));
    columns.equal("service_name", &service.to_owned());
    columns.text_or_null("severity_text", &log.severity_text);
    columns.text_or_null("event_name", &log.event_name);
    let body = log.body.as_ref().and_then(|body| body.value.as_ref());
    if let Some(Value::StringValue(text)) = body {
        columns.equal("body", &Some(without_nul(text)));
        columns.json("body_json", |json| json.is_none(), &"null");
    } else {
        columns.equal("body", &None::<String>);
        columns.json("body_json", |json| json.is_some_and(|json| is_value(json, body)), &body);
    }
    columns.json("attributes", |json| is_attributes(json, &log.attributes), &log.attributes);
    columns.end()
}

/// What the points of all kinds have.
#[derive(Default)]
struct PointColumns<'a> {
    kind: &'static str,
    temporality: i32,
    monotonic: bool,
    attributes: &'a [KeyValue],
    time: u64,
    start: u64,
    flags: u32,
    exemplars: &'a [Exemplar],
    value_double: Option<f64>,
    value_int: Option<i64>,
    count: Option<u64>,
    sum: Option<f64>,
    min: Option<f64>,
    max: Option<f64>,
    zero_threshold: Option<f64>,
    zero_count: Option<u64>,
    scale: Option<i32>,
    positive: Option<&'a Buckets>,
    negative: Option<&'a Buckets>,
    bucket_counts: &'a [u64],
    explicit_bounds: &'a [f64],
    quantiles: Vec<f64>,
    quantile_values: Vec<f64>,
}

fn number_columns(point: &NumberDataPoint) -> PointColumns<'_> {
    let (value_int, value_double) = match point.value {
        Some(number_data_point::Value::AsInt(value)) => (Some(value), None),
        Some(number_data_point::Value::AsDouble(value)) => (None, Some(value)),
        None => (None, None),
    };
    PointColumns {
        kind: "gauge",
        attributes: &point.attributes,
        time: point.time_unix_nano,
        start: point.start_time_unix_nano,
        flags: point.flags,
        exemplars: &point.exemplars,
        value_double,
        value_int,
        ..PointColumns::default()
    }
}

fn point_columns(metric: &Metric) -> Option<PointColumns<'_>> {
    Some(match metric.data.as_ref()? {
        metric::Data::Gauge(gauge) => number_columns(gauge.data_points.first()?),
        metric::Data::Sum(sum) => PointColumns {
            kind: "sum",
            temporality: sum.aggregation_temporality,
            monotonic: sum.is_monotonic,
            ..number_columns(sum.data_points.first()?)
        },
        metric::Data::Histogram(histogram) => {
            let point = histogram.data_points.first()?;
            PointColumns {
                kind: "histogram",
                temporality: histogram.aggregation_temporality,
                attributes: &point.attributes,
                time: point.time_unix_nano,
                start: point.start_time_unix_nano,
                flags: point.flags,
                exemplars: &point.exemplars,
                count: Some(point.count),
                sum: point.sum,
                min: point.min,
                max: point.max,
                bucket_counts: &point.bucket_counts,
                explicit_bounds: &point.explicit_bounds,
                ..PointColumns::default()
            }
        }
        metric::Data::ExponentialHistogram(histogram) => {
            let point = histogram.data_points.first()?;
            PointColumns {
                kind: "exponential_histogram",
                temporality: histogram.aggregation_temporality,
                attributes: &point.attributes,
                time: point.time_unix_nano,
                start: point.start_time_unix_nano,
                flags: point.flags,
                exemplars: &point.exemplars,
                count: Some(point.count),
                sum: point.sum,
                min: point.min,
                max: point.max,
                zero_threshold: Some(point.zero_threshold),
                zero_count: Some(point.zero_count),
                scale: Some(point.scale),
                positive: point.positive.as_ref(),
                negative: point.negative.as_ref(),
                ..PointColumns::default()
            }
        }
        metric::Data::Summary(summary) => {
            let point = summary.data_points.first()?;
            PointColumns {
                kind: "summary",
                attributes: &point.attributes,
                time: point.time_unix_nano,
                start: point.start_time_unix_nano,
                flags: point.flags,
                count: Some(point.count),
                sum: Some(point.sum),
                quantiles: point.quantile_values.iter().map(|value| value.quantile).collect(),
                quantile_values: point.quantile_values.iter().map(|value| value.value).collect(),
                ..PointColumns::default()
            }
        }
    })
}

/// Compares a row of `otel_metrics` and its series with a metric of one point.
///
/// # Errors
/// The first difference.
pub fn point(row: &Row, metric: &Metric, service: &str) -> Result<(), Difference> {
    let expected = point_columns(metric).ok_or("the metric has no point")?;
    let mut columns = Columns::of(row);
    columns.time("time", expected.time);
    let start_delta = (expected.start != 0).then(|| expected.time.wrapping_sub(expected.start) as i64);
    columns.equal("start_delta_ns", &start_delta);
    columns.double("value_double", expected.value_double);
    columns.equal("value_int", &expected.value_int);
    columns.equal("count", &expected.count.map(|count| count as i64));
    columns.double("sum", expected.sum);
    columns.double("min", expected.min);
    columns.double("max", expected.max);
    columns.double("zero_threshold", expected.zero_threshold);
    columns.equal("zero_count", &expected.zero_count.map(|count| count as i64));
    columns.equal("flags", &(expected.flags as i32));
    columns.equal("exponential_scale", &expected.scale);
    columns.equal("positive_offset", &expected.positive.map(|buckets| buckets.offset));
    columns.equal("negative_offset", &expected.negative.map(|buckets| buckets.offset));
    columns.counts("bucket_counts", expected.bucket_counts);
    columns.counts("positive_counts", expected.positive.map_or(&[], |buckets| &buckets.bucket_counts));
    columns.counts("negative_counts", expected.negative.map_or(&[], |buckets| &buckets.bucket_counts));
    columns.doubles("quantiles", &expected.quantiles);
    columns.doubles("quantile_values", &expected.quantile_values);
    columns.json("exemplars", |json| same_list(json, expected.exemplars, is_exemplar), &expected.exemplars);
    columns.equal("service_name", &service.to_owned());
    columns.equal("metric_name", &metric.name);
    columns.equal("metric_type", &expected.kind.to_owned());
    columns.equal("temporality", &name_in(&["unspecified", "delta", "cumulative"], expected.temporality));
    columns.equal("monotonic", &expected.monotonic);
    columns.equal("unit", &metric.unit);
    columns.equal("description", &metric.description);
    columns.doubles("explicit_bounds", expected.explicit_bounds);
    columns.json("attributes", |json| is_attributes(json, expected.attributes), &expected.attributes);
    columns.end()
}

fn uuid(bytes: &[u8]) -> uuid::Uuid {
    uuid::Uuid::from_slice(bytes).unwrap_or_default()
}

fn without_nul(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}

fn name_in(names: &[&str], number: i32) -> String {
    usize::try_from(number)
        .ok()
        .and_then(|number| names.get(number))
        .map_or_else(|| number.to_string(), |name| (*name).to_owned())
}

/// Whether a JSON array, absent when the list is empty, is this list.
fn same_list<T>(json: Option<&Json>, expected: &[T], same: impl Fn(&Map<String, Json>, &T) -> bool) -> bool {
    let Some(json) = json else { return expected.is_empty() };
    let Some(found) = json.as_array() else { return false };
    found.len() == expected.len()
        && found.iter().zip(expected).all(|(json, expected)| json.as_object().is_some_and(|map| same(map, expected)))
}

fn is_event(json: &Map<String, Json>, event: &opentelemetry_proto::tonic::trace::v1::span::Event) -> bool {
    is_text(json.get("name"), &event.name)
        && json.get("time_unix_nano").and_then(Json::as_u64) == Some(event.time_unix_nano)
        && is_attributes(json.get("attributes"), &event.attributes)
        && is_count(json.get("dropped_attributes_count"), event.dropped_attributes_count)
}

fn is_link(json: &Map<String, Json>, link: &opentelemetry_proto::tonic::trace::v1::span::Link) -> bool {
    is_text(json.get("trace_id"), &hex::encode(&link.trace_id))
        && is_text(json.get("span_id"), &hex::encode(&link.span_id))
        && is_attributes(json.get("attributes"), &link.attributes)
        && is_count(json.get("flags"), link.flags)
}

fn is_exemplar(json: &Map<String, Json>, exemplar: &Exemplar) -> bool {
    let value = match exemplar.value {
        Some(exemplar::Value::AsInt(value)) => json.get("value").and_then(Json::as_i64) == Some(value),
        Some(exemplar::Value::AsDouble(value)) => json.get("value").is_some_and(|json| is_double(json, value)),
        None => !json.contains_key("value"),
    };
    value
        && json.get("time_unix_nano").and_then(Json::as_u64) == Some(exemplar.time_unix_nano)
        && is_text(json.get("trace_id"), &hex::encode(&exemplar.trace_id))
        && is_text(json.get("span_id"), &hex::encode(&exemplar.span_id))
        && is_attributes(json.get("attributes"), &exemplar.filtered_attributes)
}

fn is_text(json: Option<&Json>, text: &str) -> bool {
    json.and_then(Json::as_str).is_some_and(|found| found == without_nul(text))
}

fn is_count(json: Option<&Json>, count: u32) -> bool {
    json.map_or(Some(0), Json::as_u64) == Some(u64::from(count))
}

/// Whether a JSON object holds these attributes, whose keys are distinct.
pub(crate) fn is_attributes(json: Option<&Json>, attributes: &[KeyValue]) -> bool {
    let Some(Json::Object(map)) = json else { return false };
    map.len() == attributes.len()
        && attributes.iter().all(|attribute| {
            let value = attribute.value.as_ref().and_then(|any| any.value.as_ref());
            map.get(&attribute.key).is_some_and(|json| is_value(json, value))
        })
}

fn is_value(json: &Json, value: Option<&Value>) -> bool {
    let inner = |any: &AnyValue, json: &Json| is_value(json, any.value.as_ref());
    match value {
        None => json.is_null(),
        Some(Value::StringValue(text)) => is_text(Some(json), text),
        Some(Value::BoolValue(flag)) => json.as_bool() == Some(*flag),
        Some(Value::IntValue(number)) => json.as_i64() == Some(*number),
        Some(Value::DoubleValue(number)) => is_double(json, *number),
        Some(Value::BytesValue(bytes)) => is_text(Some(json), &BASE64.encode(bytes)),
        Some(Value::ArrayValue(array)) => json.as_array().is_some_and(|found| {
            found.len() == array.values.len() && found.iter().zip(&array.values).all(|(json, any)| inner(any, json))
        }),
        Some(Value::KvlistValue(map)) => is_attributes(Some(json), &map.values),
        Some(Value::StringValueStrindex(_)) => false,
    }
}

fn is_double(json: &Json, number: f64) -> bool {
    if number.is_finite() {
        // jsonb does not know -0.0.
        json.as_f64().is_some_and(|found| (found + 0.0).to_bits() == (number + 0.0).to_bits())
    } else if number.is_nan() {
        is_text(Some(json), "NaN")
    } else {
        is_text(Some(json), if number > 0.0 { "Infinity" } else { "-Infinity" })
    }
}
