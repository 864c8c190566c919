//! A segment of the spool: any file in its place.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| oneiric_otel_fuzz::segments::raw(input));
