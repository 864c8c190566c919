//! Several systems on one database: one of them maintains it at a time, and another when that one is gone.

use std::time::Duration;

use oneiric_otel::store::Database;
use oneiric_otel::system::{Backend, MaintenanceOptions, Schema, System, SystemOptions};

use crate::writing::Bench;

/// Takes a job at once and again and again.
fn system(bench: &Bench) -> System {
    let maintenance = MaintenanceOptions {
        every: Duration::from_millis(50),
        look_every: Duration::from_millis(20),
        lease: Duration::from_millis(600),
    };
    let options = SystemOptions { maintenance, ..SystemOptions::default() };
    System::start(Backend::new(Database::new(bench.test.url()).unwrap(), None), Schema::Ready, options)
}

/// Waits until something is so.
async fn until(bench: &Bench, condition: &str) {
    let asked = async {
        while bench.test.count(&format!("SELECT count(*) FROM otel_leases WHERE {condition}")).await == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_mins(1), asked).await.expect("it comes to be so");
}

async fn holder(bench: &Bench) -> String {
    let client = bench.test.client().await;
    let row = client.query_one("SELECT holder::text FROM otel_leases WHERE job = 'maintenance'", &[]).await.unwrap();
    row.get(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_gone_is_followed_by_another() {
    let bench = Bench::new().await;
    let first = system(&bench);
    until(&bench, "done_at <> '-infinity'").await;
    let one = holder(&bench).await;
    let second = system(&bench);
    until(&bench, &format!("holder <> '{one}' AND done_at > now() - interval '1 second'")).await;
    // Cut off in the middle of what it does, as far as there is a middle.
    drop(first);
    let other = holder(&bench).await;
    bench.test.client().await.batch_execute("UPDATE otel_leases SET done_at = '-infinity'").await.unwrap();
    until(&bench, "done_at <> '-infinity'").await;
    let third = system(&bench);
    drop(second);
    until(&bench, &format!("holder NOT IN ('{one}', '{other}') AND done_at <> '-infinity'")).await;
    third.stop(Duration::from_secs(5)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_is_taken_from_who_does_not_renew_it_and_from_nobody_else() {
    let bench = Bench::new().await;
    let client = bench.test.client().await;
    let dead = "00000000-0000-0000-0000-000000000001";
    let hold = |until: &str| {
        format!("UPDATE otel_leases SET holder = '{dead}', until = now() + interval '{until}', done_at = '-infinity'")
    };
    client.batch_execute(&hold("1 hour")).await.unwrap();
    let system = system(&bench);
    // It has looked many times by then.
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(holder(&bench).await, dead);
    assert_eq!(bench.count("otel_leases WHERE done_at <> '-infinity'").await, 0);
    client.batch_execute(&hold("300 milliseconds")).await.unwrap();
    until(&bench, &format!("holder <> '{dead}' AND done_at <> '-infinity'")).await;
    // One that was given by a clock far ahead is worth nothing.
    client.batch_execute(&hold("1 year")).await.unwrap();
    until(&bench, &format!("holder <> '{dead}' AND done_at <> '-infinity'")).await;
    system.stop(Duration::from_secs(5)).await.unwrap();
}
