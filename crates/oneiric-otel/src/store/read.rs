//! Records read back whole, as they came.

use std::collections::HashMap;
use std::sync::Arc;

use opentelemetry_proto::tonic::logs::v1::LogRecord;
use opentelemetry_proto::tonic::metrics::v1::Metric;
use opentelemetry_proto::tonic::trace::v1::Span;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;
use uuid::Uuid;

use super::database::{Client, Database};
use super::error::StoreError;
use super::rows::{self, DecodeError};
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
        self.spans("trace_id = $1", &[&Uuid::from_bytes(trace_id)]).await
    }

    /// The log records of a trace in order of their time.
    pub async fn trace_logs(&self, trace_id: [u8; 16]) -> Result<Vec<Stored<LogRecord>>, StoreError> {
        self.logs("trace_id = $1", &[&Uuid::from_bytes(trace_id)]).await
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
            "SELECT {columns}, s.resource_id, s.scope_id, s.metric_name, s.metric_type, s.temporality, s.monotonic,
                    s.unit, s.description, s.attributes, s.metadata, s.explicit_bounds, s.residue AS series_residue
             FROM otel_metrics p JOIN otel_metric_series s USING (series_id)
             ORDER BY p.time, p.series_id, p.point_hash"
        );
        self.read(&sql, &[], rows::metric::decode).await
    }

    async fn spans(&self, condition: &str, arguments: &[&(dyn ToSql + Sync)]) -> Result<Vec<Stored<Span>>, StoreError> {
        let columns = rows::span::COLUMNS.join(", ");
        let sql = format!(
            "SELECT {columns} FROM otel_spans WHERE {condition} ORDER BY start_time, start_ns, span_id, span_hash"
        );
        self.read(&sql, arguments, rows::span::decode).await
    }

    async fn logs(
        &self,
        condition: &str,
        arguments: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Stored<LogRecord>>, StoreError> {
        let columns = rows::log::COLUMNS.join(", ");
        let sql = format!("SELECT {columns} FROM otel_logs WHERE {condition} ORDER BY time, time_ns");
        self.read(&sql, arguments, rows::log::decode).await
    }

    async fn read<R>(
        &self,
        sql: &str,
        arguments: &[&(dyn ToSql + Sync)],
        decode: impl Fn(&Row) -> Result<R, DecodeError>,
    ) -> Result<Vec<Stored<R>>, StoreError> {
        let client = self.client().await?;
        let rows = client.query(sql, arguments).await?;
        let mut owners = Owners::default();
        let mut stored = Vec::with_capacity(rows.len());
        for row in &rows {
            let record = decode(row).map_err(damaged)?;
            let resource = owners.resource(&client, row.get("resource_id")).await?;
            let scope = owners.scope(&client, row.get("scope_id")).await?;
            stored.push(Stored { resource, scope, record });
        }
        Ok(stored)
    }
}

/// Resources and scopes read so far.
#[derive(Default)]
struct Owners {
    resources: HashMap<i64, Arc<ResourceEnvelope>>,
    scopes: HashMap<i32, Arc<ScopeEnvelope>>,
}

impl Owners {
    async fn resource(&mut self, client: &Client, id: i64) -> Result<Arc<ResourceEnvelope>, StoreError> {
        if let Some(known) = self.resources.get(&id) {
            return Ok(Arc::clone(known));
        }
        let row = client.query_one("SELECT envelope FROM otel_resources WHERE resource_id = $1", &[&id]).await?;
        let envelope = ResourceEnvelope::from_protobuf(row.get(0)).map_err(|error| damaged(error.into()))?;
        let envelope = Arc::new(envelope);
        self.resources.insert(id, Arc::clone(&envelope));
        Ok(envelope)
    }

    async fn scope(&mut self, client: &Client, id: i32) -> Result<Arc<ScopeEnvelope>, StoreError> {
        if let Some(known) = self.scopes.get(&id) {
            return Ok(Arc::clone(known));
        }
        let row = client.query_one("SELECT envelope FROM otel_scopes WHERE scope_id = $1", &[&i64::from(id)]).await?;
        let envelope = ScopeEnvelope::from_protobuf(row.get(0)).map_err(|error| damaged(error.into()))?;
        let envelope = Arc::new(envelope);
        self.scopes.insert(id, Arc::clone(&envelope));
        Ok(envelope)
    }
}

#[expect(clippy::needless_pass_by_value, reason = "the shape that map_err wants")]
fn damaged(error: DecodeError) -> StoreError {
    StoreError::misconfigured(format!("a stored record cannot be read back: {error}"))
}
