//! The shape of the model, from its `config.json`.
//!
//! Accepts the BERT architecture only, as far as the forward pass implements it; anything else is refused by name rather
//! than run wrongly.

use std::fs;
use std::path::Path;

use serde::Deserialize;

use crate::LoadError;

/// Pieces of a text that are read, the special ones included: what sentence-transformers uses for this model.
const LONGEST_INPUT: usize = 256;

/// Sizes of a BERT encoder.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Config {
    /// Components of a token's state, and of the vector.
    pub(crate) hidden: usize,
    /// Components between the two feed-forward matrices.
    pub(crate) intermediate: usize,
    pub(crate) layers: usize,
    pub(crate) heads: usize,
    /// Rows of the table of word pieces.
    pub(crate) vocabulary: usize,
    /// Rows of the table of positions.
    pub(crate) positions: usize,
    /// Rows of the table of token types.
    pub(crate) token_types: usize,
    /// What layer normalisation adds to the variance.
    pub(crate) epsilon: f32,
}

#[derive(Deserialize)]
struct ConfigFile {
    model_type: String,
    hidden_act: String,
    position_embedding_type: Option<String>,
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    vocab_size: usize,
    max_position_embeddings: usize,
    type_vocab_size: usize,
    layer_norm_eps: f32,
}

impl Config {
    /// Reads and checks `config.json`.
    pub(crate) fn load(path: &Path) -> Result<Self, LoadError> {
        let bytes = fs::read(path).map_err(|source| LoadError::Read { path: path.to_owned(), source })?;
        // The architecture comes first: files of other architectures lack the other fields.
        let value: serde_json::Value = serde_json::from_slice(&bytes)
            .map_err(|e| LoadError::Damaged { path: path.to_owned(), reason: format!("not JSON: {e}") })?;
        let unsupported = |reason: String| LoadError::Unsupported { path: path.to_owned(), reason };
        let architecture = value.get("model_type").and_then(serde_json::Value::as_str).unwrap_or("missing");
        if architecture != "bert" {
            return Err(unsupported(format!("model_type is {architecture}, accepted is bert")));
        }
        let file: ConfigFile = serde_json::from_value(value)
            .map_err(|e| LoadError::Damaged { path: path.to_owned(), reason: e.to_string() })?;
        file.check().map_err(unsupported)
    }

    /// Components of one attention head.
    pub(crate) fn head_width(&self) -> usize {
        self.hidden / self.heads
    }

    /// Most pieces of a text that are read.
    pub(crate) fn longest_input(&self) -> usize {
        self.positions.min(LONGEST_INPUT)
    }
}

impl ConfigFile {
    fn check(self) -> Result<Config, String> {
        debug_assert_eq!(self.model_type, "bert");
        if self.hidden_act != "gelu" {
            return Err(format!("hidden_act is {}, accepted is gelu", self.hidden_act));
        }
        let positions = self.position_embedding_type.as_deref().unwrap_or("absolute");
        if positions != "absolute" {
            return Err(format!("position_embedding_type is {positions}, accepted is absolute"));
        }
        let sizes = [
            ("hidden_size", self.hidden_size, 1..=8192),
            ("intermediate_size", self.intermediate_size, 1..=65_536),
            ("num_hidden_layers", self.num_hidden_layers, 1..=128),
            ("num_attention_heads", self.num_attention_heads, 1..=self.hidden_size.max(1)),
            ("vocab_size", self.vocab_size, 1..=4_000_000),
            ("max_position_embeddings", self.max_position_embeddings, 8..=1_000_000),
            ("type_vocab_size", self.type_vocab_size, 1..=1024),
        ];
        for (name, value, accepted) in sizes {
            if !accepted.contains(&value) {
                let (least, most) = accepted.into_inner();
                return Err(format!("{name} is {value}, accepted is {least} to {most}"));
            }
        }
        if !self.hidden_size.is_multiple_of(self.num_attention_heads) {
            let (hidden, heads) = (self.hidden_size, self.num_attention_heads);
            return Err(format!("hidden_size {hidden} is not a multiple of num_attention_heads {heads}"));
        }
        if !(0.0..1.0).contains(&self.layer_norm_eps) {
            return Err(format!("layer_norm_eps is {}, accepted is 0 to below 1", self.layer_norm_eps));
        }
        Ok(Config {
            hidden: self.hidden_size,
            intermediate: self.intermediate_size,
            layers: self.num_hidden_layers,
            heads: self.num_attention_heads,
            vocabulary: self.vocab_size,
            positions: self.max_position_embeddings,
            token_types: self.type_vocab_size,
            epsilon: self.layer_norm_eps,
        })
    }
}
