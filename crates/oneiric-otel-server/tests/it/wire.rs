//! Clients that send exactly what a test says, right or wrong.

use std::convert::Infallible;
use std::net::SocketAddr;

use base64::Engine as _;
use bytes::{BufMut as _, Bytes};
use futures::StreamExt as _;
use futures::channel::mpsc;
use http::{HeaderMap, Request};
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Body, Frame, Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo};
use oneiric_otel::otlp::Signal;
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceResponse;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceResponse;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceResponse;
use prost::Message as _;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tonic_types::pb;

use crate::serving::PATIENCE;

pub(crate) const PROTOBUF: &str = "application/x-protobuf";
pub(crate) const JSON: &str = "application/json";

/// A response, whole.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    pub(crate) trailers: HeaderMap,
}

impl Reply {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    /// The body as `google.rpc.Status`, in the encoding that its content type says: code and message.
    pub(crate) fn rpc_status(&self) -> (i64, String) {
        match self.header("content-type") {
            Some(PROTOBUF) => {
                let status = pb::Status::decode(&*self.body).unwrap();
                (i64::from(status.code), status.message)
            }
            Some(JSON) => {
                let status = self.json();
                (status["code"].as_i64().unwrap(), status["message"].as_str().unwrap().to_owned())
            }
            other => panic!("content type {other:?}"),
        }
    }
}

pub(crate) async fn read(response: http::Response<Incoming>) -> Reply {
    let (head, body) = response.into_parts();
    let collected = body.collect().await.unwrap();
    let trailers = collected.trailers().cloned().unwrap_or_default();
    Reply { status: head.status.as_u16(), headers: head.headers, body: collected.to_bytes(), trailers }
}

/// Over HTTP/1.1, on a connection of its own.
pub(crate) async fn send(
    address: SocketAddr,
    request: Request<impl Body<Data = Bytes, Error = Infallible> + Send + Unpin + 'static>,
) -> Reply {
    send_over(TcpStream::connect(address).await.unwrap(), request).await
}

/// Over HTTP/1.1, on this connection.
pub(crate) async fn send_over(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: Request<impl Body<Data = Bytes, Error = Infallible> + Send + Unpin + 'static>,
) -> Reply {
    let exchange = async {
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        read(sender.send_request(request).await.unwrap()).await
    };
    tokio::time::timeout(PATIENCE, exchange).await.unwrap()
}

pub(crate) type H2Sender<B> = hyper::client::conn::http2::SendRequest<B>;

/// An HTTP/2 connection without negotiation.
pub(crate) async fn connect_h2<B>(address: SocketAddr) -> H2Sender<B>
where
    B: Body<Data = Bytes, Error = Infallible> + Send + Unpin + 'static,
{
    connect_h2_over(TcpStream::connect(address).await.unwrap()).await
}

/// HTTP/2 on this connection.
pub(crate) async fn connect_h2_over<B>(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> H2Sender<B>
where
    B: Body<Data = Bytes, Error = Infallible> + Send + Unpin + 'static,
{
    let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
    let (sender, connection) = handshake.await.unwrap();
    tokio::spawn(connection);
    sender
}

/// Over HTTP/2, on a connection of its own.
pub(crate) async fn send_h2(address: SocketAddr, request: Request<Full<Bytes>>) -> Reply {
    let exchange = async {
        let mut sender = connect_h2(address).await;
        read(sender.send_request(request).await.unwrap()).await
    };
    tokio::time::timeout(PATIENCE, exchange).await.unwrap()
}

pub(crate) fn path(signal: Signal) -> &'static str {
    match signal {
        Signal::Traces => "/v1/traces",
        Signal::Metrics => "/v1/metrics",
        Signal::Logs => "/v1/logs",
    }
}

/// A POST to an HTTP receiver.
pub(crate) fn post(path: &str, content_type: &str, body: impl Into<Bytes>) -> Request<Full<Bytes>> {
    Request::post(path)
        .header("host", "localhost")
        .header("content-type", content_type)
        .body(Full::new(body.into()))
        .unwrap()
}

pub(crate) fn with_header(
    mut request: Request<Full<Bytes>>,
    name: &'static str,
    value: &'static str,
) -> Request<Full<Bytes>> {
    request.headers_mut().insert(name, http::HeaderValue::from_static(value));
    request
}

/// A body that is sent as the test goes on.
pub(crate) fn open_body() -> (mpsc::Sender<Bytes>, impl Body<Data = Bytes, Error = Infallible> + Send + Unpin + 'static)
{
    let (sender, receiver) = mpsc::channel::<Bytes>(1);
    (sender, StreamBody::new(receiver.map(|data| Ok(Frame::data(data)))))
}

/// What a gRPC call came to.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) code: i32,
    pub(crate) message: String,
    pub(crate) headers: HeaderMap,
    /// The types of the details in `grpc-status-details-bin`.
    pub(crate) details: Vec<String>,
    /// The message of a success, without its frame.
    pub(crate) body: Bytes,
}

/// The path of a signal's Export call.
pub(crate) fn method(signal: Signal) -> &'static str {
    match signal {
        Signal::Traces => "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
        Signal::Metrics => "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export",
        Signal::Logs => "/opentelemetry.proto.collector.logs.v1.LogsService/Export",
    }
}

/// A message in its frame.
pub(crate) fn frame(flag: u8, message: &[u8]) -> Vec<u8> {
    let mut framed = Vec::with_capacity(message.len() + 5);
    framed.put_u8(flag);
    framed.put_u32(message.len() as u32);
    framed.put_slice(message);
    framed
}

/// A gRPC call with `body` as it is; the encoding is what `grpc-encoding` shall say.
pub(crate) fn call_request(method: &str, encoding: Option<&str>, body: Vec<u8>) -> Request<Full<Bytes>> {
    let mut request = Request::post(format!("http://localhost{method}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    if let Some(encoding) = encoding {
        request = request.header("grpc-encoding", encoding);
    }
    request.body(Full::new(Bytes::from(body))).unwrap()
}

pub(crate) async fn call(address: SocketAddr, method: &str, encoding: Option<&str>, body: Vec<u8>) -> Call {
    into_call(send_h2(address, call_request(method, encoding, body)).await)
}

pub(crate) fn into_call(reply: Reply) -> Call {
    assert_eq!(reply.status, 200, "gRPC errors are HTTP 200: {reply:?}");
    assert_eq!(reply.header("content-type"), Some("application/grpc"), "{reply:?}");
    let mut all = reply.headers.clone();
    all.extend(reply.trailers);
    let text = |name: &str| all.get(name).map(|value| value.to_str().unwrap().to_owned());
    let details = text("grpc-status-details-bin").map_or_else(Vec::new, |encoded| {
        let engine = base64::engine::GeneralPurpose::new(
            &base64::alphabet::STANDARD,
            base64::engine::general_purpose::GeneralPurposeConfig::new()
                .with_decode_padding_mode(base64::engine::DecodePaddingMode::Indifferent),
        );
        let status = pb::Status::decode(&*engine.decode(encoded).unwrap()).unwrap();
        status.details.into_iter().map(|any| any.type_url.rsplit('.').next().unwrap().to_owned()).collect()
    });
    Call {
        code: text("grpc-status").unwrap().parse().unwrap(),
        message: text("grpc-message").unwrap_or_default(),
        headers: reply.headers,
        details,
        body: reply.body.slice(reply.body.len().min(5)..),
    }
}

/// What an `Export*ServiceResponse` says: records rejected and why, or nothing when `partial_success` is unset.
pub(crate) fn partial_success(signal: Signal, response: &[u8]) -> Option<(i64, String)> {
    match signal {
        Signal::Traces => {
            let partial = ExportTraceServiceResponse::decode(response).unwrap().partial_success;
            partial.map(|partial| (partial.rejected_spans, partial.error_message))
        }
        Signal::Metrics => {
            let partial = ExportMetricsServiceResponse::decode(response).unwrap().partial_success;
            partial.map(|partial| (partial.rejected_data_points, partial.error_message))
        }
        Signal::Logs => {
            let partial = ExportLogsServiceResponse::decode(response).unwrap().partial_success;
            partial.map(|partial| (partial.rejected_log_records, partial.error_message))
        }
    }
}

/// `data` compressed as a content coding says.
pub(crate) fn compress(coding: &str, data: &[u8]) -> Vec<u8> {
    use std::io::Write as _;
    let level = flate2::Compression::fast();
    match coding {
        "gzip" => {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), level);
            encoder.write_all(data).unwrap();
            encoder.finish().unwrap()
        }
        "deflate" => {
            let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), level);
            encoder.write_all(data).unwrap();
            encoder.finish().unwrap()
        }
        "zstd" => zstd::encode_all(data, 1).unwrap(),
        other => panic!("no coding {other}"),
    }
}
