//! A request's bytes to the rows of a batch: decoded, checked, hashed and encoded.
//!
//! All of it is pure: the same bytes make the same rows, with the database or without, now or after a restart. What only
//! the database knows, the ids of resources, scopes and series, is filled in when the rows are written.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use opentelemetry_proto::tonic::logs::v1::LogRecord;
use opentelemetry_proto::tonic::metrics::v1::Metric;
use opentelemetry_proto::tonic::trace::v1::Span;

use super::check::Limits;
use super::examine::{Verdict, Visitor, walk};
use super::{Request, template};
use crate::otlp::canonical::{Canonical, Hash128};
use crate::otlp::point::{self, MetricDescriptor, Point};
use crate::otlp::record::Record;
use crate::otlp::view::SpanView;
use crate::otlp::{self, Encoding, Group, ResourceEnvelope, ScopeEnvelope, Signal, protobuf};
use crate::store::rows::metric::StreamRef;
use crate::store::rows::{self, INDEXED_TEXT_BYTES, Scratch};
use crate::store::{Batch, Micros, Owner, References, Rows, Series, Touch, prefix, service_name};

/// From this severity on a log record tells about its trace: WARN.
const TELLING_SEVERITY: i32 = 13;

const MICROS_PER_HOUR: i64 = 3_600_000_000;

/// A request that is ready to be written.
#[derive(Debug)]
pub(super) struct Prepared {
    pub(super) verdict: Verdict,
    pub(super) batch: Batch,
}

/// Prepares a request. Takes long for a large one.
///
/// # Errors
/// Says what is wrong when nothing of the request can be read.
pub(super) fn prepare(request: &Request, limits: &Limits) -> Result<Prepared, String> {
    let mut preparation = Preparation::new(request.signal);
    let verdict = walk(request, limits, &mut preparation)?;
    Ok(Prepared { verdict, batch: preparation.finish(request) })
}

/// [`prepare`] for a request of traces, without reading its spans in place.
#[cfg(any(test, fuzzing))]
pub(super) fn prepare_from_messages(request: &Request, limits: &Limits) -> Result<Prepared, String> {
    let mut preparation = Preparation::new(request.signal);
    let verdict = super::examine::walk_messages(request, limits, &mut preparation)?;
    Ok(Prepared { verdict, batch: preparation.finish(request) })
}

/// Records of a request by their numbers, each as a request of its own. Decoding is deterministic, so the number that a row
/// was given when it was prepared still names the same record.
pub(super) fn dead_letters(request: &Request, records: &[u32]) -> Vec<Vec<u8>> {
    match request.signal {
        Signal::Traces => singles::<Span>(request, records),
        Signal::Logs => singles::<LogRecord>(request, records),
        Signal::Metrics => single_points(request, records),
    }
}

/// A request as protobuf, whatever it came as.
pub(crate) fn as_protobuf(request: &Request) -> Vec<u8> {
    fn convert<R: Record>(request: &Request) -> Vec<u8> {
        match otlp::decode::<R>(request.encoding, &request.body) {
            Ok(decoded) => protobuf::encode(&decoded.groups),
            Err(_) => request.body.to_vec(),
        }
    }
    match (request.encoding, request.signal) {
        (Encoding::Protobuf, _) => request.body.to_vec(),
        (Encoding::Json, Signal::Traces) => convert::<Span>(request),
        (Encoding::Json, Signal::Logs) => convert::<LogRecord>(request),
        (Encoding::Json, Signal::Metrics) => convert::<Metric>(request),
    }
}

fn singles<R: Record>(request: &Request, records: &[u32]) -> Vec<Vec<u8>> {
    let Ok(decoded) = otlp::decode::<R>(request.encoding, &request.body) else { return whole(request, records) };
    let single = |wanted: u32| {
        let mut index = wanted as usize;
        for group in &decoded.groups {
            if let Some(record) = group.records.get(index) {
                return Some(protobuf::encode(&[group.with(vec![record.clone()])]));
            }
            index -= group.records.len();
        }
        None
    };
    records.iter().map(|record| single(*record).unwrap_or_else(|| request.body.to_vec())).collect()
}

fn single_points(request: &Request, records: &[u32]) -> Vec<Vec<u8>> {
    let Ok(decoded) = otlp::decode::<Metric>(request.encoding, &request.body) else { return whole(request, records) };
    let split = |group: &Group<Metric>| -> Vec<_> { group.records.iter().cloned().filter_map(point::split).collect() };
    let metrics: Vec<_> = decoded.groups.iter().map(|group| (group, split(group))).collect();
    let single = |wanted: u32| {
        let mut index = wanted as usize;
        for (group, metrics) in &metrics {
            for (descriptor, points) in metrics {
                if let Some(point) = points.only(index) {
                    let metric = point::join(descriptor.clone(), point).ok()?;
                    return Some(protobuf::encode(&[group.with(vec![metric])]));
                }
                index -= points.len();
            }
        }
        None
    };
    records.iter().map(|record| single(*record).unwrap_or_else(|| request.body.to_vec())).collect()
}

/// Data points of a request by their numbers, which ascend, in one request.
pub(super) fn points_together(request: &Request, numbers: &[u32]) -> Vec<u8> {
    let Ok(decoded) = otlp::decode::<Metric>(request.encoding, &request.body) else { return request.body.to_vec() };
    let mut wanted = numbers.iter().copied().peekable();
    let mut number = 0;
    let mut pick = |metric: Metric| {
        let (descriptor, mut points) = point::split(metric)?;
        points.retain(|| {
            let is_wanted = wanted.next_if_eq(&number).is_some();
            number += 1;
            is_wanted
        });
        if points.is_empty() { None } else { point::join(descriptor, points).ok() }
    };
    let mut groups = decoded.groups;
    for group in &mut groups {
        group.records = std::mem::take(&mut group.records).into_iter().filter_map(&mut pick).collect();
    }
    groups.retain(|group| !group.records.is_empty());
    if wanted.peek().is_some() {
        // Nobody expects that. Rather too many, of which each is stored once, than too few.
        return as_protobuf(request);
    }
    protobuf::encode(&groups)
}

/// For bytes that were decoded before and are not now, which nobody expects.
fn whole(request: &Request, records: &[u32]) -> Vec<Vec<u8>> {
    vec![request.body.to_vec(); records.len()]
}

/// Makes rows of what is accepted.
struct Preparation {
    signal: Signal,
    canonical: Canonical,
    scratch: Scratch,
    rows: Rows,
    /// For each row the number of its record.
    records: Vec<u32>,
    hours: HashSet<i64>,
    last_hour: Option<i64>,
    touches: HashMap<[u8; 16], Touch>,
    /// The trace of the last records, not yet among `touches`: those of a trace often come together.
    touched: Option<([u8; 16], Touch)>,
    references: References,
    /// Records that have an identity, by it.
    seen: HashSet<Hash128>,
    /// Numbers of the streams of points among the owners.
    streams: HashMap<Hash128, u32>,
    /// The metric whose points come.
    metric: Option<Hash128>,
    /// Of the template of the last log record.
    text: String,
}

/// Resource and scope of a group of records.
struct GroupOwner {
    resource: Hash128,
    scope: Hash128,
    /// Number of the pair among the batch's owners.
    number: u32,
    service_name: String,
}

impl GroupOwner {
    fn of_row(&self) -> rows::Owner<'_> {
        rows::Owner { number: self.number, service_name: prefix(&self.service_name, INDEXED_TEXT_BYTES) }
    }
}

impl Preparation {
    fn new(signal: Signal) -> Self {
        Self {
            signal,
            canonical: Canonical::new(),
            scratch: Scratch::default(),
            rows: Rows::default(),
            records: Vec::new(),
            hours: HashSet::new(),
            last_hour: None,
            touches: HashMap::new(),
            touched: None,
            references: References::default(),
            seen: HashSet::new(),
            streams: HashMap::new(),
            metric: None,
            text: String::new(),
        }
    }

    fn touch(&mut self, trace_id: [u8; 16], time: Micros, has_root: bool) {
        let touch = Touch { first: time, last: time, records: 1, has_root };
        match &mut self.touched {
            Some((last, known)) if *last == trace_id => known.merge(touch),
            touched => {
                let before = touched.replace((trace_id, touch));
                self.keep_touch(before);
            }
        }
    }

    fn keep_touch(&mut self, touched: Option<([u8; 16], Touch)>) {
        if let Some((trace_id, touch)) = touched {
            self.touches.entry(trace_id).and_modify(|known| known.merge(touch)).or_insert(touch);
        }
    }

    fn row(&mut self, record: u32, time: Micros) {
        self.records.push(record);
        let hour = time.0.div_euclid(MICROS_PER_HOUR);
        if self.last_hour.replace(hour) != Some(hour) {
            self.hours.insert(hour);
        }
    }

    fn finish(mut self, request: &Request) -> Batch {
        let touched = self.touched.take();
        self.keep_touch(touched);
        self.rows.shrink();
        let times = self.hours.into_iter().map(|hour| Micros(hour * MICROS_PER_HOUR)).collect();
        Batch {
            request_hash: hash_request(request),
            signal: self.signal,
            rows: self.rows,
            records: self.records,
            times,
            touches: self.touches,
            references: self.references,
        }
    }
}

impl Visitor for Preparation {
    type Owner = GroupOwner;

    fn owner(&mut self, resource: Arc<ResourceEnvelope>, scope: Arc<ScopeEnvelope>) -> GroupOwner {
        let service_name = service_name(&resource);
        let (resource_hash, scope_hash) = (self.canonical.resource(&resource), self.canonical.scope(&scope));
        self.references.resources.insert(resource_hash, resource);
        self.references.scopes.insert(scope_hash, scope);
        let number = match self.signal {
            Signal::Metrics => 0, // points belong to series
            _ => self.references.add_owner(Owner::Scoped { resource: resource_hash, scope: scope_hash }),
        };
        GroupOwner { resource: resource_hash, scope: scope_hash, number, service_name }
    }

    fn span(&mut self, owner: &GroupOwner, number: u32, span: &SpanView<'_>) {
        let hash = self.canonical.span_view(owner.resource, owner.scope, span);
        if !self.seen.insert(hash) {
            return; // the same span twice is one span
        }
        let time = Micros::from_unix_nanos(span.start_time_unix_nano).0;
        let trace_id = span.trace_id.try_into().unwrap_or_default();
        let has_root = span.parent_span_id.iter().all(|byte| *byte == 0);
        self.touch(trace_id, time, has_root);
        self.row(number, time);
        rows::span::encode(&mut self.rows, &mut self.scratch, owner.of_row(), hash.low64(), span);
    }

    fn log(&mut self, owner: &GroupOwner, number: u32, log: &LogRecord) {
        let time = Micros::from_unix_nanos(rows::log::effective_time(log)).0;
        if let Some(trace_id) = rows::log::valid_trace_id(log).filter(|_| is_telling(log)) {
            self.touch(trace_id, time, false);
        }
        self.row(number, time);
        let (template_id, severity) = template::template(log, owner.of_row().service_name, &mut self.text);
        let row = || template::row(owner.of_row().service_name, severity, &self.text);
        self.references.templates.entry(template_id).or_insert_with(row);
        rows::log::encode(&mut self.rows, &mut self.scratch, owner.of_row(), template_id, log);
    }

    fn metric(&mut self, descriptor: &MetricDescriptor) {
        self.metric = Some(self.canonical.metric(descriptor));
    }

    fn point(&mut self, owner: &GroupOwner, number: u32, descriptor: &MetricDescriptor, point: Point<'_>) {
        let metric = self.metric.unwrap_or_else(|| self.canonical.metric(descriptor));
        let series = self.canonical.series(owner.resource, owner.scope, metric, point.attributes());
        let hash = self.canonical.point(series, point);
        if !self.seen.insert(hash) {
            return; // the same point twice is one point
        }
        let bounds = explicit_bounds(point);
        let stream = rows::metric::stream_hash(series, bounds);
        let references = &mut self.references;
        let stream_number = *self.streams.entry(stream).or_insert_with(|| {
            let row = rows::metric::SeriesRow::new(descriptor, point.attributes(), bounds);
            let (resource, scope) = (owner.resource, owner.scope);
            let series = Series { resource, scope, service_name: owner.service_name.clone(), row };
            references.series.insert(stream, series);
            references.add_owner(Owner::Series(stream))
        });
        self.row(number, Micros::from_unix_nanos(point.time_unix_nano()).0);
        let stream = StreamRef { hash: stream, number: stream_number };
        rows::metric::encode(&mut self.rows, &mut self.scratch, stream, hash.low64(), point);
    }
}

/// Identifies a request: its signal and its bytes.
fn hash_request(request: &Request) -> Hash128 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(request.signal.as_str().as_bytes());
    hasher.update(&[0]);
    hasher.update(&request.body);
    let mut hash = [0; 16];
    hasher.finalize_xof().fill(&mut hash);
    Hash128(hash)
}

fn explicit_bounds(point: Point<'_>) -> &[f64] {
    match point {
        Point::Histogram(point) => &point.explicit_bounds,
        _ => &[],
    }
}

/// Whether a log record says that something went wrong: the same that derivation reads of a trace's logs.
fn is_telling(log: &LogRecord) -> bool {
    log.severity_number >= TELLING_SEVERITY
        || log.event_name == "exception"
        || log
            .attributes
            .iter()
            .any(|attribute| matches!(attribute.key.as_str(), "exception.type" | "exception.message"))
}
