//! What is sent: every item's content is a function of the run's seed and the item's number, so that it can be computed
//! again when it is found in the database.
//!
//! An item's number says which client sent it, in which of its requests, and where in the request it stood. Spans and
//! log records carry it in the attribute `oracle.item`; data points, whose attributes name a series, carry it in their
//! time. Four requests of a client share three traces, so that traces grow over several requests and signals.
//!
//! This module knows nothing of servers and databases.

use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, ArrayValue, InstrumentationScope, KeyValue, KeyValueList};
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
use opentelemetry_proto::tonic::metrics::v1::exponential_histogram_data_point::Buckets;
use opentelemetry_proto::tonic::metrics::v1::summary_data_point::ValueAtQuantile;
use opentelemetry_proto::tonic::metrics::v1::{
    Exemplar, ExponentialHistogram, ExponentialHistogramDataPoint, Gauge, Histogram, HistogramDataPoint, Metric,
    NumberDataPoint, ResourceMetrics, ScopeMetrics, Sum, Summary, SummaryDataPoint, exemplar, metric,
    number_data_point,
};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::span::{Event, Link};
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span, Status};
use prost::Message as _;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

pub use oneiric_otel_testkit::send::Signal;

/// The attribute that carries the number of a span or log record.
pub const ITEM_KEY: &str = "oracle.item";
/// The attribute of a resource that carries the client's number.
pub const CLIENT_KEY: &str = "oracle.client";
/// Clients are numbered below this.
pub const MAX_CLIENTS: u16 = 1 << 10;

const REQUEST_BITS: u32 = 22;
const POSITION_BITS: u32 = 10;
/// Requests of a client that share their traces.
const GROUP: u32 = 4;
/// Traces of such a group.
const TRACES: u16 = 3;
/// The first day of the items: 2026-11-18T00:00:00Z.
const FIRST_DAY: u64 = 1_794_960_000 * 1_000_000_000;
const DAY: u64 = 86_400 * 1_000_000_000;
/// The days that clients spread over, so that several partitions are written.
const DAYS: u64 = 3;
const LARGE: usize = 100 * 1024;

/// Which item it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ItemId {
    /// The client that sent it, below [`MAX_CLIENTS`].
    pub client: u16,
    /// Which of the client's requests, from 0.
    pub request: u32,
    /// Where in the request, from 0.
    pub position: u16,
}

impl ItemId {
    /// As one number, below 2^42.
    pub fn number(self) -> u64 {
        (u64::from(self.client) << (REQUEST_BITS + POSITION_BITS))
            | (u64::from(self.request) << POSITION_BITS)
            | u64::from(self.position)
    }

    /// The inverse of [`ItemId::number`].
    pub fn from_number(number: u64) -> Option<Self> {
        let client = u16::try_from(number >> (REQUEST_BITS + POSITION_BITS)).ok().filter(|c| *c < MAX_CLIENTS)?;
        let request = (number >> POSITION_BITS) & ((1 << REQUEST_BITS) - 1);
        let position = number & ((1 << POSITION_BITS) - 1);
        Some(Self { client, request: request as u32, position: position as u16 })
    }

    /// The time of an item, in nanoseconds of the Unix epoch.
    pub fn time(self) -> u64 {
        FIRST_DAY + u64::from(self.client) % DAYS * DAY + self.number()
    }

    /// The item of a time; the inverse of [`ItemId::time`].
    pub fn from_time(time: u64) -> Option<Self> {
        let since = time.checked_sub(FIRST_DAY)?;
        Self::from_number(since % DAY).filter(|id| id.time() == time)
    }
}

impl std::fmt::Display for ItemId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "client {} request {} position {} (number {})",
            self.client,
            self.request,
            self.position,
            self.number()
        )
    }
}

/// Computes contents. Two with one seed agree.
#[derive(Debug, Clone, Copy)]
pub struct Contents {
    seed: u64,
}

/// What a request is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestPlan {
    /// What it carries.
    pub signal: Signal,
    /// How many items.
    pub items: u16,
}

/// What distinguishes the uses of random numbers.
#[derive(Debug, Clone, Copy)]
enum Purpose {
    Request = 1,
    Item,
    SpanId,
    TraceId,
    Resource,
    Scope,
    Series,
}

impl Contents {
    /// The contents of a run.
    pub fn new(seed: u64) -> Self {
        Self { seed }
    }

    fn random(self, purpose: Purpose, number: u64) -> StdRng {
        let mut seed = [0; 32];
        for (part, value) in seed.chunks_exact_mut(8).zip([self.seed, purpose as u64, number, 0]) {
            part.copy_from_slice(&value.to_le_bytes());
        }
        StdRng::from_seed(seed)
    }

    /// What a client's request of this number is made of. The first of each group of four carries the roots of the
    /// group's traces.
    pub fn plan(self, client: u16, request: u32) -> RequestPlan {
        let mut random = self.random(Purpose::Request, ItemId { client, request, position: 0 }.number());
        let signal = match random.random_range(0..10) {
            _ if request.is_multiple_of(GROUP) => Signal::Traces,
            0..4 => Signal::Traces,
            4..7 => Signal::Logs,
            _ => Signal::Metrics,
        };
        let most = if random.random_ratio(1, 40) { 400 } else { 25 };
        RequestPlan { signal, items: random.random_range(TRACES..=most) }
    }

    /// The bytes of a request.
    pub fn request(self, client: u16, request: u32) -> Vec<u8> {
        let plan = self.plan(client, request);
        let ids = (0..plan.items).map(|position| ItemId { client, request, position });
        let resource = Some(self.resource(client));
        let scope = Some(self.scope(scope_of(client)));
        let schema_url = RESOURCE_URL.to_owned();
        match plan.signal {
            Signal::Traces => {
                let spans = ids.map(|id| self.span(id)).collect();
                let scope_spans = vec![ScopeSpans { scope, spans, schema_url: SCOPE_URL.to_owned() }];
                let resource_spans = vec![ResourceSpans { resource, scope_spans, schema_url }];
                ExportTraceServiceRequest { resource_spans }.encode_to_vec()
            }
            Signal::Logs => {
                let log_records = ids.map(|id| self.log(id)).collect();
                let scope_logs = vec![ScopeLogs { scope, log_records, schema_url: SCOPE_URL.to_owned() }];
                let resource_logs = vec![ResourceLogs { resource, scope_logs, schema_url }];
                ExportLogsServiceRequest { resource_logs }.encode_to_vec()
            }
            Signal::Metrics => {
                let metrics = ids.map(|id| self.point(id)).collect();
                let scope_metrics = vec![ScopeMetrics { scope, metrics, schema_url: SCOPE_URL.to_owned() }];
                let resource_metrics = vec![ResourceMetrics { resource, scope_metrics, schema_url }];
                ExportMetricsServiceRequest { resource_metrics }.encode_to_vec()
            }
        }
    }

    /// A client's resource.
    pub fn resource(self, client: u16) -> Resource {
        let mut random = self.random(Purpose::Resource, u64::from(client));
        let mut attributes = vec![
            attribute("service.name", Value::StringValue(service_of(client))),
            attribute(CLIENT_KEY, Value::IntValue(i64::from(client))),
        ];
        attributes.extend(some_attributes(&mut random, 4));
        Resource { attributes, ..Resource::default() }
    }

    /// The scope of this number; see [`scope_of`].
    pub fn scope(self, number: u16) -> InstrumentationScope {
        let mut random = self.random(Purpose::Scope, u64::from(number));
        InstrumentationScope {
            name: "oracle".to_owned(),
            version: number.to_string(),
            attributes: some_attributes(&mut random, 2),
            dropped_attributes_count: 0,
        }
    }

    /// The trace that an item belongs to.
    pub fn trace_id(self, id: ItemId) -> [u8; 16] {
        let root = root_of(id);
        self.random(Purpose::TraceId, root.number()).random()
    }

    fn span_id(self, id: ItemId) -> [u8; 8] {
        self.random(Purpose::SpanId, id.number()).random()
    }

    /// The span of this number.
    pub fn span(self, id: ItemId) -> Span {
        let mut random = self.random(Purpose::Item, id.number());
        let root = root_of(id);
        let status = match random.random_range(0..10) {
            0 => Some(Status { code: 2, message: one_of(&mut random, &MESSAGES).to_owned() }),
            1..4 => Some(Status { code: 1, message: String::new() }),
            _ => None,
        };
        let start_time_unix_nano = id.time();
        let events = (0..random.random_range(0..3_u64)).map(|index| Event {
            time_unix_nano: start_time_unix_nano + index,
            name: one_of(&mut random, &["retry", "exception", "cache miss", "Wiederholung ü"]).to_owned(),
            attributes: some_attributes(&mut random, 2),
            dropped_attributes_count: random.random_range(0..2),
        });
        let events = events.collect();
        let links = (0..random.random_range(0..2)).map(|_| Link {
            trace_id: random.random::<[u8; 16]>().to_vec(),
            span_id: random.random::<[u8; 8]>().to_vec(),
            trace_state: String::new(),
            attributes: some_attributes(&mut random, 2),
            dropped_attributes_count: 0,
            flags: random.random_range(0..3),
        });
        let links = links.collect();
        Span {
            trace_id: self.trace_id(id).to_vec(),
            span_id: self.span_id(id).to_vec(),
            trace_state: if random.random_ratio(1, 5) { "vendor=a:b".to_owned() } else { String::new() },
            parent_span_id: if id == root { Vec::new() } else { self.span_id(root).to_vec() },
            flags: random.random_range(0..0x400),
            name: one_of(&mut random, &NAMES).to_owned(),
            kind: random.random_range(0..6),
            start_time_unix_nano,
            end_time_unix_nano: start_time_unix_nano + random.random_range(0..5_000_000_000),
            attributes: numbered_attributes(&mut random, id),
            dropped_attributes_count: random.random_range(0..2),
            events,
            dropped_events_count: random.random_range(0..2),
            links,
            dropped_links_count: random.random_range(0..2),
            status,
        }
    }

    /// The log record of this number.
    pub fn log(self, id: ItemId) -> LogRecord {
        let mut random = self.random(Purpose::Item, id.number());
        let body = if random.random_bool(0.7) {
            let text = format!("{} {}", one_of(&mut random, &MESSAGES), some_text(&mut random));
            Some(AnyValue { value: Some(Value::StringValue(text)) })
        } else {
            Some(AnyValue { value: some_value(&mut random, 2) })
        };
        LogRecord {
            time_unix_nano: id.time(),
            observed_time_unix_nano: if random.random_bool(0.5) { id.time() + 1_001 } else { 0 },
            severity_number: random.random_range(0..25),
            severity_text: one_of(&mut random, &["", "INFO", "WARN", "ERROR"]).to_owned(),
            body,
            attributes: numbered_attributes(&mut random, id),
            dropped_attributes_count: random.random_range(0..2),
            flags: random.random_range(0..2),
            trace_id: self.trace_id(id).to_vec(),
            span_id: self.span_id(root_of(id)).to_vec(),
            event_name: one_of(&mut random, &["", "oracle.event"]).to_owned(),
        }
    }

    /// The data point of this number, as a metric of its own. Each client has one series of each kind.
    pub fn point(self, id: ItemId) -> Metric {
        let mut random = self.random(Purpose::Item, id.number());
        let kind = random.random_range(0..6_u64);
        let attributes = some_attributes(&mut self.random(Purpose::Series, u64::from(id.client) * 16 + kind), 3);
        let time_unix_nano = id.time();
        let start_time_unix_nano = if random.random_bool(0.8) { time_unix_nano - 1_000_000_007 } else { 0 };
        let flags = random.random_range(0..2);
        let exemplars = self.exemplars(&mut random, id);
        let data = match kind {
            0 | 1 => {
                let value = Some(if kind == 0 {
                    number_data_point::Value::AsInt(random.random())
                } else {
                    number_data_point::Value::AsDouble(some_double(&mut random))
                });
                let point =
                    NumberDataPoint { attributes, start_time_unix_nano, time_unix_nano, exemplars, flags, value };
                metric::Data::Gauge(Gauge { data_points: vec![point] })
            }
            2 => {
                let value = Some(number_data_point::Value::AsInt(random.random_range(0..1 << 40)));
                let point =
                    NumberDataPoint { attributes, start_time_unix_nano, time_unix_nano, exemplars, flags, value };
                metric::Data::Sum(Sum { data_points: vec![point], aggregation_temporality: 2, is_monotonic: true })
            }
            3 => {
                let point = HistogramDataPoint {
                    attributes,
                    start_time_unix_nano,
                    time_unix_nano,
                    count: random.random_range(0..1 << 40),
                    sum: Some(some_double(&mut random)),
                    bucket_counts: (0..4).map(|_| random.random_range(0..1_000_000)).collect(),
                    explicit_bounds: vec![0.005, 1.0, 7.5],
                    exemplars,
                    flags,
                    min: random.random_bool(0.5).then_some(-1.5),
                    max: random.random_bool(0.5).then_some(1e18),
                };
                metric::Data::Histogram(Histogram { data_points: vec![point], aggregation_temporality: 1 })
            }
            4 => {
                let mut buckets = || {
                    let bucket_counts = (0..random.random_range(0..6)).map(|_| random.random_range(0..99)).collect();
                    Buckets { offset: random.random_range(-9..9), bucket_counts }
                };
                let (positive, negative) = (Some(buckets()), Some(buckets()));
                let point = ExponentialHistogramDataPoint {
                    attributes,
                    start_time_unix_nano,
                    time_unix_nano,
                    count: random.random_range(0..1 << 40),
                    sum: Some(some_double(&mut random)),
                    scale: random.random_range(-4..9),
                    zero_count: random.random_range(0..9),
                    positive,
                    negative,
                    flags,
                    exemplars,
                    min: None,
                    max: Some(3.25),
                    zero_threshold: 0.125,
                };
                metric::Data::ExponentialHistogram(ExponentialHistogram {
                    data_points: vec![point],
                    aggregation_temporality: 1,
                })
            }
            _ => {
                // Protobuf leaves out a field that equals 0, as -0.0 does, unless it is optional.
                let mut some_double = || some_double(&mut random) + 0.0;
                let sum = some_double();
                let quantile_values =
                    [0.5, 0.99].map(|quantile| ValueAtQuantile { quantile, value: some_double() }).to_vec();
                let point = SummaryDataPoint {
                    attributes,
                    start_time_unix_nano,
                    time_unix_nano,
                    count: random.random_range(0..1 << 40),
                    sum,
                    quantile_values,
                    flags,
                };
                metric::Data::Summary(Summary { data_points: vec![point] })
            }
        };
        Metric {
            name: format!("oracle.metric.{kind}"),
            description: "numbered by time".to_owned(),
            unit: "By".to_owned(),
            metadata: Vec::new(),
            data: Some(data),
        }
    }

    fn exemplars(self, random: &mut StdRng, id: ItemId) -> Vec<Exemplar> {
        if random.random_bool(0.7) {
            return Vec::new();
        }
        vec![Exemplar {
            filtered_attributes: some_attributes(random, 2),
            time_unix_nano: id.time(),
            span_id: self.span_id(id).to_vec(),
            trace_id: self.trace_id(id).to_vec(),
            value: Some(exemplar::Value::AsInt(random.random())),
        }]
    }
}

/// The schema URL of every resource.
pub const RESOURCE_URL: &str = "https://opentelemetry.io/schemas/1.30.0";
/// The schema URL of every scope.
pub const SCOPE_URL: &str = "https://opentelemetry.io/schemas/1.29.0";

/// The service of a client.
pub fn service_of(client: u16) -> String {
    format!("oracle-{}", client % 7)
}

/// The scope of a client.
pub fn scope_of(client: u16) -> u16 {
    client % 5
}

/// The root span of an item's trace.
fn root_of(id: ItemId) -> ItemId {
    ItemId { request: id.request - id.request % GROUP, position: id.position % TRACES, ..id }
}

// Few words: a trace's text is embedded once per distinct text, and the oracle does not test the embedding.
const NAMES: [&str; 4] = ["GET /cart", "charge", "SELECT orders", "publish größe"];
const MESSAGES: [&str; 3] = ["connection refused", "deadline exceeded", "kein Platz mehr: ✗"];

fn one_of<'a>(random: &mut StdRng, choices: &[&'a str]) -> &'a str {
    choices[random.random_range(0..choices.len())]
}

fn attribute(key: &str, value: Value) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }), key_strindex: 0 }
}

fn numbered_attributes(random: &mut StdRng, id: ItemId) -> Vec<KeyValue> {
    let mut attributes = some_attributes(random, 8);
    if random.random_ratio(1, 500) {
        let size = random.random_range(1..=LARGE);
        let start = random.random_range(0..26);
        // Long runs would compress to nothing, so the letters move on unevenly.
        let letters = (0..size).map(|i| char::from(b'a' + ((start + i * i / 7) % 26) as u8)).collect();
        attributes.push(attribute("large", Value::StringValue(letters)));
    }
    let place = random.random_range(0..=attributes.len());
    attributes.insert(place, attribute(ITEM_KEY, Value::IntValue(id.number() as i64)));
    attributes
}

/// Up to `most` attributes of any kind with distinct keys, in no order.
fn some_attributes(random: &mut StdRng, most: usize) -> Vec<KeyValue> {
    let count = random.random_range(0..=most);
    let mut attributes: Vec<KeyValue> = (0..count)
        .map(|index| {
            let key = format!("{}{index}", one_of(random, &["k", "http.route", "größe", "a.b.c", "嗨"]));
            KeyValue { key, value: Some(AnyValue { value: some_value(random, 2) }), key_strindex: 0 }
        })
        .collect();
    if count > 1 {
        attributes.swap(0, count - 1);
    }
    attributes
}

fn some_value(random: &mut StdRng, depth: u32) -> Option<Value> {
    Some(match random.random_range(0..if depth == 0 { 7 } else { 10 }) {
        0 | 1 => Value::StringValue(some_text(random)),
        2 => Value::BoolValue(random.random()),
        3 | 4 => Value::IntValue(random.random()),
        5 => Value::DoubleValue(some_double(random)),
        6 => Value::BytesValue((0..random.random_range(0..20)).map(|_| random.random::<u8>()).collect()),
        7 => {
            let values = (0..random.random_range(0..4)).map(|_| AnyValue { value: some_value(random, depth - 1) });
            Value::ArrayValue(ArrayValue { values: values.collect() })
        }
        8 => {
            let values = (0..random.random_range(0..4)).map(|index| KeyValue {
                key: format!("m{index}"),
                value: Some(AnyValue { value: some_value(random, depth - 1) }),
                key_strindex: 0,
            });
            Value::KvlistValue(KeyValueList { values: values.collect() })
        }
        _ => return None,
    })
}

fn some_double(random: &mut StdRng) -> f64 {
    match random.random_range(0..12) {
        0 => f64::NAN,
        1 => f64::INFINITY,
        2 => f64::NEG_INFINITY,
        3 => -0.0,
        4 => 1e300 * random.random::<f64>(),
        5 => f64::from(random.random::<i32>()),
        _ => random.random::<f64>() * 1e6 - 5e5,
    }
}

fn some_text(random: &mut StdRng) -> String {
    let pieces = ["abc", "ü", "嗨", "\u{0}", "\"", "\\", "\n", "🦀", " ", "0", "'", "\u{7f}", "%s", "\u{2028}"];
    (0..random.random_range(0..12)).map(|_| one_of(random, &pieces)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_times_name_their_item() {
        for (client, request, position) in [(0, 0, 0), (1, 2, 3), (MAX_CLIENTS - 1, (1 << 22) - 1, 1023)] {
            let id = ItemId { client, request, position };
            assert_eq!(ItemId::from_number(id.number()), Some(id));
            assert_eq!(ItemId::from_time(id.time()), Some(id));
        }
        assert_eq!(ItemId::from_time(FIRST_DAY + DAY + 1), None, "client 0 is on the first day");
        assert_eq!(ItemId::from_time(1), None);
    }

    #[test]
    fn a_request_is_the_same_bytes_each_time_and_another_with_another_seed() {
        let contents = Contents::new(1);
        for request in 0..40 {
            assert_eq!(contents.request(3, request), contents.request(3, request));
            assert_ne!(contents.request(3, request), Contents::new(2).request(3, request));
        }
    }

    #[test]
    fn traces_reach_over_requests_and_have_one_root() {
        let contents = Contents::new(7);
        let id = |request, position| ItemId { client: 2, request, position };
        let root = contents.span(id(4, 1));
        assert!(root.parent_span_id.is_empty());
        for later in [contents.span(id(4, 7)), contents.span(id(6, 1)), contents.span(id(7, 10))] {
            assert_eq!(later.trace_id, root.trace_id);
            assert_eq!(later.parent_span_id, root.span_id);
        }
        assert_ne!(contents.span(id(4, 2)).trace_id, root.trace_id);
        assert_ne!(contents.span(id(8, 1)).trace_id, root.trace_id);
    }
}
