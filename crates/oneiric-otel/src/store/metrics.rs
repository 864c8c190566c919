//! Reading metrics for questions: streams by name and labels, and their points.

use serde_json::{Map, Value};
use tokio_postgres::Row;
use tokio_postgres::types::{ToSql, Type};

use super::copy::Micros;
use super::database::{Argument, Database};
use super::error::StoreError;
use super::reader::ReaderRows;

/// Flag of a point that says that there is no value.
pub(super) const NO_RECORDED_VALUE: i32 = 1;

/// A metric, as one kind of it is described.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MetricRow {
    pub(crate) name: String,
    pub(crate) kind: String,
    pub(crate) temporality: String,
    pub(crate) monotonic: bool,
    pub(crate) unit: String,
    pub(crate) description: String,
    pub(crate) streams: i64,
    pub(crate) services: Vec<String>,
}

/// A stream of points.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct StreamRow {
    pub(crate) series_id: i64,
    pub(crate) service_name: String,
    pub(crate) kind: String,
    pub(crate) temporality: String,
    pub(crate) monotonic: bool,
    pub(crate) unit: String,
    pub(crate) description: String,
    pub(crate) attributes: Map<String, Value>,
    pub(crate) resource: Map<String, Value>,
    pub(crate) bounds: Vec<f64>,
}

/// Which streams are meant.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct StreamFilter {
    pub(crate) name: String,
    pub(crate) service: Option<String>,
    /// Keys and the texts of their values, of attributes of the stream or of its resource.
    pub(crate) labels: Vec<(String, String)>,
}

/// The label that names the service.
pub(crate) const SERVICE: &str = "service.name";

/// The value of label `$key` of stream `s` with resource `r`.
const LABEL: &str = "coalesce(s.attributes ->> l.key, r.attributes ->> l.key)";

impl Database {
    /// Metrics in order of their names.
    pub(crate) async fn metric_rows(
        &self,
        name_part: Option<&str>,
        service: Option<&str>,
        limit: i64,
    ) -> Result<Vec<MetricRow>, StoreError> {
        let rows = self
            .reader()
            .await?
            .query_typed(
                "SELECT metric_name, metric_type, temporality, monotonic, unit, min(description), count(*),
                        array_agg(DISTINCT service_name ORDER BY service_name)
                 FROM otel.otel_metric_series
                 WHERE ($1::text IS NULL OR strpos(lower(metric_name), lower($1)) > 0)
                   AND ($2::text IS NULL OR service_name = $2)
                 GROUP BY 1, 2, 3, 4, 5 ORDER BY 1, 2, 3, 4, 5 LIMIT $3",
                &[(&name_part, Type::TEXT), (&service, Type::TEXT), (&limit, Type::INT8)],
            )
            .await?;
        Ok(rows
            .iter()
            .map(|row| MetricRow {
                name: row.get(0),
                kind: row.get(1),
                temporality: row.get(2),
                monotonic: row.get(3),
                unit: row.get(4),
                description: row.get(5),
                streams: row.get(6),
                services: row.get(7),
            })
            .collect())
    }

    /// The names of metrics, for comparison with one that is not known.
    pub(crate) async fn metric_names(&self, limit: i64) -> Result<Vec<String>, StoreError> {
        let sql = "SELECT DISTINCT metric_name FROM otel.otel_metric_series ORDER BY 1 LIMIT $1";
        let rows = self.reader().await?.query_typed(sql, &[(&limit, Type::INT8)]).await?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }

    /// Whether there is a metric of this name.
    pub(crate) async fn has_metric(&self, name: &str) -> Result<bool, StoreError> {
        let sql = "SELECT EXISTS (SELECT FROM otel.otel_metric_series
                                  WHERE left(metric_name, 256) = left($1, 256) AND metric_name = $1)";
        Ok(self.reader().await?.query_typed_one(sql, &[(&name, Type::TEXT)]).await?.get(0))
    }

    /// Streams that pass the filter, in order of their ids.
    pub(crate) async fn streams(&self, filter: &StreamFilter, limit: i64) -> Result<Vec<StreamRow>, StoreError> {
        let (keys, values): (Vec<&str>, Vec<&str>) =
            filter.labels.iter().map(|(key, value)| (key.as_str(), value.as_str())).unzip();
        let sql = format!(
            "SELECT s.series_id, s.service_name, s.metric_type, s.temporality, s.monotonic, s.unit, s.description,
                    s.attributes::text, coalesce(r.attributes::text, '{{}}'), s.explicit_bounds
             FROM otel.otel_metric_series s LEFT JOIN otel.otel_resources r USING (resource_id)
             WHERE left(s.metric_name, 256) = left($1, 256) AND s.metric_name = $1
               AND ($2::text IS NULL OR s.service_name = $2)
               AND NOT EXISTS (SELECT FROM unnest($3::text[], $4::text[]) AS l (key, value)
                               WHERE CASE WHEN l.key = '{SERVICE}' THEN s.service_name ELSE {LABEL} END
                                     IS DISTINCT FROM l.value)
             ORDER BY s.series_id LIMIT $5"
        );
        let rows = self
            .reader()
            .await?
            .query_typed(
                &sql,
                &[
                    (&filter.name, Type::TEXT),
                    (&filter.service, Type::TEXT),
                    (&keys, Type::TEXT_ARRAY),
                    (&values, Type::TEXT_ARRAY),
                    (&limit, Type::INT8),
                ],
            )
            .await?;
        // The database gives objects.
        let object = |text: &str| serde_json::from_str(text).unwrap_or_default();
        Ok(rows
            .iter()
            .map(|row| StreamRow {
                series_id: row.get(0),
                service_name: row.get(1),
                kind: row.get(2),
                temporality: row.get(3),
                monotonic: row.get(4),
                unit: row.get(5),
                description: row.get(6),
                attributes: object(row.get(7)),
                resource: object(row.get(8)),
                bounds: row.get::<_, Option<Vec<f64>>>(9).unwrap_or_default(),
            })
            .collect())
    }

    /// The keys of labels that a stream of the metric has, or its resource, in order; `limit` of them at most.
    pub(crate) async fn label_keys(&self, name: &str, limit: i64) -> Result<Vec<String>, StoreError> {
        let sql = format!(
            "WITH s AS (SELECT resource_id, attributes FROM otel.otel_metric_series
                        WHERE left(metric_name, 256) = left($1, 256) AND metric_name = $1)
             SELECT k.key
             FROM (SELECT jsonb_object_keys(s.attributes) FROM s
                   UNION
                   SELECT jsonb_object_keys(r.attributes) FROM otel.otel_resources r
                   WHERE r.resource_id IN (SELECT resource_id FROM s)
                   UNION
                   SELECT '{SERVICE}') k (key)
             ORDER BY k.key LIMIT $2"
        );
        let rows = self.reader().await?.query_typed(&sql, &[(&name, Type::TEXT), (&limit, Type::INT8)]).await?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }

    /// The label keys of a metric's streams, each with its values in order, `values` of them at most.
    pub(crate) async fn metric_labels(
        &self,
        name: &str,
        values: i64,
    ) -> Result<Vec<(String, Vec<String>)>, StoreError> {
        let rows = self
            .reader()
            .await?
            .query_typed(
                "SELECT key, array_agg(value ORDER BY value)
                 FROM (SELECT key, value, row_number() OVER (PARTITION BY key ORDER BY value) AS n
                       FROM (SELECT DISTINCT l.key, left(l.value, 1024) AS value
                             FROM otel.otel_metric_series s
                             CROSS JOIN LATERAL (SELECT * FROM jsonb_each_text(s.attributes)
                                                 UNION ALL SELECT 'service.name', s.service_name) AS l (key, value)
                             WHERE left(s.metric_name, 256) = left($1, 256) AND s.metric_name = $1
                               AND l.value IS NOT NULL) d) n
                 WHERE n <= $2 GROUP BY key ORDER BY key",
                &[(&name, Type::TEXT), (&values, Type::INT8)],
            )
            .await?;
        Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
    }

    /// The points of streams in `[from, until)`, each stream's in order of time; read them with [`Points::next`]. In the
    /// place of those of `rolled` hours stand their roll-ups, which must be there.
    pub(crate) async fn points<'a>(&self, wanted: &'a WantedPoints, numbers_only: bool) -> Result<Points, StoreError> {
        let series: Argument<'a> = (&wanted.series, Type::INT8_ARRAY);
        let (sql, arguments) = match (wanted.from.first(), wanted.until.first()) {
            // One range and nothing else.
            (Some(from), Some(until)) if wanted.rolled.is_empty() => {
                (points_sql(numbers_only), vec![series, (from, Type::TIMESTAMPTZ), (until, Type::TIMESTAMPTZ)])
            }
            _ => {
                let times = [&wanted.from, &wanted.until, &wanted.rolled];
                let times = times.map(|times| (times as &(dyn ToSql + Sync), Type::TIMESTAMPTZ_ARRAY));
                (mixed_sql(numbers_only), std::iter::once(series).chain(times).collect())
            }
        };
        Ok(Points { rows: self.stream(&sql, arguments).await? })
    }

    /// How the database would answer [`Self::points`], for tests of indexes and partitions.
    pub(crate) async fn explain_points(
        &self,
        series: &Vec<i64>,
        (from, until): (Micros, Micros),
    ) -> Result<String, StoreError> {
        let arguments: [Argument<'_>; 3] =
            [(series, Type::INT8_ARRAY), (&from, Type::TIMESTAMPTZ), (&until, Type::TIMESTAMPTZ)];
        let sql = format!("EXPLAIN {}", points_sql(true));
        let plan = self.reader().await?.query_typed(&sql, &arguments).await?;
        Ok(plan.iter().map(|row| row.get::<_, &str>(0)).collect::<Vec<_>>().join("\n"))
    }
}

/// Of a point, after what numbers have.
pub(super) const WIDE_COLUMNS: &str = ", p.count, p.sum, p.min, p.max, p.bucket_counts, p.exponential_scale,
    p.zero_threshold, p.zero_count, p.positive_offset, p.positive_counts, p.negative_offset, p.negative_counts, p.quantiles,
    p.quantile_values";

/// Of a stream, for what reads points without knowing their streams.
pub(super) const STREAM_COLUMNS: &str = "s.metric_type, s.temporality, s.monotonic, s.explicit_bounds";

/// What [`STREAM_COLUMNS`] say, after the columns of a point.
pub(super) fn read_stream(row: &Row) -> StreamRow {
    StreamRow {
        series_id: row.get(0),
        service_name: String::new(),
        kind: row.get(POINT_COLUMNS + WIDE),
        temporality: row.get(POINT_COLUMNS + WIDE + 1),
        monotonic: row.get(POINT_COLUMNS + WIDE + 2),
        unit: String::new(),
        description: String::new(),
        attributes: Map::new(),
        resource: Map::new(),
        bounds: row.get::<_, Option<Vec<f64>>>(POINT_COLUMNS + WIDE + 3).unwrap_or_default(),
    }
}

const POINT_COLUMNS: usize = 5;
/// How many [`WIDE_COLUMNS`] are.
const WIDE: usize = 14;

const POINT: &str =
    "p.series_id, p.time, p.time_ns, p.start_delta_ns, coalesce(p.value_double, p.value_int::double precision)";

fn points_sql(numbers_only: bool) -> String {
    let more = if numbers_only { "" } else { WIDE_COLUMNS };
    format!(
        "SELECT {POINT} {more}
         FROM otel.otel_metrics p
         WHERE p.series_id = ANY($1) AND p.time >= $2 AND p.time < $3 AND p.flags & {NO_RECORDED_VALUE} = 0
         ORDER BY p.series_id, p.time, p.time_ns, p.point_hash"
    )
}

/// Points of several ranges and roll-ups, as one list. The last column but one is the roll-up. The ends of the lists,
/// which are in order, leave partitions out.
fn mixed_sql(numbers_only: bool) -> String {
    let more = if numbers_only { "" } else { WIDE_COLUMNS };
    let none = ", NULL".repeat(more.split(',').skip(1).count());
    format!(
        "SELECT {POINT} {more}, NULL::bytea, p.point_hash
         FROM unnest($2::timestamptz[], $3::timestamptz[]) AS r (lower, upper)
         CROSS JOIN LATERAL (SELECT * FROM otel.otel_metrics p
                             WHERE p.series_id = ANY($1) AND p.time >= r.lower AND p.time < r.upper
                               AND p.time >= ($2)[1] AND p.time < ($3)[cardinality($3)]
                               AND p.flags & {NO_RECORDED_VALUE} = 0) p
         UNION ALL
         SELECT u.series_id, u.hour, 0::smallint, NULL, NULL {none}, u.stretch, 0
         FROM otel.otel_metric_rollups u WHERE u.series_id = ANY($1) AND u.hour = ANY($4)
           AND u.hour >= ($4)[1] AND u.hour <= ($4)[cardinality($4)]
         ORDER BY 1, 2, 3, {}",
        POINT_COLUMNS + more.split(',').skip(1).count() + 2
    )
}

/// Which points are wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct WantedPoints {
    pub(crate) series: Vec<i64>,
    /// Where ranges begin, and where they end.
    pub(crate) from: Vec<Micros>,
    pub(crate) until: Vec<Micros>,
    /// Hours whose roll-ups are taken.
    pub(crate) rolled: Vec<Micros>,
}

/// Points as they come.
pub(crate) struct Points {
    rows: ReaderRows,
}

/// A point as it is stored. Counts beyond 2^63 are not expected to be counts.
#[derive(Debug)]
pub(crate) struct PointRow {
    pub(crate) series_id: i64,
    pub(crate) time: u64,
    /// 0 when unknown.
    pub(crate) start: u64,
    pub(crate) value: Option<f64>,
    pub(crate) distribution: Option<DistributionRow>,
}

/// The parts of a point that numbers do not have.
#[derive(Debug)]
pub(crate) struct DistributionRow {
    pub(crate) count: f64,
    pub(crate) sum: Option<f64>,
    pub(crate) min: Option<f64>,
    pub(crate) max: Option<f64>,
    pub(crate) bucket_counts: Vec<f64>,
    pub(crate) scale: Option<i32>,
    pub(crate) zero_threshold: f64,
    pub(crate) zero_count: f64,
    pub(crate) positive: (i32, Vec<f64>),
    pub(crate) negative: (i32, Vec<f64>),
    /// Of a summary: shares and their values.
    pub(crate) quantiles: Vec<(f64, f64)>,
}

/// What comes of a stream.
#[derive(Debug)]
pub(crate) enum Piece {
    Point(PointRow),
    /// The roll-up of an hour: its stream, and the stretch.
    Rolled(i64, Vec<u8>),
}

impl Points {
    /// The next piece; none after the last.
    pub(crate) async fn next(&mut self) -> Result<Option<Piece>, StoreError> {
        let Some(row) = self.rows.next().await? else { return Ok(None) };
        // With roll-ups there are two columns more: the stretch, and what points are ordered by.
        let is_mixed = row.len() == POINT_COLUMNS + 2 || row.len() == POINT_COLUMNS + WIDE + 2;
        let stretch: Option<Vec<u8>> = if is_mixed { row.get(row.len() - 2) } else { None };
        Ok(Some(match stretch {
            Some(stretch) => Piece::Rolled(row.get(0), stretch),
            None => Piece::Point(read_point(&row)),
        }))
    }
}

/// A point from a row that begins with its columns.
pub(super) fn read_point(row: &Row) -> PointRow {
    let time = row.get::<_, Micros>(1).to_unix_nanos(row.get(2));
    let start = row.get::<_, Option<i64>>(3).map_or(0, |delta| time.wrapping_sub(delta as u64));
    let distribution = (row.len() >= POINT_COLUMNS + WIDE).then(|| read_distribution(row)).flatten();
    PointRow { series_id: row.get(0), time, start, value: row.get(4), distribution }
}

fn read_distribution(row: &Row) -> Option<DistributionRow> {
    let unsigned = |count: i64| count as u64 as f64;
    let counts = |column| -> Vec<f64> {
        let counts: Option<Vec<i64>> = row.get(column);
        counts.unwrap_or_default().into_iter().map(unsigned).collect()
    };
    let quantiles: Option<Vec<f64>> = row.get(17);
    let values: Option<Vec<f64>> = row.get(18);
    Some(DistributionRow {
        count: unsigned(row.get::<_, Option<i64>>(5)?),
        sum: row.get(6),
        min: row.get(7),
        max: row.get(8),
        bucket_counts: counts(9),
        scale: row.get(10),
        zero_threshold: row.get::<_, Option<f64>>(11).unwrap_or_default(),
        zero_count: row.get::<_, Option<i64>>(12).map_or(0.0, unsigned),
        positive: (row.get::<_, Option<i32>>(13).unwrap_or_default(), counts(14)),
        negative: (row.get::<_, Option<i32>>(15).unwrap_or_default(), counts(16)),
        quantiles: quantiles.unwrap_or_default().into_iter().zip(values.unwrap_or_default()).collect(),
    })
}
