//! What every outcome is called in gRPC and in HTTP: the one place that knows.
//!
//! Senders decide by these codes whether to send again, so a wrong one loses data or repeats it for ever. OTLP calls
//! retryable, in gRPC: CANCELLED, DEADLINE_EXCEEDED, ABORTED, OUT_OF_RANGE, UNAVAILABLE, DATA_LOSS, and
//! RESOURCE_EXHAUSTED only with RetryInfo; in HTTP: 429, 502, 503, 504. Only [`Failure::Unavailable`],
//! [`Failure::BodyTimeout`] and [`Failure::BodyTooSlow`] are among them.

use std::time::Duration;

use http::StatusCode;
use oneiric_otel::otlp::{Encoding, Signal};
use oneiric_otel::pipeline::{Accepted, Refused};
use prost::Message;
use serde::Serialize;
use tonic::Code;
use tonic_types::{ErrorDetails, StatusExt as _};

use super::compression::Compression;

/// Bytes of a response. The default limit of gRPC clients.
pub(super) const MAX_RESPONSE_BYTES: usize = 4 << 20;

/// Bytes of a response besides its message, at most.
const FRAME_BYTES: usize = 256;

/// Bytes of the message of a gRPC error. It travels in headers, twice, and peers bound these to a few KiB.
const MAX_GRPC_MESSAGE_BYTES: usize = 1024;

/// When the sender of a body that did not arrive in time should come again.
const RETRY_SLOW_AFTER: Duration = Duration::from_secs(1);

/// Ends a message that was cut.
const CUT: &str = "... (shortened)";

/// Why a request is not answered with success.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Failure {
    #[error("{reason}")]
    Malformed { reason: String },
    #[error("{reason}")]
    Unavailable { reason: String, retry_after: Duration },
    #[error(
        "the request is larger than {max_bytes} bytes{}; send smaller batches",
        if *decompressed { " after decompression" } else { "" }
    )]
    TooLarge { max_bytes: usize, decompressed: bool },
    #[error("the body did not arrive within {} s ({received} bytes did)", after.as_secs_f32())]
    BodyTimeout { after: Duration, received: usize },
    #[error(
        "the body arrives too slowly: less than {least} bytes in {} s ({received} bytes did arrive)",
        within.as_secs_f32()
    )]
    BodyTooSlow { least: usize, within: Duration, received: usize },
    #[error("content type {given:?} is not known here: accepted are application/x-protobuf and application/json")]
    UnknownContentType { given: String },
    #[error("compression {given:?} is not known here: accepted are {}", Compression::ACCEPTED)]
    UnknownCompression { given: String },
    #[error("nothing is served at {path:?}: {accepted}")]
    UnknownPath { path: String, accepted: &'static str },
    #[error("method {method} is not served at {path}: use POST")]
    WrongMethod { method: String, path: String },
    #[error("{}; send the header `authorization: Bearer TOKEN`", if *has_token { "the bearer token is not known here" } else { "a bearer token is needed here" })]
    Unauthenticated { has_token: bool },
    #[error("an error of the server; its log has more")]
    Internal,
}

impl From<Refused> for Failure {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Malformed { reason } => Self::Malformed { reason },
            Refused::Unavailable { reason, retry_after } => Self::Unavailable { reason, retry_after },
        }
    }
}

impl Failure {
    pub(super) fn malformed(reason: impl Into<String>) -> Self {
        Self::Malformed { reason: reason.into() }
    }

    /// Its code, which is both the gRPC status and `google.rpc.Status.code` in HTTP bodies.
    pub(super) fn code(&self) -> Code {
        match self {
            Self::Malformed { .. } | Self::UnknownContentType { .. } => Code::InvalidArgument,
            Self::Unavailable { .. } => Code::Unavailable,
            Self::TooLarge { .. } => Code::ResourceExhausted,
            Self::BodyTimeout { .. } | Self::BodyTooSlow { .. } => Code::DeadlineExceeded,
            Self::UnknownCompression { .. } | Self::UnknownPath { .. } | Self::WrongMethod { .. } => {
                Code::Unimplemented
            }
            Self::Unauthenticated { .. } => Code::Unauthenticated,
            Self::Internal => Code::Internal,
        }
    }

    pub(super) fn http_status(&self) -> StatusCode {
        match self {
            Self::Malformed { .. } => StatusCode::BAD_REQUEST,
            // 408 would say it better, but senders of OTLP do not send again after it.
            Self::Unavailable { .. } | Self::BodyTimeout { .. } | Self::BodyTooSlow { .. } => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Self::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::UnknownContentType { .. } | Self::UnknownCompression { .. } => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::UnknownPath { .. } => StatusCode::NOT_FOUND,
            Self::WrongMethod { .. } => StatusCode::METHOD_NOT_ALLOWED,
            Self::Unauthenticated { .. } => StatusCode::UNAUTHORIZED,
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// `Retry-After` in whole seconds, rounded up so that nobody comes too early.
    pub(super) fn retry_after_seconds(&self) -> Option<u64> {
        let retry_after = match self {
            Self::Unavailable { retry_after, .. } => *retry_after,
            Self::BodyTimeout { .. } | Self::BodyTooSlow { .. } => RETRY_SLOW_AFTER,
            _ => return None,
        };
        Some((retry_after.as_secs() + u64::from(retry_after.subsec_nanos() > 0)).max(1))
    }

    /// As a gRPC status with `google.rpc.Status` in its details.
    pub(super) fn grpc(&self) -> tonic::Status {
        self.status(MAX_GRPC_MESSAGE_BYTES)
    }

    /// As the body of an HTTP response: a `google.rpc.Status`.
    pub(super) fn http_body(&self, encoding: Encoding) -> Vec<u8> {
        // The message stands in it twice, as message and as the violation, and JSON may escape it.
        let room = (MAX_RESPONSE_BYTES - FRAME_BYTES) / 2;
        match encoding {
            Encoding::Protobuf => self.status(room).details().to_vec(),
            Encoding::Json => {
                let message = shorten_json(&self.to_string(), room);
                let details = self.json_details(&message);
                write_json(&JsonStatus { code: self.code() as i32, message: &message, details })
            }
        }
    }

    fn status(&self, room: usize) -> tonic::Status {
        let message = shorten(&self.to_string(), room, char::len_utf8);
        let details = match self {
            Self::Malformed { .. } => ErrorDetails::with_bad_request_violation("body", message.clone()),
            Self::Unavailable { retry_after, .. } => ErrorDetails::with_retry_info(Some(*retry_after)),
            _ => ErrorDetails::new(),
        };
        tonic::Status::with_error_details(self.code(), message, details)
    }

    fn json_details<'a>(&self, message: &'a str) -> Vec<JsonDetail<'a>> {
        match self {
            Self::Malformed { .. } => vec![JsonDetail::BadRequest {
                field_violations: [JsonViolation { field: "body", description: message }],
            }],
            Self::Unavailable { retry_after, .. } => {
                let (seconds, nanoseconds) = (retry_after.as_secs(), retry_after.subsec_nanos());
                let retry_delay =
                    if nanoseconds == 0 { format!("{seconds}s") } else { format!("{seconds}.{nanoseconds:09}s") };
                vec![JsonDetail::RetryInfo { retry_delay }]
            }
            _ => Vec::new(),
        }
    }
}

#[derive(Serialize)]
struct JsonStatus<'a> {
    code: i32,
    message: &'a str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    details: Vec<JsonDetail<'a>>,
}

#[derive(Serialize)]
#[serde(tag = "@type", rename_all_fields = "camelCase")]
enum JsonDetail<'a> {
    #[serde(rename = "type.googleapis.com/google.rpc.BadRequest")]
    BadRequest { field_violations: [JsonViolation<'a>; 1] },
    #[serde(rename = "type.googleapis.com/google.rpc.RetryInfo")]
    RetryInfo { retry_delay: String },
}

#[derive(Serialize)]
struct JsonViolation<'a> {
    field: &'static str,
    description: &'a str,
}

/// `Export*ServiceResponse`: the three have one shape on the wire.
#[derive(Clone, PartialEq, Message)]
struct ExportResponse {
    #[prost(message, optional, tag = "1")]
    partial_success: Option<PartialSuccess>,
}

/// `Export*PartialSuccess`.
#[derive(Clone, PartialEq, Message)]
struct PartialSuccess {
    #[prost(int64, tag = "1")]
    rejected: i64,
    #[prost(string, tag = "2")]
    error_message: String,
}

/// The body of a success: an `Export*ServiceResponse`. `partial_success` is set only when there is something to say.
pub(super) fn write_accepted(accepted: &Accepted, signal: Signal, encoding: Encoding) -> Vec<u8> {
    let room = MAX_RESPONSE_BYTES - FRAME_BYTES;
    let silent = accepted.rejected == 0 && accepted.message.is_empty();
    match encoding {
        Encoding::Protobuf => {
            let partial_success = (!silent).then(|| PartialSuccess {
                rejected: accepted.rejected.try_into().unwrap_or(i64::MAX),
                error_message: shorten(&accepted.message, room, char::len_utf8),
            });
            ExportResponse { partial_success }.encode_to_vec()
        }
        Encoding::Json if silent => b"{}".to_vec(),
        Encoding::Json => {
            let rejected_name = match signal {
                Signal::Traces => "rejectedSpans",
                Signal::Metrics => "rejectedDataPoints",
                Signal::Logs => "rejectedLogRecords",
            };
            // The mapping of protobuf to JSON leaves out zeros and empty strings and writes 64-bit numbers as strings.
            let mut partial = serde_json::Map::new();
            if accepted.rejected > 0 {
                partial.insert(rejected_name.to_owned(), accepted.rejected.to_string().into());
            }
            if !accepted.message.is_empty() {
                partial.insert("errorMessage".to_owned(), shorten_json(&accepted.message, room).into());
            }
            write_json(&serde_json::json!({ "partialSuccess": partial }))
        }
    }
}

fn write_json<T: Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).expect("strings and numbers written to memory do not fail")
}

/// `text`, or as much of it as `room` bytes hold when each character costs what `cost` says, cut between characters.
fn shorten(text: &str, room: usize, cost: fn(char) -> usize) -> String {
    let mut used = 0;
    let mut kept = String::new();
    for character in text.chars() {
        used += cost(character);
        if used > room {
            return kept + CUT;
        }
        if used + CUT.len() <= room {
            kept.push(character);
        }
    }
    text.to_owned()
}

fn shorten_json(text: &str, room: usize) -> String {
    shorten(text, room, |character| match character {
        '"' | '\\' | '\n' | '\r' | '\t' | '\u{8}' | '\u{c}' => 2,
        '\0'..='\u{1f}' => 6,
        other => other.len_utf8(),
    })
}

#[cfg(test)]
mod tests;
