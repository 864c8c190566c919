//! Every query of docs/queries.md is run as the role for SQL, on what the demo leaves, and finds something.

use std::time::{Duration, SystemTime};

use oneiric_otel_testkit::TestDatabase;
use serde_json::json;

use crate::cli::{run, run_with_input};
use crate::tour::blocks;

const PAGE: &str = include_str!("../../../../docs/queries.md");

/// Blocks of this language.
fn of_language(language: &str) -> Vec<String> {
    blocks(PAGE).into_iter().filter(|block| block.info == language).map(|block| block.text).collect()
}

/// A request of one user that asks the database for each of its rows.
fn n_plus_one() -> Vec<u8> {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().saturating_sub(Duration::from_mins(1));
    let attribute = |key: &str, value: &str| json!({"key": key, "value": {"stringValue": value}});
    let span = |number: u64, attributes: serde_json::Value| {
        let start = now + Duration::from_millis(number);
        json!({
            "traceId": "5b8efff798038103d269b633813fc60c", "spanId": format!("{number:016x}"),
            "parentSpanId": if number == 1 { "" } else { "0000000000000001" }, "name": "query", "kind": 3,
            "startTimeUnixNano": start.as_nanos().to_string(),
            "endTimeUnixNano": (start + Duration::from_millis(1)).as_nanos().to_string(), "attributes": attributes,
        })
    };
    let query =
        json!([attribute("db.system", "postgresql"), attribute("db.statement", "SELECT * FROM item WHERE id = $1")]);
    let mut spans = vec![span(1, json!([attribute("enduser.id", "u-1001")]))];
    spans.extend((2..20).map(|number| span(number, query.clone())));
    json!({"resourceSpans": [{"resource": {"attributes": [attribute("service.name", "basket")]},
           "scopeSpans": [{"spans": spans}]}]})
    .to_string()
    .into_bytes()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_query_of_the_page_finds_something() {
    let database = TestDatabase::create().await;
    let reader = database.create_role("reader").await;
    let url = ["--database-url", database.url()];
    run(&[
        &["demo", "--once", "--grpc-addr=127.0.0.1:0", "--http-addr=127.0.0.1:0", "--api-addr=127.0.0.1:0"],
        &url[..],
    ]
    .concat())
    .await
    .expect(0);
    run_with_input(&[&["import", "-"], &url[..]].concat(), &n_plus_one()).await.expect(0);
    run(&[&["db", "roles", "--reader", &reader.name], &url[..]].concat()).await.expect(0);
    let tables = "CREATE SCHEMA shop; CREATE TABLE shop.orders AS
                  SELECT DISTINCT attributes ->> 'app.order.id' AS id, 'c' || abs(hash_bigint % 7) AS customer, 4200 AS total_cents
                  FROM (SELECT attributes, span_hash AS hash_bigint FROM otel_spans WHERE attributes ? 'app.order.id') s";
    let client = database.client().await;
    client.batch_execute(tables).await.unwrap();
    for statement in of_language("sql as-owner") {
        client.batch_execute(&statement.replace("otel_reader", &reader.name)).await.unwrap();
    }
    let queries = of_language("sql");
    assert!(queries.len() > 15);
    for query in &queries {
        let ask = [&["sql", "-", "--json", "--sql-reader-url", &reader.url], &url[..]].concat();
        let answer = run_with_input(&ask, query.as_bytes()).await;
        assert_eq!(answer.code, Some(0), "{query}\n{}", answer.stderr);
        assert!(!answer.stdout.is_empty(), "no rows: {query}");
    }
}
