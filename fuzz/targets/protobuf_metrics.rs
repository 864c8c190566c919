//! An export request of metrics in binary protobuf.

#![no_main]

use libfuzzer_sys::fuzz_target;
use opentelemetry_proto::tonic::metrics::v1::Metric;

fuzz_target!(|body: &[u8]| oneiric_otel_fuzz::otlp::protobuf::<Metric>(body));
