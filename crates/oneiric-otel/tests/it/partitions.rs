//! Partitions whose time has passed get their indexes.

use std::time::Duration;

use opentelemetry_proto::tonic::logs::v1::LogRecord;

use crate::scene::{NOON, SECOND, Scene, log};

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_whose_index_cannot_be_built_does_not_stop_the_others() {
    let scene = Scene::new().await;
    let old = |days: u64| LogRecord { time_unix_nano: NOON - days * 86_400 * SECOND, ..log(0, 9, "x", Duration::ZERO) };
    scene.logs("shop", vec![old(400), old(800)]).await;
    let client = scene.bench.test.client().await;
    let closed = "SELECT partition FROM otel.otel_partitions('otel_logs')
                  WHERE upper_bound < now() - interval '1 hour' ORDER BY upper_bound DESC";
    let closed = client.query(closed, &[]).await.unwrap();
    assert_eq!(closed.len(), 2);
    let newest: String = closed[0].get(0);
    client.batch_execute(&format!("CREATE TABLE otel.\"{newest}_words\" ()")).await.unwrap();
    let error = scene.bench.store.close_partitions().await.expect_err("one cannot be built");
    assert!(error.to_string().contains(&format!("{newest}_words")), "{error}");
    let built = "SELECT count(*) FROM pg_indexes WHERE indexname ~ '^otel_logs_.*_(words|template)$'";
    assert_eq!(scene.bench.test.count(built).await, 3, "all but the one");

    client.batch_execute(&format!("DROP TABLE otel.\"{newest}_words\"")).await.unwrap();
    assert_eq!(
        scene.bench.store.close_partitions().await.unwrap(),
        [format!("{newest}_words")],
        "the next call goes on"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_that_was_made_by_hand_with_an_odd_name_gets_its_indexes() {
    let scene = Scene::new().await;
    let client = scene.bench.test.client().await;
    let made = r#"CREATE TABLE "odd; ""name" PARTITION OF otel_logs FOR VALUES FROM ('2025-03-01 00:00:00+00') TO ('2025-03-02 00:00:00+00');
                  CREATE TABLE "odd; name" PARTITION OF otel_logs FOR VALUES FROM ('2025-03-02 00:00:00+00') TO ('2025-03-03 00:00:00+00')"#;
    client.batch_execute(made).await.unwrap();
    // An index that a build left behind when it was cut off is made anew.
    let left_behind = r#"CREATE INDEX "odd; ""name_words" ON "odd; ""name" (body);
                         UPDATE pg_index SET indisvalid = false WHERE indexrelid = '"odd; ""name_words"'::regclass"#;
    client.batch_execute(left_behind).await.unwrap();
    let mut built = scene.bench.store.close_partitions().await.unwrap();
    built.retain(|index| index.starts_with("odd"));
    built.sort();
    assert_eq!(built, ["odd; \"name_template", "odd; \"name_words", "odd; name_template", "odd; name_words"]);
    assert_eq!(scene.bench.store.close_partitions().await.unwrap(), [""; 0], "they are there");
}
