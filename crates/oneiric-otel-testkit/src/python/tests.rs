//! The real SDK against receivers that keep what arrives: what the client says it sent is what is on the wire.

use std::collections::BTreeMap;

use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use serde_json::{Map, json};

use super::*;
use crate::receiver::Receiver;

fn any_to_json(value: Option<AnyValue>) -> Value {
    match value.and_then(|value| value.value) {
        None => Value::Null,
        Some(Any::StringValue(text)) => json!(text),
        Some(Any::BoolValue(flag)) => json!(flag),
        Some(Any::IntValue(number)) => json!(number),
        Some(Any::DoubleValue(number)) => json!(number),
        Some(Any::BytesValue(bytes)) => json!({"bytes": hex::encode(bytes)}),
        Some(Any::ArrayValue(array)) => {
            array.values.into_iter().map(|value| any_to_json(Some(value))).collect::<Vec<_>>().into()
        }
        Some(Any::KvlistValue(list)) => json!({"map": attributes_to_json(list.values)}),
        Some(other) => panic!("a value the client cannot have sent: {other:?}"),
    }
}

fn attributes_to_json(attributes: Vec<KeyValue>) -> Value {
    attributes.into_iter().map(|entry| (entry.key, any_to_json(entry.value))).collect::<Map<_, _>>().into()
}

/// Only the fields named, so that the two sides can be compared.
fn pick(record: &Value, fields: &[&str]) -> Value {
    fields.iter().map(|field| ((*field).to_owned(), record[*field].clone())).collect::<Map<_, _>>().into()
}

async fn compare(receiver: &Receiver, sent: &Value) {
    let mut spans = BTreeMap::new();
    for request in receiver.traces.lock().await.drain(..) {
        for resource_spans in request.resource_spans {
            let resource = resource_spans.resource.unwrap_or_default();
            assert_eq!(attributes_to_json(resource.attributes), sent["resource"]);
            for span in resource_spans.scope_spans.into_iter().flat_map(|scope| scope.spans) {
                let status = span.status.unwrap_or_default();
                let mut events = Vec::new();
                for event in span.events {
                    events.push(json!({
                        "name": event.name,
                        "time_unix_nano": event.time_unix_nano,
                        "attributes": attributes_to_json(event.attributes),
                    }));
                }
                let mut links = Vec::new();
                for link in span.links {
                    links.push(json!({
                        "trace_id": hex::encode(link.trace_id),
                        "span_id": hex::encode(link.span_id),
                        "attributes": attributes_to_json(link.attributes),
                    }));
                }
                spans.insert(
                    hex::encode(&span.span_id),
                    json!({
                        "trace_id": hex::encode(span.trace_id),
                        "parent_span_id": hex::encode(span.parent_span_id),
                        "trace_state": span.trace_state,
                        "name": span.name,
                        "kind": span.kind,
                        "start_time_unix_nano": span.start_time_unix_nano,
                        "end_time_unix_nano": span.end_time_unix_nano,
                        "attributes": attributes_to_json(span.attributes),
                        "events": events,
                        "links": links,
                        "status": {"code": status.code, "message": status.message},
                    }),
                );
            }
        }
    }
    let sent_spans = sent["spans"].as_array().map(Vec::as_slice).unwrap_or_default();
    assert_eq!((sent_spans.len(), spans.len()), (26, 26));
    for span in sent_spans {
        let mut expected = pick(
            span,
            &[
                "trace_id",
                "parent_span_id",
                "trace_state",
                "name",
                "kind",
                "start_time_unix_nano",
                "end_time_unix_nano",
                "attributes",
                "events",
                "status",
            ],
        );
        let links = span["links"].as_array().map(Vec::as_slice).unwrap_or_default();
        expected["links"] = links.iter().map(|link| pick(link, &["trace_id", "span_id", "attributes"])).collect();
        assert_eq!(Some(&expected), span["span_id"].as_str().and_then(|id| spans.get(id)));
    }

    let mut logs = Vec::new();
    for request in receiver.logs.lock().await.drain(..) {
        for record in
            request.resource_logs.into_iter().flat_map(|logs| logs.scope_logs).flat_map(|logs| logs.log_records)
        {
            logs.push(json!({
                "trace_id": hex::encode(record.trace_id),
                "span_id": hex::encode(record.span_id),
                "time_unix_nano": record.time_unix_nano,
                "observed_time_unix_nano": record.observed_time_unix_nano,
                "severity_number": record.severity_number,
                "severity_text": record.severity_text,
                "event_name": record.event_name,
                "body": any_to_json(record.body),
                "attributes": attributes_to_json(record.attributes),
            }));
        }
    }
    let sent_logs = sent["logs"].as_array().map(Vec::as_slice).unwrap_or_default();
    let fields = [
        "trace_id",
        "span_id",
        "time_unix_nano",
        "observed_time_unix_nano",
        "severity_number",
        "severity_text",
        "event_name",
        "body",
        "attributes",
    ];
    assert_eq!(sent_logs.len(), 20);
    assert_eq!(sent_logs.iter().map(|record| pick(record, &fields)).collect::<Vec<_>>(), logs);

    let mut metrics = BTreeMap::new();
    for request in receiver.metrics.lock().await.drain(..) {
        for metric in request
            .resource_metrics
            .into_iter()
            .flat_map(|metrics| metrics.scope_metrics)
            .flat_map(|scope| scope.metrics)
        {
            let (kind, points) = match metric.data {
                Some(Data::Sum(sum)) => ("sum", sum.data_points.len()),
                Some(Data::Gauge(gauge)) => ("gauge", gauge.data_points.len()),
                Some(Data::Histogram(histogram)) => ("histogram", histogram.data_points.len()),
                Some(Data::ExponentialHistogram(histogram)) => ("exponential_histogram", histogram.data_points.len()),
                other => panic!("{other:?}"),
            };
            metrics.insert(metric.name, (kind, metric.unit, points));
        }
    }
    let sent_metrics = sent["metrics"].as_array().map(Vec::as_slice).unwrap_or_default();
    assert_eq!((sent_metrics.len(), metrics.len()), (6, 6));
    for metric in sent_metrics {
        let (kind, unit, points) = &metrics[metric["name"].as_str().unwrap_or_default()];
        assert_eq!((&metric["type"], &metric["unit"]), (&json!(kind), &json!(unit)));
        assert_eq!(metric["points"].as_array().map(Vec::len), Some(*points));
    }
}

#[tokio::test]
async fn the_client_says_what_it_sent_over_grpc() -> Result<()> {
    let receiver = Receiver::default();
    let endpoint = receiver.serve_grpc()?;
    let first = run(&endpoint, Protocol::Grpc, 7).await?;
    compare(&receiver, &first).await;
    let again = run_gzip(&endpoint, Protocol::Grpc, 7).await?;
    compare(&receiver, &again).await;
    assert_eq!((&first["spans"], &first["logs"]), (&again["spans"], &again["logs"]), "one seed, one set");
    let other = run(&endpoint, Protocol::Grpc, 8).await?;
    assert_ne!(first["spans"], other["spans"]);
    Ok(())
}

#[tokio::test]
async fn the_client_says_what_it_sent_over_http() -> Result<()> {
    let receiver = Receiver::default();
    let endpoint = receiver.serve_http().await?;
    compare(&receiver, &run(&endpoint, Protocol::HttpProtobuf, 9).await?).await;
    assert!(!receiver.encodings.lock().await.iter().any(|encoding| encoding == "gzip"));
    receiver.encodings.lock().await.clear();
    compare(&receiver, &run_gzip(&endpoint, Protocol::HttpProtobuf, 9).await?).await;
    assert!(receiver.encodings.lock().await.iter().all(|encoding| encoding == "gzip"));
    Ok(())
}

#[tokio::test]
async fn a_server_that_refuses_fails_the_client() -> Result<()> {
    let receiver = Receiver::default();
    receiver.answers.lock().await.push_back(Err(tonic::Status::invalid_argument("not this")));
    let failure = run(&receiver.serve_grpc()?, Protocol::Grpc, 1).await;
    assert!(format!("{failure:?}").contains("did not take everything"), "{failure:?}");
    Ok(())
}
