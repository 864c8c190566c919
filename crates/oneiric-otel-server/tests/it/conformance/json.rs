//! J1 to J5.

use oneiric_otel::otlp::Signal;

use super::Case;
use crate::messages::{self, NOON, json_span};
use crate::wire::{self, JSON};

/// Sends records and tells how many were rejected and why.
async fn send(case: &Case, signal: Signal, records: &[String]) -> (u64, String) {
    let body = messages::json(signal, case.service, records);
    let reply = wire::send(case.server.http, wire::post(wire::path(signal), JSON, body)).await;
    assert_eq!(reply.status, 200, "{reply:?}");
    let json = reply.json();
    let Some(partial) = json.get("partialSuccess") else { return (0, String::new()) };
    let rejected = partial.as_object().unwrap().iter().find(|(name, _)| name.starts_with("rejected"));
    let rejected = rejected.map_or(0, |(_, count)| count.as_str().unwrap().parse().unwrap());
    (rejected, partial["errorMessage"].as_str().unwrap_or_default().to_owned())
}

pub(super) async fn j1(case: Case) {
    let trace = "5B8EFFF798038103d269b633813fc60c";
    let span = format!(
        r#"{{"traceId":"{trace}","spanId":"EEE19B7EC3C1B174","parentSpanId":"eee19b7ec3c1B173","name":"hex",
            "startTimeUnixNano":"{NOON}","links":[{{"traceId":"{trace}","spanId":"AAE19B7EC3C1B174"}}]}}"#
    );
    assert_eq!(send(&case, Signal::Traces, &[span]).await, (0, String::new()));
    let lower = trace.to_lowercase();
    let found = format!(
        "trace_id = '{lower}' and span_id = '\\xeee19b7ec3c1b174' and parent_span_id = '\\xeee19b7ec3c1b173'
         and links::text like '%{lower}%' and links::text like '%aae19b7ec3c1b174%'"
    );
    assert_eq!(case.stored_where("otel_spans", &found).await, 1);

    let log = format!(r#"{{"timeUnixNano":"{NOON}","traceId":"{trace}","spanId":"EEE19B7EC3C1B174"}}"#);
    assert_eq!(send(&case, Signal::Logs, &[log]).await.0, 0);
    let found = format!("trace_id = '{lower}' and span_id = '\\xeee19b7ec3c1b174'");
    assert_eq!(case.stored_where("otel_logs", &found).await, 1);

    let metric = format!(
        r#"{{"name":"m","sum":{{"aggregationTemporality":2,"isMonotonic":true,"dataPoints":[{{"timeUnixNano":"{NOON}",
            "asInt":"1","exemplars":[{{"timeUnixNano":"{NOON}","asDouble":1.5,"traceId":"{trace}",
            "spanId":"EEE19B7EC3C1B174"}}]}}]}}}}"#
    );
    assert_eq!(send(&case, Signal::Metrics, &[metric]).await.0, 0);
    let found = format!("exemplars::text like '%{lower}%' and exemplars::text like '%eee19b7ec3c1b174%'");
    assert_eq!(case.stored_where(messages::table(Signal::Metrics), &found).await, 1);

    // As protobuf's own JSON mapping writes them. A neighbour in hex is kept.
    let base64 = r#"{"traceId":"W47/95gDgQPSabYzgT/GDA==","spanId":"7uGbfsPBsXQ=","name":"base64"}"#.to_owned();
    let records = [base64, json_span(case.service, 1, "")];
    let (rejected, reason) = send(&case, Signal::Traces, &records).await;
    assert_eq!(rejected, 1);
    assert!(reason.contains("base64") && reason.contains("hex") && reason.contains("traceId"), "{reason}");
    assert_eq!(case.stored(Signal::Traces).await, 2);
    let alone = messages::json(Signal::Traces, case.service, &records[..1]);
    let reply = wire::send(case.server.http, wire::post("/v1/traces", JSON, alone)).await;
    assert_eq!((reply.status, reply.rpc_status().0), (400, 3), "a request without anything to keep is malformed");
    assert!(reply.rpc_status().1.contains("base64"), "{reply:?}");
}

pub(super) async fn j2(case: Case) {
    let records = [
        json_span(case.service, 1, r#","kind":3,"status":{"code":2,"message":"late"}"#),
        json_span(case.service, 2, r#","kind":"SPAN_KIND_CLIENT""#),
        json_span(case.service, 3, r#","status":{"code":"STATUS_CODE_ERROR"}"#),
    ];
    let (rejected, reason) = send(&case, Signal::Traces, &records).await;
    assert_eq!(rejected, 2);
    assert!(reason.contains("SPAN_KIND_CLIENT") && reason.contains("number"), "{reason}");
    assert_eq!(case.stored(Signal::Traces).await, 1);
    let found = "kind = 'client' and status = 'error' and status_message = 'late'";
    assert_eq!(case.stored_where("otel_spans", found).await, 1);

    let log = format!(r#"{{"timeUnixNano":"{NOON}","severityNumber":17}}"#);
    assert_eq!(send(&case, Signal::Logs, &[log]).await.0, 0);
    assert_eq!(case.stored_where("otel_logs", "severity_number = 17").await, 1);
}

pub(super) async fn j3(case: Case) {
    let unknown = r#","future":{"deep":[1,{"x":null}]},"trace_state":"a=b","dropped_events_count":7"#;
    let records = [json_span(case.service, 1, unknown), json_span(case.service, 2, r#","traceState":"c=d""#)];
    assert_eq!(send(&case, Signal::Traces, &records).await, (0, String::new()));
    let trace_states = "coalesce(trace_state, '') = '' and coalesce(dropped_events_count, 0) = 0";
    assert_eq!(case.stored_where("otel_spans", trace_states).await, 1, "snake_case is an unknown key");
    assert_eq!(case.stored_where("otel_spans", "trace_state = 'c=d'").await, 1);
    let span = json_span(case.service, 3, "").replace("startTimeUnixNano", "start_time_unix_nano");
    assert_eq!(send(&case, Signal::Traces, &[span]).await.0, 0);
    assert_eq!(case.stored_where("otel_spans", "start_time = '1970-01-01T00:00:00Z'").await, 1);
}

pub(super) async fn j4(case: Case) {
    let attributes = r#","attributes":[{"key":"s","value":{"intValue":"9007199254740993"}},
        {"key":"n","value":{"intValue":-5}},{"key":"b","value":{"bytesValue":"AQID/w=="}}]"#;
    let as_number = json_span(case.service, 2, attributes).replace(&format!("\"{NOON}\""), &NOON.to_string());
    assert_eq!(send(&case, Signal::Traces, &[json_span(case.service, 1, attributes), as_number]).await.0, 0);
    let found =
        "attributes->>'s' = '9007199254740993' and attributes->>'n' = '-5' and attributes::text like '%AQID/w==%'
                 and start_time = '2026-11-20T12:00:00Z'";
    assert_eq!(case.stored_where("otel_spans", found).await, 2);

    let histogram = |count: &str, buckets: &str| {
        format!(
            r#"{{"name":"h","histogram":{{"aggregationTemporality":1,"dataPoints":[{{"timeUnixNano":"{NOON}",
                "count":{count},"sum":4.5,"bucketCounts":{buckets},"explicitBounds":[1,2]}}]}}}}"#
        )
    };
    let records = [histogram("\"3\"", r#"["1","0","2"]"#), histogram("4", "[1,1,2]")];
    assert_eq!(send(&case, Signal::Metrics, &records).await.0, 0);
    for (count, buckets) in [(3, "{1,0,2}"), (4, "{1,1,2}")] {
        let found = format!("count = {count} and bucket_counts = '{buckets}' and temporality = 'delta'");
        assert_eq!(case.stored_where(messages::table(Signal::Metrics), &found).await, 1, "{count}");
    }
    let (rejected, reason) = send(&case, Signal::Metrics, &[histogram("\"three\"", "[]"), histogram("9", "[]")]).await;
    assert_eq!(rejected, 1, "{reason}");
    assert!(reason.contains("three") && reason.contains("decimal string"), "{reason}");
}

pub(super) async fn j5(case: Case) {
    let attributes = r#","attributes":[{"key":"empty","value":{}},{"key":"none"},
        {"key":"bytes","value":{"bytesValue":"AP8="}},
        {"key":"mixed","value":{"arrayValue":{"values":[{"intValue":"1"},{"stringValue":"a"},{"boolValue":true},{},
            {"arrayValue":{"values":[{"doubleValue":0.5}]}}]}}},
        {"key":"map","value":{"kvlistValue":{"values":[{"key":"inner","value":{"kvlistValue":{"values":[]}}}]}}}]"#;
    assert_eq!(send(&case, Signal::Traces, &[json_span(case.service, 1, attributes)]).await, (0, String::new()));
    let found = "attributes ?& array['empty', 'none', 'bytes', 'mixed', 'map'] and attributes->'mixed'->>1 = 'a'
                 and attributes->'map' ? 'inner'";
    assert_eq!(case.stored_where("otel_spans", found).await, 1);
    let log = format!(r#"{{"timeUnixNano":"{NOON}","body":{{"arrayValue":{{"values":[{{"intValue":1}}]}}}}}}"#);
    assert_eq!(send(&case, Signal::Logs, &[log]).await.0, 0);
    assert_eq!(case.stored_where("otel_logs", "body_json->>0 = '1'").await, 1);
}
