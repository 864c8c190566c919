//! The product that f32 is limited by, for measurements.

use crate::matmul::{Before, Matrix, MatrixMut, multiply};

/// Operations of the linear layers of all-MiniLM-L6-v2 for a word piece, a multiplication and an addition counted as two.
pub const OPERATIONS_PER_PIECE: f64 = 2.0 * 6.0 * (384.0 * 1152.0 + 384.0 * 384.0 + 2.0 * 384.0 * 1536.0);

/// Matrices of the model's largest product, as many rows as a chunk of texts has.
pub struct Product {
    left: Vec<f32>,
    right: Vec<f32>,
    out: Vec<f32>,
}

const ROWS: usize = 400;
const DEPTH: usize = 384;
const COLUMNS: usize = 1536;

impl Default for Product {
    fn default() -> Self {
        Self { left: vec![0.5; ROWS * DEPTH], right: vec![0.25; DEPTH * COLUMNS], out: vec![0.0; ROWS * COLUMNS] }
    }
}

impl Product {
    /// Operations of one [`Product::run`].
    pub const OPERATIONS: f64 = 2.0 * (ROWS * DEPTH * COLUMNS) as f64;

    /// Multiplies once, on the calling thread, as the matrix library does it when nobody prepares anything for it.
    pub fn run(&mut self) {
        multiply(
            MatrixMut { data: &mut self.out, rows: ROWS, columns: COLUMNS, row_step: COLUMNS },
            Before::Replace,
            1.0,
            Matrix { data: &self.left, rows: ROWS, columns: DEPTH, row_step: DEPTH, column_step: 1 },
            Matrix { data: &self.right, rows: DEPTH, columns: COLUMNS, row_step: COLUMNS, column_step: 1 },
        );
    }
}
