//! The frame, over a database that is away: nothing here needs one.

use axum::body::Body;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::BodyExt as _;
use oneiric_otel::query::QueryService;
use oneiric_otel::store::Database;
use serde_json::Value;
use tokio::sync::watch;
use tower::ServiceExt as _;

use crate::openapi::PATH;
use crate::{ApiOptions, document, router};

const TRACE: &str = "/api/v1/traces/4bf92f3577b34da6a3ce929d0e0e4736";

struct Answered {
    status: StatusCode,
    headers: HeaderMap,
    body: Vec<u8>,
}

impl Answered {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().expect("text"))
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("JSON")
    }
}

async fn ask_with(options: &ApiOptions, method: Method, path: &str, headers: &[(&str, &str)]) -> Answered {
    ask_of(1, options, method, path, headers).await
}

/// Asks of a database that is expected at a port of this machine.
async fn ask_of(port: u16, options: &ApiOptions, method: Method, path: &str, headers: &[(&str, &str)]) -> Answered {
    let database = Database::new(&format!("postgresql://nobody@127.0.0.1:{port}/nothing")).expect("a URL");
    let (_keep, service) = watch::channel(QueryService::new(database, None));
    let mut request = Request::builder().method(method).uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Body::empty()).expect("a request");
    let response = router(service, options).oneshot(request).await.expect("routes always answer");
    let (head, body) = response.into_parts();
    let body = body.collect().await.expect("a body").to_bytes().to_vec();
    Answered { status: head.status, headers: head.headers, body }
}

async fn ask(method: Method, path: &str, headers: &[(&str, &str)]) -> Answered {
    ask_with(&ApiOptions::default(), method, path, headers).await
}

#[tokio::test]
async fn problems_say_what_and_tell_nothing_of_the_inside() {
    let cases = [
        (Method::GET, "/api/v1/traces?limit=0", StatusCode::BAD_REQUEST, "invalid-argument", "limit: expected"),
        (Method::GET, "/api/v1/traces?nope=0", StatusCode::BAD_REQUEST, "invalid-argument", "nope: no such parameter"),
        (Method::GET, "/api/v1/traces/xyz", StatusCode::BAD_REQUEST, "invalid-argument", "trace_id: expected 32"),
        (Method::GET, "/api/v1/traces/%ff", StatusCode::BAD_REQUEST, "invalid-argument", "the path: expected UTF-8"),
        (Method::GET, "/api/v1/search", StatusCode::BAD_REQUEST, "invalid-argument", "text: is missing"),
        (
            Method::GET,
            "/api/v1/traces?until=2h&since=1h",
            StatusCode::BAD_REQUEST,
            "invalid-argument",
            "until: expected",
        ),
        (Method::GET, "/api/v1/nothing", StatusCode::NOT_FOUND, "not-found", "openapi.json"),
        (Method::DELETE, TRACE, StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed", "Allow"),
        (Method::GET, TRACE, StatusCode::SERVICE_UNAVAILABLE, "unavailable", "the database is away"),
    ];
    for (method, path, status, kind, detail) in cases {
        let answered = ask(method, path, &[]).await;
        let problem = answered.json();
        assert_eq!(answered.status, status, "{path}: {problem}");
        assert_eq!(answered.header("content-type"), "application/problem+json", "{path}");
        assert_eq!(problem["type"], format!("urn:oneiric-otel:problem:{kind}"), "{path}");
        assert_eq!(problem["status"], status.as_u16(), "{path}");
        assert!(problem["detail"].as_str().is_some_and(|text| text.contains(detail)), "{path}: {problem}");
        assert!(!problem.to_string().contains("127.0.0.1"), "{problem}");
        assert_eq!(answered.header("retry-after").is_empty(), status != StatusCode::SERVICE_UNAVAILABLE, "{path}");
    }
}

#[tokio::test]
async fn every_path_tells_which_methods_it_is_for() {
    let refused = ask(Method::POST, TRACE, &[]).await;
    assert_eq!(refused.header("allow"), "GET,HEAD");
    let asked = ask(Method::OPTIONS, TRACE, &[]).await;
    assert_eq!((asked.status, asked.header("allow")), (StatusCode::NO_CONTENT, "GET,HEAD"));
    assert!(asked.body.is_empty());
    let head = ask(Method::HEAD, PATH, &[]).await;
    assert_eq!((head.status, head.header("content-type")), (StatusCode::OK, "application/json"));
    assert!(head.body.is_empty());
    assert!(head.header("content-length").parse::<usize>().expect("a length") > 1000);
}

#[tokio::test]
async fn what_the_client_has_is_not_sent_again_and_what_is_sent_is_compressed() {
    let first = ask(Method::GET, PATH, &[]).await;
    let tag = first.header("etag");
    assert!(tag.starts_with("W/\""), "{tag}");
    for known in [tag, "*", &format!("\"x\", {tag}")] {
        let again = ask(Method::GET, PATH, &[("if-none-match", known)]).await;
        assert_eq!((again.status, again.header("etag")), (StatusCode::NOT_MODIFIED, tag), "{known}");
        assert!(again.body.is_empty());
    }
    assert_eq!(ask(Method::GET, PATH, &[("if-none-match", "\"x\"")]).await.status, StatusCode::OK);
    for encoding in ["gzip", "zstd"] {
        let packed = ask(Method::GET, PATH, &[("accept-encoding", encoding)]).await;
        assert_eq!(packed.header("content-encoding"), encoding);
        assert_eq!(packed.header("vary"), "accept-encoding");
        assert!(packed.body.len() < first.body.len() / 3, "{} of {}", packed.body.len(), first.body.len());
    }
}

#[tokio::test]
async fn pages_of_other_origins_may_ask_only_if_they_are_named() {
    let origin = "https://a.example";
    let asks = [("origin", origin), ("access-control-request-method", "GET")];
    let closed = ask(Method::OPTIONS, TRACE, &asks).await;
    assert_eq!(closed.header("access-control-allow-origin"), "");
    let named = ApiOptions { cors_origins: vec![origin.parse().expect("an origin")], ..ApiOptions::default() };
    let open = ask_with(&named, Method::OPTIONS, TRACE, &asks).await;
    assert_eq!((open.status, open.header("access-control-allow-origin")), (StatusCode::OK, origin));
    let answered = ask_with(&named, Method::GET, PATH, &asks[..1]).await;
    assert_eq!(answered.header("access-control-allow-origin"), origin);
    let other = ask_with(&named, Method::GET, PATH, &[("origin", "https://b.example")]).await;
    assert_eq!(other.header("access-control-allow-origin"), "");
    let all = ApiOptions { cors_origins: vec!["*".parse().expect("all")], ..ApiOptions::default() };
    let answered = ask_with(&all, Method::GET, PATH, &[("origin", "https://b.example")]).await;
    assert_eq!(answered.header("access-control-allow-origin"), "*");
}

#[tokio::test]
async fn no_more_than_so_many_questions_are_under_way() {
    let none = ApiOptions { max_concurrent: 0, ..ApiOptions::default() };
    let busy = ask_with(&none, Method::GET, PATH, &[]).await;
    assert_eq!((busy.status, busy.header("retry-after")), (StatusCode::SERVICE_UNAVAILABLE, "5"));
    // Connections are taken and never answered.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = silent.local_addr().expect("an address").port();
    let little_time = ApiOptions { time_limit: std::time::Duration::from_millis(100), ..ApiOptions::default() };
    let late = ask_of(port, &little_time, Method::GET, TRACE, &[]).await;
    assert_eq!(late.status, StatusCode::GATEWAY_TIMEOUT);
    assert_eq!(late.json()["type"], "urn:oneiric-otel:problem:too-slow");
}

/// Every type that is referred to is there, and every parameter and answer is explained.
#[test]
fn the_document_is_whole() {
    let document = serde_json::to_value(document()).expect("JSON");
    assert_eq!(document["openapi"], "3.1.0");
    let mut references = Vec::new();
    collect(&document, &mut references);
    assert!(!references.is_empty());
    for reference in references {
        let pointer = reference.strip_prefix('#').expect("a reference within the document");
        assert!(document.pointer(pointer).is_some(), "{reference} is not there");
    }
    for (path, operations) in document["paths"].as_object().expect("paths") {
        for (method, operation) in operations.as_object().expect("operations") {
            assert!(operation["summary"].is_string(), "{method} {path}");
            for parameter in operation["parameters"].as_array().into_iter().flatten() {
                assert!(parameter["description"].is_string(), "{method} {path}: {parameter}");
            }
        }
    }
}

fn collect(value: &Value, references: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                match value {
                    Value::String(reference) if key == "$ref" => references.push(reference.clone()),
                    _ => collect(value, references),
                }
            }
        }
        Value::Array(values) => values.iter().for_each(|value| collect(value, references)),
        _ => {}
    }
}
