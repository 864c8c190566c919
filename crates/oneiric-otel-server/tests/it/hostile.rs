//! Senders that are wrong, greedy or slow: each gets its answer, nothing of it is stored, and others are served.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use oneiric_otel::otlp::Signal;
use oneiric_otel_server::ServerOptions;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_client::TraceServiceClient;
use prost::Message as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tonic::codec::CompressionEncoding;
use tonic_types::StatusExt as _;

use crate::messages::{self, SIGNALS};
use crate::serving::{PATIENCE, Serving, options, ready};
use crate::wire::{self, JSON, PROTOBUF};

const LIMIT: usize = 64 << 20;

/// Says `head`, sends `body` whole without listening, and only then reads the answer: as simple clients do.
async fn write_then_read(address: SocketAddr, head: &str, body: &[u8]) -> String {
    let exchange = async {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(body).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        String::from_utf8_lossy(&answer).into_owned()
    };
    tokio::time::timeout(PATIENCE, exchange).await.unwrap()
}

/// The server still takes a good request.
async fn assert_serves(server: &Serving) {
    let before = server.count("otel_logs").await;
    let body = messages::protobuf(Signal::Logs, &format!("after {before}"), 1);
    assert_eq!(wire::send(server.http, wire::post("/v1/logs", PROTOBUF, body)).await.status, 200);
    assert_eq!(server.count("otel_logs").await, before + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_byte_over_64_mebibytes_is_too_large() {
    let server = Serving::start().await;
    let body = vec![0_u8; LIMIT + 1];
    let head = format!("POST /v1/traces HTTP/1.1\r\nhost: x\r\ncontent-type: {JSON}\r\n");

    let declared = format!("{head}content-length: {}\r\n\r\n", body.len());
    let answer = write_then_read(server.http, &declared, &body).await;
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    assert!(answer.contains(r#"{"code":8,"message":"the request is larger than 67108864 bytes"#), "{answer}");

    let chunked = format!("{head}transfer-encoding: chunked\r\n\r\n{:x}\r\n", body.len());
    let answer = write_then_read(server.http, &chunked, &body).await;
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");

    let mut reader = wire::post("/v1/traces", PROTOBUF, body.clone());
    *reader.uri_mut() = "http://localhost/v1/traces".parse().unwrap();
    assert_eq!(wire::send_h2(server.http, reader).await.status, 413);

    // A real client that sends a message as long as that.
    let mut span = messages::span("large", 0);
    span.name = "x".repeat(LIMIT + 1);
    let mut client = TraceServiceClient::connect(format!("http://{}", server.grpc)).await.unwrap();
    let status = client.export(messages::traces("large", vec![span])).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::ResourceExhausted, "{status}");
    assert!(status.get_error_details().retry_info().is_none());
    assert_eq!(server.count("otel_spans").await, 0);
    assert_serves(&server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bomb_is_too_large() {
    let server = Serving::start().await;
    for coding in ["gzip", "zstd"] {
        let bomb = wire::compress(coding, &vec![0; 4 * LIMIT]);
        assert!(bomb.len() < LIMIT / 16, "{}", bomb.len());
        for (content_type, path) in [(PROTOBUF, "/v1/traces"), (JSON, "/v1/logs")] {
            let request = wire::post(path, content_type, bomb.clone());
            let reply = wire::send(server.http, wire::with_header(request, "content-encoding", coding)).await;
            let (code, message) = reply.rpc_status();
            assert_eq!((reply.status, code), (413, 8), "{message}");
            assert!(message.contains("after decompression"), "{message}");
        }
        let answer = wire::call(server.grpc, wire::method(Signal::Traces), Some(coding), wire::frame(1, &bomb)).await;
        assert_eq!((answer.code, answer.details.len()), (8, 0), "{answer:?}");
    }
    assert_serves(&server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn real_grpc_clients_may_compress() {
    let server = Serving::start().await;
    let endpoint = format!("http://{}", server.grpc);
    for (number, encoding) in [CompressionEncoding::Gzip, CompressionEncoding::Zstd].into_iter().enumerate() {
        let client = TraceServiceClient::connect(endpoint.clone()).await.unwrap();
        let mut client = client.send_compressed(encoding).accept_compressed(encoding);
        let spans = (0..1000).map(|span| messages::span("compressed", number as u64 * 1000 + span)).collect();
        let response = client.export(messages::traces("compressed", spans)).await.unwrap();
        assert_eq!(response.into_inner().partial_success, None);
    }
    assert_eq!(server.count("otel_spans").await, 2000);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_cut_short_is_malformed() {
    let server = Serving::start().await;
    for signal in SIGNALS {
        let whole = messages::protobuf(signal, "cut", 3);
        let cut = whole[..whole.len() - 1].to_vec();
        let reply = wire::send(server.http, wire::post(wire::path(signal), PROTOBUF, cut.clone())).await;
        assert_eq!((reply.status, reply.rpc_status().0), (400, 3), "{signal:?}");
        let answer = wire::call(server.grpc, wire::method(signal), None, wire::frame(0, &cut)).await;
        assert_eq!((answer.code, answer.details), (3, vec!["BadRequest".to_owned()]), "{signal:?}");
        let mut json = messages::json(signal, "cut", &[messages::json_record(signal, "cut")]);
        json.pop();
        let reply = wire::send(server.http, wire::post(wire::path(signal), JSON, json)).await;
        assert_eq!((reply.status, reply.rpc_status().0), (400, 3), "{signal:?}");
        for coding in ["gzip", "zstd"] {
            let zipped = wire::compress(coding, &whole);
            let cut = zipped[..zipped.len() - 1].to_vec();
            let request = wire::post(wire::path(signal), PROTOBUF, cut.clone());
            let reply = wire::send(server.http, wire::with_header(request, "content-encoding", coding)).await;
            let (code, message) = reply.rpc_status();
            assert_eq!((reply.status, code), (400, 3), "{message}");
            assert!(message.contains(coding), "{message}");
            let answer = wire::call(server.grpc, wire::method(signal), Some(coding), wire::frame(1, &cut)).await;
            assert_eq!(answer.code, 3, "{answer:?}");
        }
    }
    for table in ["otel_spans", "otel_logs", "otel_metrics"] {
        assert_eq!(server.count(table).await, 0, "{table}");
    }
    assert_serves(&server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn text_that_is_not_utf8_costs_one_record() {
    let server = Serving::start().await;
    let mut spans: Vec<_> = (0..3).map(|number| messages::span("utf8", number)).collect();
    spans[1].name = "NAME".to_owned();
    let mut body = messages::traces("utf8", spans).encode_to_vec();
    let at = body.windows(4).position(|window| window == b"NAME").unwrap();
    body[at] = 0xff;
    let answer = wire::call(server.grpc, wire::method(Signal::Traces), None, wire::frame(0, &body)).await;
    let (rejected, message) = wire::partial_success(Signal::Traces, &answer.body).unwrap();
    assert_eq!((answer.code, rejected), (0, 1), "{message}");
    assert!(message.contains("spans[1]") && message.to_lowercase().contains("utf"), "{message}");
    assert_eq!(server.count("otel_spans").await, 2);

    let json =
        messages::json(Signal::Traces, "utf8", &[messages::json_span("utf8", 9, "")]).replace("\"op\"", "\"NAME\"");
    let mut json = json.into_bytes();
    let at = json.windows(4).position(|window| window == b"NAME").unwrap();
    json[at] = 0xff;
    let reply = wire::send(server.http, wire::post("/v1/traces", JSON, json)).await;
    assert!([200, 400].contains(&reply.status), "{reply:?}");
    assert!(String::from_utf8_lossy(&reply.body).to_lowercase().contains("utf"), "{reply:?}");
    assert_eq!(server.count("otel_spans").await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_http_is_not_served() {
    let server = Serving::start().await;
    for garbage in ["\x16\x03\x01\x02\x00\x01\x00\x01", "nonsense\r\n\r\n", "PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n"] {
        let answer = write_then_read(server.grpc, garbage, b"").await;
        assert!(!answer.contains(" 200 "), "{answer}");
    }
    assert_serves(&server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_does_not_arrive_is_given_up() {
    let options = ServerOptions { body_timeout: Duration::from_millis(200), ..options() };
    let server = Serving::start_with(options, ready()).await;
    let (mut sender, body) = wire::open_body();
    sender.try_send(Bytes::from_static(&[10])).unwrap();
    let request = Request::post("/v1/traces").header("host", "x").header("content-type", PROTOBUF).body(body).unwrap();
    let reply = wire::send(server.http, request).await;
    // Not 408, after which senders drop what they have.
    assert_eq!((reply.status, reply.rpc_status().0, reply.header("retry-after")), (503, 4, Some("1")));

    let (mut sender, body) = wire::open_body();
    sender.try_send(Bytes::from_static(&[0, 0, 0])).unwrap();
    let request = Request::post(format!("http://localhost{}", wire::method(Signal::Traces)))
        .header("content-type", "application/grpc")
        .body(body)
        .unwrap();
    let mut connection = wire::connect_h2(server.grpc).await;
    let response = tokio::time::timeout(PATIENCE, connection.send_request(request)).await.unwrap().unwrap();
    assert_eq!(wire::into_call(wire::read(response).await).code, 4);
    assert_serves(&server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_says_nothing_is_closed() {
    let options = ServerOptions { idle_timeout: Duration::from_millis(200), ..options() };
    let server = Serving::start_with(options, ready()).await;
    for beginning in ["", "POST /v1/traces HTTP/1.1\r\nhost", "PRI * HT"] {
        let mut stream = TcpStream::connect(server.http).await.unwrap();
        stream.write_all(beginning.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        let read = stream.read_to_end(&mut answer);
        // Closed, whether orderly or not.
        drop(tokio::time::timeout(PATIENCE, read).await.unwrap());
        assert!(!String::from_utf8_lossy(&answer).contains(" 200 "));
    }
    assert_serves(&server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_announces_much_and_sends_nothing_holds_nothing() {
    // Whoever has to wait for the budget is refused at once.
    let options = ServerOptions { admission_wait: Duration::ZERO, ..options() };
    let server = Serving::start_with(options, ready()).await;
    let mut held = Vec::new();
    for number in 0..100 {
        let mut stream = TcpStream::connect(server.http).await.unwrap();
        let mut head =
            format!("POST /v1/traces HTTP/1.1\r\nhost: x\r\ncontent-type: {PROTOBUF}\r\ncontent-length: 60000000\r\n");
        if number % 4 >= 2 {
            head += "content-encoding: gzip\r\n";
        }
        // With `Expect`, the answer tells that the server has begun to read the body.
        head += "expect: 100-continue\r\n\r\n";
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = [0; 25];
        tokio::time::timeout(PATIENCE, stream.read_exact(&mut answer)).await.unwrap().unwrap();
        assert_eq!(&answer, b"HTTP/1.1 100 Continue\r\n\r\n");
        if number % 2 == 1 {
            stream.write_all(&[10]).await.unwrap();
        }
        held.push(stream);
    }
    for _ in 0..10 {
        assert_serves(&server).await;
    }
    let large = messages::protobuf(Signal::Logs, &"large".repeat(6 << 20), 1);
    assert_eq!(wire::send(server.http, wire::post("/v1/logs", PROTOBUF, large)).await.status, 200);
    drop(held);
}

#[tokio::test(flavor = "multi_thread")]
async fn beyond_the_budget_requests_are_told_to_come_again() {
    let options = ServerOptions {
        max_request_bytes: 64 << 10,
        max_in_flight_bytes: 192 << 10,
        admission_wait: Duration::from_millis(50),
        ..options()
    };
    let server = Serving::start_with(options, ready()).await;
    let probe = async |service: &str| {
        let body = messages::protobuf(Signal::Logs, service, 1);
        wire::send(server.http, wire::post("/v1/logs", PROTOBUF, body)).await
    };
    assert_eq!(probe("before").await.status, 200);

    // More and more that begin small requests and do not finish them.
    let mut held = Vec::new();
    let mut hold = async || {
        let mut stream = TcpStream::connect(server.http).await.unwrap();
        let head =
            format!("POST /v1/logs HTTP/1.1\r\nhost: x\r\ncontent-type: {PROTOBUF}\r\ncontent-length: 1024\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(&[0; 100]).await.unwrap();
        held.push(stream);
    };
    let until_refused = async {
        for attempt in 0.. {
            hold().await;
            let service = format!("http {attempt}");
            let reply = probe(&service).await;
            if reply.status != 200 {
                return (service, reply);
            }
        }
        unreachable!("the attempts are not counted out");
    };
    let (refused, reply) = tokio::time::timeout(PATIENCE, until_refused).await.unwrap();
    assert_eq!((reply.status, reply.rpc_status().0, reply.header("retry-after")), (503, 14, Some("1")));
    let stored = async |service: &str| server.count(&format!("otel_logs where service_name = '{service}'")).await;
    assert_eq!((stored("before").await, stored(&refused).await), (1, 0));
    let until_refused = async {
        for attempt in 0.. {
            hold().await;
            let service = format!("grpc {attempt}");
            let message = wire::frame(0, &messages::protobuf(Signal::Logs, &service, 1));
            let answer = wire::call(server.grpc, wire::method(Signal::Logs), None, message).await;
            if answer.code != 0 {
                return (service, answer);
            }
        }
        unreachable!("the attempts are not counted out");
    };
    let (refused, answer) = tokio::time::timeout(PATIENCE, until_refused).await.unwrap();
    assert_eq!((answer.code, answer.details), (14, vec!["RetryInfo".to_owned()]));
    assert_eq!(stored(&refused).await, 0);

    drop(held);
    let until_served = async { while probe("after").await.status != 200 {} };
    tokio::time::timeout(PATIENCE, until_served).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_wait_their_turn_while_the_budget_is_small() {
    let options = ServerOptions {
        max_request_bytes: 64 << 10,
        max_in_flight_bytes: 192 << 10,
        admission_wait: PATIENCE,
        ..options()
    };
    let server = Serving::start_with(options, ready()).await;
    let mut senders = tokio::task::JoinSet::new();
    for number in 0..100 {
        let address = server.http;
        senders.spawn(async move {
            let body = messages::protobuf(Signal::Traces, &format!("sender {number:010}"), 100);
            let body = wire::compress("gzip", &body);
            let request = wire::with_header(wire::post("/v1/traces", PROTOBUF, body), "content-encoding", "gzip");
            wire::send(address, request).await.status
        });
    }
    while let Some(status) = senders.join_next().await {
        assert_eq!(status.unwrap(), 200);
    }
    assert_eq!(server.count("otel_spans").await, 10_000);
}

/// How deep values are nested here. Whoever recursed that far would have no stack left.
const DEEP: usize = 1_000_000;

/// A protobuf field with a length, around everything that `inner` holds.
fn wrap(reversed: &mut Vec<u8>, field: u32) {
    let mut head = Vec::new();
    prost::encoding::encode_key(field, prost::encoding::WireType::LengthDelimited, &mut head);
    prost::encoding::encode_varint(reversed.len() as u64, &mut head);
    reversed.extend(head.iter().rev());
}

/// A request for one span, whose last field is in `reversed` from its end to its beginning.
fn around_span(mut reversed: Vec<u8>) -> Vec<u8> {
    let span = messages::span("deep", 0).encode_to_vec();
    reversed.extend(span.iter().rev());
    // The span in its scope, its resource and the request.
    for field in [2, 2, 1] {
        wrap(&mut reversed, field);
    }
    reversed.reverse();
    reversed
}

/// An attribute whose value has a value inside of it, and so on; `path` leads from a value to the next one in it.
fn nested_attribute(path: &[u32]) -> Vec<u8> {
    let mut reversed = Vec::new();
    for _ in 0..DEEP {
        for field in path.iter().rev() {
            wrap(&mut reversed, *field);
        }
    }
    wrap(&mut reversed, 2);
    wrap(&mut reversed, 9);
    around_span(reversed)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_nested_a_million_deep_costs_one_record() {
    let server = Serving::start().await;
    let json = |open: &str, close: &str| {
        let deep = format!("{}{{}}{}", open.repeat(DEEP), close.repeat(DEEP));
        let span = messages::json_span("deep", 0, "");
        let span = span.replacen('{', &format!(r#"{{"attributes":[{{"key":"a","value":{deep}}}],"#), 1);
        messages::json(Signal::Traces, "deep", &[span]).into_bytes()
    };
    let mut groups = Vec::new();
    for tag in [4, 3] {
        groups.extend(std::iter::repeat_n((13_u8 << 3) | tag, DEEP));
    }
    for (what, content_type, body) in [
        ("arrays", PROTOBUF, nested_attribute(&[5, 1])),
        ("maps", PROTOBUF, nested_attribute(&[6, 1, 2])),
        ("groups", PROTOBUF, around_span(groups)),
        ("JSON arrays", JSON, json(r#"{"arrayValue":{"values":["#, "]}}")),
        ("JSON maps", JSON, json(r#"{"kvlistValue":{"values":[{"value":"#, "}]}}")),
        ("brackets", JSON, format!("{}{}", "[".repeat(DEEP), "]".repeat(DEEP)).into_bytes()),
        ("braces", JSON, r#"{"a":"#.repeat(DEEP).into_bytes()),
    ] {
        let reply = wire::send(server.http, wire::post("/v1/traces", content_type, body)).await;
        let rejected = match (reply.status, content_type) {
            (200, JSON) => reply.json()["partialSuccess"]["rejectedSpans"] == "1",
            (200, _) => wire::partial_success(Signal::Traces, &reply.body).is_some_and(|(rejected, _)| rejected == 1),
            (status, _) => status == 400,
        };
        assert!(rejected, "{what}: {reply:?}");
    }
    assert_eq!(server.count("otel_spans").await, 0);
    assert_serves(&server).await;
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 4;
/// `:method: POST`, `:scheme: http`, `:path: /` of the static table.
const HEAD: &[u8] = &[0x83, 0x86, 0x84];

fn h2_frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// Writes frames until the server has enough of it, and returns the error code of its GOAWAY.
async fn flood(address: SocketAddr, mut next: impl FnMut() -> Vec<u8> + Send) -> u32 {
    let (mut reader, mut writer) = TcpStream::connect(address).await.unwrap().into_split();
    writer.write_all(&[PREFACE, &h2_frame(SETTINGS, 0, 0, &[])].concat()).await.unwrap();
    let writing = async {
        loop {
            let batch: Vec<u8> = (0..1000).flat_map(|_| next()).collect();
            if writer.write_all(&batch).await.is_err() {
                return;
            }
        }
    };
    let reading = async {
        loop {
            let mut head = [0; 9];
            reader.read_exact(&mut head).await.unwrap();
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
            let mut payload = vec![0; length];
            reader.read_exact(&mut payload).await.unwrap();
            if head[3] == GOAWAY {
                return u32::from_be_bytes([payload[4], payload[5], payload[6], payload[7]]);
            }
        }
    };
    let both = async {
        tokio::pin!(reading);
        tokio::select! {
            code = &mut reading => code,
            () = writing => reading.await,
        }
    };
    tokio::time::timeout(PATIENCE, both).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn floods_of_http2_frames_end_their_connection_alone() {
    const ENHANCE_YOUR_CALM: u32 = 11;
    let server = Serving::start().await;
    let mut neighbour = wire::connect_h2(server.grpc).await;

    let mut stream = 1;
    let reset_at_once = move || {
        stream += 2;
        [h2_frame(HEADERS, END_HEADERS, stream, HEAD), h2_frame(RST_STREAM, 0, stream, &[0, 0, 0, 8])].concat()
    };
    assert_eq!(flood(server.grpc, reset_at_once).await, ENHANCE_YOUR_CALM);

    let mut first = true;
    let head_without_end = move || {
        let kind = if std::mem::take(&mut first) { HEADERS } else { CONTINUATION };
        // `x: y`, kept in no table.
        h2_frame(kind, 0, 1, &[0, 1, b'x', 1, b'y'])
    };
    assert_eq!(flood(server.grpc, head_without_end).await, ENHANCE_YOUR_CALM);

    let frame = wire::frame(0, &messages::protobuf(Signal::Logs, "neighbour", 1));
    let call = neighbour.send_request(wire::call_request(wire::method(Signal::Logs), None, frame));
    let response = tokio::time::timeout(PATIENCE, call).await.unwrap().unwrap();
    assert_eq!(wire::into_call(wire::read(response).await).code, 0);
    assert_serves(&server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn those_who_never_finish_a_head_lock_nobody_out() {
    let options = ServerOptions { max_connections: 50, ..options() };
    let server = Serving::start_with(options, ready()).await;
    let mut held = Vec::new();
    for _ in 0..200 {
        let mut stream = TcpStream::connect(server.http).await.unwrap();
        stream.write_all(b"POST /v1/logs HTTP/1.1\r\nhost: ").await.unwrap();
        held.push(stream);
    }
    for _ in 0..3 {
        assert_serves(&server).await;
    }
    drop(held);
}
