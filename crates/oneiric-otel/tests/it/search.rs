//! Traces are found by what people say about them, with the real model; and what cannot be answered is said.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use oneiric_otel::embed::{EmbedError, EmbedOptions, Embedder, EmbeddingModel, EmbeddingWorker, IndexKind};
use oneiric_otel::otlp::Signal;
use oneiric_otel::query::{
    MatchPlace, NearRequest, QueryError, QueryService, SearchMode, SearchRequest, SimilarRequest, TraceFilter, TraceId,
    TracesRequest,
};
use oneiric_otel::store::{Database, Grantees};
use oneiric_otel_testkit::data::shared_data_for;
use oneiric_otel_testkit::nezha;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::Span;
use tokio_util::sync::CancellationToken;

use crate::scene::{NOON, Scene, failed, log, minilm, of_resource, span, text, trace_id};

const ZERO: Duration = Duration::ZERO;
const CLIENT: i32 = 3;

fn client(span: Span) -> Span {
    Span { kind: CLIENT, ..span }
}

fn lasting(span: Span, duration: Duration) -> Span {
    Span { end_time_unix_nano: span.start_time_unix_nano + duration.as_nanos() as u64, ..span }
}

/// A shop with five kinds of fault among healthy requests, each several times.
pub(crate) async fn shop() -> Scene {
    let scene = Scene::new().await;
    for round in 0..5 {
        let at = Duration::from_secs(round);
        let number = |kind: u64| kind * 100 + round;
        let root = |kind: u64, name: &str| span(number(kind), 1, 0, name, at);
        let call = |kind: u64, name: &str| client(span(number(kind), 2, 1, name, at));
        let mut spans = vec![
            // refused connection
            failed(root(1, "POST /checkout"), "502", &[]),
            failed(
                call(1, "POST"),
                &format!("connect ECONNREFUSED 10.0.3.{round}:8443"),
                &[("peer.service", "payment"), ("http.method", "POST")],
            ),
            // timeout
            failed(lasting(root(2, "GET /recommendations"), Duration::from_secs(5)), "", &[]),
            failed(
                lasting(call(2, "SELECT products"), Duration::from_secs(5)),
                "context deadline exceeded",
                &[("db.system", "postgresql"), ("db.sql.table", "products")],
            ),
            // bad input
            failed(
                root(3, "PUT /profile"),
                "ValidationError: birthday must be in the past",
                &[("http.response.status_code", "422")],
            ),
            // rate limit
            failed(root(4, "POST /chat"), "", &[]),
            failed(
                call(4, "chat gpt-4o"),
                "429",
                &[
                    ("gen_ai.system", "openai"),
                    ("gen_ai.request.model", "gpt-4o"),
                    ("http.response.status_code", "429"),
                ],
            ),
            // slow dependency
            lasting(root(5, "GET /shipping-quote"), Duration::from_secs(9)),
            lasting(call(5, "GET /carriers"), Duration::from_secs(9)),
        ];
        spans.extend(
            ["GET /", "GET /cart", "POST /login", "GET /search", "GET /orders"]
                .iter()
                .zip(6..)
                .map(|(name, kind)| root(kind, name)),
        );
        scene.spans("frontend", spans).await;
    }
    scene.derive().await;
    scene.embed().await;
    scene
}

pub(crate) fn ask(text: &str) -> SearchRequest {
    SearchRequest { text: text.to_owned(), limit: 10, filter: TraceFilter::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn faults_are_found_by_other_words_than_the_data_has() {
    let scene = shop().await;
    let queries = scene.queries();
    for (question, root) in [
        ("could not reach the payment service", "POST /checkout"),
        ("the query on the catalogue took too long and was given up", "GET /recommendations"),
        ("somebody entered a wrong date of birth", "PUT /profile"),
        ("the AI provider throttled us", "POST /chat"),
        ("waiting ages for delivery costs", "GET /shipping-quote"),
    ] {
        let answer = queries.search_traces(&ask(question)).await.unwrap();
        assert!(!answer.nothing_near, "{question}");
        assert_eq!(answer.note, None);
        let first = &answer.hits[0];
        assert_eq!(first.newest.root_name, root, "{question}: {:#?}", answer.hits);
        assert_eq!(first.trace_count, 5, "hits are texts, not copies");
        assert!(first.score <= 1.0 && first.cosine.unwrap() > 0.2);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_near_is_said() {
    let scene = shop().await;
    for question in
        ["how do I bake sourdough bread", "the migration of arctic terns", "best chess openings for beginners"]
    {
        let answer = scene.queries().search_traces(&ask(question)).await.unwrap();
        assert!(answer.nothing_near && answer.hits.is_empty(), "{question}: {:#?}", answer.hits);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn filters_narrow_a_search() {
    let scene = shop().await;
    let noon = Timestamp::from_nanosecond(i128::from(NOON)).unwrap();
    let later = TraceFilter { since: Some(noon + jiff::SignedDuration::from_secs(3)), ..TraceFilter::default() };
    let answer = scene
        .queries()
        .search_traces(&SearchRequest { filter: later, ..ask("payment service unreachable") })
        .await
        .unwrap();
    assert_eq!(answer.hits[0].trace_count, 2, "of five, those of seconds 3 and 4");
    let healthy = TraceFilter { status: Some("unset".to_owned()), ..TraceFilter::default() };
    let answer =
        scene.queries().search_traces(&SearchRequest { filter: healthy, ..ask("shipping quote slow") }).await.unwrap();
    assert!(answer.hits.iter().all(|hit| hit.newest.status == "unset"));
    let nobody = TraceFilter { service: Some("nobody".to_owned()), ..TraceFilter::default() };
    let error =
        scene.queries().search_traces(&SearchRequest { filter: nobody, ..ask("payment") }).await.expect_err("unknown");
    assert_eq!(error.to_string(), "service: \"nobody\" is not known; there is frontend");
}

#[tokio::test(flavor = "multi_thread")]
async fn similar_traces_are_grouped_and_leave_out_the_trace_itself() {
    let scene = shop().await;
    let request = |number: u64| SimilarRequest {
        trace_id: TraceId(trace_id(number).try_into().unwrap()),
        threshold: 0.85,
        limit: 10,
        filter: TraceFilter::default(),
    };
    let answer = scene.queries().find_similar_traces(&request(100)).await.unwrap();
    assert_eq!(answer.trace.root_name, "POST /checkout");
    assert_eq!(answer.hits[0].trace_count, 4);
    assert!(answer.hits[0].score > 0.999 && answer.hits[0].newest.trace_id.0.as_slice() == trace_id(104));
    assert!(answer.hits.iter().all(|hit| hit.score >= 0.85));
    let error = scene.queries().find_similar_traces(&request(4711)).await.expect_err("unknown");
    assert!(matches!(error, QueryError::NotFound { .. }), "{error}");
    let error = scene
        .queries()
        .find_similar_traces(&SimilarRequest { threshold: 1.5, ..request(100) })
        .await
        .expect_err("wrong");
    assert_eq!(error.to_string(), "threshold: expected a number from 0 to 1");
}

#[tokio::test(flavor = "multi_thread")]
async fn traces_are_listed_in_pages_without_gap_or_repetition() {
    let scene = shop().await;
    let mut request = TracesRequest::new(TraceFilter::default(), 7);
    let mut seen = Vec::new();
    loop {
        let page = scene.queries().find_traces(&request).await.unwrap();
        seen.extend(page.traces.iter().map(|trace| (trace.start_time, trace.trace_id)));
        let Some(next) = page.next else { break };
        request.cursor = Some(next);
    }
    assert_eq!(seen.len(), 50);
    assert!(seen.windows(2).all(|pair| pair[0] > pair[1]), "newest first, each once");
    request.cursor = None;
    request.filter = TraceFilter { min_duration: Some(Duration::from_secs(6)), ..TraceFilter::default() };
    assert_eq!(scene.queries().find_traces(&request).await.unwrap().traces.len(), 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_arguments_are_named() {
    let scene = Scene::new().await;
    let noon = Timestamp::UNIX_EPOCH;
    for (request, message) in [
        (ask("  "), "text: expected a description of 1 to 10000 characters"),
        (SearchRequest { limit: 0, ..ask("x") }, "limit: expected a number from 1 to 1000"),
        (
            SearchRequest {
                filter: TraceFilter { status: Some("bad".to_owned()), ..TraceFilter::default() },
                ..ask("x")
            },
            "status: expected error, ok or unset",
        ),
        (
            SearchRequest {
                filter: TraceFilter { since: Some(noon), until: Some(noon), ..TraceFilter::default() },
                ..ask("x")
            },
            "until: expected a time after since",
        ),
    ] {
        assert_eq!(scene.queries().search_traces(&request).await.expect_err("wrong").to_string(), message);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_pgvector_words_still_find_and_the_lack_is_said_until_it_appears() {
    let scene = Scene::new().await;
    scene.spans("shop", vec![failed(span(1, 1, 0, "POST /pay", ZERO), "insufficient funds", &[])]).await;
    scene.derive().await;
    // A role that may write and may not create extensions. Its rights go with the database.
    let writer = Grantees { writer: Some("pg_monitor".to_owned()), reader: None };
    scene.bench.store.grant_roles(&writer, false).await.unwrap();
    let separator = if scene.bench.test.url().contains('?') { '&' } else { '?' };
    let limited =
        Database::new(&format!("{}{separator}options=-c%20role%3Dpg_monitor", scene.bench.test.url())).unwrap();
    let worker =
        EmbeddingWorker::new(limited.clone(), minilm(), EmbedOptions::default(), scene.deriver.texts_written());
    let embedded = worker.embed_all_now().await.unwrap();
    assert!(embedded.no_pgvector && embedded.vectors == 0);

    let queries = QueryService::new(limited, Some(minilm()));
    let answer = queries.search_traces(&ask("insufficient funds while paying")).await.unwrap();
    assert_eq!(answer.note.as_deref(), Some("pgvector is missing in the database: only words were compared"));
    assert_eq!(answer.hits[0].newest.root_name, "POST /pay");
    assert_eq!(answer.hits[0].cosine, None);
    let similar = SimilarRequest {
        trace_id: TraceId(trace_id(1).try_into().unwrap()),
        threshold: 0.85,
        limit: 1,
        filter: TraceFilter::default(),
    };
    let error = queries.find_similar_traces(&similar).await.expect_err("no vectors");
    assert!(
        matches!(&error, QueryError::Unavailable { reason } if reason.contains("CREATE EXTENSION vector")),
        "{error}"
    );

    assert_eq!(scene.embed().await.vectors, 1, "somebody who may has installed it");
    assert_eq!(queries.search_traces(&ask("card was declined")).await.unwrap().note, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_table_of_vectors_gets_its_index_and_answers_from_it() {
    let scene = Scene::new().await;
    scene.spans("shop", vec![failed(span(1, 1, 0, "POST /pay", ZERO), "card declined", &[])]).await;
    scene.derive().await;
    assert_eq!(scene.embed().await.vectors, 1);
    let client = scene.bench.test.client().await;
    client
        .batch_execute(
            "SELECT setseed(0.5);
             INSERT INTO otel_embeddings_1 (text_id, embedding)
             SELECT 1000000 + n, (SELECT array_agg(random() - 0.5) FROM generate_series(1, 384) WHERE n > 0)::vector::halfvec
             FROM generate_series(1, 10001) n",
        )
        .await
        .unwrap();
    let token = CancellationToken::new();
    let worker = scene.worker();
    let running = tokio::spawn({
        let token = token.clone();
        async move { worker.run(token).await }
    });
    let built =
        "SELECT count(*) FROM pg_index WHERE indexrelid = to_regclass('otel.otel_embeddings_1_hnsw') AND indisvalid";
    while scene.bench.test.count(built).await == 0 {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    token.cancel();
    running.await.unwrap();
    let question = "the bank rejected the credit card";
    let answer = scene.queries().search_traces(&ask(question)).await.unwrap();
    assert_eq!(answer.hits[0].newest.root_name, "POST /pay");

    // More than there are candidates lie nearer, and describe no trace. A filter that lets few through is looked at whole.
    let embedding = minilm().embed(&[&format!("{question} failed")]).unwrap().remove(0);
    let nearer = "INSERT INTO otel_embeddings_1 (text_id, embedding)
                  SELECT 2000000 + n, $1::text::vector::halfvec FROM generate_series(1, 6000) n";
    client.execute(nearer, &[&format!("{embedding:?}")]).await.unwrap();
    let filter = TraceFilter { service: Some("shop".to_owned()), ..TraceFilter::default() };
    let request = SearchRequest { filter: filter.clone(), ..ask(question) };
    let answer = scene.queries().search_traces_by(&request, SearchMode::Meaning).await.unwrap();
    assert_eq!(answer.hits[0].newest.root_name, "POST /pay");
    let request = NearRequest { embedding, threshold: 0.0, limit: 3, filter };
    assert_eq!(scene.queries().find_traces_near(&request).await.unwrap()[0].newest.root_name, "POST /pay");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_of_an_agent_is_found_by_one_of_its_messages() {
    let scene = Scene::new().await;
    let step = |trace: u64, id: u64, content: &str| {
        let mut step = span(trace, id, 1, "chat", Duration::from_secs(id));
        step.attributes = vec![
            text("gen_ai.operation.name", "chat"),
            text("gen_ai.agent.name", "researcher"),
            text(
                "gen_ai.output.messages",
                &format!("[{{\"role\":\"assistant\",\"parts\":[{{\"type\":\"text\",\"content\":\"{content}\"}}]}}]"),
            ),
        ];
        step
    };
    let topics = ["the population of Iceland", "how volcanoes form", "train times to Vienna", "recipes with lentils"];
    for (trace, topic) in (1..).zip(topics) {
        let steps = vec![
            span(trace, 1, 0, "run", ZERO),
            step(trace, 2, &format!("I looked up {topic}.")),
            step(trace, 3, "I am done."),
        ];
        scene.spans("agents", steps).await;
    }
    scene.derive().await;
    scene.embed().await;
    assert_eq!(scene.bench.count("otel_texts WHERE text LIKE '%I am done.'").await, 1, "equal messages share a text");
    let answer = scene.queries().search_traces(&ask("railway connections to Austria's capital")).await.unwrap();
    assert_eq!(answer.hits[0].text, "researcher: I looked up train times to Vienna.");
    assert_eq!(answer.hits[0].newest.trace_id.0.as_slice(), trace_id(3));
}

/// A model that panics on one text, as the real one might.
struct Fragile {
    model: EmbeddingModel,
    counting: bool,
}

impl Embedder for Fragile {
    fn model(&self) -> &EmbeddingModel {
        &self.model
    }

    fn embed(&self, texts: &[&str]) -> Result<Vec<Vec<f32>>, EmbedError> {
        assert!(!texts.iter().any(|text| text.contains("poison")), "cannot read this");
        Ok(texts.iter().map(|_| vec![0.6, 0.8]).collect())
    }

    fn token_count(&self, text: &str) -> usize {
        assert!(!(self.counting && text.contains("poison")), "cannot count this");
        text.len()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_text_that_makes_the_model_panic_holds_up_no_other() {
    for counting in [false, true] {
        let scene = Scene::new().await;
        for (trace, name) in (1..).zip(["before", "poison", "after"]) {
            scene.spans("a", vec![span(trace, 1, 0, name, ZERO)]).await;
            scene.derive().await;
        }
        let model = EmbeddingModel { name: "fragile".to_owned(), dimension: 2, precision: "f32".to_owned() };
        let worker = EmbeddingWorker::new(
            scene.bench.store.clone(),
            Arc::new(Fragile { model, counting }),
            EmbedOptions::default(),
            scene.deriver.texts_written(),
        );
        let client = scene.bench.test.client().await;
        for _ in 0..2 {
            worker.embed_all_now().await.unwrap();
            client.batch_execute("UPDATE otel_embedding_work SET not_before = now()").await.unwrap();
        }
        assert_eq!(scene.bench.count("otel_embeddings_1").await, 2);
        assert_eq!(scene.bench.count("otel_embedding_work WHERE last_error LIKE '%panicked%'").await, 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trace_is_found_by_when_it_began_wherever_its_row_lies() {
    let scene = Scene::new().await;
    let days = |days: u64| Duration::from_hours(24 * days);
    // A run of three days whose root is exported at its end.
    scene.spans("agent", vec![span(1, 2, 1, "step", days(2))]).await;
    scene.derive().await;
    scene.spans("agent", vec![lasting(span(1, 1, 0, "long run", ZERO), days(2))]).await;
    // Spans that come without a start before those that have one.
    let mut timeless = span(2, 2, 1, "timeless", ZERO);
    (timeless.start_time_unix_nano, timeless.end_time_unix_nano) = (0, 0);
    scene.spans("agent", vec![timeless.clone()]).await;
    scene.derive().await;
    scene.spans("agent", vec![span(2, 1, 0, "late clock", ZERO)]).await;
    // And both at once: the row lies with the real time.
    timeless.trace_id = trace_id(3);
    scene.spans("agent", vec![timeless, span(3, 1, 0, "clock", ZERO)]).await;
    scene.derive().await;
    assert_eq!(scene.bench.count("otel_traces WHERE root_name = 'clock' AND bucket >= '2026-01-01'").await, 1);

    let noon = Timestamp::from_nanosecond(i128::from(NOON)).unwrap();
    let hour = jiff::SignedDuration::from_hours(1);
    let filter = TraceFilter { since: Some(noon - hour), until: Some(noon + hour), ..TraceFilter::default() };
    let request = TracesRequest::new(filter.clone(), 10);
    assert_eq!(scene.queries().find_traces(&request).await.unwrap().traces.len(), 3);
    for question in ["long run", "late clock"] {
        let request = SearchRequest { filter: filter.clone(), ..ask(question) };
        let answer = scene.queries().search_traces(&request).await.unwrap();
        assert!(answer.hits.iter().any(|hit| hit.newest.root_name == question), "{question}: {:#?}", answer.hits);
    }
    let later = TraceFilter { since: Some(noon + hour), ..TraceFilter::default() };
    let answer = scene.queries().search_traces(&SearchRequest { filter: later, ..ask("long run") }).await.unwrap();
    assert!(answer.nothing_near, "its row lies after, its start does not");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_nobody_uses_gets_no_work_until_somebody_does() {
    let scene = Scene::new().await;
    let model = EmbeddingModel { name: "retired".to_owned(), dimension: 2, precision: "f32".to_owned() };
    let worker = EmbeddingWorker::new(
        scene.bench.store.clone(),
        Arc::new(Fragile { model, counting: false }),
        EmbedOptions::default(),
        scene.deriver.texts_written(),
    );
    scene.spans("a", vec![span(1, 1, 0, "first", ZERO)]).await;
    scene.derive().await;
    assert_eq!(worker.embed_all_now().await.unwrap().vectors, 1);
    let client = scene.bench.test.client().await;
    client.batch_execute("UPDATE otel_embedding_models SET last_used = now() - interval '25 hours'").await.unwrap();
    scene.spans("a", vec![span(2, 1, 0, "second", ZERO)]).await;
    scene.derive().await;
    assert_eq!(scene.bench.count("otel_embedding_work").await, 0);
    assert_eq!(scene.bench.store.census().await.unwrap().texts_to_embed, 0);
    assert_eq!(worker.embed_all_now().await.unwrap().vectors, 1, "in use again, it gets what it lacks");
    scene.spans("a", vec![span(3, 1, 0, "third", ZERO)]).await;
    scene.derive().await;
    assert_eq!(scene.bench.count("otel_embedding_work").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn vectors_of_one_precision_are_never_compared_with_those_of_another() {
    let scene = Scene::new().await;
    let model = |precision: &str| EmbeddingModel {
        name: "all-MiniLM-L6-v2".to_owned(),
        dimension: 2,
        precision: precision.to_owned(),
    };
    let embedder = |precision: &str| -> Arc<dyn Embedder> { Arc::new(Indifferent(model(precision))) };
    let worker = |precision: &str| {
        let written = scene.deriver.texts_written();
        EmbeddingWorker::new(scene.bench.store.clone(), embedder(precision), EmbedOptions::default(), written)
    };
    scene.spans("a", vec![span(1, 1, 0, "first", ZERO)]).await;
    scene.derive().await;
    assert_eq!(worker("f32").embed_all_now().await.unwrap().vectors, 1);

    let queries = QueryService::new(scene.bench.store.clone(), Some(embedder("int8")));
    let answer = queries.search_traces(&ask("first")).await.unwrap();
    assert!(answer.note.is_some_and(|note| note.contains("no text has a vector of this model yet")));
    assert_eq!(worker("int8").embed_all_now().await.unwrap().vectors, 1, "it embeds again what the other has");
    assert_eq!(scene.bench.count("otel_embeddings_1").await, 1);
    assert_eq!(scene.bench.count("otel_embeddings_2").await, 1);
    assert_eq!(queries.search_traces(&ask("first")).await.unwrap().note, None);
}

/// All its texts are equally near to everything.
struct Indifferent(EmbeddingModel);

impl Embedder for Indifferent {
    fn model(&self) -> &EmbeddingModel {
        &self.0
    }

    fn embed(&self, texts: &[&str]) -> Result<Vec<Vec<f32>>, EmbedError> {
        Ok(texts.iter().map(|_| vec![0.6, 0.8]).collect())
    }

    fn token_count(&self, text: &str) -> usize {
        text.len() / 100
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn runs_with_many_texts_leave_room_for_each_other() {
    const RUNS: u64 = 12;
    let scene = Scene::new().await;
    for trace in 1..=RUNS {
        let mut spans = vec![span(trace, 1, 0, "run", ZERO)];
        for id in 2..=60u64 {
            let mut step = span(trace, id, 1, "chat", Duration::from_secs(id));
            // Numbers would be masked.
            let letter = |number: u64| char::from(b'a' + (number % 26) as u8);
            let content = format!("item {}{} of list {}", letter(id / 26), letter(id), letter(trace));
            step.attributes = vec![
                text("gen_ai.operation.name", "chat"),
                text(
                    "gen_ai.output.messages",
                    &format!(r#"[{{"role":"assistant","parts":[{{"type":"text","content":"{content}"}}]}}]"#),
                ),
            ];
            spans.push(step);
        }
        scene.spans("agents", spans).await;
    }
    scene.derive().await;
    assert!(scene.bench.count("otel_texts").await > 500);
    let model = EmbeddingModel { name: "indifferent".to_owned(), dimension: 2, precision: "f32".to_owned() };
    let embedder: Arc<dyn Embedder> = Arc::new(Indifferent(model));
    let worker = EmbeddingWorker::new(
        scene.bench.store.clone(),
        Arc::clone(&embedder),
        EmbedOptions::default(),
        scene.deriver.texts_written(),
    );
    worker.embed_all_now().await.unwrap();
    let queries = QueryService::new(scene.bench.store.clone(), Some(embedder));
    let distinct = |hits: &[oneiric_otel::query::TextHit]| {
        hits.iter().map(|hit| hit.newest.trace_id).collect::<std::collections::HashSet<_>>().len()
    };
    let answer = queries.search_traces(&ask("something else")).await.unwrap();
    assert_eq!((answer.hits.len(), distinct(&answer.hits)), (10, 10));
    let request = SimilarRequest {
        trace_id: TraceId(trace_id(1).try_into().unwrap()),
        threshold: 0.85,
        limit: 8,
        filter: TraceFilter::default(),
    };
    let similar = queries.find_similar_traces(&request).await.unwrap();
    assert_eq!((similar.hits.len(), distinct(&similar.hits)), (8, 8));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_of_lists_grows_with_the_vectors_and_finds_what_is_near() {
    let scene = shop().await;
    let client = scene.bench.test.client().await;
    // Of no trace, and in every direction.
    let others = "INSERT INTO otel.otel_embeddings_1 (text_id, embedding)
        SELECT 1000000 + n, (SELECT array_agg(random() - 0.5) FROM generate_series(1, 384) WHERE n > 0)::real[]::vector::halfvec
        FROM generate_series(1, 12000) n";
    client.batch_execute(others).await.unwrap();
    client.batch_execute("ANALYZE otel.otel_embeddings_1").await.unwrap();
    let worker = |index| {
        let options = EmbedOptions { index, ..EmbedOptions::default() };
        EmbeddingWorker::new(scene.bench.store.clone(), minilm(), options, scene.deriver.texts_written())
    };
    let indexes = async || {
        let sql = "SELECT relname::text FROM pg_class WHERE relname LIKE 'otel_embeddings_1_%' AND relkind = 'i' AND relname !~ 'pkey'";
        client.query(sql, &[]).await.unwrap().iter().map(|row| row.get::<_, String>(0)).collect::<Vec<_>>()
    };
    assert!(!worker(None).build_index().await.unwrap());
    assert!(worker(Some(IndexKind::Ivfflat)).build_index().await.unwrap());
    assert_eq!(indexes().await, ["otel_embeddings_1_ivfflat_12"]);
    for question in ["payment refused", "the cart is empty", "slow search"] {
        let found = scene.queries().search_traces(&ask(question)).await.unwrap();
        let exact = scene.queries().comparing_every_vector().search_traces(&ask(question)).await.unwrap();
        let ids =
            |hits: &[oneiric_otel::query::TextHit]| hits.iter().map(|hit| hit.newest.trace_id).collect::<Vec<_>>();
        assert_eq!(ids(&found.hits), ids(&exact.hits), "{question}");
    }
    // Another kind is not built beside it, and it is made anew when it has been outgrown.
    assert!(worker(Some(IndexKind::Hnsw)).build_index().await.unwrap());
    assert!(worker(Some(IndexKind::Ivfflat)).build_index().await.unwrap());
    assert_eq!(indexes().await, ["otel_embeddings_1_ivfflat_12"]);
    client.batch_execute("UPDATE pg_class SET reltuples = 60000 WHERE relname = 'otel_embeddings_1'").await.unwrap();
    assert!(worker(Some(IndexKind::Ivfflat)).build_index().await.unwrap());
    assert_eq!(indexes().await, ["otel_embeddings_1_ivfflat_60"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn words_of_every_script_are_found_in_any_locale() {
    let scene = Scene::new().await;
    let names = ["Überweisung fehlgeschlagen", "Ошибка оплаты заказа", "支付服务超时", "java.util.TimeoutException"];
    for (trace, name) in (1..).zip(names) {
        scene.spans("bank", vec![failed(span(trace, 1, 0, "run", ZERO), name, &[])]).await;
    }
    scene.derive().await;
    let queries = QueryService::new(scene.bench.store.clone(), None);
    for (question, wanted) in [
        ("ÜBERWEISUNG", 1),
        ("überweisung", 1),
        ("оплаты", 2),
        ("ОШИБКА", 2),
        ("超时", 3),
        ("支付", 3),
        ("timeouts", 4),
        ("the exception", 4),
    ] {
        let answer = queries.search_traces(&ask(question)).await.unwrap();
        let found: Vec<&[u8]> = answer.hits.iter().map(|hit| hit.newest.trace_id.0.as_slice()).collect();
        assert_eq!(found, [trace_id(wanted)], "{question}");
    }
    assert!(queries.search_traces(&ask("berweisung")).await.unwrap().nothing_near, "no word of any text");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_texts_mask_is_found_by_trace_id_and_in_logs() {
    let scene = shop().await;
    let id = TraceId(trace_id(102).try_into().unwrap());
    let answer = scene.queries().search_traces(&ask(&format!("what happened in {id}?"))).await.unwrap();
    let found: Vec<TraceId> = answer.hits.iter().map(|hit| hit.newest.trace_id).collect();
    assert_eq!(found, [id]);
    scene.logs("frontend", vec![log(303, 9, "order ord-48213 of db-7.example.org", ZERO)]).await;
    for question in ["ord-48213 is missing", "trouble with db-7.example.org"] {
        let answer = scene.queries().search_traces(&ask(question)).await.unwrap();
        assert_eq!(answer.hits[0].newest.trace_id.0.as_slice(), trace_id(303), "{question}");
        let other = TraceFilter { status: Some("ok".to_owned()), ..TraceFilter::default() };
        let answer = scene.queries().search_traces(&SearchRequest { filter: other, ..ask(question) }).await.unwrap();
        assert!(answer.nothing_near, "{question}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_texts_mask_is_found_in_attributes_and_said_to_be_there() {
    let scene = shop().await;
    let mut order = span(901, 1, 0, "POST /orders", ZERO);
    order.attributes = vec![text("app.order.id", "ord-90117"), text("server.address", "db-9.example.org")];
    let number = KeyValue { value: Some(AnyValue { value: Some(Value::IntValue(778_899)) }), ..text("app.total", "") };
    order.attributes.push(number);
    scene.spans("orders", vec![order]).await;
    let host = Resource {
        attributes: vec![text("service.name", "billing"), text("host.name", "web-17")],
        ..Resource::default()
    };
    let other = span(902, 1, 0, "GET /bill", ZERO);
    scene.bench.send(Signal::Traces, of_resource(host, vec![other])).await.unwrap();
    scene.derive().await;
    for (question, attribute, wanted) in [
        ("what happened to ord-90117?", "app.order.id", 901),
        ("trouble with db-9.example.org", "server.address", 901),
        ("who paid 778899", "app.total", 901),
        ("is web-17 well?", "host.name", 902),
    ] {
        let answer = scene.queries().search_traces(&ask(question)).await.unwrap();
        let first = &answer.hits[0];
        assert_eq!(first.newest.trace_id.0.as_slice(), trace_id(wanted), "{question}");
        let exact = first.exact.as_ref().unwrap();
        assert_eq!((exact.place, exact.attribute.as_deref()), (MatchPlace::Attribute, Some(attribute)), "{question}");
        assert!(question.contains(&exact.value));
        let hidden = TraceFilter { status: Some("ok".to_owned()), ..TraceFilter::default() };
        let answer = scene.queries().search_traces(&SearchRequest { filter: hidden, ..ask(question) }).await.unwrap();
        assert!(answer.hits.iter().all(|hit| hit.exact.is_none()), "{question}");
    }
    let answer = scene.queries().search_traces(&ask("what happened to ord-90118?")).await.unwrap();
    assert!(answer.hits.iter().all(|hit| hit.exact.is_none()), "a value is found whole or not at all");
}

#[tokio::test(flavor = "multi_thread")]
async fn traces_are_found_near_an_embedding_of_the_right_dimension() {
    let scene = shop().await;
    let embedding = minilm().embed(&["checkout could not connect to payment, service is down"]).unwrap().remove(0);
    let request = NearRequest { embedding, threshold: 0.3, limit: 3, filter: TraceFilter::default() };
    let hits = scene.queries().find_traces_near(&request).await.unwrap();
    assert_eq!(hits[0].newest.root_name, "POST /checkout");
    let short = NearRequest { embedding: vec![0.1; 383], ..request };
    let error = scene.queries().find_traces_near(&short).await.expect_err("too short");
    assert!(error.to_string().starts_with("embedding: expected 384 finite numbers"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fault_of_a_real_system_is_found_first() {
    const NAME: &str = "a_fault_of_a_real_system_is_found_first";
    let Some(dir) = shared_data_for(NAME, nezha::FOLDER) else { return };
    let scene = Scene::new().await;
    // The first minutes of the recording, in which a lookup of contacts was broken.
    for request in nezha::logs(&dir).take(4) {
        scene.bench.send(Signal::Logs, request.unwrap().to_vec()).await.unwrap();
    }
    for request in nezha::traces(&dir).take(3) {
        scene.bench.send(Signal::Traces, request.unwrap().to_vec()).await.unwrap();
    }
    scene.derive().await;
    scene.embed().await;
    let answer = scene.queries().search_traces(&ask("contact lookup returns nothing while booking")).await.unwrap();
    assert!(answer.hits[0].text.contains("No contacts according to"), "{:#?}", answer.hits[0]);
}
