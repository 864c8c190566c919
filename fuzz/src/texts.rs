//! Text that people or senders wrote: for the tokenizer.

use std::path::{Path, PathBuf};

use oneiric_otel_embed::fuzzing;

use crate::memory;

/// Names a `tokenizer.json` to use in place of the small one beside this crate.
const TOKENIZER: &str = "ONEIRIC_OTEL_FUZZ_TOKENIZER";

/// More than the pieces of any vocabulary in use.
const VOCABULARY: usize = 1 << 20;

/// The most pieces of a text here; few, so that short texts reach it.
const LONGEST: usize = 8;

/// Bytes of memory for a byte of text: each character has its place, its offsets and a piece.
const FACTOR: usize = 4096;

/// The embedder's tokenizer, set to cut short texts already, and to cut none.
pub struct Tokenizer {
    cutting: fuzzing::Tokenizer,
    whole: fuzzing::Tokenizer,
}

impl Default for Tokenizer {
    fn default() -> Self {
        let small = || Path::new(env!("CARGO_MANIFEST_DIR")).join("tokenizer.json");
        let path = std::env::var_os(TOKENIZER).map_or_else(small, PathBuf::from);
        let load =
            |longest| fuzzing::Tokenizer::load(&path, VOCABULARY, longest).unwrap_or_else(|error| panic!("{error}"));
        Self { cutting: load(LONGEST), whole: load(256) }
    }
}

impl Tokenizer {
    /// Checks that any text has pieces, and that cutting it first does not change those that are kept.
    pub fn check(&self, text: &str) {
        memory::bounded(text.len(), FACTOR, || {
            let cut = self.cutting.encode(text).expect("every text has pieces");
            let whole = self.whole.encode(text).expect("every text has pieces");
            assert!(cut.len() <= LONGEST && whole.len() <= 256, "more pieces than are read");
            if whole.len() <= LONGEST {
                assert!(cut == whole, "a short text was cut");
            } else {
                assert_eq!(cut.len(), LONGEST, "cut shorter than the model reads");
                // The last piece closes the text in both.
                assert!(cut[..LONGEST - 1] == whole[..LONGEST - 1], "the cut has changed what is kept");
                assert_eq!(cut.last(), whole.last(), "the closing piece differs");
            }
        });
    }
}
