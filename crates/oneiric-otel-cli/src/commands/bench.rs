//! `bench`: measurements that anyone can run.

mod query;
mod search;

use anyhow::Result;
use oneiric_otel_bench::fill;

use super::Ending;
use crate::args::Global;
use crate::args::bench::Bench;
use crate::progress::Progress;

pub(crate) async fn run(global: &Global, bench: &Bench) -> Result<Ending> {
    match bench {
        Bench::Query(query) => query::run(global, query).await,
        Bench::Search(search) => search::run(global, search).await,
    }
}

/// The steps of a benchmark as progress.
struct Steps<'a>(&'a Progress);

impl fill::Watcher for Steps<'_> {
    fn step(&self, what: &str, parts: Option<u64>) {
        self.0.end();
        self.0.start(what, parts);
    }

    fn done(&self, parts: u64) {
        self.0.add(parts);
    }
}
