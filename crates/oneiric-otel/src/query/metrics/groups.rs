//! Streams by the labels under which they are put together, and the way from their rows to what is computed with.

use std::collections::{BTreeMap, HashMap};

use serde_json::Value;

use super::buckets::{Buckets, Distribution, Side};
use super::codec;
use super::fold::{Cells, Grid, StreamFold};
use super::partial::{Counting, Measure, Partial, Sample};
use super::{Aggregation, MetricPoint, MetricRange, MetricSeries, MetricsRequest};
use crate::query::QueryError;
use crate::query::range::from_unix_nanos;
use crate::store::StoreError;
use crate::store::metrics::{DistributionRow, Piece, PointRow, SERVICE, StreamRow};

/// Points of an answer at most, of all its series.
const MAX_POINTS: usize = 500_000;

/// How the values of a stream are to be read.
pub(super) fn counting(stream: &StreamRow) -> Counting {
    let delta = stream.temporality == "delta";
    match stream.kind.as_str() {
        "gauge" => Counting::State,
        _ if delta => Counting::Delta,
        "sum" if !stream.monotonic => Counting::CumulativeUpDown,
        _ => Counting::Cumulative,
    }
}

pub(super) fn is_number(stream: &StreamRow) -> bool {
    matches!(stream.kind.as_str(), "gauge" | "sum")
}

/// What tells groups apart: labels first, and what cannot be put together.
type GroupKey = (BTreeMap<String, String>, String, String, bool, String, Option<i64>);

/// Streams that are put together.
struct Group {
    labels: BTreeMap<String, String>,
    like: StreamRow,
    streams: usize,
    cells: Cells,
}

/// All streams of a request by their groups.
pub(super) struct Groups {
    aggregation: Aggregation,
    group_by: Option<Vec<String>>,
    /// Of each stream: its group, and itself without its attributes.
    streams: BTreeMap<i64, (usize, StreamRow)>,
    keys: HashMap<GroupKey, usize>,
    made: Vec<Group>,
    left_out: Vec<String>,
    points: usize,
}

impl Groups {
    pub(super) fn new(request: &MetricsRequest) -> Self {
        Self {
            aggregation: request.aggregation,
            group_by: request.group_by.clone(),
            streams: BTreeMap::new(),
            keys: HashMap::new(),
            made: Vec::new(),
            left_out: Vec::new(),
            points: 0,
        }
    }

    pub(super) fn add(&mut self, mut stream: StreamRow) {
        if !self.aggregation.fits(&stream.kind) {
            if !self.left_out.contains(&stream.kind) {
                self.left_out.push(stream.kind);
            }
            return;
        }
        let labels = labels(&stream, self.group_by.as_deref());
        let single = self.group_by.is_none().then_some(stream.series_id);
        let key = (
            labels.clone(),
            stream.kind.clone(),
            stream.temporality.clone(),
            stream.monotonic,
            stream.unit.clone(),
            single,
        );
        (stream.attributes, stream.resource) = Default::default();
        let made = &mut self.made;
        let group = *self.keys.entry(key).or_insert_with(|| {
            made.push(Group { labels, like: stream.clone(), streams: 0, cells: Cells::default() });
            made.len() - 1
        });
        if let Some(group) = self.made.get_mut(group) {
            group.streams += 1;
        }
        self.streams.insert(stream.series_id, (group, stream));
    }

    pub(super) fn check(&self) -> Result<(), QueryError> {
        if let (true, Some(kind)) = (self.streams.is_empty(), self.left_out.first()) {
            return Err(QueryError::InvalidArgument {
                name: "aggregation",
                accepted: format!("{} for a {kind}", Aggregation::fitting(kind)),
            });
        }
        let merged_summary = |group: &Group| group.like.kind == "summary" && group.streams > 1;
        if matches!(self.aggregation, Aggregation::Quantile(_)) && self.made.iter().any(merged_summary) {
            return Err(QueryError::InvalidArgument {
                name: "group_by",
                accepted: "labels that keep every stream apart: quantiles of summaries cannot be put together"
                    .to_owned(),
            });
        }
        Ok(())
    }

    pub(super) fn ids(&self, numbers: bool) -> Vec<i64> {
        let of_kind = |(_, (_, stream)): &(&i64, &(usize, StreamRow))| is_number(stream) == numbers;
        self.streams.iter().filter(of_kind).map(|(id, _)| *id).collect()
    }

    pub(super) fn open(&self, id: i64, grid: Grid) -> Option<(i64, StreamFold)> {
        let (_, stream) = self.streams.get(&id)?;
        Some((id, StreamFold::new(grid, counting(stream), !is_number(stream))))
    }

    pub(super) fn take(&mut self, (id, fold): &mut (i64, StreamFold), piece: Piece) -> Result<(), QueryError> {
        let Some((group, stream)) = self.streams.get(id) else { return Ok(()) };
        let stretch = match piece {
            Piece::Point(point) => sample(stream, point).map(|sample| Partial::of(sample, counting(stream))),
            Piece::Rolled(_, stretch) => {
                let reason = "a roll-up of metrics cannot be read; delete its hour from otel.otel_metric_hours";
                Some(codec::decode(&stretch).ok_or_else(|| StoreError::misconfigured(reason))?)
            }
        };
        let (Some(group), Some(stretch)) = (self.made.get_mut(*group), stretch) else { return Ok(()) };
        let before = group.cells.len();
        fold.take(stretch, &mut group.cells);
        self.points += group.cells.len() - before;
        if self.points > MAX_POINTS {
            return Err(QueryError::InvalidArgument {
                name: "step",
                accepted: format!(
                    "an answer of at most {MAX_POINTS} points: a longer step, a shorter range, or streams put together"
                ),
            });
        }
        Ok(())
    }

    pub(super) fn close(&mut self, reading: Option<(i64, StreamFold)>) {
        let Some((id, mut fold)) = reading else { return };
        let group = self.streams.get(&id).and_then(|(group, _)| self.made.get_mut(*group));
        if let Some(group) = group {
            fold.close(&mut group.cells);
        }
    }

    pub(super) fn finish(self, request: &MetricsRequest, grid: Grid) -> MetricRange {
        let mut series: Vec<MetricSeries> = self
            .made
            .into_iter()
            .map(|group| MetricSeries {
                points: group
                    .cells
                    .values(grid, request.aggregation)
                    .into_iter()
                    .map(|(time, value)| MetricPoint { time: from_unix_nanos(time), value })
                    .collect(),
                labels: group.labels,
                kind: group.like.kind,
                temporality: group.like.temporality,
                monotonic: group.like.monotonic,
                unit: group.like.unit,
                description: group.like.description,
                streams: group.streams,
            })
            .collect();
        // Streams of one process each may be all that is known of a service; ids keep their order.
        series.sort_by(|a, b| a.labels.cmp(&b.labels).then_with(|| a.kind.cmp(&b.kind)));
        MetricRange {
            name: request.name.clone(),
            aggregation: request.aggregation,
            step_seconds: request.step.as_secs_f64(),
            series,
            left_out: self.left_out,
        }
    }
}

/// The labels that an answer shows: those asked for, or all of the stream, its service and its instance.
fn labels(stream: &StreamRow, group_by: Option<&[String]>) -> BTreeMap<String, String> {
    let find = |key: &str| -> Option<String> {
        if key == SERVICE {
            return Some(stream.service_name.clone());
        }
        stream.attributes.get(key).or_else(|| stream.resource.get(key)).map(text)
    };
    if let Some(keys) = group_by {
        return keys.iter().filter_map(|key| Some((key.clone(), find(key)?))).collect();
    }
    let own = stream.attributes.keys().map(String::as_str);
    let keys = own.chain([SERVICE, "service.instance.id"]);
    keys.filter_map(|key| find(key).map(|value| (key.to_owned(), value))).collect()
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// A point as it is computed with; none for one without a value.
pub(super) fn sample(stream: &StreamRow, point: PointRow) -> Option<Sample> {
    let measure = if is_number(stream) {
        Measure::Number(point.value.filter(|value| !value.is_nan())?)
    } else {
        Measure::Distribution(distribution(stream, point.distribution?))
    };
    Some(Sample { time: point.time, start: point.start, measure })
}

fn distribution(stream: &StreamRow, row: DistributionRow) -> Distribution {
    let buckets = match stream.kind.as_str() {
        "exponential_histogram" => Buckets::exponential(
            row.scale.unwrap_or_default(),
            (row.zero_threshold, row.zero_count),
            &Side { offset: row.positive.0, counts: row.positive.1 },
            &Side { offset: row.negative.0, counts: row.negative.1 },
        ),
        "summary" => Buckets::Quantiles(row.quantiles),
        _ => Buckets::Explicit { bounds: stream.bounds.clone(), counts: row.bucket_counts },
    };
    let (min, max) = extremes(row.min, row.max);
    Distribution { count: row.count, sum: row.sum, min, max, buckets }
}

/// The smallest and the greatest value as far as they make sense: numbers, and not the wrong way round.
pub(super) fn extremes(min: Option<f64>, max: Option<f64>) -> (Option<f64>, Option<f64>) {
    let (min, max) = (min.filter(|min| !min.is_nan()), max.filter(|max| !max.is_nan()));
    if min.zip(max).is_some_and(|(min, max)| min > max) { (None, None) } else { (min, max) }
}
