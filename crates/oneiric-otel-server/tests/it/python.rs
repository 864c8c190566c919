//! The OpenTelemetry SDK for Python, over both transports: what SQL shows is what the SDK says it sent.

use base64::Engine as _;
use oneiric_otel_testkit::python::{self, Protocol};
use serde_json::{Value, json};

use crate::serving::Serving;

/// The client's notation for values that JSON cannot say, as the natural jsonb shows them.
fn natural(sent: &Value) -> Value {
    match sent {
        Value::Array(values) => values.iter().map(natural).collect(),
        Value::Object(wrapped) if wrapped.len() == 1 => {
            let (notation, value) = wrapped.iter().next().unwrap();
            match (notation.as_str(), value) {
                ("map", Value::Object(_)) => natural_members(value),
                ("bytes", Value::String(hex)) => {
                    base64::engine::general_purpose::STANDARD.encode(hex::decode(hex).unwrap()).into()
                }
                ("float", Value::String(_)) => value.clone(),
                _ => panic!("{wrapped:?} is no notation of the client"),
            }
        }
        other => other.clone(),
    }
}

fn natural_members(members: &Value) -> Value {
    members.as_object().unwrap().iter().map(|(key, value)| (key.clone(), natural(value))).collect()
}

fn sorted(mut values: Vec<Value>) -> Vec<Value> {
    values.sort_by_key(Value::to_string);
    values
}

fn items<'a>(sent: &'a Value, name: &str) -> &'a Vec<Value> {
    sent[name].as_array().unwrap()
}

fn sent_spans(sent: &Value) -> Vec<Value> {
    const KINDS: [&str; 6] = ["unspecified", "internal", "server", "client", "producer", "consumer"];
    const STATUSES: [&str; 3] = ["unset", "ok", "error"];
    let event = |event: &Value| {
        json!({"name": event["name"], "time_unix_nano": event["time_unix_nano"],
               "attributes": natural_members(&event["attributes"])})
    };
    let link = |link: &Value| {
        json!({"trace_id": link["trace_id"], "span_id": link["span_id"],
               "attributes": natural_members(&link["attributes"])})
    };
    let span = |span: &Value| {
        json!({
            "trace_id": span["trace_id"], "span_id": span["span_id"], "parent_span_id": span["parent_span_id"],
            "trace_state": span["trace_state"], "name": span["name"],
            "kind": KINDS[span["kind"].as_u64().unwrap() as usize],
            "status": STATUSES[span["status"]["code"].as_u64().unwrap() as usize],
            "status_message": span["status"]["message"],
            "start": span["start_time_unix_nano"], "end": span["end_time_unix_nano"],
            "attributes": natural_members(&span["attributes"]),
            "events": items(span, "events").iter().map(event).collect::<Value>(),
            "links": items(span, "links").iter().map(link).collect::<Value>(),
            "scope": span["scope"]["name"],
        })
    };
    sorted(items(sent, "spans").iter().map(span).collect())
}

const SPANS: &str = "
    SELECT jsonb_build_object(
      'trace_id', trace_id, 'span_id', span_id, 'parent_span_id', coalesce(parent_span_id, ''),
      'trace_state', coalesce(trace_state, ''), 'name', name, 'kind', kind, 'status', status,
      'status_message', coalesce(status_message, ''),
      'start', nanos, 'end', nanos + duration_ns, 'attributes', attributes,
      'events', coalesce(events, '[]'), 'scope', scope_name,
      'links', coalesce((SELECT jsonb_agg(l - 'flags' - 'trace_state') FROM jsonb_array_elements(links) l), '[]'))::text
    FROM spans, LATERAL (SELECT (extract(epoch FROM start_time) * 1000000)::bigint * 1000 + start_ns AS nanos) n";

fn sent_logs(sent: &Value) -> Vec<Value> {
    let log = |log: &Value| {
        json!({
            "trace_id": log["trace_id"], "span_id": log["span_id"], "severity_number": log["severity_number"],
            "severity_text": log["severity_text"], "event_name": log["event_name"], "body": natural(&log["body"]),
            "attributes": natural_members(&log["attributes"]), "scope": log["scope"]["name"],
        })
    };
    sorted(items(sent, "logs").iter().map(log).collect())
}

const LOGS: &str = "
    SELECT jsonb_build_object(
      'trace_id', coalesce(trace_id, ''), 'span_id', coalesce(span_id, ''), 'severity_number', severity_number,
      'severity_text', coalesce(severity_text, ''), 'event_name', coalesce(event_name, ''),
      'body', coalesce(body_json, to_jsonb(body), 'null'), 'attributes', attributes, 'scope', scope_name)::text
    FROM logs";

fn sent_points(sent: &Value) -> Vec<Value> {
    const TEMPORALITIES: [&str; 3] = ["unspecified", "delta", "cumulative"];
    let mut points = Vec::new();
    for metric in items(sent, "metrics") {
        let temporality = metric["temporality"].as_u64().unwrap_or(0) as usize;
        for point in items(metric, "points") {
            points.push(json!({
                "name": metric["name"], "description": metric["description"], "unit": metric["unit"],
                "type": metric["type"], "temporality": TEMPORALITIES[temporality],
                "monotonic": metric["monotonic"].as_bool().unwrap_or(false),
                "time": point["time_unix_nano"], "attributes": natural_members(&point["attributes"]),
                "value": point["value"], "count": point["count"], "sum": point["sum"], "min": point["min"],
                "max": point["max"], "bucket_counts": point["bucket_counts"], "bounds": point["explicit_bounds"],
                "scale": point["scale"], "positive": point["positive"]["bucket_counts"],
                "exemplars": items(point, "exemplars").len(),
            }));
        }
    }
    sorted(points)
}

const POINTS: &str = "
    SELECT jsonb_build_object(
      'name', s.metric_name, 'description', s.description, 'unit', s.unit, 'type', s.metric_type,
      'temporality', s.temporality, 'monotonic', s.monotonic,
      'time', (extract(epoch FROM p.time) * 1000000)::bigint * 1000 + p.time_ns, 'attributes', s.attributes,
      'value', coalesce(to_jsonb(p.value_int), to_jsonb(p.value_double)), 'count', p.count, 'sum', p.sum, 'min', p.min,
      'max', p.max, 'bucket_counts', p.bucket_counts, 'bounds', s.explicit_bounds, 'scale', p.exponential_scale,
      'positive', p.positive_counts, 'exemplars', jsonb_array_length(coalesce(p.exemplars, '[]')))::text
    FROM otel_metrics p JOIN otel_metric_series s USING (series_id)";

async fn stored(server: &Serving, sql: &str) -> Vec<Value> {
    let rows = server.test().client().await.query(sql, &[]).await.unwrap();
    sorted(rows.iter().map(|row| serde_json::from_str(row.get(0)).unwrap()).collect())
}

/// Numbers are equal when their values are: 2 and 2.0 are not told apart by Python's JSON for sums and bounds.
fn by_value(values: Vec<Value>) -> Vec<Value> {
    fn float(value: Value) -> Value {
        match value {
            Value::Number(number) => number.as_f64().map_or(Value::Number(number), Value::from),
            Value::Array(values) => values.into_iter().map(float).collect(),
            Value::Object(members) => members.into_iter().map(|(key, value)| (key, float(value))).collect(),
            other => other,
        }
    }
    sorted(values.into_iter().map(float).collect())
}

pub(crate) async fn compare(server: &Serving, sent: &Value) {
    assert_eq!(stored(server, SPANS).await, sent_spans(sent), "spans");
    assert_eq!(stored(server, LOGS).await, sent_logs(sent), "logs");
    assert_eq!(by_value(stored(server, POINTS).await), by_value(sent_points(sent)), "data points");
    let services = "select count(*) from spans where resource_attributes->>'service.name' is distinct from ";
    let service = sent["resource"]["service.name"].as_str().unwrap();
    assert_eq!(server.test().count(&format!("{services}'{service}'")).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_python_sdk_sends_over_grpc_is_stored() {
    let server = Serving::start().await;
    let sent = python::run(&format!("http://{}", server.grpc), Protocol::Grpc, 1).await.unwrap();
    compare(&server, &sent).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_python_sdk_sends_over_http_with_gzip_is_stored() {
    let server = Serving::start().await;
    let sent = python::run_gzip(&format!("http://{}", server.http), Protocol::HttpProtobuf, 2).await.unwrap();
    compare(&server, &sent).await;
}

/// Refuses everything until a request of the SDK was refused: it must come again by itself.
async fn what_was_refused_comes_again(protocol: Protocol, seed: u64) {
    let (server, ingest) = Serving::start_watched().await;
    ingest.refuse_because(Some("the spool is full".to_owned()));
    let address = if matches!(protocol, Protocol::Grpc) { server.grpc } else { server.http };
    let endpoint = format!("http://{address}");
    let relent = async {
        while ingest.counts().unavailable_requests == 0 {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        ingest.refuse_because(None);
    };
    let (sent, ()) = tokio::join!(python::run(&endpoint, protocol, seed), relent);
    compare(&server, &sent.unwrap()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_refused_for_now_the_python_sdk_sends_again_over_grpc() {
    what_was_refused_comes_again(Protocol::Grpc, 3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_refused_for_now_the_python_sdk_sends_again_over_http() {
    what_was_refused_comes_again(Protocol::HttpProtobuf, 4).await;
}
