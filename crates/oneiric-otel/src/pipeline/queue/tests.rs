use std::sync::Arc;

use opentelemetry_proto::tonic::logs::v1::LogRecord;
use opentelemetry_proto::tonic::trace::v1::Span;

use super::super::{Limits, Request, prepare};
use super::*;
use crate::otlp::record::Record;
use crate::otlp::{Group, protobuf};

const INTERVAL: Duration = Duration::from_millis(200);

fn queue(batch_rows: usize) -> Queue {
    let bounds = Bounds { batch_rows, batch_interval: INTERVAL, memory: 1 << 20, requests: Some(1000), writers: 100 };
    Queue::new(bounds, None)
}

fn entry<R: Record>(signal: Signal, record: R) -> Entry {
    let groups = [Group { resource: Arc::default(), scope: Arc::default(), records: vec![record] }];
    let (encoding, body) = (Encoding::Protobuf, Bytes::from(protobuf::encode(&groups)));
    let request = Request { signal, encoding, body: body.clone() };
    let prepared = prepare::prepare(&request, &Limits::default()).expect("a good request");
    let source = Source { signal, encoding, own: false, place: Place::Memory(body) };
    Entry { source, records: prepared.verdict.records, batch: prepared.batch, since: Instant::now(), reply: None }
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
        hashes.push(entry.batch.request_hash);
        queue.push(entry);
    }
    queue.push(log());
    let mut signals = Vec::new();
    let mut spans = Vec::new();
    for _ in 0..4 {
        let work = work(&queue).await;
        signals.push(work.signal);
        if work.signal == Signal::Traces {
            spans.push(work.entries[0].batch.request_hash);
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
async fn what_comes_back_counts_against_the_bound_and_is_the_oldest() {
    let bounds = Bounds { batch_rows: 2, batch_interval: INTERVAL, memory: 1 << 20, requests: Some(3), writers: 4 };
    let queue = Queue::new(bounds, None);
    let mut hashes = Vec::new();
    for number in 1..=3 {
        let entry = span(number);
        hashes.push(entry.batch.request_hash);
        assert!(queue.push(entry).is_empty());
        tokio::time::advance(Duration::from_millis(1)).await;
    }
    let taken = work(&queue).await;
    assert_eq!(taken.entries.len(), 2);
    queue.give_back(taken);
    let gone: Vec<_> = (4..=6).flat_map(|number| queue.push(span(number))).collect();
    let gone: Vec<_> = gone.iter().map(|entry| entry.batch.request_hash).collect();
    assert_eq!(gone, hashes, "the oldest first, tried or not");
    queue.close();
    assert_eq!(queue.push(span(4)).len(), 1, "closed");
}

/// A queue on a spool, and what has come out of it.
struct Spooled {
    spool: Spool,
    queue: Queue,
    appended: Vec<EntryId>,
    written: Vec<EntryId>,
    _dir: tempfile::TempDir,
}

impl Spooled {
    fn new(memory: usize) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let options = oneiric_otel_spool::SpoolOptions::new(dir.path(), Signal::ALL.map(Signal::as_str));
        let spool = Spool::open(options).expect("a spool").0;
        let bounds = Bounds { batch_rows: 2, batch_interval: Duration::ZERO, memory, requests: None, writers: 4 };
        let queue = Queue::new(bounds, Some(spool.clone()));
        Self { spool, queue, appended: Vec::new(), written: Vec::new(), _dir: dir }
    }

    fn entry(number: usize, id: EntryId) -> Entry {
        let mut entry = span(u8::try_from(number % 255).expect("below 255") + 1);
        entry.source.place = Place::Spool(id);
        entry
    }

    async fn append(&mut self) -> EntryId {
        let (sender, durable) = oneshot::channel();
        let tell = move |outcome: Result<EntryId, _>| {
            sender.send(outcome.expect("there is room")).expect("waited for");
        };
        self.spool.append(0, 0, Bytes::from_static(b"x"), tell).await.expect("there is room");
        let id = durable.await.expect("told");
        self.appended.push(id);
        id
    }

    async fn push(&mut self, is_prepared: bool) {
        let id = self.append().await;
        let number = self.appended.len();
        self.queue.push_spooled(id, Signal::Traces, is_prepared.then(|| Self::entry(number, id)));
    }

    fn take(&self) -> Option<Taken> {
        futures::FutureExt::now_or_never(self.queue.take(false)).flatten()
    }

    /// What is taken is written at once, or handed back as if the database were away.
    fn work(&mut self, gives_back: bool) -> Option<Reading> {
        match self.take()? {
            Taken::Reading(reading) => return Some(reading),
            Taken::Work(work) if gives_back => {
                self.queue.give_back(work);
                self.queue.leave(Signal::Traces);
            }
            Taken::Work(work) => {
                self.queue.leave(Signal::Traces);
                for entry in work.entries {
                    let Place::Spool(id) = entry.source.place else { panic!("everything is in the spool") };
                    self.written.push(id);
                    self.spool.release(id);
                }
            }
        }
        None
    }

    fn read(&self, reading: &Reading) {
        let mut read = Read { entries: Vec::new(), to: reading.from, last: None, trouble: false };
        let mut left = reading.bytes;
        while left > 0
            && let Some(id) = self.spool.next(0, read.to)
        {
            let number = self.appended.iter().position(|one| *one == id).expect("appended") + 1;
            let entry = Self::entry(number, id);
            left = left.saturating_sub(entry.memory());
            read.entries.push(entry);
            (read.to, read.last) = (id.after(), Some(id));
        }
        self.queue.refill(reading, read);
    }
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Push {
        is_prepared: bool,
    },
    Work {
        gives_back: bool,
    },
    /// Somebody takes the right to read, and hands over what was read some steps later.
    EndReading,
}

fn steps() -> impl proptest::strategy::Strategy<Value = Vec<Step>> {
    use proptest::prelude::*;
    let step = prop_oneof![
        3 => any::<bool>().prop_map(|is_prepared| Step::Push { is_prepared }),
        2 => proptest::bool::weighted(0.2).prop_map(|gives_back| Step::Work { gives_back }),
        1 => Just(Step::EndReading),
    ];
    proptest::collection::vec(step, 1..60)
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(40))]

    #[test]
    fn whatever_is_prepared_and_whatever_fits_everything_comes_out_once_and_in_order(
        steps in steps(), memory in 0usize..12_000,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let (appended, written) = runtime.block_on(async {
            let mut spooled = Spooled::new(memory);
            let mut reading = None;
            for step in steps {
                match step {
                    Step::Push { is_prepared } => spooled.push(is_prepared).await,
                    Step::Work { gives_back } => reading = spooled.work(gives_back).or(reading),
                    Step::EndReading => {
                        if let Some(reading) = reading.take() {
                            spooled.read(&reading);
                        }
                    }
                }
            }
            if let Some(reading) = reading {
                spooled.read(&reading);
            }
            spooled.queue.close();
            while spooled.written.len() < spooled.appended.len() {
                let before = spooled.written.len();
                let reading = spooled.work(false);
                assert!(reading.is_some() || spooled.written.len() > before, "{} are left", spooled.appended.len() - before);
                if let Some(reading) = reading {
                    spooled.read(&reading);
                }
            }
            assert!(spooled.queue.take(false).await.is_none());
            (spooled.appended, spooled.written)
        });
        proptest::prop_assert_eq!(written, appended);
    }
}

#[tokio::test]
async fn a_request_that_was_not_prepared_is_read_back_though_the_lane_has_caught_up_meanwhile() {
    let mut spooled = Spooled::new(0);
    spooled.push(true).await;
    assert!(!spooled.queue.takes_spooled(Signal::Traces), "nothing fits");
    let mut spooled = Spooled::new(1 << 20);
    assert!(spooled.queue.takes_spooled(Signal::Traces));
    spooled.push(false).await;
    assert!(!spooled.queue.takes_spooled(Signal::Traces), "one has to be read first");
    assert!(spooled.queue.takes_spooled(Signal::Logs), "it holds up no other lane");
    spooled.push(true).await;
    let reading = spooled.work(false).expect("to be read");
    spooled.read(&reading);
    assert!(spooled.queue.takes_spooled(Signal::Traces), "all of it is here");
    while spooled.written.len() < 2 {
        assert!(spooled.work(false).is_none());
    }
    assert_eq!(spooled.written, spooled.appended);
}

#[tokio::test(start_paused = true)]
async fn a_signal_that_is_stuck_leaves_writers_for_the_others() {
    let bounds = Bounds { batch_rows: 1, batch_interval: INTERVAL, memory: 1 << 20, requests: Some(1000), writers: 4 };
    let queue = Queue::new(bounds, None);
    for number in 1..=4 {
        queue.push(span(number));
    }
    let (first, second) = (work(&queue).await, work(&queue).await);
    let third = tokio::time::timeout(Duration::from_hours(1), queue.take(false)).await;
    assert!(third.is_err(), "two of four are left for logs and metrics");
    queue.push(log());
    assert_eq!(work(&queue).await.signal, Signal::Logs);
    drop((first, second));
    queue.leave(Signal::Traces);
    assert_eq!(work(&queue).await.signal, Signal::Traces, "a writer is free again");
}

#[tokio::test(start_paused = true)]
async fn a_batch_that_is_due_and_has_no_writer_keeps_nobody_busy() {
    let bounds = Bounds { batch_rows: 1, batch_interval: INTERVAL, memory: 1 << 20, requests: Some(1000), writers: 4 };
    let queue = Queue::new(bounds, None);
    for number in 1..=3 {
        queue.push(span(number));
    }
    let mut suspect = work(&queue).await;
    suspect.record.alone = 1;
    queue.give_back_failed(suspect, 0, true);
    queue.leave(Signal::Traces);
    let _in_hand = (work(&queue).await, work(&queue).await);
    tokio::time::advance(FIRST_PAUSE * 2).await;
    let next = queue.lock().next(&bounds, false);
    assert!(matches!(next, Next::Nothing), "there is nothing to wait for but a writer");
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_the_end_takes_no_call_from_who_waits_for_work() {
    let queue = std::sync::Arc::new(queue(1));
    let ends: Vec<_> = (0..3)
        .map(|_| {
            let queue = std::sync::Arc::clone(&queue);
            tokio::spawn(async move { queue.finished().await })
        })
        .collect();
    tokio::task::yield_now().await;
    let taker = {
        let queue = std::sync::Arc::clone(&queue);
        tokio::spawn(async move { work(&queue).await })
    };
    tokio::task::yield_now().await;
    queue.push(span(1));
    let taken = tokio::time::timeout(Duration::from_secs(1), taker).await.expect("it was woken").expect("no panic");
    assert_eq!(taken.entries.len(), 1);
    queue.close();
    for end in ends {
        end.await.expect("no panic");
    }
}

#[tokio::test]
async fn a_lane_reads_ahead_in_parts_while_there_is_something_to_write() {
    let mut spooled = Spooled::new(1 << 20);
    for is_prepared in [true, true, false, true] {
        spooled.push(is_prepared).await;
    }
    let reading = spooled.work(false).expect("a batch is full, and more is to be read all the same");
    assert!(reading.bytes <= (1 << 20) / 4 / Signal::ALL.len(), "{} bytes are no part", reading.bytes);
    assert!(spooled.work(false).is_none());
    assert_eq!(spooled.written.len(), 2, "while one reads, another writes");
    spooled.read(&reading);
    assert!(spooled.work(false).is_none());
    assert_eq!(spooled.written, spooled.appended);
}
