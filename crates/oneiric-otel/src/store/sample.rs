//! Attributes of the newest records of every service: what completion is made of.
//!
//! The rows come through the indexes on service and time, as many of each service, so that a quiet service is heard too
//! and no table is read whole.

use tokio_postgres::types::{ToSql, Type};

use super::attributes::{Values, push};
use super::copy::Micros;
use super::database::Database;
use super::error::StoreError;

/// Services whose records are read at most.
const SERVICES: i64 = 500;
/// Records that are read at most, of all services together and of each.
const RECORDS: i64 = 5000;
const LEAST_OF_SERVICE: i64 = 10;
const MOST_OF_SERVICE: i64 = 1000;
/// Characters of a value.
const VALUE_CHARACTERS: i32 = 256;

/// Whose attributes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SampleOf {
    Spans,
    Logs,
    Series,
}

/// An attribute of one type at one place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KeyRow {
    pub(crate) key: String,
    /// Whether it is the resource's and not the record's.
    pub(crate) of_resource: bool,
    pub(crate) kind: String,
    pub(crate) records: i64,
}

/// A value of an attribute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ValueRow {
    pub(crate) value: String,
    pub(crate) kind: String,
    pub(crate) records: i64,
}

/// What was found in so many records.
#[derive(Debug, Clone)]
pub(crate) struct Found<R> {
    pub(crate) rows: Vec<R>,
    pub(crate) records: i64,
}

/// The type of the JSON `a.value`.
const KIND: &str = "CASE jsonb_typeof(a.value)
    WHEN 'number' THEN CASE WHEN a.value::text ~ '^-?[0-9]+$' THEN 'integer' ELSE 'double' END
    ELSE jsonb_typeof(a.value) END";

/// That points of a series may have come since the time of a parameter, by when the series was last seen. That is noted
/// once a day, in days of the database's own; and who sends points of the future sends them now.
pub(super) fn seen_since(last_seen: &str, time: &str) -> String {
    format!("{last_seen} >= (least({time}, now()) AT TIME ZONE 'UTC')::date - 3")
}

/// The sampled records `r` and all their attributes `a`, as common table expressions. Parameters: names of services,
/// start, end, records of a service.
fn sampled(of: SampleOf) -> String {
    let records = match of {
        SampleOf::Spans => {
            "SELECT s.attributes, s.resource_id FROM otel.otel_spans s
             WHERE s.service_name = n.name AND s.start_time >= $2 AND s.start_time < $3
             ORDER BY s.start_time DESC LIMIT $4"
        }
        SampleOf::Logs => {
            "SELECT l.attributes, l.resource_id FROM otel.otel_logs l
             WHERE l.service_name = n.name AND l.time >= $2 AND l.time < $3
             ORDER BY l.time DESC LIMIT $4"
        }
        SampleOf::Series => &format!(
            "SELECT m.attributes, m.resource_id FROM otel.otel_metric_series m
             WHERE left(m.service_name, 256) = n.name AND {} AND $3::timestamptz IS NOT NULL
             ORDER BY m.series_id DESC LIMIT $4",
            seen_since("m.last_seen", "$2")
        ),
    };
    format!(
        "r AS MATERIALIZED (
           SELECT r.* FROM unnest($1::text[]) AS n (name) CROSS JOIN LATERAL ({records}) r),
         a AS (
           SELECT false AS of_resource, 1::bigint AS records, e.key, e.value FROM r CROSS JOIN LATERAL jsonb_each(r.attributes) e
           UNION ALL
           SELECT true, c.n, e.key, e.value
           FROM (SELECT resource_id, count(*) AS n FROM r GROUP BY resource_id) c
           JOIN otel.otel_resources o USING (resource_id) CROSS JOIN LATERAL jsonb_each(o.attributes) e)"
    )
}

impl Database {
    /// Names of attributes that begin with `prefix`, in either case, with the types of their values.
    pub(crate) async fn sampled_keys(
        &self,
        of: SampleOf,
        (start, end): (Micros, Micros),
        prefix: &str,
    ) -> Result<Found<KeyRow>, StoreError> {
        let services = self.service_names(SERVICES).await?;
        let of_service = share(services.len());
        let mut values: Values<'_> = vec![
            (&services, Type::TEXT_ARRAY),
            (&start, Type::TIMESTAMPTZ),
            (&end, Type::TIMESTAMPTZ),
            (&of_service, Type::INT8),
        ];
        let prefix = push(&mut values, &prefix as &(dyn ToSql + Sync), Type::TEXT);
        let sql = format!(
            "WITH {} SELECT k.*, (SELECT count(*) FROM r) FROM (VALUES (1)) one
             LEFT JOIN (SELECT a.key, a.of_resource, {KIND} AS kind, sum(a.records)::bigint FROM a
                        WHERE starts_with(lower(a.key), lower({prefix})) GROUP BY 1, 2, 3) k ON true",
            sampled(of)
        );
        let rows = self.reader().await?.query_typed(&sql, &values).await?;
        let mut found = Found { rows: Vec::new(), records: 0 };
        for row in &rows {
            found.records = row.try_get(4)?;
            if let Some(key) = row.try_get(0)? {
                let (of_resource, kind, records) = (row.try_get(1)?, row.try_get(2)?, row.try_get(3)?);
                found.rows.push(KeyRow { key, of_resource, kind, records });
            }
        }
        Ok(found)
    }

    /// Values of the attribute of these names that begin with `prefix`, in either case, the most frequent first.
    pub(crate) async fn sampled_values(
        &self,
        of: SampleOf,
        (start, end): (Micros, Micros),
        names: &[&str],
        prefix: &str,
        limit: i64,
    ) -> Result<Found<ValueRow>, StoreError> {
        let services = self.service_names(SERVICES).await?;
        let of_service = share(services.len());
        let mut values: Values<'_> = vec![
            (&services, Type::TEXT_ARRAY),
            (&start, Type::TIMESTAMPTZ),
            (&end, Type::TIMESTAMPTZ),
            (&of_service, Type::INT8),
        ];
        let names = push(&mut values, &names, Type::TEXT_ARRAY);
        let prefix = push(&mut values, &prefix, Type::TEXT);
        let characters = push(&mut values, &VALUE_CHARACTERS, Type::INT4);
        let limit = push(&mut values, &limit, Type::INT8);
        let sql = format!(
            "WITH {}, f AS (
               SELECT left(a.value #>> '{{}}', {characters}) AS value, {KIND} AS kind, a.records FROM a
               WHERE a.key = ANY({names}) AND starts_with(lower(a.value #>> '{{}}'), lower({prefix})))
             SELECT v.*, (SELECT count(*) FROM r) FROM (VALUES (1)) one
             LEFT JOIN (SELECT f.value, f.kind, sum(f.records)::bigint AS n FROM f GROUP BY 1, 2
                        ORDER BY n DESC, f.value COLLATE \"C\", f.kind LIMIT {limit}) v ON true
             ORDER BY v.n DESC, v.value COLLATE \"C\", v.kind",
            sampled(of)
        );
        let rows = self.reader().await?.query_typed(&sql, &values).await?;
        let mut found = Found { rows: Vec::new(), records: 0 };
        for row in &rows {
            found.records = row.try_get(3)?;
            if let Some(value) = row.try_get(0)? {
                found.rows.push(ValueRow { value, kind: row.try_get(1)?, records: row.try_get(2)? });
            }
        }
        Ok(found)
    }
}

/// Records of each of so many services.
fn share(services: usize) -> i64 {
    let services = i64::try_from(services.max(1)).unwrap_or(i64::MAX);
    (RECORDS / services).clamp(LEAST_OF_SERVICE, MOST_OF_SERVICE)
}
