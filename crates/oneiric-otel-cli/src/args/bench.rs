//! What `bench` measures, and with how much.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::moment::Moment;

#[derive(Debug, Subcommand)]
pub(crate) enum Bench {
    /// How fast and how exact the embedding model is, in f32 and in int8, against what the processor can do
    ///
    /// Needs no database. Alternates between all that is compared, and tells medians; on a busy machine the figures per second
    /// of processor time mean more.
    Embed(Embed),
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
    /// How fast spans are stored and at what cost, beside a bare COPY of the same rows
    ///
    /// Starts a server of its own on an empty database: an embedded one in the directory `bench` of the data directory, removed
    /// afterwards, or the one that --database-url names, which is reached without TLS.
    Ingest(Ingest),
    /// Send spans and say how fast they were acknowledged: the part of `ingest` that is a process of its own
    #[command(hide = true)]
    Load(Load),
    /// What rows take on disk, what each index costs, and what packed rows would take
    ///
    /// Of the telemetry that a database has: the one of `bench query` in the directory `bench` of the data directory, or the one
    /// that --database-url names, which is reached without TLS. Copies rows into a schema of its own, dropped afterwards.
    Size(Size),
    /// How long the server takes to start, and until ten thousand traces can be searched
    ///
    /// Starts servers of its own on an embedded database in the directory `bench` of the data directory, removed afterwards.
    Startup(Startup),
    /// Whether the disk stays flat, and who waits, while months go through a server that keeps days
    ///
    /// Starts a server of its own on an embedded database in the directory `bench` of the data directory, removed afterwards.
    /// The days are simulated: telemetry has their times, and what retention compares with the clock is moved by SQL.
    Retention(Retention),
    /// What a span, a question and a start cost with one, three and ten million spans, and VACUUM of the vector index
    ///
    /// Starts servers of its own on an embedded database in the directory `bench` of the data directory, removed afterwards.
    Growth(Growth),
    /// What metric series cost with a hundred thousand, one and ten million of them: new ones, known ones, those without room
    ///
    /// Starts servers of its own on an embedded database in the directory `bench` of the data directory, removed afterwards.
    Series(Series),
}

#[derive(Debug, Args)]
pub(crate) struct Series {
    /// How many series there are when it is measured, rising; each at least --points above the one before
    #[arg(long, value_name = "N", value_delimiter = ',', default_value = "100000,1000000,10000000")]
    pub(crate) at: Vec<u64>,
    /// Points that are sent each time, of as many series
    #[arg(long, value_name = "N", default_value_t = 200_000, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    pub(crate) points: u64,
    /// Points of a request
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..=50_000))]
    pub(crate) points_per_request: u64,
}

#[derive(Debug, Args)]
pub(crate) struct Retention {
    /// Simulated days, of which the last is yesterday
    #[arg(long, value_name = "N", default_value_t = 90, value_parser = clap::value_parser!(u32).range(1..=3650))]
    pub(crate) days: u32,
    /// How long telemetry is kept
    #[arg(long = "retention-days", value_name = "DAYS", default_value_t = 14, value_parser = clap::value_parser!(u32).range(1..=395))]
    pub(crate) keep_days: u32,
    /// Spans of a day, about; half as many log records come with them
    #[arg(long, value_name = "N", default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(10..=1_000_000_000))]
    pub(crate) spans_per_day: u64,
    /// Minutes of a day of which there are metrics, 280 data points each
    #[arg(long, value_name = "N", default_value_t = 48, value_parser = clap::value_parser!(u64).range(0..=1440))]
    pub(crate) metric_minutes_per_day: u64,
    /// When a request is acknowledged: spooled or stored. With stored its wait is that for the database
    #[arg(long, value_name = "WHEN", default_value = "stored", value_parser = ["spooled", "stored"])]
    pub(crate) ack: String,
    /// Connections that send, each with one request in flight
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub(crate) connections: u16,
    /// Report every so many days [default: so that there are 30]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) every: Option<u32>,
    /// The pause between detaching and dropping a partition; a server makes one of 15 s
    #[arg(long, value_name = "SECONDS", default_value_t = 2, value_parser = clap::value_parser!(u64).range(0..=600))]
    pub(crate) settle_seconds: u64,
}

#[derive(Debug, Args)]
pub(crate) struct Growth {
    /// How many spans there are when it is measured: rising multiples of --spans-per-request
    #[arg(long, value_name = "N", value_delimiter = ',', default_value = "1000000,3000000,10000000")]
    pub(crate) at: Vec<u64>,
    /// Questions of each kind
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) questions: u32,
    /// Starts that are measured each time
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) starts: u32,
    /// Made vectors in the index of which a tenth is deleted before it is vacuumed; 0 leaves it out
    #[arg(long, value_name = "N", default_value_t = 50_000, value_parser = clap::value_parser!(u32).range(0..=10_000_000))]
    pub(crate) vectors: u32,
    /// Spans of a request
    #[arg(long, value_name = "N", default_value_t = 5000, value_parser = clap::value_parser!(u64).range(10..=8000))]
    pub(crate) spans_per_request: u64,
    /// Draw it as SVG into this file
    #[arg(long, value_name = "FILE")]
    pub(crate) chart: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct Ingest {
    #[command(flatten)]
    pub(crate) amount: Amount,
    /// When a request is acknowledged: spooled or stored
    #[arg(long, value_name = "WHEN", default_value = "spooled", value_parser = ["spooled", "stored"])]
    pub(crate) ack: String,
    /// Derive traces while spans come in, as a server does, in place of afterwards
    #[arg(long)]
    pub(crate) derive_meanwhile: bool,
    /// Rows that are written again by COPY and INSERT, at most; 0 leaves the comparison out
    #[arg(long, value_name = "N", default_value_t = 500_000)]
    pub(crate) baseline_rows: u64,
    /// Report the rate of each so many spans
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    pub(crate) progress_every: u64,
    /// Another build of this program as the server
    #[arg(long, value_name = "FILE")]
    pub(crate) server_program: Option<PathBuf>,
    /// A setting of the server, such as batch_size=10000; may be repeated
    #[arg(long, value_name = "NAME=VALUE")]
    pub(crate) server_setting: Vec<String>,
}

/// What is sent.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct Amount {
    /// Spans in all
    #[arg(long, value_name = "N", default_value_t = 1_000_000)]
    pub(crate) spans: u64,
    /// Spans of a request, which take some 500 bytes each
    #[arg(long, value_name = "N", default_value_t = 5000, value_parser = clap::value_parser!(u64).range(10..=8000))]
    pub(crate) spans_per_request: u64,
    /// Connections, each with one request in flight
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub(crate) connections: u16,
}

#[derive(Debug, Args)]
pub(crate) struct Load {
    /// Where to
    #[arg(long, value_name = "ADDR")]
    pub(crate) to: SocketAddr,
    /// When the set begins, in nanoseconds since 1970 [default: midnight in UTC]
    #[arg(long, value_name = "NS")]
    pub(crate) start: Option<u64>,
    /// The number of the first trace
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) first_trace: u64,
    #[command(flatten)]
    pub(crate) amount: Amount,
}

#[derive(Debug, Args)]
pub(crate) struct Size {
    /// Rows of each signal, at most
    #[arg(long, value_name = "N", default_value_t = 500_000, value_parser = clap::value_parser!(u64).range(1000..=100_000_000))]
    pub(crate) rows: u64,
}

#[derive(Debug, Args)]
pub(crate) struct Startup {
    /// Starts that are measured
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) starts: u32,
    /// Traces that are stored, derived, embedded and found
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1000..=1_000_000))]
    pub(crate) traces: u64,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct Embed {
    /// Texts of a round
    #[arg(long, value_name = "N", default_value_t = 400, value_parser = clap::value_parser!(u32).range(20..=100_000))]
    pub(crate) texts: u32,
    /// Rounds, for one thread and for two
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(crate) rounds: u32,
    /// Measure sentence-transformers beside it, with this Python interpreter, which has it
    #[arg(long, value_name = "PYTHON")]
    pub(crate) python: Option<PathBuf>,
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
    pub(crate) only: Option<String>,
    /// Leave out the comparison with the text that this system started from, which takes most of the time
    #[arg(long)]
    pub(crate) without_original: bool,
    /// Show every question with what its answer is worth
    #[arg(long)]
    pub(crate) each: bool,
    /// Measure instead how many of the nearest texts the vector index finds, on N composed texts beside the sets, in the
    /// directory `bench/recall`. The index is built from 10,000 vectors on
    #[arg(long, value_name = "N", num_args = 0..=1, default_missing_value = "12000", conflicts_with_all = ["only", "without_original", "each"],
          value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) recall: Option<u32>,
}
