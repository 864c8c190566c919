//! The forward pass of a BERT encoder over ragged batches.
//!
//! The pieces of several texts stand below each other in one matrix, without padding; only attention looks at the texts
//! one by one. Promises the same vector, bit for bit, for a text whatever it shares the batch with.
//!
//! Knows neither files' whereabouts nor texts nor threads: piece numbers go in, vectors come out.

use crate::LoadError;
use crate::config::Config;
use crate::linear::Linear;
use crate::matmul::{Before, Matrix, MatrixMut, multiply};
use crate::pointwise::{gelu, normalise_rows, softmax_rows, unit_mean};
use crate::weights::WeightFile;

/// A model, ready to run.
pub(crate) struct Encoder {
    config: Config,
    /// One row per piece.
    pieces: Vec<f32>,
    /// One row per position that can occur, with the row of the only token type already added.
    positions: Vec<f32>,
    norm: Norm,
    layers: Vec<Layer>,
}

struct Layer {
    /// Query, key and value side by side.
    query_key_value: Linear,
    attended: Linear,
    attended_norm: Norm,
    widened: Linear,
    narrowed: Linear,
    narrowed_norm: Norm,
}

struct Norm {
    scale: Vec<f32>,
    shift: Vec<f32>,
    epsilon: f32,
}

/// Memory that the forward pass works in, kept between calls because fresh pages cost more than small texts.
#[derive(Default)]
pub(crate) struct Workspace {
    states: Vec<f32>,
    query_key_value: Vec<f32>,
    attended: Vec<f32>,
    scores: Vec<f32>,
    widened: Vec<f32>,
}

impl Encoder {
    /// Reads and prepares the weights of a model of the given shape.
    pub(crate) fn load(config: &Config, file: &mut WeightFile) -> Result<Self, LoadError> {
        let hidden = config.hidden;
        let pieces = file.read("embeddings.word_embeddings.weight", &[config.vocabulary, hidden])?;
        let mut positions = file.read_rows(
            "embeddings.position_embeddings.weight",
            &[config.positions, hidden],
            config.longest_input(),
        )?;
        let token_type = file.read_rows("embeddings.token_type_embeddings.weight", &[config.token_types, hidden], 1)?;
        for row in positions.chunks_exact_mut(hidden) {
            for (value, added) in row.iter_mut().zip(&token_type) {
                *value += added;
            }
        }
        let norm = Norm::load(file, "embeddings.LayerNorm", config)?;
        let layers = (0..config.layers).map(|index| Layer::load(file, index, config)).collect::<Result<_, _>>()?;
        Ok(Self { config: config.clone(), pieces, positions, norm, layers })
    }

    /// Components of a vector.
    pub(crate) fn dimension(&self) -> usize {
        self.config.hidden
    }

    /// One vector of length 1 per text: the mean over its pieces.
    ///
    /// Texts have one piece or more, at most [`Config::longest_input`], each a row of the vocabulary.
    pub(crate) fn run(&self, texts: &[&[u32]], workspace: &mut Workspace) -> Vec<Vec<f32>> {
        let hidden = self.config.hidden;
        let rows = texts.iter().map(|text| text.len()).sum::<usize>();
        let Workspace { states, query_key_value, attended, scores, widened } = workspace;
        let states = sized(states, rows * hidden);
        let query_key_value = sized(query_key_value, rows * hidden * 3);
        let attended = sized(attended, rows * hidden);
        let widened = sized(widened, rows * self.config.intermediate);

        self.embed_pieces(texts, states);
        for layer in &self.layers {
            layer.query_key_value.write(states, query_key_value);
            let mut row = 0;
            for text in texts {
                let end = row + text.len();
                self.attend(
                    &query_key_value[row * hidden * 3..end * hidden * 3],
                    scores,
                    &mut attended[row * hidden..end * hidden],
                );
                row = end;
            }
            layer.attended.add(attended, states);
            layer.attended_norm.apply(states);

            layer.widened.write(states, widened);
            gelu(widened);
            layer.narrowed.add(widened, states);
            layer.narrowed_norm.apply(states);
        }

        let mut vectors = Vec::with_capacity(texts.len());
        let mut rest = &*states;
        for text in texts {
            let (own, others) = rest.split_at(text.len() * hidden);
            vectors.push(unit_mean(own, hidden));
            rest = others;
        }
        vectors
    }

    fn embed_pieces(&self, texts: &[&[u32]], states: &mut [f32]) {
        let hidden = self.config.hidden;
        let mut rows = states.chunks_exact_mut(hidden);
        for text in texts {
            let pieces = text.iter().map(|&piece| &self.pieces[piece as usize * hidden..][..hidden]);
            for ((piece, position), row) in pieces.zip(self.positions.chunks_exact(hidden)).zip(&mut rows) {
                for ((value, piece), position) in row.iter_mut().zip(piece).zip(position) {
                    *value = piece + position;
                }
            }
        }
        self.norm.apply(states);
    }

    /// Attention within one text: every head lets each piece gather values from all pieces, by likeness of query and key.
    fn attend(&self, query_key_value: &[f32], scores: &mut Vec<f32>, attended: &mut [f32]) {
        let (hidden, width) = (self.config.hidden, self.config.head_width());
        let rows = attended.len() / hidden;
        let scores = sized(scores, rows * rows);
        let scale = 1.0 / (width as f32).sqrt();
        let step = hidden * 3;
        for start in (0..hidden).step_by(width) {
            let part = |index: usize| &query_key_value[index * hidden + start..];
            multiply(
                MatrixMut { data: scores, rows, columns: rows, row_step: rows },
                Before::Replace,
                scale,
                Matrix { data: part(0), rows, columns: width, row_step: step, column_step: 1 },
                Matrix { data: part(1), rows: width, columns: rows, row_step: 1, column_step: step },
            );
            softmax_rows(scores, rows);
            multiply(
                MatrixMut { data: &mut attended[start..], rows, columns: width, row_step: hidden },
                Before::Replace,
                1.0,
                Matrix { data: scores, rows, columns: rows, row_step: rows, column_step: 1 },
                Matrix { data: part(2), rows, columns: width, row_step: step, column_step: 1 },
            );
        }
    }
}

impl Layer {
    fn load(file: &mut WeightFile, index: usize, config: &Config) -> Result<Self, LoadError> {
        let (hidden, intermediate) = (config.hidden, config.intermediate);
        let name = |part: &str| format!("encoder.layer.{index}.{part}");
        let mut weights = Vec::with_capacity(3 * hidden * hidden);
        let mut bias = Vec::with_capacity(3 * hidden);
        for part in ["query", "key", "value"] {
            weights.extend(file.read(&name(&format!("attention.self.{part}.weight")), &[hidden, hidden])?);
            bias.extend(file.read(&name(&format!("attention.self.{part}.bias")), &[hidden])?);
        }
        let query_key_value = Linear::new(&weights, bias);
        drop(weights);
        let mut linear = |part: &str, inputs: usize, outputs: usize| -> Result<Linear, LoadError> {
            let weights = file.read(&name(&format!("{part}.weight")), &[outputs, inputs])?;
            Ok(Linear::new(&weights, file.read(&name(&format!("{part}.bias")), &[outputs])?))
        };
        Ok(Self {
            query_key_value,
            attended: linear("attention.output.dense", hidden, hidden)?,
            widened: linear("intermediate.dense", hidden, intermediate)?,
            narrowed: linear("output.dense", intermediate, hidden)?,
            attended_norm: Norm::load(file, &name("attention.output.LayerNorm"), config)?,
            narrowed_norm: Norm::load(file, &name("output.LayerNorm"), config)?,
        })
    }
}

impl Norm {
    fn load(file: &mut WeightFile, name: &str, config: &Config) -> Result<Self, LoadError> {
        let scale = file.read(&format!("{name}.weight"), &[config.hidden])?;
        let shift = file.read(&format!("{name}.bias"), &[config.hidden])?;
        Ok(Self { scale, shift, epsilon: config.epsilon })
    }

    fn apply(&self, rows: &mut [f32]) {
        normalise_rows(rows, &self.scale, &self.shift, self.epsilon);
    }
}

/// The first `length` values of `memory`, which grows if it must; what they hold is left over from earlier use.
fn sized(memory: &mut Vec<f32>, length: usize) -> &mut [f32] {
    if memory.len() < length {
        memory.resize(length, 0.0);
    }
    &mut memory[..length]
}
