//! Settings through the command line: from files, variables and flags, checked and shown.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use oneiric_otel_testkit::TestDatabase;
use serde_json::json;

use crate::cli::{Serving, data_dir, run, run_with_variable, text};
use crate::serve::{exchange, get};

fn file(dir: &Path, name: &str, content: &str) -> PathBuf {
    let path = dir.join(name);
    std::fs::write(&path, content).unwrap();
    std::fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    path
}

fn shown<'a>(settings: &'a serde_json::Value, name: &str) -> &'a serde_json::Value {
    settings.as_array().unwrap().iter().find(|setting| setting["name"] == name).expect(name)
}

#[tokio::test]
async fn every_source_is_shown_with_its_name_and_secrets_are_not() {
    let dir = data_dir();
    let yaml = "batch_size: 20\nack: stored\nmax_retries: 1\nconnection_string: postgresql://u:s3cr3t@h/d\n";
    let path = file(dir.path(), "otel.yaml", yaml);
    let arguments = [
        "config",
        "show",
        "--json",
        "--config",
        text(&path),
        "--set",
        "batch_size=30",
        "--reader-url",
        "postgres://r:s3cr3t@h",
    ];
    let ended = run_with_variable(&arguments, "OTEL_STORAGE_MAX_RETRIES", "2").await.expect(0);
    assert!(!ended.stdout.contains("s3cr3t") && ended.stderr.is_empty(), "{} {}", ended.stdout, ended.stderr);
    let settings = ended.json();
    let expect = |name: &str, value: serde_json::Value, source: &str| {
        let setting = shown(&settings, name);
        assert_eq!((&setting["value"], setting["source"].as_str().unwrap()), (&value, source), "{name}");
    };
    expect("batch_size", 30.into(), "command line --set");
    expect("reader_url", "postgres://r@h".into(), "command line --reader-url");
    expect("max_retries", 2.into(), "environment variable OTEL_STORAGE_MAX_RETRIES");
    expect("ack", "stored".into(), &format!("file {}", path.display()));
    expect("connection_string", "postgresql://u@h/d".into(), &format!("file {}", path.display()));
    expect("similarity_threshold", 0.85.into(), "default");
    expect("listen.grpc_addr", "127.0.0.1:4317".into(), "default");

    let table = run_with_variable(&["config", "show"], "OTEL_STORAGE_TOKENS", "s3cr3t-s3cr3t-s3cr3t").await.expect(0);
    assert!(table.stdout.contains("environment variable OTEL_STORAGE_TOKENS"), "{}", table.stdout);
    assert!(!table.stdout.contains("s3cr3t"), "{}", table.stdout);
    let named =
        run_with_variable(&["config", "show", "--json"], "OTEL_STORAGE_CONFIG", text(&path)).await.expect(0).json();
    assert_eq!(shown(&named, "batch_size")["value"], 20);
}

#[tokio::test]
async fn what_is_wrong_is_checked_at_once_and_stops_every_other_command() {
    let dir = data_dir();
    let path = file(dir.path(), "otel.toml", "bach_size = 20\n[limits]\nmax_attributes = 0\n");
    let config = ["--config", text(&path)];
    let checked = run(&[&["config", "check"], &config[..]].concat()).await.expect(1);
    for part in ["the nearest one is batch_size", "limits.max_attributes: expected a whole number from 1", "otel.toml"]
    {
        assert!(checked.stdout.contains(part), "{part}: {}", checked.stdout);
    }
    let json = run(&[&["config", "check", "--json"], &config[..]].concat()).await.expect(1).json();
    assert_eq!((json["valid"].as_bool(), json["problems"].as_array().map(Vec::len)), (Some(false), Some(2)));
    assert_eq!(json["problems"][0]["problem"], "unknown_key");
    for command in [&["traces"][..], &["serve"], &["config", "show"]] {
        let ended = run(&[command, &config[..]].concat()).await.expect(2);
        assert!(ended.stderr.contains("the nearest one is batch_size") && ended.stdout.is_empty(), "{}", ended.stderr);
    }
    run(&["config", "check"]).await.expect(0);

    for (name, value) in [("OTEL_STORAGE_BATCH_SIZE", "s3cr3t"), ("OTEL_STORAGE_CONNECTION_STRING", "s3cr3t")] {
        let ended = run_with_variable(&["health"], name, value).await.expect(2);
        assert!(ended.stderr.contains(name) && ended.stderr.contains("expected"), "{}", ended.stderr);
        assert_eq!(ended.stderr.contains("s3cr3t"), name == "OTEL_STORAGE_BATCH_SIZE", "{}", ended.stderr);
    }
    let secret = run(&["config", "check", "--set", "tokens=s3cr3t"]).await.expect(1);
    assert!(secret.stdout.contains("others can read a command line") && !secret.stdout.contains("s3cr3t"));
    let password = "connection_string=postgresql://u:s3cr3t@h/d";
    for set in [&["--set", password][..], &[&format!("--set={password}")]] {
        let ended = run(&[&["health"], set].concat()).await.expect(2);
        assert!(
            ended.stderr.contains("--database-url, the variable OTEL_STORAGE_CONNECTION_STRING"),
            "{}",
            ended.stderr
        );
        assert!(!ended.stderr.contains("s3cr3t"), "{}", ended.stderr);
    }
    let endpoint = ["--set", "forward_otlp=http://u:s3cr3t@h:4318"];
    for (command, code) in [(&["config", "show"][..], 2), (&["config", "check"], 1), (&["serve"], 2)] {
        let ended = run(&[command, &endpoint].concat()).await.expect(code);
        let said = format!("{}{}", ended.stdout, ended.stderr);
        assert!(said.contains("without credentials") && !said.contains("s3cr3t"), "{said}");
    }
    let served = run(&["serve", "--forward-otlp", "http://u:s3cr3t@h:4318"]).await.expect(2);
    assert!(served.stderr.contains("--forward-otlp") && !served.stderr.contains("s3cr3t"), "{}", served.stderr);
    for (set, words) in [("storage_backend=otlp", "otlp.endpoint"), ("otlp.headers=a=s3cr3t", "others can read")] {
        let ended = run(&["config", "check", "--set", set]).await.expect(1);
        assert!(ended.stdout.contains(words) && !ended.stdout.contains("s3cr3t"), "{}", ended.stdout);
    }
    let both = ["--set", "storage_backend=both", "--set", "otlp.endpoint=http://127.0.0.1:1"];
    run(&[&["config", "check"], &both[..]].concat()).await.expect(0);
    let served = run(&[&["serve"], &both[..]].concat()).await.expect(2);
    assert!(served.stderr.contains("storage_backend: expected postgresql"), "{}", served.stderr);
    let missing = run(&["config", "check", "--config", "/nonexistent.toml"]).await.expect(1);
    assert!(missing.stdout.contains("file /nonexistent.toml: "), "{}", missing.stdout);
}

#[tokio::test]
async fn the_help_of_a_command_is_that_of_the_table() {
    let help = run(&["serve", "--help"]).await.expect(0).stdout;
    let plain = help.split_whitespace().collect::<Vec<_>>().join(" ");
    for part in [
        "--spool-max-bytes <BYTES>",
        "a whole number from 268435456 up [default: 1073741824] [env: OTEL_STORAGE_SPOOL_MAX_BYTES]",
        "[possible values: spooled, stored, memory] [default: spooled] [env: OTEL_STORAGE_ACK]",
        "[default: 127.0.0.1:4317] [env: OTEL_STORAGE_LISTEN__GRPC_ADDR]",
        "[default: an embedded PostgreSQL in the data directory] [env: OTEL_STORAGE_CONNECTION_STRING]",
    ] {
        assert!(plain.contains(part), "{part}: {plain}");
    }
}

#[tokio::test]
async fn a_server_does_as_its_file_says() {
    let database = TestDatabase::create().await;
    let dir = data_dir();
    let toml = format!(
        "connection_string = \"{}\"\nack = \"stored\"\nstore_metrics = false\nlog_format = \"json\"\n\
         [limits]\nmax_attributes = 1\n",
        database.url()
    );
    let path = file(dir.path(), "otel.toml", &toml);
    let server = Serving::start(&["--config", text(&path)]).await;
    let http = server.address("http_addr");
    let post = async |path: &'static str, body: &'static str| -> serde_json::Value {
        let http = http.clone();
        let answer =
            tokio::task::spawn_blocking(move || exchange(&http, path, body).expect("an answer")).await.unwrap();
        serde_json::from_str(answer.split_once("\r\n\r\n").expect("a body").1).unwrap()
    };
    let metrics = r#"{"resourceMetrics":[{"scopeMetrics":[{"metrics":[{"name":"m","gauge":{"dataPoints":[
        {"timeUnixNano":"1767225600000000000","asInt":"1"},{"timeUnixNano":"1767225600000000001","asInt":"2"}]}}]}]}]}"#;
    let answer = post("/v1/metrics", metrics).await;
    assert_eq!(answer["partialSuccess"]["rejectedDataPoints"], "2", "{answer}");
    assert!(answer["partialSuccess"]["errorMessage"].as_str().unwrap().contains("store_metrics"), "{answer}");
    let spans = r#"{"resourceSpans":[{"scopeSpans":[{"spans":[
        {"traceId":"5b8efff798038103d269b633813fc60c","spanId":"eee19b7ec3c1b174","name":"kept",
         "startTimeUnixNano":"1767225600000000000","endTimeUnixNano":"1767225601000000000"},
        {"traceId":"5b8efff798038103d269b633813fc60c","spanId":"eee19b7ec3c1b175","name":"too many",
         "startTimeUnixNano":"1767225600000000000","endTimeUnixNano":"1767225601000000000",
         "attributes":[{"key":"a","value":{"intValue":"1"}},{"key":"b","value":{"intValue":"1"}}]}]}]}]}"#;
    let answer = post("/v1/traces", spans).await;
    assert_eq!(answer["partialSuccess"]["rejectedSpans"], "1", "{answer}");
    let client = database.client().await;
    let count = async |table: &str| -> i64 {
        client.query_one(&format!("select count(*) from otel.{table}"), &[]).await.unwrap().get(0)
    };
    // Stored when it is acknowledged, as the file says.
    assert_eq!((count("otel_spans").await, count("otel_metrics").await), (1, 0));
    let api = server.address("api_addr");
    let page = tokio::task::spawn_blocking(move || get(&api, "/metrics")).await.unwrap();
    assert!(page.contains(r#"dropped_records_total{reason="switched_off"} 2"#), "{page}");
    assert!(page.contains(r#"dropped_records_total{reason="rejected"} 1"#), "{page}");
    server.terminate().await;
    assert_eq!(server.end().await, Some(0));
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_password_on_the_command_line_is_taken_off_the_process_list() {
    let dir = data_dir();
    let url = "postgresql://nobody:s3cr3t@127.0.0.1:1/nothing";
    let serving = Serving::start(&["--data-dir", text(dir.path()), "--database-url", url]).await;
    let line = std::fs::read_to_string(format!("/proc/{}/cmdline", serving.id())).unwrap();
    let arguments: Vec<&str> = line.split('\0').collect();
    assert!(!line.contains("s3cr3t") && arguments.contains(&"(hidden)"), "{arguments:?}");
    // It is still what the command line said.
    let shown = run(&["config", "show", "--json", "--database-url", url]).await.expect(0).json();
    let expected = json!({"name": "connection_string", "value": "postgresql://nobody@127.0.0.1:1/nothing",
                          "source": "command line --database-url"});
    assert_eq!(*self::shown(&shown, "connection_string"), expected);
    serving.terminate().await;
    assert_eq!(serving.end().await, Some(0));
}
