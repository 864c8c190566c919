//! Records read back whole, as they came.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use opentelemetry_proto::tonic::logs::v1::LogRecord;
use opentelemetry_proto::tonic::metrics::v1::Metric;
use opentelemetry_proto::tonic::trace::v1::Span;
use tokio_postgres::Row;
use tokio_postgres::types::Type;
use uuid::Uuid;

use super::copy::Micros;
use super::database::{Argument, Database};
use super::error::StoreError;
use super::logs::LogKey;
use super::reader::Reader;
use super::rows::{self, DecodeError};
use super::write::slot;
use crate::otlp::{ResourceEnvelope, ScopeEnvelope};

/// A record with whose it is.
#[derive(Debug, Clone)]
pub struct Stored<R> {
    /// The resource and its schema URL.
    pub resource: Arc<ResourceEnvelope>,
    /// The scope and its schema URL.
    pub scope: Arc<ScopeEnvelope>,
    /// The record. Metrics carry the one data point of their row.
    pub record: R,
}

impl Database {
    /// The spans of a trace in order of their start.
    pub async fn trace_spans(&self, trace_id: [u8; 16]) -> Result<Vec<Stored<Span>>, StoreError> {
        match self.trace_range(trace_id).await? {
            // What came since the trace was derived lies anywhere.
            None => self.spans("trace_id = $1", &[(&Uuid::from_bytes(trace_id), Type::UUID)]).await,
            Some((from, to)) => {
                let trace_id = Uuid::from_bytes(trace_id);
                let within = "trace_id = $1 AND start_time BETWEEN $2 AND $3";
                self.spans(within, &[(&trace_id, Type::UUID), (&from, Type::TIMESTAMPTZ), (&to, Type::TIMESTAMPTZ)])
                    .await
            }
        }
    }

    /// The log records of a trace in order of their time. A trace's row knows only the time of telling logs, so every
    /// partition is asked, through its index on the trace id.
    pub async fn trace_logs(&self, trace_id: [u8; 16]) -> Result<Vec<Stored<LogRecord>>, StoreError> {
        self.logs("trace_id = $1", &[(&Uuid::from_bytes(trace_id), Type::UUID)]).await
    }

    /// The log record that stands at a place.
    pub(crate) async fn log_record(&self, key: LogKey) -> Result<Option<Stored<LogRecord>>, StoreError> {
        let place = key.place();
        let arguments: [Argument<'_>; 3] =
            [(&key.time, Type::TIMESTAMPTZ), (&key.time_ns, Type::INT2), (&place, Type::TEXT)];
        let found = self.logs("time = $1 AND time_ns = $2 AND ctid = $3::text::tid", &arguments).await?;
        Ok(found.into_iter().next())
    }

    /// The time in which a trace's spans begin, so that few partitions are read. None while something of the trace waits
    /// to be derived.
    pub(super) async fn trace_range(&self, trace_id: [u8; 16]) -> Result<Option<(Micros, Micros)>, StoreError> {
        let trace_id = Uuid::from_bytes(trace_id);
        let reader = self.reader().await?;
        let Some(bucket) = bucket_of(&reader, trace_id).await? else { return Ok(None) };
        // With the bucket as a value one partition is planned for; joined with the keys it would be all of them.
        let row = reader
            .query_typed_opt(
                "SELECT seen_from, seen_to FROM otel.otel_traces t
                 WHERE trace_id = $1 AND bucket = $2
                   AND NOT EXISTS (SELECT FROM otel.otel_trace_touches w WHERE w.trace_id = $1 AND w.slot = $3)",
                &[(&trace_id, Type::UUID), (&bucket, Type::TIMESTAMPTZ), (&slot(trace_id.into_bytes()), Type::INT2)],
            )
            .await?;
        Ok(row.map(|row| (row.get(0), row.get(1))))
    }

    /// Every span that is stored, for tests of fidelity.
    #[doc(hidden)]
    pub async fn all_spans(&self) -> Result<Vec<Stored<Span>>, StoreError> {
        self.spans("true", &[]).await
    }

    /// Every log record that is stored, for tests of fidelity.
    #[doc(hidden)]
    pub async fn all_logs(&self) -> Result<Vec<Stored<LogRecord>>, StoreError> {
        self.logs("true", &[]).await
    }

    /// Every data point that is stored, each as a metric of its own, for tests of fidelity.
    #[doc(hidden)]
    pub async fn all_points(&self) -> Result<Vec<Stored<Metric>>, StoreError> {
        let columns = rows::metric::COLUMNS.iter().map(|column| format!("p.{column}")).collect::<Vec<_>>().join(", ");
        let sql = format!(
            "SELECT {columns}, s.resource_id, s.scope_id, {} FROM otel.otel_metrics p JOIN otel.otel_metric_series s USING (series_id)
             ORDER BY p.time, p.series_id, p.point_hash",
            rows::metric::SERIES_COLUMNS
        );
        self.read(&sql, &[], rows::metric::decode).await
    }

    pub(super) async fn spans(
        &self,
        condition: &str,
        arguments: &[Argument<'_>],
    ) -> Result<Vec<Stored<Span>>, StoreError> {
        let columns = rows::span::COLUMNS.join(", ");
        let sql = format!(
            "SELECT {columns} FROM otel.otel_spans WHERE {condition} ORDER BY start_time, start_ns, span_id, span_hash"
        );
        self.read(&sql, arguments, rows::span::decode).await
    }

    async fn logs(&self, condition: &str, arguments: &[Argument<'_>]) -> Result<Vec<Stored<LogRecord>>, StoreError> {
        let columns = rows::log::COLUMNS.join(", ");
        let sql = format!("SELECT {columns} FROM otel.otel_logs WHERE {condition} ORDER BY time, time_ns");
        self.read(&sql, arguments, rows::log::decode).await
    }

    /// At most so many records and bytes of rows, and whether there are more.
    pub(super) async fn read_some<R>(
        &self,
        sql: &str,
        arguments: Vec<Argument<'_>>,
        decode: impl Fn(&Row) -> Result<R, DecodeError>,
        (limit, bytes): (usize, usize),
    ) -> Result<(Vec<Stored<R>>, bool), StoreError> {
        let mut stream = self.stream(sql, arguments).await?;
        let (mut rows, mut read, mut more) = (Vec::new(), 0, false);
        while let Some(row) = stream.next().await? {
            read += row.raw_size_bytes();
            more = rows.len() == limit || (read > bytes && !rows.is_empty());
            if more {
                break;
            }
            rows.push(row);
        }
        drop(stream);
        let mut owners = Owners::default();
        owners.learn(self, &rows).await?;
        let stored = rows.iter().map(|row| owners.stored(row, &decode)).collect::<Result<_, _>>()?;
        Ok((stored, more))
    }

    async fn read<R>(
        &self,
        sql: &str,
        arguments: &[Argument<'_>],
        decode: impl Fn(&Row) -> Result<R, DecodeError>,
    ) -> Result<Vec<Stored<R>>, StoreError> {
        let rows = self.reader().await?.query_typed(sql, arguments).await?;
        let mut owners = Owners::default();
        owners.learn(self, &rows).await?;
        rows.iter().map(|row| owners.stored(row, &decode)).collect()
    }
}

/// Which partition of `otel_traces` holds a trace.
pub(super) async fn bucket_of(reader: &Reader, trace_id: Uuid) -> Result<Option<Micros>, StoreError> {
    let sql = "SELECT bucket FROM otel.otel_trace_keys WHERE trace_id = $1";
    Ok(reader.query_typed_opt(sql, &[(&trace_id, Type::UUID)]).await?.map(|row| row.get(0)))
}

/// Resources and scopes by their ids.
#[derive(Default)]
pub(super) struct Owners {
    resources: HashMap<i64, Arc<ResourceEnvelope>>,
    scopes: HashMap<i64, Arc<ScopeEnvelope>>,
}

impl Owners {
    /// Reads the resources and scopes of rows that are not known yet.
    pub(super) async fn learn(&mut self, database: &Database, rows: &[Row]) -> Result<(), StoreError> {
        let resource_ids: BTreeSet<i64> = rows.iter().map(|row| row.get("resource_id")).collect();
        let scope_ids: BTreeSet<i64> = rows.iter().map(|row| i64::from(row.get::<_, i32>("scope_id"))).collect();
        let resource_ids: Vec<i64> = resource_ids.into_iter().filter(|id| !self.resources.contains_key(id)).collect();
        let scope_ids: Vec<i64> = scope_ids.into_iter().filter(|id| !self.scopes.contains_key(id)).collect();
        if resource_ids.is_empty() && scope_ids.is_empty() {
            return Ok(());
        }
        let reader = database.reader().await?;
        if !resource_ids.is_empty() {
            let resources = "SELECT resource_id, envelope FROM otel.otel_resources WHERE resource_id = ANY($1)";
            for row in reader.query_typed(resources, &[(&resource_ids, Type::INT8_ARRAY)]).await? {
                let envelope = ResourceEnvelope::from_protobuf(row.get(1)).map_err(|error| damaged(error.into()))?;
                self.resources.insert(row.get(0), Arc::new(envelope));
            }
        }
        if !scope_ids.is_empty() {
            let scopes = "SELECT scope_id, envelope FROM otel.otel_scopes WHERE scope_id = ANY($1)";
            for row in reader.query_typed(scopes, &[(&scope_ids, Type::INT8_ARRAY)]).await? {
                let envelope = ScopeEnvelope::from_protobuf(row.get(1)).map_err(|error| damaged(error.into()))?;
                self.scopes.insert(row.get(0), Arc::new(envelope));
            }
        }
        Ok(())
    }

    /// The record of a row with its owners, which are known.
    pub(super) fn stored<R>(
        &self,
        row: &Row,
        decode: impl Fn(&Row) -> Result<R, DecodeError>,
    ) -> Result<Stored<R>, StoreError> {
        let (resource_id, scope_id): (i64, i32) = (row.get("resource_id"), row.get("scope_id"));
        let (Some(resource), Some(scope)) = (self.resources.get(&resource_id), self.scopes.get(&i64::from(scope_id)))
        else {
            let missing = format!("resource {resource_id} or scope {scope_id} of a stored record is not there");
            return Err(StoreError::misconfigured(missing));
        };
        let record = decode(row).map_err(damaged)?;
        Ok(Stored { resource: Arc::clone(resource), scope: Arc::clone(scope), record })
    }

    /// How many are known.
    pub(super) fn len(&self) -> usize {
        self.resources.len() + self.scopes.len()
    }
}

#[expect(clippy::needless_pass_by_value, reason = "the shape that map_err wants")]
fn damaged(error: DecodeError) -> StoreError {
    StoreError::misconfigured(format!("a stored record cannot be read back: {error}"))
}
