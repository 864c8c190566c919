//! What is done to rows of numbers between the matrix products: layer normalisation, GELU, softmax, and vector length.
//!
//! Plain loops without branches or library calls, which the compiler turns into vector instructions; [`pulp`] has them
//! compiled for several instruction sets, of which the caller picks one at run time. Sums run in [`LANES`] interleaved parts,
//! so their order depends on the length of a row alone, and no multiplication is fused with an addition: the same bits on every
//! machine.

#![expect(
    clippy::inline_always,
    reason = "a loop gets the wide instructions only inside the function compiled for them"
)]

use pulp::{Arch, Simd, WithSimd};

/// Parts of a sum: the floats in the widest vector register.
pub(crate) const LANES: usize = 16;

/// Normalises each row of `width` values to mean 0 and variance 1, then scales and shifts it.
pub(crate) fn normalise_rows(arch: Arch, rows: &mut [f32], scale: &[f32], shift: &[f32], epsilon: f32) {
    arch.dispatch(NormaliseRows { rows, scale, shift, epsilon });
}

/// Replaces every value by its Gaussian error linear unit, the exact one of `erf`, not the approximation by `tanh`.
pub(crate) fn gelu(arch: Arch, values: &mut [f32]) {
    arch.dispatch(Gelu(values));
}

// Types rather than closures: a closure may stay a function of its own, without the wide instructions.

struct NormaliseRows<'a> {
    rows: &'a mut [f32],
    scale: &'a [f32],
    shift: &'a [f32],
    epsilon: f32,
}

impl WithSimd for NormaliseRows<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        for row in self.rows.chunks_exact_mut(self.scale.len()) {
            normalise_row(row, self.scale, self.shift, self.epsilon);
        }
    }
}

struct Gelu<'a>(&'a mut [f32]);

impl WithSimd for Gelu<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        for value in self.0 {
            *value = gelu_of(*value);
        }
    }
}

/// The mean of rows, scaled to length 1.
pub(crate) fn unit_mean(arch: Arch, rows: &[f32], width: usize) -> Vec<f32> {
    let mut mean = vec![0.0; width];
    arch.dispatch(|| {
        for row in rows.chunks_exact(width) {
            for (sum, value) in mean.iter_mut().zip(row) {
                *sum += value;
            }
        }
        let count = (rows.len() / width) as f32;
        for value in &mut mean {
            *value /= count;
        }
        // The least length keeps a zero vector zero instead of dividing by nothing.
        let length = sum_of(&mean, |value| value * value).sqrt().max(1e-12);
        for value in &mut mean {
            *value /= length;
        }
    });
    mean
}

#[inline(always)]
fn normalise_row(row: &mut [f32], scale: &[f32], shift: &[f32], epsilon: f32) {
    let count = row.len() as f32;
    let mean = sum_of(row, |value| value) / count;
    let variance = sum_of(row, |value| (value - mean) * (value - mean)) / count;
    let factor = 1.0 / (variance + epsilon).sqrt();
    for ((value, scale), shift) in row.iter_mut().zip(scale).zip(shift) {
        *value = (*value - mean) * factor * scale + shift;
    }
}

/// Replaces the values of a row by their softmax. To be called where the wide instructions are.
#[inline(always)]
pub(crate) fn softmax_row(row: &mut [f32]) {
    let mut highest = [f32::NEG_INFINITY; LANES];
    let (blocks, rest) = row.as_chunks::<LANES>();
    for block in blocks {
        for lane in 0..LANES {
            highest[lane] = if block[lane] > highest[lane] { block[lane] } else { highest[lane] };
        }
    }
    let mut half = LANES / 2;
    while half > 0 {
        for lane in 0..half {
            highest[lane] = if highest[lane + half] > highest[lane] { highest[lane + half] } else { highest[lane] };
        }
        half /= 2;
    }
    let highest = rest.iter().fold(highest[0], |highest, value| if *value > highest { *value } else { highest });
    for value in row.iter_mut() {
        *value = exp_of_negative(*value - highest);
    }
    let factor = 1.0 / sum_of(row, |value| value);
    for value in row.iter_mut() {
        *value *= factor;
    }
}

/// The sum of `term` over `values`, in [`LANES`] parts.
#[inline(always)]
fn sum_of(values: &[f32], term: impl Fn(f32) -> f32) -> f32 {
    let mut parts = [0.0; LANES];
    let (blocks, rest) = values.as_chunks::<LANES>();
    for block in blocks {
        for lane in 0..LANES {
            parts[lane] += term(block[lane]);
        }
    }
    for (part, value) in parts.iter_mut().zip(rest) {
        *part += term(*value);
    }
    let mut half = LANES / 2;
    while half > 0 {
        for lane in 0..half {
            parts[lane] += parts[lane + half];
        }
        half /= 2;
    }
    parts[0]
}

/// `e^x` for x of 0 or less, to 1e-7 of its value. Below -87 it gives `e^-87`, which nothing here tells from 0.
#[inline(always)]
fn exp_of_negative(x: f32) -> f32 {
    /// Adding it rounds to an integer, which then stands in the lowest bits.
    const ROUND: f32 = 12_582_912.0;
    /// ln 2 in two parts; the product of the first with a small integer is exact.
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;

    let x = if x > -87.0 { x } else { -87.0 };
    let rounded = x * std::f32::consts::LOG2_E + ROUND;
    let power = rounded - ROUND;
    let r = x - power * LN_2_HIGH - power * LN_2_LOW;
    // The series of e^r up to r^7, for |r| of at most ln 2 / 2.
    let mut series = 1.0 / 5040.0;
    series = series * r + 1.0 / 720.0;
    series = series * r + 1.0 / 120.0;
    series = series * r + 1.0 / 24.0;
    series = series * r + 1.0 / 6.0;
    series = series * r + 0.5;
    series = series * r + 1.0;
    series = series * r + 1.0;
    let two_to_power = f32::from_bits((rounded.to_bits() << 23).wrapping_add(1.0_f32.to_bits()));
    series * two_to_power
}

#[inline(always)]
fn gelu_of(x: f32) -> f32 {
    0.5 * x * (1.0 + erf(x * std::f32::consts::FRAC_1_SQRT_2))
}

/// The error function, to 5e-7: `x P(x^2) / Q(x^2)` on -3.92 to 3.92, beyond which it is 1 in f32.
///
/// The coefficients are a fit of ours: least squares of the relative error, weighted anew towards its maximum (1.9e-8)
/// until it was level.
#[inline(always)]
fn erf(x: f32) -> f32 {
    /// Where erf is 1 to half a bit of f32.
    const FLAT: f32 = 3.92;

    let u = x * x;
    let mut p = 2.050_088_6e-6;
    p = p * u + 2.848_829_6e-4;
    p = p * u + 3.765_621_2e-3;
    p = p * u + 5.274_873_6e-2;
    p = p * u + 0.190_406_55;
    p = p * u + std::f32::consts::FRAC_2_SQRT_PI;
    let mut q = 3.809_174e-5;
    q = q * u + 1.162_536_8e-3;
    q = q * u + 1.496_922_5e-2;
    q = q * u + 0.114_109_15;
    q = q * u + 0.502_076_15;
    q = q * u + 1.0;
    // Far out the fit does not hold; what it gives there is thrown away.
    let inner = if x < FLAT { x * p * reciprocal(q) } else { 1.0 };
    if x > -FLAT { inner } else { -1.0 }
}

/// `1 / x` for x of 1 to 2^100, to 3e-7 of its value: a quarter of the time of a division of vectors.
#[inline(always)]
fn reciprocal(x: f32) -> f32 {
    // Mirrors the exponent, which is right to an eighth; each step of Newton's squares the error.
    let mut y = f32::from_bits(0x7EF3_11C7_u32.wrapping_sub(x.to_bits()));
    y *= 2.0 - x * y;
    y *= 2.0 - x * y;
    y *= 2.0 - x * y;
    y
}

#[cfg(test)]
mod tests {
    use pulp::Arch;

    use super::{erf, exp_of_negative, gelu, normalise_rows, reciprocal, softmax_row, unit_mean};
    use crate::instructions::Instructions;

    /// Known values of erf to 10 digits, from tables.
    const ERF: [(f32, f64); 8] = [
        (0.0, 0.0),
        (0.1, 0.112_462_916_0),
        (0.5, 0.520_499_877_8),
        (1.0, 0.842_700_792_9),
        (1.5, 0.966_105_146_5),
        (2.0, 0.995_322_265_0),
        (3.0, 0.999_977_909_5),
        (9.0, 1.0),
    ];

    #[test]
    fn erf_has_its_known_values_on_both_sides() {
        for (x, expected) in ERF {
            assert!((f64::from(erf(x)) - expected).abs() < 5e-7, "erf({x}) = {}", erf(x));
            assert_eq!(erf(-x).to_bits() << 1, erf(x).to_bits() << 1, "erf is odd at {x}");
        }
    }

    #[test]
    fn reciprocals_are_exact_to_rounding() {
        for step in 0..100_000 {
            let x = (step as f32 / 5000.0).exp();
            assert!((f64::from(reciprocal(x)) * f64::from(x) - 1.0).abs() < 3e-7, "at {x}");
        }
    }

    #[test]
    fn exp_is_exact_to_rounding() {
        for step in 0..87_000 {
            let x = -(step as f32) / 1000.0;
            let expected = f64::from(x).exp();
            assert!((f64::from(exp_of_negative(x)) / expected - 1.0).abs() < 3e-7, "at {x}");
        }
        assert!(exp_of_negative(-1e9) < 1e-37);
        assert!(exp_of_negative(f32::NEG_INFINITY) < 1e-37);
    }

    #[test]
    fn gelu_keeps_large_values_and_drops_small_ones() {
        let mut values = [-30.0, -1.0, 0.0, 1.0, 30.0];
        gelu(Arch::new(), &mut values);
        assert_eq!((values[0], values[2], values[4]), (0.0, 0.0, 30.0));
        assert!((values[1] + 0.158_655_25).abs() < 1e-7 && (values[3] - 0.841_344_8).abs() < 1e-7, "{values:?}");
    }

    #[test]
    fn softmax_rows_sum_to_one_and_keep_their_order() {
        for width in [1, 2, 15, 16, 17, 48, 256] {
            let mut rows: Vec<f32> = (0..width * 3).map(|i| (i * 7 % 23) as f32 * 10.0 - 100.0).collect();
            let before = rows.clone();
            rows.chunks_mut(width).for_each(softmax_row);
            for (row, old) in rows.chunks(width).zip(before.chunks(width)) {
                assert!((row.iter().sum::<f32>() - 1.0).abs() < 1e-6, "width {width}");
                for pair in 1..width {
                    assert!((row[pair] > row[pair - 1]) == (old[pair] > old[pair - 1]) || row[pair] < 1e-30);
                }
            }
        }
    }

    #[test]
    fn normalised_rows_have_mean_zero_and_variance_one() {
        for width in [2, 17, 384] {
            let mut rows: Vec<f32> = (0..width * 2).map(|i| (i * 31 % 19) as f32 + 100.0).collect();
            normalise_rows(Arch::new(), &mut rows, &vec![1.0; width], &vec![0.0; width], 1e-12);
            for row in rows.chunks(width) {
                let mean = row.iter().sum::<f32>() / width as f32;
                let variance = row.iter().map(|v| v * v).sum::<f32>() / width as f32;
                assert!(mean.abs() < 1e-5 && (variance - 1.0).abs() < 1e-4, "{width}: {mean} {variance}");
            }
        }
    }

    #[test]
    fn the_mean_of_rows_has_length_one_unless_it_is_zero() {
        assert_eq!(unit_mean(Arch::new(), &[3.0, 0.0, 3.0, 8.0], 2), [0.6, 0.8]);
        assert_eq!(unit_mean(Arch::new(), &[1.0, -1.0, -1.0, 1.0], 2), [0.0, 0.0]);
    }

    #[test]
    fn all_instructions_give_the_same_bits() {
        let noise: Vec<f32> = (0..384 * 9).map(|i| (i * 7919 % 1009) as f32 / 100.0 - 5.0).collect();
        let (scale, shift) = (&noise[..384], &noise[384..768]);
        let all = |arch: Arch| {
            let mut values = noise.clone();
            normalise_rows(arch, &mut values, scale, shift, 1e-12);
            gelu(arch, &mut values);
            arch.dispatch(|| values.chunks_mut(100).for_each(softmax_row));
            values.extend(unit_mean(arch, &noise, 384));
            values.into_iter().map(f32::to_bits).collect::<Vec<_>>()
        };
        let best = all(Arch::new());
        for instructions in Instructions::ALL {
            assert!(all(instructions.arch()) == best, "{}", instructions.as_str());
        }
    }
}
