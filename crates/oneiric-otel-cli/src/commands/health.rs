//! `health`: whether all is well, and how much is stored and waiting.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use oneiric_otel::store::{Census, Collecting, Database, DatabaseStatus, Fallback, MANY_DEAD_LETTERS};
use serde::Serialize;

use super::Ending;
use crate::args::Global;
use crate::backend::Backend;
use crate::progress::Progress;
use crate::report::Report;
use crate::{data_dir, failure, intake, moment, screen};

/// A database that needs longer for a few small questions is not healthy.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
const RELEASE_WITHIN: Duration = Duration::from_secs(2);

#[derive(Debug, Serialize)]
struct Health {
    healthy: bool,
    /// What is wrong, and what to do.
    problems: Vec<String>,
    /// What the server of this data directory and database says, if one runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    server: Option<Report>,
    /// None when the database is away and a server keeps what comes.
    #[serde(skip_serializing_if = "Option::is_none")]
    database: Option<DatabaseStatus>,
    #[serde(skip_serializing_if = "Option::is_none")]
    telemetry: Option<Census>,
}

pub(crate) async fn run(global: &Global) -> Result<Ending> {
    let server = server(global)?;
    let health = match (look(global).await, server) {
        (Ok(Looked { status, telemetry, is_embedded }), server) => {
            let mut problems = problems(&status, telemetry.as_ref(), is_embedded);
            let limit = global.settings().limits.max_metric_series;
            problems.extend(telemetry.as_ref().and_then(|telemetry| too_many_series(telemetry, limit)));
            problems.extend(server.iter().flat_map(Report::problems));
            Health { healthy: problems.is_empty(), problems, server, database: Some(status), telemetry }
        }
        // There is a server that knows more than that the database does not answer.
        (Err(error), Some(server)) => {
            let mut problems = server.problems();
            if problems.is_empty() {
                problems.push(format!("{error:#}"));
            }
            Health { healthy: false, problems, server: Some(server), database: None, telemetry: None }
        }
        (Err(error), None) => return Err(error),
    };
    if global.json {
        screen::print_json(&health)?;
    } else {
        screen::print(&tell(&health))?;
    }
    Ok(if health.healthy { Ending::Good } else { Ending::Bad })
}

/// The report of the server for this data directory and database: of one that runs, or that ended without a word.
fn server(global: &Global) -> Result<Option<Report>> {
    let data_dir = data_dir::of(global)?;
    let target = match global.database_url() {
        Some(url) => Database::new(url.expose())
            .map_err(|error| failure::of_database(&error, "given by --database-url"))?
            .target()
            .to_owned(),
        None => String::new(),
    };
    let path = intake::report_path(&data_dir, &target, global.database_url().is_none());
    Ok(Report::read(&path))
}

/// What the database says.
struct Looked {
    status: DatabaseStatus,
    telemetry: Option<Census>,
    is_embedded: bool,
}

async fn look(global: &Global) -> Result<Looked> {
    let progress = Arc::new(Progress::new());
    let open = Backend::open_unmigrated(global, &progress);
    // A server that is still to be started may take its time, one that runs may not.
    let backend = if Backend::is_running(global)? {
        let Ok(backend) = tokio::time::timeout(ANSWER_WITHIN, open).await else {
            return Err(failure::advised(
                format!("the database server runs and did not answer within {} s", ANSWER_WITHIN.as_secs()),
                "it hangs, or it recovers from a crash: try again in a moment, and look at its log",
            ));
        };
        backend?
    } else {
        open.await?
    };
    let Ok(examined) = tokio::time::timeout(ANSWER_WITHIN, examine(&backend)).await else {
        let error = failure::advised(
            format!("database {} did not answer within {} s", backend.target(), ANSWER_WITHIN.as_secs()),
            "it hangs or has too much to do: look at its log and at pg_stat_activity",
        );
        // To let go of a server that hangs may hang too.
        drop(tokio::time::timeout(RELEASE_WITHIN, backend.release()).await);
        return Err(error);
    };
    backend.release().await?;
    examined
}

async fn examine(backend: &Backend) -> Result<Looked> {
    let database = backend.database();
    let explain = |error| failure::of_database(&error, backend.target());
    let status = database.status().await.map_err(explain)?;
    let telemetry = if status.schema.version > 0 { Some(database.census().await.map_err(explain)?) } else { None };
    Ok(Looked { status, telemetry, is_embedded: backend.is_embedded() })
}

fn problems(status: &DatabaseStatus, telemetry: Option<&Census>, is_embedded: bool) -> Vec<String> {
    let mut problems = Vec::new();
    problems.extend(status.schema.conflict.clone());
    if !status.schema.pending.is_empty() {
        let pending = status.schema.pending.join(", ");
        problems.push(format!("the schema lacks {pending}: run `oneiric-otel db migrate`"));
    }
    if status.pgvector_version.is_none() && !status.pgvector_available {
        problems.push(
            "the server has no pgvector, so there is no search by meaning: install pgvector 0.8 or newer".to_owned(),
        );
    }
    // The embedded database gets it from the first command that embeds. So does another that lets us; if texts are there
    // and it is not, it did not.
    let has_texts = telemetry.is_some_and(|telemetry| telemetry.has_texts);
    let is_withheld = !status.pgvector_installable || has_texts;
    if status.pgvector_version.is_none() && status.pgvector_available && is_withheld && !is_embedded {
        problems.push(
            "pgvector is not installed in this database, so there is no search by meaning: a superuser can run CREATE \
             EXTENSION vector, or the owner of the database where the extension is trusted"
                .to_owned(),
        );
    }
    let Some(telemetry) = telemetry else { return problems };
    if telemetry.dead_letters > MANY_DEAD_LETTERS {
        problems.push(format!(
            "{} records were refused by the database: see `oneiric-otel dlq list`",
            telemetry.dead_letters
        ));
    }
    problems.extend(telemetry.embedding_fallback.iter().map(Fallback::problem));
    if let Some(error) = &telemetry.embedding_error {
        problems.push(format!("texts could not be embedded: {error}"));
    }
    problems
}

/// That there is no room for metric series, or hardly any: their number is known to some thousandths.
fn too_many_series(telemetry: &Census, limit: u64) -> Option<String> {
    let rows = telemetry.approximate_rows.get("otel_metric_series").copied().flatten()?;
    (rows.unsigned_abs() >= limit - limit / 100).then(|| {
        format!(
            "there are about {rows} metric series, and the limit is {limit} (limits.max_metric_series): data points of new \
             ones become dead letters. See which metric has too many labels, or raise the limit"
        )
    })
}

fn tell_server(server: &Report, row: &mut impl FnMut(&str, String)) {
    row("server", format!("process {}, since {}", server.pid, moment::show_time(server.started_at)));
    let per_signal = |counts: &BTreeMap<String, u64>| {
        counts.iter().map(|(signal, count)| format!("{count} {signal}")).collect::<Vec<_>>().join(", ")
    };
    row("acknowledged since", per_signal(&server.counts.acknowledged_records));
    row("written since", per_signal(&server.counts.written_records));
    if let Some(spool) = &server.spool {
        let waiting: u64 = spool.entries.values().sum();
        let oldest =
            spool.oldest.map(|oldest| format!(", the oldest of {}", moment::show_time(oldest))).unwrap_or_default();
        let bytes = |bytes| indicatif::BinaryBytes(bytes).to_string();
        row("spool", format!("{waiting} requests{oldest}; {} of {}", bytes(spool.bytes), bytes(spool.max_bytes)));
    }
    if let Some(forward) = &server.forward {
        let (waiting, oldest) = forward.waiting();
        let oldest = oldest.map(|oldest| format!(", the oldest of {}", moment::show_time(oldest))).unwrap_or_default();
        let passed_on = per_signal(&forward.forwarded_requests);
        let sums = format!(
            "{waiting} requests wait{oldest}; {} refused, {} dropped, {} lost",
            forward.refused_requests, forward.dropped_requests, forward.lost_requests
        );
        row("passed on to", format!("{} ({}): {passed_on} requests; {sums}", forward.endpoint, forward.protocol));
    }
    let until =
        server.breaker.until.map(|until| format!(", next try at {}", moment::show_time(until))).unwrap_or_default();
    row(
        "circuit breaker",
        format!("{} since {}{until}", server.breaker.state, moment::show_time(server.breaker.since)),
    );
}

fn tell_collecting(collecting: &Collecting) -> String {
    let Some(at) = collecting.looked_at else { return "never run".to_owned() };
    let rows: i64 = collecting.collected.values().sum();
    let mut told = vec![format!("last run {}; {rows} rows deleted that nothing referred to", moment::show_time(at))];
    told.extend(collecting.held_back.iter().map(|reason| format!("nothing is retired: {reason}")));
    told.extend(collecting.waits_for.iter().map(|what| format!("waits for {what}")));
    told.join("; ")
}

fn tell(health: &Health) -> String {
    let mut table = screen::table(&["what", "state"]);
    let mut row = |what: &str, state: String| {
        table.add_row([what.to_owned(), screen::clean(&state)]);
    };
    if let Some(server) = &health.server {
        tell_server(server, &mut row);
    }
    if let Some(status) = &health.database {
        row("database", status.target.clone());
        row("PostgreSQL", status.server_version.clone());
        row("size", indicatif::BinaryBytes(status.size_bytes.unsigned_abs()).to_string());
        row("schema", format!("version {}", status.schema.version));
        let pgvector = status.pgvector_version.clone();
        row("pgvector", pgvector.unwrap_or_else(|| "not installed in this database".to_owned()));
    }
    if let Some(telemetry) = &health.telemetry {
        let models = telemetry.models.join(", ");
        row("models with vectors", if models.is_empty() { "none yet".to_owned() } else { models });
        for (table, what) in [
            ("otel_spans", "spans"),
            ("otel_logs", "log records"),
            ("otel_metrics", "data points"),
            ("otel_metric_series", "metric series"),
            ("otel_traces", "traces"),
            ("otel_texts", "distinct texts"),
        ] {
            let rows = telemetry.approximate_rows.get(table).copied().flatten();
            row(
                what,
                rows.map_or_else(
                    || "unknown, until PostgreSQL counts again".to_owned(),
                    |rows| format!("about {rows}"),
                ),
            );
        }
        row("traces to derive", telemetry.traces_to_derive.to_string());
        row("texts to embed", telemetry.texts_to_embed.to_string());
        if let Some(change) = &telemetry.model_change {
            row(
                "change of model",
                format!("to {}: {} texts left; until then {} answers", change.to, change.texts_left, change.from),
            );
        }
        row("dead letters", telemetry.dead_letters.to_string());
        row("collecting", telemetry.collecting.as_ref().map_or_else(|| "never run".to_owned(), tell_collecting));
    }
    let verdict = if health.healthy { "healthy\n".to_owned() } else { "unhealthy\n".to_owned() };
    let problems = health.problems.iter().map(|problem| format!("problem: {}\n", screen::clean(problem)));
    problems.fold(format!("{table}\n{verdict}"), |text, problem| text + &problem)
}
