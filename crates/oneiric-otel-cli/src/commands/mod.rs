//! One module per command. Each takes its arguments, does its work and returns how it ended.

pub(crate) mod bench;
pub(crate) mod compare;
pub(crate) mod completions;
pub(crate) mod config;
pub(crate) mod db;
pub(crate) mod demo;
pub(crate) mod diff;
pub(crate) mod dlq;
pub(crate) mod errors;
pub(crate) mod export;
pub(crate) mod health;
pub(crate) mod import;
pub(crate) mod logs;
pub(crate) mod metrics;
pub(crate) mod psql;
pub(crate) mod retention;
pub(crate) mod search;
pub(crate) mod serve;
pub(crate) mod services;
pub(crate) mod similar;
pub(crate) mod spans;
pub(crate) mod sql;
pub(crate) mod trace;
pub(crate) mod traces;

use anyhow::Result;

use crate::args::{Command, Global};
use crate::own_traces::OwnTraces;
use crate::signals::Signals;

/// How a command ended, where that is no error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// Exit code 0.
    Good,
    /// Exit code 1, and what is to be said has been said.
    Bad,
    /// The exit code of a program that ran in our place, or of a signal.
    Code(u8),
}

/// Runs a command to its end. Those that serve handle signals themselves; the others are cut off by the first.
pub(crate) async fn run(
    global: &Global,
    command: Command,
    own_traces: Option<OwnTraces>,
    mut signals: Signals,
) -> Result<Ending> {
    match command {
        Command::Serve(_) => return serve::run(global, own_traces, signals).await,
        Command::Demo(demo) => return demo::run(global, &demo, signals).await,
        Command::Psql(psql) => return psql::run(global, psql, signals).await,
        Command::Completions { shell } => return completions::run(shell),
        _ => {}
    }
    let work = async {
        match command {
            Command::Import(import) => import::run(global, &import).await,
            Command::Export(export) => export::run(global, &export).await,
            Command::Compare(compare) => compare::run(global, &compare).await,
            Command::Search(search) => search::run(global, &search).await,
            Command::Similar(similar) => similar::run(global, &similar).await,
            Command::Trace(trace) => Box::pin(trace::run(global, &trace)).await,
            Command::Traces(traces) => traces::run(global, &traces).await,
            Command::Spans(spans) => spans::run(global, &spans).await,
            Command::Bench { command } => bench::run(global, &command).await,
            Command::Sql(sql) => sql::run(global, &sql).await,
            Command::Diff(diff) => diff::run(global, &diff).await,
            Command::Metrics(metrics) => metrics::run(global, &metrics).await,
            Command::Logs(logs) => logs::run(global, &logs).await,
            Command::Errors(errors) => errors::run(global, &errors).await,
            Command::Services(services) => services::run(global, &services).await,
            Command::Health => health::run(global).await,
            Command::Dlq { command } => dlq::run(global, &command).await,
            Command::Retention { command } => retention::run(global, &command).await,
            Command::Db { command } => db::run(global, &command).await,
            Command::Config { command } => config::run(global, command),
            // These were handled above.
            Command::Serve(_) | Command::Demo(_) | Command::Psql(_) | Command::Completions { .. } => Ok(Ending::Good),
        }
    };
    tokio::select! {
        ending = work => ending,
        code = signals.first() => Ok(Ending::Code(code)),
    }
}
