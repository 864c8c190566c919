//! What a running server says about itself: to `health` through a file, to programs as JSON, to Prometheus as metrics.
//!
//! The file lies in the data directory, so that `health` needs neither an address nor a token, works while the database is
//! away, and can tell after a crash what was known last.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::SystemTime;

use jiff::{SignedDuration, Timestamp};
use oneiric_otel::forward::ForwardStatus;
use oneiric_otel::pipeline::{BreakerState, IngestStatus};
use serde::{Deserialize, Serialize};

use crate::app::Addresses;
use crate::forwarding::Forwarding;
use crate::moment;

/// A report is written every second: a server of which there is an older one is gone or hangs.
const SILENCE: SignedDuration = SignedDuration::from_secs(10);

/// What a server says.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Report {
    pub(crate) version: String,
    pub(crate) pid: u32,
    pub(crate) started_at: Timestamp,
    pub(crate) written_at: Timestamp,
    pub(crate) addresses: Addresses,
    /// Why nothing is acknowledged at the moment, if so.
    pub(crate) refusing: Option<Trouble>,
    pub(crate) database: Connection,
    pub(crate) breaker: Breaker,
    pub(crate) spool: Option<Spool>,
    /// Where else requests go.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) forward: Option<Forwarding>,
    /// Requests in memory that wait for a writer.
    pub(crate) waiting_requests: usize,
    pub(crate) counts: Counts,
}

/// Something that is wrong, and since when.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Trouble {
    pub(crate) reason: String,
    pub(crate) since: Timestamp,
}

/// Whether the database answers.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Connection {
    /// Host, port and database.
    pub(crate) target: String,
    /// Why it does not, if it does not.
    pub(crate) away: Option<Trouble>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Breaker {
    /// `closed`, `open` or `half_open`.
    pub(crate) state: String,
    pub(crate) since: Timestamp,
    /// When an open one lets a probe through.
    pub(crate) until: Option<Timestamp>,
    /// Why nothing could be written since the last success.
    pub(crate) failing: Option<Trouble>,
    pub(crate) opened: u64,
}

/// Requests that wait on disk.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Spool {
    pub(crate) entries: BTreeMap<String, u64>,
    /// When the oldest of them came.
    pub(crate) oldest: Option<Timestamp>,
    pub(crate) bytes: u64,
    pub(crate) quarantine_bytes: u64,
    pub(crate) max_bytes: u64,
}

/// Since the start of the server.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Counts {
    /// By signal.
    pub(crate) acknowledged_records: BTreeMap<String, u64>,
    /// By signal.
    pub(crate) written_records: BTreeMap<String, u64>,
    pub(crate) rejected_records: u64,
    pub(crate) dropped_records: u64,
    pub(crate) malformed_requests: u64,
    pub(crate) unavailable_requests: u64,
    pub(crate) duplicate_requests: u64,
    pub(crate) write_retries: u64,
    pub(crate) failed_batches: u64,
    /// Records, by class of error.
    pub(crate) dead_letters: BTreeMap<String, u64>,
}

/// What does not change while a server runs.
#[derive(Debug, Clone)]
pub(crate) struct Identity {
    pub(crate) started_at: Timestamp,
    pub(crate) addresses: Addresses,
    pub(crate) target: String,
}

impl Report {
    pub(crate) fn new(
        identity: &Identity,
        status: &IngestStatus,
        away: Option<Trouble>,
        forward: Option<&ForwardStatus>,
    ) -> Self {
        let counts = &status.counts;
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            started_at: identity.started_at,
            written_at: Timestamp::now(),
            addresses: identity.addresses,
            refusing: status
                .refusing
                .as_ref()
                .map(|refusing| Trouble { reason: refusing.reason.clone(), since: timestamp(refusing.since) }),
            database: Connection { target: identity.target.clone(), away },
            breaker: Breaker::new(status),
            spool: status.spool.as_ref().map(Spool::new),
            forward: forward.map(Forwarding::new),
            waiting_requests: status.waiting_requests,
            counts: Counts {
                acknowledged_records: named(&counts.records),
                written_records: named(&counts.written_records),
                rejected_records: counts.rejected_records,
                dropped_records: counts.dropped_records,
                malformed_requests: counts.malformed_requests,
                unavailable_requests: counts.unavailable_requests,
                duplicate_requests: counts.duplicate_requests,
                write_retries: counts.write_retries,
                failed_batches: counts.failed_batches,
                dead_letters: named(&counts.dead_letters),
            },
        }
    }

    /// What is wrong, as far as the server knows.
    pub(crate) fn problems(&self) -> Vec<String> {
        if Timestamp::now().duration_since(self.written_at) > SILENCE {
            let waiting = self.spool.as_ref().map_or(0, |spool| spool.entries.values().sum::<u64>());
            return vec![format!(
                "the server (process {}) has not been heard of since {}: it was killed or hangs; {waiting} requests \
                 waited in its spool, and are written when `oneiric-otel serve` is started again",
                self.pid,
                moment::show_time(self.written_at)
            )];
        }
        let mut problems = Vec::new();
        if let Some(refusing) = &self.refusing {
            problems.push(format!(
                "requests are refused since {}: {}",
                moment::show_time(refusing.since),
                refusing.reason
            ));
        }
        let waiting = self.spool.as_ref().map_or(0, |spool| spool.entries.values().sum());
        // The two have one cause, and the earlier knows it better.
        let away = self.database.away.iter().chain(&self.breaker.failing).min_by_key(|trouble| trouble.since);
        if let Some(Trouble { reason, since }) = away {
            let kept =
                if self.spool.is_some() { format!("; {waiting} requests wait in the spool") } else { String::new() };
            let since = moment::show_time(*since);
            problems.push(format!("the database cannot be written to since {since}: {reason}{kept}"));
        }
        if let Some(spool) = &self.spool
            && spool.quarantine_bytes > 0
        {
            problems.push(format!(
                "{} bytes of the spool could not be read and are in quarantine: see `oneiric-otel dlq list`",
                spool.quarantine_bytes
            ));
        }
        problems.extend(self.forward.iter().flat_map(Forwarding::problems));
        problems
    }

    /// Writes the report for its owner to read: all of it, or the one before stays.
    pub(crate) fn write(&self, path: &Path) -> io::Result<()> {
        let next = path.with_extension("new");
        let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&next)?;
        file.write_all(&serde_json::to_vec_pretty(self)?)?;
        fs::rename(next, path)
    }

    /// The report of the server that runs, or of one that did not get to say goodbye.
    pub(crate) fn read(path: &Path) -> Option<Self> {
        serde_json::from_slice(&fs::read(path).ok()?).ok()
    }
}

impl Breaker {
    fn new(status: &IngestStatus) -> Self {
        let breaker = &status.breaker;
        let reason = breaker.last_error.clone().unwrap_or_default();
        Self {
            state: breaker.state.as_str().to_owned(),
            since: timestamp(breaker.since),
            until: breaker.until.filter(|_| breaker.state == BreakerState::Open).map(timestamp),
            failing: breaker.failing_since.map(|since| Trouble { reason, since: timestamp(since) }),
            opened: breaker.opened,
        }
    }
}

impl Spool {
    pub(crate) fn new(spool: &oneiric_otel_spool::SpoolStatus) -> Self {
        Self {
            entries: spool.lanes.iter().map(|lane| (lane.name.clone(), lane.entries)).collect(),
            oldest: spool.lanes.iter().filter_map(|lane| lane.oldest).min().map(timestamp),
            bytes: spool.bytes,
            quarantine_bytes: spool.quarantine_bytes,
            max_bytes: spool.max_bytes,
        }
    }
}

fn named(counts: &BTreeMap<&'static str, u64>) -> BTreeMap<String, u64> {
    counts.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect()
}

/// To the second: who reads it is a person.
pub(crate) fn timestamp(time: SystemTime) -> Timestamp {
    let time = Timestamp::try_from(time).unwrap_or(Timestamp::UNIX_EPOCH);
    time.round(jiff::Unit::Second).unwrap_or(time)
}
