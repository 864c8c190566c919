//! A linear layer with its weights prepared for the processor: `y = W x + b` for many rows x at once.
//!
//! The boundary for other arithmetic: nothing outside this module sees how weights are kept. An implementation in other
//! numbers needs the same three functions, and must as well give a row the same bits whatever the other rows are.

use crate::matmul::{Before, DEPTH, Matrix, MatrixMut, multiply};

/// Weights and bias of one layer.
///
/// The weights lie transposed in panels of [`panel_width`] outputs, each panel `[inputs][width]` without gaps: the order
/// in which the matrix kernel reads them, so that it copies nothing, and neighbouring reads are neighbours in memory.
pub(crate) struct Linear {
    inputs: usize,
    panel: usize,
    panels: Vec<f32>,
    bias: Vec<f32>,
}

impl Linear {
    /// Prepares `weights`, `[outputs][inputs]` row by row, with one bias per output.
    pub(crate) fn new(weights: &[f32], bias: Vec<f32>) -> Self {
        let outputs = bias.len();
        let inputs = weights.len() / outputs;
        let panel = panel_width();
        let mut panels = Vec::with_capacity(weights.len());
        for rows in weights.chunks(inputs * panel) {
            for input in 0..inputs {
                panels.extend(rows.iter().skip(input).step_by(inputs));
            }
        }
        Self { inputs, panel, panels, bias }
    }

    /// Components of a result row.
    pub(crate) fn outputs(&self) -> usize {
        self.bias.len()
    }

    /// Sets `out`, rows of [`Linear::outputs`], to the layer's answer for the rows of `input`.
    pub(crate) fn write(&self, input: &[f32], out: &mut [f32]) {
        for row in out.chunks_exact_mut(self.outputs()) {
            row.copy_from_slice(&self.bias);
        }
        self.add_products(input, out);
    }

    /// Adds the layer's answer for the rows of `input` to `out`, rows of [`Linear::outputs`].
    pub(crate) fn add(&self, input: &[f32], out: &mut [f32]) {
        for row in out.chunks_exact_mut(self.outputs()) {
            for (value, bias) in row.iter_mut().zip(&self.bias) {
                *value += bias;
            }
        }
        self.add_products(input, out);
    }

    fn add_products(&self, input: &[f32], out: &mut [f32]) {
        let outputs = self.outputs();
        let rows = input.len() / self.inputs;
        let block = self.inputs.div_ceil(self.inputs.div_ceil(DEPTH));
        for (index, panel) in self.panels.chunks(self.inputs * self.panel).enumerate() {
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
    use super::Linear;

    #[test]
    fn every_output_is_its_weights_times_the_input_plus_its_bias() {
        // Not multiples of a panel or of a depth block, so that the ragged edges are computed too.
        for (inputs, outputs) in [(3, 2), (20, 70), (700, 130)] {
            let weights: Vec<f32> = (0..inputs * outputs).map(|i| ((i * 37 % 101) as f32 - 50.0) / 64.0).collect();
            let bias: Vec<f32> = (0..outputs).map(|i| i as f32 / 8.0).collect();
            let input: Vec<f32> = (0..inputs * 5).map(|i| ((i * 29 % 83) as f32 - 40.0) / 32.0).collect();
            let linear = Linear::new(&weights, bias.clone());
            let mut written = vec![f32::NAN; outputs * 5];
            linear.write(&input, &mut written);
            let mut added = vec![1.0; outputs * 5];
            linear.add(&input, &mut added);
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
