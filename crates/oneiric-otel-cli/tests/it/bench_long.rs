//! The benchmarks of months and millions, with days and thousands: that what they report fits together.

use serde_json::Value;

use crate::bench::number;
use crate::cli::{data_dir, run, text};

fn count(report: &Value, at: &str) -> u64 {
    report.pointer(at).and_then(Value::as_u64).unwrap_or_else(|| panic!("no count at {at} of {report:#}"))
}

#[tokio::test]
async fn days_go_by_and_what_is_kept_is_whole_and_no_more() {
    let dir = data_dir();
    let size = ["--days=6", "--retention-days=2", "--spans-per-day=2000", "--metric-minutes-per-day=2"];
    let pause = ["--settle-seconds=0", "--every=1"];
    let at = ["bench", "retention", "--json", "--data-dir", text(dir.path())];
    let report = run(&[&at[..], &size, &pause].concat()).await.expect(0).json();

    let days = report["days"].as_array().unwrap();
    assert_eq!(days.len(), 6, "{report:#}");
    let left = report["left"].as_array().unwrap();
    let dates: Vec<&Value> = left.iter().map(|day| &day["date"]).collect();
    assert_eq!(dates, [&days[4]["date"], &days[5]["date"]], "two days are kept: {report:#}");
    for day in left {
        assert_eq!(day["sent"], day["stored"], "{report:#}");
        for signal in ["spans", "log_records", "data_points"] {
            assert!(count(day, &format!("/stored/{signal}")) > 100, "{signal} of {day:#}");
        }
    }
    assert!(count(&report, "/sent/spans") > 10_000, "{report:#}");
    // Each day has partitions of five tables: three more days would have 15. Some traces go on after midnight, and at midnight
    // here a server makes another day's ahead.
    let partitions: Vec<u64> = days.iter().map(|day| count(day, "/partitions")).collect();
    assert!(partitions[5] <= partitions[2] + 9, "{partitions:?}");
    assert!(count(&report, "/dropped") >= 4 * 5, "four days of five tables: {report:#}");
    assert_eq!(report["disk"]["full_from_day"], 4, "{report:#}");
    assert!(report["grown"].is_array(), "{report:#}");
    for at in ["/days/5/bytes", "/disk/most_bytes", "/longest_retention_seconds", "/days/5/acknowledged/p99_ms"] {
        assert!(number(&report, at) > 0.0, "{at} of {report:#}");
    }
    let waits = report["waits"].as_array().unwrap();
    assert_eq!(waits.len(), 6, "{report:#}");
    for waited in waits {
        assert!(count(waited, "/count") > 0 && number(waited, "/always/max_ms") > 0.0, "{waited:#}");
        assert!(count(waited, "/count_beside") <= count(waited, "/count"), "{waited:#}");
    }
    let beside: u64 = waits.iter().map(|waited| count(waited, "/count_beside")).sum();
    assert!(beside > 0, "questions are asked while partitions are dropped: {report:#}");
    assert!(std::fs::read_dir(dir.path().join("bench")).unwrap().next().is_none(), "the database is gone");
}

#[tokio::test]
async fn growth_is_measured_at_each_size_and_drawn() {
    let dir = data_dir();
    let chart = dir.path().join("growth.svg");
    let size = ["--at=1000,3000", "--spans-per-request=500", "--questions=5", "--starts=1", "--vectors=500"];
    let at = ["bench", "growth", "--json", "--data-dir", text(dir.path()), "--chart", text(&chart)];
    let report = run(&[&at[..], &size].concat()).await.expect(0).json();

    let points = report["points"].as_array().unwrap();
    assert_eq!((count(&points[0], "/spans"), count(&points[1], "/spans")), (1000, 3000));
    assert_eq!((count(&points[0], "/measured"), count(&points[1], "/measured")), (1000, 2000));
    for point in points {
        for at in ["/committed_per_second", "/seconds_until_derived", "/wal_bytes_per_span", "/bytes", "/start/p50_ms"]
        {
            assert!(number(point, at) > 0.0, "{at} of {point:#}");
        }
        for asked in point["questions"].as_array().unwrap() {
            assert!(number(asked, "/answers") > 0.0 && number(asked, "/took/p50_ms") > 0.0, "{asked:#}");
        }
        assert_eq!(point["questions"].as_array().unwrap().len(), 4);
    }
    assert_eq!((count(&report, "/vacuum/vectors"), count(&report, "/vacuum/deleted")), (500, 50));
    for at in ["build_seconds", "vacuum_seconds", "bytes_built", "bytes_vacuumed", "bytes_refilled"] {
        assert!(number(&report, &format!("/vacuum/{at}")) > 0.0, "{at} of {report:#}");
    }
    let drawn = std::fs::read_to_string(&chart).unwrap();
    assert!(drawn.starts_with("<svg") && drawn.ends_with("</svg>\n") && drawn.matches("<polyline").count() == 7);
    assert!(std::fs::read_dir(dir.path().join("bench")).unwrap().next().is_none(), "the database is gone");
}

#[tokio::test]
async fn sizes_that_do_not_rise_are_refused() {
    let dir = data_dir();
    let at = ["--data-dir", text(dir.path()), "--spans-per-request=500"];
    let odd = run(&[&["bench", "growth", "--at=2000,1000"], &at[..]].concat()).await.expect(1);
    assert!(odd.stderr.contains("expected rising ones, found 1000 after 2000"), "{}", odd.stderr);
    let url = ["bench", "retention", "--database-url=postgresql://127.0.0.1/x"];
    let refused = run(&[&url[..], &at[..2]].concat()).await.expect(1);
    assert!(refused.stderr.contains("measured with the embedded PostgreSQL"), "{}", refused.stderr);
}

#[tokio::test]
async fn series_are_measured_at_each_size_and_at_the_cap() {
    let dir = data_dir();
    let size = ["--at=500,2000", "--points=400", "--points-per-request=100"];
    let at = ["bench", "series", "--json", "--data-dir", text(dir.path())];
    let report = run(&[&at[..], &size].concat()).await.expect(0).json();
    let sizes = report["sizes"].as_array().unwrap();
    assert_eq!((count(&sizes[0], "/series"), count(&sizes[1], "/series")), (500, 2000));
    for size in sizes {
        for rate in ["new", "known", "remembered", "refused"] {
            assert_eq!(count(size, &format!("/{rate}/points")), 400, "{size:#}");
            assert!(number(size, &format!("/{rate}/per_second")) > 0.0, "{size:#}");
        }
        for at in ["/table_bytes", "/index_bytes", "/count/p50_ms", "/letter_bytes"] {
            assert!(number(size, at) > 0.0, "{at} of {size:#}");
        }
    }
    assert!(std::fs::read_dir(dir.path().join("bench")).unwrap().next().is_none(), "the database is gone");

    let near = run(&[&at[..], &["--at=500,600", "--points=400", "--points-per-request=100"]].concat()).await.expect(1);
    assert!(near.stderr.contains("each at least 400 above the one before, found 600 after 500"), "{}", near.stderr);
}
