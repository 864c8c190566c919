//! Word pieces of a text: the model's own tokenizer, set as sentence-transformers sets it.
//!
//! Promises piece numbers that are rows of the model's vocabulary, at most as many as the model reads.

use std::fs;
use std::path::Path;

use tokenizers::{Tokenizer, TruncationParams};

use crate::LoadError;
use crate::config::Config;

/// Turns texts into numbers of word pieces.
pub(crate) struct Pieces {
    tokenizer: Tokenizer,
    /// Most pieces of a text, the special ones included.
    longest: usize,
}

impl Pieces {
    /// Reads `tokenizer.json` for a model of the given shape.
    pub(crate) fn load(path: &Path, config: &Config) -> Result<Self, LoadError> {
        let bytes = fs::read(path).map_err(|source| LoadError::Read { path: path.to_owned(), source })?;
        let damaged = |reason: String| LoadError::Damaged { path: path.to_owned(), reason };
        let mut tokenizer =
            Tokenizer::from_bytes(bytes).map_err(|e| damaged(format!("not a tokenizer description: {e}")))?;

        // The file itself pads every text to 128 pieces and cuts there: 2.6 times the work, and other vectors.
        tokenizer.with_padding(None);
        let longest = config.longest_input();
        tokenizer
            .with_truncation(Some(TruncationParams { max_length: longest, ..TruncationParams::default() }))
            .map_err(|e| damaged(e.to_string()))?;

        let highest = tokenizer.get_vocab(true).into_values().max().unwrap_or(0) as usize;
        if highest >= config.vocabulary {
            let reason =
                format!("it has a piece number {highest}, but config.json says vocab_size {}", config.vocabulary);
            return Err(LoadError::Unsupported { path: path.to_owned(), reason });
        }
        Ok(Self { tokenizer, longest })
    }

    /// The pieces of `text`, cut after as many as the model reads.
    pub(crate) fn encode(&self, text: &str) -> Result<Vec<u32>, String> {
        let encoding = self.tokenizer.encode_fast(leading(text, self.longest), true).map_err(|e| e.to_string())?;
        if encoding.is_empty() {
            return Err("the tokenizer made no piece of a text, not even a special one".to_owned());
        }
        Ok(encoding.get_ids().to_vec())
    }

    /// Most pieces that [`Pieces::encode`] gives.
    pub(crate) fn longest(&self) -> usize {
        self.longest
    }
}

/// A prefix of `text` that decides its first `pieces` pieces, so that the cost of a huge text has a bound.
///
/// An ASCII letter or digit after ASCII white space or punctuation opens a new word for every BERT tokenizer, and a word
/// is at least one piece. Whatever follows so many openings can therefore not reach the pieces that are kept.
fn leading(text: &str, pieces: usize) -> &str {
    let mut openings = 0;
    let mut after_gap = true;
    for (at, byte) in text.bytes().enumerate() {
        if after_gap && byte.is_ascii_alphanumeric() {
            openings += 1;
            if openings > pieces {
                return text.get(..at).unwrap_or(text);
            }
        }
        after_gap = matches!(byte, b' ' | b'\t' | b'\n' | b'\r') || byte.is_ascii_punctuation();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::leading;

    #[test]
    fn a_short_text_is_kept_whole() {
        for text in ["", " ", "a b c", "é è", "[CLS]"] {
            assert_eq!(leading(text, 3), text);
        }
    }

    #[test]
    fn only_certain_word_openings_count() {
        assert_eq!(leading("one two three four", 2), "one two ");
        assert_eq!(leading("a,b;c", 2), "a,b;");
        // Letters inside a word, after an accent or after a control character open nothing.
        assert_eq!(leading("aébéc d\u{301}e \u{1}f", 2), "aébéc d\u{301}e \u{1}f");
        assert_eq!(leading("数据 x 库 y 连", 1), "数据 x 库 ");
    }
}
