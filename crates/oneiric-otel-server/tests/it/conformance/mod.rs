//! The rules that OTLP 1.11.0 sets for receivers, one row each, judged by the answer and by what is stored.
//!
//! T: transport, S: size, R: responses, J: JSON, D: data. R10 (queue and retry per destination) is a rule for senders.

mod data;
mod json;
mod responses;
mod transport;

use std::pin::Pin;
use std::sync::Arc;

use crate::serving::Serving;

type Check = fn(Case) -> Pin<Box<dyn Future<Output = ()> + Send>>;

/// One rule at work: a server that others use too, and a service name that nobody else has.
#[derive(Clone)]
struct Case {
    server: Arc<Serving>,
    service: &'static str,
}

impl Case {
    /// Records of this case's service in `table`, which may have joins, where `condition` holds.
    async fn stored_where(&self, table: &str, condition: &str) -> i64 {
        self.server.count(&format!("{table} where service_name = '{}' and {condition}", self.service)).await
    }

    async fn stored(&self, signal: oneiric_otel::otlp::Signal) -> i64 {
        self.stored_where(crate::messages::table(signal), "true").await
    }
}

macro_rules! rules {
    ($($id:literal $claim:literal => $check:path),* $(,)?) => {
        [$(($id, $claim, (|case| Box::pin($check(case))) as Check)),*]
    };
}

/// Every rule with what it claims and the check of it.
fn rules() -> [(&'static str, &'static str, Check); 26] {
    rules![
        "T1" "no compression, gzip and more, on both protocols" => transport::t1,
        "T2" "ports 4317 and 4318, and either protocol on either" => transport::t2,
        "T3" "POST to the paths of the signals, HTTP/1.1 and HTTP/2, by content type" => transport::t3,
        "T4" "requests of one connection do not wait for each other" => transport::t4,
        "T5" "an empty request is a success" => transport::t5,
        "S1" "requests are bounded, also after decompression" => transport::s1,
        "S2" "too large: RESOURCE_EXHAUSTED without RetryInfo, 413" => transport::s2,
        "S3" "responses are bounded by shortening the message" => transport::s3,
        "R1" "full success leaves partial_success unset" => responses::r1,
        "R2" "partial success counts what is rejected and keeps the rest" => responses::r2,
        "R3" "a warning rejects nothing" => responses::r3,
        "R4" "a response has the content type of its request, gzip only if accepted" => responses::r4,
        "R5" "every HTTP error is a google.rpc.Status in the encoding of its request" => responses::r5,
        "R6" "only what may be sent again looks like it" => responses::r6,
        "R7" "what cannot be stored now is UNAVAILABLE with RetryInfo, 503 with Retry-After" => responses::r7,
        "R8" "statuses map to HTTP as the collector maps them" => responses::r8,
        "R9" "what is sent again adds nothing" => responses::r9,
        "J1" "ids are hex of either case, never base64" => json::j1,
        "J2" "enums are numbers" => json::j2,
        "J3" "keys are lowerCamelCase; unknown ones are ignored" => json::j3,
        "J4" "64-bit integers are strings or numbers, bytes are base64" => json::j4,
        "J5" "attributes hold values of every kind" => json::j5,
        "D1" "a span with an invalid id is rejected alone; a log record is kept" => data::d1,
        "D2" "logs have a time, an event name and perhaps a severity" => data::d2,
        "D3" "a span that ends before it starts is kept as it came" => data::d3,
        "D4" "nothing of an envelope or a span is lost" => data::d4,
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn every_rule_holds() {
    let server = Arc::new(Serving::start().await);
    let mut checks = Vec::new();
    for (service, claim, check) in rules() {
        let case = Case { server: Arc::clone(&server), service };
        checks.push((service, claim, tokio::spawn(check(case))));
    }
    let mut broken = Vec::new();
    for (rule, claim, check) in checks {
        if let Err(error) = check.await {
            broken.push(format!("{rule} ({claim}): {error}"));
        }
    }
    assert!(broken.is_empty(), "{} rules do not hold:\n{}", broken.len(), broken.join("\n"));
}

/// D5 stands alone: reading every data point back needs a database without others.
#[tokio::test(flavor = "multi_thread")]
async fn d5_every_kind_of_metric_is_kept() {
    let server = Arc::new(Serving::start().await);
    data::d5(Case { server, service: "D5" }).await;
}
