//! What is done by the hour: partitions ahead of time, the indexes that may take long, and the end of what need not be
//! remembered.

use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::{Instrument as _, Span};

use super::backend::{Schema, migrate};
use crate::pipeline::Ingest;
use crate::self_trace;
use crate::store::{Database, ErrorClass};

const MAINTAIN_EVERY: Duration = Duration::from_hours(1);
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

/// Maintains a database until told to stop.
pub(super) async fn maintain(database: Database, ingest: Ingest, remember: Duration, stop: CancellationToken) {
    let work = async {
        match database.migrate_deferred().await {
            Ok(applied) if applied.is_empty() => {}
            Ok(applied) => tracing::info!(migrations = ?applied, "applied deferred migrations"),
            Err(error) => tracing::warn!(%error, "deferred migrations wait for the next start"),
        }
        let mut seen = 0;
        loop {
            let received = ingest.counts().requests_of_others();
            let span = if received > std::mem::replace(&mut seen, received) {
                tracing::info_span!(target: self_trace::TARGET, "maintain", oneiric_otel.for_others = true)
            } else {
                Span::none()
            };
            maintain_once(&database, &ingest, remember).instrument(span).await;
            tokio::time::sleep(MAINTAIN_EVERY).await;
        }
    };
    stop.run_until_cancelled(work).await;
}

/// What waits in the spool may have been written before a crash: its requests must not be forgotten before they are
/// recognised.
fn remember_requests(ingest: &Ingest, remember: Duration) -> Duration {
    /// Between the clocks of this machine and of the database.
    const MARGIN: Duration = Duration::from_hours(24);
    let oldest = ingest.status().spool.and_then(|spool| spool.lanes.iter().filter_map(|lane| lane.oldest).min());
    let age = oldest.map_or(Duration::ZERO, |oldest| oldest.elapsed().unwrap_or_default() + MARGIN);
    age.max(remember)
}

async fn maintain_once(database: &Database, ingest: &Ingest, remember: Duration) {
    match database.make_partitions().await {
        Ok(made) => tracing::debug!(made, "made partitions ahead of time"),
        Err(error) => tracing::warn!(%error, "partitions could not be made ahead of time"),
    }
    match database.forget_requests(remember_requests(ingest, remember)).await {
        Ok(forgotten) => tracing::debug!(forgotten, "forgot requests of long ago"),
        Err(error) => tracing::warn!(%error, "requests of long ago could not be forgotten"),
    }
    match database.forget_dead_letters(KEEP_PROCESSED_LETTERS).await {
        Ok(forgotten) => tracing::debug!(forgotten, "forgot dead letters that were stored after all"),
        Err(error) => tracing::warn!(%error, "dead letters of long ago could not be forgotten"),
    }
    match database.forget_errors().await {
        Ok(forgotten) => tracing::debug!(forgotten, "forgot errors whose traces are gone"),
        Err(error) => tracing::warn!(%error, "errors whose traces are gone could not be forgotten"),
    }
    // Last, because it may take long.
    match database.close_partitions().await {
        Ok(built) => tracing::debug!(?built, "built the indexes of partitions whose time has passed"),
        Err(error) => tracing::warn!(%error, "indexes of partitions whose time has passed could not be built"),
    }
}
