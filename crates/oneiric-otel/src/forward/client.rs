//! The client of an endpoint: one HTTP stack for both protocols.

use std::fmt;
use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf as _, BufMut as _, Bytes};
use flate2::Compression;
use flate2::write::GzEncoder;
use http::{HeaderValue, Method, Uri, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};
use tonic::Status;
use tonic::client::Grpc;
use tonic::codec::{Codec, CompressionEncoding, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::metadata::MetadataMap;

use super::answer::{Answer, told};
use super::endpoint::{Endpoint, EndpointError, Protocol, grpc_path};
use crate::otlp::Encoding;
use crate::pipeline::{Request, as_protobuf};

/// Bodies from this size on are compressed: a smaller one fits into a packet anyway.
const COMPRESS_FROM: usize = 1 << 10;
/// Larger messages are not compressed for gRPC, where the thread that serves others would do it.
const GRPC_COMPRESS_UP_TO: usize = 4 << 20;
/// The longest answer that is read.
const ANSWER_BYTES: usize = 1 << 20;
/// A connection on which nothing comes back is given up, else the next request would go into it.
const PING_EVERY: Duration = Duration::from_secs(10);
const PONG_WITHIN: Duration = Duration::from_secs(5);

const USER_AGENT: &str = concat!("oneiric-otel/", env!("CARGO_PKG_VERSION"));

type Connector = HttpsConnector<HttpConnector>;

/// Speaks to one endpoint.
pub(super) struct Client {
    endpoint: Endpoint,
    kind: Kind,
}

enum Kind {
    Http(legacy::Client<Connector, Full<Bytes>>),
    Grpc(Grpc<legacy::Client<Connector, tonic::body::Body>>),
}

/// A request as it goes out.
#[derive(Debug)]
pub(super) struct Outgoing {
    signal: crate::otlp::Signal,
    encoding: Encoding,
    body: Bytes,
    is_compressed: bool,
}

impl Client {
    /// Reads what the endpoint needs. Connects to nobody.
    pub(super) fn new(endpoint: &Endpoint) -> Result<Self, EndpointError> {
        let connector = HttpsConnectorBuilder::new().with_tls_config(tls(endpoint)?).https_or_http();
        let mut builder = legacy::Client::builder(TokioExecutor::new());
        builder.pool_timer(TokioTimer::new());
        let kind = match endpoint.protocol() {
            Protocol::HttpProtobuf => Kind::Http(builder.build(connector.enable_http1().build())),
            Protocol::Grpc => {
                builder
                    .http2_only(true)
                    .timer(TokioTimer::new())
                    .http2_keep_alive_interval(PING_EVERY)
                    .http2_keep_alive_timeout(PONG_WITHIN);
                let client = builder.build(connector.enable_http2().build());
                Kind::Grpc(Grpc::with_origin(client, endpoint.origin().clone()))
            }
        };
        Ok(Self { endpoint: endpoint.clone(), kind })
    }

    /// Writes a request as it is to go out. Takes long for a large one.
    pub(super) fn prepare(&self, request: &Request) -> Outgoing {
        let signal = request.signal;
        match &self.kind {
            Kind::Grpc(_) => {
                let body = match request.encoding {
                    Encoding::Protobuf => request.body.clone(),
                    Encoding::Json => as_protobuf(request).into(),
                };
                Outgoing { signal, encoding: Encoding::Protobuf, body, is_compressed: false }
            }
            Kind::Http(_) => {
                let compressed = compress(&request.body);
                let is_compressed = compressed.is_some();
                let body = compressed.unwrap_or_else(|| request.body.clone());
                Outgoing { signal, encoding: request.encoding, body, is_compressed }
            }
        }
    }

    /// Sends a request once. The caller says how long it may take.
    pub(super) async fn send(&self, outgoing: Outgoing) -> Answer {
        match &self.kind {
            Kind::Http(client) => match self.endpoint.http_uri(outgoing.signal) {
                Ok(uri) => self.send_http(client, uri, outgoing).await,
                Err(error) => Answer::NotAllowed(error.to_string()),
            },
            Kind::Grpc(client) => self.send_grpc(client.clone(), outgoing).await,
        }
    }

    async fn send_http(&self, client: &legacy::Client<Connector, Full<Bytes>>, uri: Uri, outgoing: Outgoing) -> Answer {
        let encoding = outgoing.encoding;
        let mut request = http::Request::new(Full::new(outgoing.body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = uri;
        let headers = request.headers_mut();
        headers.insert(header::USER_AGENT, HeaderValue::from_static(USER_AGENT));
        headers.extend(self.endpoint.headers().clone());
        let content_type = match encoding {
            Encoding::Protobuf => "application/x-protobuf",
            Encoding::Json => "application/json",
        };
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
        if outgoing.is_compressed {
            headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
        let response = match client.request(request).await {
            Ok(response) => response,
            Err(error) => return Answer::none(told(&error)),
        };
        let (head, body) = response.into_parts();
        let body = match Limited::new(body, ANSWER_BYTES).collect().await {
            Ok(body) => body.to_bytes(),
            // The status says it.
            Err(_) => Bytes::new(),
        };
        Answer::of_http(head.status, &head.headers, encoding, &body)
    }

    async fn send_grpc(
        &self,
        mut client: Grpc<legacy::Client<Connector, tonic::body::Body>>,
        outgoing: Outgoing,
    ) -> Answer {
        if (COMPRESS_FROM..=GRPC_COMPRESS_UP_TO).contains(&outgoing.body.len()) {
            client = client.send_compressed(CompressionEncoding::Gzip);
        }
        client = client.accept_compressed(CompressionEncoding::Gzip).max_decoding_message_size(ANSWER_BYTES);
        let path = grpc_path(outgoing.signal);
        let mut request = tonic::Request::new(outgoing.body);
        let mut headers = self.endpoint.headers().clone();
        headers.entry(header::USER_AGENT).or_insert(HeaderValue::from_static(USER_AGENT));
        *request.metadata_mut() = MetadataMap::from_headers(headers);
        if let Err(error) = client.ready().await {
            return Answer::none(told(&error));
        }
        match client.unary(request, path, AsBytes).await {
            Ok(response) => Answer::of_grpc(response.get_ref()),
            Err(status) => Answer::of_status(&status),
        }
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}

fn tls(endpoint: &Endpoint) -> Result<ClientConfig, EndpointError> {
    let wrong = |reason: String| EndpointError::new("ca", reason);
    let mut roots = RootCertStore::empty();
    if let Some(file) = endpoint.ca() {
        let fail = |reason: String| wrong(format!("{}: {reason}", file.display()));
        let text = std::fs::read(file).map_err(|error| fail(error.to_string()))?;
        for certificate in CertificateDer::pem_slice_iter(&text) {
            let added = certificate.map_err(|error| error.to_string());
            added.and_then(|added| roots.add(added).map_err(|error| error.to_string())).map_err(fail)?;
        }
        if roots.is_empty() {
            return Err(fail("expected certificates of authorities in PEM, found none".to_owned()));
        }
    } else if endpoint.is_tls() {
        let found = rustls_native_certs::load_native_certs();
        roots.add_parsable_certificates(found.certs);
        if roots.is_empty() {
            return Err(wrong("this machine has no certificates of authorities; name a file with some".to_owned()));
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = builder.map_err(|error| wrong(error.to_string()))?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

/// None where it is not worth it.
fn compress(body: &Bytes) -> Option<Bytes> {
    if body.len() < COMPRESS_FROM {
        return None;
    }
    let mut encoder = GzEncoder::new(Vec::with_capacity(body.len() / 4), Compression::fast());
    encoder.write_all(body).ok()?;
    encoder.finish().ok().map(Bytes::from)
}

/// Messages of gRPC as they are.
#[derive(Debug, Clone, Copy)]
struct AsBytes;

impl Codec for AsBytes {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Encoder for AsBytes {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(item);
        Ok(())
    }
}

impl Decoder for AsBytes {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(buffer.copy_to_bytes(buffer.remaining())))
    }
}
