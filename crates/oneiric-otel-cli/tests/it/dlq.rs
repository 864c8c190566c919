//! Dead letters on the command line.

use std::path::Path;
use std::sync::Arc;

use oneiric_otel::otlp::{Group, Signal, protobuf};
use oneiric_otel_spool::{Spool, SpoolOptions, quarantine};
use oneiric_otel_testkit::TestDatabase;
use opentelemetry_proto::tonic::common::v1::AnyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::logs::v1::LogRecord;

use crate::cli::{Run, command, data_dir, run, text};

/// A request with a log record of this body.
fn request(body: &str) -> Vec<u8> {
    let body = Some(AnyValue { value: Some(Value::StringValue(body.to_owned())) });
    let records = vec![LogRecord { time_unix_nano: 1_794_000_000_000_000_000, body, ..LogRecord::default() }];
    protobuf::encode(&[Group { resource: Arc::default(), scope: Arc::default(), records }])
}

/// A migrated database with a letter for each of these bodies. Returns their ids.
async fn database(dir: &str, bodies: &[&str]) -> (TestDatabase, Vec<String>) {
    let database = TestDatabase::create().await;
    run(&["db", "migrate", "--data-dir", dir, "--database-url", database.url()]).await.expect(0);
    let client = database.client().await;
    let sql = "INSERT INTO otel_telemetry_dlq (telemetry_type, error_class, error_message, raw_data)
               VALUES ('log', 'bad-data', $1, $2) RETURNING id::text";
    let mut ids = Vec::new();
    for body in bodies {
        let row = client.query_one(sql, &[&"\u{1b}[31mrefused\nbecause", &request(body)]).await.unwrap();
        ids.push(row.get(0));
    }
    (database, ids)
}

#[tokio::test(flavor = "multi_thread")]
async fn letters_are_listed_shown_replayed_and_purged() {
    let dir = data_dir();
    let dir = text(dir.path());
    let (database, ids) = database(dir, &["poison", "fine"]).await;
    let client = database.client().await;
    client.batch_execute("ALTER TABLE otel_logs ADD CONSTRAINT for_now CHECK (body <> 'poison')").await.unwrap();
    let dlq = async |arguments: &[&str]| -> Run {
        run(&[&["dlq"], arguments, &["--data-dir", dir, "--database-url", database.url()]].concat()).await
    };
    let (poison, fine) = (ids[0].as_str(), ids[1].as_str());

    let listed = dlq(&["list", "--json"]).await.expect(0).json();
    assert_eq!(listed.as_array().unwrap().len(), 2);
    assert_eq!((listed[0]["id"].as_str(), listed[0]["records"].as_i64()), (Some(fine), Some(1)));
    let table = dlq(&["list"]).await.expect(0).stdout;
    assert!(table.contains(short(poison)) && table.contains("refused because") && !table.contains('\u{1b}'), "{table}");
    for none in [&["list", "--type", "trace"][..], &["list", "--class", "stuck"], &["list", "--until", "1h"]] {
        assert_eq!(dlq(none).await.expect(0).stdout, "no dead letters\n", "{none:?}");
    }

    let shown = dlq(&["show", short(poison), "--json"]).await.expect(0).json();
    let body = &shown["otlp"]["resourceLogs"][0]["scopeLogs"][0]["logRecords"][0]["body"];
    assert_eq!(body["stringValue"], "poison", "{shown}");
    assert!(dlq(&["show", fine]).await.expect(0).stdout.contains("\"stringValue\": \"fine\""));
    let mut raw = command(&["dlq", "show", "--raw", poison, "--data-dir", dir, "--database-url", database.url()]);
    assert_eq!(raw.output().await.unwrap().stdout, request("poison"));
    for unknown in ["ffffffff-ffff", "x'; --", "%"] {
        let error = dlq(&["show", unknown]).await.expect(1).stderr;
        assert!(error.contains("there is no dead letter"), "{error}");
    }
    let error = dlq(&["show", ""]).await.expect(1).stderr;
    assert!(error.contains("several dead letters"), "{error}");

    let replayed = dlq(&["replay", "--all", "--json"]).await.expect(1).json();
    let outcome = |id: &str| {
        let all = replayed.as_array().unwrap();
        all.iter().find(|one| one["id"] == id).unwrap()["outcome"].as_str().unwrap().to_owned()
    };
    assert_eq!((outcome(poison), outcome(fine)), ("refused".to_owned(), "stored".to_owned()));
    client.batch_execute("ALTER TABLE otel_logs DROP CONSTRAINT for_now").await.unwrap();
    let replayed = dlq(&["replay", short(poison)]).await.expect(0).stdout;
    assert_eq!(replayed, format!("{poison} stored 1 records\n"));
    assert_eq!(database.count("SELECT count(*) FROM otel_logs").await, 2);
    dlq(&["replay", poison]).await.expect(0);
    assert_eq!(database.count("SELECT count(*) FROM otel_logs").await, 2);

    assert_eq!(dlq(&["list"]).await.expect(0).stdout, "no dead letters\n");
    assert_eq!(dlq(&["list", "--all", "--json"]).await.expect(0).json().as_array().unwrap().len(), 2);
    assert_eq!(dlq(&["purge", "--older-than", "1h"]).await.expect(0).stdout, "purged 0 dead letters\n");
    assert_eq!(dlq(&["purge", fine]).await.expect(0).stdout, "purged 1 dead letters\n");
    assert_eq!(dlq(&["purge", "--processed", "--json"]).await.expect(0).json()["purged"], 1);
    for wrong in [&["purge"][..], &["purge", fine, "--processed"], &["replay"], &["replay", fine, "--all"], &["show"]] {
        dlq(wrong).await.expect(2);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_stored_is_deleted_only_on_purpose() {
    let dir = data_dir();
    let dir = text(dir.path());
    let (database, ids) = database(dir, &["a", "b"]).await;
    let dlq = async |arguments: &[&str]| -> Run {
        run(&[&["dlq"], arguments, &["--data-dir", dir, "--database-url", database.url()]].concat()).await
    };
    dlq(&["purge", "--processed"]).await.expect(0);
    dlq(&["purge", "--older-than", "2999-01-01"]).await.expect(0);
    for hasty in [&["purge", ids[0].as_str()][..], &["purge", "--unprocessed"]] {
        let error = dlq(hasty).await.expect(1).stderr;
        assert!(error.contains("nowhere else") && error.contains("--yes"), "{error}");
    }
    assert_eq!(database.count("SELECT count(*) FROM otel_telemetry_dlq").await, 2);
    assert_eq!(dlq(&["purge", &ids[0], "--yes"]).await.expect(0).stdout, "purged 1 dead letters\n");
    assert_eq!(dlq(&["purge", "--unprocessed", "--yes"]).await.expect(0).stdout, "purged 1 dead letters\n");
}

/// Sets requests aside, as a server does with what it cannot read. Returns their names.
async fn set_aside(spool: &Path, requests: &[Vec<u8>]) -> Vec<String> {
    let options = SpoolOptions::new(spool, Signal::ALL.map(Signal::as_str));
    let (opened, _) = Spool::open(options).unwrap();
    for body in requests {
        let (sender, receiver) = tokio::sync::oneshot::channel();
        let done = move |result| drop(sender.send(result));
        opened.append(Signal::Logs as usize, 0, body.clone().into(), done).await.unwrap();
        opened.set_aside(receiver.await.unwrap().unwrap(), "not to be read").unwrap();
    }
    tokio::task::spawn_blocking(move || opened.close()).await.unwrap();
    quarantine::list(spool).unwrap().into_iter().map(|about| about.name).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_spool_has_set_aside_is_among_them() {
    let dir = data_dir();
    let (database, _) = database(text(dir.path()), &[]).await;
    let data = text(dir.path());
    let dlq = async |arguments: &[&str]| -> Run {
        run(&[&["dlq"], arguments, &["--data-dir", data, "--database-url", database.url()]].concat()).await
    };
    let status = run(&["db", "status", "--json", "--database-url", database.url()]).await.expect(0).json();
    let plain = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '.' | '-') { c } else { '_' };
    let target = status["target"].as_str().unwrap();
    let name: String = target.chars().map(plain).collect();
    let hash: String = blake3::hash(target.as_bytes()).to_hex().chars().take(8).collect();
    let spool = dir.path().join("spool").join(format!("{name}-{hash}"));
    let names = set_aside(&spool, &[request("good"), b"\xff\xff".to_vec()]).await;
    let of_application = spool.with_file_name(format!("{name}-{hash}-app-1"));
    set_aside(&of_application, &[b"\xfe".to_vec()]).await;
    let listed = dlq(&["list", "--json"]).await.expect(0).json();
    let app = listed.as_array().unwrap().iter().find(|letter| letter["bytes"] == 1).unwrap()["id"].as_str().unwrap();
    assert_eq!(dlq(&["purge", app, "--yes"]).await.expect(0).stdout, "purged 1 dead letters\n");

    let listed = dlq(&["list", "--json"]).await.expect(0).json();
    let ids: Vec<&str> = listed.as_array().unwrap().iter().map(|letter| letter["id"].as_str().unwrap()).collect();
    assert_eq!(ids.len(), 2);
    assert!(names.iter().all(|name| ids.contains(&format!("spool:{name}").as_str())), "{listed}");
    assert!(dlq(&["list", "--class", "quarantine"]).await.expect(0).stdout.contains("not to be read"));
    assert_eq!(dlq(&["list", "--type", "trace"]).await.expect(0).stdout, "no dead letters\n");
    let good = names.iter().find(|name| quarantine::read(&spool, name).unwrap().1 == request("good")).unwrap();
    let bad = names.iter().find(|name| *name != good).unwrap();
    let shown = dlq(&["show", &format!("spool:{bad}"), "--json"]).await.expect(0).json();
    assert_eq!(
        (shown["first_bytes"].as_str(), shown["error_message"].as_str()),
        (Some("ffff"), Some("not to be read"))
    );

    let replayed = dlq(&["replay", "--all"]).await.expect(1).stdout;
    assert!(replayed.contains(&format!("spool:{good} stored 1 records\n")), "{replayed}");
    assert!(replayed.contains(&format!("spool:{bad} refused again")), "{replayed}");
    assert_eq!(database.count("SELECT count(*) FROM otel_logs").await, 1);
    assert_eq!(quarantine::list(&spool).unwrap().len(), 1);
    dlq(&["purge", &format!("spool:{bad}")]).await.expect(1);
    dlq(&["purge", "spool:logs", "--yes"]).await.expect(0);
    assert!(quarantine::list(&spool).unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_spool_has_set_aside_is_shown_while_the_database_is_away() {
    let dir = data_dir();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let url = format!("postgresql://nobody@127.0.0.1:{port}/otel");
    let dlq = async |arguments: &[&str]| -> Run {
        run(&[&["dlq"], arguments, &["--data-dir", text(dir.path()), "--database-url", &url]].concat()).await
    };
    let hash: String = blake3::hash(format!("127.0.0.1:{port}/otel").as_bytes()).to_hex().chars().take(8).collect();
    let spool = dir.path().join("spool").join(format!("127.0.0.1_{port}_otel-{hash}"));
    let names = set_aside(&spool, &[b"\xff".to_vec()]).await;

    let listed = dlq(&["list"]).await.expect(1);
    assert!(listed.stdout.contains("not to be read"), "{}", listed.stdout);
    assert!(
        listed.stderr.contains("cannot connect") || listed.stderr.contains("error connecting"),
        "{}",
        listed.stderr
    );
    let id = format!("spool:{}", names[0]);
    assert_eq!(dlq(&["show", &id, "--json"]).await.expect(0).json()["first_bytes"], "ff");
    dlq(&["replay", &id]).await.expect(1);
    assert_eq!(dlq(&["purge", &id, "--yes"]).await.expect(0).stdout, "purged 1 dead letters\n");
    let empty = dlq(&["list"]).await.expect(1);
    assert_eq!(empty.stdout, "", "only the error is said");
}

/// The beginning of an id, as lists show it.
fn short(id: &str) -> &str {
    id.split('-').next().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn points_without_room_are_replayed_with_a_higher_limit() {
    let (dir, from) = (data_dir(), data_dir());
    let (dir, file) = (text(dir.path()), from.path().join("metrics.json"));
    let (database, _) = database(dir, &[]).await;
    let points = |name: &str| {
        format!(
            r#"{{"name":"{name}","gauge":{{"dataPoints":[{{"timeUnixNano":"1794000000000000000","asDouble":1}}]}}}}"#
        )
    };
    let metrics = ["a", "b", "c"].map(points).join(",");
    let json = format!(r#"{{"resourceMetrics":[{{"scopeMetrics":[{{"metrics":[{metrics}]}}]}}]}}"#);
    std::fs::write(&file, json).unwrap();
    let with_limit = async |arguments: &[&str], limit: &str| -> Run {
        let place = ["--data-dir", dir, "--database-url", database.url()];
        let limit = format!("limits.max_metric_series={limit}");
        run(&[arguments, &place, &["--set", &limit]].concat()).await
    };
    with_limit(&["import", "--no-wait", text(&file)], "1").await.expect(0);
    assert_eq!(database.count("SELECT count(*) FROM otel_metric_series").await, 1);
    let refused = with_limit(&["dlq", "replay", "--all"], "1").await.expect(1).stdout;
    assert!(refused.contains("no room for new metric series: 1 are stored, and the limit is 1"), "{refused}");
    let stored = with_limit(&["dlq", "replay", "--all"], "2").await.expect(1).stdout;
    assert!(stored.contains("stored 1 records; 1 were refused again"), "{stored}");
    let stored = with_limit(&["dlq", "replay", "--all"], "3").await.expect(0).stdout;
    assert!(stored.contains("stored 1 records"), "{stored}");
    assert_eq!(database.count("SELECT count(*) FROM otel_metric_series").await, 3);
    assert!(with_limit(&["health"], "0").await.expect(2).stderr.contains("limits.max_metric_series"));
}
