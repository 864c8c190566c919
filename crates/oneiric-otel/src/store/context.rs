//! What belongs to a trace besides its spans: its logs, and the metrics of its services while it ran.

use opentelemetry_proto::tonic::logs::v1::LogRecord;
use tokio_postgres::types::Type;
use uuid::Uuid;

use super::copy::Micros;
use super::database::{Argument, Database};
use super::error::StoreError;
use super::read::Stored;
use super::rows;
use super::sample::seen_since;
use super::traces::Seen;
use super::traces::records::read_facts;
use crate::derive::trace::SpanFact;

/// Bytes of log records that are read for a trace at most.
const MAX_LOG_BYTES: usize = 64 << 20;

/// A series with one of its points.
#[derive(Debug)]
pub(crate) struct SeriesPoint {
    pub(crate) series_id: i64,
    pub(crate) service_name: String,
    pub(crate) metric_name: String,
    pub(crate) metric_type: String,
    pub(crate) temporality: String,
    pub(crate) monotonic: bool,
    pub(crate) unit: String,
    /// JSON.
    pub(crate) attributes: String,
    pub(crate) time_unix_nanos: u64,
    pub(crate) value: Option<f64>,
    pub(crate) count: Option<i64>,
    pub(crate) sum: Option<f64>,
    pub(crate) min: Option<f64>,
    pub(crate) max: Option<f64>,
    /// JSON, when one of them is of the trace.
    pub(crate) exemplars: Option<String>,
}

/// Where metrics of a trace are looked for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct MetricWindow {
    pub(crate) from_unix_nanos: u64,
    pub(crate) to_unix_nanos: u64,
    pub(crate) trace_id: Uuid,
}

impl MetricWindow {
    fn micros(self) -> (Micros, Micros) {
        (Micros::from_unix_nanos(self.from_unix_nanos).0, Micros::from_unix_nanos(self.to_unix_nanos).0)
    }

    /// What the exemplars of a point contain when one is of the trace.
    fn exemplar(self) -> String {
        format!("[{{\"trace_id\": \"{}\"}}]", self.trace_id.as_simple())
    }
}

impl Database {
    /// The first `limit` spans of a trace without their attributes, in order of start and hash, and whether there are
    /// more.
    pub(crate) async fn trace_facts(
        &self,
        trace_id: [u8; 16],
        limit: usize,
    ) -> Result<(Vec<SpanFact>, bool), StoreError> {
        let (from, to) = self.trace_range(trace_id).await?.unwrap_or((Micros(i64::MIN), Micros(i64::MAX)));
        read_facts(self, Uuid::from_bytes(trace_id), Seen { from, to }, limit).await
    }

    /// The first `limit` log records of a trace within a time, if one is given, and whether there are more.
    pub(crate) async fn some_trace_logs(
        &self,
        trace_id: [u8; 16],
        within: Option<(u64, u64)>,
        limit: usize,
    ) -> Result<(Vec<Stored<LogRecord>>, bool), StoreError> {
        let trace_id = Uuid::from_bytes(trace_id);
        let within = within.map(|(from, to)| (Micros::from_unix_nanos(from).0, Micros::from_unix_nanos(to).0));
        let mut values: Vec<Argument<'_>> = vec![(&trace_id, Type::UUID)];
        let mut condition = "trace_id = $1";
        if let Some((from, to)) = &within {
            values.push((from, Type::TIMESTAMPTZ));
            values.push((to, Type::TIMESTAMPTZ));
            condition = "trace_id = $1 AND time BETWEEN $2 AND $3";
        }
        let columns = rows::log::COLUMNS.join(", ");
        let sql = format!(
            "SELECT {columns} FROM otel.otel_logs WHERE {condition} ORDER BY time, time_ns, span_id LIMIT {}",
            limit.saturating_add(1)
        );
        self.read_some(&sql, values, rows::log::decode, (limit, MAX_LOG_BYTES)).await
    }

    /// The first `limit` series of services, in order of their names, of which points may lie in the window.
    pub(crate) async fn series_of_services(
        &self,
        window: MetricWindow,
        services: &[String],
        limit: i64,
    ) -> Result<Vec<i64>, StoreError> {
        let (from, _) = window.micros();
        let sql = format!(
            "SELECT series_id FROM otel.otel_metric_series
             WHERE left(service_name, 256) = ANY($1) AND {} ORDER BY metric_name, series_id LIMIT $3",
            seen_since("last_seen", "$2")
        );
        let values: [Argument<'_>; 3] =
            [(&services, Type::TEXT_ARRAY), (&from, Type::TIMESTAMPTZ), (&limit, Type::INT8)];
        Ok(self.reader().await?.query_typed(&sql, &values).await?.iter().map(|row| row.get(0)).collect())
    }

    /// The series of any service with an exemplar of the trace within the window, and how many points with exemplars were
    /// looked at: the first `limit`.
    pub(crate) async fn series_with_exemplar(
        &self,
        window: MetricWindow,
        limit: i64,
    ) -> Result<(Vec<i64>, i64), StoreError> {
        let ((from, to), of_trace) = (window.micros(), window.exemplar());
        // The index on points with exemplars is in order of time.
        let sql = "WITH p AS MATERIALIZED (SELECT series_id, exemplars FROM otel.otel_metrics
                                           WHERE exemplars IS NOT NULL AND time BETWEEN $1 AND $2 ORDER BY time LIMIT $4)
                   SELECT array(SELECT DISTINCT series_id FROM p WHERE exemplars @> $3::jsonb), (SELECT count(*) FROM p)";
        let values: [Argument<'_>; 4] =
            [(&from, Type::TIMESTAMPTZ), (&to, Type::TIMESTAMPTZ), (&of_trace, Type::TEXT), (&limit, Type::INT8)];
        let row = self.reader().await?.query_typed_one(sql, &values).await?;
        Ok((row.try_get(0)?, row.try_get(1)?))
    }

    /// Points of these series within the window, those of one series together in order of time, `points` of each at most.
    pub(crate) async fn metrics_around(
        &self,
        window: MetricWindow,
        series: &[i64],
        points: i64,
    ) -> Result<Vec<SeriesPoint>, StoreError> {
        let ((from, to), of_trace) = (window.micros(), window.exemplar());
        // A probe of the primary key for each series, in the partitions of the window.
        let sql = "SELECT s.series_id, s.service_name, s.metric_name, s.metric_type, s.temporality, s.monotonic, s.unit,
                          s.attributes::text, p.time, p.time_ns, coalesce(p.value_double, p.value_int::double precision),
                          p.count, p.sum, p.min, p.max, p.exemplars::text
                   FROM (SELECT * FROM otel.otel_metric_series WHERE series_id = ANY($1)) s
                   CROSS JOIN LATERAL (SELECT time, time_ns, value_double, value_int, count, sum, min, max,
                                              CASE WHEN exemplars @> $4::jsonb THEN exemplars END AS exemplars
                                       FROM otel.otel_metrics m
                                       WHERE m.series_id = s.series_id AND m.time BETWEEN $2 AND $3
                                       ORDER BY m.time, m.time_ns LIMIT $5) p
                   ORDER BY s.metric_name, s.series_id, p.time, p.time_ns";
        let values: [Argument<'_>; 5] = [
            (&series, Type::INT8_ARRAY),
            (&from, Type::TIMESTAMPTZ),
            (&to, Type::TIMESTAMPTZ),
            (&of_trace, Type::TEXT),
            (&points, Type::INT8),
        ];
        let rows = self.reader().await?.query_typed(sql, &values).await?;
        rows.iter()
            .map(|row| {
                Ok(SeriesPoint {
                    series_id: row.try_get(0)?,
                    service_name: row.try_get(1)?,
                    metric_name: row.try_get(2)?,
                    metric_type: row.try_get(3)?,
                    temporality: row.try_get(4)?,
                    monotonic: row.try_get(5)?,
                    unit: row.try_get(6)?,
                    attributes: row.try_get(7)?,
                    time_unix_nanos: row.try_get::<_, Micros>(8)?.to_unix_nanos(row.try_get(9)?),
                    value: row.try_get(10)?,
                    count: row.try_get(11)?,
                    sum: row.try_get(12)?,
                    min: row.try_get(13)?,
                    max: row.try_get(14)?,
                    exemplars: row.try_get(15)?,
                })
            })
            .collect()
    }
}
