//! Which records of a request are accepted: what its sender is told. The bytes and the limits decide it, nothing else.
//!
//! One walk over the records decides, whoever looks on: who makes rows of what is accepted ([`super::prepare`]), and who
//! wants nothing but the answer ([`examine`]).

use std::sync::Arc;

use opentelemetry_proto::tonic::logs::v1::LogRecord;
use opentelemetry_proto::tonic::metrics::v1::Metric;
use opentelemetry_proto::tonic::trace::v1::Span;

use super::check::Limits;
use super::report::Rejections;
use super::{Accepted, Request};
use crate::otlp::point::{self, MetricDescriptor, Point};
use crate::otlp::protobuf::borrowed;
use crate::otlp::protobuf::plain::{self, Part};
use crate::otlp::view::SpanView;
use crate::otlp::{self, Encoding, ResourceEnvelope, ScopeEnvelope, Signal, Sink, Undecodable};

/// What is said of a request.
#[derive(Debug, Clone, Default)]
pub(super) struct Verdict {
    pub(super) rejections: Rejections,
    /// Records that are to be stored. A record that stands twice in the request counts twice.
    pub(super) records: u64,
}

impl Verdict {
    /// The answer when everything is stored that may be.
    pub(super) fn answer(&self) -> Accepted {
        self.rejections.answer(self.records)
    }
}

/// Is shown what is accepted, in the order of the request. Records are numbered through, those that are rejected too.
pub(super) trait Visitor {
    /// Resource and scope of a group of records.
    type Owner;

    fn owner(&mut self, resource: Arc<ResourceEnvelope>, scope: Arc<ScopeEnvelope>) -> Self::Owner;
    fn span(&mut self, owner: &Self::Owner, number: u32, span: &SpanView<'_>);
    fn log(&mut self, owner: &Self::Owner, number: u32, log: &LogRecord);
    /// The next points are of this metric.
    fn metric(&mut self, descriptor: &MetricDescriptor);
    fn point(&mut self, owner: &Self::Owner, number: u32, descriptor: &MetricDescriptor, point: Point<'_>);
}

/// Looks at nothing.
struct Nobody;

impl Visitor for Nobody {
    type Owner = ();

    fn owner(&mut self, _: Arc<ResourceEnvelope>, _: Arc<ScopeEnvelope>) {}
    fn span(&mut self, (): &(), _: u32, _: &SpanView<'_>) {}
    fn log(&mut self, (): &(), _: u32, _: &LogRecord) {}
    fn metric(&mut self, _: &MetricDescriptor) {}
    fn point(&mut self, (): &(), _: u32, _: &MetricDescriptor, _: Point<'_>) {}
}

/// Says what [`walk`] would, and makes nothing of the records: a request in which nothing is odd is not even decoded.
///
/// # Errors
/// Says what is wrong when nothing of the request can be read.
pub(super) fn examine(request: &Request, limits: &Limits) -> Result<Verdict, String> {
    let plain = match request.encoding {
        Encoding::Protobuf => plain::walk(request.signal, &request.body, &|part| accepts(limits, part)),
        Encoding::Json => None,
    };
    match plain {
        Some(records) => Ok(Verdict { rejections: Rejections::default(), records }),
        None => walk(request, limits, &mut Nobody),
    }
}

/// Whether a part is within the limits for sure.
fn accepts(limits: &Limits, part: Part<'_>) -> bool {
    match part {
        Part::Span(span, bytes) => limits.admit(span, bytes),
        Part::Other { most_bytes, attributes } => most_bytes <= limits.record_bytes && attributes <= limits.attributes,
    }
}

/// Reads a request and shows what is accepted of it to `visitor`, a record at a time: there is never more than one.
///
/// # Errors
/// Says what is wrong when nothing of the request can be read.
pub(super) fn walk(request: &Request, limits: &Limits, visitor: &mut impl Visitor) -> Result<Verdict, String> {
    let mut walk = Walk::new(limits, visitor);
    let undecodable = match request.signal {
        Signal::Traces => otlp::read::<Span>(request.encoding, &request.body, &mut walk),
        Signal::Metrics => otlp::read::<Metric>(request.encoding, &request.body, &mut walk),
        Signal::Logs => otlp::read::<LogRecord>(request.encoding, &request.body, &mut walk),
    };
    walk.finish(&undecodable.map_err(|malformed| malformed.to_string())?)
}

/// [`walk`] over spans all of which become messages first: nothing is read in place.
#[cfg(any(test, fuzzing))]
pub(super) fn walk_messages(request: &Request, limits: &Limits, visitor: &mut impl Visitor) -> Result<Verdict, String> {
    let decoded = otlp::decode::<Span>(request.encoding, &request.body).map_err(|malformed| malformed.to_string())?;
    let mut walk = Walk::new(limits, visitor);
    for otlp::Group { resource, scope, records } in decoded.groups {
        walk.begin_group(&resource, &scope);
        for span in records {
            walk.record(span);
        }
    }
    walk.finish(&decoded.undecodable)
}

struct Walk<'a, V: Visitor> {
    limits: &'a Limits,
    visitor: &'a mut V,
    /// Accepted so far.
    records: u64,
    rejections: Rejections,
    /// Of the next record.
    number: u32,
    /// Groups so far.
    groups: usize,
    /// Of the group that is read, if it is accepted.
    owner: Option<V::Owner>,
    /// If it is not: why, and how many records it has so far.
    homeless: Option<(String, u64)>,
}

impl<'a, V: Visitor> Walk<'a, V> {
    fn new(limits: &'a Limits, visitor: &'a mut V) -> Self {
        Self {
            limits,
            visitor,
            records: 0,
            rejections: Rejections::default(),
            number: 0,
            groups: 0,
            owner: None,
            homeless: None,
        }
    }

    fn finish(mut self, undecodable: &[Undecodable]) -> Result<Verdict, String> {
        self.end_group();
        let mut rejections = Rejections::default();
        rejections.add_undecodable(undecodable);
        if self.groups == 0 && !undecodable.is_empty() {
            return Err(rejections.text());
        }
        rejections.append(self.rejections);
        Ok(Verdict { rejections, records: self.records })
    }

    /// Resource and scope of a group whose records come now. Where they are beyond the limits, its records are rejected.
    fn begin_group(&mut self, resource: &Arc<ResourceEnvelope>, scope: &Arc<ScopeEnvelope>) {
        self.end_group();
        self.groups += 1;
        match check_owners(self.limits, resource, scope) {
            Ok(()) => self.owner = Some(self.visitor.owner(Arc::clone(resource), Arc::clone(scope))),
            Err(reason) => self.homeless = Some((reason, 0)),
        }
    }

    fn end_group(&mut self) {
        self.owner = None;
        if let Some((reason, records)) = self.homeless.take() {
            self.rejections.add(&format!("group {}", self.groups - 1), &reason, records);
        }
    }

    /// The number of the next record of a group that is accepted; none if it is rejected with its group.
    fn next_number(&mut self) -> Option<u32> {
        let number = self.number;
        self.number += 1;
        match &mut self.homeless {
            Some((_, records)) => {
                *records += 1;
                None
            }
            None => Some(number),
        }
    }
}

impl<V: Visitor> Sink<Span> for Walk<'_, V> {
    fn group(&mut self, resource: &Arc<ResourceEnvelope>, scope: &Arc<ScopeEnvelope>, _: usize) {
        self.begin_group(resource, scope);
    }

    fn encoded(&mut self, record: &[u8], begin: impl FnOnce(&mut Self)) -> bool {
        let Some(span) = borrowed::span(record).filter(|span| self.limits.admit(span, record.len())) else {
            return false;
        };
        begin(self);
        if let Some(number) = self.next_number()
            && let Some(owner) = &self.owner
        {
            self.records += 1;
            self.visitor.span(owner, number, &span);
        }
        true
    }

    fn record(&mut self, span: Span) {
        let Some(number) = self.next_number() else { return };
        let Some(owner) = &self.owner else { return };
        match self.limits.check_span(&span) {
            Ok(()) => {
                self.records += 1;
                self.visitor.span(owner, number, &SpanView::from(&span));
            }
            Err(reason) => self.rejections.add(&format!("spans[{number}]"), &reason, 1),
        }
    }
}

impl<V: Visitor> Sink<LogRecord> for Walk<'_, V> {
    fn group(&mut self, resource: &Arc<ResourceEnvelope>, scope: &Arc<ScopeEnvelope>, _: usize) {
        self.begin_group(resource, scope);
    }

    fn record(&mut self, log: LogRecord) {
        let Some(number) = self.next_number() else { return };
        let Some(owner) = &self.owner else { return };
        match self.limits.check(&log, &log.attributes) {
            Ok(()) => {
                self.records += 1;
                self.visitor.log(owner, number, &log);
            }
            Err(reason) => self.rejections.add(&format!("logRecords[{number}]"), &reason, 1),
        }
    }
}

impl<V: Visitor> Sink<Metric> for Walk<'_, V> {
    fn group(&mut self, resource: &Arc<ResourceEnvelope>, scope: &Arc<ScopeEnvelope>, _: usize) {
        self.begin_group(resource, scope);
    }

    fn record(&mut self, metric: Metric) {
        let Some((descriptor, points)) = point::split(metric) else { return };
        if self.owner.is_some() {
            self.visitor.metric(&descriptor);
        }
        for point in points.iter() {
            let Some(number) = self.next_number() else { continue };
            let Some(owner) = &self.owner else { continue };
            match check_point(self.limits, point) {
                Ok(()) => {
                    self.records += 1;
                    self.visitor.point(owner, number, &descriptor, point);
                }
                Err(reason) => {
                    let path = format!("dataPoints[{number}] of {}", descriptor.name);
                    self.rejections.add(&path, &reason, 1);
                }
            }
        }
    }
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

#[cfg(test)]
mod tests;
