//! Reading traces and texts for questions: rows by filter, words in texts, and which traces a text describes.

use tokio_postgres::Row;
use tokio_postgres::types::{ToSql, Type};
use uuid::Uuid;

use super::attributes::{AttributeCondition, Values, push};
use super::copy::Micros;
use super::database::Database;
use super::error::StoreError;
use super::read::bucket_of;

/// The columns that [`TraceRow::from_row`] reads, of `otel_traces t` and `otel_texts x`.
pub(super) const TRACE_COLUMNS: &str = "t.trace_id, t.start_time, t.start_ns, t.duration_ns, t.status, t.service_name, t.root_name,
    t.services, t.span_count, t.error_count, t.log_count, t.root_seen, t.error_type, t.error_message, x.text, t.text_ids";

/// Traces whose spans are looked at one by one.
const LOOKED_AT: i64 = 2000;

/// The derived row of a trace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TraceRow {
    pub(crate) trace_id: Uuid,
    pub(crate) start_unix_nanos: u64,
    pub(crate) duration_ns: i64,
    pub(crate) status: String,
    pub(crate) service_name: String,
    pub(crate) root_name: String,
    pub(crate) services: Vec<String>,
    pub(crate) span_count: i32,
    pub(crate) error_count: i32,
    pub(crate) log_count: i32,
    pub(crate) root_seen: bool,
    pub(crate) error_type: Option<String>,
    pub(crate) error_message: Option<String>,
    pub(crate) text: Option<String>,
    pub(crate) text_ids: Vec<i64>,
}

impl TraceRow {
    pub(super) fn from_row(row: &Row) -> Result<Self, StoreError> {
        Ok(Self {
            trace_id: row.try_get(0)?,
            start_unix_nanos: row.try_get::<_, Micros>(1)?.to_unix_nanos(row.try_get(2)?),
            duration_ns: row.try_get(3)?,
            status: row.try_get(4)?,
            service_name: row.try_get(5)?,
            root_name: row.try_get(6)?,
            services: row.try_get(7)?,
            span_count: row.try_get(8)?,
            error_count: row.try_get(9)?,
            log_count: row.try_get(10)?,
            root_seen: row.try_get(11)?,
            error_type: row.try_get(12)?,
            error_message: row.try_get(13)?,
            text: row.try_get(14)?,
            text_ids: row.try_get(15)?,
        })
    }
}

/// Which traces are meant. `None` lets all through.
#[derive(Debug, Clone, Default)]
pub(crate) struct RowFilter {
    pub(crate) since_unix_nanos: Option<u64>,
    pub(crate) until_unix_nanos: Option<u64>,
    /// A service that took part.
    pub(crate) service: Option<String>,
    /// Name of the root.
    pub(crate) operation: Option<String>,
    pub(crate) status: Option<String>,
    pub(crate) min_duration_ns: Option<i64>,
    pub(crate) max_duration_ns: Option<i64>,
    /// Each is met by a span of the trace.
    pub(crate) attributes: Vec<AttributeCondition>,
    /// Not this one.
    pub(crate) except: Option<Uuid>,
}

/// The order of a list of traces. Of equal ones the id decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RowOrder {
    Newest,
    Oldest,
    Longest,
}

impl RowOrder {
    fn columns(self) -> &'static str {
        match self {
            Self::Newest | Self::Oldest => "t.start_time, t.start_ns, t.trace_id",
            Self::Longest => "t.duration_ns, t.trace_id",
        }
    }

    fn sort(self) -> &'static str {
        match self {
            Self::Newest => "t.start_time DESC, t.start_ns DESC, t.trace_id DESC",
            Self::Oldest => "t.start_time, t.start_ns, t.trace_id",
            Self::Longest => "t.duration_ns DESC, t.trace_id DESC",
        }
    }
}

/// Where a row stands in any order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RowPosition {
    pub(crate) start_unix_nanos: u64,
    pub(crate) duration_ns: i64,
    pub(crate) trace_id: Uuid,
}

impl RowFilter {
    pub(super) fn since(&self) -> Micros {
        self.since_unix_nanos.map_or(Micros(i64::MIN), |nanos| Micros::from_unix_nanos(nanos).0)
    }

    /// Begin and end of the time that is meant.
    pub(crate) fn times(&self) -> (Micros, Micros) {
        (self.since(), self.until())
    }

    pub(super) fn until(&self) -> Micros {
        self.until_unix_nanos.map_or(Micros(i64::MAX), |nanos| Micros::from_unix_nanos(nanos).0)
    }

    /// Whether columns of the trace's row decide, beyond its id.
    pub(crate) fn looks_at_rows(&self) -> bool {
        self.since_unix_nanos.is_some()
            || self.until_unix_nanos.is_some()
            || self.service.is_some()
            || self.operation.is_some()
            || self.status.is_some()
            || self.min_duration_ns.is_some()
            || self.max_duration_ns.is_some()
            || !self.attributes.is_empty()
    }

    /// Conditions on `t` but for those on its spans, with their values appended to `values`.
    fn conditions<'a>(&'a self, values: &mut Values<'a>) -> String {
        let mut sql = String::new();
        let mut add = |condition: &str, value: &'a (dyn ToSql + Sync), kind: Type| {
            values.push((value, kind));
            sql.push_str(" AND ");
            sql.push_str(&condition.replace('?', &format!("${}", values.len())));
        };
        if let Some(service) = &self.service {
            add("? = ANY(t.services)", service, Type::TEXT);
        }
        if let Some(operation) = &self.operation {
            add("t.root_name = ?", operation, Type::TEXT);
        }
        if let Some(status) = &self.status {
            add("t.status = ?", status, Type::TEXT);
        }
        if let Some(duration) = &self.min_duration_ns {
            add("t.duration_ns >= ?", duration, Type::INT8);
        }
        if let Some(duration) = &self.max_duration_ns {
            add("t.duration_ns <= ?", duration, Type::INT8);
        }
        if let Some(except) = &self.except {
            add("t.trace_id <> ?", except, Type::UUID);
        }
        sql
    }

    /// Conditions on the spans of `t`; `since` is the parameter of that name. `one_by_one` has each trace's spans looked up on their
    /// own, whatever the planner thinks of it.
    fn span_conditions<'a>(&'a self, values: &mut Values<'a>, since: usize, one_by_one: bool) -> String {
        let mut sql = String::new();
        for attribute in &self.attributes {
            // No span of a trace begins before the trace, unless it has no start at all.
            let begins = format!("(s.start_time >= ${since} OR s.start_time < timestamptz '2000-01-01 00:00:00+00')");
            let matches = attribute.on_span(values);
            let fence = if one_by_one { "OFFSET 0" } else { "" };
            let condition = format!(
                " AND EXISTS (SELECT FROM otel.otel_spans s
                              WHERE s.trace_id = t.trace_id AND s.start_time BETWEEN t.seen_from AND t.seen_to
                                AND {begins} AND {matches} {fence})"
            );
            sql.push_str(&condition);
        }
        sql
    }
}

/// The traces that share a text.
#[derive(Debug, Clone)]
pub(crate) struct TextTraces {
    pub(crate) text_id: i64,
    pub(crate) text: String,
    /// How many traces pass the filter.
    pub(crate) count: i64,
    /// The one that began last.
    pub(crate) newest: TraceRow,
}

impl Database {
    /// The row of a trace.
    pub(crate) async fn trace_row(&self, trace_id: Uuid) -> Result<Option<TraceRow>, StoreError> {
        let client = self.reader().await?;
        let Some(bucket) = bucket_of(&client, trace_id).await? else { return Ok(None) };
        let row = client
            .query_typed_opt(
                &format!(
                    "SELECT {TRACE_COLUMNS} FROM otel.otel_traces t LEFT JOIN otel.otel_texts x ON x.text_id = t.text_ids[1]
                     WHERE t.trace_id = $1 AND t.bucket = $2"
                ),
                &[(&trace_id, Type::UUID), (&bucket, Type::TIMESTAMPTZ)],
            )
            .await?;
        row.as_ref().map(TraceRow::from_row).transpose()
    }

    /// Rows that pass the filter, in this order. `after` is the last row of the page before.
    ///
    /// With attributes the first traces in the order are looked at one by one: of a common attribute they fill the page.
    /// If they do not, it is a rare one, and the planner may begin with the spans.
    pub(crate) async fn trace_rows(
        &self,
        filter: &RowFilter,
        order: RowOrder,
        after: Option<&RowPosition>,
        limit: i64,
    ) -> Result<Vec<TraceRow>, StoreError> {
        if !filter.attributes.is_empty() {
            let rows = self.some_trace_rows(filter, order, after, limit, Some(LOOKED_AT)).await?;
            if rows.len() as i64 == limit {
                return Ok(rows);
            }
        }
        self.some_trace_rows(filter, order, after, limit, None).await
    }

    /// The same, of all traces, or of the first `of` in the order that pass but for their attributes.
    async fn some_trace_rows(
        &self,
        filter: &RowFilter,
        order: RowOrder,
        after: Option<&RowPosition>,
        limit: i64,
        of: Option<i64>,
    ) -> Result<Vec<TraceRow>, StoreError> {
        let (since, until) = filter.times();
        let buckets = self.buckets(since, until).await?;
        let mut values: Values<'_> =
            vec![(&since, Type::TIMESTAMPTZ), (&until, Type::TIMESTAMPTZ), (&limit, Type::INT8)];
        let mut conditions = filter.conditions(&mut values);
        let after = after.map(|after| (Micros::from_unix_nanos(after.start_unix_nanos), after));
        if let Some(((start, remainder), after)) = &after {
            let beyond = if order == RowOrder::Oldest { ">" } else { "<" };
            let position = match order {
                RowOrder::Newest | RowOrder::Oldest => [
                    push(&mut values, start, Type::TIMESTAMPTZ),
                    push(&mut values, remainder, Type::INT2),
                    push(&mut values, &after.trace_id, Type::UUID),
                ]
                .join(", "),
                RowOrder::Longest => {
                    [push(&mut values, &after.duration_ns, Type::INT8), push(&mut values, &after.trace_id, Type::UUID)]
                        .join(", ")
                }
            };
            conditions = format!("{conditions} AND ({}) {beyond} ({position})", order.columns());
        }
        let on_spans = filter.span_conditions(&mut values, 1, of.is_some());
        let (begins, sort) = (buckets.hold(&mut values, "t.bucket"), order.sort());
        let rows =
            format!("otel.otel_traces t WHERE t.start_time >= $1 AND t.start_time < $2 AND {begins} {conditions}");
        let found = match of {
            None => format!("SELECT * FROM {rows} {on_spans}"),
            Some(of) => {
                format!("SELECT * FROM (SELECT * FROM {rows} ORDER BY {sort} LIMIT {of}) t WHERE true {on_spans}")
            }
        };
        let sql = format!(
            "SELECT {TRACE_COLUMNS} FROM ({found} ORDER BY {sort} LIMIT $3) t
             LEFT JOIN otel.otel_texts x ON x.text_id = t.text_ids[1] ORDER BY {sort}"
        );
        self.reader().await?.query_typed(&sql, &values).await?.iter().map(TraceRow::from_row).collect()
    }

    /// The texts of all traces that pass the filter; none if these are more than `most` traces.
    pub(crate) async fn texts_of_traces(&self, filter: &RowFilter, most: i64) -> Result<Option<Vec<i64>>, StoreError> {
        let ((since, until), wanted) = (filter.times(), most + 1);
        let buckets = self.buckets(since, until).await?;
        let mut values: Values<'_> =
            vec![(&since, Type::TIMESTAMPTZ), (&until, Type::TIMESTAMPTZ), (&wanted, Type::INT8)];
        let conditions = filter.conditions(&mut values);
        let on_spans = filter.span_conditions(&mut values, 1, false);
        let sql = format!(
            "SELECT t.text_ids FROM otel.otel_traces t
             WHERE t.start_time >= $1 AND t.start_time < $2 AND {} {conditions} {on_spans} LIMIT $3",
            buckets.hold(&mut values, "t.bucket")
        );
        let rows = self.reader().await?.query_typed(&sql, &values).await?;
        if rows.len() as i64 > most {
            return Ok(None);
        }
        let mut texts: Vec<i64> = rows.iter().flat_map(|row| row.get::<_, Vec<i64>>(0)).collect();
        texts.sort_unstable();
        texts.dedup();
        Ok(Some(texts))
    }

    /// For each text the traces that it describes and that pass the filter, in the order of `texts`. Texts without any
    /// are left out.
    pub(crate) async fn traces_of_texts(
        &self,
        texts: &[i64],
        filter: &RowFilter,
    ) -> Result<Vec<TextTraces>, StoreError> {
        if texts.is_empty() {
            return Ok(Vec::new());
        }
        let (since, until) = filter.times();
        let buckets = self.buckets(since, until).await?;
        let client = self.reader().await?;
        let mut values: Values<'_> =
            vec![(&texts, Type::INT8_ARRAY), (&since, Type::TIMESTAMPTZ), (&until, Type::TIMESTAMPTZ)];
        let mut conditions = filter.conditions(&mut values);
        conditions.push_str(&filter.span_conditions(&mut values, 2, false));
        if filter.looks_at_rows() {
            conditions = format!(
                "AND EXISTS (SELECT FROM otel.otel_traces t WHERE t.trace_id = l.trace_id AND t.bucket = l.bucket
                             AND t.start_time >= $2 AND t.start_time < $3 {conditions})"
            );
        } else {
            // Only the id can be left, and the link has it too.
            conditions = conditions.replace("t.trace_id", "l.trace_id");
        }
        let links = format!(
            "FROM otel.otel_trace_texts l
             WHERE l.text_id = u.text_id AND {} {conditions}",
            buckets.hold(&mut values, "l.bucket")
        );
        let rows = client
            .query_typed(
                &format!(
                    "SELECT {TRACE_COLUMNS}, u.text_id, c.n, (SELECT text FROM otel.otel_texts y WHERE y.text_id = u.text_id)
                     FROM unnest($1::bigint[]) WITH ORDINALITY AS u (text_id, place)
                     CROSS JOIN LATERAL (SELECT count(*) AS n {links}) c
                     CROSS JOIN LATERAL (SELECT l.trace_id, l.bucket {links}
                                         ORDER BY l.bucket DESC, l.trace_id DESC LIMIT 1) n
                     CROSS JOIN LATERAL (SELECT * FROM otel.otel_traces t WHERE t.trace_id = n.trace_id AND t.bucket = n.bucket
                                         OFFSET 0) t
                     LEFT JOIN otel.otel_texts x ON x.text_id = t.text_ids[1]
                     ORDER BY u.place"
                ),
                &values,
            )
            .await?;
        rows.iter()
            .map(|row| {
                Ok(TextTraces {
                    newest: TraceRow::from_row(row)?,
                    text_id: row.try_get(16)?,
                    count: row.try_get(17)?,
                    text: row.try_get(18)?,
                })
            })
            .collect()
    }
}
