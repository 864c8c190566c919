//! What is acknowledged is handed to the outlet before the answer, and what is refused is not.

use std::sync::{Arc, Mutex};

use futures::FutureExt as _;
use futures::future::BoxFuture;
use oneiric_otel::otlp::Signal;
use oneiric_otel::pipeline::{Ack, Ingest, IngestOptions, Outlet, Refused, Request};
use oneiric_otel::store::Database;
use oneiric_otel_spool::{Spool, SpoolOptions};
use opentelemetry_proto::tonic::trace::v1::Span;

use crate::spooling::{migrated, one_span, open, options, send, stored};
use crate::writing::{request, span};

/// Takes its time, and notes what it has taken then.
#[derive(Debug, Clone, Default)]
struct Notes {
    taken: Arc<Mutex<Vec<Request>>>,
}

impl Outlet for Notes {
    fn take(&self, request: Request, _own: bool) -> BoxFuture<'static, ()> {
        let taken = Arc::clone(&self.taken);
        async move {
            for _ in 0..10 {
                tokio::task::yield_now().await;
            }
            taken.lock().expect("a lock").push(request);
        }
        .boxed()
    }
}

impl Notes {
    fn bodies(&self) -> Vec<Vec<u8>> {
        self.taken.lock().expect("a lock").iter().map(|request| request.body.to_vec()).collect()
    }
}

fn with_notes(ack: Ack) -> (Notes, IngestOptions) {
    let notes = Notes::default();
    let outlet: Arc<dyn Outlet> = Arc::new(notes.clone());
    (notes, IngestOptions { outlet: Some(outlet), ..options(ack) })
}

#[tokio::test(flavor = "multi_thread")]
async fn with_every_promise_the_outlet_has_it_when_the_answer_comes() {
    let dir = tempfile::tempdir().expect("a directory");
    for ack in [Ack::Stored, Ack::Spooled(open(dir.path())), Ack::Memory { requests: 10 }] {
        let (test, database) = migrated().await;
        let (notes, options) = with_notes(ack);
        let ingest = Ingest::start(database, options);
        for number in 0..5 {
            send(&ingest, Signal::Traces, one_span(number)).await.expect("accepted");
            assert_eq!(notes.bodies().last(), Some(&one_span(number)), "as it came");
        }
        // One good record is enough, and the request goes on as it is.
        let mixed = request(vec![span(1, 1, "good"), Span { trace_id: vec![1], ..span(1, 2, "bad") }]);
        let accepted = send(&ingest, Signal::Traces, mixed.clone()).await.expect("accepted");
        assert_eq!((accepted.records, accepted.rejected), (1, 1));
        assert_eq!(notes.bodies().last(), Some(&mixed));
        // Of these nothing is kept.
        let bad = request(vec![Span { trace_id: vec![1], ..span(1, 2, "bad") }]);
        assert_eq!(send(&ingest, Signal::Traces, bad).await.expect("answered").records, 0);
        let malformed = send(&ingest, Signal::Traces, b"no protobuf".to_vec()).await;
        assert!(matches!(malformed, Err(Refused::Malformed { .. })), "{malformed:?}");
        assert_eq!(notes.bodies().len(), 6);
        ingest.drain().await;
        assert_eq!(stored(&test).await.0, 6);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_again_and_again_because_there_is_no_room_is_not_handed_over() {
    let dir = tempfile::tempdir().expect("a directory");
    let small = SpoolOptions { max_bytes: 64 << 10, ..SpoolOptions::new(dir.path(), Signal::ALL.map(Signal::as_str)) };
    let (notes, options) = with_notes(Ack::Spooled(Spool::open(small).expect("a spool").0));
    let ingest = Ingest::new(options);
    let large = |id: u8| request(vec![Span { name: "x".repeat(20_000), ..span(9, id, "") }]);
    let mut accepted = 0;
    for id in 1..10 {
        accepted += usize::from(send(&ingest, Signal::Traces, large(id)).await.is_ok());
    }
    assert!((1..9).contains(&accepted), "{accepted}");
    assert_eq!(notes.bodies().len(), accepted);

    let nowhere = Database::new("postgresql://nobody@127.0.0.1:1/none").expect("a valid URL");
    let (notes, options) = with_notes(Ack::Stored);
    let ingest = Ingest::start(nowhere, options);
    send(&ingest, Signal::Traces, one_span(1)).await.expect_err("it is not stored");
    assert!(notes.bodies().is_empty());
}
