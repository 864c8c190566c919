//! The forward pass of a BERT encoder over ragged batches.
//!
//! The pieces of several texts stand below each other in one matrix, without padding; only attention looks at the texts
//! one by one. Promises the same vector, bit for bit, for a text whatever it shares the batch with.
//!
//! Knows neither files' whereabouts nor texts nor threads: piece numbers go in, vectors come out.

use pulp::Arch;

use crate::LoadError;
use crate::aligned::Aligned;
use crate::attention::{self, Attention};
use crate::config::Config;
use crate::linear::{Arithmetic, Linear, Scratch};
use crate::pointwise::{gelu, normalise_rows, unit_mean};
use crate::precision::Precision;
use crate::weights::WeightFile;

/// A model, ready to run.
pub(crate) struct Encoder {
    config: Config,
    arithmetic: Arithmetic,
    /// What the loops beside the matrix products are compiled for.
    arch: Arch,
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
    states: Aligned<f32>,
    query_key_value: Aligned<f32>,
    attended: Aligned<f32>,
    attention: attention::Memory,
    widened: Aligned<f32>,
    scratch: Scratch,
}

impl Encoder {
    /// Reads and prepares the weights of a model of the given shape.
    pub(crate) fn load(config: &Config, arithmetic: Arithmetic, file: &mut WeightFile) -> Result<Self, LoadError> {
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
        let layers =
            (0..config.layers).map(|index| Layer::load(file, index, config, arithmetic)).collect::<Result<_, _>>()?;
        Ok(Self { config: config.clone(), arithmetic, arch: arithmetic.arch(), pieces, positions, norm, layers })
    }

    /// Components of a vector.
    pub(crate) fn dimension(&self) -> usize {
        self.config.hidden
    }

    /// The precision of the arithmetic.
    pub(crate) fn precision(&self) -> Precision {
        self.arithmetic.precision()
    }

    /// Pieces of all texts together with which [`Encoder::run`] works best. Larger chunks leave the second-level cache and keep
    /// short work waiting; smaller ones read the weights more often.
    pub(crate) fn pieces_at_once(&self) -> usize {
        match self.arithmetic.precision() {
            Precision::F32 => 400,
            Precision::Int8 => 128,
        }
    }

    /// One vector of length 1 per text: the mean over its pieces.
    ///
    /// Texts have one piece or more, at most [`Config::longest_input`], each a row of the vocabulary.
    pub(crate) fn run(&self, texts: &[&[u32]], workspace: &mut Workspace) -> Vec<Vec<f32>> {
        let hidden = self.config.hidden;
        let rows = texts.iter().map(|text| text.len()).sum::<usize>();
        let Workspace { states, query_key_value, attended, attention, widened, scratch } = workspace;
        let states = states.first(rows * hidden);
        let query_key_value = query_key_value.first(rows * hidden * 3);
        let attended = attended.first(rows * hidden);
        let widened = widened.first(rows * self.config.intermediate);

        self.embed_pieces(texts, states);
        for layer in &self.layers {
            layer.query_key_value.write(states, query_key_value, scratch);
            let mut row = 0;
            for text in texts {
                let end = row + text.len();
                let one = Attention {
                    query_key_value: &query_key_value[row * hidden * 3..end * hidden * 3],
                    attended: &mut attended[row * hidden..end * hidden],
                    hidden,
                    width: self.config.head_width(),
                    memory: attention,
                };
                one.run(self.arch);
                row = end;
            }
            layer.attended.add(attended, states, scratch);
            layer.attended_norm.apply(self.arch, states);

            layer.widened.write(states, widened, scratch);
            gelu(self.arch, widened);
            layer.narrowed.add(widened, states, scratch);
            layer.narrowed_norm.apply(self.arch, states);
        }

        let mut vectors = Vec::with_capacity(texts.len());
        let mut rest = &*states;
        for text in texts {
            let (own, others) = rest.split_at(text.len() * hidden);
            vectors.push(unit_mean(self.arch, own, hidden));
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
        self.norm.apply(self.arch, states);
    }
}

impl Layer {
    fn load(file: &mut WeightFile, index: usize, config: &Config, arithmetic: Arithmetic) -> Result<Self, LoadError> {
        let (hidden, intermediate) = (config.hidden, config.intermediate);
        let name = |part: &str| format!("encoder.layer.{index}.{part}");
        let mut weights = Vec::with_capacity(3 * hidden * hidden);
        let mut bias = Vec::with_capacity(3 * hidden);
        for part in ["query", "key", "value"] {
            weights.extend(file.read(&name(&format!("attention.self.{part}.weight")), &[hidden, hidden])?);
            bias.extend(file.read(&name(&format!("attention.self.{part}.bias")), &[hidden])?);
        }
        let query_key_value =
            Linear::new(arithmetic, &weights, bias).map_err(|reason| file.damaged(&name("attention.self"), &reason))?;
        drop(weights);
        let mut linear = |part: &str, inputs: usize, outputs: usize| -> Result<Linear, LoadError> {
            let weights = file.read(&name(&format!("{part}.weight")), &[outputs, inputs])?;
            let bias = file.read(&name(&format!("{part}.bias")), &[outputs])?;
            Linear::new(arithmetic, &weights, bias).map_err(|reason| file.damaged(&name(part), &reason))
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

    fn apply(&self, arch: Arch, rows: &mut [f32]) {
        normalise_rows(arch, rows, &self.scale, &self.shift, self.epsilon);
    }
}
