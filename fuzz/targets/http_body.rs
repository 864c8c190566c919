//! The body of an OTLP/HTTP request, in pieces.

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use oneiric_otel_fuzz::bodies::Reading;

static READING: LazyLock<Reading> = LazyLock::new(Reading::default);

fuzz_target!(|input: &[u8]| READING.http(input));
