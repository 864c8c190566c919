//! What is exported and taken in elsewhere is there as it was here.

use oneiric_otel::otlp::file::{self, FileRequest};
use oneiric_otel::otlp::record::Record as _;
use oneiric_otel::otlp::{Encoding, Signal};
use oneiric_otel::pipeline::Request;
use oneiric_otel::query::{ExportPart, ExportRequest, QueryService};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, ArrayValue};
use opentelemetry_proto::tonic::logs::v1::LogRecord;

use crate::fidelity::{self, Contents};
use crate::scene::NOON;
use crate::writing::{Bench, gauge, log, request, span};

fn everything(encoding: Encoding) -> ExportRequest {
    ExportRequest { since: None, until: None, service: None, signals: Signal::ALL.to_vec(), encoding }
}

async fn export(bench: &Bench, request: ExportRequest) -> Vec<ExportPart> {
    let mut export = QueryService::new(bench.store.clone(), None).export(request).unwrap();
    let mut parts = Vec::new();
    while let Some(part) = export.next().await.unwrap() {
        parts.push(part);
    }
    parts
}

/// As a file reader finds them, which sees lines or lengths and no parts.
fn through_a_file(encoding: Encoding, parts: &[ExportPart]) -> Vec<FileRequest> {
    let mut requests = Vec::new();
    for signal in Signal::ALL {
        let mut bytes = Vec::new();
        for part in parts.iter().filter(|part| part.signal == signal) {
            match encoding {
                Encoding::Json => {
                    assert!(!part.body.contains(&b'\n'));
                    bytes.extend_from_slice(&part.body);
                    bytes.push(b'\n');
                }
                Encoding::Protobuf => {
                    bytes.extend_from_slice(&u32::try_from(part.body.len()).unwrap().to_be_bytes());
                    bytes.extend_from_slice(&part.body);
                }
            }
        }
        requests.extend(file::requests("", bytes.into(), Some(signal)).map(Result::unwrap));
    }
    requests
}

async fn take_in(bench: &Bench, requests: Vec<FileRequest>) {
    for FileRequest { signal, encoding, body, .. } in requests {
        let accepted = bench.ingest.submit(Request { signal, encoding, body }).await.unwrap();
        assert_eq!(accepted.rejected, 0, "{}", accepted.message);
    }
}

async fn contents(bench: &Bench) -> [Contents; 3] {
    [
        fidelity::contents_of(&bench.store.all_spans().await.unwrap()),
        fidelity::contents_of(&bench.store.all_logs().await.unwrap()),
        fidelity::contents_of(&bench.store.all_points().await.unwrap()),
    ]
}

async fn compare(left: &Bench, right: &Bench) {
    let names = ["spans", "logs", "data points"];
    for ((name, left), right) in names.into_iter().zip(contents(left).await).zip(contents(right).await) {
        fidelity::same(name, &right, &left);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn arbitrary_records_are_carried_by_protobuf_and_by_json_but_for_what_is_said() {
    let source = Bench::new().await;
    let mut sent = 0;
    for (spans, logs, metrics) in fidelity::generate(40) {
        fidelity::send(&source, &spans).await;
        fidelity::send(&source, &logs).await;
        fidelity::send(&source, &metrics).await;
        sent += 1;
    }
    let stored: Vec<usize> =
        contents(&source).await.iter().map(|kind| kind.values().map(|(count, _)| count).sum()).collect();
    assert!(sent > 0 && stored.iter().all(|count| *count > 100), "{stored:?}");

    let parts = export(&source, everything(Encoding::Protobuf)).await;
    for (signal, stored) in Signal::ALL.into_iter().zip([stored[0], stored[2], stored[1]]) {
        let records: u64 = parts.iter().filter(|part| part.signal == signal).map(|part| part.records).sum();
        assert_eq!(records, stored as u64, "{signal:?}");
    }
    assert_eq!(parts.iter().map(|part| part.not_carried).sum::<u64>(), 0);
    assert_eq!(parts, export(&source, everything(Encoding::Protobuf)).await, "the same every time");
    let target = Bench::new().await;
    take_in(&target, through_a_file(Encoding::Protobuf, &parts)).await;
    compare(&source, &target).await;

    // Of JSON it is said how many records differ, and no more do.
    let parts = export(&source, everything(Encoding::Json)).await;
    let said: u64 = parts.iter().map(|part| part.not_carried).sum();
    let target = Bench::new().await;
    take_in(&target, through_a_file(Encoding::Json, &parts)).await;
    let mut lost = 0;
    for (source, target) in contents(&source).await.iter().zip(contents(&target).await) {
        for (key, (count, what)) in source {
            let there = target.get(key).map_or(0, |(count, _)| *count);
            lost += count.saturating_sub(there) as u64;
            assert!(there >= *count || what.contains("NaN"), "only the payload of a NaN has no form in JSON: {what}");
        }
    }
    assert!(0 < lost && lost <= said, "{lost} records are lost, {said} were said to be");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_range_and_a_service_narrow_an_export_to_the_nanosecond() {
    let bench = Bench::new().await;
    bench.send(Signal::Traces, request((0..10).map(|id| span(1, id + 1, "a")).collect())).await.unwrap();
    bench.send(Signal::Traces, crate::scene::of_service("till", vec![span(2, 5, "b")])).await.unwrap();
    let at = |nanos: u64| Some(jiff::Timestamp::from_nanosecond(nanos.into()).unwrap());
    let count =
        async |request: ExportRequest| export(&bench, request).await.iter().map(|part| part.records).sum::<u64>();
    let all = everything(Encoding::Json);
    assert_eq!(count(all.clone()).await, 11);
    // Span number n begins n milliseconds after noon.
    let third = NOON + 3_000_000;
    assert_eq!(count(ExportRequest { since: at(third), ..all.clone() }).await, 9);
    assert_eq!(count(ExportRequest { since: at(third + 1), ..all.clone() }).await, 8);
    assert_eq!(count(ExportRequest { until: at(third), ..all.clone() }).await, 2);
    assert_eq!(count(ExportRequest { until: at(third + 1), ..all.clone() }).await, 3);
    assert_eq!(count(ExportRequest { service: Some("till".to_owned()), ..all.clone() }).await, 1);
    assert_eq!(count(ExportRequest { signals: vec![Signal::Logs], ..all.clone() }).await, 0);
    let backwards = ExportRequest { since: at(third), until: at(third), ..all };
    let refused = QueryService::new(bench.store.clone(), None).export(backwards).unwrap_err();
    assert_eq!(refused.to_string(), "until: expected a time after since");
}

#[tokio::test(flavor = "multi_thread")]
async fn parts_are_bounded_and_equal_ones_are_told_apart() {
    let bench = Bench::new().await;
    // Nothing tells these records apart: they fill several parts that would be equal.
    for _ in 0..2 {
        let mut logs = request(vec![log("x"); 4000]);
        logs.extend_from_slice(&request(vec![log("y"); bench.count("otel_logs").await as usize / 4000 + 1]));
        bench.send(Signal::Logs, logs).await.unwrap();
    }
    bench.send(Signal::Metrics, request(vec![gauge("g", &[1.0, 2.0, 3.0])])).await.unwrap();
    for encoding in [Encoding::Json, Encoding::Protobuf] {
        let parts = export(&bench, everything(encoding)).await;
        assert!(parts.iter().all(|part| part.records <= 2000 && part.not_carried == 0));
        assert!(parts.len() > 4);
        let points = parts.iter().find(|part| part.signal == Signal::Metrics).unwrap();
        assert_eq!(points.records, 3);
        let target = Bench::new().await;
        take_in(&target, through_a_file(encoding, &parts)).await;
        compare(&bench, &target).await;
    }
}

/// A record that JSON readers refuse because it is nested too deep, and one that is too long in JSON, cost nothing but
/// themselves.
#[tokio::test(flavor = "multi_thread")]
async fn what_json_does_not_carry_is_counted_and_its_neighbours_come_through() {
    let bench = Bench::new().await;
    let mut deep = AnyValue { value: Some(Value::IntValue(1)) };
    for _ in 0..45 {
        deep = AnyValue { value: Some(Value::ArrayValue(ArrayValue { values: vec![deep] })) };
    }
    let deep = LogRecord { body: Some(deep), ..log("") };
    let long = log(&"\u{1}".repeat(12 << 20));
    bench.send(Signal::Logs, request(vec![log("before"), deep, long, log("behind")])).await.unwrap();
    assert_eq!(bench.count("otel_logs").await, 4);
    let parts = export(&bench, everything(Encoding::Json)).await;
    assert_eq!(parts.iter().map(|part| part.records).sum::<u64>(), 4);
    assert_eq!(parts.iter().map(|part| part.not_carried).sum::<u64>(), 2);
    let readable = parts.iter().filter(|part| part.body.len() <= file::MAX_REQUEST_BYTES);
    let carried: u64 = readable
        .map(|part| oneiric_otel::otlp::json::decode::<LogRecord>(&part.body).unwrap())
        .flat_map(|read| read.groups)
        .flat_map(|group| group.records)
        .map(|record| record.count())
        .sum();
    assert_eq!(carried, 2);
    let exact = export(&bench, everything(Encoding::Protobuf)).await;
    assert_eq!(exact.iter().map(|part| part.not_carried).sum::<u64>(), 0);
}
