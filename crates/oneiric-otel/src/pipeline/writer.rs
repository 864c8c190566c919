//! The tasks that turn queued requests into transactions.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use tokio::sync::{Mutex, mpsc};

use super::prepare;
use super::report::IngestCounters;
use super::{Job, Refused};
use crate::store::{Batch, ErrorClass, Store, StoreError, Written};

/// The first pause before a retry; it doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// When a sender should come back after the retries are used up.
const RETRY_AFTER_TRANSIENT: Duration = Duration::from_secs(2);
/// When a sender should come back while a person has to act.
const RETRY_AFTER_MISCONFIGURED: Duration = Duration::from_secs(30);

/// What became of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Outcome {
    pub(super) duplicate: bool,
    pub(super) refused: u64,
}

/// One writer. Several share the queue: while one commits, the next gathers what arrived meanwhile, so transactions
/// grow with the load and nothing waits for a timer.
#[derive(Debug)]
pub(super) struct Writer {
    pub(super) store: Arc<Store>,
    pub(super) jobs: Arc<Mutex<mpsc::Receiver<Job>>>,
    pub(super) batch_rows: usize,
    pub(super) max_retries: u32,
    pub(super) counters: Arc<IngestCounters>,
}

impl Writer {
    /// Runs until every sender of the queue is gone and the queue is empty.
    pub(super) async fn run(self) {
        loop {
            let jobs = self.gather().await;
            if jobs.is_empty() {
                return;
            }
            // Whatever happens to one batch, the writer goes on with the next: its senders are told to come back.
            if AssertUnwindSafe(self.write(jobs)).catch_unwind().await.is_err() {
                tracing::error!("a writer panicked; its requests are not stored and their senders are told so");
            }
        }
    }

    async fn gather(&self) -> Vec<Job> {
        let mut queue = self.jobs.lock().await;
        let Some(first) = queue.recv().await else { return Vec::new() };
        let mut rows = first.prepared.batch.rows.len();
        let mut jobs = vec![first];
        while rows < self.batch_rows {
            let Ok(job) = queue.try_recv() else { break };
            rows += job.prepared.batch.rows.len();
            jobs.push(job);
        }
        jobs
    }

    async fn write(&self, jobs: Vec<Job>) {
        let mut batches = Vec::with_capacity(jobs.len());
        let mut requests = Vec::with_capacity(jobs.len());
        let mut replies = Vec::with_capacity(jobs.len());
        for job in jobs {
            batches.push(job.prepared.batch);
            requests.push(job.prepared.request);
            replies.push(job.reply);
        }
        let dead_letter = |batch: usize, record: u32| prepare::dead_letter(&requests[batch], record);
        match self.write_with_retries(&batches, &dead_letter).await {
            Ok(written) => {
                for (reply, written) in replies.into_iter().zip(written) {
                    let outcome = Outcome { duplicate: written.duplicate, refused: written.refused.len() as u64 };
                    // The receiver is gone when the client hung up: the records are stored all the same.
                    drop(reply.send(Ok(outcome)));
                }
            }
            Err(error) => {
                // A database that came back may be another one: what we remember of it is no longer certain.
                self.store.dimensions.forget();
                let refused = refusal(&error);
                for reply in replies {
                    drop(reply.send(Err(refused.clone())));
                }
            }
        }
    }

    async fn write_with_retries(
        &self,
        batches: &[Batch],
        dead_letter: &(dyn Fn(usize, u32) -> Vec<u8> + Sync),
    ) -> Result<Vec<Written>, StoreError> {
        let mut pause = FIRST_PAUSE;
        let mut retries = 0;
        loop {
            match self.store.write(batches, dead_letter).await {
                Err(error)
                    if error.class() == ErrorClass::Transient && !error.is_stale() && retries < self.max_retries =>
                {
                    tracing::warn!(%error, retry = retries + 1, "could not write, trying again");
                    self.counters.retried();
                    tokio::time::sleep(jittered(pause)).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                    retries += 1;
                }
                Err(error) => {
                    tracing::error!(%error, class = error.class().as_str(), "could not write");
                    return Err(error);
                }
                done => return done,
            }
        }
    }
}

/// Between half and all of a pause, so that writers that failed together do not return together.
fn jittered(pause: Duration) -> Duration {
    pause.mul_f64(rand::random_range(0.5..=1.0))
}

pub(super) fn refusal(error: &StoreError) -> Refused {
    let retry_after = match error.class() {
        ErrorClass::Transient => RETRY_AFTER_TRANSIENT,
        ErrorClass::Misconfigured => RETRY_AFTER_MISCONFIGURED,
        // Bad records become dead letters; what is left is a resource, a scope or a series.
        ErrorClass::BadData => {
            return Refused::Malformed { reason: format!("the database refuses what the records belong to: {error}") };
        }
    };
    Refused::Unavailable { reason: format!("cannot store now: {error}"), retry_after }
}
