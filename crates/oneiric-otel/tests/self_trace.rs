//! Own requests are stored like others, make no spans, and give way.
//!
//! A program of its own, because `tracing` remembers of each span for the whole process whether anybody wants it: tests
//! beside this one, which do not, would answer for it.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use oneiric_otel::derive::{DeriveOptions, Deriver};
use oneiric_otel::otlp::{Encoding, Group, ResourceEnvelope, Signal, protobuf};
use oneiric_otel::pipeline::{Ack, Ingest, IngestOptions, Refused, Request};
use oneiric_otel::self_trace;
use oneiric_otel::store::Database;
use oneiric_otel_spool::{Spool, SpoolOptions};
use oneiric_otel_testkit::TestDatabase;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::Span;
use tracing::span::Attributes;
use tracing::{Id, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};

/// Notes the names of own spans.
#[derive(Clone, Default)]
struct Names(Arc<Mutex<Vec<&'static str>>>);

impl Names {
    fn take(&self) -> Vec<&'static str> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl<S: Subscriber> Layer<S> for Names {
    fn on_new_span(&self, attributes: &Attributes<'_>, _: &Id, _: Context<'_, S>) {
        if attributes.metadata().target() == self_trace::TARGET {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).push(attributes.metadata().name());
        }
    }
}

fn open(dir: &Path) -> Ack {
    Ack::Spooled(Spool::open(SpoolOptions::new(dir, Signal::ALL.map(Signal::as_str))).expect("a spool").0)
}

/// A request with a trace of one span of this service.
fn request(trace: u8, service: &str) -> Request {
    let name = AnyValue { value: Some(Value::StringValue(service.to_owned())) };
    let name = KeyValue { key: "service.name".to_owned(), value: Some(name), ..KeyValue::default() };
    let resource = Resource { attributes: vec![name], ..Resource::default() };
    let resource = Arc::new(ResourceEnvelope { resource: Some(resource), ..ResourceEnvelope::default() });
    let span = Span { trace_id: vec![trace; 16], span_id: vec![1; 8], name: "work".to_owned(), ..Span::default() };
    let body = protobuf::encode(&[Group { resource, scope: Arc::default(), records: vec![span] }]);
    Request { signal: Signal::Traces, encoding: Encoding::Protobuf, body: body.into() }
}

// On one thread, so that the thread's subscriber sees the writers too.
#[tokio::test]
async fn writing_own_requests_makes_no_spans_even_after_a_restart() {
    let names = Names::default();
    let subscriber = tracing::subscriber::set_default(tracing_subscriber::registry().with(names.clone()));
    let dir = tempfile::tempdir().expect("a directory");
    let test = TestDatabase::create().await;
    let database = Database::new(test.url()).expect("a valid URL");
    database.migrate().await.expect("migrates");

    let options = |ack| IngestOptions { ack, ..IngestOptions::default() };
    let ingest = Ingest::new(options(open(dir.path())));
    ingest.submit_own(request(1, self_trace::SERVICE_NAME)).await.expect("accepted");
    assert_eq!(ingest.counts().own_requests, 1);
    assert_eq!(ingest.counts().requests_of_others(), 0);
    ingest.abandon().await;
    drop(ingest);
    let ingest = Ingest::start(database.clone(), options(open(dir.path())));
    ingest.drain().await;
    assert_eq!(test.count("SELECT count(*) FROM otel.otel_spans").await, 1);
    assert_eq!(names.take(), [] as [&str; 0]);

    // One transaction for both: that of others counts.
    let ingest = Ingest::new(options(open(dir.path())));
    ingest.submit_own(request(2, self_trace::SERVICE_NAME)).await.expect("accepted");
    ingest.submit(request(3, "shop")).await.expect("accepted");
    ingest.start_writing(database.clone());
    ingest.drain().await;
    assert_eq!(names.take(), ["spool append", "write"]);

    let derived = Deriver::new(database, DeriveOptions::default()).derive_all_now().await.expect("derived");
    assert_eq!((derived.traces, derived.own_traces), (3, 2));
    drop(subscriber);
}

#[tokio::test]
async fn own_requests_leave_the_last_quarter_of_the_room_to_others() {
    let ack = Ack::Memory { requests: 4 };
    let ingest = Ingest::new(IngestOptions { ack, ..IngestOptions::default() });
    ingest.submit_own(request(1, self_trace::SERVICE_NAME)).await.expect("there is room");
    for trace in 2..4 {
        ingest.submit(request(trace, "shop")).await.expect("accepted");
    }
    let refused = ingest.submit_own(request(4, self_trace::SERVICE_NAME)).await;
    assert!(matches!(refused, Err(Refused::Unavailable { .. })), "{refused:?}");
    ingest.submit(request(5, "shop")).await.expect("accepted");
    let counts = ingest.counts();
    assert_eq!((counts.own_requests, counts.unavailable_requests, counts.dropped_records), (1, 0, 0));
}
