//! Sentence embeddings by all-MiniLM-L6-v2, on the CPU and in this process.
//!
//! Promises: in [`Precision::F32`] the vectors of sentence-transformers for the same model, up to rounding (mean pooling, unit
//! length), and the same bits for the same text on the same machine; in [`Precision::Int8`] vectors near those, with the same
//! bits on every machine. Neither what else is in the call nor the number of threads changes a bit. No network.
//!
//! Knows nothing of traces, stores or queues: texts go in, vectors come out, through [`MiniLm::embed`].

mod aligned;
mod attention;
mod chunk;
mod config;
mod encoder;
mod error;
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing;
mod gate;
mod instructions;
mod int8;
pub mod limit;
mod linear;
mod matmul;
mod model;
mod pointwise;
mod precision;
mod tokens;
mod weights;

pub use error::{EmbedError, LoadError};
pub use instructions::Instructions;
pub use model::{MiniLm, NAME};
pub use precision::Precision;
