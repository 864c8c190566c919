//! Bytes from floats: weights and inputs rounded to what products are made of.

use pulp::{Simd, WithSimd};

use super::Part;

/// The greatest weight: symmetric, so that no weight has a zero point.
const GREATEST_WEIGHT: f32 = 127.0;
/// The greatest byte of an input.
const GREATEST_INPUT: f32 = 255.0;
/// The least scale, for rows that are all zero.
const LEAST_SCALE: f32 = 1e-30;
/// Adding it rounds to a whole number, ties to even, which then stands in the lowest bits.
const ROUND: f32 = 12_582_912.0;

/// What bytes stand for: `scale * (byte - zero)`.
#[derive(Clone, Copy)]
pub(super) struct Code {
    pub(super) scale: f32,
    /// A whole number.
    pub(super) zero: f32,
}

/// Rounds weights to bytes. Gives what a byte of 1 stands for; none when a weight is not finite.
pub(super) struct Round<'a> {
    pub(super) weights: &'a [f32],
    pub(super) bytes: &'a mut [i8],
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
pub(super) struct Quantise<'a> {
    pub(super) input: &'a [f32],
    /// Values of a row.
    pub(super) inputs: usize,
    pub(super) parts: &'a [Part],
    /// Rows of bytes, those of `input` or more: what fills them up stays as it is.
    pub(super) rows: usize,
    /// For each part, its bytes of all rows.
    pub(super) bytes: &'a mut [u8],
    /// For each part, what they stand for in each row of `input`.
    pub(super) codes: &'a mut Vec<Code>,
}

impl WithSimd for Quantise<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        for part in self.parts {
            let bytes = &mut self.bytes[part.first * self.rows..][..part.depth * self.rows];
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
