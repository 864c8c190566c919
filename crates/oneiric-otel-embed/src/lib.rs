//! Sentence embeddings by all-MiniLM-L6-v2, on the CPU and in this process.
//!
//! Promises: the vectors of sentence-transformers for the same model, up to rounding (mean pooling, unit length); the same
//! bits for the same text on the same machine, whatever else is in the call and however many threads work; no network.
//!
//! Knows nothing of traces, stores or queues: texts go in, vectors come out, through [`MiniLm::embed`].

mod chunk;
mod config;
mod encoder;
mod error;
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing;
mod linear;
mod matmul;
mod model;
mod pointwise;
mod tokens;
mod weights;

pub use error::{EmbedError, LoadError};
pub use model::{MiniLm, NAME, PRECISION};
