//! OTLP/gRPC: the three `Export` calls.
//!
//! A unary call is one framed message each way, so it is read here directly. The server side of tonic was weighed: it
//! answers OUT_OF_RANGE to a message over the limit, which OTLP senders send again for ever, decompresses on the
//! serving thread, sets memory aside on the word of a five-byte frame, and decodes a message whole.

use std::error::Error as StdError;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, header};
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

const CONTENT_TYPE: HeaderValue = HeaderValue::from_static("application/grpc");
const ENCODING: &str = "grpc-encoding";
const ACCEPT_ENCODING: &str = "grpc-accept-encoding";
const STATUS: &str = "grpc-status";

/// Before each message: one byte that says whether it is compressed, four bytes of length.
const FRAME_HEADER_BYTES: usize = 5;

/// Whether a content type is of gRPC, whatever the format of its messages. gRPC-Web is another protocol.
pub(super) fn is_grpc(content_type: &[u8]) -> bool {
    let rest = content_type.strip_prefix(b"application/grpc");
    rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';' | b' ')))
}

/// Answers a call. gRPC errors are HTTP 200 with a status in headers.
pub(super) async fn respond(receiver: &Receiver, head: &Parts, incoming: &mut Incoming) -> Response<Reply> {
    match export(receiver, head, incoming).await {
        Ok(message) => {
            let mut trailers = HeaderMap::new();
            trailers.insert(STATUS, HeaderValue::from_static("0"));
            let mut response = Response::new(Reply::new(frame(&message), Some(trailers)));
            response.headers_mut().insert(header::CONTENT_TYPE, CONTENT_TYPE);
            response
        }
        Err(failure) => refuse(head, &failure),
    }
}

/// Answers a call with a failure.
pub(super) fn refuse(head: &Parts, failure: &Failure) -> Response<Reply> {
    tracing::debug!(path = head.uri.path(), %failure, "gRPC call failed");
    let mut response: Response<Reply> = failure.grpc().into_http();
    if matches!(failure, Failure::UnknownCompression { .. }) {
        let accepted = HeaderValue::from_static(Compression::ACCEPTED);
        response.headers_mut().insert(ACCEPT_ENCODING, accepted);
    }
    response
}

async fn export(receiver: &Receiver, head: &Parts, incoming: &mut Incoming) -> Result<Vec<u8>, Failure> {
    let path = head.uri.path();
    let signal = signal(path)?;
    if head.method != Method::POST {
        return Err(Failure::WrongMethod { method: head.method.to_string(), path: path.to_owned() });
    }
    let content_type = head.headers.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes);
    check_content_type(content_type.unwrap_or_default())?;
    let span = spans::grpc(path, signal);
    let receive = async {
        let (message, reservation) = read_message(&head.headers, incoming, &receiver.limits).await?;
        spans::received(&span, message.len());
        receiver.submit(signal, Encoding::Protobuf, message, reservation).await
    };
    let outcome = receive.instrument(span.clone()).await;
    spans::conclude(&span, &outcome);
    Ok(write_accepted(&outcome?, signal, Encoding::Protobuf))
}

/// Reads the one message of a call, decompressed.
pub(super) async fn read_message<B>(
    headers: &HeaderMap,
    incoming: &mut B,
    limits: &BodyLimits,
) -> Result<(Bytes, Reservation), Failure>
where
    B: Body<Data = Bytes, Error: Into<Box<dyn StdError + Send + Sync>>> + Unpin,
{
    let compression = compression(headers)?;
    let mut reader = BodyReader::new(incoming, limits, compression, FRAME_HEADER_BYTES);
    let mut start = reader.fill(FRAME_HEADER_BYTES).await?;
    if start.len() < FRAME_HEADER_BYTES {
        return Err(Failure::malformed("the call ends without a message"));
    }
    let flag = start.get_u8();
    let length = start.get_u32() as usize;
    let compression = match flag {
        0 => Compression::Identity,
        1 if compression == Compression::Identity => {
            return Err(Failure::malformed("the message is flagged as compressed, but grpc-encoding is not given"));
        }
        1 => compression,
        other => return Err(Failure::malformed(format!("compression flag {other}: expected 0 or 1"))),
    };
    if length > limits.max_bytes {
        return Err(Failure::TooLarge { max_bytes: limits.max_bytes, decompressed: false });
    }
    reader.expect((FRAME_HEADER_BYTES + length) as u64)?;
    let (mut framed, reservation) = reader.finish().await?;
    framed.advance(FRAME_HEADER_BYTES);
    if framed.len() != length {
        return Err(Failure::malformed(format!(
            "the call carries {} bytes after its frame header, which announces one message of {length}",
            framed.len()
        )));
    }
    decompress(framed, compression, reservation, limits).await
}

fn signal(path: &str) -> Result<Signal, Failure> {
    match path {
        "/opentelemetry.proto.collector.trace.v1.TraceService/Export" => Ok(Signal::Traces),
        "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export" => Ok(Signal::Metrics),
        "/opentelemetry.proto.collector.logs.v1.LogsService/Export" => Ok(Signal::Logs),
        _ => Err(Failure::UnknownPath {
            path: path.to_owned(),
            accepted: "served are Export of the OTLP services for traces, metrics and logs, version 1",
        }),
    }
}

/// `application/grpc`, with `+proto` or nothing after it: no other format of messages is read here.
fn check_content_type(given: &[u8]) -> Result<(), Failure> {
    let given = String::from_utf8_lossy(given);
    let media_type = given.split(';').next().unwrap_or_default().trim_end();
    if matches!(media_type, "application/grpc" | "application/grpc+proto") {
        return Ok(());
    }
    Err(Failure::UnknownContentType { given: given.into_owned() })
}

fn compression(headers: &HeaderMap) -> Result<Compression, Failure> {
    let Some(given) = headers.get(ENCODING) else { return Ok(Compression::Identity) };
    let given = String::from_utf8_lossy(given.as_bytes());
    Compression::from_name(&given).ok_or_else(|| Failure::UnknownCompression { given: given.into_owned() })
}

fn frame(message: &[u8]) -> Bytes {
    let length = u32::try_from(message.len()).expect("responses are bounded to 4 MiB");
    let mut framed = BytesMut::with_capacity(FRAME_HEADER_BYTES + message.len());
    framed.put_u8(0);
    framed.put_u32(length);
    framed.put_slice(message);
    framed.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_types_of_grpc_are_told_from_others() {
        for grpc in ["application/grpc", "application/grpc+proto", "application/grpc+json", "application/grpc; x=y"] {
            assert!(is_grpc(grpc.as_bytes()), "{grpc}");
        }
        for other in ["application/grpc-web", "application/grpc-web+proto", "application/json", ""] {
            assert!(!is_grpc(other.as_bytes()), "{other}");
        }
        assert!(check_content_type(b"application/grpc+proto").is_ok());
        assert!(check_content_type(b"application/grpc+json").is_err());
    }
}
