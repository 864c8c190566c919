//! The three kinds of record, and what decoding and encoding must know about each.
//!
//! The three OTLP signals share one envelope: groups by resource, in them groups by scope, in them records. They differ
//! in the type of the record and in the names that JSON gives to the lists, so one generic decoder per encoding serves
//! all three.

use std::fmt::Debug;

use opentelemetry_proto::tonic::logs::v1::LogRecord;
use opentelemetry_proto::tonic::metrics::v1::Metric;
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::trace::v1::Span;

use super::canonical::Encode;
use super::{Encoding, Signal, json, protobuf};

/// A record of OTLP: [`Span`], [`Metric`] or [`LogRecord`].
pub trait Record: prost::Message + json::Message + Encode + Clone + Debug + 'static {
    /// The signal that carries this record.
    const SIGNAL: Signal;
    /// What OTLP/JSON, and so every path in a report, calls the lists that hold it.
    const NAMES: Names;

    /// How many records this is: one span, one log record, or the data points of one metric, which may be none.
    fn count(&self) -> u64 {
        1
    }

    /// The record as protobuf, exactly; prost alone loses the sign of some zeros of metrics.
    fn to_protobuf(&self) -> Vec<u8> {
        self.encode_to_vec()
    }

    /// How many records are lost when these bytes, which cannot be decoded as `Self`, are given up: never zero.
    fn count_lost(encoding: Encoding, bytes: &[u8]) -> u64 {
        let (_, _) = (encoding, bytes);
        1
    }
}

/// The names of the three nested lists of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Names {
    /// The groups by resource, such as `resourceSpans`.
    pub resources: &'static str,
    /// The groups by scope in one of them, such as `scopeSpans`.
    pub scopes: &'static str,
    /// The records in one of those, such as `spans`.
    pub records: &'static str,
}

impl Record for Span {
    const SIGNAL: Signal = Signal::Traces;
    const NAMES: Names = Names { resources: "resourceSpans", scopes: "scopeSpans", records: "spans" };
}

impl Record for LogRecord {
    const SIGNAL: Signal = Signal::Logs;
    const NAMES: Names = Names { resources: "resourceLogs", scopes: "scopeLogs", records: "logRecords" };
}

impl Record for Metric {
    const SIGNAL: Signal = Signal::Metrics;
    const NAMES: Names = Names { resources: "resourceMetrics", scopes: "scopeMetrics", records: "metrics" };

    fn count(&self) -> u64 {
        let points = match &self.data {
            None => 0,
            Some(Data::Gauge(gauge)) => gauge.data_points.len(),
            Some(Data::Sum(sum)) => sum.data_points.len(),
            Some(Data::Histogram(histogram)) => histogram.data_points.len(),
            Some(Data::ExponentialHistogram(histogram)) => histogram.data_points.len(),
            Some(Data::Summary(summary)) => summary.data_points.len(),
        };
        points as u64
    }

    fn to_protobuf(&self) -> Vec<u8> {
        protobuf::encode_metric(self)
    }

    /// A metric is as many records as it has data points. One that holds none, or whose points cannot be told apart,
    /// counts as one: a loss must show in the count.
    fn count_lost(encoding: Encoding, bytes: &[u8]) -> u64 {
        let points = match encoding {
            Encoding::Protobuf => protobuf::count_points(bytes),
            Encoding::Json => json::count_points(bytes),
        };
        points.max(1)
    }
}
