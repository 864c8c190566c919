//! Servers and those who use their database beside them.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use oneiric_otel::store::SCHEMA_VERSION;
use oneiric_otel_testkit::TestDatabase;
use serde_json::json;

use crate::cli::{Serving, data_dir, run, run_with_input, text};

/// A request with one span of the trace and span with this number.
pub(crate) fn request(number: u64) -> String {
    json!({"resourceSpans": [{"scopeSpans": [{"spans": [{
        "traceId": format!("{:032x}", number + 1), "spanId": format!("{:016x}", number + 1), "name": "tick",
        "startTimeUnixNano": "1794000000000000000", "endTimeUnixNano": "1794000000001000000"
    }]}]}]})
    .to_string()
}

/// Sends a request over HTTP and returns the status; none when the connection broke before an answer came.
pub(crate) fn post(address: &str, body: &str) -> Option<u16> {
    let answer = exchange(address, "/v1/traces", body)?;
    answer.lines().next()?.split(' ').nth(1)?.parse().ok()
}

/// Sends a request over HTTP and returns the answer with its head; none when the connection broke before it came.
pub(crate) fn exchange(address: &str, path: &str, body: &str) -> Option<String> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(30))).ok()?;
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(format!("{head}{body}").as_bytes()).ok()?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).ok()?;
    (!answer.is_empty()).then(|| String::from_utf8_lossy(&answer).into_owned())
}

pub(crate) fn get(address: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream
        .write_all(format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").as_bytes())
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    answer
}

/// How many files a process may have open, now and if it asks.
#[cfg(target_os = "linux")]
fn open_files(process: &str) -> (Option<u64>, Option<u64>) {
    let limits = std::fs::read_to_string(format!("/proc/{process}/limits")).unwrap();
    let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    let mut numbers = line.split_whitespace().skip(3).map(|number| number.parse().ok());
    (numbers.next().flatten(), numbers.next().flatten())
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_server_asks_for_the_open_files_that_its_connections_need() {
    let (Some(given), most) = open_files("self") else { return };
    let database = TestDatabase::create().await;
    let connections = given.to_string();
    let serving = Serving::start(&["--database-url", database.url(), "--max-connections", &connections]).await;
    let (allowed, _) = open_files(&serving.id().to_string());
    let wanted = given + 256;
    assert_eq!(allowed, Some(most.map_or(wanted, |most| most.min(wanted))));
}

#[tokio::test]
async fn a_server_works_on_with_a_newer_schema_if_that_is_marked_for_it() {
    let database = TestDatabase::create().await;
    let url = ["--database-url", database.url()];
    let migrate = async || run(&[&["db", "migrate"], &url[..]].concat()).await;
    let first = migrate().await.expect(0);
    assert!(!first.stderr.contains("newer"), "{}", first.stderr);
    let newer = format!(
        "INSERT INTO otel.otel_migrations (version, name, track, checksum, works_with)
         VALUES (9999, 'future', 'required', 'x', {SCHEMA_VERSION})"
    );
    let client = database.client().await;
    client.batch_execute(&newer).await.unwrap();
    let warned = migrate().await.expect(0);
    assert!(
        warned.stderr.contains("newer than this program") && warned.stderr.contains("9999_future"),
        "{}",
        warned.stderr
    );
    assert_eq!(warned.stderr.matches("newer than this program").count(), 1, "{}", warned.stderr);
    let status = run(&[&["db", "status"], &url[..]].concat()).await.expect(0).stdout;
    assert!(status.contains("can work with 9999_future"), "{status}");
    let serving = Serving::start(&url).await;
    let http = serving.address("http_addr");
    assert_eq!(tokio::task::spawn_blocking(move || post(&http, &request(1))).await.unwrap(), Some(200));
    serving.terminate().await;
    assert_eq!(serving.end().await, Some(0));
    client.batch_execute("UPDATE otel.otel_migrations SET works_with = NULL WHERE version = 9999").await.unwrap();
    let refused = migrate().await.expect(1);
    assert!(refused.stderr.contains("use a newer oneiric-otel"), "{}", refused.stderr);
}

#[tokio::test]
async fn a_server_whose_database_is_away_takes_requests_and_keeps_them() {
    let dir = data_dir();
    let dir = text(dir.path());
    let away = ["--data-dir", dir, "--database-url", "postgresql://nobody@127.0.0.1:1/nothing"];
    for turn in [1, 2] {
        let serving = Serving::start(&away).await;
        let http = serving.address("http_addr");
        let answered = tokio::task::spawn_blocking(move || post(&http, &request(turn))).await.unwrap();
        assert_eq!(answered, Some(200));
        let api = serving.address("api_addr");
        let metrics = tokio::task::spawn_blocking(move || get(&api, "/metrics")).await.unwrap();
        for line in [
            "oneiric_otel_acknowledged_records_total{signal=\"traces\"} 1".to_owned(),
            format!("oneiric_otel_spool_entries{{signal=\"traces\"}} {turn}.0"),
            "oneiric_otel_accepting 1.0".to_owned(),
            "# EOF".to_owned(),
        ] {
            assert!(metrics.lines().any(|found| found == line), "{line} is not in {metrics}");
        }
        // The report for `health` is written every second.
        let kept = format!("{turn} requests wait in the spool");
        while !run(&[&["health", "--json"][..], &away].concat()).await.expect(1).stdout.contains(&kept) {}
        serving.terminate().await;
        assert_eq!(serving.end().await, Some(0));
        let spool = std::fs::read_dir(Path::new(dir).join("spool")).unwrap().next().unwrap().unwrap();
        assert_eq!(
            std::fs::read_dir(spool.path().join("traces")).unwrap().count() as u64,
            turn,
            "a segment for each run"
        );
    }
}

#[tokio::test]
async fn others_attach_to_the_embedded_server_while_it_serves_and_after() {
    let dir = data_dir();
    let dir = text(dir.path());
    let serving = Serving::start(&["--data-dir", dir]).await;
    let http = serving.address("http_addr");
    assert_eq!(tokio::task::spawn_blocking(move || post(&http, &request(0))).await.unwrap(), Some(200));

    let count = ["psql", "--data-dir", dir, "-Atc", "select count(*) from otel_spans"];
    // Acknowledged is durable in the spool; it is in the database soon after.
    while run(&count).await.expect(0).stdout != "1\n" {}
    let input = format!("{}\n{}\n", request(1), request(2));
    let imported = run_with_input(&["import", "-", "--json", "--no-wait", "--data-dir", dir], input.as_bytes()).await;
    assert_eq!(imported.expect(0).json()["accepted"]["spans"], 2);
    assert_eq!(run(&count).await.expect(0).stdout, "3\n");

    // psql's own failures are passed on.
    run(&["psql", "--data-dir", dir, "-c", "select no_such_column"]).await.expect(1);

    // Whoever knows the socket still needs the password.
    let socket_dir = run(&["psql", "--data-dir", dir, "-Atc", "show unix_socket_directories"]).await.expect(0).stdout;
    let url = format!("postgresql://oneiric:wrong@/otel?host={}&port=5432", socket_dir.trim().replace('/', "%2F"));
    let refused = run(&["traces", "--database-url", &url]).await.expect(1);
    assert!(refused.stderr.contains("password authentication failed"), "{}", refused.stderr);
    assert!(refused.stderr.contains("hint: check user and password"), "{}", refused.stderr);

    serving.terminate().await;
    assert_eq!(serving.end().await, Some(0));
    let pid_file = std::path::Path::new(dir).join("postgres/data/postmaster.pid");
    assert!(!pid_file.exists(), "the last user stops the server");
    // A command starts it for as long as it needs it.
    assert_eq!(run(&count).await.expect(0).stdout, "3\n");
    assert!(!pid_file.exists());
}

#[tokio::test]
async fn sigterm_finishes_what_was_begun_and_every_acknowledged_span_is_stored() {
    let database = TestDatabase::create().await;
    let serving = Serving::start(&["--database-url", database.url()]).await;
    let http: Arc<str> = serving.address("http_addr").into();
    let next = Arc::new(AtomicU64::new(0));
    let acknowledged = Arc::new(AtomicU64::new(0));
    let over = Arc::new(AtomicBool::new(false));
    let mut senders = Vec::new();
    for _ in 0..4 {
        let (http, next, acknowledged, over) =
            (Arc::clone(&http), Arc::clone(&next), Arc::clone(&acknowledged), Arc::clone(&over));
        senders.push(std::thread::spawn(move || {
            while !over.load(Ordering::Relaxed) {
                if post(&http, &request(next.fetch_add(1, Ordering::Relaxed))) == Some(200) {
                    acknowledged.fetch_add(1, Ordering::Relaxed);
                }
            }
        }));
    }
    while acknowledged.load(Ordering::Relaxed) < 50 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    serving.terminate().await;
    let code = serving.end().await;
    over.store(true, Ordering::Relaxed);
    for sender in senders {
        sender.join().unwrap();
    }
    assert_eq!(code, Some(0));
    let stored = database.count("select count(*) from otel_spans").await;
    let acknowledged = i64::try_from(acknowledged.load(Ordering::Relaxed)).unwrap();
    let sent = i64::try_from(next.load(Ordering::Relaxed)).unwrap();
    assert!(stored >= acknowledged, "{stored} stored, {acknowledged} acknowledged");
    assert!(stored <= sent);
}

#[tokio::test]
async fn readiness_follows_the_server() {
    let database = TestDatabase::create().await;
    let serving = Serving::start(&["--database-url", database.url()]).await;
    let api = serving.address("api_addr");
    let answer = tokio::task::spawn_blocking(move || {
        let mut stream = TcpStream::connect(&api).unwrap();
        stream.write_all(b"GET /readyz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    });
    let answer = answer.await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("ready\n"), "{answer}");
    // The shell works on a database by URL too.
    let shell = run(&["psql", "--database-url", database.url(), "-Atc", "select count(*) from otel_spans"]).await;
    assert_eq!(shell.expect(0).stdout, "0\n");
    serving.terminate().await;
    assert_eq!(serving.end().await, Some(0));
}

#[tokio::test]
async fn completions_know_the_commands() {
    for shell in ["bash", "zsh", "fish"] {
        let script = run(&["completions", shell]).await.expect(0).stdout;
        assert!(script.contains("similar") && script.contains("data-dir"), "{shell}");
    }
}
