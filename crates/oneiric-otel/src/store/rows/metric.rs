//! `otel_metrics`, the points, and `otel_metric_series`, what the points of a stream share.

use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::metrics::v1::exponential_histogram_data_point::Buckets;
use opentelemetry_proto::tonic::metrics::v1::summary_data_point::ValueAtQuantile;
use opentelemetry_proto::tonic::metrics::v1::{
    Exemplar, ExponentialHistogram, ExponentialHistogramDataPoint, Gauge, Histogram, HistogramDataPoint, Metric,
    NumberDataPoint, Sum, Summary, SummaryDataPoint, exemplar, metric, number_data_point,
};
use prost::Message as _;
use tokio_postgres::Row;

use super::{DecodeError, Scratch, elements, enum_name, enum_number, read_attributes, read_hex, read_number, tree};
use crate::otlp::canonical::Hash128;
use crate::otlp::point::{MetricDescriptor, MetricKind, Point};
use crate::store::copy::{Micros, Rows};
use crate::store::fidelity::{Mismatch, Reader, Writer};
use crate::store::residue::{Column, Residue};
use crate::store::tree::Tree;

/// The columns of a point in the order in which [`encode`] writes them.
pub(crate) const COLUMNS: &[&str] = &[
    "time",
    "series_id",
    "point_hash",
    "start_delta_ns",
    "value_double",
    "value_int",
    "count",
    "sum",
    "min",
    "max",
    "zero_threshold",
    "zero_count",
    "flags",
    "exponential_scale",
    "positive_offset",
    "negative_offset",
    "time_ns",
    "bucket_counts",
    "positive_counts",
    "negative_counts",
    "quantiles",
    "quantile_values",
    "exemplars",
    "residue",
];

/// The columns of a point's series, `s`, that [`decode`] reads beside its own.
pub(crate) const SERIES_COLUMNS: &str = "s.metric_name, s.metric_type, s.temporality, s.monotonic, s.unit, s.description, \
                                         s.attributes, s.metadata, s.explicit_bounds, s.residue AS series_residue";

const TEMPORALITIES: &[&str] = &["unspecified", "delta", "cumulative"];

/// The `metric_type` of a kind.
pub(crate) fn type_name(kind: MetricKind) -> &'static str {
    match kind {
        MetricKind::Gauge => "gauge",
        MetricKind::Sum => "sum",
        MetricKind::Histogram => "histogram",
        MetricKind::ExponentialHistogram => "exponential_histogram",
        MetricKind::Summary => "summary",
    }
}

/// Identifies a row of `otel_metric_series`: the series, and for a histogram its bounds, which stand there and not in
/// every point.
pub(crate) fn stream_hash(series: Hash128, explicit_bounds: &[f64]) -> Hash128 {
    if explicit_bounds.is_empty() {
        return series;
    }
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"bounds\0");
    hasher.update(&series.0);
    for bound in explicit_bounds {
        hasher.update(&bound.to_bits().to_le_bytes());
    }
    let mut hash = [0; 16];
    hasher.finalize_xof().fill(&mut hash);
    Hash128(hash)
}

/// What stands in `otel_metric_series` for a stream.
#[derive(Debug)]
pub(crate) struct SeriesRow {
    pub(crate) metric_name: String,
    pub(crate) metric_type: &'static str,
    pub(crate) temporality: String,
    pub(crate) monotonic: bool,
    pub(crate) unit: String,
    pub(crate) description: String,
    pub(crate) attributes: String,
    pub(crate) metadata: Option<String>,
    pub(crate) explicit_bounds: Option<Vec<f64>>,
    pub(crate) residue: Option<Vec<u8>>,
}

impl SeriesRow {
    /// Bytes of what has no fixed size.
    pub(crate) fn bytes(&self) -> usize {
        self.metric_name.len()
            + self.temporality.len()
            + self.unit.len()
            + self.description.len()
            + self.attributes.len()
            + self.metadata.as_ref().map_or(0, String::len)
            + self.explicit_bounds.as_ref().map_or(0, |bounds| size_of_val(bounds.as_slice()))
            + self.residue.as_ref().map_or(0, Vec::len)
    }

    pub(crate) fn new(descriptor: &MetricDescriptor, attributes: &[KeyValue], explicit_bounds: &[f64]) -> Self {
        let mut residue = Residue::default();
        let metric_name = residue.text(Column::Name, &descriptor.name).into_owned();
        let unit = residue.text(Column::Unit, &descriptor.unit).into_owned();
        let description = residue.text(Column::Description, &descriptor.description).into_owned();
        let mut json = Writer::default();
        json.attributes(attributes);
        residue.attributes = json.hints().to_vec();
        let attributes = text(&json);
        json.clear();
        json.attributes(&descriptor.metadata);
        residue.details = json.hints().to_vec();
        let metadata = (!descriptor.metadata.is_empty()).then(|| text(&json));
        let residue = residue.to_bytes();
        Self {
            metric_name,
            metric_type: type_name(descriptor.kind),
            temporality: enum_name(TEMPORALITIES, descriptor.temporality).into_owned(),
            monotonic: descriptor.monotonic,
            unit,
            description,
            attributes,
            metadata,
            explicit_bounds: (!explicit_bounds.is_empty()).then(|| explicit_bounds.to_vec()),
            residue: (!residue.is_empty()).then_some(residue),
        }
    }
}

fn text(json: &Writer) -> String {
    // The writer only ever receives UTF-8; escaping does not change that.
    String::from_utf8_lossy(json.json()).into_owned()
}

/// The stream of a point.
#[derive(Debug, Clone, Copy)]
pub(crate) struct StreamRef {
    /// See [`stream_hash`].
    pub(crate) hash: Hash128,
    /// Which of its batch's owners it is.
    pub(crate) number: u32,
}

/// Appends a data point as a row.
pub(crate) fn encode(rows: &mut Rows, scratch: &mut Scratch, series: StreamRef, hash: i64, point: Point<'_>) {
    let mut residue = Residue::default();
    scratch.clear();
    let exemplars = point.exemplars();
    if write_exemplars(&mut scratch.details, exemplars) {
        residue.details = scratch.details.hints().to_vec();
    } else {
        residue.exact_details =
            NumberDataPoint { exemplars: exemplars.to_vec(), ..NumberDataPoint::default() }.encode_to_vec();
    }

    let (time, time_ns) = Micros::from_unix_nanos(point.time_unix_nano());
    let start = point.start_time_unix_nano();
    let start_delta = (start != 0).then(|| point.time_unix_nano().wrapping_sub(start) as i64);

    let mut value_double = None;
    let mut value_int = None;
    let mut count = None;
    let mut sum = None;
    let mut min = None;
    let mut max = None;
    let mut zero_threshold = None;
    let mut zero_count = None;
    let mut scale = None;
    let mut positive = None;
    let mut negative = None;
    let mut bucket_counts: &[u64] = &[];
    let mut quantile_values: &[ValueAtQuantile] = &[];
    match point {
        Point::Number(point) => match point.value {
            Some(number_data_point::Value::AsDouble(value)) => value_double = Some(value),
            Some(number_data_point::Value::AsInt(value)) => value_int = Some(value),
            None => {}
        },
        Point::Histogram(point) => {
            count = Some(point.count);
            (sum, min, max) = (point.sum, point.min, point.max);
            bucket_counts = &point.bucket_counts;
        }
        Point::ExponentialHistogram(point) => {
            count = Some(point.count);
            (sum, min, max) = (point.sum, point.min, point.max);
            zero_threshold = Some(point.zero_threshold);
            zero_count = Some(point.zero_count);
            scale = Some(point.scale);
            positive = point.positive.as_ref();
            negative = point.negative.as_ref();
        }
        Point::Summary(point) => {
            count = Some(point.count);
            sum = Some(point.sum);
            quantile_values = &point.quantile_values;
        }
    }

    let counts = |counts: Option<&Buckets>| counts.map_or(Vec::new(), |buckets| buckets.bucket_counts.clone());
    let [high, low] = series.hash.halves();
    let mut row = rows.begin([time.ordered(), high, low, hash as u64], series.number, COLUMNS.len() as i16);
    row.timestamp(time);
    row.owner();
    row.int8(hash);
    row.int8_or_null(start_delta);
    row.float8_or_null(value_double);
    row.int8_or_null(value_int);
    row.int8_or_null(count.map(|count| count as i64));
    row.float8_or_null(sum);
    row.float8_or_null(min);
    row.float8_or_null(max);
    row.float8_or_null(zero_threshold);
    row.int8_or_null(zero_count.map(|count| count as i64));
    row.int4(point.flags() as i32);
    row.int4_or_null(scale);
    row.int4_or_null(positive.map(|buckets| buckets.offset));
    row.int4_or_null(negative.map(|buckets| buckets.offset));
    row.int2(time_ns);
    row.int8_array(bucket_counts.iter().map(|count| *count as i64));
    row.int8_array(counts(positive).iter().map(|count| *count as i64));
    row.int8_array(counts(negative).iter().map(|count| *count as i64));
    row.float8_array(quantile_values.iter().map(|value| value.quantile));
    row.float8_array(quantile_values.iter().map(|value| value.value));
    row.jsonb_or_null(!exemplars.is_empty(), scratch.details.json());
    row.bytes_or_null(&residue.to_bytes());
    row.end();
}

/// Reads a point back, as the metric it belongs to with this one point. The row joins the series: its `residue` is
/// expected as `series_residue`.
pub(crate) fn decode(row: &Row) -> Result<Metric, DecodeError> {
    let mut series = Residue::from_bytes(row.try_get("series_residue")?)?;
    let attributes = read_attributes(row, &series.attributes)?;
    let metadata = match tree(row, "metadata")? {
        Some(tree) => Reader::new(&series.details)?.attributes(tree)?,
        None => Vec::new(),
    };
    let aggregation_temporality = enum_number(TEMPORALITIES, row.try_get("temporality")?)?;
    let data = match row.try_get("metric_type")? {
        "gauge" => metric::Data::Gauge(Gauge { data_points: vec![read_number_point(row, attributes)?] }),
        "sum" => metric::Data::Sum(Sum {
            data_points: vec![read_number_point(row, attributes)?],
            aggregation_temporality,
            is_monotonic: row.try_get("monotonic")?,
        }),
        "histogram" => metric::Data::Histogram(Histogram {
            data_points: vec![read_histogram(row, attributes)?],
            aggregation_temporality,
        }),
        "exponential_histogram" => metric::Data::ExponentialHistogram(ExponentialHistogram {
            data_points: vec![read_exponential_histogram(row, attributes)?],
            aggregation_temporality,
        }),
        "summary" => metric::Data::Summary(Summary { data_points: vec![read_summary(row, attributes)?] }),
        _ => return Err(Mismatch.into()),
    };
    Ok(Metric {
        name: series.restore(Column::Name, row.try_get("metric_name")?),
        description: series.restore(Column::Description, row.try_get("description")?),
        unit: series.restore(Column::Unit, row.try_get("unit")?),
        metadata,
        data: Some(data),
    })
}

fn read_number_point(row: &Row, attributes: Vec<KeyValue>) -> Result<NumberDataPoint, DecodeError> {
    let as_double = row.try_get::<_, Option<f64>>("value_double")?.map(number_data_point::Value::AsDouble);
    let as_int = row.try_get::<_, Option<i64>>("value_int")?.map(number_data_point::Value::AsInt);
    let (start_time_unix_nano, time_unix_nano) = times(row)?;
    Ok(NumberDataPoint {
        attributes,
        start_time_unix_nano,
        time_unix_nano,
        exemplars: read_exemplars(row)?,
        flags: flags(row)?,
        value: as_double.or(as_int),
    })
}

fn read_histogram(row: &Row, attributes: Vec<KeyValue>) -> Result<HistogramDataPoint, DecodeError> {
    let (start_time_unix_nano, time_unix_nano) = times(row)?;
    Ok(HistogramDataPoint {
        attributes,
        start_time_unix_nano,
        time_unix_nano,
        count: unsigned(row, "count")?,
        sum: row.try_get("sum")?,
        bucket_counts: unsigned_array(row, "bucket_counts")?,
        explicit_bounds: row.try_get::<_, Option<Vec<f64>>>("explicit_bounds")?.unwrap_or_default(),
        exemplars: read_exemplars(row)?,
        flags: flags(row)?,
        min: row.try_get("min")?,
        max: row.try_get("max")?,
    })
}

fn read_exponential_histogram(
    row: &Row,
    attributes: Vec<KeyValue>,
) -> Result<ExponentialHistogramDataPoint, DecodeError> {
    let (start_time_unix_nano, time_unix_nano) = times(row)?;
    let buckets = |offset, counts| -> Result<Option<Buckets>, DecodeError> {
        let Some(offset) = row.try_get(offset)? else { return Ok(None) };
        Ok(Some(Buckets { offset, bucket_counts: unsigned_array(row, counts)? }))
    };
    Ok(ExponentialHistogramDataPoint {
        attributes,
        start_time_unix_nano,
        time_unix_nano,
        count: unsigned(row, "count")?,
        sum: row.try_get("sum")?,
        scale: row.try_get::<_, Option<i32>>("exponential_scale")?.unwrap_or(0),
        zero_count: unsigned(row, "zero_count")?,
        positive: buckets("positive_offset", "positive_counts")?,
        negative: buckets("negative_offset", "negative_counts")?,
        flags: flags(row)?,
        exemplars: read_exemplars(row)?,
        min: row.try_get("min")?,
        max: row.try_get("max")?,
        zero_threshold: row.try_get::<_, Option<f64>>("zero_threshold")?.unwrap_or(0.0),
    })
}

fn read_summary(row: &Row, attributes: Vec<KeyValue>) -> Result<SummaryDataPoint, DecodeError> {
    let (start_time_unix_nano, time_unix_nano) = times(row)?;
    let quantiles = row.try_get::<_, Option<Vec<f64>>>("quantiles")?.unwrap_or_default();
    let values = row.try_get::<_, Option<Vec<f64>>>("quantile_values")?.unwrap_or_default();
    Ok(SummaryDataPoint {
        attributes,
        start_time_unix_nano,
        time_unix_nano,
        count: unsigned(row, "count")?,
        sum: row.try_get::<_, Option<f64>>("sum")?.unwrap_or(0.0),
        quantile_values: quantiles
            .into_iter()
            .zip(values)
            .map(|(quantile, value)| ValueAtQuantile { quantile, value })
            .collect(),
        flags: flags(row)?,
    })
}

/// Start and time of a point.
fn times(row: &Row) -> Result<(u64, u64), DecodeError> {
    let time = row.try_get::<_, Micros>("time")?.to_unix_nanos(row.try_get("time_ns")?);
    let start_delta: Option<i64> = row.try_get("start_delta_ns")?;
    Ok((start_delta.map_or(0, |delta| time.wrapping_sub(delta as u64)), time))
}

fn flags(row: &Row) -> Result<u32, DecodeError> {
    Ok(row.try_get::<_, i32>("flags")? as u32)
}

fn unsigned(row: &Row, column: &str) -> Result<u64, DecodeError> {
    Ok(row.try_get::<_, Option<i64>>(column)?.unwrap_or(0) as u64)
}

fn unsigned_array(row: &Row, column: &str) -> Result<Vec<u64>, DecodeError> {
    let values: Option<Vec<i64>> = row.try_get(column)?;
    Ok(values.unwrap_or_default().into_iter().map(|value| value as u64).collect())
}

/// Writes `[{"time_unix_nano", "trace_id", "span_id", "value", "attributes"}]`. Returns whether it is exact.
fn write_exemplars(json: &mut Writer, exemplars: &[Exemplar]) -> bool {
    let mut exact = true;
    json.raw("[");
    for (i, exemplar) in exemplars.iter().enumerate() {
        json.raw(if i > 0 { ",{\"time_unix_nano\":" } else { "{\"time_unix_nano\":" });
        json.number(exemplar.time_unix_nano);
        json.raw(",\"trace_id\":");
        json.string(&hex::encode(&exemplar.trace_id));
        json.raw(",\"span_id\":");
        json.string(&hex::encode(&exemplar.span_id));
        json.raw(",\"attributes\":");
        json.attributes(&exemplar.filtered_attributes);
        match exemplar.value {
            None => {}
            Some(exemplar::Value::AsInt(value)) => {
                json.raw(",\"value\":");
                json.number(value);
            }
            Some(exemplar::Value::AsDouble(value)) => {
                let plain = value.is_finite() && value.abs() < 1e16 && !(value == 0.0 && value.is_sign_negative());
                exact &= plain;
                json.raw(",\"value\":");
                json.raw(&if value.is_finite() { format!("{value:?}") } else { format!("\"{value}\"") });
            }
        }
        json.raw("}");
    }
    json.raw("]");
    exact
}

fn read_exemplars(row: &Row) -> Result<Vec<Exemplar>, DecodeError> {
    let residue = Residue::from_bytes(row.try_get("residue")?)?;
    if !residue.exact_details.is_empty() {
        return Ok(NumberDataPoint::decode(residue.exact_details.as_slice())?.exemplars);
    }
    let mut reader = Reader::new(&residue.details)?;
    let mut read = Vec::new();
    for mut exemplar in elements(tree(row, "exemplars")?)? {
        read.push(Exemplar {
            filtered_attributes: reader.attributes(exemplar.take("attributes"))?,
            time_unix_nano: read_number(&exemplar.take("time_unix_nano"))?,
            span_id: read_hex(&exemplar.take("span_id"))?,
            trace_id: read_hex(&exemplar.take("trace_id"))?,
            value: match exemplar.take("value") {
                Tree::Null => None,
                Tree::Integer(value) => Some(exemplar::Value::AsInt(i64::try_from(value).map_err(|_| Mismatch)?)),
                Tree::Double(value) => Some(exemplar::Value::AsDouble(value)),
                _ => return Err(Mismatch.into()),
            },
        });
    }
    Ok(read)
}
