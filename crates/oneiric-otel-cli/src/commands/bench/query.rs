//! `bench query`: how long questions take.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use jiff::Timestamp;
use oneiric_otel::query::{QueryError, QueryService, TraceId};
use oneiric_otel::settings::Settings;
use oneiric_otel_bench::fill::{self, Filled};
use oneiric_otel_bench::generate::{Generator, Scenario};
use oneiric_otel_bench::questions::{self, Measured, Rounds};
use serde::Serialize;

use super::{Ending, Steps, show};
use crate::args::Global;
use crate::args::bench::Query;
use crate::backend::Backend;
use crate::progress::Progress;
use crate::{data_dir, failure, model, screen};

const DAY: i64 = 24 * 3600;

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Output {
    traces: u64,
    /// None when the data were there before.
    filled: Option<Filled>,
    classes: Vec<Measured>,
}

pub(crate) async fn run(global: &Global, query: &Query) -> Result<Ending> {
    let mut global = global.clone();
    if global.database_url().is_none() {
        global.resolved.settings.data_dir = Some(data_dir::of_bench(&global)?);
    }
    let generator = Arc::new(Generator::new(scenario(query)?));
    let progress = Arc::new(Progress::new());
    let backend = Backend::open_for_writing(&global, &progress).await?;
    let output = measure(global.settings(), &backend, query, generator, &progress).await;
    backend.release().await?;
    let output = output?;
    show(&global, &output, tell)
}

fn scenario(query: &Query) -> Result<Scenario> {
    let now = Timestamp::now().as_second();
    let until = query.until.map_or(now - now % DAY, |moment| moment.0.as_second());
    let length = Duration::from_hours(24 * u64::from(query.days));
    let start = u64::try_from(until).ok().and_then(|until| until.checked_sub(length.as_secs()));
    let start = start.context("--until: expected a time after 1970 and the days before it")?;
    Ok(Scenario {
        seed: query.seed,
        traces: query.traces,
        start_unix_nanos: start.saturating_mul(1_000_000_000),
        length,
    })
}

async fn measure(
    settings: &Settings,
    backend: &Backend,
    query: &Query,
    generator: Arc<Generator>,
    progress: &Arc<Progress>,
) -> Result<Output> {
    let database = backend.database();
    let explain = |error| failure::of_database(&error, backend.target());
    let services: Vec<&str> = generator.services().collect();
    if database.has_other_services(&services).await.map_err(explain)? {
        return Err(failure::advised(
            format!("database {} has telemetry that is not the benchmark's", backend.target()),
            "create a database for the benchmark, or leave --database-url out to use an embedded one",
        ));
    }
    let embedder = model::load_in_background(settings, Arc::new(progress.beside())).await?;
    let service = QueryService::new(database.clone(), Some(Arc::clone(&embedder)));
    let last = TraceId(generator.trace_id(generator.traces() - 1));
    let filled = match service.get_trace_summary(last).await {
        Ok(_) => None,
        Err(QueryError::NotFound { .. }) => {
            let told = Steps(progress);
            let filled = fill::fill(database, embedder, Arc::clone(&generator), &told).await;
            progress.end();
            Some(filled?)
        }
        Err(error) => return Err(error.into()),
    };
    let mut classes = Vec::new();
    if !query.fill_only {
        let rounds = Rounds { questions: query.questions as usize, repeats: query.repeats as usize, seed: query.seed };
        let asked = questions::measure(&service, &generator, rounds, &Steps(progress)).await;
        progress.end();
        classes = asked?;
    }
    Ok(Output { traces: generator.traces(), filled, classes })
}

fn tell(output: &Output) -> String {
    let mut text = String::new();
    if let Some(filled) = &output.filled {
        let mut table = screen::table(&["what", "count", "seconds"]);
        let mut row = |what: &str, count: u64, seconds: f64| {
            table.add_row([what.to_owned(), count.to_string(), format!("{seconds:.1}")]);
        };
        row("spans and log records stored", filled.spans + filled.log_records, filled.records_seconds);
        row("data points stored", filled.data_points, filled.metrics_seconds);
        row("traces derived", filled.traces, filled.derive_seconds);
        row("texts embedded", filled.texts, filled.embed_seconds);
        row("hours of metrics rolled up", filled.hours, filled.roll_up_seconds);
        row("indexes of closed partitions", filled.indexes, filled.close_seconds);
        text = format!("{table}\n");
    }
    if output.classes.is_empty() {
        return text;
    }
    let mut table = screen::table(&["question", "answers", "first p50 ms", "p99", "again p50 ms", "p99", "goal p99"]);
    for class in &output.classes {
        let ms = |value: f64| format!("{value:.1}");
        table.add_row([
            class.class.to_owned(),
            format!("{:.1}", class.answers),
            ms(class.first.p50_ms),
            ms(class.first.p99_ms),
            ms(class.again.p50_ms),
            ms(class.again.p99_ms),
            class.goal_ms.map_or_else(String::new, ms),
        ]);
    }
    format!("{text}{table}\n{} traces\n", output.traces)
}
