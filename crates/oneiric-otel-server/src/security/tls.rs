//! TLS of the listeners: from files to a configuration, and from a connection to an encrypted one.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{InconsistentKeys, RootCertStore, ServerConfig};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use x509_cert::der::Decode as _;

use super::file;
use crate::ServerError;

const CERTIFICATE: &str = "TLS certificate";
const KEY: &str = "TLS key";
const CLIENT_CA: &str = "TLS client CA";

/// What a client that speaks HTTP without TLS is told. Clients of HTTP/2 find no HTTP/2 in it and end too.
const PLAIN_ANSWER: &[u8] = b"HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain\r\nconnection: close\r\n\
    content-length: 33\r\n\r\nThis port speaks TLS: use https.\n";

/// How long, and how many bytes, such a client is listened to so that it gets to read that.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES: u64 = 1 << 20;

/// The files of a server that speaks TLS, all in PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The server's certificate and after it those that lead to its authority.
    pub certificate: PathBuf,
    /// The private key of that certificate. Nobody but its owner may change it, nobody but owner and group read it.
    pub key: PathBuf,
    /// Certificates of authorities. With them every client must show a certificate that one of them has signed.
    pub client_ca: Option<PathBuf>,
}

impl TlsFiles {
    /// Reads the files, TLS 1.2 or newer.
    pub(super) fn load(&self) -> Result<Arc<ServerConfig>, ServerError> {
        let chain = certificates(CERTIFICATE, &self.certificate)?;
        warn_of_dates(&self.certificate, &chain[0]);
        let key = self.private_key()?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| ServerError::Security(format!("TLS: {error}")))?;
        let builder = match &self.client_ca {
            None => builder.with_no_client_auth(),
            Some(path) => {
                let mut roots = RootCertStore::empty();
                for certificate in certificates(CLIENT_CA, path)? {
                    roots.add(certificate).map_err(|error| file::fail(CLIENT_CA, path, error))?;
                }
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                    .build()
                    .map_err(|error| file::fail(CLIENT_CA, path, error))?;
                builder.with_client_cert_verifier(verifier)
            }
        };
        let mut config = builder.with_single_cert(chain, key).map_err(|error| match error {
            rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => file::fail(
                KEY,
                &self.key,
                format!("it is not the key of the certificate in {}", self.certificate.display()),
            ),
            other => file::fail(CERTIFICATE, &self.certificate, format!("it cannot be used: {other}")),
        })?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }

    fn private_key(&self) -> Result<PrivateKeyDer<'static>, ServerError> {
        let text = file::read_secret(KEY, &self.key)?;
        PrivateKeyDer::from_pem_slice(&text).map_err(|error| {
            let reason = match error {
                pem::Error::NoItemsFound if text.windows(9).any(|window| window == b"ENCRYPTED") => {
                    "it is encrypted; expected a key without a passphrase".to_owned()
                }
                pem::Error::NoItemsFound => "it holds no private key in PEM (-----BEGIN PRIVATE KEY-----)".to_owned(),
                other => format!("it is not PEM: {other}"),
            };
            file::fail(KEY, &self.key, reason)
        })
    }
}

/// At least one.
fn certificates(what: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>, ServerError> {
    let text = file::read(what, path)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    match found {
        Ok(found) if found.is_empty() => {
            Err(file::fail(what, path, "it holds no certificate in PEM (-----BEGIN CERTIFICATE-----)"))
        }
        Ok(found) => Ok(found),
        Err(error) => Err(file::fail(what, path, format!("it is not PEM: {error}"))),
    }
}

/// Clients will refuse it, but others may have reasons to go on with it.
fn warn_of_dates(path: &Path, certificate: &CertificateDer<'_>) {
    // What cannot be read here is refused later.
    let Ok(parsed) = x509_cert::Certificate::from_der(certificate) else { return };
    let validity = parsed.tbs_certificate.validity;
    let now = SystemTime::now();
    if validity.not_after.to_system_time() < now {
        tracing::warn!(certificate = %path.display(), expired = %validity.not_after, "the TLS certificate has expired");
    } else if validity.not_before.to_system_time() > now {
        tracing::warn!(certificate = %path.display(), begins = %validity.not_before, "the TLS certificate is not valid yet");
    }
}

/// How the beginning of a connection went.
pub(crate) enum Handshake {
    /// Encrypted from here on.
    Done(Box<TlsStream<TcpStream>>),
    /// The client speaks without TLS. It has been told.
    Plain,
    /// Neither.
    Failed(io::Error),
}

/// Agrees on TLS with a client. Takes as long as the client does.
pub(crate) async fn shake_hands(stream: TcpStream, config: Arc<ServerConfig>) -> Handshake {
    let mut first = [0];
    match stream.peek(&mut first).await {
        Ok(0) => return Handshake::Failed(io::ErrorKind::UnexpectedEof.into()),
        // The first letter of a method, or of the preface of HTTP/2. No record of TLS begins so.
        Ok(_) if first[0].is_ascii_uppercase() => {
            // Whether it hears us is its own affair.
            drop(say_that_this_is_tls(stream).await);
            return Handshake::Plain;
        }
        Ok(_) => {}
        Err(error) => return Handshake::Failed(error),
    }
    match TlsAcceptor::from(config).accept(stream).await {
        Ok(stream) => Handshake::Done(Box::new(stream)),
        Err(error) => Handshake::Failed(error),
    }
}

/// Reads on for a moment: closing a connection with something unread in it would take the answer away.
async fn say_that_this_is_tls(mut stream: TcpStream) -> io::Result<()> {
    stream.write_all(PLAIN_ANSWER).await?;
    stream.shutdown().await?;
    let mut rest = stream.take(LINGER_BYTES);
    let mut nowhere = tokio::io::sink();
    drop(tokio::time::timeout(LINGER, tokio::io::copy(&mut rest, &mut nowhere)).await);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_plain_answer_is_as_long_as_it_says() {
        let text = std::str::from_utf8(PLAIN_ANSWER).expect("ASCII");
        let (head, body) = text.split_once("\r\n\r\n").expect("a head");
        assert!(head.ends_with(&format!("content-length: {}", body.len())), "{head}");
    }
}
