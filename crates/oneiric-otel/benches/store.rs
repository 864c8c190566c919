//! How long `store_*` keep a caller, measured call by call.
//!
//!     cargo bench -p oneiric-otel --bench store [-- CALLS]
//!
//! The database is that of the tests. Calls come as fast as one thread can make them until the queue is full, then wait for
//! room outside of what is measured; and one every millisecond, when the worker sleeps and has to be woken.

#![expect(clippy::print_stdout, clippy::unwrap_used, reason = "a program that reports, and stops at what goes wrong")]

use std::time::{Duration, Instant};

use oneiric_otel::storage::{
    Acknowledge, Attributes, EmbeddingChoice, Level, LogEntry, MetricData, OtelStorage, Receipt, SpanData, SpanId,
    StoreRefused, TraceData, TraceId,
};
use oneiric_otel_testkit::TestDatabase;

/// Spans of a trace and attributes of a span.
const SHAPE: (usize, usize) = (10, 11);

type Store = fn(&OtelStorage) -> (Duration, Result<Receipt, StoreRefused>);

fn main() {
    let calls = std::env::args().skip(1).find_map(|argument| argument.parse().ok()).unwrap_or(20_000);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    machine();
    println!(
        "{:<10} {:<8} {:<10} {:>8} {:>10} {:>10} {:>10} {:>10}",
        "mode", "call", "pace", "calls", "p50 us", "p99 us", "p99.9 us", "max us"
    );
    for mode in [Acknowledge::Spooled, Acknowledge::Stored, Acknowledge::Memory] {
        let (test, dir) = (runtime.block_on(TestDatabase::create()), tempfile::tempdir().unwrap());
        let storage = OtelStorage::builder()
            .connection_string(test.url())
            .data_dir(dir.path())
            .embedding(EmbeddingChoice::None)
            .acknowledge(mode)
            .build()
            .unwrap();
        runtime.block_on(storage.init()).unwrap();
        let stores: [(&str, Store); 3] = [("trace", store_trace), ("log", store_log), ("metric", store_metric)];
        for (call, store) in stores {
            let _ = measure(&storage, store, 1000, None);
            report(mode, call, "fastest", measure(&storage, store, calls, None));
            report(mode, call, "1 ms", measure(&storage, store, 2000, Some(Duration::from_millis(1))));
        }
        runtime.block_on(storage.cleanup()).ok();
    }
}

fn measure(storage: &OtelStorage, store: Store, calls: usize, pause: Option<Duration>) -> Vec<Duration> {
    let mut times = Vec::with_capacity(calls);
    while times.len() < calls {
        match store(storage) {
            (took, Ok(receipt)) => {
                drop(receipt);
                times.push(took);
            }
            (_, Err(StoreRefused::QueueFull { .. })) => std::thread::sleep(Duration::from_millis(50)),
            (_, Err(other)) => panic!("{other}"),
        }
        if let Some(pause) = pause {
            std::thread::sleep(pause);
        }
    }
    times
}

fn report(mode: Acknowledge, call: &str, pace: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e6;
    println!(
        "{:<10} {call:<8} {pace:<10} {:>8} {:>10.2} {:>10.2} {:>10.2} {:>10.2}",
        format!("{mode:?}").to_lowercase(),
        times.len(),
        at(0.5),
        at(0.99),
        at(0.999),
        at(1.0)
    );
}

fn timed(store: impl FnOnce() -> Result<Receipt, StoreRefused>) -> (Duration, Result<Receipt, StoreRefused>) {
    let began = Instant::now();
    let receipt = store();
    (began.elapsed(), receipt)
}

fn store_trace(storage: &OtelStorage) -> (Duration, Result<Receipt, StoreRefused>) {
    let trace_id = TraceId::random();
    let spans = (0..SHAPE.0).map(|_| SpanData {
        attributes: (0..SHAPE.1).map(|number| (format!("attribute.{number}"), "a value of some length")).collect(),
        ..SpanData::new(trace_id, SpanId::random(), "GET /users/{id}")
    });
    let trace = TraceData { origin: None, spans: spans.collect() };
    timed(|| storage.store_trace(trace))
}

fn store_log(storage: &OtelStorage) -> (Duration, Result<Receipt, StoreRefused>) {
    let mut entry = LogEntry::new(Level::Info, "an order of 17 things was taken in and will be sent tomorrow");
    entry.attributes = Attributes::from([("order", "17"), ("country", "NL")]);
    timed(|| storage.store_log(entry))
}

fn store_metric(storage: &OtelStorage) -> (Duration, Result<Receipt, StoreRefused>) {
    let metrics = vec![MetricData::counter("orders", 1, [("country", "NL")])];
    timed(|| storage.store_metrics(metrics))
}

fn machine() {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
        .map_or("unknown", |(_, name)| name);
    let processors = std::thread::available_parallelism().map_or(0, usize::from);
    println!("{processors} processors, {model}, {} {}", std::env::consts::OS, std::env::consts::ARCH);
}
