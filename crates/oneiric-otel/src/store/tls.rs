//! TLS to PostgreSQL: what `sslmode`, `sslrootcert`, `sslcert` and `sslkey` of a connection URL mean in libpq.
//!
//! The driver knows three of the six modes and none of the files, so these parameters are taken out of the URL before
//! it reads it. Differences to libpq: nothing is read that the URL does not name (no `PG*` variables, no `~/.postgresql`),
//! and a server that has both kinds of `subjectAltName` and a common name is known by the former alone, as in libpq 16.
//!
//! | sslmode | encrypts | without TLS | checks the certificate |
//! |---|---|---|---|
//! | `disable` | never | | |
//! | `allow` | if the server insists | first | chain, if `sslrootcert` is given |
//! | `prefer` (default) | if it can be had | else | chain, if `sslrootcert` is given |
//! | `require` | always | | chain, if `sslrootcert` is given |
//! | `verify-ca` | always | | chain |
//! | `verify-full` | always | | chain and name |
//!
//! A Unix socket is never encrypted, whatever the mode.

use std::error::Error as StdError;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::time::SystemTime;

use deadpool_postgres::{Connect, PoolError};
use percent_encoding::percent_decode_str;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio_postgres::config::{Host, SslMode};
use tokio_postgres::error::SqlState;
use tokio_postgres::{CancelToken, Client, Config, Error};
use tokio_postgres_rustls::MakeRustlsConnect;
use tokio_util::task::AbortOnDropHandle;
use x509_cert::der::Decode as _;
use x509_cert::der::asn1::{Ia5StringRef, PrintableStringRef, TeletexStringRef, Utf8StringRef};
use x509_cert::der::oid::db::{rfc4519, rfc5280};

use super::error::StoreError;
use crate::self_trace;

/// What the name of the protocol is in ALPN. Direct negotiation requires it.
const ALPN: &[u8] = b"postgresql";

/// What the driver says of a failed handshake, and of a server that has no TLS.
const HANDSHAKE_FAILED: &str = "error performing TLS handshake";
const NO_TLS: &str = "server does not support TLS";

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd)]
enum Mode {
    Disable,
    Allow,
    Prefer,
    Require,
    VerifyCa,
    VerifyFull,
}

impl Mode {
    fn parse(text: &str) -> Result<Self, StoreError> {
        Ok(match text {
            "disable" => Self::Disable,
            "allow" => Self::Allow,
            "prefer" => Self::Prefer,
            "require" => Self::Require,
            "verify-ca" => Self::VerifyCa,
            "verify-full" => Self::VerifyFull,
            other => {
                return Err(StoreError::misconfigured(format!(
                    "database URL: sslmode={other:?}: expected disable, allow, prefer, require, verify-ca or verify-full"
                )));
            }
        })
    }

    /// How to try, and how else if that fails.
    fn attempts(self) -> (SslMode, Option<SslMode>) {
        match self {
            Self::Disable => (SslMode::Disable, None),
            Self::Allow => (SslMode::Disable, Some(SslMode::Require)),
            Self::Prefer => (SslMode::Prefer, Some(SslMode::Disable)),
            Self::Require | Self::VerifyCa | Self::VerifyFull => (SslMode::Require, None),
        }
    }
}

/// What a URL says about TLS. An empty value says nothing, as in libpq.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Parameters {
    mode: Option<String>,
    root_cert: Option<String>,
    cert: Option<String>,
    key: Option<String>,
}

/// Takes the parameters out of a URL. What is left is for the driver, and the URL is taken apart as the driver does it:
/// credentials end at the first `@`.
pub(super) fn take_parameters(url: &str) -> Result<(String, Parameters), StoreError> {
    let mut parameters = Parameters::default();
    let start = url.find('@').unwrap_or_default();
    let (login, location) = url.split_at(start);
    let Some((location, query)) = location.split_once('?') else { return Ok((url.to_owned(), parameters)) };
    let mut rest = Vec::new();
    for parameter in query.split('&') {
        let (key, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        let key = percent_decode_str(key).decode_utf8_lossy();
        let place = match &*key {
            "sslmode" => &mut parameters.mode,
            "sslrootcert" => &mut parameters.root_cert,
            "sslcert" => &mut parameters.cert,
            "sslkey" => &mut parameters.key,
            _ => {
                rest.push(parameter);
                continue;
            }
        };
        let value = percent_decode_str(value).decode_utf8().map_err(|_| {
            StoreError::misconfigured(format!("database URL: {key}: the percent-encoded bytes are no UTF-8"))
        })?;
        *place = Some(value.into_owned()).filter(|value| !value.is_empty());
    }
    let query = if rest.is_empty() { String::new() } else { format!("?{}", rest.join("&")) };
    Ok((format!("{login}{location}{query}"), parameters))
}

/// Connects as a URL says. Cheap to clone.
///
/// Connections live on the runtime on which this was made: a pool hands them to whoever comes next, and one that was made
/// for a question would stand still whenever the runtime of who asked it does.
#[derive(Clone)]
pub(super) struct Connector {
    mode: Mode,
    tls: MakeRustlsConnect,
    runtime: Option<Handle>,
}

impl Connector {
    /// Reads what `url` says about TLS, and the files that it names. Returns the URL without that.
    ///
    /// # Errors
    /// When a parameter or a file is not as it must be. The message names it.
    pub(super) fn of_url(url: &str) -> Result<(String, Self), StoreError> {
        let (url, parameters) = take_parameters(url)?;
        let (mode, config) = client_config(&parameters)?;
        Ok((url, Self { mode, tls: MakeRustlsConnect::new(config), runtime: Handle::try_current().ok() }))
    }

    /// Asks the server to give up the statement that runs on a connection, over a connection of its own.
    pub(super) async fn cancel(&self, token: &CancelToken) -> Result<(), Error> {
        token.cancel_query(self.tls.clone()).await
    }

    /// Where connections live.
    pub(super) fn runtime(&self) -> Option<Handle> {
        self.runtime.clone()
    }

    fn attempts(&self, config: &Config) -> (SslMode, Option<SslMode>) {
        let is_local = |host: &Host| match host {
            Host::Tcp(_) => false,
            #[cfg(unix)]
            Host::Unix(_) => true,
        };
        let mode = if config.get_hosts().iter().all(is_local) { Mode::Disable } else { self.mode };
        mode.attempts()
    }
}

type Connected = Result<(Client, JoinHandle<()>), Error>;

impl Connect for Connector {
    fn connect(&self, config: &Config) -> Pin<Box<dyn Future<Output = Connected> + Send + '_>> {
        let mut config = config.clone();
        // The driver takes the name for TLS from the hosts alone.
        if config.get_hosts().is_empty() {
            for address in config.get_hostaddrs().to_vec() {
                config.host(address.to_string());
            }
        }
        Box::pin(async move {
            if let Some(runtime) = &self.runtime {
                let connecting = runtime.spawn(self_trace::inherit(self.clone().attempt(config.clone())));
                if let Ok(connected) = AbortOnDropHandle::new(connecting).await {
                    return connected;
                }
                // It was shut down; this one was not.
            }
            self.clone().attempt(config).await
        })
    }
}

impl Connector {
    async fn attempt(self, mut config: Config) -> Connected {
        let (first, second) = self.attempts(&config);
        match (self.establish(config.ssl_mode(first)).await, second) {
            (Err(error), Some(second)) if is_reason_to_try_otherwise(&error) => {
                tracing::debug!(%error, "connecting another way");
                let outcome = self.establish(config.ssl_mode(second)).await;
                // What was wrong with TLS tells more than what is wrong without.
                if second == SslMode::Disable { outcome.map_err(|_| error) } else { outcome }
            }
            (outcome, _) => outcome,
        }
    }

    async fn establish(&self, config: &Config) -> Connected {
        let (client, connection) = config.connect(self.tls.clone()).await?;
        let driver = async move {
            if let Err(error) = connection.await {
                tracing::warn!(%error, "a connection to the database broke");
            }
        };
        // It serves one caller after another: what it has to say belongs to none of them.
        Ok((client, self_trace::without_telemetry(|| tokio::spawn(self_trace::inherit(driver)))))
    }
}

/// A failed handshake, or a server that lets nobody in this way (`hostssl` and `hostnossl` in its pg_hba.conf).
fn is_reason_to_try_otherwise(error: &Error) -> bool {
    is_handshake(error) || error.code() == Some(&SqlState::INVALID_AUTHORIZATION_SPECIFICATION)
}

fn is_handshake(error: &Error) -> bool {
    error.to_string().starts_with(HANDSHAKE_FAILED)
}

/// What is wrong between the server's TLS and ours, if that is what is wrong. Time does not mend it.
pub(super) fn explain(error: &PoolError) -> Option<StoreError> {
    let PoolError::Backend(error) = error else { return None };
    if !is_handshake(error) {
        return None;
    }
    let source = error.source()?;
    if source.to_string() == NO_TLS {
        return Some(StoreError::misconfigured(
            "the server does not support TLS, and sslmode in the database URL requires it",
        ));
    }
    match rustls_error(source)? {
        rustls::Error::InvalidCertificate(error) if is_unknown(error) => Some(StoreError::misconfigured(
            "TLS: the certificate of the server is unknown: it is not in sslrootcert, and no authority there has signed it",
        )),
        rustls::Error::InvalidCertificate(error) => {
            Some(StoreError::misconfigured(format!("TLS: the certificate of the server is not accepted: {error}")))
        }
        error => Some(StoreError::misconfigured(format!("TLS to the server failed: {error}"))),
    }
}

fn is_unknown(error: &CertificateError) -> bool {
    match error {
        // The signature is bad when an authority of that name has another key.
        CertificateError::UnknownIssuer | CertificateError::BadSignature => true,
        // One that signed itself, as those of `openssl req -x509`, calls itself an authority.
        CertificateError::Other(other) => other.0.to_string() == "CaUsedAsEndEntity",
        _ => false,
    }
}

fn rustls_error<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a rustls::Error> {
    if let Some(found) = error.downcast_ref() {
        return Some(found);
    }
    // An io::Error hands its content out by another way than `source`.
    let inner = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
    match inner {
        Some(inner) => rustls_error(inner),
        None => rustls_error(error.source()?),
    }
}

fn client_config(parameters: &Parameters) -> Result<(Mode, ClientConfig), StoreError> {
    let is_system = parameters.root_cert.as_deref() == Some("system");
    let mode = match &parameters.mode {
        Some(text) => Mode::parse(text)?,
        None if is_system => Mode::VerifyFull,
        None => Mode::Prefer,
    };
    if is_system && mode != Mode::VerifyFull && mode != Mode::Disable {
        return Err(StoreError::misconfigured(
            "database URL: sslrootcert=system needs sslmode=verify-full: anybody can have a certificate of a public \
             authority for some name",
        ));
    }
    let trust = match &parameters.root_cert {
        _ if mode == Mode::Disable => None,
        Some(_) if is_system => Some(system_roots()?),
        Some(path) => Some(certificates("sslrootcert", Path::new(path))?),
        None if mode >= Mode::VerifyCa => {
            return Err(StoreError::misconfigured(
                "database URL: sslmode=verify-ca and verify-full need sslrootcert: a file with the certificates of the \
                 authorities to trust, or (verify-full only) `system` for those of this machine",
            ));
        }
        None => None,
    };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = Verifier {
        roots: trust.as_deref().map(roots).transpose()?,
        pinned: trust.unwrap_or_default(),
        checks_name: mode == Mode::VerifyFull,
        provider: Arc::clone(&provider),
    };
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| StoreError::misconfigured(format!("TLS: {error}")))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let mut config = match (&parameters.cert, &parameters.key) {
        _ if mode == Mode::Disable => builder.with_no_client_auth(),
        (None, None) => builder.with_no_client_auth(),
        (Some(cert), Some(key)) => {
            let chain = certificates("sslcert", Path::new(cert))?;
            let private = private_key(Path::new(key))?;
            builder.with_client_auth_cert(chain, private).map_err(|error| {
                StoreError::misconfigured(format!(
                    "database URL: the key in sslkey ({key}) cannot be used with the certificate in sslcert ({cert}): \
                     {error}"
                ))
            })?
        }
        (Some(_), None) => {
            return Err(StoreError::misconfigured("database URL: sslcert needs sslkey, which is missing"));
        }
        (None, Some(_)) => {
            return Err(StoreError::misconfigured("database URL: sslkey needs sslcert, which is missing"));
        }
    };
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok((mode, config))
}

fn certificates(parameter: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>, StoreError> {
    let fail =
        |reason: String| StoreError::misconfigured(format!("database URL: {parameter}: {}: {reason}", path.display()));
    let text = std::fs::read(path).map_err(|error| fail(error.to_string()))?;
    let certificates: Vec<_> =
        CertificateDer::pem_slice_iter(&text).collect::<Result<_, _>>().map_err(|error| fail(error.to_string()))?;
    if certificates.is_empty() {
        return Err(fail("it has no certificate in PEM".to_owned()));
    }
    Ok(certificates)
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, StoreError> {
    let fail =
        |reason: String| StoreError::misconfigured(format!("database URL: sslkey: {}: {reason}", path.display()));
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt as _;
        let about = std::fs::metadata(path).map_err(|error| fail(error.to_string()))?;
        // As libpq has it: a key of root may be read by a group.
        let forbidden = if about.uid() == 0 { 0o037 } else { 0o077 };
        if about.mode() & forbidden != 0 {
            return Err(fail(format!(
                "others can use this key (mode {:o}); run chmod 600 on it",
                about.mode() & 0o777
            )));
        }
    }
    PrivateKeyDer::from_pem_file(path).map_err(|error| match error {
        rustls::pki_types::pem::Error::NoItemsFound => fail("it has no unencrypted private key in PEM".to_owned()),
        other => fail(other.to_string()),
    })
}

fn system_roots() -> Result<Vec<CertificateDer<'static>>, StoreError> {
    let found = rustls_native_certs::load_native_certs();
    if found.certs.is_empty() {
        let reasons: Vec<String> = found.errors.iter().map(ToString::to_string).collect();
        return Err(StoreError::misconfigured(format!(
            "database URL: sslrootcert=system: this machine has no certificates of authorities: {}",
            reasons.join("; ")
        )));
    }
    Ok(found.certs)
}

fn roots(trusted: &[CertificateDer<'static>]) -> Result<RootCertStore, StoreError> {
    let mut roots = RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(trusted.iter().cloned());
    if added == 0 {
        return Err(StoreError::misconfigured("database URL: sslrootcert has no certificate that can be read"));
    }
    Ok(roots)
}

/// Checks a server's certificate as far as the mode asks for it.
#[derive(Debug)]
struct Verifier {
    /// None: any certificate will do.
    roots: Option<RootCertStore>,
    /// A server may show one of the trusted certificates itself. That is how self-signed ones are used, and webpki would
    /// not have it.
    pinned: Vec<CertificateDer<'static>>,
    checks_name: bool,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let Some(roots) = &self.roots else { return Ok(ServerCertVerified::assertion()) };
        let parsed = ParsedCertificate::try_from(end_entity)?;
        if self.pinned.iter().any(|trusted| trusted == end_entity) {
            check_validity(end_entity, now)?;
        } else {
            let algorithms = self.provider.signature_verification_algorithms.all;
            verify_server_cert_signed_by_trust_anchor(&parsed, roots, intermediates, now, algorithms)?;
        }
        if self.checks_name {
            check_name(end_entity, &parsed, server_name)?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

fn parse(certificate: &CertificateDer<'_>) -> Result<x509_cert::Certificate, rustls::Error> {
    x509_cert::Certificate::from_der(certificate).map_err(|_| CertificateError::BadEncoding.into())
}

fn check_validity(certificate: &CertificateDer<'_>, now: UnixTime) -> Result<(), rustls::Error> {
    let validity = parse(certificate)?.tbs_certificate.validity;
    let unix =
        |time: SystemTime| UnixTime::since_unix_epoch(time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default());
    let (not_before, not_after) =
        (unix(validity.not_before.to_system_time()), unix(validity.not_after.to_system_time()));
    if now < not_before {
        return Err(CertificateError::NotValidYetContext { time: now, not_before }.into());
    }
    if now > not_after {
        return Err(CertificateError::ExpiredContext { time: now, not_after }.into());
    }
    Ok(())
}

/// The name must be among the alternative names of the certificate; without any, its common name counts.
fn check_name(
    certificate: &CertificateDer<'_>,
    parsed: &ParsedCertificate<'_>,
    name: &ServerName<'_>,
) -> Result<(), rustls::Error> {
    let Err(error) = verify_server_name(parsed, name) else { return Ok(()) };
    let content = parse(certificate)?.tbs_certificate;
    let extensions = content.extensions.unwrap_or_default();
    if extensions.iter().any(|extension| extension.extn_id == rfc5280::ID_CE_SUBJECT_ALT_NAME) {
        return Err(error);
    }
    let parts = content.subject.0.iter().flat_map(|part| part.0.iter());
    let common_names: Vec<String> =
        parts.filter(|part| part.oid == rfc4519::COMMON_NAME).filter_map(|part| text(&part.value)).collect();
    if common_names.iter().any(|common| covers(common, &name.to_str())) {
        return Ok(());
    }
    Err(CertificateError::NotValidForNameContext { expected: name.to_owned(), presented: common_names }.into())
}

fn text(value: &x509_cert::attr::AttributeValue) -> Option<String> {
    let utf8 = value.decode_as::<Utf8StringRef<'_>>().map(|text| text.as_str().to_owned());
    let printable = || value.decode_as::<PrintableStringRef<'_>>().map(|text| text.as_str().to_owned());
    let teletex = || value.decode_as::<TeletexStringRef<'_>>().map(|text| text.as_str().to_owned());
    let ia5 = || value.decode_as::<Ia5StringRef<'_>>().map(|text| text.as_str().to_owned());
    utf8.or_else(|_| printable()).or_else(|_| teletex()).or_else(|_| ia5()).ok()
}

/// Whether a common name is that of a host. A star stands for one label at the beginning.
fn covers(common: &str, host: &str) -> bool {
    match common.strip_prefix("*.") {
        Some(domain) => {
            host.split_once('.').is_some_and(|(label, rest)| !label.is_empty() && rest.eq_ignore_ascii_case(domain))
        }
        None => common.eq_ignore_ascii_case(host),
    }
}

#[cfg(test)]
mod tests;
