//! Attributes through jsonb and back.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|event: &[u8]| oneiric_otel_fuzz::stored::attributes(event));
