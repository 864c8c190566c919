//! What `compare` takes.

use std::path::PathBuf;

use clap::Args;

use crate::moment::Moment;

#[derive(Debug, Args)]
pub(crate) struct Compare {
    #[command(flatten)]
    pub(crate) other: OtherSide,
    /// Spans that began at this time or later: 2h, 2026-03-01, RFC 3339 [default: with the first span of the file]
    #[arg(long, value_name = "TIME")]
    pub(crate) since: Option<Moment>,
    /// Spans that began before this time [default: behind the last span of the file; for Jaeger now]
    #[arg(long, value_name = "TIME")]
    pub(crate) until: Option<Moment>,
    /// Traces that are described; those beyond are counted
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(0..=100_000))]
    pub(crate) limit: u32,
}

/// Where else the spans are.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct OtherSide {
    /// The other side as a file of OTLP, as `import` reads it; - is stdin; may be repeated
    #[arg(long, value_name = "FILE")]
    pub(crate) otlp_file: Vec<PathBuf>,
    /// The other side as a Jaeger with its query API there, such as http://127.0.0.1:16686; needs --since
    #[arg(long, value_name = "URL", requires = "since")]
    pub(crate) jaeger: Option<String>,
}
