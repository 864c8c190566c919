//! Roll-ups of metrics: which hours are due, their points, and what became of them.
//!
//! # Promise
//! An hour counts as rolled up only while its roll-ups are what its points give. Whoever stores points leaves a touch of
//! their hours in the same transaction; whoever rolls an hour up takes its touches first and reads the points after, so
//! what it does not see leaves a touch that it did not take. One transaction at a time does it, for as long as it holds the
//! job's row.
//!
//! Versions before touches may store points at the same time. The ledger tells their requests apart: hours that were
//! rolled up until an hour after the last of them are not trusted, and once there were none for an hour, all hours of
//! which there are points are touched and so rolled up again.

use std::pin::pin;

use deadpool_postgres::Transaction;
use futures::TryStreamExt as _;
use tokio_postgres::types::{ToSql, Type};

use super::copy::Micros;
use super::database::{Client, Database};
use super::error::StoreError;
use super::metrics::{NO_RECORDED_VALUE, PointRow, STREAM_COLUMNS, StreamRow, WIDE_COLUMNS, read_point, read_stream};
use super::partitions::claim_job;

/// Form of the stretches that this program writes and reads.
pub(crate) const VERSION: i16 = 1;

/// Since when hours are trusted, and the same as a condition on `otel_metric_hours h`.
const TRUSTED: &str = "
    h.version = 1
    AND h.rolled_at > (SELECT trusted_from FROM otel.otel_metric_rollup_state)
    AND h.rolled_at > coalesce((SELECT max(received_at) + interval '1 hour' FROM otel.otel_ingest_ledger
                                WHERE touched IS NULL AND signal = 'metrics'), '-infinity')
    AND NOT EXISTS (SELECT FROM otel.otel_metric_touches t WHERE t.hour = h.hour)";

/// A stream in an hour.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Rollup {
    pub(crate) series_id: i64,
    pub(crate) points: i64,
    /// Sum, smallest, greatest and last value; none for what is no number.
    pub(crate) numbers: Option<[f64; 4]>,
    pub(crate) stretch: Vec<u8>,
}

impl Database {
    /// The hours in `[from, until)` that are answered from roll-ups, in order.
    pub(crate) async fn rolled_hours(&self, from: Micros, until: Micros) -> Result<Vec<Micros>, StoreError> {
        let sql = format!(
            "SELECT h.hour FROM otel.otel_metric_hours h WHERE h.hour >= $1 AND h.hour < $2 AND {TRUSTED} ORDER BY h.hour"
        );
        let arguments = [(&from as &(dyn ToSql + Sync), Type::TIMESTAMPTZ), (&until, Type::TIMESTAMPTZ)];
        Ok(self.reader().await?.query_typed(&sql, &arguments).await?.iter().map(|row| row.get(0)).collect())
    }

    /// Hours that may be rolled up: those that are over, of which nothing came for `quiet` seconds or something waits for
    /// `patience` seconds. With `all`, every touched hour. The oldest first.
    pub(crate) async fn hours_to_roll_up(
        &self,
        all: bool,
        quiet: f64,
        patience: f64,
    ) -> Result<Vec<Micros>, StoreError> {
        let sql = "SELECT hour FROM otel.otel_metric_touches GROUP BY hour
                   HAVING $1 OR hour <= now() - interval '1 hour' - $2 * interval '1 second'
                                AND (max(touched_at) <= now() - $2 * interval '1 second'
                                     OR min(touched_at) <= now() - $3 * interval '1 second')
                   ORDER BY hour";
        let arguments: [super::database::Argument<'_>; 3] =
            [(&all, Type::BOOL), (&quiet, Type::FLOAT8), (&patience, Type::FLOAT8)];
        Ok(self.query(sql, &arguments).await?.iter().map(|row| row.get(0)).collect())
    }

    /// Touches all hours of which there are points, if versions without touches stored some and stored none for an hour,
    /// or if it was never done. Returns whether it did.
    pub(crate) async fn examine_metric_hours(&self) -> Result<bool, StoreError> {
        let mut client = self.client().await?;
        let transaction = client.transaction().await?;
        if !claim_job(&transaction, "metric_rollups").await? {
            return Ok(false);
        }
        let row = transaction
            .query_typed_one(
                "SELECT s.examined_to, l.last, coalesce(l.last <= now() - interval '1 hour', true)
                 FROM otel.otel_metric_rollup_state s,
                      (SELECT max(received_at) FROM otel.otel_ingest_ledger
                       WHERE touched IS NULL AND signal = 'metrics') l (last)",
                &[],
            )
            .await?;
        let (examined, last): (Option<Micros>, Option<Micros>) = (row.get(0), row.get(1));
        let is_new = last.is_some_and(|last| examined.is_none_or(|examined| examined < last));
        if !(row.get::<_, bool>(2) && (examined.is_none() || is_new)) {
            return Ok(false);
        }
        transaction
            .execute_typed(
                "INSERT INTO otel.otel_metric_touches (hour)
                 SELECT DISTINCT date_trunc('hour', time, 'UTC') FROM otel.otel_metrics",
                &[],
            )
            .await?;
        transaction
            .execute_typed(
                "UPDATE otel.otel_metric_rollup_state
                 SET examined_to = coalesce($1, '-infinity'), trusted_from = coalesce($1 + interval '1 hour', '-infinity')",
                &[(&last, Type::TIMESTAMPTZ)],
            )
            .await?;
        transaction.commit().await?;
        Ok(true)
    }
}

/// Begins to roll an hour up: takes its touches. None when somebody else rolls hours up.
pub(crate) async fn begin(client: &mut Client, hour: Micros) -> Result<Option<Transaction<'_>>, StoreError> {
    let transaction =
        client.build_transaction().isolation_level(tokio_postgres::IsolationLevel::ReadCommitted).start().await?;
    if !claim_job(&transaction, "metric_rollups").await? {
        return Ok(None);
    }
    transaction
        .execute_typed("DELETE FROM otel.otel_metric_touches WHERE hour = $1", &[(&hour, Type::TIMESTAMPTZ)])
        .await?;
    transaction
        .execute_typed(
            "INSERT INTO otel.otel_metric_hours AS h (hour, rolled_at, version) VALUES ($1, clock_timestamp(), $2)
             ON CONFLICT (hour) DO UPDATE SET rolled_at = excluded.rolled_at, version = excluded.version",
            &[(&hour, Type::TIMESTAMPTZ), (&VERSION, Type::INT2)],
        )
        .await?;
    Ok(Some(transaction))
}

/// Gives the points of an hour with their streams to `take`, each stream's in order of time.
pub(crate) async fn read_hour(
    transaction: &Transaction<'_>,
    hour: Micros,
    mut take: impl FnMut(PointRow, &mut dyn FnMut() -> StreamRow),
) -> Result<(), StoreError> {
    let until = Micros(hour.0 + 3_600_000_000);
    let values: [(&(dyn ToSql + Sync), Type); 2] = [(&hour, Type::TIMESTAMPTZ), (&until, Type::TIMESTAMPTZ)];
    let sql = format!(
        "SELECT p.series_id, p.time, p.time_ns, p.start_delta_ns, coalesce(p.value_double, p.value_int::double precision)
                {WIDE_COLUMNS}, {STREAM_COLUMNS}
         FROM otel.otel_metrics p JOIN otel.otel_metric_series s USING (series_id)
         WHERE p.time >= $1 AND p.time < $2 AND p.flags & {NO_RECORDED_VALUE} = 0
         ORDER BY p.series_id, p.time, p.time_ns, p.point_hash"
    );
    let mut rows = pin!(transaction.query_typed_raw(&sql, values).await?);
    while let Some(row) = rows.try_next().await? {
        take(read_point(&row), &mut || read_stream(&row));
    }
    Ok(())
}

/// Stores the roll-ups of an hour. Partitions must be there.
pub(crate) async fn store(transaction: &Transaction<'_>, hour: Micros, rollups: &[Rollup]) -> Result<(), StoreError> {
    for part in rollups.chunks(1000) {
        let series: Vec<i64> = part.iter().map(|rollup| rollup.series_id).collect();
        let points: Vec<i64> = part.iter().map(|rollup| rollup.points).collect();
        let number = |place: usize| -> Vec<Option<f64>> {
            part.iter().map(|rollup| rollup.numbers.and_then(|numbers| numbers.get(place).copied())).collect()
        };
        let (sum, min, max, last) = (number(0), number(1), number(2), number(3));
        let stretches: Vec<&[u8]> = part.iter().map(|rollup| rollup.stretch.as_slice()).collect();
        transaction
            .execute_typed(
                "INSERT INTO otel.otel_metric_rollups (hour, series_id, points, sum, min, max, last, stretch)
                 SELECT $1, u.* FROM unnest($2::bigint[], $3::bigint[], $4::double precision[], $5::double precision[],
                                            $6::double precision[], $7::double precision[], $8::bytea[]) u
                 ON CONFLICT (series_id, hour) DO UPDATE
                 SET points = excluded.points, sum = excluded.sum, min = excluded.min, max = excluded.max,
                     last = excluded.last, stretch = excluded.stretch",
                &[
                    (&hour, Type::TIMESTAMPTZ),
                    (&series, Type::INT8_ARRAY),
                    (&points, Type::INT8_ARRAY),
                    (&sum, Type::FLOAT8_ARRAY),
                    (&min, Type::FLOAT8_ARRAY),
                    (&max, Type::FLOAT8_ARRAY),
                    (&last, Type::FLOAT8_ARRAY),
                    (&stretches, Type::BYTEA_ARRAY),
                ],
            )
            .await?;
    }
    Ok(())
}
