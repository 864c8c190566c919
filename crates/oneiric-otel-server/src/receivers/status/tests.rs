//! The table of outcomes, and the shapes that other programs expect, letter by letter.

use tonic_types::pb;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

/// What gRPC and HTTP senders may send again, as the OTLP specification lists it.
const RETRYABLE_GRPC: [Code; 6] =
    [Code::Cancelled, Code::DeadlineExceeded, Code::Aborted, Code::OutOfRange, Code::Unavailable, Code::DataLoss];
const RETRYABLE_HTTP: [u16; 4] = [429, 502, 503, 504];

#[test]
fn every_failure_has_its_codes() {
    let text = String::new;
    let table = [
        (Failure::malformed("x"), Code::InvalidArgument, 400),
        (Failure::Unavailable { reason: text(), retry_after: SECOND }, Code::Unavailable, 503),
        (Failure::TooLarge { max_bytes: 1, decompressed: true }, Code::ResourceExhausted, 413),
        (Failure::TooLarge { max_bytes: 1, decompressed: false }, Code::ResourceExhausted, 413),
        (Failure::BodyTimeout { after: SECOND, received: 0 }, Code::DeadlineExceeded, 503),
        (Failure::BodyTooSlow { least: 2, within: SECOND, received: 1 }, Code::DeadlineExceeded, 503),
        (Failure::UnknownContentType { given: text() }, Code::InvalidArgument, 415),
        (Failure::UnknownCompression { given: text() }, Code::Unimplemented, 415),
        (Failure::UnknownPath { path: text(), accepted: "" }, Code::Unimplemented, 404),
        (Failure::WrongMethod { method: text(), path: text() }, Code::Unimplemented, 405),
        (Failure::Unauthenticated { has_token: true }, Code::Unauthenticated, 401),
        (Failure::Unauthenticated { has_token: false }, Code::Unauthenticated, 401),
        (Failure::Internal, Code::Internal, 500),
    ];
    for (failure, code, http) in table {
        assert_eq!(failure.code(), code, "{failure:?}");
        assert_eq!(failure.http_status().as_u16(), http, "{failure:?}");
        assert_eq!(failure.grpc().code(), code, "{failure:?}");
        let retry = matches!(failure, Failure::Unavailable { .. });
        let slow = matches!(failure, Failure::BodyTimeout { .. } | Failure::BodyTooSlow { .. });
        assert_eq!(RETRYABLE_HTTP.contains(&http), retry || slow, "{failure:?}");
        assert_eq!(RETRYABLE_GRPC.contains(&code), retry || slow, "{failure:?}");
        // RESOURCE_EXHAUSTED with RetryInfo would be sent again, and be too large again.
        assert_eq!(failure.grpc().get_error_details().retry_info().is_some(), retry, "{failure:?}");
        assert_eq!(failure.retry_after_seconds().is_some(), retry || slow, "{failure:?}");
    }
}

#[test]
fn refusals_of_the_pipeline_keep_their_words() {
    let malformed = Failure::from(Refused::Malformed { reason: "resourceSpans: no list".to_owned() });
    assert_eq!(malformed.to_string(), "resourceSpans: no list");
    let details = malformed.grpc().get_error_details();
    let violations = &details.bad_request().expect("INVALID_ARGUMENT has a BadRequest").field_violations;
    assert_eq!(violations[0].description, "resourceSpans: no list");

    let away = Refused::Unavailable { reason: "the database is away".to_owned(), retry_after: 3 * SECOND / 2 };
    let away = Failure::from(away);
    assert_eq!(away.retry_after_seconds(), Some(2));
    let details = away.grpc().get_error_details();
    assert_eq!(details.retry_info().and_then(|info| info.retry_delay), Some(3 * SECOND / 2));
}

#[test]
fn what_is_too_large_is_told_the_limit_and_what_to_do() {
    let told = |decompressed| Failure::TooLarge { max_bytes: 100, decompressed }.to_string();
    assert_eq!(told(false), "the request is larger than 100 bytes; send smaller batches");
    assert_eq!(told(true), "the request is larger than 100 bytes after decompression; send smaller batches");
}

#[test]
fn retry_after_is_never_zero() {
    let now = Failure::Unavailable { reason: String::new(), retry_after: Duration::ZERO };
    assert_eq!(now.retry_after_seconds(), Some(1));
}

#[test]
fn http_bodies_are_a_status_in_either_encoding() {
    let malformed = Failure::malformed("cut \"short\"");
    let status = pb::Status::decode(&*malformed.http_body(Encoding::Protobuf)).expect("a google.rpc.Status");
    assert_eq!((status.code, status.message.as_str()), (3, "cut \"short\""));
    assert_eq!(status.details[0].type_url, "type.googleapis.com/google.rpc.BadRequest");
    assert_eq!(
        String::from_utf8(malformed.http_body(Encoding::Json)).expect("UTF-8"),
        r#"{"code":3,"message":"cut \"short\"","details":[{"@type":"type.googleapis.com/google.rpc.BadRequest","fieldViolations":[{"field":"body","description":"cut \"short\""}]}]}"#
    );
    let away = Failure::Unavailable { reason: "away".to_owned(), retry_after: 3 * SECOND / 2 };
    assert_eq!(
        String::from_utf8(away.http_body(Encoding::Json)).expect("UTF-8"),
        r#"{"code":14,"message":"away","details":[{"@type":"type.googleapis.com/google.rpc.RetryInfo","retryDelay":"1.500000000s"}]}"#
    );
    let status = pb::Status::decode(&*away.http_body(Encoding::Protobuf)).expect("a google.rpc.Status");
    assert_eq!(status.details[0].type_url, "type.googleapis.com/google.rpc.RetryInfo");
    let status = pb::Status::decode(&*Failure::Internal.http_body(Encoding::Protobuf)).expect("a google.rpc.Status");
    assert_eq!((status.code, status.details.len()), (13, 0));
}

#[test]
fn full_success_leaves_partial_success_unset() {
    let full = Accepted { records: 5, ..Accepted::default() };
    for signal in [Signal::Traces, Signal::Metrics, Signal::Logs] {
        assert!(write_accepted(&full, signal, Encoding::Protobuf).is_empty());
        assert_eq!(write_accepted(&full, signal, Encoding::Json), b"{}");
    }
}

#[test]
fn partial_success_names_the_signal() {
    let partial = Accepted { records: 5, rejected: 3, message: "bad \"id\"".to_owned() };
    let names = [
        (Signal::Traces, "rejectedSpans"),
        (Signal::Metrics, "rejectedDataPoints"),
        (Signal::Logs, "rejectedLogRecords"),
    ];
    for (signal, name) in names {
        let json: serde_json::Value =
            serde_json::from_slice(&write_accepted(&partial, signal, Encoding::Json)).expect("JSON");
        assert_eq!(json, serde_json::json!({ "partialSuccess": { name: "3", "errorMessage": "bad \"id\"" } }));
        let bytes = write_accepted(&partial, signal, Encoding::Protobuf);
        let response = ExportResponse::decode(&*bytes).expect("an Export*ServiceResponse");
        let expected = PartialSuccess { rejected: 3, error_message: "bad \"id\"".to_owned() };
        assert_eq!(response.partial_success, Some(expected));
    }
}

#[test]
fn a_warning_is_a_partial_success_that_rejects_nothing() {
    let warning = Accepted { records: 5, rejected: 0, message: "soon".to_owned() };
    let json = write_accepted(&warning, Signal::Traces, Encoding::Json);
    assert_eq!(json, br#"{"partialSuccess":{"errorMessage":"soon"}}"#);
    let bytes = write_accepted(&warning, Signal::Traces, Encoding::Protobuf);
    let response = ExportResponse::decode(&*bytes).expect("an Export*ServiceResponse");
    assert_eq!(response.partial_success.map(|partial| partial.rejected), Some(0));
}

#[test]
fn responses_stay_within_four_mebibytes() {
    for filler in ["x", "\u{1}", "é", "😀", "\"\\"] {
        let message = filler.repeat(5 << 20);
        let accepted = Accepted { records: 0, rejected: u64::MAX, message: message.clone() };
        for encoding in [Encoding::Protobuf, Encoding::Json] {
            let success = write_accepted(&accepted, Signal::Logs, encoding);
            assert!(success.len() <= MAX_RESPONSE_BYTES, "{filler:?} {encoding:?}: {}", success.len());
            assert!(success.len() > MAX_RESPONSE_BYTES / 2, "{filler:?} {encoding:?}: {}", success.len());
            let failure = Failure::malformed(message.clone()).http_body(encoding);
            assert!(failure.len() <= MAX_RESPONSE_BYTES, "{filler:?} {encoding:?}: {}", failure.len());
        }
        let response: serde_json::Value =
            serde_json::from_slice(&write_accepted(&accepted, Signal::Logs, Encoding::Json)).expect("still JSON");
        let shown = response["partialSuccess"]["errorMessage"].as_str().expect("a string");
        assert!(shown.starts_with(filler) && shown.ends_with(CUT), "{filler:?}");
    }
}

#[test]
fn a_grpc_error_fits_into_headers() {
    let status = Failure::malformed("é".repeat(100_000)).grpc();
    let mut headers = http::HeaderMap::new();
    status.add_header(&mut headers).expect("a valid header");
    let bytes: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
    assert!(bytes < 8 << 10, "{bytes}");
}

#[test]
fn text_is_cut_between_characters_and_only_when_it_must() {
    assert_eq!(shorten("äöü", 6, char::len_utf8), "äöü");
    assert_eq!(shorten("", 0, char::len_utf8), "");
    let cut = shorten(&"ä".repeat(20), 20, char::len_utf8);
    assert_eq!(cut, format!("ää{CUT}"));
    let exact = "a".repeat(20);
    assert_eq!(shorten(&exact, 20, char::len_utf8), exact);
}
