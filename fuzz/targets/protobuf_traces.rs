//! An export request of traces in binary protobuf.

#![no_main]

use libfuzzer_sys::fuzz_target;
use opentelemetry_proto::tonic::trace::v1::Span;

fuzz_target!(|body: &[u8]| oneiric_otel_fuzz::otlp::protobuf::<Span>(body));
