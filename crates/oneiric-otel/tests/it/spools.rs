//! What waits in the spool of any server is not forgotten by another one.

use std::time::Duration;

use oneiric_otel::otlp::Signal;
use oneiric_otel::pipeline::Ack;
use oneiric_otel::store::{Database, SpoolNote};
use oneiric_otel::system::{Backend, MaintenanceOptions, Schema, System, SystemOptions};

use crate::spooling::{open, options};
use crate::writing::{Bench, log, request};

const DAY: Duration = Duration::from_hours(24);

/// A request that was stored so many days ago.
async fn stored(days: u32) -> Bench {
    let bench = Bench::new().await;
    bench.send(Signal::Logs, request(vec![log("old")])).await.expect("accepted");
    let aged = format!("UPDATE otel_ingest_ledger SET received_at = now() - interval '{days} days'");
    bench.test.client().await.batch_execute(&aged).await.unwrap();
    bench
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_another_server_may_send_again_is_remembered() {
    let bench = stored(8).await;
    let (one, other) = (SpoolNote::default(), SpoolNote::default());
    one.say(&bench.store, None).await.unwrap();
    other.say(&bench.store, Some(DAY * 8)).await.unwrap();
    assert_eq!(bench.store.forget_requests(DAY * 7).await.unwrap(), 0);
    bench.send(Signal::Logs, request(vec![log("old")])).await.expect("accepted");
    assert_eq!(bench.count("otel_logs").await, 1, "sent again, it adds nothing");
    other.say(&bench.store, None).await.unwrap();
    assert_eq!(bench.store.forget_requests(DAY * 7).await.unwrap(), 1);
    assert_eq!(bench.count("otel_spools").await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_gone_counts_as_long_as_requests_are_remembered() {
    let bench = stored(12).await;
    SpoolNote::default().say(&bench.store, Some(DAY * 6)).await.unwrap();
    let client = bench.test.client().await;
    let pass =
        "UPDATE otel_spools SET oldest = oldest - interval '6 days', reported_at = reported_at - interval '6 days'";
    client.batch_execute(pass).await.unwrap();
    assert_eq!(bench.store.forget_requests(DAY * 7).await.unwrap(), 0, "it has said something within 7 days");
    // Requests are remembered for less than servers take to say something: a day counts at least.
    let lately = "UPDATE otel_spools SET reported_at = now() - interval '2 hours'";
    client.batch_execute(lately).await.unwrap();
    assert_eq!(bench.store.forget_requests(Duration::from_hours(1)).await.unwrap(), 0);
    let silent = "UPDATE otel_spools SET reported_at = now() - interval '8 days'";
    client.batch_execute(silent).await.unwrap();
    assert_eq!(bench.store.forget_requests(DAY * 7).await.unwrap(), 1);
    assert_eq!(bench.count("otel_spools").await, 0);

    // Said by a clock that was ahead.
    let bench = stored(12).await;
    SpoolNote::default().say(&bench.store, Some(DAY * 20)).await.unwrap();
    let ahead = "UPDATE otel_spools SET reported_at = now() + interval '1 year'";
    bench.test.client().await.batch_execute(ahead).await.unwrap();
    assert_eq!(bench.store.forget_requests(DAY * 7).await.unwrap(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_says_what_waits_before_anybody_forgets() {
    let bench = Bench::new().await;
    let dir = tempfile::tempdir().unwrap();
    // Another one maintains the database.
    let client = bench.test.client().await;
    let held = "UPDATE otel_leases SET holder = gen_random_uuid(), until = now() + interval '1 hour'";
    client.batch_execute(held).await.unwrap();
    let start = |ack: Ack| {
        let often = Duration::from_millis(20);
        let maintenance = MaintenanceOptions { every: often, look_every: often, ..MaintenanceOptions::default() };
        let options = SystemOptions { ingest: options(ack), maintenance, ..SystemOptions::default() };
        System::start(Backend::new(Database::new(bench.test.url()).unwrap(), None), Schema::Ready, options)
    };
    let system = start(Ack::Spooled(open(dir.path())));
    let said = "otel_spools WHERE reported_at > now() - interval '1 hour' AND oldest <= reported_at";
    until(async || bench.count(said).await == 1).await;
    let first = "SELECT reported_at::text FROM otel_spools";
    let at: String = client.query_one(first, &[]).await.unwrap().get(0);
    let again = format!("otel_spools WHERE reported_at > '{at}'");
    until(async || bench.count(&again).await == 1).await;
    system.stop(Duration::from_secs(5)).await.unwrap();
}

/// Waits for it, and not for ever.
async fn until(is_so: impl AsyncFn() -> bool) {
    let wait = async {
        while !is_so().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_mins(1), wait).await.expect("it never was so");
}
