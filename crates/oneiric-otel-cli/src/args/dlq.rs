//! `dlq`: what can be said about dead letters.

use clap::{Args, Subcommand, ValueEnum};

use crate::moment::Moment;

#[derive(Debug, Subcommand)]
pub(crate) enum Dlq {
    /// List what waits, newest first
    List(List),
    /// Show everything about one, with its OTLP as JSON
    Show(Show),
    /// Try to store them now. Ends with 1 if any was refused again
    Replay(Replay),
    /// Delete them for good
    Purge(Purge),
}

#[derive(Debug, Args)]
pub(crate) struct List {
    /// Those refused at this time or later: 2h, 2026-03-01, 2026-03-01T12:30, RFC 3339
    #[arg(long, value_name = "TIME")]
    pub(crate) since: Option<Moment>,
    /// Those refused before this time
    #[arg(long, value_name = "TIME")]
    pub(crate) until: Option<Moment>,
    /// Those of this class of error, such as bad-data, stuck; quarantine for what the spool has set aside
    #[arg(long, value_name = "CLASS")]
    pub(crate) class: Option<String>,
    /// Those that carry this
    #[arg(long = "type", value_enum)]
    pub(crate) kind: Option<Kind>,
    /// Those too whose records were stored after all
    #[arg(long)]
    pub(crate) all: bool,
    /// How many at most, 1 to 10000
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) limit: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    Trace,
    Metric,
    Log,
}

#[derive(Debug, Args)]
pub(crate) struct Show {
    /// Its id, or the beginning of it
    #[arg(value_name = "ID")]
    pub(crate) id: String,
    /// Write the bytes as they are to stdout, and nothing else
    #[arg(long)]
    pub(crate) raw: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Replay {
    /// Their ids, or the beginnings of them
    #[arg(required_unless_present = "all", conflicts_with = "all", value_name = "ID")]
    pub(crate) ids: Vec<String>,
    /// All that are not processed, whatever their next retry
    #[arg(long)]
    pub(crate) all: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Purge {
    /// Their ids, or the beginnings of them
    #[arg(
        required_unless_present_any = ["processed", "unprocessed", "older_than"],
        conflicts_with_all = ["processed", "unprocessed", "older_than"],
        value_name = "ID"
    )]
    pub(crate) ids: Vec<String>,
    /// Those whose records were stored after all
    #[arg(long)]
    pub(crate) processed: bool,
    /// Those whose records are nowhere else, and what the spool has set aside
    #[arg(long)]
    pub(crate) unprocessed: bool,
    /// Only those refused before this time; alone, of the processed ones
    #[arg(long, value_name = "TIME")]
    pub(crate) older_than: Option<Moment>,
    /// Do not ask
    #[arg(long)]
    pub(crate) yes: bool,
}
