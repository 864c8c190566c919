//! Flags of the commands that look for traces.

use clap::{Args, ValueEnum};
use oneiric_otel::query::{AttributeFilter, TraceId};

use super::Order;
use crate::moment::{Length, Moment};

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Status {
    Ok,
    Error,
    Unset,
}

impl Status {
    /// The word in the database.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Error => "error",
            Self::Unset => "unset",
        }
    }
}

/// Which traces.
#[derive(Debug, Clone, Args)]
pub(crate) struct Narrow {
    /// Traces that began at this time or later: 2h, 2026-03-01, 2026-03-01T12:30, RFC 3339
    #[arg(long, value_name = "TIME")]
    pub(crate) since: Option<Moment>,
    /// Traces that began before this time
    #[arg(long, value_name = "TIME")]
    pub(crate) until: Option<Moment>,
    /// Traces in which this service took part
    #[arg(long, value_name = "NAME")]
    pub(crate) service: Option<String>,
    /// Traces whose root has this name
    #[arg(long, value_name = "NAME")]
    pub(crate) operation: Option<String>,
    /// Traces that ended so
    #[arg(long, value_enum)]
    pub(crate) status: Option<Status>,
    /// Traces that took at least so long: 250ms, 1.5s, 2m
    #[arg(long, value_name = "LENGTH")]
    pub(crate) min_duration: Option<Length>,
    /// Traces that took at most so long
    #[arg(long, value_name = "LENGTH")]
    pub(crate) max_duration: Option<Length>,
    /// Traces with a span, or its resource, that has the attribute: key, key=value, key!=value, key>5, key~part; may be
    /// repeated
    #[arg(long = "attr", value_name = "FILTER")]
    pub(crate) attributes: Vec<AttributeFilter>,
    /// How many at most, 1 to 1000
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) limit: u32,
}

#[derive(Debug, Args)]
pub(crate) struct Search {
    /// What to look for, in your own words
    #[arg(required = true, value_name = "TEXT", value_parser = some_text)]
    pub(crate) text: Vec<String>,
    #[command(flatten)]
    pub(crate) narrow: Narrow,
}

#[derive(Debug, Args)]
pub(crate) struct Similar {
    /// The trace's id: 32 hex digits
    pub(crate) trace_id: TraceId,
    /// The least cosine similarity that counts [default: the setting similarity_threshold, 0.85]
    #[arg(long, value_name = "COSINE", value_parser = cosine)]
    pub(crate) threshold: Option<f64>,
    /// Say in what each hit agrees with the trace and in what it differs
    #[arg(long)]
    pub(crate) explain: bool,
    #[command(flatten)]
    pub(crate) narrow: Narrow,
}

#[derive(Debug, Args)]
pub(crate) struct Trace {
    /// The trace's id: 32 hex digits
    #[arg(value_name = "TRACE_ID")]
    pub(crate) id: TraceId,
    /// Show what belongs to it besides: how it failed, its critical path, all its logs, and the metrics of its services while
    /// it ran
    #[arg(long)]
    pub(crate) context: bool,
    /// Show how it failed, and where its time went
    #[arg(long)]
    pub(crate) critical_path: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Traces {
    #[command(flatten)]
    pub(crate) narrow: Narrow,
    /// In which order
    #[arg(long, value_enum, default_value_t = Order::Newest)]
    pub(crate) order: Order,
    /// Go on behind a page, with the cursor that came with it and the same flags
    #[arg(long, value_name = "CURSOR", conflicts_with = "all")]
    pub(crate) cursor: Option<String>,
    /// All of them, page by page; --limit is the length of a page
    #[arg(long)]
    pub(crate) all: bool,
}

fn some_text(text: &str) -> Result<String, String> {
    if text.trim().is_empty() { Err("expected words".to_owned()) } else { Ok(text.to_owned()) }
}

fn cosine(text: &str) -> Result<f64, String> {
    let accepted = || format!("expected a number from 0 to 1, found {text:?}");
    let value: f64 = text.parse().map_err(|_| accepted())?;
    if (0.0..=1.0).contains(&value) { Ok(value) } else { Err(accepted()) }
}
