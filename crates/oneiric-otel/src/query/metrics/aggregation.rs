//! How the points of a step become one.

use std::fmt;
use std::str::FromStr;

use serde::{Serialize, Serializer};

use crate::query::QueryError;

/// How the points of a step become one.
///
/// Of gauges and sums, values are the points as they came: of a cumulative sum, its totals. Of histograms and summaries,
/// values are the measurements that came in the step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Aggregation {
    /// Mean of the values.
    Avg,
    /// Sum of the values.
    Sum,
    /// Smallest value; of a cumulative histogram, the beginning of the lowest bucket in which something was counted.
    Min,
    /// Greatest value; of a cumulative histogram, the end of the highest such bucket.
    Max,
    /// Number of values.
    Count,
    /// The last value. Not for histograms and summaries.
    Last,
    /// Increase per second. Not for gauges.
    Rate,
    /// How much a sum grew, or how many measurements a histogram took. Not for gauges.
    Increase,
    /// The value below which this share of the measurements lies, 0 to 1. Only for histograms and summaries.
    Quantile(f64),
}

const ACCEPTED: &str =
    "avg, sum, min, max, count, last, rate, increase, pN such as p95, or quantile(Q) with Q from 0 to 1";

impl Aggregation {
    /// Whether it says something about metrics of this type.
    pub(super) fn fits(self, kind: &str) -> bool {
        match self {
            Self::Rate | Self::Increase => kind != "gauge",
            Self::Quantile(_) => !matches!(kind, "gauge" | "sum"),
            Self::Min | Self::Max => kind != "summary",
            Self::Last => matches!(kind, "gauge" | "sum"),
            Self::Avg | Self::Sum | Self::Count => true,
        }
    }

    /// The names of those that do.
    pub(super) fn fitting(kind: &str) -> String {
        let all = [
            Self::Avg,
            Self::Sum,
            Self::Min,
            Self::Max,
            Self::Count,
            Self::Last,
            Self::Rate,
            Self::Increase,
            Self::Quantile(0.95),
        ];
        all.iter().filter(|one| one.fits(kind)).map(ToString::to_string).collect::<Vec<_>>().join(", ")
    }

    pub(super) fn check(self) -> Result<(), QueryError> {
        match self {
            Self::Quantile(q) if !(0.0..=1.0).contains(&q) => Err(wrong()),
            _ => Ok(()),
        }
    }
}

fn wrong() -> QueryError {
    QueryError::InvalidArgument { name: "aggregation", accepted: ACCEPTED.to_owned() }
}

impl FromStr for Aggregation {
    type Err = QueryError;

    /// Reads a name as [`fmt::Display`] writes it, and `p50`, `p99.9` and the like.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let lower = text.trim().to_ascii_lowercase();
        let share = |digits: &str| digits.trim().parse::<f64>().map_err(|_| wrong());
        let read = match lower.as_str() {
            "avg" => Self::Avg,
            "sum" => Self::Sum,
            "min" => Self::Min,
            "max" => Self::Max,
            "count" => Self::Count,
            "last" => Self::Last,
            "rate" => Self::Rate,
            "increase" => Self::Increase,
            other => match (other.strip_prefix('p'), other.strip_prefix("quantile(")) {
                (_, Some(rest)) => Self::Quantile(share(rest.strip_suffix(')').ok_or_else(wrong)?)?),
                (Some(percent), None) => Self::Quantile(share(percent)? / 100.0),
                (None, None) => return Err(wrong()),
            },
        };
        read.check()?;
        Ok(read)
    }
}

impl fmt::Display for Aggregation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Avg => "avg",
            Self::Sum => "sum",
            Self::Min => "min",
            Self::Max => "max",
            Self::Count => "count",
            Self::Last => "last",
            Self::Rate => "rate",
            Self::Increase => "increase",
            Self::Quantile(q) => return write!(f, "quantile({q})"),
        })
    }
}

impl Serialize for Aggregation {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
