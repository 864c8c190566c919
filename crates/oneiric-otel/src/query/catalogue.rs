//! What there is: services, their operations, and who calls whom.
//!
//! A trace counts when it began in the time asked about. Counts of traces are exact. What only spans tell is exact for
//! up to 5,000 traces; of more it is estimated from a uniform sample of them, the same every time, and every answer says
//! how large the sample was.

use std::collections::HashMap;

use jiff::Timestamp;
use serde::Serialize;

use super::argument::name_argument;
use super::range::{TimeRange, timestamp};
use super::{QueryError, QueryService, check_limit};
use crate::store::catalogue::{Counted, SampledTrace};

/// Traces whose rows are read for the durations of roots.
const SAMPLED_ROOTS: i64 = 20_000;
/// Traces whose spans are read.
const SAMPLED_TRACES: usize = 5000;
/// Spans that are read at most, unless a single trace has more.
const SAMPLED_SPANS: i64 = 500_000;
/// Edges of a service map at most.
const MAX_EDGES: i64 = 5000;

/// From how many traces something was computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Sample {
    /// Traces that the question is about.
    pub traces: i64,
    /// Those of them whose spans were read. When it is fewer, counts of spans and calls are estimates: what was found,
    /// times the ratio.
    pub traces_read: i64,
    /// Whether all were read.
    pub exact: bool,
}

impl Sample {
    fn scale(&self, count: i64) -> i64 {
        if self.exact {
            return count;
        }
        let scaled = i128::from(count) * i128::from(self.traces) / i128::from(self.traces_read.max(1));
        i64::try_from(scaled).unwrap_or(i64::MAX)
    }
}

/// How long things took, in nanoseconds: the least value that so many percent do not exceed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Latency {
    /// 50 %.
    pub p50_ns: i64,
    /// 95 %.
    pub p95_ns: i64,
    /// 99 %.
    pub p99_ns: i64,
}

impl Latency {
    fn of(percentiles: &[i64]) -> Option<Self> {
        let [p50_ns, p95_ns, p99_ns] = percentiles else { return None };
        Some(Self { p50_ns: *p50_ns, p95_ns: *p95_ns, p99_ns: *p99_ns })
    }

    fn of_durations(mut durations: Vec<i64>) -> Option<Self> {
        durations.sort_unstable();
        let at = |percent: usize| durations.get((durations.len() * percent).div_ceil(100).saturating_sub(1)).copied();
        Some(Self { p50_ns: at(50)?, p95_ns: at(95)?, p99_ns: at(99)? })
    }
}

/// The services of a time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Catalogue {
    /// By name.
    pub services: Vec<Service>,
    /// What counts of spans and durations were computed from.
    pub sample: Sample,
}

/// A service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Service {
    /// Its name, cut to 256 bytes.
    pub name: String,
    /// Traces in which it took part.
    pub trace_count: i64,
    /// Those of them in which something failed, here or elsewhere.
    pub error_trace_count: i64,
    /// Its spans in these traces; none when no trace of the sample has one.
    pub span_count: Option<i64>,
    /// Those of them that failed.
    pub error_span_count: Option<i64>,
    /// When the last of these traces began, to the microsecond.
    pub last_seen: Timestamp,
    /// How long the traces took of which it is the root; none when there is none of them in the sample.
    pub root_latency: Option<Latency>,
}

/// The operations of a service are asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct OperationsRequest {
    /// When the traces began.
    pub range: TimeRange,
    /// The service.
    pub service: String,
    /// How many operations, 1 to 1000.
    pub limit: usize,
}

/// The operations of a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Operations {
    /// The most frequent first; of equal ones by name and kind.
    pub operations: Vec<Operation>,
    /// Whether there are more.
    pub more: bool,
    /// What they were computed from: the traces in which the service took part.
    pub sample: Sample,
}

/// Spans of one name and kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Operation {
    /// Name of the spans.
    pub name: String,
    /// Their kind: `server`, `client` and so on.
    pub kind: String,
    /// How many.
    pub count: i64,
    /// How many failed.
    pub error_count: i64,
    /// Start of the last one read, to the microsecond.
    pub last_seen: Timestamp,
    /// How long they took.
    pub latency: Option<Latency>,
}

/// Who calls whom.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Dependencies {
    /// The most frequent first; of equal ones by the names of caller and callee.
    pub dependencies: Vec<Dependency>,
    /// Whether there are more.
    pub more: bool,
    /// What they were computed from.
    pub sample: Sample,
}

/// Calls from one node to another. Between services a call is a span whose parent is a span of the other service; to
/// other nodes it is a span that names one in its attributes and has no span of another service below it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Dependency {
    /// Who calls. A queue calls those that consume from it.
    pub caller: Node,
    /// Who is called.
    pub callee: Node,
    /// How many calls.
    pub call_count: i64,
    /// How many failed.
    pub error_count: i64,
    /// How long they took: the span of the callee, or of the caller where the callee has none.
    pub latency: Option<Latency>,
}

/// A node of the service map.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Node {
    /// What it is.
    pub kind: NodeKind,
    /// Of a service its name; of a database system and database; of a queue system and destination; of a model provider
    /// and model; else what the attributes call it.
    pub name: String,
}

/// What a node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum NodeKind {
    /// A service that sends spans.
    Service,
    /// A database that spans name.
    Database,
    /// A queue or topic that spans name.
    Queue,
    /// A model behind an API that spans name.
    Model,
    /// Anything else that spans name.
    External,
}

impl NodeKind {
    fn of(word: &str) -> Self {
        match word {
            "service" => Self::Service,
            "database" => Self::Database,
            "queue" => Self::Queue,
            "model" => Self::Model,
            _ => Self::External,
        }
    }
}

impl QueryService {
    /// The services that took part in traces that began in this time.
    ///
    /// # Errors
    /// When the database does not answer, or not in time.
    pub async fn services(&self, range: TimeRange) -> Result<Catalogue, QueryError> {
        self.cached("services", &range, range.end(), self.ask_services(range)).await
    }

    async fn ask_services(&self, range: TimeRange) -> Result<Catalogue, QueryError> {
        let rows = self.database.service_rows(range.micros()).await?;
        let (traces, roots) = self.database.sample_traces(range.micros(), None, SAMPLED_ROOTS).await?;
        let (sample, read) = readable(traces, &roots);
        let spans = self.database.count_spans(read).await?;
        let mut spans: HashMap<String, _> = spans.into_iter().map(|count| (count.service.clone(), count)).collect();
        let mut durations: HashMap<String, Vec<i64>> = HashMap::new();
        for root in roots.iter().filter(|root| root.root_seen) {
            durations.entry(root.root_service.clone()).or_default().push(root.duration_ns);
        }
        let services = rows
            .into_iter()
            .map(|row| {
                let counted = spans.remove(&row.name);
                Service {
                    trace_count: row.traces,
                    error_trace_count: row.failed_traces,
                    span_count: counted.as_ref().map(|counted| sample.scale(counted.spans)),
                    error_span_count: counted.as_ref().map(|counted| sample.scale(counted.failed)),
                    last_seen: timestamp(row.last_seen),
                    root_latency: durations.remove(&row.name).and_then(Latency::of_durations),
                    name: row.name,
                }
            })
            .collect();
        Ok(Catalogue { services, sample })
    }

    /// The operations of a service.
    ///
    /// # Errors
    /// [`QueryError::InvalidArgument`] for a limit that cannot be, [`QueryError::Unknown`] for a service of which nothing is
    /// stored.
    pub async fn operations(&self, request: &OperationsRequest) -> Result<Operations, QueryError> {
        let limit = check_limit(request.limit)?;
        let service = name_argument("service", &request.service)?;
        self.check_service(&request.service).await?;
        let request = &OperationsRequest { service, ..request.clone() };
        self.cached("operations", request, request.range.end(), self.ask_operations(request, limit)).await
    }

    async fn ask_operations(&self, request: &OperationsRequest, limit: usize) -> Result<Operations, QueryError> {
        let (traces, sampled) =
            self.database.sample_traces(request.range.micros(), Some(&request.service), SAMPLED_TRACES as i64).await?;
        let (sample, read) = readable(traces, &sampled);
        let mut rows = self.database.operation_rows(read, &request.service, limit as i64 + 1).await?;
        let more = rows.len() > limit;
        rows.truncate(limit);
        let operations = rows
            .into_iter()
            .map(|row| Operation {
                count: sample.scale(row.counted.count),
                error_count: sample.scale(row.counted.failed),
                last_seen: timestamp(row.last_seen),
                latency: Latency::of(&row.counted.percentiles),
                name: row.name,
                kind: row.kind,
            })
            .collect();
        Ok(Operations { operations, more, sample })
    }

    /// Who calls whom in traces that began in this time.
    ///
    /// # Errors
    /// When the database does not answer, or not in time.
    pub async fn dependencies(&self, range: TimeRange) -> Result<Dependencies, QueryError> {
        self.cached("dependencies", &range, range.end(), self.ask_dependencies(range)).await
    }

    async fn ask_dependencies(&self, range: TimeRange) -> Result<Dependencies, QueryError> {
        let (traces, sampled) = self.database.sample_traces(range.micros(), None, SAMPLED_TRACES as i64).await?;
        let (sample, read) = readable(traces, &sampled);
        let mut rows = self.database.edge_rows(read, MAX_EDGES + 1).await?;
        let more = rows.len() as i64 > MAX_EDGES;
        rows.truncate(MAX_EDGES as usize);
        let dependencies = rows
            .into_iter()
            .map(|row| {
                let Counted { count, failed, percentiles } = row.counted;
                Dependency {
                    caller: Node { kind: NodeKind::of(&row.caller_kind), name: row.caller },
                    callee: Node { kind: NodeKind::of(&row.callee_kind), name: row.callee },
                    call_count: sample.scale(count),
                    error_count: sample.scale(failed),
                    latency: Latency::of(&percentiles),
                }
            })
            .collect();
        Ok(Dependencies { dependencies, more, sample })
    }
}

/// The part of a sample whose spans can be read, and what it stands for.
fn readable(traces: i64, sampled: &[SampledTrace]) -> (Sample, &[SampledTrace]) {
    let mut spans = 0;
    let length = sampled
        .iter()
        .take(SAMPLED_TRACES)
        .take_while(|trace| {
            let first = spans == 0;
            spans += trace.span_count;
            first || spans <= SAMPLED_SPANS
        })
        .count();
    let read = sampled.get(..length).unwrap_or_default();
    let traces_read = length as i64;
    // One that came between the two statements is no reason to call the rest an estimate.
    let exact = length == sampled.len() && length < SAMPLED_TRACES || traces_read >= traces;
    (Sample { traces, traces_read, exact }, read)
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::store::Micros;

    fn traces(count: usize, span_count: i64) -> Vec<SampledTrace> {
        let trace = SampledTrace {
            trace_id: Uuid::nil(),
            from: Micros(0),
            to: Micros(0),
            span_count,
            duration_ns: 1,
            root_service: String::new(),
            root_seen: true,
        };
        vec![trace; count]
    }

    #[test]
    fn few_traces_are_read_whole_and_many_in_part() {
        let read = |total, sampled: Vec<SampledTrace>| {
            let (sample, read) = readable(total, &sampled);
            (read.len(), sample.exact, sample.scale(10))
        };
        assert_eq!(read(0, traces(0, 1)), (0, true, 10));
        assert_eq!(read(3, traces(3, 10)), (3, true, 10));
        assert_eq!(read(5000, traces(5000, 10)), (5000, true, 10));
        assert_eq!(read(50_000, traces(20_000, 10)), (5000, false, 100));
        assert_eq!(read(10, traces(10, 250_000)), (2, false, 50));
        assert_eq!(read(2, traces(2, 9_000_000)), (1, false, 20), "one is always read");
    }

    #[test]
    fn percentiles_are_values_that_were_there() {
        let latency = Latency::of_durations((1..=100).rev().collect());
        assert_eq!(latency, Some(Latency { p50_ns: 50, p95_ns: 95, p99_ns: 99 }));
        assert_eq!(Latency::of_durations(vec![7]), Some(Latency { p50_ns: 7, p95_ns: 7, p99_ns: 7 }));
        assert_eq!(Latency::of_durations(Vec::new()), None);
    }
}
