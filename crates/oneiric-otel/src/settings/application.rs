//! Settings of an application that stores its own telemetry: [`crate::storage::OtelStorage`] and
//! [`crate::manager::ObservabilityManager`]. A server has none of this.

use std::path::PathBuf;

use super::raw::Raw;
use super::table::{
    FILE, ForwardProtocol, Group, HEADERS, OTLP_ENDPOINT, Setting, first, group, is_some, number, whole,
};
use super::value::{Accepts, Secret, Shown, Value, words};

const SERVICE: Accepts = Accepts::Text { what: "a name, and not nothing", is_good: is_some };

words! {
    /// What a point of a counter or histogram covers.
    pub enum MetricTemporality {
        /// Everything since the instrument was made.
        Cumulative = "cumulative",
        /// What came since the point before.
        Delta = "delta",
    }
}

group! {
    /// Where an application sends telemetry over OTLP.
    pub struct OtlpSettings in "otlp." {
        /// Where an application sends telemetry with storage_backend otlp or both: http://HOST:PORT or https://HOST:PORT
        endpoint: Option<String> = None, OTLP_ENDPOINT, unset "nothing is sent";
        /// What is spoken there
        protocol: ForwardProtocol = ForwardProtocol::HttpProtobuf, Accepts::Word(ForwardProtocol::WORDS);
        /// Headers for it, with values percent-encoded, as in OTEL_EXPORTER_OTLP_HEADERS
        headers: Option<Secret> = None, HEADERS, unset "no headers";
        /// The authorities to trust there, in PEM
        ca: Option<PathBuf> = None, FILE, unset "those of this machine";
        /// Bytes on disk for what waits to be sent
        max_bytes: u64 = 1 << 30, whole(128 << 20, u64::MAX);
    }
}

group! {
    /// What an application has that stores its own telemetry.
    pub struct ApplicationSettings in "application." {
        /// Whose the records of an application are that do not say so
        service_name: Option<String> = None, SERVICE, unset "what the application says, else unknown_service";
        /// Bytes in memory, about, of what an application has handed over and is not durable yet, for each destination; beyond
        /// it records are refused
        queue_max_bytes: usize = 64 << 20, whole(1 << 20, u64::MAX);
        /// How long it is tried to store something before its receipt says that it is not
        store_timeout_seconds: f64 = 30.0, number(0.1, 3600.0);
        /// How long the end of an application may wait for what is not durable yet
        cleanup_timeout_seconds: f64 = 10.0, number(0.1, 3600.0);
        /// Threads for each destination, besides those that encode, embed and sync files
        threads: usize = 2, whole(1, 64);
        /// How often counters and histograms of an application are collected
        metric_interval_seconds: f64 = 60.0, number(0.01, 86_400.0);
        /// What a point of a counter or histogram covers: everything, or what came since the point before
        metric_temporality: MetricTemporality = MetricTemporality::Cumulative, Accepts::Word(MetricTemporality::WORDS);
        /// Label sets of a counter or histogram at most; the others share one
        metric_label_sets: usize = 2000, whole(2, 1_000_000);
    }
}
