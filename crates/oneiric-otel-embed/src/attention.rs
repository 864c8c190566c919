//! Attention within one text: every head lets each piece gather values from all pieces, by likeness of query and key.
//!
//! Promises the same bits on every machine: each sum is one chain of fused multiply-adds in the order of its terms, however
//! many sums a vector register holds. A processor without such an instruction computes the same, slowly.

#![expect(
    clippy::inline_always,
    reason = "a loop gets the wide instructions only inside the function compiled for them"
)]

use pulp::{Arch, Simd, WithSimd};

use crate::aligned::Aligned;
use crate::pointwise::{LANES, softmax_row};

/// Memory that attention works in, kept between calls.
#[derive(Default)]
pub(crate) struct Memory {
    /// Keys of a head, a column per piece, filled up with anything to a multiple of [`LANES`] pieces.
    keys: Aligned<f32>,
    /// Values of a head, a row per piece, filled up likewise.
    values: Aligned<f32>,
    scores: Aligned<f32>,
    gathered: Aligned<f32>,
}

/// One text: rows of the queries, keys and values of all heads beside each other.
pub(crate) struct Attention<'a> {
    /// A row of `3 * hidden` per piece.
    pub(crate) query_key_value: &'a [f32],
    /// A row of `hidden` per piece, to be set.
    pub(crate) attended: &'a mut [f32],
    /// Components of all heads.
    pub(crate) hidden: usize,
    /// Components of one head.
    pub(crate) width: usize,
    pub(crate) memory: &'a mut Memory,
}

impl Attention<'_> {
    /// Computes [`Attention::attended`].
    pub(crate) fn run(self, arch: Arch) {
        arch.dispatch(self);
    }
}

impl WithSimd for Attention<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { query_key_value, attended, hidden, width, memory } = self;
        let Memory { keys, values, scores, gathered } = memory;
        let (rows, step) = (attended.len() / hidden, hidden * 3);
        let (columns, wide) = (rows.next_multiple_of(LANES), width.next_multiple_of(LANES));
        let (keys, values) = (keys.first(width * columns), values.first(rows * wide));
        let (scores, gathered) = (scores.first(rows * columns), gathered.first(rows * wide));
        let scale = 1.0 / (width as f32).sqrt();

        for start in (0..hidden).step_by(width) {
            // Some pieces at a time, so that what is read again for the next component is still in the cache.
            for (pieces, first) in query_key_value.chunks(LANES * step).zip((0..).step_by(LANES)) {
                for component in 0..width {
                    let from = pieces[hidden + start + component..].iter().step_by(step);
                    for (key, from) in keys[component * columns + first..][..LANES].iter_mut().zip(from) {
                        *key = from * scale;
                    }
                }
            }
            for (values, from) in values.chunks_exact_mut(wide).zip(query_key_value.chunks_exact(step)) {
                values[..width].copy_from_slice(&from[2 * hidden + start..][..width]);
            }
            let queries = Left { data: &query_key_value[start..], step, rows, depth: width };
            product(simd, queries, keys, columns, scores);
            for row in scores.chunks_exact_mut(columns) {
                // What fills a row up gets no share, and takes whole registers.
                row[rows..].fill(f32::NEG_INFINITY);
                softmax_row(row);
            }
            let shares = Left { data: scores, step: columns, rows, depth: rows };
            product(simd, shares, values, wide, gathered);
            for (from, to) in gathered.chunks_exact(wide).zip(attended.chunks_exact_mut(hidden)) {
                to[start..start + width].copy_from_slice(&from[..width]);
            }
        }
    }
}

/// Rows of a matrix, each of `depth` values, `step` apart.
#[derive(Clone, Copy)]
struct Left<'a> {
    data: &'a [f32],
    step: usize,
    rows: usize,
    depth: usize,
}

/// Sets `out` to the product of `left` and `right`, both with rows of `columns`, a multiple of [`LANES`].
#[inline(always)]
fn product<S: Simd>(simd: S, left: Left<'_>, right: &[f32], columns: usize, out: &mut [f32]) {
    let mut first = 0;
    while first < columns {
        // Half a tile where a whole one does not fit: a register has at most LANES values.
        let two = columns - first >= 2 * S::F32_LANES;
        for row in (0..left.rows).step_by(4) {
            match (left.rows - row, two) {
                (4.., true) => tile::<S, 4, 2>(simd, left, row, right, columns, first, out),
                (4.., false) => tile::<S, 4, 1>(simd, left, row, right, columns, first, out),
                (3, true) => tile::<S, 3, 2>(simd, left, row, right, columns, first, out),
                (3, false) => tile::<S, 3, 1>(simd, left, row, right, columns, first, out),
                (2, true) => tile::<S, 2, 2>(simd, left, row, right, columns, first, out),
                (2, false) => tile::<S, 2, 1>(simd, left, row, right, columns, first, out),
                (_, true) => tile::<S, 1, 2>(simd, left, row, right, columns, first, out),
                (_, false) => tile::<S, 1, 1>(simd, left, row, right, columns, first, out),
            }
        }
        first += if two { 2 * S::F32_LANES } else { S::F32_LANES };
    }
}

/// `ROWS` rows from `row` on, and `VECTORS` registers of columns from `first` on.
#[inline(always)]
fn tile<S: Simd, const ROWS: usize, const VECTORS: usize>(
    simd: S,
    left: Left<'_>,
    row: usize,
    right: &[f32],
    columns: usize,
    first: usize,
    out: &mut [f32],
) {
    let rows: [&[f32]; ROWS] = std::array::from_fn(|at| &left.data[(row + at) * left.step..][..left.depth]);
    let mut sums = [[simd.splat_f32s(0.0); VECTORS]; ROWS];
    for (depth, right) in right.chunks_exact(columns).take(left.depth).enumerate() {
        let (right, _) = S::as_simd_f32s(&right[first..first + VECTORS * S::F32_LANES]);
        for (row, sums) in rows.iter().zip(&mut sums) {
            let value = simd.splat_f32s(row[depth]);
            for (sum, right) in sums.iter_mut().zip(right) {
                *sum = simd.mul_add_f32s(value, *right, *sum);
            }
        }
    }
    for (at, sums) in sums.iter().enumerate() {
        let out = &mut out[(row + at) * columns + first..][..VECTORS * S::F32_LANES];
        let (out, _) = S::as_mut_simd_f32s(out);
        out.copy_from_slice(sums);
    }
}

#[cfg(test)]
mod tests {
    use pulp::Arch;

    use super::{Attention, Memory};
    use crate::instructions::Instructions;

    fn attended(arch: Arch, query_key_value: &[f32], hidden: usize, width: usize) -> Vec<f32> {
        let mut attended = vec![f32::NAN; query_key_value.len() / 3];
        let memory = &mut Memory::default();
        Attention { query_key_value, attended: &mut attended, hidden, width, memory }.run(arch);
        attended
    }

    /// The definition, in f64.
    fn expected(query_key_value: &[f32], hidden: usize, width: usize) -> Vec<f64> {
        let rows: Vec<&[f32]> = query_key_value.chunks(hidden * 3).collect();
        let mut expected = Vec::new();
        for row in &rows {
            for column in 0..hidden {
                let head = column / width * width;
                let alike = |other: &[f32]| -> f64 {
                    let products = (head..head + width).map(|at| f64::from(row[at]) * f64::from(other[hidden + at]));
                    (products.sum::<f64>() / (width as f64).sqrt()).exp()
                };
                let shares: Vec<f64> = rows.iter().map(|other| alike(other)).collect();
                let values = rows.iter().map(|other| f64::from(other[2 * hidden + column]));
                expected.push(
                    shares.iter().zip(values).map(|(share, value)| share * value).sum::<f64>()
                        / shares.iter().sum::<f64>(),
                );
            }
        }
        expected
    }

    fn noise(count: usize) -> Vec<f32> {
        let mut state = 7_u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 22) as f32 - 2.0
        };
        (0..count).map(|_| next()).collect()
    }

    #[test]
    fn agrees_with_the_definition_and_between_instructions() {
        for (rows, hidden, width) in [(1, 32, 32), (2, 36, 12), (7, 64, 32), (16, 96, 48), (33, 64, 16), (50, 128, 64)]
        {
            let from = noise(rows * hidden * 3);
            let expected = expected(&from, hidden, width);
            let best = attended(Arch::new(), &from, hidden, width);
            for (value, expected) in best.iter().zip(&expected) {
                assert!((f64::from(*value) - expected).abs() < 2e-5, "{rows} {hidden} {width}: {value} {expected}");
            }
            for instructions in Instructions::ALL {
                let other = attended(instructions.arch(), &from, hidden, width);
                let same = best.iter().zip(&other).all(|(a, b)| a.to_bits() == b.to_bits());
                assert!(same, "{}: {rows} {hidden} {width}", instructions.as_str());
            }
        }
    }
}
