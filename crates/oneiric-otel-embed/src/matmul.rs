//! Matrix products in f32: one of the three places that leave safe Rust, behind an interface that checks every bound.
//!
//! Promises that a row of the result has the same bits whatever the other rows are, as long as there are two rows or
//! more, since every element is one chain of fused multiply-adds along a depth of at most [`DEPTH`].
//!
//! Knows nothing of models.

#![allow(unsafe_code)]

/// Deepest product that is summed in one pass over the depth. Below it the blocking of the library depends on nothing
/// but the depth, which is what makes results independent of the number of rows.
pub(crate) const DEPTH: usize = 512;

/// A matrix inside a slice: element (r, c) is `data[r * row_step + c * column_step]`.
#[derive(Clone, Copy)]
pub(crate) struct Matrix<'a> {
    pub(crate) data: &'a [f32],
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    pub(crate) row_step: usize,
    pub(crate) column_step: usize,
}

/// A row-major matrix inside a slice, to be written: element (r, c) is `data[r * row_step + c]`.
pub(crate) struct MatrixMut<'a> {
    pub(crate) data: &'a mut [f32],
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    pub(crate) row_step: usize,
}

/// What happens to the values that the result matrix holds before.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Before {
    /// They are overwritten.
    Replace,
    /// The product is added to them.
    Add,
}

/// `out = scale * left * right`, or `out += scale * left * right`.
///
/// # Panics
/// When the sizes do not fit together, a matrix reaches beyond its slice, or rows of `out` overlap: errors in this crate,
/// which must not become memory errors.
pub(crate) fn multiply(out: MatrixMut<'_>, before: Before, scale: f32, left: Matrix<'_>, right: Matrix<'_>) {
    let MatrixMut { data, rows, columns, row_step } = out;
    let depth = left.columns;
    assert!(left.rows == rows && right.columns == columns && right.rows == depth, "sizes do not fit");
    assert!(reach(rows, columns, row_step, 1) <= data.len(), "result reaches beyond its slice");
    assert!(rows <= 1 || row_step >= columns, "rows of the result overlap");
    assert!(reach(rows, depth, left.row_step, left.column_step) <= left.data.len(), "left reaches beyond its slice");
    assert!(
        reach(depth, columns, right.row_step, right.column_step) <= right.data.len(),
        "right reaches beyond its slice"
    );

    // SAFETY: the assertions above show that every element (r, c) of the three matrices, at the offset
    // r * row_step + c * column_step, lies inside its slice; slices are at most isize::MAX bytes, so the casts of the
    // steps that are used keep their value. `out` is borrowed mutably, so it overlaps neither operand, and its elements
    // are distinct. All memory is initialised f32, the type the function is called with.
    unsafe {
        gemm::gemm(
            rows,
            columns,
            depth,
            data.as_mut_ptr(),
            1,
            row_step as isize,
            before == Before::Add,
            left.data.as_ptr(),
            left.column_step as isize,
            left.row_step as isize,
            right.data.as_ptr(),
            right.column_step as isize,
            right.row_step as isize,
            1.0,
            scale,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}

/// One past the highest offset of an element; 0 for an empty matrix, the largest number if it overflows.
fn reach(rows: usize, columns: usize, row_step: usize, column_step: usize) -> usize {
    if rows == 0 || columns == 0 {
        return 0;
    }
    let last = (rows - 1).checked_mul(row_step).zip((columns - 1).checked_mul(column_step));
    last.and_then(|(down, along)| down.checked_add(along)?.checked_add(1)).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::{Before, Matrix, MatrixMut, multiply};

    fn noise(count: usize, seed: u32) -> Vec<f32> {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 24) as f32 - 0.5
        };
        (0..count).map(|_| next()).collect()
    }

    #[test]
    fn agrees_with_the_definition() {
        for (rows, columns, depth) in [(1, 1, 1), (2, 64, 384), (7, 5, 3), (50, 64, 512), (48, 48, 32), (3, 0, 4)] {
            let (left, right) = (noise(rows * depth, 1), noise(depth * columns, 2));
            let mut out = noise(rows * (columns + 3), 3);
            let old = out.clone();
            multiply(
                MatrixMut { data: &mut out, rows, columns, row_step: columns + 3 },
                Before::Add,
                0.5,
                Matrix { data: &left, rows, columns: depth, row_step: depth, column_step: 1 },
                Matrix { data: &right, rows: depth, columns, row_step: columns, column_step: 1 },
            );
            for row in 0..rows {
                for column in 0..columns + 3 {
                    let at = row * (columns + 3) + column;
                    let product = |d| f64::from(left[row * depth + d]) * f64::from(right[d * columns + column]);
                    let sum = if column < columns { (0..depth).map(product).sum::<f64>() } else { 0.0 };
                    let expected = f64::from(old[at]) + 0.5 * sum;
                    assert!((f64::from(out[at]) - expected).abs() < 1e-5, "{rows}x{columns}x{depth} at {row},{column}");
                }
            }
        }
    }

    #[test]
    #[should_panic(expected = "left reaches beyond its slice")]
    fn refuses_to_read_beyond_a_slice() {
        let mut out = [0.0; 4];
        multiply(
            MatrixMut { data: &mut out, rows: 2, columns: 2, row_step: 2 },
            Before::Replace,
            1.0,
            Matrix { data: &[1.0; 3], rows: 2, columns: 2, row_step: 2, column_step: 1 },
            Matrix { data: &[1.0; 4], rows: 2, columns: 2, row_step: 2, column_step: 1 },
        );
    }
}
