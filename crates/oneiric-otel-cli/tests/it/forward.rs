//! Two servers: what one acknowledges arrives at the other, whatever is killed, stopped or away.

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use oneiric_otel_testkit::TestDatabase;
use oneiric_otel_testkit::certificates::{Authority, Purpose};

use crate::cli::{Serving, data_dir, run, text};
use crate::serve::{get, post, request};

const AWAY: &str = "postgresql://nobody@127.0.0.1:1/nothing";

async fn send(http: &str, number: u64) -> Option<u16> {
    let http = http.to_owned();
    tokio::task::spawn_blocking(move || post(&http, &request(number))).await.unwrap()
}

/// The numbers of the requests that a database has.
async fn stored(database: &TestDatabase) -> BTreeSet<u64> {
    let rows = database.client().await.query("select span_id from otel.otel_spans", &[]).await.unwrap();
    rows.iter().map(|row| u64::from_be_bytes(row.get::<_, Vec<u8>>(0).try_into().unwrap()) - 1).collect()
}

/// Hangs, and so fails, when it never has them.
async fn until_stored(database: &TestDatabase, numbers: &BTreeSet<u64>) {
    while !numbers.is_subset(&stored(database).await) {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Kills a server that forwards while requests come, and again, and starts it each time.
async fn everything_acknowledged_arrives(protocol: &str, listener: &str) {
    let (source, target) = (TestDatabase::create().await, TestDatabase::create().await);
    let other = Serving::start(&["--database-url", target.url()]).await;
    let dir = data_dir();
    let url = format!("http://{}", other.address(listener));
    let arguments = [
        ["--database-url", source.url()],
        ["--data-dir", text(dir.path())],
        ["--forward-otlp", &url],
        ["--forward-protocol", protocol],
    ]
    .concat();
    let next = Arc::new(AtomicU64::new(0));
    let acknowledged = Arc::new(Mutex::new(BTreeSet::new()));
    for _ in 0..3 {
        let mut serving = Serving::start(&arguments).await;
        let over = Arc::new(AtomicBool::new(false));
        let before = acknowledged.lock().unwrap().len();
        let senders: Vec<_> = (0..4)
            .map(|_| {
                let (http, next) = (serving.address("http_addr"), Arc::clone(&next));
                let (acknowledged, over) = (Arc::clone(&acknowledged), Arc::clone(&over));
                std::thread::spawn(move || {
                    while !over.load(Ordering::Relaxed) {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        if post(&http, &request(number)) == Some(200) {
                            acknowledged.lock().unwrap().insert(number);
                        }
                    }
                })
            })
            .collect();
        while acknowledged.lock().unwrap().len() < before + 40 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        serving.kill().await;
        over.store(true, Ordering::Relaxed);
        for sender in senders {
            sender.join().unwrap();
        }
    }
    let serving = Serving::start(&arguments).await;
    let acknowledged = acknowledged.lock().unwrap().clone();
    until_stored(&source, &acknowledged).await;
    until_stored(&target, &acknowledged).await;
    let sent = next.load(Ordering::Relaxed);
    assert!(stored(&target).await.iter().all(|number| *number < sent));
    let api = serving.address("api_addr");
    let metrics = tokio::task::spawn_blocking(move || get(&api, "/metrics")).await.unwrap();
    for name in ["forward_dropped_requests", "forward_refused_requests", "forward_lost_requests"] {
        let line = format!("oneiric_otel_{name}_total{{signal=\"traces\"}} 0");
        assert!(metrics.lines().any(|found| found == line), "{line} is not in {metrics}");
    }
    serving.terminate().await;
    assert_eq!(serving.end().await, Some(0));
    other.terminate().await;
    assert_eq!(other.end().await, Some(0));
}

#[tokio::test]
async fn what_was_acknowledged_before_a_kill_arrives_over_http() {
    everything_acknowledged_arrives("http/protobuf", "http_addr").await;
}

#[tokio::test]
async fn what_was_acknowledged_before_a_kill_arrives_over_grpc() {
    everything_acknowledged_arrives("grpc", "grpc_addr").await;
}

#[tokio::test]
async fn without_its_database_it_passes_on_and_a_frozen_endpoint_holds_up_nobody() {
    let target = TestDatabase::create().await;
    let other = Serving::start(&["--database-url", target.url()]).await;
    let url = format!("http://{}", other.address("grpc_addr"));
    // JSON comes in, and protobuf goes out.
    let serving = Serving::start(&["--database-url", AWAY, "--forward-otlp", &url, "--forward-protocol", "grpc"]).await;
    let http = serving.address("http_addr");
    assert_eq!(send(&http, 0).await, Some(200));
    until_stored(&target, &BTreeSet::from([0])).await;

    other.signal("-STOP").await;
    for number in 1..20 {
        assert_eq!(send(&http, number).await, Some(200), "nobody waits for it");
    }
    other.signal("-CONT").await;
    until_stored(&target, &(0..20).collect()).await;
    serving.terminate().await;
    assert_eq!(serving.end().await, Some(0));
    other.terminate().await;
    assert_eq!(other.end().await, Some(0));
}

#[tokio::test]
async fn an_endpoint_that_is_away_is_told_and_storing_goes_on() {
    let (source, dir) = (TestDatabase::create().await, data_dir());
    let at = ["--database-url", source.url(), "--data-dir", text(dir.path())];
    let serving = Serving::start(&[&at[..], &["--forward-otlp", "http://127.0.0.1:1"]].concat()).await;
    let http = serving.address("http_addr");
    for number in 0..3 {
        assert_eq!(send(&http, number).await, Some(200));
    }
    until_stored(&source, &(0..3).collect()).await;
    // The report for `health` is written every second.
    let told = loop {
        let health = run(&[&["health", "--json"], &at[..]].concat()).await;
        if health.code == Some(1) {
            break health.json();
        }
    };
    let problem = told["problems"][0].as_str().unwrap();
    assert!(problem.starts_with("traces cannot be passed on to http://127.0.0.1:1 since"), "{problem}");
    assert_eq!(told["server"]["forward"]["spool"]["entries"]["traces"], 3, "{told:#}");
    let shown = run(&[&["health"], &at[..]].concat()).await.expect(1).stdout;
    assert!(shown.contains("passed on to") && shown.contains("3 requests wait"), "{shown}");
    serving.terminate().await;
    assert_eq!(serving.end().await, Some(0));
}

#[tokio::test]
async fn a_token_that_was_missing_costs_nothing_and_tls_is_spoken_with_an_authority_of_ones_own() {
    let authority = Authority::new().unwrap();
    let pair = authority.issue("server", Purpose::Server, &["localhost", "127.0.0.1"]).unwrap();
    let token = "a-token-of-16-characters-or-more";
    let (target, dir) = (TestDatabase::create().await, data_dir());
    let tls = ["--tls-cert", text(&pair.certificate), "--tls-key", text(&pair.key)];
    let other =
        Serving::start_with(&[&["--database-url", target.url()], &tls[..]].concat(), &[("OTEL_STORAGE_TOKENS", token)])
            .await;
    let mut numbers = BTreeSet::new();
    for (protocol, listener) in [("grpc", "grpc_addr"), ("http/protobuf", "http_addr")] {
        let url = format!("https://{}", other.address(listener));
        let arguments = [
            ["--database-url", AWAY],
            ["--data-dir", text(dir.path())],
            ["--forward-otlp", &url],
            ["--forward-protocol", protocol],
            ["--forward-ca", text(&authority.certificate)],
        ]
        .concat();
        let mut serving = Serving::start(&arguments).await;
        let number = numbers.len() as u64;
        assert_eq!(send(&serving.address("http_addr"), number).await, Some(200));
        numbers.insert(number);
        let refused = async |at: &[&str]| {
            let health = run(&[&["health", "--json", "--database-url", AWAY], at].concat()).await.expect(1).json();
            health["problems"].to_string().contains("token")
        };
        while !refused(&["--data-dir", text(dir.path())]).await {}
        serving.kill().await;
        let header = format!("authorization=Bearer%20{token}");
        let serving = Serving::start_with(&arguments, &[("OTEL_STORAGE_FORWARD_HEADERS", &header)]).await;
        until_stored(&target, &numbers).await;
        serving.terminate().await;
        assert_eq!(serving.end().await, Some(0));
    }
    other.terminate().await;
    assert_eq!(other.end().await, Some(0));
}

#[tokio::test]
async fn it_does_not_forward_to_itself_or_to_what_is_no_endpoint() {
    let dir = data_dir();
    let serve = async |arguments: &[&str]| {
        let at = ["serve", "--database-url", AWAY, "--data-dir", text(dir.path()), "--api-addr=127.0.0.1:0"];
        run(&[&at[..], arguments].concat()).await
    };
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let (http, url) = (format!("--http-addr=0.0.0.0:{port}"), format!("http://localhost:{port}"));
    let looped = serve(&["--grpc-addr=127.0.0.1:0", &http, "--forward-otlp", &url]).await.expect(1);
    assert!(looped.stderr.contains("is this server itself"), "{}", looped.stderr);
    for (arguments, code, words) in [
        (&["--forward-otlp", "localhost"][..], 2, "http://HOST:PORT"),
        (&["--forward-otlp", "http://a:b@h:1"], 2, "header"),
        (&["--forward-otlp", "http://h:1/x", "--forward-protocol", "grpc"], 1, "--forward-otlp"),
        (&["--forward-otlp", "http://h:1", "--forward-protocol", "thrift"], 2, "http/protobuf or grpc"),
        (&["--forward-otlp", "http://h:1", "--forward-ca", "/x"], 1, "--forward-ca"),
        (&["--forward-otlp", "https://h:1", "--forward-ca", "/no/such"], 1, "/no/such"),
        (&["--forward-ca", "/x"], 2, "--forward-otlp"),
        (&["--forward-otlp", "http://h:1", "--forward-max-bytes", "5"], 2, "134217728"),
    ] {
        let refused = serve(&[&["--grpc-addr=127.0.0.1:0", "--http-addr=127.0.0.1:0"], arguments].concat()).await;
        assert!(refused.stderr.contains(words), "{arguments:?}: {}", refused.stderr);
        refused.expect(code);
    }
}
