//! The command line: what can be said, and how the help explains it.
//!
//! Values are checked here as far as they can be without looking at anything else, so that a wrong one ends with clap's
//! message and exit code 2.

mod ask;
pub(crate) mod bench;
mod compare;
pub(crate) mod dlq;
mod export;
mod flags;
pub(crate) mod retention;
pub(crate) mod sql;
mod traces;

use std::ffi::OsString;
use std::path::PathBuf;

use clap::error::ErrorKind;
use clap::{Args, CommandFactory as _, Parser, Subcommand, ValueEnum};
use oneiric_otel::otlp;
use oneiric_otel::settings::{DatabaseUrl, ENV_PREFIX, Loader, Resolved, Settings, SettingsError, StorageBackend};

pub(crate) use ask::{Diff, Errors, Logs, Metrics, Order, Services, Spans};
pub(crate) use compare::Compare;
pub(crate) use export::{Export, Format};
use flags::{Everyone, Given, Listener, Server, SettingFlags};
pub(crate) use traces::{Narrow, Search, Similar, Status, Trace, Traces};

use crate::moment::Moment;

/// Stores OpenTelemetry traces, metrics and logs in PostgreSQL and finds them by meaning.
#[derive(Debug, Parser)]
#[command(name = "oneiric-otel", version, propagate_version = true, arg_required_else_help = true)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) global: GlobalFlags,
    #[command(subcommand)]
    pub(crate) command: Command,
}

impl Arguments {
    /// What was said, or what is wrong with it: on the command line, and in the settings of every source.
    pub(crate) fn read() -> Result<(Self, Global), clap::Error> {
        let arguments = Self::try_parse()?;
        let wrong = |reason: String| Self::command().error(ErrorKind::ValueValidation, reason);
        arguments.check().map_err(|reason| wrong(reason.to_owned()))?;
        let global = arguments.global();
        match &global.problems {
            Some(problems) if !arguments.command.is_config_check() => Err(wrong(problems.to_string())),
            None if arguments.command.is_server()
                && global.settings().storage_backend != StorageBackend::Postgresql =>
            {
                let origin = global.resolved.origin("storage_backend");
                Err(wrong(format!(
                    "{origin}: storage_backend: expected postgresql: a server stores, and passes on with --forward-otlp"
                )))
            }
            _ => Ok((arguments, global)),
        }
    }

    /// The settings of all sources.
    fn global(&self) -> Global {
        let mut loader = Loader::new().file_and_environment(self.global.config.as_deref(), ENV_PREFIX);
        let own = match &self.command {
            Command::Serve(serve) => serve.flags.given.as_slice(),
            Command::Demo(demo) => demo.flags.given.as_slice(),
            _ => &[],
        };
        for (name, value) in &self.global.set {
            loader = loader.flag(name, value, "--set");
        }
        for Given { setting, flag, value } in self.global.flags.given.iter().chain(own) {
            loader = loader.flag(setting, value, flag);
        }
        let json = self.global.json;
        match loader.finish() {
            Ok(resolved) => Global { resolved, json, problems: None },
            Err(problems) => Global { resolved: Resolved::default(), json, problems: Some(problems) },
        }
    }

    /// Checks what one value alone does not tell.
    fn check(&self) -> Result<(), &'static str> {
        if let Command::Export(export) = &self.command {
            if export.format == Format::Protobuf && export.signals.len() != 1 {
                return Err(
                    "--format protobuf: expected one --signal, since a file of protobuf does not say what it holds",
                );
            }
            return check_range(export.since, export.until);
        }
        if let Command::Compare(Compare { since, until, .. }) = &self.command {
            return check_range(*since, *until);
        }
        if let Command::Logs(Logs { since, until, .. }) = &self.command {
            return check_range(*since, *until);
        }
        if let Command::Spans(Spans { when, .. })
        | Command::Errors(Errors { when, .. })
        | Command::Services(Services { when, .. })
        | Command::Metrics(Metrics { when, .. }) = &self.command
        {
            return check_range(when.since, when.until);
        }
        let narrow = match &self.command {
            Command::Search(search) => &search.narrow,
            Command::Similar(similar) => &similar.narrow,
            Command::Traces(traces) => &traces.narrow,
            _ => return Ok(()),
        };
        check_range(narrow.since, narrow.until)
    }
}

fn check_range(since: Option<Moment>, until: Option<Moment>) -> Result<(), &'static str> {
    match (since, until) {
        (Some(since), Some(until)) if until.0 <= since.0 => Err("--until: expected a time after --since"),
        _ => Ok(()),
    }
}

/// What every command takes.
#[derive(Debug, Clone, Args)]
pub(crate) struct GlobalFlags {
    /// A file of settings, in TOML or YAML: docs/settings.md has them all [env: OTEL_STORAGE_CONFIG]
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Any setting by its name, such as batch_size=1000; may be repeated
    #[arg(long, global = true, value_name = "NAME=VALUE", value_parser = name_and_value)]
    set: Vec<(String, String)>,
    #[command(flatten)]
    flags: SettingFlags<Everyone>,
    /// Print JSON for programs on stdout, and nothing else there
    #[arg(long, global = true)]
    json: bool,
}

/// What every command is told.
#[derive(Debug, Clone)]
pub(crate) struct Global {
    pub(crate) resolved: Resolved,
    pub(crate) json: bool,
    /// What is wrong with the settings, which then are the defaults: only `config check` sees it.
    pub(crate) problems: Option<SettingsError>,
}

impl Global {
    pub(crate) fn settings(&self) -> &Settings {
        &self.resolved.settings
    }

    /// The URL of the database, unless it is embedded.
    pub(crate) fn database_url(&self) -> Option<&DatabaseUrl> {
        self.settings().connection_string.as_ref()
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show everything at work: a simulated system with faults, its telemetry over OTLP, searches by meaning
    ///
    /// The database lies in the directory `demo` of the data directory. One that --database-url names must have no other
    /// telemetry.
    Demo(Demo),
    /// Receive OTLP over gRPC and HTTP and store it
    Serve(Serve),
    /// Store telemetry from files: OTLP JSON, JSON lines, OTLP protobuf
    Import(Import),
    /// Write what is stored as OTLP, for `import` to take in elsewhere
    ///
    /// Spans and data points that are taken in where they are already add nothing. Log records have no identity of their own:
    /// those of an export are new wherever they come from somewhere else.
    Export(Export),
    /// Say whether another place has the same spans: a file of OTLP, or a Jaeger
    ///
    /// Ends with 0 if both say the same, 1 if not, 2 if it could not be compared, or not all of it.
    Compare(Compare),
    /// Find traces by describing them in words
    Search(Search),
    /// Find traces like this one
    Similar(Similar),
    /// Show a trace as a tree
    Trace(Trace),
    /// List traces, newest first
    Traces(Traces),
    /// List spans whatever traces they are of, newest first
    Spans(Spans),
    /// Show in what two traces agree and in what they differ
    Diff(Diff),
    /// Show what fails, grouped by what the failures have in common
    Errors(Errors),
    /// List log records, by words and by what else is known of them
    Logs(Logs),
    /// List metrics, the labels of one, or its values over time
    Metrics(Metrics),
    /// List services, the operations of one, or who calls whom
    Services(Services),
    /// Say whether all is well, and how much is stored and waiting
    Health,
    /// Ask in SQL over the views, as a role that can do nothing else
    Sql(sql::Sql),
    /// Open an SQL shell on the database
    Psql(Psql),
    /// Look at records that the database refused, try them again, delete them
    Dlq {
        #[command(subcommand)]
        command: dlq::Dlq,
    },
    /// See what is kept how long, or drop what is too old
    Retention {
        #[command(subcommand)]
        command: retention::Retention,
    },
    /// Look at the database or bring its schema up to date
    Db {
        #[command(subcommand)]
        command: Db,
    },
    /// Look at the settings: what is wrong with them, or what holds and who says so
    Config {
        #[command(subcommand)]
        command: Config,
    },
    /// Measure how fast and how good things are
    Bench {
        #[command(subcommand)]
        command: bench::Bench,
    },
    /// Print the completions for a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Db {
    /// Print version, size, schema and pgvector of the database
    Status,
    /// Apply what is missing of the schema
    Migrate,
    /// Let other roles than the schema's owner write or read
    Roles(DbRoles),
}

/// Roles are made before, with CREATE ROLE. Granted before, nothing changes.
#[derive(Debug, Args)]
#[group(required = true, multiple = true, args = ["writer", "reader"])]
pub(crate) struct DbRoles {
    /// The role that `serve` and `import` connect as
    #[arg(long, value_name = "NAME")]
    pub(crate) writer: Option<String>,
    /// A role that may read the views, and nothing else
    #[arg(long, value_name = "NAME")]
    pub(crate) reader: Option<String>,
    /// Print the statements and do nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
}

#[derive(Debug, Clone, Copy, Subcommand)]
pub(crate) enum Config {
    /// Say what is wrong with the settings of all sources; exit code 1 if anything is
    Check,
    /// Show every setting, its value and where it comes from. Secrets are not shown
    Show,
    /// Print the page docs/settings.md
    Reference,
}

impl Command {
    fn is_server(&self) -> bool {
        matches!(self, Self::Serve(_) | Self::Demo(_))
    }

    fn is_config_check(&self) -> bool {
        matches!(self, Self::Config { command: Config::Check })
    }
}

#[derive(Debug, Args)]
pub(crate) struct Serve {
    #[command(flatten)]
    flags: SettingFlags<Server>,
}

#[derive(Debug, Args)]
pub(crate) struct Demo {
    #[command(flatten)]
    flags: SettingFlags<Listener>,
    /// End after the searches instead of serving on
    #[arg(long)]
    pub(crate) once: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Import {
    /// Files and directories of any size, read as they come; - is stdin. A request in them may have 64 MiB
    #[arg(required = true, value_name = "PATH")]
    pub(crate) paths: Vec<PathBuf>,
    /// What protobuf input carries, where neither its name nor its contents tell
    #[arg(long, value_enum)]
    pub(crate) signal: Option<Signal>,
    /// End when everything is stored, without waiting until it can be searched
    #[arg(long)]
    pub(crate) no_wait: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Signal {
    Traces,
    Metrics,
    Logs,
}

impl Signal {
    /// The signal that the library knows.
    pub(crate) fn otlp(self) -> otlp::Signal {
        match self {
            Self::Traces => otlp::Signal::Traces,
            Self::Metrics => otlp::Signal::Metrics,
            Self::Logs => otlp::Signal::Logs,
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct Psql {
    /// What psql is given, such as -c 'select count(*) from otel_spans'
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGS")]
    pub(crate) arguments: Vec<OsString>,
}

fn name_and_value(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("expected NAME=VALUE, such as batch_size=1000")?;
    Ok((name.to_owned(), value.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn no_command_has_a_flag_of_its_own_in_the_place_of_a_global_one() {
        let line = ["oneiric-otel", "bench", "search", "--only", "shop", "--set", "search_floor=0.1"];
        let arguments = Arguments::try_parse_from(line).expect("both are flags");
        assert!((arguments.global().settings().search_floor - 0.1).abs() < 1e-9);
    }

    #[test]
    fn global_flags_stand_anywhere_and_psql_keeps_its_own() {
        let line = ["oneiric-otel", "psql", "--data-dir", "/d", "-c", "select 1", "--json"];
        let arguments = Arguments::try_parse_from(line).expect("this is how psql is called");
        assert_eq!(arguments.global().settings().data_dir, Some(PathBuf::from("/d")));
        let Command::Psql(psql) = arguments.command else { panic!("{:?}", arguments.command) };
        assert_eq!(psql.arguments, ["-c", "select 1", "--json"]);
        assert!(!arguments.global.json, "what follows psql's first argument is psql's");
    }
}
