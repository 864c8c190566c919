//! What is exported is imported elsewhere as it was.

use std::process::Stdio;

use oneiric_otel_testkit::data::shared_data_for;
use oneiric_otel_testkit::{TestDatabase, nezha};
use tokio::time::timeout;

use crate::cli::{PATIENCE, command, run, run_with_input, text};

const COUNTS: &str = "select (select count(*) from otel.otel_spans), (select count(*) from otel.otel_logs),
                             (select count(*) from otel.otel_metrics), (select count(*) from otel.otel_traces)";

/// Everything that the traces say, as one text.
const TRACES: &str = "select coalesce(string_agg(t::text, e'\\n' order by t.trace_id), '')
    from (select trace_id, start_time, end_time, duration_ns, status, service_name, root_name, services, span_count,
                 error_count, log_count, error_type, error_message, text from otel.traces) t";

async fn state(database: &TestDatabase) -> (Vec<i64>, String) {
    let client = database.client().await;
    let counts = client.query_one(COUNTS, &[]).await.unwrap();
    let traces = client.query_one(TRACES, &[]).await.unwrap().get(0);
    ((0..4).map(|column| counts.get(column)).collect(), traces)
}

#[tokio::test]
async fn an_export_piped_into_an_import_gives_the_same_counts_and_traces() {
    let name = "an_export_piped_into_an_import_gives_the_same_counts_and_traces";
    let Some(recorded) = shared_data_for(name, nezha::FOLDER) else { return };
    let Some(examples) = shared_data_for(name, "otlp") else { return };
    let (source, target) = (TestDatabase::create().await, TestDatabase::create().await);
    let (from, to) = (["--database-url", source.url()], ["--database-url", target.url()]);
    for (signal, requests) in [
        ("traces", Box::new(nezha::traces(&recorded)) as Box<dyn Iterator<Item = _>>),
        ("logs", Box::new(nezha::logs(&recorded))),
    ] {
        for request in requests.take(2) {
            let arguments = [&["import", "-", "--no-wait", "--signal", signal], &from[..]].concat();
            run_with_input(&arguments, &request.unwrap()).await.expect(0);
        }
    }
    run(&[&["import", text(&examples)], &from[..]].concat()).await.expect(0);
    let before = state(&source).await;
    assert!(before.0.iter().all(|count| *count > 0), "{:?}", before.0);

    let mut export = command(&[&["export", "--since", "1970-01-01T00:00:00Z"], &from[..]].concat()).spawn().unwrap();
    let lines: Stdio = export.stdout.take().unwrap().try_into().unwrap();
    let import = command(&[&["import", "-", "--json"], &to[..]].concat()).stdin(lines).spawn().unwrap();
    let imported = timeout(PATIENCE, import.wait_with_output()).await.unwrap().unwrap();
    let exported = timeout(PATIENCE, export.wait_with_output()).await.unwrap().unwrap();
    assert_eq!(exported.status.code(), Some(0), "{}", String::from_utf8_lossy(&exported.stderr));
    assert_eq!(imported.status.code(), Some(0), "{}", String::from_utf8_lossy(&imported.stderr));
    let summary: serde_json::Value = serde_json::from_slice(&imported.stdout).unwrap();
    assert_eq!((&summary["rejected"], &summary["repeated_requests"]), (&0.into(), &0.into()), "{summary:#}");
    let after = state(&target).await;
    assert_eq!(after.0, before.0);
    assert_eq!(after.1, before.1);
    let trace_id = before.1.get(1..33).unwrap();
    let shown = async |url: &[&str]| {
        run(&[&["trace", trace_id, "--json"], url].concat()).await.expect(0).json()["traces"].to_string().len()
    };
    assert_eq!(shown(&from).await, shown(&to).await);
}

#[tokio::test]
async fn a_file_is_whole_and_a_signal_alone_goes_as_protobuf_too() {
    let (source, target) = (TestDatabase::create().await, TestDatabase::create().await);
    let (from, to) = (["--database-url", source.url()], ["--database-url", target.url()]);
    let input = r#"{"resourceLogs":[{"scopeLogs":[{"logRecords":[
        {"timeUnixNano":"1767225600000000000","body":{"stringValue":"\u001b[31mred"}},
        {"timeUnixNano":"1767225600000000001","body":{"doubleValue":"-Infinity"}}]}]}]}"#;
    run_with_input(&[&["import", "-", "--no-wait"], &from[..]].concat(), input.as_bytes()).await.expect(0);
    let dir = tempfile::tempdir().unwrap();
    let (lines, frames) = (dir.path().join("all.jsonl"), dir.path().join("logs.pb"));

    let told = run(&[&["export", "--output", text(&lines), "--json"], &from[..]].concat()).await.expect(0).json();
    assert_eq!(
        (&told["log_records"], &told["spans"], &told["not_carried"]),
        (&2.into(), &0.into(), &0.into()),
        "{told:#}"
    );
    let piped = run(&[&["export"], &from[..]].concat()).await.expect(0).stdout;
    assert_eq!(std::fs::read_to_string(&lines).unwrap(), piped, "the same every time");
    assert!(!piped.contains('\u{1b}') && piped.lines().count() == 1, "{piped:?}");

    let arguments = ["export", "--format=protobuf", "--signal=logs", "--output", text(&frames)];
    run(&[&arguments, &from[..]].concat()).await.expect(0);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2, "nothing else is left");
    run(&[&["import", text(&frames), "--no-wait"], &to[..]].concat()).await.expect(0);
    assert_eq!(run(&[&["export"], &to[..]].concat()).await.expect(0).stdout, piped);

    let unsure = run(&[&["export", "--format=protobuf"], &from[..]].concat()).await.expect(2);
    assert!(unsure.stderr.contains("expected one --signal"), "{}", unsure.stderr);
    let nowhere = run(&[&["export", "--output", "/no/such/place"], &from[..]].concat()).await.expect(1);
    assert!(nowhere.stderr.contains("cannot write /no/such/place"), "{}", nowhere.stderr);
}

#[tokio::test]
async fn what_json_does_not_carry_is_said_and_the_exit_code_says_so_too() {
    let database = TestDatabase::create().await;
    let url = ["--database-url", database.url()];
    // A gauge with a NaN that has a payload, as protobuf.
    let point = [
        &[0x19][..],
        &1_767_225_600_000_000_000_u64.to_le_bytes(),
        &[0x21],
        &f64::NAN.to_bits().wrapping_add(5).to_le_bytes(),
    ]
    .concat();
    let wrap = |field: u8, inner: &[u8]| [&[field << 3 | 2, u8::try_from(inner.len()).unwrap()], inner].concat();
    let metric = [wrap(1, b"g"), wrap(5, &wrap(1, &point))].concat();
    let request = wrap(1, &wrap(2, &wrap(2, &metric)));
    run_with_input(&[&["import", "-", "--signal=metrics"], &url[..]].concat(), &request).await.expect(0);
    assert_eq!(database.count("select count(*) from otel.otel_metrics").await, 1);
    let said = run(&[&["export"], &url[..]].concat()).await.expect(1);
    assert!(said.stdout.contains("NaN") && said.stderr.contains("--format protobuf"), "{}", said.stderr);
    let file = tempfile::NamedTempFile::new().unwrap();
    let exact = ["export", "--format=protobuf", "--signal=metrics", "--output", text(file.path())];
    run(&[&exact, &url[..]].concat()).await.expect(0);
}
