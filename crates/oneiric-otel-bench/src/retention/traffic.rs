//! What goes on while retention works: telemetry over OTLP/gRPC, and questions without a pause. How long each took.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use bytes::Bytes;
use oneiric_otel::query::QueryService;
use oneiric_otel_testkit::send::Signal;
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use prost::Message as _;
use tokio::sync::{Mutex, mpsc};
use tokio::task::{JoinHandle, JoinSet};
use tonic::client::Grpc;
use tonic::transport::{Channel, Endpoint};

use super::{Count, SEED, Waits};
use crate::generate::Generator;
use crate::latency::{Latencies, Quantiles};
use crate::load;
use crate::questions::Asker;

/// What is timed: requests, and the classes of questions that are asked in turn.
const WHAT: [&str; 6] = [
    "a request, until it was acknowledged",
    "a trace, whole",
    "a trace with its logs, metrics and critical path",
    "traces of a day by error",
    "logs of a day by a phrase and a level",
    "search by description",
];
/// The pause between requests while upkeep is at it, so that there are some all the time.
const PACE: Duration = Duration::from_millis(25);
/// The pause between questions.
const BREATH: Duration = Duration::from_millis(10);
const NANOSECONDS_OF_A_DAY: u64 = 24 * 3600 * 1_000_000_000;

/// A request.
#[derive(Debug, Clone)]
pub(super) struct Parcel {
    signal: Signal,
    body: Bytes,
    /// Its records by the day of their time, counted since 1970.
    pub(super) records: BTreeMap<u64, Count>,
}

impl Parcel {
    /// Spans.
    pub(super) fn of_spans(body: Bytes) -> Result<Self> {
        let request = ExportTraceServiceRequest::decode(body.clone())?;
        let scopes = request.resource_spans.iter().flat_map(|resource| &resource.scope_spans);
        let times = scopes.flat_map(|scope| &scope.spans).map(|span| span.start_time_unix_nano);
        let records = by_day(times, |count| &mut count.spans);
        Ok(Self { signal: Signal::Traces, body, records })
    }

    /// Log records.
    pub(super) fn of_logs(body: Bytes) -> Result<Self> {
        let request = ExportLogsServiceRequest::decode(body.clone())?;
        let scopes = request.resource_logs.iter().flat_map(|resource| &resource.scope_logs);
        let times = scopes.flat_map(|scope| &scope.log_records).map(|record| record.time_unix_nano);
        let records = by_day(times, |count| &mut count.log_records);
        Ok(Self { signal: Signal::Logs, body, records })
    }

    /// Data points.
    pub(super) fn of_points(body: Bytes) -> Result<Self> {
        let request = ExportMetricsServiceRequest::decode(body.clone())?;
        let scopes = request.resource_metrics.iter().flat_map(|resource| &resource.scope_metrics);
        let times: Vec<u64> =
            scopes.flat_map(|scope| &scope.metrics).flat_map(|one| times(one.data.as_ref())).collect();
        let records = by_day(times.into_iter(), |count| &mut count.data_points);
        Ok(Self { signal: Signal::Metrics, body, records })
    }
}

fn by_day(times: impl Iterator<Item = u64>, of: fn(&mut Count) -> &mut u64) -> BTreeMap<u64, Count> {
    let mut days = BTreeMap::new();
    for time in times {
        *of(days.entry(time / NANOSECONDS_OF_A_DAY).or_default()) += 1;
    }
    days
}

fn times(data: Option<&Data>) -> Vec<u64> {
    match data {
        Some(Data::Gauge(of)) => of.data_points.iter().map(|point| point.time_unix_nano).collect(),
        Some(Data::Sum(of)) => of.data_points.iter().map(|point| point.time_unix_nano).collect(),
        Some(Data::Histogram(of)) => of.data_points.iter().map(|point| point.time_unix_nano).collect(),
        Some(Data::ExponentialHistogram(of)) => of.data_points.iter().map(|point| point.time_unix_nano).collect(),
        Some(Data::Summary(of)) => of.data_points.iter().map(|point| point.time_unix_nano).collect(),
        None => Vec::new(),
    }
}

/// Who sends and asks.
pub(super) struct Traffic {
    channels: Vec<Channel>,
    service: QueryService,
    generator: Arc<Generator>,
}

impl Traffic {
    pub(super) fn new(
        server: SocketAddr,
        connections: usize,
        service: QueryService,
        generator: Arc<Generator>,
    ) -> Result<Self> {
        let endpoint = Endpoint::from_shared(format!("http://{server}"))?;
        let channels = (0..connections.max(1)).map(|_| endpoint.connect_lazy()).collect();
        Ok(Self { channels, service, generator })
    }

    /// Sends a day: a third at once, the rest slowly as long as `hurry` is not set.
    pub(super) async fn send(&self, parcels: Vec<Parcel>, hurry: &AtomicBool) -> Result<Samples> {
        let (sender, queued) = mpsc::channel(1);
        let queued = Arc::new(Mutex::new(queued));
        let mut senders = JoinSet::new();
        for channel in &self.channels {
            senders.spawn(send_in_turn(channel.clone(), Arc::clone(&queued)));
        }
        // Gone with the last of those who send: one that failed leaves the others to finish.
        drop(queued);
        let at_once = parcels.len() / 3;
        for (number, parcel) in parcels.into_iter().enumerate() {
            if number >= at_once && !hurry.load(Ordering::Relaxed) {
                tokio::time::sleep(PACE).await;
            }
            if sender.send(parcel).await.is_err() {
                break;
            }
        }
        drop(sender);
        let mut samples = Samples::default();
        while let Some(joined) = senders.join_next().await {
            samples.append(joined??);
        }
        Ok(samples)
    }

    /// Asks about these traces until it is told to end.
    pub(super) fn ask_about(&self, traces: Range<u64>) -> Asking {
        let (service, generator) = (self.service.clone(), Arc::clone(&self.generator));
        let is_over = Arc::new(AtomicBool::new(false));
        let over = Arc::clone(&is_over);
        let asking = tokio::spawn(async move {
            let mut samples = Samples::default();
            let mut asker = Asker::new(SEED ^ traces.end);
            for what in (1..WHAT.len()).cycle() {
                if traces.is_empty() || over.load(Ordering::Relaxed) {
                    break;
                }
                let began = Instant::now();
                asker.ask(&service, &generator, WHAT[what], traces.clone()).await.context(WHAT[what])?;
                samples.day.push(Sample { what, began, took: began.elapsed() });
                tokio::time::sleep(BREATH).await;
            }
            Ok(samples)
        });
        Asking { is_over, asking }
    }
}

/// Questions under way.
pub(super) struct Asking {
    is_over: Arc<AtomicBool>,
    asking: JoinHandle<Result<Samples>>,
}

impl Asking {
    /// After the question that is being asked.
    pub(super) async fn end(self) -> Result<Samples> {
        self.is_over.store(true, Ordering::Relaxed);
        self.asking.await?
    }
}

async fn send_in_turn(channel: Channel, queued: Arc<Mutex<mpsc::Receiver<Parcel>>>) -> Result<Samples> {
    let mut client = Grpc::new(channel);
    let mut samples = Samples::default();
    loop {
        let next = queued.lock().await.recv().await;
        let Some(parcel) = next else { return Ok(samples) };
        let began = Instant::now();
        samples.refused += load::deliver(&mut client, parcel.signal, &parcel.body).await?;
        samples.day.push(Sample { what: 0, began, took: began.elapsed() });
    }
}

#[derive(Debug, Clone, Copy)]
struct Sample {
    /// A place in [`WHAT`].
    what: usize,
    began: Instant,
    took: Duration,
}

/// How long everything took.
#[derive(Debug, Default)]
pub(super) struct Samples {
    /// What is not yet sorted into the others.
    day: Vec<Sample>,
    always: [Latencies; WHAT.len()],
    beside: [Latencies; WHAT.len()],
    refused: u64,
}

impl Samples {
    pub(super) fn append(&mut self, other: Self) {
        self.day.extend(other.day);
        for (mine, its) in self.always.iter_mut().zip(&other.always) {
            mine.append(its);
        }
        for (mine, its) in self.beside.iter_mut().zip(&other.beside) {
            mine.append(its);
        }
        self.refused += other.refused;
    }

    /// Sorts a day's, of which those count as beside retention that overlap with its work, if it had any. Returns how long
    /// requests and how long questions took.
    pub(super) fn end_day(&mut self, worked: Option<(Instant, Instant)>) -> (Quantiles, Quantiles) {
        let (mut acknowledged, mut answered) = (Latencies::default(), Latencies::default());
        for Sample { what, began, took } in std::mem::take(&mut self.day) {
            self.always[what].add(took);
            if worked.is_some_and(|(from, until)| began <= until && began + took >= from) {
                self.beside[what].add(took);
            }
            if what == 0 { &mut acknowledged } else { &mut answered }.add(took);
        }
        (acknowledged.quantiles(), answered.quantiles())
    }

    pub(super) fn refused(&self) -> u64 {
        self.refused
    }

    pub(super) fn waits(self) -> Vec<Waits> {
        let both = self.always.into_iter().zip(self.beside);
        WHAT.into_iter()
            .zip(both)
            .map(|(what, (always, beside))| Waits {
                what,
                count: always.len(),
                count_beside: beside.len(),
                always: always.quantiles(),
                beside: beside.quantiles(),
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_overlaps_with_the_work_is_beside_it() {
        let zero = Instant::now();
        let at = |ms| zero + Duration::from_millis(ms);
        let sample = |what, from, ms| Sample { what, began: at(from), took: Duration::from_millis(ms) };
        let mut samples = Samples {
            day: vec![sample(0, 0, 10), sample(0, 5, 20), sample(1, 25, 50), sample(1, 41, 9)],
            ..Samples::default()
        };
        let (acknowledged, answered) = samples.end_day(Some((at(20), at(40))));
        assert_eq!((acknowledged.max_ms as u64, answered.max_ms as u64), (20, 50));
        samples.day.push(sample(0, 30, 70));
        samples.end_day(None);
        let waits = samples.waits();
        assert_eq!((waits[0].count, waits[0].count_beside, waits[0].beside.max_ms as u64), (3, 1, 20));
        assert_eq!((waits[1].count, waits[1].count_beside, waits[0].always.max_ms as u64), (2, 1, 70));
    }
}
