//! The command line: what can be said, and how the help explains it.
//!
//! Values are checked here as far as they can be without looking at anything else, so that a wrong one ends with clap's
//! message and exit code 2.

mod ask;
pub(crate) mod bench;
pub(crate) mod dlq;
mod export;
pub(crate) mod sql;

use std::ffi::OsString;
use std::path::PathBuf;

use clap::error::ErrorKind;
use clap::{Args, CommandFactory as _, Parser, Subcommand, ValueEnum};
use oneiric_otel::otlp;
use oneiric_otel::query::{AttributeFilter, TraceId};
use oneiric_otel_api::CorsOrigin;
use oneiric_otel_server::ServerOptions;

pub(crate) use ask::{Diff, Errors, Logs, Metrics, Order, Services, Spans};
pub(crate) use export::{Export, Format};

use crate::moment::{Length, Moment};

/// Stores OpenTelemetry traces, metrics and logs in PostgreSQL and finds them by meaning.
#[derive(Debug, Parser)]
#[command(name = "oneiric-otel", version, propagate_version = true, arg_required_else_help = true)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

impl Arguments {
    /// What was said, or what is wrong with it. A variable of the environment that is set to nothing says nothing.
    pub(crate) fn read() -> Result<Self, clap::Error> {
        let mut arguments = Self::try_parse()?;
        arguments.global.database_url.take_if(|url| url.is_empty());
        arguments.global.maintenance.maintenance_url.take_if(|url| url.is_empty());
        arguments.global.reader_url.take_if(|url| url.is_empty());
        arguments.global.sql_reader_url.take_if(|url| url.is_empty());
        arguments.global.data_dir.take_if(|dir| dir.as_os_str().is_empty());
        match arguments.check() {
            Ok(()) => Ok(arguments),
            Err(reason) => Err(Self::command().error(ErrorKind::ValueValidation, reason)),
        }
    }

    /// Checks what one value alone does not tell, and what must not be repeated in a message.
    fn check(&self) -> Result<(), &'static str> {
        let is_url = |url: &str| {
            let rest = url.strip_prefix("postgresql://").or_else(|| url.strip_prefix("postgres://"));
            rest.is_some_and(|rest| !rest.is_empty())
        };
        if self.global.database_url.as_deref().is_some_and(|url| !is_url(url)) {
            return Err("--database-url (or OTEL_STORAGE_CONNECTION_STRING): a URL looks like \
                        postgresql://USER:PASSWORD@HOST:PORT/DATABASE");
        }
        if let Some(url) = &self.global.maintenance.maintenance_url {
            if !is_url(url) {
                return Err("--maintenance-url (or OTEL_STORAGE_MAINTENANCE_URL): a URL looks like \
                            postgresql://USER:PASSWORD@HOST:PORT/DATABASE");
            }
            if self.global.database_url.is_none() {
                return Err(
                    "--maintenance-url (or OTEL_STORAGE_MAINTENANCE_URL): there is no --database-url of which it \
                            could be another way to the same database",
                );
            }
        }
        if let Some(url) = &self.global.reader_url {
            if !is_url(url) {
                return Err("--reader-url (or OTEL_STORAGE_READER_URL): a URL looks like \
                            postgresql://USER:PASSWORD@HOST:PORT/DATABASE");
            }
            if self.global.database_url.is_none() {
                return Err(
                    "--reader-url (or OTEL_STORAGE_READER_URL): there is no --database-url of which it could be \
                            a replica",
                );
            }
        }
        if let Some(url) = &self.global.sql_reader_url {
            if !is_url(url) {
                return Err("--sql-reader-url (or OTEL_STORAGE_SQL_READER_URL): a URL looks like \
                            postgresql://USER:PASSWORD@HOST:PORT/DATABASE");
            }
            if self.global.database_url.is_none() {
                return Err(
                    "--sql-reader-url (or OTEL_STORAGE_SQL_READER_URL): there is no --database-url; the embedded \
                            database has a role of its own for SQL",
                );
            }
        }
        if let Command::Export(export) = &self.command {
            if export.format == Format::Protobuf && export.signals.len() != 1 {
                return Err(
                    "--format protobuf: expected one --signal, since a file of protobuf does not say what it holds",
                );
            }
            return check_range(export.since, export.until);
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
pub(crate) struct Global {
    /// Where the embedded database lies [default: the user's data directory; for root /var/lib/oneiric-otel]
    #[arg(long, global = true, value_name = "DIR", env = "OTEL_STORAGE_DATA_DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    /// A PostgreSQL to use in place of the embedded one: postgresql://USER:PASSWORD@HOST/DATABASE
    #[arg(long, global = true, value_name = "URL", env = "OTEL_STORAGE_CONNECTION_STRING", hide_env_values = true)]
    pub(crate) database_url: Option<String>,
    #[command(flatten)]
    pub(crate) maintenance: Maintenance,
    /// Where questions are asked: a replica, or another way to the same database; its role must be able to read the tables
    /// [default: the database]
    #[arg(long, global = true, value_name = "URL", env = "OTEL_STORAGE_READER_URL", hide_env_values = true)]
    pub(crate) reader_url: Option<String>,
    /// Where `sql` asks, as a role that can read the views and nothing else [default: the database, if it is one]
    #[arg(long, global = true, value_name = "URL", env = "OTEL_STORAGE_SQL_READER_URL", hide_env_values = true)]
    pub(crate) sql_reader_url: Option<String>,
    /// Print JSON for programs on stdout, and nothing else there
    #[arg(long, global = true)]
    pub(crate) json: bool,
}

/// How the schema is reached by whoever looks after it.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct Maintenance {
    /// Another way to the same database, for migrations and maintenance: as the schema's owner, or past PgBouncer
    #[arg(long, global = true, value_name = "URL", env = "OTEL_STORAGE_MAINTENANCE_URL", hide_env_values = true)]
    pub(crate) maintenance_url: Option<String>,
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
    /// Look at the database or bring its schema up to date
    Db {
        #[command(subcommand)]
        command: Db,
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

/// Where to listen. Port 0 picks a free one.
#[derive(Debug, Clone, Args)]
pub(crate) struct Listen {
    /// Address for OTLP/gRPC [default: 127.0.0.1:4317]
    #[arg(long = "grpc-addr", value_name = "HOST:PORT", value_parser = address)]
    pub(crate) grpc: Option<String>,
    /// Address for OTLP/HTTP [default: 127.0.0.1:4318]
    #[arg(long = "http-addr", value_name = "HOST:PORT", value_parser = address)]
    pub(crate) http: Option<String>,
    /// Address for the query API below /api/v1/, /healthz, /readyz and /metrics [default: 127.0.0.1:16686]
    #[arg(long = "api-addr", value_name = "HOST:PORT", value_parser = address)]
    pub(crate) api: Option<String>,
    /// Let pages of this origin (https://HOST:PORT, or * for all) ask the query API in a browser; may be repeated
    #[arg(long = "cors-origin", value_name = "ORIGIN", env = "OTEL_STORAGE_CORS_ORIGINS", value_delimiter = ',')]
    pub(crate) cors_origins: Vec<CorsOrigin>,
    /// What else there is to say about the listeners; it is not said here.
    #[arg(skip)]
    pub(crate) server: ServerOptions,
}

#[derive(Debug, Args)]
pub(crate) struct Serve {
    #[command(flatten)]
    pub(crate) listen: Listen,
    #[command(flatten)]
    pub(crate) guard: Guard,
    #[command(flatten)]
    pub(crate) intake: Intake,
    /// Store spans of the server's own work too, as the service oneiric-otel
    #[arg(long, env = "OTEL_STORAGE_TRACE_SELF", value_parser = clap::builder::FalseyValueParser::new())]
    pub(crate) trace_self: bool,
}

/// Who may send, and how much. SIGHUP reads the files again.
#[derive(Debug, Clone, Args)]
pub(crate) struct Guard {
    /// Speak TLS on every address, with this certificate and those that lead to its authority, in PEM
    #[arg(long, value_name = "FILE", env = "OTEL_STORAGE_TLS_CERT", requires = "tls_key")]
    pub(crate) tls_cert: Option<PathBuf>,
    /// The private key of the certificate, in PEM; others must not be able to read it
    #[arg(long, value_name = "FILE", env = "OTEL_STORAGE_TLS_KEY", requires = "tls_cert")]
    pub(crate) tls_key: Option<PathBuf>,
    /// Let only clients in that show a certificate signed by one of these authorities, in PEM
    #[arg(long, value_name = "FILE", env = "OTEL_STORAGE_TLS_CLIENT_CA", requires = "tls_cert")]
    pub(crate) tls_client_ca: Option<PathBuf>,
    /// Let only requests in that show a bearer token of this file, one per line; others must not be able to read it.
    /// The variable OTEL_STORAGE_TOKENS can hold tokens instead, with commas between them
    #[arg(long, value_name = "FILE", env = "OTEL_STORAGE_TOKEN_FILE")]
    pub(crate) token_file: Option<PathBuf>,
    /// The largest request in bytes, as sent and decompressed [default: 67108864]
    #[arg(long, value_name = "BYTES")]
    pub(crate) max_request_bytes: Option<usize>,
    /// Bytes of all requests being received and stored at a time; at least three times --max-request-bytes [default:
    /// 268435456]
    #[arg(long, value_name = "BYTES")]
    pub(crate) max_in_flight_bytes: Option<usize>,
    /// Open connections for OTLP; beyond them the one idle longest is closed [default: 2048]
    #[arg(long, value_name = "N")]
    pub(crate) max_connections: Option<usize>,
}

/// When a request is acknowledged, and where it is until it is stored.
#[derive(Debug, Clone, Args)]
pub(crate) struct Intake {
    /// What an acknowledgement promises: durable on this machine's disk, committed in the database, or in memory only
    #[arg(long, value_enum, default_value_t = Acknowledge::Spooled, env = "OTEL_STORAGE_ACK")]
    pub(crate) ack: Acknowledge,
    /// Bytes on disk for requests that wait for the database, at least 256 MiB; beyond it senders are told to come later
    #[arg(long, value_name = "BYTES", default_value_t = 1 << 30, env = "OTEL_STORAGE_SPOOL_MAX_BYTES",
          value_parser = clap::value_parser!(u64).range(256 << 20..))]
    pub(crate) spool_max_bytes: u64,
    /// Free bytes on the disk of the embedded database below which senders are told to come later
    #[arg(long, value_name = "BYTES", default_value_t = 1 << 30, env = "OTEL_STORAGE_MIN_FREE_BYTES")]
    pub(crate) min_free_bytes: u64,
}

impl Default for Intake {
    fn default() -> Self {
        Self { ack: Acknowledge::Spooled, spool_max_bytes: 1 << 30, min_free_bytes: 1 << 30 }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Acknowledge {
    /// Durable in the spool on disk
    Spooled,
    /// Committed in the database
    Stored,
    /// In memory: the oldest of 1000 waiting requests is dropped when another comes
    Memory,
}

#[derive(Debug, Args)]
pub(crate) struct Demo {
    #[command(flatten)]
    pub(crate) listen: Listen,
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

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Status {
    Ok,
    Error,
    Unset,
}

impl Status {
    /// The word in the database.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Error => "error",
            Self::Unset => "unset",
        }
    }
}

/// Which traces.
#[derive(Debug, Clone, Args)]
pub(crate) struct Narrow {
    /// Traces that began at this time or later: 2h, 2026-03-01, 2026-03-01T12:30, RFC 3339
    #[arg(long, value_name = "TIME")]
    pub(crate) since: Option<Moment>,
    /// Traces that began before this time
    #[arg(long, value_name = "TIME")]
    pub(crate) until: Option<Moment>,
    /// Traces in which this service took part
    #[arg(long, value_name = "NAME")]
    pub(crate) service: Option<String>,
    /// Traces whose root has this name
    #[arg(long, value_name = "NAME")]
    pub(crate) operation: Option<String>,
    /// Traces that ended so
    #[arg(long, value_enum)]
    pub(crate) status: Option<Status>,
    /// Traces that took at least so long: 250ms, 1.5s, 2m
    #[arg(long, value_name = "LENGTH")]
    pub(crate) min_duration: Option<Length>,
    /// Traces that took at most so long
    #[arg(long, value_name = "LENGTH")]
    pub(crate) max_duration: Option<Length>,
    /// Traces with a span, or its resource, that has the attribute: key, key=value, key!=value, key>5, key~part; may be
    /// repeated
    #[arg(long = "attr", value_name = "FILTER")]
    pub(crate) attributes: Vec<AttributeFilter>,
    /// How many at most, 1 to 1000
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) limit: u32,
}

#[derive(Debug, Args)]
pub(crate) struct Search {
    /// What to look for, in your own words
    #[arg(required = true, value_name = "TEXT", value_parser = some_text)]
    pub(crate) text: Vec<String>,
    #[command(flatten)]
    pub(crate) narrow: Narrow,
}

#[derive(Debug, Args)]
pub(crate) struct Similar {
    /// The trace's id: 32 hex digits
    pub(crate) trace_id: TraceId,
    /// The least cosine similarity that counts
    #[arg(long, value_name = "COSINE", default_value_t = 0.85, value_parser = cosine)]
    pub(crate) threshold: f64,
    /// Say in what each hit agrees with the trace and in what it differs
    #[arg(long)]
    pub(crate) explain: bool,
    #[command(flatten)]
    pub(crate) narrow: Narrow,
}

#[derive(Debug, Args)]
pub(crate) struct Trace {
    /// The trace's id: 32 hex digits
    #[arg(value_name = "TRACE_ID")]
    pub(crate) id: TraceId,
    /// Show what belongs to it besides: how it failed, its critical path, all its logs, and the metrics of its services while
    /// it ran
    #[arg(long)]
    pub(crate) context: bool,
    /// Show how it failed, and where its time went
    #[arg(long)]
    pub(crate) critical_path: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Traces {
    #[command(flatten)]
    pub(crate) narrow: Narrow,
    /// In which order
    #[arg(long, value_enum, default_value_t = Order::Newest)]
    pub(crate) order: Order,
    /// Go on behind a page, with the cursor that came with it and the same flags
    #[arg(long, value_name = "CURSOR", conflicts_with = "all")]
    pub(crate) cursor: Option<String>,
    /// All of them, page by page; --limit is the length of a page
    #[arg(long)]
    pub(crate) all: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Psql {
    /// What psql is given, such as -c 'select count(*) from otel_spans'
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGS")]
    pub(crate) arguments: Vec<OsString>,
}

fn address(text: &str) -> Result<String, String> {
    match text.rsplit_once(':') {
        Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok() => Ok(text.to_owned()),
        _ => Err("expected HOST:PORT, such as 127.0.0.1:4317".to_owned()),
    }
}

fn some_text(text: &str) -> Result<String, String> {
    if text.trim().is_empty() { Err("expected words".to_owned()) } else { Ok(text.to_owned()) }
}

fn cosine(text: &str) -> Result<f64, String> {
    let accepted = || format!("expected a number from 0 to 1, found {text:?}");
    let value: f64 = text.parse().map_err(|_| accepted())?;
    if (0.0..=1.0).contains(&value) { Ok(value) } else { Err(accepted()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn global_flags_stand_anywhere_and_psql_keeps_its_own() {
        let line = ["oneiric-otel", "psql", "--data-dir", "/d", "-c", "select 1", "--json"];
        let arguments = Arguments::try_parse_from(line).expect("this is how psql is called");
        assert_eq!(arguments.global.data_dir, Some(PathBuf::from("/d")));
        let Command::Psql(psql) = arguments.command else { panic!("{:?}", arguments.command) };
        assert_eq!(psql.arguments, ["-c", "select 1", "--json"]);
        assert!(!arguments.global.json, "what follows psql's first argument is psql's");
    }
}
