//! A linear layer with its weights prepared for the processor: `y = W x + b` for many rows x at once.
//!
//! The boundary between arithmetics: nothing outside this module sees how weights are kept. Each gives a row the same bits
//! whatever the other rows are.

use pulp::Arch;

use crate::int8::{self, Int8};
use crate::matmul::{Before, DEPTH, Matrix, MatrixMut, multiply};
use crate::precision::Precision;

/// The arithmetic of all layers of a model.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Arithmetic {
    F32,
    Int8(Int8),
}

impl Arithmetic {
    /// Its precision.
    pub(crate) fn precision(self) -> Precision {
        match self {
            Self::F32 => Precision::F32,
            Self::Int8(_) => Precision::Int8,
        }
    }

    /// What the loops beside the matrix products are compiled for.
    pub(crate) fn arch(self) -> Arch {
        match self {
            Self::F32 => Arch::new(),
            Self::Int8(int8) => int8.arch(),
        }
    }
}

/// Weights and bias of one layer.
pub(crate) struct Linear {
    weights: Weights,
    bias: Vec<f32>,
}

enum Weights {
    F32(Panels),
    Int8(int8::Weights),
}

/// Memory that layers work in, kept between calls.
pub(crate) type Scratch = int8::Scratch;

impl Linear {
    /// Prepares `weights`, `[outputs][inputs]` row by row, with one bias per output.
    ///
    /// # Errors
    /// What is wrong with the weights.
    pub(crate) fn new(arithmetic: Arithmetic, weights: &[f32], bias: Vec<f32>) -> Result<Self, String> {
        let weights = match arithmetic {
            Arithmetic::F32 => Weights::F32(Panels::new(weights, bias.len())),
            Arithmetic::Int8(int8) => int8::Weights::new(int8, weights, bias.len())
                .map(Weights::Int8)
                .map_err(|output| format!("a weight of output {output} is not a finite number"))?,
        };
        Ok(Self { weights, bias })
    }

    /// Sets `out`, rows with a value per output, to the layer's answer for the rows of `input`.
    pub(crate) fn write(&self, input: &[f32], out: &mut [f32], scratch: &mut Scratch) {
        match &self.weights {
            Weights::F32(panels) => {
                for row in out.chunks_exact_mut(self.bias.len()) {
                    row.copy_from_slice(&self.bias);
                }
                panels.add_products(input, self.bias.len(), out);
            }
            Weights::Int8(weights) => weights.apply(input, &self.bias, out, Before::Replace, scratch),
        }
    }

    /// Adds the layer's answer for the rows of `input` to `out`, rows with a value per output.
    pub(crate) fn add(&self, input: &[f32], out: &mut [f32], scratch: &mut Scratch) {
        match &self.weights {
            Weights::F32(panels) => {
                for row in out.chunks_exact_mut(self.bias.len()) {
                    for (value, bias) in row.iter_mut().zip(&self.bias) {
                        *value += bias;
                    }
                }
                panels.add_products(input, self.bias.len(), out);
            }
            Weights::Int8(weights) => weights.apply(input, &self.bias, out, Before::Add, scratch),
        }
    }
}

/// Weights in f32. They lie transposed in panels of [`panel_width`] outputs, each panel `[inputs][width]` without gaps: the
/// order in which the matrix kernel reads them, so that it copies nothing, and neighbouring reads are neighbours in memory.
struct Panels {
    inputs: usize,
    panel: usize,
    weights: Vec<f32>,
}

impl Panels {
    fn new(weights: &[f32], outputs: usize) -> Self {
        /// Inputs that are moved at a time: a line of the cache.
        const BLOCK: usize = 16;
        let inputs = weights.len() / outputs;
        let panel = panel_width();
        let mut panels = vec![0.0; weights.len()];
        for (rows, panel) in weights.chunks(inputs * panel).zip(panels.chunks_mut(inputs * panel)) {
            let width = rows.len() / inputs;
            for start in (0..inputs).step_by(BLOCK) {
                let block = &mut panel[start * width..inputs.min(start + BLOCK) * width];
                for (output, row) in rows.chunks_exact(inputs).enumerate() {
                    for (place, weight) in block.chunks_exact_mut(width).zip(&row[start..]) {
                        place[output] = *weight;
                    }
                }
            }
        }
        Self { inputs, panel, weights: panels }
    }

    fn add_products(&self, input: &[f32], outputs: usize, out: &mut [f32]) {
        let rows = input.len() / self.inputs;
        let block = self.inputs.div_ceil(self.inputs.div_ceil(DEPTH));
        for (index, panel) in self.weights.chunks(self.inputs * self.panel).enumerate() {
            let width = panel.len() / self.inputs;
            for start in (0..self.inputs).step_by(block) {
                let depth = block.min(self.inputs - start);
                multiply(
                    MatrixMut { data: &mut out[index * self.panel..], rows, columns: width, row_step: outputs },
                    Before::Add,
                    1.0,
                    Matrix { data: &input[start..], rows, columns: depth, row_step: self.inputs, column_step: 1 },
                    Matrix {
                        data: &panel[start * width..],
                        rows: depth,
                        columns: width,
                        row_step: width,
                        column_step: 1,
                    },
                );
            }
        }
    }
}

/// Outputs per panel: a multiple of what the matrix kernel takes at once on this processor.
fn panel_width() -> usize {
    #[cfg(target_arch = "x86_64")]
    if !std::arch::is_x86_feature_detected!("avx512f") {
        return 48;
    }
    64
}

#[cfg(test)]
mod tests {
    use super::{Arithmetic, Linear, Scratch};

    #[test]
    fn every_output_is_its_weights_times_the_input_plus_its_bias() {
        // Not multiples of a panel or of a depth block, so that the ragged edges are computed too.
        for (inputs, outputs) in [(3, 2), (20, 70), (700, 130)] {
            let weights: Vec<f32> = (0..inputs * outputs).map(|i| ((i * 37 % 101) as f32 - 50.0) / 64.0).collect();
            let bias: Vec<f32> = (0..outputs).map(|i| i as f32 / 8.0).collect();
            let input: Vec<f32> = (0..inputs * 5).map(|i| ((i * 29 % 83) as f32 - 40.0) / 32.0).collect();
            let linear = Linear::new(Arithmetic::F32, &weights, bias.clone()).expect("f32 takes all weights");
            let mut scratch = Scratch::default();
            let mut written = vec![f32::NAN; outputs * 5];
            linear.write(&input, &mut written, &mut scratch);
            let mut added = vec![1.0; outputs * 5];
            linear.add(&input, &mut added, &mut scratch);
            for row in 0..5 {
                for output in 0..outputs {
                    let product = |i| f64::from(weights[output * inputs + i]) * f64::from(input[row * inputs + i]);
                    let expected = (0..inputs).map(product).sum::<f64>() + f64::from(bias[output]);
                    let at = row * outputs + output;
                    assert!((f64::from(written[at]) - expected).abs() < 1e-3, "{inputs}x{outputs} {row} {output}");
                    assert!((f64::from(added[at]) - expected - 1.0).abs() < 1e-3, "{inputs}x{outputs} {row} {output}");
                }
            }
        }
    }
}
