//! T1 to T5 and S1 to S3.

use http::Request;
use oneiric_otel::otlp::Signal;
use oneiric_otel_server::ServerOptions;

use super::Case;
use crate::messages::{self, SIGNALS};
use crate::serving::{PATIENCE, Serving, options, ready};
use crate::wire::{self, JSON, PROTOBUF};

pub(super) async fn t1(case: Case) {
    let mut sent = 0;
    for coding in ["identity", "gzip", "zstd", "deflate"] {
        for signal in SIGNALS {
            // Distinct contents: the same span sent twice would rightly be stored once.
            let body = messages::protobuf(signal, case.service, sent + 2);
            let (flag, message) = match coding {
                "identity" => (0, body),
                _ => (1, wire::compress(coding, &body)),
            };
            let answer =
                wire::call(case.server.grpc, wire::method(signal), Some(coding), wire::frame(flag, &message)).await;
            assert_eq!((answer.code, answer.message.as_str()), (0, ""), "gRPC {coding} {signal:?}");
            assert_eq!(case.stored(signal).await as u64, expected(signal, sent), "gRPC {coding} {signal:?}");
        }
        sent += 2;
        for signal in SIGNALS {
            let body = messages::protobuf(signal, case.service, sent + 2);
            let body = if coding == "identity" { body } else { wire::compress(coding, &body) };
            let request = wire::with_header(wire::post(wire::path(signal), PROTOBUF, body), "content-encoding", coding);
            let reply = wire::send(case.server.http, request).await;
            assert_eq!(reply.status, 200, "HTTP {coding} {signal:?}: {reply:?}");
            assert_eq!(case.stored(signal).await as u64, expected(signal, sent), "HTTP {coding} {signal:?}");
        }
        sent += 2;
    }
}

/// Rows after requests with 2, 4, 6 ... records, the last of them with `before + 2`. A span or point that came before
/// is the same one; a log record is another.
fn expected(signal: Signal, before: u64) -> u64 {
    match signal {
        Signal::Traces | Signal::Metrics => before + 2,
        Signal::Logs => (1..=before / 2 + 1).map(|request| request * 2).sum(),
    }
}

pub(super) async fn t2(case: Case) {
    let defaults = ServerOptions::default();
    assert_eq!((&*defaults.grpc_addr, &*defaults.http_addr), ("127.0.0.1:4317", "127.0.0.1:4318"));

    let frame = wire::frame(0, &messages::protobuf(Signal::Logs, case.service, 1));
    assert_eq!(wire::call(case.server.http, wire::method(Signal::Logs), None, frame).await.code, 0);
    let request = wire::post("/v1/logs", PROTOBUF, messages::protobuf(Signal::Logs, case.service, 2));
    assert_eq!(wire::send(case.server.grpc, request).await.status, 200);
    assert_eq!(case.stored(Signal::Logs).await, 3);
}

pub(super) async fn t3(case: Case) {
    for signal in SIGNALS {
        let path = wire::path(signal);
        let record = || vec![messages::json_record(signal, case.service)];
        let json = messages::json(signal, case.service, &record());
        let request = wire::post(path, "application/json; charset=utf-8", json);
        assert_eq!(wire::send(case.server.http, request).await.status, 200);
        let request = wire::post(path, PROTOBUF, messages::protobuf(signal, case.service, 2));
        let mut request_h2 = request;
        *request_h2.uri_mut() = format!("http://localhost{path}").parse().unwrap();
        assert_eq!(wire::send_h2(case.server.http, request_h2).await.status, 200);
        assert_eq!(case.stored(signal).await, 3, "{signal:?}");
    }
    let request = wire::post("/v1development/profiles", PROTOBUF, Vec::new());
    assert_eq!(wire::send(case.server.http, request).await.status, 404);
    let profiles = "/opentelemetry.proto.collector.profiles.v1development.ProfilesService/Export";
    let answer = wire::call(case.server.grpc, profiles, None, wire::frame(0, b"")).await;
    assert_eq!(answer.code, 12);
}

pub(super) async fn t4(case: Case) {
    let request =
        |body| Request::post("http://localhost/v1/traces").header("content-type", PROTOBUF).body(body).unwrap();
    let exchange = async {
        let mut sender = wire::connect_h2(case.server.http).await;
        let (mut slow, body) = wire::open_body();
        let first = tokio::spawn(sender.send_request(request(body)));
        let (mut quick, body) = wire::open_body();
        quick.try_send(messages::protobuf(Signal::Traces, case.service, 2).into()).unwrap();
        drop(quick);
        let second = sender.send_request(request(body)).await.unwrap();
        assert_eq!(second.status(), 200, "answered while the first is still being sent");
        assert_eq!(case.stored(Signal::Traces).await, 2);
        slow.try_send(messages::protobuf(Signal::Traces, case.service, 3).into()).unwrap();
        drop(slow);
        assert_eq!(first.await.unwrap().unwrap().status(), 200);
    };
    tokio::time::timeout(PATIENCE, exchange).await.unwrap();
    assert_eq!(case.stored(Signal::Traces).await, 3);
}

pub(super) async fn t5(case: Case) {
    for signal in SIGNALS {
        let none = messages::protobuf(signal, case.service, 0);
        let none_json = messages::json(signal, case.service, &[]);
        let path = wire::path(signal);
        for (content_type, body) in [
            (PROTOBUF, Vec::new()),
            (PROTOBUF, none.clone()),
            (PROTOBUF, vec![10, 0]),
            (JSON, b"{}".to_vec()),
            (JSON, none_json.into_bytes()),
        ] {
            let reply = wire::send(case.server.http, wire::post(path, content_type, body)).await;
            let expected: &[u8] = if content_type == JSON { b"{}" } else { b"" };
            assert_eq!((reply.status, &*reply.body), (200, expected), "{signal:?} {reply:?}");
        }
        for message in [Vec::new(), none] {
            let answer = wire::call(case.server.grpc, wire::method(signal), None, wire::frame(0, &message)).await;
            assert_eq!((answer.code, &*answer.body), (0, &b""[..]), "{signal:?}");
        }
        assert_eq!(case.stored(signal).await, 0);
    }
}

/// A server that takes requests of at most `max` bytes.
async fn small(max: usize) -> Serving {
    let options = ServerOptions { max_request_bytes: max, ..options() };
    Serving::start_with(options, ready()).await
}

/// A request for traces of exactly `bytes` bytes.
fn sized(service: &str, bytes: usize) -> Vec<u8> {
    use prost::Message as _;
    let mut span = messages::span(service, 0);
    let of = |span: &_| messages::traces(service, vec![Clone::clone(span)]).encode_to_vec();
    // Each level of nesting takes a few bytes more for its length.
    span.name = "x".repeat(bytes - of(&span).len() - 20);
    while of(&span).len() < bytes {
        span.name.push('x');
    }
    let body = of(&span);
    assert_eq!(body.len(), bytes);
    body
}

pub(super) async fn s1(case: Case) {
    assert_eq!(ServerOptions::default().max_request_bytes, 64 << 20);
    let max = 100_000;
    let server = small(max).await;
    let stored = async || server.count("otel_spans").await;
    for coding in ["identity", "gzip", "zstd", "deflate"] {
        for (bytes, fits) in [(max, true), (max + 1, false)] {
            // One that fits differs from those before it, so that each is a row.
            let body = sized(&format!("{}{coding}", case.service), bytes);
            let body = if coding == "identity" { body } else { wire::compress(coding, &body) };
            let before = stored().await;
            let flag = u8::from(coding != "identity");
            let answer = wire::call(server.grpc, wire::method(Signal::Traces), Some(coding), wire::frame(flag, &body));
            assert_eq!(answer.await.code, if fits { 0 } else { 8 }, "gRPC {coding} {bytes}");
            assert_eq!(stored().await, before + i64::from(fits), "gRPC {coding} {bytes}");
            let request = wire::with_header(wire::post("/v1/traces", PROTOBUF, body), "content-encoding", coding);
            let reply = wire::send(server.http, request).await;
            assert_eq!(reply.status, if fits { 200 } else { 413 }, "HTTP {coding} {bytes}");
            assert_eq!(stored().await, before + i64::from(fits), "HTTP {coding} {bytes}: the same span");
        }
    }
}

pub(super) async fn s2(case: Case) {
    let server = small(1000).await;
    for coding in ["identity", "gzip"] {
        let body = sized(case.service, 200_000);
        let (flag, body) = if coding == "identity" { (0, body) } else { (1, wire::compress(coding, &body)) };
        let answer =
            wire::call(server.grpc, wire::method(Signal::Traces), Some(coding), wire::frame(flag, &body)).await;
        assert_eq!(answer.code, 8, "{answer:?}");
        assert!(answer.details.is_empty(), "with RetryInfo it would be sent again: {answer:?}");
        assert!(answer.message.contains("1000"), "{answer:?}");
        for content_type in [PROTOBUF, JSON] {
            let request = wire::post("/v1/traces", content_type, body.clone());
            let reply = wire::send(server.http, wire::with_header(request, "content-encoding", coding)).await;
            assert_eq!(reply.status, 413, "{reply:?}");
            assert_eq!(reply.header("retry-after"), None);
            let (code, message) = reply.rpc_status();
            assert!(code == 8 && message.contains("1000 bytes"), "{message}");
        }
    }
    assert_eq!(server.count("otel_spans").await, 0);
}

pub(super) async fn s3(case: Case) {
    const MAX: usize = 4 << 20;
    // The reason quotes the id, which quotes would double.
    let bad = format!(r#"{{"traceId":"{}"}}"#, "z".repeat(5 << 20));
    let good = messages::json_record(Signal::Traces, case.service);
    let body = messages::json(Signal::Traces, case.service, &[bad, good]);
    let reply = wire::send(case.server.http, wire::post("/v1/traces", JSON, body)).await;
    assert_eq!(reply.status, 200);
    assert!(reply.body.len() <= MAX, "{}", reply.body.len());
    let json = reply.json();
    assert_eq!(json["partialSuccess"]["rejectedSpans"], "1");
    assert_eq!(case.stored(Signal::Traces).await, 1);
}
