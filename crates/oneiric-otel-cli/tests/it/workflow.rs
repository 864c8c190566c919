//! The example of a workflow engine, with `both`: its other side is a real server, which is killed, and its database a real
//! PostgreSQL, which is stopped. Afterwards the two are compared as a user would.

use std::path::PathBuf;
use std::time::Duration;

use oneiric_otel::settings::{DatabaseUrl, OtlpSettings, Settings, StorageBackend};
use oneiric_otel_parts::{Parts, Silent};
use oneiric_otel_postgres::{Options, Server};
use oneiric_otel_testkit::TestDatabase;

use crate::cli::{Serving, data_dir, run, text};

#[path = "../../../oneiric-otel/examples/workflow.rs"]
#[expect(dead_code, reason = "its main is not called")]
mod example;

/// Traces of one run of the example.
const RUNS: i64 = 7;

/// A PostgreSQL of its own.
async fn start_postgres(data_dir: PathBuf) -> Server {
    let start = move || {
        let installation = Parts::open_default().unwrap().postgres(&Silent).unwrap();
        Server::attach_or_start(&Options { installation, data_dir }).unwrap()
    };
    tokio::task::spawn_blocking(start).await.unwrap()
}

async fn count(url: &str, table: &str) -> i64 {
    let (client, connection) = tokio_postgres::connect(url, tokio_postgres::NoTls).await.unwrap();
    let connection = tokio::spawn(connection);
    let count = client.query_one(&format!("select count(*) from otel.{table}"), &[]).await.unwrap().get(0);
    drop(client);
    drop(connection.await);
    count
}

/// Waits until there are so many rows; hangs, and so fails, when there never are.
async fn await_rows(url: &str, table: &str, rows: impl Fn(i64) -> bool) -> i64 {
    loop {
        let found = count(url, table).await;
        if rows(found) {
            return found;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn begin(settings: &Settings) -> tokio::task::JoinHandle<Result<example::Report, String>> {
    let settings = settings.clone();
    tokio::spawn(async move { example::run(&settings).await.map_err(|error| error.to_string()) })
}

async fn end(running: tokio::task::JoinHandle<Result<example::Report, String>>) {
    let report = running.await.unwrap().unwrap();
    assert_eq!((report.runs.len() as i64, report.failed.len()), (RUNS, 5));
    assert!(!report.similar.is_empty(), "{report:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn both_sides_have_the_same_though_each_was_away() {
    let target = TestDatabase::create().await;
    let mut other = Serving::start(&["--database-url", target.url()]).await;
    let dir = data_dir();
    let postgres = start_postgres(dir.path().join("database")).await;
    let source = postgres.connection().url();
    let settings = Settings {
        connection_string: Some(DatabaseUrl::new(source.as_str())),
        data_dir: Some(dir.path().join("application")),
        storage_backend: StorageBackend::Both,
        otlp: OtlpSettings {
            endpoint: Some(format!("http://{}", other.address("http_addr"))),
            ..OtlpSettings::default()
        },
        ..Settings::default()
    };

    // The server is killed in the middle, and the application ends without it.
    let running = begin(&settings);
    await_rows(target.url(), "otel_spans", |rows| rows > 0).await;
    other.kill().await;
    end(running).await;

    // PostgreSQL is stopped while the application works again: all goes to the other side, what was left before too.
    let addresses = other.addresses.clone();
    tokio::task::spawn_blocking(move || postgres.release()).await.unwrap().unwrap();
    let other = Serving::start_again(&addresses, &["--database-url", target.url()]).await;
    let running = begin(&settings);
    await_rows(target.url(), "otel_traces", |rows| rows == 2 * RUNS).await;
    let postgres = start_postgres(dir.path().join("database")).await;
    assert_eq!(postgres.connection().url(), source);
    end(running).await;

    for table in ["otel_spans", "otel_logs", "otel_metrics"] {
        let rows = count(&source, table).await;
        await_rows(target.url(), table, |found| found >= rows).await;
        assert_eq!(count(target.url(), table).await, rows, "{table}");
    }
    let file = dir.path().join("there.jsonl");
    run(&["export", "--signal", "traces", "--database-url", target.url(), "--output", text(&file)]).await.expect(0);
    let compare = ["compare", "--database-url", &source, "--otlp-file", text(&file), "--json"];
    let outcome = run(&compare).await.expect(0).json();
    assert_eq!((&outcome["summary"]["traces"], &outcome["summary"]["same_traces"]), (&14.into(), &14.into()));
    other.terminate().await;
    assert_eq!(other.end().await, Some(0));
    tokio::task::spawn_blocking(move || postgres.release()).await.unwrap().unwrap();
}
