//! Spans of one trace: one after the other in bounded memory, and single ones by id.

use std::collections::VecDeque;

use futures::stream::{BoxStream, StreamExt as _};
use opentelemetry_proto::tonic::trace::v1::Span;
use tokio_postgres::Row;
use tokio_postgres::types::Type;
use uuid::Uuid;

use super::copy::Micros;
use super::database::{Argument, Database};
use super::error::StoreError;
use super::read::{Owners, Stored};
use super::reader::ReaderRows;
use super::rows;

/// Rows that are turned into spans at a time at most, and their bytes.
const CHUNK_ROWS: usize = 256;
const CHUNK_BYTES: usize = 4 << 20;

/// Resources and scopes that are remembered while a trace is read.
const REMEMBERED_OWNERS: usize = 10_000;

/// A trace that is being read.
struct Reading {
    database: Database,
    rows: ReaderRows,
    owners: Owners,
    ready: VecDeque<Stored<Span>>,
    ended: bool,
}

impl Database {
    /// The spans of a trace in order of their start, read as they are taken. They are those of one moment, and take one
    /// connection until the stream ends or is dropped.
    pub async fn stream_trace_spans(
        &self,
        trace_id: [u8; 16],
    ) -> Result<BoxStream<'static, Result<Stored<Span>, StoreError>>, StoreError> {
        let range = self.trace_range(trace_id).await?;
        let trace_id = Uuid::from_bytes(trace_id);
        let mut values: Vec<Argument<'_>> = vec![(&trace_id, Type::UUID)];
        // What came since the trace was derived lies anywhere.
        let mut within = "trace_id = $1";
        if let Some((from, to)) = &range {
            values.push((from, Type::TIMESTAMPTZ));
            values.push((to, Type::TIMESTAMPTZ));
            within = "trace_id = $1 AND start_time BETWEEN $2 AND $3";
        }
        let columns = rows::span::COLUMNS.join(", ");
        let sql = format!(
            "SELECT {columns} FROM otel.otel_spans WHERE {within} ORDER BY start_time, start_ns, span_id, span_hash"
        );
        let rows = self.stream(&sql, values).await?;
        let (owners, ready) = Default::default();
        let reading = Reading { database: self.clone(), rows, owners, ready, ended: false };
        Ok(futures::stream::try_unfold(reading, Reading::next).boxed())
    }

    /// The spans with this id.
    pub(crate) async fn span_by_id(&self, trace_id: [u8; 16], span_id: &[u8]) -> Result<Vec<Stored<Span>>, StoreError> {
        let range = self.trace_range(trace_id).await?;
        let (from, to) = range.unwrap_or((Micros(i64::MIN), Micros(i64::MAX)));
        self.spans(
            "trace_id = $1 AND start_time BETWEEN $2 AND $3 AND span_id = $4",
            &[
                (&Uuid::from_bytes(trace_id), Type::UUID),
                (&from, Type::TIMESTAMPTZ),
                (&to, Type::TIMESTAMPTZ),
                (&span_id, Type::BYTEA),
            ],
        )
        .await
    }
}

impl Reading {
    /// The next span, and what is left to read.
    async fn next(mut self) -> Result<Option<(Stored<Span>, Self)>, StoreError> {
        loop {
            if let Some(span) = self.ready.pop_front() {
                return Ok(Some((span, self)));
            }
            if self.ended {
                return Ok(None);
            }
            self.read_on().await?;
        }
    }

    async fn read_on(&mut self) -> Result<(), StoreError> {
        let (mut chunk, mut bytes): (Vec<Row>, usize) = (Vec::new(), 0);
        while chunk.len() < CHUNK_ROWS && bytes < CHUNK_BYTES {
            let Some(row) = self.rows.next().await? else {
                self.ended = true;
                break;
            };
            bytes += row.raw_size_bytes();
            chunk.push(row);
        }
        if self.owners.len() > REMEMBERED_OWNERS {
            self.owners = Owners::default();
        }
        self.owners.learn(&self.database, &chunk).await?;
        for row in &chunk {
            self.ready.push_back(self.owners.stored(row, rows::span::decode)?);
        }
        Ok(())
    }
}
