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

mod kernel;

use pulp::{Arch, Simd, WithSimd};

use crate::LoadError;
use crate::instructions::Instructions;
use crate::matmul::Before;
use kernel::{GROUP, Kernel, WIDTH};

/// Inputs that share a scale. Fewer are more exact; each part costs a pass over the results. Sums of so many products are
/// below 2^24, where floats are exact.
const PART: usize = 192;
/// Rows whose sums are computed before they become floats: few enough that the sums stay in the first-level cache.
const ROWS: usize = 32;
/// The greatest weight: symmetric, so that no weight has a zero point.
const GREATEST_WEIGHT: f32 = 127.0;
/// The greatest byte of an input.
const GREATEST_INPUT: f32 = 255.0;
/// The least scale, for rows that are all zero.
const LEAST_SCALE: f32 = 1e-30;
/// Adding it rounds to a whole number, ties to even, which then stands in the lowest bits.
const ROUND: f32 = 12_582_912.0;

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
    /// For each [`WIDTH`] outputs, the last filled up with zeros, a panel per part.
    panels: Vec<i8>,
    /// For each part and output, what a weight of 1 stands for.
    scales: Vec<f32>,
    /// For each part and output, the sum of its weights: a whole number.
    sums: Vec<f32>,
}

/// Memory that layers work in, kept between calls.
#[derive(Default)]
pub(crate) struct Scratch {
    /// For each part, its bytes of all rows.
    bytes: Vec<u8>,
    /// For each part, what they stand for in each row.
    codes: Vec<Code>,
    sums: Vec<i32>,
}

/// What bytes stand for: `scale * (byte - zero)`.
#[derive(Clone, Copy)]
struct Code {
    scale: f32,
    /// A whole number.
    zero: f32,
}

/// Some inputs, one after the other.
#[derive(Clone, Copy)]
struct Part {
    first: usize,
    inputs: usize,
    /// Bytes of a row: `inputs` and zeros up to a multiple of [`GROUP`].
    depth: usize,
}

fn parts(inputs: usize) -> impl Iterator<Item = Part> {
    (0..inputs).step_by(PART).map(move |first| {
        let inputs = PART.min(inputs - first);
        Part { first, inputs, depth: inputs.next_multiple_of(GROUP) }
    })
}

impl Weights {
    /// Rounds `weights`, `[outputs][inputs]` row by row.
    ///
    /// # Errors
    /// The number of an output with a weight that is not finite.
    pub(crate) fn new(int8: Int8, weights: &[f32], outputs: usize) -> Result<Self, usize> {
        let inputs = weights.len() / outputs;
        let depth: usize = parts(inputs).map(|part| part.depth).sum();
        let mut panels = vec![0; outputs.div_ceil(WIDTH) * WIDTH * depth];
        let parts_count = inputs.div_ceil(PART);
        let (mut scales, mut sums) = (vec![0.0; parts_count * outputs], vec![0.0; parts_count * outputs]);
        let mut bytes = [0_i8; PART];
        for (output, row) in weights.chunks_exact(inputs).enumerate() {
            let panel = &mut panels[output / WIDTH * WIDTH * depth..][..WIDTH * depth];
            for (index, part) in parts(inputs).enumerate() {
                let bytes = &mut bytes[..part.inputs];
                let scale = int8.arch.dispatch(Round { weights: &row[part.first..][..part.inputs], bytes });
                let panel = &mut panel[part.first * WIDTH..][..part.depth * WIDTH];
                for (input, byte) in bytes.iter().enumerate() {
                    panel[int8.kernel.place(input, output % WIDTH)] = *byte;
                }
                scales[index * outputs + output] = scale.ok_or(output)?;
                sums[index * outputs + output] = bytes.iter().map(|byte| i32::from(*byte)).sum::<i32>() as f32;
            }
        }
        Ok(Self { int8, inputs, panels, scales, sums })
    }

    /// Writes the layer's answer for the rows of `input`, with a bias per output, to `out`, or adds it.
    pub(crate) fn apply(&self, input: &[f32], bias: &[f32], out: &mut [f32], before: Before, scratch: &mut Scratch) {
        let (rows, outputs) = (input.len() / self.inputs, bias.len());
        let Int8 { kernel, arch } = self.int8;
        let depth: usize = parts(self.inputs).map(|part| part.depth).sum();
        let Scratch { bytes, codes, sums } = scratch;
        bytes.resize(rows * depth, 0);
        codes.clear();
        arch.dispatch(Quantise { input, inputs: self.inputs, bytes, codes });
        sums.resize(ROWS * WIDTH, 0);
        arch.dispatch(AddBias { bias, before, out });
        for (panel, first) in self.panels.chunks_exact(depth * WIDTH).zip((0..).step_by(WIDTH)) {
            let width = WIDTH.min(outputs - first);
            for (index, part) in parts(self.inputs).enumerate() {
                let panel = &panel[part.first * WIDTH..][..part.depth * WIDTH];
                let bytes = &bytes[part.first * rows..][..part.depth * rows];
                let own = index * outputs + first..index * outputs + first + width;
                let (scales, weight_sums) = (&self.scales[own.clone()], &self.sums[own]);
                let blocks = bytes
                    .chunks(ROWS * part.depth)
                    .zip(codes[index * rows..][..rows].chunks(ROWS))
                    .zip(out.chunks_mut(ROWS * outputs));
                for ((bytes, codes), out) in blocks {
                    let sums = &mut sums[..codes.len() * WIDTH];
                    kernel.multiply(bytes, part.depth, panel, sums);
                    arch.dispatch(AddSums { sums, codes, scales, weight_sums, out: &mut out[first..], outputs });
                }
            }
        }
    }
}

/// Rounds weights to bytes. Gives what a byte of 1 stands for; none when a weight is not finite.
struct Round<'a> {
    weights: &'a [f32],
    bytes: &'a mut [i8],
}

impl WithSimd for Round<'_> {
    type Output = Option<f32>;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> Option<f32> {
        let (least, greatest) = extremes(simd, self.weights);
        let scale = (greatest.max(-least) / GREATEST_WEIGHT).max(LEAST_SCALE);
        let factor = 1.0 / scale;
        let mut finite = scale.is_finite();
        for (byte, weight) in self.bytes.iter_mut().zip(self.weights) {
            finite &= weight.is_finite();
            *byte = rounded(weight * factor).clamp(-127, 127) as i8;
        }
        finite.then_some(scale)
    }
}

/// Rounds rows of inputs to bytes, part by part.
struct Quantise<'a> {
    input: &'a [f32],
    inputs: usize,
    bytes: &'a mut [u8],
    codes: &'a mut Vec<Code>,
}

impl WithSimd for Quantise<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let rows = self.input.len() / self.inputs;
        for part in parts(self.inputs) {
            let bytes = &mut self.bytes[part.first * rows..][..part.depth * rows];
            for (row, bytes) in self.input.chunks_exact(self.inputs).zip(bytes.chunks_exact_mut(part.depth)) {
                let row = &row[part.first..][..part.inputs];
                let (bytes, padding) = bytes.split_at_mut(part.inputs);
                self.codes.push(quantise(simd, row, bytes));
                padding.fill(0);
            }
        }
    }
}

#[inline(always)]
fn quantise<S: Simd>(simd: S, row: &[f32], bytes: &mut [u8]) -> Code {
    let (least, greatest) = extremes(simd, row);
    let scale = ((greatest - least) / GREATEST_INPUT).max(LEAST_SCALE);
    let factor = 1.0 / scale;
    let zero = rounded(-least * factor) as f32;
    let zero_and_round = ROUND + zero;
    for (byte, value) in bytes.iter_mut().zip(row) {
        let place = (value * factor + zero_and_round).to_bits().wrapping_sub(ROUND.to_bits()) as i32;
        *byte = place.clamp(0, 255) as u8;
    }
    Code { scale, zero }
}

/// Begins every row of the results: with the bias alone, or with what is there and the bias.
struct AddBias<'a> {
    bias: &'a [f32],
    before: Before,
    out: &'a mut [f32],
}

impl WithSimd for AddBias<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        for row in self.out.chunks_exact_mut(self.bias.len()) {
            match self.before {
                Before::Replace => row.copy_from_slice(self.bias),
                Before::Add => row.iter_mut().zip(self.bias).for_each(|(value, bias)| *value += bias),
            }
        }
    }
}

/// Adds what sums of products stand for to the results.
struct AddSums<'a> {
    /// Rows of [`WIDTH`].
    sums: &'a [i32],
    codes: &'a [Code],
    scales: &'a [f32],
    weight_sums: &'a [f32],
    /// From the first output of the panel on.
    out: &'a mut [f32],
    outputs: usize,
}

impl WithSimd for AddSums<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let width = self.scales.len();
        // The last row ends where the results do, not where a row of them would.
        let rows = self.sums.chunks_exact(WIDTH).zip(self.codes).zip(self.out.chunks_mut(self.outputs));
        if let (Ok(scales), Ok(weight_sums)) =
            (<&[f32; WIDTH]>::try_from(self.scales), <&[f32; WIDTH]>::try_from(self.weight_sums))
        {
            for ((sums, code), out) in rows {
                add_sums(sums, *code, scales, weight_sums, &mut out[..WIDTH]);
            }
        } else {
            for ((sums, code), out) in rows {
                add_sums(&sums[..width], *code, self.scales, self.weight_sums, &mut out[..width]);
            }
        }
    }
}

#[inline(always)]
fn add_sums(sums: &[i32], code: Code, scales: &[f32], weight_sums: &[f32], out: &mut [f32]) {
    for (((out, sum), scale), weight_sum) in out.iter_mut().zip(sums).zip(scales).zip(weight_sums) {
        *out += (*sum as f32 - code.zero * weight_sum) * (code.scale * scale);
    }
}

/// The nearest whole number, ties to even, of a number below 2^22.
#[inline(always)]
fn rounded(value: f32) -> i32 {
    (value + ROUND).to_bits().wrapping_sub(ROUND.to_bits()) as i32
}

/// The least and the greatest of the values and 0. What is not a number may count for anything.
#[inline(always)]
fn extremes<S: Simd>(simd: S, values: &[f32]) -> (f32, f32) {
    let (vectors, rest) = S::as_simd_f32s(values);
    let (mut least, mut greatest) = (simd.splat_f32s(0.0), simd.splat_f32s(0.0));
    for vector in vectors {
        least = simd.min_f32s(least, *vector);
        greatest = simd.max_f32s(greatest, *vector);
    }
    let least = rest.iter().copied().fold(simd.reduce_min_f32s(least), f32::min);
    let greatest = rest.iter().copied().fold(simd.reduce_max_f32s(greatest), f32::max);
    (least, greatest)
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
