//! What `export` takes.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::Signal;
use crate::moment::Moment;

#[derive(Debug, Args)]
pub(crate) struct Export {
    /// Spans that began, and log records and data points of this time or later: 2h, 2026-03-01, RFC 3339
    #[arg(long, value_name = "TIME")]
    pub(crate) since: Option<Moment>,
    /// Records before this time
    #[arg(long, value_name = "TIME")]
    pub(crate) until: Option<Moment>,
    /// Records of this service
    #[arg(long, value_name = "NAME")]
    pub(crate) service: Option<String>,
    /// Records of this kind; may be repeated [default: all]
    #[arg(long = "signal", value_enum)]
    pub(crate) signals: Vec<Signal>,
    /// Where to; - is stdout
    #[arg(long, value_name = "FILE", default_value = "-")]
    pub(crate) output: PathBuf,
    /// How
    #[arg(long, value_enum, default_value_t = Format::Json)]
    pub(crate) format: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// OTLP/JSON, one request on each line
    Json,
    /// OTLP protobuf, each request behind its length in four bytes; of one --signal
    Protobuf,
}
