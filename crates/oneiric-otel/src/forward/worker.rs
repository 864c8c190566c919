//! The worker of a signal: takes requests out of the spool, oldest first, and sees each to its end.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use oneiric_otel_spool::{EntryId, Position, ReadError};
use tokio::sync::{Notify, SemaphorePermit};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::answer::Answer;
use super::client::Outgoing;
use super::counts::Counters;
use super::{MEMORY, MEMORY_UNIT, Shared, request_of};
use crate::otlp::Signal;
use crate::pipeline::breaker::{Breaker, Pass, Verdict};

/// How long a request on its way may go on when the process ends; else it is sent again by the next.
const FAREWELL: Duration = Duration::from_secs(1);
/// How often a request may use its tries up without an answer while others are taken, before it is set aside.
const STUCK_AFTER: u32 = 3;
/// How often an entry may be unreadable before it is left for the next process.
const READ_TRIES: u32 = 3;

/// A signal's part of a forwarder.
#[derive(Debug)]
pub(super) struct Lane {
    pub(super) signal: Signal,
    pub(super) breaker: Breaker,
    pub(super) counters: Counters,
    /// Something was appended.
    pub(super) appended: Notify,
    /// The endpoint wants to be left alone until then.
    pub(super) not_before: Mutex<Option<Instant>>,
}

impl Lane {
    pub(super) async fn wait_until_wanted(&self) {
        let until = *self.not_before.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(until) = until {
            tokio::time::sleep_until(until).await;
        }
    }

    pub(super) fn leave_alone_for(&self, pause: Duration) {
        let until = Instant::now() + pause;
        let mut not_before = self.not_before.lock().unwrap_or_else(PoisonError::into_inner);
        *not_before = not_before.max(Some(until));
    }
}

/// Runs until told to stop.
pub(super) async fn run(shared: Arc<Shared>, signal: Signal, stop: CancellationToken) {
    let mut position = Position::default();
    let mut deliveries = FuturesUnordered::new();
    let appended = &shared.lane(signal).appended;
    while !stop.is_cancelled() {
        while deliveries.len() < shared.options.in_flight.max(1)
            && let Some(id) = shared.spool.next(signal as usize, position)
        {
            position = id.after();
            deliveries.push(Delivery::new(&shared, signal, id).run());
        }
        tokio::select! {
            () = stop.cancelled() => break,
            Some(()) = deliveries.next(), if !deliveries.is_empty() => {}
            // Remembers one that came since it was waited for last.
            () = appended.notified() => {}
        }
    }
    let farewell = async { while deliveries.next().await.is_some() {} };
    if tokio::time::timeout(FAREWELL, farewell).await.is_err() {
        tracing::debug!(signal = signal.as_str(), "requests on their way are sent again by the next process");
    }
}

/// A request on its way.
struct Delivery<'a> {
    shared: &'a Shared,
    lane: &'a Lane,
    id: EntryId,
    /// Tries that failed.
    failures: u32,
    unreadable: u32,
    /// How often its tries were used up without an answer while others were taken.
    stuck: u32,
    /// Requests of the lane that had been taken when it failed last.
    taken_then: Option<u64>,
}

/// What became of a pass of the breaker.
enum Round {
    /// The endpoint has said what becomes of it.
    Over,
    /// There is nothing to send.
    Nothing,
    /// The tries of this round are used up. One that the endpoint answers may be taken later, whatever becomes of others.
    Failed {
        reason: String,
        answered: bool,
    },
    NotAllowed(String),
    /// Somebody else's failure has closed the way.
    CutOff,
}

/// What became of one try.
enum Attempt {
    Answered(Answer),
    Gone,
}

impl<'a> Delivery<'a> {
    fn new(shared: &'a Shared, signal: Signal, id: EntryId) -> Self {
        let lane = shared.lane(signal);
        Self { shared, lane, id, failures: 0, unreadable: 0, stuck: 0, taken_then: None }
    }

    async fn run(mut self) {
        loop {
            let pass = self.lane.breaker.enter().await;
            let round = self.round(pass).await;
            let breaker = &self.lane.breaker;
            match round {
                Round::Over => return breaker.conclude(pass, Verdict::Written),
                Round::Nothing => return breaker.conclude(pass, Verdict::Nothing),
                Round::CutOff => breaker.conclude(pass, Verdict::Nothing),
                Round::NotAllowed(reason) => breaker.conclude(pass, Verdict::Hopeless(&reason)),
                Round::Failed { reason, answered } => {
                    breaker.conclude(pass, Verdict::Failed(&reason));
                    let taken = self.lane.counters.counts().forwarded_requests;
                    if !answered && self.taken_then.is_some_and(|then| taken > then) {
                        self.stuck += 1;
                    }
                    self.taken_then = Some(taken);
                    if self.stuck >= STUCK_AFTER {
                        return self.set_aside(&format!("others were taken and it was not: {reason}")).await;
                    }
                    self.back_off().await;
                }
            }
        }
    }

    /// Tries until the request has come to its end, or the tries are used up. A probe has one.
    async fn round(&mut self, pass: Pass) -> Round {
        let tries = if pass.is_probe { 1 } else { 1 + self.shared.options.max_retries };
        let mut last = (String::new(), false);
        for number in 0..tries {
            if number > 0 {
                self.back_off().await;
            }
            self.lane.wait_until_wanted().await;
            if !self.lane.breaker.is_valid(pass) {
                return Round::CutOff;
            }
            match self.attempt().await {
                Attempt::Gone => return Round::Nothing,
                Attempt::Answered(Answer::Taken { rejected, message }) => {
                    self.taken(rejected, &message);
                    return Round::Over;
                }
                Attempt::Answered(Answer::Refused(reason)) => {
                    self.set_aside(&reason).await;
                    return Round::Over;
                }
                Attempt::Answered(Answer::NotAllowed(reason)) => {
                    self.failed(&reason);
                    return Round::NotAllowed(reason);
                }
                Attempt::Answered(Answer::NotNow { reason, pause, answered }) => {
                    self.failed(&reason);
                    if let Some(pause) = pause {
                        self.lane.leave_alone_for(pause);
                    }
                    last = (reason, last.1 || answered);
                }
            }
        }
        let (reason, answered) = last;
        Round::Failed { reason, answered }
    }

    async fn attempt(&mut self) -> Attempt {
        let (outgoing, _memory) = match self.load().await {
            Ok(Some(loaded)) => loaded,
            Ok(None) => return Attempt::Gone,
            Err(reason) => return Attempt::Answered(Answer::none(reason)),
        };
        let timeout = self.shared.options.timeout;
        let answer = tokio::time::timeout(timeout, self.shared.client.send(outgoing)).await;
        Attempt::Answered(answer.unwrap_or_else(|_| Answer::none(format!("no answer within {timeout:?}"))))
    }

    /// Reads the request, as it is to go out. It is read again for each try: who waits needs no memory. None when there is
    /// nothing to be read.
    async fn load(&mut self) -> Result<Option<(Outgoing, SemaphorePermit<'a>)>, String> {
        let _turn = self.shared.reading.lock().await;
        let (spool, id) = (self.shared.spool.clone(), self.id);
        let read = tokio::task::spawn_blocking(move || spool.read(id)).await.map_err(|error| error.to_string())?;
        let entry = match read {
            Ok(entry) => entry,
            Err(ReadError::Released { .. }) => return Ok(None),
            Err(error @ ReadError::Damaged { .. }) => {
                tracing::error!(%error, "a request that was to be forwarded is lost");
                self.lane.counters.lost();
                return Ok(None);
            }
            Err(error) => {
                self.unreadable += 1;
                if self.unreadable < READ_TRIES {
                    return Err(error.to_string());
                }
                tracing::error!(%error, "a request that is to be forwarded cannot be read; the next process tries again");
                self.lane.counters.left();
                return Ok(None);
            }
        };
        let units = (entry.body.len() as u32 / MEMORY_UNIT).clamp(1, MEMORY / MEMORY_UNIT);
        let memory = self.shared.memory.acquire_many(units).await.map_err(|error| error.to_string())?;
        let request = request_of(self.lane.signal, entry);
        let client = self.shared.client.clone();
        let outgoing = tokio::task::spawn_blocking(move || client.prepare(&request)).await;
        Ok(Some((outgoing.map_err(|error| error.to_string())?, memory)))
    }

    fn taken(&self, rejected: u64, message: &str) {
        if rejected > 0 {
            let signal = self.lane.signal.as_str();
            tracing::warn!(signal, rejected, message, "records that were forwarded were rejected");
        }
        self.shared.spool.release(self.id);
        self.lane.counters.forwarded(rejected);
    }

    fn failed(&mut self, reason: &str) {
        self.failures = self.failures.saturating_add(1);
        self.lane.counters.failed();
        tracing::debug!(reason, entry = %self.id, failures = self.failures, "a request was not forwarded yet");
    }

    async fn back_off(&self) {
        let options = &self.shared.options;
        let pause = options.retry_backoff.saturating_mul(1 << self.failures.saturating_sub(1).min(16));
        // So that requests that failed together do not come back together.
        let pause = pause.min(options.longest_backoff).mul_f64(rand::random_range(0.5..=1.0));
        tokio::time::sleep(pause).await;
    }

    /// The request will not be taken.
    async fn set_aside(&self, reason: &str) {
        let (spool, id, counters) = (self.shared.spool.clone(), self.id, &self.lane.counters);
        let status = spool.status();
        let signal = self.lane.signal.as_str();
        if status.quarantine_bytes > status.max_bytes / 2 {
            tracing::error!(signal, reason, "a refused request is dropped: the quarantine is full");
            spool.release(id);
            return counters.lost();
        }
        tracing::error!(signal, reason, "a request is not forwarded; it is set aside");
        let reason = reason.to_owned();
        match tokio::task::spawn_blocking(move || spool.set_aside(id, &reason)).await {
            Ok(Ok(())) => counters.refused(),
            Ok(Err(error)) => {
                tracing::error!(%error, "it could not be set aside; the next process tries again");
                counters.left();
            }
            Err(error) => {
                tracing::error!(%error, "setting it aside was cut off");
                counters.left();
            }
        }
    }
}
