//! `demo`: everything at work. A simulated system sends its telemetry over OTLP to a server of our own, and three
//! questions find what went wrong in it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use oneiric_otel::embed::Embedder;
use oneiric_otel::query::{QueryService, SearchAnswer, SearchRequest, TraceFilter};
use oneiric_otel::settings::{ListenSettings, Resolved, Source};
use oneiric_otel::system::{ModelState, Schema};
use oneiric_otel_bench::demo::SEED;
use oneiric_otel_bench::demo::plan::{self, Fault};
use oneiric_otel_bench::demo::searches::{SEARCHES, Search};
use oneiric_otel_server::ServerOptions;
use serde::Serialize;

use super::Ending;
use crate::app::{self, Addresses, App, Choices, Ports};
use crate::args::{Demo, Global};
use crate::backend::Backend;
use crate::demo::system::{self, System, Told};
use crate::intake::Intake;
use crate::progress::Progress;
use crate::signals::Signals;
use crate::{data_dir, failure, screen};

/// A trace is derived two seconds after its last span, so this is long.
const SEARCHABLE_WITHIN: Duration = Duration::from_secs(90);
/// pgvector is installed when there are texts, if the database lets us.
const PGVECTOR_WITHIN: Duration = Duration::from_secs(5);
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Hits asked for, and hits shown.
const HITS: usize = 5;
const HITS_SHOWN: usize = 3;

/// What `--json` prints, on one line.
#[derive(Debug, Serialize)]
struct Output {
    #[serde(flatten)]
    addresses: Addresses,
    data_dir: Option<String>,
    traces: usize,
    spans: usize,
    logs: usize,
    faults: BTreeMap<String, usize>,
    searches: Vec<Answered>,
    /// Seconds by step.
    seconds: BTreeMap<&'static str, f64>,
}

#[derive(Debug, Serialize)]
struct Answered {
    question: &'static str,
    /// The words for the fault, none of which occurs in the telemetry.
    fault_words: &'static [&'static str],
    expected: Fault,
    /// The fault of the newest trace of each hit; none for a healthy trace or one that the demo did not send this time.
    found: Vec<Option<Fault>>,
    answer: SearchAnswer,
}

pub(crate) async fn run(global: &Global, demo: &Demo, mut signals: Signals) -> Result<Ending> {
    let progress = Arc::new(Progress::new());
    let mut watch = Stopwatch::new(Arc::clone(&progress));
    let mut global = global.clone();
    if global.database_url().is_none() {
        global.resolved.settings.data_dir = Some(data_dir::of_demo(&global)?);
    }
    let ports = Ports {
        any_grpc: !is_asked_for(&global.resolved, "listen.grpc_addr"),
        any_http: !is_asked_for(&global.resolved, "listen.http_addr"),
        any_api: !is_asked_for(&global.resolved, "listen.api_addr"),
    };
    let server = listeners(&global.resolved);
    if !is_asked_for(&global.resolved, "cors_origins") {
        global.resolved.settings.cors_origins.clear();
    }
    let api = app::api_options(global.settings())?;
    let start = async {
        let backend = Backend::open_for_writing(&global, &progress).await?;
        if let Err(error) = check(&backend, global.database_url().is_some()).await {
            backend.release().await?;
            return Err(error);
        }
        watch.lap("database", "PostgreSQL is ready");
        let intake = Intake::open(&data_dir::of(&global)?, &backend, global.settings())?;
        let background = Arc::new(progress.beside());
        let sql = backend.sql_reader_for_serving(&global, Schema::Ready).await;
        let choices = Choices { settings: global.settings().clone(), api, sql, ports, ..Choices::default() };
        let app = App::start(backend, Schema::Ready, intake, server, choices, background).await?;
        watch.lap("listeners", &format!("listening for OTLP on {}", app.addresses().grpc));
        anyhow::Ok(app)
    };
    let mut app = tokio::select! {
        app = start => app?,
        code = signals.first() => return Ok(Ending::Code(code)),
    };
    let mut ending = Ending::Good;
    let shown = tokio::select! {
        shown = show(&app, &global, demo, &mut watch) => shown,
        code = signals.first() => {
            ending = Ending::Code(code);
            Ok(())
        }
    };
    let served = match (shown, ending) {
        (Ok(()), Ending::Good) if !demo.once => tokio::select! {
            served = app.serving() => served,
            _ = signals.first() => Ok(()),
        },
        (shown, _) => shown,
    };
    let stopped = app.stop().await;
    served.and(stopped).map(|()| ending)
}

/// The demo talks to itself, in the clear and without a token. So what files and variables open for a server does not count.
fn listeners(resolved: &Resolved) -> ServerOptions {
    let usual = ListenSettings::default();
    let ListenSettings { grpc_addr, http_addr, api_addr } = resolved.settings.listen.clone();
    let choose = |name, address, usual| if is_asked_for(resolved, name) { address } else { usual };
    ServerOptions {
        grpc_addr: choose("listen.grpc_addr", grpc_addr, usual.grpc_addr),
        http_addr: choose("listen.http_addr", http_addr, usual.http_addr),
        api_addr: Some(choose("listen.api_addr", api_addr, usual.api_addr)),
        ..ServerOptions::default()
    }
}

/// Whether the command line says it.
fn is_asked_for(resolved: &Resolved, setting: &str) -> bool {
    matches!(resolved.origin(setting), Source::Flag(_))
}

/// Whether the demo can and should work on a database.
async fn check(backend: &Backend, is_given: bool) -> Result<()> {
    let database = backend.database();
    let explain = |error| failure::of_database(&error, backend.target());
    if is_given && database.has_other_services(&system::service_names()).await.map_err(explain)? {
        return Err(failure::advised(
            format!(
                "database {} has telemetry that is not the demo's, which would be mixed with inventions",
                backend.target()
            ),
            "create a database for the demo, or leave --database-url out to use an embedded one",
        ));
    }
    let status = database.status().await.map_err(explain)?;
    if status.pgvector_version.is_none() && !status.pgvector_installable {
        return Err(no_pgvector());
    }
    Ok(())
}

fn no_pgvector() -> anyhow::Error {
    failure::advised(
        "this database has no pgvector, so there is no search by meaning to show",
        "let a superuser run CREATE EXTENSION vector in it, where pgvector 0.8 or newer is installed; or leave \
         --database-url out to use the embedded database",
    )
}

async fn show(app: &App, global: &Global, demo: &Demo, watch: &mut Stopwatch) -> Result<()> {
    let told = send(app.addresses(), watch).await?;
    let embedder = wait_for_model(app, watch).await?;
    wait_until_searchable(app, &told, watch).await?;
    let service = QueryService::new(app.database().clone(), Some(embedder));
    let mut searches = Vec::new();
    for search in &SEARCHES {
        searches.push(ask(&service, search, &told).await?);
    }
    watch.lap("searches", "three questions are answered");
    let mut faults = BTreeMap::new();
    for fault in told.traces.values().flatten() {
        *faults.entry(format!("{fault:?}")).or_insert(0) += 1;
    }
    let data_dir = global.settings().data_dir.as_ref().filter(|_| global.database_url().is_none());
    let output = Output {
        addresses: app.addresses(),
        data_dir: data_dir.map(|dir| dir.display().to_string()),
        traces: told.traces.len(),
        spans: told.spans,
        logs: told.logs,
        faults,
        searches,
        seconds: watch.seconds(),
    };
    if global.json { screen::print_json(&output) } else { screen::print(&tell(&output, global, demo)) }
}

/// Lets the simulated system send everything, and returns when it is stored.
async fn send(addresses: Addresses, watch: &mut Stopwatch) -> Result<Told> {
    let plan = plan::draw(SEED);
    let system = System::connect(&format!("http://{}", addresses.grpc))?;
    let sending = tokio::task::spawn_blocking(move || {
        let told = system.play(&plan);
        system.shut_down().map(|()| told)
    });
    let told = sending.await.context("the simulated system was cut off")??;
    watch.lap(
        "telemetry",
        &format!("{} traces, {} spans, {} logs and metrics sent and stored", told.traces.len(), told.spans, told.logs),
    );
    Ok(told)
}

/// The model was loading meanwhile; at the first start it is downloaded.
async fn wait_for_model(app: &App, watch: &mut Stopwatch) -> Result<Arc<dyn Embedder>> {
    let mut model = app.model();
    let state =
        model.wait_for(|state| !matches!(state, ModelState::Loading)).await.context("the model's task ended")?;
    let ready = match &*state {
        ModelState::Ready(embedder) => Ok(Arc::clone(embedder)),
        ModelState::Failed(reason) => Err(failure::advised(
            format!("there is no embedding model, and so no search by meaning: {reason}"),
            "what was sent is stored; run the demo again when this is solved",
        )),
        ModelState::Loading | ModelState::None => bail!("the model's task ended"),
    };
    drop(state);
    watch.lap("model", "the embedding model is loaded");
    ready
}

async fn wait_until_searchable(app: &App, told: &Told, watch: &mut Stopwatch) -> Result<()> {
    let ids: Vec<[u8; 16]> = told.traces.keys().copied().collect();
    let database = app.database();
    let explain = |error| failure::of_database(&error, database.target());
    let deadline = Instant::now() + SEARCHABLE_WITHIN;
    watch.progress.start("deriving and embedding", Some(ids.len() as u64));
    let mut all_derived = None;
    let waited = loop {
        let settled = database.settled_traces(&ids).await.map_err(explain)?;
        watch.progress.set(settled.unsigned_abs());
        if settled.unsigned_abs() as usize >= ids.len() {
            let census = database.census().await.map_err(explain)?;
            if census.texts_to_embed == 0 && !census.models.is_empty() {
                break Ok(());
            }
            // The model is loaded and there are texts: it could be registered, if there were a place for vectors.
            let since = *all_derived.get_or_insert_with(Instant::now);
            if census.models.is_empty() && since.elapsed() >= PGVECTOR_WITHIN {
                let status = database.status().await.map_err(explain)?;
                if status.pgvector_version.is_none() {
                    break Err(no_pgvector());
                }
            }
        }
        if Instant::now() >= deadline {
            let census = database.census().await.map_err(explain)?;
            let reason = census.embedding_error.map(|error| format!(" ({error})")).unwrap_or_default();
            break Err(failure::advised(
                format!(
                    "after {} s {settled} of {} traces are derived and {} texts wait for their vector{reason}",
                    SEARCHABLE_WITHIN.as_secs(),
                    ids.len(),
                    census.texts_to_embed,
                ),
                "RUST_LOG=debug shows more; `oneiric-otel health` shows whether the database has pgvector",
            ));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    };
    watch.progress.clear();
    waited?;
    watch.lap("searchable", "every trace is derived, embedded and searchable");
    Ok(())
}

async fn ask(service: &QueryService, search: &'static Search, told: &Told) -> Result<Answered> {
    let request = SearchRequest { text: search.question.to_owned(), limit: HITS, filter: TraceFilter::default() };
    let answer = service.search_traces(&request).await.with_context(|| format!("search {:?}", search.question))?;
    let found = answer.hits.iter().map(|hit| told.traces.get(&hit.newest.trace_id.0).copied().flatten()).collect();
    Ok(Answered { question: search.question, fault_words: search.fault_words, expected: search.fault, found, answer })
}

fn tell(output: &Output, global: &Global, demo: &Demo) -> String {
    let mut text = String::new();
    for answered in &output.searches {
        let words: Vec<String> = answered.fault_words.iter().map(|word| format!("\"{word}\"")).collect();
        write!(text, "\nsearch \"{}\"\n  (nowhere in what was sent: {})\n", answered.question, words.join(", "))
            .unwrap_or_default(); // Writing to a string cannot fail.
        for hit in answered.answer.hits.iter().take(HITS_SHOWN) {
            let traces = if hit.trace_count == 1 { "trace" } else { "traces" };
            write!(
                text,
                "  {:.2}  {} {traces}, such as {}\n        {}\n",
                hit.score,
                hit.trace_count,
                hit.newest.trace_id,
                screen::clean_short(&hit.text, 200)
            )
            .unwrap_or_default();
        }
    }
    let program = std::env::args().next().unwrap_or_else(|| "oneiric-otel".to_owned());
    let database = match global.database_url() {
        Some(url) => format!("--database-url '{url}'"),
        None => format!("--data-dir '{}'", output.data_dir.as_deref().unwrap_or_default()),
    };
    let first = output.searches.first().and_then(|answered| answered.answer.hits.first());
    let id = first.map(|hit| hit.newest.trace_id.to_string()).unwrap_or_default();
    let took: f64 = output.seconds.values().sum();
    write!(text, "\nFrom start to answers: {took:.1} s. What to try next").unwrap_or_default();
    text.push_str(if demo.once { ":\n" } else { ", in another terminal:\n" });
    for command in [
        "search 'the stock lookup is sluggish'".to_owned(),
        "search 'shoppers entered a malformed zip code'".to_owned(),
        format!("trace {id}"),
        format!("similar {id}"),
        "traces --status error --since 1h".to_owned(),
        "psql -c 'select service_name, count(*) from otel_spans group by 1 order by 2 desc'".to_owned(),
    ] {
        writeln!(text, "  {program} {database} {command}").unwrap_or_default();
    }
    if !demo.once {
        writeln!(
            text,
            "Your own programs can send OTLP to http://{} (gRPC) or http://{} (HTTP). Ctrl-C ends the demo.",
            output.addresses.grpc, output.addresses.http
        )
        .unwrap_or_default();
    }
    text
}

/// Times the steps, and says when each is done.
#[derive(Debug)]
struct Stopwatch {
    progress: Arc<Progress>,
    last: Instant,
    laps: Vec<(&'static str, Duration)>,
}

impl Stopwatch {
    fn new(progress: Arc<Progress>) -> Self {
        Self { progress, last: Instant::now(), laps: Vec::new() }
    }

    fn lap(&mut self, name: &'static str, what: &str) {
        let took = self.last.elapsed();
        self.last = Instant::now();
        self.laps.push((name, took));
        self.progress.say(&format!("{:>6.2} s  {what}", took.as_secs_f64()));
    }

    fn seconds(&self) -> BTreeMap<&'static str, f64> {
        self.laps.iter().map(|(name, took)| (*name, took.as_secs_f64())).collect()
    }
}

#[cfg(test)]
mod tests {
    use oneiric_otel::settings::{ENV_PREFIX, Loader};

    use super::*;

    #[test]
    fn what_a_server_opens_to_others_the_demo_does_not() {
        let variables = ["GRPC_ADDR", "HTTP_ADDR", "API_ADDR"]
            .map(|name| (format!("{ENV_PREFIX}LISTEN__{name}"), "0.0.0.0:1".into()));
        let loader =
            Loader::new().variables(ENV_PREFIX, variables).flag("listen.http_addr", "0.0.0.0:2", "--http-addr");
        let resolved = loader.finish().expect("all are accepted");
        assert_eq!(resolved.settings.listen.grpc_addr, "0.0.0.0:1");
        let (server, usual) = (listeners(&resolved), ListenSettings::default());
        assert_eq!((server.grpc_addr, server.api_addr), (usual.grpc_addr, Some(usual.api_addr)));
        assert_eq!(server.http_addr, "0.0.0.0:2");
        assert!(!is_asked_for(&resolved, "listen.grpc_addr") && is_asked_for(&resolved, "listen.http_addr"));
    }
}
