//! Dead letters tried again: in the background, and when somebody asks.
//!
//! What the database refused may be welcome later: after a constraint is dropped, an extension updated, a newer version
//! of this program started. Letters are decoded without limits, since they were admitted before. Any number of servers
//! replay the letters of one database: a letter is claimed in the transaction that stores it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::Request;
use super::check::Limits;
use super::prepare::{self, Prepared, prepare};
use super::tag::Tag;
use crate::otlp::{Encoding, Signal};
use crate::store::{Database, MANY_DEAD_LETTERS, MAX_METRIC_SERIES, Render, Replayed, Store, StoreError, Written};

/// Letters that are looked up at a time.
const LETTERS: i64 = 100;

/// What a pass did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ReplayCounts {
    /// Letters whose records are stored, all or some.
    pub stored: u64,
    /// Letters that were refused again.
    pub refused: u64,
}

/// Replays the dead letters of one database.
#[derive(Debug, Clone)]
pub struct Replayer {
    store: Arc<Store>,
    every: Duration,
}

/// The request that a letter holds.
struct Letter<'a>(&'a Request);

impl Render for Letter<'_> {
    fn singles(&self, _: usize, records: &[u32]) -> Result<Vec<Vec<u8>>, StoreError> {
        Ok(prepare::dead_letters(self.0, records))
    }

    fn points(&self, _: usize, points: &[u32]) -> Result<Vec<u8>, StoreError> {
        Ok(prepare::points_together(self.0, points))
    }
}

impl Replayer {
    /// Replays due letters in the background this often.
    pub const EVERY: Duration = Duration::from_mins(5);

    /// Prepares a replayer of a database, whose schema must be migrated before anything is replayed.
    pub fn new(database: Database, every: Duration) -> Self {
        Self { store: Arc::new(Store::new(database, MAX_METRIC_SERIES)), every }
    }

    /// The same, with another limit to the metric series of the database: see [`super::IngestOptions::max_metric_series`].
    #[must_use]
    pub fn with_max_metric_series(self, limit: u64) -> Self {
        Self { store: Arc::new(Store::new(self.store.database.clone(), limit)), ..self }
    }

    /// Replays what is due, now and every so often, until `stop`. Trouble is logged and tried again.
    pub async fn run(&self, stop: CancellationToken) {
        let work = async {
            loop {
                match self.replay_due().await {
                    Ok(ReplayCounts { stored: 0, refused: 0 }) => {}
                    Ok(counts) => {
                        tracing::info!(stored = counts.stored, refused = counts.refused, "replayed dead letters");
                    }
                    Err(error) => tracing::warn!(%error, "dead letters could not be replayed"),
                }
                self.warn_of_many().await;
                tokio::time::sleep(self.every).await;
            }
        };
        stop.run_until_cancelled(work).await;
    }

    async fn warn_of_many(&self) {
        if let Ok(letters) = self.store.database.unprocessed_dead_letters().await
            && letters > MANY_DEAD_LETTERS
        {
            tracing::warn!(letters, "many dead letters wait: see `oneiric-otel dlq list`");
        }
    }

    /// Replays every letter whose time has come. Those that wait for room for metric series wait until there is some.
    ///
    /// # Errors
    /// When the database does not answer. What was replayed before stays so.
    pub async fn replay_due(&self) -> Result<ReplayCounts, StoreError> {
        let mut counts = ReplayCounts::default();
        loop {
            let due = self.store.due_dead_letters(LETTERS).await?;
            let before = counts;
            for letter in due {
                match self.replay(letter).await? {
                    Replayed::Stored { .. } => counts.stored += 1,
                    Replayed::Refused { .. } => counts.refused += 1,
                    Replayed::Elsewhere => {}
                }
            }
            // What is left, others have claimed.
            if counts == before {
                return Ok(counts);
            }
        }
    }

    /// Replays a letter, whether its time has come or not.
    ///
    /// # Errors
    /// When the database does not answer. Any other failure is the letter's: it is noted there and is an outcome.
    pub async fn replay(&self, letter: Uuid) -> Result<Replayed, StoreError> {
        let Some((entry, body)) = self.store.database.dead_letter(letter).await? else {
            return Ok(Replayed::Elsewhere);
        };
        if entry.processed_at.is_some() {
            return Ok(Replayed::Elsewhere);
        }
        let request = Request { signal: entry.signal(), encoding: Encoding::Protobuf, body: body.into() };
        let outcome = match self.prepare(&request).await {
            Ok(prepared) => {
                self.store.replay(letter, &prepared.batch, &Letter(&request)).await.map_err(|error| error.to_string())
            }
            Err(reason) => Err(reason),
        };
        match outcome {
            Ok(replayed) => Ok(replayed),
            // Also a trouble that is not the letter's alone counts as its own: else one that fails alone, as one of class
            // `stuck` did, would be tried again and again before all others.
            Err(reason) => {
                self.store.database.refuse_dead_letter(letter, &reason).await?;
                Ok(Replayed::Refused { reason })
            }
        }
    }

    /// Stores a request that a spool has set aside, unless it was stored already. `lane` and `tag` are those that it was
    /// spooled with. Records that the database refuses become dead letters.
    ///
    /// # Errors
    /// Says why it cannot be stored. Nothing of it is.
    pub async fn store_set_aside(&self, lane: &str, tag: Option<u16>, body: Bytes) -> Result<Replayed, String> {
        let signal = Signal::ALL.into_iter().find(|signal| signal.as_str() == lane);
        let signal = signal.ok_or_else(|| format!("lane {lane:?} is that of no signal"))?;
        let tag = tag.map(Tag::from_bits).ok_or("how it is encoded cannot be told")?;
        let request = Request { signal, encoding: tag.encoding, body };
        let prepared = self.prepare(&request).await?;
        let written =
            self.store.write(&[&prepared.batch], &Letter(&request)).await.map_err(|error| error.to_string())?;
        let refused = written.iter().map(Written::dead_letters).sum();
        Ok(Replayed::Stored { records: prepared.batch.rows.len() as u64 - refused, refused })
    }

    /// Decoding takes long for a large letter, and may panic on one that no version of this program has made.
    async fn prepare(&self, request: &Request) -> Result<Prepared, String> {
        let request = request.clone();
        let prepared = tokio::task::spawn_blocking(move || prepare(&request, &Limits::NONE)).await;
        let prepared = prepared.map_err(|error| format!("an internal error while it was read: {error}"))??;
        if prepared.verdict.records == 0 {
            let reason = prepared.verdict.rejections.text();
            return Err(if reason.is_empty() { "it has no records".to_owned() } else { reason });
        }
        Ok(prepared)
    }
}
