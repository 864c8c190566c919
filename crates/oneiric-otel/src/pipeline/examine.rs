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
use crate::otlp::point::{self, MetricDescriptor, Point, Points};
use crate::otlp::protobuf::plain::{self, Part, PartKind};
use crate::otlp::record::Record;
use crate::otlp::{self, Encoding, Group, Malformed, ResourceEnvelope, ScopeEnvelope, Signal};

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
    fn span(&mut self, owner: &Self::Owner, number: u32, span: &Span);
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
    fn span(&mut self, (): &(), _: u32, _: &Span) {}
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
    let has_ids = match part.kind {
        PartKind::Owner | PartKind::Log => true,
        PartKind::Span { trace_id, span_id } => Limits::check_ids(trace_id, span_id).is_ok(),
    };
    has_ids && part.most_bytes <= limits.record_bytes && part.attributes <= limits.attributes
}

/// Decodes a request and shows what is accepted of it to `visitor`.
///
/// # Errors
/// Says what is wrong when nothing of the request can be read.
pub(super) fn walk(request: &Request, limits: &Limits, visitor: &mut impl Visitor) -> Result<Verdict, String> {
    let mut walk = Walk { request, limits, verdict: Verdict::default(), number: 0 };
    match request.signal {
        Signal::Traces => walk.spans(visitor),
        Signal::Metrics => walk.points(visitor),
        Signal::Logs => walk.logs(visitor),
    }?;
    Ok(walk.verdict)
}

struct Walk<'a> {
    request: &'a Request,
    limits: &'a Limits,
    verdict: Verdict,
    /// Of the next record.
    number: u32,
}

impl Walk<'_> {
    fn spans(&mut self, visitor: &mut impl Visitor) -> Result<(), String> {
        for (index, group) in self.decode::<Span>()?.into_iter().enumerate() {
            let Some(owner) = self.owner(index, group.resource, group.scope, group.records.len(), visitor) else {
                continue;
            };
            for span in &group.records {
                let number = self.next_number();
                match self.limits.check_span(span) {
                    Ok(()) => {
                        self.verdict.records += 1;
                        visitor.span(&owner, number, span);
                    }
                    Err(reason) => self.verdict.rejections.add(&format!("spans[{number}]"), &reason, 1),
                }
            }
        }
        Ok(())
    }

    fn logs(&mut self, visitor: &mut impl Visitor) -> Result<(), String> {
        for (index, group) in self.decode::<LogRecord>()?.into_iter().enumerate() {
            let Some(owner) = self.owner(index, group.resource, group.scope, group.records.len(), visitor) else {
                continue;
            };
            for log in &group.records {
                let number = self.next_number();
                match self.limits.check(log, &log.attributes) {
                    Ok(()) => {
                        self.verdict.records += 1;
                        visitor.log(&owner, number, log);
                    }
                    Err(reason) => self.verdict.rejections.add(&format!("logRecords[{number}]"), &reason, 1),
                }
            }
        }
        Ok(())
    }

    fn points(&mut self, visitor: &mut impl Visitor) -> Result<(), String> {
        for (index, group) in self.decode::<Metric>()?.into_iter().enumerate() {
            let metrics: Vec<(MetricDescriptor, Points)> = group.records.into_iter().filter_map(point::split).collect();
            let points = metrics.iter().map(|(_, points)| points.len()).sum::<usize>();
            let Some(owner) = self.owner(index, group.resource, group.scope, points, visitor) else { continue };
            for (descriptor, points) in &metrics {
                visitor.metric(descriptor);
                for point in points.iter() {
                    let number = self.next_number();
                    match check_point(self.limits, point) {
                        Ok(()) => {
                            self.verdict.records += 1;
                            visitor.point(&owner, number, descriptor, point);
                        }
                        Err(reason) => {
                            let path = format!("dataPoints[{number}] of {}", descriptor.name);
                            self.verdict.rejections.add(&path, &reason, 1);
                        }
                    }
                }
            }
        }
        Ok(())
    }

    fn next_number(&mut self) -> u32 {
        let number = self.number;
        self.number += 1;
        number
    }

    /// Decodes the request. Records that cannot be read are rejections, unless nothing can be read at all.
    fn decode<R: Record>(&mut self) -> Result<Vec<Group<R>>, String> {
        let decoded = otlp::decode::<R>(self.request.encoding, &self.request.body)
            .map_err(|malformed: Malformed| malformed.to_string())?;
        let rejections = &mut self.verdict.rejections;
        rejections.add_undecodable(&decoded.undecodable);
        if decoded.groups.is_empty() && !decoded.undecodable.is_empty() {
            return Err(rejections.text());
        }
        Ok(decoded.groups)
    }

    /// Takes resource and scope of a group in. None where they are beyond the limits: its records are rejected.
    fn owner<V: Visitor>(
        &mut self,
        index: usize,
        resource: Arc<ResourceEnvelope>,
        scope: Arc<ScopeEnvelope>,
        records: usize,
        visitor: &mut V,
    ) -> Option<V::Owner> {
        if let Err(reason) = check_owners(self.limits, &resource, &scope) {
            self.verdict.rejections.add(&format!("group {index}"), &reason, records as u64);
            self.number += records as u32;
            return None;
        }
        Some(visitor.owner(resource, scope))
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
