//! Which endpoints are accepted, and what is shown of them.

use std::net::SocketAddr;
use std::path::Path;

use crate::forward::client::Client;
use crate::forward::endpoint::{Endpoint, Protocol};
use crate::otlp::Signal;

#[test]
fn urls_are_read_strictly() {
    let http = |url: &str| Endpoint::new(url, Protocol::HttpProtobuf);
    for (url, traces) in [
        ("http://h:4318", "http://h:4318/v1/traces"),
        ("http://h:4318/", "http://h:4318/v1/traces"),
        ("https://h/otlp/", "https://h/otlp/v1/traces"),
        ("http://[::1]:4318", "http://[::1]:4318/v1/traces"),
    ] {
        let uri = http(url).expect(url).http_uri(Signal::Traces).expect("a URI");
        assert_eq!(uri.to_string(), traces);
    }
    for url in [
        "",
        "h:4318",
        "h",
        "/v1/traces",
        "ftp://h",
        "unix:/x",
        "http://",
        "http://h?x=1",
        "http://h/#x",
        "http://h:port",
    ] {
        let error = http(url).expect_err(url);
        assert!(error.name == "endpoint" && error.reason.contains("http://HOST:PORT"), "{url}: {error}");
    }
    let error = http("http://me:secret@h").expect_err("a password");
    assert!(error.reason.contains("header") && !error.to_string().contains("secret"), "{error}");
    assert!(Endpoint::new("http://h:4317", Protocol::Grpc).is_ok());
    assert!(Endpoint::new("http://h:4317/path", Protocol::Grpc).is_err());
}

#[test]
fn headers_are_secret_and_cannot_change_the_protocol() {
    let endpoint = || Endpoint::new("http://h", Protocol::HttpProtobuf).expect("an endpoint");
    let with = endpoint().with_headers(" authorization = Bearer%20secret , x-tenant=7,").expect("headers");
    assert_eq!(
        (&with.headers()["authorization"], &with.headers()["x-tenant"]),
        (&"Bearer secret".parse().expect("a value"), &"7".parse().expect("a value"))
    );
    let shown = format!("{with} {with:?}");
    assert!(shown.contains("authorization") && !shown.contains("secret"), "{shown}");
    for list in ["secret", "a b=secret", "Content-Type=secret", "grpc-timeout=secret", "x=secret%0A", "x=secret%ff"] {
        let error = endpoint().with_headers(list).expect_err(list);
        assert!(error.name == "headers" && (list == "secret" || !error.to_string().contains("secret")), "{error}");
    }
}

#[test]
fn authorities_must_be_there_and_be_some() {
    let plain = Endpoint::new("http://h", Protocol::HttpProtobuf).expect("an endpoint");
    assert!(plain.with_ca(Path::new("/ca.pem")).is_err());
    let file = tempfile::NamedTempFile::new().expect("a file");
    for path in [Path::new("/no/such/file"), file.path()] {
        let endpoint = Endpoint::new("https://h", Protocol::Grpc).and_then(|endpoint| endpoint.with_ca(path));
        let error = Client::new(&endpoint.expect("an endpoint")).expect_err("it cannot be used");
        assert!(error.name == "ca" && error.reason.contains(path.to_str().expect("a path")), "{error}");
    }
}

#[tokio::test]
async fn an_endpoint_that_is_ourselves_is_seen() {
    let listening = |text: &str| vec![text.parse::<SocketAddr>().expect("an address")];
    let leads = async |url: &str, address: &str| {
        let endpoint = Endpoint::new(url, Protocol::HttpProtobuf).expect("an endpoint");
        endpoint.leads_to(&listening(address)).await.is_some()
    };
    assert!(leads("http://127.0.0.1:4318", "127.0.0.1:4318").await);
    assert!(leads("http://localhost:4318", "127.0.0.1:4318").await);
    assert!(leads("http://127.0.0.9:4318", "0.0.0.0:4318").await);
    assert!(leads("http://[::1]:4318/otlp", "[::]:4318").await);
    assert!(!leads("http://127.0.0.1:4319", "0.0.0.0:4318").await);
    assert!(!leads("http://192.0.2.1:4318", "0.0.0.0:4318").await, "another machine");
    assert!(!leads("http://127.0.0.1:4318", "192.0.2.1:4318").await);
}
