//! The tasks that turn queued requests into transactions.
//!
//! Several writers share the queue: while one commits, the next gathers what arrived meanwhile, so transactions grow with
//! the load. What a writer takes it finishes, gives back, or buries as dead letters; nothing else ends a request.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use oneiric_otel_spool::{Entry as SpoolEntry, EntryId, Position, ReadError, Spool};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument as _, Span, field};

use super::breaker::{Pass, Verdict};
use super::prepare::{self, Prepared, prepare};
use super::queue::{Entry, Outcome, Place, Read, Reading, Reply, Source, Taken, Work};
use super::tag::Tag;
use super::{Core, Limits, Refused, Request};
use crate::otlp::Signal;
use crate::self_trace;
use crate::store::{DeadLetter, ErrorClass, Render, SERIES_LIMIT, Store, StoreError, Written};

/// A pause before a retry doubles up to this.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// When a sender should come back after the retries are used up.
const RETRY_AFTER_TRANSIENT: Duration = Duration::from_secs(2);
/// When a sender should come back while a person has to act.
const RETRY_AFTER_MISCONFIGURED: Duration = Duration::from_secs(30);

/// How often an entry may fail alone, while others of its signal are written, before it becomes a dead letter.
const STUCK_AFTER: u32 = 3;
/// The class of such dead letters.
const STUCK: &str = "stuck";

/// One writer.
#[derive(Debug)]
pub(super) struct Writer {
    pub(super) core: Arc<Core>,
    pub(super) store: Arc<Store>,
}

impl Writer {
    /// Runs until the queue is closed and empty, or until `stop`: then what is being written is left, and given back.
    pub(super) async fn run(self, stop: CancellationToken) {
        let Core { breaker, queue, .. } = &*self.core;
        loop {
            let pass = tokio::select! {
                () = stop.cancelled() => return,
                () = queue.finished() => return,
                pass = breaker.enter() => pass,
            };
            let taken = stop.run_until_cancelled(queue.take(pass.is_probe)).await.flatten();
            match taken {
                Some(Taken::Work(work)) => {
                    let signal = work.signal;
                    if breaker.is_valid(pass) {
                        self.write(pass, work, &stop).await;
                    } else {
                        queue.give_back(work);
                        self.core.turn_away();
                    }
                    queue.leave(signal);
                }
                Some(Taken::Reading(reading)) => {
                    breaker.conclude(pass, Verdict::Nothing);
                    self.read(reading).await;
                }
                None => {
                    breaker.conclude(pass, Verdict::Nothing);
                    return;
                }
            }
        }
    }

    async fn write(&self, pass: Pass, work: Work, stop: &CancellationToken) {
        let signal = work.signal;
        let (all_before, before) =
            (self.core.counters.written_batches(), self.core.counters.written_batches_of(signal));
        // Whatever happens to one batch, the writer goes on with the next.
        let span = span(&work);
        let attempt = AssertUnwindSafe(self.write_with_retries(&work, &span)).catch_unwind().instrument(span.clone());
        let Some(outcome) = stop.run_until_cancelled(attempt).await else {
            self.core.breaker.conclude(pass, Verdict::Nothing);
            return self.core.queue.give_back(work);
        };
        // It covers the attempt, and not what follows from it.
        drop(span);
        let panicked = outcome.is_err();
        match outcome.unwrap_or_else(|_| Err(StoreError::transient("an internal error while writing"))) {
            Ok(written) => {
                self.core.breaker.conclude(pass, Verdict::Written);
                self.core.queue.written(signal);
                self.finish(work, &written);
            }
            Err(error) => {
                let database_works = self.core.counters.written_batches() > all_before;
                let reason = error.to_string();
                let verdict = match error.class() {
                    ErrorClass::BadData => Verdict::Nothing,
                    _ if error.is_elsewhere() => Verdict::Nothing,
                    // A part of a batch that failed before: the search for its cause says nothing new of the database.
                    _ if database_works && work.record.written_then.is_some() => Verdict::Nothing,
                    ErrorClass::Misconfigured if !database_works => Verdict::Hopeless(&reason),
                    ErrorClass::Misconfigured | ErrorClass::Transient => Verdict::Failed(&reason),
                };
                self.core.breaker.conclude(pass, verdict);
                let others_fare_well = panicked || self.core.counters.written_batches_of(signal) > before;
                self.failed(work, &error, others_fare_well).await;
            }
        }
        self.core.turn_away();
    }

    async fn write_with_retries(&self, work: &Work, span: &Span) -> Result<Vec<Written>, StoreError> {
        let batches: Vec<_> = work.entries.iter().map(|entry| &entry.batch).collect();
        let render = Rendered { core: &self.core, entries: &work.entries };
        let mut pause = self.core.options.retry_backoff;
        let mut retries = 0;
        loop {
            let began = Instant::now();
            let limit = self.core.options.write_timeout;
            let attempt = tokio::time::timeout(limit, self.store.write(&batches, &render)).await;
            let late = |_| Err(StoreError::transient(format!("no commit within {} s", limit.as_secs())));
            // Who waited that long, for an answer or a lock, has waited longer than all retries: others are to have their turn.
            let is_over = attempt.is_err();
            match attempt.unwrap_or_else(late) {
                Err(error)
                    if error.class() == ErrorClass::Transient
                        && !(is_over || error.is_locked())
                        && retries < self.core.options.max_retries =>
                {
                    tracing::warn!(%error, retry = retries + 1, "could not write, trying again");
                    self.core.counters.retried();
                    tokio::time::sleep(jittered(pause)).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                    retries += 1;
                }
                Err(error) => {
                    tracing::error!(%error, class = error.class().as_str(), "could not write");
                    self.core.counters.batch_failed();
                    span.record("oneiric_otel.retries", i64::from(retries))
                        .record("error.type", error.class().as_str());
                    span.record("otel.status_description", field::display(&error));
                    return Err(error);
                }
                Ok(written) => {
                    self.core.counters.batch_written(work.signal, began.elapsed());
                    span.record("oneiric_otel.retries", i64::from(retries));
                    return Ok(written);
                }
            }
        }
    }

    /// The batch is committed.
    fn finish(&self, work: Work, written: &[Written]) {
        for (entry, written) in work.entries.into_iter().zip(written) {
            let (refused, limited) = (written.dead_letters(), written.limited);
            if written.duplicate {
                self.core.counters.duplicate_request();
            } else {
                self.core.counters.written(entry.source.signal, entry.records - refused);
                self.core.counters.dead_lettered(ErrorClass::BadData.as_str(), refused - limited);
                self.core.counters.dead_lettered(SERIES_LIMIT, limited);
            }
            self.settle(entry, Outcome { refused, limited });
        }
    }

    /// An entry has come to its end: whatever is of it is durable in the database.
    fn settle(&self, entry: Entry, outcome: Outcome) {
        if let (Place::Spool(id), Some(spool)) = (&entry.source.place, &self.core.spool) {
            spool.release(*id);
        }
        if let Some(reply) = entry.reply {
            // The receiver is gone when the client hung up: the records are stored all the same.
            drop(reply.sender.send(Ok(outcome)));
        }
    }

    /// The batch could not be written, and its retries are used up. `others_fare_well`: some of its signal were.
    async fn failed(&self, mut work: Work, error: &StoreError, others_fare_well: bool) {
        let written = self.core.counters.written_batches_of(work.signal);
        if let [entry] = work.entries.as_slice() {
            let waits = entry.reply.is_some();
            if error.class() == ErrorClass::BadData {
                return self.bury(work, error, error.class().as_str()).await;
            }
            if waits {
                let refused = refusal(error);
                return work.entries.into_iter().for_each(|entry| refuse(entry.reply, &refused));
            }
            if others_fare_well || work.record.written_then.is_some_and(|then| written > then) {
                work.record.alone += 1;
            }
            if work.record.alone >= STUCK_AFTER {
                return self.bury(work, error, STUCK).await;
            }
        }
        self.core.queue.give_back_failed(work, written, others_fare_well);
    }

    /// Makes a dead letter of an entry that stands in the way: whole, since what is wrong is not one of its records.
    async fn bury(&self, mut work: Work, error: &StoreError, class: &'static str) {
        let Some(entry) = work.entries.first() else { return };
        match self.bury_entry(entry, error, class).await {
            Ok(()) => {
                for entry in work.entries {
                    let records = entry.records;
                    tracing::error!(class, records, %error, "a request became a dead letter");
                    self.core.counters.dead_lettered(class, records);
                    self.settle(entry, Outcome { refused: records, limited: 0 });
                }
            }
            Err(reason) => {
                tracing::error!(%reason, class, "a request could not be made a dead letter");
                if entry.reply.is_some() {
                    let refused = refusal(&reason);
                    return work.entries.into_iter().for_each(|entry| refuse(entry.reply, &refused));
                }
                let written = self.core.counters.written_batches_of(work.signal);
                work.record.alone += 1;
                self.core.queue.give_back_failed(work, written, true);
            }
        }
    }

    async fn bury_entry(&self, entry: &Entry, error: &StoreError, class: &str) -> Result<(), StoreError> {
        let records = entry.records;
        let message = error.to_string();
        let raw_data =
            self.core.request(&entry.source)?.map_or_else(Vec::new, |request| prepare::as_protobuf(&request));
        let signal = entry.source.signal;
        let dead = DeadLetter { signal, records, class, message: &message, retries: 0, raw_data: &raw_data };
        let limit = self.core.options.write_timeout;
        let buried = tokio::time::timeout(limit, self.store.bury(entry.batch.request_hash, &dead)).await;
        buried.unwrap_or_else(|_| Err(StoreError::transient(format!("no commit within {} s", limit.as_secs()))))
    }

    /// Brings a lane's next entries from the spool into memory.
    async fn read(&self, reading: Reading) {
        let Some(spool) = self.core.spool.clone() else { return };
        let core = Arc::clone(&self.core);
        let (signal, from, bytes, gives_up) = (reading.signal, reading.from, reading.bytes, reading.gives_up);
        let read = tokio::task::spawn_blocking(move || {
            Reader { spool: &spool, core: &core, lane: signal as usize, gives_up }.read(from, bytes)
        });
        let read = read.await.unwrap_or_else(|error| {
            tracing::error!(%error, "reading the spool was cut off");
            Read { entries: Vec::new(), to: from, last: None, trouble: true }
        });
        self.core.queue.refill(&reading, read);
    }
}

/// The requests that are being written, for dead letters. Of one that is damaged by now nothing is left.
struct Rendered<'a> {
    core: &'a Core,
    entries: &'a [Entry],
}

impl Render for Rendered<'_> {
    fn singles(&self, batch: usize, records: &[u32]) -> Result<Vec<Vec<u8>>, StoreError> {
        let request = self.core.request(&self.entries[batch].source)?;
        Ok(request.map_or_else(|| vec![Vec::new(); records.len()], |request| prepare::dead_letters(&request, records)))
    }

    fn points(&self, batch: usize, points: &[u32]) -> Result<Vec<u8>, StoreError> {
        let request = self.core.request(&self.entries[batch].source)?;
        Ok(request.map_or_else(Vec::new, |request| prepare::points_together(&request, points)))
    }
}

/// Reads a lane.
struct Reader<'a> {
    spool: &'a Spool,
    core: &'a Core,
    lane: usize,
    gives_up: bool,
}

impl Reader<'_> {
    fn read(&self, from: Position, bytes: usize) -> Read {
        let mut read = Read { entries: Vec::new(), to: from, last: None, trouble: false };
        let mut left = bytes;
        while left > 0
            && let Some(id) = self.spool.next(self.lane, read.to)
        {
            let prepared = match self.spool.read(id) {
                Ok(entry) => self.prepare(entry),
                // The spool has set it aside and said so.
                Err(ReadError::Damaged { .. } | ReadError::Released { .. }) => Ok(None),
                Err(error) => self.pass_over(id, &error.to_string()),
            };
            let Ok(entry) = prepared else {
                // What stands at `to` is tried again.
                read.to = id.position();
                read.trouble = true;
                return read;
            };
            left = left.saturating_sub(entry.as_ref().map_or(0, Entry::memory));
            read.entries.extend(entry);
            (read.to, read.last) = (id.after(), Some(id));
        }
        read
    }

    /// An entry that cannot be prepared was admitted by another version of this program: it waits in quarantine.
    fn prepare(&self, entry: SpoolEntry) -> Result<Option<Entry>, NotNow> {
        let (tag, signal) = (Tag::from_bits(entry.tag), Signal::ALL[self.lane]);
        let request = Request { signal, encoding: tag.encoding, body: entry.body };
        let limits = if tag.rejected == 0 { Limits::NONE } else { self.core.options.limits.clone() };
        let prepared = catch_unwind(AssertUnwindSafe(|| prepare(&request, &limits)))
            .unwrap_or_else(|_| Err("an internal error while the request was read".to_owned()))
            .and_then(|prepared| match Tag::count(&prepared.verdict.rejections) {
                more if more > tag.rejected => {
                    Err(format!("{more} records are rejected, {} were before", tag.rejected))
                }
                _ => Ok(prepared),
            });
        match prepared {
            Ok(Prepared { verdict, batch }) => {
                let source = Source { signal, encoding: tag.encoding, own: tag.own, place: Place::Spool(entry.id) };
                Ok(Some(Entry { source, batch, records: verdict.records, since: Instant::now(), reply: None }))
            }
            Err(reason) => self.set_aside(entry.id, &reason).map(|()| None),
        }
    }

    /// The entry cannot be read. After some tries the lane goes on without it: in quarantine, or in the spool until the
    /// next start.
    fn pass_over(&self, id: EntryId, reason: &str) -> Result<Option<Entry>, NotNow> {
        tracing::error!(reason, entry = %id, gives_up = self.gives_up, "the spool cannot be read");
        if !self.gives_up {
            return Err(NotNow);
        }
        if self.set_aside(id, reason).is_err() {
            tracing::error!(entry = %id, "the entry stays in the spool; it is tried again at the next start");
        }
        Ok(None)
    }

    fn set_aside(&self, id: EntryId, reason: &str) -> Result<(), NotNow> {
        tracing::error!(reason, entry = %id, "a request in the spool cannot be used and is set aside");
        self.spool.set_aside(id, reason).map_err(|error| {
            tracing::error!(%error, entry = %id, "it could not be set aside");
            NotNow
        })
    }
}

/// For the transaction that writes a batch; none for a batch that carries nothing but telemetry of ours.
fn span(work: &Work) -> Span {
    if work.entries.iter().all(|entry| entry.source.own) {
        return Span::none();
    }
    let table = match work.signal {
        Signal::Traces => "otel_spans",
        Signal::Metrics => "otel_metrics",
        Signal::Logs => "otel_logs",
    };
    tracing::info_span!(
        target: self_trace::TARGET,
        "write",
        otel.name = format_args!("COPY {table}"),
        otel.kind = "client",
        otel.status_description = field::Empty,
        db.system.name = "postgresql",
        db.operation.name = "COPY",
        db.collection.name = table,
        "error.type" = field::Empty,
        oneiric_otel.requests = work.entries.len() as i64,
        oneiric_otel.rows = work.entries.iter().map(|entry| entry.batch.rows.len()).sum::<usize>() as i64,
        oneiric_otel.retries = field::Empty,
    )
}

/// Something that may work later.
struct NotNow;

/// Tells somebody who waits that nothing is stored.
pub(super) fn refuse(reply: Option<Reply>, refused: &Refused) {
    if let Some(reply) = reply {
        drop(reply.sender.send(Err(refused.clone())));
    }
}

/// Between half and all of a pause, so that writers that failed together do not return together.
fn jittered(pause: Duration) -> Duration {
    pause.mul_f64(rand::random_range(0.5..=1.0))
}

fn refusal(error: &StoreError) -> Refused {
    let retry_after = match error.class() {
        ErrorClass::Misconfigured => RETRY_AFTER_MISCONFIGURED,
        ErrorClass::Transient | ErrorClass::BadData => RETRY_AFTER_TRANSIENT,
    };
    Refused::Unavailable { reason: format!("cannot store now: {error}"), retry_after }
}
