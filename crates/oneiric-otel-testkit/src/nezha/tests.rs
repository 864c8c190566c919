//! The whole archives.

use std::collections::{HashMap, HashSet};

use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use prost::Message as _;

use super::*;
use crate::data::shared_data_for;

/// A hash over all requests and where they are cut. The expected one is that of every earlier conversion, in other
/// processes and on other machines: conversion is the same each time.
#[derive(Default)]
struct RequestHash(blake3::Hasher);

impl RequestHash {
    fn update(&mut self, request: &Bytes) {
        assert!(request.len() <= 4 << 20, "a request of {} bytes", request.len());
        self.0.update(&(request.len() as u64).to_le_bytes());
        self.0.update(request);
    }

    fn finish(self) -> String {
        self.0.finalize().to_hex().to_string()
    }
}

#[test]
fn every_span_row_becomes_a_span_and_repeats_stay_identical() -> Result<()> {
    let Some(dir) = shared_data_for("nezha spans", FOLDER) else { return Ok(()) };
    let mut hash = RequestHash::default();
    let (mut rows, mut roots) = (0, 0);
    // The digest of the message by (trace id, span id).
    let mut spans: HashMap<(Vec<u8>, Vec<u8>), blake3::Hash> = HashMap::new();
    let mut trace_ids = HashSet::new();
    for request in traces(&dir) {
        let request = request?;
        hash.update(&request);
        let decoded = ExportTraceServiceRequest::decode(request)?;
        let mut in_request = 0;
        for resource_spans in decoded.resource_spans {
            let resource = resource_spans.resource.unwrap_or_default();
            assert_eq!(resource.attributes[0].key, "service.name");
            for span in resource_spans.scope_spans.into_iter().flat_map(|scope| scope.spans) {
                in_request += 1;
                roots += u64::from(span.parent_span_id.is_empty());
                assert!(span.start_time_unix_nano <= span.end_time_unix_nano);
                assert_eq!((span.kind, &span.status), (0, &None));
                let digest = blake3::hash(&span.encode_to_vec());
                trace_ids.insert(span.trace_id.clone());
                let first = *spans.entry((span.trace_id, span.span_id)).or_insert(digest);
                assert_eq!(first, digest, "a repeated row differs from the first");
            }
        }
        assert!(in_request <= 5_000);
        rows += in_request;
    }
    assert_eq!((rows, spans.len() as u64, trace_ids.len() as u64, roots), (SPAN_ROWS, SPANS, TRACES, 7_209));
    assert_eq!(
        hash.finish(),
        "3bbd9ae0532f74eb1d8d71435e07f49f56b0c060eb3358bbc3b3eb84babdcac8",
        "the conversion has changed"
    );
    Ok(())
}

#[test]
fn every_log_row_becomes_a_log_record() -> Result<()> {
    let Some(dir) = shared_data_for("nezha logs", FOLDER) else { return Ok(()) };
    let mut hash = RequestHash::default();
    let mut rows = 0;
    let mut levels: HashMap<String, u64> = HashMap::new();
    let mut torn = Vec::new();
    for request in logs(&dir) {
        let request = request?;
        hash.update(&request);
        for resource_logs in ExportLogsServiceRequest::decode(request)?.resource_logs {
            for record in resource_logs.scope_logs.into_iter().flat_map(|scope| scope.log_records) {
                rows += 1;
                *levels.entry(record.severity_text).or_default() += 1;
                assert_eq!((record.trace_id.len(), record.span_id.len()), (16, 8));
                // 2023-01-29 and 2023-01-30, UTC.
                assert!((1_674_950_400_000_000_000..1_675_123_200_000_000_000).contains(&record.time_unix_nano));
                let Some(Value::StringValue(body)) = record.body.and_then(|body| body.value) else {
                    panic!("a record without a line");
                };
                assert!(!body.is_empty() && !body.ends_with('\n'));
                if record.attributes.len() > 1 {
                    torn.push((body, record.attributes[1].value.clone()));
                }
            }
        }
    }
    assert_eq!(rows, LOG_ROWS);
    let level = |name: &str| levels.get(name).copied().unwrap_or_default();
    assert_eq!((level("INFO"), level("WARN"), level("ERROR"), levels.len()), (260_232, 10_216, 1_951, 3));
    assert_eq!(torn.len(), 2);
    for (body, rest) in torn {
        assert!(body.contains("INFO  u.c.UserController#48 TraceID: ") && body.ends_with(']'), "{body}");
        assert!(rest.is_some());
    }
    assert_eq!(
        hash.finish(),
        "19b01750e6e39d6cc13d1fb9b365aab128471ba90b44feb948fccf789d16ae4b",
        "the conversion has changed"
    );
    Ok(())
}

#[test]
fn a_missing_archive_is_named() {
    let items: Vec<String> = traces(Path::new("nowhere")).map(|item| format!("{item:#?}")).collect();
    assert_eq!(items.len(), 1);
    assert!(items[0].contains("nowhere/traces.tar.zst"), "{}", items[0]);
}

#[test]
fn a_consumer_may_stop_early() -> Result<()> {
    let Some(dir) = shared_data_for("nezha, first request", FOLDER) else { return Ok(()) };
    let first = traces(&dir).next().context("there are requests")??;
    assert!(!first.is_empty());
    Ok(())
}

#[test]
fn unusual_rows_are_read_as_documented() -> Result<()> {
    let row = r#"2023-01-29T09:20:29.295,-6795364578871345152,n,a-b-c-d,server,xyz,dea06c5b784cbd1d,"{""log"":""17:20:29.299 ERROR x, y\n"",""stream"":""stdout"",""time"":""2023-01-29T09:20:29.299583319Z""}torn, ""end"""#;
    let row = format!("{row}\"");
    let (source, record) = read_log(&row)?;
    assert_eq!(source, ["n", "a-b-c-d", "server"]);
    assert_eq!(record.time_unix_nano, 1_674_984_029_299_583_319);
    assert_eq!((record.trace_id.len(), record.span_id.len()), (0, 8));
    assert_eq!(record.severity_number, SeverityNumber::Error as i32);
    assert_eq!(record.body, Some(text("17:20:29.299 ERROR x, y")));
    assert_eq!(record.attributes[1], attribute("nezha.torn", "torn, \"end\""));
    assert!(read_log("a,b").is_err());
    assert!(read_span("zz,1,root,p,n,1,2,3").is_err());
    Ok(())
}
