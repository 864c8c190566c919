//! The calendar of a simulation: what retention compares with the clock is moved, and the clock stays as it is.
//!
//! SQL of its own, as that of `database`. Nothing here is done by the product or changes what it stores.

use std::iter::Sum;
use std::ops::Add;
use std::time::Duration;

use anyhow::{Context as _, Result};
use jiff::Timestamp;
use serde::Serialize;
use tokio_postgres::Client;

const DAY: Duration = Duration::from_hours(24);

/// Records by signal.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Count {
    /// Spans.
    pub spans: u64,
    /// Log records.
    pub log_records: u64,
    /// Data points.
    pub data_points: u64,
}

impl Count {
    /// Of all signals.
    pub fn sum(self) -> u64 {
        self.spans + self.log_records + self.data_points
    }
}

impl Add for Count {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            spans: self.spans + other.spans,
            log_records: self.log_records + other.log_records,
            data_points: self.data_points + other.data_points,
        }
    }
}

impl Sum for Count {
    fn sum<I: Iterator<Item = Self>>(counts: I) -> Self {
        counts.fold(Self::default(), Add::add)
    }
}

/// What a database holds.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Held {
    /// Bytes of the database, with everything in it.
    pub bytes: u64,
    /// Partitions of all tables.
    pub partitions: u64,
    /// Rows that came.
    pub rows: Count,
    /// Traces that were derived.
    pub traces: u64,
}

/// Simulated days of a database.
pub(super) struct Calendar {
    pub(super) client: Client,
    first_day: Timestamp,
    keep_days: u32,
}

impl Calendar {
    pub(super) fn new(client: Client, first_day: Timestamp, keep_days: u32) -> Self {
        Self { client, first_day, keep_days }
    }

    /// When a day begins, of which the first is 0.
    fn start(&self, day: u32) -> Result<Timestamp> {
        self.first_day.checked_add(DAY * day).context("a day after the end of time")
    }

    /// Its number, counted since 1970.
    pub(super) fn number(&self, day: u32) -> Result<u64> {
        Ok(u64::try_from(self.start(day)?.as_second())? / DAY.as_secs())
    }

    pub(super) fn date(&self, day: u32) -> Result<String> {
        Ok(self.start(day)?.to_string().chars().take(10).collect())
    }

    /// It is the start of this day now. What was written to a partition came before its end; every table keeps as much
    /// longer as this day lies back; the clock has been watched.
    pub(super) async fn begin(&self, day: u32) -> Result<()> {
        let start = self.start(day)?.as_second() as f64;
        let kept = DAY.as_secs_f64() * f64::from(self.keep_days);
        let statements = format!(
            "UPDATE otel.otel_partition_writes w
             SET last_write = least(w.last_write, p.upper_bound - interval '2 hours'), relation = NULL
             FROM otel.otel_partitioned_tables t CROSS JOIN LATERAL otel.otel_partitions(t.parent) p
             WHERE p.partition = w.partition AND w.retired_at IS NULL AND p.upper_bound <= to_timestamp({start});
             UPDATE otel.otel_partitioned_tables
             SET retention = make_interval(secs => extract(epoch FROM now())::double precision - {start} + {kept});
             UPDATE otel.otel_retention_clock SET looked_at = now(), steady_since = now() - interval '2 days'"
        );
        self.client.batch_execute(&statements).await.context("move the calendar")
    }

    /// What is stored of a day.
    pub(super) async fn count(&self, day: u32) -> Result<Count> {
        let (start, end) = (self.start(day)?.as_second(), self.start(day + 1)?.as_second());
        let of = |table: &str, column: &str| {
            format!(
                "(SELECT count(*) FROM otel.{table} WHERE {column} >= to_timestamp({start}) AND {column} < to_timestamp({end}))"
            )
        };
        let sql = format!(
            "SELECT {}, {}, {}",
            of("otel_spans", "start_time"),
            of("otel_logs", "time"),
            of("otel_metrics", "time")
        );
        let row = self.client.query_one(&sql, &[]).await?;
        let number = |at: usize| row.get::<_, i64>(at).unsigned_abs();
        Ok(Count { spans: number(0), log_records: number(1), data_points: number(2) })
    }

    /// What is there.
    pub(super) async fn held(&self) -> Result<Held> {
        let sql = "SELECT pg_database_size(current_database()),
                          (SELECT count(*) FROM otel.otel_partitioned_tables t CROSS JOIN LATERAL otel.otel_partitions(t.parent)),
                          (SELECT count(*) FROM otel.otel_spans), (SELECT count(*) FROM otel.otel_logs),
                          (SELECT count(*) FROM otel.otel_metrics), (SELECT count(*) FROM otel.otel_traces)";
        let row = self.client.query_one(sql, &[]).await?;
        let number = |at: usize| row.get::<_, i64>(at).unsigned_abs();
        Ok(Held {
            bytes: number(0),
            partitions: number(1),
            rows: Count { spans: number(2), log_records: number(3), data_points: number(4) },
            traces: number(5),
        })
    }
}
