//! What an endpoint answered, and what follows from it: the tables of the OTLP specification.
//!
//! Pure: bytes and codes in, an [`Answer`] out.

use std::error::Error as _;
use std::time::{Duration, SystemTime};

use http::{HeaderMap, StatusCode, header};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceResponse;
use prost::Message as _;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::otlp::Encoding;

/// The longest pause that an endpoint can ask for: one that says "in a year" would never be asked again.
const LONGEST_PAUSE: Duration = Duration::from_mins(10);
/// How much of a message of somebody else is repeated, in characters.
const MESSAGE: usize = 500;

/// What became of a try.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answer {
    /// The endpoint has it.
    Taken {
        /// Records that it rejected.
        rejected: u64,
        /// Why, or a warning.
        message: String,
    },
    /// It never will take it.
    Refused(String),
    /// It takes nothing from us before somebody mends something.
    NotAllowed(String),
    /// It may take it later.
    NotNow {
        reason: String,
        /// The pause that it asks for.
        pause: Option<Duration>,
        /// Whether it said so itself. One that says nothing, or breaks off, may do so because of the request.
        answered: bool,
    },
}

impl Answer {
    /// Nothing came back.
    pub(super) fn none(reason: impl Into<String>) -> Self {
        Self::NotNow { reason: reason.into(), pause: None, answered: false }
    }

    /// Of OTLP over HTTP.
    pub(super) fn of_http(status: StatusCode, headers: &HeaderMap, encoding: Encoding, body: &[u8]) -> Self {
        if status.is_success() {
            return taken(encoding, body);
        }
        let reason = || {
            let text = reason_in(body);
            if text.is_empty() { status.to_string() } else { format!("{status}: {text}") }
        };
        match status {
            StatusCode::TOO_MANY_REQUESTS
            | StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT => {
                Self::NotNow { reason: reason(), pause: retry_after(headers), answered: true }
            }
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Self::NotAllowed(reason()),
            _ => Self::Refused(reason()),
        }
    }

    /// Of OTLP over gRPC, when it is a success.
    pub(super) fn of_grpc(body: &[u8]) -> Self {
        taken(Encoding::Protobuf, body)
    }

    /// Of OTLP over gRPC, when it is none.
    pub(super) fn of_status(status: &Status) -> Self {
        let reason = match status.source() {
            // Not the endpoint's words: it was not reached, or its words were cut off.
            Some(source) => return Self::none(told(source)),
            None => format!("{:?}: {}", status.code(), short(status.message())),
        };
        let info = status.get_details_retry_info();
        let pause = info.as_ref().and_then(|info| info.retry_delay).map(|pause| pause.min(LONGEST_PAUSE));
        match status.code() {
            Code::Cancelled
            | Code::DeadlineExceeded
            | Code::Aborted
            | Code::OutOfRange
            | Code::Unavailable
            | Code::DataLoss => Self::NotNow { reason, pause, answered: true },
            Code::ResourceExhausted if info.is_some() => Self::NotNow { reason, pause, answered: true },
            Code::Unauthenticated | Code::PermissionDenied => Self::NotAllowed(reason),
            _ => Self::Refused(reason),
        }
    }
}

/// An error and its causes.
pub(super) fn told(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.ends_with(&next) {
            text = format!("{text}: {next}");
        }
        cause = error.source();
    }
    text
}

/// The responses of the three signals are the same on the wire. One that cannot be read is a success all the same.
fn taken(encoding: Encoding, body: &[u8]) -> Answer {
    let (rejected, message) = match encoding {
        Encoding::Protobuf => {
            let partial = ExportTraceServiceResponse::decode(body).ok().and_then(|response| response.partial_success);
            partial.map(|partial| (partial.rejected_spans, partial.error_message)).unwrap_or_default()
        }
        Encoding::Json => partial_success(body).unwrap_or_default(),
    };
    Answer::Taken { rejected: u64::try_from(rejected).unwrap_or_default(), message: short(&message) }
}

fn partial_success(body: &[u8]) -> Option<(i64, String)> {
    let response: serde_json::Value = serde_json::from_slice(body).ok()?;
    let partial = response.get("partialSuccess")?;
    let names = ["rejectedSpans", "rejectedDataPoints", "rejectedLogRecords"];
    let rejected = names.iter().find_map(|name| partial.get(name)).and_then(|number| match number {
        serde_json::Value::String(text) => text.parse().ok(),
        number => number.as_i64(),
    });
    let message = partial.get("errorMessage").and_then(serde_json::Value::as_str).unwrap_or_default();
    Some((rejected.unwrap_or_default(), message.to_owned()))
}

/// The body of a failure is a `google.rpc.Status`, in protobuf or JSON; proxies answer with text.
fn reason_in(body: &[u8]) -> String {
    if let Ok(json) = serde_json::from_slice::<serde_json::Value>(body)
        && let Some(message) = json.get("message").and_then(serde_json::Value::as_str)
    {
        return short(message);
    }
    if let Ok(status) = tonic_types::pb::Status::decode(body)
        && !status.message.is_empty()
    {
        return short(&status.message);
    }
    short(&String::from_utf8_lossy(body))
}

fn short(text: &str) -> String {
    text.trim().chars().take(MESSAGE).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// `Retry-After`, in seconds or as a date.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    let pause = match text.parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => httpdate::parse_http_date(text).ok()?.duration_since(SystemTime::now()).unwrap_or_default(),
    };
    Some(pause.min(LONGEST_PAUSE))
}
