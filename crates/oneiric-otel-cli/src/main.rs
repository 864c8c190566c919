//! The command line of oneiric-otel.
//!
//! ```text
//! args ──▶ commands ──▶ backend (database by URL, or embedded) ──▶ oneiric-otel (library)
//!             │  └────▶ app (serve, demo: listeners, derivation, embedding)
//!             └───────▶ screen (tables, JSON), progress and failure (stderr)
//! ```
//!
//! Exit codes: 0 all is well; 1 something failed, and stderr says what and what to do; 2 the command line is wrong; 128
//! and the number of a signal that cut a command off.

mod app;
mod args;
mod backend;
mod commands;
mod data_dir;
mod demo;
mod embedding;
mod failure;
mod finder;
mod forwarding;
mod hide;
mod intake;
mod metrics;
mod model;
mod moment;
mod open_files;
mod own_traces;
mod progress;
mod report;
mod screen;
mod security;
mod signals;
mod trace_context;
mod trace_tree;
mod watch;

use std::io::{self, IsTerminal as _};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Error, Result};
use oneiric_otel::self_trace;
use oneiric_otel::settings::{LogFormat, Settings};
use tracing::Subscriber;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _};

use args::{Arguments, Command, Global};
use commands::Ending;
use own_traces::OwnTraces;
use signals::Signals;

/// How long blocking calls may go on after the end, such as an installation that a signal cut off.
const LINGER: Duration = Duration::from_secs(10);

fn main() -> ExitCode {
    if let Err(error) = hide::passwords() {
        failure::report(&Error::new(error).context("cannot take the password off the command line"));
        return ExitCode::FAILURE;
    }
    let (arguments, global) = match Arguments::read() {
        Ok(read) => read,
        Err(error) => {
            // To stdout if it is the help that was asked for. Nothing can be done if that fails.
            drop(error.print());
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    let own_traces = start_logging(&arguments.command, global.settings());
    match run(&global, arguments.command, own_traces) {
        Ok(Ending::Good) => ExitCode::SUCCESS,
        Ok(Ending::Bad) => ExitCode::FAILURE,
        Ok(Ending::Code(code)) => ExitCode::from(code),
        Err(error) if failure::is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            failure::report(&error);
            ExitCode::FAILURE
        }
    }
}

fn run(global: &Global, command: Command, own_traces: Option<OwnTraces>) -> Result<Ending> {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start the async runtime")?;
    let ending = runtime.block_on(async {
        let signals = Signals::watch(!matches!(command, Command::Psql(_)))?;
        commands::run(global, command, own_traces, signals).await
    });
    runtime.shutdown_timeout(LINGER);
    ending
}

/// Starts the log, and the tracing of the server by itself if it is asked for.
fn start_logging(command: &Command, settings: &Settings) -> Option<OwnTraces> {
    let default = match command {
        Command::Serve(_) => "info",
        _ => "warn",
    };
    let own_traces = (matches!(command, Command::Serve(_)) && settings.trace_self).then(OwnTraces::new);
    // Not a layer that may be absent: one that is would still ask for every span.
    match &own_traces {
        Some(own_traces) => log(default, settings.log_format).with(own_traces.layer()).init(),
        None => log(default, settings.log_format).init(),
    }
    own_traces
}

/// To stderr; what RUST_LOG says, else quiet for commands that end by themselves. Spans of our own work are no part of it.
fn log(default: &str, format: LogFormat) -> impl Subscriber + for<'span> LookupSpan<'span> + Send + Sync + use<> {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default));
    let without_spans = format!("{}=off", self_trace::TARGET).parse();
    let filter = without_spans.map_or_else(|_| EnvFilter::new(default), |directive| filter.add_directive(directive));
    let log = tracing_subscriber::fmt::layer().with_writer(io::stderr);
    let log = match format {
        LogFormat::Text => log.with_ansi(io::stderr().is_terminal()).boxed(),
        LogFormat::Json => log.json().flatten_event(true).boxed(),
    };
    tracing_subscriber::registry().with(log.with_filter(filter))
}

#[cfg(test)]
mod tests {
    use tracing::Level;

    use super::*;

    #[test]
    fn own_spans_are_made_only_where_they_are_asked_for() {
        let is_made = || tracing::span_enabled!(target: self_trace::TARGET, Level::INFO);
        tracing::subscriber::with_default(log("trace", LogFormat::Text), || {
            assert!(tracing::enabled!(Level::INFO), "the log is on");
            assert!(!is_made());
        });
        let traced = log("trace", LogFormat::Text).with(OwnTraces::new().layer());
        tracing::subscriber::with_default(traced, || assert!(is_made()));
    }
}
