//! A request's bytes to the rows of a batch.
//!
//! Decoding, checking, hashing and encoding are pure and run on a blocking thread; between them the ids of resources,
//! scopes and series are looked up, which touches the database only for those that are new.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use opentelemetry_proto::tonic::logs::v1::LogRecord;
use opentelemetry_proto::tonic::metrics::v1::Metric;
use opentelemetry_proto::tonic::trace::v1::Span;

use super::check::Limits;
use super::report::Rejections;
use super::writer::refusal;
use super::{Refused, Request, stopping};
use crate::otlp::canonical::{Canonical, Hash128};
use crate::otlp::point::{self, MetricDescriptor, Point, Points};
use crate::otlp::record::Record;
use crate::otlp::{self, Group, Malformed, ResourceEnvelope, ScopeEnvelope, Signal, protobuf};
use crate::store::rows::{self, INDEXED_TEXT_BYTES, Owner, Scratch};
use crate::store::{Batch, Micros, References, Rows, Series, Store, StoreError, Touch, prefix, service_name};

/// From this severity on a log record tells about its trace: WARN.
const TELLING_SEVERITY: i32 = 13;

const MICROS_PER_HOUR: i64 = 3_600_000_000;

/// A request that is ready to be written.
#[derive(Debug)]
pub(super) struct Prepared {
    pub(super) batch: Batch,
    /// Kept for the case that the database refuses a record of it.
    pub(super) request: Request,
    pub(super) rejections: Rejections,
    records: u64,
}

impl Prepared {
    /// Records that are to be stored. A record that stands twice in the request counts twice.
    pub(super) fn record_count(&self) -> u64 {
        self.records
    }
}

/// Prepares a request.
pub(super) async fn prepare(store: Arc<Store>, request: Request, limits: Limits) -> Result<Prepared, Refused> {
    let runtime = tokio::runtime::Handle::current();
    // One blocking thread from the first byte to the last row: it waits for the database only when something is new.
    let task = move || match request.signal {
        Signal::Traces => Preparation::new(request, limits).spans(&store, &runtime),
        Signal::Metrics => Preparation::new(request, limits).points(&store, &runtime),
        Signal::Logs => Preparation::new(request, limits).logs(&store, &runtime),
    };
    tokio::task::spawn_blocking(task).await.unwrap_or_else(|error| {
        if error.is_cancelled() {
            return Err(stopping());
        }
        // A defect of ours, and the same bytes would meet it again: the sender must not repeat them for ever.
        tracing::error!(%error, "a request could not be prepared");
        Err(Refused::Malformed { reason: "an internal error while the request was read; it is logged".to_owned() })
    })
}

/// The record of a request by its number, as a request of its own. Decoding is deterministic, so the number that a row
/// was given when it was prepared still names the same record.
pub(super) fn dead_letter(request: &Request, record: u32) -> Vec<u8> {
    match request.signal {
        Signal::Traces => single::<Span>(request, record),
        Signal::Logs => single::<LogRecord>(request, record),
        Signal::Metrics => single_point(request, record),
    }
}

fn single<R: Record>(request: &Request, record: u32) -> Vec<u8> {
    let Ok(decoded) = otlp::decode::<R>(request.encoding, &request.body) else { return request.body.to_vec() };
    let mut before = 0;
    for group in decoded.groups {
        let index = record as usize - before;
        if let Some(record) = group.records.get(index) {
            return protobuf::encode(&[Group { records: vec![record.clone()], ..group }]);
        }
        before += group.records.len();
    }
    request.body.to_vec()
}

fn single_point(request: &Request, record: u32) -> Vec<u8> {
    let Ok(decoded) = otlp::decode::<Metric>(request.encoding, &request.body) else { return request.body.to_vec() };
    let mut before = 0;
    for group in decoded.groups {
        for metric in &group.records {
            let Some((descriptor, points)) = point::split(metric.clone()) else { continue };
            let index = record as usize - before;
            if let Some(points) = points.only(index)
                && let Ok(metric) = point::join(descriptor, points)
            {
                return protobuf::encode(&[Group { records: vec![metric], ..group }]);
            }
            before += points.len();
        }
    }
    request.body.to_vec()
}

struct Preparation {
    request: Request,
    request_hash: Hash128,
    limits: Limits,
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

/// Resources and scopes of a request with their hashes.
#[derive(Default)]
struct Owners<'a> {
    resources: HashMap<Hash128, &'a ResourceEnvelope>,
    scopes: HashMap<Hash128, &'a ScopeEnvelope>,
    /// Per group of the request; none where resource or scope are beyond the limits.
    of_group: Vec<Option<(Hash128, Hash128)>>,
}

/// The ids of [`Owners`].
struct OwnerIds {
    resources: HashMap<Hash128, i64>,
    scopes: HashMap<Hash128, i32>,
}

impl Preparation {
    fn new(request: Request, limits: Limits) -> Self {
        Self {
            request_hash: hash_request(&request),
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

    fn spans(mut self, store: &Store, runtime: &tokio::runtime::Handle) -> Result<Prepared, Refused> {
        let groups = self.decode::<Span>()?;
        let owners = self.owners(&groups, |index| groups[index].records.len() as u64);
        let ids = owners.ids(store, runtime)?;
        self.refer(&ids);
        let mut scratch = Scratch::default();
        let mut seen = HashSet::new();
        let mut number = 0;
        for (group, owner) in groups.iter().zip(&owners.of_group) {
            let Some((resource, scope)) = owner else {
                number += group.records.len() as u32;
                continue;
            };
            let service_name = service_name(&group.resource);
            let owner = ids.owner(*resource, *scope, prefix(&service_name, INDEXED_TEXT_BYTES));
            for span in &group.records {
                let record = number;
                number += 1;
                if let Err(reason) = self.limits.check_span(span) {
                    self.rejections.add(&format!("spans[{record}]"), &reason, 1);
                    continue;
                }
                self.accepted += 1;
                let hash = self.canonical.span(*resource, *scope, span);
                if !seen.insert(hash) {
                    continue; // the same span twice is one span
                }
                let time = Micros::from_unix_nanos(span.start_time_unix_nano).0;
                let trace_id = span.trace_id.as_slice().try_into().unwrap_or_default();
                let has_root = span.parent_span_id.iter().all(|byte| *byte == 0);
                self.touch(trace_id, time, has_root);
                self.row(record, time);
                rows::span::encode(&mut self.rows, &mut scratch, owner, hash.low64(), span);
            }
        }
        Ok(self.finish())
    }

    fn logs(mut self, store: &Store, runtime: &tokio::runtime::Handle) -> Result<Prepared, Refused> {
        let groups = self.decode::<LogRecord>()?;
        let owners = self.owners(&groups, |index| groups[index].records.len() as u64);
        let ids = owners.ids(store, runtime)?;
        self.refer(&ids);
        let mut scratch = Scratch::default();
        let mut number = 0;
        for (group, owner) in groups.iter().zip(&owners.of_group) {
            let Some((resource, scope)) = owner else {
                number += group.records.len() as u32;
                continue;
            };
            let service_name = service_name(&group.resource);
            let owner = ids.owner(*resource, *scope, prefix(&service_name, INDEXED_TEXT_BYTES));
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
                rows::log::encode(&mut self.rows, &mut scratch, owner, log);
            }
        }
        Ok(self.finish())
    }

    fn points(mut self, store: &Store, runtime: &tokio::runtime::Handle) -> Result<Prepared, Refused> {
        let mut groups = self.decode::<Metric>()?;
        let metrics: Vec<Vec<(MetricDescriptor, Points)>> = groups
            .iter_mut()
            .map(|group| std::mem::take(&mut group.records).into_iter().filter_map(point::split).collect())
            .collect();
        let point_count = |index: usize| metrics[index].iter().map(|(_, points)| points.len() as u64).sum();
        let owners = self.owners(&groups, point_count);
        let ids = owners.ids(store, runtime)?;
        self.refer(&ids);

        // First pass: which points are kept, and which series they belong to.
        let mut wanted: HashMap<Hash128, Series> = HashMap::new();
        let mut kept: Vec<(u32, Hash128, Hash128, Point<'_>)> = Vec::new();
        let mut seen = HashSet::new();
        let mut number = 0;
        for ((group, owner), metrics) in groups.iter().zip(&owners.of_group).zip(&metrics) {
            let Some((resource, scope)) = owner else {
                number += metrics.iter().map(|(_, points)| points.len() as u32).sum::<u32>();
                continue;
            };
            let service_name = service_name(&group.resource);
            for (descriptor, points) in metrics {
                let metric = self.canonical.metric(descriptor);
                for point in points.iter() {
                    let record = number;
                    number += 1;
                    if let Err(reason) = check_point(&self.limits, point) {
                        self.rejections.add(&format!("dataPoints[{record}] of {}", descriptor.name), &reason, 1);
                        continue;
                    }
                    self.accepted += 1;
                    let series = self.canonical.series(*resource, *scope, metric, point.attributes());
                    let hash = self.canonical.point(series, point);
                    if !seen.insert(hash) {
                        continue; // the same point twice is one point
                    }
                    let bounds = explicit_bounds(point);
                    let stream = rows::metric::stream_hash(series, bounds);
                    wanted.entry(stream).or_insert_with(|| Series {
                        resource: *resource,
                        scope: *scope,
                        service_name: service_name.clone(),
                        row: rows::metric::SeriesRow::new(descriptor, point.attributes(), bounds),
                    });
                    kept.push((record, stream, hash, point));
                }
            }
        }
        let series = runtime
            .block_on(store.dimensions.series(&store.database, &wanted, &ids.resources, &ids.scopes))
            .map_err(|error| refusal(&error))?;

        self.references.series = series.iter().map(|(hash, id)| (*id, *hash)).collect();

        // Second pass: rows.
        let mut scratch = Scratch::default();
        for (record, stream, hash, point) in kept {
            self.row(record, Micros::from_unix_nanos(point.time_unix_nano()).0);
            rows::metric::encode(&mut self.rows, &mut scratch, series[&stream], hash.low64(), point);
        }
        Ok(self.finish())
    }

    /// Decodes the request. Records that cannot be read are rejections, unless nothing can be read at all.
    fn decode<R: Record>(&mut self) -> Result<Vec<Group<R>>, Refused> {
        let decoded = otlp::decode::<R>(self.request.encoding, &self.request.body)
            .map_err(|malformed: Malformed| Refused::Malformed { reason: malformed.to_string() })?;
        self.rejections.add_undecodable(&decoded.undecodable);
        if decoded.groups.is_empty() && !decoded.undecodable.is_empty() {
            return Err(Refused::Malformed { reason: self.rejections.text() });
        }
        Ok(decoded.groups)
    }

    fn owners<'a, R>(&mut self, groups: &'a [Group<R>], records: impl Fn(usize) -> u64) -> Owners<'a> {
        let mut owners = Owners::default();
        for (index, group) in groups.iter().enumerate() {
            if let Err(reason) = check_owners(&self.limits, &group.resource, &group.scope) {
                self.rejections.add(&format!("group {index}"), &reason, records(index));
                owners.of_group.push(None);
                continue;
            }
            let resource = self.canonical.resource(&group.resource);
            let scope = self.canonical.scope(&group.scope);
            owners.resources.insert(resource, &group.resource);
            owners.scopes.insert(scope, &group.scope);
            owners.of_group.push(Some((resource, scope)));
        }
        owners
    }

    fn refer(&mut self, ids: &OwnerIds) {
        self.references.resources = ids.resources.iter().map(|(hash, id)| (*id, *hash)).collect();
        self.references.scopes = ids.scopes.iter().map(|(hash, id)| (i64::from(*id), *hash)).collect();
    }

    fn touch(&mut self, trace_id: [u8; 16], time: Micros, has_root: bool) {
        let touch = Touch { first: time, last: time, records: 1, has_root };
        self.touches.entry(trace_id).and_modify(|known| known.merge(touch)).or_insert(touch);
    }

    fn row(&mut self, record: u32, time: Micros) {
        self.records.push(record);
        self.hours.insert(time.0.div_euclid(MICROS_PER_HOUR));
    }

    fn finish(self) -> Prepared {
        let times = self.hours.into_iter().map(|hour| Micros(hour * MICROS_PER_HOUR)).collect();
        Prepared {
            batch: Batch {
                request_hash: self.request_hash,
                signal: self.request.signal,
                rows: self.rows,
                records: self.records,
                times,
                touches: self.touches,
                references: self.references,
            },
            request: self.request,
            rejections: self.rejections,
            records: self.accepted,
        }
    }
}

impl Owners<'_> {
    fn ids(&self, store: &Store, runtime: &tokio::runtime::Handle) -> Result<OwnerIds, Refused> {
        runtime
            .block_on(async {
                Ok::<_, StoreError>(OwnerIds {
                    resources: store.dimensions.resources(&store.database, &self.resources).await?,
                    scopes: store.dimensions.scopes(&store.database, &self.scopes).await?,
                })
            })
            .map_err(|error| refusal(&error))
    }
}

impl OwnerIds {
    fn owner<'a>(&self, resource: Hash128, scope: Hash128, service_name: &'a str) -> Owner<'a> {
        Owner { resource_id: self.resources[&resource], scope_id: self.scopes[&scope], service_name }
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
