//! Telemetry of an invented company, of any amount and the same every time: what the benchmarks of questions run on.
//!
//! Forty services in three tiers offer some three hundred operations over HTTP, gRPC, queues and schedules. An operation
//! has a fixed plan: what it computes, which tables, caches, queues and models it asks, and which operations of other
//! services it calls, so that a trace is a walk through plans. Half of the services write the semantic conventions of
//! today and half those of yesterday. Sixty incidents a day, each some hours long, make one step of one operation fail in
//! one of fourteen ways; the failure travels up to the root, unless a caller has a fallback. Every operation writes log
//! lines of its own, failures write more, and instances write some that belong to no trace. Counters, gauges and
//! histograms of every service are measured once a minute.
//!
//! Promises: everything is a function of the seed and a trace's number; times rise with the number. It knows nothing of
//! databases: it makes requests.

mod company;
mod fault;
mod metrics;
mod record;
mod walk;
pub(crate) mod words;

use std::ops::Range;
use std::time::Duration;

use bytes::Bytes;
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use prost::Message as _;

use company::Company;
use record::Recorder;

pub use fault::FAULTS;

/// What is generated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scenario {
    /// Decides everything else.
    pub seed: u64,
    /// Traces in all.
    pub traces: u64,
    /// When the first trace begins, in nanoseconds since 1970.
    pub start_unix_nanos: u64,
    /// The time over which the traces are spread.
    pub length: Duration,
}

/// Requests that belong together, as protobuf; an empty one has no records.
#[derive(Debug, Clone, Default)]
pub struct Requests {
    /// An `ExportTraceServiceRequest`.
    pub traces: Bytes,
    /// An `ExportLogsServiceRequest`.
    pub logs: Bytes,
    /// Spans in it.
    pub spans: u64,
    /// Log records in it.
    pub log_records: u64,
}

/// Makes the telemetry of a scenario, piece by piece and in any order.
#[derive(Debug)]
pub struct Generator {
    scenario: Scenario,
    company: Company,
}

impl Generator {
    /// Lays out the company.
    pub fn new(scenario: Scenario) -> Self {
        Self { scenario, company: Company::new(scenario) }
    }

    /// The names of the services.
    pub fn services(&self) -> impl Iterator<Item = &str> {
        self.company.services.iter().map(|service| service.name.as_str())
    }

    /// The traces with these numbers, and their logs.
    pub fn requests(&self, traces: Range<u64>) -> Requests {
        let mut recorder = Recorder::new(&self.company);
        for trace in traces {
            walk::trace(&self.company, trace, &mut recorder);
        }
        let (spans, log_records) = (recorder.spans(), recorder.log_records());
        let (resource_spans, resource_logs) = recorder.finish();
        Requests {
            traces: ExportTraceServiceRequest { resource_spans }.encode_to_vec().into(),
            logs: ExportLogsServiceRequest { resource_logs }.encode_to_vec().into(),
            spans,
            log_records,
        }
    }

    /// What all services measured in these minutes of the scenario, as an `ExportMetricsServiceRequest`.
    pub fn metrics(&self, minutes: Range<u64>) -> Bytes {
        let resource_metrics = minutes.flat_map(|minute| metrics::of_minute(&self.company, minute)).collect();
        ExportMetricsServiceRequest { resource_metrics }.encode_to_vec().into()
    }

    /// Traces of the scenario.
    pub fn traces(&self) -> u64 {
        self.scenario.traces
    }

    /// When a trace begins, in nanoseconds since 1970.
    pub fn start_of(&self, trace: u64) -> u64 {
        self.company.start_of(trace)
    }

    /// Minutes of the scenario.
    pub fn minutes(&self) -> u64 {
        self.scenario.length.as_secs() / 60
    }

    /// The id of a trace.
    pub fn trace_id(&self, trace: u64) -> [u8; 16] {
        self.company.trace_id(trace)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{HashMap, HashSet};

    use super::*;

    fn scenario() -> Scenario {
        Scenario {
            seed: 7,
            traces: 20_000,
            start_unix_nanos: 1_794_960_000 * 1_000_000_000,
            length: Duration::from_hours(24 * 10),
        }
    }

    fn spans(requests: &Requests) -> Vec<opentelemetry_proto::tonic::trace::v1::Span> {
        ExportTraceServiceRequest::decode(requests.traces.clone())
            .unwrap()
            .resource_spans
            .into_iter()
            .flat_map(|resource| resource.scope_spans)
            .flat_map(|scope| scope.spans)
            .collect()
    }

    #[test]
    fn the_same_every_time_and_whatever_the_cut() {
        let generator = Generator::new(scenario());
        let whole = generator.requests(0..20);
        assert_eq!(Generator::new(scenario()).requests(0..20).traces, whole.traces);
        let parts: HashSet<Vec<u8>> = [generator.requests(0..7), generator.requests(7..20)]
            .iter()
            .flat_map(spans)
            .map(|span| span.encode_to_vec())
            .collect();
        assert_eq!(parts, spans(&whole).iter().map(prost::Message::encode_to_vec).collect());
        assert_ne!(Generator::new(Scenario { seed: 8, ..scenario() }).requests(0..20).traces, whole.traces);
    }

    #[test]
    fn the_shape_is_that_of_the_promise() {
        let generator = Generator::new(scenario());
        let requests = generator.requests(0..20_000);
        let per_trace = requests.spans as f64 / 20_000.0;
        assert!((9.0..11.0).contains(&per_trace), "{per_trace} spans a trace");
        let logs = requests.log_records as f64 / 20_000.0;
        assert!((4.5..5.5).contains(&logs), "{logs} log records a trace");

        let spans = spans(&requests);
        let mut traces: HashMap<&[u8], Vec<_>> = HashMap::new();
        for span in &spans {
            traces.entry(&span.trace_id).or_default().push(span);
        }
        assert_eq!(traces.len(), 20_000);
        let mut failed = 0;
        for spans in traces.values() {
            let ids: HashSet<&[u8]> = spans.iter().map(|span| span.span_id.as_slice()).collect();
            assert_eq!(ids.len(), spans.len(), "ids are distinct within a trace");
            let roots = spans.iter().filter(|span| span.parent_span_id.is_empty()).count();
            assert_eq!(roots, 1);
            assert!(
                spans.iter().all(|span| span.parent_span_id.is_empty() || ids.contains(span.parent_span_id.as_slice()))
            );
            failed += usize::from(spans.iter().any(|span| span.status.as_ref().is_some_and(|status| status.code == 2)));
        }
        assert!((400..3_000).contains(&failed), "{failed} traces failed");
        let attributes = spans.iter().map(|span| span.attributes.len()).sum::<usize>() as f64 / spans.len() as f64;
        assert!((8.0..12.0).contains(&attributes), "{attributes} attributes a span");
        let names: HashSet<&str> = spans.iter().map(|span| span.name.as_str()).collect();
        assert!(names.len() > 300, "{} names", names.len());
    }

    #[test]
    fn metrics_are_of_every_service_and_counters_rise() {
        let generator = Generator::new(scenario());
        assert_eq!(generator.minutes(), 14_400);
        let read = |minute| ExportMetricsServiceRequest::decode(generator.metrics(minute..minute + 1)).unwrap();
        let (early, late) = (read(1), read(900));
        assert_eq!(early.resource_metrics.len(), generator.services().count());
        let total = |request: &ExportMetricsServiceRequest| -> u64 {
            use opentelemetry_proto::tonic::metrics::v1::{metric::Data, number_data_point::Value};
            let metrics = request.resource_metrics[0].scope_metrics[0].metrics.iter();
            metrics
                .filter_map(|metric| match &metric.data {
                    Some(Data::Sum(sum)) => Some(&sum.data_points),
                    _ => None,
                })
                .flatten()
                .map(|point| match point.value {
                    Some(Value::AsInt(value)) => value.unsigned_abs(),
                    _ => 0,
                })
                .sum()
        };
        assert!(total(&late) > total(&early));
    }
}
