//! `embedding_fallback = "hash"`: a hash of the id in place of a vector, seen in one column, met by no question, and gone
//! when there is a model.

use std::time::Duration;

use oneiric_otel::embed::EmbedOptions;
use oneiric_otel::query::{QueryError, QueryService, SearchRequest, SimilarRequest, TraceFilter, TraceId};
use oneiric_otel::settings::EmbeddingFallback;
use oneiric_otel::store::Database;
use oneiric_otel::system::{Backend, ModelLoader, ModelState, Schema, System, SystemOptions};

use crate::scene::{Scene, failed, minilm, span, trace_id};

const ZERO: Duration = Duration::ZERO;

/// A server on the database of the scene, with a model that can be had or not.
fn serve(scene: &Scene, fallback: EmbeddingFallback, model: ModelLoader) -> System {
    let options = SystemOptions { model: Some(model), embedding_fallback: fallback, ..SystemOptions::default() };
    System::start(Backend::new(Database::new(scene.bench.test.url()).unwrap(), None), Schema::Ready, options)
}

fn no_model() -> ModelLoader {
    ModelLoader::new(|| Err("the network is away".to_owned()))
}

async fn until(scene: &Scene, what: &str, count: i64) {
    while scene.bench.count(what).await != count {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Two traces that failed alike, and the hashes that a server without a model shows for them.
async fn scene() -> Scene {
    let scene = Scene::new().await;
    for trace in 1..=2 {
        scene.spans("shop", vec![failed(span(trace, 1, 0, "POST /pay", ZERO), "card declined", &[])]).await;
    }
    scene.derive().await;
    let system = serve(&scene, EmbeddingFallback::Hash, no_model());
    until(&scene, "otel_embedding_fallback", 1).await;
    system.stop(ZERO).await.unwrap();
    scene
}

async fn assert_no_question_meets_them(queries: &QueryService) {
    let ask = |text: &str| SearchRequest { text: text.to_owned(), limit: 10, filter: TraceFilter::default() };
    let answer = queries.search_traces(&ask("card declined")).await.unwrap();
    assert_eq!((answer.hits.len(), answer.hits[0].cosine), (1, None), "by words alone");
    assert!(queries.search_traces(&ask("the bank said no")).await.unwrap().hits.is_empty());
    let similar = SimilarRequest {
        trace_id: TraceId(trace_id(1).try_into().unwrap()),
        threshold: 0.0,
        limit: 10,
        filter: TraceFilter::default(),
    };
    let error = queries.find_similar_traces(&similar).await.unwrap_err();
    assert!(matches!(error, QueryError::Unavailable { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn hashes_are_marked_as_what_they_are_and_no_question_meets_them() {
    let scene = scene().await;
    let hashes = "traces WHERE embedding_fallback IS NOT NULL";
    assert_eq!(scene.bench.count(hashes).await, 2);
    let lengths = "traces WHERE cardinality(embedding_fallback) = 384
                   AND abs((SELECT sum(n * n) FROM unnest(embedding_fallback) n) - 1) < 1e-5";
    assert_eq!(scene.bench.count(lengths).await, 2);
    assert_eq!(
        scene.row("SELECT count(DISTINCT embedding_fallback) FROM traces").await,
        "2",
        "of the id, not of the text"
    );
    let comment = "SELECT col_description('otel.traces'::regclass, attnum) FROM pg_attribute
                   WHERE attrelid = 'otel.traces'::regclass AND attname = 'embedding_fallback'";
    assert!(scene.row(comment).await.starts_with("NOT an embedding"));

    let census = scene.bench.store.census().await.unwrap();
    let problem = census.embedding_fallback.unwrap().problem();
    assert!(problem.contains("these are not embeddings") && problem.ends_with("the network is away"), "{problem}");
    assert!(census.models.is_empty());
    for embedder in [None, Some(minilm())] {
        assert_no_question_meets_them(&QueryService::new(scene.bench.store.clone(), embedder)).await;
    }
    assert_eq!(scene.bench.count("pg_class WHERE relname LIKE 'otel_embeddings%'").await, 0);

    // The setting is taken back.
    let system = serve(&scene, EmbeddingFallback::None, no_model());
    until(&scene, hashes, 0).await;
    system.stop(ZERO).await.unwrap();
    assert_eq!(scene.bench.store.census().await.unwrap().embedding_fallback, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_comes_embeds_for_real_and_the_hashes_are_gone() {
    let scene = scene().await;
    let system = serve(&scene, EmbeddingFallback::Hash, ModelLoader::ready(minilm()));
    // Until there is a model the view has no column for its vectors.
    until(&scene, "otel_embedding_models", 1).await;
    until(&scene, "traces WHERE embedding IS NOT NULL AND embedding_fallback IS NULL", 2).await;
    assert_eq!(scene.bench.count("otel_embedding_fallback").await, 0);
    system.stop(ZERO).await.unwrap();
    assert_eq!(scene.bench.count("otel_embeddings_1").await, 1);
    assert_eq!(scene.row("SELECT DISTINCT embedding_model FROM traces").await, minilm().model().name);

    // A model that is away again leaves what has a vector its vector.
    scene.spans("shop", vec![span(3, 1, 0, "GET /cart", ZERO)]).await;
    scene.derive().await;
    let system = serve(&scene, EmbeddingFallback::Hash, no_model());
    until(&scene, "traces WHERE embedding IS NULL AND embedding_fallback IS NOT NULL", 1).await;
    system.stop(ZERO).await.unwrap();
    assert_eq!(scene.bench.count("traces WHERE embedding IS NOT NULL AND embedding_fallback IS NULL").await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_gets_hashes_who_did_not_ask() {
    let scene = Scene::new().await;
    scene.spans("shop", vec![span(1, 1, 0, "GET /cart", ZERO)]).await;
    scene.derive().await;
    let system = serve(&scene, EmbeddingFallback::None, no_model());
    let mut model = system.model();
    model.wait_for(|state| matches!(state, ModelState::Failed(_))).await.unwrap();
    assert_eq!(scene.bench.count("traces WHERE embedding_fallback IS NULL").await, 1);
    system.stop(ZERO).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_a_model_shows_no_hashes_beside_one_that_has_a_model() {
    let scene = Scene::new().await;
    let often = Duration::from_millis(20);
    let options = SystemOptions {
        model: Some(ModelLoader::ready(minilm())),
        embed: EmbedOptions { upkeep: often, interval: often, ..EmbedOptions::default() },
        ..SystemOptions::default()
    };
    let backend = Backend::new(Database::new(scene.bench.test.url()).unwrap(), None);
    let system = System::start(backend, Schema::Ready, options);
    until(&scene, "otel_leases WHERE job = 'embedding' AND until > now()", 1).await;
    assert!(!scene.bench.store.fall_back_to_hashes("the network is away").await.unwrap());
    assert_eq!(scene.bench.count("otel_embedding_fallback").await, 0);
    // An older program asks nobody.
    let client = scene.bench.test.client().await;
    for _ in 0..2 {
        let asked = "INSERT INTO otel_embedding_fallback (kind, reason) VALUES ('hash', 'the network is away')";
        client.batch_execute(asked).await.unwrap();
        until(&scene, "otel_embedding_fallback", 0).await;
    }
    system.stop(ZERO).await.unwrap();
    assert!(scene.bench.store.fall_back_to_hashes("the network is away").await.unwrap());
}
