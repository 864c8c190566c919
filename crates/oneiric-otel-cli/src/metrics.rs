//! `/metrics`: what a server counts, in the OpenMetrics text format that Prometheus reads.
//!
//! Names follow Prometheus' rules: base units, `_total` for counters (the encoder adds it), few labels of few values.

use std::collections::BTreeMap;
use std::fmt;
use std::time::SystemTime;

use oneiric_otel::forward::{ForwardCounts, ForwardLane, ForwardStatus};
use oneiric_otel::pipeline::{BreakerState, IngestStatus, Latencies};
use oneiric_otel::query::{CacheCounts, QuestionVectorCounts};
use oneiric_otel::store::Collecting;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Registry, Unit};

use crate::watch::Snapshot;

type ForwardCounter = (&'static str, &'static str, fn(&ForwardCounts) -> u64);

/// What is counted of passing on, by signal.
const FORWARD_COUNTERS: [ForwardCounter; 7] = [
    ("forwarded_requests", "Requests that the other endpoint took", |counts| counts.forwarded_requests),
    ("forward_rejected_records", "Records that it rejected", |counts| counts.rejected_records),
    ("forward_refused_requests", "Requests that it refused, which are in quarantine", |counts| counts.refused_requests),
    ("forward_dropped_requests", "Requests that are not passed on for want of room", |counts| counts.dropped_requests),
    ("forward_lost_requests", "Requests refused beyond the quarantine, or damaged", |counts| counts.lost_requests),
    ("forward_left_requests", "Requests that could not be read, which the next process tries again", |counts| {
        counts.left_requests
    }),
    ("forward_failed_attempts", "Tries that failed", |counts| counts.failed_attempts),
];

/// The media type of the page.
pub(crate) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The page for one moment.
pub(crate) fn page(snapshot: Snapshot) -> String {
    let mut registry = Registry::with_prefix("oneiric_otel");
    registry.register_collector(Box::new(snapshot));
    let mut text = String::new();
    encode(&mut text, &registry).unwrap_or_else(|error| tracing::error!(%error, "metrics could not be written"));
    text
}

impl Collector for Snapshot {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut page = Page(encoder);
        page.ingest(&self.ingest)?;
        page.spool(&self.ingest)?;
        page.breaker(&self.ingest)?;
        if let Some(forward) = &self.forward {
            page.forward(forward)?;
        }
        page.counter("unauthenticated_requests", "Requests without a valid token", self.unauthenticated_requests)?;
        page.counter("failed_handshakes", "Connections on which TLS was not agreed on", self.failed_handshakes)?;
        let templates = &self.ingest.counts.log_templates;
        page.counter(
            "stored_log_templates",
            "Templates of log records that this process met and did not know, and that are stored",
            templates.stored,
        )?;
        page.counter(
            "left_out_log_templates",
            "New templates of log records that were not stored, because an hour had too many",
            templates.left_out,
        )?;
        page.gauge(
            "metric_series_limit",
            "Metric series beyond which points of new ones become dead letters",
            self.ingest.max_metric_series as f64,
        )?;
        page.counter("dropped_own_spans", "Spans of the server itself that were refused", self.dropped_own_spans)?;
        page.counter("derived_traces", "Rows of traces written or rewritten", self.derived.traces)?;
        page.counter("new_texts", "Traces whose text was not known and needed a vector", self.derived.texts_new)?;
        page.cache(&self.cache)?;
        page.question_vectors(&self.question_vectors)?;
        if let Some(is_up) = self.is_up {
            page.gauge("database_up", "Whether the database answers", f64::from(u8::from(is_up)))?;
        }
        if let Some(census) = &self.census {
            page.gauge(
                "traces_to_derive",
                "Traces written to since they were derived",
                census.traces_to_derive as f64,
            )?;
            page.gauge("texts_to_embed", "Texts that wait for a vector", census.texts_to_embed as f64)?;
            let is_on = f64::from(u8::from(census.embedding_fallback.is_some()));
            page.gauge("embedding_fallback", "Whether hashes stand in place of vectors: not embeddings", is_on)?;
            let again = census.model_change.as_ref().map_or(0, |change| change.texts_left);
            page.gauge("texts_to_embed_again", "Of them, those that have one of the model before", again as f64)?;
            if let Some(series) = census.approximate_rows.get("otel_metric_series").copied().flatten() {
                page.gauge("metric_series", "Metric series in the database, about", series as f64)?;
            }
            page.gauge("dead_letters", "Dead letters in the database, not processed", census.dead_letters as f64)?;
            if let Some(collecting) = &census.collecting {
                page.collecting(collecting)?;
            }
        }
        Ok(())
    }
}

struct Page<'a>(DescriptorEncoder<'a>);

impl Page<'_> {
    fn ingest(&mut self, ingest: &IngestStatus) -> fmt::Result {
        let counts = &ingest.counts;
        self.counters("requests", "Requests acknowledged", "signal", &counts.requests)?;
        self.counters("acknowledged_records", "Records acknowledged", "signal", &counts.records)?;
        self.counters("written_records", "Records committed", "signal", &counts.written_records)?;
        let refused =
            BTreeMap::from([("malformed", counts.malformed_requests), ("unavailable", counts.unavailable_requests)]);
        self.counters("refused_requests", "Requests refused whole", "reason", &refused)?;
        let dropped = BTreeMap::from([
            ("rejected", counts.rejected_records.saturating_sub(counts.switched_off_records)),
            ("switched_off", counts.switched_off_records),
            ("memory_full", counts.dropped_records),
        ]);
        self.counters("dropped_records", "Records that are not stored", "reason", &dropped)?;
        self.counter("duplicate_requests", "Requests that were stored before", counts.duplicate_requests)?;
        self.counter("own_requests", "Acknowledged requests with spans of the server itself", counts.own_requests)?;
        self.counters("buried_records", "Records that became dead letters", "class", &counts.dead_letters)?;
        self.counter("write_retries", "Transactions tried again", counts.write_retries)?;
        self.counter("failed_batches", "Batches whose retries were used up", counts.failed_batches)?;
        self.gauge("queued_requests", "Requests in memory that wait for a writer", ingest.waiting_requests as f64)?;
        self.gauge("queued_rows", "Rows in memory that wait for a writer", ingest.waiting_rows as f64)?;
        self.gauge("accepting", "Whether requests are acknowledged", f64::from(u8::from(ingest.refusing.is_none())))?;
        self.latency(&counts.write_latency)
    }

    fn latency(&mut self, latencies: &Latencies) -> fmt::Result {
        let mut below = 0;
        let mut buckets = Vec::new();
        for (bound, at_most) in latencies.at_most.iter().copied().chain([(f64::MAX, latencies.count)]) {
            buckets.push((bound, at_most - below));
            below = at_most;
        }
        let help = "Time from the first statement of a write transaction to its commit";
        let mut encoder =
            self.0.encode_descriptor("write_duration", help, Some(&Unit::Seconds), MetricType::Histogram)?;
        encoder.encode_histogram::<NoLabelSet>(latencies.sum_seconds, latencies.count, &buckets, None)
    }

    fn spool(&mut self, ingest: &IngestStatus) -> fmt::Result {
        let Some(spool) = &ingest.spool else { return Ok(()) };
        let lanes = || spool.lanes.iter().map(|lane| (lane.name.as_str(), lane));
        let entries = lanes().map(|(name, lane)| (name, lane.entries as f64)).collect();
        self.gauges("spool_entries", "Requests in the spool", "signal", &entries)?;
        let age = |oldest: SystemTime| oldest.elapsed().unwrap_or_default().as_secs_f64();
        let ages = lanes().map(|(name, lane)| (name, lane.oldest.map_or(0.0, age))).collect();
        self.gauges("spool_oldest_age_seconds", "Age of the oldest request in the spool", "signal", &ages)?;
        self.gauge("spool_bytes", "Bytes of the spool's files", spool.bytes as f64)?;
        self.gauge("spool_max_bytes", "The bound on them", spool.max_bytes as f64)?;
        self.gauge("spool_quarantine_bytes", "Bytes that could not be read", spool.quarantine_bytes as f64)?;
        let counters = &spool.counters;
        self.counter("spool_appended_requests", "Requests made durable", counters.appended)?;
        self.counter("spool_fsyncs", "Times a segment was made durable", counters.fsyncs)?;
        self.counter("spool_refused_requests", "Requests refused because the spool was full", counters.refused_full)?;
        self.counter("spool_failed_requests", "Requests whose writing to the spool failed", counters.failed)?;
        self.counter("spool_damaged_entries", "Entries or stretches found damaged", counters.damaged)?;
        self.counter("spool_torn_bytes", "Bytes that a crash left incomplete", counters.torn_bytes)
    }

    fn breaker(&mut self, ingest: &IngestStatus) -> fmt::Result {
        let is_in = |state| f64::from(u8::from(ingest.breaker.state == state));
        let states = [BreakerState::Closed, BreakerState::Open, BreakerState::HalfOpen];
        let states = states.map(|state| (state.as_str(), is_in(state)));
        self.gauges("circuit_breaker_state", "1 for the state it is in", "state", &BTreeMap::from(states))?;
        let unix = |time: SystemTime| time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        let since = unix(ingest.breaker.since);
        self.gauge("circuit_breaker_since_timestamp_seconds", "Since when it is in this state", since)?;
        if let Some(until) = ingest.breaker.until {
            self.gauge(
                "circuit_breaker_until_timestamp_seconds",
                "When an open one lets a probe through",
                unix(until),
            )?;
        }
        self.counter("circuit_breaker_opened", "How often it opened", ingest.breaker.opened)
    }

    fn forward(&mut self, forward: &ForwardStatus) -> fmt::Result {
        for (name, help, count) in FORWARD_COUNTERS {
            let by_signal = forward.lanes.iter().map(|lane| (lane.signal.as_str(), count(&lane.counts)));
            self.counters(name, help, "signal", &by_signal.collect())?;
        }
        let closed = |lane: &ForwardLane| f64::from(u8::from(lane.breaker.state == BreakerState::Closed));
        let closed = forward.lanes.iter().map(|lane| (lane.signal.as_str(), closed(lane))).collect();
        self.gauges("forward_reachable", "Whether the breaker before the other endpoint is closed", "signal", &closed)?;
        let spool = &forward.spool;
        let entries = spool.lanes.iter().map(|lane| (&*lane.name, lane.entries as f64)).collect();
        self.gauges("forward_spool_entries", "Requests that wait to be passed on", "signal", &entries)?;
        self.gauge("forward_spool_bytes", "Bytes of their files", spool.bytes as f64)?;
        self.gauge("forward_quarantine_bytes", "Bytes of refused requests", spool.quarantine_bytes as f64)
    }

    fn collecting(&mut self, collecting: &Collecting) -> fmt::Result {
        let collected =
            collecting.collected.iter().map(|(table, rows)| (table.as_str(), rows.unsigned_abs())).collect();
        self.counters("collected_rows", "Rows deleted that nothing referred to any more", "table", &collected)?;
        if let Some(at) = collecting.looked_at {
            let help = "When such rows were last looked for";
            self.gauge("collection_last_run_timestamp_seconds", help, at.as_duration().as_secs_f64())?;
        }
        self.gauge(
            "collection_waits",
            "What that run waited for, such as an index",
            collecting.waits_for.len() as f64,
        )?;
        let is_held_back = f64::from(u8::from(collecting.held_back.is_some()));
        self.gauge("collection_held_back", "Whether that run could not tell what is in use", is_held_back)
    }

    fn question_vectors(&mut self, vectors: &QuestionVectorCounts) -> fmt::Result {
        let outcomes = BTreeMap::from([("hit", vectors.hits), ("miss", vectors.misses)]);
        self.counters("question_vectors", "Questions in words whose vector was kept", "outcome", &outcomes)?;
        self.gauge("question_vector_entries", "Vectors of questions that are kept", vectors.entries as f64)
    }

    fn cache(&mut self, cache: &CacheCounts) -> fmt::Result {
        let outcomes = BTreeMap::from([("hit", cache.hits), ("miss", cache.misses), ("bypassed", cache.bypassed)]);
        self.counters(
            "query_cache_requests",
            "Questions that the cache of answers could answer",
            "outcome",
            &outcomes,
        )?;
        self.gauge("query_cache_entries", "Answers in the cache", cache.entries as f64)?;
        self.gauge("query_cache_bytes", "Size of the answers in the cache, as JSON", cache.bytes as f64)
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        let counter = ConstCounter::new(value);
        counter.encode(self.0.encode_descriptor(name, help, None, counter.metric_type())?)
    }

    fn gauge(&mut self, name: &str, help: &str, value: f64) -> fmt::Result {
        let gauge = ConstGauge::new(value);
        gauge.encode(self.0.encode_descriptor(name, help, None, gauge.metric_type())?)
    }

    fn counters(&mut self, name: &str, help: &str, label: &str, values: &BTreeMap<&str, u64>) -> fmt::Result {
        let mut encoder = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (value, count) in values {
            ConstCounter::new(*count).encode(encoder.encode_family(&[(label, *value)])?)?;
        }
        Ok(())
    }

    fn gauges(&mut self, name: &str, help: &str, label: &str, values: &BTreeMap<&str, f64>) -> fmt::Result {
        let mut encoder = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (value, level) in values {
            ConstGauge::new(*level).encode(encoder.encode_family(&[(label, *value)])?)?;
        }
        Ok(())
    }
}
