//! One trace: a walk through the plans of the operations.

use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use opentelemetry_proto::tonic::trace::v1::span::{Event, SpanKind};
use opentelemetry_proto::tonic::trace::v1::{Span, Status, status::StatusCode};
use rand::Rng as _;
use rand::rngs::StdRng;

use super::company::{Company, Place, Step, Way};
use super::fault::Fault;
use super::record::{Recorder, number, text};
use super::words::{IDLE_LINES, LINES, USER_AGENTS};

const MICROSECOND: u64 = 1_000;
const MILLISECOND: u64 = 1_000_000;
/// Deeper than any chain of calls between tiers.
const MAX_DEPTH: u32 = 6;

const INFO: i32 = 9;
const WARN: i32 = 13;
const ERROR: i32 = 17;

/// Records the trace with this number.
pub(super) fn trace<'a>(company: &'a Company, trace: u64, recorder: &mut Recorder<'a>) {
    let mut random = company.random_of(trace);
    let entry = company.entries[random.random_range(0..company.entries.len())];
    let start = company.start_of(trace);
    let mut walk =
        Walk { company, recorder, trace_id: company.trace_id(trace).to_vec(), spans: 0, random: &mut random };
    walk.operation(entry, &[], start, 0);
    walk.idle(entry.service, start);
}

struct Walk<'a, 'b> {
    company: &'a Company,
    recorder: &'b mut Recorder<'a>,
    trace_id: Vec<u8>,
    spans: u64,
    random: &'b mut StdRng,
}

/// How something ended: when, and the failure that goes up.
type Ended = (u64, Option<Problem>);

#[derive(Debug, Clone)]
struct Problem {
    fault: Fault,
    message: String,
}

impl Walk<'_, '_> {
    /// The server's side of an operation.
    fn operation(&mut self, place: Place, parent: &[u8], start: u64, depth: u32) -> Ended {
        let company = self.company;
        let operation = company.operation(place);
        let service = &company.services[place.service];
        let span_id = self.span_id();
        let mut now = start + self.about(operation.work_us * MICROSECOND / 2);
        let mut problem = None;
        for (index, step) in operation.steps.iter().enumerate() {
            let fault = company.fault(place, index, start, self.random);
            let (ended, failed) = self.step(place, step, &span_id, now, fault, depth);
            now = ended;
            if let Some(failed) = failed {
                if operation.forgives && matches!(step, Step::Call(_)) {
                    let line = format!("falling back to defaults: {}", failed.message);
                    self.log(place.service, &span_id, now, WARN, line);
                    continue;
                }
                let line = format!(
                    "{} failed: {}: {}",
                    name_of(operation.way, operation.entity),
                    failed.fault.kind,
                    failed.message
                );
                self.log(place.service, &span_id, now, ERROR, line);
                problem = Some(failed);
                break;
            }
        }
        for &line in &operation.lines {
            let line = self.fill(LINES[line], operation.entity);
            self.log(place.service, &span_id, now, INFO, line);
        }
        now += self.about(operation.work_us * MICROSECOND / 2);
        let status = problem.as_ref().map_or(200, |problem| problem.fault.status);
        let kind = match operation.way {
            Way::Http { .. } | Way::Rpc { .. } => SpanKind::Server,
            Way::Queue => SpanKind::Consumer,
            Way::Schedule => SpanKind::Internal,
        };
        let id = self.id();
        let attributes = self.served(operation.way, operation.entity, service.modern, status, &id);
        let span = Span {
            parent_span_id: parent.to_vec(),
            name: name_of(operation.way, operation.entity),
            kind: kind as i32,
            attributes,
            ..self.span(span_id, start, now)
        };
        // A client's mistake is no failure of the server.
        let failed = problem.as_ref().is_some_and(|problem| problem.fault.status >= 500);
        self.recorder.span(place.service, with_status(span, failed, None));
        (now, problem)
    }

    fn step(&mut self, at: Place, step: &Step, parent: &[u8], start: u64, fault: Option<Fault>, depth: u32) -> Ended {
        match step {
            Step::Call(to) if depth < MAX_DEPTH => self.call(at, *to, parent, start, fault, depth),
            Step::Query { verb, times } => {
                let mut now = start;
                for time in 0..*times {
                    let fault = fault.filter(|_| time + 1 == *times);
                    let (ended, problem) = self.query(at, verb, parent, now, fault);
                    now = ended;
                    if problem.is_some() {
                        return (now, problem);
                    }
                }
                (now, None)
            }
            Step::Cache => {
                let attributes = self.database(at, "redis", "GET", "cache");
                self.leaf(at, "GET", SpanKind::Client, attributes, parent, start, 600 * MICROSECOND, fault)
            }
            Step::Publish => {
                let topic = format!("{}-events", self.company.operation(at).entity);
                let attributes = vec![
                    text("messaging.system", "kafka"),
                    text("messaging.destination.name", &topic),
                    text("messaging.operation.type", "send"),
                    number("messaging.batch.message_count", self.random.random_range(1..20)),
                    text("messaging.message.id", self.id()),
                    text("server.address", "kafka-0.internal"),
                    number("server.port", 9092),
                ];
                self.leaf(
                    at,
                    &format!("send {topic}"),
                    SpanKind::Producer,
                    attributes,
                    parent,
                    start,
                    2 * MILLISECOND,
                    fault,
                )
            }
            Step::Model => {
                let attributes = vec![
                    text("gen_ai.operation.name", "chat"),
                    text("gen_ai.provider.name", "openai"),
                    text("gen_ai.request.model", "gpt-5-mini"),
                    text("gen_ai.response.model", "gpt-5-mini-2026-04-01"),
                    number("gen_ai.usage.input_tokens", self.random.random_range(200..9_000)),
                    number("gen_ai.usage.output_tokens", self.random.random_range(20..900)),
                    text("gen_ai.response.id", self.id()),
                    text("server.address", "api.openai.example"),
                ];
                self.leaf(at, "chat gpt-5-mini", SpanKind::Client, attributes, parent, start, 900 * MILLISECOND, fault)
            }
            Step::Work(name) => {
                let attributes = vec![
                    text("code.function.name", name.replace(' ', "_")),
                    number("thread.id", self.random.random_range(1..64)),
                    text("thread.name", "worker"),
                    number("items", self.random.random_range(1..500)),
                ];
                self.leaf(at, name, SpanKind::Internal, attributes, parent, start, 3 * MILLISECOND, fault)
            }
            Step::Call(_) => (start, None),
        }
    }

    /// The caller's side of an operation, and with it the other.
    fn call(&mut self, at: Place, to: Place, parent: &[u8], start: u64, fault: Option<Fault>, depth: u32) -> Ended {
        let company = self.company;
        let operation = company.operation(to);
        let peer = &company.services[to.service].name;
        let modern = company.services[at.service].modern;
        let span_id = self.span_id();
        let (ended, problem) = if let Some(fault) = fault {
            (start + fault.waits_ms * MILLISECOND, Some(self.problem(fault, peer)))
        } else {
            let network = self.about(400 * MICROSECOND);
            let (ended, problem) = self.operation(to, &span_id, start + network, depth + 1);
            (ended + network, problem)
        };
        let status = problem.as_ref().map_or(200, |problem| problem.fault.status);
        let id = self.id();
        let mut attributes = self.served(operation.way, operation.entity, modern, status, &id);
        attributes.extend([text("peer.service", peer), number("server.port", 8080)]);
        let span = Span {
            parent_span_id: parent.to_vec(),
            name: name_of(operation.way, operation.entity),
            kind: if operation.way == Way::Queue { SpanKind::Producer } else { SpanKind::Client } as i32,
            attributes,
            ..self.span(span_id, start, ended)
        };
        // The exception belongs to whoever met it first.
        let own = problem.as_ref().filter(|_| fault.is_some());
        self.recorder.span(at.service, with_status(span, problem.is_some(), own.map(|problem| (problem, ended))));
        (ended, problem)
    }

    fn query(&mut self, at: Place, verb: &str, parent: &[u8], start: u64, fault: Option<Fault>) -> Ended {
        let (entity, system) = (self.company.operation(at).entity, self.company.services[at.service].database);
        let attributes = self.database(at, system, verb, entity);
        let name = format!("{verb} {entity}");
        self.leaf(at, &name, SpanKind::Client, attributes, parent, start, 2 * MILLISECOND, fault)
    }

    /// A span without children.
    #[expect(clippy::too_many_arguments, reason = "a span has that many sides")]
    fn leaf(
        &mut self,
        at: Place,
        name: &str,
        kind: SpanKind,
        attributes: Vec<KeyValue>,
        parent: &[u8],
        start: u64,
        usual: u64,
        fault: Option<Fault>,
    ) -> Ended {
        let peer = format!("{}.internal", self.company.services[at.service].database);
        let problem = fault.map(|fault| self.problem(fault, &peer));
        let end =
            start + problem.as_ref().map_or_else(|| self.about(usual), |problem| problem.fault.waits_ms * MILLISECOND);
        let span_id = self.span_id();
        let span = Span {
            parent_span_id: parent.to_vec(),
            name: name.to_owned(),
            kind: kind as i32,
            attributes,
            ..self.span(span_id, start, end)
        };
        let span = with_status(span, problem.is_some(), problem.as_ref().map(|problem| (problem, end)));
        self.recorder.span(at.service, span);
        (end, problem)
    }

    /// What an instance says of itself.
    fn idle(&mut self, service: usize, at: u64) {
        for _ in 0..self.random.random_range(0..4) {
            let line = IDLE_LINES[self.random.random_range(0..IDLE_LINES.len())];
            let line = self.fill(line, "");
            let record = log_record(at, INFO, line);
            self.recorder.log(service, record);
        }
    }

    fn log(&mut self, service: usize, span_id: &[u8], at: u64, severity: i32, line: String) {
        let record = LogRecord {
            trace_id: self.trace_id.clone(),
            span_id: span_id.to_vec(),
            flags: 1,
            ..log_record(at, severity, line)
        };
        self.recorder.log(service, record);
    }

    fn span(&self, span_id: Vec<u8>, start: u64, end: u64) -> Span {
        Span {
            trace_id: self.trace_id.clone(),
            span_id,
            start_time_unix_nano: start,
            end_time_unix_nano: end,
            flags: 1,
            ..Span::default()
        }
    }

    /// Attributes of both sides of an operation.
    fn served(&mut self, way: Way, entity: &str, modern: bool, status: i64, id: &str) -> Vec<KeyValue> {
        match way {
            Way::Http { method, rest } => {
                let route = format!("/{entity}{rest}");
                let path = route.replace("{id}", id);
                let (method_key, status_key, path_key, agent_key) = if modern {
                    ("http.request.method", "http.response.status_code", "url.path", "user_agent.original")
                } else {
                    ("http.method", "http.status_code", "http.target", "http.user_agent")
                };
                vec![
                    text(method_key, method),
                    text("http.route", route),
                    text(path_key, path),
                    number(status_key, status),
                    text(agent_key, USER_AGENTS[self.random.random_range(0..USER_AGENTS.len())]),
                    text("server.address", "edge.example"),
                    text("client.address", format!("198.51.100.{}", self.random.random_range(1..255))),
                    text("network.protocol.version", "1.1"),
                    text("enduser.id", format!("u-{}", self.random.random_range(0..50_000))),
                    text("tenant", format!("t-{}", self.random.random_range(0..200))),
                    text("request.id", id),
                ]
            }
            Way::Rpc { verb } => vec![
                text(if modern { "rpc.system.name" } else { "rpc.system" }, "grpc"),
                text("rpc.service", format!("retail.{entity}")),
                text("rpc.method", format!("{verb}{entity}")),
                number("rpc.grpc.status_code", if status < 400 { 0 } else { 13 }),
                text("client.address", format!("10.8.0.{}", self.random.random_range(1..255))),
                number("thread.id", self.random.random_range(1..64)),
                text("tenant", format!("t-{}", self.random.random_range(0..200))),
                text("request.id", id),
            ],
            Way::Queue => vec![
                text("messaging.system", "kafka"),
                text("messaging.destination.name", format!("{entity}-events")),
                text("messaging.operation.type", "process"),
                text("messaging.consumer.group.name", format!("{entity}-workers")),
                number("messaging.kafka.message.offset", self.random.random_range(0..1_000_000)),
                text("messaging.message.id", id),
                number("thread.id", self.random.random_range(1..64)),
            ],
            Way::Schedule => vec![
                text("job.name", entity),
                text("job.id", id),
                text("job.trigger", "cron"),
                number("job.attempt", 1),
                number("thread.id", self.random.random_range(1..64)),
            ],
        }
    }

    fn database(&mut self, at: Place, system: &str, verb: &str, collection: &str) -> Vec<KeyValue> {
        let service = &self.company.services[at.service];
        let (system_key, verb_key, collection_key, text_key) = if service.modern {
            ("db.system.name", "db.operation.name", "db.collection.name", "db.query.text")
        } else {
            ("db.system", "db.operation", "db.sql.table", "db.statement")
        };
        vec![
            text(system_key, system),
            text("db.namespace", &service.name),
            text(verb_key, verb),
            text(collection_key, collection),
            text(text_key, format!("{verb} {collection} WHERE id = ?")),
            text("server.address", format!("{system}.internal")),
            number("server.port", 5432),
            text("network.peer.address", format!("10.1.{}.9", self.random.random_range(0..8))),
            number("db.response.returned_rows", self.random.random_range(0..50)),
            number("thread.id", self.random.random_range(1..64)),
            text("thread.name", "pool-1-thread"),
        ]
    }

    fn problem(&mut self, fault: Fault, host: &str) -> Problem {
        let message = self.fill(fault.message, "").replace("{host}", host);
        Problem { fault, message }
    }

    fn fill(&mut self, line: &str, entity: &str) -> String {
        let number = self.random.random_range(1..200).to_string();
        let host = format!("node-{}.internal", self.random.random_range(0..30));
        let filled = line.replace("{entity}", entity).replace("{id}", &self.id()).replace("{n}", &number);
        if line.starts_with("no answer") || line.starts_with("lookup") {
            filled
        } else {
            filled.replace("{host}", &host)
        }
    }

    fn id(&mut self) -> String {
        format!("{:08x}", self.random.random::<u32>())
    }

    fn span_id(&mut self) -> Vec<u8> {
        self.spans += 1;
        let mut id = [0; 8];
        id.copy_from_slice(&self.trace_id[..8]);
        (u64::from_be_bytes(id).wrapping_add(self.spans) | 1 << 63).to_be_bytes().to_vec()
    }

    /// Usually near the usual, sometimes far above it.
    fn about(&mut self, usual: u64) -> u64 {
        let factor = match self.random.random_range(0..100) {
            0..80 => self.random.random_range(70..130),
            80..97 => self.random.random_range(130..300),
            _ => self.random.random_range(300..2_000),
        };
        usual * factor / 100
    }
}

fn name_of(way: Way, entity: &str) -> String {
    match way {
        Way::Http { method, rest } => format!("{method} /{entity}{rest}"),
        Way::Rpc { verb } => format!("retail.{entity}/{verb}{entity}"),
        Way::Queue => format!("process {entity}-events"),
        Way::Schedule => format!("job {entity}"),
    }
}

fn with_status(mut span: Span, failed: bool, thrown: Option<(&Problem, u64)>) -> Span {
    if failed {
        let message = thrown.map(|(problem, _)| problem.message.clone()).unwrap_or_default();
        span.status = Some(Status { code: StatusCode::Error as i32, message });
    }
    if let Some((problem, at)) = thrown {
        span.attributes.push(text("error.type", problem.fault.kind));
        span.events.push(Event {
            time_unix_nano: at,
            name: "exception".to_owned(),
            attributes: vec![
                text("exception.type", problem.fault.kind),
                text("exception.message", &problem.message),
                text(
                    "exception.stacktrace",
                    format!("{}: {}\n\tat com.example.Main.run(Main.java:42)", problem.fault.kind, problem.message),
                ),
            ],
            ..Event::default()
        });
    }
    span
}

fn log_record(at: u64, severity: i32, line: String) -> LogRecord {
    LogRecord {
        time_unix_nano: at,
        observed_time_unix_nano: at + MILLISECOND,
        severity_number: severity,
        severity_text: match severity {
            ERROR => "ERROR",
            WARN => "WARN",
            _ => "INFO",
        }
        .to_owned(),
        body: Some(AnyValue { value: Some(Value::StringValue(line)) }),
        attributes: vec![text("logger", "com.example.Main"), number("thread.id", 7)],
        ..LogRecord::default()
    }
}
