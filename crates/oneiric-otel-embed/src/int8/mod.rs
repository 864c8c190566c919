//! A linear layer in bytes.
//!
//! Weights are bytes with a scale for each output and each [`PART`] of the inputs; they are rounded when the model is
//! loaded. Inputs become bytes row by row, with a scale and a zero point for each part of the row, so a row gives the same
//! bits whatever the other rows are. Sums are whole numbers, exact, also as floats; what is computed around them is one
//! operation after the other, without fused multiply-adds that only some machines have. So every machine gives the same bits.

#![expect(
    clippy::inline_always,
    reason = "a loop gets the wide instructions only inside the function compiled for them"
)]

mod amx;
mod codes;
mod kernel;
mod sums;

use pulp::Arch;

use crate::LoadError;
use crate::aligned::Aligned;
use crate::instructions::Instructions;
use crate::matmul::Before;
pub(crate) use amx::{Amx, amx};
use codes::{Code, Quantise, Round};
use kernel::{Kernel, Running, WIDTH};
use sums::{AddSums, Begin, Columns, PartSums};

/// Inputs that share a scale. Fewer are more exact; each part costs a pass over the results. Sums of so many products are
/// below 2^24, where floats are exact.
const PART: usize = 192;
/// Parts whose sums become floats together, which saves passes over the results.
const TOGETHER: usize = 2;
/// Rows whose sums are computed before they become floats: few enough that the sums stay in the first-level cache.
const ROWS: usize = 32;

/// The arithmetic on this processor.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Int8 {
    kernel: Kernel,
    arch: Arch,
}

impl Int8 {
    /// The arithmetic with these instructions.
    pub(crate) fn new(instructions: Instructions) -> Result<Self, LoadError> {
        let kernel = Kernel::new(instructions).ok_or(LoadError::Instructions { name: instructions.as_str() })?;
        Ok(Self { kernel, arch: instructions.arch() })
    }

    /// What the loops beside the products are compiled for.
    pub(crate) fn arch(self) -> Arch {
        self.arch
    }
}

/// The weights of one layer.
pub(crate) struct Weights {
    int8: Int8,
    inputs: usize,
    parts: Vec<Part>,
    /// For each [`WIDTH`] outputs, the last filled up with zeros, a panel per part.
    panels: Aligned<i8>,
    /// For each [`WIDTH`] outputs and each part.
    columns: Vec<Columns>,
}

/// Memory that layers work in, kept between calls.
#[derive(Default)]
pub(crate) struct Scratch {
    /// For each part, its bytes of all rows.
    bytes: Aligned<u8>,
    /// For each part, what they stand for in each row.
    codes: Vec<Code>,
    /// For each of some parts, [`ROWS`] of [`WIDTH`].
    sums: Aligned<i32>,
}

/// Some inputs, one after the other.
#[derive(Clone, Copy)]
struct Part {
    first: usize,
    inputs: usize,
    /// Bytes of a row: `inputs`, and zeros up to what the kernel takes at a time.
    depth: usize,
}

impl Weights {
    /// Rounds `weights`, `[outputs][inputs]` row by row.
    ///
    /// # Errors
    /// The number of an output with a weight that is not finite.
    pub(crate) fn new(int8: Int8, weights: &[f32], outputs: usize) -> Result<Self, usize> {
        let inputs = weights.len() / outputs;
        let part = |first| {
            let inputs = PART.min(inputs - first);
            Part { first, inputs, depth: inputs.next_multiple_of(int8.kernel.depth_step()) }
        };
        let parts: Vec<Part> = (0..inputs).step_by(PART).map(part).collect();
        let depth: usize = parts.iter().map(|part| part.depth).sum();
        let mut panels = Aligned::new(outputs.div_ceil(WIDTH) * WIDTH * depth);
        let no_columns = Columns { scales: [0.0; WIDTH], sums: [0.0; WIDTH] };
        let mut columns = vec![no_columns; outputs.div_ceil(WIDTH) * parts.len()];
        let mut bytes = [0_i8; PART];
        for (output, row) in weights.chunks_exact(inputs).enumerate() {
            let (index, column) = (output / WIDTH, output % WIDTH);
            let panel = &mut panels.values_mut()[index * WIDTH * depth..][..WIDTH * depth];
            for (part, columns) in parts.iter().zip(&mut columns[index * parts.len()..]) {
                let bytes = &mut bytes[..part.inputs];
                let scale = int8.arch.dispatch(Round { weights: &row[part.first..][..part.inputs], bytes });
                let panel = &mut panel[part.first * WIDTH..][..part.depth * WIDTH];
                for (input, byte) in bytes.iter().enumerate() {
                    panel[int8.kernel.place(input, column)] = *byte;
                }
                columns.scales[column] = scale.ok_or(output)?;
                columns.sums[column] = bytes.iter().map(|byte| i32::from(*byte)).sum::<i32>() as f32;
            }
        }
        Ok(Self { int8, inputs, parts, panels, columns })
    }

    /// Writes the layer's answer for the rows of `input`, with a bias per output, to `out`, or adds it.
    pub(crate) fn apply(&self, input: &[f32], bias: &[f32], out: &mut [f32], before: Before, scratch: &mut Scratch) {
        let Int8 { kernel, arch } = self.int8;
        let rows = input.len() / self.inputs;
        let depth: usize = self.parts.iter().map(|part| part.depth).sum();
        let filled = rows.next_multiple_of(kernel.row_step());
        let Scratch { bytes, codes, sums } = scratch;
        let bytes = bytes.first(filled * depth);
        codes.clear();
        arch.dispatch(Quantise { input, inputs: self.inputs, parts: &self.parts, rows: filled, bytes, codes });
        let sums = sums.first(TOGETHER * ROWS * WIDTH);
        let mut work = Work { running: kernel.run(), arch, rows, filled, bytes, codes, sums, out, outputs: bias.len() };
        let panels = self.panels.values().chunks_exact(depth * WIDTH).zip(self.columns.chunks_exact(self.parts.len()));
        for ((panel, columns), (first, bias)) in panels.zip((0..).step_by(WIDTH).zip(bias.chunks(WIDTH))) {
            let width = bias.len();
            let mut own_bias = [0.0; WIDTH];
            own_bias[..width].copy_from_slice(bias);
            let mut begin = match before {
                Before::Replace => Begin::Bias(&own_bias),
                Before::Add => Begin::AddBias(&own_bias),
            };
            for (parts, columns) in self.parts.chunks(TOGETHER).zip(columns.chunks(TOGETHER)) {
                work.add(Strip { panel, parts, columns, first, width, begin });
                begin = Begin::Before;
            }
        }
    }
}

/// A layer at work on some rows.
struct Work<'a> {
    running: Running,
    arch: Arch,
    rows: usize,
    /// Rows of bytes: `rows`, filled up to what the kernel multiplies at a time.
    filled: usize,
    bytes: &'a [u8],
    codes: &'a [Code],
    sums: &'a mut [i32],
    out: &'a mut [f32],
    outputs: usize,
}

/// Some parts of one panel.
#[derive(Clone, Copy)]
struct Strip<'a> {
    panel: &'a [i8],
    /// [`TOGETHER`] of them, or one.
    parts: &'a [Part],
    /// Of each part.
    columns: &'a [Columns],
    /// Its first output.
    first: usize,
    /// Its outputs.
    width: usize,
    begin: Begin<'a>,
}

impl Work<'_> {
    /// Adds the products of all rows with the strip.
    fn add(&mut self, strip: Strip<'_>) {
        for start in (0..self.rows).step_by(ROWS) {
            let (end, filled) = (self.rows.min(start + ROWS), self.filled.min(start + ROWS));
            for (part, sums) in strip.parts.iter().zip(self.sums.chunks_exact_mut(ROWS * WIDTH)) {
                let bytes = &self.bytes[part.first * self.filled..][start * part.depth..filled * part.depth];
                let panel = &strip.panel[part.first * WIDTH..][..part.depth * WIDTH];
                self.running.multiply(bytes, part.depth, panel, &mut sums[..(filled - start) * WIDTH]);
            }
            let part = |index: usize| PartSums {
                codes: &self.codes[strip.parts[index].first / PART * self.rows..][start..end],
                columns: &strip.columns[index],
                sums: &self.sums[index * ROWS * WIDTH..][..ROWS * WIDTH],
            };
            let Strip { begin, width, .. } = strip;
            let (out, outputs) = (&mut self.out[start * self.outputs + strip.first..], self.outputs);
            match strip.parts.len() {
                1 => self.arch.dispatch(AddSums { parts: [part(0)], begin, out, outputs, width }),
                _ => self.arch.dispatch(AddSums { parts: [part(0), part(1)], begin, out, outputs, width }),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Int8, PART, ROWS, Scratch, Weights};
    use crate::instructions::Instructions;
    use crate::matmul::Before;

    fn all() -> impl Iterator<Item = Int8> {
        Instructions::ALL.into_iter().filter_map(|instructions| Int8::new(instructions).ok())
    }

    fn answer(int8: Int8, weights: &[f32], bias: &[f32], input: &[f32], before: Before, out: &mut [f32]) {
        let weights = Weights::new(int8, weights, bias.len()).expect("all weights are finite");
        weights.apply(input, bias, out, before, &mut Scratch::default());
    }

    /// Numbers of one magnitude, so that a byte of them is a known share.
    fn numbers(count: usize) -> impl Strategy<Value = Vec<f32>> {
        prop::collection::vec(-1.0_f32..=1.0, count)
    }

    fn layer() -> impl Strategy<Value = (usize, usize, Vec<f32>, Vec<f32>, Vec<f32>)> {
        (1..=2 * PART + 9, 1_usize..=110, 1..=ROWS + 9).prop_flat_map(|(inputs, outputs, rows)| {
            (Just(inputs), Just(outputs), numbers(inputs * outputs), numbers(outputs), numbers(rows * inputs))
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn answers_are_near_the_exact_ones_and_the_same_with_all_instructions(
            (inputs, outputs, weights, bias, input) in layer()
        ) {
            let rows = input.len() / inputs;
            let mut first: Option<Vec<f32>> = None;
            for int8 in all() {
                let mut out = vec![f32::NAN; rows * outputs];
                answer(int8, &weights, &bias, &input, Before::Replace, &mut out);
                for (at, value) in out.iter().enumerate() {
                    let (row, output) = (at / outputs, at % outputs);
                    let product = |i| f64::from(weights[output * inputs + i]) * f64::from(input[row * inputs + i]);
                    let exact = (0..inputs).map(product).sum::<f64>() + f64::from(bias[output]);
                    // Half a step of a weight times an input of 1, and half a step of an input times a weight of 1.
                    let bound = inputs as f64 * (0.5 / 127.0 + 0.5 * 2.0 / 255.0 + 1e-4) + 1e-5;
                    prop_assert!((f64::from(*value) - exact).abs() <= bound, "{value} is not {exact}");
                }
                let first = first.get_or_insert_with(|| out.clone());
                prop_assert!(first.iter().zip(&out).all(|(a, b)| a.to_bits() == b.to_bits()));
            }
        }

        #[test]
        fn a_row_has_the_same_bits_in_every_company((inputs, outputs, weights, bias, input) in layer()) {
            let int8 = all().next().expect("there is a portable one");
            let mut together = vec![0.5; input.len() / inputs * outputs];
            answer(int8, &weights, &bias, &input, Before::Add, &mut together);
            for (row, expected) in input.chunks(inputs).zip(together.chunks(outputs)) {
                let mut alone = vec![0.5; outputs];
                answer(int8, &weights, &bias, row, Before::Add, &mut alone);
                prop_assert_eq!(&alone, expected);
            }
        }
    }

    #[test]
    fn rows_and_weights_of_zeros_give_the_bias() {
        for int8 in all() {
            let mut out = [f32::NAN; 4];
            answer(int8, &[0.0, 0.0, 1.0, -2.0], &[3.0, 4.0], &[5.0, 6.0, 0.0, 0.0], Before::Replace, &mut out);
            assert_eq!((out[0], out[2], out[3]), (3.0, 3.0, 4.0));
        }
    }

    #[test]
    fn weights_that_are_no_numbers_are_named() {
        let int8 = all().next().expect("there is a portable one");
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            assert_eq!(Weights::new(int8, &[0.0, 1.0, 2.0, bad], 2).err(), Some(1));
        }
    }
}
