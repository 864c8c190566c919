//! Against endpoints of every mood: real HTTP servers on loopback that answer as a test wants.

mod answers;
mod endpoints;

use std::collections::VecDeque;
use std::io::Read as _;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::*;

/// How the next request is answered. What is not told so is taken.
#[derive(Debug, Clone)]
enum Mood {
    Status(StatusCode, &'static str),
    /// Never.
    Hang,
}

/// A path and a body.
type Taken = (String, Vec<u8>);

/// What came, and what is answered.
#[derive(Debug, Clone, Default)]
struct Remote {
    taken: Arc<Mutex<Vec<Taken>>>,
    headers: Arc<Mutex<Vec<HeaderMap>>>,
    next: Arc<Mutex<VecDeque<Mood>>>,
    /// Bodies that are always answered so.
    hated: Arc<Mutex<Vec<(&'static str, StatusCode)>>>,
    /// Bodies that are never answered.
    ignored: Arc<Mutex<Vec<&'static str>>>,
    asked: Arc<Mutex<u64>>,
}

impl Remote {
    async fn listen(&self, listener: TcpListener) {
        let routes = axum::Router::new().fallback(answer).with_state(self.clone());
        axum::serve(listener, routes).await.expect("it serves until the test ends");
    }

    async fn start(&self) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let endpoint = self.clone();
        tokio::spawn(async move { endpoint.listen(listener).await });
        url
    }

    fn bodies(&self) -> Vec<String> {
        let taken = self.taken.lock().expect("a lock");
        taken.iter().map(|(_, body)| String::from_utf8_lossy(body).into_owned()).collect()
    }

    fn asked(&self) -> u64 {
        *self.asked.lock().expect("a lock")
    }

    fn will(&self, moods: impl IntoIterator<Item = Mood>) {
        self.next.lock().expect("a lock").extend(moods);
    }
}

async fn answer(State(endpoint): State<Remote>, uri: Uri, headers: HeaderMap, body: Bytes) -> Response {
    *endpoint.asked.lock().expect("a lock") += 1;
    let mut plain = body.to_vec();
    if headers.get("content-encoding").is_some_and(|value| value == "gzip") {
        plain.clear();
        flate2::read::GzDecoder::new(&*body).read_to_end(&mut plain).expect("gzip");
    }
    endpoint.headers.lock().expect("a lock").push(headers);
    let text = String::from_utf8_lossy(&plain).into_owned();
    if endpoint.ignored.lock().expect("a lock").contains(&text.as_str()) {
        return std::future::pending().await;
    }
    let hated = endpoint.hated.lock().expect("a lock").iter().find(|(hated, _)| *hated == text).copied();
    let mood = match hated {
        Some((_, status)) => Some(Mood::Status(status, "not this one")),
        None => endpoint.next.lock().expect("a lock").pop_front(),
    };
    match mood {
        Some(Mood::Hang) => std::future::pending().await,
        Some(Mood::Status(status, text)) if !status.is_success() => (status, text).into_response(),
        Some(Mood::Status(status, text)) => {
            endpoint.taken.lock().expect("a lock").push((uri.path().to_owned(), plain));
            (status, text).into_response()
        }
        None => {
            endpoint.taken.lock().expect("a lock").push((uri.path().to_owned(), plain));
            StatusCode::OK.into_response()
        }
    }
}

/// Impatient, and one request at a time, so that the order can be seen.
fn options(dir: &Path) -> ForwardOptions {
    ForwardOptions {
        max_bytes: 4 << 20,
        timeout: Duration::from_millis(200),
        max_retries: 1,
        retry_backoff: Duration::from_millis(5),
        longest_backoff: Duration::from_millis(20),
        breaker: BreakerOptions { open_for: Duration::from_millis(50), ..BreakerOptions::default() },
        in_flight: 1,
        ..ForwardOptions::new(dir)
    }
}

fn open(url: &str, options: ForwardOptions) -> Forwarder {
    let endpoint = Endpoint::new(url, Protocol::HttpProtobuf).expect("an endpoint");
    Forwarder::open(endpoint, options).expect("a forwarder").0
}

fn request(body: &str) -> Request {
    Request { signal: Signal::Traces, encoding: Encoding::Protobuf, body: Bytes::from(body.to_owned()) }
}

async fn take(forwarder: &Forwarder, bodies: &[&str]) {
    for body in bodies {
        forwarder.take(request(body), false).await;
    }
}

struct Running {
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

fn run(forwarder: &Forwarder) -> Running {
    let stop = CancellationToken::new();
    let task = tokio::spawn(forwarder.clone().run(stop.clone()));
    Running { stop, task }
}

impl Running {
    async fn end(self) {
        self.stop.cancel();
        self.task.await.expect("it ends well");
    }
}

/// Hangs, and so fails, when it never becomes so.
async fn until(is_so: impl Fn() -> bool) {
    while !is_so() {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

fn counts(forwarder: &Forwarder) -> ForwardCounts {
    forwarder.status().lanes[0].counts
}

fn waiting(forwarder: &Forwarder) -> u64 {
    forwarder.status().spool.lanes.iter().map(|lane| lane.entries).sum()
}

#[tokio::test]
async fn each_signal_goes_to_its_path_with_the_bytes_and_headers_that_it_should_have() {
    let (endpoint, dir) = (Remote::default(), tempfile::tempdir().expect("a directory"));
    let url = format!("{}/base/", endpoint.start().await);
    let target = Endpoint::new(&url, Protocol::HttpProtobuf).and_then(|e| e.with_headers("authorization=Bearer%20abc"));
    let (forwarder, _) = Forwarder::open(target.expect("an endpoint"), options(dir.path())).expect("a forwarder");
    let running = run(&forwarder);
    let long = "x".repeat(5000);
    for (signal, encoding, body) in [
        (Signal::Traces, Encoding::Protobuf, "spans"),
        (Signal::Metrics, Encoding::Json, "{\"points\":1}"),
        (Signal::Logs, Encoding::Protobuf, &*long),
    ] {
        forwarder.take(Request { signal, encoding, body: Bytes::from(body.to_owned()) }, false).await;
        let before = endpoint.taken.lock().expect("a lock").len();
        until(|| endpoint.taken.lock().expect("a lock").len() > before || waiting(&forwarder) == 0).await;
    }
    until(|| waiting(&forwarder) == 0).await;
    running.end().await;
    let mut taken = endpoint.taken.lock().expect("a lock").clone();
    taken.sort();
    let paths: Vec<(&str, usize)> = taken.iter().map(|(path, body)| (&**path, body.len())).collect();
    assert_eq!(paths, [("/base/v1/logs", 5000), ("/base/v1/metrics", 12), ("/base/v1/traces", 5)]);
    let headers = endpoint.headers.lock().expect("a lock");
    assert!(headers.iter().all(|headers| headers["authorization"] == "Bearer abc"));
    let count = |name: &str, value: &str| headers.iter().filter(|h| h.get(name).is_some_and(|v| v == value)).count();
    assert_eq!((count("content-type", "application/json"), count("content-type", "application/x-protobuf")), (1, 2));
    assert_eq!(count("content-encoding", "gzip"), 1, "small ones are not worth it");
}

#[tokio::test]
async fn what_came_while_the_endpoint_was_away_arrives_in_order_when_it_is_there() {
    let (endpoint, dir) = (Remote::default(), tempfile::tempdir().expect("a directory"));
    let reserved = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = reserved.local_addr().expect("an address");
    drop(reserved);
    let forwarder = open(&format!("http://{address}"), options(dir.path()));
    let running = run(&forwarder);
    take(&forwarder, &["1", "2", "3"]).await;
    until(|| forwarder.status().lanes[0].breaker.opened > 0).await;
    let status = forwarder.status();
    assert!(status.lanes[0].breaker.failing_since.is_some() && waiting(&forwarder) == 3, "{status:?}");
    let listener = TcpListener::bind(address).await.expect("the port again");
    let serving = endpoint.clone();
    tokio::spawn(async move { serving.listen(listener).await });
    until(|| waiting(&forwarder) == 0).await;
    assert_eq!(endpoint.bodies(), ["1", "2", "3"]);
    assert_eq!((counts(&forwarder).forwarded_requests, counts(&forwarder).refused_requests), (3, 0));
    assert_eq!(forwarder.status().lanes[0].breaker.failing_since, None);
    running.end().await;
}

#[tokio::test]
async fn one_that_hangs_is_asked_again_and_nobody_waits_for_it() {
    let (endpoint, dir) = (Remote::default(), tempfile::tempdir().expect("a directory"));
    endpoint.will([Mood::Hang, Mood::Hang, Mood::Hang]);
    let patient = ForwardOptions { timeout: Duration::from_hours(1), ..options(dir.path()) };
    let forwarder = open(&endpoint.start().await, patient);
    let running = run(&forwarder);
    take(&forwarder, &["1"]).await;
    until(|| endpoint.asked() == 1).await;
    // The first is on its way for an hour; these return all the same.
    take(&forwarder, &["2", "3"]).await;
    assert_eq!(waiting(&forwarder), 3);
    running.end().await;

    let (again, recovered) = {
        let endpoint = Endpoint::new(&endpoint.start().await, Protocol::HttpProtobuf).expect("an endpoint");
        Forwarder::open(endpoint, options(dir.path())).expect("a forwarder")
    };
    assert_eq!(recovered.entries, 3);
    let running = run(&again);
    until(|| waiting(&again) == 0).await;
    assert_eq!(endpoint.bodies(), ["1", "2", "3"]);
    assert_eq!(counts(&again).failed_attempts, 2, "two more hung, until their time was over");
    running.end().await;
}

#[tokio::test]
async fn what_is_refused_for_good_is_set_aside_with_its_bytes_and_holds_nobody_up() {
    let (endpoint, dir) = (Remote::default(), tempfile::tempdir().expect("a directory"));
    endpoint.hated.lock().expect("a lock").push(("bad", StatusCode::BAD_REQUEST));
    let forwarder = open(&endpoint.start().await, options(dir.path()));
    let running = run(&forwarder);
    take(&forwarder, &["1", "bad", "2"]).await;
    until(|| waiting(&forwarder) == 0).await;
    assert_eq!(endpoint.bodies(), ["1", "2"]);
    assert_eq!(endpoint.asked(), 3, "a refusal is not tried again");
    let counts = counts(&forwarder);
    assert_eq!((counts.forwarded_requests, counts.refused_requests, counts.failed_attempts), (2, 1, 0));
    running.end().await;
    let kept = oneiric_otel_spool::quarantine::list(dir.path()).expect("the quarantine");
    assert!(kept.len() == 1 && kept[0].reason.contains("400 Bad Request: not this one"), "{kept:?}");
    let (_, bytes) = oneiric_otel_spool::quarantine::read(dir.path(), &kept[0].name).expect("its bytes");
    assert_eq!(bytes, b"bad");
}

#[tokio::test]
async fn a_request_to_which_no_answer_comes_while_others_are_taken_is_set_aside_in_the_end() {
    let (endpoint, dir) = (Remote::default(), tempfile::tempdir().expect("a directory"));
    endpoint.ignored.lock().expect("a lock").push("stuck");
    let never = BreakerOptions { threshold: usize::MAX, ..BreakerOptions::default() };
    let forwarder = open(
        &endpoint.start().await,
        ForwardOptions { in_flight: 2, breaker: never, timeout: Duration::from_millis(20), ..options(dir.path()) },
    );
    let running = run(&forwarder);
    take(&forwarder, &["stuck"]).await;
    let mut number = 0;
    while counts(&forwarder).refused_requests == 0 {
        number += 1;
        take(&forwarder, &[&number.to_string()]).await;
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    until(|| waiting(&forwarder) == 0).await;
    assert_eq!(endpoint.bodies().len(), number);
    running.end().await;
    let kept = oneiric_otel_spool::quarantine::list(dir.path()).expect("the quarantine");
    assert!(kept[0].reason.contains("others were taken"), "{kept:?}");
}

#[tokio::test]
async fn a_request_that_the_endpoint_wants_later_is_tried_for_as_long_as_it_takes() {
    let (endpoint, dir) = (Remote::default(), tempfile::tempdir().expect("a directory"));
    endpoint.hated.lock().expect("a lock").push(("later", StatusCode::TOO_MANY_REQUESTS));
    let never = BreakerOptions { threshold: usize::MAX, ..BreakerOptions::default() };
    let forwarder =
        open(&endpoint.start().await, ForwardOptions { in_flight: 2, breaker: never, ..options(dir.path()) });
    let running = run(&forwarder);
    take(&forwarder, &["later"]).await;
    // More rounds than one without an answer would have.
    for number in 0..10 {
        let (taken, failed) = (counts(&forwarder).forwarded_requests, counts(&forwarder).failed_attempts);
        take(&forwarder, &[&number.to_string()]).await;
        until(|| counts(&forwarder).forwarded_requests > taken).await;
        until(|| counts(&forwarder).failed_attempts >= failed + 2).await;
    }
    assert_eq!((counts(&forwarder).refused_requests, waiting(&forwarder)), (0, 1));
    endpoint.hated.lock().expect("a lock").clear();
    until(|| waiting(&forwarder) == 0).await;
    assert_eq!(endpoint.bodies().last().map(String::as_str), Some("later"));
    running.end().await;
}

#[tokio::test]
async fn who_is_not_allowed_gives_nothing_up() {
    let (endpoint, dir) = (Remote::default(), tempfile::tempdir().expect("a directory"));
    endpoint
        .will([Mood::Status(StatusCode::UNAUTHORIZED, "no token"), Mood::Status(StatusCode::FORBIDDEN, "wrong one")]);
    let forwarder = open(&endpoint.start().await, options(dir.path()));
    let running = run(&forwarder);
    take(&forwarder, &["1", "2"]).await;
    until(|| waiting(&forwarder) == 0).await;
    assert_eq!(endpoint.bodies(), ["1", "2"]);
    let counts = counts(&forwarder);
    assert_eq!((counts.refused_requests, counts.failed_attempts), (0, 2));
    assert_eq!(forwarder.status().lanes[0].breaker.opened, 2, "each opens it at once");
    running.end().await;
}

#[tokio::test]
async fn a_full_queue_drops_and_counts_and_takes_again_when_there_is_room() {
    let (endpoint, dir) = (Remote::default(), tempfile::tempdir().expect("a directory"));
    let forwarder = open(&endpoint.start().await, ForwardOptions { max_bytes: 64 << 10, ..options(dir.path()) });
    let large = "x".repeat(20 << 10);
    for _ in 0..4 {
        take(&forwarder, &[&large]).await;
    }
    let status = forwarder.status();
    let dropped = status.lanes[0].counts.dropped_requests;
    assert!(dropped > 0 && waiting(&forwarder) == 4 - dropped, "{status:?}");
    let (_, reason) = status.dropping.expect("it says so");
    assert!(reason.contains("full"), "{reason}");
    let running = run(&forwarder);
    until(|| waiting(&forwarder) == 0).await;
    // The file of what was sent goes soon after.
    until(|| forwarder.status().spool.bytes == 0).await;
    take(&forwarder, &["small"]).await;
    until(|| waiting(&forwarder) == 0).await;
    assert_eq!(counts(&forwarder).forwarded_requests, 4 - dropped + 1);
    assert_eq!(forwarder.status().dropping, None);
    running.end().await;
}

#[tokio::test]
async fn a_quarantine_takes_half_of_the_room_and_no_more() {
    let (endpoint, dir) = (Remote::default(), tempfile::tempdir().expect("a directory"));
    let large: &'static str = Box::leak("x".repeat(60 << 10).into_boxed_str());
    endpoint.hated.lock().expect("a lock").push((large, StatusCode::BAD_REQUEST));
    let forwarder = open(&endpoint.start().await, ForwardOptions { max_bytes: 1 << 20, ..options(dir.path()) });
    let running = run(&forwarder);
    for _ in 0..11 {
        take(&forwarder, &[large]).await;
        until(|| waiting(&forwarder) == 0).await;
    }
    let ForwardCounts { refused_requests, lost_requests, dropped_requests, .. } = counts(&forwarder);
    assert_eq!((refused_requests, lost_requests, dropped_requests), (9, 2, 0));
    take(&forwarder, &["good"]).await;
    until(|| waiting(&forwarder) == 0).await;
    assert_eq!(endpoint.bodies(), ["good"]);
    running.end().await;
}

#[tokio::test]
async fn a_pause_that_the_endpoint_asks_for_is_kept_by_all_of_its_signal() {
    let dir = tempfile::tempdir().expect("a directory");
    let forwarder = open("http://127.0.0.1:1", options(dir.path()));
    let lane = forwarder.shared.lane(Signal::Traces);
    tokio::time::pause();
    let began = tokio::time::Instant::now();
    lane.leave_alone_for(Duration::from_secs(30));
    lane.leave_alone_for(Duration::from_secs(5));
    lane.wait_until_wanted().await;
    assert!(began.elapsed() >= Duration::from_secs(30), "the longer one counts");
}

#[tokio::test]
async fn records_that_the_endpoint_rejects_are_counted_and_not_sent_again() {
    let (endpoint, dir) = (Remote::default(), tempfile::tempdir().expect("a directory"));
    let partial = r#"{"partialSuccess":{"rejectedSpans":"3","errorMessage":"too old"}}"#;
    endpoint.will([Mood::Status(StatusCode::OK, partial)]);
    let forwarder = open(&endpoint.start().await, options(dir.path()));
    let running = run(&forwarder);
    let body = Bytes::from_static(b"{}");
    forwarder.take(Request { signal: Signal::Traces, encoding: Encoding::Json, body }, false).await;
    until(|| waiting(&forwarder) == 0).await;
    assert_eq!((counts(&forwarder).forwarded_requests, counts(&forwarder).rejected_records), (1, 3));
    running.end().await;
}
