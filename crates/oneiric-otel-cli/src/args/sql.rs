//! What `sql` takes.

use clap::{Args, ValueEnum};

#[derive(Debug, Args)]
pub(crate) struct Sql {
    /// One statement that returns rows, such as 'SELECT service_name, count(*) FROM traces GROUP BY 1'; - is stdin
    #[arg(value_name = "SQL")]
    pub(crate) statement: String,
    /// A value for $1, the next one for $2, and so on
    #[arg(long = "param", value_name = "VALUE", allow_hyphen_values = true)]
    pub(crate) params: Vec<String>,
    /// How many rows at most, 1 to 100000
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) limit: u32,
    /// How to print them [default: table; with --json: json]
    #[arg(long, value_enum)]
    pub(crate) format: Option<Format>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people
    Table,
    /// RFC 4180, with a line of names
    Csv,
    /// One object a line
    Json,
}
