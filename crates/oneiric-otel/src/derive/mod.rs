//! Traces from spans and logs, and the texts that describe them.
//!
//! The write path leaves a *touch* for every trace it wrote to, in the same transaction. A [`Deriver`] takes the touches
//! of traces that have become quiet and recomputes each from all its spans and error logs, however they arrived. Any
//! number of derivers may run on one database: the traces are spread over slots, and the slot's row lock is held until
//! the transaction that took the touches has written the rows. So a trace is derived by one transaction at a time, a
//! crash puts the touches back, and what commits later leaves a touch of its own.
//!
//! A trace that was derived from n records is due again only when n / 8 new ones have come or n milliseconds have gone
//! by. So the records read for a trace are at most nine times its size plus one for each millisecond of its life.
//!
//! A trace that cannot be derived (the database refuses its values, or the computation fails) is found by halving its
//! batch and set aside: it is tried again later and later, and given up after a day or so. The others go on.
//!
//! A trace of which only logs have come has no row. The times of the logs are kept for a day: when a span comes within
//! it, they are found and counted.

mod batch;
mod renewal;
pub mod text;
pub mod trace;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;
use tracing::{Instrument as _, field};
use uuid::Uuid;

use batch::Selection;

use crate::embed::NewTexts;
use crate::self_trace;
use crate::store::outdated::Outdated;
use crate::store::{Database, Partitions, StoreError};

/// When traces are derived.
#[derive(Debug, Clone)]
pub struct DeriveOptions {
    /// Quiet time after which a trace whose root has arrived is derived.
    pub quiet_after_root: Duration,
    /// Quiet time after which any trace is derived.
    pub quiet: Duration,
    /// A trace that never becomes quiet is derived when its oldest touch is of this age.
    pub patience: Duration,
    /// Pause between two looks for due traces.
    pub interval: Duration,
    /// Traces of one transaction at most.
    pub batch_traces: usize,
    /// Spans and logs of one transaction at most, unless a single trace has more.
    pub batch_records: i64,
    /// Spans of one trace in memory at most. Of a trace with more all are counted, and its root, its first failures and
    /// its first and last spans are looked at.
    pub trace_spans: usize,
    /// How long the times of logs without spans are kept.
    pub orphan_age: Duration,
}

impl Default for DeriveOptions {
    fn default() -> Self {
        Self {
            quiet_after_root: Duration::from_secs(2),
            quiet: Duration::from_secs(10),
            patience: Duration::from_mins(1),
            interval: Duration::from_millis(500),
            batch_traces: 1000,
            batch_records: 100_000,
            trace_spans: 200_000,
            orphan_age: Duration::from_hours(24),
        }
    }
}

/// How long texts that describe no trace are left alone after all were looked at, and while some are left to look at: 2.8 million
/// texts are looked at in a day.
const CLEANING_PAUSE: Duration = Duration::from_mins(10);
const CLEANING_GOES_ON: Duration = Duration::from_mins(1);
/// The pause after some traces got new texts, and how often it is looked whether there are any to get some.
const RENEWAL_PAUSE: Duration = Duration::from_secs(5);
const RENEWAL_CHECK: Duration = Duration::from_mins(1);

/// What a pass did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Derived {
    /// Rows of traces written or rewritten.
    pub traces: u64,
    /// Of them, those of nothing but our own spans.
    pub own_traces: u64,
    /// Traces of which there are only logs so far.
    pub log_only: u64,
    /// Texts that were not known before.
    pub texts_new: u64,
    /// Spans read.
    pub spans_read: u64,
}

impl Derived {
    /// Whether not everything was for our own spans.
    fn is_for_others(&self) -> bool {
        self.traces > self.own_traces
    }

    fn add(&mut self, other: Self) {
        self.traces += other.traces;
        self.own_traces += other.own_traces;
        self.log_only += other.log_only;
        self.texts_new += other.texts_new;
        self.spans_read += other.spans_read;
    }
}

/// Derives traces of one database. Share it behind an `Arc`, or run several: they do not get into each other's way.
#[derive(Debug)]
pub struct Deriver {
    database: Database,
    options: DeriveOptions,
    texts_written: Arc<NewTexts>,
    totals: Arc<Mutex<Derived>>,
    partitions: Partitions,
    /// Traces whose new texts wait for their vectors.
    renewed: Mutex<Vec<Outdated>>,
    /// Whose role owns the tables, where that of `database` does not.
    maintenance: Option<Database>,
}

impl Deriver {
    /// Prepares derivation. Nothing happens before [`Self::run`] or one of the passes.
    pub fn new(database: Database, options: DeriveOptions) -> Self {
        let (texts_written, totals) = Default::default();
        let (partitions, renewed) = Default::default();
        Self { database, options, texts_written, totals, partitions, renewed, maintenance: None }
    }

    /// The same, with texts that describe no trace any more deleted over another way to the same database, as a role that owns
    /// the tables.
    #[must_use]
    pub fn maintaining_over(self, maintenance: Database) -> Self {
        Self { maintenance: Some(maintenance), ..self }
    }

    fn maintenance(&self) -> &Database {
        self.maintenance.as_ref().unwrap_or(&self.database)
    }

    /// What was done since the start, as it goes on.
    pub fn totals(&self) -> impl Fn() -> Derived + Send + Sync + use<> {
        let totals = Arc::clone(&self.totals);
        move || *totals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Is notified when new texts wait for their vectors.
    pub fn texts_written(&self) -> Arc<NewTexts> {
        Arc::clone(&self.texts_written)
    }

    /// Derives what becomes due until `token` is cancelled. Trouble with the database is logged and tried again; a pass
    /// that is cut off leaves nothing behind.
    pub async fn run(&self, token: CancellationToken) {
        let mut failures: u32 = 0;
        let mut next_cleaning = Instant::now();
        let mut next_renewal = Instant::now();
        let mut collected_to = 0;
        loop {
            let pass = async {
                let derived = self.derive_due().await?;
                if Instant::now() >= next_renewal {
                    let is_at_it = self.renew_texts().await? > 0 || self.is_renewing();
                    let pause = if is_at_it { RENEWAL_PAUSE } else { RENEWAL_CHECK };
                    next_renewal = Instant::now() + pause;
                }
                if Instant::now() >= next_cleaning {
                    self.database.forget_orphan_logs(self.options.orphan_age).await?;
                    let mut pause = CLEANING_PAUSE;
                    match self.maintenance().collect_texts(text::TEXT_VERSION, collected_to).await {
                        Ok(collected) => {
                            collected_to = collected.next;
                            if collected_to > 0 {
                                pause = CLEANING_GOES_ON;
                            }
                            if collected.texts > 0 {
                                tracing::info!(
                                    texts = collected.texts,
                                    "deleted texts that describe no trace any more"
                                );
                            }
                        }
                        // Deriving goes another way.
                        Err(error) => {
                            tracing::warn!(%error, "texts that describe no trace any more could not be deleted");
                        }
                    }
                    next_cleaning = Instant::now() + pause;
                }
                Ok::<Derived, StoreError>(derived)
            };
            let result = tokio::select! {
                () = token.cancelled() => return,
                result = pass => result,
            };
            match result {
                Ok(derived) => {
                    failures = 0;
                    if derived.traces > 0 {
                        tracing::debug!(
                            traces = derived.traces,
                            texts_new = derived.texts_new,
                            spans_read = derived.spans_read,
                            "derived traces"
                        );
                    }
                }
                Err(error) => {
                    failures = failures.saturating_add(1);
                    // At every doubling, so that an hour's outage is a dozen lines.
                    if failures.is_power_of_two() {
                        tracing::warn!(%error, class = error.class().as_str(), failures, "traces could not be derived");
                    }
                }
            }
            let pause = self.options.interval * 2u32.pow(failures.min(4));
            tokio::select! {
                () = token.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Deletes all texts that describe no trace any more, with their vectors: those of an earlier version of the rules, and of
    /// this one an hour after they were written. Returns how many. [`Self::run`] does it bit by bit.
    ///
    /// # Errors
    /// The first failure; what was deleted before stays deleted.
    pub async fn collect_texts(&self) -> Result<u64, StoreError> {
        let mut texts = 0;
        let mut after = 0;
        loop {
            let pass = self.maintenance().collect_texts(text::TEXT_VERSION, after).await?;
            texts += pass.texts;
            after = pass.next;
            if after == 0 {
                return Ok(texts);
            }
        }
    }

    /// One pass over all slots: derives the traces that are due now, except those of slots that somebody else works on.
    ///
    /// # Errors
    /// The first failure, after all slots were tried.
    pub async fn derive_due(&self) -> Result<Derived, StoreError> {
        let slots = self.database.slots_with_touches(millis(self.options.quiet_after_root)).await?;
        if slots.is_empty() {
            return Ok(Derived::default());
        }
        let span = tracing::info_span!(
            target: self_trace::TARGET,
            "derive traces",
            otel.status_description = field::Empty,
            oneiric_otel.for_others = field::Empty,
            oneiric_otel.traces = field::Empty,
            oneiric_otel.spans = field::Empty,
            oneiric_otel.new_texts = field::Empty,
        );
        let pass = async {
            let mut total = Derived::default();
            let mut failed = None;
            for slot in slots {
                if let Err(error) = self.derive_slot(slot, false, &mut total).await {
                    failed.get_or_insert(error);
                }
            }
            (total, failed)
        };
        let (total, failed) = pass.instrument(span.clone()).await;
        if total.is_for_others() {
            span.record(self_trace::FOR_OTHERS, true).record("oneiric_otel.traces", total.traces as i64);
            span.record("oneiric_otel.spans", total.spans_read as i64)
                .record("oneiric_otel.new_texts", total.texts_new as i64);
        }
        if let Some(error) = &failed {
            span.record("otel.status_description", field::display(error));
        }
        failed.map_or(Ok(total), Err)
    }

    /// Derives every trace that was touched before this call, quiet or not, and waits for others that are at it.
    pub async fn derive_all_now(&self) -> Result<Derived, StoreError> {
        let begun = Instant::now();
        let mut total = Derived::default();
        loop {
            let slots = self.database.slots_with_touches(millis(begun.elapsed())).await?;
            if slots.is_empty() {
                return Ok(total);
            }
            let mut worked = false;
            let mut failed = None;
            for slot in slots {
                match self.derive_slot(slot, true, &mut total).await {
                    Ok(some) => worked |= some,
                    Err(error) => {
                        failed.get_or_insert(error);
                    }
                }
            }
            if let Some(error) = failed {
                return Err(error);
            }
            if !worked {
                // Somebody else holds these slots and will have taken the touches when it is done.
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }

    /// Works a slot off, batch by batch. `false` when somebody else has it.
    async fn derive_slot(&self, slot: i16, all: bool, total: &mut Derived) -> Result<bool, StoreError> {
        let mut worked = false;
        let mut left = vec![Selection::Touched { all, after: Uuid::nil() }];
        while let Some(selection) = left.pop() {
            let failure = match batch::derive(self, slot, &selection).await {
                Ok(None) => return Ok(worked),
                Ok(Some(outcome)) => {
                    worked = true;
                    total.add(outcome.derived);
                    self.totals.lock().unwrap_or_else(PoisonError::into_inner).add(outcome.derived);
                    if outcome.derived.texts_new > 0 {
                        self.texts_written.notify(outcome.derived.is_for_others());
                    }
                    left.extend(outcome.next);
                    continue;
                }
                Err(failure) => failure,
            };
            if failure.error.is_missing_partition() {
                // Retention dropped one that we believed to be there.
                self.partitions.forget();
            }
            if matches!(selection, Selection::Touched { .. }) {
                left.push(selection);
            }
            let mut traces = failure.suspects;
            match traces.as_slice() {
                [] => return Err(failure.error),
                [culprit] => {
                    worked = true;
                    self.set_aside(slot, *culprit, &failure.error).await?;
                }
                _ => {
                    let second = traces.split_off(traces.len() / 2);
                    left.extend([Selection::These(second), Selection::These(traces)]);
                }
            }
        }
        Ok(worked)
    }

    async fn set_aside(&self, slot: i16, trace_id: Uuid, error: &StoreError) -> Result<(), StoreError> {
        let given_up = self.database.set_trace_aside(slot, trace_id).await?;
        let trace_id = hex::encode(trace_id.as_bytes());
        let kept = if given_up { "its row stays as it is until more of it comes" } else { "it is tried again later" };
        tracing::error!(trace_id, %error, "a trace could not be derived; {kept}");
        Ok(())
    }
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}
