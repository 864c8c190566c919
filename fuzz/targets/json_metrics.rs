//! An export request of metrics in OTLP/JSON.

#![no_main]

use libfuzzer_sys::fuzz_target;
use opentelemetry_proto::tonic::metrics::v1::Metric;

fuzz_target!(|body: &[u8]| oneiric_otel_fuzz::otlp::json::<Metric>(body));
