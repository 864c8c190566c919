use std::sync::Arc;

use opentelemetry_proto::tonic::logs::v1::LogRecord;
use opentelemetry_proto::tonic::trace::v1::Span;

use super::super::{Limits, Request, prepare};
use super::*;
use crate::otlp::record::Record;
use crate::otlp::{Group, protobuf};

const INTERVAL: Duration = Duration::from_millis(200);

fn queue(batch_rows: usize) -> Queue {
    let bounds = Bounds { batch_rows, batch_interval: INTERVAL, memory: 1 << 20, requests: Some(1000) };
    Queue::new(bounds, None)
}

fn entry<R: Record>(signal: Signal, record: R) -> Entry {
    let groups = [Group { resource: Arc::default(), scope: Arc::default(), records: vec![record] }];
    let (encoding, body) = (Encoding::Protobuf, Bytes::from(protobuf::encode(&groups)));
    let request = Request { signal, encoding, body: body.clone() };
    let prepared = prepare::prepare(&request, &Limits::default()).expect("a good request");
    let source = Source { signal, encoding, own: false, place: Place::Memory(body) };
    Entry { source, prepared, since: Instant::now(), reply: None }
}

fn span(number: u8) -> Entry {
    let span = Span { trace_id: vec![1; 16], span_id: vec![number; 8], ..Span::default() };
    entry(Signal::Traces, span)
}

fn log() -> Entry {
    entry(Signal::Logs, LogRecord::default())
}

async fn work(queue: &Queue) -> Work {
    match queue.take(false).await {
        Some(Taken::Work(work)) => work,
        other => panic!("expected work, got {other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn lanes_take_turns_and_each_gives_its_oldest_first() {
    let queue = queue(1);
    let mut hashes = Vec::new();
    for number in 1..=3 {
        let entry = span(number);
        hashes.push(entry.prepared.batch.request_hash);
        queue.push(entry);
    }
    queue.push(log());
    let mut signals = Vec::new();
    let mut spans = Vec::new();
    for _ in 0..4 {
        let work = work(&queue).await;
        signals.push(work.signal);
        if work.signal == Signal::Traces {
            spans.push(work.entries[0].prepared.batch.request_hash);
        }
    }
    assert_eq!(signals, [Signal::Traces, Signal::Logs, Signal::Traces, Signal::Traces]);
    assert_eq!(spans, hashes);
}

#[tokio::test(start_paused = true)]
async fn a_batch_waits_for_more_and_no_longer_than_the_interval() {
    let queue = queue(2);
    let began = Instant::now();
    queue.push(span(1));
    assert_eq!(work(&queue).await.entries.len(), 1);
    assert_eq!(began.elapsed(), INTERVAL);
    let began = Instant::now();
    for number in 1..=3 {
        queue.push(span(number));
    }
    assert_eq!(work(&queue).await.entries.len(), 2);
    assert_eq!(began.elapsed(), Duration::ZERO, "it is full");
    queue.close();
    assert_eq!(work(&queue).await.entries.len(), 1);
    assert_eq!(began.elapsed(), Duration::ZERO, "nothing more comes");
    assert!(queue.take(false).await.is_none());
}

#[tokio::test(start_paused = true)]
async fn what_fails_comes_back_in_halves_until_it_is_alone_and_then_pauses() {
    let queue = queue(4);
    for number in 1..=4 {
        queue.push(span(number));
    }
    let all = work(&queue).await;
    queue.give_back_failed(all, 0, true);
    let half = work(&queue).await;
    assert_eq!(half.entries.len(), 2);
    queue.give_back_failed(half, 0, true);
    let mut alone = work(&queue).await;
    assert_eq!(alone.entries.len(), 1);
    alone.record.alone = 1;
    queue.give_back_failed(alone, 0, true);
    let began = Instant::now();
    assert_eq!((work(&queue).await.entries.len(), work(&queue).await.entries.len()), (1, 2));
    assert_eq!(began.elapsed(), Duration::ZERO, "the others do not wait for it");
    assert_eq!(work(&queue).await.record.alone, 1);
    assert_eq!(began.elapsed(), FIRST_PAUSE);
}

#[tokio::test(start_paused = true)]
async fn a_probe_passes_over_what_failed_alone_and_takes_the_rest_by_age() {
    let queue = queue(1);
    for number in 1..=3 {
        queue.push(span(number));
        tokio::time::advance(Duration::from_millis(1)).await;
    }
    let (mut suspect, second) = (work(&queue).await, work(&queue).await);
    suspect.record.alone = 1;
    let oldest = second.entries[0].since;
    queue.give_back_failed(suspect, 0, true);
    queue.give_back_failed(second, 0, true);
    tokio::time::advance(FIRST_PAUSE).await;
    let mut ages = Vec::new();
    for _ in 0..3 {
        let Some(Taken::Work(probe)) = queue.take(true).await else { panic!("there is work") };
        ages.push((probe.record.alone, probe.entries[0].since >= oldest));
    }
    assert_eq!(ages, [(0, true), (0, true), (1, false)]);
}

#[tokio::test(start_paused = true)]
async fn a_lane_that_cannot_be_written_is_held_and_the_others_are_not() {
    let queue = queue(1);
    queue.push(span(1));
    queue.push(span(2));
    let failed = work(&queue).await;
    queue.give_back_failed(failed, 0, false);
    queue.push(log());
    let began = Instant::now();
    assert_eq!(work(&queue).await.signal, Signal::Logs);
    assert_eq!(began.elapsed(), Duration::ZERO);
    let again = work(&queue).await;
    assert_eq!((again.signal, began.elapsed()), (Signal::Traces, FIRST_PAUSE));
    queue.give_back_failed(again, 0, false);
    queue.written(Signal::Traces);
    work(&queue).await;
    assert_eq!(began.elapsed(), FIRST_PAUSE, "a success ends it");
}

#[tokio::test(start_paused = true)]
async fn what_comes_back_counts_against_the_bound() {
    let bounds = Bounds { batch_rows: 1, batch_interval: INTERVAL, memory: 1 << 20, requests: Some(2) };
    let queue = Queue::new(bounds, None);
    assert!(queue.push(span(1)).is_empty());
    let taken = work(&queue).await;
    queue.give_back(taken);
    assert!(queue.push(span(2)).is_empty());
    assert_eq!(queue.push(span(3)).len(), 1, "the oldest that waits and has not been tried");
    queue.close();
    assert_eq!(queue.push(span(4)).len(), 1, "closed");
}
