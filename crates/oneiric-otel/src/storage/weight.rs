//! How large records are in memory, about. The bound on what waits is kept with it.

use std::sync::Arc;

use prost::Message;

use super::metric::{MetricData, MetricPoints};
use super::record::{LogEntry, Origin, SpanData, TraceData};
use crate::otlp::Group;

/// What a record weighs besides its texts.
pub(super) trait Weight {
    /// Bytes.
    fn weight(&self) -> usize;
    /// Spans, log records or data points.
    fn count(&self) -> u64 {
        1
    }
}

/// Shared by many records or by none: it counts with each.
impl Weight for Option<Arc<Origin>> {
    fn weight(&self) -> usize {
        self.as_ref().map_or(0, |origin| {
            let texts = origin.scope_name.len() + origin.scope_version.len() + origin.schema_url.len();
            size_of::<Origin>() + texts + origin.resource.weight() + origin.scope_attributes.weight()
        })
    }
}

impl Weight for TraceData {
    fn weight(&self) -> usize {
        self.origin.weight() + self.spans.iter().map(span).sum::<usize>()
    }

    fn count(&self) -> u64 {
        self.spans.len() as u64
    }
}

fn span(span: &SpanData) -> usize {
    let events: usize = span.events.iter().map(|event| event.name.len() + event.attributes.weight() + 64).sum();
    let links: usize = span.links.iter().map(|link| link.attributes.weight() + 128).sum();
    let texts = span.name.len() + span.status_message.len() + span.trace_state.len();
    size_of::<SpanData>() + texts + span.attributes.weight() + events + links
}

impl Weight for LogEntry {
    fn weight(&self) -> usize {
        let texts = self.severity_text.len() + self.event_name.len();
        size_of::<Self>() + self.origin.weight() + texts + self.body.weight() + self.attributes.weight()
    }
}

impl Weight for MetricData {
    fn weight(&self) -> usize {
        let points: usize = match &self.points {
            MetricPoints::Gauge(points) | MetricPoints::Sum { points, .. } => {
                points.iter().map(|point| size_of_val(point) + point.labels.weight()).sum()
            }
            MetricPoints::Histogram { points, .. } => points
                .iter()
                .map(|point| {
                    size_of_val(point) + point.labels.weight() + 8 * (point.bounds.len() + point.bucket_counts.len())
                })
                .sum(),
            MetricPoints::ExponentialHistogram { points, .. } => points
                .iter()
                .map(|point| {
                    let classes = point.positive.bucket_counts.len() + point.negative.bucket_counts.len();
                    size_of_val(point) + point.labels.weight() + 8 * classes
                })
                .sum(),
            MetricPoints::Summary(points) => {
                points.iter().map(|point| size_of_val(point) + point.labels.weight() + 16 * point.quantiles.len()).sum()
            }
        };
        size_of::<Self>() + self.origin.weight() + self.name.len() + self.description.len() + self.unit.len() + points
    }

    fn count(&self) -> u64 {
        self.points.len() as u64
    }
}

impl<R: crate::otlp::record::Record> Weight for Group<R> {
    fn weight(&self) -> usize {
        // In memory it is several times what it is on the wire.
        self.records.iter().map(|record| 3 * Message::encoded_len(record) + size_of::<R>()).sum()
    }

    fn count(&self) -> u64 {
        self.records.iter().map(crate::otlp::record::Record::count).sum()
    }
}

impl<T: Weight> Weight for Vec<T> {
    fn weight(&self) -> usize {
        self.iter().map(Weight::weight).sum()
    }

    fn count(&self) -> u64 {
        self.iter().map(Weight::count).sum()
    }
}
