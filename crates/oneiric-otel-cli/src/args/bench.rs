//! What `bench` measures, and with how much.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::moment::Moment;

#[derive(Debug, Subcommand)]
pub(crate) enum Bench {
    /// How long questions take, by kind, on a database filled with generated telemetry
    ///
    /// The database lies in the directory `bench` of the data directory. One that --database-url names must have no other
    /// telemetry. What is there already is not stored again, so a second run only asks.
    Query(Query),
    /// How good the answers of search are, on labelled telemetry
    ///
    /// The database lies in the directory `bench/search` of the data directory. One that --database-url names must have
    /// no other telemetry. What is there already is not stored again.
    Search(Search),
}

#[derive(Debug, Args)]
pub(crate) struct Query {
    /// Traces in the database, of ten spans and five log records each on average
    #[arg(long, value_name = "N", default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    pub(crate) traces: u64,
    /// Days over which they are spread
    #[arg(long, value_name = "N", default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=89))]
    pub(crate) days: u32,
    /// When the last of them ended [default: midnight UTC]; a second run on the same data needs the same
    #[arg(long, value_name = "TIME")]
    pub(crate) until: Option<Moment>,
    /// Questions of each kind
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) questions: u32,
    /// How often each is asked again
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) repeats: u32,
    /// Decides data and questions
    #[arg(long, value_name = "N", default_value_t = 9)]
    pub(crate) seed: u64,
    /// End when the data are there
    #[arg(long)]
    pub(crate) fill_only: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Search {
    /// The folder of the recordings, with a folder `labelled` in it. Without it only telemetry of our own is searched
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
    /// Only the sets whose names contain this
    #[arg(long, value_name = "PART")]
    pub(crate) set: Option<String>,
    /// Leave out the comparison with the text that this system started from, which takes most of the time
    #[arg(long)]
    pub(crate) without_original: bool,
    /// Show every question with what its answer is worth
    #[arg(long)]
    pub(crate) each: bool,
    /// Measure instead how many of the nearest texts the vector index finds, on N composed texts beside the sets, in the
    /// directory `bench/recall`. The index is built from 10,000 vectors on
    #[arg(long, value_name = "N", num_args = 0..=1, default_missing_value = "12000", conflicts_with_all = ["set", "without_original", "each"],
          value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) recall: Option<u32>,
}
