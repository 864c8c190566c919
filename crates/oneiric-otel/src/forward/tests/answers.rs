//! The tables of the OTLP specification.

use std::time::Duration;

use http::{HeaderMap, HeaderValue, StatusCode, header};
use opentelemetry_proto::tonic::collector::logs::v1::{ExportLogsPartialSuccess, ExportLogsServiceResponse};
use prost::Message as _;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use crate::forward::answer::Answer;
use crate::otlp::Encoding;

fn of_http(status: u16, body: &[u8]) -> Answer {
    let status = StatusCode::from_u16(status).expect("a status");
    Answer::of_http(status, &HeaderMap::new(), Encoding::Protobuf, body)
}

#[test]
fn http_statuses_are_tried_again_as_otlp_says() {
    for status in [429, 502, 503, 504] {
        assert!(matches!(of_http(status, b""), Answer::NotNow { pause: None, .. }), "{status}");
    }
    for status in [300, 302, 400, 404, 405, 408, 413, 415, 500, 501] {
        assert!(matches!(of_http(status, b""), Answer::Refused(_)), "{status}");
    }
    for status in [401, 403] {
        assert!(matches!(of_http(status, b""), Answer::NotAllowed(_)), "{status}");
    }
    let plain = Answer::Taken { rejected: 0, message: String::new() };
    for status in [200, 202, 204] {
        assert_eq!(of_http(status, b""), plain);
    }
    assert_eq!(of_http(200, b"<html>"), plain, "a proxy's idea of a success");
}

#[test]
fn the_reason_is_found_in_every_shape_and_drives_no_terminal() {
    let status = tonic_types::pb::Status { code: 3, message: "no \u{1b}[31mspan".to_owned(), details: Vec::new() };
    assert_eq!(of_http(400, &status.encode_to_vec()), Answer::Refused("400 Bad Request: no  [31mspan".to_owned()));
    let json = br#"{"code":3,"message":"no trace id"}"#;
    assert_eq!(of_http(400, json), Answer::Refused("400 Bad Request: no trace id".to_owned()));
    assert_eq!(of_http(400, b"what?\n"), Answer::Refused("400 Bad Request: what?".to_owned()));
    let Answer::Refused(reason) = of_http(400, "ä".repeat(10_000).as_bytes()) else { panic!("it is refused") };
    assert!(reason.chars().count() < 600);
}

#[test]
fn partial_success_is_read_in_both_encodings() {
    let partial = ExportLogsPartialSuccess { rejected_log_records: 7, error_message: "old".to_owned() };
    let body = ExportLogsServiceResponse { partial_success: Some(partial) }.encode_to_vec();
    let expected = Answer::Taken { rejected: 7, message: "old".to_owned() };
    assert_eq!(of_http(200, &body), expected);
    assert_eq!(Answer::of_grpc(&body), expected);
    for json in [
        r#"{"partialSuccess":{"rejectedLogRecords":"7","errorMessage":"old"}}"#,
        r#"{"partialSuccess":{"rejectedLogRecords":7,"errorMessage":"old"}}"#,
    ] {
        let answer = Answer::of_http(StatusCode::OK, &HeaderMap::new(), Encoding::Json, json.as_bytes());
        assert_eq!(answer, expected);
    }
}

#[test]
fn retry_after_is_a_number_or_a_date_and_no_year() {
    let pause = |value: &str| {
        let headers = HeaderMap::from_iter([(header::RETRY_AFTER, HeaderValue::from_str(value).expect("a value"))]);
        match Answer::of_http(StatusCode::SERVICE_UNAVAILABLE, &headers, Encoding::Protobuf, b"") {
            Answer::NotNow { pause, .. } => pause,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(pause("7"), Some(Duration::from_secs(7)));
    assert_eq!(pause("99999999"), Some(Duration::from_mins(10)));
    assert_eq!(pause("Wed, 21 Oct 2015 07:28:00 GMT"), Some(Duration::ZERO), "it is over");
    assert_eq!(pause("Fri, 31 Dec 9999 23:59:59 GMT"), Some(Duration::from_mins(10)));
    assert_eq!(pause("soon"), None);
}

#[test]
fn grpc_codes_are_tried_again_as_otlp_says() {
    let of = |code| Answer::of_status(&Status::new(code, "why"));
    for code in
        [Code::Cancelled, Code::DeadlineExceeded, Code::Aborted, Code::OutOfRange, Code::Unavailable, Code::DataLoss]
    {
        assert!(matches!(of(code), Answer::NotNow { pause: None, .. }), "{code:?}");
    }
    for code in [
        Code::Unknown,
        Code::InvalidArgument,
        Code::NotFound,
        Code::AlreadyExists,
        Code::FailedPrecondition,
        Code::Unimplemented,
        Code::Internal,
        Code::ResourceExhausted,
    ] {
        assert!(matches!(of(code), Answer::Refused(_)), "{code:?}");
    }
    for code in [Code::Unauthenticated, Code::PermissionDenied] {
        assert!(matches!(of(code), Answer::NotAllowed(_)), "{code:?}");
    }
}

#[test]
fn retry_info_gives_the_pause_and_tells_an_overload_from_a_limit() {
    let details = ErrorDetails::with_retry_info(Some(Duration::from_secs(3)));
    let status = Status::with_error_details(Code::ResourceExhausted, "busy", details.clone());
    let pause = Some(Duration::from_secs(3));
    let expected = Answer::NotNow { reason: "ResourceExhausted: busy".to_owned(), pause, answered: true };
    assert_eq!(Answer::of_status(&status), expected);
    let status = Status::with_error_details(Code::InvalidArgument, "bad", details);
    assert!(matches!(Answer::of_status(&status), Answer::Refused(_)));
}

#[test]
fn a_connection_that_broke_is_no_answer_whatever_code_stands_for_it() {
    let broken = Status::from_error(Box::new(std::io::Error::other("connection reset")));
    assert_eq!(Answer::of_status(&broken), Answer::none("connection reset"));
}
