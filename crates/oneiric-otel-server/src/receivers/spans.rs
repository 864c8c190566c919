//! Spans for requests that are received, for when the server traces itself.
//!
//! Names and attributes are those of OpenTelemetry's semantic conventions for HTTP and RPC where these have one. A request
//! whose path names no signal gets no span: the names that senders can think up have no end.

use oneiric_otel::otlp::Signal;
use oneiric_otel::pipeline::Accepted;
use oneiric_otel::self_trace::TARGET;
use tonic::Code;
use tracing::{Span, field};

use super::status::Failure;

/// For a POST to a path that is served.
pub(super) fn http(path: &str, signal: Signal) -> Span {
    tracing::info_span!(
        target: TARGET,
        "receive",
        otel.name = format_args!("POST {path}"),
        otel.kind = "server",
        otel.status_code = field::Empty,
        "error.type" = field::Empty,
        http.request.method = "POST",
        http.route = path,
        http.response.status_code = field::Empty,
        oneiric_otel.signal = signal.as_str(),
        oneiric_otel.request_bytes = field::Empty,
        oneiric_otel.records = field::Empty,
        oneiric_otel.rejected = field::Empty,
    )
}

/// For a call of a method that is served.
pub(super) fn grpc(path: &str, signal: Signal) -> Span {
    let method = path.trim_start_matches('/');
    tracing::info_span!(
        target: TARGET,
        "receive",
        otel.name = method,
        otel.kind = "server",
        otel.status_code = field::Empty,
        "error.type" = field::Empty,
        rpc.system.name = "grpc",
        rpc.method = method,
        rpc.response.status_code = field::Empty,
        oneiric_otel.signal = signal.as_str(),
        oneiric_otel.request_bytes = field::Empty,
        oneiric_otel.records = field::Empty,
        oneiric_otel.rejected = field::Empty,
    )
}

/// The message has come: so many bytes, decompressed.
pub(super) fn received(span: &Span, bytes: usize) {
    span.record("oneiric_otel.request_bytes", bytes as i64);
}

/// What the request is answered. Attributes of the other protocol are not of the span and stay away.
pub(super) fn conclude(span: &Span, outcome: &Result<Accepted, Failure>) {
    if span.is_disabled() {
        return;
    }
    let (http, grpc) = match outcome {
        Ok(accepted) => {
            span.record("oneiric_otel.records", accepted.records as i64)
                .record("oneiric_otel.rejected", accepted.rejected as i64);
            (200, "OK")
        }
        Err(failure) => {
            let (http, grpc) = (failure.http_status().as_u16(), name(failure.code()));
            span.record("error.type", grpc);
            if http >= 500 {
                span.record("otel.status_code", "ERROR");
            }
            (http, grpc)
        }
    };
    span.record("http.response.status_code", i64::from(http)).record("rpc.response.status_code", grpc);
}

/// As the conventions write the codes that we answer with.
fn name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Unavailable => "UNAVAILABLE",
        Code::Unauthenticated => "UNAUTHENTICATED",
        _ => "INTERNAL",
    }
}
