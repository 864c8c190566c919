//! TLS and tokens, against clients that have what it takes and clients that have not.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Request, Response};
use http_body_util::Full;
use oneiric_otel::otlp::Signal;
use oneiric_otel_server::{Server, ServerOptions, TlsFiles, TokenSource, Tokens};
use oneiric_otel_testkit::certificates::{Authority, Pair, Purpose};
use oneiric_otel_testkit::python::{self, Protocol};
use opentelemetry_http::{HttpClient, HttpError};
use opentelemetry_otlp::tonic_types::metadata::MetadataMap;
use opentelemetry_otlp::tonic_types::transport::{Certificate, ClientTlsConfig};
use opentelemetry_otlp::{
    LogExporter, MetricExporter, SpanExporter, WithExportConfig as _, WithHttpConfig as _, WithTonicConfig as _,
};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ProtocolVersion, RootCertStore};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::messages::{self, SIGNALS};
use crate::sdk::{Exporters, assert_stored, record};
use crate::serving::{PATIENCE, Serving, options, ready, stranded};
use crate::wire::{self, JSON, PROTOBUF, Reply};

const TOKEN: &str = "a-token-of-thirty-two-characters";
const BEARER: &str = "Bearer a-token-of-thirty-two-characters";
const WRONG: &str = "Bearer a-token-of-thirty-two-character5";

fn tls(pair: &Pair, client_ca: Option<&Path>) -> TlsFiles {
    let Pair { certificate, key } = pair.clone();
    TlsFiles { certificate, key, client_ca: client_ca.map(Path::to_owned) }
}

fn tokens() -> TokenSource {
    TokenSource::Fixed(Tokens::from_list(TOKEN).unwrap())
}

fn issue(authority: &Authority) -> Pair {
    authority.issue("server", Purpose::Server, &["localhost", "127.0.0.1"]).unwrap()
}

/// A client that trusts this authority, and shows a certificate.
fn client(authority: &Path, own: Option<&Pair>) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(authority).unwrap()).unwrap();
    let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    match own {
        None => builder.with_no_client_auth(),
        Some(pair) => {
            let chain = vec![CertificateDer::from_pem_file(&pair.certificate).unwrap()];
            builder.with_client_auth_cert(chain, PrivateKeyDer::from_pem_file(&pair.key).unwrap()).unwrap()
        }
    }
}

async fn connect(address: SocketAddr, config: ClientConfig) -> io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(address).await?;
    let name = ServerName::try_from("localhost").unwrap();
    tokio::time::timeout(PATIENCE, TlsConnector::from(Arc::new(config)).connect(name, stream)).await.unwrap()
}

/// A request with a log record of this service.
fn log(service: &str, token: &'static str) -> Request<Full<Bytes>> {
    let request = wire::post("/v1/logs", PROTOBUF, messages::protobuf(Signal::Logs, service, 1));
    wire::with_header(request, "authorization", token)
}

async fn get(address: SocketAddr, path: &str, token: Option<&'static str>) -> Reply {
    let mut request = Request::get(path).header("host", "x");
    if let Some(token) = token {
        request = request.header("authorization", token);
    }
    wire::send(address, request.body(Full::new(Bytes::new())).unwrap()).await
}

/// Carries what the SDK's exporters for HTTP send. They run in threads without a runtime.
#[derive(Debug, Clone)]
struct HttpsClient {
    address: SocketAddr,
    config: ClientConfig,
    runtime: Handle,
}

#[tonic::async_trait]
impl HttpClient for HttpsClient {
    async fn send_bytes(&self, mut request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let Self { address, config, runtime } = self.clone();
        let exchange = async move {
            request.headers_mut().insert("host", HeaderValue::from_static("localhost"));
            *request.uri_mut() = request.uri().path().parse()?;
            let reply = wire::send_over(connect(address, config).await?, request.map(Full::new)).await;
            Ok(Response::builder().status(reply.status).body(reply.body)?)
        };
        runtime.spawn(exchange).await?
    }
}

fn over_grpc(address: SocketAddr, authority: &Path) -> Exporters {
    let endpoint = format!("https://localhost:{}", address.port());
    let roots = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(std::fs::read(authority).unwrap()));
    let mut metadata = MetadataMap::new();
    metadata.insert("authorization", BEARER.parse().unwrap());
    macro_rules! exporter {
        ($kind:ident) => {
            $kind::builder()
                .with_tonic()
                .with_endpoint(&endpoint)
                .with_tls_config(roots.clone())
                .with_metadata(metadata.clone())
                .build()
                .unwrap()
        };
    }
    Exporters { spans: exporter!(SpanExporter), metrics: exporter!(MetricExporter), logs: exporter!(LogExporter) }
}

fn over_http(address: SocketAddr, authority: &Path) -> Exporters {
    let client = HttpsClient { address, config: client(authority, None), runtime: Handle::current() };
    let headers = HashMap::from([("authorization".to_owned(), BEARER.to_owned())]);
    macro_rules! exporter {
        ($kind:ident, $signal:literal) => {
            $kind::builder()
                .with_http()
                .with_http_client(client.clone())
                .with_headers(headers.clone())
                .with_endpoint(format!("https://localhost:{}/v1/{}", address.port(), $signal))
                .build()
                .unwrap()
        };
    }
    Exporters {
        spans: exporter!(SpanExporter, "traces"),
        metrics: exporter!(MetricExporter, "metrics"),
        logs: exporter!(LogExporter, "logs"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_rust_sdk_sends_over_tls_with_a_token() {
    let authority = Authority::new().unwrap();
    let server = Serving::start_with(
        ServerOptions { tls: Some(tls(&issue(&authority), None)), tokens: Some(tokens()), ..options() },
        ready(),
    )
    .await;
    let (grpc, http, trusted) = (server.grpc, server.http, &authority.certificate);
    // A channel of tonic is made inside of a runtime.
    let exporters = over_grpc(grpc, trusted);
    let ids = tokio::task::spawn_blocking(move || record("tls over grpc", exporters));
    assert_stored(&server, "tls over grpc", ids.await.unwrap()).await;
    let exporters = over_http(http, trusted);
    let ids = tokio::task::spawn_blocking(move || record("tls over http", exporters));
    assert_stored(&server, "tls over http", ids.await.unwrap()).await;
    assert_eq!((server.refusals.unauthenticated_requests(), server.refusals.failed_handshakes()), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_python_sdk_sends_over_tls_with_a_token() {
    let authority = Authority::new().unwrap();
    let trusted = authority.certificate.to_str().unwrap().to_owned();
    let header = format!("authorization=Bearer%20{TOKEN}");
    let variables = [("OTEL_EXPORTER_OTLP_CERTIFICATE", &*trusted), ("OTEL_EXPORTER_OTLP_HEADERS", &*header)];
    for (protocol, seed) in [(Protocol::Grpc, 1), (Protocol::HttpProtobuf, 2)] {
        let options =
            ServerOptions { tls: Some(tls(&issue_as(&authority, seed), None)), tokens: Some(tokens()), ..options() };
        let server = Serving::start_with(options, ready()).await;
        let address = if protocol == Protocol::Grpc { server.grpc } else { server.http };
        let endpoint = format!("https://localhost:{}", address.port());
        let sent = python::run_with(&endpoint, protocol, seed, &variables).await.unwrap();
        crate::python::compare(&server, &sent).await;

        // Without a token it says so, and gives up: it could not succeed later.
        let refused = python::run_with(&endpoint, protocol, seed, &variables[..1]).await.unwrap_err().to_string();
        assert!(refused.contains("did not take everything"), "{refused}");
        assert!(server.refusals.unauthenticated_requests() > 0);
        assert_eq!(server.refusals.failed_handshakes(), 0);
    }
}

fn issue_as(authority: &Authority, number: u64) -> Pair {
    authority.issue(&format!("server-{number}"), Purpose::Server, &["localhost"]).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn who_shows_no_token_or_a_wrong_one_is_refused() {
    let server = Serving::start_with(ServerOptions { tokens: Some(tokens()), ..options() }, ready()).await;
    let mut refused = 0;
    for address in [server.grpc, server.http] {
        for signal in SIGNALS {
            let json = messages::json(signal, "x", &[messages::json_record(signal, "x")]).into_bytes();
            for (content_type, body) in [(PROTOBUF, messages::protobuf(signal, "x", 1)), (JSON, json)] {
                for (token, reason) in
                    [(None, "is needed"), (Some(WRONG), "not known"), (Some("Basic eA=="), "not known")]
                {
                    let mut request = wire::post(wire::path(signal), content_type, body.clone());
                    if let Some(token) = token {
                        request = wire::with_header(request, "authorization", token);
                    }
                    let reply = wire::send(address, request).await;
                    assert_eq!((reply.status, reply.header("www-authenticate")), (401, Some("Bearer")), "{reply:?}");
                    assert_eq!(reply.header("content-type"), Some(content_type));
                    let (code, message) = reply.rpc_status();
                    assert!(code == 16 && message.contains(reason) && !message.contains("a-token"), "{message}");
                    refused += 1;
                }
            }
            let frame = wire::frame(0, &messages::protobuf(signal, "x", 1));
            let answer = wire::call(address, wire::method(signal), None, frame.clone()).await;
            assert_eq!((answer.code, answer.details.len()), (16, 0), "{answer:?}");
            refused += 1;
            let request = wire::call_request(wire::method(signal), None, frame);
            let reply = wire::send_h2(address, wire::with_header(request, "authorization", BEARER)).await;
            assert_eq!(wire::into_call(reply).code, 0);
        }
    }
    assert_eq!(server.refusals.unauthenticated_requests(), refused);
    for table in ["otel_spans", "otel_metrics"] {
        assert_eq!(server.count(table).await, 1, "{table}: one record, sent twice");
    }

    // Refused before a byte of the body is there.
    let (_open, body) = wire::open_body();
    let request = Request::post("/v1/traces").header("host", "x").header("content-type", PROTOBUF).body(body).unwrap();
    assert_eq!(wire::send(server.http, request).await.status, 401);

    for (path, token, status) in [
        ("/healthz", None, 200),
        ("/readyz", None, 200),
        ("/metrics", None, 401),
        ("/anything", None, 401),
        ("/healthz/", Some(WRONG), 401),
        ("/anything", Some(BEARER), 404),
    ] {
        let reply = get(server.api, path, token).await;
        assert_eq!(reply.status, status, "{path}: {reply:?}");
    }
    assert_eq!(get(server.http, "/healthz", None).await.status, 401, "health is on the API listener");
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_is_of_today_and_says_which_http() {
    let authority = Authority::new().unwrap();
    let options = ServerOptions { tls: Some(tls(&issue(&authority), None)), ..options() };
    let server = Serving::start_with(options, ready()).await;
    for (address, protocol) in [(server.grpc, &b"h2"[..]), (server.http, b"http/1.1"), (server.api, b"h2")] {
        let mut config = client(&authority.certificate, None);
        config.alpn_protocols = vec![protocol.to_vec()];
        let stream = connect(address, config).await.unwrap();
        let session = stream.get_ref().1;
        assert_eq!(session.alpn_protocol(), Some(protocol));
        assert_eq!(session.protocol_version(), Some(ProtocolVersion::TLSv1_3));
    }
    let old = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS12])
        .unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(&authority.certificate).unwrap()).unwrap();
    let old = old.with_root_certificates(roots).with_no_client_auth();
    let stream = connect(server.http, old).await.unwrap();
    assert_eq!(stream.get_ref().1.protocol_version(), Some(ProtocolVersion::TLSv1_2));
    assert_eq!(wire::send_over(stream, log("x", BEARER)).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_cannot_agree_are_ended_and_others_served() {
    let authority = Authority::new().unwrap();
    let options = ServerOptions {
        tls: Some(tls(&issue(&authority), None)),
        idle_timeout: Duration::from_millis(500),
        max_connections: 3,
        ..options()
    };
    let server = Serving::start_with(options, ready()).await;

    // Plain HTTP/1.1 is told what to do; plain HTTP/2 finds no HTTP/2.
    let reply = wire::send(server.http, log("x", BEARER)).await;
    assert_eq!(reply.status, 400);
    assert!(String::from_utf8_lossy(&reply.body).contains("use https"), "{reply:?}");
    let mut plain = wire::connect_h2(server.grpc).await;
    let sent = plain.send_request(wire::call_request(wire::method(Signal::Logs), None, wire::frame(0, b"")));
    tokio::time::timeout(PATIENCE, sent).await.unwrap().unwrap_err();

    // A client that does not trust us.
    let stranger = Authority::new().unwrap();
    connect(server.http, client(&stranger.certificate, None)).await.unwrap_err();

    // Garbage, half a handshake, and nothing: more of them than there are seats.
    let mut held = Vec::new();
    for beginning in [&b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc"[..], b"\x00garbage", b"", b"\x16\x03\x01\x02\x00", b""] {
        let mut stream = TcpStream::connect(server.http).await.unwrap();
        stream.write_all(beginning).await.unwrap();
        held.push(stream);
    }
    let stream = connect(server.http, client(&authority.certificate, None)).await.unwrap();
    assert_eq!(wire::send_over(stream, log("x", BEARER)).await.status, 200);
    for mut stream in held {
        let mut rest = Vec::new();
        // Closed, whether orderly or not.
        drop(tokio::time::timeout(PATIENCE, stream.read_to_end(&mut rest)).await.unwrap());
        assert!(!String::from_utf8_lossy(&rest).contains("HTTP"));
    }
    assert_eq!(server.count("otel_logs").await, 1);
    assert!(server.refusals.failed_handshakes() >= 4, "{:?}", server.refusals);
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_client_ca_every_client_shows_a_certificate() {
    let authority = Authority::new().unwrap();
    let tls = Some(tls(&issue(&authority), Some(&authority.certificate)));
    let server = Serving::start_with(ServerOptions { tls, ..options() }, ready()).await;
    let own = authority.issue("client", Purpose::Client, &[]).unwrap();
    let stranger = Authority::new().unwrap();
    let foreign = stranger.issue("client", Purpose::Client, &[]).unwrap();

    let stream = connect(server.http, client(&authority.certificate, Some(&own))).await.unwrap();
    assert_eq!(wire::send_over(stream, log("x", BEARER)).await.status, 200);
    for (number, pair) in [None, Some(&foreign)].into_iter().enumerate() {
        // In TLS 1.3 a client learns of its refusal when it reads.
        let mut stream = connect(server.http, client(&authority.certificate, pair)).await.unwrap();
        let mut byte = [0];
        tokio::time::timeout(PATIENCE, stream.read_exact(&mut byte)).await.unwrap().unwrap_err();
        let counted = async {
            while server.refusals.failed_handshakes() <= number as u64 {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, counted).await.unwrap();
    }
    assert_eq!(server.count("otel_logs").await, 1);
}

fn replace(pair: &Pair, by: &Pair) {
    std::fs::rename(&by.certificate, &pair.certificate).unwrap();
    std::fs::rename(&by.key, &pair.key).unwrap();
}

fn write_tokens(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_and_tokens_are_replaced_while_the_server_runs() {
    let (before, after) = (Authority::new().unwrap(), Authority::new().unwrap());
    let pair = issue(&before);
    let path = before.path("tokens");
    write_tokens(&path, TOKEN);
    let options =
        ServerOptions { tls: Some(tls(&pair, None)), tokens: Some(TokenSource::File(path.clone())), ..options() };
    let server = Serving::start_with(options, ready()).await;
    let trusts = |authority: &Authority| client(&authority.certificate, None);
    let mut old = wire::connect_h2_over(connect(server.grpc, trusts(&before)).await.unwrap()).await;
    let mut send = async |service: &str, token| {
        let mut request = log(service, token);
        *request.uri_mut() = "https://localhost/v1/logs".parse().unwrap();
        tokio::time::timeout(PATIENCE, old.send_request(request)).await.unwrap().unwrap().status().as_u16()
    };
    assert_eq!(send("1", BEARER).await, 200);

    // What cannot be used changes nothing, and half a change is none.
    write_tokens(&path, "a-new-token-for-everybody");
    let good = std::fs::read(&pair.certificate).unwrap();
    std::fs::write(&pair.certificate, "nonsense").unwrap();
    let text = server.reload.reload().unwrap_err().to_string();
    assert!(text.contains("no certificate in PEM") && text.contains(pair.certificate.to_str().unwrap()), "{text}");
    std::fs::write(&pair.certificate, good).unwrap();
    assert_eq!(send("2", BEARER).await, 200);
    connect(server.http, trusts(&before)).await.unwrap();

    replace(&pair, &after.issue("next", Purpose::Server, &["localhost"]).unwrap());
    assert_eq!(send("3", BEARER).await, 200);
    server.reload.reload().unwrap();
    connect(server.http, trusts(&before)).await.unwrap_err();
    let stream = connect(server.http, trusts(&after)).await.unwrap();
    assert_eq!(wire::send_over(stream, log("4", "Bearer a-new-token-for-everybody")).await.status, 200);
    // The old connection lives, and needs the new token from now on.
    assert_eq!(send("5", BEARER).await, 401);
    assert_eq!(send("6", "Bearer a-new-token-for-everybody").await, 200);
    assert_eq!(server.count("otel_logs").await, 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_cannot_be_used_are_named_at_the_start() {
    let authority = Authority::new().unwrap();
    let pair = issue(&authority);
    let other = authority.issue("other", Purpose::Server, &["localhost"]).unwrap();
    let old = authority.issue("old", Purpose::ExpiredServer, &["localhost"]).unwrap();
    let open = authority.issue("open", Purpose::Server, &["localhost"]).unwrap();
    std::fs::set_permissions(&open.key, std::fs::Permissions::from_mode(0o644)).unwrap();
    let file = |name: &str, text: &[u8]| -> PathBuf {
        let path = authority.path(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        path
    };
    let missing = authority.path("missing");
    let empty = file("empty", b"");
    let cut = file("cut", b"-----BEGIN CERTIFICATE-----\nMIIB\n");
    let locked = file("locked", b"-----BEGIN ENCRYPTED PRIVATE KEY-----\nMIIB\n-----END ENCRYPTED PRIVATE KEY-----\n");
    let of = |certificate: &Path, key: &Path| TlsFiles {
        certificate: certificate.to_owned(),
        key: key.to_owned(),
        client_ca: None,
    };
    for (tls, named, reason) in [
        (of(&missing, &pair.key), &missing, "cannot be opened"),
        (of(&pair.certificate, &missing), &missing, "cannot be opened"),
        (of(&empty, &pair.key), &empty, "no certificate in PEM"),
        (of(&pair.key, &pair.key), &pair.key, "no certificate in PEM"),
        (of(&cut, &pair.key), &cut, "not PEM"),
        (of(&pair.certificate, &other.key), &other.key, "not the key of the certificate in"),
        (of(&pair.certificate, &pair.certificate), &pair.certificate, "can read"),
        (of(&pair.certificate, &empty), &empty, "no private key in PEM"),
        (of(&pair.certificate, &locked), &locked, "encrypted"),
        (of(&open.certificate, &open.key), &open.key, "mode is 644"),
        (self::tls(&pair, Some(&empty)), &empty, "TLS client CA"),
    ] {
        // The certificate is no secret, but as a key it is one that all may read.
        if reason == "can read" {
            std::fs::set_permissions(&pair.certificate, std::fs::Permissions::from_mode(0o644)).unwrap();
        }
        let options = ServerOptions { tls: Some(tls), ..options() };
        let text = Server::bind(options, stranded(), ready()).await.unwrap_err().to_string();
        assert!(text.contains(named.to_str().unwrap()) && text.contains(reason), "{text}: expected {reason}");
    }
    let options = ServerOptions { tls: Some(tls(&old, None)), ..options() };
    Server::bind(options, stranded(), ready()).await.unwrap();
}
