//! What there is: services, their operations, and who calls whom.
//!
//! Counts of traces come from all rows of `otel_traces` in a range. What only spans tell is read from a sample of its
//! traces: those whose ids have the smallest hashes. Such a sample is uniform whatever the ids are, is the same every
//! time, and keeps spans and their parents together.

use tokio_postgres::Row;
use tokio_postgres::types::{ToSql, Type};
use uuid::Uuid;

use super::attributes::{Values, push};
use super::copy::Micros;
use super::database::Database;
use super::error::StoreError;

/// Times of the traces that are meant: when they began.
pub(crate) type Range = (Micros, Micros);

/// What the rows of traces tell of a service.
#[derive(Debug, Clone)]
pub(crate) struct ServiceRow {
    pub(crate) name: String,
    pub(crate) traces: i64,
    pub(crate) failed_traces: i64,
    pub(crate) last_seen: Micros,
}

/// A trace of a sample.
#[derive(Debug, Clone)]
pub(crate) struct SampledTrace {
    pub(crate) trace_id: Uuid,
    pub(crate) from: Micros,
    pub(crate) to: Micros,
    pub(crate) span_count: i64,
    pub(crate) duration_ns: i64,
    pub(crate) root_service: String,
    pub(crate) root_seen: bool,
}

/// Spans counted by service.
#[derive(Debug, Clone)]
pub(crate) struct SpanCount {
    pub(crate) service: String,
    pub(crate) spans: i64,
    pub(crate) failed: i64,
}

/// Spans of one name and kind.
#[derive(Debug, Clone)]
pub(crate) struct OperationRow {
    pub(crate) name: String,
    pub(crate) kind: String,
    pub(crate) counted: Counted,
    pub(crate) last_seen: Micros,
}

/// Calls from one node to another.
#[derive(Debug, Clone)]
pub(crate) struct EdgeRow {
    pub(crate) caller_kind: String,
    pub(crate) caller: String,
    pub(crate) callee_kind: String,
    pub(crate) callee: String,
    pub(crate) counted: Counted,
}

/// How many, how many failed, and how long they took.
#[derive(Debug, Clone)]
pub(crate) struct Counted {
    pub(crate) count: i64,
    pub(crate) failed: i64,
    /// The median and the 95th and 99th percentiles, in nanoseconds.
    pub(crate) percentiles: Vec<i64>,
}

impl Counted {
    fn from_row(row: &Row, first: usize) -> Result<Self, StoreError> {
        Ok(Self { count: row.try_get(first)?, failed: row.try_get(first + 1)?, percentiles: row.try_get(first + 2)? })
    }
}

/// The columns of [`Counted`].
const COUNTED: &str = "count(*), count(*) FILTER (WHERE status = 'error'),
    percentile_disc(ARRAY[0.5, 0.95, 0.99]) WITHIN GROUP (ORDER BY duration_ns)";

/// Spans of sampled traces, as `s`, of `unnest($1, $2, $3)`. `OFFSET 0` keeps the planner from reading all spans for it.
fn spans_of_sample(columns: &str, condition: &str) -> String {
    format!(
        "unnest($1::uuid[], $2::timestamptz[], $3::timestamptz[]) AS u (trace_id, seen_from, seen_to)
         CROSS JOIN LATERAL (SELECT {columns} FROM otel.otel_spans s
                             WHERE s.trace_id = u.trace_id AND s.start_time >= u.seen_from AND s.start_time <= u.seen_to
                               {condition} OFFSET 0) s"
    )
}

/// The parameters of [`spans_of_sample`].
struct SampleArrays {
    ids: Vec<Uuid>,
    from: Vec<Micros>,
    to: Vec<Micros>,
}

impl SampleArrays {
    fn of(sample: &[SampledTrace]) -> Self {
        Self {
            ids: sample.iter().map(|trace| trace.trace_id).collect(),
            from: sample.iter().map(|trace| trace.from).collect(),
            to: sample.iter().map(|trace| trace.to).collect(),
        }
    }

    fn arguments(&self) -> Vec<(&(dyn ToSql + Sync), Type)> {
        vec![(&self.ids, Type::UUID_ARRAY), (&self.from, Type::TIMESTAMPTZ_ARRAY), (&self.to, Type::TIMESTAMPTZ_ARRAY)]
    }
}

impl Database {
    /// Services by name, with the traces in which they took part.
    pub(crate) async fn service_rows(&self, (start, end): Range) -> Result<Vec<ServiceRow>, StoreError> {
        let buckets = self.buckets(start, end).await?;
        let mut arguments: Values<'_> = vec![(&start, Type::TIMESTAMPTZ), (&end, Type::TIMESTAMPTZ)];
        let sql = format!(
            "SELECT s.name, count(*), count(*) FILTER (WHERE t.status = 'error'), max(t.start_time)
             FROM otel.otel_traces t CROSS JOIN LATERAL unnest(t.services) AS s (name)
             WHERE t.start_time >= $1 AND t.start_time < $2 AND {}
             GROUP BY s.name ORDER BY s.name COLLATE \"C\"",
            buckets.hold(&mut arguments, "t.bucket")
        );
        let rows = self.reader().await?.query_typed(&sql, &arguments).await?;
        rows.iter()
            .map(|row| {
                Ok(ServiceRow {
                    name: row.try_get(0)?,
                    traces: row.try_get(1)?,
                    failed_traces: row.try_get(2)?,
                    last_seen: row.try_get(3)?,
                })
            })
            .collect()
    }

    /// How many traces there are, and a uniform sample of at most `limit` of them. With `service`, of those in which it
    /// took part.
    pub(crate) async fn sample_traces(
        &self,
        (start, end): Range,
        service: Option<&str>,
        limit: i64,
    ) -> Result<(i64, Vec<SampledTrace>), StoreError> {
        let buckets = self.buckets(start, end).await?;
        let mut arguments: Values<'_> = vec![(&start, Type::TIMESTAMPTZ), (&end, Type::TIMESTAMPTZ)];
        let mut condition =
            format!("t.start_time >= $1 AND t.start_time < $2 AND {}", buckets.hold(&mut arguments, "t.bucket"));
        if let Some(service) = &service {
            let service = push(&mut arguments, service, Type::TEXT);
            condition = format!("{condition} AND {service} = ANY(t.services)");
        }
        let reader = self.reader().await?;
        let count = format!("SELECT count(*) FROM otel.otel_traces t WHERE {condition}");
        let count: i64 = reader.query_typed_one(&count, &arguments).await?.try_get(0)?;
        arguments.push((&limit, Type::INT8));
        let sql = format!(
            "SELECT t.trace_id, t.seen_from, t.seen_to, t.span_count::bigint, t.duration_ns, t.service_name, t.root_seen
             FROM otel.otel_traces t WHERE {condition}
             ORDER BY uuid_hash_extended(t.trace_id, 0), t.trace_id LIMIT ${}",
            arguments.len()
        );
        let rows = reader.query_typed(&sql, &arguments).await?;
        let sample = rows.iter().map(|row| {
            Ok(SampledTrace {
                trace_id: row.try_get(0)?,
                from: row.try_get(1)?,
                to: row.try_get(2)?,
                span_count: row.try_get(3)?,
                duration_ns: row.try_get(4)?,
                root_service: row.try_get(5)?,
                root_seen: row.try_get(6)?,
            })
        });
        Ok((count, sample.collect::<Result<_, StoreError>>()?))
    }

    /// Spans of a sample, counted by service.
    pub(crate) async fn count_spans(&self, sample: &[SampledTrace]) -> Result<Vec<SpanCount>, StoreError> {
        let sql = format!(
            "SELECT s.service_name, count(*), count(*) FILTER (WHERE s.status = 'error') FROM {} GROUP BY 1",
            spans_of_sample("s.service_name, s.status", "")
        );
        let rows = self.reader().await?.query_typed(&sql, &SampleArrays::of(sample).arguments()).await?;
        rows.iter()
            .map(|row| Ok(SpanCount { service: row.try_get(0)?, spans: row.try_get(1)?, failed: row.try_get(2)? }))
            .collect()
    }

    /// Operations of a service in a sample, the most frequent first.
    pub(crate) async fn operation_rows(
        &self,
        sample: &[SampledTrace],
        service: &str,
        limit: i64,
    ) -> Result<Vec<OperationRow>, StoreError> {
        let sql = format!(
            "SELECT name, kind, {COUNTED}, max(start_time) FROM {} GROUP BY name, kind
             ORDER BY 3 DESC, name COLLATE \"C\", kind LIMIT $5",
            spans_of_sample("s.name, s.kind, s.status, s.duration_ns, s.start_time", "AND s.service_name = $4")
        );
        let arrays = SampleArrays::of(sample);
        let mut arguments = arrays.arguments();
        arguments.push((&service, Type::TEXT));
        arguments.push((&limit, Type::INT8));
        let rows = self.reader().await?.query_typed(&sql, &arguments).await?;
        rows.iter()
            .map(|row| {
                Ok(OperationRow {
                    name: row.try_get(0)?,
                    kind: row.try_get(1)?,
                    counted: Counted::from_row(row, 2)?,
                    last_seen: row.try_get(5)?,
                })
            })
            .collect()
    }

    /// Calls between services of a sample, and from them to what sends no spans of its own: databases, queues, models
    /// and other peers that attributes name. The most frequent first.
    pub(crate) async fn edge_rows(&self, sample: &[SampledTrace], limit: i64) -> Result<Vec<EdgeRow>, StoreError> {
        let sql = format!(
            "WITH s AS MATERIALIZED (SELECT u.trace_id, s.* FROM {spans}),
             parents AS (SELECT DISTINCT ON (trace_id, span_id) trace_id, span_id, service_name FROM s
                         ORDER BY trace_id, span_id),
             names AS (SELECT DISTINCT service_name FROM s),
             children AS (
               SELECT p.trace_id, p.span_id, p.service_name AS caller, c.service_name AS callee, c.status, c.duration_ns
               FROM s c JOIN parents p ON p.trace_id = c.trace_id AND p.span_id = c.parent_span_id
               WHERE p.service_name <> c.service_name),
             calls AS (
               SELECT 'service' AS caller_kind, caller, 'service' AS callee_kind, callee, status, duration_ns FROM children
               UNION ALL
               SELECT CASE WHEN s.kind = 'consumer' THEN 'queue' ELSE 'service' END,
                      CASE WHEN s.kind = 'consumer' THEN s.peer ELSE s.service_name END,
                      CASE WHEN s.kind = 'consumer' THEN 'service'
                           WHEN s.peer_kind = 'external' AND s.peer IN (SELECT service_name FROM names) THEN 'service'
                           ELSE s.peer_kind END,
                      CASE WHEN s.kind = 'consumer' THEN s.service_name ELSE s.peer END,
                      s.status, s.duration_ns
               FROM s
               WHERE s.peer IS NOT NULL AND s.peer <> s.service_name
                 AND (s.kind = 'client' OR (s.kind IN ('producer', 'consumer') AND s.peer_kind = 'queue'))
                 AND (s.peer_kind = 'queue'
                      OR NOT EXISTS (SELECT FROM children c WHERE c.trace_id = s.trace_id AND c.span_id = s.span_id)))
             SELECT caller_kind, caller, callee_kind, callee, {COUNTED} FROM calls GROUP BY 1, 2, 3, 4
             ORDER BY 5 DESC, caller COLLATE \"C\", callee COLLATE \"C\", caller_kind, callee_kind LIMIT $4",
            spans = spans_of_sample(
                &format!(
                    "s.span_id, s.parent_span_id, s.service_name, s.kind, s.status, s.duration_ns,
                     CASE WHEN s.kind IN ('client', 'producer', 'consumer') THEN {PEER_KIND} END AS peer_kind,
                     CASE WHEN s.kind IN ('client', 'producer', 'consumer') THEN left({PEER}, 256) END AS peer"
                ),
                ""
            )
        );
        let arrays = SampleArrays::of(sample);
        let mut arguments = arrays.arguments();
        arguments.push((&limit, Type::INT8));
        let rows = self.reader().await?.query_typed(&sql, &arguments).await?;
        rows.iter()
            .map(|row| {
                Ok(EdgeRow {
                    caller_kind: row.try_get(0)?,
                    caller: row.try_get(1)?,
                    callee_kind: row.try_get(2)?,
                    callee: row.try_get(3)?,
                    counted: Counted::from_row(row, 4)?,
                })
            })
            .collect()
    }
}

/// What kind of thing the attributes of `s` name at the other end.
const PEER_KIND: &str = "CASE WHEN otel.otel_attr(s.attributes, 'db.system.name') <> '' THEN 'database'
    WHEN s.attributes ->> 'messaging.system' <> '' THEN 'queue'
    WHEN otel.otel_attr(s.attributes, 'gen_ai.provider.name') <> '' THEN 'model'
    ELSE 'external' END";

/// What it is called; null where nothing names it.
const PEER: &str = "CASE WHEN otel.otel_attr(s.attributes, 'db.system.name') <> ''
      THEN concat_ws('/', otel.otel_attr(s.attributes, 'db.system.name'),
                     coalesce(nullif(otel.otel_attr(s.attributes, 'db.namespace'), ''),
                              nullif(otel.otel_attr(s.attributes, 'server.address'), '')))
    WHEN s.attributes ->> 'messaging.system' <> ''
      THEN concat_ws('/', s.attributes ->> 'messaging.system',
                     nullif(otel.otel_attr(s.attributes, 'messaging.destination.name'), ''))
    WHEN otel.otel_attr(s.attributes, 'gen_ai.provider.name') <> ''
      THEN concat_ws('/', otel.otel_attr(s.attributes, 'gen_ai.provider.name'),
                     nullif(otel.otel_attr(s.attributes, 'gen_ai.request.model'), ''))
    ELSE coalesce(nullif(otel.otel_attr(s.attributes, 'service.peer.name'), ''),
                  nullif(otel.otel_attr(s.attributes, 'server.address'), '')) END";
