//! Records to rows.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| oneiric_otel_fuzz::stored::rows(input));
