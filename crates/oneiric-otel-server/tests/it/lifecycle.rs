//! From bind to the last answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use oneiric_otel::otlp::Signal;
use oneiric_otel_server::{Readiness, Server, ServerOptions};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::messages;
use crate::serving::{PATIENCE, Serving, options, ready, stranded};
use crate::wire::{self, PROTOBUF, Reply};

async fn get(address: std::net::SocketAddr, path: &str) -> Reply {
    let request = Request::get(path).header("host", "x").body(Full::new(Bytes::new())).unwrap();
    wire::send(address, request).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_in_use_is_named_with_what_to_do() {
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for (options, purpose) in [
        (ServerOptions { grpc_addr: address.clone(), ..options() }, "OTLP/gRPC"),
        (ServerOptions { http_addr: address.clone(), ..options() }, "OTLP/HTTP"),
        (ServerOptions { api_addr: Some(address.clone()), ..options() }, "the API"),
    ] {
        let text = Server::bind(options, stranded(), ready()).await.unwrap_err().to_string();
        for part in [&address, purpose, "already in use", "another address", "port 0"] {
            assert!(text.contains(part), "{text}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_options_are_named_with_what_is_accepted() {
    for (options, expected) in [
        (ServerOptions { grpc_addr: "4317".to_owned(), ..options() }, "HOST:PORT"),
        (ServerOptions { http_addr: "localhost".to_owned(), ..options() }, "OTLP/HTTP"),
        (ServerOptions { http_addr: "192.0.2.1:0".to_owned(), ..options() }, "192.0.2.1:0"),
        (ServerOptions { max_request_bytes: 0, ..options() }, "max_request_bytes: expected at least 1"),
        (ServerOptions { max_in_flight_bytes: 1 << 20, ..options() }, "expected at least 201326592"),
        (ServerOptions { max_connections: 0, ..options() }, "max_connections"),
    ] {
        let text = Server::bind(options, stranded(), ready()).await.unwrap_err().to_string();
        assert!(text.contains(expected), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn localhost_is_reached_by_both_addresses() {
    let everywhere = "localhost:0".to_owned();
    let options = ServerOptions { grpc_addr: everywhere.clone(), http_addr: everywhere, ..options() };
    let server = Serving::start_with(options, ready()).await;
    let mut addresses = vec![server.http];
    let v6 = std::net::SocketAddr::from((std::net::Ipv6Addr::LOCALHOST, server.http.port()));
    if TcpListener::bind("[::1]:0").await.is_ok() {
        addresses.push(v6);
    }
    for address in addresses {
        let request = wire::post("/v1/logs", PROTOBUF, messages::protobuf(Signal::Logs, &address.to_string(), 1));
        assert_eq!(wire::send(address, request).await.status, 200, "{address}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn health_is_of_the_process_and_readiness_of_its_database() {
    let is_ready = Arc::new(AtomicBool::new(false));
    let asked = Arc::clone(&is_ready);
    let readiness = Readiness::new(move || {
        let answer = if asked.load(Ordering::Relaxed) { Ok(()) } else { Err("the database is away".to_owned()) };
        async { answer }
    });
    let server = Serving::start_with(options(), readiness).await;
    let reply = get(server.api, "/readyz").await;
    assert_eq!((reply.status, &*reply.body), (503, &b"not ready: the database is away\n"[..]));
    assert_eq!(get(server.api, "/healthz").await.status, 200);
    is_ready.store(true, Ordering::Relaxed);
    assert_eq!(get(server.api, "/readyz").await.status, 200);
    assert_eq!(get(server.api, "/v1/traces").await.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopping_server_finishes_what_it_began() {
    let mut server = Serving::start_with(ServerOptions { drain_timeout: PATIENCE, ..options() }, ready()).await;
    let message = Bytes::from(messages::protobuf(Signal::Traces, "last", 5));
    let (mut rest, body) = wire::open_body();
    rest.try_send(message.slice(..10)).unwrap();
    let request = Request::post("/v1/traces").header("host", "x").header("content-type", PROTOBUF).body(body).unwrap();
    let begun = tokio::spawn(wire::send(server.http, request));
    // The server has taken the request up once the channel has room again.
    let taken = futures::future::poll_fn(|context| rest.poll_ready(context));
    tokio::time::timeout(PATIENCE, taken).await.unwrap().unwrap();
    get(server.api, "/healthz").await;
    // A whole exchange on another connection: the first bytes of the one before have been read by now or wait in it.
    wire::send(server.http, wire::post("/v1/logs", PROTOBUF, "")).await;

    server.stop.cancel();
    let refused = async {
        while TcpStream::connect(server.http).await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, refused).await.unwrap();
    let reply = get(server.api, "/readyz").await;
    assert_eq!((reply.status, &*reply.body), (503, &b"not ready: shutting down\n"[..]));
    assert!(!server.task.is_finished());

    rest.try_send(message.slice(10..)).unwrap();
    drop(rest);
    assert_eq!(begun.await.unwrap().status, 200);
    tokio::time::timeout(PATIENCE, &mut server.task).await.unwrap().unwrap().unwrap();
    assert_eq!(server.count("otel_spans").await, 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_does_not_end_is_cut_off() {
    let options = ServerOptions { drain_timeout: Duration::from_millis(100), ..options() };
    let mut server = Serving::start_with(options, ready()).await;
    let (_rest, body) = wire::open_body();
    let request = Request::post("http://localhost/v1/traces").header("content-type", PROTOBUF).body(body).unwrap();
    let mut connection = wire::connect_h2(server.http).await;
    let begun = tokio::spawn(connection.send_request(request));
    wire::send(server.http, wire::post("/v1/logs", PROTOBUF, "")).await;
    server.stop.cancel();
    tokio::time::timeout(PATIENCE, &mut server.task).await.unwrap().unwrap().unwrap();
    assert!(begun.await.unwrap().is_err(), "no answer is no promise");
    assert_eq!(server.count("otel_spans").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_beyond_the_limit_wait_while_all_others_have_requests() {
    let options = ServerOptions { max_connections: 2, ..options() };
    let server = Serving::start_with(options, ready()).await;
    // Two that have proven to be served, and then begin a request each.
    let mut open = Vec::new();
    for _ in 0..2 {
        let mut connection = wire::connect_h2(server.grpc).await;
        let (rest, body) = wire::open_body();
        let request = |body| Request::post("http://localhost/v1/logs").header("content-type", PROTOBUF).body(body);
        drop(rest);
        assert_eq!(connection.send_request(request(body).unwrap()).await.unwrap().status(), 200);
        let (rest, body) = wire::open_body();
        let begun = tokio::spawn(connection.send_request(request(body).unwrap()));
        open.push((connection, rest, begun));
    }
    let mut third = tokio::spawn(wire::send(server.http, wire::post("/v1/logs", PROTOBUF, "")));
    // Long enough for a connection without a request to be closed.
    let waiting = tokio::time::timeout(Duration::from_secs(2), &mut third).await;
    assert!(waiting.is_err(), "served although two others are busy");
    assert_eq!(get(server.api, "/healthz").await.status, 200, "health has connections of its own");
    let (_first, rest, begun) = open.remove(0);
    drop(rest);
    assert_eq!(begun.await.unwrap().unwrap().status(), 200, "what had begun is finished");
    // The first connection stays open, and makes way all the same.
    let reply = tokio::time::timeout(PATIENCE, third).await.unwrap().unwrap();
    assert_eq!(reply.status, 200);
    assert!(!open[0].2.is_finished());
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_connections_make_way_for_new_ones() {
    let options = ServerOptions { max_connections: 4, ..options() };
    let server = Serving::start_with(options, ready()).await;
    let exchange = async |address| {
        let mut connection = wire::connect_h2(address).await;
        let request = wire::call_request(wire::method(Signal::Logs), None, wire::frame(0, b""));
        assert_eq!(connection.send_request(request).await.unwrap().status(), 200);
        connection
    };
    let mut idle = Vec::new();
    for beginning in ["", "POST /v1/traces HTTP/1.1\r\nhost", "POST /v1/logs HTTP/1.1\r\nhost: x\r\n\r\n"] {
        let mut stream = TcpStream::connect(server.http).await.unwrap();
        stream.write_all(beginning.as_bytes()).await.unwrap();
        idle.push(stream);
    }
    let spoken = exchange(server.grpc).await;
    let mut newcomers = Vec::new();
    for _ in 0..4 {
        newcomers.push(tokio::time::timeout(PATIENCE, exchange(server.http)).await.unwrap());
    }
    for mut stream in idle {
        // Closed, whether orderly or not.
        drop(tokio::time::timeout(PATIENCE, stream.read_to_end(&mut Vec::new())).await.unwrap());
    }
    let closed = async {
        while !spoken.is_closed() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, closed).await.unwrap();
    assert!(newcomers.iter().all(|connection| !connection.is_closed()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_senders_at_once_lose_nothing() {
    let server = Serving::start().await;
    let mut senders = tokio::task::JoinSet::new();
    for number in 0..200_u64 {
        let (grpc, http) = (server.grpc, server.http);
        senders.spawn(async move {
            let body = messages::protobuf(Signal::Traces, &format!("sender {number:010}"), 20);
            if number % 2 == 0 {
                return wire::call(grpc, wire::method(Signal::Traces), None, wire::frame(0, &body)).await.code == 0;
            }
            wire::send(http, wire::post("/v1/traces", PROTOBUF, body)).await.status == 200
        });
    }
    while let Some(accepted) = senders.join_next().await {
        assert!(accepted.unwrap());
    }
    assert_eq!(server.count("otel_spans").await, 4000);
    assert_eq!(server.test().count("select count(distinct service_name) from otel_spans").await, 200);
}
