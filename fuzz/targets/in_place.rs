//! Spans of a request in binary protobuf, read in place and from messages.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| oneiric_otel_fuzz::otlp::in_place(input));
