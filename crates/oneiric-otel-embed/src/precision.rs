//! The arithmetic of a model.

use std::fmt;

/// The numbers in which a model's large matrices are kept and multiplied. Part of what a vector is: those of one precision
/// are not compared with those of another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Precision {
    /// 32-bit floats: the vectors of sentence-transformers up to rounding. Between machines with other vector instructions
    /// the last bits differ.
    F32,
    /// Bytes with a scale for each row: vectors a little beside those of [`Precision::F32`], several times as fast, in half
    /// the memory. The same bits on every machine.
    Int8,
}

impl Precision {
    /// Its name: `f32` or `int8`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Int8 => "int8",
        }
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
