//! A short run of the oracle against this binary, and proof that the oracle can fail.
#![expect(clippy::unwrap_used, reason = "a failed step is a failed test")]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use oneiric_otel_oracle::plan::{Fault, Tempo, parse_faults};
use oneiric_otel_oracle::run::{Options, Stage, run};
use oneiric_otel_oracle::verify::{Offence, verify};
use oneiric_otel_oracle::{crowd, postgres, report, throughput};

fn program() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_oneiric-otel"))
}

fn options(seed: u64, faults: &str, length: Duration) -> Options {
    Options {
        program: program(),
        length,
        seed,
        faults: parse_faults(faults).unwrap(),
        tempo: Tempo {
            servers: Duration::from_millis(1_200),
            database: Duration::from_secs(2),
            disks: Duration::from_mins(1),
            outage: Duration::from_secs(4),
            long_outages: 0,
        },
        clients: 8,
        servers: 2,
        embedded: false,
        ack: None,
        items_per_second: 2_000,
        keep: None,
        progress: false,
    }
}

/// Servers and PostgreSQL are killed and stopped, connections cut, answers lost, requests sent again. The plan is always
/// the same; which instant of the work a fault meets is not.
#[tokio::test(flavor = "multi_thread")]
async fn every_acknowledged_item_is_stored_once_whatever_is_killed() {
    let faults = "server-kill,server-stop,server-stop-twice,postgres-kill,backend-kill,postgres-stop,connection-cut,\
                  commit-lost,client-timeouts,client-resends";
    let report = run(&options(3, faults, Duration::from_secs(20))).await.unwrap();
    let text = report::of_run(&report);
    assert!(report.is_good(), "{text}");
    assert!(report.verdict.acknowledged > 0 && report.verdict.found == report.verdict.acknowledged, "{text}");
    for fault in [Fault::ServerKill, Fault::PostgresKill, Fault::PostgresStop] {
        assert!(report.faults.get(&fault).is_some_and(|counts| counts.injected > 0), "{fault}: {text}");
    }
}

/// What is deleted, doubled or changed behind the server's back is named.
#[tokio::test(flavor = "multi_thread")]
async fn the_verdict_names_what_is_lost_duplicated_and_altered() {
    let options = Options { servers: 1, clients: 4, ..options(4, "none", Duration::from_secs(2)) };
    let (ended, ledger) = Stage::play(&options).await.unwrap();
    let contents = oneiric_otel_oracle::content::Contents::new(options.seed);
    let url = ended.url();
    let before = verify(&url, contents, &ledger).await.unwrap();
    assert!(before.is_good(), "{before:?}");

    let client = postgres::connect(&url).await.unwrap();
    // Each statement touches one record of its own kind. The trace whose row is gone is that of the first span, which is so not read
    // back whole: many begin in the same microsecond.
    let tamper = "
        DELETE FROM otel.otel_metrics WHERE ctid IN (SELECT ctid FROM otel.otel_metrics ORDER BY time LIMIT 1)
          AND time = (SELECT min(time) FROM otel.otel_metrics);
        INSERT INTO otel.otel_logs SELECT * FROM otel.otel_logs ORDER BY time LIMIT 1;
        UPDATE otel.otel_spans SET duration_ns = duration_ns + 1
          WHERE (trace_id, span_hash) = (SELECT trace_id, span_hash FROM otel.otel_spans
                                         ORDER BY start_time, trace_id, span_hash LIMIT 1);
        UPDATE otel.otel_spans SET residue = NULL
          WHERE (trace_id, span_hash) = (SELECT trace_id, span_hash FROM otel.otel_spans WHERE residue IS NOT NULL
                                         ORDER BY start_time DESC LIMIT 1);
        DELETE FROM otel.otel_traces
          WHERE trace_id = (SELECT trace_id FROM otel.otel_spans ORDER BY start_time, trace_id, span_hash LIMIT 1);";
    client.batch_execute(tamper).await.unwrap();
    let after = verify(&url, contents, &ledger).await.unwrap();
    let expected = [(Offence::Lost, 1), (Offence::Duplicated, 1), (Offence::Altered, 2), (Offence::Trace, 1)];
    assert_eq!(after.offences, BTreeMap::from(expected), "{after:?}");
    assert_eq!(after.found + 1, after.acknowledged);
    let altered = &after.examples[&Offence::Altered];
    assert!(altered[0].contains("duration_ns: expected"), "{altered:?}");
    assert!(altered[1].contains("read back whole"), "{altered:?}");
}

/// The measurements measure: what they count was stored. Their figures are not judged here.
#[tokio::test(flavor = "multi_thread")]
async fn loads_are_stored_and_counted() {
    let load = throughput::Load { spans: 2_000, spans_per_request: 200, connections: 2, pairs: 1 };
    let measured = throughput::run(&program(), load).await.unwrap();
    assert!(measured.rounds.iter().any(|round| round.ack == "stored"), "{measured:?}");
    assert!(measured.rounds.iter().all(|round| round.spans == 2_000 && round.refused == 0), "{measured:?}");

    let crowd = crowd::run(&program(), 30, Duration::from_secs(1), Duration::from_millis(100), None).await.unwrap();
    assert!(crowd.refused.is_empty() && crowd.lost == 0 && crowd.acknowledged >= 30, "{crowd:?}");
}
