//! Failing traces: grouped by their shape, and found by their error.

use tokio_postgres::types::{ToSql, Type};
use uuid::Uuid;

use super::attributes::{Values, push};
use super::buckets::Buckets;
use super::copy::Micros;
use super::database::{Argument, Database};
use super::error::StoreError;
use super::search::{TRACE_COLUMNS, TraceRow};
use super::traces::{NewTrace, Transaction};

/// Columns that [`TraceRow::from_row`] reads.
const TRACE_ROW_COLUMNS: usize = 16;

/// Newest traces with an error that are looked at one by one, before their errors are looked for.
const WALKED: i64 = 500;
/// Distinct errors whose traces are looked up error by error. Of more it is better to look at the traces.
const MAX_ERRORS: usize = 1000;
/// Characters of a trigram.
const TRIGRAM: usize = 3;

/// An error is short enough for the index on trigrams.
const IS_SHORT: &str = "coalesce(octet_length(e.error_type), 0) + coalesce(octet_length(e.error_message), 0) <= 512";
const IS_LONG: &str = "coalesce(octet_length(e.error_type), 0) + coalesce(octet_length(e.error_message), 0) > 512";

/// A trace has an error. The indexes on errors are of these rows.
const HAS_ERROR: &str = "(t.error_type IS NOT NULL OR t.error_message IS NOT NULL)";
const NEWEST_FIRST: &str = "t.start_time DESC, t.start_ns DESC, t.trace_id DESC";

/// Traces with an error that fits a pattern.
#[derive(Debug, Clone)]
pub(crate) struct ErrorFilter<'a> {
    pub(crate) start: Micros,
    pub(crate) end: Micros,
    /// A service that took part.
    pub(crate) service: Option<&'a str>,
    /// The operator of SQL and what stands right of it.
    pub(crate) pattern: (&'static str, String),
    /// What is in every text that fits.
    pub(crate) literals: Vec<String>,
    /// Start and id of the last trace of the page before.
    pub(crate) before: Option<(u64, Uuid)>,
}

impl ErrorFilter<'_> {
    /// Parts of the literals whose trigrams the database has, whatever its locale.
    fn indexed(&self) -> Vec<&str> {
        let parts = self.literals.iter().flat_map(|literal| literal.split(|letter: char| !letter.is_ascii()));
        parts.filter(|part| part.len() >= TRIGRAM).collect()
    }
}

/// An error that fits, and when its traces were.
#[derive(Debug, Default)]
struct Errors {
    ids: Vec<i64>,
    from: Vec<Micros>,
    to: Vec<Micros>,
}

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
    /// Traces whose error fits, those that began last first.
    ///
    /// What is frequent is among the newest traces with an error. What is not is looked for among the distinct errors,
    /// and then each one's newest traces. When too many errors fit, their traces are frequent somewhere: all traces with
    /// an error are looked at, newest first, until there are enough.
    pub(crate) async fn traces_with_error(
        &self,
        filter: &ErrorFilter<'_>,
        limit: i64,
    ) -> Result<Vec<TraceRow>, StoreError> {
        let buckets = &self.buckets(filter.start, filter.end).await?;
        let (rows, walked) = self.walk_errors(filter, buckets, limit).await?;
        if rows.len() as i64 >= limit || walked < WALKED {
            return Ok(rows);
        }
        let errors = self.errors_like(filter, buckets).await?;
        let wanted = if errors.ids.len() > MAX_ERRORS { None } else { Some(&errors) };
        self.traces_of_errors(filter, buckets, wanted, limit).await
    }

    /// Those of the newest traces with an error whose error fits, and how many were looked at.
    async fn walk_errors(
        &self,
        filter: &ErrorFilter<'_>,
        buckets: &Buckets,
        limit: i64,
    ) -> Result<(Vec<TraceRow>, i64), StoreError> {
        let mut values: Values<'_> = vec![(&filter.start, Type::TIMESTAMPTZ), (&filter.end, Type::TIMESTAMPTZ)];
        let position = filter.before.map(|(start, id)| (Micros::from_unix_nanos(start), id));
        let within = within(&mut values, buckets, position.as_ref());
        let fits = fits(&mut values, filter);
        let (walked, limit) = (push(&mut values, &WALKED, Type::INT8), push(&mut values, &limit, Type::INT8));
        let sql = format!(
            "WITH w AS MATERIALIZED (SELECT t.* FROM otel.otel_traces t WHERE {within} ORDER BY {NEWEST_FIRST} LIMIT {walked})
             SELECT h.*, (SELECT count(*) FROM w) FROM (VALUES (1)) one
             LEFT JOIN LATERAL (SELECT {TRACE_COLUMNS}
                                FROM w t LEFT JOIN otel.otel_texts x ON x.text_id = t.text_ids[1]
                                WHERE {fits} ORDER BY {NEWEST_FIRST} LIMIT {limit}) h ON true"
        );
        let rows = self.reader().await?.query_typed(&sql, &values).await?;
        let walked = rows.first().map_or(Ok(0), |row| row.try_get(TRACE_ROW_COLUMNS))?;
        let mut found = Vec::new();
        for row in &rows {
            if row.try_get::<_, Option<Uuid>>(0)?.is_some() {
                found.push(TraceRow::from_row(row)?);
            }
        }
        Ok((found, walked))
    }

    /// Errors that fit, one more than [`MAX_ERRORS`] at most.
    async fn errors_like(&self, filter: &ErrorFilter<'_>, buckets: &Buckets) -> Result<Errors, StoreError> {
        let limit = MAX_ERRORS as i64 + 1;
        let (operator, operand) = &filter.pattern;
        let indexed = filter.indexed();
        let mut values: Values<'_> = vec![(operand, Type::TEXT), (&limit, Type::INT8)];
        let overlap = buckets.overlap(&mut values, "e.first_day", "e.last_day");
        let fitting = format!(
            "SELECT e.error_id, e.first_day::timestamp AT TIME ZONE 'UTC', (e.last_day + 1)::timestamp AT TIME ZONE 'UTC'
             FROM otel.otel_errors e
             WHERE (e.error_message {operator} $1 OR e.error_type {operator} $1) AND {overlap}"
        );
        let sql = if indexed.is_empty() {
            format!("{fitting} LIMIT $2")
        } else {
            let literals = push(&mut values, &indexed, Type::TEXT_ARRAY);
            format!(
                "({fitting} AND {IS_SHORT}
                    AND otel.otel_error_trigrams(e.error_type, e.error_message)
                        @> (SELECT array_agg(DISTINCT g.trigram)
                            FROM unnest({literals}::text[]) AS l (literal)
                            CROSS JOIN LATERAL unnest(otel.otel_trigrams(l.literal)) AS g (trigram)))
                 UNION ALL
                 ({fitting} AND {IS_LONG})
                 LIMIT $2"
            )
        };
        let mut errors = Errors::default();
        for row in self.reader().await?.query_typed(&sql, &values).await? {
            errors.ids.push(row.try_get(0)?);
            errors.from.push(row.try_get(1)?);
            errors.to.push(row.try_get(2)?);
        }
        Ok(errors)
    }

    /// Traces whose error fits and, where those are given, is one of these.
    async fn traces_of_errors(
        &self,
        filter: &ErrorFilter<'_>,
        buckets: &Buckets,
        errors: Option<&Errors>,
        limit: i64,
    ) -> Result<Vec<TraceRow>, StoreError> {
        let mut values: Values<'_> = vec![(&filter.start, Type::TIMESTAMPTZ), (&filter.end, Type::TIMESTAMPTZ)];
        let position = filter.before.map(|(start, id)| (Micros::from_unix_nanos(start), id));
        let within = within(&mut values, buckets, position.as_ref());
        let fits = fits(&mut values, filter);
        let limit = push(&mut values, &limit, Type::INT8);
        let traces = match errors {
            None => format!(
                "SELECT t.* FROM otel.otel_traces t WHERE {within} AND {fits} ORDER BY {NEWEST_FIRST} LIMIT {limit}"
            ),
            Some(errors) => {
                let ids = push(&mut values, &errors.ids, Type::INT8_ARRAY);
                let from = push(&mut values, &errors.from, Type::TIMESTAMPTZ_ARRAY);
                let to = push(&mut values, &errors.to, Type::TIMESTAMPTZ_ARRAY);
                format!(
                    "SELECT t.* FROM unnest({ids}::bigint[], {from}::timestamptz[], {to}::timestamptz[])
                                     AS e (error_id, bucket_from, bucket_to)
                     CROSS JOIN LATERAL (
                       SELECT t.* FROM otel.otel_traces t
                       WHERE otel.otel_error_id(t.error_type, t.error_message) = e.error_id
                         AND t.bucket >= e.bucket_from AND t.bucket < e.bucket_to AND {within} AND {fits}
                       ORDER BY {NEWEST_FIRST} LIMIT {limit}) t
                     ORDER BY {NEWEST_FIRST} LIMIT {limit}"
                )
            }
        };
        let sql = format!(
            "SELECT {TRACE_COLUMNS} FROM ({traces}) t LEFT JOIN otel.otel_texts x ON x.text_id = t.text_ids[1]
             ORDER BY {NEWEST_FIRST}"
        );
        self.reader().await?.query_typed(&sql, &values).await?.iter().map(TraceRow::from_row).collect()
    }

    /// Forgets the errors of which no partition can hold a trace any more, some thousands a transaction. Returns how many.
    ///
    /// # Errors
    /// When the database does not answer. What was forgotten until then stays so.
    pub async fn forget_errors(&self) -> Result<u64, StoreError> {
        let mut forgotten = 0;
        loop {
            let row = self.query_one("SELECT otel.otel_forget_errors()", &[]).await?;
            match row.get::<_, i64>(0).unsigned_abs() {
                0 => return Ok(forgotten),
                some => forgotten += some,
            }
        }
    }

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
        let buckets = self.buckets(filter.start, filter.end).await?;
        let within = buckets.hold(&mut values, "t.bucket");
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
               WHERE t.status = 'error' AND t.start_time >= $1 AND t.start_time < $2 AND {within} {of_service}
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

/// Notes the errors of traces that are about to be written, in the one order in which all who write traces do.
pub(super) async fn note_errors(transaction: &Transaction<'_>, traces: &[NewTrace]) -> Result<(), StoreError> {
    let has_error = |trace: &&NewTrace| trace.summary.error_type.is_some() || trace.summary.error_message.is_some();
    let failed: Vec<&NewTrace> = traces.iter().filter(has_error).collect();
    if failed.is_empty() {
        return Ok(());
    }
    let buckets: Vec<Micros> = failed.iter().map(|trace| trace.bucket).collect();
    let types: Vec<Option<&str>> = failed.iter().map(|trace| trace.summary.error_type.as_deref()).collect();
    let messages: Vec<Option<&str>> = failed.iter().map(|trace| trace.summary.error_message.as_deref()).collect();
    let errors: [Argument<'_>; 3] =
        [(&buckets, Type::TIMESTAMPTZ_ARRAY), (&types, Type::TEXT_ARRAY), (&messages, Type::TEXT_ARRAY)];
    transaction.query_typed("SELECT otel.otel_note_errors_before($1, $2, $3)", &errors).await?;
    Ok(())
}

/// A trace with an error that began between the first two parameters and, with a position, before that.
fn within<'a>(values: &mut Values<'a>, buckets: &'a Buckets, position: Option<&'a ((Micros, i16), Uuid)>) -> String {
    let buckets = buckets.hold(values, "t.bucket");
    let mut condition = format!("{HAS_ERROR} AND t.start_time >= $1 AND t.start_time < $2 AND {buckets}");
    if let Some(((start, remainder), id)) = position {
        let start = push(values, start, Type::TIMESTAMPTZ);
        let remainder = push(values, remainder, Type::INT2);
        let id = push(values, id, Type::UUID);
        // The first part is for the index.
        condition = format!(
            "{condition} AND t.start_time <= {start}
             AND (t.start_time, t.start_ns, t.trace_id) < ({start}, {remainder}, {id})"
        );
    }
    condition
}

/// Pattern and service.
fn fits<'a>(values: &mut Values<'a>, filter: &'a ErrorFilter<'_>) -> String {
    let (operator, operand) = &filter.pattern;
    let operand = push(values, operand, Type::TEXT);
    let mut condition = format!("(t.error_message {operator} {operand} OR t.error_type {operator} {operand})");
    if let Some(service) = &filter.service {
        let service = push(values, service, Type::TEXT);
        condition = format!("{condition} AND {service} = ANY(t.services)");
    }
    condition
}
