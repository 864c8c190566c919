//! Deleting texts that describe no trace any more while somebody links them: no link may lose its text.

use std::time::Duration;

use crate::scene::{Scene, failed, span};

const OLD: &str = "UPDATE otel_texts SET created_at = now() - interval '2 hours'";
const UNLINK: &str = "DELETE FROM otel_trace_texts";
const WITHOUT_TEXT: &str = "otel_trace_texts l WHERE NOT EXISTS (SELECT FROM otel_texts x WHERE x.text_id = l.text_id)";

/// Two traces with a text of each.
async fn two_texts() -> Scene {
    let scene = Scene::new().await;
    let spans = ["GET /carts", "POST /orders"].into_iter().zip(1..);
    let spans = spans.map(|(name, number)| failed(span(number, 1, 0, name, Duration::ZERO), "no route to host", &[]));
    scene.spans("shop", spans.collect()).await;
    scene.derive().await;
    assert_eq!(scene.bench.count("otel_texts").await, 2);
    scene
}

#[tokio::test(flavor = "multi_thread")]
async fn a_text_that_is_being_linked_stays() {
    let scene = two_texts().await;
    scene.bench.test.client().await.batch_execute(&format!("{UNLINK}; {OLD}")).await.unwrap();
    // As a deriver links a text that is there already.
    let linking = scene.bench.test.client().await;
    linking
        .batch_execute(
            "BEGIN; SELECT FROM otel_texts WHERE text_id = (SELECT min(text_id) FROM otel_texts) FOR KEY SHARE",
        )
        .await
        .unwrap();
    assert_eq!(scene.deriver.collect_texts().await.unwrap(), 1, "the other one");
    let link = "INSERT INTO otel_trace_texts (text_id, bucket, trace_id)
                SELECT x.text_id, t.bucket, t.trace_id FROM otel_texts x, otel_traces t LIMIT 1; COMMIT";
    linking.batch_execute(link).await.unwrap();
    assert_eq!(scene.deriver.collect_texts().await.unwrap(), 0);
    assert_eq!(scene.bench.count("otel_texts").await, 1);
    assert_eq!(scene.bench.count(WITHOUT_TEXT).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_text_that_goes_while_a_trace_wants_it_is_written_again() {
    let scene = two_texts().await;
    let collecting = scene.bench.test.client().await;
    collecting
        .batch_execute(&format!("{UNLINK}; BEGIN; SELECT FROM otel_texts FOR UPDATE; DELETE FROM otel_texts"))
        .await
        .unwrap();
    let again = failed(span(7, 1, 0, "GET /carts", Duration::from_secs(1)), "no route to host", &[]);
    scene.spans("shop", vec![again]).await;
    let waits = async {
        let waiting = "pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
        while scene.bench.count(waiting).await == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        collecting.batch_execute("COMMIT").await.unwrap();
    };
    tokio::join!(scene.derive(), waits);
    assert_eq!(scene.bench.count("otel_texts").await, 1);
    assert_eq!(scene.bench.count("otel_trace_texts").await, 1);
    assert_eq!(scene.bench.count(WITHOUT_TEXT).await, 0);
}
