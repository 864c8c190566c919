//! Word pieces of any text.

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use oneiric_otel_fuzz::texts::Tokenizer;

static TOKENIZER: LazyLock<Tokenizer> = LazyLock::new(Tokenizer::default);

fuzz_target!(|text: &str| TOKENIZER.check(text));
