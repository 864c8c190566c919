//! From one model to another: the one that was complete answers until the new one is, old texts and new ones are found all
//! the while, and what was replaced goes.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use oneiric_otel::embed::{
    EmbedError, EmbedOptions, Embedder, EmbeddingModel, EmbeddingWorker, FormerModel, IndexKind, LocalModel,
};
use oneiric_otel::query::{QueryService, SearchRequest, SimilarRequest, TraceFilter, TraceId};
use oneiric_otel::store::{Database, Grantees};
use oneiric_otel_embed::{MiniLm, Precision};
use oneiric_otel_parts::{Parts, Silent};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::scene::{Scene, failed, minilm, span, trace_id};

const ZERO: Duration = Duration::ZERO;

/// The same weights as [`minilm`], at the other precision.
fn minilm_f32() -> Arc<dyn Embedder> {
    static MODEL: OnceLock<Arc<dyn Embedder>> = OnceLock::new();
    Arc::clone(MODEL.get_or_init(|| {
        let dir = Parts::open_default().unwrap().minilm(&Silent).unwrap();
        Arc::new(LocalModel::new(MiniLm::load(Path::new(&dir), Precision::F32).unwrap()))
    }))
}

/// A model that refuses everything until it is told to answer, and remembers what it was asked.
struct Reluctant {
    inner: Arc<dyn Embedder>,
    answers: AtomicBool,
    asked: Mutex<Vec<Vec<String>>>,
}

impl Reluctant {
    fn new(inner: Arc<dyn Embedder>) -> Arc<Self> {
        Arc::new(Self { inner, answers: AtomicBool::new(false), asked: Mutex::default() })
    }
}

impl Embedder for Reluctant {
    fn model(&self) -> &EmbeddingModel {
        self.inner.model()
    }

    fn embed(&self, texts: &[&str]) -> Result<Vec<Vec<f32>>, EmbedError> {
        self.asked.lock().unwrap().push(texts.iter().map(|text| (*text).to_owned()).collect());
        if self.answers.load(Ordering::SeqCst) {
            return self.inner.embed(texts);
        }
        Err(EmbedError { model: self.model().name.clone(), reason: "not yet".to_owned() })
    }

    fn token_count(&self, text: &str) -> usize {
        self.inner.token_count(text)
    }
}

/// A model with two components, of which the text decides the angle.
struct Small(EmbeddingModel);

impl Small {
    fn named(name: &str) -> Arc<dyn Embedder> {
        let model = EmbeddingModel { name: name.to_owned(), dimension: 2, precision: "f32".to_owned() };
        Arc::new(Self(model))
    }
}

impl Embedder for Small {
    fn model(&self) -> &EmbeddingModel {
        &self.0
    }

    fn embed(&self, texts: &[&str]) -> Result<Vec<Vec<f32>>, EmbedError> {
        let angle = |text: &str| text.bytes().map(f32::from).sum::<f32>();
        Ok(texts.iter().map(|text| vec![angle(text).cos(), angle(text).sin()]).collect())
    }

    fn token_count(&self, text: &str) -> usize {
        text.len() / 4
    }
}

fn options() -> EmbedOptions {
    let often = Duration::from_millis(20);
    EmbedOptions { interval: often, upkeep: often, ..EmbedOptions::default() }
}

/// A worker that runs until it is stopped.
struct Running {
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Running {
    fn start(worker: EmbeddingWorker) -> Self {
        let stop = CancellationToken::new();
        let token = stop.clone();
        Self { stop, task: tokio::spawn(async move { worker.run(token).await }) }
    }

    async fn stop(self) {
        self.stop.cancel();
        self.task.await.unwrap();
    }
}

/// Failures of a shop, each described in other words than the questions below.
async fn shop() -> Scene {
    let scene = Scene::new().await;
    for (trace, root, error) in [
        (1, "POST /checkout", "connect ECONNREFUSED payment"),
        (2, "PUT /profile", "ValidationError: birthday must be in the past"),
        (3, "GET /orders", "too many connections for role shop"),
    ] {
        scene.spans("shop", vec![failed(span(trace, 1, 0, root, ZERO), error, &[])]).await;
    }
    scene.derive().await;
    scene
}

/// So many texts more.
async fn texts(scene: &Scene, count: usize) {
    let letter = |number: usize| char::from(b'a' + (number % 26) as u8);
    for number in 1..=count {
        let name = format!("run {}{}", letter(number / 26), letter(number));
        scene.spans("a", vec![span(1000 + number as u64, 1, 0, &name, ZERO)]).await;
        scene.derive().await;
    }
}

const QUESTIONS: [(&str, &str); 3] = [
    ("could not reach the payment service", "POST /checkout"),
    ("somebody entered a wrong date of birth", "PUT /profile"),
    ("it ran out of database connections", "GET /orders"),
];

fn ask(text: &str) -> SearchRequest {
    SearchRequest { text: text.to_owned(), limit: 10, filter: TraceFilter::default() }
}

async fn note(queries: &QueryService) -> Option<String> {
    queries.search_traces(&ask("payment")).await.unwrap().note
}

async fn assert_found_by_meaning(queries: &QueryService, question: &str, root: &str) {
    let answer = queries.search_traces(&ask(question)).await.unwrap();
    let first = &answer.hits[0];
    assert_eq!(first.newest.root_name, root, "{question}: {:#?}", answer.hits);
    assert!(first.cosine.is_some(), "{question}");
}

async fn until(mut done: impl AsyncFnMut() -> bool) {
    while !done().await {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

impl Scene {
    fn worker_of(&self, embedder: Arc<dyn Embedder>) -> EmbeddingWorker {
        self.worker_over(self.bench.store.clone(), embedder)
    }

    fn worker_over(&self, database: Database, embedder: Arc<dyn Embedder>) -> EmbeddingWorker {
        EmbeddingWorker::new(database, embedder, options(), self.deriver.texts_written())
    }

    fn queries_of(&self, embedder: Arc<dyn Embedder>) -> QueryService {
        QueryService::new(self.bench.store.clone(), Some(embedder))
    }

    async fn is_changing(&self) -> bool {
        self.bench.store.census().await.unwrap().model_change.is_some()
    }

    /// Waits until the model of this number is there and complete.
    async fn until_complete(&self, model: i16) {
        let complete = format!("otel_embedding_progress WHERE model_id = {model} AND complete_at IS NOT NULL");
        until(async || self.bench.count(&complete).await == 1).await;
    }

    /// What was refused may be tried again at once.
    async fn try_again(&self) {
        let now = "UPDATE otel_embedding_work SET not_before = now()";
        self.bench.test.client().await.batch_execute(now).await.unwrap();
    }

    /// As if so much time had gone by since the models of this precision were used.
    async fn let_pass(&self, precision: &str, time: &str) {
        let sql = format!(
            "UPDATE otel_embedding_models SET last_used = last_used - interval '{time}' WHERE precision = '{precision}';
             UPDATE otel_embedding_progress SET last_served = last_served - interval '{time}'
             WHERE model_id IN (SELECT model_id FROM otel_embedding_models WHERE precision = '{precision}')"
        );
        self.bench.test.client().await.batch_execute(&sql).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_change_of_precision_the_old_vectors_answer_until_the_new_ones_are_complete() {
    let scene = shop().await;
    scene.worker_of(minilm_f32()).embed_all_now().await.unwrap();
    let queries = scene.queries();
    // Nothing works with the new precision yet, as when only the setting has changed.
    assert!(note(&queries).await.unwrap().contains("nothing is embedded with it yet"));

    let model = Reluctant::new(minilm());
    let running = Running::start(scene.worker_of(Arc::clone(&model) as Arc<dyn Embedder>));
    until(async || scene.bench.count("otel_embedding_work WHERE attempts > 0").await == 3).await;
    let change = scene.bench.store.census().await.unwrap().model_change.unwrap();
    assert_eq!(
        (change.from.as_str(), change.to.as_str(), change.texts_left),
        ("all-MiniLM-L6-v2 (f32, 384 dimensions)", "all-MiniLM-L6-v2 (int8, 384 dimensions)", 3)
    );
    scene.spans("shop", vec![failed(span(4, 1, 0, "POST /chat", ZERO), "429 rate limit of the model", &[])]).await;
    scene.derive().await;
    until(async || scene.bench.count("otel_embeddings_1").await == 4).await;

    assert!(note(&queries).await.unwrap().contains("answer until those of all-MiniLM-L6-v2 (int8"));
    for (question, root) in QUESTIONS.into_iter().chain([("the AI provider throttled us", "POST /chat")]) {
        assert_found_by_meaning(&queries, question, root).await;
    }
    let similar = SimilarRequest {
        trace_id: TraceId(trace_id(1).try_into().unwrap()),
        threshold: 0.0,
        limit: 9,
        filter: TraceFilter::default(),
    };
    assert_eq!(queries.find_similar_traces(&similar).await.unwrap().hits.len(), 3);
    assert_eq!(scene.bench.count("traces WHERE embedding IS NOT NULL").await, 4, "the view shows what answers");
    assert_eq!(scene.bench.count("otel_embeddings_2").await, 0);

    model.answers.store(true, Ordering::SeqCst);
    scene.try_again().await;
    until(async || !scene.is_changing().await).await;
    assert_eq!(scene.bench.count("otel_embeddings_2").await, 4);
    assert_eq!(note(&queries).await, None);
    for (question, root) in QUESTIONS {
        assert_found_by_meaning(&queries, question, root).await;
    }
    let shown = "traces t JOIN otel_traces r ON r.trace_id = t.trace_uuid
                 JOIN otel_embeddings_2 e ON e.text_id = r.text_ids[1] AND e.embedding::text = t.embedding::text";
    assert_eq!(scene.bench.count(shown).await, 4);

    // The way back is open for a day.
    scene.let_pass("f32", "23 hours").await;
    until(async || scene.bench.count("otel_embedding_work WHERE model_id = 2").await == 0).await;
    assert_eq!(scene.bench.count("otel_embeddings_1").await, 4);
    scene.let_pass("f32", "1 hour").await;
    until(async || scene.bench.count("otel_embedding_models").await == 1).await;
    running.stop().await;
    assert_eq!(scene.bench.count("pg_class WHERE relname LIKE 'otel_embeddings_1%'").await, 0);
    assert_eq!(scene.bench.count("otel_embedding_progress").await, 1);
    assert_found_by_meaning(&queries, QUESTIONS[0].0, QUESTIONS[0].1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_former_model_that_cannot_be_loaded_still_compares_traces_and_what_is_new_is_found_by_meaning() {
    let scene = shop().await;
    scene.worker_of(Small::named("elsewhere")).embed_all_now().await.unwrap();
    let model = Reluctant::new(minilm());
    let former = FormerModel::new(|_| None);
    let worker = scene.worker_of(Arc::clone(&model) as Arc<dyn Embedder>).with_former(former.clone());
    let running = Running::start(worker);
    until(async || scene.bench.count("otel_embedding_work WHERE model_id = 2 AND attempts > 0").await == 3).await;
    // What is there stays refused; what comes is answered.
    let later = "UPDATE otel_embedding_work SET not_before = now() + interval '1 hour' WHERE model_id = 2";
    scene.bench.test.client().await.batch_execute(later).await.unwrap();
    model.answers.store(true, Ordering::SeqCst);
    scene.spans("shop", vec![failed(span(4, 1, 0, "POST /chat", ZERO), "429 rate limit of the model", &[])]).await;
    scene.derive().await;
    until(async || scene.bench.count("otel_embeddings_2").await == 1).await;
    let queries = scene.queries().with_former(former);
    let said = note(&queries).await.unwrap();
    assert!(said.starts_with("3 texts still wait") && said.ends_with("it cannot be loaded"), "{said}");
    assert_found_by_meaning(&queries, "the AI provider throttled us", "POST /chat").await;
    let answer = queries.search_traces(&ask("birthday in the past")).await.unwrap();
    assert_eq!(answer.hits[0].newest.root_name, "PUT /profile", "by words");
    let similar = SimilarRequest {
        trace_id: TraceId(trace_id(1).try_into().unwrap()),
        threshold: 0.0,
        limit: 9,
        filter: TraceFilter::default(),
    };
    queries.find_similar_traces(&similar).await.expect("it has a vector of the former model");
    let new = SimilarRequest { trace_id: TraceId(trace_id(4).try_into().unwrap()), ..similar };
    queries.find_similar_traces(&new).await.expect("it has a vector of the model at hand");

    scene.try_again().await;
    until(async || !scene.is_changing().await).await;
    running.stop().await;
    assert_eq!(note(&queries).await, None);
    assert_found_by_meaning(&queries, QUESTIONS[1].0, QUESTIONS[1].1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_answers_only_when_its_index_is_there() {
    let scene = shop().await;
    scene.worker_of(Small::named("first")).embed_all_now().await.unwrap();
    let model = Reluctant::new(Small::named("second"));
    let running = Running::start(scene.worker_of(Arc::clone(&model) as Arc<dyn Embedder>));
    until(async || scene.bench.count("otel_embedding_work WHERE attempts > 0").await == 3).await;
    let client = scene.bench.test.client().await;
    // Completed without an index, this would be refused.
    client
        .batch_execute(
            "INSERT INTO otel_embeddings_2 (text_id, embedding)
             SELECT 1000000 + n, ARRAY[cos(n), sin(n)]::real[]::vector::halfvec FROM generate_series(1, 10001) n;
             CREATE FUNCTION indexed_first() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
               IF new.complete_at IS NOT NULL AND NOT EXISTS
                 (SELECT FROM pg_index WHERE indexrelid = to_regclass('otel.otel_embeddings_2_hnsw') AND indisvalid) THEN
                 RAISE EXCEPTION 'it lacks its index';
               END IF;
               RETURN new;
             END $$;
             CREATE TRIGGER indexed_first BEFORE UPDATE ON otel_embedding_progress FOR EACH ROW
             WHEN (new.model_id = 2) EXECUTE FUNCTION indexed_first()",
        )
        .await
        .unwrap();
    model.answers.store(true, Ordering::SeqCst);
    scene.try_again().await;
    until(async || !scene.is_changing().await).await;
    running.stop().await;
    let built = "pg_index WHERE indexrelid = to_regclass('otel.otel_embeddings_2_hnsw') AND indisvalid";
    assert_eq!(scene.bench.count(built).await, 1);

    // Where no index is wanted none is waited for.
    let third = EmbedOptions { index: None, ..options() };
    let worker =
        EmbeddingWorker::new(scene.bench.store.clone(), Small::named("third"), third, scene.deriver.texts_written());
    worker.embed_all_now().await.unwrap();
    assert!(!scene.is_changing().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn texts_are_embedded_again_the_newest_first() {
    const TEXTS: usize = 40;
    let scene = Scene::new().await;
    texts(&scene, TEXTS).await;
    scene.worker_of(Small::named("first")).embed_all_now().await.unwrap();
    let model = Reluctant::new(Small::named("second"));
    model.answers.store(true, Ordering::SeqCst);
    let running = Running::start(scene.worker_of(Arc::clone(&model) as Arc<dyn Embedder>));
    scene.until_complete(2).await;
    running.stop().await;
    assert_eq!(scene.bench.count("otel_embeddings_2").await, TEXTS as i64);
    let mut asked: Vec<String> = model.asked.lock().unwrap().concat();
    assert_eq!(asked.pop().as_deref(), Some("a trace"), "whether it answers, before it does for all");
    let client = scene.bench.test.client().await;
    let rows = client.query("SELECT text FROM otel_texts ORDER BY text_id DESC", &[]).await.unwrap();
    let newest_first: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    assert_eq!(asked, newest_first);
    assert!(model.asked.lock().unwrap().len() > 1, "not all at once: what is new comes between");
}

#[tokio::test(flavor = "multi_thread")]
async fn on_the_way_back_the_newer_model_answers_until_the_older_one_has_caught_up() {
    let scene = shop().await;
    scene.worker_of(minilm_f32()).embed_all_now().await.unwrap();
    scene.worker_of(minilm()).embed_all_now().await.unwrap();
    assert!(!scene.is_changing().await, "a command that embeds everything completes the model too");
    scene.spans("shop", vec![failed(span(4, 1, 0, "POST /chat", ZERO), "429 rate limit of the model", &[])]).await;
    scene.derive().await;
    scene.embed().await;

    let model = Reluctant::new(minilm_f32());
    let back = scene.worker_of(Arc::clone(&model) as Arc<dyn Embedder>);
    back.embed_all_now().await.unwrap();
    let queries = scene.queries_of(minilm_f32());
    assert!(note(&queries).await.unwrap().starts_with("the vectors of all-MiniLM-L6-v2 (int8"));
    assert_found_by_meaning(&queries, "the AI provider throttled us", "POST /chat").await;
    model.answers.store(true, Ordering::SeqCst);
    scene.try_again().await;
    back.embed_all_now().await.unwrap();
    assert_eq!(note(&queries).await, None);
    assert_found_by_meaning(&queries, "the AI provider throttled us", "POST /chat").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_few_texts_that_no_try_embeds_do_not_hold_a_model_up_for_ever() {
    let scene = shop().await;
    scene.worker_of(Small::named("first")).embed_all_now().await.unwrap();
    let model = Reluctant::new(Small::named("second"));
    let worker = scene.worker_of(Arc::clone(&model) as Arc<dyn Embedder>);
    worker.embed_all_now().await.unwrap();
    let client = scene.bench.test.client().await;
    let tried = "UPDATE otel_embedding_work SET attempts = 5, not_before = now() + interval '1 hour'";
    client.batch_execute(tried).await.unwrap();
    worker.embed_all_now().await.unwrap();
    assert!(scene.is_changing().await, "all of them are too many");
    let one = "DELETE FROM otel_embedding_work WHERE text_id <> (SELECT max(text_id) FROM otel_texts)";
    client.batch_execute(one).await.unwrap();
    worker.embed_all_now().await.unwrap();
    assert!(scene.is_changing().await, "a model that answers nothing does not answer for another");
    model.answers.store(true, Ordering::SeqCst);
    worker.embed_all_now().await.unwrap();
    assert!(!scene.is_changing().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn texts_that_fail_for_hours_or_are_new_do_not_hold_a_model_up() {
    let scene = Scene::new().await;
    texts(&scene, 5).await;
    scene.worker_of(Small::named("first")).embed_all_now().await.unwrap();
    let model = Reluctant::new(Small::named("second"));
    let worker = scene.worker_of(Arc::clone(&model) as Arc<dyn Embedder>);
    worker.embed_all_now().await.unwrap();
    let client = scene.bench.test.client().await;
    let set = async |attempts: u32| {
        let sql =
            format!("UPDATE otel_embedding_work SET attempts = {attempts}, not_before = now() + interval '1 hour'");
        client.batch_execute(&sql).await.unwrap();
    };
    set(50).await;
    model.answers.store(true, Ordering::SeqCst);
    worker.embed_all_now().await.unwrap();
    assert!(scene.is_changing().await, "no text has a vector of it");
    // Two of five are not few.
    let two = "DELETE FROM otel_embedding_work WHERE text_id NOT IN (SELECT text_id FROM otel_texts ORDER BY text_id LIMIT 2)";
    client.batch_execute(two).await.unwrap();
    set(49).await;
    worker.embed_all_now().await.unwrap();
    assert!(scene.is_changing().await, "they are tried for some hours");
    set(50).await;
    // One that came later, and failed once.
    let new = "INSERT INTO otel_texts (text_hash, text_version, text, words) VALUES (gen_random_uuid(), 1, 'new', '');
               INSERT INTO otel_embedding_work (text_id, model_id, attempts, not_before)
               SELECT max(text_id), 2, 1, now() + interval '1 hour' FROM otel_texts";
    client.batch_execute(new).await.unwrap();
    worker.embed_all_now().await.unwrap();
    assert!(!scene.is_changing().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_cannot_answer_yet_says_so_and_answers_later() {
    let scene = shop().await;
    scene.worker_of(Small::named("first")).embed_all_now().await.unwrap();
    let model = Reluctant::new(Small::named("second"));
    let worker = scene.worker_of(Arc::clone(&model) as Arc<dyn Embedder>);
    worker.embed_all_now().await.unwrap();
    model.answers.store(true, Ordering::SeqCst);
    scene.try_again().await;
    let client = scene.bench.test.client().await;
    client.batch_execute("BEGIN; SELECT FROM traces").await.unwrap();
    worker.embed_all_now().await.unwrap();
    assert_eq!((worker.put_off(), scene.is_changing().await), (1, true));
    client.batch_execute("COMMIT").await.unwrap();
    worker.embed_all_now().await.unwrap();
    assert_eq!((worker.put_off(), scene.is_changing().await), (1, false));
}

/// A model that takes its time, and tells in which order models were asked.
struct Slow {
    inner: Arc<dyn Embedder>,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Embedder for Slow {
    fn model(&self) -> &EmbeddingModel {
        self.inner.model()
    }

    fn embed(&self, texts: &[&str]) -> Result<Vec<Vec<f32>>, EmbedError> {
        self.asked.lock().unwrap().push(self.model().name.clone());
        std::thread::sleep(Duration::from_millis(20));
        self.inner.embed(texts)
    }

    fn token_count(&self, text: &str) -> usize {
        self.inner.token_count(text)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_former_model_has_left_to_do_and_what_is_embedded_again_take_turns() {
    const TEXTS: usize = 60;
    let scene = shop().await;
    scene.worker_of(Small::named("first")).embed_all_now().await.unwrap();
    texts(&scene, TEXTS).await;
    let asked: Arc<Mutex<Vec<String>>> = Arc::default();
    let slow =
        |name: &str| -> Arc<dyn Embedder> { Arc::new(Slow { inner: Small::named(name), asked: Arc::clone(&asked) }) };
    let first = slow("first");
    let former = FormerModel::new(move |_| Some(Ok(Arc::clone(&first))));
    let options = EmbedOptions { batch_texts: 1, ..options() };
    let worker =
        EmbeddingWorker::new(scene.bench.store.clone(), slow("second"), options, scene.deriver.texts_written());
    let running = Running::start(worker.with_former(former));
    until(async || asked.lock().unwrap().iter().any(|name| name == "second")).await;
    running.stop().await;
    let asked = asked.lock().unwrap();
    let before = asked.iter().position(|name| name == "second").unwrap();
    assert!(before < TEXTS, "the former model was done before: {before}");
}

#[tokio::test(flavor = "multi_thread")]
async fn log_templates_change_with_the_texts() {
    let scene = shop().await;
    scene.logs("shop", vec![crate::scene::log(1, 17, "the card was declined by the bank", ZERO)]).await;
    scene.worker_of(Small::named("first")).embed_all_now().await.unwrap();
    let vectors = async |model: i16| {
        scene
            .bench
            .count(&format!("otel_log_template_vectors WHERE model_id = {model} AND embedding IS NOT NULL"))
            .await
    };
    assert_eq!(vectors(1).await, 1);
    // There were enough today; what the former model has does not count.
    let client = scene.bench.test.client().await;
    let spent =
        "INSERT INTO otel_log_template_vectors (model_id, template_id) SELECT 2, -n FROM generate_series(1, 5000) n";
    client.batch_execute(spent).await.unwrap();
    let running = Running::start(scene.worker_of(Small::named("second")));
    scene.until_complete(2).await;
    running.stop().await;
    assert_eq!(scene.bench.count("otel_embeddings_2").await, 3);
    assert_eq!(vectors(2).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_writer_changes_models_and_may_drop_none_that_is_in_use() {
    let scene = shop().await;
    scene.bench.store.install_pgvector().await.unwrap();
    let writer = Grantees { writer: Some("pg_monitor".to_owned()), reader: None };
    scene.bench.store.grant_roles(&writer, false).await.unwrap();
    let separator = if scene.bench.test.url().contains('?') { '&' } else { '?' };
    let url = format!("{}{separator}options=-c%20role%3Dpg_monitor", scene.bench.test.url());
    let limited = Database::new(&url).unwrap();
    scene.worker_over(limited.clone(), Small::named("first")).embed_all_now().await.unwrap();
    let running = Running::start(scene.worker_over(limited, Small::named("second")));
    scene.until_complete(2).await;
    assert_eq!(scene.bench.count("otel_embeddings_2").await, 3);

    let client = scene.bench.test.client().await;
    let drop_one = "SET ROLE pg_monitor; SELECT otel_drop_replaced_model(); RESET ROLE";
    for age in ["2 days", "29 days"] {
        let unused = format!("UPDATE otel_embedding_models SET last_used = now() - interval '{age}' WHERE model_id = 1;
                              UPDATE otel_embedding_progress SET last_served = now() - interval '{age}' WHERE model_id = 1");
        client.batch_execute(&unused).await.unwrap();
        client.batch_execute(drop_one).await.unwrap();
        assert_eq!(scene.bench.count("otel_embeddings_1").await, 3, "another model, not another precision");
    }
    let unused = "UPDATE otel_embedding_models SET last_used = now() - interval '31 days' WHERE model_id = 1;
                  UPDATE otel_embedding_progress SET last_served = now() - interval '31 days' WHERE model_id = 1";
    client.batch_execute(unused).await.unwrap();
    until(async || scene.bench.count("otel_embedding_models").await == 1).await;
    running.stop().await;
    assert_eq!(scene.bench.count("pg_class WHERE relname LIKE 'otel_embeddings_1%'").await, 0);
    assert_eq!(scene.bench.count("traces WHERE embedding_model = 'second'").await, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_that_takes_long_holds_up_no_new_text() {
    let scene = shop().await;
    scene.worker_of(Small::named("first")).embed_all_now().await.unwrap();
    let client = scene.bench.test.client().await;
    client
        .batch_execute(
            "INSERT INTO otel_embeddings_1 (text_id, embedding)
             SELECT 1000000 + n, ARRAY[cos(n), sin(n)]::real[]::vector::halfvec FROM generate_series(1, 10001) n",
        )
        .await
        .unwrap();
    // A build waits for whoever has written to the table and is not done.
    let mut other = scene.bench.test.client().await;
    let writing = other.transaction().await.unwrap();
    writing.batch_execute("DELETE FROM otel_embeddings_1 WHERE text_id = 1000001").await.unwrap();
    let options = EmbedOptions { index: Some(IndexKind::Hnsw), ..options() };
    let worker =
        EmbeddingWorker::new(scene.bench.store.clone(), Small::named("first"), options, scene.deriver.texts_written());
    let running = Running::start(worker);
    until(async || scene.bench.count("pg_stat_progress_create_index WHERE datname = current_database()").await == 1)
        .await;
    scene.spans("shop", vec![span(9, 1, 0, "something new", ZERO)]).await;
    scene.derive().await;
    until(async || scene.bench.count("otel_embedding_work").await == 0).await;
    writing.commit().await.unwrap();
    let built = "pg_index WHERE indexrelid = to_regclass('otel.otel_embeddings_1_hnsw') AND indisvalid";
    until(async || scene.bench.count(built).await == 1).await;
    running.stop().await;
}
