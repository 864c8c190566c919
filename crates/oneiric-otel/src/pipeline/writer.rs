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

use super::breaker::{Pass, Verdict};
use super::prepare::{self, prepare};
use super::queue::{Entry, Outcome, Place, Reading, Reply, Source, Taken, Work};
use super::tag::Tag;
use super::{Core, Limits, Refused, Request};
use crate::store::{DeadLetter, ErrorClass, Store, StoreError, Written};

/// A pause before a retry doubles up to this.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// When a sender should come back after the retries are used up.
const RETRY_AFTER_TRANSIENT: Duration = Duration::from_secs(2);
/// When a sender should come back while a person has to act.
const RETRY_AFTER_MISCONFIGURED: Duration = Duration::from_secs(30);

/// How often an entry may fail alone, while others are written, before it becomes a dead letter.
const STUCK_AFTER: u32 = 3;
/// The class of such dead letters.
const STUCK: &str = "stuck";

/// How long to leave a spool alone that cannot be read.
const SPOOL_PAUSE: Duration = Duration::from_secs(1);

/// One writer.
#[derive(Debug)]
pub(super) struct Writer {
    pub(super) core: Arc<Core>,
    pub(super) store: Arc<Store>,
}

impl Writer {
    /// Runs until the queue is closed and empty, or until `stop`.
    pub(super) async fn run(self, stop: CancellationToken) {
        while let Some(pass) = stop.run_until_cancelled(self.core.breaker.enter()).await {
            let taken = stop.run_until_cancelled(self.core.queue.take(pass.is_probe)).await.flatten();
            match taken {
                Some(Taken::Work(work)) if self.core.breaker.is_valid(pass) => self.write(pass, work).await,
                Some(Taken::Work(work)) => self.core.queue.give_back(work),
                Some(Taken::Reading(reading)) => {
                    self.core.breaker.conclude(pass, Verdict::Nothing);
                    self.read(reading).await;
                }
                None => {
                    self.core.breaker.conclude(pass, Verdict::Nothing);
                    return;
                }
            }
        }
    }

    async fn write(&self, pass: Pass, work: Work) {
        let before = self.core.counters.written_batches();
        // Whatever happens to one batch, the writer goes on with the next.
        let outcome = AssertUnwindSafe(self.write_with_retries(&work)).catch_unwind().await;
        match outcome {
            Ok(Ok(written)) => {
                self.core.breaker.conclude(pass, Verdict::Written);
                self.finish(work, &written);
            }
            Ok(Err(error)) => {
                let others_fare_well = self.core.counters.written_batches() > before;
                let reason = error.to_string();
                let verdict = match error.class() {
                    ErrorClass::BadData => Verdict::Nothing,
                    // A part of a batch that failed before: the search for its cause says nothing new of the database.
                    _ if others_fare_well && work.record.written_then.is_some() => Verdict::Nothing,
                    ErrorClass::Misconfigured if !others_fare_well => Verdict::Hopeless(&reason),
                    ErrorClass::Misconfigured | ErrorClass::Transient => Verdict::Failed(&reason),
                };
                self.core.breaker.conclude(pass, verdict);
                self.failed(work, &error, others_fare_well).await;
            }
            Err(_) => {
                tracing::error!("a writer panicked; what it was to write is tried again");
                let error = StoreError::transient("an internal error while writing");
                self.core.breaker.conclude(pass, Verdict::Failed("an internal error while writing"));
                self.failed(work, &error, true).await;
            }
        }
        self.core.turn_away();
    }

    async fn write_with_retries(&self, work: &Work) -> Result<Vec<Written>, StoreError> {
        let batches: Vec<_> = work.entries.iter().map(|entry| &entry.prepared.batch).collect();
        let dead_letter = |batch: usize, record: u32| {
            let request = self.core.request(&work.entries[batch].source)?;
            Ok(prepare::dead_letter(&request, record))
        };
        let mut pause = self.core.options.retry_backoff;
        let mut retries = 0;
        loop {
            let began = Instant::now();
            match self.store.write(&batches, &dead_letter).await {
                Err(error) if error.class() == ErrorClass::Transient && retries < self.core.options.max_retries => {
                    tracing::warn!(%error, retry = retries + 1, "could not write, trying again");
                    self.core.counters.retried();
                    tokio::time::sleep(jittered(pause)).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                    retries += 1;
                }
                Err(error) => {
                    tracing::error!(%error, class = error.class().as_str(), "could not write");
                    self.core.counters.batch_failed();
                    return Err(error);
                }
                Ok(written) => {
                    self.core.counters.batch_written(began.elapsed());
                    return Ok(written);
                }
            }
        }
    }

    /// The batch is committed.
    fn finish(&self, work: Work, written: &[Written]) {
        for (entry, written) in work.entries.into_iter().zip(written) {
            let refused = written.refused.len() as u64;
            if written.duplicate {
                self.core.counters.duplicate_request();
            } else {
                self.core.counters.written(entry.source.signal, entry.prepared.records - refused);
                self.core.counters.dead_lettered(ErrorClass::BadData.as_str(), refused);
            }
            self.settle(entry, Outcome { duplicate: written.duplicate, refused });
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

    /// The batch could not be written, and its retries are used up.
    async fn failed(&self, mut work: Work, error: &StoreError, others_fare_well: bool) {
        let written = self.core.counters.written_batches();
        if work.entries.len() == 1 {
            if error.class() == ErrorClass::BadData {
                return self.bury(work, error, error.class().as_str()).await;
            }
            if work.entries[0].reply.is_some() {
                let refused = refusal(error);
                work.entries.into_iter().for_each(|entry| refuse(entry.reply, &refused));
                return;
            }
            let since_last = work.record.written_then.is_some_and(|then| written > then);
            if others_fare_well || since_last {
                work.record.alone += 1;
            }
            if work.record.alone >= STUCK_AFTER {
                return self.bury(work, error, STUCK).await;
            }
        }
        self.core.queue.give_back_failed(work, written);
    }

    /// Makes a dead letter of an entry that stands in the way: whole, since what is wrong is not one of its records.
    async fn bury(&self, work: Work, error: &StoreError, class: &'static str) {
        let mut buried = Ok(());
        for entry in &work.entries {
            buried = self.bury_entry(entry, error, class).await;
        }
        match buried {
            Ok(()) => {
                for entry in work.entries {
                    let records = entry.prepared.records;
                    tracing::error!(class, records, %error, "a request became a dead letter");
                    self.core.counters.dead_lettered(class, records);
                    self.settle(entry, Outcome { duplicate: false, refused: records });
                }
            }
            Err(reason) => {
                tracing::error!(%reason, class, "a request could not be made a dead letter");
                let written = self.core.counters.written_batches();
                self.core.queue.give_back_failed(work, written);
            }
        }
    }

    async fn bury_entry(&self, entry: &Entry, error: &StoreError, class: &str) -> Result<(), StoreError> {
        let request = self.core.request(&entry.source)?;
        let raw_data = prepare::as_protobuf(&request);
        let dead = DeadLetter {
            signal: request.signal,
            records: entry.prepared.records,
            class,
            message: &error.to_string(),
            retries: 0,
            raw_data: &raw_data,
        };
        self.store.bury(entry.prepared.batch.request_hash, &dead).await
    }

    /// Brings a lane's next entries from the spool into memory.
    async fn read(&self, reading: Reading) {
        let Some(spool) = self.core.spool.clone() else { return };
        let core = Arc::clone(&self.core);
        let (signal, from, bytes) = (reading.signal, reading.from, reading.bytes);
        let read = tokio::task::spawn_blocking(move || {
            Reader { spool: &spool, core: &core, lane: signal as usize }.read(from, bytes)
        });
        let read = read.await.unwrap_or_else(|error| {
            tracing::error!(%error, "reading the spool was cut off");
            Read { entries: Vec::new(), to: from, last: None, trouble: true }
        });
        self.core.queue.refill(&reading, read.entries, read.to, read.last);
        if read.trouble {
            tokio::time::sleep(SPOOL_PAUSE).await;
        }
    }
}

/// What was read of a lane.
struct Read {
    entries: Vec<Entry>,
    to: Position,
    last: Option<EntryId>,
    /// The spool could not be read on: later, perhaps.
    trouble: bool,
}

struct Reader<'a> {
    spool: &'a Spool,
    core: &'a Core,
    lane: usize,
}

impl Reader<'_> {
    fn read(&self, from: Position, bytes: usize) -> Read {
        let mut read = Read { entries: Vec::new(), to: from, last: None, trouble: false };
        let mut left = bytes;
        while left > 0
            && let Some(id) = self.spool.next(self.lane, read.to)
        {
            match self.spool.read(id) {
                Ok(entry) => {
                    left = left.saturating_sub(entry.body.len());
                    read.to = entry.next;
                    read.entries.extend(self.prepare(entry));
                }
                // The spool has set it aside and said so.
                Err(ReadError::Damaged { .. } | ReadError::Released { .. }) => read.to = id.after(),
                Err(error) => {
                    tracing::error!(%error, "the spool cannot be read");
                    read.trouble = true;
                    break;
                }
            }
            read.last = Some(id);
        }
        read
    }

    /// An entry that cannot be prepared was admitted by another version of this program: it waits in quarantine.
    fn prepare(&self, entry: SpoolEntry) -> Option<Entry> {
        let (tag, signal) = (Tag::from_bits(entry.tag), crate::otlp::Signal::ALL[self.lane]);
        let request = Request { signal, encoding: tag.encoding, body: entry.body };
        let limits = if tag.whole { Limits::NONE } else { self.core.options.limits.clone() };
        let prepared = catch_unwind(AssertUnwindSafe(|| prepare(&request, &limits)))
            .unwrap_or_else(|_| Err("an internal error while the request was read".to_owned()));
        match prepared {
            Ok(prepared) => {
                let source = Source { signal, encoding: tag.encoding, place: Place::Spool(entry.id) };
                Some(Entry { source, prepared, since: Instant::now(), reply: None })
            }
            Err(reason) => {
                tracing::error!(%reason, "a request in the spool cannot be read and is set aside");
                if let Err(error) = self.spool.set_aside(entry.id, &reason) {
                    tracing::error!(%error, "the request could not be set aside; it stays in the spool");
                }
                None
            }
        }
    }
}

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
