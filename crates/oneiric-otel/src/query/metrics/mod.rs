//! Metrics over time: points at a step, of each stream or of streams put together by their labels.
//!
//! What is counted (sums, histograms) is read by how it is counted: of cumulative streams the increase from point to
//! point counts, resets noticed; of delta streams the points themselves. An increase that spans two steps counts in the
//! later one. See [`partial`] and [`buckets`] for the mathematics.

mod aggregation;
pub(crate) mod buckets;
pub(crate) mod codec;
pub(crate) mod fold;
mod groups;
mod labels;
pub(crate) mod partial;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::time::Duration;

use deadpool_postgres::Transaction;
use jiff::Timestamp;
use serde::Serialize;

use super::argument::without_nul;
use super::range::{check_order, unix_nanos};
use super::{QueryError, QueryService, check_limit, nearest};
use crate::store::metrics::{MetricRow, Piece, StreamFilter, StreamRow, WantedPoints};
use crate::store::rollups::{self, Rollup};
use crate::store::{Micros, StoreError};

pub use aggregation::Aggregation;
use fold::{Grid, StreamFold};
use groups::Groups;
use partial::{Measure, Partial};

/// Steps of an answer at most, as in Prometheus.
pub const MAX_STEPS: u64 = 11_000;
/// Streams of an answer at most.
const MAX_STREAMS: i64 = 10_000;
/// How far before the range the last point before it is looked for, at least.
const LOOK_BACK: Duration = Duration::from_mins(5);
const HOUR_NANOS: u64 = 3_600_000_000_000;
const HOUR_MICROS: i64 = 3_600_000_000;
/// Names that an unknown one is compared to at most.
const MAX_NAMES_COMPARED: i64 = 5000;
/// Values of a label that are listed at most.
const MAX_LABEL_VALUES: i64 = 1000;

/// A metric over a range of time.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct MetricsRequest {
    /// Name of the metric, whole.
    pub name: String,
    /// Labels that streams must have, with their values as text: attributes of the stream or of its resource, and
    /// `service.name`.
    pub labels: Vec<(String, String)>,
    /// The service, by its whole name.
    pub service: Option<String>,
    /// At or after this time.
    pub start: Timestamp,
    /// Before this time.
    pub end: Timestamp,
    /// Time between two points, 1 ms or more. Steps begin at the multiples of it since 1970.
    pub step: Duration,
    /// How the points of a step become one.
    pub aggregation: Aggregation,
    /// Labels by which streams are put together; an empty list puts all into one. None keeps every stream apart.
    pub group_by: Option<Vec<String>>,
}

/// A metric over a range of time.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct MetricRange {
    /// Name of the metric.
    pub name: String,
    /// How the points of a step became one.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub aggregation: Aggregation,
    /// Seconds between two points.
    pub step_seconds: f64,
    /// The series, in order of their labels.
    pub series: Vec<MetricSeries>,
    /// Kinds of the metric that the aggregation says nothing about and that were left out.
    pub left_out: Vec<String>,
}

/// Points of one stream, or of several put together.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct MetricSeries {
    /// What tells it from the others.
    pub labels: BTreeMap<String, String>,
    /// `gauge`, `sum`, `histogram`, `exponential_histogram` or `summary`.
    #[serde(rename = "type")]
    pub kind: String,
    /// `delta`, `cumulative` or `unspecified`.
    pub temporality: String,
    /// Whether a sum never falls.
    pub monotonic: bool,
    /// Unit of the measurements.
    pub unit: String,
    /// What the metric says of itself.
    pub description: String,
    /// Streams that were put together.
    pub streams: usize,
    /// One point for each step of which something is known, in order.
    pub points: Vec<MetricPoint>,
}

/// A point of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct MetricPoint {
    /// When the step begins.
    pub time: Timestamp,
    /// Its value.
    pub value: f64,
}

/// A metric in a list. One that is sent in several forms stands there once for each.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct MetricOverview {
    /// Its name.
    pub name: String,
    /// `gauge`, `sum`, `histogram`, `exponential_histogram` or `summary`.
    #[serde(rename = "type")]
    pub kind: String,
    /// `delta`, `cumulative` or `unspecified`.
    pub temporality: String,
    /// Whether a sum never falls.
    pub monotonic: bool,
    /// Unit of the measurements.
    pub unit: String,
    /// What it says of itself.
    pub description: String,
    /// Streams of it.
    pub streams: i64,
    /// Services that send it, sorted.
    pub services: Vec<String>,
}

/// A label of a metric.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct MetricLabel {
    /// Its key.
    pub key: String,
    /// Its values in order, the first 1000 of them.
    pub values: Vec<String>,
}

impl QueryService {
    /// The metrics that are stored, in order of their names: those whose name contains `name`, in any case, of a service
    /// if one is given.
    ///
    /// # Errors
    /// [`QueryError::InvalidArgument`] for a limit that is not 1 to 1000, [`QueryError::Unknown`] for a service of which
    /// nothing is stored.
    pub async fn metrics(
        &self,
        name: Option<&str>,
        service: Option<&str>,
        limit: usize,
    ) -> Result<Vec<MetricOverview>, QueryError> {
        let limit = check_limit(limit)?;
        name.map(|name| without_nul("name", name)).transpose()?;
        service.map(|service| without_nul("service", service)).transpose()?;
        if let Some(service) = service {
            self.check_service(service).await?;
        }
        let ask = async {
            let rows = self.database.metric_rows(name, service, limit as i64).await?;
            let overview = |row: MetricRow| MetricOverview {
                name: row.name,
                kind: row.kind,
                temporality: row.temporality,
                monotonic: row.monotonic,
                unit: row.unit,
                description: row.description,
                streams: row.streams,
                services: row.services,
            };
            Ok(rows.into_iter().map(overview).collect())
        };
        self.cached("metrics", &(name, service, limit), Timestamp::now(), ask).await
    }

    /// The labels of a metric with their values.
    ///
    /// # Errors
    /// [`QueryError::Unknown`] for a metric that is not stored.
    pub async fn metric_labels(&self, name: &str) -> Result<Vec<MetricLabel>, QueryError> {
        without_nul("name", name)?;
        let ask = async {
            self.check_metric(name).await?;
            let labels = self.database.metric_labels(name, MAX_LABEL_VALUES).await?;
            Ok(labels.into_iter().map(|(key, values)| MetricLabel { key, values }).collect())
        };
        self.cached("metric_labels", &name, Timestamp::now(), ask).await
    }

    /// A metric over a range of time.
    ///
    /// # Errors
    /// [`QueryError::Unknown`] for a metric or service of which nothing is stored, and for a label that no stream of the
    /// metric has. [`QueryError::InvalidArgument`] for an end that is not after the start, a step that is too short for the
    /// range, an aggregation that says nothing about the metric, or when more would have to be returned than one answer
    /// holds.
    pub async fn get_metrics_by_time_range(&self, request: &MetricsRequest) -> Result<MetricRange, QueryError> {
        let grid = grid(request)?;
        request.aggregation.check()?;
        self.cached("metric_range", request, request.end, self.ask_metrics(request, grid)).await
    }

    async fn ask_metrics(&self, request: &MetricsRequest, grid: Grid) -> Result<MetricRange, QueryError> {
        let streams = self.matching_streams(request).await?;
        let mut groups = Groups::new(request);
        for stream in streams {
            groups.add(stream);
        }
        groups.check()?;
        self.read_points(&mut groups, grid).await?;
        Ok(groups.finish(request, grid))
    }

    /// How the database finds the points of a request, for tests of indexes and partitions.
    #[doc(hidden)]
    pub async fn explain_metrics(&self, request: &MetricsRequest) -> Result<String, QueryError> {
        let grid = grid(request)?;
        let ids = self.matching_streams(request).await?.iter().map(|stream| stream.series_id).collect();
        let micros = |nanos| Micros::from_unix_nanos(nanos).0;
        Ok(self.database.explain_points(&ids, (micros(grid.start), micros(grid.end))).await?)
    }

    async fn check_metric(&self, name: &str) -> Result<(), QueryError> {
        if self.database.has_metric(name).await? {
            return Ok(());
        }
        let known = self.database.metric_names(MAX_NAMES_COMPARED).await?;
        Err(QueryError::Unknown { name: "name", value: name.to_owned(), near: nearest(name, known) })
    }

    async fn matching_streams(&self, request: &MetricsRequest) -> Result<Vec<StreamRow>, QueryError> {
        without_nul("name", &request.name)?;
        request.service.as_deref().map(|service| without_nul("service", service)).transpose()?;
        for (key, value) in &request.labels {
            without_nul("labels", key)?;
            without_nul("labels", value)?;
        }
        let filter = StreamFilter {
            name: request.name.clone(),
            service: request.service.clone(),
            labels: request.labels.clone(),
        };
        let streams = self.database.streams(&filter, MAX_STREAMS + 1).await?;
        if streams.len() as i64 > MAX_STREAMS {
            return Err(QueryError::InvalidArgument {
                name: "labels",
                accepted: format!("labels that at most {MAX_STREAMS} streams have"),
            });
        }
        if streams.is_empty() {
            self.check_metric(&request.name).await?;
            if let Some(service) = &request.service {
                self.check_service(service).await?;
            }
        }
        self.check_labels(request, &streams).await?;
        Ok(streams)
    }

    /// Reads the points of all streams into their groups.
    async fn read_points(&self, groups: &mut Groups, grid: Grid) -> Result<(), QueryError> {
        let mut wanted = self.wanted_points(grid).await?;
        for numbers_only in [true, false] {
            wanted.series = groups.ids(numbers_only);
            if wanted.series.is_empty() {
                continue;
            }
            let mut points = self.database.points(&wanted, numbers_only).await?;
            let mut reading: Option<(i64, StreamFold)> = None;
            while let Some(piece) = points.next().await? {
                let id = match &piece {
                    Piece::Point(point) if point.time >= grid.end => continue,
                    Piece::Point(point) => point.series_id,
                    Piece::Rolled(id, _) => *id,
                };
                if reading.as_ref().is_none_or(|(reading, _)| *reading != id) {
                    groups.close(reading.take());
                    reading = groups.open(id, grid);
                }
                if let Some(reading) = &mut reading {
                    groups.take(reading, piece)?;
                }
            }
            groups.close(reading);
        }
        Ok(())
    }

    /// Where the points of a range come from: roll-ups where steps consist of whole hours that are rolled up, and the
    /// points themselves elsewhere.
    async fn wanted_points(&self, grid: Grid) -> Result<WantedPoints, StoreError> {
        let back = u64::try_from(LOOK_BACK.as_nanos()).unwrap_or_default().max(grid.step);
        let micros = |nanos| Micros::from_unix_nanos(nanos).0;
        // To the microsecond the end is included; what is beyond it is left out when it is read.
        let (from, until) = (micros(grid.start.saturating_sub(back)), Micros(micros(grid.end).0.saturating_add(1)));
        let mut wanted = WantedPoints::default();
        if grid.step.is_multiple_of(HOUR_NANOS) {
            // Whole hours, before the range or in it: one that begins before it and ends in it is neither.
            let whole = |hour: &Micros| {
                let end = hour.0.saturating_add(HOUR_MICROS);
                *hour >= from
                    && end <= micros(grid.end).0
                    && (end <= micros(grid.start).0 || *hour >= micros(grid.start))
            };
            wanted.rolled = self.database.rolled_hours(from, until).await?.into_iter().filter(whole).collect();
        }
        let mut begin = from;
        for hour in &wanted.rolled {
            if begin < *hour {
                wanted.from.push(begin);
                wanted.until.push(*hour);
            }
            begin = Micros(hour.0.saturating_add(HOUR_MICROS));
        }
        wanted.from.push(begin);
        wanted.until.push(until);
        Ok(wanted)
    }
}

/// The streams of an hour, rolled up.
pub(crate) async fn roll_up(transaction: &Transaction<'_>, hour: Micros) -> Result<Vec<Rollup>, StoreError> {
    let mut rolled: Vec<Rollup> = Vec::new();
    let mut open: Option<(StreamRow, Option<Partial>)> = None;
    let mut close = |open: Option<(StreamRow, Option<Partial>)>| {
        if let Some((stream, Some(stretch))) = open {
            let numbers = groups::is_number(&stream).then(|| {
                let last = match &stretch.last.measure {
                    Measure::Number(last) => *last,
                    Measure::Distribution(_) => f64::NAN,
                };
                [stretch.sum, stretch.min, stretch.max, last]
            });
            let points = stretch.points as i64;
            rolled.push(Rollup { series_id: stream.series_id, points, numbers, stretch: codec::encode(&stretch) });
        }
    };
    rollups::read_hour(transaction, hour, |point, stream_of| {
        if open.as_ref().is_none_or(|(stream, _)| stream.series_id != point.series_id) {
            close(open.take());
            open = Some((stream_of(), None));
        }
        let Some((stream, stretch)) = &mut open else { return };
        let Some(sample) = groups::sample(stream, point) else { return };
        let counting = groups::counting(stream);
        match stretch {
            // Of points at the same time the first counts.
            Some(stretch) if stretch.last.time == sample.time => {}
            Some(stretch) => stretch.append(Partial::of(sample, counting), counting),
            None => *stretch = Some(Partial::of(sample, counting)),
        }
    })
    .await?;
    close(open);
    Ok(rolled)
}

/// The steps of a request.
fn grid(request: &MetricsRequest) -> Result<Grid, QueryError> {
    check_order(("start", Some(request.start)), ("end", Some(request.end)))?;
    let step = u64::try_from(request.step.as_nanos()).unwrap_or(u64::MAX);
    let (start, end) = (unix_nanos(request.start), unix_nanos(request.end));
    if step < 1_000_000 {
        return Err(QueryError::InvalidArgument { name: "step", accepted: "a duration of 1 ms or more".to_owned() });
    }
    if end <= start {
        return Err(QueryError::InvalidArgument { name: "end", accepted: "a time after 1970".to_owned() });
    }
    let grid = Grid { start, end, step };
    if grid.len() > MAX_STEPS {
        let least = (end - start).div_ceil(MAX_STEPS - 1).div_ceil(1_000_000);
        return Err(QueryError::InvalidArgument {
            name: "step",
            accepted: format!("at most {MAX_STEPS} steps in the range: a step of {least} ms or more"),
        });
    }
    Ok(grid)
}
