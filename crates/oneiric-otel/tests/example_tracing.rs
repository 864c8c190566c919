//! The example `tracing` runs. A program of its own, because it sets the subscriber of the process.

#[path = "../examples/tracing.rs"]
#[expect(dead_code, reason = "its main is not called")]
mod example;

use oneiric_otel_testkit::TestDatabase;

#[tokio::test]
async fn the_example_stores_what_it_traces_logs_and_measures() {
    let test = TestDatabase::create().await;
    example::run(Some(test.url().to_owned())).await.expect("it runs");
    assert_eq!(test.count("SELECT count(*) FROM otel.otel_spans").await, 2);
    assert_eq!(test.count("SELECT count(*) FROM otel.otel_logs").await, 1);
    assert_eq!(test.count("SELECT count(*) FROM otel.otel_metrics").await, 1);
}
