//! `retention`: what is kept how long, and dropping what is too old.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use comfy_table::{Cell, CellAlignment};
use jiff::Timestamp;
use oneiric_otel::store::StoreError;
use oneiric_otel::store::retention::{
    CollectedRows, CollectionOutcome, CollectionRun, CollectionState, DroppedPartition, LeftPartition,
    RetainedPartition, RetentionOutcome, RetentionRun, RetentionState, TableRetention,
};

use super::Ending;
use crate::args::Global;
use crate::args::retention::{Retention, Run};
use crate::backend::Backend;
use crate::progress::Progress;
use crate::{failure, moment, screen};

/// How long a server that maintains the database is waited for.
const SERVER_PATIENCE: Duration = Duration::from_mins(1);

pub(crate) async fn run(global: &Global, command: &Retention) -> Result<Ending> {
    let progress = Arc::new(Progress::new());
    let backend = Backend::open_for_reading(global, &progress).await?;
    let done = match command {
        Retention::Show => show(global, &backend).await,
        Retention::Run(run) => apply(global, &backend, run, &progress).await,
    };
    backend.release().await?;
    done
}

async fn show(global: &Global, backend: &Backend) -> Result<Ending> {
    let state = backend.maintenance().retention_state().await.map_err(|error| explain(backend, &error))?;
    if global.json {
        screen::print_json(&state)?;
    } else {
        screen::print(&text_of(&state))?;
    }
    Ok(Ending::Good)
}

async fn apply(global: &Global, backend: &Backend, run: &Run, progress: &Progress) -> Result<Ending> {
    let (database, options) = (backend.maintenance(), global.settings().retention_options());
    let explain = |error: StoreError| explain(backend, &error);
    let mut collection = None;
    let outcome = if run.dry_run {
        database.retention_dry_run(&options).await.map_err(explain)?
    } else {
        database.configure_retention(&options).await.map_err(explain)?;
        let at_once = RetentionRun { trust_clock: run.trust_clock, shortened_at_once: true, ..RetentionRun::default() };
        let everything = CollectionRun { at_once: true, trust_clock: run.trust_clock, ..CollectionRun::default() };
        progress.start("retention", None);
        let work = async {
            let outcome = database.run_retention(&at_once).await;
            let collected = match &outcome {
                Ok(_) => Some(database.collect(&everything).await),
                Err(_) => None,
            };
            (outcome, collected)
        };
        let done = database.maintain_alone(SERVER_PATIENCE, Box::pin(work)).await;
        progress.end();
        let (outcome, collected) = done.map_err(explain)?;
        collection = collected.transpose().map_err(explain)?;
        outcome.map_err(explain)?
    };
    let held_back = match &outcome.held_back {
        Some(_) if !run.dry_run => is_anything_due(&database.retention_state().await.map_err(explain)?),
        _ => false,
    };
    if global.json {
        screen::print_json(&Done { retention: &outcome, collection: collection.as_ref() })?;
    } else {
        screen::print(&told(&outcome, run.dry_run))?;
        if let Some(collection) = &collection {
            screen::print(&told_of_collection(collection, outcome.held_back.as_ref()))?;
        }
    }
    Ok(if outcome.left.is_empty() && !held_back { Ending::Good } else { Ending::Bad })
}

/// What a run did, as JSON.
#[derive(serde::Serialize)]
struct Done<'a> {
    #[serde(flatten)]
    retention: &'a RetentionOutcome,
    #[serde(skip_serializing_if = "Option::is_none")]
    collection: Option<&'a CollectionOutcome>,
}

/// `told`: a reason that was given already.
fn told_of_collection(outcome: &CollectionOutcome, told: Option<&String>) -> String {
    let mut parts = Vec::new();
    let held_back = outcome.held_back.iter().filter(|reason| Some(*reason) != told);
    parts.extend(held_back.map(|reason| format!("nothing is retired: {}\n", screen::clean(reason))));
    if outcome.collected() > 0 {
        let CollectionOutcome { resources, scopes, series, templates, .. } = outcome;
        parts.push(format!(
            "nothing referred to them any more: {resources} resources, {scopes} scopes, {series} metric series, {templates} log \
             templates\n"
        ));
    }
    parts.extend(outcome.waits_for.iter().map(|what| format!("collecting waits for {}\n", screen::clean(what))));
    parts.concat()
}

fn explain(backend: &Backend, error: &StoreError) -> anyhow::Error {
    failure::of_database(error, backend.maintenance().target())
}

fn is_anything_due(state: &RetentionState) -> bool {
    state.tables.iter().flat_map(|table| &table.partitions).any(|partition| partition.is_due)
}

fn told(outcome: &RetentionOutcome, dry_run: bool) -> String {
    let mut parts = Vec::new();
    if let Some(reason) = &outcome.held_back {
        let what = if dry_run { "a run now would be held back" } else { "nothing is dropped" };
        parts.push(format!("{what}: {}\n", screen::clean(reason)));
    }
    if outcome.dropped.is_empty() && outcome.left.is_empty() && outcome.held_back.is_none() {
        parts.push("nothing is too old\n".to_owned());
    }
    parts.push(dropped_table(&outcome.dropped));
    let left =
        |left: &LeftPartition| format!("left: {}: {}\n", screen::clean(&left.partition), screen::clean(&left.reason));
    parts.extend(outcome.left.iter().map(left));
    parts.concat()
}

fn text_of(state: &RetentionState) -> String {
    let headings = ["TABLE", "KEPT", "STEP", "COUNT", "ROWS", "SIZE", "FROM", "LAST WRITE", "TOO OLD", "NEXT"];
    let mut table = screen::table(&headings);
    for of in &state.tables {
        table.add_row(row(of));
    }
    let mut parts = vec![format!("{table}\n")];
    parts.extend(state.held_back.iter().map(|reason| format!("nothing is dropped: {}\n", screen::clean(reason))));
    for (of, partition) in state.tables.iter().flat_map(|of| of.partitions.iter().map(move |partition| (of, partition)))
    {
        if let Some(reason) = &partition.left_alone {
            let name = screen::clean(&partition.partition);
            parts.push(format!("left alone: {name} of {}: {}\n", of.table, screen::clean(reason)));
        }
    }
    for detached in &state.detached {
        let name = screen::clean(&detached.table);
        parts.push(format!("detached by somebody, and kept: {name} ({})\n", bytes(detached.bytes)));
    }
    if state.collection.older_program {
        parts.push("nothing is retired: an older program wrote within two days\n".to_owned());
    }
    let CollectionState { looked_at, held_back, waits_for, .. } = &state.collection;
    parts.extend(looked_at.map(|at| format!("collecting was last run at {}\n", moment::show_minute(at))));
    if !state.collection.older_program {
        let told = held_back.iter().filter(|reason| Some(*reason) != state.held_back.as_ref());
        parts.extend(told.map(|reason| format!("nothing is retired: {}\n", screen::clean(reason))));
    }
    parts.extend(waits_for.iter().map(|what| format!("collecting waits for {}\n", screen::clean(what))));
    parts.extend(collected_table(&state.collection.tables));
    if !state.dropped.is_empty() {
        parts.push("\ndropped, the latest first\n".to_owned());
        parts.push(dropped_table(&state.dropped));
    }
    parts.concat()
}

fn collected_table(rows: &[CollectedRows]) -> Option<String> {
    let told = rows.iter().filter(|rows| rows.retired > 0 || rows.collected > 0).map(|rows| {
        let CollectedRows { table, retired, collected, collected_at } = rows;
        vec![table.clone(), retired.to_string(), collected.to_string(), time(*collected_at)]
    });
    let mut table = screen::table(&["SHARED", "NOT SEEN", "COLLECTED", "AT"]);
    table.add_rows(told);
    (table.row_count() > 0).then(|| format!("{table}\n"))
}

fn row(of: &TableRetention) -> Vec<Cell> {
    let sum = |read: fn(&RetainedPartition) -> i64| -> i64 { of.partitions.iter().map(read).sum() };
    let due = of.partitions.iter().filter(|partition| partition.is_due).count();
    // The outermost have no bound, and most are empty.
    let written = || of.partitions.iter().filter(|partition| partition.last_write.is_some());
    let next = of.partitions.iter().filter(|partition| !partition.is_due && partition.last_write.is_some());
    let number = |number: String| Cell::new(number).set_alignment(CellAlignment::Right);
    vec![
        Cell::new(&of.table),
        Cell::new(of.retention_days.map_or_else(|| "forever".to_owned(), |days| format!("{days} d"))),
        Cell::new(&of.step),
        number(of.partitions.len().to_string()),
        number(sum(|partition| partition.rows).to_string()),
        number(bytes(sum(|partition| partition.bytes))),
        Cell::new(time(written().filter_map(|partition| partition.from).min())),
        Cell::new(time(written().filter_map(|partition| partition.last_write).max())),
        number(due.to_string()),
        Cell::new(time(next.filter_map(|partition| partition.old_at).min())),
    ]
}

fn dropped_table(dropped: &[DroppedPartition]) -> String {
    if dropped.is_empty() {
        return String::new();
    }
    let mut table = screen::table(&["PARTITION", "FROM", "UNTIL", "LAST WRITE", "ROWS", "SIZE", "KEPT", "STATE", "AT"]);
    for one in dropped {
        let state = match &one.reason {
            Some(reason) => format!("{}: {}", one.state, screen::clean(reason)),
            None => one.state.clone(),
        };
        table.add_row(vec![
            screen::clean(&one.partition),
            time(one.from),
            time(one.until),
            time(one.last_write),
            one.rows.to_string(),
            bytes(one.bytes),
            format!("{} d", one.retention_days),
            state,
            time(one.at),
        ]);
    }
    format!("{table}\n")
}

fn time(at: Option<Timestamp>) -> String {
    at.map_or_else(String::new, moment::show_minute)
}

fn bytes(bytes: i64) -> String {
    indicatif::BinaryBytes(bytes.unsigned_abs()).to_string()
}
