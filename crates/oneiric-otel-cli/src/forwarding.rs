//! Passing on: from flags to a forwarder, and what it says about itself in the report and to `health`.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;

use anyhow::Result;
use jiff::Timestamp;
use oneiric_otel::forward::{ForwardCounts, ForwardError, ForwardLane, ForwardOptions, ForwardStatus, Forwarder};
use oneiric_otel::settings::Settings;
use oneiric_otel::system;
use serde::{Deserialize, Serialize};

use crate::report::{Spool, Trouble, timestamp};
use crate::{failure, moment};

/// Opens the queue before the endpoint that was asked for, if one was. What an earlier process left in it comes first.
pub(crate) fn open(data_dir: &Path, settings: &Settings) -> Result<Option<Forwarder>> {
    let endpoint = settings.forward_endpoint().map_err(|(_, error)| explain(ForwardError::Endpoint(error)))?;
    let Some(endpoint) = endpoint else { return Ok(None) };
    // What waits for one endpoint must not end in another.
    let dir = data_dir.join("forward").join(system::name_of(&endpoint.to_string(), false));
    let options = ForwardOptions { max_bytes: settings.forward_max_bytes, ..ForwardOptions::new(dir) };
    let (forwarder, recovered) = Forwarder::open(endpoint, options).map_err(explain)?;
    if recovered.entries > 0 {
        tracing::info!(requests = recovered.entries, "requests of an earlier process wait to be passed on");
    }
    Ok(Some(forwarder))
}

fn explain(error: ForwardError) -> anyhow::Error {
    match error {
        ForwardError::Endpoint(error) => {
            let flag = match error.name {
                "headers" => "forward_headers (OTEL_STORAGE_FORWARD_HEADERS)",
                "ca" => "--forward-ca (or OTEL_STORAGE_FORWARD_CA)",
                _ => "--forward-otlp (or OTEL_STORAGE_FORWARD_OTLP)",
            };
            anyhow::Error::msg(format!("{flag}: {}", error.reason))
        }
        ForwardError::Spool(error) => failure::advised(
            format!("requests that are to be passed on have no place to wait: {error}"),
            "name another directory with --data-dir, or leave --forward-otlp out",
        ),
    }
}

/// A server that passes on to itself would never come to an end.
pub(crate) async fn refuse_loop(forwarder: &Forwarder, listening: &[SocketAddr]) -> Result<()> {
    match forwarder.endpoint().leads_to(listening).await {
        None => Ok(()),
        Some(address) => Err(failure::advised(
            format!("--forward-otlp {} is this server itself, which listens on {address}", forwarder.endpoint()),
            "name the other endpoint, or leave --forward-otlp out",
        )),
    }
}

/// What a server says of passing on.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Forwarding {
    pub(crate) endpoint: String,
    pub(crate) protocol: String,
    pub(crate) spool: Spool,
    /// Where the endpoint cannot be reached or takes nothing: the signal, and why.
    pub(crate) failing: BTreeMap<String, Trouble>,
    /// Why requests are not passed on at the moment though they are stored, if so.
    pub(crate) dropping: Option<Trouble>,
    /// By signal, since the start of the server.
    pub(crate) forwarded_requests: BTreeMap<String, u64>,
    pub(crate) dropped_requests: u64,
    /// Set aside, in `forward/*/quarantine` of the data directory.
    pub(crate) refused_requests: u64,
    pub(crate) lost_requests: u64,
    /// Records that the endpoint rejected.
    pub(crate) rejected_records: u64,
    pub(crate) failed_attempts: u64,
}

impl Forwarding {
    pub(crate) fn new(status: &ForwardStatus) -> Self {
        let total = |count: fn(&ForwardCounts) -> u64| status.lanes.iter().map(|lane| count(&lane.counts)).sum();
        let name = |lane: &ForwardLane| lane.signal.as_str().to_owned();
        let failing = |lane: &ForwardLane| {
            let since = timestamp(lane.breaker.failing_since?);
            Some((name(lane), Trouble { reason: lane.breaker.last_error.clone().unwrap_or_default(), since }))
        };
        let trouble = |(since, reason): &(_, String)| Trouble { reason: reason.clone(), since: timestamp(*since) };
        Self {
            endpoint: status.endpoint.clone(),
            protocol: status.protocol.as_str().to_owned(),
            spool: Spool::new(&status.spool),
            failing: status.lanes.iter().filter_map(failing).collect(),
            dropping: status.dropping.as_ref().map(trouble),
            forwarded_requests: status.lanes.iter().map(|lane| (name(lane), lane.counts.forwarded_requests)).collect(),
            dropped_requests: total(|counts| counts.dropped_requests),
            refused_requests: total(|counts| counts.refused_requests),
            lost_requests: total(|counts| counts.lost_requests),
            rejected_records: total(|counts| counts.rejected_records),
            failed_attempts: total(|counts| counts.failed_attempts),
        }
    }

    /// How many requests wait, and since when.
    pub(crate) fn waiting(&self) -> (u64, Option<Timestamp>) {
        (self.spool.entries.values().sum(), self.spool.oldest)
    }

    /// What is wrong.
    pub(crate) fn problems(&self) -> Vec<String> {
        let (waiting, _) = self.waiting();
        let mut problems = Vec::new();
        if let Some((signal, Trouble { reason, since })) = self.failing.iter().min_by_key(|(_, trouble)| trouble.since)
        {
            problems.push(format!(
                "{signal} cannot be passed on to {} since {}: {reason}; {waiting} requests wait",
                self.endpoint,
                moment::show_time(*since)
            ));
        }
        if let Some(Trouble { reason, since }) = &self.dropping {
            problems.push(format!(
                "requests are stored, but not passed on, since {}: {reason}; {} were dropped",
                moment::show_time(*since),
                self.dropped_requests
            ));
        }
        if self.spool.quarantine_bytes > 0 {
            problems.push(format!(
                "{} bytes of requests were refused by {} or could not be read; they are in forward/*/quarantine of the \
                 data directory",
                self.spool.quarantine_bytes, self.endpoint
            ));
        }
        problems
    }
}
