//! A request's bytes to the rows of a batch: decoded, checked, hashed and encoded.
//!
//! All of it is pure: the same bytes make the same rows, with the database or without, now or after a restart. What only
//! the database knows, the ids of resources, scopes and series, is filled in when the rows are written.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use opentelemetry_proto::tonic::logs::v1::LogRecord;
use opentelemetry_proto::tonic::metrics::v1::Metric;
use opentelemetry_proto::tonic::trace::v1::Span;

use super::Request;
use super::check::Limits;
use super::report::Rejections;
use super::template;
use crate::otlp::canonical::{Canonical, Hash128};
use crate::otlp::point::{self, MetricDescriptor, Point, Points};
use crate::otlp::record::Record;
use crate::otlp::{self, Encoding, Group, Malformed, ResourceEnvelope, ScopeEnvelope, Signal, protobuf};
use crate::store::rows::metric::StreamRef;
use crate::store::rows::{self, INDEXED_TEXT_BYTES, Scratch};
use crate::store::{Batch, Micros, Owner, References, Rows, Series, Touch, prefix, service_name};

/// From this severity on a log record tells about its trace: WARN.
const TELLING_SEVERITY: i32 = 13;

const MICROS_PER_HOUR: i64 = 3_600_000_000;

/// A request that is ready to be written.
#[derive(Debug)]
pub(super) struct Prepared {
    pub(super) batch: Batch,
    pub(super) rejections: Rejections,
    /// Records that are to be stored. A record that stands twice in the request counts twice.
    pub(super) records: u64,
}

/// Prepares a request. Takes long for a large one.
///
/// # Errors
/// Says what is wrong when nothing of the request can be read.
pub(super) fn prepare(request: &Request, limits: &Limits) -> Result<Prepared, String> {
    let preparation = Preparation::new(request, limits);
    match request.signal {
        Signal::Traces => preparation.spans(),
        Signal::Metrics => preparation.points(),
        Signal::Logs => preparation.logs(),
    }
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

/// For bytes that were decoded before and are not now, which nobody expects.
fn whole(request: &Request, records: &[u32]) -> Vec<Vec<u8>> {
    vec![request.body.to_vec(); records.len()]
}

struct Preparation<'a> {
    request: &'a Request,
    limits: &'a Limits,
    canonical: Canonical,
    rejections: Rejections,
    rows: Rows,
    /// For each row the number of its record.
    records: Vec<u32>,
    accepted: u64,
    hours: HashSet<i64>,
    touches: HashMap<[u8; 16], Touch>,
    references: References,
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

impl<'a> Preparation<'a> {
    fn new(request: &'a Request, limits: &'a Limits) -> Self {
        Self {
            request,
            limits,
            canonical: Canonical::new(),
            rejections: Rejections::default(),
            rows: Rows::default(),
            records: Vec::new(),
            accepted: 0,
            hours: HashSet::new(),
            touches: HashMap::new(),
            references: References::default(),
        }
    }

    fn spans(mut self) -> Result<Prepared, String> {
        let mut scratch = Scratch::default();
        let mut seen = HashSet::new();
        let mut number = 0;
        for (index, group) in self.decode::<Span>()?.into_iter().enumerate() {
            let Some(owner) = self.owner(index, group.resource, group.scope, group.records.len() as u64) else {
                number += group.records.len() as u32;
                continue;
            };
            for span in &group.records {
                let record = number;
                number += 1;
                if let Err(reason) = self.limits.check_span(span) {
                    self.rejections.add(&format!("spans[{record}]"), &reason, 1);
                    continue;
                }
                self.accepted += 1;
                let hash = self.canonical.span(owner.resource, owner.scope, span);
                if !seen.insert(hash) {
                    continue; // the same span twice is one span
                }
                let time = Micros::from_unix_nanos(span.start_time_unix_nano).0;
                let trace_id = span.trace_id.as_slice().try_into().unwrap_or_default();
                let has_root = span.parent_span_id.iter().all(|byte| *byte == 0);
                self.touch(trace_id, time, has_root);
                self.row(record, time);
                rows::span::encode(&mut self.rows, &mut scratch, owner.of_row(), hash.low64(), span);
            }
        }
        Ok(self.finish())
    }

    fn logs(mut self) -> Result<Prepared, String> {
        let mut scratch = Scratch::default();
        let mut text = String::new();
        let mut number = 0;
        for (index, group) in self.decode::<LogRecord>()?.into_iter().enumerate() {
            let Some(owner) = self.owner(index, group.resource, group.scope, group.records.len() as u64) else {
                number += group.records.len() as u32;
                continue;
            };
            for log in &group.records {
                let record = number;
                number += 1;
                if let Err(reason) = self.limits.check(log, &log.attributes) {
                    self.rejections.add(&format!("logRecords[{record}]"), &reason, 1);
                    continue;
                }
                self.accepted += 1;
                let time = Micros::from_unix_nanos(rows::log::effective_time(log)).0;
                if let Some(trace_id) = rows::log::valid_trace_id(log).filter(|_| is_telling(log)) {
                    self.touch(trace_id, time, false);
                }
                self.row(record, time);
                let (template_id, severity) = template::template(log, owner.of_row().service_name, &mut text);
                let row = || template::row(owner.of_row().service_name, severity, &text);
                self.references.templates.entry(template_id).or_insert_with(row);
                rows::log::encode(&mut self.rows, &mut scratch, owner.of_row(), template_id, log);
            }
        }
        Ok(self.finish())
    }

    fn points(mut self) -> Result<Prepared, String> {
        let mut scratch = Scratch::default();
        let mut seen = HashSet::new();
        let mut streams: HashMap<Hash128, u32> = HashMap::new();
        let mut number = 0;
        for (index, group) in self.decode::<Metric>()?.into_iter().enumerate() {
            let metrics: Vec<(MetricDescriptor, Points)> = group.records.into_iter().filter_map(point::split).collect();
            let points = metrics.iter().map(|(_, points)| points.len()).sum::<usize>();
            let Some(owner) = self.owner(index, group.resource, group.scope, points as u64) else {
                number += points as u32;
                continue;
            };
            for (descriptor, points) in &metrics {
                let metric = self.canonical.metric(descriptor);
                for point in points.iter() {
                    let record = number;
                    number += 1;
                    if let Err(reason) = check_point(self.limits, point) {
                        self.rejections.add(&format!("dataPoints[{record}] of {}", descriptor.name), &reason, 1);
                        continue;
                    }
                    self.accepted += 1;
                    let series = self.canonical.series(owner.resource, owner.scope, metric, point.attributes());
                    let hash = self.canonical.point(series, point);
                    if !seen.insert(hash) {
                        continue; // the same point twice is one point
                    }
                    let bounds = explicit_bounds(point);
                    let stream = rows::metric::stream_hash(series, bounds);
                    let number = *streams.entry(stream).or_insert_with(|| {
                        let row = rows::metric::SeriesRow::new(descriptor, point.attributes(), bounds);
                        let (resource, scope) = (owner.resource, owner.scope);
                        let series = Series { resource, scope, service_name: owner.service_name.clone(), row };
                        self.references.series.insert(stream, series);
                        self.references.add_owner(Owner::Series(stream))
                    });
                    self.row(record, Micros::from_unix_nanos(point.time_unix_nano()).0);
                    let stream = StreamRef { hash: stream, number };
                    rows::metric::encode(&mut self.rows, &mut scratch, stream, hash.low64(), point);
                }
            }
        }
        Ok(self.finish())
    }

    /// Decodes the request. Records that cannot be read are rejections, unless nothing can be read at all.
    fn decode<R: Record>(&mut self) -> Result<Vec<Group<R>>, String> {
        let decoded = otlp::decode::<R>(self.request.encoding, &self.request.body)
            .map_err(|malformed: Malformed| malformed.to_string())?;
        self.rejections.add_undecodable(&decoded.undecodable);
        if decoded.groups.is_empty() && !decoded.undecodable.is_empty() {
            return Err(self.rejections.text());
        }
        Ok(decoded.groups)
    }

    /// Takes resource and scope of a group in. None where they are beyond the limits: its records are rejected.
    fn owner(
        &mut self,
        index: usize,
        resource: Arc<ResourceEnvelope>,
        scope: Arc<ScopeEnvelope>,
        records: u64,
    ) -> Option<GroupOwner> {
        if let Err(reason) = check_owners(self.limits, &resource, &scope) {
            self.rejections.add(&format!("group {index}"), &reason, records);
            return None;
        }
        let service_name = service_name(&resource);
        let (resource_hash, scope_hash) = (self.canonical.resource(&resource), self.canonical.scope(&scope));
        self.references.resources.insert(resource_hash, resource);
        self.references.scopes.insert(scope_hash, scope);
        let number = match self.request.signal {
            Signal::Metrics => 0, // points belong to series
            _ => self.references.add_owner(Owner::Scoped { resource: resource_hash, scope: scope_hash }),
        };
        Some(GroupOwner { resource: resource_hash, scope: scope_hash, number, service_name })
    }

    fn touch(&mut self, trace_id: [u8; 16], time: Micros, has_root: bool) {
        let touch = Touch { first: time, last: time, records: 1, has_root };
        self.touches.entry(trace_id).and_modify(|known| known.merge(touch)).or_insert(touch);
    }

    fn row(&mut self, record: u32, time: Micros) {
        self.records.push(record);
        self.hours.insert(time.0.div_euclid(MICROS_PER_HOUR));
    }

    fn finish(mut self) -> Prepared {
        self.rows.shrink();
        let times = self.hours.into_iter().map(|hour| Micros(hour * MICROS_PER_HOUR)).collect();
        Prepared {
            batch: Batch {
                request_hash: hash_request(self.request),
                signal: self.request.signal,
                rows: self.rows,
                records: self.records,
                times,
                touches: self.touches,
                references: self.references,
            },
            rejections: self.rejections,
            records: self.accepted,
        }
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

fn check_owners(limits: &Limits, resource: &ResourceEnvelope, scope: &ScopeEnvelope) -> Result<(), String> {
    if let Some(resource) = &resource.resource {
        limits.check(resource, &resource.attributes).map_err(|reason| format!("resource: {reason}"))?;
    }
    if let Some(scope) = &scope.scope {
        limits.check(scope, &scope.attributes).map_err(|reason| format!("scope: {reason}"))?;
    }
    Ok(())
}

fn check_point(limits: &Limits, point: Point<'_>) -> Result<(), String> {
    match point {
        Point::Number(point) => limits.check(point, &point.attributes),
        Point::Histogram(point) => limits.check(point, &point.attributes),
        Point::ExponentialHistogram(point) => limits.check(point, &point.attributes),
        Point::Summary(point) => limits.check(point, &point.attributes),
    }?;
    point.exemplars().iter().try_for_each(|exemplar| limits.check_attributes(&exemplar.filtered_attributes))
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
