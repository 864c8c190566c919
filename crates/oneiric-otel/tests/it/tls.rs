//! TLS to PostgreSQL. What ends TLS here is a process in front of the real server, as a proxy or a pooler does it.

use std::path::Path;
use std::str::FromStr as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use oneiric_otel::store::{Database, ErrorClass, StoreError};
use oneiric_otel_testkit::TestDatabase;
use oneiric_otel_testkit::certificates::{Authority, Pair, Purpose};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio_postgres::Config;
use tokio_postgres::config::Host;
use tokio_rustls::TlsAcceptor;

const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];

/// How a proxy answers who asks for TLS.
#[derive(Clone)]
enum Answer {
    No,
    Yes(TlsAcceptor),
    /// Likewise, and hangs up on who does not ask.
    Insists(TlsAcceptor),
    /// Says yes and hangs up.
    Broken,
}

/// In front of the server of a test database.
struct Proxy {
    test: TestDatabase,
    port: u16,
    encrypted: Arc<AtomicUsize>,
}

impl Proxy {
    async fn start(answer: Answer) -> Self {
        let test = TestDatabase::create().await;
        let target = Config::from_str(test.url()).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let encrypted = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&encrypted);
        // Ends with the runtime of the test.
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(proxy(stream, answer.clone(), target.clone(), Arc::clone(&count)));
            }
        });
        Self { test, port, encrypted }
    }

    /// Of a server that shows this certificate.
    async fn with_certificate(pair: &Pair) -> Self {
        let (chain, key) = load(pair);
        let config = builder().with_no_client_auth().with_single_cert(chain, key).unwrap();
        Self::start(Answer::Yes(Arc::new(config).into())).await
    }

    fn url(&self, host: &str, parameters: &str) -> String {
        let config = Config::from_str(self.test.url()).unwrap();
        let user = config.get_user().unwrap();
        let password = String::from_utf8(config.get_password().unwrap_or_default().to_vec()).unwrap();
        let name = self.test.name();
        format!("postgresql://{user}:{password}@{host}:{}/{name}?{parameters}", self.port)
    }

    async fn connect(&self, host: &str, parameters: &str) -> Result<(), StoreError> {
        Database::new(&self.url(host, parameters))?.ping().await
    }

    #[track_caller]
    fn assert_encrypted(&self, expected: usize) {
        assert_eq!(self.encrypted.swap(0, Ordering::Relaxed), expected);
    }
}

fn builder() -> rustls::ConfigBuilder<ServerConfig, rustls::WantsVerifier> {
    ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
}

fn load(pair: &Pair) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
    let chain = CertificateDer::pem_file_iter(&pair.certificate).unwrap().map(Result::unwrap).collect();
    (chain, PrivateKeyDer::from_pem_file(&pair.key).unwrap())
}

async fn proxy(mut stream: TcpStream, answer: Answer, target: Config, encrypted: Arc<AtomicUsize>) {
    let mut beginning = [0; 8];
    if stream.read_exact(&mut beginning).await.is_err() {
        return;
    }
    if beginning != SSL_REQUEST {
        if !matches!(answer, Answer::Insists(_)) {
            forward(stream, &target, &beginning).await;
        }
        return;
    }
    match answer {
        Answer::No => {
            stream.write_all(b"N").await.unwrap();
            forward(stream, &target, &[]).await;
        }
        Answer::Broken => stream.write_all(b"S").await.unwrap(),
        Answer::Yes(acceptor) | Answer::Insists(acceptor) => {
            stream.write_all(b"S").await.unwrap();
            if let Ok(stream) = acceptor.accept(stream).await {
                encrypted.fetch_add(1, Ordering::Relaxed);
                forward(stream, &target, &[]).await;
            }
        }
    }
}

/// Until either side ends.
async fn forward(mut client: impl AsyncRead + AsyncWrite + Unpin, target: &Config, beginning: &[u8]) {
    let port = target.get_ports().first().copied().unwrap_or(5432);
    match &target.get_hosts()[0] {
        Host::Tcp(host) => {
            let mut server = TcpStream::connect((host.as_str(), port)).await.unwrap();
            server.write_all(beginning).await.unwrap();
            drop(copy_bidirectional(&mut client, &mut server).await);
        }
        Host::Unix(dir) => {
            let mut server = UnixStream::connect(dir.join(format!(".s.PGSQL.{port}"))).await.unwrap();
            server.write_all(beginning).await.unwrap();
            drop(copy_bidirectional(&mut client, &mut server).await);
        }
    }
}

/// A path as a value in a URL.
fn value(path: &Path) -> String {
    path.display().to_string().replace('%', "%25").replace('/', "%2F")
}

#[track_caller]
fn assert_misconfigured(outcome: Result<(), StoreError>, parts: &[&str]) {
    let error = outcome.unwrap_err();
    let text = error.to_string();
    assert!(parts.iter().all(|part| text.contains(part)), "{text}: expected {parts:?}");
    assert_eq!(error.class(), ErrorClass::Misconfigured, "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_mode_does_what_it_does_in_libpq() {
    let authority = Authority::new().unwrap();
    let pair = authority.issue("server", Purpose::Server, &["db.example", "localhost"]).unwrap();
    let stranger = Authority::new().unwrap();
    let (known, unknown) = (value(&authority.certificate), value(&stranger.certificate));
    let proxy = Proxy::with_certificate(&pair).await;

    for (parameters, encrypted) in [
        ("", 1),
        ("sslmode=disable", 0),
        ("sslmode=allow", 0),
        ("sslmode=prefer", 1),
        ("sslmode=require", 1),
        (&format!("sslmode=require&sslrootcert={known}"), 1),
        (&format!("sslmode=verify-ca&sslrootcert={known}"), 1),
        // Not trusted, so it goes without.
        (&format!("sslmode=prefer&sslrootcert={unknown}"), 0),
        ("sslmode=require&sslnegotiation=postgres&channel_binding=prefer", 1),
    ] {
        proxy.connect("127.0.0.1", parameters).await.unwrap_or_else(|error| panic!("{parameters}: {error}"));
        proxy.assert_encrypted(encrypted);
    }
    proxy.connect("localhost", &format!("sslmode=verify-full&sslrootcert={known}")).await.unwrap();
    proxy.assert_encrypted(1);

    let unknown_issuer = ["certificate of the server is unknown", "sslrootcert"];
    for mode in ["require", "verify-ca", "verify-full"] {
        let outcome = proxy.connect("localhost", &format!("sslmode={mode}&sslrootcert={unknown}")).await;
        assert_misconfigured(outcome, &unknown_issuer);
    }
    let outcome = proxy.connect("127.0.0.1", &format!("sslmode=verify-full&sslrootcert={known}")).await;
    assert_misconfigured(outcome, &["127.0.0.1", "db.example", "localhost"]);
    // The authorities of this machine have not signed it either.
    if let Ok(database) = Database::new(&proxy.url("localhost", "sslrootcert=system")) {
        assert_misconfigured(database.ping().await, &unknown_issuer);
    }
    proxy.assert_encrypted(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_tls_is_told_from_one_whose_tls_fails() {
    let proxy = Proxy::start(Answer::No).await;
    for mode in ["", "sslmode=prefer", "sslmode=allow", "sslmode=disable"] {
        proxy.connect("127.0.0.1", mode).await.unwrap();
    }
    assert_misconfigured(proxy.connect("127.0.0.1", "sslmode=require").await, &["does not support TLS", "sslmode"]);

    let proxy = Proxy::start(Answer::Broken).await;
    proxy.connect("127.0.0.1", "sslmode=prefer").await.unwrap();
    let error = proxy.connect("127.0.0.1", "sslmode=require").await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Transient, "{error}");
    assert!(error.to_string().contains("TLS handshake"), "{error}");

    // Where neither way leads in, the error is that of TLS.
    let authority = Authority::new().unwrap();
    let (chain, key) = load(&authority.issue("server", Purpose::Server, &["localhost"]).unwrap());
    let config = builder().with_no_client_auth().with_single_cert(chain, key).unwrap();
    let proxy = Proxy::start(Answer::Insists(Arc::new(config).into())).await;
    let stranger = Authority::new().unwrap();
    let parameters = format!("sslmode=prefer&sslrootcert={}", value(&stranger.certificate));
    assert_misconfigured(proxy.connect("localhost", &parameters).await, &["certificate of the server is unknown"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_self_signed_certificate_can_be_trusted_by_itself() {
    let authority = Authority::new().unwrap();
    let pair = authority.self_signed("self", "localhost").unwrap();
    let own = value(&pair.certificate);
    let proxy = Proxy::with_certificate(&pair).await;
    for mode in ["verify-ca", "verify-full"] {
        proxy.connect("localhost", &format!("sslmode={mode}&sslrootcert={own}")).await.unwrap();
    }
    proxy.assert_encrypted(2);
    let outcome = proxy.connect("127.0.0.1", &format!("sslmode=verify-full&sslrootcert={own}")).await;
    assert_misconfigured(outcome, &["127.0.0.1", "localhost"]);
    let other = value(&authority.self_signed("other", "localhost").unwrap().certificate);
    let outcome = proxy.connect("localhost", &format!("sslmode=verify-ca&sslrootcert={other}")).await;
    assert_misconfigured(outcome, &["certificate of the server is unknown"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_certificate_is_not_accepted() {
    let authority = Authority::new().unwrap();
    let pair = authority.issue("old", Purpose::ExpiredServer, &["localhost"]).unwrap();
    let proxy = Proxy::with_certificate(&pair).await;
    for root in [&authority.certificate, &pair.certificate] {
        let outcome = proxy.connect("localhost", &format!("sslmode=verify-ca&sslrootcert={}", value(root))).await;
        assert_misconfigured(outcome, &["expired"]);
    }
    proxy.connect("localhost", "sslmode=require").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_may_ask_for_a_certificate_of_ours() {
    let authority = Authority::new().unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(&authority.certificate).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
    let (chain, key) = load(&authority.issue("server", Purpose::Server, &["localhost"]).unwrap());
    let config = builder().with_client_cert_verifier(verifier).with_single_cert(chain, key).unwrap();
    let proxy = Proxy::start(Answer::Yes(Arc::new(config).into())).await;

    let ours = authority.issue("client", Purpose::Client, &[]).unwrap();
    let with =
        |pair: &Pair| format!("sslmode=require&sslcert={}&sslkey={}", value(&pair.certificate), value(&pair.key));
    proxy.connect("localhost", &with(&ours)).await.unwrap();
    proxy.assert_encrypted(1);
    proxy.connect("localhost", "sslmode=require").await.unwrap_err();
    let stranger = Authority::new().unwrap();
    let foreign = stranger.issue("client", Purpose::Client, &[]).unwrap();
    proxy.connect("localhost", &with(&foreign)).await.unwrap_err();
    proxy.assert_encrypted(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_socket_in_the_file_system_is_never_encrypted() {
    let test = TestDatabase::create().await;
    let config = Config::from_str(test.url()).unwrap();
    let local = config.get_hosts().iter().all(|host| matches!(host, Host::Unix(_)));
    let separator = if test.url().contains('?') { '&' } else { '?' };
    let outcome = Database::new(&format!("{}{separator}sslmode=require", test.url())).unwrap().ping().await;
    // A server that the environment names may be reached by TCP.
    assert_eq!(outcome.is_ok(), local);
}
