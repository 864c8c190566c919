//! What fuzz targets see of the embedder: its tokenizer.

use std::path::Path;

use crate::LoadError;
use crate::config::Config;
use crate::tokens::Pieces;

/// The tokenizer.
pub struct Tokenizer(Pieces);

impl Tokenizer {
    /// Reads a `tokenizer.json` for a model with `vocabulary` pieces that reads at most `longest` of a text.
    pub fn load(path: &Path, vocabulary: usize, longest: usize) -> Result<Self, LoadError> {
        let config = Config {
            hidden: 1,
            intermediate: 1,
            layers: 1,
            heads: 1,
            vocabulary,
            positions: longest,
            token_types: 1,
            epsilon: 0.0,
        };
        Pieces::load(path, &config).map(Self)
    }

    /// Piece numbers, as the model gets them.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, String> {
        self.0.encode(text)
    }
}
