//! The query API of a real server: what it answers is what its OpenAPI document says.

use oneiric_otel_testkit::TestDatabase;
use oneiric_otel_testkit::data::shared_data_for;
use oneiric_otel_testkit::{nezha, python};
use serde_json::{Value, json};

use tokio::process::Command;
use tokio::time::timeout;

use crate::cli::{PATIENCE, Serving, run, run_with_input};
use crate::questions;
use crate::tour::blocks;

/// Everything that the tester can compare, but for what data it thinks must be accepted.
const CHECKS: &str = "not_a_server_error,status_code_conformance,content_type_conformance,response_headers_conformance,\
                      response_schema_conformance,unsupported_method,negative_data_rejection";

/// What is too long for the listener is refused before it is understood. A question that is given a millisecond may be too slow,
/// which the document says.
const REFUSALS: &str = "[checks.negative_data_rejection]
expected-statuses = [400, 401, 404, 405, 413, 414, 415, 431]
[checks.not_a_server_error]
expected-statuses = [\"2xx\", \"3xx\", \"4xx\", 504]
";

#[tokio::test]
async fn the_api_answers_as_its_document_says() {
    let Some(data) = shared_data_for("the_api_answers_as_its_document_says", nezha::FOLDER) else { return };
    let database = TestDatabase::create().await;
    let url = ["--database-url", database.url()];
    for (signal, mut requests) in [
        ("traces", Box::new(nezha::traces(&data)) as Box<dyn Iterator<Item = _>>),
        ("logs", Box::new(nezha::logs(&data))),
    ] {
        let request = requests.next().unwrap().unwrap();
        let arguments = [&["import", "-", "--signal", signal], &url[..]].concat();
        run_with_input(&arguments, &request).await.expect(0);
    }
    let trace_id: String = {
        let client = database.client().await;
        client.query_one("select trace_id from otel.traces order by start_time limit 1", &[]).await.unwrap().get(0)
    };
    let reader = database.create_role("reader").await;
    run(&[&["db", "roles", "--reader", &reader.name], &url[..]].concat()).await.expect(0);
    let serving = Serving::start(&[&url[..], &["--sql-reader-url", &reader.url]].concat()).await;
    let document = format!("http://{}/api/v1/openapi.json", serving.address("api_addr"));
    // Ids that are there, and ids that are not.
    let known = format!("{REFUSALS}[parameters]\n\"path.trace_id\" = \"{trace_id}\"\n");
    for (config, seed) in [(known.as_str(), 1), (REFUSALS, 2)] {
        let options = ["--checks", CHECKS, "--max-examples", "20", "--phases", "examples,coverage,fuzzing"];
        python::schemathesis(&document, config, seed, &options).await.unwrap();
    }
    serving.terminate().await;
    assert_eq!(serving.end().await, Some(0));
}

/// What a line of shell prints; none if it fails.
async fn shell(line: &str) -> Option<String> {
    let ended = timeout(PATIENCE, Command::new("bash").args(["-e", "-c", line]).output()).await.unwrap().unwrap();
    ended.status.success().then(|| String::from_utf8(ended.stdout).unwrap())
}

#[tokio::test]
async fn every_example_of_the_page_about_the_api_works() {
    let database = questions::database().await;
    let url = ["--database-url", database.url()];
    let reader = database.create_role("reader").await;
    run(&[&["db", "roles", "--reader", &reader.name], &url[..]].concat()).await.expect(0);
    let serving = Serving::start(&[&url[..], &["--sql-reader-url", &reader.url]].concat()).await;
    let place = serving.address("api_addr");
    let trace_id = format!("{:032x}", 1);
    // Likeness can be asked for as soon as the model is loaded.
    let like = format!("curl -sSf http://{place}/api/v1/traces/{trace_id}/similar");
    let loaded = async { while shell(&like).await.is_none() {} };
    timeout(PATIENCE, loaded).await.unwrap();
    let mut cursor = None;
    let examples = blocks(include_str!("../../../../docs/api.md"));
    for line in examples.iter().filter(|block| block.info == "sh").flat_map(|block| block.text.lines()) {
        let line = line.replace("127.0.0.1:16686", &place).replace("TRACE_ID", &trace_id);
        let line = cursor.as_deref().map_or(line.clone(), |cursor| line.replace("CURSOR", cursor));
        let answer: serde_json::Value =
            serde_json::from_str(&shell(&line).await.unwrap_or_else(|| panic!("{line} failed"))).unwrap();
        assert!(answer.is_object(), "{line}: {answer}");
        cursor = cursor.or_else(|| answer["next"].as_str().map(str::to_owned));
    }
    assert!(cursor.is_some(), "a page has a next one");
    serving.terminate().await;
    assert_eq!(serving.end().await, Some(0));
}

#[tokio::test]
async fn lists_come_in_pages_and_an_embedding_must_fit_the_model() {
    let database = questions::database().await;
    let serving = Serving::start(&["--database-url", database.url()]).await;
    let place = format!("http://{}/api/v1", serving.address("api_addr"));
    let ask = async |flags: &str| -> Value {
        serde_json::from_str(&shell(&format!("curl -sS {flags}")).await.unwrap()).unwrap()
    };
    for (path, list, total) in [
        ("errors?pattern=bank%20is&since=2000d", "traces", 3),
        ("errors/groups?since=2000d", "groups", 2),
        ("traces?since=2000d", "traces", 6),
        ("spans?since=2000d&service=till", "spans", 6),
        ("spans?since=2000d&attribute=http.status_code%3E500", "spans", 6),
    ] {
        let whole = ask(&format!("'{place}/{path}'")).await;
        let (mut seen, mut cursor) = (Vec::new(), String::new());
        loop {
            let page = ask(&format!("'{place}/{path}&limit=1{cursor}'")).await;
            let items = page[list].as_array().unwrap_or_else(|| panic!("{path}: {page}"));
            assert_eq!(items.len(), 1, "{path}: {page}");
            seen.extend(items.clone());
            let Some(next) = page["next"].as_str() else { break };
            cursor = format!("&cursor={next}");
        }
        assert_eq!(seen.len(), total, "{path}");
        assert_eq!(Value::from(seen), whole[list], "{path}");
        let of_another = ask(&format!("'{place}/{path}&cursor=AAAA'")).await;
        assert_eq!((&of_another["status"], &of_another["parameter"]), (&json!(400), &json!("cursor")), "{path}");
    }

    let near = |embedding: Value| format!("--json '{embedding}' '{place}/similar?threshold=0&limit=2'");
    let one = json!(vec![0.5; 384]);
    // As soon as the model is loaded.
    let loaded = async { while ask(&near(one.clone())).await["status"] == json!(503) {} };
    timeout(PATIENCE, loaded).await.unwrap();
    let hits = ask(&near(one)).await;
    assert!(hits["hits"].as_array().is_some_and(|hits| !hits.is_empty() && hits.len() <= 2), "{hits}");
    for wrong in [json!(vec![0.5; 383]), json!(vec![0; 384]), json!([])] {
        let problem = ask(&near(wrong)).await;
        assert_eq!((&problem["status"], &problem["parameter"]), (&json!(400), &json!("embedding")), "{problem}");
        assert!(problem["detail"].as_str().unwrap().contains("384"), "{problem}");
    }
    for wrong in [json!({"embedding": [0.5]}), json!(["x"])] {
        assert_eq!(ask(&near(wrong)).await["status"], json!(400));
    }
    serving.terminate().await;
    assert_eq!(serving.end().await, Some(0));
}

#[tokio::test]
async fn logs_are_found_by_their_meaning_and_their_templates() {
    let database = questions::database().await;
    let serving = Serving::start(&["--database-url", database.url()]).await;
    let place = format!("http://{}", serving.address("api_addr"));
    let get = async |path: &str| -> Option<serde_json::Value> {
        Some(serde_json::from_str(&shell(&format!("curl -sSf '{place}{path}'")).await?).unwrap())
    };
    // It answers as soon as the model is loaded.
    let loaded = async {
        loop {
            if let Some(found) = get("/api/v1/logs/search?text=a%20connection%20timed%20out").await {
                return found;
            }
        }
    };
    let found = timeout(PATIENCE, loaded).await.unwrap();
    let near = &found["templates"][0];
    assert!(near["template"].as_str().unwrap().contains("SocketTimeoutException"), "{found:#}");
    let id = near["template_id"].as_str().expect("text");
    assert_eq!(found["page"]["logs"][0]["template_id"], id);
    let logs = get(&format!("/api/v1/logs?template={id}")).await.unwrap();
    assert_eq!(logs["logs"][0]["id"], found["page"]["logs"][0]["id"]);
    let nothing = get("/api/v1/logs/search?text=sourdough%20bread%20recipes").await.unwrap();
    assert_eq!((&nothing["nothing_near"], nothing["page"]["logs"].as_array().unwrap().len()), (&true.into(), 0));
    assert_eq!(get("/api/v1/logs/search").await, None, "it says nothing without a description");
    let metrics = shell(&format!("curl -sSf {place}/metrics")).await.unwrap();
    for line in [
        "oneiric_otel_stored_log_templates_total 0",
        "oneiric_otel_left_out_log_templates_total 0",
        "oneiric_otel_metric_series_limit 10000000.0",
    ] {
        assert!(metrics.lines().any(|found| found == line), "{line} is not in {metrics}");
    }
    serving.terminate().await;
    assert_eq!(serving.end().await, Some(0));
}

#[tokio::test]
async fn strangers_get_a_problem_and_a_browser_may_ask_before_it_shows_a_token() {
    const TOKEN: &str = "a-token-of-the-tests";
    let database = TestDatabase::create().await;
    let variables = [("OTEL_STORAGE_TOKENS", TOKEN), ("OTEL_STORAGE_CORS_ORIGINS", "https://a.example")];
    let serving = Serving::start_with(&["--database-url", database.url()], &variables).await;
    let place = format!("http://{}/api/v1/traces", serving.address("api_addr"));
    let ask = async |flags: &str| shell(&format!("curl -sS -i {flags} {place}")).await.unwrap().to_ascii_lowercase();
    for (flags, reason) in [("", "is missing"), ("-H 'authorization: Bearer another-token-of-all'", "is not known")] {
        let refused = ask(flags).await;
        assert!(refused.starts_with("http/1.1 401"), "{refused}");
        for part in ["application/problem+json", "www-authenticate: bearer", "problem:unauthenticated", reason] {
            assert!(refused.contains(part), "{part}: {refused}");
        }
    }
    let known = ask(&format!("-H 'authorization: Bearer {TOKEN}' -H 'origin: https://a.example'")).await;
    assert!(known.starts_with("http/1.1 200") && known.contains("allow-origin: https://a.example"), "{known}");
    let before = "-X OPTIONS -H 'origin: https://a.example' -H 'access-control-request-method: GET' \
                  -H 'access-control-request-headers: authorization'";
    let may = ask(before).await;
    assert!(may.starts_with("http/1.1 200") && may.contains("allow-headers: authorization"), "{may}");
    let may_not = ask(&before.replace("a.example", "b.example")).await;
    assert!(!may_not.contains("allow-origin"), "{may_not}");
    serving.terminate().await;
    assert_eq!(serving.end().await, Some(0));
}
