//! `retention`: what can be said about what is kept how long.

use clap::{Args, Subcommand};

#[derive(Debug, Subcommand)]
pub(crate) enum Retention {
    /// Show what is kept how long, what is too old, and what was dropped
    Show,
    /// Drop what is too old now, as a server does every hour. Ends with 1 if not all of it could be dropped
    ///
    /// Retention and partitions that the settings say are written to the database first. Nothing is dropped while the clock
    /// is in doubt: `retention show` says why.
    Run(Run),
}

#[derive(Debug, Args)]
pub(crate) struct Run {
    /// Say what would be dropped, and change nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Drop even while the clock is in doubt: look at it first
    #[arg(long)]
    pub(crate) trust_clock: bool,
}
