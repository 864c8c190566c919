//! Where requests are forwarded to: read strictly, shown without secrets.

use std::fmt;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};

use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::uri::PathAndQuery;
use http::{Uri, header};
use percent_encoding::percent_decode_str;

use crate::otlp::Signal;

/// Headers that say how a request is written, which is not the caller's to say.
const RESERVED: [HeaderName; 6] = [
    header::CONTENT_TYPE,
    header::CONTENT_ENCODING,
    header::CONTENT_LENGTH,
    header::HOST,
    header::TE,
    header::TRANSFER_ENCODING,
];

/// What is spoken to an endpoint, named as OpenTelemetry names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// OTLP over HTTP. JSON requests are passed on as JSON.
    HttpProtobuf,
    /// OTLP over gRPC. JSON requests become protobuf.
    Grpc,
}

impl Protocol {
    /// `http/protobuf` or `grpc`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::HttpProtobuf => "http/protobuf",
            Self::Grpc => "grpc",
        }
    }
}

/// Something about an endpoint is not as it must be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{name}: {reason}")]
pub struct EndpointError {
    /// Which part: `endpoint`, `headers` or `ca`.
    pub name: &'static str,
    /// What is accepted.
    pub reason: String,
}

impl EndpointError {
    pub(super) fn new(name: &'static str, reason: impl Into<String>) -> Self {
        Self { name, reason: reason.into() }
    }
}

/// An OTLP endpoint. Shown without its headers, which may be secret.
#[derive(Clone)]
pub struct Endpoint {
    uri: Uri,
    protocol: Protocol,
    headers: HeaderMap,
    ca: Option<PathBuf>,
}

impl Endpoint {
    /// Reads a URL: `http://HOST:PORT` or `https://HOST:PORT`, for HTTP with a path before `/v1/traces` and its like.
    ///
    /// # Errors
    /// [`EndpointError`] for anything else.
    pub fn new(url: &str, protocol: Protocol) -> Result<Self, EndpointError> {
        let accepted = || {
            let reason = "expected http://HOST:PORT or https://HOST:PORT, with a path for http/protobuf only";
            EndpointError::new("endpoint", reason)
        };
        let uri: Uri = url.parse().map_err(|_| accepted())?;
        let authority = uri.authority().ok_or_else(accepted)?;
        if authority.as_str().contains('@') {
            let reason = "a URL with a user or password is not accepted: credentials go into a header";
            return Err(EndpointError::new("endpoint", reason));
        }
        let is_known = matches!(uri.scheme_str(), Some("http" | "https"));
        let has_path = uri.path() != "/" && !uri.path().is_empty();
        if !is_known || authority.host().is_empty() || uri.query().is_some() || url.contains('#') {
            return Err(accepted());
        }
        if authority.as_str() != authority.host() && authority.port_u16().is_none() {
            return Err(accepted());
        }
        if has_path && protocol == Protocol::Grpc {
            return Err(accepted());
        }
        Ok(Self { uri, protocol, headers: HeaderMap::new(), ca: None })
    }

    /// With headers, written `NAME=VALUE,NAME=VALUE` with values percent-encoded, as in `OTEL_EXPORTER_OTLP_HEADERS`.
    ///
    /// # Errors
    /// [`EndpointError`], which does not repeat a value.
    pub fn with_headers(mut self, list: &str) -> Result<Self, EndpointError> {
        let wrong = |reason: String| EndpointError::new("headers", reason);
        for part in list.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let (name, value) = part
                .split_once('=')
                .ok_or_else(|| wrong("expected NAME=VALUE, with commas between several".to_owned()))?;
            let name = name.trim();
            let parsed = HeaderName::from_bytes(name.as_bytes())
                .map_err(|_| wrong(format!("{name:?} cannot name a header: letters, digits and - are accepted")))?;
            if RESERVED.contains(&parsed) || parsed.as_str().starts_with("grpc-") {
                return Err(wrong(format!("{name:?} is set by the protocol: another name is accepted")));
            }
            let value = percent_decode_str(value.trim()).decode_utf8();
            let value =
                value.ok().and_then(|value| HeaderValue::from_str(&value).ok()).filter(|value| value.to_str().is_ok());
            let mut value =
                value.ok_or_else(|| wrong(format!("the value of {name:?} must be visible ASCII, percent-encoded")))?;
            value.set_sensitive(true);
            self.headers.append(parsed, value);
        }
        Ok(self)
    }

    /// Trusts the authorities of this file, in PEM, in place of those of the machine.
    ///
    /// # Errors
    /// [`EndpointError`] for an endpoint without TLS.
    pub fn with_ca(mut self, file: &Path) -> Result<Self, EndpointError> {
        if !self.is_tls() {
            return Err(EndpointError::new("ca", "only an endpoint that begins with https:// shows a certificate"));
        }
        self.ca = Some(file.to_owned());
        Ok(self)
    }

    /// What is spoken.
    pub fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// Whether the endpoint is one of the addresses that this process listens at, as far as that can be seen: what goes
    /// through a proxy or another server and comes back cannot.
    pub async fn leads_to(&self, listening: &[SocketAddr]) -> Option<SocketAddr> {
        let host = self.uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        let port = self.uri.port_u16().unwrap_or(if self.is_tls() { 443 } else { 80 });
        let found: Vec<SocketAddr> = tokio::net::lookup_host((host, port)).await.ok()?.collect();
        listening.iter().copied().find(|listening| found.iter().any(|found| is_same(*found, *listening)))
    }

    pub(super) fn is_tls(&self) -> bool {
        self.uri.scheme_str() == Some("https")
    }

    pub(super) fn ca(&self) -> Option<&Path> {
        self.ca.as_deref()
    }

    pub(super) fn headers(&self) -> &HeaderMap {
        &self.headers
    }

    /// Where everything goes, without the path of a signal.
    pub(super) fn origin(&self) -> &Uri {
        &self.uri
    }

    /// Where a signal goes over HTTP.
    pub(super) fn http_uri(&self, signal: Signal) -> Result<Uri, http::Error> {
        let path = format!("{}/v1/{}", self.uri.path().trim_end_matches('/'), signal.as_str());
        let mut parts = self.uri.clone().into_parts();
        parts.path_and_query = Some(PathAndQuery::try_from(path)?);
        Ok(Uri::from_parts(parts)?)
    }
}

/// The method of a signal's service.
pub(super) fn grpc_path(signal: Signal) -> PathAndQuery {
    PathAndQuery::from_static(match signal {
        Signal::Traces => "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
        Signal::Metrics => "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export",
        Signal::Logs => "/opentelemetry.proto.collector.logs.v1.LogsService/Export",
    })
}

fn is_same(found: SocketAddr, listening: SocketAddr) -> bool {
    let (target, ours) = (found.ip().to_canonical(), listening.ip().to_canonical());
    found.port() == listening.port() && (target == ours || (ours.is_unspecified() && is_of_this_machine(target)))
}

/// A socket can be bound to addresses of this machine alone.
fn is_of_this_machine(address: IpAddr) -> bool {
    address.is_loopback() || address.is_unspecified() || TcpListener::bind((address, 0)).is_ok()
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.uri.to_string().trim_end_matches('/'))
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let headers: Vec<&str> = self.headers.keys().map(HeaderName::as_str).collect();
        f.debug_struct("Endpoint")
            .field("uri", &self.uri)
            .field("protocol", &self.protocol)
            .field("headers", &headers)
            .field("ca", &self.ca)
            .finish()
    }
}
