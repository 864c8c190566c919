//! Failing traces: grouped by their shape, and found by their error.

use tokio_postgres::types::{ToSql, Type};

use super::copy::Micros;
use super::database::Database;
use super::error::StoreError;
use super::search::{TRACE_COLUMNS, TraceRow, begins_not_before};

/// Columns that [`TraceRow::from_row`] reads.
const TRACE_ROW_COLUMNS: usize = 16;

/// Which groups of failing traces are wanted.
#[derive(Debug, Clone, Copy)]
pub(crate) struct GroupFilter<'a> {
    pub(crate) start: Micros,
    pub(crate) end: Micros,
    /// A service that took part.
    pub(crate) service: Option<&'a str>,
    /// Only shapes that no trace had before.
    pub(crate) new_since: Option<Micros>,
}

/// Failing traces of one shape.
#[derive(Debug, Clone)]
pub(crate) struct GroupRow {
    /// The text that they share.
    pub(crate) shape: i64,
    pub(crate) count: i64,
    pub(crate) first: Micros,
    pub(crate) last: Micros,
    /// The earliest trace of this shape at any time.
    pub(crate) first_ever: Option<Micros>,
    /// Steps in which there were some, and how many.
    pub(crate) trend: Vec<(i32, i64)>,
    pub(crate) services: Vec<String>,
    /// The one that began last.
    pub(crate) newest: TraceRow,
}

impl Database {
    /// Groups of failing traces, the largest first and of equal ones that with the smaller id. `after` is count and id of
    /// the last group of the page before.
    pub(crate) async fn error_groups(
        &self,
        filter: &GroupFilter<'_>,
        step_seconds: f64,
        after: Option<(i64, i64)>,
        limit: i64,
    ) -> Result<Vec<GroupRow>, StoreError> {
        let mut values: Vec<(&(dyn ToSql + Sync), Type)> = vec![
            (&filter.start, Type::TIMESTAMPTZ),
            (&filter.end, Type::TIMESTAMPTZ),
            (&step_seconds, Type::FLOAT8),
            (&limit, Type::INT8),
        ];
        let mut add = |value, kind| {
            values.push((value, kind));
            values.len()
        };
        let of_service = filter.service.as_ref().map(|service| {
            let place = add(service, Type::TEXT);
            format!("AND ${place} = ANY(t.services)")
        });
        let new = filter.new_since.as_ref().map(|since| {
            let place = add(since, Type::TIMESTAMPTZ);
            format!(
                "AND NOT EXISTS (SELECT FROM otel.otel_trace_texts l WHERE l.text_id = g.shape AND l.bucket < ${place})"
            )
        });
        let after = after.as_ref().map(|(count, shape)| {
            let (count, shape) = (add(count, Type::INT8), add(shape, Type::INT8));
            format!("AND (g.n < ${count} OR (g.n = ${count} AND g.shape > ${shape}))")
        });
        let sql = format!(
            "WITH f AS MATERIALIZED (
               SELECT t.text_ids[1] AS shape, t.start_time, t.start_ns, t.trace_id, t.bucket, t.services
               FROM otel.otel_traces t
               WHERE t.status = 'error' AND t.start_time >= $1 AND t.start_time < $2 AND {since} {of_service}
             ), g AS (
               SELECT shape, count(*) AS n, min(start_time) AS first, max(start_time) AS last
               FROM f WHERE shape IS NOT NULL GROUP BY shape
             ), page AS (
               SELECT * FROM g WHERE true {new} {after} ORDER BY n DESC, shape LIMIT $4
             ), newest AS (
               SELECT DISTINCT ON (f.shape) f.shape, f.trace_id, f.bucket FROM f JOIN page USING (shape)
               ORDER BY f.shape, f.start_time DESC, f.start_ns DESC, f.trace_id DESC
             ), steps AS (
               SELECT f.shape, floor(extract(epoch FROM f.start_time - $1)::double precision / $3)::integer AS step,
                      count(*) AS n
               FROM f JOIN page USING (shape) GROUP BY 1, 2
             ), trends AS (
               SELECT shape, array_agg(step ORDER BY step) AS steps, array_agg(n ORDER BY step) AS counts
               FROM steps GROUP BY shape
             ), places AS (
               SELECT f.shape, array_agg(DISTINCT s.name ORDER BY s.name) AS services
               FROM f JOIN page USING (shape) CROSS JOIN LATERAL unnest(f.services) AS s (name) GROUP BY f.shape
             )
             SELECT {TRACE_COLUMNS}, page.shape, page.n, page.first, page.last,
                    (SELECT l.bucket FROM otel.otel_trace_texts l WHERE l.text_id = page.shape ORDER BY l.bucket LIMIT 1),
                    trends.steps, trends.counts, places.services
             FROM page
             JOIN newest USING (shape) JOIN trends USING (shape) JOIN places USING (shape)
             CROSS JOIN LATERAL (SELECT * FROM otel.otel_traces t
                                 WHERE t.trace_id = newest.trace_id AND t.bucket = newest.bucket OFFSET 0) t
             LEFT JOIN otel.otel_texts x ON x.text_id = page.shape
             ORDER BY page.n DESC, page.shape",
            since = begins_not_before("t.bucket", 1),
            of_service = of_service.unwrap_or_default(),
            new = new.unwrap_or_default(),
            after = after.unwrap_or_default(),
        );
        let rows = self.reader().await?.query_typed(&sql, &values).await?;
        rows.iter()
            .map(|row| {
                let next = TRACE_ROW_COLUMNS;
                let steps: Vec<i32> = row.try_get(next + 5)?;
                let counts: Vec<i64> = row.try_get(next + 6)?;
                Ok(GroupRow {
                    newest: TraceRow::from_row(row)?,
                    shape: row.try_get(next)?,
                    count: row.try_get(next + 1)?,
                    first: row.try_get(next + 2)?,
                    last: row.try_get(next + 3)?,
                    first_ever: row.try_get(next + 4)?,
                    trend: steps.into_iter().zip(counts).collect(),
                    services: row.try_get(next + 7)?,
                })
            })
            .collect()
    }
}
