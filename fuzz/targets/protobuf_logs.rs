//! An export request of logs in binary protobuf.

#![no_main]

use libfuzzer_sys::fuzz_target;
use opentelemetry_proto::tonic::logs::v1::LogRecord;

fuzz_target!(|body: &[u8]| oneiric_otel_fuzz::otlp::protobuf::<LogRecord>(body));
