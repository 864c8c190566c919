//! `bench`: measurements that anyone can run.

mod embed;
mod growth;
mod ingest;
mod query;
mod retention;
mod search;
mod series;
mod size;
mod startup;

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use oneiric_otel_bench::fill;
use serde::Serialize;

use super::Ending;
use crate::args::Global;
use crate::args::bench::Bench;
use crate::progress::Progress;
use crate::{data_dir, failure, screen};

pub(crate) async fn run(global: &Global, bench: &Bench) -> Result<Ending> {
    match bench {
        Bench::Embed(embed) => embed::run(global, embed).await,
        Bench::Query(query) => query::run(global, query).await,
        Bench::Search(search) => search::run(global, search).await,
        Bench::Ingest(ingest) => ingest::run(global, ingest).await,
        Bench::Load(load) => ingest::send(load).await,
        Bench::Size(size) => size::run(global, size).await,
        Bench::Startup(startup) => startup::run(global, startup).await,
        Bench::Retention(retention) => Box::pin(retention::run(global, retention)).await,
        Bench::Growth(growth) => Box::pin(growth::run(global, growth)).await,
        Bench::Series(series) => Box::pin(series::run(global, series)).await,
    }
}

/// Refuses a database of the user's where servers are started and stopped.
fn without_url(global: &Global) -> Result<()> {
    if global.database_url().is_none() {
        return Ok(());
    }
    Err(failure::advised(
        "this is measured with the embedded PostgreSQL",
        "leave --database-url out, also OTEL_STORAGE_CONNECTION_STRING",
    ))
}

/// Prints a report, for people or for programs.
fn show<R: Serialize>(global: &Global, report: &R, tell: impl FnOnce(&R) -> String) -> Result<Ending> {
    if global.json {
        screen::print_json(report)?;
    } else {
        screen::print(&tell(report))?;
    }
    Ok(Ending::Good)
}

/// A new directory among those of benchmarks, removed afterwards.
struct Place(PathBuf);

impl Place {
    fn make(global: &Global, name: &str) -> Result<Self> {
        let dir = data_dir::of_bench(global)?.join(format!("{name}-{}", std::process::id()));
        std::fs::create_dir_all(&dir).with_context(|| format!("make {}", dir.display()))?;
        Ok(Self(dir))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            tracing::warn!(%error, "{} could not be removed", self.0.display());
        }
    }
}

/// The steps of a benchmark as progress.
struct Steps<'a>(&'a Progress);

impl Steps<'_> {
    /// Another step begins.
    fn tell(&self, what: &str) {
        fill::Watcher::step(self, what, None);
    }
}

impl fill::Watcher for Steps<'_> {
    fn step(&self, what: &str, parts: Option<u64>) {
        self.0.end();
        self.0.start(what, parts);
    }

    fn done(&self, parts: u64) {
        self.0.add(parts);
    }
}
