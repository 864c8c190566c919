//! Finding a value in the attributes of spans, whatever the attribute is called.
//!
//! Partitions whose time has passed have an index on attributes, which answers for a name together with a value: the names
//! that are in use are asked for one after the other. What has no index yet is looked through, from the newest trace
//! back and only so far.

use tokio_postgres::Row;
use tokio_postgres::types::Type;
use uuid::Uuid;

use super::attributes::Values;
use super::copy::Micros;
use super::database::Database;
use super::error::StoreError;
use super::partitions::PartitionIndex;
use super::search::RowFilter;

/// Partitions with an index that are asked at most, the newest first.
const PARTITIONS: i64 = 120;
/// Traces that are looked through at most, and spans of one.
const TRACES: i64 = 2000;
const SPANS_OF_TRACE: i64 = 50;
/// Bytes, as stored, of the attributes of a span that is looked through. Larger ones are prompts and the like.
const ATTRIBUTES_BYTES: i32 = 4096;
/// Resources of one attribute that are looked up at most.
const RESOURCES: i64 = 1000;

/// A value that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FoundValue {
    pub(crate) trace_id: Uuid,
    /// Name of the attribute.
    pub(crate) key: String,
}

/// Attributes with the value that is looked for: a name and a JSON document that attributes contain.
#[derive(Debug, Clone, Default)]
pub(crate) struct ValueForms {
    pub(crate) keys: Vec<String>,
    pub(crate) documents: Vec<String>,
}

impl Database {
    /// Traces with a span that has the value in an attribute, in partitions with an index on attributes, the newest first and
    /// each once.
    pub(crate) async fn value_in_index(
        &self,
        forms: &ValueForms,
        filter: &RowFilter,
        limit: usize,
    ) -> Result<Vec<FoundValue>, StoreError> {
        let mut found: Vec<FoundValue> = Vec::new();
        for (from, until) in self.indexed_times(filter).await? {
            for row in self.spans_with_value(forms, (from, until), limit).await? {
                let new = FoundValue { trace_id: row.get(0), key: row.get(1) };
                if !found.iter().any(|known| known.trace_id == new.trace_id) {
                    found.push(new);
                }
            }
            if found.len() >= limit {
                break;
            }
        }
        found.truncate(limit);
        Ok(found)
    }

    async fn spans_with_value(
        &self,
        forms: &ValueForms,
        (from, until): (Micros, Micros),
        limit: usize,
    ) -> Result<Vec<Row>, StoreError> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let sql = "SELECT f.trace_id, u.key
             FROM unnest($1::text[], $2::text[]) AS u (key, document)
             CROSS JOIN LATERAL (SELECT s.trace_id, s.start_time FROM otel.otel_spans s
                                 WHERE s.attributes @> u.document::jsonb AND s.start_time >= $3 AND s.start_time < $4
                                 LIMIT $5) f
             ORDER BY f.start_time DESC, f.trace_id, u.key";
        let arguments: [(&(dyn tokio_postgres::types::ToSql + Sync), Type); 5] = [
            (&forms.keys, Type::TEXT_ARRAY),
            (&forms.documents, Type::TEXT_ARRAY),
            (&from, Type::TIMESTAMPTZ),
            (&until, Type::TIMESTAMPTZ),
            (&limit, Type::INT8),
        ];
        // Of a value that it does not know the planner expects too much to trust the index.
        self.reader().await?.query_after("SET LOCAL enable_seqscan = off", sql, &arguments).await
    }

    /// The times of the partitions of spans with an index on attributes, as far as the filter lets spans through.
    async fn indexed_times(&self, filter: &RowFilter) -> Result<Vec<(Micros, Micros)>, StoreError> {
        let (since, until) = (filter.since(), filter.until());
        let suffix = PartitionIndex::SpanAttributes.suffix();
        let rows = self
            .reader()
            .await?
            .query_typed(
                "SELECT greatest(p.lower_bound, $2), least(p.upper_bound, $3)
                 FROM otel.otel_partitions('otel_spans') p
                 JOIN pg_index i ON i.indexrelid = to_regclass(format('otel.%I', p.partition || $1)) AND i.indisvalid
                 WHERE p.upper_bound > $2 AND p.lower_bound < $3
                 ORDER BY p.upper_bound DESC LIMIT $4",
                &[
                    (&suffix, Type::TEXT),
                    (&since, Type::TIMESTAMPTZ),
                    (&until, Type::TIMESTAMPTZ),
                    (&PARTITIONS, Type::INT8),
                ],
            )
            .await?;
        Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
    }

    /// Resources with the value in an attribute, and the attribute's name.
    pub(crate) async fn resources_with_value(&self, forms: &ValueForms) -> Result<Vec<(i64, String)>, StoreError> {
        let rows = self
            .reader()
            .await?
            .query_typed(
                "SELECT f.resource_id, u.key FROM unnest($1::text[], $2::text[]) AS u (key, document)
                 CROSS JOIN LATERAL (SELECT r.resource_id FROM otel.otel_resources r
                                     WHERE r.attributes @> u.document::jsonb ORDER BY r.resource_id DESC LIMIT $3) f",
                &[(&forms.keys, Type::TEXT_ARRAY), (&forms.documents, Type::TEXT_ARRAY), (&RESOURCES, Type::INT8)],
            )
            .await?;
        Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
    }

    /// Among the newest traces those with a span that has the value in an attribute, or is of one of the resources.
    pub(crate) async fn value_in_newest(
        &self,
        value: &str,
        resources: &[(i64, String)],
        filter: &RowFilter,
        limit: usize,
    ) -> Result<Vec<FoundValue>, StoreError> {
        let (since, until) = filter.times();
        let buckets = self.buckets(since, until).await?;
        let (ids, names): (Vec<i64>, Vec<&str>) = resources.iter().map(|(id, name)| (*id, name.as_str())).unzip();
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let mut values: Values<'_> = vec![
            (&since, Type::TIMESTAMPTZ),
            (&until, Type::TIMESTAMPTZ),
            (&value, Type::TEXT),
            (&ids, Type::INT8_ARRAY),
            (&names, Type::TEXT_ARRAY),
            (&limit, Type::INT8),
        ];
        let sql = format!(
            "SELECT t.trace_id, f.key
             FROM (SELECT t.trace_id, t.seen_from, t.seen_to, t.start_time FROM otel.otel_traces t
                   WHERE t.start_time >= $1 AND t.start_time < $2 AND {}
                   ORDER BY t.start_time DESC, t.trace_id DESC LIMIT {TRACES}) t
             CROSS JOIN LATERAL (
               SELECT coalesce(e.key, r.name) AS key
               FROM (SELECT s.attributes, s.resource_id FROM otel.otel_spans s
                     WHERE s.trace_id = t.trace_id AND s.start_time BETWEEN t.seen_from AND t.seen_to
                     LIMIT {SPANS_OF_TRACE}) s
               LEFT JOIN LATERAL (SELECT a.key FROM jsonb_each_text(s.attributes) a
                                  WHERE pg_column_size(s.attributes) <= {ATTRIBUTES_BYTES} AND a.value = $3
                                  ORDER BY a.key LIMIT 1) e ON true
               LEFT JOIN unnest($4::bigint[], $5::text[]) AS r (id, name) ON r.id = s.resource_id
               WHERE e.key IS NOT NULL OR r.name IS NOT NULL
               LIMIT 1) f
             ORDER BY t.start_time DESC, t.trace_id DESC LIMIT $6",
            buckets.hold(&mut values, "t.bucket")
        );
        let rows = self.reader().await?.query_typed(&sql, &values).await?;
        Ok(rows.iter().map(|row| FoundValue { trace_id: row.get(0), key: row.get(1) }).collect())
    }
}
