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
mod connection_url;
mod data_dir;
mod demo;
mod embedding;
mod failure;
mod finder;
mod intake;
mod metrics;
mod model;
mod moment;
mod progress;
mod report;
mod screen;
mod security;
mod signals;
mod tasks;
mod trace_tree;
mod watch;

use std::io::{self, IsTerminal as _};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result};
use tracing_subscriber::EnvFilter;

use args::{Arguments, Command};
use commands::Ending;
use signals::Signals;

/// How long blocking calls may go on after the end, such as an installation that a signal cut off.
const LINGER: Duration = Duration::from_secs(10);

fn main() -> ExitCode {
    let arguments = match Arguments::read() {
        Ok(arguments) => arguments,
        Err(error) => {
            // To stdout if it is the help that was asked for. Nothing can be done if that fails.
            drop(error.print());
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    start_logging(&arguments.command);
    match run(arguments) {
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

fn run(arguments: Arguments) -> Result<Ending> {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start the async runtime")?;
    let ending = runtime.block_on(async {
        let signals = Signals::watch(!matches!(arguments.command, Command::Psql(_)))?;
        commands::run(&arguments.global, arguments.command, signals).await
    });
    runtime.shutdown_timeout(LINGER);
    ending
}

/// To stderr; what RUST_LOG says, else quiet for commands that end by themselves.
fn start_logging(command: &Command) {
    let default = match command {
        Command::Serve(_) => "info",
        _ => "warn",
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .init();
}
