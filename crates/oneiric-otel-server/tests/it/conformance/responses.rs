//! R1 to R9.

use oneiric_otel::otlp::Signal;
use prost::Message as _;

use super::Case;
use crate::messages::{self, SIGNALS};
use crate::serving::Serving;
use crate::wire::{self, JSON, PROTOBUF};

pub(super) async fn r1(case: Case) {
    for signal in SIGNALS {
        let body = messages::protobuf(signal, case.service, 1);
        let answer = wire::call(case.server.grpc, wire::method(signal), None, wire::frame(0, &body)).await;
        assert_eq!((answer.code, &*answer.body), (0, &b""[..]));
        let reply = wire::send(case.server.http, wire::post(wire::path(signal), PROTOBUF, body)).await;
        assert_eq!((reply.status, &*reply.body), (200, &b""[..]));
        let json = messages::json(signal, case.service, &[messages::json_record(signal, case.service)]);
        let reply = wire::send(case.server.http, wire::post(wire::path(signal), JSON, json)).await;
        assert_eq!((reply.status, &*reply.body), (200, &b"{}"[..]));
        assert_eq!(case.stored(signal).await, 2, "{signal:?}");
    }
}

/// Two good records around one that is no message.
fn mixed(signal: Signal, service: &str) -> Vec<u8> {
    // In each of the three, field 2 of the resource group is the scope group, and field 2 of that a record.
    let nested = |inner: &[u8]| {
        let mut field = vec![0x12];
        prost::encode_length_delimiter(inner.len(), &mut field).unwrap();
        field.extend_from_slice(inner);
        field
    };
    let record = |number| match signal {
        Signal::Traces => messages::span(service, number).encode_to_vec(),
        Signal::Metrics => messages::gauge(number).encode_to_vec(),
        Signal::Logs => messages::log(number).encode_to_vec(),
    };
    // A gauge with one data point whose attributes are cut short, so that it counts as one; otherwise a field cut short.
    let bad = match signal {
        Signal::Metrics => vec![0x2a, 0x04, 0x0a, 0x02, 0x3a, 0x7f],
        Signal::Traces | Signal::Logs => vec![0x2a, 0x7f, 0x00],
    };
    let scope = [nested(&record(0)), nested(&bad), nested(&record(1))].concat();
    let mut resource = vec![0x0a];
    messages::resource(service).unwrap().encode_length_delimited(&mut resource).unwrap();
    let group = [resource, nested(&scope)].concat();
    let mut request = vec![0x0a];
    prost::encode_length_delimiter(group.len(), &mut request).unwrap();
    request.extend(group);
    request
}

pub(super) async fn r2(case: Case) {
    for signal in SIGNALS {
        let body = mixed(signal, case.service);
        let answer = wire::call(case.server.grpc, wire::method(signal), None, wire::frame(0, &body)).await;
        let (rejected, message) = wire::partial_success(signal, &answer.body).unwrap();
        assert_eq!((answer.code, rejected), (0, 1), "{signal:?}: {message}");
        assert!(message.contains("[1]"), "the message says which: {message}");
        assert_eq!(case.stored(signal).await, 2, "{signal:?}");

        let reply = wire::send(case.server.http, wire::post(wire::path(signal), PROTOBUF, body)).await;
        let (rejected, message) = wire::partial_success(signal, &reply.body).unwrap();
        assert_eq!((reply.status, rejected, message.is_empty()), (200, 1, false), "{signal:?}");
        assert_eq!(case.stored(signal).await, 2, "{signal:?}: the same request adds nothing");

        let (name, bad) = match signal {
            Signal::Traces => ("rejectedSpans", r#"{"traceId":"no hex"}"#),
            Signal::Metrics => ("rejectedDataPoints", r#"{"name":"m","gauge":{"dataPoints":[{"asInt":"one"}]}}"#),
            Signal::Logs => ("rejectedLogRecords", r#"{"timeUnixNano":"yesterday"}"#),
        };
        let json = messages::json(signal, case.service, &[bad.to_owned(), messages::json_record(signal, case.service)]);
        let reply = wire::send(case.server.http, wire::post(wire::path(signal), JSON, json)).await;
        assert_eq!(reply.status, 200);
        let partial = &reply.json()["partialSuccess"];
        assert_eq!(partial[name], "1", "{signal:?}: {partial}");
        assert!(partial["errorMessage"].as_str().is_some_and(|text| !text.is_empty()), "{partial}");
        assert_eq!(case.stored(signal).await, 3, "{signal:?}");
    }
}

pub(super) async fn r3(case: Case) {
    // A database that refuses one span: it is kept as a dead letter, so the sender has nothing to do.
    let server = Serving::start().await;
    let client = server.test().client().await;
    client.batch_execute("alter table otel_spans add constraint odd check (name <> 'operation 1')").await.unwrap();
    let body = messages::protobuf(Signal::Traces, case.service, 3);
    let answer = wire::call(server.grpc, wire::method(Signal::Traces), None, wire::frame(0, &body)).await;
    let (rejected, message) = wire::partial_success(Signal::Traces, &answer.body).unwrap();
    assert_eq!((answer.code, rejected), (0, 0), "{message}");
    assert!(message.contains("dead letter"), "{message}");
    assert_eq!((server.count("otel_spans").await, server.count("otel_telemetry_dlq").await), (2, 1));
}

pub(super) async fn r4(case: Case) {
    let post = |content_type, body: Vec<u8>| wire::post("/v1/traces", content_type, body);
    let bad = |length| {
        let bad = format!(r#"{{"traceId":"{}"}}"#, "z".repeat(length));
        messages::json(Signal::Traces, case.service, &[bad]).into_bytes()
    };
    let truncated = vec![10, 100];
    for (content_type, bodies) in [(PROTOBUF, [Vec::new(), truncated]), (JSON, [bad(3), b"{".to_vec()])] {
        for body in bodies {
            let reply = wire::send(case.server.http, post(content_type, body)).await;
            assert_eq!(reply.header("content-type"), Some(content_type), "{reply:?}");
        }
    }
    let long = || post(JSON, bad(10_000));
    let plain = wire::send(case.server.http, long()).await;
    assert_eq!(plain.header("content-encoding"), None);
    let zipped = wire::send(case.server.http, wire::with_header(long(), "accept-encoding", "br, gzip")).await;
    assert_eq!(zipped.header("content-encoding"), Some("gzip"));
    let mut unzipped = Vec::new();
    std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(&*zipped.body), &mut unzipped).unwrap();
    assert_eq!(unzipped, plain.body);
    let refused = wire::send(case.server.http, wire::with_header(long(), "accept-encoding", "gzip;q=0")).await;
    assert_eq!(refused.header("content-encoding"), None);
}

pub(super) async fn r5(case: Case) {
    let address = case.server.http;
    for content_type in [PROTOBUF, JSON] {
        let expect = async |request, status, code| {
            let reply = wire::send(address, request).await;
            assert_eq!((reply.status, reply.header("content-type")), (status, Some(content_type)), "{reply:?}");
            let (rpc_code, message) = reply.rpc_status();
            assert_eq!(rpc_code, code, "{message}");
            assert!(!message.is_empty());
            reply
        };
        // 0xff begins no field, and `{` no object that ends.
        let malformed = if content_type == JSON { b"{".to_vec() } else { vec![0xff] };
        let reply = expect(wire::post("/v1/traces", content_type, malformed), 400, 3).await;
        if content_type == JSON {
            let detail = &reply.json()["details"][0];
            assert_eq!(detail["@type"], "type.googleapis.com/google.rpc.BadRequest");
            assert!(detail["fieldViolations"][0]["description"].as_str().is_some_and(|text| !text.is_empty()));
        }
        expect(wire::post("/v1/nothing", content_type, "x"), 404, 12).await;
        let mut put = wire::post("/v1/traces", content_type, "x");
        *put.method_mut() = http::Method::PUT;
        assert_eq!(expect(put, 405, 12).await.header("allow"), Some("POST"));
        let brotli = wire::with_header(wire::post("/v1/traces", content_type, "x"), "content-encoding", "br");
        let reply = expect(brotli, 415, 12).await;
        assert!(reply.header("accept-encoding").is_some_and(|accepted| accepted.contains("zstd")), "{reply:?}");
    }
    let reply = wire::send(address, wire::post("/v1/traces", "text/plain", "x")).await;
    let (code, message) = reply.rpc_status();
    assert_eq!((reply.status, code), (415, 3));
    for word in ["text/plain", PROTOBUF, JSON] {
        assert!(message.contains(word), "{message}");
    }
    assert_eq!(case.stored(Signal::Traces).await, 0);
}

pub(super) async fn r6(case: Case) {
    // R7 has the other half: that what may be sent again does look like it.
    let never = [
        wire::post("/v1/traces", PROTOBUF, vec![0xff]),
        wire::post("/v1/traces", JSON, "[]"),
        wire::post("/v1/traces", "text/plain", "x"),
        wire::post("/v2/traces", PROTOBUF, "x"),
        wire::with_header(wire::post("/v1/traces", PROTOBUF, "no gzip"), "content-encoding", "gzip"),
    ];
    for request in never {
        let reply = wire::send(case.server.http, request).await;
        assert!((400..500).contains(&reply.status) && reply.status != 429, "{reply:?}");
        assert_eq!(reply.header("retry-after"), None, "{reply:?}");
    }
    let retryable = [1, 4, 10, 11, 14, 15];
    let traces = wire::method(Signal::Traces);
    for (method, encoding, body) in [
        (traces, None, wire::frame(0, &[0xff])),
        (traces, None, vec![0, 0]),
        (traces, None, Vec::new()),
        (traces, None, wire::frame(1, b"x")),
        (traces, None, wire::frame(7, b"x")),
        (traces, Some("gzip"), wire::frame(1, b"no gzip")),
        (traces, Some("br"), wire::frame(1, b"x")),
        (traces, None, [wire::frame(0, b""), wire::frame(0, b"")].concat()),
        ("/a.Service/Call", None, wire::frame(0, b"")),
    ] {
        let answer = wire::call(case.server.grpc, method, encoding, body).await;
        assert!(answer.code != 0 && !retryable.contains(&answer.code), "{answer:?}");
        assert!(!answer.details.iter().any(|name| name == "RetryInfo"), "{answer:?}");
    }
}

pub(super) async fn r7(case: Case) {
    let server = Serving::start_stranded().await;
    for signal in SIGNALS {
        let body = messages::protobuf(signal, case.service, 1);
        let answer = wire::call(server.grpc, wire::method(signal), None, wire::frame(0, &body)).await;
        assert_eq!((answer.code, answer.details), (14, vec!["RetryInfo".to_owned()]), "{}", answer.message);
        let reply = wire::send(server.http, wire::post(wire::path(signal), PROTOBUF, body)).await;
        assert_eq!((reply.status, reply.rpc_status().0), (503, 14));
        let seconds: u64 = reply.header("retry-after").unwrap().parse().unwrap();
        assert!(seconds > 0);
        let json = messages::json(signal, case.service, &[messages::json_record(signal, case.service)]);
        let reply = wire::send(server.http, wire::post(wire::path(signal), JSON, json)).await;
        assert_eq!(reply.status, 503);
        assert_eq!(reply.json()["details"][0]["@type"], "type.googleapis.com/google.rpc.RetryInfo");
    }
}

pub(super) async fn r8(case: Case) {
    let traces = wire::method(Signal::Traces);
    let malformed = wire::call(case.server.grpc, traces, None, wire::frame(0, &[0xff])).await;
    assert_eq!((malformed.code, malformed.details), (3, vec!["BadRequest".to_owned()]));
    let http = wire::send(case.server.http, wire::post("/v1/traces", PROTOBUF, vec![0xff])).await;
    assert_eq!((http.status, http.rpc_status().0), (400, 3));

    let unknown = wire::call(case.server.grpc, "/a.Service/Call", None, wire::frame(0, b"")).await;
    assert_eq!(unknown.code, 12);
    let http = wire::send(case.server.http, wire::post("/a.Service/Call", PROTOBUF, "")).await;
    assert_eq!((http.status, http.rpc_status().0), (404, 12));

    let compressed = wire::call(case.server.grpc, traces, Some("br"), wire::frame(1, b"x")).await;
    assert_eq!(compressed.code, 12);
    let accepted = compressed.headers.get("grpc-accept-encoding").unwrap().to_str().unwrap();
    assert!(accepted.contains("gzip") && accepted.contains("zstd"), "{accepted}");
}

pub(super) async fn r9(case: Case) {
    for signal in SIGNALS {
        let body = messages::protobuf(signal, case.service, 5);
        for _ in 0..3 {
            let answer = wire::call(case.server.grpc, wire::method(signal), None, wire::frame(0, &body)).await;
            assert_eq!((answer.code, &*answer.body), (0, &b""[..]));
            let zipped = wire::compress("gzip", &body);
            let request =
                wire::with_header(wire::post(wire::path(signal), PROTOBUF, zipped), "content-encoding", "gzip");
            assert_eq!(wire::send(case.server.http, request).await.status, 200);
        }
        assert_eq!(case.stored(signal).await, 5, "{signal:?}");
    }
    // In other company the same span is still the same span.
    let again = messages::protobuf(Signal::Traces, case.service, 6);
    assert_eq!(wire::send(case.server.http, wire::post("/v1/traces", PROTOBUF, again)).await.status, 200);
    assert_eq!(case.stored(Signal::Traces).await, 6);
}
