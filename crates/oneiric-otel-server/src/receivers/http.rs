//! OTLP/HTTP: `POST /v1/traces`, `/v1/metrics`, `/v1/logs`, in protobuf or JSON.

use std::error::Error as StdError;
use std::io::Write as _;

use bytes::Bytes;
use flate2::write::GzEncoder;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use hyper::Response;
use hyper::body::{Body, Incoming};
use oneiric_otel::otlp::{Encoding, Signal};
use tracing::Instrument as _;

use super::Receiver;
use super::admission::Reservation;
use super::body::{BodyLimits, BodyReader, decompress};
use super::compression::Compression;
use super::reply::Reply;
use super::spans;
use super::status::{Failure, write_accepted};

const PROTOBUF: HeaderValue = HeaderValue::from_static("application/x-protobuf");
const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// A shorter response is not worth compressing.
const MIN_COMPRESSED_BYTES: usize = 1024;

/// Answers a request. Errors carry a `google.rpc.Status` in the encoding of the request, or in JSON when that is not
/// known.
pub(super) async fn respond(receiver: &Receiver, head: &Parts, incoming: &mut Incoming) -> Response<Reply> {
    let encoding = encoding(&head.headers);
    match export(receiver, head, encoding.clone(), incoming).await {
        Ok(message) => {
            let encoding = encoding.unwrap_or(Encoding::Json);
            reply(StatusCode::OK, content_type(encoding), message, &head.headers)
        }
        Err(failure) => refuse(head, &failure),
    }
}

fn content_type(encoding: Encoding) -> HeaderValue {
    match encoding {
        Encoding::Protobuf => PROTOBUF,
        Encoding::Json => JSON,
    }
}

/// Answers a request with a failure.
pub(super) fn refuse(head: &Parts, failure: &Failure) -> Response<Reply> {
    tracing::debug!(path = head.uri.path(), %failure, "HTTP request failed");
    let encoding = encoding(&head.headers).unwrap_or(Encoding::Json);
    let content_type = content_type(encoding);
    let mut response = reply(failure.http_status(), content_type, failure.http_body(encoding), &head.headers);
    let headers = response.headers_mut();
    if let Some(seconds) = failure.retry_after_seconds() {
        headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    match failure {
        Failure::WrongMethod { .. } => {
            headers.insert(header::ALLOW, HeaderValue::from_static("POST"));
        }
        Failure::UnknownCompression { .. } => {
            headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static(Compression::ACCEPTED));
        }
        Failure::Unauthenticated { .. } => {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        _ => {}
    }
    response
}

async fn export(
    receiver: &Receiver,
    head: &Parts,
    encoding: Result<Encoding, Failure>,
    incoming: &mut Incoming,
) -> Result<Vec<u8>, Failure> {
    let path = head.uri.path();
    let signal = signal(path)?;
    if head.method != Method::POST {
        return Err(Failure::WrongMethod { method: head.method.to_string(), path: path.to_owned() });
    }
    let encoding = encoding?;
    let span = spans::http(path, signal);
    let receive = async {
        let (message, reservation) = read_body(&head.headers, incoming, &receiver.limits).await?;
        spans::received(&span, message.len());
        receiver.submit(signal, encoding, message, reservation).await
    };
    let outcome = receive.instrument(span.clone()).await;
    spans::conclude(&span, &outcome);
    Ok(write_accepted(&outcome?, signal, encoding))
}

/// Reads the body of a request, decompressed.
pub(super) async fn read_body<B>(
    headers: &HeaderMap,
    incoming: &mut B,
    limits: &BodyLimits,
) -> Result<(Bytes, Reservation), Failure>
where
    B: Body<Data = Bytes, Error: Into<Box<dyn StdError + Send + Sync>>> + Unpin,
{
    let compression = compression(headers)?;
    let declared = incoming.size_hint().exact();
    let mut reader = BodyReader::new(incoming, limits, compression, 0);
    if let Some(bytes) = declared {
        reader.expect(bytes)?;
    }
    let (body, reservation) = reader.finish().await?;
    decompress(body, compression, reservation, limits).await
}

fn signal(path: &str) -> Result<Signal, Failure> {
    match path {
        "/v1/traces" => Ok(Signal::Traces),
        "/v1/metrics" => Ok(Signal::Metrics),
        "/v1/logs" => Ok(Signal::Logs),
        _ => Err(Failure::UnknownPath {
            path: path.to_owned(),
            accepted: "OTLP is accepted at /v1/traces, /v1/metrics and /v1/logs",
        }),
    }
}

/// The encoding that the content type names; its parameters, such as `charset`, change nothing.
fn encoding(headers: &HeaderMap) -> Result<Encoding, Failure> {
    let given = headers.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
    let given = String::from_utf8_lossy(given);
    let media_type = given.split(';').next().unwrap_or_default().trim();
    if media_type.eq_ignore_ascii_case("application/x-protobuf") {
        Ok(Encoding::Protobuf)
    } else if media_type.eq_ignore_ascii_case("application/json") {
        Ok(Encoding::Json)
    } else {
        Err(Failure::UnknownContentType { given: given.into_owned() })
    }
}

fn compression(headers: &HeaderMap) -> Result<Compression, Failure> {
    let Some(given) = headers.get(header::CONTENT_ENCODING) else { return Ok(Compression::Identity) };
    let given = String::from_utf8_lossy(given.as_bytes());
    Compression::from_name(&given).ok_or_else(|| Failure::UnknownCompression { given: given.into_owned() })
}

fn reply(status: StatusCode, content_type: HeaderValue, body: Vec<u8>, request: &HeaderMap) -> Response<Reply> {
    let compressed = if body.len() >= MIN_COMPRESSED_BYTES && accepts_gzip(request) { gzip(&body) } else { None };
    let is_compressed = compressed.is_some();
    let mut response = Response::new(Reply::new(compressed.unwrap_or(body), None));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, content_type);
    if is_compressed {
        headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    response
}

/// `None` when it cannot be done, or does not make it shorter.
fn gzip(body: &[u8]) -> Option<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(body).ok()?;
    encoder.finish().ok().filter(|compressed| compressed.len() < body.len())
}

/// Whether `Accept-Encoding` names gzip without ruling it out by `q=0`.
fn accepts_gzip(headers: &HeaderMap) -> bool {
    headers.get_all(header::ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok()).any(|value| {
        value.split(',').any(|item| {
            let mut parts = item.split(';').map(str::trim);
            let is_gzip = parts.next().is_some_and(|name| name.eq_ignore_ascii_case("gzip"));
            let weight = parts.find_map(|part| part.strip_prefix("q=")).map_or(Ok(1.0), str::parse::<f32>);
            is_gzip && weight.is_ok_and(|weight| weight > 0.0)
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(name: header::HeaderName, value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(name, HeaderValue::from_static(value))])
    }

    #[test]
    fn the_content_type_may_have_parameters_and_any_case() {
        let read = |value| encoding(&with(header::CONTENT_TYPE, value)).ok();
        assert_eq!(read("application/json"), Some(Encoding::Json));
        assert_eq!(read("Application/JSON; charset=utf-8"), Some(Encoding::Json));
        assert_eq!(read("application/x-protobuf ;v=1"), Some(Encoding::Protobuf));
        assert_eq!(read("application/x-ndjson"), None);
        assert_eq!(read(""), None);
        let text = encoding(&HeaderMap::new()).expect_err("no content type").to_string();
        assert!(text.contains("application/x-protobuf") && text.contains("application/json"), "{text}");
    }

    #[test]
    fn gzip_is_sent_to_those_who_take_it() {
        let takes = |value| accepts_gzip(&with(header::ACCEPT_ENCODING, value));
        assert!(takes("gzip") && takes("br, GZIP;q=0.5") && takes("deflate,gzip"));
        assert!(!takes("br") && !takes("gzip;q=0") && !takes("gzip; q=0.000") && !takes("") && !takes("xgzip"));
        assert!(!accepts_gzip(&HeaderMap::new()));
    }
}
