//! Spans across traces, by what is known of them.
//!
//! Spans are indexed by service and time, and not by time alone. So the newest of every service are found through that
//! index, and of those the newest of all: whoever asks reads as many rows of each service as a page has, and no table.

use opentelemetry_proto::tonic::trace::v1::Span;
use tokio_postgres::types::{ToSql, Type};
use uuid::Uuid;

use super::attributes::{AttributeCondition, Values, push};
use super::copy::Micros;
use super::database::Database;
use super::error::StoreError;
use super::read::Stored;
use super::residue::prefix;
use super::rows::{self, INDEXED_TEXT_BYTES};

/// Services whose spans are looked for one by one. Of more the table is read.
const MAX_SERVICES: usize = 2000;
/// Bytes of rows of a page at most.
const MAX_PAGE_BYTES: usize = 64 << 20;

const NEWEST_FIRST: &str = "start_time DESC, start_ns DESC, trace_id DESC, span_hash DESC";

/// Which spans.
#[derive(Debug, Clone)]
pub(crate) struct SpanRows<'a> {
    pub(crate) start: Micros,
    pub(crate) end: Micros,
    pub(crate) service: Option<&'a str>,
    pub(crate) name: Option<&'a str>,
    pub(crate) status: Option<&'a str>,
    pub(crate) min_duration_ns: Option<i64>,
    pub(crate) max_duration_ns: Option<i64>,
    pub(crate) attributes: &'a [AttributeCondition],
    /// The last span of the page before.
    pub(crate) after: Option<SpanPlace>,
}

/// Where a span stands in the order of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SpanPlace {
    pub(crate) start_unix_nanos: u64,
    pub(crate) trace_id: Uuid,
    pub(crate) hash: i64,
}

impl Database {
    /// The spans that began last, those first, each with its place; and whether there are more.
    pub(crate) async fn span_rows(
        &self,
        filter: &SpanRows<'_>,
        limit: usize,
    ) -> Result<(Vec<Stored<(SpanPlace, Span)>>, bool), StoreError> {
        let services = match filter.service {
            Some(service) => Some(vec![prefix(service, INDEXED_TEXT_BYTES).to_owned()]),
            None => self.services_of_rows().await?,
        };
        let after = filter.after.map(|after| (Micros::from_unix_nanos(after.start_unix_nanos), after));
        let wanted = limit as i64 + 1;
        let mut values: Values<'_> = vec![(&filter.start, Type::TIMESTAMPTZ), (&filter.end, Type::TIMESTAMPTZ)];
        let mut conditions = "s.start_time >= $1 AND s.start_time < $2".to_owned();
        if let Some(((start, remainder), after)) = &after {
            let start = push(&mut values, start, Type::TIMESTAMPTZ);
            let place = [
                start.clone(),
                push(&mut values, remainder, Type::INT2),
                push(&mut values, &after.trace_id, Type::UUID),
                push(&mut values, &after.hash, Type::INT8),
            ];
            // The first part is for the index.
            conditions = format!(
                "{conditions} AND s.start_time <= {start}
                 AND (s.start_time, s.start_ns, s.trace_id, s.span_hash) < ({})",
                place.join(", ")
            );
        }
        filter.conditions(&mut values, &mut conditions);
        let limit_value = push(&mut values, &wanted, Type::INT8);
        let page = |condition: &str| {
            format!(
                "SELECT s.trace_id, s.start_time, s.start_ns, s.span_hash FROM otel.otel_spans s
                 WHERE {conditions} {condition} ORDER BY {NEWEST_FIRST} LIMIT {limit_value}"
            )
        };
        let places = match &services {
            None => page(""),
            Some(services) => {
                let services = push(&mut values, services, Type::TEXT_ARRAY);
                format!(
                    "SELECT p.* FROM unnest({services}::text[]) AS n (name)
                     CROSS JOIN LATERAL ({}) p ORDER BY {NEWEST_FIRST} LIMIT {limit_value}",
                    page("AND s.service_name = n.name")
                )
            }
        };
        let columns: Vec<String> = rows::span::COLUMNS.iter().map(|column| format!("w.{column}")).collect();
        let sql = format!(
            "SELECT {} FROM ({places}) p
             CROSS JOIN LATERAL (SELECT * FROM otel.otel_spans s
                                 WHERE s.trace_id = p.trace_id AND s.start_time = p.start_time
                                   AND s.span_hash = p.span_hash AND s.start_time >= $1 AND s.start_time < $2) w
             ORDER BY p.start_time DESC, p.start_ns DESC, p.trace_id DESC, p.span_hash DESC",
            columns.join(", ")
        );
        let decode = |row: &tokio_postgres::Row| {
            let span = rows::span::decode(row)?;
            let place = SpanPlace {
                start_unix_nanos: span.start_time_unix_nano,
                trace_id: row.get("trace_id"),
                hash: row.get("span_hash"),
            };
            Ok((place, span))
        };
        self.read_some(&sql, values, decode, (limit, MAX_PAGE_BYTES)).await
    }

    /// Names of all services as rows of spans have them; none when there are too many.
    async fn services_of_rows(&self) -> Result<Option<Vec<String>>, StoreError> {
        let names = self.service_names(MAX_SERVICES as i64 + 1).await?;
        if names.len() > MAX_SERVICES {
            return Ok(None);
        }
        let mut names: Vec<String> = names.iter().map(|name| prefix(name, INDEXED_TEXT_BYTES).to_owned()).collect();
        names.sort_unstable();
        names.dedup();
        Ok(Some(names))
    }
}

impl<'a> SpanRows<'a> {
    /// Appends what is asked of a span `s` beyond its time and service.
    fn conditions(&'a self, values: &mut Values<'a>, sql: &mut String) {
        let mut add = |condition: &str, value: &'a (dyn ToSql + Sync), kind: Type| {
            let value = push(values, value, kind);
            sql.push_str(" AND ");
            sql.push_str(&condition.replace('?', &value));
        };
        if let Some(name) = &self.name {
            add("s.name = ?", name, Type::TEXT);
        }
        if let Some(status) = &self.status {
            add("s.status = ?", status, Type::TEXT);
        }
        if let Some(duration) = &self.min_duration_ns {
            add("s.duration_ns >= ?", duration, Type::INT8);
        }
        if let Some(duration) = &self.max_duration_ns {
            add("s.duration_ns <= ?", duration, Type::INT8);
        }
        for attribute in self.attributes {
            let condition = attribute.on_span(values);
            sql.push_str(" AND ");
            sql.push_str(&condition);
        }
    }
}
