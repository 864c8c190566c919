//! What is done by the hour: partitions ahead of time, the indexes that may take long, retention, and the end of what need
//! not be remembered.

use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;
use tracing::{Instrument as _, Span};

use super::backend::{Schema, migrate};
use crate::pipeline::Ingest;
use crate::retention::RetentionOptions;
use crate::self_trace;
use crate::store::retention::{CollectionOutcome, CollectionRun, RetentionOutcome, RetentionRun};
use crate::store::{Database, ErrorClass, Lease, MAINTENANCE, SpoolNote, StoreError};

/// How long dead letters are kept that were stored after all.
const KEEP_PROCESSED_LETTERS: Duration = Duration::from_hours(30 * 24);
/// How often a database that is away at the start is asked.
const ASK_AGAIN_AFTER: Duration = Duration::from_secs(2);

/// Brings the schema up to date, as soon as the database can be asked.
pub(super) async fn await_schema(database: &Database, maintenance: Option<&Database>, schema: Schema) {
    if schema == Schema::Ready {
        return;
    }
    let mut told = None;
    loop {
        match migrate(database, maintenance).await {
            Ok(_) => return tracing::info!(database = database.target(), "the database is there"),
            Err(error) if error.class() == ErrorClass::Transient => {
                tracing::debug!(%error, "the database is still away");
            }
            Err(error) => {
                let reason = error.to_string();
                if told.as_ref() != Some(&reason) {
                    tracing::error!(%error, "the database cannot be used; requests wait for it");
                    told = Some(reason);
                }
            }
        }
        tokio::time::sleep(ASK_AGAIN_AFTER).await;
    }
}

/// How a database is maintained.
#[derive(Debug, Clone, Copy)]
pub(super) struct Upkeep {
    /// How long a request that is sent again adds nothing.
    pub(super) remember_requests: Duration,
    /// How long telemetry is kept, as far as it was said.
    pub(super) retention: RetentionOptions,
    /// When.
    pub(super) options: MaintenanceOptions,
}

/// When a database is maintained. Of several processes one does it each time.
#[derive(Debug, Clone, Copy)]
pub struct MaintenanceOptions {
    /// From one time to the next.
    pub every: Duration,
    /// How often it is looked whether it is time, or who did it is gone.
    pub look_every: Duration,
    /// How long after the end of a process that is at it another takes over.
    pub lease: Duration,
}

impl Default for MaintenanceOptions {
    fn default() -> Self {
        Self { every: Duration::from_hours(1), look_every: Duration::from_mins(1), lease: Duration::from_mins(2) }
    }
}

/// Maintains a database until told to stop.
pub(super) async fn maintain(database: Database, ingest: Ingest, upkeep: Upkeep, stop: CancellationToken) {
    let work = async {
        if let Err(error) = database.configure_retention(&upkeep.retention).await {
            tracing::error!(%error, "retention and partitions stay as they are in the database");
        }
        match database.migrate_deferred().await {
            Ok(applied) if applied.is_empty() => {}
            Ok(applied) => tracing::info!(migrations = ?applied, "applied deferred migrations"),
            Err(error) => tracing::warn!(%error, "deferred migrations wait for the next start"),
        }
        let lease = Lease::new(database.clone(), MAINTENANCE, upkeep.options.lease);
        let (note, mut said): (SpoolNote, Option<Instant>) = (SpoolNote::default(), None);
        let mut seen = 0;
        // At the start whenever it was done last, since this program may have more to do.
        let mut since = Duration::ZERO;
        loop {
            // Before requests are forgotten, by whomever.
            if said.is_none_or(|said| said.elapsed() >= upkeep.options.every) {
                match say_what_waits(&database, &ingest, note, upkeep.remember_requests).await {
                    Ok(()) => said = Some(Instant::now()),
                    Err(error) => tracing::warn!(%error, "the database could not be told what waits in the spool"),
                }
            }
            if let Err(error) = database.open_abandoned_partitions(RetentionRun::default().abandoned).await {
                tracing::debug!(%error, "it could not be looked for marks that a run of retention left behind");
            }
            match lease.take(since).await {
                Ok(true) => {
                    let received = ingest.counts().requests_of_others();
                    let span = if received > std::mem::replace(&mut seen, received) {
                        tracing::info_span!(target: self_trace::TARGET, "maintain", oneiric_otel.for_others = true)
                    } else {
                        Span::none()
                    };
                    // Not the first time: others that start now have yet to say what waits in their spools.
                    let remember = (said.is_some() && !since.is_zero()).then_some(upkeep.remember_requests);
                    let work = Box::pin(maintain_once(&database, &ingest, remember)).instrument(span);
                    if lease.hold(work).await {
                        since = upkeep.options.every;
                    }
                }
                Ok(false) => {}
                Err(error) => tracing::warn!(%error, "maintenance could not be begun"),
            }
            tokio::time::sleep(upkeep.options.look_every).await;
        }
    };
    stop.run_until_cancelled(work).await;
}

/// Says in the database what waits in our spool, where there is one.
async fn say_what_waits(
    database: &Database,
    ingest: &Ingest,
    note: SpoolNote,
    remember: Duration,
) -> Result<(), StoreError> {
    let status = ingest.status();
    let Some(spool) = &status.spool else { return Ok(()) };
    if spool.lanes.iter().any(|lane| lane.entries > 0 && lane.oldest.is_none()) {
        return Err(StoreError::transient("the oldest request of the spool could not be read"));
    }
    let oldest = age_of_spool(ingest);
    if let Some(age) = oldest
        && age > remember
    {
        tracing::warn!(
            spool_age_hours = age.as_secs() / 3600,
            remembered_hours = remember.as_secs() / 3600,
            "requests wait in the spool for longer than stored ones are remembered: where they were stored before and this \
             process was away since, their log records are stored twice"
        );
    }
    note.say(database, oldest).await
}

/// How long the oldest request waits in the spool.
fn age_of_spool(ingest: &Ingest) -> Option<Duration> {
    let oldest = ingest.status().spool.and_then(|spool| spool.lanes.iter().filter_map(|lane| lane.oldest).min());
    oldest.map(|oldest| oldest.elapsed().unwrap_or_default())
}

/// Drops what is too old.
async fn retain(database: &Database, ingest: &Ingest) {
    let state = match database.retention_state().await {
        Ok(state) => state,
        Err(error) => return tracing::warn!(%error, "the state of retention could not be read"),
    };
    let shortest = state.tables.iter().filter_map(|table| table.retention_days).min();
    if let (Some(days), Some(age)) = (shortest, age_of_spool(ingest))
        && age > Duration::from_hours(24 * u64::from(days))
    {
        tracing::warn!(
            retention_days = days,
            spool_age_hours = age.as_secs() / 3600,
            "requests wait in the spool for longer than telemetry is kept; what they bring is kept from its arrival on"
        );
    }
    for (table, partition) in state.tables.iter().flat_map(|table| table.partitions.iter().map(move |one| (table, one)))
    {
        if let Some(reason) = &partition.left_alone {
            tracing::warn!(
                table = table.table,
                partition = partition.partition,
                reason,
                "retention leaves a partition alone"
            );
        }
    }
    let due: Vec<&str> = state
        .tables
        .iter()
        .flat_map(|table| &table.partitions)
        .filter(|partition| partition.is_due)
        .map(|partition| partition.partition.as_str())
        .collect();
    match (database.may_apply_retention().await, due.is_empty()) {
        (Ok(true), _) => {}
        (Ok(false), true) => return,
        (Ok(false), false) => {
            return tracing::warn!(
                ?due,
                "partitions are too old, and this role does not own the schema: give the server its owner with \
                 --maintenance-url, or let the owner run `oneiric-otel retention run`"
            );
        }
        (Err(error), _) => return tracing::warn!(%error, "the owner of the schema could not be told"),
    }
    match database.run_retention(&RetentionRun::default()).await {
        Ok(RetentionOutcome { held_back: Some(reason), .. }) if !due.is_empty() => {
            tracing::warn!(reason, ?due, "retention drops nothing");
        }
        Ok(outcome) => tracing::debug!(dropped = outcome.dropped.len(), left = ?outcome.left, "applied retention"),
        Err(error) => tracing::warn!(%error, "retention could not be applied"),
    }
}

/// Deletes what nothing refers to any more.
async fn collect(database: &Database) {
    match database.may_apply_retention().await {
        Ok(true) => {}
        // That is said where there is something to drop.
        Ok(false) => return,
        Err(error) => return tracing::warn!(%error, "the owner of the schema could not be told"),
    }
    match database.collect(&CollectionRun::default()).await {
        Ok(done) => {
            let CollectionOutcome { retired, resources, scopes, series, templates, .. } = done;
            if done.collected() > 0 {
                tracing::info!(resources, scopes, series, templates, "deleted rows that nothing refers to any more");
            }
            tracing::debug!(retired, held_back = done.held_back, waits_for = ?done.waits_for, "looked for such rows");
        }
        Err(error) => tracing::warn!(%error, "rows that nothing refers to any more could not be deleted"),
    }
}

/// Requests are forgotten when `remember` says after how long.
async fn maintain_once(database: &Database, ingest: &Ingest, remember: Option<Duration>) {
    match database.make_partitions().await {
        Ok(made) => tracing::debug!(made, "made partitions ahead of time"),
        Err(error) => tracing::warn!(%error, "partitions could not be made ahead of time"),
    }
    if let Some(remember) = remember {
        match database.forget_requests(remember).await {
            Ok(forgotten) => tracing::debug!(forgotten, "forgot requests of long ago"),
            Err(error) => tracing::warn!(%error, "requests of long ago could not be forgotten"),
        }
    }
    match database.forget_dead_letters(KEEP_PROCESSED_LETTERS).await {
        Ok(forgotten) => tracing::debug!(forgotten, "forgot dead letters that were stored after all"),
        Err(error) => tracing::warn!(%error, "dead letters of long ago could not be forgotten"),
    }
    match database.forget_errors().await {
        Ok(forgotten) => tracing::debug!(forgotten, "forgot errors whose traces are gone"),
        Err(error) => tracing::warn!(%error, "errors whose traces are gone could not be forgotten"),
    }
    Box::pin(retain(database, ingest)).await;
    Box::pin(collect(database)).await;
    // Last, because it may take long.
    match database.close_partitions().await {
        Ok(built) => tracing::debug!(?built, "built the indexes of partitions whose time has passed"),
        Err(error) => tracing::warn!(%error, "indexes of partitions whose time has passed could not be built"),
    }
}
