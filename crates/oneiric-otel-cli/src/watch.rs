//! Watches over a running server: asks its database now and then, and leaves a report for `health`.

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use oneiric_otel::derive::Derived;
use oneiric_otel::forward::{ForwardStatus, Forwarder};
use oneiric_otel::pipeline::{Ingest, IngestStatus};
use oneiric_otel::query::{CacheCounts, QueryService, QuestionVectorCounts};
use oneiric_otel::store::{Census, Database};
use oneiric_otel_server::{Page, Refusals};
use tokio_util::sync::CancellationToken;

use crate::metrics;
use crate::own_traces::OwnTraces;
use crate::report::{Identity, Report, Trouble};

/// How often the report is written.
const REPORT_EVERY: Duration = Duration::from_secs(1);
/// How often the database is asked: its answer costs it some milliseconds.
const ASK_EVERY: Duration = Duration::from_secs(5);
/// A database that takes longer is away.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// The parts of a server that are watched. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Watch {
    pub(crate) identity: Identity,
    pub(crate) ingest: Ingest,
    pub(crate) database: Database,
    pub(crate) derived: Arc<dyn Fn() -> Derived + Send + Sync>,
    pub(crate) queries: QueryService,
    pub(crate) refusals: Arc<Refusals>,
    pub(crate) seen: Arc<Mutex<Seen>>,
    pub(crate) own_traces: Option<OwnTraces>,
    pub(crate) forward: Option<Forwarder>,
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch").field("identity", &self.identity).finish_non_exhaustive()
    }
}

/// What the database answered last.
#[derive(Debug, Clone, Default)]
pub(crate) struct Seen {
    /// Whether it answered; none before the first answer.
    is_up: Option<bool>,
    away: Option<Trouble>,
    census: Option<Census>,
}

/// Everything at one moment.
#[derive(Debug)]
pub(crate) struct Snapshot {
    pub(crate) ingest: IngestStatus,
    pub(crate) derived: Derived,
    /// Of answers to questions.
    pub(crate) cache: CacheCounts,
    pub(crate) question_vectors: QuestionVectorCounts,
    pub(crate) is_up: Option<bool>,
    pub(crate) census: Option<Census>,
    pub(crate) unauthenticated_requests: u64,
    pub(crate) failed_handshakes: u64,
    /// Of the server itself.
    pub(crate) dropped_own_spans: u64,
    /// Where else requests go.
    pub(crate) forward: Option<ForwardStatus>,
}

impl Watch {
    /// The pages that show what is seen.
    pub(crate) fn pages(&self) -> Vec<Page> {
        let (told, counted) = (self.clone(), self.clone());
        vec![
            Page::new("/api/v1/health", "application/json", move || {
                serde_json::to_string_pretty(&told.report()).unwrap_or_default()
            }),
            Page::new("/metrics", metrics::CONTENT_TYPE, move || metrics::page(counted.snapshot())),
        ]
    }

    /// Asks the database until told to stop.
    pub(crate) async fn ask(self, stop: CancellationToken) {
        let work = async {
            loop {
                let answer = tokio::time::timeout(ANSWER_WITHIN, self.database.census()).await;
                self.take_note(match answer {
                    Ok(Ok(census)) => Ok(census),
                    Ok(Err(error)) => Err(error.to_string()),
                    Err(_) => Err(format!("no answer within {} s", ANSWER_WITHIN.as_secs())),
                });
                tokio::time::sleep(ASK_EVERY).await;
            }
        };
        stop.run_until_cancelled(work).await;
    }

    fn take_note(&self, answer: Result<Census, String>) {
        let mut seen = self.seen();
        match answer {
            Ok(census) => *seen = Seen { is_up: Some(true), away: None, census: Some(census) },
            Err(reason) => {
                let since = seen.away.take().map_or_else(now, |away| away.since);
                *seen = Seen { is_up: Some(false), away: Some(Trouble { reason, since }), census: None };
            }
        }
    }

    /// Writes the report to `path` until told to stop, and takes it away then: who reads it later finds no server.
    pub(crate) async fn leave_reports(self, path: PathBuf, stop: CancellationToken) {
        let mut told = false;
        if let Some(dir) = path.parent()
            && let Err(error) = std::fs::create_dir_all(dir)
        {
            tracing::debug!(dir = %dir.display(), %error, "cannot make the directory for reports");
        }
        let work = async {
            loop {
                let outcome = self.report().write(&path);
                if let (Err(error), false) = (&outcome, told) {
                    tracing::warn!(path = %path.display(), %error, "`health` will know less: no report can be written");
                }
                told = outcome.is_err();
                tokio::time::sleep(REPORT_EVERY).await;
            }
        };
        stop.run_until_cancelled(work).await;
        if let Err(error) = std::fs::remove_file(&path) {
            tracing::debug!(path = %path.display(), %error, "the report stays");
        }
    }

    fn report(&self) -> Report {
        let away = self.seen().away.clone();
        let forward = self.forward.as_ref().map(Forwarder::status);
        Report::new(&self.identity, &self.ingest.status(), away, forward.as_ref())
    }

    fn snapshot(&self) -> Snapshot {
        let Seen { is_up, census, .. } = self.seen().clone();
        Snapshot {
            ingest: self.ingest.status(),
            derived: (self.derived)(),
            cache: self.queries.cache_counts(),
            question_vectors: self.queries.question_vector_counts(),
            is_up,
            census,
            unauthenticated_requests: self.refusals.unauthenticated_requests(),
            failed_handshakes: self.refusals.failed_handshakes(),
            dropped_own_spans: self.own_traces.as_ref().map_or(0, OwnTraces::dropped),
            forward: self.forward.as_ref().map(Forwarder::status),
        }
    }

    fn seen(&self) -> std::sync::MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Now, for an [`Identity`].
pub(crate) fn now() -> Timestamp {
    crate::report::timestamp(std::time::SystemTime::now())
}
