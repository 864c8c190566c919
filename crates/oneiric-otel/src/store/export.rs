//! All records of a range of time, in order, with bounded memory: partition by partition, and a few at a time.

use opentelemetry_proto::tonic::logs::v1::LogRecord;
use opentelemetry_proto::tonic::metrics::v1::Metric;
use opentelemetry_proto::tonic::trace::v1::Span;
use tokio_postgres::Row;
use tokio_postgres::types::Type;

use super::copy::Micros;
use super::database::{Argument, Database};
use super::error::StoreError;
use super::read::{Owners, Stored};
use super::reader::ReaderRows;
use super::residue::without_nul;
use super::rows::{self, DecodeError};
use crate::otlp::record::Record;

/// Records of a piece at most.
const PIECE_RECORDS: usize = 2000;
/// Bytes of rows after which a piece ends.
const PIECE_BYTES: usize = 2 << 20;
/// Resources and scopes that are remembered from piece to piece.
const REMEMBERED_OWNERS: usize = 10_000;

/// Which records, by their own time: the start of a span, the time of a log record or data point.
#[derive(Debug, Clone, Default)]
pub(crate) struct RecordFilter {
    pub(crate) since_unix_nanos: Option<u64>,
    pub(crate) until_unix_nanos: Option<u64>,
    pub(crate) service: Option<String>,
}

impl RecordFilter {
    /// Whether a partition can have such records.
    pub(crate) fn touches(&self, (lower, upper): (Micros, Micros)) -> bool {
        let since = self.since_unix_nanos.is_none_or(|since| Micros::from_unix_nanos(since).0 < upper);
        let until = self.until_unix_nanos.is_none_or(|until| Micros::from_unix_nanos(until).0 >= lower);
        since && until
    }
}

/// A record that has a partitioned table.
pub(crate) trait Exported: Record {
    /// The table.
    const TABLE: &'static str;

    /// The name of the record's service, and how it is written there.
    const SERVICE: (&'static str, fn(&str) -> String) = ("t.service_name", rows::service_column);

    /// Columns and tables; the record's own is `t`.
    fn source() -> String;

    /// The column of time, its nanoseconds, and what orders records of one moment. Those that are equal by it are equal.
    const ORDER: [&'static str; 3];

    fn from_row(row: &Row) -> Result<Self, DecodeError>;
}

impl Exported for Span {
    const TABLE: &'static str = "otel_spans";
    const ORDER: [&'static str; 3] = ["start_time", "start_ns", "t.trace_id, t.span_hash"];

    fn source() -> String {
        format!("{} FROM otel.otel_spans t", columns(rows::span::COLUMNS))
    }

    fn from_row(row: &Row) -> Result<Self, DecodeError> {
        rows::span::decode(row)
    }
}

impl Exported for LogRecord {
    const TABLE: &'static str = "otel_logs";
    const ORDER: [&'static str; 3] = [
        "time",
        "time_ns",
        "t.resource_id, t.scope_id, t.trace_id, t.span_id, t.severity_number, t.observed_delta_ns, t.body, t.body_json, \
         t.attributes, t.severity_text, t.event_name, t.flags, t.dropped_attributes_count, t.time_is_observed, t.residue",
    ];

    fn source() -> String {
        format!("{} FROM otel.otel_logs t", columns(rows::log::COLUMNS))
    }

    fn from_row(row: &Row) -> Result<Self, DecodeError> {
        rows::log::decode(row)
    }
}

impl Exported for Metric {
    const TABLE: &'static str = "otel_metrics";
    const SERVICE: (&'static str, fn(&str) -> String) = ("s.service_name", |name| without_nul(name).into_owned());
    const ORDER: [&'static str; 3] = ["time", "time_ns", "t.series_id, t.point_hash"];

    fn source() -> String {
        format!(
            "{}, s.resource_id, s.scope_id, {} FROM otel.otel_metrics t JOIN otel.otel_metric_series s USING (series_id)",
            columns(rows::metric::COLUMNS),
            rows::metric::SERIES_COLUMNS
        )
    }

    fn from_row(row: &Row) -> Result<Self, DecodeError> {
        rows::metric::decode(row)
    }
}

fn columns(names: &[&str]) -> String {
    names.iter().map(|name| format!("t.{name}")).collect::<Vec<_>>().join(", ")
}

/// The records of one partition, as they are read.
pub(crate) struct Exporting {
    database: Database,
    owners: Owners,
    rows: ReaderRows,
    ended: bool,
}

impl Database {
    /// The bounds of a table's partitions, in order of time.
    pub(crate) async fn partition_bounds(&self, table: &'static str) -> Result<Vec<(Micros, Micros)>, StoreError> {
        let sql = "SELECT lower_bound, upper_bound FROM otel.otel_partitions($1) ORDER BY lower_bound";
        let rows = self.query(sql, &[(&table, Type::TEXT)]).await?;
        Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
    }

    /// Begins to read the records of one partition that pass the filter.
    pub(crate) async fn export<R: Exported>(
        &self,
        partition: (Micros, Micros),
        filter: &RecordFilter,
    ) -> Result<Exporting, StoreError> {
        let [time, nanos, order] = R::ORDER;
        let (since, since_ns) = filter.since_unix_nanos.map_or((Micros(i64::MIN), 0), Micros::from_unix_nanos);
        let (until, until_ns) = filter.until_unix_nanos.map_or((Micros(i64::MAX), 0), Micros::from_unix_nanos);
        let (service_name, written) = R::SERVICE;
        let service = filter.service.as_deref().map(written);
        let sql = format!(
            "SELECT {source} WHERE t.{time} >= $1 AND t.{time} < $2
                AND (t.{time}, t.{nanos}) >= ($3, $4) AND (t.{time}, t.{nanos}) < ($5, $6)
                AND ($7::text IS NULL OR {service_name} = $7)
             ORDER BY t.{time}, t.{nanos}, {order}",
            source = R::source()
        );
        let values: Vec<Argument<'_>> = vec![
            (&partition.0, Type::TIMESTAMPTZ),
            (&partition.1, Type::TIMESTAMPTZ),
            (&since, Type::TIMESTAMPTZ),
            (&since_ns, Type::INT2),
            (&until, Type::TIMESTAMPTZ),
            (&until_ns, Type::INT2),
            (&service, Type::TEXT),
        ];
        let rows = self.stream(&sql, values).await?;
        Ok(Exporting { database: self.clone(), owners: Owners::default(), rows, ended: false })
    }
}

impl std::fmt::Debug for Exporting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Exporting").field("database", &self.database).finish_non_exhaustive()
    }
}

impl Exporting {
    /// The next records, or none after the last.
    pub(crate) async fn next<R: Exported>(&mut self) -> Result<Vec<Stored<R>>, StoreError> {
        let (mut piece, mut bytes): (Vec<Row>, usize) = (Vec::new(), 0);
        while !self.ended && piece.len() < PIECE_RECORDS && bytes < PIECE_BYTES {
            let Some(row) = self.rows.next().await? else {
                self.ended = true;
                break;
            };
            bytes += row.raw_size_bytes();
            piece.push(row);
        }
        if self.owners.len() > REMEMBERED_OWNERS {
            self.owners = Owners::default();
        }
        self.owners.learn(&self.database, &piece).await?;
        piece.iter().map(|row| self.owners.stored(row, R::from_row)).collect()
    }
}
