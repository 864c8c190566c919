//! How `traces`, `spans`, `diff`, `errors`, `logs`, `metrics` and `services` are asked.

use clap::{Args, ValueEnum};
use oneiric_otel::query::{Aggregation, AttributeFilter, TemplateId, TimeRange, TraceId};

use super::Status;

use crate::moment::{Length, Moment};

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Order {
    /// Those that began last first
    Newest,
    /// Those that began first first
    Oldest,
    /// Those that took longest first; needs --since
    Longest,
}

/// A time that is asked about.
#[derive(Debug, Clone, Args)]
pub(crate) struct When {
    /// From this time on: 2h, 2026-03-01, 2026-03-01T12:30, RFC 3339 [default: a day before --until]
    #[arg(long, value_name = "TIME")]
    pub(crate) since: Option<Moment>,
    /// Before this time [default: now]
    #[arg(long, value_name = "TIME")]
    pub(crate) until: Option<Moment>,
}

impl When {
    pub(crate) fn range(&self) -> anyhow::Result<TimeRange> {
        let range = TimeRange::asked(self.since.map(|moment| moment.0), self.until.map(|moment| moment.0));
        range.map_err(|_| anyhow::anyhow!("--since: expected a time before --until"))
    }
}

#[derive(Debug, Args)]
pub(crate) struct Errors {
    /// List the traces whose error is like this: a part of its message or type; % is any text, _ any character
    pub(crate) pattern: Option<String>,
    #[command(flatten)]
    pub(crate) when: When,
    /// Failures of traces in which this service took part
    #[arg(long, value_name = "NAME")]
    pub(crate) service: Option<String>,
    /// Only kinds of failure that no trace had before this time
    #[arg(long, value_name = "TIME", conflicts_with = "pattern")]
    pub(crate) new_since: Option<Moment>,
    /// How many kinds, or traces, at most, 1 to 1000
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) limit: u32,
    /// Go on behind a page, with the cursor that came with it and the same flags
    #[arg(long, value_name = "CURSOR")]
    pub(crate) cursor: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Spans {
    #[command(flatten)]
    pub(crate) when: When,
    /// Spans of this service
    #[arg(long, value_name = "NAME")]
    pub(crate) service: Option<String>,
    /// Spans of this name
    #[arg(long, value_name = "NAME")]
    pub(crate) operation: Option<String>,
    /// Spans that ended so
    #[arg(long, value_enum)]
    pub(crate) status: Option<Status>,
    /// Spans that took at least so long: 250ms, 1.5s, 2m
    #[arg(long, value_name = "LENGTH")]
    pub(crate) min_duration: Option<Length>,
    /// Spans that took at most so long
    #[arg(long, value_name = "LENGTH")]
    pub(crate) max_duration: Option<Length>,
    /// Spans that have the attribute, or whose resource has: key, key=value, key!=value, key>5, key~part; may be repeated
    #[arg(long = "attr", value_name = "FILTER")]
    pub(crate) attributes: Vec<AttributeFilter>,
    /// How many at most, 1 to 1000
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) limit: u32,
    /// Go on behind a page, with the cursor that came with it and the same flags
    #[arg(long, value_name = "CURSOR")]
    pub(crate) cursor: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Services {
    /// Show the operations of this service
    pub(crate) service: Option<String>,
    /// Show who calls whom
    #[arg(long, conflicts_with = "service")]
    pub(crate) dependencies: bool,
    #[command(flatten)]
    pub(crate) when: When,
    /// How many operations at most, 1 to 1000
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) limit: u32,
}

#[derive(Debug, Args)]
pub(crate) struct Diff {
    /// The id of one trace: 32 hex digits
    pub(crate) a: TraceId,
    /// The id of the other
    pub(crate) b: TraceId,
}

#[derive(Debug, Args)]
pub(crate) struct Logs {
    /// Words, "phrases", -exclusions (behind --) and prefixes* that a record must have; none: all records
    #[arg(value_name = "WORDS")]
    pub(crate) query: Vec<String>,
    /// Records of this trace: 32 hex digits
    #[arg(long, value_name = "TRACE_ID")]
    pub(crate) trace: Option<TraceId>,
    /// The lowest severity
    #[arg(long, value_enum)]
    pub(crate) level: Option<Level>,
    /// Records of this service
    #[arg(long, value_name = "NAME")]
    pub(crate) service: Option<String>,
    /// From this time on: 2h, 2026-03-01, 2026-03-01T12:30, RFC 3339; --patterns without it are those of a day
    #[arg(long, value_name = "TIME")]
    pub(crate) since: Option<Moment>,
    /// Before this time
    #[arg(long, value_name = "TIME")]
    pub(crate) until: Option<Moment>,
    /// How many at most, 1 to 1000
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) limit: u32,
    /// Go on behind a page, with the cursor that came with it and the same flags
    #[arg(long, value_name = "CURSOR", conflicts_with = "patterns")]
    pub(crate) cursor: Option<String>,
    /// Show what the records say without what varies, the most frequent first
    #[arg(long)]
    pub(crate) patterns: bool,
    /// Records of this template, an id that a pattern has; may be repeated
    #[arg(long = "template", value_name = "ID", allow_hyphen_values = true)]
    pub(crate) templates: Vec<TemplateId>,
    /// Records that mean this, whatever their words; needs the embedding model and a running server's vectors
    #[arg(long, value_name = "TEXT", conflicts_with_all = ["query", "patterns", "cursor"])]
    pub(crate) meaning: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Level {
    Trace,
    Debug,
    Info,
    Warn,
    Error,
    Fatal,
}

impl Level {
    /// The word of the library.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Trace => "trace",
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Warn => "warn",
            Self::Error => "error",
            Self::Fatal => "fatal",
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct Metrics {
    /// Show the values of this metric; none: list metrics
    pub(crate) name: Option<String>,
    /// Show the labels of the metric and their values instead
    #[arg(long, requires = "name")]
    pub(crate) labels: bool,
    /// Series with this label; may be repeated
    #[arg(long = "label", value_name = "KEY=VALUE")]
    pub(crate) with: Vec<Label>,
    /// Metrics of this service
    #[arg(long, value_name = "NAME")]
    pub(crate) service: Option<String>,
    #[command(flatten)]
    pub(crate) when: When,
    /// Time between two points: 10s, 5m [default: a sixtieth of the time asked about]
    #[arg(long, value_name = "LENGTH")]
    pub(crate) step: Option<Length>,
    /// How the values of a step become one: avg, sum, min, max, count, last, rate, increase, p95 and the like
    #[arg(long = "agg", value_name = "HOW", default_value = "avg")]
    pub(crate) aggregation: Aggregation,
    /// Put series together by this label; may be repeated
    #[arg(long, value_name = "LABEL", conflicts_with = "total")]
    pub(crate) by: Vec<String>,
    /// Put all series together
    #[arg(long)]
    pub(crate) total: bool,
    /// How many metrics at most, 1 to 1000
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) limit: u32,
}

/// A label with its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Label(pub(crate) (String, String));

impl std::str::FromStr for Label {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            Some((key, value)) if !key.is_empty() => Ok(Self((key.to_owned(), value.to_owned()))),
            _ => Err("expected KEY=VALUE".to_owned()),
        }
    }
}
