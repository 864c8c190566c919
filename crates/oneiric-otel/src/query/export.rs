//! Everything that is stored of a range of time, as OTLP export requests that can be taken back.
//!
//! Promises: every record once, in order of time within its signal; the same stored records give the same requests;
//! memory is bounded by a request of some megabytes, or by one large record. A request is compared with what a reader
//! makes of it before it is given out, and what its encoding does not carry is counted.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use opentelemetry_proto::tonic::metrics::v1::Metric;
use opentelemetry_proto::tonic::trace::v1::Span;

use super::argument::without_nul;
use super::range::{check_order, unix_nanos};
use super::{QueryError, QueryService};
use crate::otlp::canonical::bytes as canonical;
use crate::otlp::file::MAX_REQUEST_BYTES;
use crate::otlp::point::{self, Points};
use crate::otlp::record::Record;
use crate::otlp::{self, Encoding, Group, Signal, json, protobuf};
use crate::store::export::{Exported, Exporting, RecordFilter};
use crate::store::{Database, Micros, Stored};

/// How long the first record of a partition may take: the partition is sorted before.
const PATIENCE: Duration = Duration::from_hours(1);

/// What is to be exported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExportRequest {
    /// Records of this time or later: the start of a span, the time of a log record or data point.
    pub since: Option<jiff::Timestamp>,
    /// Records before this time.
    pub until: Option<jiff::Timestamp>,
    /// Records of this service.
    pub service: Option<String>,
    /// The signals, in the order in which they come.
    pub signals: Vec<Signal>,
    /// How requests are written. Protobuf carries every record exactly.
    pub encoding: Encoding,
}

/// A part of an export: an export request of one signal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExportPart {
    /// What it carries.
    pub signal: Signal,
    /// The request. JSON stands on one line, without a line break at its end.
    pub body: Bytes,
    /// Spans, log records or data points in it.
    pub records: u64,
    /// How many of them the encoding does not carry: a reader refuses them, or finds them changed. OTLP/JSON has no form
    /// for the payload of a NaN, its readers bound how deep values are nested, and its escapes can make a large record
    /// longer than a request may be.
    pub not_carried: u64,
}

/// An export as it goes on; see [`QueryService::export`].
#[derive(Debug)]
pub struct Export {
    database: Database,
    filter: RecordFilter,
    encoding: Encoding,
    /// Signals whose partitions are not known yet.
    signals: VecDeque<Signal>,
    partitions: VecDeque<(Signal, (Micros, Micros))>,
    reading: Option<(Signal, Exporting)>,
    ready: VecDeque<ExportPart>,
    /// The part that was given out last, as it would be alone, and how many before it were equal.
    last: Option<(Bytes, usize)>,
}

impl QueryService {
    /// Begins an export. What is stored while it goes on may or may not be in it.
    ///
    /// # Errors
    /// [`QueryError::InvalidArgument`] for a range that ends before it begins, or a service with a NUL.
    pub fn export(&self, request: ExportRequest) -> Result<Export, QueryError> {
        let ExportRequest { since, until, service, signals, encoding } = request;
        check_order(("since", since), ("until", until))?;
        service.as_deref().map(|service| without_nul("service", service)).transpose()?;
        let (since_unix_nanos, until_unix_nanos) = (since.map(unix_nanos), until.map(unix_nanos));
        let filter = RecordFilter { since_unix_nanos, until_unix_nanos, service };
        Ok(Export {
            database: self.database.clone().with_read_limit(PATIENCE),
            filter,
            encoding,
            signals: signals.into(),
            partitions: VecDeque::new(),
            reading: None,
            ready: VecDeque::new(),
            last: None,
        })
    }
}

impl Export {
    /// The next part, or none after the last.
    ///
    /// # Errors
    /// [`QueryError::Store`] when the database does not answer: the export is not complete then.
    pub async fn next(&mut self) -> Result<Option<ExportPart>, QueryError> {
        loop {
            if let Some(part) = self.ready.pop_front() {
                return Ok(Some(self.tell_apart(part)));
            }
            if !self.find_reading().await? {
                return Ok(None);
            }
            let (encoding, ready) = (self.encoding, &mut self.ready);
            let Some((signal, reading)) = &mut self.reading else { continue };
            let any = match signal {
                Signal::Traces => read::<Span>(reading, encoding, ready).await?,
                Signal::Metrics => read::<Metric>(reading, encoding, ready).await?,
                Signal::Logs => read::<LogRecord>(reading, encoding, ready).await?,
            };
            if !any {
                self.reading = None;
            }
        }
    }

    /// Makes sure that a partition is being read; false after the last.
    async fn find_reading(&mut self) -> Result<bool, QueryError> {
        let database = &self.database;
        loop {
            if self.reading.is_some() {
                return Ok(true);
            }
            if let Some((signal, partition)) = self.partitions.pop_front() {
                let reading = match signal {
                    Signal::Traces => database.export::<Span>(partition, &self.filter).await?,
                    Signal::Metrics => database.export::<Metric>(partition, &self.filter).await?,
                    Signal::Logs => database.export::<LogRecord>(partition, &self.filter).await?,
                };
                self.reading = Some((signal, reading));
            } else if let Some(signal) = self.signals.pop_front() {
                let table = match signal {
                    Signal::Traces => Span::TABLE,
                    Signal::Metrics => Metric::TABLE,
                    Signal::Logs => LogRecord::TABLE,
                };
                let bounds = database.partition_bounds(table).await?;
                let touched = bounds.into_iter().filter(|bounds| self.filter.touches(*bounds));
                self.partitions = touched.map(|bounds| (signal, bounds)).collect();
            } else {
                return Ok(false);
            }
        }
    }

    /// A request that equals an earlier one byte by byte is taken for the same one sent again. Log records that are equal
    /// can fill several such requests, which come one after the other: each has an unknown field or a space more.
    fn tell_apart(&mut self, mut part: ExportPart) -> ExportPart {
        let repeats = match self.last.take() {
            Some((body, repeats)) if body == part.body => repeats + 1,
            _ => 0,
        };
        self.last = Some((part.body.clone(), repeats));
        if repeats == 0 {
            return part;
        }
        let mut body = part.body.to_vec();
        match self.encoding {
            Encoding::Json => drop(body.splice(1..1, std::iter::repeat_n(b' ', repeats))),
            Encoding::Protobuf => prost::encoding::uint64::encode(UNKNOWN_FIELD, &(repeats as u64), &mut body),
        }
        part.body = body.into();
        part
    }
}

/// A field that no export request has, and readers skip.
const UNKNOWN_FIELD: u32 = 15_999;

/// Adds the next records to `parts`; false when there are none.
async fn read<R: Exported + Assemble>(
    reading: &mut Exporting,
    encoding: Encoding,
    parts: &mut VecDeque<ExportPart>,
) -> Result<bool, QueryError> {
    let stored = reading.next::<R>().await?;
    let any = !stored.is_empty();
    if any {
        add_parts(stored, encoding, parts);
    }
    Ok(any)
}

/// Records as one part, or as several where one would be longer than a reader takes.
fn add_parts<R: Assemble>(mut stored: Vec<Stored<R>>, encoding: Encoding, parts: &mut VecDeque<ExportPart>) {
    let groups = R::assemble(group(stored.clone()));
    let body = Bytes::from(match encoding {
        Encoding::Json => json::encode(&groups),
        Encoding::Protobuf => protobuf::encode(&groups),
    });
    if body.len() > MAX_REQUEST_BYTES && stored.len() > 1 {
        let rest = stored.split_off(stored.len() / 2);
        add_parts(stored, encoding, parts);
        add_parts(rest, encoding, parts);
        return;
    }
    let records = count(&groups);
    let not_carried = not_carried(encoding, &groups, &body);
    parts.push_back(ExportPart { signal: R::SIGNAL, body, records, not_carried });
}

fn count<R: Record>(groups: &[Group<R>]) -> u64 {
    groups.iter().flat_map(|group| &group.records).map(Record::count).sum()
}

/// Records by resource and scope, in the order in which each pair comes first; pairs with one resource are neighbours.
fn group<R>(stored: Vec<Stored<R>>) -> Vec<Group<R>> {
    let mut groups: Vec<Group<R>> = Vec::new();
    let mut places = HashMap::new();
    let mut ranks = HashMap::new();
    for Stored { resource, scope, record } in stored {
        let rank = ranks.len();
        ranks.entry(Arc::as_ptr(&resource)).or_insert(rank);
        let place = *places.entry((Arc::as_ptr(&resource), Arc::as_ptr(&scope))).or_insert(groups.len());
        match groups.get_mut(place) {
            Some(group) => group.records.push(record),
            None => groups.push(Group { resource, scope, records: vec![record] }),
        }
    }
    groups.sort_by_key(|group| ranks.get(&Arc::as_ptr(&group.resource)).copied());
    groups
}

/// How many records come out of `body` otherwise than they went in, or not at all.
fn not_carried<R: Record>(encoding: Encoding, groups: &[Group<R>], body: &Bytes) -> u64 {
    if body.len() > MAX_REQUEST_BYTES {
        return count(groups);
    }
    let Ok(read) = otlp::decode::<R>(encoding, body) else { return count(groups) };
    let mut expected: BTreeMap<[Vec<u8>; 3], (u64, u64)> = BTreeMap::new();
    for (owner, record) in with_owners(groups) {
        let entry = expected.entry([canonical(&**owner.0), canonical(&**owner.1), canonical(record)]).or_default();
        *entry = (entry.0 + 1, record.count());
    }
    for (owner, record) in with_owners(&read.groups) {
        let key = [canonical(&**owner.0), canonical(&**owner.1), canonical(record)];
        if let Some((count, _)) = expected.get_mut(&key) {
            *count = count.saturating_sub(1);
        }
    }
    expected.values().map(|(missing, records)| missing * records).sum()
}

type OwnersOf<'a> = (&'a Arc<otlp::ResourceEnvelope>, &'a Arc<otlp::ScopeEnvelope>);

fn with_owners<R>(groups: &[Group<R>]) -> impl Iterator<Item = (OwnersOf<'_>, &R)> {
    groups.iter().flat_map(|group| group.records.iter().map(move |record| ((&group.resource, &group.scope), record)))
}

/// How records that were stored apart are put together.
trait Assemble: Record {
    fn assemble(groups: Vec<Group<Self>>) -> Vec<Group<Self>> {
        groups
    }
}

impl Assemble for Span {}

impl Assemble for LogRecord {}

impl Assemble for Metric {
    /// Data points of one metric go into one.
    fn assemble(groups: Vec<Group<Self>>) -> Vec<Group<Self>> {
        groups
            .into_iter()
            .map(|group| {
                let records = join_points(group.records);
                Group { resource: group.resource, scope: group.scope, records }
            })
            .collect()
    }
}

fn join_points(metrics: Vec<Metric>) -> Vec<Metric> {
    let mut joined: Vec<(point::MetricDescriptor, Points)> = Vec::new();
    let mut places: HashMap<Vec<u8>, usize> = HashMap::new();
    for (descriptor, points) in metrics.into_iter().filter_map(point::split) {
        let shared =
            point::join(descriptor.clone(), points.none()).map(|metric| canonical(&metric)).unwrap_or_default();
        let place = *places.entry(shared).or_insert(joined.len());
        if let Some((_, all)) = joined.get_mut(place) {
            all.append(points);
        } else {
            joined.push((descriptor, points));
        }
    }
    joined.into_iter().filter_map(|(descriptor, points)| point::join(descriptor, points).ok()).collect()
}
