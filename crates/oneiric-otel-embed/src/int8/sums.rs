//! Floats from sums of products.

use pulp::{Simd, WithSimd};

use super::codes::Code;
use super::kernel::WIDTH;

/// The weights of [`WIDTH`] outputs and one part.
#[derive(Clone, Copy)]
#[repr(align(64))]
pub(super) struct Columns {
    /// What a weight of 1 stands for.
    pub(super) scales: [f32; WIDTH],
    /// The sum of the weights: a whole number.
    pub(super) sums: [f32; WIDTH],
}

/// Sums of some rows by one part.
#[derive(Clone, Copy)]
pub(super) struct PartSums<'a> {
    /// Of each row.
    pub(super) codes: &'a [Code],
    pub(super) columns: &'a Columns,
    /// Rows of [`WIDTH`].
    pub(super) sums: &'a [i32],
}

/// What results begin with.
#[derive(Clone, Copy)]
pub(super) enum Begin<'a> {
    /// The bias alone.
    Bias(&'a [f32; WIDTH]),
    /// What is there, and the bias.
    AddBias(&'a [f32; WIDTH]),
    /// What is there.
    Before,
}

/// Adds what sums of products stand for to the results, part by part.
pub(super) struct AddSums<'a, const PARTS: usize> {
    pub(super) parts: [PartSums<'a>; PARTS],
    pub(super) begin: Begin<'a>,
    /// From the first output of the panel on, in the first of the rows.
    pub(super) out: &'a mut [f32],
    /// Outputs of a row.
    pub(super) outputs: usize,
    /// Outputs of the panel: [`WIDTH`], and fewer in the last.
    pub(super) width: usize,
}

impl<const PARTS: usize> WithSimd for AddSums<'_, PARTS> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        match self.begin {
            Begin::Bias(bias) => self.add(|_, column| bias[column]),
            Begin::AddBias(bias) => self.add(|value, column| value + bias[column]),
            Begin::Before => self.add(|value, _| value),
        }
    }
}

impl<const PARTS: usize> AddSums<'_, PARTS> {
    #[inline(always)]
    fn add(self, begin: impl Fn(f32, usize) -> f32) {
        let Self { parts, out, outputs, width, .. } = self;
        let rows = parts[0].codes.len();
        // The last row ends where the results do, not where a row of them would.
        for (row, out) in out.chunks_mut(outputs).take(rows).enumerate() {
            let parts = parts.map(|part| (part.codes[row], part.columns, &part.sums.as_chunks::<WIDTH>().0[row]));
            if let Some((out, _)) = out.split_first_chunk_mut::<WIDTH>().filter(|_| width == WIDTH) {
                *out = added(parts, *out, &begin);
            } else {
                let mut own = [0.0; WIDTH];
                own[..width].copy_from_slice(&out[..width]);
                out[..width].copy_from_slice(&added(parts, own, &begin)[..width]);
            }
        }
    }
}

#[inline(always)]
fn added<const PARTS: usize>(
    parts: [(Code, &Columns, &[i32; WIDTH]); PARTS],
    mut values: [f32; WIDTH],
    begin: &impl Fn(f32, usize) -> f32,
) -> [f32; WIDTH] {
    for (column, value) in values.iter_mut().enumerate() {
        let mut sum = begin(*value, column);
        for (code, columns, sums) in parts {
            let products = sums[column] as f32 - code.zero * columns.sums[column];
            sum += products * (code.scale * columns.scales[column]);
        }
        *value = sum;
    }
    values
}
