//! A segment of the spool: written, then damaged.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| oneiric_otel_fuzz::segments::damaged(input));
