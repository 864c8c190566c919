//! New rules for texts: every trace is found by its old text, with a vector, until its new one has a vector too; what
//! describes no trace any more goes.

use oneiric_otel::derive::text::TEXT_VERSION;

use crate::scene::Scene;
use crate::search::{ask, shop};

/// As if an earlier version of the rules had written all texts, in other words.
const WRITTEN_BEFORE: &str =
    "UPDATE otel_texts SET text_version = text_version - 1, text_hash = gen_random_uuid(), text = 'Formerly: ' || text";

/// Traces of which the first text has no vector.
async fn without_vector(scene: &Scene) -> i64 {
    scene.bench.count("traces WHERE embedding IS NULL").await
}

#[tokio::test(flavor = "multi_thread")]
async fn texts_of_an_earlier_version_are_written_again_and_serve_until_then() {
    let scene = shop().await;
    let client = scene.bench.test.client().await;
    let (links, traces) = (scene.bench.count("otel_trace_texts").await, scene.bench.count("otel_traces").await);
    client.batch_execute(WRITTEN_BEFORE).await.unwrap();
    let waiting = "INSERT INTO otel_embedding_work (text_id, model_id) SELECT max(text_id), 1 FROM otel_texts";
    client.batch_execute(waiting).await.unwrap();
    assert_eq!(scene.deriver.renew_texts().await.unwrap(), 0, "a text waits for its vector");
    // What is left for a precision that is not in use any more holds up nobody.
    let left = "INSERT INTO otel_embedding_models (model_id, name, precision, dimension, last_used) OVERRIDING SYSTEM VALUE
                  SELECT 99, name, 'other', dimension, now() - interval '2 hours' FROM otel_embedding_models WHERE model_id = 1;
                UPDATE otel_embedding_work SET model_id = 99";
    client.batch_execute(left).await.unwrap();
    assert_eq!(scene.bench.store.census().await.unwrap().texts_to_embed, 0);
    assert_eq!(scene.deriver.renew_texts().await.unwrap() as i64, traces, "their texts are written");
    let new = format!("otel_texts WHERE text_version = {TEXT_VERSION}");
    assert!(scene.bench.count(&new).await > 0);
    assert_eq!(scene.bench.count("otel_trace_touches").await, 0, "not before these have vectors");
    assert_eq!(scene.deriver.renew_texts().await.unwrap(), 0, "they wait for their vectors");
    let answer = scene.queries().search_traces(&ask("could not connect to payment")).await.unwrap();
    assert_eq!((answer.hits[0].newest.root_name.as_str(), answer.hits[0].trace_count), ("POST /checkout", 5));
    assert!(answer.hits[0].text.starts_with("Formerly: ") && answer.hits[0].cosine.is_some());
    client.batch_execute("DELETE FROM otel_embedding_models WHERE model_id = 99").await.unwrap();
    scene.embed().await;
    assert_eq!(scene.deriver.renew_texts().await.unwrap() as i64, traces, "they are due");
    scene.derive().await;
    assert_eq!(without_vector(&scene).await, 0, "the new texts had theirs before");
    let linked = format!("otel_trace_texts JOIN otel_texts USING (text_id) WHERE text_version = {TEXT_VERSION}");
    assert_eq!((scene.bench.count(&linked).await, scene.bench.count("otel_trace_texts").await), (links, links));
    assert_eq!(scene.bench.count("otel_embedding_work WHERE model_id = 1").await, 0);
    assert_eq!(scene.deriver.renew_texts().await.unwrap(), 0);
    let answer = scene.queries().search_traces(&ask("could not connect to payment")).await.unwrap();
    assert_eq!((answer.hits[0].newest.root_name.as_str(), answer.hits[0].trace_count), ("POST /checkout", 5));
    assert!(!answer.hits[0].text.starts_with("Formerly: "));
}

#[tokio::test(flavor = "multi_thread")]
async fn texts_that_describe_no_trace_any_more_go_with_their_vectors() {
    let scene = shop().await;
    let client = scene.bench.test.client().await;
    let old = scene.bench.count("otel_texts").await;
    client.batch_execute(WRITTEN_BEFORE).await.unwrap();
    while scene.deriver.renew_texts().await.unwrap() > 0 {
        scene.embed().await;
        scene.derive().await;
    }
    // What was just written and is not linked yet stays.
    let work =
        "INSERT INTO otel_texts (text_hash, text_version, text, words) VALUES (gen_random_uuid(), 999, 'new', '');
         INSERT INTO otel_embedding_work (text_id, model_id) SELECT min(text_id), 1 FROM otel_texts";
    client.batch_execute(work).await.unwrap();
    let texts = scene.bench.count(&format!("otel_texts WHERE text_version = {TEXT_VERSION}")).await;
    assert_eq!(scene.deriver.collect_texts().await.unwrap() as i64, old);
    assert_eq!(scene.bench.count("otel_texts").await, texts + 1);
    assert_eq!(scene.bench.count("otel_embeddings_1").await, texts);
    assert_eq!(scene.bench.count("otel_embedding_work").await, 0);
    assert_eq!(scene.deriver.collect_texts().await.unwrap(), 0);
    client.batch_execute("UPDATE otel_texts SET created_at = now() - interval '2 hours'").await.unwrap();
    assert_eq!(scene.deriver.collect_texts().await.unwrap(), 1, "an hour later it was not linked");
}
