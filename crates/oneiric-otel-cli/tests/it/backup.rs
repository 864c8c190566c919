//! A dump of the embedded database of a server that works, restored elsewhere: whole, and where pgvector is missing.

use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::Duration;

use oneiric_otel_parts::{Parts, Silent};
use oneiric_otel_postgres::{Options, Server};
use oneiric_otel_testkit::TestDatabase;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::Command;
use tokio::time::timeout;

use crate::cli::{PATIENCE, Serving, data_dir, run, run_with_input, text};
use crate::serve::{post, request};

const TRACE: &str = "5b8efff798038103d269b633813fc60c";
const LIKE_IT: &str = "5b8efff798038103d269b633813fc60d";
const COUNTS: &str = "SELECT (SELECT count(*) FROM otel.otel_spans), (SELECT count(*) FROM otel.otel_logs),
    (SELECT count(*) FROM otel.otel_metrics), (SELECT count(*) FROM otel.otel_traces), (SELECT count(*) FROM otel.otel_texts)";

/// Two traces, a log record of the first and a data point.
fn telemetry() -> Vec<u8> {
    let at = "1794000000000000000";
    let resource = json!({"attributes": [{"key": "service.name", "value": {"stringValue": "till"}}]});
    let span = |trace: &str, name: &str, message: &str| {
        json!({"traceId": trace, "spanId": "eee19b7ec3c1b174", "name": name, "startTimeUnixNano": at,
               "endTimeUnixNano": at, "status": {"code": 2, "message": message}})
    };
    let spans = [span(TRACE, "print receipt", "paper jam"), span(LIKE_IT, "print invoice", "out of paper")];
    let record = json!({"timeUnixNano": at, "body": {"stringValue": "the printer smokes"}, "traceId": TRACE});
    let gauge = json!({"name": "paper", "gauge": {"dataPoints": [{"timeUnixNano": at, "asDouble": 0.5}]}});
    let requests = [
        json!({"resourceSpans": [{"resource": resource, "scopeSpans": [{"spans": spans}]}]}),
        json!({"resourceLogs": [{"resource": resource, "scopeLogs": [{"logRecords": [record]}]}]}),
        json!({"resourceMetrics": [{"resource": resource, "scopeMetrics": [{"metrics": [gauge]}]}]}),
    ];
    requests.map(|request| request.to_string()).join("\n").into_bytes()
}

/// What a server had stored when it was dumped.
struct Dump {
    _dir: TempDir,
    /// PostgreSQL's programs.
    programs: PathBuf,
    file: PathBuf,
    counts: Vec<i64>,
    hits: Value,
}

async fn counts(url: &str) -> Vec<i64> {
    let (client, connection) = tokio_postgres::connect(url, tokio_postgres::NoTls).await.unwrap();
    let connection = tokio::spawn(connection);
    let row = client.query_one(COUNTS, &[]).await.unwrap();
    drop(client);
    connection.await.unwrap().unwrap();
    (0..row.len()).map(|column| row.get(column)).collect()
}

/// Waits until a server has stored and derived so much.
async fn await_counts(url: &str, expected: &[i64]) {
    let stored = async {
        while counts(url).await != expected {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    if timeout(PATIENCE, stored).await.is_err() {
        assert_eq!(counts(url).await, expected, "after {PATIENCE:?}");
    }
}

async fn search(place: &[&str]) -> Value {
    run(&[&["search", "paper jam", "--json"], place].concat()).await.expect(0).json()
}

/// Holds on to an embedded PostgreSQL, started if need be.
async fn attach(data_dir: &Path) -> Server {
    let data_dir = data_dir.to_owned();
    let attached = tokio::task::spawn_blocking(move || {
        let installation = Parts::open_default().unwrap().postgres(&Silent).unwrap();
        Server::attach_or_start(&Options { installation, data_dir }).unwrap()
    });
    attached.await.unwrap()
}

async fn program(path: &Path, arguments: &[&str]) -> Output {
    Command::new(path).args(arguments).output().await.unwrap()
}

/// Dumps the database of a server while it serves.
async fn dump() -> Dump {
    let dir = data_dir();
    let place = ["--data-dir", text(dir.path())];
    let serving = Serving::start(&place).await;
    run_with_input(&[&["import", "-"], &place[..]].concat(), &telemetry()).await.expect(0);
    let embedded = attach(dir.path()).await;
    let psql = PathBuf::from(embedded.psql_command().get_program());
    let programs = psql.parent().unwrap().to_owned();
    let url = embedded.connection().url();
    let file = dir.path().join("otel.dump");
    let arguments = ["--format=custom", "--schema=otel", "--file", text(&file), &url];
    let dumped = program(&programs.join("pg_dump"), &arguments).await;
    assert!(dumped.status.success(), "{}", String::from_utf8_lossy(&dumped.stderr));
    let (counts, found) = (counts(&url).await, search(&place).await);
    assert_eq!(counts, [2, 1, 1, 2, 2]);
    assert_eq!((&found["hits"][0]["newest"]["trace_id"], &found["note"]), (&TRACE.into(), &Value::Null), "{found:#}");
    embedded.release().unwrap();
    serving.terminate().await;
    assert_eq!(serving.end().await, Some(0));
    Dump { _dir: dir, programs, file, counts, hits: found["hits"].clone() }
}

impl Dump {
    async fn restore(&self, to: &str, how: &[&str]) -> Output {
        let target = format!("--dbname={to}");
        let arguments = [how, &["--no-owner", &target, text(&self.file)]].concat();
        program(&self.programs.join("pg_restore"), &arguments).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dump_of_a_working_server_is_restored_whole_and_searched() {
    let dump = dump().await;
    // A database with its role for SQL, whose schema makes room for the dump's.
    let dir = data_dir();
    let place = ["--data-dir", text(dir.path())];
    run(&[&["import", "/dev/null", "--no-wait"], &place[..]].concat()).await.expect(0);
    run(&[&["sql", "SELECT 1"], &place[..]].concat()).await.expect(0);
    let embedded = attach(dir.path()).await;
    let url = embedded.connection().url();
    let (client, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await.unwrap();
    let connection = tokio::spawn(connection);
    let make_room = "DROP SCHEMA otel CASCADE; CREATE EXTENSION IF NOT EXISTS vector SCHEMA public";
    client.batch_execute(make_room).await.unwrap();
    drop(client);
    connection.await.unwrap().unwrap();
    let restored = dump.restore(&url, &["--exit-on-error", "--single-transaction"]).await;
    assert!(restored.status.success(), "{}", String::from_utf8_lossy(&restored.stderr));

    assert_eq!(counts(&url).await, dump.counts);
    assert_eq!(search(&place).await["hits"], dump.hits);
    let similar = run(&[&["similar", TRACE, "--threshold=0.1", "--json"], &place[..]].concat()).await.expect(0).json();
    assert!(similar.to_string().contains(LIKE_IT), "by its vector: {similar:#}");
    let status = run(&[&["db", "status"], &place[..]].concat()).await.expect(0).stdout;
    assert!(status.contains("pending     none"), "{status}");
    let trace = run(&[&["trace", TRACE, "--json"], &place[..]].concat()).await.expect(0).stdout;
    assert!(trace.contains("print receipt"), "{trace}");

    // What came before the dump adds nothing, what comes now does.
    let serving = Serving::start(&place).await;
    run_with_input(&[&["import", "-"], &place[..]].concat(), &telemetry()).await.expect(0);
    assert_eq!(counts(&url).await, dump.counts);
    run_with_input(&[&["import", "-"], &place[..]].concat(), request(7).as_bytes()).await.expect(0);
    await_counts(&url, &[3, 1, 1, 3, 3]).await;
    serving.terminate().await;
    assert_eq!(serving.end().await, Some(0));
    embedded.release().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn restored_without_pgvector_nothing_but_vectors_is_missing_and_they_come_again() {
    let dump = dump().await;
    let database = TestDatabase::create().await;
    let client = database.client().await;
    // A server whose pgvector nobody may install looks like one that has none.
    let deny = "CREATE FUNCTION public.deny() RETURNS event_trigger LANGUAGE plpgsql AS
                $$ BEGIN RAISE EXCEPTION 'extensions are not allowed here'; END $$;
                CREATE EVENT TRIGGER no_extensions ON ddl_command_start WHEN TAG IN ('CREATE EXTENSION')
                EXECUTE FUNCTION public.deny()";
    client.batch_execute(deny).await.unwrap();
    let refused = dump.restore(database.url(), &["--exit-on-error", "--single-transaction"]).await;
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && said.contains("halfvec"), "{said}");
    let restored = dump.restore(database.url(), &[]).await;
    let said = String::from_utf8_lossy(&restored.stderr).into_owned();
    assert!(said.contains("halfvec"), "{said}");

    let url = ["--database-url", database.url()];
    assert_eq!(counts(database.url()).await, dump.counts, "{said}");
    let health = run(&[&["health"], &url[..]].concat()).await.expect(1);
    assert!(health.stdout.contains("CREATE EXTENSION vector"), "{}", health.stdout);
    let serving = Serving::start(&url).await;
    assert_eq!(post(&serving.address("http_addr"), &request(7)), Some(200));
    run_with_input(&[&["import", "-"], &url[..]].concat(), request(8).as_bytes()).await.expect(0);
    // Of the two that came two traces, which share a text.
    await_counts(database.url(), &[4, 1, 1, 4, 3]).await;
    serving.terminate().await;
    assert_eq!(serving.end().await, Some(0));
    let found = search(&url).await;
    assert_eq!(found["hits"][0]["newest"]["trace_id"], TRACE, "{found:#}");
    assert!(found["note"].as_str().is_some_and(|note| note.contains("pgvector is missing")), "{found:#}");
    let similar = run(&[&["similar", TRACE], &url[..]].concat()).await.expect(1);
    assert!(similar.stderr.contains("CREATE EXTENSION vector"), "{}", similar.stderr);

    // With the extension the program says what is left to do, and then embeds everything again.
    client.batch_execute("DROP EVENT TRIGGER no_extensions; CREATE EXTENSION vector SCHEMA public").await.unwrap();
    let advice = "delete the model's row from otel.otel_embedding_models";
    let similar = run(&[&["similar", TRACE], &url[..]].concat()).await.expect(1);
    assert!(similar.stderr.contains(advice), "{}", similar.stderr);
    client.batch_execute("DELETE FROM otel.otel_embedding_models").await.unwrap();
    run_with_input(&[&["import", "-"], &url[..]].concat(), request(9).as_bytes()).await.expect(0);
    let found = search(&url).await;
    assert_eq!((&found["hits"][0], &found["note"]), (&dump.hits[0], &Value::Null), "{found:#}");
    run(&[&["health"], &url[..]].concat()).await.expect(0);
    let rows = "SELECT count(*) FROM otel.traces WHERE embedding IS NOT NULL";
    assert_eq!(database.count(rows).await, 5);
}
