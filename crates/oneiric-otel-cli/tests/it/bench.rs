//! Benchmarks run, and what they report fits together. How fast anything is does not matter here.

use serde_json::Value;

use crate::cli::{data_dir, run, text};

pub(crate) fn number(report: &Value, at: &str) -> f64 {
    report.pointer(at).and_then(Value::as_f64).unwrap_or_else(|| panic!("no number at {at} of {report:#}"))
}

#[tokio::test]
async fn ingest_is_measured_beside_the_same_rows_by_other_ways_and_leaves_nothing_behind() {
    let dir = data_dir();
    // Enough that every way takes more than a tick of processor time, of which a second has 100.
    let spans = ["--spans=20000", "--spans-per-request=500", "--connections=3", "--progress-every=5000"];
    let arguments = [&["bench", "ingest", "--json", "--data-dir", text(dir.path())], &spans[..]].concat();
    let report = run(&arguments).await.expect(0).json();
    assert_eq!(report["derivation"]["traces"], 2000);
    assert_eq!(report["database"]["settings"][0], serde_json::json!(["fsync", "on"]));
    for at in [
        "/committed_per_second",
        "/acknowledged_per_second",
        "/latency/p50_ms",
        "/otlp_bytes_per_span",
        "/cpu/server",
        "/cpu/postgres",
        "/wal_bytes_per_span",
        "/resident_bytes",
        "/span_bytes",
        "/share/rate",
        "/share/cpu",
    ] {
        assert!(number(&report, at) > 0.0, "{at} of {report:#}");
    }
    assert!(number(&report, "/all_bytes") > number(&report, "/span_bytes"));
    let baselines = report["baselines"].as_array().unwrap();
    let ways: Vec<(&str, u64)> =
        baselines.iter().map(|way| (way["way"].as_str().unwrap(), way["rows"].as_u64().unwrap())).collect();
    assert_eq!(
        ways,
        [("COPY BINARY", 20_000), ("COPY BINARY", 20_000), ("COPY BINARY", 20_000), ("INSERT of 1,000 rows", 20_000)]
    );
    assert!(std::fs::read_dir(dir.path().join("bench")).unwrap().next().is_none(), "the database is gone");
}

#[tokio::test]
async fn what_cannot_be_measured_is_refused_and_says_why() {
    let dir = data_dir();
    let at = ["--data-dir", text(dir.path())];
    let odd = run(&[&["bench", "ingest", "--spans=1001"], &at[..]].concat()).await.expect(1);
    assert!(odd.stderr.contains("expected a multiple of the spans of a request (5000), found 1001"), "{}", odd.stderr);
    let url =
        run(&[&["bench", "startup", "--database-url=postgresql://127.0.0.1/x"], &at[..]].concat()).await.expect(1);
    assert!(url.stderr.contains("measured with the embedded PostgreSQL"), "{}", url.stderr);
}

#[tokio::test]
async fn the_start_is_measured_and_what_was_sent_is_found() {
    let dir = data_dir();
    let size = ["--starts=2", "--traces=1000"];
    let arguments = [&["bench", "startup", "--json", "--data-dir", text(dir.path())], &size[..]].concat();
    let report = run(&arguments).await.expect(0).json();
    assert_eq!((report["count"].clone(), report["searchable"]["traces"].clone()), (2.into(), 1000.into()));
    let [stored, derived, searchable] =
        ["stored", "derived", "searchable"].map(|what| number(&report, &format!("/searchable/{what}_seconds")));
    assert!(0.0 < stored && stored <= derived && derived <= searchable, "{report:#}");
    assert!(number(&report, "/starts/p50_ms") > 0.0);
}

#[tokio::test]
async fn sizes_are_told_of_what_is_stored_and_nothing_is_left_in_the_database() {
    let dir = data_dir();
    let at = ["--data-dir", text(dir.path())];
    let none = run(&[&["bench", "size"], &at[..]].concat()).await.expect(1);
    assert!(none.stderr.contains("the database has no telemetry"), "{}", none.stderr);
    let fill = ["bench", "query", "--fill-only", "--traces=100", "--days=1"];
    run(&[&fill[..], &at[..]].concat()).await.expect(0);
    let report = run(&[&["bench", "size", "--json", "--rows=1000"], &at[..]].concat()).await.expect(0).json();
    let signals = report["signals"].as_array().unwrap();
    let partitions: Vec<&str> = signals.iter().map(|signal| signal["partition"].as_str().unwrap()).collect();
    for (partition, table) in partitions.iter().zip(["otel_spans_", "otel_logs_", "otel_metrics_"]) {
        assert!(partition.starts_with(table), "{partitions:?}");
    }
    for signal in signals {
        assert!(signal["indexes"].as_array().unwrap().iter().all(|index| number(index, "/bytes") > 0.0), "{signal:#}");
        let packed: f64 =
            signal["packed"]["columns"].as_array().unwrap().iter().map(|column| number(column, "/1")).sum();
        assert!(0.0 < packed && number(signal, "/table_bytes") > packed, "{signal:#}");
    }
    let bench = dir.path().join("bench");
    let ask =
        ["psql", "--data-dir", text(&bench), "--", "-Atc", "SELECT to_regnamespace('oneiric_otel_bench') IS NULL"];
    assert_eq!(run(&ask).await.expect(0).stdout.trim(), "t");
}
