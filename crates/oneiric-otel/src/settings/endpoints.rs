//! The OTLP endpoints that settings name: of a server that passes on, and of an application.

use std::path::Path;

use super::table::{ForwardProtocol, Settings};
use super::value::Secret;
use crate::forward::{Endpoint, EndpointError, Protocol};

impl Settings {
    /// Where a server passes on what it acknowledges, if anywhere.
    ///
    /// # Errors
    /// With the name of the setting that is wrong. No value is repeated.
    pub fn forward_endpoint(&self) -> Result<Option<Endpoint>, (&'static str, EndpointError)> {
        let names = Names { url: "forward_otlp", headers: "forward_headers", ca: "forward_ca" };
        let (headers, ca) = (self.forward_headers.as_ref(), self.forward_ca.as_deref());
        endpoint(self.forward_otlp.as_deref(), self.forward_protocol, headers, ca, &names)
    }

    /// Where an application sends its telemetry over OTLP, if anywhere.
    ///
    /// # Errors
    /// As [`Self::forward_endpoint`].
    pub fn otlp_endpoint(&self) -> Result<Option<Endpoint>, (&'static str, EndpointError)> {
        let names = Names { url: "otlp.endpoint", headers: "otlp.headers", ca: "otlp.ca" };
        let (headers, ca) = (self.otlp.headers.as_ref(), self.otlp.ca.as_deref());
        endpoint(self.otlp.endpoint.as_deref(), self.otlp.protocol, headers, ca, &names)
    }
}

/// The settings of the parts of an endpoint.
struct Names {
    url: &'static str,
    headers: &'static str,
    ca: &'static str,
}

fn endpoint(
    url: Option<&str>,
    protocol: ForwardProtocol,
    headers: Option<&Secret>,
    ca: Option<&Path>,
    names: &Names,
) -> Result<Option<Endpoint>, (&'static str, EndpointError)> {
    let Some(url) = url else { return Ok(None) };
    let protocol = match protocol {
        ForwardProtocol::HttpProtobuf => Protocol::HttpProtobuf,
        ForwardProtocol::Grpc => Protocol::Grpc,
    };
    let mut endpoint = Endpoint::new(url, protocol).map_err(|error| (names.url, error))?;
    if let Some(headers) = headers {
        endpoint = endpoint.with_headers(headers.expose()).map_err(|error| (names.headers, error))?;
    }
    if let Some(ca) = ca {
        endpoint = endpoint.with_ca(ca).map_err(|error| (names.ca, error))?;
    }
    Ok(Some(endpoint))
}
