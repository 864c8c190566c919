//! What is read back from the database equals what came in, floats by bits.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use oneiric_otel::otlp::canonical::bytes as canonical;
use oneiric_otel::otlp::point::{self, Points};
use oneiric_otel::otlp::record::Record;
use oneiric_otel::otlp::{self, Decoded, Encoding, Group, ResourceEnvelope, ScopeEnvelope, Signal, protobuf};
use oneiric_otel::pipeline::{Refused, Request};
use oneiric_otel::store::Stored;
use oneiric_otel_testkit::arbitrary;
use oneiric_otel_testkit::data::{files, shared_data_for};
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use opentelemetry_proto::tonic::metrics::v1::Metric;
use opentelemetry_proto::tonic::trace::v1::Span;
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::TestRunner;

use crate::writing::Bench;

/// Records by everything that must survive, with how often each is there and what it looks like.
pub(crate) type Contents = BTreeMap<[Vec<u8>; 3], (usize, String)>;

fn add<R: otlp::canonical::Encode + std::fmt::Debug>(
    contents: &mut Contents,
    resource: &ResourceEnvelope,
    scope: &ScopeEnvelope,
    record: &R,
) {
    let entry = contents.entry([canonical(resource), canonical(scope), canonical(record)]).or_default();
    entry.0 += 1;
    entry.1 = format!("{resource:?}\n{scope:?}\n{record:?}");
}

pub(crate) fn contents_of<R: otlp::canonical::Encode + std::fmt::Debug>(stored: &[Stored<R>]) -> Contents {
    let mut contents = Contents::new();
    for one in stored {
        add(&mut contents, &one.resource, &one.scope, &one.record);
    }
    contents
}

/// Spans: each distinct valid one once.
fn expected_spans(groups: &[Group<Span>]) -> Contents {
    let mut contents = Contents::new();
    for group in groups {
        for span in group.records.iter().filter(|span| is_valid(&span.trace_id, 16) && is_valid(&span.span_id, 8)) {
            add(&mut contents, &group.resource, &group.scope, span);
        }
    }
    once_each(contents)
}

/// Log records: every one.
fn expected_logs(groups: &[Group<LogRecord>]) -> Contents {
    let mut contents = Contents::new();
    for group in groups {
        for log in &group.records {
            add(&mut contents, &group.resource, &group.scope, log);
        }
    }
    contents
}

/// Data points: each distinct one once, as a metric of its own.
fn expected_points(groups: &[Group<Metric>]) -> Contents {
    let mut contents = Contents::new();
    for group in groups {
        for metric in &group.records {
            let Some((descriptor, points)) = point::split(metric.clone()) else { continue };
            for index in 0..points.len() {
                let one: Points = points.only(index).unwrap();
                let metric = point::join(descriptor.clone(), one).unwrap();
                add(&mut contents, &group.resource, &group.scope, &metric);
            }
        }
    }
    once_each(contents)
}

fn once_each(mut contents: Contents) -> Contents {
    for (count, _) in contents.values_mut() {
        *count = 1;
    }
    contents
}

fn is_valid(id: &[u8], length: usize) -> bool {
    id.len() == length && id.iter().any(|byte| *byte != 0)
}

pub(crate) async fn send<R: Record>(bench: &Bench, groups: &[Group<R>]) {
    let request = Request { signal: R::SIGNAL, encoding: Encoding::Protobuf, body: protobuf::encode(groups).into() };
    bench.ingest.submit(request).await.unwrap();
}

async fn compare(bench: &Bench, spans: &[Group<Span>], logs: &[Group<LogRecord>], metrics: &[Group<Metric>]) {
    same("spans", &contents_of(&bench.store.all_spans().await.unwrap()), &expected_spans(spans));
    same("logs", &contents_of(&bench.store.all_logs().await.unwrap()), &expected_logs(logs));
    same("data points", &contents_of(&bench.store.all_points().await.unwrap()), &expected_points(metrics));
}

pub(crate) fn same(what: &str, stored: &Contents, expected: &Contents) {
    let differing = |left: &Contents, right: &Contents| -> Vec<String> {
        let counts = |contents: &Contents, key: &[Vec<u8>; 3]| contents.get(key).map_or(0, |(count, _)| *count);
        left.iter()
            .filter(|(key, (count, _))| counts(right, key) != *count)
            .map(|(_, entry)| format!("{}x {}", entry.0, entry.1))
            .collect()
    };
    let (missing, surplus) = (differing(expected, stored), differing(stored, expected));
    assert!(
        missing.is_empty() && surplus.is_empty(),
        "{} {what} are missing and {} are too many; first\nexpected {}\nstored   {}",
        missing.len(),
        surplus.len(),
        missing.first().map_or("-", String::as_str),
        surplus.first().map_or("-", String::as_str),
    );
}

fn groups<R: std::fmt::Debug + Clone + 'static>(
    record: impl Strategy<Value = R> + 'static,
) -> impl Strategy<Value = Vec<Group<R>>> {
    let group = (arbitrary::resource_envelope(), arbitrary::scope_envelope(), prop::collection::vec(record, 0..12))
        .prop_map(|((resource, resource_url), (scope, scope_url), records)| Group {
            resource: Arc::new(ResourceEnvelope { resource, schema_url: resource_url }),
            scope: Arc::new(ScopeEnvelope { scope, schema_url: scope_url }),
            records,
        });
    prop::collection::vec(group, 1..4)
}

pub(crate) type Requests = (Vec<Group<Span>>, Vec<Group<LogRecord>>, Vec<Group<Metric>>);

/// Requests of any content, the same ones in every run.
pub(crate) fn generate(count: usize) -> Vec<Requests> {
    let generate = move || {
        let mut runner = TestRunner::deterministic();
        let spans = groups(prop_oneof![6 => arbitrary::valid_span(), 1 => arbitrary::span()]);
        let strategy = (spans, groups(arbitrary::log_record()), groups(arbitrary::metric()));
        (0..count).map(|_| strategy.new_tree(&mut runner).unwrap().current()).collect()
    };
    // Unoptimised strategies nest deeper than a test's stack.
    std::thread::Builder::new().stack_size(64 << 20).spawn(generate).unwrap().join().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn arbitrary_records_come_back_as_they_came() {
    let bench = Bench::new().await;
    let client = bench.test.client().await;
    for (spans, logs, metrics) in generate(60) {
        send(&bench, &spans).await;
        send(&bench, &logs).await;
        send(&bench, &metrics).await;
        compare(&bench, &spans, &logs, &metrics).await;
        client
            .batch_execute("TRUNCATE otel_spans, otel_logs, otel_metrics, otel_ingest_ledger, otel_trace_touches")
            .await
            .unwrap();
        assert_eq!(bench.count("otel_telemetry_dlq").await, 0, "nothing that OTLP can say is poison");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn recorded_telemetry_comes_back_as_it_came() {
    let Some(folder) = shared_data_for("recorded_telemetry_comes_back_as_it_came", "otlp") else { return };
    let bench = Bench::new().await;
    let (mut spans, mut logs, mut metrics) = (Vec::new(), Vec::new(), Vec::new());
    let mut sent = HashSet::new();
    for file in files(&folder) {
        let name = file.file_name().unwrap().to_string_lossy().into_owned();
        for request in otlp::file::requests(&name, std::fs::read(&file).unwrap().into(), None).flatten() {
            let (signal, encoding, body) = (request.signal, request.encoding, request.body);
            match bench.ingest.submit(Request { signal, encoding, body: body.clone() }).await {
                Ok(_) => {}
                Err(Refused::Malformed { .. }) => continue,
                Err(refused) => panic!("{name}: {refused}"),
            }
            if !sent.insert((signal, body.clone())) {
                continue; // the same bytes stand in two files: the second adds nothing
            }
            match signal {
                Signal::Traces => spans.extend(decoded(otlp::decode(encoding, &body))),
                Signal::Logs => logs.extend(decoded(otlp::decode(encoding, &body))),
                Signal::Metrics => metrics.extend(decoded(otlp::decode(encoding, &body))),
            }
        }
    }
    assert!(!spans.is_empty() && !logs.is_empty() && !metrics.is_empty(), "the folder holds all three signals");
    compare(&bench, &spans, &logs, &metrics).await;
}

fn decoded<R>(result: Result<Decoded<R>, otlp::Malformed>) -> Vec<Group<R>> {
    result.unwrap().groups
}
