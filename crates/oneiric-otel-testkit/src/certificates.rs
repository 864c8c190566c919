//! Certificates for tests: authorities that exist for one test, and what they sign. Files are for their owner alone.

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};
use tempfile::TempDir;

/// Signs certificates that live in a directory of its own.
#[derive(Debug)]
pub struct Authority {
    dir: TempDir,
    issuer: CertifiedIssuer<'static, KeyPair>,
    /// Its own certificate, in PEM.
    pub certificate: PathBuf,
}

/// A certificate and its key, as files in PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pair {
    /// The certificate.
    pub certificate: PathBuf,
    /// The private key, with mode 0600.
    pub key: PathBuf,
}

/// What a certificate is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// A server, now.
    Server,
    /// A server, in 2020.
    ExpiredServer,
    /// A client.
    Client,
}

impl Authority {
    /// A new one, which nobody trusts yet.
    ///
    /// # Errors
    /// When there is no place for its files.
    pub fn new() -> Result<Self> {
        let dir = tempfile::tempdir().context("make a directory for certificates")?;
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "oneiric-otel test authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        let certificate = write(dir.path(), "authority.pem", &issuer.pem())?;
        Ok(Self { dir, issuer, certificate })
    }

    /// Signs a certificate for these host names and addresses. `file` names its files.
    ///
    /// # Errors
    /// When a name is none.
    pub fn issue(&self, file: &str, purpose: Purpose, names: &[&str]) -> Result<Pair> {
        let key = KeyPair::generate()?;
        let certificate = params(purpose, names)?.signed_by(&key, &self.issuer)?;
        self.write(file, &certificate.pem(), &key)
    }

    /// A certificate that signed itself, is an authority as those of `openssl req -x509` are, and has this common name
    /// and no other.
    ///
    /// # Errors
    /// When there is no place for its files.
    pub fn self_signed(&self, file: &str, common_name: &str) -> Result<Pair> {
        let key = KeyPair::generate()?;
        let mut params = params(Purpose::Server, &[])?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, common_name);
        self.write(file, &params.self_signed(&key)?.pem(), &key)
    }

    /// A path in the directory of the files.
    pub fn path(&self, file: &str) -> PathBuf {
        self.dir.path().join(file)
    }

    fn write(&self, file: &str, certificate: &str, key: &KeyPair) -> Result<Pair> {
        let dir = self.dir.path();
        Ok(Pair {
            certificate: write(dir, &format!("{file}.pem"), certificate)?,
            key: write(dir, &format!("{file}.key"), &key.serialize_pem())?,
        })
    }
}

fn params(purpose: Purpose, names: &[&str]) -> Result<CertificateParams> {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(names)?;
    params.extended_key_usages = vec![match purpose {
        Purpose::Server | Purpose::ExpiredServer => ExtendedKeyUsagePurpose::ServerAuth,
        Purpose::Client => ExtendedKeyUsagePurpose::ClientAuth,
    }];
    if purpose == Purpose::ExpiredServer {
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(2020, 12, 31);
    }
    Ok(params)
}

fn write(dir: &Path, name: &str, text: &str) -> Result<PathBuf> {
    let path = dir.join(name);
    let mut options = std::fs::OpenOptions::new();
    let mut file = options.write(true).create_new(true).mode(0o600).open(&path)?;
    file.write_all(text.as_bytes()).with_context(|| format!("write {}", path.display()))?;
    Ok(path)
}
