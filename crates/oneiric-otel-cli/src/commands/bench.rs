//! `bench`: measurements that anyone can run.

mod query;

use anyhow::Result;

use super::Ending;
use crate::args::Global;
use crate::args::bench::Bench;

pub(crate) async fn run(global: &Global, bench: &Bench) -> Result<Ending> {
    match bench {
        Bench::Query(query) => query::run(global, query).await,
    }
}
