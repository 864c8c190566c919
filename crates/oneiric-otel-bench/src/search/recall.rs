//! How many of the nearest texts the vector index finds: `oneiric-otel bench search --recall N`.
//!
//! As many traces of two spans are stored as asked for, each with a text of its own: who failed, calling whom, doing what
//! and why, of some half a million combinations. The labelled sets are stored beside them. Then the product's own calls are
//! asked twice, once as everybody asks and once with every vector compared, and the first ten are laid side by side.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use oneiric_otel::embed::{EmbedOptions, Embedder, EmbeddingWorker};
use oneiric_otel::otlp::Signal;
use oneiric_otel::query::{NearRequest, QueryService, SearchMode, SearchRequest, TextHit, TraceFilter, TracesRequest};
use oneiric_otel::store::Database;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::trace::v1::span::{Event, SpanKind};
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, Span, Status};
use prost::Message as _;
use serde::Serialize;

use super::faults::{attribute, of_service, text};
use super::measure::DEPTH;
use super::{Scope, make_searchable, refuse_other_telemetry, sets, store};
use crate::fill::Watcher;
use crate::generate::words::{HTTP, SERVICES};

/// When the traces begin.
pub(super) const TIME: (&str, &str) = ("2024-11-01T00:00:00Z", "2024-12-01T00:00:00Z");
/// From one trace to the next.
const STEP: Duration = Duration::from_secs(20);
const TRACES_OF_A_REQUEST: usize = 500;
/// Texts of the database that are asked for what is near them.
const TEXTS_ASKED: usize = 200;
const MILLISECOND: u64 = 1_000_000;

/// Types and messages of failures; `{}` is what the failing service looks after.
const FAILURES: [(&str, &str); 32] = [
    ("ConnectionRefusedError", "[Errno 111] Connection refused"),
    ("java.net.SocketTimeoutException", "Read timed out"),
    ("DEADLINE_EXCEEDED", "context deadline exceeded"),
    ("org.springframework.dao.DuplicateKeyException", "a {} with this key is already there"),
    ("ValidationError", "{}.currency must be one of EUR, USD, GBP"),
    ("ValidationError", "{}.email is not an address"),
    ("RateLimitError", "too many {} requests in this minute"),
    ("KeyError", "'{}_owner'"),
    ("NullPointerException", "Cannot invoke \"String.trim()\" because \"{}.name\" is null"),
    ("PermissionDenied", "caller may not change the {}"),
    ("UNAUTHENTICATED", "token is from an unknown issuer"),
    ("x509.UnknownAuthorityError", "certificate signed by unknown authority"),
    ("OutOfMemoryError", "Java heap space while sorting {} list"),
    ("DeadlockLoserDataAccessException", "deadlock found when locking the {} row"),
    ("OptimisticLockException", "{} was changed by another transaction"),
    ("JSONDecodeError", "Expecting value: line 1 column 1 (char 0) in the {} payload"),
    ("IllegalStateException", "{} is closed and cannot be opened again"),
    ("NoSuchElementException", "no {} with this number"),
    ("ConnectionResetError", "connection reset by peer while streaming {} rows"),
    ("UnknownHostException", "name or service not known"),
    ("ResourceExhausted", "queue of {} writes is full"),
    ("CircuitBreakerOpenException", "breaker is open and does not permit further calls"),
    ("ZeroDivisionError", "division by zero in the share of {}"),
    ("IndexOutOfBoundsException", "Index 12 out of bounds for length 12"),
    ("UnsupportedOperation", "{} cannot be merged yet"),
    ("DiskQuotaExceeded", "no space left for the {} file"),
    ("SchemaMismatch", "field {}_version is an integer, expected a string"),
    ("TemplateNotFound", "mail/{}.html"),
    ("InsufficientFunds", "the {} exceeds what is left"),
    ("CursorExpired", "scroll over {} took longer than a minute"),
    ("FeatureDisabled", "new {} flow is switched off"),
    ("ChecksumError", "stored {} differs from its checksum"),
];

/// What was found out about the index.
#[derive(Debug, Clone, Serialize)]
pub struct RecallReport {
    /// The model of the vectors.
    pub model: String,
    /// Traces with a text of their own, beside the labelled sets.
    pub texts: usize,
    /// Whether there were enough vectors for the index. Without it every vector is compared either way.
    pub indexed: bool,
    /// Each way to ask.
    pub ways: Vec<Recall>,
}

/// Agreement of the index with a comparison of every vector.
#[derive(Debug, Clone, Serialize)]
pub struct Recall {
    /// How it was asked.
    pub way: &'static str,
    /// What the answers had to pass.
    pub filter: &'static str,
    /// Questions.
    pub asked: usize,
    /// Of the first ten texts by every vector, the share that is among the first ten of the usual answer.
    pub recall: f64,
    /// The least of any question.
    pub least: f64,
    /// Median of the usual answer, in milliseconds.
    pub usual_ms: f64,
    /// Median with every vector compared.
    pub exact_ms: f64,
}

/// Stores `texts` traces and the labelled sets, and measures. The schema must be migrated.
///
/// # Errors
/// When something cannot be stored, embedded or asked.
pub async fn run(
    database: &Database,
    embedder: Arc<dyn Embedder>,
    scope: Scope<'_>,
    texts: usize,
    watcher: &impl Watcher,
) -> Result<RecallReport> {
    let service = QueryService::new(database.clone(), Some(Arc::clone(&embedder)));
    refuse_other_telemetry(&service).await?;
    let mut questions = Vec::new();
    for mut set in sets::load(scope.data)? {
        watcher.step(&format!("storing {}", set.name), None);
        store(database, &mut set).await?;
        questions.extend(set.questions.into_iter().chain(set.unseen).map(|question| question.text));
    }
    watcher.step("storing composed traces", None);
    let requests = (0..texts).step_by(TRACES_OF_A_REQUEST).map(move |first| request(first, texts));
    super::send(database, requests.map(|body| Ok((Signal::Traces, body?)))).await?;
    make_searchable(database, &embedder, watcher).await?;
    watcher.step("building the index on vectors", None);
    let worker = EmbeddingWorker::new(database.clone(), Arc::clone(&embedder), EmbedOptions::default(), Arc::default());
    let indexed = worker.build_index().await?;

    watcher.step("asking", None);
    let exact = QueryService::new(database.clone(), Some(Arc::clone(&embedder))).comparing_every_vector();
    let near = near_texts(&service, &embedder, texts).await?;
    let mut ways = Vec::new();
    for (name, filter) in filters()? {
        let pair = Pair { usual: &service, exact: &exact, filter_name: name, filter };
        ways.push(pair.search(&questions).await?);
        ways.push(pair.near(&near).await?);
    }
    Ok(RecallReport { model: embedder.model().to_string(), texts, indexed, ways })
}

/// A service and a time that few of the composed traces are of, and none.
fn filters() -> Result<Vec<(&'static str, TraceFilter)>> {
    let begin: Timestamp = TIME.0.parse()?;
    let service = TraceFilter { service: Some(SERVICES[7].0.to_owned()), ..TraceFilter::default() };
    let hour = TraceFilter {
        since: Some(begin + SignedDuration::from_hours(5)),
        until: Some(begin + SignedDuration::from_hours(6)),
        ..TraceFilter::default()
    };
    Ok(vec![("none", TraceFilter::default()), ("one service", service), ("one hour", hour)])
}

/// The vectors of some composed texts.
async fn near_texts(service: &QueryService, embedder: &Arc<dyn Embedder>, texts: usize) -> Result<Vec<Vec<f32>>> {
    let filter = TraceFilter { since: Some(TIME.0.parse()?), until: Some(TIME.1.parse()?), ..TraceFilter::default() };
    let mut page = TracesRequest::new(filter, 1000);
    let mut all = Vec::with_capacity(texts);
    loop {
        let traces = service.find_traces(&page).await?;
        all.extend(traces.traces.into_iter().filter_map(|trace| trace.text));
        page.cursor = traces.next;
        if page.cursor.is_none() {
            break;
        }
    }
    ensure!(all.len() >= texts, "of {texts} composed traces {} are there", all.len());
    let every = all.len().div_ceil(TEXTS_ASKED).max(1);
    let chosen: Vec<String> = all.into_iter().step_by(every).collect();
    super::original::embed(embedder, chosen).await
}

/// The two services that are compared, and what their answers must pass.
struct Pair<'a> {
    usual: &'a QueryService,
    exact: &'a QueryService,
    filter_name: &'static str,
    filter: TraceFilter,
}

impl Pair<'_> {
    async fn search(&self, questions: &[String]) -> Result<Recall> {
        let mut seen = Seen::default();
        for question in questions {
            let request = SearchRequest { text: question.clone(), limit: DEPTH, filter: self.filter.clone() };
            let ask = |service: &QueryService| {
                let (service, request) = (service.clone(), request.clone());
                async move { Ok(service.search_traces_by(&request, SearchMode::Meaning).await?.hits) }
            };
            seen.add(&timed(ask(self.usual)).await?, &timed(ask(self.exact)).await?);
        }
        seen.recall("search by meaning", self.filter_name)
    }

    async fn near(&self, vectors: &[Vec<f32>]) -> Result<Recall> {
        let mut seen = Seen::default();
        for vector in vectors {
            let filter = self.filter.clone();
            let request = NearRequest { embedding: vector.clone(), threshold: 0.0, limit: DEPTH, filter };
            let ask = |service: &QueryService| {
                let (service, request) = (service.clone(), request.clone());
                async move { Ok(service.find_traces_near(&request).await?) }
            };
            seen.add(&timed(ask(self.usual)).await?, &timed(ask(self.exact)).await?);
        }
        seen.recall("similar to an embedding", self.filter_name)
    }
}

/// Answers side by side.
#[derive(Default)]
struct Seen {
    shares: Vec<f64>,
    usual: Vec<Duration>,
    exact: Vec<Duration>,
}

impl Seen {
    fn add(&mut self, usual: &(Vec<TextHit>, Duration), exact: &(Vec<TextHit>, Duration)) {
        self.shares.extend(share(&usual.0, &exact.0));
        self.usual.push(usual.1);
        self.exact.push(exact.1);
    }

    fn recall(mut self, way: &'static str, filter: &'static str) -> Result<Recall> {
        ensure!(!self.shares.is_empty(), "{way} found nothing at all");
        Ok(Recall {
            way,
            filter,
            asked: self.shares.len(),
            recall: self.shares.iter().sum::<f64>() / self.shares.len() as f64,
            least: self.shares.iter().copied().fold(1.0, f64::min),
            usual_ms: median_ms(&mut self.usual).context("no question was asked")?,
            exact_ms: median_ms(&mut self.exact).context("no question was asked")?,
        })
    }
}

/// Which share of the exact answer the usual one has; none for an answer that is empty. Texts that are equally near are as good as
/// each other.
fn share(usual: &[TextHit], exact: &[TextHit]) -> Option<f64> {
    let last = exact.last()?.cosine?;
    let found = usual.iter().filter(|hit| hit.cosine.is_some_and(|cosine| cosine >= last)).count();
    Some(found.min(exact.len()) as f64 / exact.len() as f64)
}

async fn timed<T>(answer: impl Future<Output = Result<T>>) -> Result<(T, Duration)> {
    let began = Instant::now();
    Ok((answer.await?, began.elapsed()))
}

fn median_ms(times: &mut [Duration]) -> Option<f64> {
    times.sort_unstable();
    times.get(times.len() / 2).map(|time| time.as_secs_f64() * 1e3)
}

/// Traces from number `first` on, as a request.
fn request(first: usize, texts: usize) -> Result<Bytes> {
    let begin: Timestamp = TIME.0.parse()?;
    let begin = u64::try_from(begin.as_nanosecond()).context(TIME.0)?;
    let numbers = first..(first + TRACES_OF_A_REQUEST).min(texts);
    let step = u64::try_from(STEP.as_nanos())?;
    let resource_spans = numbers.map(|number| trace(number, begin + number as u64 * step)).collect();
    Ok(ExportTraceServiceRequest { resource_spans }.encode_to_vec().into())
}

/// A trace of one service: a request, and the call in it that failed.
fn trace(number: usize, start: u64) -> ResourceSpans {
    let mut rest = number * 7919; // A prime, so that neighbours differ in everything.
    let mut pick = |of: usize| {
        let picked = rest % of;
        rest /= of;
        picked
    };
    let (service, entities, _) = SERVICES[pick(SERVICES.len())];
    let (peer, ..) = SERVICES[pick(SERVICES.len())];
    let (kind, message) = FAILURES[pick(FAILURES.len())];
    let (method, route, verb) = HTTP[pick(HTTP.len())];
    let entity = entities[pick(entities.len())];
    let id = ((number as u128 + 1) << 64 | 0x00fa_0178).to_be_bytes().to_vec();
    let root = Span {
        trace_id: id.clone(),
        span_id: 1u64.to_be_bytes().to_vec(),
        name: format!("{method} /{entity}{route}"),
        kind: SpanKind::Server.into(),
        start_time_unix_nano: start,
        end_time_unix_nano: start + 40 * MILLISECOND,
        status: Some(Status { code: StatusCode::Error.into(), message: String::new() }),
        ..Span::default()
    };
    let call = Span {
        trace_id: id,
        span_id: 2u64.to_be_bytes().to_vec(),
        parent_span_id: root.span_id.clone(),
        name: format!("{verb} {entity}"),
        kind: SpanKind::Client.into(),
        start_time_unix_nano: start + MILLISECOND,
        end_time_unix_nano: start + 30 * MILLISECOND,
        attributes: vec![attribute("peer.service", text(peer))],
        status: Some(Status { code: StatusCode::Error.into(), message: String::new() }),
        events: vec![Event {
            time_unix_nano: start + 30 * MILLISECOND,
            name: "exception".to_owned(),
            attributes: vec![
                attribute("exception.type", text(kind)),
                attribute("exception.message", text(&message.replace("{}", entity))),
            ],
            ..Event::default()
        }],
        ..Span::default()
    };
    let mut spans = of_service(service, root);
    if let Some(scope) = spans.scope_spans.first_mut() {
        scope.spans.push(call);
    }
    spans
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_trace_is_told_differently() {
        let told: HashSet<String> = (0..20_000)
            .map(|number| {
                let spans = trace(number, 0);
                let spans = &spans.scope_spans[0].spans;
                let service = &trace(number, 0).resource.map(|resource| format!("{:?}", resource.attributes));
                format!(
                    "{service:?} {} {} {:?} {:?}",
                    spans[0].name, spans[1].name, spans[1].attributes, spans[1].events
                )
            })
            .collect();
        assert_eq!(told.len(), 20_000);
    }
}
